"""The array view of a layered grammar, from which sampling and inference are vectorised.

- A grammar is layered when every rule leads strictly to the next level: every terminal of a derivation is equally
  deep, and no symbol can contain itself. All grammars of the paper are (arXiv 2305.13673, section 2).
- Levels are found from the rules: the level of a symbol is its height above the terminals, counted from the root.
  A symbol the root cannot reach has a height too, and so a level.

Legend: L levels, level 0 is the root and level L - 1 the terminals (the paper counts 1..L); S_l symbols of level l;
R_l rules with a parent in level l; M_l children of the longest rule of level l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.rule import GrammarError, Rule

if TYPE_CHECKING:
    from physlm.worlds.cfg.grammar import Grammar

_ENDLESS = 2**40  # no sentence is as long; lengths of deep grammars would overflow


@dataclass(frozen=True, eq=False)
class Layers:
    """A layered grammar as arrays; every rule of level l has all its children in level l + 1.

    Attributes:
        symbols: symbols of every level; level 0 holds the root alone, level L - 1 is the alphabet.
        parents: index of the parent within level l, ascending, `[R_l]`, for l < L - 1; likewise below.
        first_rules: the rules of symbol a of level l are `first_rules[l][a] : first_rules[l][a + 1]`, `[S_l + 1]`.
        children: indices within level l + 1, padded with -1, `[R_l, M_l]`.
        lengths: number of children, `[R_l]`.
        probabilities: of the rule given its parent, `[R_l]`.
        shortest: fewest terminals below each symbol, `[S_l]`, for every level (1 for terminals); 2**40 if it is more.
        longest: most terminals below each symbol, `[S_l]`, for every level; likewise.
    """

    symbols: tuple[tuple[str, ...], ...]
    parents: tuple[NDArray[np.int64], ...]
    first_rules: tuple[NDArray[np.int64], ...]
    children: tuple[NDArray[np.int64], ...]
    lengths: tuple[NDArray[np.int64], ...]
    probabilities: tuple[NDArray[np.float64], ...]
    shortest: tuple[NDArray[np.int64], ...]
    longest: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        """Number of levels L, root and terminals included."""
        return len(self.symbols)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of symbols of every level."""
        return tuple(len(level) for level in self.symbols)

    @classmethod
    def of(cls, grammar: Grammar) -> Layers:
        """The layers of a grammar.

        Raises:
            GrammarError: the grammar is cyclic or a rule skips a level; the message names the rule.
        """
        symbols = _levels(grammar)
        above = range(len(symbols) - 1)
        rules = [[rule for symbol in symbols[level] for rule in grammar.rules_of[symbol]] for level in above]
        degrees = [[len(grammar.rules_of[symbol]) for symbol in symbols[level]] for level in above]
        first = [np.cumsum([0, *degrees[level]], dtype=np.int64) for level in above]
        children = [_children(rules[level], symbols[level + 1]) for level in above]
        return cls(
            symbols=symbols,
            parents=tuple(np.repeat(np.arange(len(degree), dtype=np.int64), degree) for degree in degrees),
            first_rules=tuple(first),
            children=tuple(children),
            lengths=tuple((array >= 0).sum(axis=1, dtype=np.int64) for array in children),
            probabilities=tuple(np.array([rule.probability for rule in level]) for level in rules),
            shortest=_spans(np.minimum, len(symbols[-1]), children, first),
            longest=_spans(np.maximum, len(symbols[-1]), children, first),
        )


def _children(rules: list[Rule], below: tuple[str, ...]) -> NDArray[np.int64]:
    """Indices of the children of every rule within the level below, padded with -1, `[R_l, M_l]`."""
    index = {symbol: i for i, symbol in enumerate(below)}
    children = np.full((len(rules), max(len(rule.children) for rule in rules)), -1, dtype=np.int64)
    for row, rule in zip(children, rules, strict=True):
        row[: len(rule.children)] = [index[child] for child in rule.children]
    return children


def _spans(
    choose: np.ufunc, terminals: int, children: list[NDArray[np.int64]], first: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], ...]:
    """The least or largest number of terminals below every symbol, per level from the root."""
    spans = [np.ones(terminals, dtype=np.int64)]
    for rules, starts in zip(reversed(children), reversed(first), strict=True):
        padded = np.append(spans[-1], 0)  # so that the padding -1 adds nothing
        spans.append(np.minimum(choose.reduceat(padded[rules].sum(axis=1), starts[:-1]), _ENDLESS))
    return tuple(reversed(spans))


def _levels(grammar: Grammar) -> tuple[tuple[str, ...], ...]:
    """Symbols of every level from the root, each level in the grammar's own order."""
    heights = _heights(grammar)
    top = heights[grammar.root]
    levels: list[list[str]] = [[] for _ in range(top + 1)]
    for symbol in (*grammar.nonterminals, *grammar.terminals):
        if heights[symbol] >= top and symbol != grammar.root:
            rule = grammar.rules_of[symbol][0]
            raise GrammarError(
                f"level 0 of {grammar.name} must hold the root {grammar.root!r} alone, but unreachable {symbol!r} in "
                f"'{rule}' is as high; remove it",
                rule=rule,
                symbol=symbol,
            )
        levels[top - heights[symbol]].append(symbol)
    return tuple(tuple(level) for level in levels)


def _heights(grammar: Grammar) -> dict[str, int]:
    """Rules between each symbol and the terminals below it, the same along every path."""
    heights = dict.fromkeys(grammar.terminals, 0)
    waiting = list(grammar.nonterminals)
    while waiting:
        ready = [s for s in waiting if all(c in heights for rule in grammar.rules_of[s] for c in rule.children)]
        if not ready:
            raise _cycle(grammar, waiting)
        for symbol in ready:
            first = grammar.rules_of[symbol][0]
            expected = heights[first.children[0]]
            for rule in grammar.rules_of[symbol]:
                for child in rule.children:
                    if heights[child] != expected:
                        raise GrammarError(
                            f"rule '{rule}' of {grammar.name} skips a level: {child!r} is {heights[child]} above the "
                            f"terminals, but {first.children[0]!r} in '{first}' is {expected}; all children of a "
                            "layered grammar lie one level below their parent (GeneralParser takes any grammar)",
                            rule=rule,
                            symbol=child,
                        )
            heights[symbol] = expected + 1
        waiting = [symbol for symbol in waiting if symbol not in heights]
    return heights


def _cycle(grammar: Grammar, unresolved: list[str]) -> GrammarError:
    """A complaint naming one rule on a cycle; every unresolved symbol has a rule with an unresolved child."""
    left = set(unresolved)
    path: dict[str, Rule] = {}
    symbol = unresolved[0]
    while symbol not in path:
        path[symbol] = next(rule for rule in grammar.rules_of[symbol] if left & set(rule.children))
        symbol = next(child for child in path[symbol].children if child in left)
    loop = list(path)[list(path).index(symbol) :]
    closing = path[loop[-1]]
    return GrammarError(
        f"rule '{closing}' makes {grammar.name} cyclic: {' → '.join([*loop, symbol])}; "
        "a layered grammar is needed here, in which no symbol contains itself (GeneralParser takes any grammar)",
        rule=closing,
        symbol=symbol,
    )
