import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physlm.models.generation import evaluating, generate
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import Learned, Rotary
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key

STOP = 0
KEY = Key.of("generation test", 1)


def make(**changes) -> Transformer:
    shape = {"vocab_size": 23, "context": 32, "layers": 2, "heads": 2, "width": 16, "initial_std": 0.4}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=2)


MODELS = {"rotary": make(position=Rotary(fraction=0.5)), "learned": make(position=Learned())}
both = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def random_prompts(count: int, longest: int = 6, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 23, rng.integers(1, longest + 1)) for _ in range(count)]


def next_logits(model, tokens) -> torch.Tensor:
    with torch.inference_mode():
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


def sample_slowly(model, prompt, number, max_new_tokens, temperature, top_k=None) -> list[int]:
    """The sampler's definition, one token at a time in plain Python."""
    tokens = [int(token) for token in prompt]
    for uniform in KEY.uniforms(np.array([number]), max_new_tokens)[0]:
        logits = next_logits(model, tokens).double().numpy() / temperature
        allowed = np.sort(np.argsort(-logits)[:top_k])
        weights = np.exp(logits[allowed] - logits.max())
        below = itertools.accumulate(weights / weights.sum())
        token = int(next((t for t, total in zip(allowed, below, strict=True) if uniform < total), allowed[-1]))
        if token == STOP:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


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
    with pytest.raises(ValueError, match="defined for 32 tokens, got 33"):
        generate(model, [prompt], max_new_tokens=14, stop=STOP)


def test_updated_models_generate_as_they_read():
    model = make()
    for parameter in add_low_rank(model, rank=2, embedding_rank=3, seed=0):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    prompts = random_prompts(6)
    expected = [greedy_slowly(model, prompt, 5) for prompt in prompts]
    assert as_lists(generate(model, prompts, max_new_tokens=5, stop=STOP)) == expected


def test_modes_are_put_back_even_after_an_error():
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
    with pytest.raises(IndexError):  # no such token
        generate(model, [np.array([99])], max_new_tokens=4, stop=STOP)
    assert [module.training for module in model.modules()] == modes
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [np.array([1]), np.array([], dtype=int)]}, "at least one token, got none in prompt 1"),
        ({"max_new_tokens": 0}, "must be ≥ 1, got 0 and 256"),
        ({"batch_size": 0}, "must be ≥ 1, got 2 and 0"),
        ({"stop": 23}, r"token id in \[0, 23\), got 23"),
        ({"temperature": -1.0}, "temperature must be ≥ 0 .* got -1.0"),
        ({"temperature": 0.7}, "temperature 0.7 needs a key"),
        ({"temperature": 1.0, "key": KEY, "top_k": 0}, r"top_k must be in \[1, vocab_size = 23\] or None, got 0"),
        ({"top_k": 24}, "got 24"),
        ({"model": make(causal=False)}, "needs a causal model, got causal=False"),
    ],
)
def test_errors(changes, message):
    options = {"prompts": [np.array([1, 2])], "max_new_tokens": 2, "stop": STOP, **changes}
    with pytest.raises(ValueError, match=message):
        generate(options.pop("model", MODELS["rotary"]), options.pop("prompts"), **options)
