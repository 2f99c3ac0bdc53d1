"""The compiled loops behind wrong attempts in solutions: which parameters are candidates, and what they are called.

Compiled by numba when first called; the result is kept on disk where that can be written.

Shapes: N problems, P sentences of all their solutions, A attempts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.kernels import Drawing
from physlm.worlds.igsm.random_kernels import Mask, bit, contains, members
from physlm.worlds.igsm.rendering_kernels import Codes, Page, find_names
from physlm.worlds.igsm.solution_kernels import graph_of
from physlm.worlds.igsm.structure_kernels import PARAMETERS, Graph, empty_graph

NOT_READY, LATER, ANY = range(3)
"""Which parameters are candidates: those that cannot be computed next, those that the rest of the solution computes,
or those of the problem that have not been computed."""

_NONE = np.uint64(0)


@compiled
def _not_ready(parameters: int, done: Mask, graph: Graph) -> Mask:
    found = _NONE
    for p in range(parameters):
        if graph.predecessors[p] & ~done != _NONE and not contains(done, p):
            found |= bit(p)
    return found


@compiled
def _mentioned(row: int, graph: Graph, drawing: Drawing) -> Mask:
    """The instance parameters, and the abstract ones that some of them, or the query, are computed from."""
    found = _NONE
    for p in range(drawing.edges[row]):
        found |= bit(p)
        for operand in drawing.operands[row, p]:
            if operand >= 0:
                found |= graph.closure[operand]
    for p in drawing.solution[row]:
        if p >= 0:
            found |= bit(p)
    return found


@compiled
def find_candidates(
    drawing: Drawing,
    which: int,
    include_next: bool,
    first: NDArray[np.int64],
    masks: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    """The candidates before every sentence of the solutions.

    Args:
        drawing: the problems.
        which: `NOT_READY`, `LATER` or `ANY`.
        include_next: whether the parameter of the sentence itself is a candidate.
        first: gets the number of the first sentence of every problem, and of all, `[N + 1]`.
        masks: gets the candidates as sets of parameters, `[P]`.
        counts: gets their numbers, `[P]`.
    """
    graph, room = empty_graph(), np.empty(PARAMETERS, np.int64)
    at = 0
    for row in range(len(drawing.operations)):
        first[row] = at
        parameters = graph_of(row, drawing, graph)
        solution = drawing.solution[row]
        done = later = _NONE
        for p in solution:
            if p >= 0:
                later |= bit(p)
        mentioned = _mentioned(row, graph, drawing) if which == ANY else _NONE
        for following in solution:
            if following < 0:
                break
            later &= ~bit(following)
            if which == NOT_READY:
                found = _not_ready(parameters, done, graph)
            elif which == LATER:
                found = later
            else:
                found = mentioned & ~done & ~bit(following)
            if include_next:
                found |= bit(following)
            masks[at], counts[at] = found, members(found, room)
            done |= bit(following)
            at += 1
    first[len(drawing.operations)] = at


@compiled
def name_candidates(
    rows: NDArray[np.int64],
    masks: NDArray[np.uint64],
    numbers: NDArray[np.int64],
    drawing: Drawing,
    codes: Codes,
    page: Page,
    names: NDArray[np.int64],
) -> None:
    """Parameter, outer and inner name of each attempt, `[A, 3]`: member `numbers[a]` of `masks[a]`.

    `rows` says of which problem; those whose attempts are neighbours are looked up once, for which `page` is room.
    """
    found = np.empty(PARAMETERS, np.int64)
    for attempt in range(len(rows)):
        if attempt == 0 or rows[attempt] != rows[attempt - 1]:
            find_names(rows[attempt], drawing, codes, page)
        members(masks[attempt], found)
        p = found[numbers[attempt]]
        names[attempt, 0], names[attempt, 1], names[attempt, 2] = p, page.outer[p], page.inner[p]
