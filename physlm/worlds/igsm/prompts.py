"""Problems as prompts for language models that were not trained here, and answers read from what they write.

- Such a model does not know that a "Crate" total is meant by "Gull Bay's Crate", nor which modulus is in force. So the
  prompt states the rules, the modulus and, for every problem, what is inside what.
- Solved problems of the same number of operations come first (few-shot); the model is to end with "Answer: <number>".
- A prompt is one text, so that any endpoint, or a person with a file, can be asked.

The published numbers are of prompts in this manner with modulus 5, one categorization of four items a category, five
examples and 30 problems per number of operations.

Source: Physics of Language Models 2.1, Fig. 2 and App. G.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from physlm.worlds.igsm.graphs import category_name, item_name
from physlm.worlds.igsm.names import Names
from physlm.worlds.igsm.problem import Item, Problem

_ANSWER = re.compile(r"answer\s*(?:is)?[^\w-]*(?:boxed\W*)?(-?\d+)(?!\.?\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?!\w|\.\d)")

RULES = """\
Solve a problem about how many things are inside other things. All arithmetic is modulo {modulus}: every number is one
of 0 to {largest}, and every result, negative ones too, is replaced by its remainder after division by {modulus}.

How to read a problem:
- Things are of different kinds, and things of one kind can be inside things of the kind before it. What is inside what
  is said before the problem. All things of the same name are alike.
- "each X's Y", where Y is a thing, is the number of Y directly inside one X.
- "each X's K", where K is a kind, is the number of all things of that kind inside one X. If they are directly inside X,
  add up the numbers of all of them. If they are further inside, take for every thing T that is directly inside X the
  number of T times T's K, and add these up. It is 0 where there are none.
- "N more than Q" is N + Q, "N times as much as Q" is N * Q, "the difference of P and Q" is P - Q.
- The sentences are in no particular order, and some are not needed.

Work step by step and end with a line "Answer: N", where N is one number from 0 to {largest}."""


def structure_text(problem: Problem, names: Names) -> str:
    """What is inside what, in words.

    Example:
        >>> print(structure_text(problem, names))
        Kinds: Harbor (North Pier, Gull Bay), Ship (Tug, Ferry), Crate (Pine Box).
        Directly inside North Pier: Tug. Directly inside Gull Bay: Tug, Ferry. …
    """
    kinds = []
    for layer, width in enumerate(problem.widths):
        members = ", ".join(item_name(problem, Item(layer, number), names) for number in range(width))
        kinds.append(f"{category_name(problem, layer, names)} ({members})")
    lines = [f"Kinds: {', '.join(kinds)}."]
    inside = []
    for layer, width in enumerate(problem.widths[:-1]):
        for parent in (Item(layer, number) for number in range(width)):
            children = [item_name(problem, edge.child, names) for edge in problem.edges if edge.parent == parent]
            inside.append(f"Directly inside {item_name(problem, parent, names)}: {', '.join(children) or 'nothing'}.")
    return "\n".join([*lines, " ".join(inside)])


class Example(NamedTuple):
    """A problem in words."""

    structure: str
    problem: str
    """Sentences and question."""
    solution: str
    answer: int


def few_shot_prompt(asked: Example, examples: Sequence[Example], modulus: int) -> str:
    """A prompt for one problem.

    Args:
        asked: what is to be solved; its solution is not shown.
        examples: what is shown solved before it.
        modulus: of the arithmetic.
    """
    parts = [RULES.format(modulus=modulus, largest=modulus - 1)]
    for number, shown in enumerate(examples, 1):
        lines = (shown.structure, f"Problem: {shown.problem}", f"Solution: {shown.solution}", f"Answer: {shown.answer}")
        parts.append("\n".join((f"Example {number}", *lines)))
    heading = "Now solve this one" if examples else "The problem"
    parts.append("\n".join((heading, asked.structure, f"Problem: {asked.problem}", "Solution:")))
    return "\n\n".join(parts)


def read_answer(text: str) -> int | None:
    """The number a reply ends with: what follows the last "Answer", else its last number; `None` if there is none.

    Example:
        >>> read_answer("so y = 2. Answer: **2**")
        2
    """
    stated = _ANSWER.findall(text)
    numbers = stated or _NUMBER.findall(text)
    return int(numbers[-1]) if numbers else None


def solution_as_judged(text: str) -> str:
    """A reply as the judge reads solutions: without what stands around it, the answer after <ans>.

    Example:
        >>> solution_as_judged("Solution: Define Tug's Crate as q; so q = 4. Answer: 4")
        "Define Tug's Crate as q; so q = 4. <ans> 4"
    """
    body = text.strip().removeprefix("Solution:")
    stated = list(_ANSWER.finditer(body))
    if not stated:
        return body
    return f"{body[: stated[-1].start()].strip().rstrip('*#_').strip()} <ans> {stated[-1][1]}"
