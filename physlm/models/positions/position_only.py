"""Attention by position alone: a trained score for every layer, head and distance, in the place of content.

- Values and output projection are as ever; queries and keys do not exist.
- A bidirectional model has a score for either side: column `context − 1` is distance 0, and later keys come before it.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: "GPT_pos" in Physics of Language Models 1.
"""

from __future__ import annotations

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


@register("position_only")
@dataclass(frozen=True, kw_only=True)
class PositionOnly(PositionConfig):
    """Attention that no token can change; defined up to the trained context and an error beyond it.

    Attributes:
        gain: factor between the table and the scores. AdamW moves every number by about its learning rate, and scores
            must come to differ by several units; with a gain they do so in as many times fewer steps.
    """

    beyond_context = "error"
    replaces_content = True

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gain < float("inf"):
            raise ValueError(f"position_only gain must be > 0 and finite, got {self.gain}")

    def build(self, shape: ModelShape) -> PositionOnlyEncoding:
        """The module for this number of layers and heads, and this context."""
        return PositionOnlyEncoding(shape, self.gain)


class PositionOnlyEncoding(PositionalEncoding):
    """A table `[layers, heads, context]`, or with both sides `[layers, heads, 2 · context − 1]`."""

    def __init__(self, shape: ModelShape, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.context = shape.context
        self.causal = shape.causal
        columns = shape.context if shape.causal else 2 * shape.context - 1
        self.table = nn.Parameter(torch.zeros(shape.layers, shape.heads, columns))

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Begin with equal attention to everything that is seen."""
        del name, generator, std
        parameter.zero_()

    def reserve(self, length: int) -> None:
        """Check that distances below `length` are in the table."""
        if length > self.context:
            raise ValueError(
                f"position_only scores are defined for {self.context} tokens, got {length}; "
                "train with a longer context or use uniform positions"
            )

    def layer_score(
        self,
        layer: int,
        queries: Tensor | None,
        keys: Tensor | None,
        query_positions: Int[Tensor, "*rows T"],
        key_positions: Int[Tensor, "*rows S"],
    ) -> Float[Tensor, "*rows H T S"]:
        """The score of every distance in this layer."""
        del queries, keys
        behind = distances(query_positions, key_positions)
        columns = behind.clamp(min=0) if self.causal else behind + self.context - 1
        return look_up(self.table[layer] * self.gain, columns)
