"""Perfect detectors of wrong sentences, which know the truth; for `physlm.models.regret`.

A detector is asked about the last sentence of each text. One that was trained to read hidden states
(`physlm.probing.detectors`) has the same signature, and these are its upper bound.

Shapes: Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, World
from physlm.worlds.igsm.config import Rendering
from physlm.worlds.igsm.dependencies import Dependencies, bits
from physlm.worlds.igsm.openings import Head
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.vocabulary import Vocabulary


class ReadinessDetector:
    """Says of a sentence that defines A whether A is not ready: the label `can_next` ("versionP" of the paper).

    What has been computed is what the sentences before define, however they compute it; A is not ready either if it is
    among that. A sentence that defines nothing of the problem, or that was taken back, is not objected to.

    Example:
        >>> detector = ReadinessDetector(world.vocabulary, world.config.rendering, problems)
        >>> detector(np.array([0]), [np.concatenate([prompt, sentence])], np.array([len(prompt)]))
        array([False])

    Args:
        vocabulary: of the world.
        rendering: "english" or "compact".
        problems: those that texts are about, at least one.

    Source: Physics of Language Models 2.2, §3.
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering, problems: Sequence[Problem]) -> None:
        self._predecessors = Dependencies.of(problems).predecessors
        self._numbers = [
            {vocabulary.name(problem, parameter): number for number, parameter in enumerate(problem.parameters)}
            for problem in problems
        ]
        self._sol, self._stop = vocabulary.sol, vocabulary.id(".")
        self._head = Head(vocabulary, rendering)

    def __call__(self, numbers: IntArray, texts: Sequence[IntArray], begins: IntArray) -> NDArray[np.bool_]:
        """Which sentences are wrong.

        Args:
            numbers: of the problem that each text is about, `[Q]`.
            texts: prompt, sentences, and last the one that is asked about.
            begins: where in the text that sentence begins, `[Q]`.
        """
        asked = zip(np.asarray(numbers).tolist(), texts, np.asarray(begins).tolist(), strict=True)
        return np.array([self._is_wrong(number, np.asarray(text), begin) for number, text, begin in asked], np.bool_)

    def _is_wrong(self, number: int, text: NDArray[np.integer], begin: int) -> bool:
        asked = self._defined(number, text[begin:].tolist())
        if asked is None:
            return False
        solution = text[:begin][1 + int(np.argmax(text == self._sol)) :]
        ends = 1 + np.flatnonzero(solution == self._stop)
        sentences = np.split(solution, ends)
        earlier = [self._defined(number, sentence.tolist()) for sentence in sentences]
        done = np.bitwise_or.reduce(bits(np.array([-1, *(p for p in earlier if p is not None)])))
        return bool(done & bits(np.array(asked)) or self._predecessors[number, asked] & ~done)

    def _defined(self, number: int, sentence: list[int]) -> int | None:
        """The parameter that a sentence defines, if it is one of the problem and was not taken back."""
        names = self._head.names(sentence)
        return None if names is None else self._numbers[number].get(names)


class JudgeDetector:
    """Says of a sentence whether the world's judge finds the first mistake of the document in it, of whatever kind.

    Args:
        world: whose judge.
        truths: what each text is about.
        skip: how many tokens at the beginning of every text are no part of the document, as an <eos> before it.
    """

    def __init__(self, world: World, truths: Sequence[Any], *, skip: int = 0) -> None:
        if skip < 0:
            raise ValueError(f"skip must be ≥ 0, got {skip}")
        self.world = world
        self.truths = truths
        self.skip = skip

    def __call__(self, numbers: IntArray, texts: Sequence[IntArray], begins: IntArray) -> NDArray[np.bool_]:
        """Which sentences are wrong; arguments as in `ReadinessDetector`."""
        found = []
        for number, text, begin in zip(np.asarray(numbers).tolist(), texts, np.asarray(begins).tolist(), strict=True):
            position = self.world.check(self.truths[number], text[self.skip :]).position
            found.append(position is not None and begin <= position + self.skip < len(text))
        return np.array(found, dtype=np.bool_)
