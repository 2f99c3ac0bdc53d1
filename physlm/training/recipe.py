"""How a model is trained: optimiser, schedule and precision, as data.

- `Recipe` is AdamW; `MuonRecipe` trains the matrices inside the blocks by Muon and all else by AdamW.
- Finished runs are found by the fields of their recipe, so a new way to train is a subclass, never a new field.

Source of the defaults: Physics of Language Models 3.1, App. C and D; Jordan et al. 2024 (Muon).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW, schedule and precision.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak learning rate.
        final_fraction: learning rate at the end, as a fraction of the peak.
        warmup_steps: steps of linear warm-up from zero.
        schedule: shape of the decay after warm-up.
        weight_decay, betas, eps: of AdamW; biases, norms and other vectors are not decayed.
        clip: largest gradient norm.
        precision: "auto" takes bfloat16 matrix products where the hardware has them, else float32;
            weights and optimiser state are float32 in either case.
    """

    optimizer: ClassVar[str] = "adamw"

    steps: int
    learning_rate: float
    final_fraction: float = 0.1
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    clip: float = 1.0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be an integer ≥ 1, got {self.steps}")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps must be in [0, steps = {self.steps}), got {self.warmup_steps}")
        for name in ("learning_rate", "clip", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must be in [0, 1], got {self.final_fraction}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be ≥ 0 and finite, got {self.weight_decay}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {get_args(Schedule)}, got {self.schedule!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {get_args(Precision)}, got {self.precision!r}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the optimiser step number `step`, counted from 0."""
        return self._scheduled(self.learning_rate, step)

    def _scheduled(self, peak: float, step: int) -> float:
        """Value at `step` of a rate with this peak."""
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        remaining = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.schedule]
        final = self.final_fraction if self.schedule != "constant" else 0.0
        return peak * (final + (1 - final) * remaining)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `from_dict` makes an equal recipe."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` described; unknown keys are an error."""
        entry = dict(entry)
        optimizer = entry.pop("optimizer", Recipe.optimizer)
        classes = {kind.optimizer: kind for kind in (Recipe, MuonRecipe)}
        if optimizer not in classes or not issubclass(classes[optimizer], cls):
            allowed = sorted(name for name, kind in classes.items() if issubclass(kind, cls))
            raise ValueError(f"optimizer of a {cls.__name__} must be one of {allowed}, got {optimizer!r}")
        known = {item.name for item in fields(classes[optimizer])}
        if unknown := set(entry) - known:
            raise ValueError(f"recipe has no field {sorted(unknown)}; its fields are {sorted(known)}")
        return classes[optimizer](**{**entry, "betas": tuple(entry["betas"])} if "betas" in entry else entry)


@dataclass(frozen=True, kw_only=True)
class MuonRecipe(Recipe):
    """Muon for the matrices of linear layers inside the blocks, AdamW for embeddings, head, tables and vectors.

    Muon turns the momentum of each matrix into the nearest orthogonal one, by Newton-Schulz iterations. An
    update of an `O × I` matrix is multiplied by `max(1, O / I)^½`.

    Attributes:
        matrix_learning_rate: peak learning rate of Muon, with the same schedule; 0.02 is usual.
        momentum: of Muon.
        nesterov: look ahead by one step of momentum.
        newton_schulz_steps: iterations, in [1, 100).
    """

    optimizer: ClassVar[str] = "muon"

    matrix_learning_rate: float
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.matrix_learning_rate < math.inf:
            raise ValueError(f"matrix_learning_rate must be > 0 and finite, got {self.matrix_learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if not isinstance(self.newton_schulz_steps, int) or not 1 <= self.newton_schulz_steps < 100:
            raise ValueError(f"newton_schulz_steps must be an integer in [1, 100), got {self.newton_schulz_steps}")

    def matrix_learning_rate_at(self, step: int) -> float:
        """Learning rate of Muon at the optimiser step number `step`, counted from 0."""
        return self._scheduled(self.matrix_learning_rate, step)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `Recipe.from_dict` makes an equal recipe."""
        return {"optimizer": self.optimizer, **super().to_dict()}


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Type of the matrix products: what was asked for, or with "auto" what the hardware does fast.

    Raises:
        ValueError: if bfloat16 is asked for on a GPU that lacks it.
    """
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bfloat16" and not capable:
            name = torch.cuda.get_device_name(device)
            raise ValueError(f"precision 'bfloat16' needs a GPU with bfloat16, got {name}; use 'auto' or 'float32'")
    else:
        instructions = torch.cpu.get_capabilities()
        capable = bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))
    return torch.bfloat16 if capable or precision == "bfloat16" else torch.float32
