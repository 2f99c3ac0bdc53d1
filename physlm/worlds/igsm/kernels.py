"""The compiled loops of drawing: hyperparameters, then structure, dependencies, formulas and names of many problems.

- The algorithms are those of Physics of Language Models 2.1, App. D, numbered as there; the specification (§1.4–1.10)
  says what the paper leaves open. Plain versions, against which these are tested: `tests/worlds/igsm/igsm_plain.py`.
- Parameters are numbered as in `Problem.parameters`: the edges, then the abstract ones. Sets of them are the bits of an
  integer. Whether a random constant is among what an edge depends on is kept apart.
- `draw` makes whole problems. `draw_operations` says before how many operations each must have; that number stays
  while other things are drawn again, or what succeeds more often would be more frequent.

Compiled by numba when first called, for half a minute in all; the result is kept on disk where that can be written.
What is kept is renewed when its own file changes only: after a change in one of the modules `*_kernels` that others
import, remove `__pycache__`.

Shapes: N problems, E edges at most, 4 layers and items in each, 4 operands, 64 parameters, 52 letters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.dependency_kernels import (
    draw_necessary_1,
    draw_necessary_2,
    draw_necessary_3,
    draw_unnecessary,
)
from physlm.worlds.igsm.random_kernels import Stream, below, between, bit, coin, members, shuffle, uniform
from physlm.worlds.igsm.structure_kernels import (
    LAYERS,
    PARAMETERS,
    Graph,
    define_abstract,
    draw_structure,
    empty_graph,
)
from physlm.worlds.igsm.structure_kernels import WIDEST as WIDEST

LETTERS = 52
TERMS = 4
"""Most operands of a formula."""

# Combinations, operators and distributions as numbers, in the order of their names in `problem` and `config`.
NO_OPERANDS, COPY, SUM, DIFFERENCE = range(4)
NO_CONSTANT, MORE, TIMES = range(3)
LIGHT, UNIFORM, MIDDLE, HEAVY = range(4)

_STRUCTURES = 1000
"""Structures that are tried with the same hyperparameters."""
_PASSES = 20_000
"""Hyperparameters that are tried before a problem is given up."""
_NONE = np.uint64(0)


class Settings(NamedTuple):
    """What of `IGSMConfig` drawing depends on, as numbers.

    Attributes:
        max_operations, max_instances, modulus, categorizations, letters, shuffled_letters: as there.
        distribution, bias: as there.
        groups: sizes of the groups of names in a category.
    """

    max_operations: int
    max_instances: int
    modulus: int
    categorizations: int
    distribution: int
    bias: int
    groups: NDArray[np.int64]
    letters: int
    shuffled_letters: bool


class Drawing(NamedTuple):
    """N problems; the fields of `Problem`, and what else drawing them takes.

    Attributes:
        streams: where the random numbers of each come from, `[N, 2]`.
        operations: how many operations the solution has, or 0 if no such problem was found, `[N]`.
        layers: number of layers, `[N]`.
        widths: items of every layer, `[N, 4]`.
        categorization: as in `Problem`, `[N]`; likewise `first_category`.
        names: numbers of the items' names, `[N, 4, 4]`.
        edges: number of edges, `[N]`.
        edge: layer and number of the parent, and number of the child, `[N, E, 3]`, in this order.
        operands: of the formula of every edge, in the order printed, -1 after the last, `[N, E, 4]`.
        combination: of the operands, `[N, E]`; likewise `operator`, `constant`.
        told: order of the sentences, `[N, E]`.
        used: the parameters that the query or any instance parameter depends on, and these, `[N]`.
        solution: parameters in the order of the solution, -1 after the last, `[N, 64]`.
        letters: in the order of their use, as many as operations, `[N, 52]`.
        template: the first 64 bits of the hash of the solution template, `[N]`.
    """

    streams: NDArray[np.uint64]
    operations: NDArray[np.int64]
    layers: NDArray[np.int64]
    widths: NDArray[np.int64]
    categorization: NDArray[np.int64]
    first_category: NDArray[np.int64]
    names: NDArray[np.int64]
    edges: NDArray[np.int64]
    edge: NDArray[np.int64]
    operands: NDArray[np.int64]
    combination: NDArray[np.int64]
    operator: NDArray[np.int64]
    constant: NDArray[np.int64]
    told: NDArray[np.int64]
    used: NDArray[np.uint64]
    solution: NDArray[np.int64]
    letters: NDArray[np.int64]
    template: NDArray[np.uint64]


@compiled
def draw_operations(rows: NDArray[np.int64], drawing: Drawing, settings: Settings) -> None:
    """How many operations the problems at `rows` must have (§1.4, step 1, and the variants of the released code)."""
    most = settings.max_operations
    for row in rows:
        stream = drawing.streams[row]
        first = between(stream, 1, most)
        if settings.distribution == LIGHT:
            first = min(first, between(stream, 1, most))
        elif settings.distribution == MIDDLE:
            first = max(first, between(stream, 1, most), between(stream, 1, most))
        elif settings.distribution == HEAVY:
            first = between(stream, between(stream, first, most), most)
        drawing.operations[row] = first


@compiled
def _draw_of_three(stream: Stream, relative: float) -> int:
    """2, 3 or 4, the larger the more operations there are (§1.4, step 3)."""
    weight_2 = math.exp(-((relative - 0.2) ** 2))
    weight_3 = math.exp(-((relative - 0.5) ** 2))
    weight_4 = math.exp(-((relative - 0.8) ** 2))
    at = uniform(stream) * (weight_2 + weight_3 + weight_4)
    if at < weight_2:
        return 2
    return 3 if at < weight_2 + weight_3 else 4


@compiled
def _draw_graph(
    stream: Stream, target: int, settings: Settings, graph: Graph, order: NDArray[np.int64]
) -> tuple[int, int, int, int]:
    """Structure and necessary dependencies (§1.4, steps 2–6): layers, edges, parameters, length of the solution.

    All are 0 if no such problem was found.
    """
    limit = settings.max_instances
    for _ in range(_PASSES):
        most = max(between(stream, 1, target), between(stream, 1, target))
        budget = between(stream, most, target)
        relative = (target - 1) / (limit - 1)
        while True:
            layers = _draw_of_three(stream, relative)
            narrowest, widest = _draw_of_three(stream, relative), _draw_of_three(stream, relative)
            narrowest, widest = min(narrowest, widest), max(narrowest, widest)
            fewest = (layers - 1) * narrowest
            if fewest <= limit:
                break
        edges = min(between(stream, fewest, limit), between(stream, fewest, limit), (layers - 1) * widest**2)
        for _ in range(_STRUCTURES):
            draw_structure(stream, edges, layers, narrowest, widest, graph)
            parameters = define_abstract(edges, layers, graph)
            chosen = draw_necessary_1(stream, most, budget, edges, parameters, layers, graph)
            count = draw_necessary_2(stream, chosen, settings.bias, graph, order)
            if count > 0:
                if draw_necessary_3(stream, order, count, target, graph):
                    return layers, edges, parameters, count
                break
    return 0, 0, 0, 0


@compiled
def _draw_formulas(stream: Stream, row: int, modulus: int, graph: Graph, drawing: Drawing) -> None:
    """Algorithm 6: how the predecessors of every edge are combined, and the constants (§1.10)."""
    found = np.empty(PARAMETERS, np.int64)
    for p in range(drawing.edges[row]):
        count = members(graph.predecessors[p], found)
        shuffle(stream, found, count, count)
        drawing.operands[row, p, :count] = found[:count]
        drawing.operands[row, p, count:] = -1
        combination, operator, constant = NO_OPERANDS, NO_CONSTANT, 0
        if count == 1:
            combination = COPY
        elif count > 1:
            combination = DIFFERENCE if count == 2 and coin(stream) else SUM
        if graph.constant[p]:
            if count > 0:
                operator = MORE if coin(stream) else TIMES
            constant = between(stream, 1 if operator == TIMES else 0, modulus - 1)
        drawing.combination[row, p], drawing.operator[row, p] = combination, operator
        drawing.constant[row, p] = constant


@compiled
def _draw_names(stream: Stream, row: int, settings: Settings, drawing: Drawing) -> None:
    """The names of the items: for every layer some from one group of names (§1.2)."""
    layers = drawing.layers[row]
    drawing.categorization[row] = below(stream, settings.categorizations)
    drawing.first_category[row] = between(stream, 0, LAYERS - layers)
    for layer in range(layers):
        group = below(stream, len(settings.groups))
        candidates = settings.groups[:group].sum() + np.arange(settings.groups[group])
        width = drawing.widths[row, layer]
        shuffle(stream, candidates, width, len(candidates))
        drawing.names[row, layer, :width] = candidates[:width]


@compiled
def draw_letters(row: int, drawing: Drawing, settings: Settings) -> None:
    """As many different letters of those in use as the solution has operations: any, or one and those behind it."""
    letters, count = drawing.letters[row], settings.letters
    first = 0 if settings.shuffled_letters else below(drawing.streams[row], count)
    for i in range(count):
        letters[i] = (first + i) % count
    if settings.shuffled_letters:
        shuffle(drawing.streams[row], letters, drawing.operations[row], count)


@compiled
def draw(rows: NDArray[np.int64], drawing: Drawing, settings: Settings) -> None:
    """Draw the problems at `rows`; each goes on with its own stream.

    Where no problem of as many operations is found, their number is set to 0.
    """
    graph, order = empty_graph(), np.empty(PARAMETERS, np.int64)
    for row in rows:
        stream = drawing.streams[row]
        layers, edges, parameters, count = _draw_graph(stream, int(drawing.operations[row]), settings, graph, order)
        if count == 0:
            drawing.operations[row] = 0
            continue
        drawing.layers[row], drawing.edges[row] = layers, edges
        drawing.widths[row] = graph.widths
        for layer in range(layers - 1):
            for parent in range(graph.widths[layer]):
                for child in range(graph.widths[layer + 1]):
                    p = graph.instance[layer, parent, child]
                    if p >= 0:
                        edge = drawing.edge[row, p]
                        edge[0], edge[1], edge[2] = layer, parent, child
        necessary = _NONE
        for i in range(count):
            necessary |= bit(order[i])
        drawing.solution[row, :count], drawing.solution[row, count:] = order[:count], -1
        drawing.used[row] = draw_unnecessary(stream, necessary, edges, parameters, graph)
        _draw_formulas(stream, row, settings.modulus, graph, drawing)
        _draw_names(stream, row, settings, drawing)
        told = drawing.told[row]
        for p in range(edges):
            told[p] = p
        shuffle(stream, told, edges, edges)
        draw_letters(row, drawing, settings)
