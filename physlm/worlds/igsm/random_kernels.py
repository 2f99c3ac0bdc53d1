"""Random numbers in compiled code: one stream for every problem, and what is drawn from it.

A stream is two words, a position and an odd step (SplitMix64; Steele, Lea and Flood, OOPSLA 2014). Both come from a
`Key` and the number of the problem, so that problems share nothing and can be made in any order.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled

Stream = NDArray[np.uint64]
"""One stream, `[2]`; every draw changes it."""
Mask: TypeAlias = Any
"""A set of numbers below 64 as the bits of an `np.uint64`; type checkers take an element of an array for an array."""

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_HALF, _MANTISSA = np.uint64(32), np.uint64(11)
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@compiled
def word(stream: Stream) -> np.uint64:
    """64 random bits."""
    stream[0] += stream[1]
    z = stream[0]
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    return z ^ (z >> _SHIFT_31)


@compiled
def below(stream: Stream, bound: int) -> int:
    """A uniform integer in `[0, bound)`; the bias is below `bound / 2**32`."""
    return int(((word(stream) >> _HALF) * np.uint64(bound)) >> _HALF)


@compiled
def between(stream: Stream, least: int, most: int) -> int:
    """A uniform integer in `least..most`."""
    return least + below(stream, most - least + 1)


@compiled
def uniform(stream: Stream) -> float:
    """A uniform number in `[0, 1)`."""
    return np.float64(word(stream) >> _MANTISSA) * 2.0**-53


@compiled
def coin(stream: Stream) -> bool:
    """True half of the time."""
    return word(stream) & _ONE == _ZERO


@compiled
def half_normal(stream: Stream) -> float:
    """The absolute value of a standard normal number (Box and Muller)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(stream)))
    return radius * abs(math.cos(2.0 * math.pi * uniform(stream)))


@compiled
def shuffle(stream: Stream, values: NDArray[np.integer], count: int, total: int) -> None:
    """Make the first `count` of `values[:total]` a uniform draw from them without replacement, in random order."""
    for i in range(min(count, total - 1)):
        j = i + below(stream, total - i)
        values[i], values[j] = values[j], values[i]


@compiled
def bit(p: int) -> Mask:
    """The set of `p` alone."""
    return _ONE << np.uint64(p)


@compiled
def contains(mask: Mask, p: int) -> bool:
    """Whether `p` is in a set."""
    return (mask >> np.uint64(p)) & _ONE == _ONE


@compiled
def members(mask: Mask, found: NDArray[np.int64]) -> int:
    """Write the members of a set to `found`, in order; returns their number."""
    count = p = 0
    while mask != _ZERO:
        if mask & _ONE == _ONE:
            found[count] = p
            count += 1
        mask >>= _ONE
        p += 1
    return count


@compiled
def pick(stream: Stream, mask: Mask, found: NDArray[np.int64]) -> int:
    """A uniform member of a set that is not empty; `found` is room for all."""
    return found[below(stream, members(mask, found))]
