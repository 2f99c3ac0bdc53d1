"""KERPLE: a penalty on distance whose shape every head learns, shared by all layers.

- "logarithmic" is `−r₁ · ln(1 + r₂ · δ)` and "power" is `−r₁ · δ^r₂`, at distance δ, on both sides in a bidirectional
  model.
- What is trained are unbounded numbers: softplus makes the positive `r₁` and `r₂` of them, and `2 · sigmoid` the
  exponent, below 2. The reference clamps `r₁` and `r₂` themselves instead, from which they begin equally.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: Chi et al. 2022, and its reference implementation (initial values).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    distances,
    per_head,
    register,
)

Kind = Literal["logarithmic", "power"]

SMALLEST = 0.01
"""Smallest initial `r₁` and `r₂`."""


@register("kerple")
@dataclass(frozen=True, kw_only=True)
class Kerple(PositionConfig):
    """Trained penalties on distance; made to work beyond the training context.

    Attributes:
        kind: how the penalty grows with the distance.
    """

    kind: Kind = "logarithmic"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kerple kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")

    def build(self, shape: ModelShape) -> KerpleEncoding:
        """The module for this number of heads."""
        return KerpleEncoding(shape.heads, self.kind)


class KerpleEncoding(PositionalEncoding):
    """Two numbers for every head, before softplus and sigmoid."""

    def __init__(self, heads: int, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.strength = nn.Parameter(torch.zeros(heads))
        self.growth = nn.Parameter(torch.zeros(heads))

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Draw what multiplies the distance from [0, 1] and the other number from [0, 2], as the reference does."""
        del std
        inner = "growth" if self.kind == "logarithmic" else "strength"
        values = torch.rand(parameter.shape, generator=generator) * (1 if name == inner else 2)
        values = values.clamp(min=SMALLEST, max=2 - SMALLEST)
        is_exponent = self.kind == "power" and name == "growth"
        parameter.copy_((values / 2).logit() if is_exponent else values.expm1().log())

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """The penalty of every head for every query and key."""
        apart = distances(query_positions, key_positions).abs().unsqueeze(-3).to(self.strength.dtype)
        strength = per_head(F.softplus(self.strength))
        if self.kind == "logarithmic":
            return -strength * torch.log1p(per_head(F.softplus(self.growth)) * apart)
        return -strength * apart.pow(per_head(2 * self.growth.sigmoid()))
