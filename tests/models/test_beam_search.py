import itertools

import numpy as np
import pytest
import torch

from physlm.models import beam_search as beam_search_module
from physlm.models.beam_search import beam_search
from physlm.models.canon import Canon
from physlm.models.experts import Experts
from physlm.models.generation import evaluating, generate
from physlm.models.positions import T5, Alibi, Learned, Rotary
from physlm.models.transformer import Transformer, TransformerConfig

STOP = 0


def make(**changes) -> Transformer:
    shape = {"vocab_size": 11, "context": 32, "layers": 2, "heads": 2, "width": 16, "initial_std": 0.3}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=5)


class RereadRotary(Rotary):
    """Rotary positions, with the whole text read again for every token."""

    cacheable = False


PARTS = {
    "rotary": {},
    "learned": {"position": Learned()},
    "grouped": {"key_value_heads": 1, "norm": "rms", "gated": True, "position": T5()},
    "canon": {"canon": Canon(), "position": Alibi()},
    "experts": {"experts": Experts(experts=4, evaluation_capacity_factor=None)},
    "padded vocabulary": {"vocab_multiple": 16},
    "reread": {"position": RereadRotary()},
}
each_model = pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS.keys())


def random_prompts(count: int, vocabulary: int = 11, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(1, 7)) for _ in range(count)]


def chances(model, tokens) -> list[float]:
    with evaluating(model):
        return model(torch.tensor([tokens]))[0, -1].double().log_softmax(-1).tolist()


def ranked(hypotheses, length_power):
    return sorted(hypotheses, key=lambda one: -one[1] / len(one[0]) ** length_power)


def search_slowly(model, prompt, max_new_tokens, stops, beams, length_power):
    """The definition: tokens and log-probability of every beam, best first."""
    prompt, found = [int(token) for token in prompt], [((), 0.0)]
    for _ in range(max_new_tokens):
        extended = []
        for tokens, total in found:
            if tokens and tokens[-1] in stops:
                extended.append((tokens, total))
            else:
                next_chances = chances(model, [*prompt, *tokens])
                extended += [((*tokens, token), total + chance) for token, chance in enumerate(next_chances)]
        found = ranked(extended, length_power)[:beams]
    return found


def everything(model, prompt, max_new_tokens, stops):
    """All continuations there are, and their log-probabilities."""
    prompt = [int(token) for token in prompt]
    for length in range(1, max_new_tokens + 1):
        for tokens in itertools.product(range(model.config.vocab_size), repeat=length):
            if not set(tokens[:-1]) & set(stops) and (length == max_new_tokens or tokens[-1] in stops):
                read = [*prompt, *tokens[:-1]]
                with evaluating(model):
                    logits = model(torch.tensor([read]))[0, len(prompt) - 1 :].double().log_softmax(-1)
                yield tokens, float(logits[range(length), tokens].sum())


def as_pairs(beams):
    """Tokens, the stop token included, and log-probability of each beam."""
    return [((*beam.tokens.tolist(), *[beam.stop] * beam.finished), beam.score()) for beam in beams]


def agree(got, expected):
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([total for _, total in got], [total for _, total in expected], atol=1e-4)


@each_model
@pytest.mark.parametrize("length_power", [0.0, 1.0])
def test_it_is_its_definition(changes, length_power):
    model, prompts, stops = make(**changes), random_prompts(6), (STOP, 4, 5)
    options = {"max_new_tokens": 6, "stop": stops, "beams": 3, "length_power": length_power}
    got = beam_search(model, prompts, **options)
    for prompt, beams in zip(prompts, got, strict=True):
        agree(as_pairs(beams), search_slowly(model, prompt, 6, stops, 3, length_power))
        assert all(beam.stop in (*stops, None) for beam in beams)
    finished = [beam.finished for beams in got for beam in beams]
    assert 0 < sum(finished) < len(finished) or length_power, "some should be finished, and some not"


@pytest.mark.parametrize("stops", [(), (0,), (0, 2)], ids=len)
@pytest.mark.parametrize("length_power", [0.0, 0.7, 1.0])
def test_with_enough_beams_it_is_exhaustive(stops, length_power):
    model, prompts = make(vocab_size=4, initial_std=0.5), random_prompts(4, vocabulary=4)
    got = beam_search(model, prompts, max_new_tokens=3, stop=stops, beams=64, length_power=length_power)
    for prompt, beams in zip(prompts, got, strict=True):
        expected = ranked(everything(model, prompt, 3, stops), length_power)
        assert sum(np.exp(total) for _, total in expected) == pytest.approx(1.0, abs=1e-4)
        agree(as_pairs(beams), expected)
    best = generate(model, prompts, max_new_tokens=3, stop=stops, beams=64, length_power=length_power, details=True)
    assert [as_pairs([one]) for one in best] == [as_pairs(beams[:1]) for beams in got]


@each_model
@pytest.mark.parametrize("length_power", [0.0, 1.0])
def test_one_beam_is_greedy(changes, length_power):
    model, prompts = make(**changes), random_prompts(15)
    options = {"max_new_tokens": 8, "stop": [0, 3, 5]}
    greedy = generate(model, prompts, **options, details=True)
    got = beam_search(model, prompts, **options, beams=1, length_power=length_power)
    assert all(len(beams) == 1 for beams in got)
    agree([pair for beams in got for pair in as_pairs(beams)], as_pairs(greedy))
    assert any(continuation.finished for continuation in greedy)


@pytest.mark.parametrize("length_power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("looking", ["always", "never", "sometimes"])
def test_the_best_alone_is_the_best_of_all(length_power, looking, monkeypatch):
    model, prompts = make(initial_std=0.2), random_prompts(25)
    options = {"max_new_tokens": 9, "stop": [0, 3, 5], "beams": 4, "length_power": length_power}
    expected = [beams[0] for beams in beam_search(model, prompts, **options)]
    looks = {"always": lambda *_: True, "never": lambda *_: False, "sometimes": lambda step, _: step % 3 == 2}
    monkeypatch.setattr(beam_search_module, "looks", looks[looking])
    agree(as_pairs(generate(model, prompts, **options, details=True)), as_pairs(expected))
    assert [row.tolist() for row in generate(model, prompts, **options)] == [one.tokens.tolist() for one in expected]
    assert any(continuation.finished for continuation in expected)


def test_a_settled_best_ends_the_search(monkeypatch):
    model, prompts, passes = make(initial_std=0.2), random_prompts(10), []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda tokens, **rest: passes.append(len(tokens)) or hidden(tokens, **rest))
    options = {"max_new_tokens": 25, "stop": [0, 3, 5], "beams": 4}
    beam_search(model, prompts, **options)
    rows_of_all = passes.copy()
    passes.clear()
    generate(model, prompts, **options)
    assert sum(passes) < sum(rows_of_all)
    assert passes[-1] < passes[1] == 40


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_the_batch_size_changes_nothing(batch_size):
    model, prompts = make(), random_prompts(15)
    options = {"max_new_tokens": 7, "stop": [0, 3], "beams": 3, "length_power": 0.5}
    expected = beam_search(model, prompts, **options)
    got = beam_search(model, prompts, **options, batch_size=batch_size)
    for one, other in zip(expected, got, strict=True):
        agree(as_pairs(other), as_pairs(one))
    for one, other in zip(expected[:4], beam_search(model, prompts[:4], **options), strict=True):
        agree(as_pairs(other), as_pairs(one))


def test_there_may_be_fewer_continuations_than_beams():
    model = make(vocab_size=4)
    (beams,) = beam_search(model, [np.array([2])], max_new_tokens=1, stop=STOP, beams=10)
    assert sorted(as_pairs(beams)[i][0] for i in range(4)) == [(0,), (1,), (2,), (3,)]
    assert len(beams) == 4
    (beams,) = beam_search(model, [np.array([2])], max_new_tokens=5, stop=range(4), beams=10)
    assert len(beams) == 4
    assert all(beam.finished and len(beam.tokens) == 0 for beam in beams)


def test_no_prompts_no_beams():
    assert beam_search(make(), [], max_new_tokens=3, stop=STOP, beams=2) == []
    assert generate(make(), [], max_new_tokens=3, stop=STOP, beams=2) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 0}, "beams must be ≥ 1, got 0"),
        ({"length_power": float("inf")}, "length_power must be ≥ 0 and finite, got inf"),
        ({"max_new_tokens": 0}, "must be ≥ 1, got 0 and 256"),
        ({"model": make(causal=False)}, "needs a causal model, got causal=False"),
        ({"model": make(position=Learned()), "max_new_tokens": 32}, "defined for 32 tokens, got 33"),
    ],
)
def test_errors(changes, message):
    options = {"model": make(), "prompts": [np.array([1, 2])], "max_new_tokens": 2, "stop": STOP, "beams": 2, **changes}
    with pytest.raises(ValueError, match=message):
        beam_search(**options)
