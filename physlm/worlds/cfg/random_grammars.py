"""Random layered grammars of a chosen depth, width and difficulty.

- The construction is the one behind the published tables (arXiv 2305.13673, appendix A.1): per level, every symbol
  draws its number of rules, every rule its length and its children; no right-hand side occurs twice in a level.
- It does not repair reachability: some symbols may never be used, as in the published cfg3e1. They stay in the
  grammar, so that sizes are the ones asked for.
- Draws are keyed by (seed, level, symbol): a grammar is a pure function of its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from physlm.randomness import Key
from physlm.worlds.cfg.grammar import Grammar

_FIRST_AFTER_SPECIALS = 4  # terminals 1 … |T|, then EOS and MASK and one free number, as in the published tables
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class RandomGrammarConfig:
    """What kind of grammar to draw.

    Attributes:
        seed: any integer.
        sizes: symbols per level from the root (1) to the terminals.
        degrees: fewest and most rules of a symbol.
        lengths: fewest and most children of a rule.
        distinct: no symbol occurs twice in a right-hand side.

    Example:
        >>> RandomGrammarConfig(seed=0, sizes=(1, 3, 3, 3), degrees=(2, 3)).levels
        4
    """

    seed: int
    sizes: tuple[int, ...]
    degrees: tuple[int, int] = (2, 2)
    lengths: tuple[int, int] = (2, 3)
    distinct: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {self.seed!r}")
        for name in ("sizes", "degrees", "lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.sizes) < 2 or self.sizes[0] != 1 or min(self.sizes) < 1:
            raise ValueError(f"sizes must be 1 for the root, then at least one level of 1 or more, got {self.sizes}")
        for name in ("degrees", "lengths"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be (fewest, most) with 1 ≤ fewest ≤ most, got {bounds}")
        for level, (size, below) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            if self.distinct and self.lengths[1] > below:
                raise ValueError(
                    f"with distinct=True a rule must not be longer than the level below, got up to {self.lengths[1]} "
                    f"children for the {below} symbols of level {level + 1}; lower lengths or raise sizes"
                )
            needed, possible = size * self.degrees[1], self._right_hand_sides(below)
            if needed > possible:
                raise ValueError(
                    f"level {level} must have enough different right-hand sides, got {possible} for up to {needed} "
                    f"rules ({size} symbols of degree {self.degrees[1]} over {below} symbols); lower degrees or raise "
                    "lengths"
                )

    @property
    def levels(self) -> int:
        """Number of levels, root and terminals included."""
        return len(self.sizes)

    def _right_hand_sides(self, below: int) -> int:
        lengths = range(self.lengths[0], self.lengths[1] + 1)
        return sum(math.perm(below, length) if self.distinct else below**length for length in lengths)


LADDER: Mapping[str, tuple[tuple[int, int], bool]] = MappingProxyType(
    {"b": ((2, 2), True), "i": ((2, 2), False), "h": ((2, 3), False), "g": ((3, 3), False), "f": ((3, 4), False)}
)
"""Degrees and distinctness of the published difficulties, from the easiest (cfg3b) to the hardest (cfg3f)."""


def ladder(difficulty: str, *, seed: int, levels: int = 7, size: int = 3) -> RandomGrammarConfig:
    """The kind of grammar of a published difficulty: `ladder("f", seed=1)` is a sibling of cfg3f.

    Args:
        difficulty: one of "b", "i", "h", "g", "f"; cfg3j and cfg3k are "g" and "f" with eight levels.
        seed: any integer.
        levels: root and terminals included, at least 2.
        size: symbols per level below the root.
    """
    if difficulty not in LADDER:
        raise ValueError(f"difficulty must be one of {', '.join(LADDER)}, got {difficulty!r}")
    degrees, distinct = LADDER[difficulty]
    return RandomGrammarConfig(seed=seed, sizes=(1, *[size] * (levels - 1)), degrees=degrees, distinct=distinct)


def random_grammar(config: RandomGrammarConfig, *, name: str | None = None) -> Grammar:
    """A random layered grammar with uniform rules.

    Terminals are 1 to |T|; nonterminals are numbered from |T| + 4 upwards, level by level towards the root, as in the
    published tables.

    Example:
        >>> random_grammar(ladder("b", seed=0, levels=3)).layers.sizes
        (1, 3, 3)
    """
    key = Key.of("random grammar", config.seed)
    number = _FIRST_AFTER_SPECIALS + config.sizes[-1]
    below = tuple(str(1 + i) for i in range(config.sizes[-1]))
    terminals = below
    tables: list[dict[str, list[tuple[str, ...]]]] = []
    for level in range(config.levels - 2, -1, -1):
        symbols = tuple(str(number + i) for i in range(config.sizes[level]))
        number += len(symbols)
        tables.append(_draw_level(config, key.child(level), symbols, below))
        below = symbols
    return Grammar.of(
        name or f"random-{config.seed}",
        below[0],
        {parent: rules for table in reversed(tables) for parent, rules in table.items()},
        terminals=terminals,
        allow_unreachable=True,
    )


def _draw_level(
    config: RandomGrammarConfig, key: Key, symbols: tuple[str, ...], below: tuple[str, ...]
) -> dict[str, list[tuple[str, ...]]]:
    """Right-hand sides of every symbol of a level; none occurs twice."""
    seen: set[tuple[str, ...]] = set()
    table: dict[str, list[tuple[str, ...]]] = {}
    for position, symbol in enumerate(symbols):
        draws = _draws(key.child(position))
        table[symbol] = []
        for _ in range(_between(draws, config.degrees)):
            children = _draw_children(config, draws, below)
            while children in seen:
                children = _draw_children(config, draws, below)
            seen.add(children)
            table[symbol].append(children)
    return table


def _draw_children(config: RandomGrammarConfig, draws: Iterator[float], below: tuple[str, ...]) -> tuple[str, ...]:
    children: list[str] = []
    length = _between(draws, config.lengths)
    while len(children) < length:
        child = below[_between(draws, (0, len(below) - 1))]
        if not (config.distinct and child in children):
            children.append(child)
    return tuple(children)


def _draws(key: Key) -> Iterator[float]:
    """Uniform numbers in [0, 1) without end."""
    batch = 0
    while True:
        yield from key.uniforms(np.array([batch]), _BATCH)[0].tolist()
        batch += 1


def _between(draws: Iterator[float], bounds: tuple[int, int]) -> int:
    """A uniform integer from `bounds[0]` to `bounds[1]`."""
    low, high = bounds
    return low + int(next(draws) * (high - low + 1))
