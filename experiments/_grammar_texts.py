"""Exact inference on texts that do not show the terminals of a grammar as they are: through bags, or with mistakes.

- `ShownGrammar`: every terminal is shown as a random token. What is seen are weights of an exact parser, and the next
  token is the next terminal, shown. Implicit grammars are this, and so are mistakes in terminals.
- `TextWithMistakes`: sentences without mistakes, and sentences that can hold them, are two languages. Training text
  mixes the two, so what follows a prefix is what follows it in each, weighted by the chance that the prefix gives to
  each. Mistakes of the symbols above the terminals make another grammar: every symbol also takes the rules of what it
  may become.
- A reader that knows such a text perfectly still writes mistakes, and still has to guess what a noisy prefix meant. Its
  completions are the ideal that a trained model is compared with.

Source: Physics of Language Models 1, section 5 (mistakes) and result 10 (bags); the mistakes are those of
`physlm.worlds.cfg.corruption`.

Shapes: N tokens, T terminals, V tokens that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.worlds.cfg.corruption import Corruption
from physlm.worlds.cfg.grammar import Grammar, Rule
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.prefix import Prefix


@dataclass(frozen=True, eq=False)
class ShownGrammar:
    """A grammar whose terminals are shown as random tokens.

    Attributes:
        parser: of the grammar.
        shown: chance that a terminal is shown as a token, `[T, V]`; column i is token id i + 1.
    """

    parser: Parser
    shown: NDArray[np.float64]

    def weights(self, tokens: IntArray) -> NDArray[np.float64]:
        """Chance of every token given each terminal, `[N, T]`."""
        return self.shown[:, np.asarray(tokens, dtype=np.int64) - 1].T

    def as_shown(self, next_terminal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distributions over the token shown next, `[..., V + 1]`, from those over the terminal, `[..., T + 1]`."""
        return np.concatenate([next_terminal[..., :-1] @ self.shown, next_terminal[..., -1:]], axis=-1)

    def next_token(self, sentence: IntArray) -> NDArray[np.float64]:
        """Chance of every token, and last of the end, after the first k tokens, for k from 0 to N, `[N + 1, V + 1]`."""
        return self.as_shown(self.parser.chart(self.weights(sentence)).next_token)


def grammar_with_mistakes(grammar: Grammar, corruption: Corruption) -> Grammar:
    """The grammar of sentences that can hold mistakes of the symbols above the terminals.

    Args:
        grammar: a layered grammar.
        corruption: of kind "nonterminal" or "permutation"; its share is not looked at.
    """
    if corruption.kind == "terminal":
        raise ValueError("kind must be 'nonterminal' or 'permutation', got 'terminal', which changes no rule")
    parents = grammar.layers.symbols[-2]
    becomes = corruption.matrix(len(parents))
    chances: dict[tuple[str, tuple[str, ...]], float] = {}
    for meant, parent in enumerate(parents):
        for written, other in enumerate(parents):
            for rule in grammar.rules_of[other]:
                key = (parent, rule.children)
                chances[key] = chances.get(key, 0.0) + float(becomes[meant, written]) * rule.probability
    above = tuple(rule for rule in grammar.rules if rule.parent not in parents)
    below = tuple(Rule(parent, children, chance) for (parent, children), chance in chances.items() if chance > 0)
    return Grammar(
        name=f"{grammar.name} with mistakes",
        root=grammar.root,
        rules=above + below,
        terminals=grammar.terminals,
        allow_unreachable=grammar.allow_unreachable,
    )


class TextWithMistakes:
    """The exact distribution of training sentences; without a corruption that of the grammar.

    Example:
        >>> text = TextWithMistakes(named_grammar("cfg3b"), Corruption.paper("terminal", share=0.5))
        >>> text.next_token(np.array([3, 2])).shape
        (3, 4)

    Args:
        grammar: a layered grammar.
        corruption: mistakes in the training sentences.
    """

    def __init__(self, grammar: Grammar, corruption: Corruption | None = None) -> None:
        as_is = np.eye(len(grammar.terminals))
        self._eos = grammar.eos
        self._languages: list[tuple[float, ShownGrammar]] = []
        """Share of the text in bits, and the language."""
        share = 0.0 if corruption is None else corruption.share
        if share < 1:
            self._languages.append((np.log2(1 - share), ShownGrammar(Parser(grammar), as_is)))
        if corruption is not None and share > 0:
            if corruption.kind == "terminal":
                mistaken = ShownGrammar(Parser(grammar), corruption.matrix(len(grammar.terminals)))
            else:
                mistaken = ShownGrammar(Parser(grammar_with_mistakes(grammar, corruption)), as_is)
            self._languages.append((np.log2(share), mistaken))

    def next_token(self, sentence: IntArray) -> NDArray[np.float64]:
        """Chance of every terminal, and last of the end, after the first k tokens, for k from 0 to N, `[N + 1, T + 1]`.

        NaN after a token that no sentence of the text has there.
        """
        bits, distributions = [], []
        for share, language in self._languages:
            chart = language.parser.chart(language.weights(sentence))
            bits.append(share + chart.prefix_log2_probabilities)
            distributions.append(language.as_shown(chart.next_token))
        weights = _shares(np.array(bits))[..., None]
        mixed = np.where(weights > 0, weights * np.array(distributions), 0.0).sum(axis=0)
        return np.where((weights > 0).any(axis=0), mixed, np.nan)

    def completions(
        self, prefixes: Sequence[IntArray], uniforms: NDArray[np.float64], *, temperature: float = 1.0
    ) -> list[IntArray | None]:
        """What the ideal reader writes after each prefix, drawn from the exact distribution at a temperature.

        Args:
            prefixes: without BOS.
            uniforms: one number in [0, 1) for every token that may be drawn, `[len(prefixes), most tokens]`.
            temperature: divides log-probabilities before every draw, > 0.

        Returns:
            The new tokens of each; `None` where the prefix begins no sentence of the text, or there was no room to end.
        """
        return [self._complete(prefix, row, temperature) for prefix, row in zip(prefixes, uniforms, strict=True)]

    def _complete(self, prefix: IntArray, uniforms: NDArray[np.float64], temperature: float) -> IntArray | None:
        readings = [_Reading(share, language, language.parser.prefix()) for share, language in self._languages]
        for token in prefix:
            readings = _read(readings, int(token))
            if not readings:
                return None
        made: list[int] = []
        for uniform in uniforms:
            weights = _shares(np.array([reading.bits for reading in readings]))
            chances = weights @ np.array([reading.next_token for reading in readings])
            cumulative = np.cumsum((chances / chances.max()) ** (1 / temperature))
            token = 1 + int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
            if token == self._eos:
                return np.array(made, dtype=np.int64)
            readings = _read(readings, token)
            made.append(token)
        return None


@dataclass(frozen=True)
class _Reading:
    """The beginning of a sentence as one of a language.

    Attributes:
        bits: logarithm of the language's share times the probability that a sentence of it begins so.
        language: the language.
        prefix: what the terminals behind may be.
    """

    bits: float
    language: ShownGrammar
    prefix: Prefix

    @property
    def next_token(self) -> NDArray[np.float64]:
        return self.language.as_shown(self.prefix.next_token)


def _read(readings: Sequence[_Reading], token: int) -> list[_Reading]:
    """The readings that are still possible after a further token; their prefixes are moved on."""
    possible = []
    for reading in readings:
        chance = reading.next_token[token - 1]
        if chance > 0:
            reading.prefix.extend(reading.language.weights(np.array([token])))
            possible.append(_Reading(reading.bits + float(np.log2(chance)), reading.language, reading.prefix))
    return possible


def _shares(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """What logarithms to base 2 are of their sum along the first axis; zero where everything is impossible."""
    largest = bits.max(axis=0)
    weights = np.exp2(bits - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=0)
    return weights / np.where(total > 0, total, 1.0)
