"""What a world has to say so that wrong attempts can be put into its documents: where, what, and how they are written.

- An error model belongs to one world. It makes clean documents together with the `Places` where attempts may be made,
  and knows how many candidates there are at each.
- Candidates are numbered, and only those that are chosen are written: there may be many thousands.
- It also finds attempts in what a model wrote, to take them out before judging.

Shapes: N documents, P places of all documents, A attempts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples


class AttemptRole(IntEnum):
    """Value of the mark `role` in attempts; worlds have smaller ones."""

    FRAME = 100
    """What stands around the name: "Define … as"."""
    NAME = 101
    """What is attempted."""
    BACK = 102
    """The token that takes it back."""
    END = 103
    """What closes the sentence that was taken back."""


@dataclass(frozen=True)
class Attempts:
    """Attempts as they are written, one after another.

    Attributes:
        tokens: of all, <back> included.
        lengths: number of tokens of each, `[A]`.
        marks: aligned with `tokens`: `role`, an `AttemptRole`, and whatever marks of the world say something about
            attempts; all others are `OUTSIDE` there.
    """

    tokens: IntArray
    lengths: IntArray
    marks: Mapping[str, IntArray]


@dataclass(frozen=True)
class Places:
    """Clean documents and where attempts may be made in them.

    Attributes:
        samples: N documents with all their marks.
        position: attempts come before these tokens of `samples.tokens`, `[P]`, ascending.
        first: the places of document i are `first[i] : first[i + 1]`, `[N + 1]`.
        candidates: how many there are at each place, `[P]`.
        write: writes candidates, given the place and the number in `[0, candidates[place])` of each, `[A]`, by place.
    """

    samples: Samples
    position: IntArray
    first: IntArray
    candidates: IntArray
    write: Callable[[IntArray, IntArray], Attempts]


class ErrorModel(Protocol):
    """What can go wrong in the documents of one world.

    Attributes:
        back: id of <back>; one of the world's, or the first one after its vocabulary.
        roles: values of the mark `role` in clean documents.
        is_judged: whether the judge of the world reads documents with attempts.
        chunk: how many documents to make at once.
    """

    back: int
    roles: tuple[int, ...]
    is_judged: bool
    chunk: int

    def places(self, split: str, indices: NDArray) -> Places:
        """The clean documents at `indices`, and where attempts may be made."""
        ...

    def spans(self, tokens: IntArray) -> IntArray:
        """Where the attempts of a document begin and end, `[A, 2]`, in order; those that are not complete are none."""
        ...


def require_kind(kind: str, known: Sequence[str], world: object) -> None:
    """Refuse a kind of attempts that is not defined for a world."""
    if kind not in known:
        raise ValueError(f"kind must be {' or '.join(map(repr, known))} for a {type(world).__name__}, got {kind!r}")
