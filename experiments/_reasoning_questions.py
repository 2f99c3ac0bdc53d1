"""Questions to probes about grade-school math problems: what is read, what is asked behind it, and the right answers.

- A question is `<start> name <end>`, about two parameters `<start> name <mid> name <end>`, and stands behind the
  beginning of a text: the problem without its question (`dep`), with it (`nece`), or a number of whole sentences of a
  solution besides (all other tasks). It is answered at its <end>.
- Several questions of one task may stand behind one beginning, one after another, which a model reads once. The paper
  asks one; this is ours.
- A beginning is cut behind a sentence. Sentences end with a full stop, in problems and in solutions, also in those that
  a model has written.

Shapes: N problems, T texts, Q questions.

Source: Physics of Language Models 2.1, §4.1, §5 and App. E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._igsm import Exam
from physlm.data.contract import IntArray, Samples
from physlm.probing.inputs import BoolArray, Inputs
from physlm.randomness import Key
from physlm.worlds.igsm.dependencies import NONE, Integers, bits, contains
from physlm.worlds.igsm.judge import Verdict, Verdicts
from physlm.worlds.igsm.labels import STATE_TASKS, Labels, Task
from physlm.worlds.igsm.vocabulary import Vocabulary

FITTED, HARDEST, BEYOND, REASK = "fitted", "hardest", "beyond", "reask"
NEEDLESS, NOT_NEEDED, WRONG, NOT_READY = "needless", "not_needed", "wrong", "not_ready"
GROUPS = (FITTED, HARDEST, BEYOND, REASK, NEEDLESS, NOT_NEEDED, WRONG, NOT_READY)
"""What questions are about: problems that probes are fitted to; of the most operations that were trained on, of more
than these, and asked for another parameter; parameters that the model computed needlessly, and others of the same
problems that are not needed; steps of it that were not ready, and other parameters that were not ready in the same
states."""
_MOST_PARAMETERS = 1 << 10  # of a problem, existing or not: more than there can be


@dataclass(frozen=True, eq=False)
class Asked:
    """Q questions of one task behind T beginnings of texts.

    Attributes:
        beginnings: token ids of each, T arrays.
        text: behind which of them each question stands, not falling, `[Q]`.
        names: tokens of the names that it asks with, `[Q, 2]`, of two parameters `[Q, 4]`.
        label: the right answer, `[Q]`.
        template: hash of the solution template of the problem, `[Q]`.
        group: number in `GROUPS`, `[Q]`.
        distance: of A to the query, or `NONE` where the query does not need it, `[Q]`.
        exists: whether the parameters exist, `[Q]`.
    """

    beginnings: list[IntArray]
    text: IntArray
    names: IntArray
    label: IntArray
    template: NDArray[np.uint64]
    group: IntArray
    distance: IntArray
    exists: BoolArray

    def __len__(self) -> int:
        return len(self.text)

    def inputs(self, vocabulary: Vocabulary, *, alone: bool = False) -> Inputs:
        """The <end> of every question, `[Q]`.

        Args:
            vocabulary: of the world.
            alone: questions stand behind <bos> alone instead of their texts.
        """
        first, *second = np.split(self.names, self.names.shape[1] // 2, axis=1)
        column = np.ones((len(self), 1), dtype=np.int64)
        parts = [column * vocabulary.start, first]
        for names in second:
            parts += [column * vocabulary.mid, names]
        questions = np.concatenate([*parts, column * vocabulary.end], axis=1)
        count = np.bincount(self.text, minlength=len(self.beginnings))
        first_question = np.cumsum(count) - count
        opening = np.array([vocabulary.bos])
        begun = [opening] * len(self.beginnings) if alone else self.beginnings
        documents = [
            np.concatenate([beginning, questions[start : start + some].ravel()])
            for beginning, start, some in zip(begun, first_question, count, strict=True)
        ]
        offsets = np.cumsum([0, *map(len, documents)])
        before = np.array([len(beginning) for beginning in begun])[self.text]
        turn = np.arange(len(self)) - first_question[self.text]
        positions = before + (turn + 1) * questions.shape[1] - 1
        return Inputs(Samples(np.concatenate(documents), offsets, {}), self.text, positions)


def joined(parts: Sequence[Asked]) -> Asked:
    """All questions, those of the first part first."""
    first_text = np.cumsum([0, *(len(part.beginnings) for part in parts)])

    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return Asked(
        beginnings=[beginning for part in parts for beginning in part.beginnings],
        text=np.concatenate([part.text + first for part, first in zip(parts, first_text, strict=False)]),
        **{name: column(name) for name in ("names", "label", "template", "group", "distance", "exists")},
    )


def beginning(vocabulary: Vocabulary, task: Task, document: IntArray, sentences: int = 0) -> IntArray:
    """What of a document is read before a question.

    Args:
        vocabulary: of the world.
        task: what is asked.
        document: problem, question and solution.
        sentences: of the solution, for tasks about its state.
    """
    start = int(np.flatnonzero(document == vocabulary.sol)[0])
    stops = np.flatnonzero(document == vocabulary.id("."))
    if task == "dep":
        return document[: stops[stops < start][-1] + 1]
    if task == "nece":
        return document[:start]
    return document[: (start, *stops[stops > start].tolist())[sentences] + 1]


def ask(exam: Exam, task: Task, group: str, key: Key, *, questions: int, existing_only: bool) -> Asked:
    """Random questions about problems and their canonical solutions.

    Args:
        exam: N problems.
        task: what is asked.
        group: one of `GROUPS`.
        key: of the draw; questions about a problem depend on its number in the split and on nothing else.
        questions: of every problem, all behind one beginning and about different parameters, or all there are.
        existing_only: ask only about parameters that exist, else about the whole probing set.
    """
    if questions < 1:
        raise ValueError(f"questions must be ≥ 1, got {questions}")
    truth, key = Labels.of_problems(exam.problems), key.child(task)
    asked = truth.numbers >= 0 if existing_only else np.arange(truth.numbers.shape[1]) < truth.sizes[:, None]
    problem, parameter = _some(key.child("parameters"), exam.indices, asked, questions)
    other: Integers | None = None
    if task == "dep":
        # Any parameter but A itself, drawn for every A.
        rest = asked[problem] & (np.arange(asked.shape[1]) != parameter[:, None])
        turn = exam.indices[problem] * _MOST_PARAMETERS + parameter
        row, other = _some(key.child("others"), turn, rest, 1)
        problem, parameter = problem[row], parameter[row]
    sentence = np.zeros(len(exam.indices), dtype=np.int64)
    if task in STATE_TASKS:
        sentence = key.child("sentences").integers(exam.indices, 1, truth.sentences[:, None] + 1)[:, 0]
    label = truth.of(task, problem, parameter, other=other, sentence=sentence[problem])
    begun = [
        beginning(exam.world.vocabulary, task, document, int(read))
        for document, read in zip(exam.documents, sentence, strict=True)
    ]
    return _asked(exam, truth, begun, problem, parameter, label, np.full(len(problem), group), other=other)


def ask_about_needless(exam: Exam, verdicts: Verdicts, key: Key, *, questions: int) -> Asked | None:
    """Does the query need what a model has computed needlessly before its first mistake, if anything?

    Others that the query does not need, and that the model did not turn to, are asked about behind the same words.

    Args:
        exam: N problems.
        verdicts: of the judge, on what the model wrote.
        key: of the others and of the order.
        questions: behind each beginning.

    Returns:
        The questions, or `None` if nothing was computed needlessly.
    """
    truth = Labels.of_problems(exam.problems)
    begun: list[IntArray] = []
    found: list[tuple[int, int, int, str]] = []
    for row, verdict in enumerate(verdicts):
        numbers = np.arange(int(truth.graphs.count[row]))
        unneeded = numbers[~contains(truth.graphs.necessary[row], numbers)]
        needless = np.intersect1d(unneeded, verdict.defined)
        if not len(needless):
            continue
        others = np.setdiff1d(unneeded, [*verdict.defined, NONE if verdict.parameter is None else verdict.parameter])
        generator = key.child(int(exam.indices[row])).generator()
        for together in _beside(needless, others, questions, generator):
            found += [(len(begun), row, one, NEEDLESS if one in needless else NOT_NEEDED) for one in together]
            begun.append(beginning(exam.world.vocabulary, "nece", exam.documents[row]))
    if not found:
        return None
    text, problem, number, group = map(np.array, zip(*found, strict=True))
    parameter = truth.places[problem, number]
    label = truth.of("nece", problem, parameter)
    return _asked(exam, truth, begun, problem, parameter, label, group, text=text)


def ask_about_wrong_steps(
    exam: Exam, solutions: Sequence[IntArray], verdicts: Verdicts, task: Task, key: Key, *, questions: int
) -> Asked | None:
    """Is ready what a model took for ready and was not, in the state in which it did?

    Other parameters that are neither computed nor ready are asked about behind the same words.

    Args:
        exam: N problems.
        solutions: what the model wrote after each <sol>.
        verdicts: of the judge.
        task: about the state.
        key: of the others and of the order.
        questions: behind each beginning.

    Returns:
        The questions, or `None` if no solution fails that way.
    """
    truth = Labels.of_problems(exam.problems)
    graphs = truth.graphs
    begun: list[IntArray] = []
    found: list[tuple[int, int, int, str]] = []
    states: list[np.uint64] = []
    for row, verdict in enumerate(verdicts):
        if not _is_unready(verdict):
            continue
        assert verdict.parameter is not None
        defined = np.bitwise_or.reduce(bits(np.array(verdict.defined, dtype=np.int64)), initial=np.uint64(0))
        numbers = np.arange(int(graphs.count[row]))
        is_open = ~contains(defined, numbers) & (graphs.predecessors[row, numbers] & ~defined != 0)
        wrong, others = np.array([verdict.parameter]), numbers[is_open & (numbers != verdict.parameter)]
        generator = key.child(int(exam.indices[row])).generator()
        document = np.concatenate([exam.prompts[row], solutions[row]])
        for together in _beside(wrong, others, questions, generator):
            found += [(len(begun), row, one, WRONG if one in wrong else NOT_READY) for one in together]
            states += [defined] * len(together)
            begun.append(beginning(exam.world.vocabulary, task, document, len(verdict.defined)))
    if not found:
        return None
    text, problem, number, group = map(np.array, zip(*found, strict=True))
    parameter = truth.places[problem, number]
    label = truth.of(task, problem, parameter, defined=np.array(states))
    return _asked(exam, truth, begun, problem, parameter, label, group, text=text)


def _beside(mistaken: IntArray, others: IntArray, questions: int, generator: np.random.Generator) -> list[list[int]]:
    """What a model was mistaken about and some of the others, one at least, in a random order.

    Returns:
        Those asked about behind one beginning, `questions` at most, and behind the next.
    """
    others = generator.permutation(others)[: max(1, questions - len(mistaken))]
    order = generator.permutation(np.concatenate([mistaken, others])).tolist()
    return [order[start : start + questions] for start in range(0, len(order), questions)]


def _is_unready(verdict: Verdict) -> bool:
    """Whether a solution, none of whose sentences is taken back, first goes wrong by what is not ready."""
    return verdict.reason == "not_ready" and not verdict.retries


def _some(key: Key, indices: IntArray, among: BoolArray, count: int) -> tuple[Integers, Integers]:
    """Row and column of `count` true places of every row of `among`, drawn at random, or of all there are."""
    drawn = np.where(among, key.words(indices, among.shape[1]) >> np.uint64(1), np.uint64(2**63))
    order = np.argsort(drawn, axis=1, kind="stable")[:, :count]
    row, rank = np.nonzero(np.take_along_axis(among, order, axis=1))
    return row.astype(np.int64), order[row, rank].astype(np.int64)


def _asked(
    exam: Exam,
    truth: Labels,
    begun: list[IntArray],
    problem: Integers,
    parameter: Integers,
    label: IntArray,
    group: NDArray[np.str_],
    *,
    other: Integers | None = None,
    text: IntArray | None = None,
) -> Asked:
    """Questions with all that is known of them; without `text`, each stands behind the beginning of its problem."""
    real = truth.numbers[problem, parameter]
    names = [truth.names(exam.world.vocabulary, problem, one) for one in (parameter, other) if one is not None]
    exists = real >= 0
    if other is not None:
        exists &= truth.numbers[problem, other] >= 0
    return Asked(
        beginnings=begun,
        text=problem if text is None else text,
        names=np.concatenate(names, axis=1),
        label=label,
        template=exam.world.templates(exam.split, exam.indices)[problem],
        group=np.array([GROUPS.index(str(name)) for name in group]),
        distance=np.where(real >= 0, truth.graphs.distance[problem, real], NONE),
        exists=exists,
    )
