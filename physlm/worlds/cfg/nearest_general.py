"""The sentence nearest to a string, by substitutions alone, in any grammar.

As `physlm.worlds.cfg.nearest`, the inside program in the min-plus semiring, over all spans. A rule with one child costs
nothing, so a symbol is as near as the nearest one that chains of such rules lead to, in circles or not.

Shapes: N tokens, T terminals, S states (terminals, nonterminals, then prefixes of rules).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.nearest import NEVER, Nearest
from physlm.worlds.cfg.steps import Steps


def nearest_in_general(steps: Steps, allowed: NDArray[np.bool_], root: str) -> Nearest | None:
    """The nearest sentence; of equally near ones, always the same.

    Args:
        steps: of the grammar.
        allowed: whether each terminal agrees with what is at a position, `[N, T]`.
        root: the symbol to derive from.

    Returns:
        `None` if no sentence has N tokens. Token ids are those of the model's vocabulary.
    """
    number, length = steps.names.index(root), len(allowed)
    if not length:
        return None
    tables = _Distances(steps, allowed)
    distance = int(tables.chained[0, length, number])
    if distance >= NEVER:
        return None
    return Nearest(distance, np.array(tables.tokens(number), dtype=np.int64))


class _Distances:
    """Fewest changes that make a span one of a state, `[N + 1, N + 1, S]` by start and end.

    Attributes:
        made: where the last rule has several children, or the span is a terminal.
        chained: after any number of rules with one child as well.
    """

    def __init__(self, steps: Steps, allowed: NDArray[np.bool_]) -> None:
        self._length, self._terminals = allowed.shape
        self._pairs = np.array([pair[:3] for pair in steps.pairs], dtype=np.int64).reshape(-1, 3)
        symbols = len(steps.names)
        leads = np.eye(symbols, dtype=np.bool_)  # from parent to child, in any number of steps
        for child, parent, _ in steps.units:
            leads[parent, child] = True
        for _ in range(symbols.bit_length()):
            leads = (leads.astype(np.int64) @ leads.astype(np.int64)) > 0
        self._leads = leads
        shape = (self._length + 1, self._length + 1, steps.states)
        self.made, self.chained = np.full((2, *shape), NEVER, dtype=np.int64)
        left, right, result = self._pairs.T
        for end in range(1, self._length + 1):
            for start in range(end - 1, -1, -1):
                here = self.made[start, end]
                if end == start + 1:
                    here[: self._terminals] = ~allowed[start]
                elif len(result):
                    middles = slice(start + 1, end)
                    sums = self.chained[start, middles][:, left] + self.chained[middles, end][:, right]
                    np.minimum.at(here, result, np.minimum(sums.min(axis=0), NEVER))
                self.chained[start, end] = here
                self.chained[start, end, :symbols] = np.where(leads, here[:symbols], NEVER).min(axis=1)

    def tokens(self, root: int) -> list[int]:
        """A nearest sentence, by going down again in a best way."""
        tokens, waiting = [], [(root, 0, self._length)]
        while waiting:  # depth first, from the right
            state, start, end = waiting.pop()
            if state < len(self._leads):
                # The symbol at the end of the chain, whose cost is that of its own making.
                ways = np.where(self._leads[state], self.made[start, end, : len(self._leads)], NEVER)
                state = int(ways.argmin())
            if state < self._terminals:
                tokens.append(1 + state)
                continue
            waiting += self._split(state, start, end)
        return tokens[::-1]

    def _split(self, state: int, start: int, end: int) -> list[tuple[int, int, int]]:
        """What a span is made of, in a best way."""
        for left, right, result in self._pairs:
            if result == state:
                sums = self.chained[start, start + 1 : end, left] + self.chained[start + 1 : end, end, right]
                if len(sums) and sums.min() == self.made[start, end, state]:
                    middle = start + 1 + int(sums.argmin())
                    return [(int(left), start, middle), (int(right), middle, end)]
        raise AssertionError("a finite distance must come from somewhere")
