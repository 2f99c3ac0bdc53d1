"""DeBERTa's disentangled attention: content looks at distances, and distances look at content.

- The score of query i and key j at distance δ = i − j is `(q_i·k_j + q_i·K̂_δ + Q̂_δ·k_j) / √(3D)`, with
  `K̂_δ = W_K P_δ` and `Q̂_δ = W_Q P_δ`. The table P is shared by all layers; each layer has a W_K and W_Q of its own.
- Both terms pick the row of δ(i, j), query minus key. Eq. 4 of the paper has δ(j, i) in the position-to-content term;
  the authors' code picks δ(i, j) there as well, as does `transformers`, beside which this is tested. Nor has a causal
  model any rows for δ(j, i), which is never positive.
- With one of the two terms only, 3 becomes 2.
- A causal model has rows for δ = 0 to `distances` − 1, a bidirectional one for −`distances` to `distances` − 1; what is
  further away shares the last row.
- Products with all rows are made first and then picked from, so no tensor has T · S · D numbers.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width, R rows of P in reach. `*rows` is
nothing, or B where every document has its own positions.
Source: He et al. 2021, eq. 4; "GPT_rel" in Physics of Language Models 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    are_consecutive,
    by_distance,
    distances,
    register,
)


@register("deberta")
@dataclass(frozen=True, kw_only=True)
class Deberta(PositionConfig):
    """Disentangled relative attention; works at any length, where far distances look alike.

    Attributes:
        distances: how many are told apart, on each side in a bidirectional model.
        content_to_position: whether queries look at distances.
        position_to_content: whether distances look at keys.
    """

    distances: int = 512
    content_to_position: bool = True
    position_to_content: bool = True

    def __post_init__(self) -> None:
        if self.distances < 1:
            raise ValueError(f"deberta distances must be ≥ 1, got {self.distances}")
        if not (self.content_to_position or self.position_to_content):
            raise ValueError(
                "deberta needs content_to_position or position_to_content, got neither; use position 'none' instead"
            )

    def build(self, shape: ModelShape) -> DebertaEncoding:
        """The module for a model of this shape."""
        return DebertaEncoding(shape, self)


class DebertaEncoding(PositionalEncoding):
    """The table of distances, `[rows, W]`, and the projections of every layer, `[layers, H · D, W]`."""

    def __init__(self, shape: ModelShape, config: Deberta) -> None:
        super().__init__()
        self.config = config
        self.causal = shape.causal
        self.heads = shape.heads
        self.length = shape.context
        projections = (shape.layers, shape.heads * shape.head_width, shape.width)
        self.table = nn.Parameter(torch.zeros(config.distances * (1 if shape.causal else 2), shape.width))
        self.key_projection = nn.Parameter(torch.zeros(projections)) if config.content_to_position else None
        self.query_projection = nn.Parameter(torch.zeros(projections)) if config.position_to_content else None

    def reserve(self, length: int) -> None:
        """Remember how far apart two tokens can be, for only these rows are needed."""
        self.length = length

    def content_scale(self, head_width: int) -> float:
        """As many terms as there are share the variance."""
        terms = 1 + self.config.content_to_position + self.config.position_to_content
        return (terms * head_width) ** -0.5

    def layer_score(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"] | None,
        keys: Float[Tensor, "B H S D"] | None,
        query_positions: Int[Tensor, "*rows T"],
        key_positions: Int[Tensor, "*rows S"],
    ) -> Float[Tensor, "B H T S"]:
        """What content and distances say of each other in this layer."""
        assert queries is not None
        assert keys is not None
        if are_consecutive(query_positions, key_positions):
            return self._consecutive_score(layer, queries, keys)
        most = self.config.distances
        reach = min(most, self.length)
        behind = distances(query_positions, key_positions)
        if self.causal:
            table, rows = self.table[:reach], behind.clamp(0, most - 1)
        else:
            table, rows = self.table[most - reach : most + reach], behind.clamp(-most, most - 1) + reach
        rows = rows.unsqueeze(-3).expand(*queries.shape[:3], keys.shape[2])
        terms = []
        if self.key_projection is not None:
            terms.append((queries @ self._project(self.key_projection[layer], table).mT).gather(-1, rows))
        if self.query_projection is not None:
            terms.append((self._project(self.query_projection[layer], table) @ keys.mT).gather(-2, rows))
        return sum(terms[1:], start=terms[0])

    def _consecutive_score(
        self, layer: int, queries: Float[Tensor, "B H T D"], keys: Float[Tensor, "B H T D"]
    ) -> Float[Tensor, "B H T T"]:
        """The same for one token after another, where rows of products only need to be moved."""
        most, length = self.config.distances, queries.shape[2]
        first = 0 if self.causal else 1 - length
        behind = torch.arange(first, length, device=queries.device)
        table = self.table[behind.clamp(max=most - 1) if self.causal else behind.clamp(-most, most - 1) + most]
        terms = []
        if self.key_projection is not None:
            projected = self._project(self.key_projection[layer], table.flip(0))
            terms.append(by_distance(queries @ projected.mT))
        if self.query_projection is not None:
            projected = self._project(self.query_projection[layer], table)
            terms.append(by_distance(keys @ projected.mT, upper=self.causal).mT)
        return sum(terms[1:], start=terms[0])

    def _project(self, weight: Float[Tensor, "HD W"], table: Float[Tensor, "R W"]) -> Float[Tensor, "H R D"]:
        """The rows of the table for each head, already scaled."""
        projected = rearrange(table @ weight.mT, "R (H D) -> H R D", H=self.heads)
        return projected * self.content_scale(projected.shape[-1])
