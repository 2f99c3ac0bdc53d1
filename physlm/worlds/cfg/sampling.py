"""Sentences of a grammar, many at once: every level of all derivations in a few array operations.

- `Sampler.sample` expands all nodes of a level together: choose a rule for every node, look up its children, go on.
- A derivation is a pure function of (key, number of the sentence): the rule of a node is a draw at (level, sentence,
  node), so that any batch, in any order, holds the same sentences.
- `Sampler.fixed` gives the two sentences that involve no chance, rule A and rule M (specification, §2.4).
- Grammars whose rules skip levels or recur are expanded in generations: terminals are handed down unchanged until
  nothing else is left. Their "levels" are these generations.

Follows Physics of Language Models, part 1, §2: every symbol takes one of its rules independently.

Shapes: S sentences, N nodes of all sentences on one level, end to end; A symbols and R rules of one level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.cfg.choices import LARGEST_SENTENCE, Choices, smallest_dtype
from physlm.worlds.cfg.corruption import Corruption, Mistakes
from physlm.worlds.cfg.derivation import HANDED_DOWN, Derivation, Forest, Mistaken, Unsigned
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Layers

_LARGEST_RECURSIVE = 1 << 14


@dataclass(frozen=True, eq=False)
class _Stage:
    """The rules of one level.

    Attributes:
        choices: of a rule, for every symbol.
        children: symbols of the next level, shape `[R, most]`; `filler` after the last child.
        lengths: number of children, `[R]`.
    """

    choices: Choices
    children: Unsigned
    filler: int
    lengths: Unsigned

    @classmethod
    def of(
        cls,
        first: NDArray[np.int64],
        probabilities: NDArray[np.float64],
        children: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> _Stage:
        filler = int(children.max()) + 1
        packed = np.where(children < 0, filler, children).astype(smallest_dtype(filler))
        return cls(Choices(first, probabilities), packed, filler, lengths.astype(smallest_dtype(int(lengths.max()))))

    def expand(self, rules: NDArray[np.integer]) -> Unsigned:
        """Children of all nodes, end to end."""
        rows = self.children.take(rules, axis=0).reshape(-1)
        if self.lengths.min() == self.children.shape[1]:
            return rows
        return np.compress(rows != self.filler, rows)


class Sampler:
    """Derivations of a grammar, as a pure function of (key, number of the sentence).

    Example:
        >>> sampler = Sampler(grammar("cfg3f"))
        >>> forest = sampler.sample(Key.of("sentences", 0), np.arange(1000))
        >>> int(sampler.tokens(forest).max())
        3

    Args:
        grammar: any grammar; one that is not layered is expanded in generations.
        corruption: mistakes to make, if any.

    Raises:
        ValueError: if the corruption changes nonterminals of a grammar that has no levels, or if the sentences of a
            recursive grammar have no finite expected length.
    """

    def __init__(self, grammar: Grammar, corruption: Corruption | None = None) -> None:
        self.grammar = grammar
        layers = layers_of(grammar)
        self.is_layered = layers is not None
        if layers is not None:
            parts = zip(layers.first_rules, layers.probabilities, layers.children, layers.lengths, strict=True)
            self._stages = tuple(_Stage.of(*part) for part in parts)
            self._names = layers.symbols
            self._root, self._first_terminal = 0, 0
        else:
            _check_growth(grammar)
            self._names, stage = _generation(grammar)
            self._stages = (stage,)
            self._root = self._names[0].index(grammar.root)
            self._first_terminal = len(grammar.nonterminals)
        self._mistakes: Mistakes | None = None
        if corruption is not None:
            if corruption.kind != "terminal" and not self.is_layered:
                raise ValueError(
                    f"mistakes of kind {corruption.kind!r} need a layered grammar, got {grammar.name!r}: use 'terminal'"
                )
            nonterminals = () if layers is None else layers.symbols[-2]
            symbols = grammar.terminals if corruption.kind == "terminal" else nonterminals
            self._mistakes = Mistakes(corruption, len(symbols))

    def tokens(self, forest: Forest) -> NDArray[np.int32]:
        """Terminals of all sentences, end to end, counted from 1 as in the model's vocabulary."""
        return forest.symbols[-1].astype(np.int32) + (1 - self._first_terminal)

    def sample(self, key: Key, sentences: NDArray[np.int64], *, leaves: bool = True) -> Forest:
        """The derivations of `sentences`, `[S]`.

        Args:
            key: governs all draws; one key per split.
            sentences: numbers of the sentences, in any order, repeated or not.
            leaves: whether to make the last level; without, its offsets are there but no symbols.

        Raises:
            ValueError: if a sentence grows beyond `LARGEST_SENTENCE` nodes on one level.
        """

        def choose(level: int, symbols: Unsigned, counts: NDArray[np.int64]) -> NDArray[np.integer]:
            return self._stage(level).choices.draw(key.child("rules", level), sentences, counts, symbols)

        return self._grow(choose, key, sentences, leaves)

    def lengths(self, key: Key, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of terminals of each of `sentences`, `[S]`, at about half the cost of sampling them."""
        return np.diff(self.sample(key, sentences, leaves=False).offsets[-1])

    def fixed(self, rule: Literal["A", "M"]) -> Derivation:
        """A sentence without chance (specification, §2.4).

        Args:
            rule: "A": every symbol takes its first rule. "M": the node with number `i` of its level, counted from
                0, takes rule `i mod degree` of its symbol.
        """
        if rule not in ("A", "M"):
            raise ValueError(f"rule must be 'A' or 'M', got {rule!r}")

        def choose(level: int, symbols: Unsigned, counts: NDArray[np.int64]) -> NDArray[np.integer]:  # noqa: ARG001
            first = self._stage(level).choices.first
            return first[symbols] + (np.arange(len(symbols)) % np.diff(first)[symbols] if rule == "M" else 0)

        return self.derivation(self._grow(choose, None, np.zeros(1, dtype=np.int64), leaves=True), 0)

    def derivation(self, forest: Forest, i: int) -> Derivation:
        """The derivation of sentence `i` alone."""

        def of(
            arrays: Sequence[NDArray[np.integer]], offsets: Sequence[NDArray[np.int64]] = forest.offsets
        ) -> tuple[NDArray[np.int64], ...]:
            parts = [array[o[i] : o[i + 1]] for array, o in zip(arrays, offsets, strict=False)]
            return tuple(part.astype(np.int64) for part in parts)

        symbols, rules, lengths = of(forest.symbols), of(forest.rules), of(forest.lengths)
        names = self._names
        if not self.is_layered:
            # The generations that only the other sentences needed go.
            levels = next(level for level, s in enumerate(symbols) if s.min() >= self._first_terminal) + 1
            symbols = (*symbols[: levels - 1], symbols[-1])  # mistakes, if any, are in the last one
            rules, lengths, names = rules[: levels - 1], lengths[: levels - 1], names * levels
            rules = tuple(np.where(rule < len(self.grammar.rules), rule, HANDED_DOWN) for rule in rules)
        parents = (np.array([-1]), *(np.repeat(np.arange(len(children)), children) for children in lengths))
        mistaken = forest.mistaken
        if mistaken is None or not mistaken.chosen[i]:
            return Derivation(names, symbols, parents, rules)
        (intended,) = of((mistaken.intended,), forest.offsets[mistaken.level :])
        return Derivation(names, symbols, parents, rules, intended, min(mistaken.level, len(symbols) - 1))

    def bits(self, forest: Forest) -> NDArray[np.float64]:
        """-log2 of the probability of every derivation, `[S]`, mistakes aside."""
        total = np.zeros(len(forest))
        for level, rules in enumerate(forest.rules):
            surprise = -np.log2(self._stage(level).choices.probabilities)
            total += np.add.reduceat(surprise[rules], forest.offsets[level][:-1])
        return total

    def _stage(self, level: int) -> _Stage:
        return self._stages[level if self.is_layered else 0]

    def _is_last(self, level: int, symbols: Unsigned) -> bool:
        if self.is_layered:
            return level == len(self._stages)
        return not len(symbols) or bool(symbols.min() >= self._first_terminal)

    def _grow(
        self,
        choose: Callable[[int, Unsigned, NDArray[np.int64]], NDArray[np.integer]],
        key: Key | None,
        sentences: NDArray[np.int64],
        leaves: bool,
    ) -> Forest:
        """Expand all roots; mistakes are made where there is a key."""
        most = LARGEST_SENTENCE if self.is_layered else _LARGEST_RECURSIVE
        symbols: list[Unsigned] = [np.full(len(sentences), self._root, dtype=smallest_dtype(len(self._names[0])))]
        offsets = [np.arange(len(sentences) + 1)]
        rules, lengths = [], []
        mistaken: Mistaken | None = None
        mistakes = self._mistakes
        of_terminals = mistakes is not None and mistakes.corruption.kind == "terminal"
        while True:
            level = len(rules)
            is_last = self._is_last(level, symbols[-1])
            is_wrong_level = is_last and leaves if of_terminals else level == len(self._stages) - 1
            if mistakes is not None and key is not None and is_wrong_level:
                mistaken = Mistaken(level, mistakes.chosen(key, sentences), symbols[-1])
                first = self._first_terminal if is_last else 0
                counts = np.diff(offsets[-1])
                wrong = mistakes.make(key, sentences, counts, mistaken.intended - first, mistaken.chosen) + first
                symbols[-1] = wrong.astype(mistaken.intended.dtype)
            if is_last:
                break
            stage = self._stage(level)
            rules.append(choose(level, symbols[-1], np.diff(offsets[-1])))
            lengths.append(stage.lengths[rules[-1]])
            counts = np.add.reduceat(lengths[-1], offsets[-1][:-1], dtype=np.int64)
            if counts.max(initial=0) > most:
                raise ValueError(
                    f"sentences of {self.grammar.name!r} must have at most {most} nodes on a level, "
                    f"got {counts.max()}: use fewer levels, or lower the probabilities of recursive rules"
                )
            offsets.append(np.concatenate([[0], np.cumsum(counts)]))
            is_needed = leaves or not self.is_layered or level + 1 < len(self._stages)
            symbols.append(stage.expand(rules[-1]) if is_needed else symbols[-1][:0])
        return Forest(tuple(symbols), tuple(offsets), tuple(rules), tuple(lengths), mistaken)


def layers_of(grammar: Grammar) -> Layers | None:
    """The levels of a grammar, or `None` if it has none."""
    try:
        return grammar.layers
    except GrammarError:
        return None


def _check_growth(grammar: Grammar) -> None:
    """Sentences have a finite expected length if expected numbers of nonterminals shrink (Booth and Thompson 1973)."""
    number = {name: i for i, name in enumerate(grammar.nonterminals)}
    expected = np.zeros((len(number), len(number)))
    for rule in grammar.rules:
        for child in rule.children:
            if child in number:
                expected[number[rule.parent], number[child]] += rule.probability
    growth = float(np.abs(np.linalg.eigvals(expected)).max())
    if growth >= 1.0:
        raise ValueError(
            f"sentences of {grammar.name!r} must have a finite expected length, got nonterminals that multiply by "
            f"{growth:.4g} per generation: lower the probabilities of the recursive rules"
        )


def _generation(grammar: Grammar) -> tuple[tuple[tuple[str, ...]], _Stage]:
    """All rules as one stage that can be applied again and again: terminals have themselves as their only child."""
    names = (*grammar.nonterminals, *grammar.terminals)
    number = {name: i for i, name in enumerate(names)}
    rules = [rule for group in grammar.rules_of.values() for rule in group]
    rows = [[number[child] for child in rule.children] for rule in rules] + [[number[t]] for t in grammar.terminals]
    parents = [number[rule.parent] for rule in rules] + [number[t] for t in grammar.terminals]
    children = np.full((len(rows), max(map(len, rows))), -1)
    for row, symbols in zip(children, rows, strict=True):
        row[: len(symbols)] = symbols
    probabilities = np.array([rule.probability for rule in rules] + [1.0] * len(grammar.terminals))
    first = np.concatenate([[0], np.cumsum(np.bincount(parents))])
    lengths = np.array([len(row) for row in rows])
    return (names,), _Stage.of(first, probabilities, children, lengths)
