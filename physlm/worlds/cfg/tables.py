"""What has been read of one sentence, growing with every token; charts and prefixes are views of it.

- Whatever was seen is a matrix of weights: the probability of each position's observation given each terminal. A
  token of the model's vocabulary is a row with a single 1, one that is no terminal (BOS, EOS, MASK) a row of zeros.
- numba is loaded when the first sentence is read, so that importing costs nothing.

Shapes: N tokens, T terminals, S states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from physlm.worlds.cfg.kernels import Automaton, Progress, Spans

Sentence: TypeAlias = Sequence[int] | NDArray[np.integer] | NDArray[np.floating] | NDArray[np.bool_]
"""Token ids without BOS and EOS, `[N]`, or weights of every terminal at every position, `[N, T]`."""

_FIRST_SPANS = 8
"""Spans per token to make room for at first; about three are needed on the paper's grammars."""


def weights_of(sentence: Sentence, terminals: int, name: str) -> NDArray[np.float64]:
    """Weights of every terminal at every position, `[N, T]`.

    Raises:
        ValueError: token ids outside the vocabulary, or weights that are negative, not finite or of another width.
    """
    try:
        array = np.asarray(sentence)
    except ValueError:  # rows of several lengths
        array = np.asarray(sentence, dtype=object)
    if array.size == 0 and array.ndim == 1:
        return np.zeros((0, terminals))
    if array.ndim == 2 and array.dtype.kind in "fb":
        if array.shape[1] != terminals:
            raise ValueError(f"weights must have one column per terminal of {name}, {terminals}, got {array.shape[1]}")
        weights = array.astype(np.float64)
        is_weight = np.isfinite(weights) & (weights >= 0)
        if not is_weight.all():
            position = int(np.argmin(is_weight.all(axis=1)))
            raise ValueError(f"weights must be finite and ≥ 0, got {weights[position].tolist()} at position {position}")
        return weights
    if array.ndim != 1 or array.dtype.kind not in "iu":
        several = (
            "methods that take many sentences need a list of them"
            if array.ndim == 0
            else "for several sentences use the methods that take many"
        )
        raise ValueError(
            f"a sentence must be a list of token ids, or a matrix of weights in floats, got {array.dtype} of shape "
            f"{array.shape}; {several}"
        )
    is_known = (array >= 0) & (array < terminals + 3)
    if not is_known.all():
        position = int(np.argmin(is_known))
        raise ValueError(
            f"token {position} must be in the vocabulary of {name}, from 0 to {terminals + 2}, got {array[position]}"
        )
    return (array[:, None] == np.arange(1, terminals + 1)).astype(np.float64)


class Tables:
    """The spans and predictions of what has been read.

    Attributes:
        automaton: the grammar.
        mode: what the second value of every span is; see `kernels`.
        progress, spans: what is known; see there.
        used: number of spans.
        read: number of tokens read.
    """

    def __init__(self, automaton: Automaton, room: int, mode: int) -> None:
        from physlm.worlds.cfg import kernels

        self.automaton, self.mode, self._kernels = automaton, mode, kernels
        self.used = self.read = 0
        self.progress: Progress = kernels.Progress(
            np.zeros((room + 1, automaton.states + 1), dtype=np.int64),
            np.zeros((room + 1, automaton.states)),
            np.zeros((room + 1, automaton.states), dtype=np.bool_),
            np.zeros(room),
        )
        size = _FIRST_SPANS * (room + 1)
        self.spans: Spans = kernels.Spans(np.empty(size, dtype=np.int32), np.empty(size), np.empty(size))
        self.extend(np.zeros((0, automaton.terminals)))

    def extend(self, weights: NDArray[np.float64]) -> int:
        """Read on until a token is impossible; returns how many were read."""
        before = self.read
        self._make_room(before + len(weights))
        self.read, self.used, self.spans = self._kernels.extend(
            self.automaton, self.progress, self.spans, self.used, weights, before, self.mode
        )
        return self.read - before

    def copy(self) -> Tables:
        """An independent copy, to try several continuations."""
        other = object.__new__(Tables)
        other.automaton, other.mode, other._kernels = self.automaton, self.mode, self._kernels
        other.used, other.read = self.used, self.read
        other.progress = self._kernels.Progress(*(array.copy() for array in self.progress))
        other.spans = self._kernels.Spans(*(array.copy() for array in self.spans))
        return other

    def outside(self) -> NDArray[np.float64]:
        """Outside probability of every span in the sentence that was read, `[used]`."""
        return self._kernels.outside(self.automaton, self.progress, self.spans, self.used, self.read)

    def root_span(self, end: int) -> int | None:
        """The span of the root from 0 to `end`, if the first `end` tokens are a sentence."""
        begin, root = self.progress.begin[end], self.automaton.root
        return int(begin[root]) if begin[root] < begin[root + 1] else None

    def next_tokens(self, first: int) -> NDArray[np.float64]:
        """Chance of every terminal, and last of the end, after `first` tokens and more, `[read + 1 - first, T + 1]`."""
        rows, root = slice(first, self.read + 1), self.automaton.root
        begin, end = self.progress.begin[rows, root], self.progress.begin[rows, root + 1]
        result = np.zeros((len(begin), self.automaton.terminals + 1))
        result[:, :-1] = self.progress.forward[rows, : self.automaton.terminals]
        result[begin < end, -1] = self.spans.inside[begin[begin < end]]
        return result

    def _make_room(self, length: int) -> None:
        room = len(self.progress.chance)
        if length > room:
            more = max(length, 2 * room) - room
            grown = (np.concatenate([a, np.zeros((more, *a.shape[1:]), dtype=a.dtype)]) for a in self.progress)
            self.progress = self._kernels.Progress(*grown)
