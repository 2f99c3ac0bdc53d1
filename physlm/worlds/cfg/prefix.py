"""The beginning of a sentence, continued token by token: the exact language model of a grammar.

- After every token the distribution of the next one is known, the end included; sampling from it is an exact oracle,
  the upper bound of what a model can do.
- A copy costs little, so that several continuations can be tried.

Specification, §2.3 (incremental form).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.tables import Sentence, Tables, weights_of

if TYPE_CHECKING:
    from physlm.worlds.cfg.kernels import Automaton

_ROOM = 64


class Prefix:
    """What has been read so far; made by `Parser.prefix`.

    Example:
        >>> prefix = Parser(grammar("cfg3b")).prefix()
        >>> prefix.next_token
        array([0.15625, 0.125  , 0.71875, 0.     ])
        >>> prefix.append(3)
        >>> len(prefix), prefix.can_end
        (1, False)
    """

    def __init__(self, grammar: Grammar, automaton: Automaton) -> None:
        self.grammar = grammar
        self._tables = Tables(automaton, _ROOM, 0)

    def __len__(self) -> int:
        """Number of tokens."""
        return self._tables.read

    @property
    def can_end(self) -> bool:
        """Whether what was read is a sentence."""
        return self._tables.root_span(len(self)) is not None

    @property
    def log2_probability(self) -> float:
        """Probability that a sentence begins so, in bits."""
        return float(np.log2(self._tables.progress.chance[: len(self)]).sum())

    @property
    def next_token(self) -> NDArray[np.float64]:
        """Probability of every terminal, and last of the end, `[T + 1]`; column i is token id i + 1."""
        return self._tables.next_tokens(len(self))[0]

    def append(self, token: int) -> None:
        """Read a token.

        Raises:
            ValueError: if no sentence goes on like this; the prefix stays what it was.
        """
        self.extend([token])

    def extend(self, sentence: Sentence) -> None:
        """Read tokens, or weights of terminals.

        Raises:
            ValueError: if no sentence goes on like this. The tokens before the first wrong one have been read then.
        """
        weights = weights_of(sentence, len(self.grammar.terminals), self.grammar.name)
        read = self._tables.extend(weights)
        if read < len(weights):
            allowed = np.flatnonzero(self._tables.progress.may_begin[len(self), : len(self.grammar.terminals)])
            tokens = f"one of {', '.join(str(i + 1) for i in allowed)}" if len(allowed) else "the end of the sentence"
            raise ValueError(
                f"token {read} must be {tokens} after these {len(self)} tokens, got {np.asarray(sentence)[read]}"
            )

    def copy(self) -> Prefix:
        """An independent copy."""
        other = object.__new__(Prefix)
        other.grammar, other._tables = self.grammar, self._tables.copy()
        return other

    def complete(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw tokens from the exact distribution until the end, and read them; returns them without EOS."""
        drawn: list[int] = []
        while True:
            cumulative = np.cumsum(self.next_token)
            token = 1 + int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
            if token == self.grammar.eos:
                return np.array(drawn, dtype=np.int64)
            self.append(token)
            drawn.append(token)
