"""Derivations of sentences: one alone, and many end to end.

Shapes: S sentences, N nodes of all sentences on one level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Unsigned: TypeAlias = NDArray[np.unsignedinteger]
Tree: TypeAlias = "str | tuple[str, tuple[Tree, ...]]"
"""A terminal, or a nonterminal with its children."""

HANDED_DOWN = -1
"""Rule of a terminal that is handed down to the next level, in grammars without levels."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """How one sentence came about; level 0 holds the root, the last level the terminals.

    In a grammar without levels, level `g` is generation `g`: everything after `g` rounds of expansion, terminals that
    came up earlier included.

    Attributes:
        names: names of the symbols of every level.
        symbols: of every level, the number of each node's symbol in `names`, from the left.
        parents: of every level, the number of each node's parent in the level above; of the root, -1.
        rules: of every level but the last, the rule of each node: its number on that level, see `Layers`; without
            levels, its number in `Grammar.rules_of`, all parents in turn, or `HANDED_DOWN`.
        intended: symbols of the level `mistaken` before mistakes were made there; `None` in a clean sentence.
        mistaken: the level at which mistakes were made, or `None`.
    """

    names: tuple[tuple[str, ...], ...]
    symbols: tuple[NDArray[np.int64], ...]
    parents: tuple[NDArray[np.int64], ...]
    rules: tuple[NDArray[np.int64], ...]
    intended: NDArray[np.int64] | None = None
    mistaken: int | None = None

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.symbols[-1])

    def labels(self, level: int) -> list[str]:
        """Names of the nodes of a level, from the left; level -1 gives the sentence."""
        return [self.names[level][symbol] for symbol in self.symbols[level]]

    def ancestors(self, level: int, below: int | None = None) -> NDArray[np.int64]:
        """Number of the node of `level` above every token, `[len]`: the specification's `p`, counted from 0.

        With `below`, above every node of that level instead, in the order of these nodes.
        """
        lowest = len(self.symbols) - 1 if below is None else below
        nodes = np.arange(len(self.symbols[lowest]))
        for parents in reversed(self.parents[level + 1 : lowest + 1]):
            nodes = parents[nodes]
        return nodes

    def ends(self, level: int) -> NDArray[np.bool_]:
        """Whether every token is the last below its node of `level`, `[len]`: the specification's `b`."""
        above = self.ancestors(level)
        return np.append(above[1:] != above[:-1], True)

    def tree(self) -> Tree:
        """As nested tuples (label, children), terminals as strings: ("22", (("21", (…)), ("20", (…))))."""
        below: list[Tree] = list(self.labels(-1))
        for level in range(len(self.symbols) - 2, -1, -1):
            children: list[list[Tree]] = [[] for _ in self.symbols[level]]
            for parent, subtree in zip(self.parents[level + 1], below, strict=True):
                children[parent].append(subtree)
            below = [
                subtrees[0] if rule == HANDED_DOWN else (label, tuple(subtrees))
                for label, rule, subtrees in zip(self.labels(level), self.rules[level], children, strict=True)
            ]
        return below[0]


@dataclass(frozen=True, eq=False)
class Mistaken:
    """Where sentences of a world with mistakes differ from what was intended.

    Attributes:
        level: at which mistakes were made.
        chosen: which sentences can hold mistakes, `[S]`.
        intended: symbols of that level before mistakes, `[N]`.
    """

    level: int
    chosen: NDArray[np.bool_]
    intended: Unsigned


@dataclass(frozen=True, eq=False)
class Forest:
    """The derivations of many sentences, level by level, end to end.

    Attributes:
        symbols: of every level, the symbols of all nodes, `[N]`.
        offsets: of every level, the nodes of sentence `i` are `offsets[i]` to `offsets[i + 1]`, `[S + 1]`.
        rules: of every level but the last, the rule of each node, `[N]`.
        lengths: of every level but the last, the number of children of each node, `[N]`.
        mistaken: the mistakes, in a world with some.
    """

    symbols: tuple[Unsigned, ...]
    offsets: tuple[NDArray[np.int64], ...]
    rules: tuple[NDArray[np.integer], ...]
    lengths: tuple[Unsigned, ...]
    mistaken: Mistaken | None = None

    def __len__(self) -> int:
        return len(self.offsets[0]) - 1

    @cached_property
    def last(self) -> tuple[NDArray[np.int64], ...]:
        """Of every level, the position of the last token below each node, `[N]`, counted through all sentences."""
        last = [np.arange(len(self.symbols[-1]))]
        for lengths in reversed(self.lengths):
            last.append(last[-1][np.cumsum(lengths, dtype=np.int64) - 1])
        return tuple(reversed(last))
