"""Learned absolute positions: one trained vector per position, added to the embedding (GPT-2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physlm.models.positions.base import PositionalEncoding, PositionConfig, register


@register("learned")
@dataclass(frozen=True, kw_only=True)
class Learned(PositionConfig):
    """Learned absolute positions; defined up to the trained context and an error beyond it."""

    def build(self, *, width: int, heads: int, head_width: int, context: int) -> LearnedEncoding:
        """The module for a model of this `width` and `context`."""
        del heads, head_width
        return LearnedEncoding(width, context)


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

    def embed(self, residual: Tensor, positions: Tensor) -> Tensor:
        """Add the vector of each position, `[T, W]`, to the embeddings, `[B, T, W]`."""
        return residual + self.table[positions]
