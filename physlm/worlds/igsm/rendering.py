"""What is written: a problem, its question, its solution and the answer, as tokens.

One token a word, name, number, letter or mark; `{ }` is any number of times, `[ ]` at most once. A document is

    document = <bos> problem question <sol> solution <ans> number          or question problem, with `question_first`
    problem  = { sentence }                                                one for every edge, in the order told
    solution = { definition }                                              one for every parameter of the solution

English, the paper's:

    sentence   = The number of each outer 's inner equals definiens .
    definiens  = number
               | [ number more than | number times as much as ] operands
    operands   = each name
               | the sum of each name { , each name } and each name
               | the difference of each name and each name
    question   = How many inner does outer have ?
    definition = Define name as letter ; { step ; } so step .
    name       = outer 's inner

Compact, the same with fewer tokens:

    sentence   = name definiens .
    definiens  = number
               | [ number + | number * ] operands                          one operand
               | operands | number + ( operands ) | number * ( operands )  two or more
    operands   = name { + name } | name - name
    question   = name ?
    definition = name letter ; { step ; } step .
    name       = outer inner

`outer` is an item, `inner` an item (instance parameter) or a category (abstract one). Both dialects:

    step     = letter = number                                             a constant, or a sum of nothing
             | letter = letter = number                                    a copy
             | letter = operand operator operand = number operator number = number
    operand  = letter | number                                             a number only as constant, and then first
    operator = + | - | *

- Letters are taken one after another from those of the problem: first that of the sentence's parameter, then one for
  every step but the last, which gives the parameter. A solution has as many `;` as it has operations.
- Three operands or more are added up from the left in the order printed; a constant comes last of all.
- An abstract parameter adds up its item's children in the order of their numbers: a copy of the one below if it counts
  the category right below, else the product of the child's number and the child's abstract parameter, each product
  as late as it can be: p1; p2; s1 = p1 + p2; p3; s2 = s1 + p3.

The worked example of the specification (§2.8), in both dialects: `tests/worlds/igsm/test_rendering.py`.

Specification, §2; Physics of Language Models 2.1, §2.2–2.3 and App. D.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import Samples
from physlm.worlds.igsm import rendering_kernels as kernels
from physlm.worlds.igsm import solution_kernels
from physlm.worlds.igsm.config import Rendering
from physlm.worlds.igsm.drawing import drawing_of, empty_steps
from physlm.worlds.igsm.kernels import Drawing
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.rendering_kernels import ANSWER, DELIMITER, PROBLEM, QUESTION, SOLUTION
from physlm.worlds.igsm.solution_kernels import Steps
from physlm.worlds.igsm.structure_kernels import PARAMETERS
from physlm.worlds.igsm.vocabulary import Vocabulary

MARKS = ("role", "sentence", "parameter")
ROLES = {"delimiter": DELIMITER, "problem": PROBLEM, "question": QUESTION, "solution": SOLUTION, "answer": ANSWER}
"""Values of the mark `role`. Delimiters are <bos> and <sol>; <ans> is part of the answer."""

Ids = NDArray[np.int32]


class Renderer:
    """Writes problems in one dialect.

    Example:
        >>> renderer = Renderer(vocabulary, "compact")
        >>> vocabulary.decode(renderer.question(problem))
        'Gull Bay Crate?'

    Args:
        vocabulary: of the world.
        rendering: the dialect.

    Attributes:
        codes: its tokens, as the kernels know them.
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering = "english") -> None:
        self.vocabulary = vocabulary
        self.rendering = rendering
        self.codes = kernels.Codes(
            fixed=np.array([vocabulary.id(token) for token in kernels.FIXED_TOKENS]),
            first_number=vocabulary.first_number,
            first_letter=vocabulary.first_letter,
            first_category=vocabulary.first_category,
            first_item=vocabulary.first_item,
            per_category=sum(vocabulary.names.groups),
        )

    def problem(self, problem: Problem) -> Ids:
        """The sentences of the problem, without the question."""
        return self._part(problem, PROBLEM)

    def question(self, problem: Problem) -> Ids:
        """The question."""
        return self._part(problem, QUESTION)

    def prompt(self, problem: Problem) -> Ids:
        """What is given: from <bos> to <sol>, both included."""
        return self._part(problem, DELIMITER, PROBLEM, QUESTION)

    def solution(self, problem: Problem) -> Ids:
        """What is to be written: the definitions, <ans> and the number; neither <sol> nor <eos>."""
        return self._part(problem, SOLUTION, ANSWER)

    def document(self, problem: Problem) -> Ids:
        """Prompt and solution."""
        return self.documents([problem]).tokens.astype(np.int32, copy=False)

    def documents(self, problems: Sequence[Problem]) -> Samples:
        """Prompts and solutions of many problems, with their marks.

        Raises:
            ValueError: if a solution computes something before what it needs, takes more than 52 operations, or has
                another number of letters than of operations, or if the modulus is not that of the vocabulary.
        """
        for problem in problems:
            if problem.modulus != self.vocabulary.modulus:
                raise ValueError(
                    f"modulus must be that of the vocabulary, {self.vocabulary.modulus}, got {problem.modulus}"
                )
        drawing, steps = drawing_of(problems), empty_steps(len(problems))
        solution_kernels.solve(np.arange(len(problems)), drawing, self.vocabulary.modulus, steps)
        for problem, count in zip(problems, steps.total.tolist(), strict=True):
            if count < 0:
                raise ValueError(f"solution must compute nothing before what it needs, got {problem.solution}")
            if count != len(problem.letters):
                operations = f"{count}" if count else "more than 52"
                raise ValueError(
                    "letters must be one for every operation of the solution, "
                    f"got {len(problem.letters)} letters for {operations} operations"
                )
        question_first = np.array([problem.question_first for problem in problems], dtype=np.bool_)
        return self.write(drawing, steps, question_first)

    def write(self, drawing: Drawing, steps: Steps, question_first: NDArray[np.bool_]) -> Samples:
        """The documents of drawn problems, with their marks.

        Args:
            drawing: the problems, `[N]`.
            steps: of their solutions.
            question_first: of each problem, `[N]`.
        """
        count = len(drawing.operations)
        room = count * kernels.MOST_TOKENS
        page = kernels.Page(
            tokens=np.empty(room, dtype=np.int32),
            role=np.empty(room, dtype=np.int8),
            sentence=np.empty(room, dtype=np.int8),
            parameter=np.empty(room, dtype=np.int8),
            outer=np.empty(PARAMETERS, dtype=np.int64),
            inner=np.empty(PARAMETERS, dtype=np.int64),
        )
        offsets = np.empty(count + 1, dtype=np.int64)
        is_compact = self.rendering == "compact"
        kernels.write(np.arange(count), drawing, steps, self.codes, is_compact, question_first, page, offsets)
        used = slice(0, int(offsets[-1]))
        marks = {name: getattr(page, name)[used].copy() for name in MARKS}
        return Samples(page.tokens[used].copy(), offsets, marks)

    def _part(self, problem: Problem, *roles: int) -> Ids:
        tokens, marks = self.documents([problem]).document(0)
        return tokens[np.isin(marks["role"], roles)].astype(np.int32, copy=False)
