"""The optimisers of a run as one: fused AdamW, and for a `MuonRecipe` Muon beside it.

- Matrices decay, vectors (biases, norms) do not.
- Their state is saved by the names of the parameters, in whole tensors, whichever optimiser and process holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from physlm.models.experts import MixtureOfExperts
from physlm.models.transformer import Transformer
from physlm.training.checkpoints import CheckpointError
from physlm.training.muon import Muon
from physlm.training.recipe import MuonRecipe, Recipe, choose_precision
from physlm.training.sharding import part_like, whole

_ADAMW_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_MUON_MOMENTS = ("momentum_buffer",)


def hidden_matrices(model: Transformer) -> set[str]:
    """Names of the weights of linear layers, and of stacks of them, inside the blocks."""
    names: set[str] = set()
    for path, module in model.blocks.named_modules(prefix="blocks"):
        if isinstance(module, nn.Linear):
            names.add(f"{path}.weight")
        elif isinstance(module, MixtureOfExperts):
            names |= {f"{path}.{name}" for name in ("up", "gate", "down")}
    return names


class Optimizers:
    """One optimiser for all that is trained.

    Args:
        parameters: what is trained, by name.
        recipe: rates, decay, and which optimiser.
        matrices: names of what Muon trains, if the recipe has it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], recipe: Recipe, matrices: Collection[str] = ()) -> None:
        self.recipe = recipe
        self.muon: Muon | None = None
        self.adamw: torch.optim.AdamW | None = None
        orthogonal: dict[str, nn.Parameter] = {}
        if isinstance(recipe, MuonRecipe):
            orthogonal = {name: parameter for name, parameter in parameters.items() if name in matrices}
        others = {name: parameter for name, parameter in parameters.items() if name not in orthogonal}
        vectors = {name: parameter for name, parameter in others.items() if parameter.ndim < 2 or name.endswith("bias")}
        decayed = {name: parameter for name, parameter in others.items() if name not in vectors}
        self.parameters = {**orthogonal, **decayed, **vectors}
        self._moments = {name: _MUON_MOMENTS if name in orthogonal else _ADAMW_MOMENTS for name in self.parameters}
        groups = [
            {"params": [*group.values()], "weight_decay": decay}
            for group, decay in ((decayed, recipe.weight_decay), (vectors, 0.0))
            if group
        ]
        if groups:
            self.adamw = torch.optim.AdamW(
                groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True
            )
        if orthogonal and isinstance(recipe, MuonRecipe):
            device = next(iter(orthogonal.values())).device
            self.muon = Muon(
                orthogonal.values(),
                lr=recipe.matrix_learning_rate,
                weight_decay=recipe.weight_decay,
                momentum=recipe.momentum,
                nesterov=recipe.nesterov,
                newton_schulz_steps=recipe.newton_schulz_steps,
                precision=choose_precision(recipe.precision, device),
            )

    def step(self, number: int, *, bad: Tensor | None = None) -> float:
        """Update all parameters from their gradients.

        Args:
            number: of this step, counted from 0; the schedule's rates are those of it.
            bad: one, as float32, where nothing is to change; looked at on the device.

        Returns:
            The learning rate of AdamW.
        """
        rate = self.recipe.learning_rate_at(number)
        if self.adamw is not None:
            _update(self.adamw, rate, bad)
        if self.muon is not None and isinstance(self.recipe, MuonRecipe):
            _update(self.muon, self.recipe.matrix_learning_rate_at(number), bad)
        return rate

    def forget_gradients(self) -> None:
        """Set all gradients to none."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The moments of every parameter that has had a gradient; of several processes, all must ask for it."""
        for name, parameter in self.parameters.items():
            for moment, tensor in self._holder(name).state.get(parameter, {}).items():
                yield f"{name}.{moment}", whole(tensor)

    def check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Refuse what `state` did not give of optimisers like these.

        Raises:
            CheckpointError: naming `path`.
        """
        unknown = set(tensors)
        for name, parameter in self.parameters.items():
            shapes = {f"{name}.{moment}": _shape(moment, parameter) for moment in self._moments[name]}
            found = {key: tuple(tensors[key].shape) for key in shapes if key in tensors}
            if found and found != shapes:
                raise CheckpointError(f"{path} does not fit the parameter {name} of shape {tuple(parameter.shape)}")
            unknown -= set(shapes)
        if unknown:
            raise CheckpointError(f"{path} does not fit the model, which does not train {min(unknown)}")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, parameter in self.parameters.items():
            state: dict[str, Tensor] = {}
            for moment in self._moments[name]:
                if f"{name}.{moment}" in tensors:
                    tensor = tensors[f"{name}.{moment}"].to(parameter.device, copy=True)
                    state[moment] = tensor if moment == "step" else part_like(parameter, tensor)
            if state:
                self._holder(name).state[parameter] = state

    def _holder(self, name: str) -> torch.optim.Optimizer:
        holder = self.muon if self._moments[name] is _MUON_MOMENTS else self.adamw
        assert holder is not None
        return holder


def _shape(moment: str, parameter: nn.Parameter) -> tuple[int, ...]:
    return () if moment == "step" else tuple(parameter.shape)


def _update(optimizer: torch.optim.AdamW | Muon, rate: float, bad: Tensor | None) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    if bad is not None:
        # Where the fused optimisers of PyTorch look on behalf of its gradient scaler.
        optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
