"""Canon layers: a short causal convolution over tokens, one channel at a time, added to its input.

- Letters say where in a block: A after the norm of attention, B on queries, keys and values before they are turned,
  C after the norm of the MLP, D on its hidden units before the activation.
- No bias and no activation. Weights start uniform in ±1/√kernel, whatever the other weights do.
- Where documents are kept apart, so are they here: a token never sees over the border of its document.
- A cache holds the last `kernel − 1` inputs of every layer.

Shape legend: B batch, T tokens, M channels, K kernel.
Source: Physics of Language Models 4.1, §3 (residual form, placement, frozen variant).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Canon:
    """Which Canon layers a block has.

    Attributes:
        sublayers: letters out of "ABCD", in this order.
        kernel: tokens that are seen, the present one included.
        residual: add the input to the convolution.
        trained: whether the weights are trained; otherwise they stay as they were drawn.
    """

    sublayers: str = LETTERS
    kernel: int = 4
    residual: bool = True
    trained: bool = True

    def __post_init__(self) -> None:
        if not self.sublayers or "".join(letter for letter in LETTERS if letter in self.sublayers) != self.sublayers:
            raise ValueError(
                f"canon sublayers must be letters out of {LETTERS!r} in this order, got {self.sublayers!r}; "
                "set canon=None for none"
            )
        if self.kernel < 2:
            raise ValueError(f"canon kernel must be ≥ 2 tokens, got {self.kernel}")


class CanonLayer(nn.Module):
    """One convolution, `[B, T, M]` to `[B, T, M]`."""

    def __init__(self, channels: int, config: Canon) -> None:
        super().__init__()
        self.config = config
        # One row for each lag; row 0 is the present token.
        self.weight = nn.Parameter(torch.zeros(config.kernel, channels), requires_grad=config.trained)

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Draw the weights as a convolution does by default."""
        del name, std
        bound = self.config.kernel**-0.5
        parameter.uniform_(-bound, bound, generator=generator)

    def forward(
        self,
        states: Float[Tensor, "B T M"],
        earlier: Float[Tensor, "B before M"] | None = None,
        visible: Bool[Tensor, "lags B T"] | None = None,
    ) -> Float[Tensor, "B T M"]:
        """Mix each token with the ones just before it.

        Args:
            states: the inputs.
            earlier: the `kernel − 1` inputs before them; zeros if there are none.
            visible: for every lag from 1 on, which tokens may see that far back; all if not given.
        """
        before, length = self.config.kernel - 1, states.shape[1]
        if earlier is None and _has_kernel(states):
            weight = torch.cat([self.weight[:1] + 1, self.weight[1:]]) if self.config.residual else self.weight
            if visible is None:
                visible = torch.ones(before, *states.shape[:2], dtype=torch.bool)
            return _Convolution.apply(states, weight, visible)
        if earlier is None:
            earlier = states.new_zeros(states.shape[0], before, states.shape[2])
        padded = torch.cat([earlier.to(states.dtype), states], dim=1)
        weight = self.weight.to(states.dtype)
        mixed = states * (weight[0] + 1 if self.config.residual else weight[0])
        for lag in range(1, self.config.kernel):
            past = padded[:, before - lag : before - lag + length]
            if visible is not None:
                past = past * visible[lag - 1].unsqueeze(-1)
            mixed = torch.addcmul(mixed, past, weight[lag])
        return mixed


def _has_kernel(states: Tensor) -> bool:
    return (
        states.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


class _Convolution(torch.autograd.Function):
    """Each token mixed with the ones before it, computed in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Float[Tensor, "B T M"],
        weight: Float[Tensor, "K M"],
        visible: Bool[Tensor, "lags B T"],
    ) -> Float[Tensor, "B T M"]:
        """Convolve.

        Args:
            ctx: keeps what the gradient needs.
            states: the inputs.
            weight: one row for each lag, the first for the token itself.
            visible: for every lag from 1 on, which tokens may see that far back.
        """
        inputs, weight = _computable(states), _computable(weight)
        weight = weight.to(inputs.dtype)
        ctx.save_for_backward(inputs, weight, visible)
        ctx.dtype = states.dtype
        mixed = torch.empty_like(inputs)
        _loops().convolve(inputs.numpy(), weight.numpy(), visible.numpy(), mixed.numpy())
        return mixed.to(states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of states and weight."""
        inputs, weight, visible = ctx.saved_tensors
        gradient = _computable(gradient)
        for_states = torch.empty_like(inputs)
        # Summed row by row first, which loses fewer bits than one sum over all tokens.
        for_weight = torch.zeros(len(inputs), *weight.shape, dtype=inputs.dtype)
        _loops().convolve_backward(
            gradient.numpy(), inputs.numpy(), weight.numpy(), visible.numpy(), for_states.numpy(), for_weight.numpy()
        )
        return for_states.to(ctx.dtype), for_weight.sum(0) if ctx.needs_input_grad[1] else None, None


def _computable(states: Tensor) -> Tensor:
    """The same as NumPy can have it: without a gradient, in one piece, in float32 or float64."""
    states = states.detach()
    return (states if states.dtype == torch.float64 else states.float()).contiguous()


def _loops() -> ModuleType:
    # Compilers take a while to import, and most models have no Canon layer.
    from physlm import short_convolution

    return short_convolution
