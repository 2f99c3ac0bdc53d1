"""FIRE: a small network that reads a distance as a share of the text so far, shared by all layers.

- The score of query i and key j is `f(ψ(|i − j|) / ψ(max(L, i, j)))` with `ψ(x) = ln(|c| · x + 1)`, where f has one
  hidden layer with ReLU, and c and the threshold L are trained.
- In a causal model j ≤ i, and this is the paper's formula; j makes a bidirectional model's share at most 1 as well.
- The share depends on where a text is longer than L, so attention is not a function of distances alone.

Shape legend: B batch, T queries, S keys, H heads. `*rows` is nothing, or B where every document has its own positions.
Source: Li et al. 2024; a public implementation (initial values, 1e-6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.positions.base import ModelShape, PositionalEncoding, PositionConfig, distances, per_head, register


@register("fire")
@dataclass(frozen=True, kw_only=True)
class Fire(PositionConfig):
    """A trained function of relative distance; made to work beyond the training context.

    Attributes:
        hidden: hidden units of the network.
        slope: initial c, per token; the larger, the more of the range is spent on near tokens.
        threshold: initial L in tokens; texts shorter than that all share the same scores.
    """

    relative = False

    hidden: int = 32
    slope: float = 0.1
    threshold: float = 512.0

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"fire hidden must be ≥ 1, got {self.hidden}")
        for name in ("slope", "threshold"):
            if getattr(self, name) <= 0:
                raise ValueError(f"fire {name} must be > 0, got {getattr(self, name)}")

    def build(self, shape: ModelShape) -> FireEncoding:
        """The module for this number of heads."""
        return FireEncoding(shape.heads, self)


class FireEncoding(PositionalEncoding):
    """The network, c, and the threshold as a multiple of its initial value."""

    def __init__(self, heads: int, config: Fire) -> None:
        super().__init__()
        self.config = config
        self.slope = nn.Parameter(torch.tensor(config.slope))
        self.threshold = nn.Parameter(torch.tensor(1.0))
        self.up = nn.Parameter(torch.zeros(config.hidden))
        self.up_bias = nn.Parameter(torch.zeros(config.hidden))
        self.down = nn.Parameter(torch.zeros(heads, config.hidden))
        self.down_bias = nn.Parameter(torch.zeros(heads))

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Draw the network uniformly in ±1/√inputs, whatever the other weights do; c and L are in the config."""
        del std
        if name in ("slope", "threshold"):
            parameter.fill_(self.config.slope if name == "slope" else 1.0)
        else:
            bound = 1.0 if name.startswith("up") else self.config.hidden**-0.5
            parameter.uniform_(-bound, bound, generator=generator)

    def score(
        self, query_positions: Int[Tensor, "*rows T"], key_positions: Int[Tensor, "*rows S"]
    ) -> Float[Tensor, "*rows H T S"]:
        """The network's output for every query and key."""
        later = torch.maximum(query_positions[..., :, None], key_positions[..., None, :])
        whole = torch.maximum((self.threshold * self.config.threshold).abs(), later)
        shares = self._stretch(distances(query_positions, key_positions).abs()) / (self._stretch(whole) + 1e-6)
        hidden = torch.relu(shares.unsqueeze(-3) * per_head(self.up) + per_head(self.up_bias))
        return (self.down @ hidden.flatten(-2)).unflatten(-1, shares.shape[-2:]) + per_head(self.down_bias)

    def _stretch(self, lengths: Tensor) -> Tensor:
        return torch.log1p(self.slope.abs() * lengths)
