"""What a problem of the iGSM world is: items, parameters, how each is defined, and in what order it is told and solved.

- Items lie in layers; those of a layer can be inside items of the layer above. An *instance* parameter says how many of
  one item are in each of another; an *abstract* one how many things of a whole layer's category are in an item.
- A problem defines every instance parameter by a `Formula`. Abstract ones follow from the structure.
- Nothing here draws, writes or judges.

Source: Physics of Language Models 2.1, §2 and App. D.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Combination = Literal["none", "copy", "sum", "difference"]
"""How operands are combined: there are none, one as it is, two to four added, the first minus the second."""
ConstantOperator = Literal["none", "more", "times"]
"""What is done with the constant: there is none, it is added, it multiplies; without operands it is the value."""


@dataclass(frozen=True)
class Item:
    """An item: the `number`-th of its layer."""

    layer: int
    number: int


@dataclass(frozen=True)
class Instance:
    """How many `child` are in each `parent`; the child's layer is the one after the parent's."""

    parent: Item
    child: Item


@dataclass(frozen=True)
class Abstract:
    """How many things of the category of layer `category` are in each `item`; `category > item.layer`."""

    item: Item
    category: int


Parameter = Instance | Abstract


@dataclass(frozen=True)
class Formula:
    """How an instance parameter is defined, as printed.

    Attributes:
        operands: numbers of other parameters, in the order printed.
        combination: of the operands.
        operator: what is done with the constant.
        constant: in `[0, modulus)`, zero without one; a factor is not zero.
    """

    operands: tuple[int, ...]
    combination: Combination
    operator: ConstantOperator
    constant: int = 0


@dataclass(frozen=True)
class Problem:
    """A problem, its structure and its canonical solution order.

    Attributes:
        modulus: all arithmetic is modulo this prime.
        widths: number of items of every layer.
        categorization: number of the chain of categories the names come from.
        first_category: category (within the chain) of the first layer; layer i has category `first_category + i`.
        names: for every layer the numbers of its items' names within their category.
        edges: the structure, as instance parameters: every pair of items of which one is inside the other.
        formulas: one for every edge, in the same order. Operands are numbers into `parameters`.
        told: the order of the sentences of the problem, as numbers of edges.
        solution: the parameters of the canonical solution in order, numbers into `parameters`; the last is the query.
        letters: the letters of the canonical solution in the order of their use, as numbers 0..51 (a-z, A-Z).
        question_first: whether the question comes before the problem's sentences.
    """

    modulus: int
    widths: tuple[int, ...]
    categorization: int
    first_category: int
    names: tuple[tuple[int, ...], ...]
    edges: tuple[Instance, ...]
    formulas: tuple[Formula, ...]
    told: tuple[int, ...]
    solution: tuple[int, ...]
    letters: tuple[int, ...]
    question_first: bool = False

    @property
    def query(self) -> int:
        """The parameter that is asked for, as a number into `parameters`."""
        return self.solution[-1]

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters that are defined: the edges, then abstract ones by layer, item and category."""
        abstract = [
            Abstract(Item(layer, number), category)
            for layer, width in enumerate(self.widths)
            for number in range(width)
            for category in range(layer + 1, len(self.widths))
        ]
        return (*self.edges, *abstract)
