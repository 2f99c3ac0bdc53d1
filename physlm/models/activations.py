"""Element-wise activations, by name.

Source: Physics of Language Models 3.3, §2 (GELU, SiLU) and 4.1, §4 (ReLU²).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Activation = Literal["gelu", "gelu_exact", "relu", "relu2", "silu"]


def _relu2(inputs: Tensor) -> Tensor:
    return F.relu(inputs).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": partial(F.gelu, approximate="tanh"),
    "gelu_exact": F.gelu,
    "relu": F.relu,
    "relu2": _relu2,
    "silu": F.silu,
}
"""Functions by name; "gelu" is approximated by a tanh, as in GPT-2."""
