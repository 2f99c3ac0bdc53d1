"""Documents that were made a moment ago, which need not be made again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import Samples

_REMEMBERED = 8192


class RecentDocuments:
    """Makes documents many at a time; the last few thousand are not made again.

    Args:
        make: makes the documents of a split at given indices.
        chunk: how many to make at once, ≥ 1.
    """

    def __init__(self, make: Callable[[str, NDArray[np.int64]], Samples], chunk: int) -> None:
        self._make = make
        self._chunk = chunk
        self._places: OrderedDict[tuple[str, int], tuple[Samples, int]] = OrderedDict()

    def lengths(self, split: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of tokens of each document."""
        parts = [np.diff(made.offsets[start : stop + 1]) for made, start, stop in self._runs(split, indices)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def render(self, split: str, indices: NDArray[np.int64], marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or those named."""
        runs = list(self._runs(split, indices)) or [(self._make(split, indices), 0, 0)]
        return join([_part(*run) for run in runs], marks)

    def _runs(self, split: str, indices: NDArray[np.int64]) -> Iterator[tuple[Samples, int, int]]:
        """The documents as few runs of neighbours: what they were made with, the first and the one after the last."""
        places = self._find(split, indices.tolist())
        begin = 0
        for end in range(1, len(places) + 1):
            made, last = places[end - 1]
            if end == len(places) or places[end][0] is not made or places[end][1] != last + 1:
                yield made, places[begin][1], last + 1
                begin = end

    def _find(self, split: str, numbers: Sequence[int]) -> list[tuple[Samples, int]]:
        """Where each document is: what it was made with, and its number there."""
        found = {number: self._places[split, number] for number in numbers if (split, number) in self._places}
        missing = [number for number in dict.fromkeys(numbers) if number not in found]
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            made = self._make(split, np.array(chunk))
            for i, number in enumerate(chunk):
                found[number] = self._places[split, number] = (made, i)
        while len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)
        return [found[number] for number in numbers]


def _part(samples: Samples, start: int, stop: int) -> Samples:
    """Documents `start` to before `stop`, as views."""
    tokens = slice(int(samples.offsets[start]), int(samples.offsets[stop]))
    offsets = samples.offsets[start : stop + 1] - tokens.start
    return Samples(samples.tokens[tokens], offsets, {name: mark[tokens] for name, mark in samples.marks.items()})


def join(parts: Sequence[Samples], marks: Sequence[str] | None = None) -> Samples:
    """All documents of at least one part, end to end, in arrays of their own, with all marks or those named.

    Raises:
        ValueError: for a mark that there is not.
    """
    names = list(parts[0].marks) if marks is None else list(marks)
    unknown = [name for name in names if name not in parts[0].marks]
    if unknown:
        raise ValueError(f"marks must be among {', '.join(parts[0].marks)}, got {unknown[0]!r}")
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Samples(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        {name: np.concatenate([part.marks[name] for part in parts]) for name in names},
    )
