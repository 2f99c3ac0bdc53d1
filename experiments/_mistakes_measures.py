"""Solutions of a model that may take back what it began: written in several ways, judged, and their attempts counted.

- The judge reads over attempts: a solution is right if all that was not taken back is.
- All conditions solve the same problems.

Shapes: N problems, C places with two attempts or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._igsm import Exam, grade
from experiments._mistaken_texts import CLEAN, Text
from experiments._mistakes_presets import Decoding, MistakesPreset
from physlm.data.contract import IntArray
from physlm.lab.results import pack_items
from physlm.models.generation import generate
from physlm.models.regret import Detector, retry_upon_regret
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.igsm.judge import Verdicts
from physlm.worlds.mistakes import ReadinessDetector

_LONG = 2  # attempts at one place


def write(
    model: Transformer,
    asked: Exam,
    decoding: Decoding,
    key: Key,
    preset: MistakesPreset,
    *,
    trained: Detector | None = None,
) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """A solution of every problem, and whether it came to an end.

    Args:
        model: that writes them.
        asked: the problems.
        decoding: how.
        key: governs what is drawn.
        preset: number of beams and of deletions.
        trained: the detector that was trained, where one is asked. The perfect one knows what is not ready.
    """
    world = asked.world
    if decoding in ("regret", "detector"):
        detector = trained
        if decoding == "regret":
            detector = ReadinessDetector(world.vocabulary, world.config.rendering, asked.problems)
        if detector is None:
            raise ValueError("trained must be a detector where decoding is 'detector', got None")
        regretted = retry_upon_regret(
            model,
            asked.prompts,
            detector=detector,
            sentence_end=world.vocabulary.id("."),
            stop=world.eos,
            max_new_tokens=asked.room,
            key=key,
            most_deletions=preset.most_deletions,
        )
        return [one.tokens for one in regretted], np.array([one.stop is not None for one in regretted])
    written = generate(
        model,
        asked.prompts,
        max_new_tokens=asked.room,
        stop=world.eos,
        beams=preset.beams if decoding == "beams" else 1,
        details=True,
    )
    return [one.tokens for one in written], np.array([one.finished for one in written])


def examine(asked: Exam, solutions: Sequence[IntArray], ended: NDArray[np.bool_], text: Text) -> dict[str, Any]:
    """Judge solutions and count what was taken back in them.

    Args:
        asked: the problems.
        solutions: what was written after each, without the end of the document.
        ended: whether that end was written, `[N]`.
        text: what the model has read, with whose attempts on the same problems those in the solutions are compared.

    Returns:
        As `Solved.metrics`, and `retries`: how many right solutions there are, attempts in all of these, in the others,
        and in the text on the problems of the right ones; places with attempts, and whether what follows two or more of
        them is right.
    """
    solved = grade(asked, solutions, ended)
    reader = CLEAN.world(asked.world)
    chains = [reader.chains(solution) for solution in solutions]
    retries = np.array([chain.sum() for chain in chains], dtype=np.int64)
    after = after_long_chains(asked, solutions, solved.verdicts)
    return {
        **solved.metrics(),
        "retries": {
            "right_solutions": int(solved.correct.sum()),
            "in_right": int(retries[solved.correct].sum()),
            "in_wrong": int(retries[~solved.correct].sum()),
            "in_text": int(text.attempts(asked)[solved.correct].sum()),
            "per_right_solution": float(retries[solved.correct].mean()) if solved.correct.any() else None,
            "places": sum(len(chain) for chain in chains),
            "long_chains": int(sum((chain >= _LONG).sum() for chain in chains)),
            "after_long_chains": pack_items(after),
        },
    }


def after_long_chains(asked: Exam, solutions: Sequence[IntArray], verdicts: Verdicts) -> NDArray[np.bool_]:
    """Whether the sentence after two attempts or more in a row is right, `[C]`.

    What comes after the first wrong sentence of a solution is not judged, and no place counts there. Where nothing
    comes after the attempts, as there was no room left, it is not right.
    """
    reader, stop = CLEAN.world(asked.world), asked.world.vocabulary.id(".")
    found: list[bool] = []
    for solution, verdict in zip(solutions, verdicts, strict=True):
        spans, lengths = reader.errors.spans(solution), reader.chains(solution)
        ends = spans[np.cumsum(lengths) - 1, 1]  # of the last attempt at each place
        sentences = np.append(0, np.cumsum(solution == stop))  # ended before each position
        for end in ends[lengths >= _LONG]:
            following, is_whole = int(sentences[end]), sentences[-1] > sentences[end]
            if verdict.sentence is None or verdict.sentence >= following:
                found.append(bool(is_whole) and verdict.sentence != following)
    return np.array(found, dtype=np.bool_)
