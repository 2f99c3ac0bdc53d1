"""Linear layers, by oneDNN where it is faster.

- PyTorch hands float32 products on a CPU to MKL, which on many processors takes up to twice as long as the oneDNN that
  comes with PyTorch as well, above all for outputs of an odd width such as a vocabulary. Its operator has no public
  name, so it is used where this PyTorch has it, with a gradient of our own.
- Under autocast, on accelerators and for few rows this is `F.linear` to the last bit; elsewhere it differs by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from physlm.models.activations import ACTIVATIONS, Activation

MIN_ROWS = 64
"""Fewer rows than this are not worth oneDNN's preparations."""

MIN_PRODUCTS = 2**25
"""With gradients, whose two further products MKL does well enough, nor are fewer multiplications than this."""

MAX_INPUTS = 320
"""Without gradients, nor are more inputs than this: oneDNN's long sums are off by two or three times as much as MKL's,
which shows beside other libraries, and it is a quarter faster then, not twice as fast."""

_OPERATOR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
_FUSED: dict[Activation | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "tanh"),
    "gelu_exact": ("gelu", "none"),
    "relu": ("relu", ""),
}


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of `linear`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, initial_scale: float = 1.0) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.initial_scale = initial_scale

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Draw the weight from a normal distribution; the bias is zero."""
        if name == "bias":
            parameter.zero_()
        else:
            parameter.normal_(0.0, std * self.initial_scale, generator=generator)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that torch.nn.Linear gives it)
        """`[..., I]` to `[..., O]`."""
        return linear(input, self.weight, self.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation | None = None) -> Tensor:
    """`inputs · weightᵀ + bias`, then the activation if there is one.

    Args:
        inputs: `[..., I]`.
        weight: `[O, I]`.
        bias: `[O]`, or none.
        activation: applied to the result.

    Returns:
        `[..., O]`.
    """
    if _OPERATOR is None or not _is_fast(inputs, weight):
        outputs = F.linear(inputs, weight, bias)
    elif _is_transformed():
        outputs = _Linear.apply(inputs, weight, bias)
    elif torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (inputs, weight, bias)
    ):
        is_large = inputs.numel() * len(weight) >= MIN_PRODUCTS
        outputs = _Linear.apply(inputs, weight, bias) if is_large else F.linear(inputs, weight, bias)
    elif weight.shape[1] > MAX_INPUTS:
        outputs = F.linear(inputs, weight, bias)
    elif activation in _FUSED:
        name, variant = _FUSED[activation]
        return _OPERATOR(inputs, weight, bias, name, [], variant)
    else:
        outputs = _OPERATOR(inputs, weight, bias, "none", [], "")
    return outputs if activation is None else ACTIVATIONS[activation](outputs)


def _is_fast(inputs: Tensor, weight: Tensor) -> bool:
    """Whether these are many rows of float32 on a CPU, and no other precision or graph is wanted."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.numel() >= MIN_ROWS * inputs.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _is_transformed() -> bool:
    """Whether this runs within `torch.func`, whose rules for a function are those of its class below."""
    return torch._C._are_functorch_transforms_active()


class _Linear(torch.autograd.Function):
    """The product by oneDNN; so is the gradient of its inputs, while that of the weight is faster by MKL."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert _OPERATOR is not None
        return _OPERATOR(inputs, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert _OPERATOR is not None
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        of_inputs = _OPERATOR(gradient, weight.T, None, "none", [], "") if wants_inputs else None
        rows = gradient.flatten(0, -2)
        of_weight = rows.T @ inputs.flatten(0, -2) if wants_weight else None
        return of_inputs, of_weight, rows.sum(0) if wants_bias else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Many models at once: one batched product."""

        def stacked(tensor: Tensor, dimension: int | None) -> Tensor:
            return tensor.expand(info.batch_size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)

        inputs, weight, bias = args
        inputs, weight = stacked(inputs, in_dims[0]), stacked(weight, in_dims[1])
        rows = inputs.flatten(1, -2)
        if bias is None:
            outputs = torch.bmm(rows, weight.mT)
        else:
            outputs = torch.baddbmm(stacked(bias, in_dims[2])[:, None], rows, weight.mT)
        return outputs.unflatten(1, inputs.shape[1:-1]), 0
