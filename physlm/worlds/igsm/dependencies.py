"""What depends on what in many problems at once, as bit masks: the full graph, its ancestors, and all values.

- The *full graph* holds every parameter that is defined: the instance parameters, and all abstract ones with what they
  are the sums of. Bit p of a mask stands for `Problem.parameters[p]`, so sets of parameters are `uint64`.
- Everything is computed from structure and formulas alone, for all problems in one pass of NumPy; the solution is used
  for nothing but its order and its query.
- Constants are no parameters: what only has a constant depends on nothing.

Shapes: N problems, D = 4 layers, W = 4 items in each, E edges, T = 4 terms, S sentences, P parameters.

Source: Physics of Language Models 2.1, §2.1, §4.1 and App. D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.igsm.drawing import drawing_of
from physlm.worlds.igsm.kernels import (
    DIFFERENCE,
    LAYERS,
    MORE,
    NO_OPERANDS,
    PARAMETERS,
    TERMS,
    TIMES,
    WIDEST,
    Drawing,
)
from physlm.worlds.igsm.problem import Problem

NONE = -1
"""No parameter, operand or sentence."""

Masks = NDArray[np.uint64]
Integers = NDArray[np.int64]
_ONE = np.uint64(1)


def bits(numbers: Integers) -> Masks:
    """The mask of each parameter alone; of `NONE`, the empty one."""
    present = numbers >= 0
    return np.where(present, _ONE << np.where(present, numbers, 0).astype(np.uint64), np.uint64(0))


def contains(masks: Masks, numbers: Integers) -> NDArray[np.bool_]:
    """Whether each mask has the parameter; `NONE` is in none. Shapes broadcast."""
    return (masks & bits(numbers)) != 0


@dataclass(frozen=True)
class Dependencies:
    """The full graphs of N problems.

    Example:
        >>> graphs = Dependencies.of([problem])
        >>> graphs.value[0, problem.query], int(graphs.necessary[0]).bit_count() == len(problem.solution)
        (2, True)

    Attributes:
        drawing: the problems.
        modulus: of all of them.

    Raises:
        ValueError: if there is no problem, or a parameter depends on itself.
    """

    drawing: Drawing
    modulus: int

    def __post_init__(self) -> None:
        if not len(self):
            raise ValueError("problems must hold at least one problem, got none")
        is_circular = contains(self.ancestors, self._numbers).any(axis=1)
        if is_circular.any():
            raise ValueError(f"no parameter may depend on itself, got one that does in problem {is_circular.argmax()}")

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Dependencies:
        """The full graphs of these problems.

        Raises:
            ValueError: besides, if they have not all the same modulus.
        """
        moduli = sorted({problem.modulus for problem in problems})
        if len(moduli) > 1:
            raise ValueError(f"problems must have one modulus, got {', '.join(map(str, moduli))}")
        return cls(drawing_of(problems), moduli[0] if moduli else 0)

    def __len__(self) -> int:
        return len(self.drawing.layers)

    @cached_property
    def widths(self) -> Integers:
        """Items of every layer, 0 beyond the last, `[N, D]`."""
        return np.where(np.arange(LAYERS) < self.drawing.layers[:, None], self.drawing.widths, 0)

    @cached_property
    def count(self) -> Integers:
        """Number of parameters, `[N]`."""
        below = np.maximum(0, self.drawing.layers[:, None] - 1 - np.arange(LAYERS))
        return self.drawing.edges + (self.widths * below).sum(axis=1)

    @cached_property
    def _numbers(self) -> Integers:
        """Numbers of parameters, as many as any problem has, `[P]`."""
        return np.arange(self.count.max())

    @cached_property
    def _is_edge(self) -> NDArray[np.bool_]:
        """Which rows of the drawing are edges, `[N, E]`."""
        return np.arange(self.drawing.edge.shape[1]) < self.drawing.edges[:, None]

    @cached_property
    def instance(self) -> Integers:
        """Number of the parameter of every pair of items of adjacent layers, or `NONE`, `[N, D, W, W]`.

        The axes after the first are layer and number of the parent, and number of the child.
        """
        number = np.full((len(self), LAYERS, WIDEST, WIDEST), NONE)
        row, edge = np.nonzero(self._is_edge)
        number[row, *self.drawing.edge[row, edge].T] = edge
        return number

    @cached_property
    def abstract(self) -> Integers:
        """Number of every abstract parameter by layer, number of the item and category, or `NONE`, `[N, D, W, D]`."""
        number = np.full((len(self), LAYERS, WIDEST, LAYERS), NONE)
        first, items, categories = self.drawing.edges, np.arange(WIDEST)[:, None], np.arange(LAYERS)
        layers = self.drawing.layers[:, None, None]
        for layer in range(LAYERS - 1):
            below = np.maximum(0, layers - 1 - layer)
            found = first[:, None, None] + items * below + categories - layer - 1
            is_item = items < self.widths[:, layer, None, None]
            number[:, layer] = np.where(is_item & (categories > layer) & (categories < layers), found, NONE)
            first = first + self.widths[:, layer] * below[:, 0, 0]
        return number

    @cached_property
    def _terms(self) -> tuple[Integers, Integers]:
        """The two factors of every term that a parameter is the sum of, or `NONE`, each `[N, P, T]`.

        An operand is a term of one factor. An abstract parameter has a term for every child of its item.
        """
        left = np.full((len(self), PARAMETERS + 1, TERMS), NONE)
        right = left.copy()
        edges = self._is_edge.shape[1]
        left[:, :edges] = np.where(self._is_edge[:, :, None], self.drawing.operands, NONE)
        rows = np.arange(len(self))[:, None]
        for layer in range(LAYERS - 1):
            inside = self.instance[:, layer]
            for category in range(layer + 1, LAYERS):
                number = self.abstract[:, layer, :, category]
                number = np.where(number == NONE, PARAMETERS, number)  # where nobody looks
                left[rows, number] = inside
                if category > layer + 1:
                    below = self.abstract[:, layer + 1, None, :, category]
                    right[rows, number] = np.where(inside == NONE, NONE, below)
        return left[:, : len(self._numbers)], right[:, : len(self._numbers)]

    @cached_property
    def predecessors(self) -> Masks:
        """What every parameter is computed from directly, `[N, P]`."""
        left, right = self._terms
        return np.bitwise_or.reduce(bits(left) | bits(right), axis=2)

    @cached_property
    def ancestors(self) -> Masks:
        """Everything that a parameter depends on, directly or not, without itself, `[N, P]`."""
        reached = self.predecessors.copy()
        for middle in range(reached.shape[1]):  # Warshall's algorithm, a row of bits at a time
            passes = (reached >> np.uint64(middle)) & _ONE
            reached |= reached[:, middle : middle + 1] * passes
        return reached

    @cached_property
    def value(self) -> Integers:
        """Value of every parameter, in `[0, modulus)`, `[N, P]`."""
        left, right = self._terms
        problems, most = left.shape[:2]
        # Two columns beyond the parameters: what is added where there is no term, and multiplied where no factor.
        value = np.zeros((problems, most + 2), dtype=np.int64)
        value[:, most + 1] = 1
        left, right = np.where(left == NONE, most, left), np.where(right == NONE, most + 1, right)
        sign, factor, addend = self._combinations
        # What depends on more comes later.
        order = np.argsort(np.bitwise_count(self.ancestors), axis=1, kind="stable")
        rows = np.arange(problems)
        for parameter in order.T:
            first = value[rows[:, None], left[rows, parameter]]
            second = value[rows[:, None], right[rows, parameter]]
            combined = (sign[rows, parameter] * first * second).sum(axis=1)
            value[rows, parameter] = (factor[rows, parameter] * combined + addend[rows, parameter]) % self.modulus
        return value[:, :most]

    @cached_property
    def _combinations(self) -> tuple[Integers, Integers, Integers]:
        """Signs of the terms, `[N, P, T]`; what their sum is multiplied by, and what is added then, `[N, P]`."""
        drawing, edges = self.drawing, self._is_edge.shape[1]
        size = (len(self), max(edges, len(self._numbers)))
        sign, factor, addend = np.ones((*size, TERMS), np.int64), np.ones(size, np.int64), np.zeros(size, np.int64)
        has_operands = drawing.combination != NO_OPERANDS
        is_factor = self._is_edge & has_operands & (drawing.operator == TIMES)
        is_addend = self._is_edge & (~has_operands | (drawing.operator == MORE))
        sign[:, :edges, 1] -= 2 * (self._is_edge & (drawing.combination == DIFFERENCE))
        factor[:, :edges] = np.where(is_factor, drawing.constant, 1)
        addend[:, :edges] = np.where(is_addend, drawing.constant, 0)
        return sign, factor, addend

    @cached_property
    def query(self) -> Integers:
        """The parameter asked for, `[N]`."""
        return self.drawing.solution[np.arange(len(self)), self.sentences - 1]

    @cached_property
    def sentences(self) -> Integers:
        """Number of sentences of the solution, `[N]`."""
        return (self.drawing.solution >= 0).sum(axis=1)

    @cached_property
    def necessary(self) -> Masks:
        """The query and all it depends on, `[N]`."""
        return self.ancestors[np.arange(len(self)), self.query] | bits(self.query)

    @cached_property
    def mentioned(self) -> Masks:
        """The instance parameters, the query, and all they depend on: the paper's dependency graph, `[N]`."""
        is_mentioned = (self._numbers < self.drawing.edges[:, None]) | (self._numbers == self.query[:, None])
        alone = np.where(is_mentioned, self.ancestors | bits(self._numbers), np.uint64(0))
        return np.bitwise_or.reduce(alone, axis=1)

    @cached_property
    def defined(self) -> Masks:
        """What has been computed before every sentence of the solution, and after the last, `[N, S + 1]`.

        Beyond the last sentence of a problem the mask stays as it is.
        """
        alone = bits(self.drawing.solution[:, : self.sentences.max()])
        return np.bitwise_or.accumulate(np.concatenate([np.zeros_like(alone[:, :1]), alone], axis=1), axis=1)

    @cached_property
    def distance(self) -> Integers:
        """Length of the shortest path from every parameter to the query, or `NONE`, `[N, P]`."""
        found = np.full(self.predecessors.shape, NONE)
        seen = front = bits(self.query)
        steps = 0
        while front.any():
            in_front = contains(front[:, None], self._numbers)
            found[in_front] = steps
            front = np.bitwise_or.reduce(np.where(in_front, self.predecessors, np.uint64(0)), axis=1) & ~seen
            seen, steps = seen | front, steps + 1
        return found

    def ready(self, masks: Masks) -> NDArray[np.bool_]:
        """Which parameters can be computed next where `masks` have been, `[N, …]` to `[N, …, P]`."""
        missing = np.expand_dims(self.predecessors, tuple(range(1, masks.ndim))) & ~masks[..., None]
        is_parameter = self._numbers < np.expand_dims(self.count, tuple(range(1, masks.ndim + 1)))
        return (missing == 0) & is_parameter & ~contains(masks[..., None], self._numbers)
