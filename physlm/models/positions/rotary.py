"""Rotary positions: queries and keys turned by an angle proportional to their position.

- The first `fraction` of the dimensions of the first `head_fraction` of the heads are turned, the others are not.
- Of `r` turned dimensions, layout "half" turns the pairs (m, m + r/2), as GPT-NeoX, Llama and the papers' GPT2-rotary
  models do, and "interleaved" the pairs (2m, 2m + 1), as GPT-J does; a model trained with one cannot be read with the
  other, unless its dimensions are put in the other order.
- Part 4.1's half-half is `Rotary(fraction=0.5, head_fraction=0.5)`, its quarter-heads is
  `Rotary(fraction=1.0, head_fraction=0.25)` and its quarter-dims is the default.

Shape legend: B batch, H heads, T tokens, D head width.
Source: Su et al. 2021 (RoFormer); Physics of Language Models 3.1, App. B, and 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    register,
    share_of_heads,
)

Layout = Literal["half", "interleaved"]


@register("rotary")
@dataclass(frozen=True, kw_only=True)
class Rotary(PositionConfig):
    """Rotary positions; defined at any length, though untrained beyond the training context.

    Attributes:
        base: wavelength scale; the slowest pair turns once in about `2π · base` tokens.
        fraction: share of each head's width that is turned, in (0, 1].
        layout: which dimensions are pairs.
        head_fraction: share of the heads that are turned, in (0, 1]; with groups of query heads that share a key, the
            same share of both.
    """

    base: float = 10_000.0
    fraction: float = 0.25
    layout: Layout = "half"
    head_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"rotary base must be > 1, got {self.base}")
        for name in ("fraction", "head_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"rotary {name} must be in (0, 1], got {getattr(self, name)}; use position 'none' for no rotation"
                )
        if self.layout not in get_args(Layout):
            raise ValueError(f"rotary layout must be one of {', '.join(get_args(Layout))}, got {self.layout!r}")

    def build(self, shape: ModelShape) -> RotaryEncoding:
        """The module for heads of this width."""
        rotated = round(shape.head_width * self.fraction)
        is_whole = abs(rotated - shape.head_width * self.fraction) < 1e-6
        if not is_whole or rotated < 2 or rotated % 2:
            raise ValueError(
                f"rotary needs an even number ≥ 2 of turned dimensions, got head_width {shape.head_width} × "
                f"fraction {self.fraction} = {shape.head_width * self.fraction:g}; "
                f"choose fraction = 2k / {shape.head_width}"
            )
        share_of_heads("rotary head_fraction", self.head_fraction, shape.heads)
        return RotaryEncoding(rotated, self, shape.context)


class RotaryEncoding(PositionalEncoding):
    """Turns pairs among the first `rotated` dimensions of heads."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, rotated: int, config: Rotary, context: int) -> None:
        super().__init__()
        self.rotated = rotated
        self.config = config
        self._set_table(context, torch.device("cpu"))

    def _set_table(self, length: int, device: torch.device) -> None:
        """Precompute cosines and signed sines of all positions below `length`, each `[length, rotated]`.

        In float32 throughout, as everybody does: other programs that read our weights then turn by the same angles.
        """
        half = torch.arange(0, self.rotated, 2).float() / self.rotated
        angles = torch.arange(length).float()[:, None] * (1.0 / self.config.base**half)
        # The last axis becomes the two of a pair, or the one before it, and both are laid out in their order.
        axis = 1 if self.config.layout == "half" else 2
        cosines = torch.stack([angles.cos(), angles.cos()], axis).flatten(1)
        sines = torch.stack([-angles.sin(), angles.sin()], axis).flatten(1)
        self.register_buffer("cosines", cosines.to(device), persistent=False)
        self.register_buffer("sines", sines.to(device), persistent=False)

    def reserve(self, length: int) -> None:
        """Grow the table, by doubling, to hold positions below `length`."""
        if length > len(self.cosines):
            self._set_table(2 * length, self.cosines.device)

    def rotate(
        self, vectors: Float[Tensor, "... heads T D"], positions: Int[Tensor, "*rows T"]
    ) -> Float[Tensor, "... heads T D"]:
        """Turn vectors by the angles of their positions, which `reserve` has made room for."""
        if self.config.head_fraction == 1:
            return self._turn(vectors, positions)
        heads = vectors.shape[-3]
        turned = share_of_heads("rotary head_fraction", self.config.head_fraction, heads)
        turned, kept = vectors.split([turned, heads - turned], dim=-3)
        return torch.cat([self._turn(turned, positions), kept], dim=-3)

    def _turn(self, vectors: Tensor, positions: Tensor) -> Tensor:
        cosines, sines = self.cosines[positions].to(vectors.dtype), self.sines[positions].to(vectors.dtype)
        if positions.ndim > 1:
            cosines, sines = cosines.unsqueeze(-3), sines.unsqueeze(-3)
        turned, kept = vectors[..., : self.rotated], vectors[..., self.rotated :]
        if self.config.layout == "half":
            swapped = turned.roll(self.rotated // 2, dims=-1)
        else:
            swapped = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        turned = torch.addcmul(turned * cosines, swapped, sines)
        return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned
