"""Is this biography, or this answer, true? A judge that reads text and knows nothing of the renderer.

- Tokens are decoded and the text is read sentence by sentence against the facts of one person.
- A biography is true when it tells every attribute exactly once, each in one of the known sentences,
  with the right subject (the full name first, then the pronoun, or the name everywhere) and the right
  value. The order of the sentences does not matter: it makes nothing false.
- The position of a fault is the first token after which no true text is possible any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from physlm.data.contract import IntArray, Judgement
from physlm.data.tokenizers import Tokenizer
from physlm.worlds.bios.people import Person, Question
from physlm.worlds.bios.templates import Question as QuestionWording
from physlm.worlds.bios.templates import Template

LABELS = {
    "date": "birth date",
    "bcity": "birth city",
    "univ": "university",
    "major": "field of study",
    "cname": "employer",
    "ccity": "city of the employer",
}
_EXCERPT = 60


class _Fault(NamedTuple):
    """Where reading stopped: at `character`, in the sentence that begins at `start`, with what was left to tell."""

    character: int
    start: int
    untold: frozenset[str]


class _Reading(NamedTuple):
    """A sentence taken apart, whether it is true or not."""

    subject: str
    attribute: str
    value: str


def _excerpt(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…")


def _shared(a: str, b: str) -> int:
    """Number of characters that two texts have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Judge:
    """Judges texts of one biography world.

    Args:
        tokenizer: gives the text of tokens.
        sentences: attribute to the known sentences, as the words around the value.
        questions: attribute to its question, as the words around the name and the value.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sentences: Mapping[str, Sequence[Template]],
        questions: Mapping[str, QuestionWording],
    ) -> None:
        self._tokenizer = tokenizer
        self._sentences = sentences
        self._questions = questions
        self._special: dict[int, bool] = {}

    def biography(self, person: Person, tokens: Sequence[int] | IntArray, *, fullname: bool) -> Judgement:
        """Whether `tokens` tell every fact of `person` once; `fullname` says that every subject is the name."""

        def find(text: str) -> tuple[int, str] | None:
            fault = self._read(text, 0, frozenset(person.facts), person, fullname)
            return fault and (fault.character, self._reason(text, fault, person, fullname))

        return self._judge(tokens, find)

    def question(self, question: Question, tokens: Sequence[int] | IntArray) -> Judgement:
        """Whether `tokens` are this question about the right person, followed by the true answer and nothing else."""

        def find(text: str) -> tuple[int, str] | None:
            name, answer = question.person.name, question.answer
            before, between, after = self._questions[question.attribute]
            expected = f"{before} {name}{between} {answer}{after}"
            if text == expected:
                return None
            asked, marker, given = text.removeprefix(f"{before} ").partition(between)
            if not text.startswith(f"{before} ") or not marker:
                reason = f"this is not the question about the {LABELS[question.attribute]}: {_excerpt(text)}"
            elif asked != name:
                reason = f"the question is about {asked!r}, not about {name!r}"
            else:
                given = given.removesuffix(after).removeprefix(" ")
                reason = f"the answer is {given!r}, the {LABELS[question.attribute]} of {name} is {answer!r}"
            return _shared(text, expected), reason

        return self._judge(tokens, find)

    def _judge(self, tokens: Sequence[int] | IntArray, find: Callable[[str], tuple[int, str] | None]) -> Judgement:
        """Judge the text of `tokens` up to the first special token, which decoding would drop silently."""
        ids = np.asarray(tokens).tolist()
        end = next((i for i, token in enumerate(ids) if self._is_special(token)), len(ids))
        fault = find(self._tokenizer.decode(ids[:end]))
        position = end if fault is None else self._position(ids[:end], fault[0])
        if position == end < len(ids):
            return Judgement(False, end, f"token {ids[end]} is a special token, a document has none")
        return Judgement(True) if fault is None else Judgement(False, position, fault[1])

    def _is_special(self, token: int) -> bool:
        if token not in self._special:
            self._special[token] = not self._tokenizer.decode([token])
        return self._special[token]

    def _position(self, ids: list[int], character: int) -> int:
        """The token that holds `character`; the number of tokens if the text ends before it."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self._tokenizer.decode(ids[: middle + 1])) > character:
                high = middle
            else:
                low = middle + 1
        return low

    def _read(self, text: str, start: int, untold: frozenset[str], person: Person, fullname: bool) -> _Fault | None:
        """None if the text from `start` on tells exactly what is `untold`, else the furthest fault."""
        if not untold:
            return None if start == len(text) else _Fault(start, start, untold)
        subject = self._subject(start, person, fullname)
        furthest = _Fault(start, start, untold)
        continued = False
        for attribute in untold:
            for before, after in self._sentences[attribute]:
                sentence = f" {subject}{before} {person.facts[attribute]}{after}"
                if text.startswith(sentence, start):
                    continued = True
                    fault = self._read(text, start + len(sentence), untold - {attribute}, person, fullname)
                    if fault is None:
                        return None
                    furthest = max(furthest, fault, key=lambda fault: fault.character)
        if continued:
            return furthest
        rest = text[start:]
        shared = max(
            _shared(rest, f" {subject}{before} {person.facts[attribute]}{after}")
            for attribute in untold
            for before, after in self._sentences[attribute]
        )
        return _Fault(start + shared, start, untold)

    def _subject(self, start: int, person: Person, fullname: bool) -> str:
        return person.name if fullname or start == 0 else person.pronoun

    def _reason(self, text: str, fault: _Fault, person: Person, fullname: bool) -> str:
        number = len(person.facts) - len(fault.untold) + 1
        rest = text[fault.start :]
        if not fault.untold:
            return f"all is told after sentence {number - 1}, but the text goes on: {_excerpt(rest)}"
        missing = ", ".join(LABELS[attribute] for attribute in person.facts if attribute in fault.untold)
        if not rest:
            return f"missing after sentence {number - 1}: {missing}"
        if fault.character == len(text):
            return f"the text ends within sentence {number}: {_excerpt(rest)}; still missing: {missing}"
        reading = self._take_apart(rest)
        subject = self._subject(fault.start, person, fullname)
        if reading is None:
            return f"sentence {number} is no known sentence: {_excerpt(rest)}"
        if reading.subject != subject:
            return f"sentence {number}: the subject is {reading.subject!r}, it must be {subject!r}"
        label, truth = LABELS[reading.attribute], person.facts.get(reading.attribute)
        if truth is None or reading.attribute not in fault.untold:
            return f"sentence {number}: the {label} is told again"
        return f"sentence {number}: the {label} is given as {reading.value!r}, of {person.name} it is {truth!r}"

    def _take_apart(self, rest: str) -> _Reading | None:
        """The sentence at the beginning of `rest`, with any subject and any value."""
        readings = []
        for attribute, sentences in self._sentences.items():
            for before, after in sentences:
                subject, found, remainder = rest.partition(f"{before} ")
                value, ended, following = remainder.partition(after)
                if found and ended and (not following or following.startswith(" ")):
                    readings.append(_Reading(subject[1:], attribute, value))
        return min(readings, key=lambda reading: (len(reading.subject), len(reading.value)), default=None)
