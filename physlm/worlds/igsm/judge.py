"""Is this solution right, and if not, which parameter is the first wrong one, and why?

- Any valid order of sentences, operands and steps is accepted, and parameters that are not needed; how many there were
  is counted. The problem's own solution is never looked at: values, predecessors and what is needed are worked out
  from structure, formulas and query alone.
- A solution is read from the left; the verdict is on the first sentence with something wrong in it, and there on the
  first of: name, each step, the sentence as a whole.
- Lenient is what the papers check. Strict, the default, also asks that every parameter is computed as it is defined, by
  the same function of its predecessors: a wrong constant or operator is found even where the value is right by luck.

| reason | of | means |
| --- | --- | --- |
| `format` | anything | not as the grammar has it, or cut off; a letter used twice, or before it is defined |
| `unknown` | name | no parameter of this problem |
| `redefined` | name | has been computed before |
| `not_ready` | name | some predecessor has not been computed |
| `wrong_deps` | step, sentence | uses what is no predecessor, or not all predecessors |
| `reference` | step | a number or sign that is not that of the letter or expression it stands for |
| `calc` | step | a result that is not that of the numbers |
| `value` | sentence | the parameter has another value (in lenient mode: the query has) |
| `formula` | sentence | the right value, but not computed as the parameter is defined (never in lenient mode) |
| `wrong_query` | sentence, end | goes on after the query, or ends without it |
| `answer` | end | the answer is not the value of the query |

A sentence "as a whole" uses what its closing step rests on, its own intermediate letters followed.

Specification, §4.1; Physics of Language Models 2.1, footnote 13; 2.2, §4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.igsm import judge_kernels as kernels
from physlm.worlds.igsm.config import Rendering
from physlm.worlds.igsm.parsing import LETTERS, NONE, Parser, Tokens, expectation
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.vocabulary import Vocabulary

Reason = Literal[
    "format",
    "unknown",
    "redefined",
    "not_ready",
    "wrong_deps",
    "reference",
    "calc",
    "value",
    "formula",
    "wrong_query",
    "answer",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
_COMBINATIONS = {
    "none": kernels.NO_OPERANDS,
    "copy": kernels.COPY,
    "sum": kernels.SUM,
    "difference": kernels.DIFFERENCE,
}
_OPERATORS = {"none": kernels.NO_CONSTANT, "more": kernels.MORE, "times": kernels.FACTOR}
_DEMANDS = {
    kernels.CIRCULAR: "have no parameter that depends on itself",
    kernels.OUT_OF_RANGE: "have names of the vocabulary, edges between adjacent layers, and operands and query within",
    kernels.TOO_LARGE: f"have at most {kernels.MOST_PARAMETERS} parameters and {kernels.MOST_ITEMS} items",
}


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a solution.

    Attributes:
        correct: whether everything is right.
        reason: why not.
        parameter: the first wrong one, as a number into `Problem.parameters`; `None` if what is wrong belongs to none.
        sentence: number of the sentence with the first wrong thing, those taken back counted; `None` if it is in none.
        position: of the first wrong token after <sol>, or of the end if something is missing.
        unnecessary_parameters: how many were computed that the query does not need; up to what is wrong.
        unnecessary_operations: steps beyond those that the shortest solution has; `None` unless correct.
        retries: sentences taken back with <back>.
        steps: equations in the right sentences.
        defined: the parameters of the right sentences in order, as numbers into `Problem.parameters`.
        expected: for `format`, what would have been right.
    """

    correct: bool
    reason: Reason | None
    parameter: int | None
    sentence: int | None
    position: int | None
    unnecessary_parameters: int
    unnecessary_operations: int | None
    retries: int
    steps: int
    defined: tuple[int, ...]
    expected: str = ""

    def __bool__(self) -> bool:
        return self.correct

    def explain(self, skip: int = 0) -> str:
        """One readable sentence, empty when correct; `skip` tokens before the solution are counted too."""
        if self.reason is None:
            return ""
        where = "" if self.sentence is None else f" of sentence {self.sentence}"
        what = {
            "format": f"must be {self.expected}",
            "unknown": "names no parameter of this problem",
            "redefined": "names a parameter that has been computed before",
            "not_ready": "names a parameter of which a predecessor has not been computed",
            "wrong_deps": "uses what is no predecessor of the parameter, or leaves a predecessor out",
            "reference": "is not the value or the sign of what it stands for",
            "calc": "is not the result of the numbers before",
            "value": "is not the value of the parameter",
            "formula": "is the value of the parameter, but not computed as it is defined",
            "wrong_query": "must be the end, as the query has been computed"
            if self.sentence is not None
            else "must not come before the query has been computed",
            "answer": "is not the value of the query",
        }[self.reason]
        return f"{self.reason}: token {skip + (self.position or 0)}{where} {what}"


@dataclass(frozen=True)
class Verdicts(Sequence[Verdict]):
    """The verdicts on N solutions, as arrays and one by one.

    Attributes:
        table: a row for each with the columns of `judge_kernels`, `[N, 10]`.
        defined: parameters of the right sentences of each, `[N, P]`; the first `table[i, DEFINED]` of row i count.
    """

    table: NDArray[np.int32]
    defined: NDArray[np.int32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which solutions are right, `[N]`."""
        return self.table[:, kernels.REASON] == 0

    @cached_property
    def counts(self) -> dict[Reason, int]:
        """How many were wrong for every reason."""
        counts = np.bincount(self.table[:, kernels.REASON], minlength=len(REASONS) + 1)[1:]
        return dict(zip(REASONS, counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Verdict: ...

    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...

    def __getitem__(self, index: int | slice) -> Verdict | Verdicts:
        if isinstance(index, slice):
            return Verdicts(self.table[index], self.defined[index])
        reason, parameter, sentence, position, extra, extra_steps, retries, steps, defined, expected = self.table[
            index
        ].tolist()
        return Verdict(
            correct=reason == 0,
            reason=None if reason == 0 else REASONS[reason - 1],
            parameter=None if parameter < 0 else parameter,
            sentence=None if sentence < 0 else sentence,
            position=None if position < 0 else position,
            unnecessary_parameters=extra,
            unnecessary_operations=extra_steps if reason == 0 else None,
            retries=retries,
            steps=steps,
            defined=tuple(self.defined[index, :defined].tolist()),
            expected=expectation(expected) if reason == kernels.FORMAT else "",
        )


class Judge:
    """Judges the solutions of problems in one vocabulary and rendering.

    Example:
        >>> judge = Judge(world.vocabulary, "english")
        >>> sample = world["test", 0]
        >>> judge.check(sample.truth, sample.tokens[list(sample.tokens).index(world.vocabulary.sol) + 1 :]).correct
        True

    Args:
        vocabulary: of the world.
        rendering: "english" or "compact".
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering) -> None:
        self._vocabulary = vocabulary
        self._parser = Parser(vocabulary, rendering)
        # Fixed, so that a verdict is a function of problem and solution.
        words = Key.of("iGSM judge").words(np.arange(kernels.POINTS), kernels.MOST_PARAMETERS)
        self._words = (words >> np.uint64(1)).astype(np.int64)

    def check(self, problem: Problem, tokens: Tokens, *, strict: bool = True) -> Verdict:
        """Judge one solution.

        Args:
            problem: what it is a solution of.
            tokens: all after <sol>: the solution, <ans> and the answer. What follows <eos> is not read.
            strict: whether every parameter must be computed as it is defined; else only the answer must be true.

        Raises:
            ValueError: if the problem is none: parameters that depend on themselves, numbers that point nowhere.
        """
        return self.check_many([problem], [tokens], strict=strict)[0]

    def check_many(self, problems: Sequence[Problem], solutions: Sequence[Tokens], *, strict: bool = True) -> Verdicts:
        """Judge a solution for each problem; faster if solutions of the same `Problem` object are neighbours."""
        if len(problems) != len(solutions):
            raise ValueError(f"there must be a problem for every solution, got {len(problems)} for {len(solutions)}")
        distinct: list[Problem] = []
        which = np.empty(len(problems), dtype=np.int64)
        for i, problem in enumerate(problems):
            if not distinct or distinct[-1] is not problem:
                distinct.append(problem)
            which[i] = len(distinct) - 1
        rows = [self._as_numbers(problem) for problem in distinct]
        read = self._parser.read(solutions)
        definitions, letters = self._room()
        verdicts = Verdicts(
            np.zeros((len(solutions), kernels.EXPECTED + 1), dtype=np.int32),
            np.zeros((len(solutions), kernels.MOST_PARAMETERS), dtype=np.int32),
        )
        offsets = np.cumsum([0, *map(len, rows)])
        wrong, why = kernels.judge_all(
            np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(offsets[-1])),
            offsets,
            which,
            read.tokens,
            read.kinds,
            read.values,
            read.offsets,
            read.parsed,
            strict,
            self._words,
            definitions,
            letters,
            verdicts.table,
            verdicts.defined,
        )
        if why:
            raise ValueError(f"problem must {_DEMANDS[why]}, got {distinct[wrong]}")
        return verdicts

    def check_text(self, problem: Problem, text: str, *, strict: bool = True) -> Verdict:
        """Judge a solution given as text, as `Vocabulary.decode` writes it: the solution, <ans> and the answer.

        A word that is not in the vocabulary is a token that the grammar does not have.
        """
        return self.check(problem, self._parser.encode(text), strict=strict)

    def _as_numbers(self, problem: Problem) -> list[int]:
        """Modulus, query, numbers of layers and edges, widths, tokens of items and of categories, edges, formulas."""
        vocabulary, names_from, first = self._vocabulary, problem.categorization, problem.first_category
        layers = len(problem.widths)
        if tuple(map(len, problem.names)) != problem.widths or len(problem.formulas) != len(problem.edges):
            raise ValueError(f"problem must have a name for every item and a formula for every edge, got {problem}")
        numbers = [problem.modulus, problem.query, layers, len(problem.edges), *problem.widths]
        for layer, names in enumerate(problem.names):
            token = vocabulary.item(names_from, first + layer, 0)
            numbers += [token + name for name in names]
        numbers += [vocabulary.category(names_from, first + layer) for layer in range(layers)]
        for edge in problem.edges:
            parent = edge.parent
            numbers += (parent.layer, parent.number, edge.child.number)
        for formula in problem.formulas:
            operands = formula.operands
            operator, combination = _OPERATORS[formula.operator], _COMBINATIONS[formula.combination]
            numbers += (combination, operator, formula.constant, len(operands), *operands)
        return numbers

    def _room(self) -> tuple[kernels.Definitions, kernels.Letters]:
        """Room for any problem and any solution."""
        parameters, items, terms = kernels.MOST_PARAMETERS, kernels.MOST_ITEMS, kernels.MOST_TERMS

        def empty(*shape: int, dtype: type = np.int32) -> NDArray:
            return np.empty(shape, dtype=dtype)

        definitions = kernels.Definitions(
            meaning=np.full(len(self._vocabulary) + 1, NONE, dtype=np.int32),
            instance=empty(items, items),
            abstract=empty(items, items),
            first_term=empty(parameters + 1),
            left=empty(terms),
            right=empty(terms),
            combination=empty(parameters),
            operator=empty(parameters),
            constant=empty(parameters, dtype=np.int64),
            predecessors=empty(parameters, dtype=np.int64),
            truth=empty(parameters, dtype=np.int64),
            points=empty(kernels.POINTS, parameters, dtype=np.int64),
        )
        letters = kernels.Letters(
            owner=empty(LETTERS),
            since=empty(LETTERS),
            uses=empty(LETTERS, dtype=np.int64),
            value=empty(LETTERS, dtype=np.int64),
            tried=empty(LETTERS, kernels.POINTS, dtype=np.int64),
        )
        return definitions, letters
