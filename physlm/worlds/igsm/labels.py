"""The truth about the state of a solution: what a probe is asked, and what the right answer is.

Six tasks, each about a parameter A (`dep` about two), after some of the parameters have been computed:

| task | label | asked at |
| --- | --- | --- |
| `nece` | whether the query needs A | the end of the prompt |
| `dep` | whether A depends on B, directly or not | the end of the problem; before the question where that comes last |
| `known` | whether A has been computed | the end of any sentence of the solution, or its beginning |
| `value` | value of A if it has been, else the modulus | likewise |
| `can_next` | whether A has not been computed and everything it is computed from has | likewise |
| `nece_next` | `can_next` and `nece` | likewise |

- The *probing set* of a problem has all pairs of items of adjacent layers, whether or not one is inside the other, then
  all abstract parameters. A pair without an edge is needed by nothing, has no value, and always counts as `can_next`.
  Only with such pairs do the paper's majority baselines come out; report every metric on parameters that exist besides.
- Labels are read off bit masks, for many problems at once (`Labels`), or for one (`labels`).

Shapes: N problems, A parameters of the largest probing set, P existing parameters, S sentences, Q questions.

Source: Physics of Language Models 2.1, §4.1, Fig. 7 and App. E.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key
from physlm.worlds.igsm.dependencies import NONE, Dependencies, Integers, Masks, bits, contains
from physlm.worlds.igsm.problem import Abstract, Instance, Item, Parameter, Problem
from physlm.worlds.igsm.vocabulary import Vocabulary

Task = Literal["nece", "dep", "known", "value", "can_next", "nece_next"]
TASKS: tuple[Task, ...] = get_args(Task)
STATE_TASKS: tuple[Task, ...] = ("known", "value", "can_next", "nece_next")
"""Those asked about the solution so far."""
MOST_QUESTIONS = 10
"""Different questions about one problem and task, as in the paper."""


def probing_set(widths: Sequence[int]) -> tuple[Parameter, ...]:
    """Everything that can be asked about in a problem with layers of these widths, in the order of its numbers."""
    return tuple(
        Abstract(Item(layer, number), other) if is_abstract else Instance(Item(layer, number), Item(layer + 1, other))
        for layer, number, other, is_abstract in _rows(tuple(widths)).tolist()
    )


@cache
def _rows(widths: tuple[int, ...]) -> Integers:
    """The probing set as layer and number of the item, number of the child or category, and whether abstract."""
    layers = len(widths)
    pairs = [
        (layer, parent, child, 0)
        for layer in range(layers - 1)
        for parent in range(widths[layer])
        for child in range(widths[layer + 1])
    ]
    abstract = [
        (layer, number, category, 1)
        for layer in range(layers - 1)
        for number in range(widths[layer])
        for category in range(layer + 1, layers)
    ]
    return np.array([*pairs, *abstract], dtype=np.int64)


@dataclass(frozen=True)
class Questions:
    """Questions of one task to probes, with the right answers, each of shape `[Q]`.

    Attributes:
        task: what is asked.
        problem: row of the problem among those the labels are of.
        parameter: number of A in the probing set of the problem.
        other: number of B for `dep`, else `NONE`.
        sentence: sentences of the solution that have been read, for tasks of the state, else `NONE`.
        label: 0 or 1, or the class of the value.
        exists: whether all parameters asked about exist.
    """

    task: Task
    problem: Integers
    parameter: Integers
    other: Integers
    sentence: Integers
    label: Integers
    exists: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.problem)


class Labels:
    """The labels of all tasks for N problems.

    Example:
        >>> truth = Labels(Dependencies.of([problem]))
        >>> truth.of("can_next", problem=[0], parameter=[3], sentence=[2])
        array([1])

    Args:
        graphs: what depends on what.
    """

    def __init__(self, graphs: Dependencies) -> None:
        self.graphs = graphs
        different, kind = np.unique(graphs.widths, axis=0, return_inverse=True)
        sets = [_rows(tuple(row[row > 0].tolist())) for row in different]
        rows = np.full((len(sets), max(map(len, sets)), 4), NONE)
        for row, members in zip(rows, sets, strict=True):
            row[: len(members)] = members
        members = rows[kind.ravel()]
        layer, number, other, is_abstract = np.moveaxis(members, 2, 0)
        problem = np.arange(len(graphs))[:, None]
        place = (problem, layer, number, other)
        found = np.where(is_abstract == 1, graphs.abstract[place], graphs.instance[place])
        self.members: Integers = members
        """Layer and number of the item, number of the child or category, and whether abstract, `[N, A, 4]`."""
        self.numbers: Integers = np.where(layer == NONE, NONE, found)
        """Number in `Problem.parameters` of everything in the probing set, or `NONE`, `[N, A]`."""
        self.sizes: Integers = (layer != NONE).sum(axis=1)
        """Size of the probing set, `[N]`."""

    @classmethod
    def of_problems(cls, problems: Sequence[Problem]) -> Labels:
        """The labels of these problems."""
        return cls(Dependencies.of(problems))

    @cached_property
    def places(self) -> Integers:
        """Number in the probing set of every existing parameter, or `NONE`; the inverse of `numbers`, `[N, P]`."""
        places = np.full((len(self.graphs), self.graphs.predecessors.shape[1]), NONE)
        problem, place = np.nonzero(self.numbers >= 0)
        places[problem, self.numbers[problem, place]] = place
        return places

    @property
    def sentences(self) -> Integers:
        """Number of sentences of every solution, `[N]`."""
        return self.graphs.sentences

    def of(
        self,
        task: Task,
        problem: Integers | Sequence[int],
        parameter: Integers | Sequence[int],
        *,
        other: Integers | Sequence[int] | None = None,
        sentence: Integers | Sequence[int] | None = None,
        defined: Masks | None = None,
    ) -> Integers:
        """Labels of single questions; all arguments broadcast to the shape of the result.

        Args:
            task: what is asked.
            problem: row of the problem.
            parameter: number of A in its probing set.
            other: number of B, for `dep`.
            sentence: how many sentences of the canonical solution have been read, for tasks of the state ...
            defined: ... or what any other solution has computed, as masks of existing parameters.

        Raises:
            ValueError: an unknown task, or a question without what its task asks about.
        """
        problem = np.asarray(problem)
        real = self.numbers[problem, np.asarray(parameter)]
        if task == "dep":
            if other is None:
                raise ValueError("dep is asked about two parameters, got other=None")
            reached = np.where(real >= 0, self.graphs.ancestors[problem, real], np.uint64(0))
            return contains(reached, self.numbers[problem, np.asarray(other)]).astype(np.int64)
        needed = contains(self.graphs.necessary[problem], real)
        if task == "nece":
            return needed.astype(np.int64)
        if task not in STATE_TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        if defined is None:
            if sentence is None:
                raise ValueError(f"{task} is asked of a state: give the sentences that have been read, got neither")
            defined = self.graphs.defined[problem, np.asarray(sentence)]
        known = contains(defined, real)
        if task == "known":
            return known.astype(np.int64)
        if task == "value":
            return np.where(known, self.graphs.value[problem, real], self.graphs.modulus)
        missing = np.where(real >= 0, self.graphs.predecessors[problem, real] & ~defined, np.uint64(0))
        ready = (missing == 0) & ~known
        return (ready & needed if task == "nece_next" else ready).astype(np.int64)

    def names(self, vocabulary: Vocabulary, problem: Integers, parameter: Integers) -> Integers:
        """The two tokens that call a parameter by its name, also one that does not exist, `[Q, 2]`.

        Args:
            vocabulary: of the world.
            problem: row of the problem, `[Q]`.
            parameter: number in its probing set, `[Q]`.
        """
        drawing = self.graphs.drawing
        chains = [range(len(chain)) for chain in vocabulary.names.categories]
        category_tokens = np.array([[vocabulary.category(a, b) for b in chain] for a, chain in enumerate(chains)])
        first_items = np.array([[vocabulary.item(a, b, 0) for b in chain] for a, chain in enumerate(chains)])
        chain, first = drawing.categorization[problem], drawing.first_category[problem]

        def item(layer: Integers, number: Integers) -> Integers:
            return first_items[chain, first + layer] + drawing.names[problem, layer, number]

        layer, number, other, is_abstract = self.members[problem, parameter].T
        # A child's number may be beyond the categories, where it means none.
        category = category_tokens[chain, np.minimum(first + other, category_tokens.shape[1] - 1)]
        return np.stack([item(layer, number), np.where(is_abstract == 1, category, item(layer + 1, other))], axis=1)

    def draw(
        self,
        task: Task,
        key: Key,
        indices: Integers | None = None,
        *,
        count: int = MOST_QUESTIONS,
        existing_only: bool = False,
        finished: bool = True,
    ) -> Questions:
        """Random questions, all different within a problem and equally likely.

        Args:
            task: what is asked.
            key: of the draw.
            indices: numbers that the draws belong to, such as those of the problems in their split, `[N]`; by default
                the rows.
            count: of every problem, or all there are if fewer.
            existing_only: ask only about parameters that exist.
            finished: ask also after the last sentence, where the answer follows.
        """
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        if count < 1:
            raise ValueError(f"count must be ≥ 1, got {count}")
        size = self.graphs.count if existing_only else self.sizes
        second = size - 1 if task == "dep" else self.sentences + finished if task in STATE_TASKS else np.ones_like(size)
        rows = np.arange(len(size))
        chosen = _different(key.child(task), rows if indices is None else indices, size * second, count)
        problem, column = np.nonzero(chosen != NONE)
        first, rest = np.divmod(chosen[problem, column], second[problem])
        pair = rest + (rest >= first)  # without A itself
        if existing_only:
            first = self.places[problem, first]
            pair = self.places[problem, pair] if task == "dep" else pair
        other = pair if task == "dep" else np.full_like(first, NONE)
        sentence = rest if task in STATE_TASKS else np.full_like(first, NONE)
        exists = self.numbers[problem, first] >= 0
        if task == "dep":
            exists &= self.numbers[problem, other] >= 0
        label = self.of(task, problem, first, other=other, sentence=sentence)
        return Questions(task, problem, first, other, sentence, label, exists)

    def base_rates(self, *, existing_only: bool = False) -> dict[Task, float]:
        """How often every label is true (a value: known), expected over questions drawn as by `draw`.

        Problems count alike, as they do when equally many questions are asked of each.
        """
        graphs = self.graphs
        size = graphs.count if existing_only else self.sizes
        absent = size - graphs.count
        states = self.sentences + 1
        is_state = np.arange(graphs.defined.shape[1]) < states[:, None]

        def number(masks: Masks) -> Integers:
            return np.bitwise_count(masks).astype(np.int64)

        ready = [graphs.ready(graphs.defined[:, k]) for k in range(graphs.defined.shape[1])]
        needed = contains(graphs.necessary[:, None], np.arange(graphs.predecessors.shape[1]))
        can_next = np.stack([row.sum(axis=1) for row in ready], axis=1) + absent[:, None]
        nece_next = np.stack([(row & needed).sum(axis=1) for row in ready], axis=1)
        known = number(graphs.defined)
        is_parameter = np.arange(graphs.ancestors.shape[1]) < graphs.count[:, None]
        rates = {
            "nece": number(graphs.necessary) / size,
            "dep": (number(graphs.ancestors) * is_parameter).sum(axis=1) / (size * (size - 1)),
        }
        for task, found in (("known", known), ("value", known), ("can_next", can_next), ("nece_next", nece_next)):
            rates[task] = (found * is_state).sum(axis=1) / (states * size)
        return {task: float(rates[task].mean()) for task in TASKS}


def _different(key: Key, indices: Integers, totals: Integers, count: int) -> Integers:
    """`count` different numbers in `[0, total)` for every index, filled with `NONE` if there are fewer, `[N, count]`.

    Floyd's algorithm: every subset is equally likely.
    """
    last = totals[:, None] - count + np.arange(count)
    drawn = key.integers(np.asarray(indices), count, np.maximum(last, 0) + 1)
    chosen = np.full(last.shape, NONE)
    for column in range(count):
        is_taken = (chosen[:, :column] == drawn[:, column, None]).any(axis=1)
        found = np.where(is_taken, last[:, column], drawn[:, column])
        chosen[:, column] = np.where(last[:, column] >= 0, found, NONE)
    return chosen


def labels(
    problem: Problem, sentences: int | Collection[int] = 0, *, existing_only: bool = False
) -> Mapping[Task, Integers]:
    """All labels of one problem, over its probing set.

    Example:
        >>> [name for name, label in zip(probing_set(problem.widths), labels(problem, 2)["known"]) if label]

    Args:
        problem: the problem.
        sentences: how many sentences of the canonical solution have been read, or the parameters that another
            solution has computed, as numbers into `problem.parameters`.
        existing_only: `problem.parameters` in their order, instead of the probing set.

    Returns:
        One label for every parameter, `[A]`; for `dep` one for every pair A, B, `[A, A]`.
    """
    truth = Labels.of_problems([problem])
    if isinstance(sentences, int):
        if not 0 <= sentences <= len(problem.solution):
            raise ValueError(f"sentences must be in 0..{len(problem.solution)}, got {sentences}")
        defined = truth.graphs.defined[0, sentences]
    else:
        defined = np.bitwise_or.reduce(bits(np.array(list(sentences), dtype=np.int64)), initial=np.uint64(0))
    parameter = truth.places[0] if existing_only else np.arange(truth.sizes[0])
    row = np.zeros_like(parameter)
    found = {task: truth.of(task, row, parameter, defined=defined) for task in TASKS if task != "dep"}
    found["dep"] = truth.of("dep", row[:, None], parameter[:, None], other=parameter)
    return {task: found[task] for task in TASKS}
