"""Sinusoidal absolute positions: fixed sines and cosines of many wavelengths, added to the embedding.

- Channels 2m and 2m + 1 at position t are `sin(t / base^(2m/W))` and the cosine of the same angle.
- Their root mean square is 0.7, while embeddings start at the model's `initial_std`; `scale` sets the ratio of the two.

Shape legend: B batch, T tokens, W model width.
Source: Vaswani et al. 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physlm.models.positions.base import ModelShape, PositionalEncoding, PositionConfig, register


@register("sinusoidal")
@dataclass(frozen=True, kw_only=True)
class Sinusoidal(PositionConfig):
    """Sinusoidal absolute positions; defined at any length, though untrained beyond the training context.

    Attributes:
        base: wavelength scale; the slowest channels turn once in about `2π · base` tokens.
        scale: factor on sines and cosines. With embeddings that start at a standard deviation of 0.02, the ratio of
            Vaswani et al. (who scale embeddings up instead) is 0.02.
    """

    relative = False

    base: float = 10_000.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"sinusoidal base must be > 1, got {self.base}")
        if self.scale <= 0:
            raise ValueError(f"sinusoidal scale must be > 0, got {self.scale}; use position 'none' for no positions")

    def build(self, shape: ModelShape) -> SinusoidalEncoding:
        """The module for a model of this width."""
        if shape.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, got {shape.width}; make it {shape.width + 1}")
        return SinusoidalEncoding(shape.width, shape.context, self.base, self.scale)


class SinusoidalEncoding(PositionalEncoding):
    """A fixed table added to the embeddings, grown when it is needed."""

    table: Tensor

    def __init__(self, width: int, context: int, base: float, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        table = sinusoids(torch.arange(context), width, base) * scale
        self.register_buffer("table", table.float(), persistent=False)

    def reserve(self, length: int) -> None:
        """Grow the table, by doubling, to hold positions below `length`."""
        if length > len(self.table):
            table = sinusoids(torch.arange(2 * length), self.table.shape[1], self.base) * self.scale
            self.table = table.to(self.table)

    def embed(self, residual: Float[Tensor, "... W"], positions: Int[Tensor, "..."]) -> Float[Tensor, "... W"]:
        """Add the vector of each position to the embeddings, `[B, T, W]`."""
        return residual + self.table[positions].to(residual.dtype)


def sinusoids(positions: Int[Tensor, " T"], width: int, base: float) -> Float[Tensor, "T {width}"]:
    """Sines in the even channels and cosines in the odd ones, in double precision; for an even `width`."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    angles = positions.to(torch.float64)[:, None] * base**-exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
