"""Whatever parts a model is made of, these hold: one table of parts, one test for each property."""

import itertools

import pytest
import torch

from physlm.models.canon import Canon
from physlm.models.capture import Capture, tap_names
from physlm.models.experts import Experts
from physlm.models.positions import PositionConfig, position_from_dict, position_names
from physlm.models.transformer import Cache, Transformer, TransformerConfig, parameter_count

VOCABULARY, CONTEXT, LENGTH = 29, 24, 12
LLAMA = {"norm": "rms", "biases": False, "tied": False, "gated": True, "activation": "silu", "mlp_ratio": 8 / 3}
PARTS = {
    "gpt2": {},
    "llama": LLAMA,
    "mistral": {**LLAMA, "mlp_ratio": 3.5, "key_value_heads": 2},
    "one key": {"key_value_heads": 1, "query_key_norm": True},
    "canon": {"canon": Canon()},
    "gated canon": {**LLAMA, "canon": Canon(kernel=3), "key_value_heads": 2},
    "primer": {"canon": Canon(sublayers="B", residual=False), "activation": "relu2"},
    "quarter": {"mlp_ratio": 0.25, "activation": "gelu_exact"},
    "no mlp": {"mlp_ratio": 0.0},
    "experts": {
        "experts": Experts(experts=4, top_k=2, evaluation_capacity_factor=None),
        "canon": Canon(sublayers="ABC"),
    },
    "padded vocabulary": {"vocab_multiple": 16, "activation": "relu"},
}
MODELS = [(name, "rotary") for name in PARTS] + [
    (name, position) for name, position in itertools.product(("gpt2", "gated canon"), position_names())
]
MODELS = list(dict.fromkeys(MODELS))
models = pytest.mark.parametrize(("parts", "position"), MODELS, ids=[" + ".join(model) for model in MODELS])


def make(parts: str, position: str, **changes) -> Transformer:
    """A model with weights so large that differences show, positions included."""
    shape = {"vocab_size": VOCABULARY, "context": CONTEXT, "layers": 3, "heads": 4, "width": 32, "initial_std": 0.2}
    config = TransformerConfig(**{**shape, **PARTS[parts], "position": encoding(position), **changes})
    model = Transformer(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in [*model.position.parameters(), *(p for p in model.parameters() if p.ndim == 1)]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def encoding(name: str) -> PositionConfig:
    """The encoding at its defaults; FIRE with a threshold that these short texts go beyond."""
    return position_from_dict({"name": name, **({"threshold": 2.0} if name == "fire" else {})})


def tokens(rows: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=3e-5)


@models
def test_parameter_count_is_the_formula(parts, position):
    model = make(parts, position)
    padding = (model.config.embedding_rows - VOCABULARY) * 32 * (1 if model.config.tied else 2)
    assert parameter_count(model.config) == sum(p.numel() for p in model.parameters()) - padding
    assert parameter_count(model.config, embedding=False) == sum(
        p.numel() for name, p in model.named_parameters() if name.split(".")[0] not in ("embed", "head")
    )


@models
def test_reading_with_a_cache_is_reading_at_once(parts, position):
    model, read = make(parts, position), tokens()
    expected = model(read)
    cache = Cache(model.config, len(read), LENGTH, like=model.embed.weight)
    borders = [0, 4, 5, 6, 9, LENGTH]
    pieces = [model(read[:, start:end], cache=cache) for start, end in itertools.pairwise(borders)]
    same(torch.cat(pieces, dim=1), expected)


@models
def test_a_cache_keeps_and_repeats_rows(parts, position):
    model, read = make(parts, position), tokens()
    cache = Cache(model.config, len(read), LENGTH, like=model.embed.weight)
    model(read[:, :8], cache=cache)
    rows = torch.tensor([2, 0, 2])
    cache.keep(rows)
    same(model(read[rows, 8:], cache=cache), model(read[rows])[:, 8:])


@models
def test_padding_on_the_left_changes_nothing(parts, position):
    model, read = make(parts, position), tokens()
    starts = torch.tensor([0, 3, 7])
    padded = torch.full_like(read, 5)
    for row, start in enumerate(starts.tolist()):
        padded[row, start:] = read[row, : LENGTH - start]
    cache = Cache(model.config, len(read), LENGTH, like=model.embed.weight)
    piecewise = [model(padded[:, :8], starts=starts, cache=cache)]
    piecewise += [model(padded[:, column : column + 1], cache=cache) for column in range(8, LENGTH)]
    for got in (model(padded, starts=starts), torch.cat(piecewise, dim=1)):
        for row, start in enumerate(starts.tolist()):
            same(got[row, start:], model(read[row : row + 1, : LENGTH - start])[0])


@models
@pytest.mark.parametrize("causal", [True, False])
def test_looking_changes_nothing(parts, position, causal):
    # Canon layers need a causal model.
    model, read = make(parts, position, **({} if causal else {"causal": False, "canon": None})), tokens()
    capture = Capture(tap_names(model.config))
    same(model(read, capture=capture), model(read))
    assert set(capture.states) == set(tap_names(model.config))
    patterns = [state for name, state in capture.states.items() if name.endswith("pattern")]
    assert [pattern.shape for pattern in patterns] == [(3, 4, LENGTH, LENGTH)] * 3
    for pattern in patterns:
        same(pattern.sum(dim=-1), torch.ones(3, 4, LENGTH))
        assert not causal or bool((pattern.triu(1) == 0).all())


@models
def test_training_reads_as_evaluation_does(parts, position):
    model, read = make(parts, position), tokens()
    with torch.inference_mode():
        expected = model(read)
    same(model(read).detach(), expected)


@models
def test_gradients_are_those_of_the_explicit_path(parts, position):
    model, read = make(parts, position), tokens()

    def gradients(capture: Capture) -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(read, capture=capture).flatten(0, 1), read.flatten()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    fused, explicit = gradients(Capture()), gradients(Capture(tap_names(model.config)))
    assert fused.keys() == explicit.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in fused.items():
        torch.testing.assert_close(gradient, explicit[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@models
def test_a_token_changes_nothing_before_it(parts, position):
    model, before = make(parts, position), tokens()
    after = before.clone()
    after[:, 5] = (after[:, 5] + 1) % VOCABULARY
    same(model(after)[:, :5], model(before)[:, :5])
    assert (model(after)[:, 5:] - model(before)[:, 5:]).abs().amax((0, 2))[0] > 1e-4


@models
def test_only_absolute_encodings_notice_a_shift(parts, position):
    model, read = make(parts, position), tokens()
    shifted = model(read, first_position=7)
    if model.config.position.relative:
        torch.testing.assert_close(shifted, model(read), rtol=1e-3, atol=1e-4)
    else:
        assert (shifted - model(read)).abs().max() > 1e-3


@models
def test_documents_in_a_window_are_read_as_if_alone(parts, position):
    model, read = make(parts, position), tokens()
    documents = torch.tensor([[0] * 5 + [1] * 7]).expand(3, -1)
    together = model(read, documents=documents)
    same(together[:, :5], model(read[:, :5]))
    same(together[:, 5:], model(read[:, 5:], first_position=5))


@models
def test_beyond_the_context_it_works_or_says_why_not(parts, position):
    model = make(parts, position)
    long = tokens(length=CONTEXT + 4)
    if model.config.position.beyond_context == "error":
        with pytest.raises(ValueError, match=rf"{CONTEXT}.*{CONTEXT + 4}"):
            model(long)
    else:
        logits = model(long)
        assert bool(logits.isfinite().all())
        same(logits[:, :LENGTH], model(long[:, :LENGTH]))


@models
def test_half_precision_is_close(parts, position):
    model, read = make(parts, position), tokens()
    exact = model(read).log_softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(read).float().log_softmax(-1)
    assert (rounded - exact).abs().mean() < 0.2


@models
def test_config_and_weights_survive_a_file(parts, position, tmp_path):
    from physlm.training.checkpoints import load_model, save_model

    model = make(parts, position)
    save_model(model, tmp_path / "model", data_fingerprint="")
    loaded = load_model(tmp_path / "model").eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens()), model(tokens()))


@models
def test_exchanging_a_part_leaves_all_other_weights(parts, position):
    shape = {"vocab_size": VOCABULARY, "context": CONTEXT, "layers": 2, "heads": 4, "width": 32}
    plain = dict(Transformer(TransformerConfig(**shape), seed=3).named_parameters())
    config = TransformerConfig(**{**shape, **PARTS[parts], "position": encoding(position)})
    shared = 0
    for name, parameter in Transformer(config, seed=3).named_parameters():
        if name in plain and plain[name].shape == parameter.shape:
            shared += 1
            assert torch.equal(parameter, plain[name]), name
    assert shared >= 4


@pytest.mark.parametrize("parts", ["gpt2", "llama", "no mlp"])
def test_without_positions_order_is_lost(parts):
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(3))
    read = tokens()
    both_ways = make(parts, "none", causal=False)
    same(both_ways(read[:, order]), both_ways(read)[:, order])
    one_layer = make(parts, "none", layers=1)
    before_last = torch.cat([order[order < LENGTH - 1], torch.tensor([LENGTH - 1])])
    same(one_layer(read[:, before_last])[:, -1], one_layer(read)[:, -1])
    assert (
        make(parts, "none", layers=2)(read[:, before_last])[:, -1] - make(parts, "none", layers=2)(read)[:, -1]
    ).abs().max() > 1e-3


@pytest.mark.parametrize("position", ["position_only", "uniform"])
def test_patterns_without_content_do_not_depend_on_tokens(position):
    model = make("gpt2", position)
    patterns = []
    for seed in (0, 1):
        capture = Capture(["block.2.pattern"])
        model(tokens(seed=seed), capture=capture)
        patterns.append(capture.states["block.2.pattern"])
    assert torch.equal(*patterns)
    assert not any("query" in name or "key" in name for name, _ in model.named_parameters())


@models
def test_reading_far_without_gradients_leaves_the_model_trainable(parts, position):
    model = make(parts, position)
    if model.config.position.beyond_context == "works":
        with torch.inference_mode():
            model(tokens(length=3 * CONTEXT))
        model(tokens(length=3 * CONTEXT)).sum().backward()
    with torch.inference_mode():
        model(tokens())
    model(tokens()).sum().backward()
    assert model.embed.weight.grad is not None
