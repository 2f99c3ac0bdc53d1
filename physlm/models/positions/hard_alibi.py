"""Hard ALiBi: local heads that see only their nearest tokens, beside heads without positions.

Head h, counted from 1, sees the h nearest tokens, itself among them, so head 1 sees only itself; this holds for the
first `fraction` of the heads, and the others see everything. In a bidirectional model "nearest" is counted on
each side.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: Jelassi et al. 2024 (Hard-ALiBi); "H-Alibi" in Physics of Language Models 4.1.
"""

from __future__ import annotations

import math
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
    share_of_heads,
)


@register("hard_alibi")
@dataclass(frozen=True, kw_only=True)
class HardAlibi(PositionConfig):
    """Fixed windows in some of the heads; works at any length.

    Attributes:
        fraction: share of the heads that are local, in (0, 1]; with 1 nothing beyond the nearest tokens is ever seen.
    """

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"hard_alibi fraction must be in (0, 1], got {self.fraction}; use position 'none' for no local heads"
            )

    def build(self, shape: ModelShape) -> HardAlibiEncoding:
        """The module for this number of heads."""
        return HardAlibiEncoding(shape.heads, share_of_heads("hard_alibi fraction", self.fraction, shape.heads))


class HardAlibiEncoding(PositionalEncoding):
    """Hides from every local head what is out of its window."""

    windows: Tensor

    def __init__(self, heads: int, local_heads: int) -> None:
        super().__init__()
        windows = [head if head <= local_heads else math.inf for head in range(1, heads + 1)]
        self.register_buffer("windows", torch.tensor(windows), persistent=False)

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """Zero within the window of a head and −∞ beyond; a token itself is always within."""
        beyond = distances(query_positions, key_positions).abs().unsqueeze(-3) >= per_head(self.windows)
        return torch.zeros_like(beyond, dtype=self.windows.dtype).masked_fill(beyond, -math.inf)
