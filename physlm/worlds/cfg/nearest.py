"""The sentence of a language that is nearest to a string, by substitutions alone.

The inside program in the min-plus semiring: the fewest tokens to change so that a span becomes one of a symbol. As any
token may be changed into any other, every span of a possible length is one, so tables are dense, `[start, length]`,
and are filled for all starts and many lengths at once.

Specification, §2.2; min-plus (tropical) parsing: Goodman, Semiring Parsing, Computational Linguistics 25 (1999).

Shapes: N tokens, T terminals; state s has W_s possible lengths, from `shortest[s]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.automaton import EMPTY
from physlm.worlds.cfg.layers import Layers

if TYPE_CHECKING:
    from physlm.worlds.cfg.kernels import Automaton

NEVER = np.int32(2**29)  # two of them can still be added


class Nearest(NamedTuple):
    """A sentence of the language and the number of tokens in which it differs."""

    distance: int
    tokens: NDArray[np.int64]


def nearest_sentence(layers: Layers, automaton: Automaton, allowed: NDArray[np.bool_]) -> Nearest | None:
    """The nearest sentence; of equally near ones, always the same.

    Args:
        layers: of the grammar.
        automaton: made from them.
        allowed: whether each terminal agrees with what is at a position, `[N, T]`.

    Returns:
        `None` if no sentence has N tokens. Token ids are those of the model's vocabulary.
    """
    length = len(allowed)
    if not layers.shortest[0][0] <= length <= layers.longest[0][0]:
        return None
    tables = _Distances(layers, automaton, allowed)
    distance = tables.get(automaton.root, 0, length)
    if distance >= NEVER:
        return None
    tokens, waiting = [], [(automaton.root, 0, length)]
    while waiting:  # depth first, from the right
        state, start, end = waiting.pop()
        if state < automaton.terminals:
            tokens.append(1 + state)
            continue
        source, child, middle = tables.split(state, start, end)
        if source != EMPTY:
            waiting.append((source, start, middle))
        waiting.append((child, middle, end))
    return Nearest(int(distance), np.array(tokens[::-1], dtype=np.int64))


class _Distances:
    """Fewest changes for every state, start and length."""

    def __init__(self, layers: Layers, automaton: Automaton, allowed: NDArray[np.bool_]) -> None:
        self._length = len(allowed)
        self._steps_to: list[list[tuple[int, int]]] = [[] for _ in range(automaton.states)]
        for child in range(automaton.states):
            for step in range(automaton.first_step[child], automaton.first_step[child + 1]):
                self._steps_to[automaton.step_target[step]].append((int(automaton.step_source[step]), child))
        self.shortest, self.longest = np.zeros((2, automaton.states), dtype=np.int64)
        for first, shortest, longest in zip(automaton.first_symbol, layers.shortest, layers.longest, strict=True):
            self.shortest[first : first + len(shortest)] = shortest
            self.longest[first : first + len(longest)] = np.minimum(longest, self._length)
        self._tables: list[NDArray[np.int32]] = [
            np.append(~allowed[:, terminal], False)[:, None].astype(np.int32) for terminal in range(automaton.terminals)
        ]
        of_root = automaton.first_state[0]
        for state in range(automaton.terminals, automaton.states):
            if self.longest[state] == 0:  # a prefix; its parts have smaller numbers
                ((source, child),) = self._steps_to[state]
                self.shortest[state] = self.shortest[source] + self.shortest[child]
                self.longest[state] = min(self.longest[source] + self.longest[child], self._length)
            # The root, and what it begins with, is needed from the first token only.
            self._tables.append(self._fill(state, starts=1 if state >= of_root else self._length + 1))

    def get(self, state: int, start: int, end: int) -> int:
        """Fewest changes that make a span one of a state."""
        if self.shortest[state] <= end - start <= self.longest[state]:
            return int(self._tables[state][start, end - start - self.shortest[state]])
        return int(NEVER)

    def split(self, state: int, start: int, end: int) -> tuple[int, int, int]:
        """Source, child and start of the child in the best way to make a span."""
        total = self.get(state, start, end)
        for source, child in self._steps_to[state]:
            if source == EMPTY:
                if self.get(child, start, end) == total:
                    return source, child, start
                continue
            for middle in range(start + int(self.shortest[source]), min(start + int(self.longest[source]), end) + 1):
                if self.get(source, start, middle) + self.get(child, middle, end) == total:
                    return source, child, middle
        raise AssertionError("a finite distance must come from somewhere")

    def _fill(self, state: int, starts: int) -> NDArray[np.int32]:
        shortest, longest = self.shortest[state], self.longest[state]
        table = np.full((starts, max(longest - shortest + 1, 0)), NEVER)
        if not table.size:
            return table
        for source, child in self._steps_to[state]:
            right = self._tables[child]
            lengths = (0,) if source == EMPTY else range(self.shortest[source], self.longest[source] + 1)
            for length in lengths:
                first = length + self.shortest[child] - shortest
                rows, columns = min(starts, len(right) - length), min(right.shape[1], table.shape[1] - first)
                if rows <= 0 or columns <= 0:
                    break
                added = right[length : length + rows, :columns]
                if source != EMPTY:
                    added = added + self._tables[source][:rows, length - self.shortest[source], None]
                cells = table[:rows, first : first + columns]
                np.minimum(cells, added, out=cells)
        # A span must not reach beyond the last token; sums of two impossible values are impossible.
        return np.minimum(table, NEVER)
