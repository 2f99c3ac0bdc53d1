"""V-probes: what a model knows of the parameters of a problem, read off its states with a parameter as the question.

- A probe is a linear map of the state at the <end> of a question, and a rank-r update of the input embedding, which
  lets <start>, <mid>, <end> and a name in their place mean something. All else is frozen, the unembedding too.
- Probes are fitted to problems with solution templates that the model was trained on, and asked about problems with
  others: the two sides share no template.
- *Question alone* takes the place of the embedding among the controls: as it enters the first block, the state at <end>
  is the same for every question, so that a probe of it says the commonest label. Instead the same probe reads
  questions without the problem.
- Accuracies are told by label, since some labels are rare: *cells*. For the same reason all labels count alike where
  probes are fitted, but for the online code, which has to know what is rare. The control task has labels of its own.

Source: Physics of Language Models 2.1, §4.1, App. B and F.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments._reasoning_questions import GROUPS, HARDEST, Asked, joined
from physlm.models.transformer import Transformer
from physlm.probing.controls import evaluate
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import BoolArray, Inputs
from physlm.probing.probes import Probing
from physlm.probing.results import EMBEDDING, ProbeResult
from physlm.randomness import Key
from physlm.worlds.igsm.dependencies import NONE
from physlm.worlds.igsm.labels import Task
from physlm.worlds.igsm.vocabulary import Vocabulary

FINAL = "final"
"""The last layer, behind the final norm."""
ALONE = "question alone"

SHUFFLES = 3
"""Orders of the labels: the worst of six tasks is claimed, and a single order is a lottery."""

Cells = dict[str, dict[str, Any]]
"""By label: how many questions, and accuracies of the probe and of its controls."""


class VProbes:
    """Probes of one task, with everything that they are compared with.

    Args:
        task: what is asked.
        fitted: questions that probes are fitted to.
        asked: the questions that count.
        vocabulary: of the world.
        rank: of the update of the embedding.
        training: of the probes; a batch is of texts.
        key: governs everything that is drawn.
    """

    def __init__(
        self,
        task: Task,
        fitted: Asked,
        asked: Sequence[Asked],
        vocabulary: Vocabulary,
        *,
        rank: int,
        training: ProbeTraining,
        key: Key,
    ) -> None:
        self.task, self.rank, self.training, self.key = task, rank, training, key
        self.questions = joined([fitted, *asked])
        self.is_fitted = np.arange(len(self.questions)) < len(fitted)
        self.inputs = self.questions.inputs(vocabulary)
        self.alone = self.questions.inputs(vocabulary, alone=True)
        self.entities = np.unique(self.questions.template, return_inverse=True)[1]
        self.types = np.unique(self.questions.names, axis=0, return_inverse=True)[1].ravel()

    def _probing(self, model: Transformer, layer: str, inputs: Inputs) -> Probing[Inputs]:
        def make(*, balanced: bool) -> EmbeddingProbes:
            key = self.key.child("probe")
            return EmbeddingProbes(
                model, rank=self.rank, layer=layer, norm="layer", training=self.training, balanced=balanced, key=key
            )

        return Probing(partial(make, balanced=True), inputs, make_for_code=partial(make, balanced=False))

    def read(
        self, model: Transformer, untrained: Transformer, layer: str = FINAL, *, portions: Sequence[float] | None = None
    ) -> ProbeResult:
        """The answers read off a layer; without `portions`, of the online code, with the dearest controls left out.

        Raises:
            ValueError: if the two sides share a solution template.
        """
        whole = portions is not None
        return evaluate(
            self._probing(model, layer, self.inputs),
            {self.task: self.questions.label},
            entities=self.entities,
            types=self.types if whole else None,
            untrained=self._probing(untrained, layer, self.inputs),
            embedding=self._probing(model, layer, self.alone) if whole else None,
            fitted=self.is_fitted,
            portions=portions,
            shuffles=SHUFFLES if whole else 0,
            key=self.key,
        )[self.task]

    def cells(self, result: ProbeResult, chosen: BoolArray) -> Cells:
        """Accuracies of some of the held-out questions, `[held out]`, by label."""
        label = self.questions.label[result.rows]
        found: Cells = {}
        for value in np.unique(label[chosen]).tolist():
            part = result.subset(chosen & (label == value))
            controls = {ALONE if name == EMBEDDING else name: part.control(name) for name in part.controls}
            found[str(value)] = {
                "questions": len(part.rows),
                "accuracy": float(part.accuracy[0]),
                **{name: float(values[0]) for name, values in controls.items()},
            }
        return found

    def told(self, result: ProbeResult) -> dict[str, Any]:
        """Cells by group of questions: about parameters that exist, whole, not needed, and at each distance."""
        there = self.questions.exists[result.rows]
        group, distance = self.questions.group[result.rows], self.questions.distance[result.rows]
        return {
            GROUPS[number]: {
                "all": self.cells(result, there & (group == number)),
                "whole_probing_set": self.cells(result, group == number),
                "unneeded": self.cells(result, there & (group == number) & (distance == NONE)),
                "distance": {
                    str(far): self.cells(result, there & (group == number) & (distance == far))
                    for far in np.unique(distance[group == number])
                    if far != NONE
                },
            }
            for number in np.unique(group).tolist()
        }

    def summary(self, result: ProbeResult) -> dict[str, Any]:
        """Everything of the problems of the most operations, refused where a control is missing."""
        hardest = self.questions.group[result.rows] == GROUPS.index(HARDEST)
        found = result.subset(hardest).to_dict()
        (row,) = found.pop("layers").values()
        row[ALONE] = row.pop(EMBEDDING)
        return {**found, **row}


def balanced(cells: Mapping[str, Mapping[str, float]], of: str = "accuracy") -> float:
    """Accuracy averaged over labels, of the probe or of a control; NaN if a label was never asked.

    Example:
        >>> balanced({"0": {"accuracy": 1.0}, "1": {"accuracy": 0.5}})
        0.75
    """
    return float(np.mean([cell[of] for cell in cells.values()])) if len(cells) > 1 else float("nan")


def pooled(cells: Mapping[str, Mapping[str, float]], of: str = "accuracy") -> float:
    """Accuracy over all questions; NaN without any."""
    count = [cell["questions"] for cell in cells.values()]
    return float(np.average([cell[of] for cell in cells.values()], weights=count)) if count else float("nan")
