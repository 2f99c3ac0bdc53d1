"""Problems for models that were not trained here, and their answers, as files.

- An `Exercise` is a prompt, the right answer, and where the problem is from; an `Answer` is what a model wrote. Files
  have one of them a line, as JSON.
- Examples in prompts are of the split "train", what is asked of "test": no solution template is shared.
- Any other program may write answers: a line needs `id` and `text`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.prompts import Example, few_shot_prompt, structure_text
from physlm.worlds.igsm.rendering import Renderer
from physlm.worlds.igsm.world import IGSMWorld

PUBLISHED_WORLD = IGSMConfig(seed=0, modulus=5, categorizations=1, names_per_category=4)
"""Of the problems that the published numbers are about; the seed is ours."""
PUBLISHED_OPERATIONS = range(2, 21)

_Line = TypeVar("_Line", "Exercise", "Answer")


@dataclass(frozen=True)
class Exercise:
    """A problem as it is given to a model.

    Attributes:
        id: number of operations and of the problem, as "07-012".
        prompt: the whole text to send.
        answer: the right answer.
        operations: that the shortest solution takes.
        index: of the problem in the split "test" of the world.
        world: that the problem is of.
    """

    id: str
    prompt: str
    answer: int
    operations: int
    index: int
    world: IGSMConfig

    @property
    def digest(self) -> str:
        """Tells whether an answer is one to this very prompt."""
        return hashlib.blake2b(self.prompt.encode(), digest_size=8).hexdigest()

    def problem(self) -> Problem:
        """The problem, made again.

        Raises:
            ValueError: if it is not the one in the prompt.
        """
        problem = world_of(self.world)["test", self.index].truth
        if _told(problem, self.world).problem not in self.prompt:
            raise ValueError(
                f"exercise {self.id!r} must be of this version of the world, got another problem: export anew"
            )
        return problem


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        id: of the exercise.
        text: all of it.
        model: who wrote it.
        digest: of the prompt, see `Exercise.digest`; empty if unknown.
        finish_reason: "length" if it was cut.
    """

    id: str
    text: str
    model: str = ""
    digest: str = ""
    finish_reason: str | None = None


@cache
def world_of(config: IGSMConfig) -> IGSMWorld:
    """The world with this config, made once."""
    return IGSMWorld(config)


def make_exercises(
    config: IGSMConfig = PUBLISHED_WORLD,
    *,
    operations: Iterable[int] = PUBLISHED_OPERATIONS,
    problems: int = 30,
    shots: int = 5,
) -> Iterator[Exercise]:
    """Exercises; by default of the size of the published ones.

    Example:
        >>> next(make_exercises(operations=[3], problems=1)).id
        '03-000'

    Args:
        config: the world; how many operations problems have and how many problems there are is set here.
        operations: numbers of operations.
        problems: how many problems of each.
        shots: solved examples before every problem, of as many operations; each problem has its own.

    Raises:
        ValueError: for what no world can be, see `IGSMConfig`.
    """
    for name, value, least in (("problems", problems, 1), ("shots", shots, 0)):
        if value < least:
            raise ValueError(f"{name} must be ≥ {least}, got {value}")
    for count in operations:
        used = replace(
            config,
            exact_operations=count,
            problems=max(1, problems * shots),
            test_problems=problems,
            rendering="english",
            question_first=False,
        )
        world = world_of(used)
        for index in range(problems):
            examples = [_told(world["train", index * shots + shot].truth, used) for shot in range(shots)]
            asked = _told(world["test", index].truth, used)
            prompt = few_shot_prompt(asked, examples, used.modulus)
            yield Exercise(f"{count:02d}-{index:03d}", prompt, asked.answer, count, index, used)


def _told(problem: Problem, config: IGSMConfig) -> Example:
    """A problem in words."""
    vocabulary = world_of(config).vocabulary
    renderer = Renderer(vocabulary, "english")
    solution, _, answer = vocabulary.decode(renderer.solution(problem)).rpartition("<ans>")
    text = vocabulary.decode([*renderer.problem(problem), *renderer.question(problem)])
    return Example(structure_text(problem, vocabulary.names), text, solution.strip(), int(answer))


def write_exercises(path: Path, exercises: Iterable[Exercise]) -> int:
    """Write exercises, one a line; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for exercise in exercises:
            file.write(json.dumps(asdict(exercise), ensure_ascii=False) + "\n")
            count += 1
    return count


def read_exercises(path: Path) -> list[Exercise]:
    """The exercises of a file, in order.

    Raises:
        ValueError: if a line is none, or there is none at all; says which.
    """
    exercises = _read(path, Exercise)
    if not exercises:
        raise ValueError(f"{path} must hold exercises, got an empty file")
    try:
        return [replace(exercise, world=IGSMConfig(**asdict(exercise)["world"])) for exercise in exercises]
    except TypeError as error:
        raise ValueError(f"{path} must be of this version of the world: {error}; export anew") from None


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, in order.

    Raises:
        ValueError: if a line is none; says which.
    """
    return _read(path, Answer)


def mend(path: Path) -> None:
    """Make a file ready to be appended to: there is one, and its last line is whole.

    A program that is killed while it writes leaves part of a line, which is taken out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("r+b") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        try:
            if text[whole:]:
                json.loads(text[whole:])
                file.write(b"\n")
        except ValueError:
            file.truncate(whole)


def _read(path: Path, kind: type[_Line]) -> list[_Line]:
    """The objects of a file; what else a line says is left out, as other programs may write more than is read here."""
    names = {field.name for field in fields(kind)}
    required = [field.name for field in fields(kind) if field.default is MISSING]
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, must be a JSON object: {error}") from None
        if not isinstance(row, dict) or not set(required) <= set(row):
            raise ValueError(f"{path}, line {number}, must be an object with {', '.join(required)}, got {line[:80]}")
        found.append(kind(**{name: value for name, value in row.items() if name in names}))
    return found
