"""What a model is asked about in `igsm_probe`: problems that it knows the like of, new ones, and its own mistakes.

Source: Physics of Language Models 2.1, sections 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from experiments._igsm import Exam, Practice, exam, familiar_exam, grade, make_world, solve
from experiments._reasoning_questions import (
    BEYOND,
    FITTED,
    HARDEST,
    REASK,
    Asked,
    ask,
    ask_about_needless,
    ask_about_wrong_steps,
    joined,
)
from physlm.data.contract import IntArray
from physlm.models.generation import generate
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.igsm.judge import Verdicts
from physlm.worlds.igsm.labels import Task

_WRONG_STEP_TASKS: tuple[Task, ...] = ("can_next", "nece_next")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How many problems and questions.

    Attributes:
        beyond: a number of operations that was never trained on.
        fitted: problems of every number of operations that probes are fitted to.
        asked: problems of the most operations, of more, and with another question, that probes are asked about.
        solved: problems, of more operations and with another question, in whose solutions mistakes are looked for.
        questions: that stand behind one beginning of a text; 1 in the paper.
        existing_only: whether only parameters that exist are asked about; in the paper also pairs that do not.
    """

    beyond: int
    fitted: int
    asked: int
    solved: int
    questions: int
    existing_only: bool = True

    def __post_init__(self) -> None:
        for name in ("fitted", "asked", "questions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if self.solved < self.asked:
            raise ValueError(f"solved must be ≥ asked = {self.asked}, got {self.solved}")


@dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
        exam: about which problems.
        solutions: after each <sol>.
        verdicts: of the judge.
        correct: share that is right in every step.
    """

    exam: Exam
    solutions: list[IntArray]
    verdicts: Verdicts
    correct: float


def _written(model: Transformer, asked: Exam) -> Written:
    written = generate(model, asked.prompts, max_new_tokens=asked.room, stop=asked.world.eos, details=True)
    solutions: list[IntArray] = [one.tokens for one in written]
    solved = grade(asked, solutions, np.array([one.finished for one in written]))
    return Written(asked, solutions, solved.verdicts, float(solved.correct.mean()))


class Study:
    """The problems that a model is asked about, and what it wrote itself.

    Args:
        config: how many problems and questions.
        practice: of the condition.
        model: that writes.
        seed: of the run.
    """

    def __init__(self, config: StudyConfig, practice: Practice, model: Transformer, seed: int) -> None:
        self.config, self.world, self.key = config, practice.world_of(seed), Key.of("questions", seed)
        most = practice.world.max_operations
        self.known = [
            familiar_exam(make_world(replace(self.world.config, exact_operations=number)), config.fitted)
            for number in practice.trained_operations
        ]
        self.exams = {
            HARDEST: exam(self.world, most, config.asked),
            BEYOND: exam(self.world, config.beyond, config.asked),
            REASK: exam(self.world, most, config.asked, reask=True),
        }
        self.practice, self.model = practice, model

    @cached_property
    def long(self) -> Written:
        """Problems of more operations."""
        return _written(self.model, exam(self.world, self.config.beyond, self.config.solved))

    @cached_property
    def reasked(self) -> Written:
        """Problems of the most operations, with another question."""
        most = self.practice.world.max_operations
        return _written(self.model, exam(self.world, most, self.config.solved, reask=True))

    def accuracy(self) -> dict[str, float]:
        """Share of the problems that the model solves in every step, as in training and those asked about."""
        familiar = familiar_exam(self.world, self.practice.problems)
        return {
            "familiar": float(solve(self.model, familiar).correct.mean()),
            HARDEST: float(solve(self.model, self.exams[HARDEST]).correct.mean()),
        }

    def _ask(self, asked: Exam, task: Task, group: str, *words: str | int) -> Asked:
        return ask(
            asked,
            task,
            group,
            self.key.child(group, *words),
            questions=self.config.questions,
            existing_only=self.config.existing_only,
        )

    def fitted(self, task: Task) -> Asked:
        """Questions that probes are fitted to, about problems with templates that were trained on."""
        return joined([self._ask(known, task, FITTED, number) for number, known in enumerate(self.known)])

    def asked(self, task: Task) -> list[Asked]:
        """Questions that count, about problems with others, and about what the model wrote."""
        found: list[Asked | None] = [self._ask(self.exams[group], task, group) for group in (HARDEST, BEYOND)]
        if task == "nece":
            found.append(self._ask(self.exams[REASK], task, REASK))
            found.append(
                ask_about_needless(
                    self.reasked.exam,
                    self.reasked.verdicts,
                    self.key.child("needless"),
                    questions=self.config.questions,
                )
            )
        if task in _WRONG_STEP_TASKS:
            found.append(
                ask_about_wrong_steps(
                    self.long.exam,
                    self.long.solutions,
                    self.long.verdicts,
                    task,
                    self.key.child("wrong steps"),
                    questions=self.config.questions,
                )
            )
        return [part for part in found if part is not None]
