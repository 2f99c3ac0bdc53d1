"""Learned absolute positions: one trained vector per position, added to the embedding.

Shape legend: B batch, T tokens, W model width.
Source: Radford et al. 2019 (GPT-2); "GPT" in Physics of Language Models 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import ModelShape, PositionalEncoding, PositionConfig, register


@register("learned")
@dataclass(frozen=True, kw_only=True)
class Learned(PositionConfig):
    """Learned absolute positions; defined up to the trained context and an error beyond it."""

    relative = False
    beyond_context = "error"

    def build(self, shape: ModelShape) -> LearnedEncoding:
        """The module for a model of this width and context."""
        return LearnedEncoding(shape.width, shape.context)


class LearnedEncoding(PositionalEncoding):
    """A table `[context, width]` added to the embeddings."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(context, width))

    def reserve(self, length: int) -> None:
        """Check that positions below `length` are in the table."""
        if length > len(self.table):
            raise ValueError(
                f"learned positions are defined for {len(self.table)} tokens, got {length}; "
                "train with a longer context or use rotary positions"
            )

    def embed(self, residual: Float[Tensor, "... W"], positions: Int[Tensor, "..."]) -> Float[Tensor, "... W"]:
        """Add the vector of each position to the embeddings, `[B, T, W]`."""
        return residual + self.table[positions]
