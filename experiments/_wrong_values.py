"""Biographies and answers with wrong values in them that are taken back, and how models recall and answer after them.

- Before every value, with some chance, another value of the same attribute and <back> (2.2, §4, for biographies).
- People are read about again and again. *Fresh* wrong values differ from reading to reading; the *same* ones come back
  with every reading, as often as the right values.
- Answers are judged without what was taken back, and the first value of each by itself. One without an end is wrong,
  and what it took back counts as in any other.

Shapes: Q questions, F facts that a wrong value was told before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._biographies import by_attribute, halves
from experiments._mistaken_texts import CLEAN, Text
from physlm.data.contract import IntArray, Samples
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


class SameRetryWorld(RetryWorld):
    """As many copies of every document as there are exposures, all with the attempts of the first."""

    def fingerprint(self) -> str:
        """Hash of the world whose copies differ, which begins with the same documents, and of this being another."""
        return hashlib.blake2b(f"same attempts\n{super().fingerprint()}".encode(), digest_size=16).hexdigest()

    def _make(self, split: str, indices: NDArray[np.int64]) -> Samples:
        return super()._make(split, indices % self.world.size(split))


def attempted(world: BiographyWorld, text: Text, exposures: int) -> RetryWorld:
    """The same people with the attempts of a text, in so many copies of every document."""
    config = RetryConfig(seed=world.config.seed, rate=text.rate, exposures=exposures)
    return SameRetryWorld(world, config) if isinstance(text, SameValues) else retry_world(world, config)


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
        first: the first value, whether it was taken back or not; `None` where neither <back> nor the end came after it.
        attempts: how often something was taken back, with or without an end.
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
    return read_answers(world, [one.tokens for one in written], [one.finished for one in written])


def read_answers(world: BiographyWorld, written: Sequence[IntArray], finished: Sequence[bool]) -> Answers:
    """Take apart what was written after questions, to the end or until there was no room."""
    reader, texts = attempted(world, CLEAN, 1), list(zip(written, finished, strict=True))
    return Answers(
        [reader.strip(tokens) if ended else None for tokens, ended in texts],
        [first_value(tokens, reader.back) if ended or reader.back in tokens else None for tokens, ended in texts],
        np.array([reader.chains(tokens).sum() for tokens in written], dtype=np.int64),
    )


def first_value(tokens: IntArray, back: int) -> IntArray:
    """What comes before the first <back>, or all."""
    return np.split(tokens, np.flatnonzero(tokens == back)[:1])[0]


def are(found: Sequence[IntArray | None], expected: Sequence[IntArray]) -> NDArray[np.bool_]:
    """Whether each text is the expected one."""
    pairs = zip(found, expected, strict=True)
    return np.array([one is not None and np.array_equal(one, other) for one, other in pairs], dtype=np.bool_)


def examine(world: BiographyWorld, answers: Answers) -> dict[str, Any]:
    """How many of all questions about held-out people are answered rightly in the end, and at first.

    Returns:
        `final` and `first`; both again for the answers in which something was taken back, as `corrected`; `attempts`,
        the mean of an answer; `unfinished`, the share of answers without an end.
    """
    expected = world.answers("questions_test", np.arange(world.size("questions_test")))
    final, first, tried = are(answers.kept, expected), are(answers.first, expected), answers.attempts > 0
    by_people = (-1, len(world.config.attributes))
    return {
        "final": by_attribute(world, final.reshape(by_people)),
        "first": by_attribute(world, first.reshape(by_people)),
        "corrected": {"final": pack_items(final[tried]), "first": pack_items(first[tried])},
        "attempts": float(answers.attempts.mean()),
        "unfinished": float(np.mean([kept is None for kept in answers.kept])),
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
