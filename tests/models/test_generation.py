import inspect
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physlm.evaluation import score
from physlm.models import generation
from physlm.models.canon import Canon
from physlm.models.decoding import PADDING, batches
from physlm.models.experts import Experts
from physlm.models.generation import Settings, evaluating, generate
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import (
    Alibi,
    Learned,
    PositionalEncoding,
    PositionConfig,
    Rotary,
    position_from_dict,
    position_names,
)
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key

STOP = 0
KEY = Key.of("generation test", 1)


def make(**changes) -> Transformer:
    shape = {"vocab_size": 23, "context": 32, "layers": 2, "heads": 2, "width": 16, "initial_std": 0.4}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=2)


class FromTheEnd(PositionalEncoding):
    """A vector for how far each token is from the last, so that every new token changes all others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(100, width))

    def embed(self, residual, positions):
        return residual + self.table[positions[..., -1:] - positions]


@dataclass(frozen=True, kw_only=True)
class FromTheEndConfig(PositionConfig):
    name = "from_the_end"
    cacheable = False

    def build(self, shape):
        return FromTheEnd(shape.width)


MODELS = {"rotary": make(position=Rotary(fraction=0.5)), "learned": make(position=Learned())}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
PARTS = {
    "grouped": {"key_value_heads": 1, "norm": "rms", "gated": True, "query_key_norm": True},
    "canon": {"canon": Canon(), "position": Alibi()},
    "grouped canon": {"canon": Canon(kernel=3, residual=False), "key_value_heads": 1},
    "experts": {"experts": Experts(experts=4, top_k=2, evaluation_capacity_factor=None)},
    "limited experts": {"experts": Experts(experts=4)},
    "reread": {"position": FromTheEndConfig()},
    **{name: {"position": position_from_dict({"name": name})} for name in position_names()},
}


def random_prompts(count: int, longest: int = 6, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 23, rng.integers(1, longest + 1)) for _ in range(count)]


def next_logits(model, tokens) -> torch.Tensor:
    with evaluating(model):
        return model(torch.tensor([tokens]))[0, -1]


def greedy_slowly(model, prompt, max_new_tokens, stop=STOP) -> list[int]:
    """One full forward pass per token."""
    tokens = [int(token) for token in prompt]
    for _ in range(max_new_tokens):
        token = int(next_logits(model, tokens).argmax())
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def sample_slowly(model, prompt, number, max_new_tokens, temperature, top_k=None, stops=(STOP,)) -> list[int]:
    """The sampler's definition, one token at a time in plain Python."""
    tokens = [int(token) for token in prompt]
    for uniform in KEY.uniforms(np.array([number]), max_new_tokens)[0]:
        logits = next_logits(model, tokens).double().numpy() / temperature
        allowed = np.sort(np.argsort(-logits)[:top_k])
        weights = np.exp(logits[allowed] - logits.max())
        below = itertools.accumulate(weights / weights.sum())
        token = int(next((t for t, total in zip(allowed, below, strict=True) if uniform < total), allowed[-1]))
        if token in stops:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def chances_slowly(model, prompt, continuation) -> list[float]:
    """Log-probabilities of all tokens of a continuation, one full forward pass each."""
    tokens, chances = [int(token) for token in prompt], []
    for token in continuation:
        chances.append(float(next_logits(model, tokens).double().log_softmax(-1)[token]))
        tokens.append(token)
    return chances


def ended(continuation) -> list[int]:
    """All its new tokens, the stop token included."""
    return continuation.tokens.tolist() + [continuation.stop] * continuation.finished


def as_lists(continuations) -> list[list[int]]:
    return [continuation.tolist() for continuation in continuations]


@both
@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 22), min_size=1, max_size=7), min_size=1, max_size=9),
    max_new_tokens=st.integers(1, 9),
    batch_size=st.integers(1, 10),
    stop=st.integers(0, 22),
)
def test_cached_greedy_decoding_is_repeated_full_passes(model, prompts, max_new_tokens, batch_size, stop):
    got = generate(
        model, [np.array(p) for p in prompts], max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size
    )
    assert as_lists(got) == [greedy_slowly(model, prompt, max_new_tokens, stop) for prompt in prompts]
    assert all(continuation.dtype == np.int64 for continuation in got)


@both
@pytest.mark.parametrize("top_k", [None, 3])
def test_sampling_is_its_definition(model, top_k):
    prompts = random_prompts(20)
    got = generate(model, prompts, max_new_tokens=6, stop=STOP, temperature=1.3, top_k=top_k, key=KEY)
    expected = [sample_slowly(model, prompt, i, 6, 1.3, top_k) for i, prompt in enumerate(prompts)]
    assert as_lists(got) == expected


@both
def test_the_batch_size_changes_nothing(model):
    prompts = random_prompts(30)
    runs = [
        as_lists(generate(model, prompts, max_new_tokens=8, stop=STOP, temperature=1.0, key=KEY, batch_size=size))
        for size in (1, 2, 7, 30)
    ]
    assert runs.count(runs[0]) == len(runs)
    assert len({len(continuation) for continuation in runs[0]}) > 3, "rows should finish at different steps"


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS.keys())
def test_padding_changes_nothing(changes):
    model = make(**changes)
    prompts = random_prompts(12)
    assert len({len(prompt) for prompt in prompts}) > 3
    options = {"max_new_tokens": 7, "stop": [3, 8], "temperature": 1.5, "key": KEY, "details": True}
    got = generate(model, prompts, **options)
    for i, (prompt, continuation) in enumerate(zip(prompts, got, strict=True)):
        expected = sample_slowly(model, prompt, i, 7, 1.5, stops=(3, 8))
        assert continuation.tokens.tolist() == expected
        np.testing.assert_allclose(
            continuation.log_probabilities, chances_slowly(model, prompt, ended(continuation)), atol=1e-4
        )
    assert len({len(continuation.tokens) for continuation in got}) > 1, "rows should finish at different steps"


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"reread"}))
def test_log_probabilities_are_those_of_scoring(name):
    model = make(**PARTS[name])
    prompts = random_prompts(10, seed=1)
    for options in ({}, {"temperature": 0.5, "key": KEY}, {"temperature": 2.0, "key": KEY, "top_k": 5}, {"beams": 3}):
        got = generate(model, prompts, max_new_tokens=5, stop=STOP, details=True, **options)
        scores = score(model, prompts, [np.array(ended(continuation)) for continuation in got])
        for continuation, expected in zip(got, scores, strict=True):
            assert continuation.log_probabilities.dtype == np.float64
            np.testing.assert_allclose(continuation.log_probabilities, expected, atol=1e-4)
            assert continuation.score() == pytest.approx(expected.sum(), abs=1e-4)
            assert continuation.score(1.0) == pytest.approx(expected.mean(), abs=1e-4)


@both
def test_details_are_the_same_tokens(model):
    prompts = random_prompts(20)
    options = {"max_new_tokens": 9, "stop": STOP, "temperature": 1.2, "key": KEY}
    plain, detailed = generate(model, prompts, **options), generate(model, prompts, **options, details=True)
    assert as_lists(plain) == [continuation.tokens.tolist() for continuation in detailed]
    assert all(continuation.stop in (STOP, None) for continuation in detailed)
    assert 0 < sum(continuation.finished for continuation in detailed) < 20
    for continuation in detailed:
        assert continuation.finished or len(continuation.tokens) == 9
        assert len(continuation.log_probabilities) == len(continuation.tokens) + continuation.finished


@both
def test_any_of_several_stops_ends_a_continuation(model):
    prompts = random_prompts(30)
    options = {"max_new_tokens": 9, "temperature": 1.5, "key": KEY, "details": True}
    free = generate(model, prompts, stop=(), **options)
    assert all(len(continuation.tokens) == 9 and continuation.stop is None for continuation in free)
    stops = [4, 7, 20]
    got = generate(model, prompts, stop=stops, **options)
    for whole, cut in zip(free, got, strict=True):
        tokens = whole.tokens.tolist()
        end = next((i for i, token in enumerate(tokens) if token in stops), None)
        assert cut.tokens.tolist() == tokens[:end]
        assert cut.stop == (None if end is None else tokens[end])
    assert {continuation.stop for continuation in got} == {*stops, None}


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "key": KEY}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("looking", ["never", "sometimes"])
def test_when_to_look_who_has_finished_changes_nothing(options, looking, monkeypatch):
    model = make(canon=Canon())
    prompts = random_prompts(30)
    options = {"max_new_tokens": 20, "stop": [0, 5], "details": True, **options}
    expected = generate(model, prompts, **options)
    monkeypatch.setattr(generation, "looks", lambda step, _: looking == "sometimes" and step % 3 == 2)
    for before, now in zip(expected, generate(model, prompts, **options), strict=True):
        assert ended(before) == ended(now)
        np.testing.assert_allclose(before.log_probabilities, now.log_probabilities, atol=1e-4)


def test_finished_rows_leave_the_batch(monkeypatch):
    model = make()
    rows = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda tokens, **rest: rows.append(len(tokens)) or hidden(tokens, **rest))
    generate(model, random_prompts(64), max_new_tokens=50, stop=[0, 1, 2, 3], temperature=2.0, key=KEY)
    assert rows[0] == 64
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 8
    rows.clear()
    generate(model, [np.array([4, 9])] * 8, max_new_tokens=50, stop=range(23))
    assert rows == [8]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), max_size=30), batch_size=st.integers(1, 12))
def test_batches_have_prompts_of_similar_lengths(lengths, batch_size):
    prompts = [np.zeros(length, dtype=np.int64) for length in lengths]
    for config, most in (
        (make().config, lambda shortest: 2 * shortest + PADDING),
        (make(experts=Experts(experts=4)).config, lambda shortest: shortest),
    ):
        numbers = [batch.tolist() for batch in batches(config, prompts, batch_size)]
        assert sorted(itertools.chain(*numbers)) == list(range(len(lengths)))
        for batch in numbers:
            here = [lengths[i] for i in batch]
            assert len(batch) <= batch_size
            assert max(here) <= most(min(here))


def test_a_draw_depends_on_key_number_and_step_only():
    model = MODELS["rotary"]
    prompts = random_prompts(12)

    def run(prompts=prompts, key=KEY, max_new_tokens=8):
        return as_lists(generate(model, prompts, max_new_tokens=max_new_tokens, stop=STOP, temperature=1.0, key=key))

    assert run() == run()
    assert run(prompts=prompts[:5]) == run()[:5]
    assert run(max_new_tokens=3) == [continuation[:3] for continuation in run()]
    assert run(key=KEY.child("other")) != run()
    same_prompt = run(prompts=[prompts[0]] * 12)
    assert len({tuple(continuation) for continuation in same_prompt}) > 6


def test_sampled_frequencies_are_the_model_probabilities():
    model = MODELS["rotary"]
    prompt, count = np.array([4, 9]), 20_000
    got = generate(model, [prompt] * count, max_new_tokens=1, stop=22, temperature=0.8, key=KEY, batch_size=count)
    drawn = np.bincount([row[0] if len(row) else 22 for row in got], minlength=23)
    expected = (next_logits(model, prompt.tolist()).double() / 0.8).softmax(-1).numpy() * count
    common = expected >= 5
    statistic = ((drawn - expected) ** 2 / expected)[common].sum()
    freedom = common.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_top_k_draws_only_the_most_likely():
    model = MODELS["rotary"]
    prompt = np.array([4, 9])
    got = generate(model, [prompt] * 500, max_new_tokens=1, stop=STOP, temperature=5.0, top_k=4, key=KEY)
    drawn = {int(row[0]) if len(row) else STOP for row in got}
    assert drawn == set(next_logits(model, prompt.tolist()).topk(4).indices.tolist())


class Extreme(Key):
    """A key whose every uniform number is the smallest or the largest there is."""

    def uniforms(self, index, count):
        return np.full((len(index), count), [0.0, 1 - 2.0**-53][self.low])


@pytest.mark.parametrize("largest", [0, 1])
def test_extreme_draws_stay_among_the_allowed(largest):
    model = MODELS["rotary"]
    for prompt in random_prompts(20):
        allowed = next_logits(model, prompt.tolist()).topk(4).indices.tolist()
        (got,) = generate(
            model, [prompt], max_new_tokens=1, stop=STOP, temperature=1.0, top_k=4, key=Extreme(0, largest)
        )
        assert (got.tolist() or [STOP]) == [max(allowed) if largest else min(allowed)]


@both
def test_top_1_and_very_low_temperatures_are_greedy(model):
    prompts = random_prompts(10)
    greedy = as_lists(generate(model, prompts, max_new_tokens=6, stop=STOP))
    for options in ({"temperature": 2.0, "top_k": 1}, {"temperature": 1e-6}):
        assert as_lists(generate(model, prompts, max_new_tokens=6, stop=STOP, key=KEY, **options)) == greedy


def test_stop_is_left_out_and_ends_a_continuation():
    model = MODELS["rotary"]
    prompt = random_prompts(1, seed=3)[0]
    free = greedy_slowly(model, prompt, 8, stop=-1)
    for stop in set(free):
        (got,) = generate(model, [prompt], max_new_tokens=8, stop=stop)
        assert got.tolist() == free[: free.index(stop)]


def test_type_checkers_are_told_of_every_setting():
    taken = inspect.signature(generate).parameters.keys()
    assert taken - {"model", "prompts", "details"} == Settings.__annotations__.keys()


def test_no_prompts_give_no_continuations():
    assert generate(MODELS["rotary"], [], max_new_tokens=3, stop=STOP) == []


def test_rotary_goes_beyond_the_context():
    (got,) = generate(MODELS["rotary"], [np.arange(1, 21)], max_new_tokens=60, stop=STOP)
    assert got.tolist() == greedy_slowly(MODELS["rotary"], np.arange(1, 21), 60)


def test_learned_goes_up_to_the_context():
    model = MODELS["learned"]
    prompt = np.arange(1, 21)
    (got,) = generate(model, [prompt], max_new_tokens=13, stop=STOP)
    assert got.tolist() == greedy_slowly(model, prompt, 13)
    for options in ({}, {"beams": 3}):
        with pytest.raises(ValueError, match="defined for 32 tokens, got 33"):
            generate(model, [np.array([3]), prompt], max_new_tokens=14, stop=STOP, **options)


def test_updated_models_generate_as_they_read():
    model = make()
    for parameter in add_low_rank(model, rank=2, embedding_rank=3, seed=0):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    prompts = random_prompts(6)
    expected = [greedy_slowly(model, prompt, 5) for prompt in prompts]
    assert as_lists(generate(model, prompts, max_new_tokens=5, stop=STOP)) == expected


def test_modes_are_put_back_even_after_an_error(monkeypatch):
    model = make(dropout=0.5)
    model.train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    first, second = (generate(model, random_prompts(5), max_new_tokens=4, stop=STOP) for _ in range(2))
    assert as_lists(first) == as_lists(second)
    assert [module.training for module in model.modules()] == modes
    with evaluating(model):
        assert torch.is_inference_mode_enabled()
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    with monkeypatch.context() as patched:
        patched.setattr(model, "hidden", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate(model, [np.array([9])], max_new_tokens=4, stop=STOP)
    assert [module.training for module in model.modules()] == modes
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [np.array([1]), np.array([], dtype=int)]}, "at least one token, got none in prompt 1"),
        ({"max_new_tokens": 0}, "must be ≥ 1, got 0 and 256"),
        ({"batch_size": 0}, "must be ≥ 1, got 2 and 0"),
        ({"stop": 23}, r"token id in \[0, 23\), got 23"),
        ({"stop": [2, -1]}, r"token id in \[0, 23\), got -1"),
        ({"prompts": [np.array([1]), np.array([99])]}, r"prompts must be token ids in \[0, 23\), got 99"),
        ({"prompts": [np.array([-1])]}, "got -1"),
        ({"beams": 0}, "beams must be ≥ 1, got 0"),
        ({"beams": 2, "temperature": 1.0, "key": KEY}, "draws nothing, got temperature 1.0 and 2 beams"),
        ({"beams": 2, "length_power": -1.0}, "length_power must be ≥ 0 and finite, got -1.0"),
        ({"temperature": -1.0}, "temperature must be ≥ 0 .* got -1.0"),
        ({"temperature": 0.7}, "temperature 0.7 needs a key"),
        ({"temperature": 1.0, "key": KEY, "top_k": 0}, r"top_k must be in \[1, vocab_size = 23\] or None, got 0"),
        ({"top_k": 24}, "got 24"),
        ({"top_k": 3}, "without a temperature nothing is drawn, got top_k=3; set temperature > 0 or leave it out"),
        ({"key": KEY}, r"without a temperature nothing is drawn, got key=Key\(.*; set temperature > 0"),
        ({"beams": 2, "key": KEY}, "without a temperature nothing is drawn, got key="),
        ({"length_power": 1.0}, "length_power compares beams, got 1.0 and 1 beam; set beams > 1 or leave it out"),
        ({"model": make(causal=False)}, "needs a causal model, got causal=False"),
    ],
)
def test_errors(changes, message):
    options = {"prompts": [np.array([1, 2])], "max_new_tokens": 2, "stop": STOP, **changes}
    with pytest.raises(ValueError, match=message):
        generate(options.pop("model", MODELS["rotary"]), options.pop("prompts"), **options)
