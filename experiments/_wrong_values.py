"""Biographies and answers with wrong values in them that are taken back, and how models recall and answer after them.

- Before every value, with some chance, another value of the same attribute and <back> (2.2, §4, for biographies).
- People are read about again and again. *Fresh* wrong values differ from reading to reading; the *same* ones come back
  with every reading, as often as the right values.
- Answers are judged without what was taken back, and the first value of each by itself.

Shapes: Q questions, F facts that a wrong value was told before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._biographies import by_attribute, halves
from experiments._mistaken_texts import CLEAN, Text
from physlm.data.contract import IntArray
from physlm.data.streams import Source
from physlm.evaluation import first_token_matches
from physlm.lab import pack_items
from physlm.models.generation import generate
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld
from physlm.worlds.mistakes import AttemptRole, RetryConfig, RetryWorld, retry_world

_MOST_ATTEMPTS = 10
"""For as many there is room in an answer; at a rate of 50 % the text has more in one of a thousand."""


@dataclass(frozen=True, kw_only=True)
class SameValues(Text):
    """With the same wrong values at every reading."""

    @property
    def name(self) -> str:
        """In the names of conditions, "same_0.5"."""
        return f"same_{self.rate:g}"


def attempted(world: BiographyWorld, text: Text, exposures: int) -> RetryWorld:
    """The same people with the attempts of a text, in as many versions unless these are always the same."""
    exposures = 1 if isinstance(text, SameValues) else exposures
    return retry_world(world, RetryConfig(seed=world.config.seed, rate=text.rate, exposures=exposures))


def sources(world: BiographyWorld, text: Text, exposures: int, question_share: float) -> list[Source]:
    """Mixed training: biographies of everybody, and questions about one half of the people."""
    read = attempted(world, text, exposures)
    shares = {"biographies": 1 - question_share, "questions_train": question_share}
    return [Source(read, split, share, loss_roles=read.loss_roles(text.mask)) for split, share in shares.items()]


def attempts_in_text(world: BiographyWorld, text: Text) -> float:
    """Attempts in an answer, as a text has them."""
    samples = attempted(world, text, 1).render("questions_test", np.arange(world.size("questions_test")))
    return float((samples.marks["role"] == AttemptRole.BACK).sum() / len(samples))


@dataclass(frozen=True)
class Answers:
    """What a model answered, of Q questions each.

    Attributes:
        kept: without what it took back; `None` for an answer without an end.
        first: the first value, whether it was taken back or not; `None` for one without an end.
        attempts: how much was taken back.
    """

    kept: list[IntArray | None]
    first: list[IntArray | None]
    attempts: NDArray[np.int64]


def answer(model: Transformer, world: BiographyWorld, questions: IntArray, key: Key | None = None) -> Answers:
    """Answers to questions about held-out people: the most likely tokens, or with a key drawn at temperature 1."""
    prompts = [np.append(world.eos, prompt) for prompt in world.prompts("questions_test", questions)]
    value = max(map(len, world.answers("questions_test", questions)))
    written = generate(
        model,
        prompts,
        max_new_tokens=min((_MOST_ATTEMPTS + 1) * (value + 1), model.config.context - max(map(len, prompts))),
        stop=world.eos,
        temperature=0.0 if key is None else 1.0,
        key=key,
        details=True,
    )
    return read_answers(world, [one.tokens if one.finished else None for one in written])


def read_answers(world: BiographyWorld, written: Sequence[IntArray | None]) -> Answers:
    """Take apart what was written after questions, `None` where no end came."""
    reader = attempted(world, CLEAN, 1)
    return Answers(
        [None if tokens is None else reader.strip(tokens) for tokens in written],
        [None if tokens is None else first_value(tokens, reader.back) for tokens in written],
        np.array([0 if tokens is None else reader.chains(tokens).sum() for tokens in written], dtype=np.int64),
    )


def first_value(tokens: IntArray, back: int) -> IntArray:
    """What comes before the first <back>, or all."""
    return np.split(tokens, np.flatnonzero(tokens == back)[:1])[0]


def are(found: Sequence[IntArray | None], expected: Sequence[IntArray]) -> NDArray[np.bool_]:
    """Whether each text is the expected one."""
    pairs = zip(found, expected, strict=True)
    return np.array([one is not None and np.array_equal(one, other) for one, other in pairs], dtype=np.bool_)


def examine(world: BiographyWorld, answers: Answers) -> dict[str, Any]:
    """How many of all questions about held-out people are answered rightly in the end, and at first."""
    expected = world.answers("questions_test", np.arange(world.size("questions_test")))
    by_people = (-1, len(world.config.attributes))
    return {
        "final": by_attribute(world, are(answers.kept, expected).reshape(by_people)),
        "first": by_attribute(world, are(answers.first, expected).reshape(by_people)),
        "attempts": float(answers.attempts.mean()),
    }


@dataclass(frozen=True)
class ToldWrong:
    """Facts about held-out people before which a biography told a wrong value, F of them.

    Attributes:
        beginnings: the biography up to there, earlier attempts included.
        values: the wrong value; the first if there were several.
        questions: number of the question about each, `[F]`.
    """

    beginnings: list[IntArray]
    values: list[IntArray]
    questions: NDArray[np.int64]


def told_wrong(world: BiographyWorld, rate: float) -> ToldWrong:
    """Those of the first biography of everybody, in a text with the same values at every reading.

    Left out are facts whose wrong value begins as the right one.
    """
    people = halves(world)["test"]
    samples = attempted(world, SameValues(rate=rate), 1).render("biographies", people)
    beginnings: list[IntArray] = []
    values: list[IntArray] = []
    questions: list[int] = []
    for i in range(len(people)):
        tokens, marks = samples.document(i)
        in_attempt = marks["attempt"] >= 0
        starts = np.flatnonzero(in_attempt & ~np.append(False, in_attempt[:-1]))
        for start in starts.tolist():
            back = start + int(np.argmax(marks["role"][start:] == AttemptRole.BACK))
            right = start + int(np.argmin(in_attempt[start:]))
            if tokens[start] == tokens[right]:
                continue
            beginnings.append(np.append(world.eos, tokens[:start]))
            values.append(tokens[start:back])
            questions.append(i * len(world.config.attributes) + int(marks["attribute"][right]))
    return ToldWrong(beginnings, values, np.array(questions, dtype=np.int64))


def kept_wrong(model: Transformer, world: BiographyWorld, rate: float, answers: Answers) -> dict[str, Any]:
    """Whether a model has memorised wrong values that were told: of every fact, in biographies and as its answer."""
    told = told_wrong(world, rate)
    return {
        "facts": len(told.values),
        "recalled": pack_items(first_token_matches(model, told.beginnings, told.values)),
        "answered": pack_items(are([answers.kept[question] for question in told.questions], told.values)),
    }
