"""GELU computed with its slope, beside PyTorch's in double precision."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from physlm.models import activations
from physlm.models.activations import ACTIVATIONS, FEWEST_INPUTS, gelu_and_slope

EDGES = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 12.0, -12.0, 80.0, -80.0, 1e4, -1e4])
SAMPLES = torch.cat([torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 3, EDGES])


def exact(inputs):
    """GELU and its slope in double precision."""
    doubled = inputs.double().requires_grad_()
    outputs = F.gelu(doubled, approximate="tanh")
    outputs.sum().backward()
    return outputs.detach(), doubled.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)])
def test_outputs_and_slopes_are_those_of_gelu(dtype, tolerance):
    inputs = SAMPLES.to(dtype)
    for computed, right in zip(gelu_and_slope(inputs), exact(inputs), strict=True):
        assert computed.dtype == dtype
        torch.testing.assert_close(computed.double(), right, rtol=tolerance, atol=tolerance)


def test_every_bfloat16_is_rounded_to_one_next_to_it_at_most():
    """Of all 65,536; infinities and what is not a number apart."""
    inputs = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    far = inputs[inputs.isfinite() & (inputs.abs() >= 1e4)]
    outputs, slopes = gelu_and_slope(far)
    assert outputs.equal(far.clamp_min(0))
    assert slopes.equal((far > 0).bfloat16())
    inputs = inputs[inputs.abs() < 1e4]
    for computed, right in zip(gelu_and_slope(inputs), exact(inputs), strict=True):
        spacing = torch.exp2(right.abs().clamp_min(2**-20).frexp()[1] - 8.0)
        assert ((computed.double() - right).abs() <= spacing + 3e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_a_number_stays_so(dtype):
    """Or else a run that diverges would not be noticed."""
    inputs = torch.full((8,), float("nan"), dtype=dtype)
    assert all(part.isnan().all() for part in gelu_and_slope(inputs))
    assert gelu_and_slope(torch.full((8,), float("inf"), dtype=dtype))[0].isinf().all()
    assert gelu_and_slope(torch.full((8,), float("-inf"), dtype=dtype))[0].isnan().all(), "as in PyTorch"


@pytest.mark.parametrize("shape", [(FEWEST_INPUTS,), (16, 8, 64)])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_those_of_pytorch(shape, transposed):
    generator = torch.Generator().manual_seed(1)
    values, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    if transposed:
        values, gradient = values.mT if values.ndim > 1 else values, gradient.mT if gradient.ndim > 1 else gradient
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    outputs, expected = ACTIVATIONS["gelu"](ours), F.gelu(theirs, approximate="tanh")
    assert type(outputs.grad_fn).__name__ == "_GeluBackward", "the loop was not used"
    outputs.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=5e-6)


def test_it_is_pytorch_where_the_loop_does_not_pay(monkeypatch):
    values = torch.randn(FEWEST_INPUTS)
    expected = F.gelu(values, approximate="tanh")
    assert ACTIVATIONS["gelu"](values).equal(expected), "no gradient is wanted"
    few = values[:-1].clone().requires_grad_()
    assert ACTIVATIONS["gelu"](few).equal(F.gelu(few, approximate="tanh"))
    wide = values.double().requires_grad_()
    assert ACTIVATIONS["gelu"](wide).equal(F.gelu(wide, approximate="tanh"))
    monkeypatch.setattr(activations, "MOST_THREADS", 0)
    assert ACTIVATIONS["gelu"](values.clone().requires_grad_()).equal(expected)
    monkeypatch.undo()
    per_sample = torch.func.vmap(torch.func.grad(lambda row: ACTIVATIONS["gelu"](row).sum()))
    rows = torch.randn(2, FEWEST_INPUTS)
    torch.testing.assert_close(
        per_sample(rows), torch.ops.aten.gelu_backward(torch.ones_like(rows), rows, approximate="tanh")
    )


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r"inputs must be float32 or bfloat16, got torch\.float64"):
        gelu_and_slope(SAMPLES.double())


COMPILED = """
import torch
from physlm.models.activations import ACTIVATIONS, FEWEST_INPUTS

torch.set_num_threads(1)
inputs = torch.randn(2 * FEWEST_INPUTS, requires_grad=True)
compiled = torch.compile(ACTIVATIONS["gelu"], backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(inputs), torch.nn.functional.gelu(inputs, approximate="tanh"))
"""


def test_compilers_see_one_graph():
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
