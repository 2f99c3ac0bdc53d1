"""Rotary positions: queries and keys turned by an angle proportional to their position.

Su et al. 2021 (RoFormer), in the half-split layout of GPT-NeoX and on the first `fraction` of each
head, as in the papers' GPT2-rotary models (Physics of Language Models 3.1, App. B).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physlm.models.positions.base import PositionalEncoding, PositionConfig, register


@register("rotary")
@dataclass(frozen=True, kw_only=True)
class Rotary(PositionConfig):
    """Rotary positions; defined at any length, though untrained beyond the training context.

    Attributes:
        base: wavelength scale; the slowest pair turns once in about `2π · base` tokens.
        fraction: share of each head's width that is turned, in (0, 1].
    """

    base: float = 10_000.0
    fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"rotary base must be > 1, got {self.base}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"rotary fraction must be in (0, 1], got {self.fraction}")

    def build(self, *, width: int, heads: int, head_width: int, context: int) -> RotaryEncoding:
        """The module for heads of this `head_width`."""
        del width, heads
        rotated = int(head_width * self.fraction)
        if rotated < 2 or rotated % 2:
            raise ValueError(
                f"rotary needs an even number ≥ 2 of turned dimensions, got head_width {head_width} × "
                f"fraction {self.fraction} = {head_width * self.fraction:g}; choose fraction = 2k / {head_width}"
            )
        return RotaryEncoding(rotated, self.base, context)


class RotaryEncoding(PositionalEncoding):
    """Turns the pairs `(x[i], x[i + rotated / 2])` of the first `rotated` dimensions of every head."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, rotated: int, base: float, context: int) -> None:
        super().__init__()
        self.rotated = rotated
        self.base = base
        self._set_table(context, torch.device("cpu"))

    def _set_table(self, length: int, device: torch.device) -> None:
        """Precompute cosines and signed sines of all positions below `length`, each `[length, rotated]`."""
        half = torch.arange(0, self.rotated, 2, dtype=torch.float64) / self.rotated
        angles = torch.arange(length, dtype=torch.float64)[:, None] * self.base**-half
        cosines, sines = angles.cos(), angles.sin()
        self.register_buffer("cosines", torch.cat([cosines, cosines], 1).float().to(device), persistent=False)
        self.register_buffer("sines", torch.cat([-sines, sines], 1).float().to(device), persistent=False)

    def reserve(self, length: int) -> None:
        """Grow the table, by doubling, to hold positions below `length`."""
        if length > len(self.cosines):
            self._set_table(2 * length, self.cosines.device)

    def rotate(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Turn `[..., T, D]` by the angles of `positions`, `[T]`, which `reserve` has made room for."""
        cosines, sines = self.cosines[positions].to(vectors.dtype), self.sines[positions].to(vectors.dtype)
        turned, kept = vectors[..., : self.rotated], vectors[..., self.rotated :]
        swapped = turned.roll(self.rotated // 2, dims=-1)
        turned = torch.addcmul(turned * cosines, swapped, sines)
        return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned
