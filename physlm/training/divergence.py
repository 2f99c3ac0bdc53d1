"""Noticing that a run is lost, and at which step, without waiting for a GPU.

- After every backward pass the device notes whether loss and gradients are finite. From the first step at which they
  are not, the weights are left as they were, so that they can be looked at when the host asks: at log points and
  checkpoints, on a CPU at once.
- The weights are looked at before every checkpoint, so none is written that holds something else than numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from physlm.training.recipe import MuonRecipe, Recipe
from physlm.training.sharding import whole

_SHOWN = 3


class DivergenceError(RuntimeError):
    """The loss, a gradient or a weight is no longer a number."""

    explains_itself = True


@dataclass(frozen=True)
class Norms:
    """Norms of named tensors."""

    names: Sequence[str]
    each: Tensor
    """One for each name."""
    total: Tensor
    """Of all of them as one vector."""

    def __str__(self) -> str:
        each = self.each.tolist()
        if wrong := [
            name for name, finite in zip(self.names, self.each.isfinite().tolist(), strict=True) if not finite
        ]:
            more = f", … {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            return f"not finite in {', '.join(wrong[:_SHOWN])}{more}"
        largest = max(range(len(each)), key=each.__getitem__)
        return f"of norm {self.total.item():.3g}, the largest {each[largest]:.3g} in {self.names[largest]}"


@torch.no_grad()
def norms(tensors: Mapping[str, Tensor]) -> Norms:
    """Norms of each and of all tensors; of several processes, all must ask for it."""
    # The norms that clipping takes as well, which it does not hand out.
    each_norm = torch._foreach_norm([*tensors.values()])  # pyright: ignore[reportPrivateImportUsage]
    each = whole(torch.stack(each_norm)) if tensors else torch.zeros(0)
    return Norms([*tensors], each, torch.linalg.vector_norm(each))


class Watch:
    """Notes on the device which step is the first whose loss or gradient is not finite.

    Args:
        recipe: for advice.
        parameters: what is trained, by name.
        device: where it is.
        first: the number of steps done before.
        newest: asked for the last checkpoint.
    """

    def __init__(
        self,
        recipe: Recipe,
        parameters: Mapping[str, nn.Parameter],
        device: torch.device,
        *,
        first: int,
        newest: Callable[[], Path | None],
    ) -> None:
        self.recipe, self.parameters, self.first, self.newest = recipe, parameters, first, newest
        self._fine = torch.ones((), dtype=torch.bool, device=device)
        self._steps = torch.zeros((), dtype=torch.int64, device=device)
        self._seen = torch.zeros(2, device=device)

    def look(self, loss: Tensor, gradients: Norms) -> Tensor:
        """Look at one step; one, as float32 on the device, if this or an earlier one was bad."""
        self._seen = torch.where(self._fine, torch.stack([loss, gradients.total]), self._seen)
        self._fine = self._fine & self._seen.isfinite().all()
        self._steps += self._fine
        return (~self._fine).float()

    def check_steps(self, gradients: Norms) -> None:
        """Ask the device.

        Args:
            gradients: norms of the gradients of the last step that was looked at.

        Raises:
            DivergenceError: if a step was bad.
        """
        if self._fine.item():
            return
        step = self.first + int(self._steps.item()) + 1
        loss, norm = self._seen.tolist()
        raise self._error(f"the loss is {loss:.6g} and the norm of the gradient {norm:.6g} at step {step}", gradients)

    def check_weights(self, step: int, gradients: Norms) -> None:
        """Look at the weights after step number `step`; the arguments are those of `check_steps`.

        Raises:
            DivergenceError: if one is not finite.
        """
        if not norms(self.parameters).total.isfinite().item():
            raise self._error(f"the weights are not finite after step {step}", gradients)

    def _error(self, what: str, gradients: Norms) -> DivergenceError:
        recipe, kept = self.recipe, self.newest()
        rates = f"learning_rate (now {recipe.learning_rate})"
        if isinstance(recipe, MuonRecipe):
            rates += f", matrix_learning_rate (now {recipe.matrix_learning_rate})"
        where = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint to go back to"
        return DivergenceError(
            f"{what}: lower {rates} or clip (now {recipe.clip}), or lengthen warmup_steps (now {recipe.warmup_steps}). "
            f"Gradients are {gradients}; weights are {norms(self.parameters)}; {where}"
        )
