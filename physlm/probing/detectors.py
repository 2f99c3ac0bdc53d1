"""Detectors of wrong sentences that were trained; for `physlm.models.regret`.

Shapes: Q questions.

Source: Physics of Language Models 2.2, §3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.probing.inputs import Inputs
from physlm.probing.probes import Probes


class ProbeDetector:
    """Objects to a sentence if a probe, at the end of the words that begin it, says that it will be wrong.

    Example:
        >>> openings = draw_openings(world, "train", np.arange(10_000), key)
        >>> probes = EmbeddingProbes(model, rank=8, key=key)
        >>> probes.fit(Inputs.last(openings.samples), {"ready": openings.ready})
        >>> detector = ProbeDetector(probes, "ready", Head(world.vocabulary, world.config.rendering).read)

    Args:
        probes: fitted; their last layer counts.
        task: one of theirs, with the label 0 for what is wrong.
        read: how many words of a sentence the probe reads, or `None` for a sentence that is not objected to.

    Raises:
        ValueError: if the probes have no such task, or no label 0.
    """

    def __init__(self, probes: Probes[Inputs], task: str, read: Callable[[IntArray], int | None]) -> None:
        if task not in probes.classes_:
            raise ValueError(f"task must be one of {', '.join(probes.classes_)}, got {task!r}")
        if 0 not in probes.classes_[task]:
            raise ValueError(f"task must have the label 0, got {task!r} with {probes.classes_[task].tolist()}")
        self.probes, self.task, self.read = probes, task, read

    def __call__(self, numbers: IntArray, texts: Sequence[IntArray], begins: IntArray) -> NDArray[np.bool_]:
        """Which sentences are wrong.

        Args:
            numbers: of the prompt that each text goes on from, `[Q]`.
            texts: prompt, sentences, and last the one that is asked about.
            begins: where in the text that sentence begins, `[Q]`.
        """
        is_wrong = np.zeros(len(numbers), dtype=np.bool_)
        begun: list[IntArray] = []
        asked: list[int] = []
        for row, (text, begin) in enumerate(zip(texts, np.asarray(begins).tolist(), strict=True)):
            length = self.read(text[begin:])
            if length is not None:
                begun.append(np.asarray(text[: begin + length]))
                asked.append(row)
        if asked:
            samples = Samples(np.concatenate(begun), np.cumsum([0, *map(len, begun)]), {})
            is_wrong[asked] = self.probes.predict(Inputs.last(samples))[self.task][-1] == 0
        return is_wrong
