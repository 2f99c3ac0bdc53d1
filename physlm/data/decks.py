"""The order in which the documents of a source come, and how they are laid out in windows.

- A `Deck` deals the documents of a world in passes; each pass is a new global order of all of them, a pure function
  of (key, pass). Shuffling whole sources keeps copies of one entity apart; packing neighbours would let a model read
  facts from the window instead of storing them.
- A `FreshDeck` deals independent documents, which need no shuffling, in the order of their numbers, and asks for
  lengths only as it goes. Its source may hold more documents than memory holds lengths.
- Layouts come from document lengths alone; nothing is rendered here.

Positions: document `i` with its separator takes the token positions `starts[i]` to `starts[i + 1]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import FreshWorld, World
from physlm.randomness import Key

Overflow: TypeAlias = Literal["cut", "whole", "continue"]

_FRESH_BLOCK = 1024


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`arange(start, start + count)` of every pair, end to end: starts [7, 2], counts [2, 3] give [7, 8, 2, 3, 4]."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


@dataclass(frozen=True)
class Windows:
    """Where the documents of some windows of one source go.

    Attributes:
        documents: index of each document in its split, window after window.
        window: number of the window of each document.
        number: number of each document within its window.
        column: where each document starts in its window, its separator just before; 0 or less for a document that
            goes on from the window before.
        length: full length of each document.
    """

    documents: NDArray[np.int64]
    window: NDArray[np.int64]
    number: NDArray[np.int64]
    column: NDArray[np.int64]
    length: NDArray[np.int64]


class Deck:
    """The documents of one source, dealt pass after pass.

    Holds a horizon of whole passes: `_order` is their document indices, `_starts` their positions. Reached passes are
    dropped, further ones are shuffled when they are needed.
    """

    def __init__(self, world: World, split: str, key: Key, context: int, overflow: Overflow) -> None:
        size = world.size(split)
        if size < 1:
            raise ValueError(f"split must hold at least 1 document, got {size} in split {split!r}")
        lengths = np.asarray(world.lengths(split), dtype=np.int64)
        if len(lengths) != size:
            raise ValueError(f"world must give {size} lengths for split {split!r}, got {len(lengths)}")
        _check_lengths(lengths, split, context, overflow)
        self.size = size
        self._lengths = lengths
        self._longest = int(lengths.max())
        self._pass_tokens = int(lengths.sum()) + size
        self._key = key
        self._context = context
        self._overflow = overflow
        self.place(0, 0)

    def place(self, pass_number: int, cursor: int, shown: int = 0) -> None:
        """Go to document `cursor` of pass `pass_number`, of which `shown` positions have been dealt already."""
        self._first_pass = pass_number
        self._cursor = cursor
        self.shown = shown
        self._order = np.empty(0, dtype=np.int64)
        self._starts = np.zeros(1, dtype=np.int64)

    @property
    def position(self) -> tuple[int, int]:
        """Pass, and cursor within it, of the next document."""
        return self._first_pass + self._cursor // self.size, self._cursor % self.size

    def _shuffled(self, first: int, count: int) -> NDArray[np.int64]:
        """Document indices of passes `first` to `first + count`, end to end."""
        return self._key.permutations(np.arange(first, first + count), self.size).reshape(-1)

    def _extend(self, passes: NDArray[np.int64]) -> None:
        self._order = np.concatenate([self._order, passes])
        self._starts = np.concatenate([[0], np.cumsum(self._lengths[self._order] + 1)])

    def _reserve(self, count: int) -> None:
        """Make the horizon reach past the end of the next `count` windows."""
        # A window takes at most `context` positions, and in "cut" the rest of its last document.
        tokens = count * (self._context + self._longest + 1)
        if self._cursor < len(self._order) and self._starts[-1] - self._starts[self._cursor] >= tokens:
            return
        self._first_pass, cursor = self.position
        self._order = self._order[self._cursor - cursor :]
        self._cursor = cursor
        held = len(self._order) // self.size
        self._extend(self._shuffled(self._first_pass, 0 if held else 1))
        held = max(held, 1)
        missing = tokens - int(self._starts[-1] - self._starts[cursor])
        if missing > 0:
            self._extend(self._shuffled(self._first_pass + held, -(-missing // self._pass_tokens)))

    def deal(self, count: int, wanted: NDArray[np.int64]) -> Windows:
        """Advance by `count` windows and lay out those whose numbers are `wanted`."""
        self._reserve(count)
        starts = self._starts
        if self._overflow == "continue":
            begin = starts[self._cursor] + self.shown + self._context * np.arange(count + 1)
            at = starts.searchsorted(begin, "right") - 1
            self._cursor, self.shown = int(at[-1]), int(begin[-1] - starts[at[-1]])
            begin = begin[wanted]
            first = at[wanted]
            counts = starts.searchsorted(begin + self._context, "left") - first
        else:
            bounds = self._bounds(count)
            self._cursor = int(bounds[-1])
            first = bounds[wanted]
            counts = bounds[wanted + 1] - first
            begin = starts[first]
        places = ranges(first, counts)
        return Windows(
            documents=self._order[places],
            window=np.repeat(np.arange(len(wanted)), counts),
            number=places - np.repeat(first, counts),
            column=1 + starts[places] - np.repeat(begin, counts),
            length=starts[places + 1] - starts[places] - 1,
        )

    def _bounds(self, count: int) -> NDArray[np.int64]:
        """First document of each of the next `count` windows, and of the one after them."""
        # A document belongs to the window if it starts in it ("cut") or ends in it with its separator ("whole").
        side, back = ("right", 1) if self._overflow == "whole" else ("left", 0)
        starts, at = self._starts, self._cursor
        bounds = np.empty(count + 1, dtype=np.int64)
        bounds[0] = at
        for i in range(count):
            at = starts.searchsorted(starts[at] + self._context, side) - back
            bounds[i + 1] = at
        return bounds


class FreshDeck(Deck):
    """Independent documents of one source, dealt in the order of their numbers; after the last comes the first."""

    def __init__(self, world: FreshWorld, split: str, context: int, overflow: Overflow) -> None:
        size = world.size(split)
        if size < 1:
            raise ValueError(f"split must hold at least 1 document, got {size} in split {split!r}")
        self.size = size
        self._world, self._split = world, split
        self._context = context
        self._overflow: Overflow = overflow
        self.place(0, 0)

    def place(self, pass_number: int, cursor: int, shown: int = 0) -> None:
        """As in `Deck`; the horizon starts at the next document."""
        super().place(0, 0, shown)
        self._first = pass_number * self.size + cursor

    @property
    def position(self) -> tuple[int, int]:
        """Pass, and cursor within it, of the next document."""
        return divmod(self._first + self._cursor, self.size)

    def _reserve(self, count: int) -> None:
        dealt = self._cursor
        self._first, self._cursor = self._first + dealt, 0
        self._order, self._starts = self._order[dealt:], self._starts[dealt:] - self._starts[dealt]
        longest = int(np.diff(self._starts).max(initial=1))
        while self._starts[-1] < count * (self._context + longest):
            new = (self._first + len(self._order) + np.arange(_FRESH_BLOCK)) % self.size
            lengths = np.asarray(self._world.lengths_at(self._split, new), dtype=np.int64)
            _check_lengths(lengths, self._split, self._context, self._overflow)
            longest = max(longest, int(lengths.max()) + 1)
            self._order = np.concatenate([self._order, new])
            self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths + 1)])


def _check_lengths(lengths: NDArray[np.int64], split: str, context: int, overflow: Overflow) -> None:
    if lengths.min() < 1:
        raise ValueError(f"documents must have at least 1 token, got {lengths.min()} in split {split!r}")
    longest = int(lengths.max())
    if overflow == "whole" and longest > context - 1:
        raise ValueError(
            f"with overflow='whole' a document and its two separators must fit the window of {context + 1} tokens, "
            f"got a document of {longest} tokens in split {split!r}: "
            f"use context ≥ {longest + 1} or overflow='cut'"
        )
