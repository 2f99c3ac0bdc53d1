"""The compiled loops that draw structures: layers of items, which are inside which, and what follows from it.

Specification, §1.5; Physics of Language Models 2.1, App. D.1, Algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.random_kernels import Stream, below, bit, uniform

LAYERS = WIDEST = 4
"""Most layers, and items in one."""
PARAMETERS = 64

_NONE = np.uint64(0)


class Graph(NamedTuple):
    """One problem while it is drawn: structure, and what depends on what.

    Attributes:
        widths: items of every layer, `[4]`.
        instance: number of the parameter of an item and one of the next layer, or -1, by layer and both, `[4, 4, 4]`.
        abstract: number of the parameter of an item and a category, or -1, by layer, item and category, `[4, 4, 4]`.
        level: how many layers the category of an abstract parameter is below its item; 0 for an edge, `[64]`.
        predecessors: what each is computed from directly, `[64]`.
        closure: an abstract parameter and all that it depends on by structure; of an edge, itself, `[64]`.
        operations: that each takes, `[64]`.
        constant: whether a random constant is among what an edge depends on, `[64]`.
    """

    widths: NDArray[np.int64]
    instance: NDArray[np.int64]
    abstract: NDArray[np.int64]
    level: NDArray[np.int64]
    predecessors: NDArray[np.uint64]
    closure: NDArray[np.uint64]
    operations: NDArray[np.int64]
    constant: NDArray[np.bool_]


@compiled
def empty_graph() -> Graph:
    """Room for one problem."""
    return Graph(
        np.zeros(LAYERS, np.int64),
        np.zeros((LAYERS, WIDEST, WIDEST), np.int64),
        np.zeros((LAYERS, WIDEST, LAYERS), np.int64),
        np.zeros(PARAMETERS, np.int64),
        np.zeros(PARAMETERS, np.uint64),
        np.zeros(PARAMETERS, np.uint64),
        np.zeros(PARAMETERS, np.int64),
        np.zeros(PARAMETERS, np.bool_),
    )


@compiled
def _pairs(widths: NDArray[np.int64], layers: int) -> int:
    """How many edges there can be."""
    total = 0
    for layer in range(layers - 1):
        total += widths[layer] * widths[layer + 1]
    return total


@compiled
def draw_structure(stream: Stream, edges: int, layers: int, narrowest: int, widest: int, graph: Graph) -> None:
    """Algorithm 1: layers of items, every item in at least one of the layer above; `edges` edges in all."""
    widths, instance = graph.widths, graph.instance
    widths[:] = 0
    widths[:layers] = narrowest
    chance = uniform(stream)
    while widths[:layers].min() < widest:
        fewest = widths[1:layers].sum()
        if _pairs(widths, layers) >= edges and (fewest == edges or uniform(stream) >= chance):
            break
        growing = below(stream, (widths[:layers] < widest).sum())
        for layer in range(layers):
            if widths[layer] < widest:
                if growing == 0:
                    widths[layer] += 1
                    break
                growing -= 1

    instance[:] = -1
    for layer in range(1, layers):
        for child in range(widths[layer]):
            instance[layer - 1, below(stream, widths[layer - 1]), child] = 0
    missing = edges - widths[1:layers].sum()
    absent = _pairs(widths, layers) - widths[1:layers].sum()
    number = 0
    for layer in range(layers - 1):
        for parent in range(widths[layer]):
            for child in range(widths[layer + 1]):
                if instance[layer, parent, child] < 0:
                    if below(stream, absent) < missing:
                        instance[layer, parent, child] = 0
                        missing -= 1
                    absent -= 1
                if instance[layer, parent, child] == 0:
                    instance[layer, parent, child] = number
                    number += 1


@compiled
def define_abstract(edges: int, layers: int, graph: Graph) -> int:
    """Number the abstract parameters and say what they are computed from; returns the number of all parameters."""
    graph.level[:] = 0
    graph.predecessors[:] = _NONE
    graph.operations[:edges] = 1
    for p in range(edges):
        graph.closure[p] = bit(p)
    graph.abstract[:] = -1
    number = edges
    for layer in range(layers - 1):
        for item in range(graph.widths[layer]):
            for category in range(layer + 1, layers):
                graph.abstract[layer, item, category] = number
                number += 1
    for layer in range(layers - 2, -1, -1):
        for item in range(graph.widths[layer]):
            for category in range(layer + 1, layers):
                p = graph.abstract[layer, item, category]
                predecessors, closure, terms = _NONE, bit(p), 0
                for child in range(graph.widths[layer + 1]):
                    edge = graph.instance[layer, item, child]
                    if edge < 0:
                        continue
                    predecessors |= bit(edge)
                    closure |= bit(edge)
                    terms += 1
                    if category > layer + 1:
                        inside = graph.abstract[layer + 1, child, category]
                        predecessors |= bit(inside)
                        closure |= graph.closure[inside]
                        terms += 1
                graph.predecessors[p], graph.closure[p] = predecessors, closure
                graph.operations[p] = max(1, terms - 1)
                graph.level[p] = category - layer
    return number
