"""From a table of best probabilities back to the derivation that has them.

Every span is taken apart again, from the root down: of all ways to make it from shorter spans, the best one is the
one its value came from. Nothing has to be stored while parsing.
"""

from __future__ import annotations

import numpy as np

from physlm.worlds.cfg.automaton import EMPTY
from physlm.worlds.cfg.derivation import Derivation
from physlm.worlds.cfg.layers import Layers
from physlm.worlds.cfg.tables import Tables

_Node = tuple[int, int, int]
"""State, start and end of a span."""


def best_derivation(layers: Layers, tables: Tables) -> Derivation:
    """The best derivation of what `tables` read, in the mode `BEST`; it must be a sentence."""
    take_apart = _Spans(tables)
    nodes: list[_Node] = [(tables.automaton.root, 0, tables.read)]
    symbols, parents, rules = [np.zeros(1, dtype=np.int64)], [np.full(1, -1, dtype=np.int64)], []
    for level in range(1, len(layers)):
        chosen = [take_apart(*node) for node in nodes]
        rules.append(np.array([rule for rule, _ in chosen], dtype=np.int64))
        parents.append(np.repeat(np.arange(len(nodes)), [len(children) for _, children in chosen]))
        nodes = [child for _, children in chosen for child in children]
        first = int(tables.automaton.first_symbol[level])
        symbols.append(np.array([state - first for state, _, _ in nodes], dtype=np.int64))
    return Derivation(layers.symbols, tuple(symbols), tuple(parents), tuple(rules))


class _Spans:
    """All spans of a sentence; called with one of a symbol, gives the best rule and its children."""

    def __init__(self, tables: Tables) -> None:
        automaton = tables.automaton
        self._begin = tables.progress.begin[: tables.read + 1].tolist()
        self._start = tables.spans.start[: tables.used].tolist()
        self._value = tables.spans.second[: tables.used].tolist()
        self._steps_to: list[list[tuple[int, int, float, int]]] = [[] for _ in range(automaton.states)]
        for child in range(automaton.states):
            for step in range(automaton.first_step[child], automaton.first_step[child + 1]):
                source, target = int(automaton.step_source[step]), int(automaton.step_target[step])
                weight, rule = float(automaton.step_weight[step]), int(automaton.step_rule[step])
                self._steps_to[target].append((source, child, weight, rule))

    def __call__(self, state: int, start: int, end: int) -> tuple[int, list[_Node]]:
        """Rule and children of a symbol."""
        source, child, middle, rule = self._last_step(state, start, end)
        children = [(child, middle, end)]
        while middle > start:  # what stands left of the last child
            if self._is_prefix(source):
                source, child, next_middle, _ = self._last_step(source, start, middle)
                children.append((child, next_middle, middle))
                middle = next_middle
            else:
                children.append((source, start, middle))
                break
        return rule, children[::-1]

    def _is_prefix(self, state: int) -> bool:
        return bool(self._steps_to[state]) and self._steps_to[state][0][3] < 0

    def _last_step(self, state: int, start: int, end: int) -> tuple[int, int, int, int]:
        """Source, child, start of the child, and rule of the best step to a span."""
        best, found = -1.0, (EMPTY, EMPTY, start, EMPTY)
        begin = self._begin[end]
        for source, child, weight, rule in self._steps_to[state]:
            for right in range(begin[child], begin[child + 1]):
                middle = self._start[right]
                left = 1.0 if source == EMPTY and middle == start else self._value_of(source, start, middle)
                value = weight * self._value[right] * left
                if left >= 0 and value > best:
                    best, found = value, (source, child, middle, rule)
        return found

    def _value_of(self, state: int, start: int, end: int) -> float:
        """Value of a span, or -1 if there is none."""
        if state != EMPTY and end > start:
            begin = self._begin[end]
            for span in range(begin[state], begin[state + 1]):
                if self._start[span] == start:
                    return self._value[span]
        return -1.0
