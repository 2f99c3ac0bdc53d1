"""The compiled loops of injecting: how many attempts, which candidates, and the room for them in what is there.

Compiled by numba when first called; the result is kept on disk where that can be written.

Shapes: N documents, P places, A attempts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.random_kernels import below, uniform


@compiled
def draw_chains(
    streams: NDArray[np.uint64],
    first: NDArray[np.int64],
    candidates: NDArray[np.int64],
    rate: float,
    longest: int,
    count: NDArray[np.int64],
) -> None:
    """Number of attempts at every place: one more with chance `rate`, up to the candidates there are and `longest`."""
    for document in range(len(first) - 1):
        stream = streams[document]
        for place in range(first[document], first[document + 1]):
            most, drawn = min(candidates[place], longest), 0
            while drawn < most and uniform(stream) < rate:
                drawn += 1
            count[place] = drawn


@compiled
def draw_candidates(
    streams: NDArray[np.uint64],
    first: NDArray[np.int64],
    candidates: NDArray[np.int64],
    count: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> None:
    """Which candidates are attempted, all different at a place, each time uniform among those that are left."""
    taken = np.empty(len(chosen), np.int64)  # at this place, ascending
    at = 0
    for document in range(len(first) - 1):
        stream = streams[document]
        for place in range(first[document], first[document + 1]):
            for attempt in range(count[place]):
                number, before = below(stream, candidates[place] - attempt), 0
                while before < attempt and taken[before] <= number:
                    number += 1
                    before += 1
                for later in range(attempt, before, -1):
                    taken[later] = taken[later - 1]
                taken[before] = number
                chosen[at] = number
                at += 1


@compiled
def insert(
    values: NDArray[np.integer],
    position: NDArray[np.int64],
    room: NDArray[np.int64],
    filler: int,
    spread: NDArray[np.integer],
) -> None:
    """Copy `values` to `spread`, with `room[p]` times `filler` before `values[position[p]]`; positions ascend."""
    read = written = 0
    for p in range(len(position)):
        count = position[p] - read
        spread[written : written + count] = values[read : position[p]]
        read, written = position[p], written + count
        spread[written : written + room[p]] = filler
        written += room[p]
    spread[written:] = values[read:]
