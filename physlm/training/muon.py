"""Muon: momentum, turned into the nearest orthogonal matrix.

- The rule is that of `torch.optim.Muon`. That one goes matrix by matrix, and multiplies matrices where they lie, split
  over processes if they are; ours gathers each, so that the outcome does not depend on the processes, and takes all of
  one shape in one product, which is what a GPU wants.
- A tensor of more than two dimensions is a stack of matrices.

Shape legend: N matrices, O rows, I columns.
Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physlm.training.sharding import part_like, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7
_AT_ONCE = 2**27
"""Most numbers that are made orthogonal at once, which bounds the memory this takes."""


def orthogonal(
    matrices: Float[Tensor, "N O I"], *, steps: int = 5, precision: torch.dtype = torch.bfloat16
) -> Float[Tensor, "N O I"]:
    """About the nearest orthogonal matrices: singular vectors stay, singular values come to lie around one.

    Args:
        matrices: a stack of matrices.
        steps: Newton-Schulz iterations.
        precision: of the products, and of the result.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    turned = matrices.to(precision)
    turned = turned.mT if is_tall else turned
    turned = turned / torch.linalg.matrix_norm(turned, keepdim=True).clamp(min=_EPS)
    for _ in range(steps):
        gram = turned @ turned.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        turned = torch.baddbmm(turned, polynomial, turned, beta=a)
    return turned.mT if is_tall else turned


class Muon(torch.optim.Optimizer):
    """Muon on matrices, with decoupled weight decay."""

    found_inf: Tensor | None = None
    """One where this step must change nothing, as the fused optimisers of PyTorch understand it."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        newton_schulz_steps: int,
        precision: torch.dtype,
    ) -> None:
        options = {"weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        super().__init__(parameters, {"lr": lr, **options})
        self.newton_schulz_steps = newton_schulz_steps
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of every parameter that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure, got one; call backward first, then step()")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for same in _batches(parameters):
                self._update(same, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update parameters of one shape."""
        rows, columns = parameters[0].shape[-2:]
        momentum, nesterov, rate = group["momentum"], group["nesterov"], group["lr"]
        directions = [whole(self._direction(parameter, momentum, nesterov)) for parameter in parameters]
        stacked = torch.stack(directions).view(-1, rows, columns)
        turned = orthogonal(stacked, steps=self.newton_schulz_steps, precision=self.precision)
        keep: Tensor | float = 1 - rate * group["weight_decay"]
        if self.found_inf is not None:
            turned = turned.masked_fill(self.found_inf > 0, 0.0)
            keep = torch.where(self.found_inf > 0, 1.0, keep)
        scale = rate * max(1, rows / columns) ** 0.5
        for parameter, update in zip(parameters, turned.view(len(parameters), *parameters[0].shape), strict=True):
            parameter.mul_(keep)
            parameter.add_(part_like(parameter, update.to(parameter.dtype)), alpha=-scale)

    def _direction(self, parameter: nn.Parameter, momentum: float, nesterov: bool) -> Tensor:
        """The gradient with momentum."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum) if nesterov else buffer


def _batches(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one shape, as many as may be worked on at once."""
    for shape, group in groupby(sorted(parameters, key=lambda parameter: parameter.shape), lambda p: p.shape):
        same, size = list(group), max(1, _AT_ONCE // shape.numel())
        yield from (same[start : start + size] for start in range(0, len(same), size))
