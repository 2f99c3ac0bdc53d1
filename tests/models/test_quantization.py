import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from physlm.models.experts import Experts
from physlm.models.low_rank import add_low_rank, merge_low_rank
from physlm.models.positions import Learned, PositionOnly
from physlm.models.quantization import Quantized, gptq, hessian_of, quantize, round_to_nearest
from physlm.models.transformer import Capture, Transformer, TransformerConfig

VOCABULARY = 29


def random(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def correlated_inputs(rows, columns, seed=1) -> torch.Tensor:
    """Inputs that vary along a few directions more than along the others, as hidden states do."""
    return random(rows, columns, seed=seed) * torch.logspace(0, -2, columns) @ random(columns, columns, seed=seed + 1)


def model(**changes) -> Transformer:
    shape = {"vocab_size": VOCABULARY, "context": 16, "layers": 3, "heads": 2, "width": 16, "initial_std": 0.2}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=5)


def tokens(rows=24, length=12, seed=0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def spread(values: torch.Tensor, rounded: Quantized) -> torch.Tensor:
    """Something of every group, for every column."""
    return values.repeat_interleave(rounded.group_size, dim=1)[:, : rounded.codes.shape[1]]


weights = st.builds(
    lambda rows, columns, seed, scale, shift: scale * (random(rows, columns, seed=seed) + shift),
    rows=st.integers(1, 5),
    columns=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-30, 0.02, 1.0, 1e4]),
    shift=st.sampled_from([-10.0, -0.5, 0.0, 3.0]),
)


@given(weight=weights, bits=st.integers(2, 8), group_size=st.integers(1, 24))
def test_the_nearest_value_is_half_a_step_away_at_most(weight, bits, group_size):
    rounded = round_to_nearest(weight, bits, group_size=group_size)
    steps = spread(rounded.scales, rounded)
    assert ((rounded.weight.double() - weight.double()).abs() <= steps * (0.5 + 1e-6)).all()
    for group, scale in zip(weight.double().split(group_size, 1), rounded.scales.T, strict=True):
        size = group.amax(1).clamp(min=0) - group.amin(1).clamp(max=0)
        torch.testing.assert_close(scale, size / (2**bits - 1), rtol=1e-12, atol=0)


@given(weight=weights, bits=st.integers(2, 8), group_size=st.integers(1, 24))
def test_codes_say_what_the_weight_is(weight, bits, group_size):
    rounded = round_to_nearest(weight, bits, group_size=group_size)
    assert rounded.codes.shape == weight.shape
    assert rounded.scales.shape == rounded.zeros.shape == (len(weight), math.ceil(weight.shape[1] / group_size))
    assert max(int(rounded.codes.max()), int(rounded.zeros.max())) < 2**bits
    codes = rounded.codes.double() - spread(rounded.zeros, rounded).double()
    torch.testing.assert_close(rounded.weight, (spread(rounded.scales, rounded) * codes).float(), rtol=0, atol=0)


@given(weight=weights, bits=st.integers(2, 8), group_size=st.integers(1, 24))
def test_rounding_what_is_rounded_changes_nothing(weight, bits, group_size):
    once = round_to_nearest(weight, bits, group_size=group_size)
    twice = round_to_nearest(once.weight, bits, group_size=group_size)
    assert torch.equal(twice.codes, once.codes)
    torch.testing.assert_close(twice.weight, once.weight, rtol=1e-6, atol=0)


def test_a_grid_by_hand():
    rounded = round_to_nearest(torch.tensor([[-1.0, 0.3, 2.0, 0.6, 5.0, 7.0]]), 2, group_size=4)
    torch.testing.assert_close(rounded.scales, torch.tensor([[1.0, 7 / 3]], dtype=torch.float64))
    assert rounded.zeros.tolist() == [[1, 0]]
    assert rounded.codes.tolist() == [[0, 1, 3, 2, 2, 3]]
    torch.testing.assert_close(rounded.weight, torch.tensor([[-1.0, 0.0, 2.0, 1.0, 14 / 3, 7.0]]))


def test_halves_do_not_cost_a_grid_one_of_its_ends():
    # Both ends lie half a step from zero's grid; the largest value still gets the largest code.
    rounded = round_to_nearest(torch.tensor([[-2.5, 12.5]]), 4)
    assert rounded.codes.tolist() == [[0, 15]]


@pytest.mark.parametrize("rounding", [round_to_nearest, lambda *arguments: gptq(arguments[0], torch.eye(3), 4)])
def test_zeros_stay_zero(rounding):
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -0.4], [0.0, 0.0, 3.0]])
    rounded = rounding(weight, 4).weight
    assert rounded[weight == 0].eq(0).all()
    assert rounded[weight != 0].ne(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_type_stays(dtype):
    assert round_to_nearest(random(3, 8, dtype=dtype), 4).weight.dtype == dtype
    assert gptq(random(3, 8, dtype=dtype), torch.eye(8), 4).weight.dtype == dtype


def slow_gptq(weight, hessian, bits, group_size, damping):
    """Number by number, as the method is written down, with the inverse computed anew."""
    rows, columns = weight.shape
    damped = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped)).T
    left = weight.double().clone()
    rounded = torch.zeros_like(left)
    grids: dict[int, tuple[float, float]] = {}
    for j in range(columns):
        for row in range(rows):
            if j % group_size == 0:
                group = left[row, j : j + group_size].tolist()
                step = (max(0.0, *group) - min(0.0, *group)) / (2**bits - 1)
                grids[row] = (step, -math.floor(min(0.0, *group) / step + 0.5))
            step, zero = grids[row]
            code = math.floor(left[row, j].item() / step + 0.5) + zero
            rounded[row, j] = step * (min(max(code, 0), 2**bits - 1) - zero)
            error = (left[row, j].item() - rounded[row, j].item()) / upper[j, j].item()
            for k in range(j + 1, columns):
                left[row, k] -= error * upper[j, k].item()
    return rounded


@pytest.mark.parametrize(
    ("columns", "bits", "group_size", "damping"),
    [(12, 4, 128, 0.01), (12, 4, 4, 0.01), (12, 3, 5, 0.01), (12, 8, 12, 0.5), (12, 2, 2, 0.001), (130, 4, 128, 0.01)],
)
def test_gptq_is_the_loop(columns, bits, group_size, damping):
    weight, hessian = random(2, columns), hessian_of(correlated_inputs(200, columns))
    rounded = gptq(weight, hessian, bits, group_size=group_size, damping=damping)
    expected = slow_gptq(weight, hessian, bits, group_size, damping)
    torch.testing.assert_close(rounded.weight, expected.float(), rtol=1e-6, atol=1e-9)


def test_one_wide_group_is_computed_in_parts():
    weight, hessian = random(1, 260), hessian_of(correlated_inputs(400, 260))
    expected = slow_gptq(weight, hessian, 4, 260, 0.01)
    torch.testing.assert_close(gptq(weight, hessian, 4, group_size=260).weight, expected.float(), rtol=1e-6, atol=1e-9)


def output_error(weight: torch.Tensor, rounded: torch.Tensor, inputs: torch.Tensor) -> float:
    return (inputs.double() @ (weight - rounded).double().T).norm().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("group_size", [16, 128])
def test_gptq_changes_outputs_less_than_rounding_to_nearest(seed, group_size):
    weight, inputs = random(24, 48, seed=seed), correlated_inputs(500, 48, seed=seed + 10)
    nearest = round_to_nearest(weight, 4, group_size=group_size).weight
    fitted = gptq(weight, hessian_of(inputs), 4, group_size=group_size).weight
    assert output_error(weight, fitted, inputs) < 0.7 * output_error(weight, nearest, inputs)


def test_gptq_on_independent_inputs_rounds_to_nearest():
    weight = random(5, 40)
    rounded = gptq(weight, torch.eye(40) * 3, 4, group_size=8)
    assert torch.equal(rounded.codes, round_to_nearest(weight, 4, group_size=8).codes)


def test_more_bits_are_closer_and_eight_are_close():
    weight, inputs = random(24, 48), correlated_inputs(500, 48)
    hessian = hessian_of(inputs)
    size = (inputs @ weight.T).double().norm().item()
    for rounding in (lambda bits: round_to_nearest(weight, bits), lambda bits: gptq(weight, hessian, bits)):
        errors = [output_error(weight, rounding(bits).weight, inputs) / size for bits in range(2, 9)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.01


def test_an_input_that_never_was_is_rounded_to_nearest_and_disturbs_nothing():
    weight, inputs = random(6, 20), correlated_inputs(300, 20)
    inputs[:, [3, 11]] = 0.0
    rounded = gptq(weight, hessian_of(inputs), 8)
    error = (rounded.weight - weight)[:, [3, 11]].abs()
    assert (error <= rounded.scales * (0.5 + 1e-6)).all()
    assert output_error(weight, rounded.weight, inputs) <= output_error(
        weight, round_to_nearest(weight, 8).weight, inputs
    )
    nothing = gptq(weight, torch.zeros(20, 20), 4)
    assert torch.equal(nothing.codes, round_to_nearest(weight, 4).codes)


def test_hessians_of_parts_add_up():
    inputs = random(30, 7)
    torch.testing.assert_close(hessian_of(inputs), 2 * (inputs.T @ inputs).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hessian_of(inputs), hessian_of(inputs[:11]) + hessian_of(inputs[11:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, r"bits must be an int in \[2, 8\], got 1"),
        ({"bits": 9}, r"bits must be an int in \[2, 8\], got 9"),
        ({"group_size": 0}, "group_size must be ≥ 1 inputs, got 0"),
        ({"damping": 0.0}, "damping must be > 0, got 0.0"),
        ({"weight": torch.tensor([[math.nan, 1.0]])}, "weights must be finite"),
        ({"hessian": torch.full((2, 2), math.inf)}, "the Hessian must be finite"),
    ],
)
def test_bad_arguments(changes, message):
    arguments = {"weight": torch.ones(1, 2), "hessian": torch.eye(2), "bits": 4, "group_size": 2, "damping": 0.01}
    with pytest.raises(ValueError, match=message):
        gptq(**{**arguments, **changes})


# Whole models


BLOCK = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")


@pytest.mark.parametrize("method", ["gptq", "round_to_nearest"])
@pytest.mark.parametrize(
    ("changes", "matrices", "rounded"),
    [
        ({}, "blocks", BLOCK),
        ({}, "all", (*BLOCK, "embed")),
        ({"tied": False}, "blocks", BLOCK),
        ({"tied": False}, "all", (*BLOCK, "embed", "head")),
        ({"gated": True, "activation": "silu", "norm": "rms", "biases": False}, "blocks", (*BLOCK, "mlp.gate")),
        ({"mlp_ratio": 0}, "blocks", BLOCK[:4]),
        ({"key_value_heads": 1, "position": Learned()}, "all", (*BLOCK, "embed")),
        ({"position": PositionOnly()}, "blocks", BLOCK[2:]),
        ({"causal": False, "query_key_norm": True}, "blocks", BLOCK),
        ({"experts": Experts(experts=4)}, "blocks", (*BLOCK[:4], "mlp")),
        ({"experts": Experts(experts=4), "gated": True}, "all", (*BLOCK[:4], "mlp", "embed")),
    ],
)
def test_exactly_the_asked_matrices_are_rounded(method, changes, matrices, rounded):
    original = model(**changes)
    small = quantize(original, bits=3, method=method, calibration=tokens(), group_size=6, matrices=matrices)
    before = dict(original.named_parameters())
    for name, parameter in small.named_parameters():
        module, last = name.rsplit(".", 1)
        module = module.split(".", 2)[2] if module.startswith("blocks.") else module
        if module in rounded and last in ("weight", "up", "gate", "down"):
            assert not torch.equal(parameter, before[name]), name
            for group in parameter.detach().flatten(0, -2).split(6, dim=1):
                assert all(len(row.unique()) <= 8 for row in group), name
        else:
            assert torch.equal(parameter, before[name]), name
    assert (small.head.weight is small.embed.weight) == original.config.tied


def test_the_model_is_left_alone():
    original = model(dropout=0.3, layers=2)
    original(tokens()).square().sum().backward()
    original.blocks[0].attention.eval()
    weights = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    state = torch.get_rng_state()
    small = quantize(original, bits=4, calibration=tokens(), matrices="all")
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert all(parameter.grad is not None for parameter in original.parameters())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.parameters())
    modes = [module.training for module in original.modules()]
    assert [module.training for module in small.modules()] == modes
    assert not all(modes)
    small(tokens()).sum().backward()  # it can be trained on


def test_a_mixture_can_be_rounded_after_a_step():
    original = model(experts=Experts(experts=4))
    original(tokens()).sum().backward()
    small = quantize(original, bits=8, calibration=tokens())
    # A token between two experts may go to the other one, so that a few outputs change a lot.
    changes = (small.eval()(tokens()) - original.eval()(tokens())).abs().amax(-1)
    assert 0 < changes.median() < 0.05


def test_every_block_is_fitted_to_the_rounded_ones_below_it():
    original = model()
    names = [f"block.{number}.{state}" for number in range(3) for state in ("attn_in", "z", "mlp_in", "mlp_post")]
    small = quantize(original, bits=3, calibration=tokens(), group_size=8)
    for number in range(3):
        # What the blocks below give when they are rounded, while this one is exact.
        partly = model()
        for below in range(number):
            partly.blocks[below].load_state_dict(small.blocks[below].state_dict())
        capture = Capture(names)
        partly.eval()(tokens(), capture=capture)
        for path, state in (
            ("attention.query", "attn_in"),
            ("attention.key", "attn_in"),
            ("attention.value", "attn_in"),
            ("attention.output", "z"),
            ("mlp.up", "mlp_in"),
            ("mlp.down", "mlp_post"),
        ):
            inputs = capture.states[f"block.{number}.{state}"].flatten(0, 1).flatten(1).detach()
            weight = original.blocks[number].get_submodule(path).weight.detach()
            expected = gptq(weight, hessian_of(inputs), 3, group_size=8).weight
            torch.testing.assert_close(small.blocks[number].get_submodule(path).weight.detach(), expected)


def test_calibration_is_read_in_parts(monkeypatch):
    whole = quantize(model(), bits=4, calibration=tokens())
    monkeypatch.setattr("physlm.models.quantization.TOKENS_AT_ONCE", 50)
    parts = quantize(model(), bits=4, calibration=tokens())
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 16}, r"bits must be an int in \[2, 8\], got 16"),
        ({"bits": True}, r"bits must be an int in \[2, 8\], got True"),
        ({"bits": 9, "method": "round_to_nearest", "calibration": None}, r"bits must be an int in \[2, 8\], got 9"),
        ({"damping": 0.0, "method": "round_to_nearest", "calibration": None}, "damping must be > 0, got 0.0"),
        ({"calibration": torch.full((2, 5), 10**6)}, r"tokens must be ids in \[0, \d+\), got 1000000"),
        ({"calibration": None}, "gptq needs calibration tokens, got none; .* method='round_to_nearest'"),
        ({"calibration": torch.zeros(0, 5, dtype=torch.long)}, "gptq needs calibration tokens, got none"),
        ({"group_size": -1}, "group_size must be ≥ 1 inputs, got -1"),
        ({"damping": -0.1}, "damping must be > 0, got -0.1"),
    ],
)
def test_bad_requests(changes, message):
    original = model()
    # Nothing is computed, nor copied, before all is known to be right.
    original.__deepcopy__ = original.hidden = lambda *_, **__: pytest.fail("work was done")
    with pytest.raises(ValueError, match=message):
        quantize(original, **{"bits": 4, "calibration": tokens(), **changes})


def test_updates_are_merged_before():
    original = model(position=Learned())
    add_low_rank(original, rank=2, embedding_rank=2, seed=0)
    with pytest.raises(ValueError, match="call merge_low_rank first"):
        quantize(original, bits=4, calibration=tokens())
    merge_low_rank(original)
    small = quantize(original, bits=8, calibration=tokens())
    assert small.head.weight is not small.embed.weight
    torch.testing.assert_close(small(tokens()), original(tokens()), rtol=0, atol=0.5)


@pytest.fixture(scope="module")
def trained() -> tuple[Transformer, torch.Tensor]:
    """A model that knows its texts by heart, and the texts."""
    learner = model(width=32, initial_std=0.1)
    texts = tokens(32, 12, seed=3)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(learner, texts).backward()
        optimizer.step()
    return learner.eval(), texts


def loss_of(learner: Transformer, texts: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(learner(texts)[:, :-1].flatten(0, 1), texts[:, 1:].flatten())


@pytest.mark.parametrize("matrices", ["blocks", "all"])
def test_what_was_learned_survives_eight_bits_and_not_two(trained, matrices):
    learner, texts = trained
    with torch.no_grad():
        exact = loss_of(learner, texts).item()
        assert exact < 0.6

        def lost(bits, method):
            small = quantize(learner, bits=bits, method=method, calibration=texts, matrices=matrices)
            return loss_of(small, texts).item() - exact

        for method in ("gptq", "round_to_nearest"):
            assert abs(lost(8, method)) < 0.01
            assert lost(2, method) > 0.3
        assert lost(3, "gptq") < lost(3, "round_to_nearest")
