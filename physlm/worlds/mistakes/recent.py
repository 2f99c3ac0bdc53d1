"""Documents that were made a moment ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples

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
        self._documents: OrderedDict[tuple[str, int], Samples] = OrderedDict()

    def lengths(self, split: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of tokens of each document."""
        return np.array([len(document.tokens) for document in self._get(split, indices)], dtype=np.int64)

    def render(self, split: str, indices: NDArray[np.int64]) -> Samples:
        """The documents at `indices`, in that order."""
        return concatenate(self._get(split, indices) or [self._make(split, indices)])

    def _get(self, split: str, indices: NDArray[np.int64]) -> list[Samples]:
        numbers = indices.tolist()
        found = {number: self._documents[split, number] for number in numbers if (split, number) in self._documents}
        missing = [number for number in dict.fromkeys(numbers) if number not in found]
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            samples = self._make(split, np.array(chunk))
            for i, number in enumerate(chunk):
                tokens, marks = samples.document(i)
                document = Samples(tokens, np.array([0, len(tokens)]), marks)
                found[number] = self._documents[split, number] = document
        while len(self._documents) > _REMEMBERED:
            self._documents.popitem(last=False)
        return [found[number] for number in numbers]


def concatenate(parts: Sequence[Samples]) -> Samples:
    """All documents of at least one part, end to end, in arrays of their own."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    names: Sequence[str] = list(parts[0].marks)
    tokens: IntArray = np.concatenate([part.tokens for part in parts])
    marks = {name: np.concatenate([part.marks[name] for part in parts]) for name in names}
    return Samples(tokens, np.concatenate([[0], np.cumsum(lengths)]), marks)
