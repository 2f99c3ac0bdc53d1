"""Element-wise activations, by name.

Training on a few CPU threads, GELU of many numbers is computed together with its slope (`physlm.tanh_gelu`), which
differs from PyTorch's by rounding, takes half the time or less, and cannot be differentiated twice; everywhere else all
of this is PyTorch.

Source: Physics of Language Models 3.3, §2 (GELU, SiLU) and 4.1, §4 (ReLU²).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Activation = Literal["gelu", "gelu_exact", "relu", "relu2", "silu"]

MOST_THREADS = 4
"""The loop runs on one thread, twice as fast as PyTorch on two; so with more than these PyTorch should be faster."""

FEWEST_INPUTS = 2**12
"""For fewer, calling the loop takes longer than PyTorch."""


def has_fast_gelu(inputs: Tensor) -> bool:
    """Whether `gelu_and_slope` is the faster way: many numbers, few threads of a CPU, and no transform of the graph."""
    return (
        # First, as a compiler cannot follow the rest.
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and inputs.device.type == "cpu"
        and inputs.dtype in (torch.float32, torch.bfloat16)
        and inputs.numel() >= FEWEST_INPUTS
        and torch.get_num_threads() <= MOST_THREADS
    )


def gelu_and_slope(inputs: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """GELU by its tanh approximation, and its derivative, on a CPU; not differentiable.

    Raises:
        ValueError: if `inputs` are neither float32 nor bfloat16.
    """
    if inputs.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"inputs must be float32 or bfloat16, got {inputs.dtype}")
    # Compilers take a while to import.
    from physlm.tanh_gelu import gelu_bfloat16, gelu_float32

    inputs = inputs.detach().contiguous()
    outputs, slopes = torch.empty_like(inputs), torch.empty_like(inputs)
    flat = [part.flatten() for part in (inputs, outputs, slopes)]
    if inputs.dtype == torch.float32:
        gelu_float32(*(part.numpy() for part in flat))
    else:
        gelu_bfloat16(*(part.view(torch.uint16).numpy() for part in flat))
    return outputs, slopes


def _gelu(inputs: Tensor) -> Tensor:
    if inputs.requires_grad and torch.is_grad_enabled() and has_fast_gelu(inputs):
        return _Gelu.apply(inputs)
    return F.gelu(inputs, approximate="tanh")


class _Gelu(torch.autograd.Function):
    """GELU by its tanh approximation; what is kept for the backward pass is its slope."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        outputs, slopes = gelu_and_slope(inputs)
        ctx.save_for_backward(slopes)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return gradient * slopes


def _relu2(inputs: Tensor) -> Tensor:
    return F.relu(inputs).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu,
    "gelu_exact": F.gelu,
    "relu": F.relu,
    "relu2": _relu2,
    "silu": F.silu,
}
"""Functions by name; "gelu" is approximated by a tanh, as in GPT-2."""
