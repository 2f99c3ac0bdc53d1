"""No positions at all (NoPE): a causal model can tell the order from the mask alone, a bidirectional one cannot."""

from __future__ import annotations

from dataclasses import dataclass

from physlm.models.positions.base import ModelShape, PositionalEncoding, PositionConfig, register


@register("none")
@dataclass(frozen=True, kw_only=True)
class NoPosition(PositionConfig):
    """No positional encoding; works at any length."""

    def build(self, shape: ModelShape) -> PositionalEncoding:
        """The encoding that changes nothing."""
        del shape
        return PositionalEncoding()
