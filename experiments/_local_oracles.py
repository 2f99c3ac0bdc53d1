"""What is known of a token by someone who sees only a constituent around it.

- What may be seen of a sentence is all other tokens where tokens are masked, and all earlier tokens where the next one
  is asked for. The *full* posterior of a token is given all of that.
- The *local oracle* of level ℓ sees, of what may be seen, only the tokens of the asked token's own constituent of
  level ℓ, in the derivation that made the sentence. Of the other tokens it knows how many there are, not what they are,
  and it is not told that what it sees is a constituent. Its posterior is exact: to the parser, a token that is not seen
  is a row of ones.
- What lies *beyond* level ℓ is the KL from the full posterior to that of the local oracle of level ℓ: what the rest of
  the sentence adds, in nats.
- A token *needs* level ℓ if the local oracle of level ℓ is within `SUFFICES` of the full posterior and those of all
  smaller constituents are not.

Levels are numbered as in the paper: 1 is the root, L the terminals; the oracle of level 1 has the full posterior, that
of level L sees no token at all.

Shapes: L levels, N tokens, H hidden tokens, T terminals.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from experiments._predictions import divergence
from physlm.data.contract import IntArray
from physlm.worlds.cfg.derivation import Derivation
from physlm.worlds.cfg.inference import Parser

SUFFICES = 0.05
"""Nats beyond a constituent that still count as nothing."""


def hidden_posteriors(
    parser: Parser, sentence: IntArray, derivation: Derivation, hidden: IntArray
) -> NDArray[np.float64]:
    """Posterior of each hidden token given the others, for the local oracles of all levels, `[L, H, T]`.

    Args:
        parser: of the grammar.
        sentence: token ids without BOS and EOS, `[N]`.
        derivation: what made the sentence.
        hidden: positions of the tokens that nobody sees, `[H]`: one token, or several of one node above the terminals.

    Raises:
        ValueError: if the hidden tokens have different nodes above them.
    """
    levels = len(derivation.symbols)
    if len(set(derivation.ancestors(levels - 2)[hidden].tolist())) != 1:
        raise ValueError(f"hidden must be positions below one node of level {levels - 1}, got {hidden.tolist()}")
    known = _known(parser, sentence)
    known[hidden] = 1.0
    posteriors = []
    for level in range(levels):
        ancestors = derivation.ancestors(level)
        is_seen = ancestors == ancestors[hidden[0]]
        chart = parser.chart(np.where(is_seen[:, None], known, 1.0))
        posteriors.append(chart.ancestors(levels - 1)[hidden])
    return np.array(posteriors)


def next_token_posteriors(parser: Parser, sentence: IntArray, derivation: Derivation) -> NDArray[np.float64]:
    """Posterior of every token given the earlier ones, for the local oracles of all levels, `[L, N + 1, T + 1]`.

    The last position is the end of the sentence, which is also the last outcome; its constituent is the sentence.
    """
    known = _known(parser, sentence)
    nothing_seen = parser.chart(np.ones_like(known)).next_token
    posteriors = [parser.chart(known).next_token]
    for level in range(1, len(derivation.symbols) - 1):
        posterior = nothing_seen.copy()
        edges = [0, *(1 + np.flatnonzero(derivation.ends(level))).tolist()]
        for start, end in pairwise(edges):
            seen = np.concatenate([np.ones((start, known.shape[1])), known[start:end]])
            posterior[start:end] = parser.chart(seen).next_token[start:end]
        posteriors.append(posterior)
    return np.array([*posteriors, nothing_seen])


def beyond(posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """What lies beyond each level, in nats: `[L, H]` from `[L, H, T]`; zero beyond level 1."""
    logs = np.log(posteriors, where=posteriors > 0, out=np.full_like(posteriors, -np.inf))
    return divergence(np.broadcast_to(posteriors[0], posteriors.shape), logs)


def needed_levels(beyond_levels: NDArray[np.float64]) -> NDArray[np.int64]:
    """The level that each token needs, from 1 to L, `[H]` from `[L, H]`."""
    suffices = beyond_levels <= SUFFICES
    suffices[0] = True
    return len(suffices) - np.argmax(suffices[::-1], axis=0)


def _known(parser: Parser, sentence: IntArray) -> NDArray[np.float64]:
    """Every token as weights of the terminals, `[N, T]`."""
    return (np.asarray(sentence)[:, None] == np.arange(1, len(parser.grammar.terminals) + 1)).astype(np.float64)
