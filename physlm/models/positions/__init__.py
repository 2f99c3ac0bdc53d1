"""Positional encodings, chosen by name in a frozen config.

Adding one is adding a file with a config class that is decorated by `register`, importing it below,
and giving it a row in the table test.
"""

from physlm.models.positions.base import (
    PositionalEncoding,
    PositionConfig,
    position_from_dict,
    position_names,
    register,
)
from physlm.models.positions.learned import Learned
from physlm.models.positions.rotary import Rotary

__all__ = [
    "Learned",
    "PositionConfig",
    "PositionalEncoding",
    "Rotary",
    "position_from_dict",
    "position_names",
    "register",
]
