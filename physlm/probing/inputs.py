"""What a probe reads: documents, and the positions in them where hidden states are read.

- Positions and labels come from marks; nothing is searched for in the tokens.
- `select` and `extend` make documents that a world does not tell and probes are asked about: a name alone (Q-probing),
  or the beginning of a solution followed by the name of a parameter (V-probing).

Shapes: D documents, N places.
Source: Physics of Language Models 3.1, App. E and F (P- and Q-probing); 2.1, §4.1 (V-probing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.data.decks import ranges
from physlm.data.streams import OUTSIDE

BoolArray = NDArray[np.bool_]
Rows = IntArray | BoolArray | slice
"""Some of N rows: their numbers, a truth value for each of all rows, or a slice."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """N places in documents.

    Example:
        >>> samples = world.render("biographies", np.arange(100))
        >>> values = Inputs.where(samples, samples.marks["value_position"] == 0)
        >>> before, labels = values.moved(-1), values.mark("attribute")

    Attributes:
        samples: the documents.
        documents: number of the document of every place, `[N]`.
        positions: position of every place in its document, counted from 0, `[N]`.

    Raises:
        ValueError: if a place is outside its document.
    """

    samples: Samples
    documents: IntArray
    positions: IntArray

    def __post_init__(self) -> None:
        if self.documents.ndim != 1 or self.documents.shape != self.positions.shape:
            raise ValueError(
                f"documents and positions must both be [N], got {self.documents.shape} and {self.positions.shape}"
            )
        if len(self) == 0:
            raise ValueError("a probe must read at least 1 place, got 0")
        if self.documents.min() < 0 or self.documents.max() >= len(self.samples):
            raise ValueError(
                f"documents must be in 0..{len(self.samples) - 1}, got {self.documents.min()}..{self.documents.max()}"
            )
        length = np.diff(self.samples.offsets)[self.documents]
        outside = (self.positions < 0) | (self.positions >= length)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"positions must be in 0..{length[row] - 1}, the tokens of document {self.documents[row]}, "
                f"got {self.positions[row]}"
            )

    @classmethod
    def where(cls, samples: Samples, chosen: BoolArray) -> Inputs:
        """Every token at which `chosen`, `[total_tokens]`, is true."""
        if chosen.shape != samples.tokens.shape:
            raise ValueError(f"chosen must be aligned with {samples.tokens.shape} tokens, got {chosen.shape}")
        places = np.flatnonzero(chosen)
        documents = np.searchsorted(samples.offsets, places, side="right") - 1
        return cls(samples, documents, places - samples.offsets[documents])

    @classmethod
    def last(cls, samples: Samples) -> Inputs:
        """The last token of every document."""
        return cls(samples, np.arange(len(samples)), np.diff(samples.offsets) - 1)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def places(self) -> NDArray[np.int64]:
        """Index of every place in `samples.tokens`, `[N]`."""
        return self.samples.offsets.astype(np.int64)[self.documents] + self.positions

    @property
    def tokens(self) -> IntArray:
        """The token at every place, `[N]`."""
        return self.samples.tokens[self.places]

    def mark(self, name: str) -> IntArray:
        """A mark at every place, `[N]`."""
        if name not in self.samples.marks:
            raise ValueError(f"mark must be one of {', '.join(sorted(self.samples.marks))}, got {name!r}")
        return self.samples.marks[name][self.places]

    def moved(self, by: int) -> Inputs:
        """The same places, so many tokens later in their documents; earlier where it is negative."""
        return Inputs(self.samples, self.documents, self.positions + by)

    def subset(self, rows: Rows) -> Inputs:
        """Some of the places."""
        return Inputs(self.samples, self.documents[rows], self.positions[rows])


def select(samples: Samples, keep: BoolArray, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> Samples:
    """Documents of the kept tokens only, between fixed ones.

    Example:
        >>> first = samples.marks["sentence"] == 0
        >>> names = select(samples, first & (samples.marks["role"] == Role.NAME), before=[eos], after=[eos])

    Args:
        samples: the documents.
        keep: which tokens stay, `[total_tokens]`.
        before: tokens that open every document; their marks are `OUTSIDE`.
        after: tokens that close it; likewise.
    """
    if keep.shape != samples.tokens.shape:
        raise ValueError(f"keep must be aligned with {samples.tokens.shape} tokens, got {keep.shape}")
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    lengths = np.diff(kept_before[samples.offsets])
    opening, closing = np.asarray(before, dtype=np.int64), np.asarray(after, dtype=np.int64)
    return _assemble(samples, np.flatnonzero(keep), lengths, [opening] * len(samples), [closing] * len(samples))


def extend(samples: Samples, documents: IntArray, lengths: IntArray, suffixes: Sequence[IntArray]) -> Samples:
    """The beginnings of documents, each followed by tokens of its own.

    Args:
        samples: the documents.
        documents: which of them is begun, `[D]`; one may be begun many times.
        lengths: how many of its tokens are told, `[D]`.
        suffixes: what follows, D arrays of token ids; their marks are `OUTSIDE`.
    """
    whole = np.diff(samples.offsets)[documents]
    if (lengths < 0).any() or (lengths > whole).any():
        raise ValueError(f"lengths must be in 0..{whole.max()}, the length of their document, got {lengths.tolist()}")
    told = lengths.astype(np.int64)
    kept = ranges(samples.offsets[documents].astype(np.int64), told)
    return _assemble(samples, kept, told, [np.zeros(0, dtype=np.int64)] * len(documents), suffixes)


def _assemble(
    samples: Samples, kept: IntArray, lengths: NDArray[np.int64], before: Sequence[IntArray], after: Sequence[IntArray]
) -> Samples:
    """Documents of an opening, so many of the kept tokens, and a closing each."""
    opening, closing = (np.array([len(part) for part in parts], dtype=np.int64) for parts in (before, after))
    offsets = np.concatenate([[0], np.cumsum(opening + lengths + closing)])
    target = ranges(offsets[:-1] + opening, lengths)

    def laid_out(values: IntArray) -> IntArray:
        row = np.full(offsets[-1], OUTSIDE, dtype=np.int64)
        row[target] = values[kept]
        return row

    tokens = laid_out(samples.tokens)
    tokens[ranges(offsets[:-1], opening)] = np.concatenate([*before, np.zeros(0, dtype=np.int64)])
    tokens[ranges(offsets[1:] - closing, closing)] = np.concatenate([*after, np.zeros(0, dtype=np.int64)])
    return Samples(tokens, offsets, {name: laid_out(mark) for name, mark in samples.marks.items()})
