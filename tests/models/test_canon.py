import pytest
import torch
import torch.nn.functional as F

from physlm.models.canon import Canon, CanonLayer
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count


def layer(**changes) -> CanonLayer:
    made = CanonLayer(6, Canon(**changes))
    torch.manual_seed(0)
    with torch.no_grad():
        made.weight.copy_(torch.randn_like(made.weight))
    return made


def states(length: int = 9) -> torch.Tensor:
    return torch.randn(2, length, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("residual", [True, False])
def test_it_is_a_depthwise_convolution(kernel, residual):
    canon = layer(kernel=kernel, residual=residual)
    weight = canon.weight.flip(0).T[:, None]
    expected = F.conv1d(F.pad(states().mT, (kernel - 1, 0)), weight, groups=6).mT
    torch.testing.assert_close(canon(states()), expected + states() if residual else expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize("kernel", [2, 4, 12])
def test_the_compiled_convolution_and_its_gradients_are_those_of_plain_operations(kernel, dtype, tolerance):
    canon, plain = (layer(kernel=kernel).to(dtype) for _ in range(2))
    visible = torch.rand(kernel - 1, 2, 9, generator=torch.Generator().manual_seed(2)) < 0.6
    inputs, same_inputs = (states().to(dtype).mT.contiguous().mT.requires_grad_() for _ in range(2))
    slope = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    mixed = canon(inputs, None, visible)
    expected = plain(same_inputs, torch.zeros(2, kernel - 1, 6), visible)
    assert mixed.dtype == dtype
    mixed.backward(slope)
    expected.backward(slope)
    bounds = {"rtol": tolerance, "atol": tolerance * 10}
    torch.testing.assert_close(mixed, expected, **bounds)
    torch.testing.assert_close(inputs.grad, same_inputs.grad, **bounds)
    torch.testing.assert_close(canon.weight.grad, plain.weight.grad, **bounds)


def test_zero_weights_are_the_identity():
    canon = layer()
    torch.nn.init.zeros_(canon.weight)
    assert torch.equal(canon(states()), states())


def test_a_token_sees_itself_and_three_before():
    inputs = states().requires_grad_()
    layer()(inputs)[:, 6].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum((0, 2)).nonzero().flatten().tolist() == [3, 4, 5, 6]


def test_earlier_inputs_continue_a_text():
    canon, inputs = layer(), states()
    torch.testing.assert_close(canon(inputs[:, 5:], inputs[:, 2:5]), canon(inputs)[:, 5:])


def test_weights_start_uniform_whatever_the_others_do():
    shape = {"vocab_size": 50, "context": 8, "layers": 2, "heads": 2, "width": 64, "initial_std": 0.02}
    model = Transformer(TransformerConfig(**shape, canon=Canon()), seed=0)
    weights = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "canon" in name])
    assert weights.abs().max() <= 0.5
    assert weights.std() == pytest.approx(12**-0.5, rel=0.05)


def test_frozen_weights_are_drawn_alike_and_not_counted():
    shape = {"vocab_size": 50, "context": 8, "layers": 2, "heads": 2, "width": 16}
    trained = Transformer(TransformerConfig(**shape, canon=Canon()), seed=0)
    frozen = Transformer(TransformerConfig(**shape, canon=Canon(trained=False)), seed=0)
    name = "blocks.1.attention.canon_b.weight"
    assert torch.equal(trained.get_parameter(name), frozen.get_parameter(name))
    assert not frozen.get_parameter(name).requires_grad
    # 4 · (d + 3d + d + 4d) in each of two layers
    assert parameter_count(trained.config) - parameter_count(frozen.config) == 2 * 4 * 9 * 16


def test_cost_at_the_papers_size():
    llama = {"norm": "rms", "biases": False, "tied": False, "gated": True, "activation": "silu", "mlp_ratio": 8 / 3}
    shape = {"vocab_size": 50, "context": 8, "layers": 12, "heads": 12, "width": 768, **llama}
    without = parameter_count(TransformerConfig(**shape), embedding=False)
    added = parameter_count(TransformerConfig(**shape, canon=Canon()), embedding=False) - without
    assert added == 380_928
    assert added / without == pytest.approx(0.0045, abs=0.0001)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sublayers": "BA"}, "letters out of 'ABCD' in this order, got 'BA'"),
        ({"sublayers": ""}, "set canon=None for none"),
        ({"kernel": 1}, "kernel must be ≥ 2 tokens, got 1"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        Canon(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": False}, "need causal=True, got causal=False"),
        ({"mlp_ratio": 0.0}, "Canon-C and -D are parts of the MLP"),
    ],
)
def test_models_that_cannot_have_it(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocab_size=50, context=8, layers=1, heads=1, width=8, canon=Canon(), **changes)
