"""What is known about every token of sampled sentences, as arrays aligned with the tokens.

Levels are numbered as in the paper: 1 is the root, L the terminals; nodes of a level are counted from 0.

- `symbol_ℓ`, `index_ℓ`, `end_ℓ` for ℓ = 1 … L - 1: symbol (its number in `layers.symbols[ℓ - 1]`) and number of the
  node of level ℓ above the token, and 1 where the token is the last one below that node.
- `deepest_end`: the smallest ℓ ≥ 2 at which the token ends a node, the paper's b♯; L where it ends none but itself.
- `terminal`: the terminal as a token id (1 …); in an implicit world, what stands behind the observable.
- `corrupted`: 0 in a clean sentence; in one with mistakes 2 where the token, or the node above it that mistakes are
  made at, is not what was intended, and 1 elsewhere.
- `role`: a `Role`.

A grammar without levels has the last three only. Every mark is -1 at BOS but `role`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from physlm.data.streams import OUTSIDE
from physlm.worlds.cfg.derivation import Forest

GENERAL_MARKS = ("role", "corrupted", "terminal")
_ROOT_LEVEL = 1
_FIRST_DEEP_LEVEL = 2


class Role(IntEnum):
    """Value of the mark `role`."""

    BEGIN = 0
    TOKEN = 1


def mark_names(levels: int | None) -> tuple[str, ...]:
    """Names of all marks of a grammar with `levels` levels, or of one without levels."""
    if levels is None:
        return GENERAL_MARKS
    inner = range(_ROOT_LEVEL, levels)
    by_level = [f"{mark}_{level}" for mark in ("symbol", "index", "end") for level in inner]
    return (*GENERAL_MARKS, "deepest_end", *by_level)


def insert_begin(values: NDArray, offsets: NDArray[np.int64], begin: int) -> NDArray:
    """Put `begin` before every sentence; `offsets` are those without, `[S + 1]`."""
    framed = np.full(len(values) + len(offsets) - 1, begin, dtype=values.dtype)
    is_value = np.ones(len(framed), dtype=np.bool_)
    is_value[offsets[:-1] + np.arange(len(offsets) - 1)] = False
    framed[is_value] = values
    return framed


def make_marks(
    forest: Forest, terminals: NDArray[np.integer], names: Sequence[str], *, bos: bool
) -> dict[str, NDArray[np.integer]]:
    """The marks called `names`, aligned with the tokens of all sentences, BOS included where `bos`.

    Args:
        forest: derivations of a layered grammar; of any grammar for the marks in `GENERAL_MARKS`.
        terminals: token id of every terminal, as the mark `terminal` gives it.
        names: some of `mark_names`.
        bos: whether every sentence opens with BOS.
    """
    marks = {}
    for name in names:
        kind, _, level = name.partition("_")
        if name == "role":
            values = np.full(len(terminals), Role.TOKEN, dtype=np.int8)
        elif name == "terminal":
            values = terminals
        elif name == "corrupted":
            values = _corrupted(forest)
        elif name == "deepest_end":
            values = _deepest_end(forest)
        elif kind == "symbol":
            symbols = forest.symbols[int(level) - 1]
            symbols = symbols.astype(np.int16 if symbols.dtype.itemsize == 1 else np.int32)
            values = np.repeat(symbols, _spans(forest, int(level) - 1))
        elif kind == "index":
            offsets = forest.offsets[int(level) - 1]
            number = np.arange(offsets[-1], dtype=np.int32)
            number -= np.repeat(offsets[:-1].astype(np.int32), np.diff(offsets))
            values = np.repeat(number, _spans(forest, int(level) - 1))
        else:
            values = np.zeros(len(terminals), dtype=np.int8)
            values[forest.last[int(level) - 1]] = 1
        if bos:
            values = insert_begin(values, forest.offsets[-1], Role.BEGIN if name == "role" else OUTSIDE)
        marks[name] = values
    return marks


def _spans(forest: Forest, level: int) -> NDArray[np.int64]:
    """Number of tokens below every node of a level counted from 0, `[N]`."""
    return np.diff(forest.last[level], prepend=-1)


def _deepest_end(forest: Forest) -> NDArray[np.int8]:
    levels = len(forest.symbols)
    values = np.full(len(forest.symbols[-1]), levels, dtype=np.int8)
    for level in range(levels - 1, _FIRST_DEEP_LEVEL - 1, -1):
        values[forest.last[level - 1]] = level
    return values


def _corrupted(forest: Forest) -> NDArray[np.int8]:
    mistaken = forest.mistaken
    if mistaken is None:
        return np.zeros(len(forest.symbols[-1]), dtype=np.int8)
    in_chosen = np.repeat(mistaken.chosen.astype(np.int8), np.diff(forest.offsets[-1]))
    is_wrong = mistaken.intended != forest.symbols[mistaken.level]
    return in_chosen + np.repeat(is_wrong, _spans(forest, mistaken.level))
