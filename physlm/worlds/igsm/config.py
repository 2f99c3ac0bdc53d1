"""The settings of an iGSM world; they are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from physlm.worlds.igsm.names import CATEGORIZATIONS, MOST_NAMES

Rendering = Literal["english", "compact"]
OperationDistribution = Literal["light", "uniform", "middle", "heavy"]
DepthBias = Literal["needed", "not_needed"]
Solution = Literal["shortest", "everything"]

MOST_OPERATIONS = 52
"""Every operation of a solution takes a letter of its own, of a-z and A-Z."""
LEAST_INSTANCES, MOST_INSTANCES = 2, 40
"""Two items in one; and with the 24 abstract parameters of the largest structure, as many as a mask has bits."""
LEAST_NAMES = 4
"""A layer has at most four items."""
LARGEST_MODULUS = 1000
LARGEST_SPLIT = 1 << 40


@dataclass(frozen=True, kw_only=True)
class IGSMConfig:
    """A world of grade-school math problems; the defaults are iGSM-med with the problem before the question.

    The problem with a number in a split depends on everything here but `question_first`, `rendering`, `problems` and
    `test_problems`: the same problems in another order or dialect are a comparison of just that.

    Example:
        >>> IGSMConfig(seed=0, max_operations=21, max_instances=28).question_first
        False

    Attributes:
        seed: any integer.
        max_operations: number of operations of a solution, at most.
        max_instances: number of instance parameters (sentences of the problem), at most.
        modulus: all arithmetic is modulo this prime.
        exact_operations: the number of operations of every problem, in place of what is drawn up to `max_operations`;
            for tests, also beyond what was trained on.
        question_first: whether the question comes before the problem ("qp") or after it ("pq").
        rendering: "english" as in the paper, or "compact": the same with fewer tokens.
        operation_distribution: how the number of operations is drawn: "light" is the smaller of two uniform draws (the
            papers'), "middle" the largest of three, "heavy" leans to the most.
        depth_bias: which operands are preferred where the order of the solution is built: those that are "needed"
            already (the paper), or those "not_needed" yet (the released generator).
        reask: ask for another parameter of the problem than the one it was drawn for.
        solution: "shortest" computes what is needed; "everything" whatever the problem has, in a random order up to the
            query (a control).
        categorizations: number of chains of categories that names come from, 1 to 4.
        names_per_category: number of names in each category, 4 to 100.
        letters: number of letters in use, the first of a-z and A-Z. Which are taken is easier to learn of few.
        shuffled_letters: whether solutions take letters in random order (the paper) or in that of the alphabet, from
            any of them on and the first behind the last: but one cannot be foreseen then, and all occur in training.
        problems: number of problems to train on. Any of them is made at the same cost and nothing is stored.
        test_problems: number of problems to test with. None has a solution template that any to train on has.

    Source: Physics of Language Models 2.1, §2 and App. D.
    """

    seed: int
    max_operations: int = 15
    max_instances: int = 20
    modulus: int = 23
    exact_operations: int | None = None
    question_first: bool = False
    rendering: Rendering = "english"
    operation_distribution: OperationDistribution = "light"
    depth_bias: DepthBias = "needed"
    reask: bool = False
    solution: Solution = "shortest"
    categorizations: int = 4
    names_per_category: int = MOST_NAMES
    letters: int = MOST_OPERATIONS
    shuffled_letters: bool = True
    problems: int = 1 << 30
    test_problems: int = 1 << 20

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if name == "exact_operations" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if least is not None and not least <= value <= most:
                raise ValueError(f"{name} must be in {least}..{most}, got {value}{_REASONS.get(name, '')}")
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")
        for name in ("question_first", "reask", "shuffled_letters"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not _is_prime(self.modulus):
            raise ValueError(
                f"modulus must be a prime, got {self.modulus}: modulo a product of others, multiplying by a number "
                "other than 0 can give 0 or make different values equal, so that wrong steps have right results"
            )
        feasible = most_operations(self.max_instances)
        name = "max_operations" if self.exact_operations is None else "exact_operations"
        if getattr(self, name) > self.letters:
            raise ValueError(
                f"{name} must be at most letters={self.letters}, as every operation takes a letter of its own, got "
                f"{getattr(self, name)}"
            )
        if getattr(self, name) > feasible:
            raise ValueError(
                f"{name} must be in 1..{feasible} with max_instances={self.max_instances}, got {getattr(self, name)}: "
                "so few instance parameters cannot take that many operations"
            )


_RANGES: dict[str, tuple[int | None, int]] = {
    "seed": (None, 0),
    "max_operations": (1, MOST_OPERATIONS),
    "exact_operations": (1, MOST_OPERATIONS),
    "max_instances": (LEAST_INSTANCES, MOST_INSTANCES),
    "modulus": (2, LARGEST_MODULUS),
    "categorizations": (1, CATEGORIZATIONS),
    "names_per_category": (LEAST_NAMES, MOST_NAMES),
    "letters": (1, MOST_OPERATIONS),
    "problems": (1, LARGEST_SPLIT),
    "test_problems": (1, LARGEST_SPLIT),
}
_REASONS = {
    "max_operations": ": every operation takes a letter of its own",
    "exact_operations": ": every operation takes a letter of its own",
    "names_per_category": f": a layer has up to {LEAST_NAMES} items of different names",
    "modulus": ": with fewer than two numbers every value would be 0, with more the vocabulary would be mostly numbers",
}
_CHOICES = {
    "rendering": Rendering,
    "operation_distribution": OperationDistribution,
    "depth_bias": DepthBias,
    "solution": Solution,
}
_FEASIBLE = {2: 5, 3: 11, 4: 18, 5: 21, 6: 34, 7: 38, 8: 41}
"""Most operations by most instance parameters, as tried: for more, fewer than 0.3 % of all structures will do."""


def most_operations(max_instances: int) -> int:
    """The largest number of operations that problems of at most so many instance parameters can be drawn with."""
    return _FEASIBLE.get(max_instances, MOST_OPERATIONS)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
