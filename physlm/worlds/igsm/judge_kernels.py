"""The compiled loops of the judge: working out a problem, and holding parsed solutions against it.

- `_understand` makes of a problem's structure and formulas what every parameter is the sum of, its true value, and
  which parameters the query needs. It reads nothing else of the problem, its solution least of all.
- `_judge` goes through the sentences in reading order and stops at the first thing that is wrong.
- Whether a sentence computes what its parameter is defined as is tried on `POINTS` random values of its predecessors:
  expressions that agree on all of them are the same function, up to a chance far below 10^-6.
- Sets of parameters are the bits of an integer.

Compiled by numba when first called; the result is kept on disk where that can be written. All of it is in one file
because what is kept is renewed when this file changes, and only then.

Shapes: P parameters, T terms, I items, D layers, V tokens, L letters, K points, N solutions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.parsing import (
    BEGIN,
    CLOSING,
    FIRST_STEP,
    HEADED,
    INNER,
    LAST_STEP,
    LEFT,
    LETTER_TAKEN,
    LETTER_UNDEFINED,
    MINUS,
    NAMED,
    NONE,
    NUMBER,
    NUMBER_TOO_LARGE,
    OPERANDS,
    OUTER,
    PLUS,
    RETRACTED,
    STATUS,
    STOP_AT,
    SYMBOL,
    WHOLE,
    Parsed,
)

# Reasons; 0 is for a right solution.
FORMAT, UNKNOWN, REDEFINED, NOT_READY, WRONG_DEPS, REFERENCE, CALC, VALUE, FORMULA, WRONG_QUERY, WRONG_ANSWER = range(
    1, 12
)

REASON, PARAMETER, SENTENCE, POSITION, EXTRA_PARAMETERS, EXTRA_STEPS, RETRIES, STEPS, DEFINED, EXPECTED = range(10)
"""Columns of a verdict. `EXPECTED` is what `Parsed.expected` is, or says what is wrong with a letter or a number."""

NO_OPERANDS, COPY, SUM, DIFFERENCE = range(4)
NO_CONSTANT, MORE, FACTOR = range(3)

MOST_PARAMETERS, MOST_ITEMS, MOST_TERMS = 64, 32, 512
"""Of a problem; sets of parameters are the bits of an integer."""
POINTS = 32
"""Random values that a sentence is tried on."""
CIRCULAR, OUT_OF_RANGE, TOO_LARGE = -1, -2, -3
"""Why a problem cannot be understood."""
_FREE, _TAKEN, _INTERMEDIATE = -1, -2, -3


class Definitions(NamedTuple):
    """Room for what is known of a problem.

    Attributes:
        meaning: of a name's token in this problem: number of the item, `-2 - layer` of a category, or `NONE`, `[V]`.
        instance: number of the parameter of two items, or `NONE`, `[I, I]`.
        abstract: number of the parameter of an item and the layer of a category, or `NONE`, `[I, D]`.
        first_term: the terms of parameter p are `first_term[p] : first_term[p + 1]`, `[P + 1]`.
        left, right: the parameters whose product is the term; `right` is `NONE` for a term of one factor, `[T]`.
        combination, operator, constant: as in the formula; abstract parameters are sums, `[P]`.
        predecessors: what a parameter is computed from, as bits, `[P]`.
        truth: value, `[P]`.
        points: random values of every parameter to try expressions on, `[K, P]`.
    """

    meaning: NDArray[np.int32]
    instance: NDArray[np.int32]
    abstract: NDArray[np.int32]
    first_term: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    combination: NDArray[np.int32]
    operator: NDArray[np.int32]
    constant: NDArray[np.int64]
    predecessors: NDArray[np.int64]
    truth: NDArray[np.int64]
    points: NDArray[np.int64]


class Letters(NamedTuple):
    """What the letters of a solution stand for so far.

    Attributes:
        owner: a parameter, or one of: free, taken but without a value, an intermediate result, `[L]`.
        since: sentence in which it was defined, `[L]`.
        uses: the parameters that an intermediate result rests on, as bits; of a parameter itself, `[L]`.
        value: what the solution says it is, `[L]`.
        tried: its values at the points, `[L, K]`.
    """

    owner: NDArray[np.int32]
    since: NDArray[np.int32]
    uses: NDArray[np.int64]
    value: NDArray[np.int64]
    tried: NDArray[np.int64]


@compiled
def _bit(number: int) -> int:
    return int(np.int64(1) << np.int64(number))


@compiled
def _evaluate(parameter: int, known: NDArray[np.int64], modulus: int, definitions: Definitions) -> int:
    """Value of a parameter given those of its predecessors."""
    constant, combination = definitions.constant[parameter], definitions.combination[parameter]
    if combination == NO_OPERANDS:
        return constant % modulus
    total, first = 0, definitions.first_term[parameter]
    for term in range(first, definitions.first_term[parameter + 1]):
        left, right = definitions.left[term], definitions.right[term]
        product = known[left] if right == NONE else known[left] * known[right]
        total += -product if combination == DIFFERENCE and term > first else product
    if definitions.operator[parameter] == MORE:
        total += constant
    elif definitions.operator[parameter] == FACTOR:
        total = total % modulus * constant
    return int(total % modulus)


@compiled
def _read(data: NDArray[np.int64], definitions: Definitions) -> int:
    """Read a problem written by `Judge._as_numbers`: the number of parameters, or `OUT_OF_RANGE` or `TOO_LARGE`."""
    layers, edges = data[2], data[3]
    widths = data[4 : 4 + layers]
    at = 4 + layers
    items, count = 0, edges
    for layer in range(layers):
        items += widths[layer]
        count += widths[layer] * (layers - 1 - layer)
    # Children of an item are terms of all its abstract parameters; the rest of the data bounds the operands.
    if items > MOST_ITEMS or count > MOST_PARAMETERS or edges * layers + len(data) > MOST_TERMS:
        return TOO_LARGE
    for name in range(at, at + items + layers):
        if not 0 <= data[name] < len(definitions.meaning):
            return OUT_OF_RANGE
    items, count = 0, edges
    for layer in range(layers):
        for _ in range(widths[layer]):
            definitions.meaning[data[at]] = items
            for other in range(MOST_ITEMS):
                definitions.instance[items, other] = NONE
            for category in range(layers):
                definitions.abstract[items, category] = NONE
            for category in range(layer + 1, layers):
                definitions.abstract[items, category] = count
                count += 1
            items += 1
            at += 1
    for layer in range(layers):
        definitions.meaning[data[at]] = -2 - layer
        at += 1
    for edge in range(edges):
        layer, parent, child = data[at], data[at + 1], data[at + 2]
        if not 0 <= layer < layers - 1 or not 0 <= parent < widths[layer] or not 0 <= child < widths[layer + 1]:
            return OUT_OF_RANGE
        first = 0
        for above in range(layer):
            first += widths[above]
        definitions.instance[first + parent, first + widths[layer] + child] = edge
        at += 3
    terms = 0
    for edge in range(edges):
        definitions.combination[edge], definitions.operator[edge] = data[at], data[at + 1]
        definitions.constant[edge], operands = data[at + 2], data[at + 3]
        definitions.first_term[edge] = terms
        at += 4
        for _ in range(operands):
            if not 0 <= data[at] < count:
                return OUT_OF_RANGE
            definitions.left[terms], definitions.right[terms] = data[at], NONE
            terms += 1
            at += 1
    first = 0
    for layer in range(layers - 1):
        below = first + widths[layer]
        for item in range(first, below):
            for category in range(layer + 1, layers):
                parameter = definitions.abstract[item, category]
                definitions.combination[parameter], definitions.operator[parameter] = SUM, NO_CONSTANT
                definitions.constant[parameter] = 0
                definitions.first_term[parameter] = terms
                for child in range(below, below + widths[layer + 1]):
                    if definitions.instance[item, child] >= 0:
                        definitions.left[terms] = definitions.instance[item, child]
                        # Nothing is below the last category: for level 1 this is NONE.
                        definitions.right[terms] = definitions.abstract[child, category]
                        terms += 1
        first = below
    definitions.first_term[count] = terms
    return count if 0 <= data[1] < count else OUT_OF_RANGE


@compiled
def _understand(data: NDArray[np.int64], definitions: Definitions) -> tuple[int, int]:
    """Work out a problem.

    Args:
        data: the problem as written by `Judge._as_numbers`.
        definitions: filled in; `meaning` must be `NONE` everywhere.

    Returns:
        The parameters that the query needs as bits, and the number of operations that they take, or
        instead of it `CIRCULAR`,
        `OUT_OF_RANGE` or `TOO_LARGE`.
    """
    modulus, query = data[0], data[1]
    count = _read(data, definitions)
    if count < 0:
        return 0, count
    for parameter in range(count):
        union = 0
        for term in range(definitions.first_term[parameter], definitions.first_term[parameter + 1]):
            union |= _bit(definitions.left[term])
            if definitions.right[term] >= 0:
                union |= _bit(definitions.right[term])
        definitions.predecessors[parameter] = union

    valued, done = 0, 0
    while done < count:
        before = done
        for parameter in range(count):
            if valued >> parameter & 1 == 0 and definitions.predecessors[parameter] & ~valued == 0:
                definitions.truth[parameter] = _evaluate(parameter, definitions.truth, modulus, definitions)
                valued |= _bit(parameter)
                done += 1
        if done == before:
            return 0, CIRCULAR

    needed, found = _bit(query), 0
    operations = 0
    while needed != found:
        for parameter in range(count):
            if needed >> parameter & 1 and not found >> parameter & 1:
                found |= _bit(parameter)
                needed |= definitions.predecessors[parameter]
                degree = 0 if definitions.operator[parameter] == NO_CONSTANT else 1
                for term in range(definitions.first_term[parameter], definitions.first_term[parameter + 1]):
                    degree += 1 if definitions.right[term] == NONE else 2
                operations += max(1, degree - 1)
    return needed, operations


@compiled
def _forget(data: NDArray[np.int64], definitions: Definitions) -> None:
    """Take back what the names of a problem mean."""
    layers = data[2]
    names = layers
    for layer in range(layers):
        names += data[4 + layer]
    for at in range(4 + layers, 4 + layers + names):
        definitions.meaning[data[at]] = NONE


@compiled
def _arithmetic(operator: int, a: int, b: int, modulus: int) -> int:
    if operator == PLUS:
        return (a + b) % modulus
    if operator == MINUS:
        return (a - b) % modulus
    return a * b % modulus


@compiled
def _judge_step(
    at: int,
    operands: int,
    sentence: int,
    predecessors: int,
    kinds: NDArray[np.int8],
    values: NDArray[np.int32],
    modulus: int,
    strict: bool,
    letters: Letters,
) -> tuple[int, int, int]:
    """Judge a step and define its letter: reason, position of what is wrong or of the result, and what was expected."""
    uses = 0
    for here in range(at + 2, at + 2 + 2 * operands, 2):
        if kinds[here] == NUMBER:
            if values[here] >= modulus:
                return FORMAT, here, NUMBER_TOO_LARGE
            continue
        letter = values[here]
        if letters.owner[letter] in (_FREE, _TAKEN):
            return FORMAT, here, LETTER_UNDEFINED
        is_foreign = letters.owner[letter] == _INTERMEDIATE and letters.since[letter] != sentence
        if is_foreign or letters.uses[letter] & ~predecessors:
            return WRONG_DEPS, here, 0
        uses |= letters.uses[letter]
    symbol = values[at]
    letters.owner[symbol], letters.since[symbol], letters.uses[symbol] = _INTERMEDIATE, sentence, uses
    if operands == 0:
        if values[at + 2] >= modulus:
            return FORMAT, at + 2, NUMBER_TOO_LARGE
        letters.value[symbol] = values[at + 2]
        for point in range(POINTS):
            letters.tried[symbol, point] = values[at + 2]
        return 0, at + 2, 0
    first, is_constant = values[at + 2], kinds[at + 2] == NUMBER
    a = int(first) if is_constant else int(letters.value[first])
    if operands == 1:
        letters.value[symbol] = a
        for point in range(POINTS):
            letters.tried[symbol, point] = letters.tried[first, point]
        return 0 if values[at + 4] == a else REFERENCE, at + 4, 0
    operator, second, is_second_constant = values[at + 3], values[at + 4], kinds[at + 4] == NUMBER
    b = int(second) if is_second_constant else int(letters.value[second])
    if values[at + 6] != a:
        return REFERENCE, at + 6, 0
    if values[at + 7] != operator:
        return REFERENCE, at + 7, 0
    if values[at + 8] != b:
        return REFERENCE, at + 8, 0
    letters.value[symbol] = _arithmetic(operator, a, b, modulus)
    if strict:
        for point in range(POINTS):
            x = a if is_constant else int(letters.tried[first, point])
            y = b if is_second_constant else int(letters.tried[second, point])
            letters.tried[symbol, point] = _arithmetic(operator, x, y, modulus)
    return 0 if values[at + 10] == letters.value[symbol] else CALC, at + 10, 0


@compiled
def _judge_body(
    parameter: int,
    sentence: int,
    kinds: NDArray[np.int8],
    values: NDArray[np.int32],
    modulus: int,
    strict: bool,
    is_query: bool,
    definitions: Definitions,
    parsed: Parsed,
    letters: Letters,
) -> tuple[int, int, int]:
    """Judge what follows the name of a sentence whose parameter is ready: reason, position, what was expected.

    The reason is 0 as well for a sentence that breaks off without anything wrong before.
    """
    row = parsed.sentences[sentence]
    if row[STATUS] < HEADED:
        return 0, NONE, 0
    symbol, predecessors = values[row[SYMBOL]], definitions.predecessors[parameter]
    if letters.owner[symbol] != _FREE:
        return FORMAT, row[SYMBOL], LETTER_TAKEN
    letters.owner[symbol] = _TAKEN
    result = NONE
    for step in range(row[FIRST_STEP], row[LAST_STEP]):
        at = parsed.steps[step, LEFT]
        if not parsed.steps[step, CLOSING] and letters.owner[values[at]] != _FREE:
            return FORMAT, at, LETTER_TAKEN
        reason, result, expected = _judge_step(
            at, parsed.steps[step, OPERANDS], sentence, predecessors, kinds, values, modulus, strict, letters
        )
        if reason:
            return reason, result, expected
    if row[STATUS] < WHOLE:
        return 0, NONE, 0
    if letters.uses[symbol] != predecessors:
        return WRONG_DEPS, row[STOP_AT], 0
    if (strict or is_query) and letters.value[symbol] != definitions.truth[parameter]:
        return VALUE, result, 0
    if strict:
        for point in range(POINTS):
            if letters.tried[symbol, point] != _evaluate(parameter, definitions.points[point], modulus, definitions):
                return FORMULA, result, 0
            letters.tried[symbol, point] = definitions.points[point, parameter]
    letters.owner[symbol], letters.uses[symbol] = parameter, _bit(parameter)
    return 0, NONE, 0


@compiled
def _name(row: NDArray[np.int32], tokens: NDArray[np.int64], definitions: Definitions) -> tuple[int, int]:
    """The parameter that a sentence names, and the position of its last token; or `NONE`, and where the name fails."""
    if row[STATUS] < NAMED:
        return NONE, NONE
    outer, inner = definitions.meaning[tokens[row[OUTER]]], definitions.meaning[tokens[row[INNER]]]
    if outer < 0:
        return NONE, int(row[OUTER])
    if inner == NONE:
        return NONE, int(row[INNER])
    parameter = definitions.instance[outer, inner] if inner >= 0 else definitions.abstract[outer, -2 - inner]
    return int(parameter), int(row[INNER])


@compiled
def _judge(
    solution: int,
    tokens: NDArray[np.int64],
    kinds: NDArray[np.int8],
    values: NDArray[np.int32],
    parsed: Parsed,
    strict: bool,
    modulus: int,
    query: int,
    needed: int,
    definitions: Definitions,
    letters: Letters,
    verdict: NDArray[np.int32],
    defined: NDArray[np.int32],
) -> None:
    """Judge one solution: fills in `verdict [10]`, and in `defined [P]` the parameters of the right sentences."""
    answer, wrong, expected = parsed.answer[solution], parsed.wrong[solution], parsed.expected[solution]
    first_sentence = parsed.first_sentence[solution]
    for letter in range(len(letters.owner)):
        letters.owner[letter] = _FREE
    known, last = 0, NONE
    for sentence in range(first_sentence, parsed.first_sentence[solution + 1]):
        row = parsed.sentences[sentence]
        parameter, at = _name(row, tokens, definitions)
        verdict[PARAMETER], verdict[SENTENCE] = parameter, sentence - first_sentence
        reason, allowed = 0, 0
        if row[STATUS] == RETRACTED:
            if row[STOP_AT] >= 0:
                verdict[RETRIES] += 1
                continue
            reason, at, allowed = FORMAT, wrong, expected
        elif last == query:
            reason, at = WRONG_QUERY, row[BEGIN]
        elif row[STATUS] < NAMED:
            reason, at, allowed = FORMAT, wrong, expected
        elif parameter == NONE:
            reason = UNKNOWN
        elif known >> parameter & 1:
            reason = REDEFINED
        elif definitions.predecessors[parameter] & ~known:
            reason = NOT_READY
        else:
            reason, at, allowed = _judge_body(
                parameter, sentence, kinds, values, modulus, strict, parameter == query, definitions, parsed, letters
            )
            if reason == 0 and row[STATUS] < WHOLE:
                reason, at, allowed = FORMAT, wrong, expected
        if reason:
            verdict[REASON], verdict[POSITION], verdict[EXPECTED] = reason, at, allowed
            return
        known |= _bit(parameter)
        last = parameter
        defined[verdict[DEFINED]] = parameter
        verdict[DEFINED] += 1
        verdict[STEPS] += row[LAST_STEP] - row[FIRST_STEP]
        verdict[EXTRA_PARAMETERS] += 1 - (needed >> parameter & 1)
    verdict[PARAMETER] = verdict[SENTENCE] = verdict[POSITION] = NONE
    if answer >= 0 and last != query:
        verdict[REASON], verdict[POSITION] = WRONG_QUERY, answer
    elif wrong != answer + 1 and answer >= 0 and values[answer + 1] != definitions.truth[query]:
        verdict[REASON], verdict[POSITION], verdict[PARAMETER] = WRONG_ANSWER, answer + 1, query
    elif wrong >= 0:
        verdict[REASON], verdict[POSITION], verdict[EXPECTED] = FORMAT, wrong, expected


@compiled
def judge_all(
    data: NDArray[np.int64],
    data_offsets: NDArray[np.int64],
    which: NDArray[np.int64],
    tokens: NDArray[np.int64],
    kinds: NDArray[np.int8],
    values: NDArray[np.int32],
    offsets: NDArray[np.int64],
    parsed: Parsed,
    strict: bool,
    words: NDArray[np.int64],
    definitions: Definitions,
    letters: Letters,
    verdicts: NDArray[np.int32],
    defined: NDArray[np.int32],
) -> tuple[int, int]:
    """Judge solution i, parsed from `tokens[offsets[i] : offsets[i + 1]]`, by problem `which[i]`.

    Args:
        data: all problems, written by `Judge._as_numbers`; the others are what `Judge.check_many` makes.
        data_offsets: problem m is `data[data_offsets[m] : data_offsets[m + 1]]`.
        which: the problem of every solution, `[N]`.
        tokens: of all solutions.
        kinds: of the tokens.
        values: of the tokens.
        offsets: of the solutions, `[N + 1]`.
        parsed: all solutions.
        strict: whether parameters must be computed as they are defined.
        words: random numbers, `[K, P]`.
        definitions: room for one problem.
        letters: room for one solution.
        verdicts: filled in, `[N, 10]`; zeros before.
        defined: filled in, `[N, P]`.

    Returns:
        The number of a problem that cannot be understood, and `CIRCULAR`, `OUT_OF_RANGE` or `TOO_LARGE`; or `NONE`
        and 0.
    """
    modulus, query, needed, operations, understood = 0, 0, 0, 0, NONE
    for i in range(len(which)):
        if which[i] != understood:
            if understood >= 0:
                _forget(data[data_offsets[understood] :], definitions)
            understood = int(which[i])
            problem = data[data_offsets[understood] : data_offsets[understood + 1]]
            needed, operations = _understand(problem, definitions)
            if operations < 0:
                return understood, operations
            query = int(problem[1])
            if problem[0] != modulus:
                modulus = int(problem[0])
                for point in range(words.shape[0]):
                    for parameter in range(words.shape[1]):
                        definitions.points[point, parameter] = words[point, parameter] % modulus
        _judge(
            i,
            tokens,
            kinds,
            values,
            parsed,
            strict,
            modulus,
            query,
            needed,
            definitions,
            letters,
            verdicts[i],
            defined[i],
        )
        if verdicts[i, POSITION] >= 0:
            verdicts[i, POSITION] -= offsets[i]
        verdicts[i, EXTRA_STEPS] = verdicts[i, STEPS] - operations
    return NONE, 0
