"""Wrong attempts in sentences of a grammar: a token after which no sentence can go on, then <back>.

What may follow comes from exact parsing of what was written before, attempts aside. Where everything may follow,
nothing is attempted; in a sentence with mistakes nothing is, once it has left the language. Parsing is much more work
than drawing sentences: about half a millisecond for one of 350 tokens.

In an implicit world, tokens are observables: an attempt is one of no terminal that may follow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.marks import Role
from physlm.worlds.cfg.sampling import layers_of
from physlm.worlds.cfg.world import CFGWorld
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, Places, require_kind


class GrammarErrors:
    """The error model of a grammar world; implements `ErrorModel`.

    Args:
        world: whose documents.
        config: what is attempted; only kind "retry".
    """

    is_judged = False
    chunk = 64
    roles = tuple(map(int, Role))

    def __init__(self, world: CFGWorld, config: RetryConfig) -> None:
        require_kind(config.kind, ("retry",), world)
        self.world = world
        self.back = world.vocab_size
        self._parser = (GeneralParser if layers_of(world.grammar) is None else Parser)(world.grammar)
        is_itself = np.eye(len(world.grammar.terminals), dtype=np.bool_)
        self._membership: NDArray[np.bool_] = is_itself if world.bags is None else world.bags.membership
        self._occurs: NDArray[np.bool_] = np.any(self._membership, axis=0)

    def impossible(self, sentence: IntArray) -> NDArray[np.bool_]:
        """Which tokens of the alphabet no sentence has at each position of this one, given what is before it.

        Args:
            sentence: tokens without BOS, `[length]`.

        Returns:
            Shape `[length, alphabet]`, column i for token id i + 1; nothing where the sentence has left the language.
        """
        if not len(sentence):
            return np.zeros((0, len(self._occurs)), dtype=np.bool_)
        chart = self._parser.chart(self._membership.T[np.asarray(sentence) - 1].astype(np.float64))
        following = chart.next_token[: len(sentence), :-1]
        possible = (following > 0) @ self._membership
        return ~possible & self._occurs & ~np.isnan(following[:, :1])

    def places(self, split: str, indices: NDArray) -> Places:
        """Documents, and a place before every token of their sentences."""
        samples, bos = self.world.render(split, indices), int(self.world.config.bos)
        spans = list(zip(samples.offsets[:-1] + bos, samples.offsets[1:], strict=True))
        impossible = np.concatenate([self.impossible(samples.tokens[start:end]) for start, end in spans])
        position = np.concatenate([np.arange(start, end) for start, end in spans])
        first = samples.offsets - bos * np.arange(len(samples.offsets))
        # The impossible tokens of every place first, in order.
        ordered = np.argsort(~impossible, axis=1, kind="stable")

        def write(place: IntArray, number: IntArray) -> Attempts:
            tokens = np.full((len(place), 2), self.back)
            tokens[:, 0] = 1 + ordered[place, number]
            role = np.tile([AttemptRole.NAME, AttemptRole.BACK], len(place))
            return Attempts(tokens.reshape(-1), np.full(len(place), 2), {"role": role})

        return Places(samples, position, first, impossible.sum(axis=1), write)

    def spans(self, tokens: IntArray) -> IntArray:
        """A token of the alphabet and the <back> after it."""
        tokens = np.asarray(tokens)
        backs = np.flatnonzero(tokens == self.back)
        backs = backs[backs > 0]
        before = tokens[backs - 1]
        backs = backs[(before >= 1) & (before <= len(self._occurs))]
        return np.stack([backs - 1, backs + 1], axis=1)
