"""ALiBi: a penalty that grows with the distance, by a slope of its own in every head.

Head h of H, counted from 1, has slope `2^(−8h/H)`: the first head is the most local. In a bidirectional model it is the
same on both sides.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: Press et al. 2022; Physics of Language Models 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    distances,
    per_head,
    register,
)


@register("alibi")
@dataclass(frozen=True, kw_only=True)
class Alibi(PositionConfig):
    """Linear penalties on distance; made to work beyond the training context."""

    def build(self, shape: ModelShape) -> AlibiEncoding:
        """The module for this number of heads."""
        return AlibiEncoding(shape.heads)


class AlibiEncoding(PositionalEncoding):
    """Adds `−slope · distance` to the scores of each head."""

    slopes: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        slopes = torch.tensor([2.0 ** (-8 * head / heads) for head in range(1, heads + 1)])
        self.register_buffer("slopes", slopes, persistent=False)

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """The penalty of every head for every query and key."""
        return -per_head(self.slopes) * distances(query_positions, key_positions).abs().unsqueeze(-3)
