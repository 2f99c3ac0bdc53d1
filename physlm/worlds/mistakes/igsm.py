"""Wrong attempts in solutions of the iGSM world: "Define A as <back>." before a sentence.

- "retry": A is not ready, so computing it now is an error for certain. Readiness is asked of the full graph, so that
  abstract parameters that the problem never uses are attempted as well.
- "retry_weak": A is defined by a later sentence, and perhaps ready already.
- "retry_miss": A is any parameter of the problem that has not been defined, needed or not, ready or not.

Pairs of items without an edge count as ready and are no parameters of the problem, so none is ever attempted. An
attempt has no letter. Problem, sentences and answer stay as they are, and nothing is attempted after the last sentence.

Source: Physics of Language Models 2.2, §4, §6 and footnote 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.worlds.igsm.rendering import ROLES
from physlm.worlds.igsm.rendering_kernels import Page
from physlm.worlds.igsm.structure_kernels import PARAMETERS
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes import igsm_kernels as kernels
from physlm.worlds.mistakes.config import Kind, RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, Places

if TYPE_CHECKING:
    from physlm.worlds.igsm.kernels import Drawing

_CANDIDATES: dict[Kind, int] = {
    "retry": kernels.NOT_READY,
    "retry_weak": kernels.LATER,
    "retry_miss": kernels.ANY,
}
_FRAME, _NAME = AttemptRole.FRAME, AttemptRole.NAME
_TEMPLATES = {
    "english": (
        ("Define", "<outer>", "'s", "<inner>", "as", "<back>", "."),
        (_FRAME, _NAME, _NAME, _NAME, _FRAME, AttemptRole.BACK, AttemptRole.END),
    ),
    "compact": (("<outer>", "<inner>", "<back>", "."), (_NAME, _NAME, AttemptRole.BACK, AttemptRole.END)),
}


class IGSMErrors:
    """The error model of an iGSM world; implements `ErrorModel`.

    Args:
        world: whose documents; one that writes whole words.
        config: what is attempted.

    Raises:
        ValueError: if the world spells its documents in subwords.
    """

    is_judged = True
    chunk = 1024
    roles = tuple(ROLES.values())

    def __init__(self, world: IGSMWorld, config: RetryConfig) -> None:
        if world.subwords is not None:
            raise ValueError("tokenizer of the iGSM world must be None, as attempts are made of whole words, got one")
        self.world = world
        self.config = config
        vocabulary = world.vocabulary
        self.back = vocabulary.back
        words, roles = _TEMPLATES[world.config.rendering]
        self._columns = words.index("<outer>"), words.index("<inner>")
        self._words = np.array([0 if word in ("<outer>", "<inner>") else vocabulary.id(word) for word in words])
        self._roles = np.array(roles)
        self._stop = vocabulary.id(".")
        self._other_ends = np.array([vocabulary.bos, vocabulary.sol, vocabulary.ans, vocabulary.eos])

    def places(self, split: str, indices: NDArray) -> Places:
        """Documents, and a place before every sentence of the solution."""
        world, config = self.world, self.config
        drawing, steps = world.drawers[split].draw(indices.astype(np.int64))
        samples = world.renderer.write(drawing, steps, np.full(len(indices), world.config.question_first))
        sentence = samples.marks["sentence"]
        position = 1 + np.flatnonzero((sentence[1:] != sentence[:-1]) & (sentence[1:] >= 0))
        first = np.empty(len(indices) + 1, dtype=np.int64)
        masks, candidates = np.empty(len(position), dtype=np.uint64), np.empty(len(position), dtype=np.int64)
        kernels.find_candidates(drawing, _CANDIDATES[config.kind], config.include_next, first, masks, candidates)

        def write(place: IntArray, number: IntArray) -> Attempts:
            row = np.searchsorted(first, place, side="right") - 1
            return self._write(drawing, row, masks[place], np.asarray(number, dtype=np.int64))

        return Places(samples, position, first, candidates, write)

    def _write(
        self, drawing: Drawing, rows: NDArray[np.int64], masks: NDArray[np.uint64], numbers: NDArray[np.int64]
    ) -> Attempts:
        nothing, room = np.empty(0, dtype=np.int8), np.empty(PARAMETERS, dtype=np.int64)
        page = Page(np.empty(0, dtype=np.int32), nothing, nothing, nothing, room, room.copy())
        named = np.empty((len(rows), 3), dtype=np.int64)
        kernels.name_candidates(rows, masks, numbers, drawing, self.world.renderer.codes, page, named)
        size = len(self._words)
        tokens = np.tile(self._words, (len(rows), 1))
        tokens[:, self._columns] = named[:, 1:]
        marks = {"role": np.tile(self._roles, len(rows)), "parameter": np.repeat(named[:, 0], size)}
        return Attempts(tokens.reshape(-1), np.full(len(rows), size), marks)

    def spans(self, tokens: IntArray) -> IntArray:
        """The sentences with <back> in them; one without a full stop is not complete."""
        tokens = np.asarray(tokens)
        is_stop = tokens == self._stop
        ends = np.flatnonzero(is_stop | np.isin(tokens, self._other_ends))
        starts = np.append(0, ends + 1)[: len(ends)]
        backs = np.append(0, np.cumsum(tokens == self.back))
        is_attempt = is_stop[ends] & (backs[ends] > backs[starts])
        return np.stack([starts, ends + 1], axis=1)[is_attempt]
