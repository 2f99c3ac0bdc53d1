"""The MLP of a block: two linear layers, or three if gated, with an activation between.

Source: Physics of Language Models 3.3, §2 (GPT-2 and LLaMA MLPs, quarter width); 4.1, §3 (where Canon-D sits).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physlm.models.activations import ACTIVATIONS, Activation
from physlm.models.capture import Capture
from physlm.models.config import TransformerConfig
from physlm.models.linear import Linear, linear


class MLP(nn.Module):
    """`down(activation(up(x)))`, or gated `down(activation(gate(x)) · up(x))`."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.activation: Activation = config.activation
        self.pre, self.post = f"block.{layer}.mlp_pre", f"block.{layer}.mlp_post"
        self.gate = Linear(config.width, config.mlp_width, bias=config.biases) if config.gated else None
        self.up = Linear(config.width, config.mlp_width, bias=config.biases)
        self.down = Linear(config.mlp_width, config.width, bias=config.biases, initial_scale=residual_scale(config))

    def forward(
        self,
        residual: Float[Tensor, "... W"],
        capture: Capture | None = None,
        convolve: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "... W"]:
        """Transform each position on its own.

        Args:
            residual: the input.
            capture: collects hidden units.
            convolve: Canon-D, applied to the hidden units before the activation.
        """
        capture = capture or Capture()
        if self.gate is None and convolve is None and not capture.wants(self.pre):
            hidden = linear(residual, self.up.weight, self.up.bias, self.activation)
        else:
            hidden = self._hidden(residual, capture, convolve)
        return self.down(capture(self.post, hidden))

    def _hidden(
        self, residual: Tensor, capture: Capture, convolve: Callable[[Tensor], Tensor] | None
    ) -> Float[Tensor, "... M"]:
        """Hidden units, step by step."""
        projected = self.up(residual) if self.gate is None else torch.cat([self.gate(residual), self.up(residual)], -1)
        if convolve is not None:
            projected = convolve(projected)
        pre, factor = projected.chunk(2, dim=-1) if self.gate is not None else (projected, None)
        hidden = ACTIVATIONS[self.activation](capture(self.pre, pre))
        return hidden if factor is None else hidden * factor


def residual_scale(config: TransformerConfig) -> float:
    """Factor on the initial weights of what is added to the residual stream."""
    return (2 * config.layers) ** -0.5 if config.scale_by_depth else 1.0
