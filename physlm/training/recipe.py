"""How a model is trained: optimiser, schedule and precision, as data.

Source of the defaults: Physics of Language Models 3.1, App. C and D.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and precision.

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
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        remaining = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.schedule]
        final = self.final_fraction if self.schedule != "constant" else 0.0
        return self.learning_rate * (final + (1 - final) * remaining)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `from_dict` makes an equal recipe."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` described; unknown keys are an error."""
        known = {item.name for item in fields(cls)}
        if unknown := set(entry) - known:
            raise ValueError(f"recipe has no field {sorted(unknown)}; its fields are {sorted(known)}")
        return cls(**{**entry, "betas": tuple(entry["betas"])} if "betas" in entry else entry)


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
