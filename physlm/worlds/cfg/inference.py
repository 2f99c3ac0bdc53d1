"""Exact inference on layered grammars: is it a sentence, how probable, how ambiguous, what may come next.

- A `Parser` belongs to a grammar; its `Chart` of a sentence answers every question about that sentence, mostly from
  one pass from left to right (`kernels`). Methods that take many sentences answer one question about each.
- Sentences are token ids of the model's vocabulary without BOS and EOS, or, for implicit grammars, matrices of
  weights: the probability of what was seen at every position given each terminal.
- Every string has an answer: one that is empty, too long or holds BOS, EOS or MASK is no sentence, and the chart says
  where it leaves the language. Only ids outside the vocabulary are refused.
- Probabilities are logarithms to base 2, in bits.

Follows Physics of Language Models, part 1 (arXiv 2305.13673); specification, §2.2, 2.3 and 2.8.

Shapes: N tokens, T terminals, S_l symbols of level l.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.automaton import build
from physlm.worlds.cfg.counting import count_derivations
from physlm.worlds.cfg.derivation import Derivation
from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.nearest import Nearest, nearest_sentence
from physlm.worlds.cfg.prefix import Prefix
from physlm.worlds.cfg.questions import BatchInference
from physlm.worlds.cfg.tables import Sentence, Tables, weights_of
from physlm.worlds.cfg.traceback import best_derivation

_EXACT = 2**53
_COUNT, _BEST = 0, 1  # as in `kernels`, which is not imported as it loads numba


class Parse(NamedTuple):
    """The most probable derivation of a sentence and its probability, in bits (at most 0)."""

    derivation: Derivation
    log2_probability: float


class Parser(BatchInference[int]):
    """Exact inference for one layered grammar.

    Example:
        >>> parser = Parser(grammar("cfg3f"))
        >>> parser.log2_probabilities([[1, 2, 3], sentence])
        array([-inf, -177.89...])
        >>> chart = parser.chart(sentence)
        >>> chart.derivations, chart.next_token[50]
        (1, array([0.927..., 0.072..., 0., 0.]))

    Args:
        grammar: a layered grammar.

    Raises:
        ValueError: if the grammar is cyclic or skips a level; use `GeneralParser` for those.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.layers = grammar.layers
        self.automaton = build(self.layers)
        self.longest = int(self.layers.longest[0][0])

    def chart(self, sentence: Sentence) -> Chart:
        """Everything about one sentence.

        Raises:
            ValueError: token ids outside the vocabulary, or weights of the wrong shape or sign.
        """
        return Chart(self, weights_of(sentence, len(self.grammar.terminals), self.grammar.name))

    def nearest(self, sentence: Sentence) -> Nearest | None:
        """The sentence of the language that differs from a string in the fewest tokens; `None` if none is as long."""
        weights = weights_of(sentence, len(self.grammar.terminals), self.grammar.name)
        return nearest_sentence(self.layers, self.automaton, weights > 0)

    def prefix(self) -> Prefix:
        """The empty prefix, to be continued token by token."""
        return Prefix(self.grammar, self.automaton)


class Chart:
    """What a grammar says about one sentence; made by `Parser.chart`.

    Attributes:
        parser: whose grammar it is.
        weights: of every terminal at every position, `[N, T]`.
        read: number of tokens that begin some sentence of the language; N, unless the string goes wrong before.
    """

    def __init__(self, parser: Parser, weights: NDArray[np.float64]) -> None:
        self.parser, self.weights = parser, weights
        self._tables = Tables(parser.automaton, min(len(weights), parser.longest), _COUNT)
        # No more than the longest sentence is looked at: the token after it is impossible whatever it is.
        self._tables.extend(weights[: parser.longest])
        self.read = self._tables.read

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.weights)

    @property
    def is_sentence(self) -> bool:
        """Whether the language contains the string."""
        return self.read == len(self) and self._tables.root_span(self.read) is not None

    @property
    def error(self) -> int | None:
        """Position of the first token at which no sentence of the language can be recognised any more.

        N if all tokens are well but the sentence cannot end after them; `None` for a sentence of the language.
        """
        return None if self.is_sentence else self.read

    @cached_property
    def derivations(self) -> int:
        """Number of derivations, exactly; 0 outside the language.

        With weights, of all strings of terminals whose weights are positive everywhere.
        """
        span = self._tables.root_span(len(self)) if self.is_sentence else None
        if span is None:
            return 0
        rounded = float(self._tables.spans.second[span])
        # Sums and products of whole numbers never shrink, so that a small result is free of rounding.
        return int(rounded) if rounded < _EXACT else count_derivations(self.parser.layers, self._reread, rounded)

    @cached_property
    def log2_probability(self) -> float:
        """Probability of the sentence, in bits; -inf outside the language. With weights, of what was seen.

        Raises:
            FloatingPointError: a sentence of the language whose probability float64 cannot follow; see `next_token`.
        """
        span = self._tables.root_span(len(self)) if self.is_sentence else None
        if span is None:
            return -np.inf
        return self.prefix_log2_probabilities[-1] + float(np.log2(self._tables.spans.inside[span]))

    @cached_property
    def prefix_log2_probabilities(self) -> NDArray[np.float64]:
        """Probability that a sentence begins with the first k tokens, in bits, for k from 0 to N, `[N + 1]`.

        The sum of the logarithms of the next-token probabilities; -inf where no sentence begins so.
        """
        self._check_precision()
        bits = np.full(len(self) + 1, -np.inf)
        bits[: self.read + 1] = np.cumsum([0.0, *np.log2(self._tables.progress.chance[: self.read])])
        return bits

    @cached_property
    def next_token(self) -> NDArray[np.float64]:
        """Probability of every terminal, and last of the end, after the first k tokens, for k from 0 to N.

        Shape `[N + 1, T + 1]`; rows sum to 1. After a token that no sentence has there, rows are NaN: nothing is
        defined. Column i is token id i + 1. With weights, the probability of observables is
        `next_token[:, :-1] @ probabilities`, with those of every observable given each terminal.

        Raises:
            FloatingPointError: if the only derivations left were 1e308 times less likely than others before them.
        """
        self._check_precision()
        result = np.full((len(self) + 1, self.weights.shape[1] + 1), np.nan)
        result[: self.read + 1] = self._tables.next_tokens(0)
        return result

    def closings(self, level: int) -> NDArray[np.float64]:
        """Chance that a symbol of `level` ends after the first k tokens, given these, for k from 0 to N.

        Shape `[N + 1, S_l]`. The sum of a row is the chance of a boundary; a row divided by its sum is the posterior
        of the symbol that ends there, if one does (`C_end` of the specification, §2.8). NaN where nothing is defined.
        """
        self._check_precision()
        states, ends = self._states_and_ends
        forward = self._tables.progress.forward[self._starts, states]
        result = np.full((len(self) + 1, self.parser.layers.sizes[level]), np.nan)
        result[: self.read + 1] = self._collect(level, forward * self._inside, states, ends)
        return result

    def ancestors(self, level: int) -> NDArray[np.float64]:
        """Posterior of the symbol of `level` above every token, given the whole sentence, `[N, S_l]` (`C_full`).

        Raises:
            ValueError: if the string is not a sentence of the language.
        """
        states, ends = self._states_and_ends
        changes = self._collect(level, self._posterior, states, self._starts)
        changes -= self._collect(level, self._posterior, states, ends)
        return np.clip(np.cumsum(changes[:-1], axis=0), 0.0, 1.0)

    def boundaries(self, level: int) -> NDArray[np.float64]:
        """Chance that a symbol of `level` ends with token k, given the whole sentence, `[N, S_l]`.

        Raises:
            ValueError: if the string is not a sentence of the language.
        """
        states, ends = self._states_and_ends
        return self._collect(level, self._posterior, states, ends)[1:]

    @cached_property
    def best(self) -> Parse:
        """The most probable derivation; of equally probable ones, always the same.

        Raises:
            ValueError: if the string is not a sentence of the language.
        """
        self._check_sentence()
        self._check_precision()
        derivation = best_derivation(self.parser.layers, self._reread(_BEST))
        bits = [
            np.log2(p[rules]).sum() for p, rules in zip(self.parser.layers.probabilities, derivation.rules, strict=True)
        ]
        seen = self.weights[np.arange(len(self)), derivation.symbols[-1]]
        return Parse(derivation, float(sum(bits) + np.log2(seen).sum()))

    def _reread(self, mode: int) -> Tables:
        tables = Tables(self.parser.automaton, len(self), mode)
        tables.extend(self.weights)
        return tables

    @cached_property
    def _states_and_ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """State and end of every span."""
        counts = np.diff(self._tables.progress.begin[: self.read + 1], axis=1)
        ends, states = np.divmod(np.arange(counts.size), counts.shape[1])
        return np.repeat(states, counts.reshape(-1)), np.repeat(ends, counts.reshape(-1))

    @property
    def _starts(self) -> NDArray[np.int32]:
        return self._tables.spans.start[: self._tables.used]

    @property
    def _inside(self) -> NDArray[np.float64]:
        return self._tables.spans.inside[: self._tables.used]

    @cached_property
    def _posterior(self) -> NDArray[np.float64]:
        """Chance that the derivation has each span, given the whole sentence."""
        self._check_sentence()
        self._check_precision()
        return self._tables.outside() * self._inside

    def _collect(
        self, level: int, values: NDArray[np.float64], states: NDArray[np.int64], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Sums of the values of spans of a level at each position and symbol, `[read + 1, S_l]`."""
        levels = len(self.parser.layers)
        if not 0 <= level < levels:
            raise ValueError(f"level must be in 0..{levels - 1} (0 is the root), got {level}")
        size, first = self.parser.layers.sizes[level], self.parser.automaton.first_symbol[level]
        chosen = (states >= first) & (states < first + size)
        cells = positions[chosen].astype(np.int64) * size + (states[chosen] - first)
        sums = np.bincount(cells, values[chosen], (self.read + 1) * size).astype(np.float64)  # whole if none is chosen
        return sums.reshape(self.read + 1, size)

    def _check_sentence(self) -> None:
        if not self.is_sentence:
            where = f"token {self.error}" if self.read < len(self) else f"its end, after {self.error} tokens"
            raise ValueError(
                f"only sentences of {self.parser.grammar.name} have derivations; this string leaves it at {where}"
            )

    def _check_precision(self) -> None:
        if not self._tables.progress.chance[: self.read].all():
            raise FloatingPointError(
                f"probabilities in {self.parser.grammar.name} span more than float64 can hold: the only derivations "
                "left were less than 1e-308 times as likely as others before; membership and counts are still exact"
            )
