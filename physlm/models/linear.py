"""Linear layers, by oneDNN where only answers are wanted.

- With gradients, under autocast, on accelerators and for few rows this is `F.linear`, to the last bit.
- PyTorch hands float32 products on a CPU to MKL, which on many processors takes two to three times as long as the
  oneDNN that comes with PyTorch as well. Its operator has no public name, so it is used where this PyTorch has it and
  no gradient can be asked for: in inference mode. The results differ by rounding only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_ROWS = 64
"""Fewer rows than this are not worth oneDNN's preparations."""

_OPERATOR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`inputs · weightᵀ + bias`, then, with `gelu`, a tanh-approximated GELU.

    Args:
        inputs: `[..., I]`.
        weight: `[O, I]`.
        bias: `[O]`, or none.
        gelu: apply the GELU.

    Returns:
        `[..., O]`.
    """
    if _OPERATOR is not None and _only_read(inputs, weight):
        return _OPERATOR(inputs, weight, bias, "gelu" if gelu else "none", [], "tanh" if gelu else "")
    outputs = F.linear(inputs, weight, bias)
    return F.gelu(outputs, approximate="tanh") if gelu else outputs


def _only_read(inputs: Tensor, weight: Tensor) -> bool:
    """Whether these are many rows of float32 on a CPU, and no gradient or other precision is wanted."""
    return (
        torch.is_inference_mode_enabled()
        and inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.numel() >= MIN_ROWS * inputs.shape[-1]
        and not torch.is_autocast_enabled("cpu")
    )
