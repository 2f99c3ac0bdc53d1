"""The compiled loops that draw what depends on what: in the solution, and in the rest of a problem.

Specification, §1.6–1.9; Physics of Language Models 2.1, App. D.1, Algorithms 2–5.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.random_kernels import (
    Mask,
    Stream,
    below,
    bit,
    coin,
    contains,
    half_normal,
    members,
    pick,
    shuffle,
    uniform,
)
from physlm.worlds.igsm.structure_kernels import PARAMETERS, Graph

NEEDED, NOT_NEEDED = range(2)
"""Biases as numbers, in the order of their names in `config`."""

_MOST_IN_DEGREE = 4
_MOST_INSTANCE_OPERATIONS = 3
_NONE = np.uint64(0)


@compiled
def _total(mask: Mask, operations: NDArray[np.int64]) -> int:
    """Operations of all in a set."""
    total = 0
    for p in range(PARAMETERS):
        if contains(mask, p):
            total += operations[p]
    return total


@compiled
def draw_necessary_1(
    stream: Stream, most: int, budget: int, edges: int, parameters: int, layers: int, graph: Graph
) -> Mask:
    """Algorithm 2: which parameters the solution has.

    Args:
        stream: of the problem.
        most: operations that abstract parameters, and what they depend on, may take.
        budget: operations that these and further edges take, as long as there are edges.
        edges: number of edges.
        parameters: number of all parameters.
        layers: number of layers.
        graph: the problem.
    """
    chosen, candidates, free = _NONE, np.empty(PARAMETERS, np.int64), np.empty(PARAMETERS, np.int64)
    updated = True
    while updated:
        updated = False
        for level in range(layers - 1, 0, -1):
            count = 0
            for p in range(edges, parameters):
                if graph.level[p] == level and not contains(chosen, p):
                    candidates[count] = p
                    count += 1
            if count > 0:
                further = chosen | graph.closure[candidates[below(stream, count)]]
                if _total(further, graph.operations) <= most:
                    chosen, updated = further, True
                    break
    count = 0
    for p in range(edges):
        if not contains(chosen, p):
            free[count] = p
            count += 1
    wanted = min(count, budget - _total(chosen, graph.operations))
    shuffle(stream, free, wanted, count)
    for i in range(wanted):
        chosen |= bit(free[i])
    return chosen


@compiled
def _biased_pick(
    stream: Stream, mask: Mask, preferred: Mask, strength: float, graph: Graph, found: NDArray[np.int64]
) -> int:
    """A member of a set; abstract and preferred ones are each exp(strength) times as likely."""
    count = members(mask, found)
    factor = math.exp(strength)
    total = 0.0
    for i in range(count):
        total += _weight(found[i], preferred, factor, graph)
    at = uniform(stream) * total
    for i in range(count):
        at -= _weight(found[i], preferred, factor, graph)
        if at < 0.0:
            return found[i]
    return found[count - 1]


@compiled
def _weight(p: int, preferred: Mask, factor: float, graph: Graph) -> float:
    weight = factor if graph.level[p] > 0 else 1.0
    return weight * factor if contains(preferred, p) else weight


@compiled
def draw_necessary_2(stream: Stream, chosen: Mask, bias: int, graph: Graph, order: NDArray[np.int64]) -> int:
    """Algorithm 3: the order of the solution, from its end, and at most one predecessor for every edge.

    Args:
        stream: of the problem.
        chosen: the parameters of the solution.
        bias: which parameters are preferred as predecessors.
        graph: gets the predecessors of edges; those of edges in `chosen` must be none before.
        order: gets the order.

    Returns:
        Number of parameters, or 0 if this attempt fails.
    """
    found = np.empty(PARAMETERS, np.int64)
    count = at = members(chosen, found)
    rest, needed = chosen, _NONE  # not placed yet; predecessors of what is placed
    free = _unconsumed(rest, graph, found)
    chance, strength = uniform(stream), half_normal(stream)
    while True:
        x = pick(stream, free if at == count else free & needed, found)
        at -= 1
        order[at] = x
        rest &= ~bit(x)
        needed |= graph.predecessors[x]
        if at == 0:
            return count
        free = _unconsumed(rest, graph, found)
        preferred = needed if bias == NEEDED else ~needed
        y = -1
        if free & needed == _NONE:
            if graph.level[x] > 0:
                return 0
            y = _biased_pick(stream, free, preferred, strength, graph, found)
        elif graph.level[x] == 0 and uniform(stream) < chance:
            y = _biased_pick(stream, rest, preferred, strength, graph, found)
        if y >= 0:
            graph.predecessors[x] |= bit(y)
            needed |= bit(y)


@compiled
def _unconsumed(mask: Mask, graph: Graph, found: NDArray[np.int64]) -> Mask:
    """Members of a set that no other member is computed from."""
    consumed = _NONE
    for i in range(members(mask, found)):
        consumed |= graph.predecessors[found[i]]
    return mask & ~consumed


@compiled
def draw_necessary_3(stream: Stream, order: NDArray[np.int64], count: int, target: int, graph: Graph) -> bool:
    """Algorithm 4: further predecessors for edges, until the solution has `target` operations; false if it cannot."""
    operations, candidates = graph.operations, np.empty(PARAMETERS, np.int64)
    total = 0
    for i in range(count):
        total += operations[order[i]]
    while total < target:
        free = 0
        for i in range(count):
            if graph.level[order[i]] == 0 and operations[order[i]] < min(_MOST_INSTANCE_OPERATIONS, max(1, i)):
                candidates[free] = order[i]
                free += 1
        if free == 0:
            return False
        operations[candidates[below(stream, free)]] += 1
        total += 1
    if total != target:
        return False
    for i in range(count):
        a = order[i]
        if graph.level[a] > 0:
            continue
        pool, has_one = 0, graph.predecessors[a] != _NONE
        for j in range(i):
            if not contains(graph.predecessors[a], order[j]):
                candidates[pool] = order[j]
                pool += 1
        further = operations[a] + 1 if operations[a] > 1 or coin(stream) else 1
        further = min(further, i + 1) - has_one
        if further == pool + 1:
            graph.constant[a], further = True, pool
        else:
            graph.constant[a] = further > 0 and coin(stream)
            further -= graph.constant[a]
        _add_predecessors(stream, a, candidates, further, pool, graph)
    return True


@compiled
def _add_predecessors(stream: Stream, a: int, pool: NDArray[np.int64], count: int, total: int, graph: Graph) -> Mask:
    """Add `count` of `pool[:total]` to the predecessors of `a`; returns those added."""
    shuffle(stream, pool, count, total)
    added = _NONE
    for i in range(count):
        added |= bit(pool[i])
    graph.predecessors[a] |= added
    return added


@compiled
def draw_unnecessary(stream: Stream, necessary: Mask, edges: int, parameters: int, graph: Graph) -> Mask:
    """Algorithm 5: predecessors for the edges that the query does not need; returns all parameters then in use."""
    used, independent = necessary, _NONE
    pool, found = np.empty(PARAMETERS, np.int64), np.empty(PARAMETERS, np.int64)
    all_edges = _NONE
    for p in range(edges):
        all_edges |= bit(p)
    while all_edges & ~used != _NONE:
        a = pick(stream, all_edges & ~used, found)
        if coin(stream):
            available = independent
            independent |= bit(a)
        else:
            available = used
            for p in range(edges, parameters):
                if graph.closure[p] & all_edges & ~used == _NONE:
                    available |= bit(p)
        size = members(available, pool)
        count = 1
        while count < min(_MOST_IN_DEGREE, size + 1) and coin(stream):
            count += 1
        if count == size + 1:
            graph.constant[a], count = True, size
        else:
            graph.constant[a] = coin(stream)
            count -= graph.constant[a]
        added = _add_predecessors(stream, a, pool, count, size, graph)
        used |= bit(a)
        for i in range(members(added, found)):
            used |= graph.closure[found[i]]
    return used
