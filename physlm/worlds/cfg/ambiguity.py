"""Derivations of a string in any grammar: how many there are, and the most probable one.

Both go over all spans, short ones first, and keep for every span the states it can be. Rules with one child are
followed afterwards: to count, in an order in which children come first; for the best, until nothing improves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.derivation import Tree
from physlm.worlds.cfg.steps import Steps

_Back: TypeAlias = "tuple[int, int, int] | int | None"
"""What a span was made of: (left state, middle, right symbol), the only child, or nothing for a terminal."""


def count_trees(steps: Steps, allowed: NDArray[np.bool_], root: str) -> int | float:
    """Number of derivations of a string, infinite if rules with one child can go round in circles.

    Args:
        steps: of the grammar.
        allowed: which terminals agree with each position, `[N, T]`.
        root: the symbol to derive from.
    """
    groups = _unit_groups(steps)
    found: dict[tuple[int, int], dict[int, int | float]] = {}
    for start, end in _spans(len(allowed)):
        here: dict[int, int | float] = {}
        if end == start + 1:
            here = dict.fromkeys(np.flatnonzero(allowed[start]).tolist(), 1)
        for middle in range(start + 1, end):
            left, right = found[start, middle], found[middle, end]
            for source, child, target, _ in steps.pairs:
                if source in left and child in right:
                    here[target] = here.get(target, 0) + left[source] * right[child]
        for group, children, is_circular in groups:
            from_children = sum(here.get(child, 0) for child in children)
            if is_circular and (from_children or any(here.get(symbol) for symbol in group)):
                here.update(dict.fromkeys(group, math.inf))
            elif from_children:
                here[group[0]] = here.get(group[0], 0) + from_children
        found[start, end] = here
    return found.get((0, len(allowed)), {}).get(steps.names.index(root), 0)


def best_tree(steps: Steps, weights: NDArray[np.float64], root: str) -> tuple[Tree, float] | None:
    """The most probable derivation and its probability in bits, or `None` if there is none.

    Args:
        steps: of the grammar.
        weights: of every terminal at every position, `[N, T]`.
        root: the symbol to derive from.
    """
    bits = [math.log2(weight) for *_, weight in steps.pairs]
    units = [(child, parent, math.log2(weight)) for child, parent, weight in steps.units]
    found: dict[tuple[int, int], dict[int, tuple[float, _Back]]] = {}
    for start, end in _spans(len(weights)):
        here: dict[int, tuple[float, _Back]] = {}
        if end == start + 1:
            here = {int(t): (math.log2(weights[start, t]), None) for t in np.flatnonzero(weights[start])}
        for middle in range(start + 1, end):
            left, right = found[start, middle], found[middle, end]
            for (source, child, target, _), weight in zip(steps.pairs, bits, strict=True):
                if source in left and child in right:
                    value = left[source][0] + right[child][0] + weight
                    if target not in here or value > here[target][0]:
                        here[target] = (value, (source, middle, child))
        improves = True
        while improves:  # ends, as going round in a circle never improves anything
            improves = False
            for child, parent, weight in units:
                if child in here and (parent not in here or here[child][0] + weight > here[parent][0]):
                    here[parent] = (here[child][0] + weight, child)
                    improves = True
        found[start, end] = here
    number = steps.names.index(root)
    if number not in found.get((0, len(weights)), {}):
        return None

    def forest(state: int, start: int, end: int) -> tuple[Tree, ...]:
        """The trees below a prefix, or the one of a symbol."""
        back = found[start, end][state][1]
        if back is None:
            return (steps.names[state],)
        if isinstance(back, int):
            below = forest(back, start, end)
        else:
            left, middle, right = back
            below = forest(left, start, middle) + forest(right, middle, end)
        return ((steps.names[state], below),) if state < len(steps.names) else below

    (tree,) = forest(number, 0, len(weights))
    return tree, found[0, len(weights)][number][0]


def _spans(length: int) -> Iterator[tuple[int, int]]:
    """All spans, each after those it is made of."""
    for end in range(1, length + 1):
        for start in range(end - 1, -1, -1):
            yield start, end


def _unit_groups(steps: Steps) -> list[tuple[list[int], list[int], bool]]:
    """Symbols that are reached by rules with one child, children before parents.

    Returns:
        For every group of symbols that reach each other: the group, the children of its rules that are outside it,
        one for each rule, and whether it goes round in circles. A group that does not is a single symbol.
    """
    symbols = len(steps.names)
    edges = np.zeros((symbols, symbols), dtype=np.int64)  # from parent to child
    for child, parent, _ in steps.units:
        edges[parent, child] = 1
    reached = edges
    for _ in range(symbols.bit_length()):
        reached = np.minimum(reached + reached @ reached, 1)
    groups = []
    sizes = np.maximum(reached, np.eye(symbols, dtype=np.int64)).sum(axis=1)  # larger for parents than for children
    for symbol in np.argsort(sizes, kind="stable").tolist():
        together = sorted({symbol, *np.flatnonzero(reached[symbol] & reached[:, symbol]).tolist()})
        if edges[symbol].any() and symbol == together[0]:
            outside = [child for child, parent, _ in steps.units if parent in together and child not in together]
            groups.append((together, outside, bool(reached[symbol, symbol])))
    return groups
