import pytest
import torch
import torch.nn.functional as F
from torch import nn

from physlm.models import linear as module
from physlm.models.linear import MIN_ROWS, linear
from physlm.models.transformer import MLP, TransformerConfig

MANY = 4 * MIN_ROWS


def parts(*shape: int, outputs: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (shape, (outputs, shape[-1]), (outputs,))
    inputs, weight, bias = (torch.randn(size, generator=generator) for size in shapes)
    return inputs, weight, bias


@pytest.mark.parametrize("has_operator", [True, False])
@pytest.mark.parametrize("shape", [(MANY, 32), (8, MANY // 8, 32), (MIN_ROWS, 7), (3, 32), (0, 32)])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_a_linear_layer(monkeypatch, has_operator, shape, gelu, has_bias):
    if not has_operator:
        monkeypatch.setattr(module, "_OPERATOR", None)
    inputs, weight, bias = parts(*shape)
    bias = bias if has_bias else None
    expected = F.linear(inputs, weight, bias)
    if gelu:
        expected = F.gelu(expected, approximate="tanh")
    with torch.inference_mode():
        got = linear(inputs, weight, bias, gelu=gelu)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_views_are_read_as_they_are():
    inputs, weight, bias = parts(MANY, 48)
    inputs, weight = inputs.view(4, -1, 48).transpose(0, 1), weight.T
    with torch.inference_mode():
        torch.testing.assert_close(linear(inputs, weight, bias), F.linear(inputs, weight, bias), rtol=1e-5, atol=1e-4)


def refuse(*_):
    raise AssertionError("the operator without gradients must not be called here")


def test_with_gradients_it_is_the_layers_bit_for_bit(monkeypatch):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    mlp = MLP(TransformerConfig(vocab_size=9, context=4, layers=1, heads=2, width=32))
    inputs = parts(MANY, 32)[0].requires_grad_()
    got, expected = mlp(inputs), mlp.down(F.gelu(mlp.up(inputs), approximate="tanh"))
    assert torch.equal(got, expected)
    wanted = [inputs, *mlp.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(got.sum(), wanted), torch.autograd.grad(expected.sum(), wanted), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_alone(monkeypatch, dtype):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    inputs, weight, bias = (part.to(dtype) for part in parts(MANY, 32))
    with torch.inference_mode():
        assert torch.equal(linear(inputs, weight, bias), F.linear(inputs, weight, bias))


def test_autocast_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "_OPERATOR", refuse)
    layer = nn.Linear(32, 48)
    inputs = parts(MANY, 32)[0]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        got = linear(inputs, layer.weight, layer.bias)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, layer(inputs))
