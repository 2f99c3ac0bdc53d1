"""The compiled loops of rendering: documents and their marks, token by token, as `rendering` describes them.

Compiled by numba when first called; the result is kept on disk where that can be written.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.kernels import COPY, DIFFERENCE, MORE, NO_CONSTANT, NO_OPERANDS, Drawing
from physlm.worlds.igsm.solution_kernels import CONSTANT, COPIED, MINUS, PLUS, Steps
from physlm.worlds.igsm.structure_kernels import LAYERS

BOS, SOL, ANS = range(3)
OF, STOP, COMMA, SEMICOLON, QUESTION_MARK, EQUALS, ADD, SUBTRACT, MULTIPLY, OPEN, CLOSE = range(3, 14)
THE_HEAD, NUMBER, OF_WORD, EACH, EQUAL_WORD, MORE_WORD, THAN, TIMES_WORD, AS, MUCH, THE, SUM_WORD = range(14, 26)
DIFFERENCE_WORD, AND, HOW, MANY, DOES, HAVE, DEFINE, SO = range(26, 34)
FIXED_TOKENS = (
    *("<bos>", "<sol>", "<ans>"),
    *("'s", ".", ",", ";", "?", "=", "+", "-", "*", "(", ")"),
    *("The", "number", "of", "each", "equals", "more", "than", "times", "as", "much", "the", "sum"),
    *("difference", "and", "How", "many", "does", "have", "Define", "so"),
)
"""The tokens that the numbers above stand for, in this order."""

DELIMITER, PROBLEM, QUESTION, SOLUTION, ANSWER = range(5)
"""What a token is part of, the mark `role`."""
OUTSIDE = -1

MOST_TOKENS = 4096
"""Room for a document: 40 sentences of at most 40 tokens, 52 definitions of 7 and as many steps of 14."""


class Codes(NamedTuple):
    """Ids of a vocabulary.

    Attributes:
        fixed: of `FIXED_TOKENS`.
        first_number, first_letter, first_category, first_item: as in `Vocabulary`.
        per_category: number of items in a category.
    """

    fixed: NDArray[np.int64]
    first_number: int
    first_letter: int
    first_category: int
    first_item: int
    per_category: int


class Page(NamedTuple):
    """What is written, document after document; room for all.

    Attributes:
        tokens: ids.
        role: what every token is part of.
        sentence: number of the sentence within the solution, elsewhere `OUTSIDE`.
        parameter: number of the parameter that the sentence is about (the query in question and answer), or `OUTSIDE`.
        outer, inner: room for the names of one problem's parameters, `[64]`.
    """

    tokens: NDArray[np.int32]
    role: NDArray[np.int8]
    sentence: NDArray[np.int8]
    parameter: NDArray[np.int8]
    outer: NDArray[np.int64]
    inner: NDArray[np.int64]


@compiled
def find_names(row: int, drawing: Drawing, codes: Codes, page: Page) -> None:
    """The two names of every parameter."""
    first = drawing.categorization[row] * LAYERS + drawing.first_category[row]
    edges, layers = drawing.edges[row], drawing.layers[row]
    for p in range(edges):
        layer, parent, child = drawing.edge[row, p]
        outer, inner = drawing.names[row, layer, parent], drawing.names[row, layer + 1, child]
        page.outer[p] = codes.first_item + (first + layer) * codes.per_category + outer
        page.inner[p] = codes.first_item + (first + layer + 1) * codes.per_category + inner
    p = edges
    for layer in range(layers - 1):
        for item in range(drawing.widths[row, layer]):
            for category in range(layer + 1, layers):
                outer = drawing.names[row, layer, item]
                page.outer[p] = codes.first_item + (first + layer) * codes.per_category + outer
                page.inner[p] = codes.first_category + first + category
                p += 1


@compiled
def _put(page: Page, at: int, token: int) -> int:
    page.tokens[at] = token
    return at + 1


@compiled
def _put_name(p: int, is_compact: bool, codes: Codes, page: Page, at: int) -> int:
    at = _put(page, at, page.outer[p])
    if not is_compact:
        at = _put(page, at, codes.fixed[OF])
    return _put(page, at, page.inner[p])


@compiled
def _put_each(p: int, codes: Codes, page: Page, at: int) -> int:
    return _put_name(p, False, codes, page, _put(page, at, codes.fixed[EACH]))


@compiled
def _mark(page: Page, start: int, end: int, role: int, sentence: int, parameter: int) -> int:
    page.role[start:end], page.sentence[start:end], page.parameter[start:end] = role, sentence, parameter
    return end


@compiled
def _put_english_sentence(row: int, p: int, drawing: Drawing, codes: Codes, page: Page, at: int) -> int:
    fixed = codes.fixed
    for token in (THE_HEAD, NUMBER, OF_WORD):
        at = _put(page, at, fixed[token])
    at = _put_each(p, codes, page, at)
    at = _put(page, at, fixed[EQUAL_WORD])
    combination, operator = drawing.combination[row, p], drawing.operator[row, p]
    if operator != NO_CONSTANT or combination == NO_OPERANDS:
        at = _put(page, at, codes.first_number + drawing.constant[row, p])
    if operator == MORE:
        at = _put(page, at, fixed[MORE_WORD])
        at = _put(page, at, fixed[THAN])
    elif operator != NO_CONSTANT:
        for token in (TIMES_WORD, AS, MUCH, AS):
            at = _put(page, at, fixed[token])
    operands = drawing.operands[row, p]
    count = np.count_nonzero(operands >= 0)
    if count > 1:
        at = _put(page, at, fixed[THE])
        at = _put(page, at, fixed[DIFFERENCE_WORD if combination == DIFFERENCE else SUM_WORD])
        at = _put(page, at, fixed[OF_WORD])
    for term in range(count):
        if term == count - 1 and term > 0:
            at = _put(page, at, fixed[AND])
        elif term > 0:
            at = _put(page, at, fixed[COMMA])
        at = _put_each(operands[term], codes, page, at)
    return _put(page, at, fixed[STOP])


@compiled
def _put_compact_sentence(row: int, p: int, drawing: Drawing, codes: Codes, page: Page, at: int) -> int:
    fixed = codes.fixed
    at = _put_name(p, True, codes, page, at)
    combination, operator = drawing.combination[row, p], drawing.operator[row, p]
    if operator != NO_CONSTANT or combination == NO_OPERANDS:
        at = _put(page, at, codes.first_number + drawing.constant[row, p])
    if operator != NO_CONSTANT:
        at = _put(page, at, fixed[ADD if operator == MORE else MULTIPLY])
    has_brackets = operator != NO_CONSTANT and combination > COPY
    if has_brackets:
        at = _put(page, at, fixed[OPEN])
    operands = drawing.operands[row, p]
    for term in range(np.count_nonzero(operands >= 0)):
        if term > 0:
            at = _put(page, at, fixed[SUBTRACT if combination == DIFFERENCE else ADD])
        at = _put_name(operands[term], True, codes, page, at)
    if has_brackets:
        at = _put(page, at, fixed[CLOSE])
    return _put(page, at, fixed[STOP])


@compiled
def _put_problem(row: int, is_compact: bool, drawing: Drawing, codes: Codes, page: Page, at: int) -> int:
    for i in range(drawing.edges[row]):
        p = drawing.told[row, i]
        start = at
        if is_compact:
            at = _put_compact_sentence(row, p, drawing, codes, page, at)
        else:
            at = _put_english_sentence(row, p, drawing, codes, page, at)
        _mark(page, start, at, PROBLEM, OUTSIDE, p)
    return at


@compiled
def _put_question(query: int, is_compact: bool, codes: Codes, page: Page, at: int) -> int:
    start, fixed = at, codes.fixed
    if is_compact:
        at = _put_name(query, True, codes, page, at)
    else:
        at = _put(page, at, fixed[HOW])
        at = _put(page, at, fixed[MANY])
        at = _put(page, at, page.inner[query])
        at = _put(page, at, fixed[DOES])
        at = _put(page, at, page.outer[query])
        at = _put(page, at, fixed[HAVE])
    return _mark(page, start, _put(page, at, fixed[QUESTION_MARK]), QUESTION, OUTSIDE, query)


@compiled
def _put_letter(operand: int, letters: NDArray[np.int64], codes: Codes, page: Page, at: int) -> int:
    if operand < 0:
        return _put(page, at, codes.first_number - 1 - operand)
    return _put(page, at, codes.first_letter + letters[operand])


@compiled
def _put_value(operand: int, values: NDArray[np.int64], codes: Codes, page: Page, at: int) -> int:
    return _put(page, at, codes.first_number + (-1 - operand if operand < 0 else values[operand]))


@compiled
def _put_solution(row: int, is_compact: bool, drawing: Drawing, steps: Steps, codes: Codes, page: Page, at: int) -> int:
    fixed, letters, values = codes.fixed, drawing.letters[row], steps.value[row]
    step = sentence = 0
    while step < steps.total[row]:
        start, own, last = at, step, step + steps.in_sentence[row, sentence] - 1
        p = drawing.solution[row, sentence]
        if not is_compact:
            at = _put(page, at, fixed[DEFINE])
        at = _put_name(p, is_compact, codes, page, at)
        if not is_compact:
            at = _put(page, at, fixed[AS])
        at = _put_letter(own, letters, codes, page, at)
        while step <= last:
            at = _put(page, at, fixed[SEMICOLON])
            if step == last and not is_compact:
                at = _put(page, at, fixed[SO])
            result = own if step == last else step + 1
            kind, left, right = steps.kind[row, step], steps.left[row, step], steps.right[row, step]
            at = _put_letter(result, letters, codes, page, at)
            if kind != CONSTANT:
                at = _put(page, at, fixed[EQUALS])
                at = _put_letter(left, letters, codes, page, at)
            if kind != CONSTANT and kind != COPIED:
                operator = fixed[ADD if kind == PLUS else SUBTRACT if kind == MINUS else MULTIPLY]
                at = _put(page, at, operator)
                at = _put_letter(right, letters, codes, page, at)
                at = _put(page, at, fixed[EQUALS])
                at = _put_value(left, values, codes, page, at)
                at = _put(page, at, operator)
                at = _put_value(right, values, codes, page, at)
            at = _put(page, at, fixed[EQUALS])
            at = _put_value(result, values, codes, page, at)
            step += 1
        at = _put(page, at, fixed[STOP])
        _mark(page, start, at, SOLUTION, sentence, p)
        sentence += 1
    return at


@compiled
def write(
    rows: NDArray[np.int64],
    drawing: Drawing,
    steps: Steps,
    codes: Codes,
    is_compact: bool,
    question_first: NDArray[np.bool_],
    page: Page,
    offsets: NDArray[np.int64],
) -> None:
    """Write the documents at `rows` one after another.

    Args:
        rows: which.
        drawing: the problems.
        steps: their solutions.
        codes: of the vocabulary.
        is_compact: the dialect.
        question_first: of every problem.
        page: gets tokens and marks; `MOST_TOKENS` for each document are enough.
        offsets: gets where each document begins, and where the last one ends.
    """
    at = 0
    for i in range(len(rows)):
        row = rows[i]
        offsets[i] = at
        find_names(row, drawing, codes, page)
        sentences = np.count_nonzero(drawing.solution[row] >= 0)
        query = drawing.solution[row, sentences - 1]
        at = _mark(page, at, _put(page, at, codes.fixed[BOS]), DELIMITER, OUTSIDE, OUTSIDE)
        if question_first[row]:
            at = _put_question(query, is_compact, codes, page, at)
        at = _put_problem(row, is_compact, drawing, codes, page, at)
        if not question_first[row]:
            at = _put_question(query, is_compact, codes, page, at)
        at = _mark(page, at, _put(page, at, codes.fixed[SOL]), DELIMITER, OUTSIDE, OUTSIDE)
        at = _put_solution(row, is_compact, drawing, steps, codes, page, at)
        start = at
        at = _put(page, at, codes.fixed[ANS])
        letter = steps.total[row] - steps.in_sentence[row, sentences - 1]
        at = _mark(page, start, _put_value(letter, steps.value[row], codes, page, at), ANSWER, OUTSIDE, query)
    offsets[len(rows)] = at
