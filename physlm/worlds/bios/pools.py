"""Raw material of the biography world: names, attribute values and company headquarters.

- `Pools` is data: tuples of strings and one integer array. The committed pools have the sizes and the
  distributions of Part 3.1 (arXiv 2309.14316), section 2 and appendix A.1; the texts are our own.
- `PoolSizes` says how much of the pools a world uses. A reduced world takes prefixes (the pools are
  shuffled, so a prefix is a fair sample) and keeps the profile of companies per city.
- Dates are not stored: the renderer composes a date from the texts of a month, a day and a year.
- Chance baselines: the best constant answer, for whole values and for first tokens.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key

Form = Literal["full", "short"]

NAME_POOLS = ("first", "middle", "last")
VALUE_POOLS = ("bcity", "univ", "major", "cname", "ccity")
ATTRIBUTES = ("date", *VALUE_POOLS)
DATE_PARTS = ("month", "day", "year")
MONTHS_PER_YEAR = 12

_FORMAT_VERSION = 1
_KEYS = ("version", "faker_version", "seed", *NAME_POOLS, *VALUE_POOLS, "headquarters", "months")
_OPTIONAL_KEYS = ("faker_version", "seed")
_WORD = re.compile(r"[A-Za-z]+")
_NUMBER = re.compile(r"[1-9][0-9]*")
_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ,'&-]*[A-Za-z0-9])?")
_VALUE_RULE = "ASCII letters, digits, single spaces and , ' & - only, beginning and ending with a letter or digit"


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """How many names, values and date parts a world uses; the defaults are the paper's.

    Attributes:
        first, middle, last: names per slot.
        bcity, univ, major: values per attribute.
        cname: companies, at least 2; the number of company cities follows from it.
        first_year, years: birth years are `first_year, …, first_year + years - 1`, of four digits.
        months: the first 1 to 12 months of the year.
        days: days 1 to `days` of every month, at most 28.

    Source: Part 3.1, section 2 and appendix A.1.
    """

    first: int = 400
    middle: int = 400
    last: int = 1000
    bcity: int = 200
    univ: int = 300
    major: int = 100
    cname: int = 263
    first_year: int = 1900
    years: int = 200
    months: int = MONTHS_PER_YEAR
    days: int = 28

    def __post_init__(self) -> None:
        at_least = {"cname": 2, "first_year": 1000}
        at_most = {"months": MONTHS_PER_YEAR, "days": 28, "first_year": 9999, "years": 10_000 - self.first_year}
        for field in fields(self):
            size, low, high = getattr(self, field.name), at_least.get(field.name, 1), at_most.get(field.name)
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{field.name} must be an int, got {size!r}")
            if size < low or (high is not None and size > high):
                limit = f"≥ {low}" if high is None else f"in {low}..{high}"
                raise ValueError(f"{field.name} must be {limit}, got {size}")

    @property
    def dates(self) -> int:
        """Number of distinct birth dates."""
        return self.years * self.months * self.days


@dataclass(frozen=True, eq=False)
class Pools:
    """Names and attribute values of a biography world.

    Attributes:
        first, middle, last: names, each one alphabetic word, distinct within a slot.
        months: names of the months in use, at most 12.
        days, years: days of the month and years in use, in digits: "1", "2", …; "1900", "1901", ….
        values: distinct value texts of `bcity`, `univ`, `major`, `cname`, `ccity`, without a leading
            space or final punctuation. The index of a major is also its luckiness (Part 3.2).
        short_values: the same values as one alphabetic word each, aligned with `values`.
        headquarters: index into `values["ccity"]` for every company.
    """

    first: tuple[str, ...]
    middle: tuple[str, ...]
    last: tuple[str, ...]
    months: tuple[str, ...]
    days: tuple[str, ...]
    years: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    short_values: Mapping[str, tuple[str, ...]]
    headquarters: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in (*NAME_POOLS, "months"):
            _check_texts(name, getattr(self, name), _WORD, "one word of ASCII letters")
        for name in ("days", "years"):
            _check_texts(name, getattr(self, name), _NUMBER, "a number in digits")
        if len(self.months) > MONTHS_PER_YEAR:
            raise ValueError(f"months must be at most {MONTHS_PER_YEAR} names, got {len(self.months)}")
        for label, pools in (("values", self.values), ("short_values", self.short_values)):
            if set(pools) != set(VALUE_POOLS):
                raise ValueError(f"{label} must have exactly the keys {VALUE_POOLS}, got {tuple(pools)}")
        for name in VALUE_POOLS:
            _check_texts(f"{name}.full", self.values[name], _VALUE, _VALUE_RULE)
            _check_texts(f"{name}.short", self.short_values[name], _VALUE, _VALUE_RULE)
            if len(self.values[name]) != len(self.short_values[name]):
                raise ValueError(
                    f"{name}.short must be aligned with the {len(self.values[name])} values of {name}.full, "
                    f"got {len(self.short_values[name])}"
                )
        _check_headquarters(self.headquarters, len(self.values["cname"]), len(self.values["ccity"]))

    @classmethod
    def from_file(cls, path: str | Path) -> Pools:
        """Pools from a JSON file with the layout of the committed `data/pools.json`.

        Any cardinality is accepted except for the 12 months; `faker_version` and `seed` may be left out.

        Raises:
            ValueError: naming the field, the value and what is valid.
        """
        return _parse(json.loads(Path(path).read_text(encoding="utf-8")), source=str(path))

    def reduced(self, sizes: PoolSizes, form: Form = "full") -> Pools:
        """The first entries of every pool, with headquarters assigned anew in the same profile.

        The share of companies in the largest city and the number of companies per city stay as close
        to this pool's as the number of companies allows; at least two companies share the largest city.
        Only if all companies are kept does every company keep its city.

        Example:
            >>> small = load_pools().reduced(PoolSizes(cname=50, bcity=50), form="short")
            >>> len(small.values["cname"]), len(small.values["ccity"])
            (50, 25)

        Args:
            sizes: entries to keep, at most what this pool has.
            form: which text of a value to use, "full" or "short" (one word).
        """
        if form not in ("full", "short"):
            raise ValueError(f'form must be "full" or "short", got {form!r}')
        chosen = self.values if form == "full" else self.short_values
        for name in (*NAME_POOLS, "months", *VALUE_POOLS[:-1]):
            available = len(chosen[name] if name in VALUE_POOLS else getattr(self, name))
            size = getattr(sizes, name)
            if size > available:
                raise ValueError(f"{name} must be at most {available}, the size of the pool, got {size}")
        headquarters = _reduced_headquarters(self.headquarters, sizes.cname)
        counts = {**{name: getattr(sizes, name) for name in VALUE_POOLS[:-1]}, "ccity": int(headquarters.max()) + 1}
        return Pools(
            first=self.first[: sizes.first],
            middle=self.middle[: sizes.middle],
            last=self.last[: sizes.last],
            months=self.months[: sizes.months],
            days=_days(sizes),
            years=_years(sizes),
            values={name: chosen[name][: counts[name]] for name in VALUE_POOLS},
            short_values={name: self.short_values[name][: counts[name]] for name in VALUE_POOLS},
            headquarters=headquarters,
        )


@functools.cache
def load_pools() -> Pools:
    """The committed pools, at the paper's sizes and in full form; read once."""
    resource = importlib.resources.files("physlm.worlds") / "bios" / "data" / "pools.json"
    return _parse(json.loads(resource.read_text(encoding="utf-8")), source="pools.json")


def whole_attribute_chance(pools: Pools, sizes: PoolSizes, date_parts: Sequence[str] = DATE_PARTS) -> dict[str, float]:
    """Probability of the most frequent value of every attribute: accuracy of the best constant answer.

    Args:
        pools: the pools in use, of the given sizes.
        sizes: entries in use.
        date_parts: parts of the date that a value contains, any of "month", "day", "year".

    Returns:
        Probabilities in (0, 1] by attribute. Source: Part 3.1, figure 3.
    """
    _check_matches(pools, sizes)
    _check_date_parts(date_parts)
    count = {"month": sizes.months, "day": sizes.days, "year": sizes.years}
    dates = math.prod(count[part] for part in date_parts)
    chance = {"date": 1 / dates, **{name: 1 / len(pools.values[name]) for name in VALUE_POOLS}}
    return chance | {"ccity": float(np.bincount(pools.headquarters).max() / len(pools.headquarters))}


def first_token_chance(
    pools: Pools, sizes: PoolSizes, date_parts: Sequence[str], first_token: Callable[[str], Hashable]
) -> dict[str, float]:
    """Probability of the most frequent first token of every attribute's value.

    Example:
        >>> pools, sizes = load_pools(), PoolSizes()
        >>> first_token_chance(pools, sizes, DATE_PARTS, lambda text: text.split()[0])["univ"]
        0.37

    Args:
        pools: the pools in use, of the given sizes.
        sizes: entries in use.
        date_parts: parts of the date in the order of the text; the first token of a date is taken to be
            that of its first part ("May" of "May 3, 1999").
        first_token: token that a value text, given without leading space, begins with in a document.

    Returns:
        Probabilities in (0, 1] by attribute. Source: Part 3.1, figures 5 and 7.
    """
    _check_matches(pools, sizes)
    _check_date_parts(date_parts)
    parts = {"month": pools.months, "day": pools.days, "year": pools.years}
    texts = {"date": parts[date_parts[0]], **pools.values}
    texts["ccity"] = tuple(pools.values["ccity"][city] for city in pools.headquarters)
    return {name: max(Counter(map(first_token, texts[name])).values()) / len(texts[name]) for name in ATTRIBUTES}


def _days(sizes: PoolSizes) -> tuple[str, ...]:
    return tuple(str(day) for day in range(1, sizes.days + 1))


def _years(sizes: PoolSizes) -> tuple[str, ...]:
    return tuple(str(year) for year in range(sizes.first_year, sizes.first_year + sizes.years))


def _reduced_headquarters(headquarters: NDArray[np.int64], companies: int) -> NDArray[np.int64]:
    """Headquarters of `companies` companies with the occupancy profile of `headquarters`."""
    if companies == len(headquarters):
        return headquarters
    occupancy = _scaled_occupancy(np.sort(np.bincount(headquarters))[::-1], companies)
    slots = np.repeat(np.arange(len(occupancy), dtype=np.int64), occupancy)
    order = Key.of("reduced headquarters", companies).permutations(np.zeros(1, dtype=np.int64), companies)[0]
    return slots[order]


def _scaled_occupancy(profile: NDArray[np.int64], companies: int) -> NDArray[np.int64]:
    """Companies per city, largest first, for fewer companies than `profile` has.

    The largest city keeps its share and the mean per city is kept; the other cities follow the
    quantiles of the profile.
    """
    scale = companies / int(profile.sum())
    largest = max(2, round(int(profile[0]) * scale))
    cities = min(max(1, round(len(profile) * scale)), companies - largest + 1)
    largest = max(largest, -(-companies // cities))
    others = cities - 1
    if others == 0:
        return np.array([companies])
    # Only the largest city is that large, unless this would leave small worlds without singletons.
    most = largest - 1 if largest > 3 and others * (largest - 1) >= companies - largest else largest
    quantiles = profile[1:][((np.arange(others) + 0.5) / others * (len(profile) - 1)).astype(np.int64)]
    occupancy = np.ones(others, dtype=np.int64)
    for _ in range(companies - largest - others):
        # The city furthest below its quantile receives the next company; ties go to the larger city.
        occupancy[np.argmin(np.where(occupancy < most, occupancy / quantiles, np.inf))] += 1
    return np.concatenate([[largest], np.sort(occupancy)[::-1]])


def _check_texts(name: str, texts: Sequence[str], pattern: re.Pattern[str], rule: str) -> None:
    if not texts:
        raise ValueError(f"{name} must have at least one entry, got none")
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not pattern.fullmatch(text) or "  " in text:
            raise ValueError(f"{name}[{position}] must be {rule}, got {text!r}")
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    if repeated:
        raise ValueError(f"{name} must have distinct entries, got {repeated[0]!r} more than once")


def _check_headquarters(headquarters: NDArray[np.int64], companies: int, cities: int) -> None:
    if headquarters.shape != (companies,):
        raise ValueError(
            f"headquarters must have one city index for each of the {companies} companies, "
            f"got shape {headquarters.shape}"
        )
    outside = headquarters[(headquarters < 0) | (headquarters >= cities)]
    if len(outside):
        raise ValueError(f"headquarters must be indices into ccity, 0..{cities - 1}, got {int(outside[0])}")
    empty = np.flatnonzero(np.bincount(headquarters, minlength=cities) == 0)
    if len(empty):
        raise ValueError(f"headquarters must use every company city, got no company in city {int(empty[0])}")


def _check_matches(pools: Pools, sizes: PoolSizes) -> None:
    for name in (*VALUE_POOLS[:-1], "months", "days", "years"):
        size = len(pools.values[name] if name in VALUE_POOLS else getattr(pools, name))
        if size != getattr(sizes, name):
            raise ValueError(
                f"pools have {size} entries in {name} but sizes say {getattr(sizes, name)}: pass pools.reduced(sizes)"
            )


def _check_date_parts(date_parts: Sequence[str]) -> None:
    if isinstance(date_parts, str) or not date_parts:
        raise ValueError(f"date_parts must be a non-empty tuple of {DATE_PARTS}, got {date_parts!r}")
    if len(set(date_parts)) != len(date_parts) or not set(date_parts) <= set(DATE_PARTS):
        raise ValueError(f"date_parts must be distinct items of {DATE_PARTS}, got {tuple(date_parts)!r}")


def _parse(content: Any, source: str) -> Pools:
    """Pools from the decoded JSON; structure is checked here, contents by `Pools`."""
    if not isinstance(content, dict):
        raise ValueError(f"{source} must hold a JSON object, got {type(content).__name__}")
    unknown = sorted(set(content) - set(_KEYS))
    missing = sorted(set(_KEYS) - set(_OPTIONAL_KEYS) - set(content))
    if unknown or missing:
        raise ValueError(f"{source} must have the keys {_KEYS}; missing {missing}, unknown {unknown}")
    if content["version"] != _FORMAT_VERSION:
        raise ValueError(f"{source}: version must be {_FORMAT_VERSION}, got {content['version']!r}")
    if len(_string_list(content, "months")) != MONTHS_PER_YEAR:
        raise ValueError(f"months must be {MONTHS_PER_YEAR} names, got {len(content['months'])}")
    for name in VALUE_POOLS:
        if not isinstance(content[name], dict) or set(content[name]) != {"full", "short"}:
            raise ValueError(f'{name} must be an object with the lists "full" and "short", got {content[name]!r:.80}')
        for position, word in enumerate(_string_list(content[name], "short", name)):
            if not isinstance(word, str) or not _WORD.fullmatch(word):
                raise ValueError(f"{name}.short[{position}] must be one word of ASCII letters, got {word!r}")
    cities = content["headquarters"]
    if not isinstance(cities, list) or any(isinstance(city, bool) or not isinstance(city, int) for city in cities):
        raise ValueError(f"headquarters must be a list of integers, got {cities!r:.80}")
    headquarters = np.array(cities, dtype=np.int64)
    headquarters.flags.writeable = False
    return Pools(
        first=_string_list(content, "first"),
        middle=_string_list(content, "middle"),
        last=_string_list(content, "last"),
        months=_string_list(content, "months"),
        days=_days(PoolSizes()),
        years=_years(PoolSizes()),
        values={name: _string_list(content[name], "full", name) for name in VALUE_POOLS},
        short_values={name: _string_list(content[name], "short", name) for name in VALUE_POOLS},
        headquarters=headquarters,
    )


def _string_list(content: dict[str, Any], key: str, parent: str = "") -> tuple[str, ...]:
    """The list under `key`; its items are checked by `Pools`."""
    if not isinstance(content[key], list):
        path = f"{parent}.{key}" if parent else key
        raise ValueError(f"{path} must be a list of strings, got {content[key]!r:.80}")
    return tuple(content[key])
