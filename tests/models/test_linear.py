import pytest
import torch
import torch.nn.functional as F
from torch import nn

from physlm.models import linear as module
from physlm.models.activations import ACTIVATIONS
from physlm.models.linear import MIN_ROWS, Linear, linear

MANY = 4 * MIN_ROWS


def parts(*shape: int, outputs: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (outputs, shape[-1]), (outputs,))
    inputs, weight, bias = (torch.randn(size, generator=generator) for size in shapes)
    return inputs, weight, bias


@pytest.mark.parametrize("has_operator", [True, False])
@pytest.mark.parametrize("shape", [(MANY, 32), (8, MANY // 8, 32), (MIN_ROWS, 7), (3, 32), (0, 32)])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_a_linear_layer(monkeypatch, has_operator, shape, activation, has_bias):
    if not has_operator:
        monkeypatch.setattr(module, "_OPERATOR", None)
    inputs, weight, bias = parts(*shape)
    bias = bias if has_bias else None
    expected = F.linear(inputs, weight, bias)
    if activation:
        expected = ACTIVATIONS[activation](expected)
    with torch.inference_mode():
        got = linear(inputs, weight, bias, activation)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-4 if activation != "relu2" else 2e-3)


def test_views_are_read_as_they_are():
    inputs, weight, bias = parts(MANY, 48)
    inputs, weight = inputs.view(4, -1, 48).transpose(0, 1), weight.T
    with torch.inference_mode():
        torch.testing.assert_close(linear(inputs, weight, bias), F.linear(inputs, weight, bias), rtol=1e-5, atol=1e-4)


def gradients(outputs: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    upstream = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad(outputs, leaves, upstream)


@pytest.mark.parametrize("least", [0, 2**40])
@pytest.mark.parametrize("shape", [(MANY, 32), (8, MANY // 8, 32), (3, 32)])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (1, 2), (0, 1)])
def test_gradients_are_those_of_a_linear_layer(monkeypatch, least, shape, frozen):
    monkeypatch.setattr(module, "MIN_PRODUCTS", least)
    leaves = [part.requires_grad_(i not in frozen) for i, part in enumerate(parts(*shape))]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    ours, theirs = gradients(linear(*leaves), wanted), gradients(F.linear(*leaves), wanted)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_many_views(monkeypatch):
    monkeypatch.setattr(module, "MIN_PRODUCTS", 0)
    inputs, weight, bias = parts(MANY, 48)
    leaves = [inputs.view(4, -1, 48).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    ours, theirs = (gradients(f(leaves[0].transpose(0, 1), leaves[1].T, bias), leaves) for f in (linear, F.linear))
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shared_inputs", [False, True])
def test_many_layers_at_once(has_bias, shared_inputs):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*(() if shared_inputs else (3,)), 2, MIN_ROWS, 16, generator=generator, requires_grad=True)
    weight = torch.randn(3, 8, 16, generator=generator, requires_grad=True)
    bias = torch.randn(3, 8, generator=generator, requires_grad=True) if has_bias else None
    dimensions = (None if shared_inputs else 0, 0, 0 if has_bias else None)
    stacked = torch.func.vmap(linear, in_dims=dimensions)(inputs, weight, bias)
    alone = torch.stack(
        [
            F.linear(inputs if shared_inputs else inputs[i], weight[i], None if bias is None else bias[i])
            for i in range(3)
        ]
    )
    torch.testing.assert_close(stacked, alone, rtol=1e-5, atol=1e-4)
    leaves = [inputs, weight] if bias is None else [inputs, weight, bias]
    for got, expected in zip(gradients(stacked, leaves), gradients(alone, leaves), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_hooks_see_the_layer():
    layer, seen = Linear(32, 48), []
    layer.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[0].shape, outputs.shape)))
    layer(parts(MANY, 32)[0])
    assert seen == [((MANY, 32), (MANY, 48))]


def refuse(*_):
    raise AssertionError("the operator must not be called here")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_alone(monkeypatch, dtype):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    inputs, weight, bias = (part.to(dtype) for part in parts(MANY, 32))
    with torch.inference_mode():
        assert torch.equal(linear(inputs, weight, bias), F.linear(inputs, weight, bias))


def test_long_sums_are_left_alone(monkeypatch):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    inputs, weight, bias = parts(MANY, module.MAX_INPUTS + 1)
    with torch.inference_mode():
        assert torch.equal(linear(inputs, weight, bias, "relu"), F.linear(inputs, weight, bias).relu())


def test_autocast_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    layer = nn.Linear(32, 48)
    inputs = parts(MANY, 32)[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        got = linear(inputs, layer.weight, layer.bias)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, layer(inputs))
