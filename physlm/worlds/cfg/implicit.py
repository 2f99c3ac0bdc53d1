"""Implicit grammars: every terminal is shown as a random member of its bag of observable tokens.

- A sentence is sampled as usual; then every terminal is replaced, independently, by a member of its bag.
- Bags are disjoint, or overlap, so that an observable can belong to several terminals or to none.
- A bag's members are equally likely, or the one with rank `r` has weight `r` ("linear", the paper's NU1).

Follows Physics of Language Models, part 1, result 10; specification, §1.7.

Shapes: T terminals, V observables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.cfg.choices import Choices

_Overlap = Literal["overlap", "disjoint"]
_Weights = Literal["uniform", "linear"]


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """How terminals are shown; the defaults are the paper's.

    Attributes:
        observables: number of observable tokens `V`.
        bags: "overlap": every terminal draws `⌊3V / (2T)⌋` observables with replacement. "disjoint": observable `v`,
            counted from 0, belongs to terminal `v mod T` alone.
        weights: "uniform" within the bag, or "linear": the member with rank `r`, counted from 1, has weight `r`.
    """

    observables: int = 300
    bags: _Overlap = "overlap"
    weights: _Weights = "uniform"

    def __post_init__(self) -> None:
        if self.observables < 1:
            raise ValueError(f"observables must be ≥ 1, got {self.observables}")
        if self.bags not in get_args(_Overlap):
            raise ValueError(f"bags must be one of {', '.join(get_args(_Overlap))}, got {self.bags!r}")
        if self.weights not in get_args(_Weights):
            raise ValueError(f"weights must be one of {', '.join(get_args(_Weights))}, got {self.weights!r}")

    def make(self, key: Key, terminals: int) -> Bags:
        """The bags of `terminals` terminals.

        Raises:
            ValueError: if there are too few observables for every terminal to have one.
        """
        membership = np.zeros((terminals, self.observables), dtype=np.bool_)
        if self.bags == "disjoint":
            least, observable = terminals, np.arange(self.observables)
            membership[observable % terminals, observable] = True
        else:
            least, count = -(-2 * terminals // 3), 3 * self.observables // (2 * terminals)
            drawn = key.generator().integers(0, self.observables, (terminals, count))
            np.put_along_axis(membership, drawn, values=True, axis=1)
        if self.observables < least:
            raise ValueError(f"observables must be ≥ {least} with {terminals} terminals, got {self.observables}")
        return Bags(membership, self.weights == "linear")


@dataclass(frozen=True, eq=False)
class Bags:
    """Which observables show which terminals, and how often.

    Attributes:
        membership: whether an observable belongs to a terminal, bool `[T, V]`.
        is_linear: whether the weights grow with the rank in the bag.
    """

    membership: NDArray[np.bool_]
    is_linear: bool

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Chance that a terminal is shown as an observable, `[T, V]`, rows summing to 1."""
        weights = self.membership.astype(np.float64)
        if self.is_linear:
            weights *= np.cumsum(weights, axis=1)
        return weights / weights.sum(axis=1, keepdims=True)

    @cached_property
    def patterns(self) -> NDArray[np.int64]:
        """Which terminals each observable can stand for, as bits, `[V]`: bit `t` for terminal `t`; 0 never occurs."""
        return (self.membership * (1 << np.arange(len(self.membership)))[:, None]).sum(axis=0)

    @cached_property
    def _choices(self) -> Choices:
        return Choices.of_matrix(self.probabilities)

    def show(
        self, key: Key, sentences: NDArray[np.int64], counts: NDArray[np.int64], terminals: NDArray[np.unsignedinteger]
    ) -> NDArray[np.integer]:
        """An observable, counted from 0, for every terminal, counted from 0; arguments as in `Choices.draw`."""
        drawn = self._choices.draw(key.child("observables"), sentences, counts, terminals)
        return drawn % self.membership.shape[1]
