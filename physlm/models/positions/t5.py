"""T5: a trained score for every head and every bucket of distances, shared by all layers.

- Small distances have a bucket each; from half of the buckets on, buckets grow in proportion to the distance, and
  everything from `max_distance` on shares the last one.
- A bidirectional model has one half of the buckets for earlier keys and one for later ones.
- Only the score is T5's: the query-key product keeps its usual scale.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: Raffel et al. 2020, §2.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    distances,
    look_up,
    register,
)


@register("t5")
@dataclass(frozen=True, kw_only=True)
class T5(PositionConfig):
    """Trained scores for buckets of distances; works at any length, where far distances look alike.

    Attributes:
        buckets: of distances; an even number ≥ 2, in bidirectional models a multiple of 4.
        max_distance: distance in tokens from which on all share the last bucket; more than half of the buckets.
    """

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        if self.buckets < 2 or self.buckets % 2:
            raise ValueError(f"t5 buckets must be an even number ≥ 2, got {self.buckets}")
        if self.max_distance <= self.buckets // 2:
            raise ValueError(
                f"t5 max_distance must be > {self.buckets // 2}, half of the {self.buckets} buckets, "
                f"got {self.max_distance}"
            )

    def build(self, shape: ModelShape) -> T5Encoding:
        """The module for this number of heads."""
        if not shape.causal and self.buckets % 4:
            raise ValueError(
                f"t5 buckets must be a multiple of 4 in a bidirectional model, got {self.buckets}; "
                f"choose {self.buckets + 2}"
            )
        return T5Encoding(shape.heads, self.buckets, self.max_distance, bidirectional=not shape.causal)


class T5Encoding(PositionalEncoding):
    """A table `[heads, buckets]` added to the scores."""

    def __init__(self, heads: int, buckets: int, max_distance: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = nn.Parameter(torch.zeros(heads, buckets))

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """The score of the bucket that each distance is in."""
        behind = distances(query_positions, key_positions)
        found = buckets(behind, self.table.shape[1], self.max_distance, bidirectional=self.bidirectional)
        return look_up(self.table, found)


def buckets(behind: Int[Tensor, "..."], number: int, max_distance: int, *, bidirectional: bool) -> Int[Tensor, "..."]:
    """The bucket of each distance, negative for later keys; without `bidirectional` those are in bucket 0.

    >>> buckets(torch.tensor([0, 15, 16, 127, 1000]), 32, 128, bidirectional=False).tolist()
    [0, 15, 16, 31, 31]
    """
    if bidirectional:
        number //= 2
        side = (behind < 0) * number
        behind = behind.abs()
    else:
        side = 0
        behind = behind.clamp(min=0)
    exact = number // 2
    growth = torch.log(behind.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    coarse = (exact + (growth * (number - exact)).long()).clamp(max=number - 1)
    return side + torch.where(behind < exact, behind, coarse)
