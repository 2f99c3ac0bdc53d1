"""Reading the tokens of a solution: sentences, steps and the answer, without knowing the problem.

The grammar, a token for every word and every name:

    solution   = { sentence } <ans> number
    sentence   = head { step ; } closing .             or any text with <back> in it, up to the full stop
    head       = Define item 's name as letter ;       in English, where a name is an item's or a category's
               | item name letter ;                    compact
    closing    = so step                               in English
               | step                                  compact
    step       = letter = number                       a constant, or an empty sum
               | letter = letter = number              a copy
               | letter = operand operator operand = number operator number = number
    operand    = letter | number
    operator   = + | - | *

- The closing step defines the letter of the head; that is how compact text tells it from the others.
- A sentence with <back> was taken back by its writer: what else is in it does not count.
- Tokens are those after <sol>; what follows <eos> is not read.
- Which letters are defined, and what is right, is for the judge.

Specification, §2.4 and §4.1; Physics of Language Models 2.1, §2.3 and footnote 13; 2.2, §4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.data.contract import IntArray
from physlm.worlds.igsm.config import Rendering
from physlm.worlds.igsm.vocabulary import Vocabulary

Tokens: TypeAlias = Sequence[int] | IntArray
"""A solution: all that follows <sol>."""

# Kinds of tokens. The names are shown to people who read what was expected.
KINDS = (
    "another token",
    "a name",
    "a number",
    "a letter",
    "an operator",
    "'='",
    "';'",
    "'.'",
    "''s'",
    "'Define'",
    "'as'",
    "'so'",
    "<back>",
    "<ans>",
    "the end",
)
OTHER, NAME, NUMBER, LETTER, OPERATOR, EQUALS, SEMICOLON, STOP, OF, DEFINE, AS, SO, BACK, ANSWER, END = range(15)
SIGNS = ("+", "-", "*")
PLUS, MINUS, TIMES = range(3)
"""Values of tokens of kind `OPERATOR`."""
LETTERS = 52

BEGIN, STOP_AT, STATUS, OUTER, INNER, SYMBOL, FIRST_STEP, LAST_STEP = range(8)
"""Columns of a sentence: its first position; that of its full stop, or `NONE`; how much of it there is; positions of
its two names and of its letter; its steps are those from `FIRST_STEP` to before `LAST_STEP`."""
RETRACTED, NAMELESS, NAMED, HEADED, WHOLE = range(5)
"""How much there is of a sentence: the name, the name and the letter, everything."""
LEFT, OPERANDS, CLOSING = range(3)
"""Columns of a step: position of its letter, number of operands, whether it is the closing one."""

LETTER_TAKEN, LETTER_UNDEFINED, LETTER_OF_HEAD, NUMBER_TOO_LARGE = -1, -2, -3, -4
"""What may be expected besides kinds of tokens: only the third is for the grammar to say."""
NONE = -1


class Parsed(NamedTuple):
    """What was read, up to the first token in each solution that the grammar does not allow.

    Positions are those in the tokens of all solutions laid end to end.

    Attributes:
        sentences: a row for each, `[S, 8]`. The last of a solution may be incomplete.
        steps: `[T, 3]`.
        first_sentence: the sentences of solution i are `first_sentence[i] : first_sentence[i + 1]`, `[N + 1]`.
        answer: position of <ans>, or `NONE`, `[N]`.
        wrong: position of the first token that is not allowed, which may be the end, or `NONE`, `[N]`.
        expected: kinds of tokens that are allowed there, as bits, or `LETTER_OF_HEAD`, `[N]`.
    """

    sentences: NDArray[np.int32]
    steps: NDArray[np.int32]
    first_sentence: NDArray[np.int64]
    answer: NDArray[np.int64]
    wrong: NDArray[np.int64]
    expected: NDArray[np.int64]


class Solutions(NamedTuple):
    """Tokens of N solutions laid end to end, and what was read in them.

    Attributes:
        tokens: with one id for all that are not in the vocabulary.
        offsets: solution i is `tokens[offsets[i] : offsets[i + 1]]`, `[N + 1]`.
        kinds: of the tokens.
        values: number, number of the letter, or operator, of the tokens that have one.
        parsed: sentences and steps.
    """

    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    kinds: NDArray[np.int8]
    values: NDArray[np.int32]
    parsed: Parsed


@compiled
def _step(kinds: NDArray[np.int8], at: int, stop: int) -> tuple[int, int, int]:
    """Read a step at `at`: position after it and number of operands, or -1, where it is wrong and what was expected."""
    # What must stand at each of the places of a step with two operands; shorter steps leave this path early.
    number, letter, equals, operator = 1 << NUMBER, 1 << LETTER, 1 << EQUALS, 1 << OPERATOR
    for offset in range(11):
        here = at + offset
        if offset == 0:
            expected = letter
        elif offset == 2 or offset == 4:
            expected = letter | number
        elif offset == 1 or offset == 5 or offset == 9:
            expected = equals
        elif offset == 3:
            if kinds[here - 1] == NUMBER and (here >= stop or kinds[here] != OPERATOR):
                return here, 0, 0
            expected = operator if kinds[here - 1] == NUMBER else operator | equals
        elif offset == 7:
            expected = operator
        else:
            expected = number
        if here >= stop or not (expected >> kinds[here]) & 1:
            return -1, here, expected
        if offset == 3 and kinds[here] == EQUALS:
            if here + 1 >= stop or kinds[here + 1] != NUMBER:
                return -1, here + 1, number
            return here + 2, 1, 0
    return at + 11, 2, 0


@compiled
def _parse(
    kinds: NDArray[np.int8],
    values: NDArray[np.int32],
    start: int,
    stop: int,
    english: bool,
    found: int,
    made: int,
    sentences: NDArray[np.int32],
    steps: NDArray[np.int32],
) -> tuple[int, int, int, int]:
    """Read a solution and its answer; `found` sentences and `made` steps have been written before.

    Returns:
        Number of sentences written, then as in `Parsed`: the position of the answer, the position where the grammar is
        left, and what was expected there.
    """
    at = start
    opening = 1 << DEFINE if english else 1 << NAME
    while at >= stop or kinds[at] != ANSWER:
        if at >= stop:
            return found, NONE, at, opening | 1 << ANSWER
        end, is_retracted = at, False
        while end < stop and kinds[end] != STOP and kinds[end] != ANSWER:
            is_retracted |= kinds[end] == BACK
            end += 1
        is_stopped = end < stop and kinds[end] == STOP
        row = sentences[found]
        found += 1
        row[BEGIN], row[STOP_AT] = at, end if is_stopped else NONE
        row[STATUS] = RETRACTED if is_retracted else NAMELESS
        row[OUTER] = row[INNER] = row[SYMBOL] = NONE
        row[FIRST_STEP] = row[LAST_STEP] = made
        if is_retracted:
            if not is_stopped:
                return found, NONE, end, 1 << STOP
            at = end + 1
            continue
        # The head. In compact text only names and the letter are written.
        for place in range(7):
            if place == 0:
                expected = DEFINE
            elif place == 1 or place == 3:
                expected = NAME
            elif place == 2:
                expected = OF
            elif place == 4:
                expected = AS
            elif place == 5:
                expected = LETTER
            else:
                expected = SEMICOLON
            if not english and (place == 0 or place == 2 or place == 4):
                continue
            if at >= end or kinds[at] != expected:
                more = 1 << ANSWER if place == (0 if english else 1) else 0
                return found, NONE, at, 1 << expected | more
            if place == 1:
                row[OUTER] = at
            elif place == 3:
                row[INNER] = at
                row[STATUS] = NAMED
            elif place == 5:
                row[SYMBOL] = at
                row[STATUS] = HEADED
            at += 1
        while True:
            is_closing = False
            if english:
                if at < end and kinds[at] == SO:
                    is_closing = True
                    at += 1
                elif at >= end or kinds[at] != LETTER:
                    return found, NONE, at, 1 << SO | 1 << LETTER
            elif at < end and kinds[at] == LETTER:
                is_closing = values[at] == values[row[SYMBOL]]
            if english and is_closing and at < end and kinds[at] == LETTER and values[at] != values[row[SYMBOL]]:
                return found, NONE, at, LETTER_OF_HEAD
            after, operands, expected = _step(kinds, at, end)
            if after < 0:
                return found, NONE, operands, expected
            separator = STOP if is_closing else SEMICOLON
            steps[made, LEFT], steps[made, OPERANDS], steps[made, CLOSING] = at, operands, is_closing
            made += 1
            row[LAST_STEP] = made
            at = after
            if at >= stop or kinds[at] != separator:
                return found, NONE, at, 1 << separator
            at += 1
            if is_closing:
                row[STATUS] = WHOLE
                break
    if at + 1 >= stop or kinds[at + 1] != NUMBER:
        return found, at, at + 1, 1 << NUMBER
    if at + 2 < stop:
        return found, at, at + 2, 1 << END
    return found, at, NONE, 0


@compiled
def parse_all(
    kinds: NDArray[np.int8], values: NDArray[np.int32], offsets: NDArray[np.int64], english: bool, parsed: Parsed
) -> None:
    """Read solution i, `offsets[i]` to before `offsets[i + 1]`, for all i; fills in `parsed`."""
    found, made = 0, 0
    for i in range(len(offsets) - 1):
        stop = offsets[i]
        while stop < offsets[i + 1] and kinds[stop] != END:
            stop += 1
        found, answer, wrong, expected = _parse(
            kinds, values, offsets[i], stop, english, found, made, parsed.sentences, parsed.steps
        )
        parsed.first_sentence[i + 1] = found
        parsed.answer[i], parsed.wrong[i], parsed.expected[i] = answer, wrong, expected
        if found > 0:
            made = parsed.sentences[found - 1, LAST_STEP]


def _tokens_of(vocabulary: Vocabulary) -> dict[int, list[int]]:
    """The tokens of every kind that the grammar knows, in the order of their values."""
    single = {EQUALS: "=", SEMICOLON: ";", STOP: ".", OF: "'s", DEFINE: "Define", AS: "as", SO: "so"}
    return {
        **{kind: [vocabulary.id(token)] for kind, token in single.items()},
        NAME: list(range(vocabulary.first_category, len(vocabulary))),
        NUMBER: [vocabulary.number(value) for value in range(vocabulary.modulus)],
        LETTER: [vocabulary.letter(number) for number in range(LETTERS)],
        OPERATOR: [vocabulary.id(sign) for sign in SIGNS],
        BACK: [vocabulary.back],
        ANSWER: [vocabulary.ans],
        END: [vocabulary.eos],
    }


def expectation(expected: int) -> str:
    """What `Parsed.expected` says, in words."""
    if expected < 0:
        return {
            LETTER_TAKEN: "a letter that was not used before",
            LETTER_UNDEFINED: "a letter that was defined before",
            LETTER_OF_HEAD: "the letter that the sentence defines",
            NUMBER_TOO_LARGE: "a number below the modulus",
        }[expected]
    return " or ".join(name for kind, name in enumerate(KINDS) if expected >> kind & 1)


class Parser:
    """Reads solutions written in one vocabulary.

    Args:
        vocabulary: of the world.
        rendering: "english" or "compact".
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering) -> None:
        if rendering not in get_args(Rendering):
            raise ValueError(f"rendering must be one of {', '.join(get_args(Rendering))}, got {rendering!r}")
        self._is_english = rendering == "english"
        self._size = len(vocabulary)
        self._ids = {token: i for i, token in enumerate(vocabulary.tokens)}
        self._most_words = max(len(token.split()) for token in vocabulary.tokens)
        # One more, for whatever is no token of the vocabulary.
        self._kinds = np.full(self._size + 1, OTHER, dtype=np.int8)
        self._values = np.zeros(self._size + 1, dtype=np.int32)
        for kind, tokens in _tokens_of(vocabulary).items():
            self._kinds[tokens] = kind
            self._values[tokens] = np.arange(len(tokens))

    def read(self, solutions: Sequence[Tokens]) -> Solutions:
        """Read many solutions."""
        offsets = np.cumsum([0, *map(len, solutions)])
        tokens = np.concatenate(
            [np.empty(0, dtype=np.int64), *(np.asarray(s) for s in solutions if len(s))], dtype=np.int64
        )
        tokens[(tokens < 0) | (tokens > self._size)] = self._size
        kinds, values = self._kinds[tokens], self._values[tokens]
        sentences = int(np.count_nonzero(kinds == STOP)) + len(solutions)
        steps = int(np.count_nonzero(kinds == EQUALS))
        parsed = Parsed(
            sentences=np.zeros((sentences, 8), dtype=np.int32),
            steps=np.zeros((steps, 3), dtype=np.int32),
            first_sentence=np.zeros(len(solutions) + 1, dtype=np.int64),
            answer=np.empty(len(solutions), dtype=np.int64),
            wrong=np.empty(len(solutions), dtype=np.int64),
            expected=np.empty(len(solutions), dtype=np.int64),
        )
        parse_all(kinds, values, offsets, self._is_english, parsed)
        return Solutions(tokens, offsets, kinds, values, parsed)

    def encode(self, text: str) -> list[int]:
        """The tokens of any text, -1 for every word that is not in the vocabulary."""
        words = re.findall(r"'s\b|<\w+>|\w+|[^\w\s]", text)
        tokens, at = [], 0
        while at < len(words):
            # Names have several words, and none begins with another name: the longest is the one that is meant.
            candidates = (" ".join(words[at : at + count]) for count in range(self._most_words, 1, -1))
            name = next((candidate for candidate in candidates if candidate in self._ids), words[at])
            tokens.append(self._ids.get(name, -1))
            at += len(name.split())
        return tokens
