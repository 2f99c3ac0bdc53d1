"""Transformer-XL: fixed sinusoids of the distance as keys, and trained preferences for content and for distances.

- The score of query i and key j at distance δ = i − j is `(q_i·k_j + q_i·R̂_δ + u·k_j + v·R̂_δ) / √D`, with
  `R̂_δ = W_R R_δ` and sinusoids R. Each layer has W_R, u and v of its own.
- In a bidirectional model δ is negative for later keys, which the sines tell apart.
- Products with all distances are made first and then picked from, so no tensor has T · S · D numbers.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width, R distances in reach. `*rows` is
nothing, or B where every document has its own positions.
Source: Dai et al. 2019, §3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import ModelShape, PositionalEncoding, PositionConfig, distances, register
from physlm.models.positions.sinusoidal import sinusoids


@register("transformer_xl")
@dataclass(frozen=True, kw_only=True)
class TransformerXL(PositionConfig):
    """Relative attention to sinusoids; defined at any length, though untrained beyond the training context.

    Attributes:
        base: wavelength scale of the sinusoids; the slowest turn once in about `2π · base` tokens.
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"transformer_xl base must be > 1, got {self.base}")

    def build(self, shape: ModelShape) -> TransformerXLEncoding:
        """The module for a model of this shape."""
        if shape.width % 2:
            raise ValueError(f"transformer_xl needs an even width, got {shape.width}; make it {shape.width + 1}")
        return TransformerXLEncoding(shape, self.base)


class TransformerXLEncoding(PositionalEncoding):
    """W_R, `[layers, H · D, W]`, and u and v, each `[layers, H, D]`; sinusoids are made when they are needed."""

    sinusoids: Tensor

    def __init__(self, shape: ModelShape, base: float) -> None:
        super().__init__()
        self.causal = shape.causal
        self.base = base
        self.length = shape.context
        self.projection = nn.Parameter(torch.zeros(shape.layers, shape.heads * shape.head_width, shape.width))
        self.content_bias = nn.Parameter(torch.zeros(shape.layers, shape.heads, shape.head_width))
        self.distance_bias = nn.Parameter(torch.zeros(shape.layers, shape.heads, shape.head_width))
        self._set_table(shape.context, torch.zeros(()))

    def _set_table(self, length: int, like: Tensor) -> None:
        """Sinusoids of all distances from `1 − length` to `length − 1`, in this order."""
        # It may grow while nobody wants gradients, and be needed where somebody does.
        with torch.inference_mode(False):
            table = sinusoids(torch.arange(1 - length, length), self.projection.shape[-1], self.base)
            self.register_buffer("sinusoids", table.to(like.device, like.dtype), persistent=False)

    def reserve(self, length: int) -> None:
        """Remember how far apart two tokens can be, and grow the table, by doubling, to hold all such distances."""
        self.length = length
        if 2 * length - 1 > len(self.sinusoids):
            self._set_table(2 * length, self.sinusoids)

    def layer_score(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"] | None,
        keys: Float[Tensor, "B H S D"] | None,
        query_positions: Int[Tensor, "*rows T"],
        key_positions: Int[Tensor, "*rows S"],
    ) -> Float[Tensor, "B H T S"]:
        """What queries and the layer itself say of distances, and the layer of keys."""
        assert queries is not None
        assert keys is not None
        behind = distances(query_positions, key_positions)
        zero, before = len(self.sinusoids) // 2, 0 if self.causal else self.length - 1
        table = self.sinusoids[zero - before : zero + self.length]
        rows = behind.clamp(min=0) if self.causal else behind + before
        rows = rows.unsqueeze(-3).expand(*queries.shape[:3], keys.shape[2])
        heads, width = self.content_bias.shape[1:]
        scale = self.content_scale(width)
        weight = self.projection[layer]
        projected = rearrange(table.to(weight.dtype) @ weight.mT, "R (H D) -> H R D", H=heads) * scale
        of_distances = ((queries + self.distance_bias[layer, :, None]) @ projected.mT).gather(-1, rows)
        return of_distances + (self.content_bias[layer, :, None] * scale) @ keys.mT
