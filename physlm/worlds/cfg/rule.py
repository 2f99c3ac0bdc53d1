"""One production of a grammar, and the complaint about a grammar that names it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 1e-9
"""How far the probabilities of the rules of a symbol may sum from 1."""


class GrammarError(ValueError):
    """A grammar that cannot be used.

    Attributes:
        rule: the offending rule, or `None` when no single rule is at fault.
        symbol: the offending symbol, if it is one.
    """

    def __init__(self, message: str, *, rule: Rule | None = None, symbol: str | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.symbol = symbol


@dataclass(frozen=True)
class Rule:
    """One production `parent → children`, chosen with `probability` among the rules of its parent.

    Example:
        >>> print(Rule("NP", ("DT", "NN"), 0.5))
        NP → DT NN
    """

    parent: str
    children: tuple[str, ...]
    probability: float

    def __post_init__(self) -> None:
        if isinstance(self.children, str) or not isinstance(self.children, Sequence):
            raise GrammarError(f"children of {self.parent!r} must be a tuple of symbols, got {self.children!r}")
        object.__setattr__(self, "children", tuple(self.children))
        if not self.children:
            raise GrammarError(
                f"a rule must have at least one child, got '{self.parent} → (nothing)'; "
                "list the shorter right-hand sides that an empty one would make"
            )
        for symbol in (self.parent, *self.children):
            if not isinstance(symbol, str) or not symbol or any(character.isspace() for character in symbol):
                raise GrammarError(f"a symbol must be a non-empty string without spaces, got {symbol!r} in '{self}'")
        if not (math.isfinite(self.probability) and 0 < self.probability <= 1 + TOLERANCE):
            raise GrammarError(
                f"the probability of a rule must be in (0, 1], got {self.probability} for '{self}'; "
                "leave out rules that are never used"
            )

    def __str__(self) -> str:
        return f"{self.parent} → {' '.join(map(str, self.children))}"
