"""The compiled loops of solving: the order of a solution, its steps and their values, and the hash of its template.

- A solution is a list of parameters; each is computed in as many steps as it takes operations. The results of steps are
  called by letters, which are numbers here, in the order in which they are first written: first that of the sentence's
  parameter, which the last step gives, then one for every other step.
- A template is a solution of which only the form is left (§3): one kind of name for instance parameters and one for
  abstract ones, letters in the order of their use, 0 for every number. Its hash decides on which side of the split a
  problem is. `physlm.worlds.igsm.templates` says the same in plain text.

Compiled by numba when first called; the result is kept on disk where that can be written.

Shapes: N problems, T steps, at most 52.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.kernels import DIFFERENCE, LETTERS, NO_CONSTANT, TIMES, Drawing, Settings, draw_letters
from physlm.worlds.igsm.random_kernels import Mask, Stream, below, bit, members, pick
from physlm.worlds.igsm.structure_kernels import PARAMETERS, Graph, define_abstract, empty_graph

CONSTANT, COPIED, PLUS, MINUS, PRODUCT = range(5)
"""What a step does: it states a constant, copies one letter, or combines two operands."""

_NONE = np.uint64(0)


class Steps(NamedTuple):
    """The steps of N solutions.

    An operand is the number of a letter, or `-1 - c` for the constant c.

    Attributes:
        total: number of steps, which is that of operations, `[N]`; 0 if there are more than letters, and -1 if
            something is computed before what it needs.
        in_sentence: number of steps in every sentence, 0 after the last, `[N, 64]`.
        kind: what every step does, `[N, T]`.
        left: first operand, `[N, T]`; the only one of constants and copies.
        right: second operand, `[N, T]`.
        value: what comes out, by letter, `[N, T]`.
    """

    total: NDArray[np.int64]
    in_sentence: NDArray[np.int64]
    kind: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.int64]


# ----------------------------------------------------------------------------------------------------------------------
# The graph of a problem that is there, and orders in it
# ----------------------------------------------------------------------------------------------------------------------


@compiled
def graph_of(row: int, drawing: Drawing, graph: Graph) -> int:
    """Read the problem's structure and dependencies; returns the number of parameters."""
    edges = drawing.edges[row]
    graph.widths[:] = drawing.widths[row]
    graph.instance[:] = -1
    for p in range(edges):
        layer, parent, child = drawing.edge[row, p]
        graph.instance[layer, parent, child] = p
    parameters = define_abstract(edges, drawing.layers[row], graph)
    for p in range(edges):
        terms = 0
        while terms < drawing.operands.shape[2] and drawing.operands[row, p, terms] >= 0:
            graph.predecessors[p] |= bit(drawing.operands[row, p, terms])
            terms += 1
        graph.operations[p] = max(1, terms - (drawing.operator[row, p] == NO_CONSTANT))
    return parameters


@compiled
def _random_order(stream: Stream, mask: Mask, last: int, graph: Graph, order: NDArray[np.int64]) -> int:
    """A topological order of a set up to `last`, uniform at every place among what can come next; its length."""
    found = np.empty(PARAMETERS, np.int64)
    done, count = _NONE, 0
    while True:
        ready = _NONE
        for i in range(members(mask & ~done, found)):
            if graph.predecessors[found[i]] & ~done == _NONE:
                ready |= bit(found[i])
        order[count] = pick(stream, ready, found)
        done |= bit(order[count])
        count += 1
        if order[count - 1] == last:
            return count


@compiled
def _solve_in_random_order(
    row: int, mask: Mask, query: int, graph: Graph, drawing: Drawing, settings: Settings
) -> None:
    """Replace solution and letters; the number of operations becomes 0 if there are more than letters."""
    solution = drawing.solution[row]
    count = _random_order(drawing.streams[row], mask, query, graph, solution)
    solution[count:] = -1
    total = 0
    for i in range(count):
        total += graph.operations[solution[i]]
    drawing.operations[row] = total if total <= settings.letters else 0
    if total <= settings.letters:
        draw_letters(row, drawing, settings)


@compiled
def ask_again(rows: NDArray[np.int64], drawing: Drawing, settings: Settings) -> None:
    """Ask for any parameter of each problem and solve for that, in a random order (§3, *reask*).

    The number of operations becomes 0 where they are more than letters.
    """
    graph, found = empty_graph(), np.empty(PARAMETERS, np.int64)
    for row in rows:
        if drawing.operations[row] == 0:
            continue
        query = below(drawing.streams[row], graph_of(row, drawing, graph))
        needed = front = bit(query)
        while front != _NONE:
            further = _NONE
            for i in range(members(front, found)):
                further |= graph.predecessors[found[i]]
            front = further & ~needed
            needed |= further
        _solve_in_random_order(row, needed, query, graph, drawing, settings)


@compiled
def solve_everything(rows: NDArray[np.int64], drawing: Drawing, settings: Settings) -> None:
    """Compute whatever the problem uses, in a random order up to the query (§2.7, level 0).

    The number of operations becomes 0 where they are more than letters.
    """
    graph = empty_graph()
    for row in rows:
        if drawing.operations[row] == 0:
            continue
        graph_of(row, drawing, graph)
        query = drawing.solution[row, np.count_nonzero(drawing.solution[row] >= 0) - 1]
        _solve_in_random_order(row, drawing.used[row] | bit(query), query, graph, drawing, settings)


# ----------------------------------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------------------------------


@compiled
def _number_of(operand: int, values: NDArray[np.int64]) -> int:
    return -1 - operand if operand < 0 else values[operand]


@compiled
def _step(row: int, at: int, result: int, kind: int, left: int, right: int, modulus: int, steps: Steps) -> None:
    """Write step `at`, whose result has the letter `result`."""
    steps.kind[row, at], steps.left[row, at], steps.right[row, at] = kind, left, right
    a, b = _number_of(left, steps.value[row]), _number_of(right, steps.value[row])
    if kind == PLUS:
        a = (a + b) % modulus
    elif kind == MINUS:
        a = (a - b) % modulus
    elif kind == PRODUCT:
        a = a * b % modulus
    steps.value[row, result] = a


@compiled
def _terms(row: int, p: int, graph: Graph, drawing: Drawing, found: NDArray[np.int64]) -> tuple[int, bool]:
    """What a parameter adds up, in order, as one parameter each, or as two if products are added."""
    count = 0
    if p < drawing.edges[row]:
        while count < drawing.operands.shape[2] and drawing.operands[row, p, count] >= 0:
            found[count] = drawing.operands[row, p, count]
            count += 1
        return count, False
    for layer in range(graph.abstract.shape[0]):
        for item in range(graph.abstract.shape[1]):
            for category in range(graph.abstract.shape[2]):
                if graph.abstract[layer, item, category] != p:
                    continue
                is_product = category > layer + 1
                for child in range(graph.widths[layer + 1]):
                    if graph.instance[layer, item, child] >= 0:
                        found[count] = graph.instance[layer, item, child]
                        count += 1
                        if is_product:
                            found[count] = graph.abstract[layer + 1, child, category]
                            count += 1
                return (count // 2 if is_product else count), is_product
    return 0, False


@compiled
def solve(rows: NDArray[np.int64], drawing: Drawing, modulus: int, steps: Steps) -> None:
    """The steps of the solutions at `rows`, sentence by sentence."""
    graph, found = empty_graph(), np.empty(2 * PARAMETERS, np.int64)
    letter = np.empty(PARAMETERS, np.int64)
    for row in rows:
        at, done = 0, _NONE
        graph_of(row, drawing, graph)
        steps.in_sentence[row] = 0
        for sentence in range(PARAMETERS):
            p = drawing.solution[row, sentence]
            if p < 0:
                break
            if graph.predecessors[p] & ~done != _NONE or at + graph.operations[p] > LETTERS:
                at = -1 if graph.predecessors[p] & ~done != _NONE else 0
                break
            own, first = at, at
            last = at + graph.operations[p] - 1
            count, is_product = _terms(row, p, graph, drawing, found)
            operator = drawing.operator[row, p] if p < drawing.edges[row] else NO_CONSTANT
            combine = PLUS
            if p < drawing.edges[row] and drawing.combination[row, p] == DIFFERENCE:
                combine = MINUS
            # What was computed so far of this sentence; each step but the last has a letter after the parameter's own.
            total = -1
            if count == 0:
                constant = int(drawing.constant[row, p]) if p < drawing.edges[row] else 0
                _step(row, at, own, CONSTANT, -1 - constant, -1, modulus, steps)
                at += 1
            for term in range(count):
                if is_product:
                    result = own if at == last else at + 1
                    inner, outer = int(letter[found[2 * term]]), int(letter[found[2 * term + 1]])
                    _step(row, at, result, PRODUCT, inner, outer, modulus, steps)
                    at += 1
                    operand = result
                else:
                    operand = int(letter[found[term]])
                if term == 0:
                    total = operand
                else:
                    result = own if at == last else at + 1
                    _step(row, at, result, combine, total, operand, modulus, steps)
                    at += 1
                    total = result
            if operator != NO_CONSTANT and count > 0:
                kind = PRODUCT if operator == TIMES else PLUS
                _step(row, at, own, kind, -1 - int(drawing.constant[row, p]), total, modulus, steps)
                at += 1
            elif count == 1 and not is_product:
                _step(row, at, own, COPIED, total, -1, modulus, steps)
                at += 1
            letter[p] = own
            done |= bit(p)
            steps.in_sentence[row, sentence] = at - first
        steps.total[row] = at
