"""Normalisation of the residual stream, by name in the config."""

from __future__ import annotations

from torch import nn

from physlm.models.config import TransformerConfig


def build_norm(config: TransformerConfig, width: int) -> nn.LayerNorm | nn.RMSNorm:
    """LayerNorm or RMSNorm over `width` features, its gains one and its biases zero."""
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.biases)
