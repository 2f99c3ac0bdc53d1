"""Attention as a plain average over a fixed window of tokens: nothing to train, no queries and no keys.

- Head h, counted from 1, averages a token and the `2^h − 1` before it; what does not exist or is not seen is left out.
- Without `include_self` a token sees itself only if there is nothing else.
- A bidirectional model averages as far on the other side too.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: "GPT_uni" in Physics of Language Models 1.
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
)

LONGEST_WINDOW = 2**31 - 1
"""Where doubling from head to head ends."""

LAST_RESORT = -30_000.0
"""Score of a token for itself that counts only if everything else is hidden; any precision can hold it."""


@register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(PositionConfig):
    """Fixed averages; works at any length.

    Attributes:
        windows: number of previous tokens that each head averages; `2^h − 1` in head h if not given.
        include_self: average the token itself as well.
    """

    replaces_content = True

    windows: tuple[int, ...] | None = None
    include_self: bool = True

    def __post_init__(self) -> None:
        if self.windows is None:
            return
        least = 0 if self.include_self else 1
        if any(window < least for window in self.windows):
            raise ValueError(
                f"uniform windows must be ≥ {least} tokens with include_self={self.include_self}, got {self.windows}"
            )

    def build(self, shape: ModelShape) -> UniformEncoding:
        """The module for this number of heads."""
        windows = self.windows
        if windows is None:
            windows = tuple(min(2**head - 1, LONGEST_WINDOW) for head in range(1, shape.heads + 1))
        if len(windows) != shape.heads:
            raise ValueError(f"uniform windows must be one for each of {shape.heads} heads, got {windows}")
        return UniformEncoding(windows, include_self=self.include_self)


class UniformEncoding(PositionalEncoding):
    """The same score for everything in the window of a head."""

    windows: Tensor
    zero: Tensor

    def __init__(self, windows: tuple[int, ...], *, include_self: bool) -> None:
        super().__init__()
        self.include_self = include_self
        self.register_buffer("windows", torch.tensor(windows), persistent=False)
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """Zero within the window of a head and −∞ beyond."""
        apart = distances(query_positions, key_positions).abs().unsqueeze(-3)
        score = torch.where(apart <= per_head(self.windows), self.zero, -math.inf)
        return score if self.include_self else torch.where(apart == 0, LAST_RESORT, score)
