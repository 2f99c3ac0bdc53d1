"""What experiments on grade-school math problems share: presets, training on solutions, judging what is written.

- Training reads problems with their solutions, several in a window, each seeing nothing of the others, always fresh
  ones. At `cpu` scale the loss is on solutions only: what a problem says cannot be foreseen.
- A model then solves new problems: it is given all up to <sol>, writes the most likely tokens, and the world's judge
  says whether every step is right. Not ending in time is a failure.
- Test problems have solution templates that no training problem has. Where there are few operations there are few
  templates, so a small world is asked for a fixed number of operations, from two on: both templates of a single
  operation are among those trained on.
- *Without a plan*: a writer to whom names, formulas and arithmetic are no difficulty, and who chooses the next
  parameter blindly among those not yet written, ready or not. What it achieves is luck in the order.

Shapes: N problems, P parameters.

Source: Physics of Language Models 2.1, §2 and §3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.data.streams import OUTSIDE, PackedStream, Source
from physlm.lab.results import pack_items
from physlm.models.canon import Canon
from physlm.models.generation import generate
from physlm.models.positions import Rotary
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.training.recipe import Recipe
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.dependencies import Dependencies
from physlm.worlds.igsm.judge import Verdicts
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.rendering import ROLES
from physlm.worlds.igsm.world import IGSMWorld

SOLUTION_ROLES = (ROLES["solution"], ROLES["answer"], OUTSIDE)
"""Tokens of the solution, and the end of the document, which a model has to write as well."""

_ROOM = 2  # a solution may be this many times as long as the longest of the set
_ANOTHER_SEED = 1_000_003  # test problems with trained templates come from the training split of another world


@dataclass(frozen=True, kw_only=True)
class Reasoner:
    """A model that is trained on solutions.

    Attributes:
        layers, heads, width, context, initial_std: of the model.
        canon: its Canon layers, if any.
    """

    layers: int
    heads: int
    width: int
    context: int
    initial_std: float = 0.02
    canon: Canon | None = None

    def config(self, vocab_size: int) -> TransformerConfig:
        """The model for a vocabulary."""
        return TransformerConfig(
            vocab_size=vocab_size,
            context=self.context,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            initial_std=self.initial_std,
            canon=self.canon,
            # Of GPT-NeoX, the paper's rotary model, and the faster one on a CPU.
            activation="gelu_exact",
            position=Rotary(fraction=1.0),
        )

    @property
    def name(self) -> str:
        """Layers-heads-head width, as the papers name their models."""
        return f"{self.layers}-{self.heads}-{self.width // self.heads}"


@dataclass(frozen=True, kw_only=True)
class Practice:
    """How a model is trained on problems, and on how many it is tested.

    Attributes:
        world: the world of seed 0; every seed has its own.
        batch_size: windows per step.
        recipe: optimiser, steps and schedule.
        whole_loss: whether problems bear loss as well, as in the paper.
        problems: test problems in each set.
        curve_problems: test problems at every point of the learning curve.
        log_points: points of the learning curve.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    world: IGSMConfig
    batch_size: int
    recipe: Recipe
    whole_loss: bool = False
    problems: int
    curve_problems: int
    log_points: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        if self.world.max_operations < 2:
            raise ValueError(f"world.max_operations must be ≥ 2, got {self.world.max_operations}")
        if not 1 <= self.curve_problems <= self.problems:
            raise ValueError(f"curve_problems must be in 1..problems = {self.problems}, got {self.curve_problems}")

    def world_of(self, seed: int) -> IGSMWorld:
        """The world of a seed."""
        return make_world(replace(self.world, seed=seed))

    @property
    def trained_operations(self) -> tuple[int, ...]:
        """Numbers of operations trained on of which there are templates to test with."""
        return tuple(range(2, self.world.max_operations + 1))


@lru_cache(maxsize=16)
def make_world(config: IGSMConfig) -> IGSMWorld:
    """The world of a config."""
    return IGSMWorld(config)


@dataclass(frozen=True)
class Exam:
    """Problems to solve.

    Attributes:
        world: where they are from.
        split, indices: which of its problems.
    """

    world: IGSMWorld
    split: str
    indices: IntArray

    @cached_property
    def problems(self) -> list[Problem]:
        """The problems."""
        return self.world.problems(self.split, self.indices)

    @cached_property
    def documents(self) -> list[IntArray]:
        """Problems with the solutions of the world."""
        samples = self.world.render(self.split, self.indices)
        return [samples.document(i)[0].astype(np.int64) for i in range(len(self.indices))]

    @property
    def prompts(self) -> list[IntArray]:
        """Problems up to <sol>."""
        return [document[: self._solution_start(document)] for document in self.documents]

    @property
    def solutions(self) -> list[IntArray]:
        """What the world itself writes after <sol>."""
        return [document[self._solution_start(document) :] for document in self.documents]

    @property
    def room(self) -> int:
        """How many tokens a solution may have."""
        return _ROOM * max(map(len, self.solutions))

    def _solution_start(self, document: IntArray) -> int:
        return int(np.flatnonzero(document == self.world.vocabulary.sol)[0]) + 1


def exam(world: IGSMWorld, operations: int, count: int, *, reask: bool = False) -> Exam:
    """New problems with templates that were not trained on."""
    longer = make_world(replace(world.config, exact_operations=operations, reask=reask))
    return Exam(longer, "test", np.arange(count))


def familiar_exam(world: IGSMWorld, count: int) -> Exam:
    """New problems as in training, with templates that were trained on."""
    config = replace(world.config, seed=world.config.seed + _ANOTHER_SEED)
    return Exam(make_world(config), "train", np.arange(count))


@dataclass(frozen=True)
class Solved:
    """How a model did.

    Attributes:
        correct: whether every step is right, `[N]`.
        answered: whether the last token is the right number, whatever comes before, `[N]`.
        unnecessary_operations, unnecessary_parameters: of each right solution, `[correct]`. One that leaves out a
            factor 1 or a summand 0 is shorter than the shortest of the world, and has none.
        reasons: how many were wrong for every reason; "unfinished" is one.
        verdicts: what the judge says of each, finished or not, `[N]`.
    """

    correct: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    unnecessary_operations: NDArray[np.int64]
    unnecessary_parameters: NDArray[np.int64]
    reasons: Mapping[str, int]
    verdicts: Verdicts

    def metrics(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "mean": float(self.correct.mean()),
            "items": pack_items(self.correct),
            "answer": float(self.answered.mean()),
            "unnecessary_operations": _mean(self.unnecessary_operations),
            "unnecessary_parameters": _mean(self.unnecessary_parameters),
            "reasons": dict(self.reasons),
        }


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def solve(model: Transformer, asked: Exam) -> Solved:
    """Let a model write the most likely solution of every problem, and judge it."""
    written = generate(model, asked.prompts, max_new_tokens=asked.room, stop=asked.world.eos, details=True)
    return grade(asked, [one.tokens for one in written], np.array([one.finished for one in written]))


def grade(asked: Exam, solutions: Sequence[IntArray], ended: NDArray[np.bool_]) -> Solved:
    """Judge what was written after the prompts.

    Args:
        asked: the problems.
        solutions: what follows each prompt, without the end of the document.
        ended: whether that end was written, `[N]`.
    """
    verdicts = asked.world.judge.check_many(asked.problems, solutions)
    last = np.array([tokens[-1] if len(tokens) else asked.world.pad for tokens in solutions])
    correct = verdicts.correct & ended
    right = [verdicts[int(i)] for i in np.flatnonzero(correct)]
    reasons = {reason: count for reason, count in verdicts.counts.items() if count}
    if unfinished := int((verdicts.correct & ~ended).sum()):
        reasons = {**reasons, "unfinished": unfinished}
    return Solved(
        correct=correct,
        answered=ended & (last == [document[-1] for document in asked.documents]),
        unnecessary_operations=np.array([max(0, one.unnecessary_operations or 0) for one in right], dtype=np.int64),
        unnecessary_parameters=np.array([one.unnecessary_parameters for one in right], dtype=np.int64),
        reasons=reasons,
        verdicts=verdicts,
    )


def without_a_plan(problems: list[Problem], key: Key) -> NDArray[np.bool_]:
    """Which problems are solved if the next parameter is always any of those not yet written, `[N]`.

    All parameters are put in a random order and written up to the query; that is right if every one of them comes after
    what it is computed from.
    """
    graphs = Dependencies.of(problems)
    generator = key.generator()
    ready = []
    for row, problem in enumerate(problems):
        order = generator.permutation(int(graphs.count[row]))
        written, right = 0, True
        for parameter in order.tolist():
            needed = int(graphs.predecessors[row, parameter])
            right &= needed & ~written == 0
            written |= 1 << parameter
            if parameter == problem.query:
                break
        ready.append(right)
    return np.array(ready)


def learning_curve(practice: Practice, seed: int) -> Callable[[Transformer], dict[str, Any]]:
    """What is asked of a model at every point: test problems of the most operations, and problems as in training."""
    world = practice.world_of(seed)
    hardest = exam(world, practice.world.max_operations, practice.curve_problems)
    familiar = familiar_exam(world, practice.curve_problems)

    def measure(model: Transformer) -> dict[str, Any]:
        solved = solve(model, hardest)
        return {
            "hardest": float(solved.correct.mean()),
            "familiar": float(solve(model, familiar).correct.mean()),
            "reasons": dict(solved.reasons),
        }

    return measure


def training_stream(practice: Practice, source: Source, context: int, seed: int) -> PackedStream:
    """Whole documents in windows, each seeing nothing of the others."""
    return PackedStream(
        [source],
        context=context,
        batch_size=practice.batch_size,
        key=Key.of("packing", seed),
        overflow="whole",
        document_mask=True,
    )
