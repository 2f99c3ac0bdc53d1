"""Who lives in a biography world: names, pronouns and facts, as arrays (part 3.1, §2).

- Person `p` is a pure function of (key, p): more people, celebrities or another variant change nobody.
- Full names are unique by construction: the numbers of all (first, middle, last) combinations are
  shuffled by a keyed bijection; people take its positions from the front, celebrities from the back.
- Every attribute is uniform and independent, except that the company city is the headquarters of
  the company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.bios.pools import Pools

PRONOUNS = ("He", "She", "They")
_DRAWN = ("bcity", "univ", "major", "cname")
_ROUNDS = 6


def shuffled(key: Key, positions: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """What stands at `positions` in a keyed shuffle of `range(size)`, without making the shuffle.

    A Feistel network (Luby and Rackoff, 1988) over a square of at least `size` cells, whose round
    functions are tables of random numbers; cells beyond `size` are walked through.

    Example:
        >>> sorted(shuffled(Key.of("names"), np.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    side = isqrt(size - 1) + 1
    tables = key.integers(np.arange(side), _ROUNDS, side).T
    result = np.array(positions, dtype=np.int64)
    pending = np.arange(len(result))
    while len(pending):
        left, right = np.divmod(result[pending], side)
        for table in tables:
            left, right = right, (left + table[right]) % side
        walked = left * side + right
        result[pending] = walked
        pending = pending[walked >= size]
    return result


@dataclass(frozen=True)
class Person:
    """A person, with every fact as text.

    Attributes:
        id: number of the person in the world; celebrities follow the people.
        name: full name, "First Middle Last".
        pronoun: "He", "She" or "They".
        facts: attribute to value, as written in a biography, without the leading space.
    """

    id: int
    name: str
    pronoun: str
    facts: Mapping[str, str] = field(hash=False)

    def __repr__(self) -> str:
        facts = ", ".join(f"{attribute}: {value}" for attribute, value in self.facts.items())
        return f"Person {self.id}: {self.name} ({self.pronoun.lower()}); {facts}"


@dataclass(frozen=True)
class Question:
    """A question about one attribute of a person.

    Attributes:
        person: who is asked about.
        attribute: what is asked.
    """

    person: Person
    attribute: str

    def __repr__(self) -> str:
        return f"Question: {self.attribute} of {self.person.name} (person {self.person.id})? {self.answer}"

    @property
    def answer(self) -> str:
        """The true value, without the leading space."""
        return self.person.facts[self.attribute]


@dataclass(frozen=True)
class People:
    """A population as one integer array per property; every array has shape `[people]`.

    Attributes:
        first: index into the pool of first names; likewise `middle` and `last`.
        pronoun: index into `PRONOUNS`.
        month: index into the pool of months; likewise `day` and `year`.
        values: attribute to index into its pool; "ccity" follows from "cname".
    """

    first: NDArray[np.int64]
    middle: NDArray[np.int64]
    last: NDArray[np.int64]
    pronoun: NDArray[np.int64]
    month: NDArray[np.int64]
    day: NDArray[np.int64]
    year: NDArray[np.int64]
    values: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.first)

    def indices(self, attribute: str, date_parts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Index into the pool of every part of a value: one array, or one per date part."""
        return [getattr(self, part) for part in date_parts] if attribute == "date" else [self.values[attribute]]


def full_names(pools: Pools) -> int:
    """Number of different full names that the pools can form."""
    return len(pools.first) * len(pools.middle) * len(pools.last)


def draw_people(key: Key, pools: Pools, count: int, *, celebrities: bool = False) -> People:
    """The first `count` people, or celebrities, of the world that `key` governs.

    Both populations share `full_names(pools)` names, none of which is given twice as long as
    their sizes add up to no more than that.
    """
    person = np.arange(count)
    available = full_names(pools)
    number = shuffled(key.child("names"), available - 1 - person if celebrities else person, available)
    rest, last = np.divmod(number, len(pools.last))
    first, middle = np.divmod(rest, len(pools.middle))
    below = {
        "pronoun": len(PRONOUNS),
        "month": len(pools.months),
        "day": len(pools.days),
        "year": len(pools.years),
        **{attribute: len(pools.values[attribute]) for attribute in _DRAWN},
    }
    draws = key.child("celebrities" if celebrities else "people").integers(
        person, len(below), np.array(list(below.values()))
    )
    columns = dict(zip(below, draws.T, strict=True))
    values = {attribute: columns.pop(attribute) for attribute in _DRAWN}
    values["ccity"] = np.asarray(pools.headquarters)[values["cname"]]
    return People(first=first, middle=middle, last=last, values=values, **columns)


def join_populations(populations: Sequence[People]) -> People:
    """All populations as one, in order."""
    columns = [field.name for field in fields(People) if field.name != "values"]
    return People(
        **{name: np.concatenate([getattr(people, name) for people in populations]) for name in columns},
        values={
            name: np.concatenate([people.values[name] for people in populations]) for name in populations[0].values
        },
    )
