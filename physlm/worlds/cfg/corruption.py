"""Mistakes in sentences: the three kinds in pretraining data, and noise on the prefixes of an evaluation.

- A world with `Corruption` makes mistakes in a share of its training sentences, decided by a coin per sentence. The
  coins are nested: the sentences with mistakes at one share are among those at any larger share.
- A mistake turns one symbol of a level into another, whatever its surroundings. All kinds are therefore one matrix
  of probabilities `[symbol, what it becomes]`.
- `perturb` corrupts the prefix that a model is asked to complete.

Follows Physics of Language Models, part 1, §5 (robustness); specification, §2.10 and §2.11.

Shapes: S sentences, N nodes of all sentences end to end, K symbols of the level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.cfg.choices import Choices

Kind: TypeAlias = Literal["terminal", "nonterminal", "permutation"]

PAPER_RATES: dict[Kind, float] = {"terminal": 0.15, "nonterminal": 0.10, "permutation": 0.05}
"""Chance of a mistake per token or node in the paper's three variants."""


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Mistakes in a share of the training sentences.

    Example:
        >>> Corruption.paper("nonterminal", share=0.5)
        Corruption(kind='nonterminal', share=0.5, rate=0.1, exclude_self=False)

    Attributes:
        kind: "terminal": a token becomes a random terminal. "nonterminal": a symbol of the last level above the
            terminals becomes a random symbol of that level, before its rule is chosen. "permutation": such a symbol
            becomes its successor in the order of the level, the last one the first.
        share: part of the sentences that can hold mistakes, in [0, 1]; the paper's γ.
        rate: chance of a mistake per token or symbol of such a sentence, in [0, 1].
        exclude_self: whether a random symbol is always another one. By default it is any of the level, so that a
            part `1 / K` of the mistakes changes nothing.
    """

    kind: Kind
    share: float
    rate: float
    exclude_self: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name in ("share", "rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.exclude_self and self.kind == "permutation":
            raise ValueError("exclude_self must be False with kind 'permutation', which never keeps a symbol, got True")

    @classmethod
    def paper(cls, kind: Kind, share: float) -> Corruption:
        """With the rate of the paper."""
        if kind not in PAPER_RATES:
            raise ValueError(f"kind must be one of {', '.join(PAPER_RATES)}, got {kind!r}")
        return cls(kind=kind, share=share, rate=PAPER_RATES[kind])

    def matrix(self, symbols: int) -> NDArray[np.float64]:
        """What each of `symbols` symbols becomes in a sentence with mistakes, shape `[K, K]`, rows summing to 1."""
        if self.kind == "permutation":
            wrong = np.roll(np.eye(symbols), 1, axis=1)
        else:
            wrong = _random_symbol(symbols, self.exclude_self)
        return (1.0 - self.rate) * np.eye(symbols) + self.rate * wrong


def _random_symbol(symbols: int, exclude_self: bool) -> NDArray[np.float64]:
    if exclude_self and symbols == 1:
        raise ValueError("exclude_self must be False on a level of a single symbol, got True")
    if exclude_self:
        return (1.0 - np.eye(symbols)) / (symbols - 1)
    return np.full((symbols, symbols), 1.0 / symbols)


class Mistakes:
    """A corruption on a level of `symbols` symbols."""

    def __init__(self, corruption: Corruption, symbols: int) -> None:
        self.corruption = corruption
        self._symbols = symbols
        self._choices = Choices.of_matrix(corruption.matrix(symbols))

    def chosen(self, key: Key, sentences: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which sentences can hold mistakes, `[S]`."""
        return key.child("sentences with mistakes").uniforms(sentences, 1)[:, 0] < self.corruption.share

    def make(
        self,
        key: Key,
        sentences: NDArray[np.int64],
        counts: NDArray[np.int64],
        symbols: NDArray[np.unsignedinteger],
        chosen: NDArray[np.bool_],
    ) -> NDArray[np.unsignedinteger]:
        """The symbols of all nodes `[N]` after mistakes in the chosen sentences."""
        at = np.repeat(chosen, counts)
        drawn = self._choices.draw(key.child("mistakes"), sentences[chosen], counts[chosen], symbols[at])
        wrong = symbols.copy()
        wrong[at] = drawn % self._symbols
        return wrong


def perturb(
    key: Key,
    numbers: NDArray[np.integer],
    tokens: NDArray[np.integer],
    *,
    terminals: int,
    rate: float = PAPER_RATES["terminal"],
    exclude_self: bool = False,
) -> NDArray[np.int64]:
    """Prefixes in which every token has become a random terminal with chance `rate` (specification, §2.11).

    Args:
        key: governs the noise.
        numbers: number of each prefix, `[S]`; the noise is a pure function of (key, number).
        tokens: the prefixes without BOS, `[S, length]`, terminals counted from 1.
        terminals: number of terminals of the grammar.
        rate: chance of a replacement per token, in [0, 1].
        exclude_self: whether the random terminal is always another one.

    Returns:
        The tokens to feed a model, `[S, length]`; what it writes is judged after the prefix that it was not shown.
    """
    tokens = np.asarray(tokens)
    if tokens.size and not 1 <= tokens.min() <= tokens.max() <= terminals:
        raise ValueError(f"tokens must be in 1..{terminals}, got {tokens.min()}..{tokens.max()}; leave out BOS and EOS")
    mistakes = Mistakes(Corruption(kind="terminal", share=1.0, rate=rate, exclude_self=exclude_self), terminals)
    counts = np.full(len(tokens), tokens.shape[1])
    everywhere = np.ones(len(tokens), dtype=np.bool_)
    symbols = (tokens.reshape(-1) - 1).astype(np.uint32)
    wrong = mistakes.make(key, np.asarray(numbers, dtype=np.int64), counts, symbols, everywhere)
    return wrong.reshape(tokens.shape).astype(np.int64) + 1
