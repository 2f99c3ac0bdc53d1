"""Positional encodings, chosen by name in a frozen config.

Adding one is adding a file to this folder: a config class that is decorated by `register`, and beside it the module
that it builds. Every file here is imported; the table test then asks for a row.
"""

import importlib
import pkgutil

from physlm.models.positions.alibi import Alibi
from physlm.models.positions.base import (
    ModelShape,
    PositionalEncoding,
    PositionConfig,
    position_from_dict,
    position_names,
    register,
)
from physlm.models.positions.deberta import Deberta
from physlm.models.positions.fire import Fire
from physlm.models.positions.hard_alibi import HardAlibi
from physlm.models.positions.kerple import Kerple
from physlm.models.positions.learned import Learned
from physlm.models.positions.none import NoPosition
from physlm.models.positions.position_only import PositionOnly
from physlm.models.positions.rotary import Rotary
from physlm.models.positions.sinusoidal import Sinusoidal
from physlm.models.positions.t5 import T5
from physlm.models.positions.transformer_xl import TransformerXL
from physlm.models.positions.uniform import Uniform

__all__ = [
    "T5",
    "Alibi",
    "Deberta",
    "Fire",
    "HardAlibi",
    "Kerple",
    "Learned",
    "ModelShape",
    "NoPosition",
    "PositionConfig",
    "PositionOnly",
    "PositionalEncoding",
    "Rotary",
    "Sinusoidal",
    "TransformerXL",
    "Uniform",
    "position_from_dict",
    "position_names",
    "register",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
