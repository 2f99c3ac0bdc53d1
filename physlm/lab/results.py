"""What runs hand on: metrics by dotted path, per-item outcomes packed into bits, results for plots.

An evaluation of 1,000 people × 6 attributes is 6,000 yes/no outcomes. Kept as bits they make one kilobyte of
text, so every run file can carry what paired comparisons over items need.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from physlm.lab.claims import Verdict

_PACKED = "packbits"


def pack_items(outcomes: NDArray[np.bool_]) -> dict[str, Any]:
    """Yes/no outcomes as a JSON value, eight to the byte.

    Example:
        >>> packed = pack_items(np.array([[True, False], [True, True]]))
        >>> unpack_items(packed).tolist()
        [[True, False], [True, True]]
    """
    outcomes = np.asarray(outcomes)
    if outcomes.dtype != np.bool_:
        raise ValueError(f"outcomes must be a bool array, got {outcomes.dtype}: compare or threshold them first")
    bits = base64.b64encode(np.packbits(outcomes.ravel()).tobytes()).decode()
    return {"format": _PACKED, "shape": list(outcomes.shape), "bits": bits}


def is_packed(value: Any) -> bool:
    """Whether `value` was made by `pack_items`."""
    return isinstance(value, Mapping) and value.get("format") == _PACKED


def unpack_items(packed: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The array that `pack_items` was given."""
    if not is_packed(packed):
        raise ValueError(f"not packed outcomes: {str(packed)[:80]}")
    shape = tuple(packed["shape"])
    size = math.prod(shape)
    raw = np.frombuffer(base64.b64decode(packed["bits"]), dtype=np.uint8)
    if len(raw) != (size + 7) // 8:
        raise ValueError(f"packed outcomes of shape {shape} need {(size + 7) // 8} bytes, got {len(raw)}")
    return np.unpackbits(raw, count=size).astype(np.bool_).reshape(shape)


def without_items(value: Any) -> Any:
    """`value` without its packed outcomes, for summaries."""
    if isinstance(value, Mapping):
        return {key: without_items(item) for key, item in value.items() if not is_packed(item)}
    if isinstance(value, list):
        return [without_items(item) for item in value if not is_packed(item)]
    return value


class RunMetrics(dict[str, Any]):
    """The metrics of one finished run, with access by dotted path.

    Example:
        >>> RunMetrics({"qa": {"accuracy": 0.75}}).number("qa.accuracy")
        0.75
    """

    def at(self, path: str) -> Any:
        """The value at a dotted path; a key that holds dots itself is found too."""
        value: Any = self
        parts = path.split(".")
        while parts:
            for length in range(len(parts), 0, -1):
                key = ".".join(parts[:length])
                if isinstance(value, Mapping) and key in value:
                    value, parts = value[key], parts[length:]
                    break
            else:
                there = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
                raise KeyError(f"no metric {path!r}: {'.'.join(parts)!r} is not among {there}")
        return value

    def number(self, path: str) -> float:
        """The number at a dotted path; null, which stands for a number that was not finite, gives NaN."""
        value = self.at(path)
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"metric {path!r} must be a number, got {type(value).__name__}")
        return float(value)

    def outcomes(self, path: str) -> NDArray[np.bool_]:
        """The per-item outcomes packed at a dotted path, usually `[people, attributes]`."""
        return unpack_items(self.at(path))


@dataclass(frozen=True, kw_only=True)
class Results:
    """The finished runs of one experiment at one scale, as plots see them.

    Attributes:
        title: the experiment's title.
        scale: the preset's name.
        seeds: the seeds asked for.
        runs: metrics by (condition, seed); only conditions finished for every seed are present.
        verdicts: the verdicts on the claims that could be evaluated.
    """

    title: str
    scale: str
    seeds: Sequence[int]
    runs: Mapping[tuple[str, int], RunMetrics]
    verdicts: Sequence[Verdict]

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions finished for every seed, in their first order."""
        return list(dict.fromkeys(condition for condition, _ in self.runs))

    def values(self, condition: str, path: str) -> list[float]:
        """One number per seed."""
        return [self.runs[condition, seed].number(path) for seed in self.seeds]

    def curves(self, condition: str, path: str) -> NDArray[np.float64]:
        """A list-valued metric, `[seeds, points]`; null becomes NaN."""
        rows = [
            [math.nan if y is None else float(y) for y in self.runs[condition, seed].at(path)] for seed in self.seeds
        ]
        return np.array(rows, dtype=np.float64)
