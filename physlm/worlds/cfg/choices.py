"""Random choices for the nodes of many sentences at once, each a pure function of (key, sentence, node).

- A node is addressed by the number of its sentence and its own number from the left; it reads a piece of 8 or 16 bits
  of a Philox block that it shares with its neighbours. One block of 256 bits serves 32 nodes, or 16.
- The piece falls into a bucket of a table. Nearly all buckets belong to one outcome; in the few that a boundary
  between outcomes cuts, a further word of the node's own decides. So small pieces cost no exactness: every
  probability is met within 2**-40, and uniform choices among 2, 4, 8, … exactly.

Shapes: S sentences, N nodes of all sentences end to end, A symbols, R outcomes of all symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key

ADDRESS_BITS = 24
"""Bits of a Philox index that number the nodes (or blocks) of one sentence; the others number the sentence."""

LARGEST_SENTENCE = 1 << ADDRESS_BITS
LARGEST_SPLIT = 1 << (62 - ADDRESS_BITS)

_BLOCK_BITS = 256
_BLOCK_WORDS = 4
_FEW_OUTCOMES = 16  # from here on a table of 8 bits would leave too many buckets undecided


def ranges(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """`arange(count)` of every count, end to end: counts [2, 3] give [0, 1, 0, 1, 2]."""
    counts = counts.astype(np.int64, copy=False)
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def smallest_dtype(largest: int) -> np.dtype:
    """The unsigned integers that hold `largest`."""
    return np.min_scalar_type(largest)


@dataclass(frozen=True, eq=False)
class Choices:
    """One probability distribution per symbol; outcomes are numbered through, symbol after symbol.

    Attributes:
        first: outcomes of symbol `a` are `first[a]` to `first[a + 1]`, shape `[A + 1]`.
        probabilities: of every outcome, summing to 1 for every symbol, shape `[R]`.
    """

    first: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.float64]) -> Choices:
        """From a matrix `[A, K]` with one distribution per row; outcome `a * K + k` stands for `k`."""
        symbols, outcomes = matrix.shape
        return cls(np.arange(symbols + 1) * outcomes, np.ascontiguousarray(matrix).reshape(-1))

    @cached_property
    def _bits(self) -> int:
        return 8 if np.diff(self.first).max() <= _FEW_OUTCOMES else 16

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Upper end of every outcome's interval; those of symbol `a` lie in `[a, a + 1]`. Shape `[R]`."""
        edges = np.empty(len(self.probabilities))
        for symbol, (start, stop) in enumerate(zip(self.first, self.first[1:], strict=False)):
            cumulative = np.cumsum(self.probabilities[start:stop])
            # Rounding must not leave room after the last outcome that can happen.
            cumulative[cumulative >= cumulative[-1]] = 1.0
            edges[start:stop] = symbol + cumulative
        return edges

    @cached_property
    def _table(self) -> tuple[NDArray[np.unsignedinteger], int]:
        """Outcome of every bucket of every symbol `[A * 2**bits]`, or the second value where it is undecided."""
        symbols, buckets = len(self.first) - 1, 1 << self._bits
        low = np.arange(symbols * buckets) / buckets
        outcome = np.searchsorted(self._edges, low, side="right")
        is_decided = self._edges[np.minimum(outcome, len(self._edges) - 1)] >= low + 1 / buckets
        undecided = len(self.probabilities)
        return np.where(is_decided, outcome, undecided).astype(smallest_dtype(undecided)), undecided

    @cached_property
    def is_certain(self) -> bool:
        """Whether every symbol has a single outcome."""
        return len(self.probabilities) == len(self.first) - 1

    def draw(
        self, key: Key, sentences: NDArray[np.int64], counts: NDArray[np.int64], symbols: NDArray[np.unsignedinteger]
    ) -> NDArray[np.integer]:
        """An outcome for every node.

        Args:
            key: governs the draws.
            sentences: number of each sentence in its split, `[S]`, below `LARGEST_SPLIT`.
            counts: nodes of each sentence, `[S]`, at most `LARGEST_SENTENCE`.
            symbols: of every node, `[N]` with `N = counts.sum()`.

        Returns:
            Numbers of outcomes, `[N]`.
        """
        if self.is_certain or not len(symbols):
            return symbols
        parts = _pieces(key, sentences, counts, self._bits)
        table, undecided = self._table
        bucket = (symbols.astype(np.int32) << self._bits) + parts
        outcome = table.take(bucket)
        open_nodes = np.flatnonzero(outcome == undecided)
        if len(open_nodes):
            starts = np.cumsum(counts) - counts
            of = np.searchsorted(starts, open_nodes, side="right") - 1
            address = (sentences[of] << ADDRESS_BITS) + open_nodes - starts[of]
            inside = key.child("inside the bucket").uniforms(address, 1)[:, 0]
            point = (bucket[open_nodes] + inside) / (1 << self._bits)
            chosen = np.searchsorted(self._edges, point, side="right")
            # A point that rounds up to the end of its symbol's interval belongs to the last outcome there.
            last = np.searchsorted(self._edges, np.arange(1, len(self.first)), side="left")
            outcome[open_nodes] = np.minimum(chosen, last[symbols[open_nodes]])
        return outcome


def _pieces(
    key: Key, sentences: NDArray[np.int64], counts: NDArray[np.int64], bits: int
) -> NDArray[np.unsignedinteger]:
    """`bits` random bits for every node, `[N]`."""
    per_block = _BLOCK_BITS // bits
    blocks = -(-counts // per_block)
    number = ranges(blocks)
    words = key.words(np.repeat(sentences << ADDRESS_BITS, blocks) + number, _BLOCK_WORDS)
    # Little-endian on every machine, so that every machine makes the same sentences.
    parts = words.astype("<u8", copy=False).view("<u1" if bits == 8 else "<u2")
    held = np.repeat(counts, blocks) - number * per_block
    return parts[np.arange(per_block) < held[:, None]]
