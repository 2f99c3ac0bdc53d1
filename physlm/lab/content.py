"""Canonical JSON and content hashes: how the lab recognises "the same thing" on any machine.

- `to_json` turns configs and metrics (dataclasses, tuples, NumPy values, paths) into plain JSON values.
- `canonical_json` has one spelling per value: sorted keys, no spaces, no NaN.
- `content_hash` is what finished runs and shared stages are found by.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

SHORT_HASH = 12


def to_json(value: Any, where: str = "value", *, type_names: bool = False) -> Any:
    """Plain JSON values for `value`; a number that is not finite becomes null.

    Args:
        value: dataclasses, mappings with string keys, sequences, sets, NumPy arrays and scalars, enums, paths.
        where: the name that an error message gives to `value`.
        type_names: also record the class name of every dataclass, so that two configs of different
            classes with equal fields differ. Module names are left out: an experiment started with
            `python -m` lives in `__main__`.

    Raises:
        TypeError: something inside has no JSON counterpart; the message says where.

    Example:
        >>> to_json({"rate": np.float32(0.5), "widths": (1, 2), "loss": float("nan")})
        {'rate': 0.5, 'widths': [1, 2], 'loss': None}
    """
    if isinstance(value, enum.Enum):
        return to_json(value.value, where, type_names=type_names)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        return to_json(value.tolist(), where, type_names=type_names)
    if isinstance(value, PurePath):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_json(getattr(value, field.name), f"{where}.{field.name}", type_names=type_names)
            for field in dataclasses.fields(value)
        }
        return {"__type__": type(value).__qualname__, **fields} if type_names else fields
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; JSON keys must be strings")
        return {key: to_json(item, f"{where}[{key!r}]", type_names=type_names) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(to_json(item, where, type_names=type_names) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [to_json(item, f"{where}[{index}]", type_names=type_names) for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__qualname__}, which has no JSON counterpart: {value!r}")


def canonical_json(value: Any) -> str:
    """The one spelling of `value` that is hashed; dataclasses carry their class names."""
    return json.dumps(to_json(value, type_names=True), sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """64 hexadecimal digits that depend on the content of `value` alone."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
