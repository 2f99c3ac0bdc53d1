"""How well a model that was not trained here solves problems, by their number of operations.

- The final answer alone is what the published table counts. Beside it stands what always answering 0 would score, as
  products pull values to 0, and the share of solutions that the judge finds right in every step.

Source: Physics of Language Models 2.1, Fig. 2 and App. G.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from physlm.worlds.igsm.exercises import PUBLISHED_OPERATIONS, PUBLISHED_WORLD, Answer, Exercise, world_of
from physlm.worlds.igsm.judge import Judge
from physlm.worlds.igsm.prompts import read_answer, solution_as_judged

PUBLISHED = {
    "GPT-4-turbo": (
        *(96.7, 90.0, 80.0, 93.3, 56.7, 56.7, 50.0, 50.0, 43.3, 33.3),
        *(40.0, 33.3, 43.3, 30.0, 36.7, 26.7, 46.7, 43.3, 40.0),
    ),
    "GPT-4o": (
        *(96.7, 100.0, 90.0, 93.3, 86.7, 86.7, 73.3, 70.0, 70.0, 50.0),
        *(43.3, 56.7, 46.7, 36.7, 43.3, 46.7, 36.7, 46.7, 46.7),
    ),
}
"""Accuracy in % of the paper's models, of 30 problems each, for 2 to 20 operations."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        operations: number of operations of the problems, or `None` for all.
        problems: how many there are.
        answered: how many have an answer in the file.
        unreadable: answers without a number.
        correct: right final answers.
        right_steps: solutions that the judge finds right in every step.
        zeros: problems of which the answer is 0.
        interval: 95 % interval of the accuracy by Wilson's method, over problems.
    """

    operations: int | None
    problems: int
    answered: int
    unreadable: int
    correct: int
    right_steps: int
    zeros: int
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """Share of right final answers among those given."""
        return self.correct / max(1, self.answered)


def grade(exercises: Sequence[Exercise], answers: Iterable[Answer], *, strict: bool = True) -> list[Row]:
    """Accuracy by number of operations, and of all in the last row.

    Args:
        exercises: what was asked.
        answers: what was answered; of several to one exercise the last counts.
        strict: whether the judge asks that every parameter is computed as it is defined, see `Judge`.

    Raises:
        ValueError: if there is nothing to grade, or an answer is to none of the exercises, or to another prompt.
    """
    if not exercises:
        raise ValueError("exercises must hold at least one, got none")
    known = {exercise.id: exercise for exercise in exercises}
    texts: dict[str, str] = {}
    for answer in answers:
        if answer.id not in known:
            raise ValueError(f"answers must be to these exercises, got one to {answer.id!r}")
        if answer.digest and answer.digest != known[answer.id].digest:
            raise ValueError(f"answers must be to these prompts, got one to another prompt for {answer.id!r}")
        texts[answer.id] = answer.text
    levels = sorted({exercise.operations for exercise in exercises})
    groups = [(level, [one for one in exercises if one.operations == level]) for level in levels]
    return [_row(level, group, texts, strict) for level, group in (*groups, (None, list(exercises)))]


def _row(operations: int | None, group: Sequence[Exercise], texts: Mapping[str, str], strict: bool) -> Row:
    from scipy.stats import binomtest

    answered = [exercise for exercise in group if exercise.id in texts]
    read = [read_answer(texts[exercise.id]) for exercise in answered]
    correct = sum(number == exercise.answer for number, exercise in zip(read, answered, strict=True))
    interval = (0.0, 1.0)
    if answered:
        wilson = binomtest(correct, len(answered)).proportion_ci(method="wilson")
        interval = (float(wilson.low), float(wilson.high))
    return Row(
        operations=operations,
        problems=len(group),
        answered=len(answered),
        unreadable=sum(number is None for number in read),
        correct=correct,
        right_steps=sum(_is_right(exercise, texts[exercise.id], strict) for exercise in answered),
        zeros=sum(exercise.answer == 0 for exercise in group),
        interval=interval,
    )


def _is_right(exercise: Exercise, text: str, strict: bool) -> bool:
    if read_answer(text) != exercise.answer:
        return False
    judge = Judge(world_of(exercise.world).vocabulary, "english")
    return bool(judge.check_text(exercise.problem(), solution_as_judged(text), strict=strict))


def format_table(rows: Sequence[Row], modulus: int, model: str = "") -> str:
    """The table for people; with the published numbers beside it where the modulus is theirs."""
    published = PUBLISHED if modulus == PUBLISHED_WORLD.modulus else {}
    lines = [
        f"Accuracy by number of operations, modulus {modulus}{f', {model}' if model else ''}",
        "operations  answered  accuracy  95 % interval  steps  unreadable  always 0"
        + "".join(f"  {name:>11}" for name in published),
    ]
    for row in rows:
        low, high = (100 * bound for bound in row.interval)
        accuracy, steps = (
            f"{100 * count / row.answered:.1f}" if row.answered else "–" for count in (row.correct, row.right_steps)
        )
        cells = [
            f"{'all' if row.operations is None else row.operations:>10}",
            f"{f'{row.answered}/{row.problems}':>8}",
            f"{accuracy:>8}",
            f"{f'{low:.1f} to {high:.1f}':>13}",
            f"{steps:>5}",
            f"{row.unreadable:>10}",
            f"{100 * row.zeros / row.problems:>8.1f}",
            *(f"{_published(numbers, row.operations):>11}" for numbers in published.values()),
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _published(numbers: Sequence[float], operations: int | None) -> str:
    at = -1 if operations is None else operations - PUBLISHED_OPERATIONS.start
    return f"{numbers[at]:.1f}" if 0 <= at < len(numbers) else ""
