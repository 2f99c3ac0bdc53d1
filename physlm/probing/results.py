"""What a probe found, which cannot be told without what it is to be compared with.

- A `ProbeResult` holds whether each answer on held-out places was right, of the probe and of its controls, so that any
  group of places (a position, a distance) can be looked at with its controls.
- As text, JSON or a mapping it is refused while a control is missing: the error names it. Fields can always be read.
- Intervals are over entities (people, sentences), since answers about one are correlated.

Shape legend: N held-out places, L layers.
Source: Hewitt and Liang 2019 (control tasks, selectivity); Voita and Titov 2020 (description length).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.lab.statistics import Interval, wilson_interval
from physlm.probing.inputs import BoolArray, Rows

MAJORITY = "majority"
SHUFFLED = "shuffled labels"
UNTRAINED = "untrained model"
EMBEDDING = "embedding layer"
CONTROL_TASK = "control task"
DISJOINT = "disjoint entities"
DESCRIPTION = "description length"
ACCURACIES = (MAJORITY, SHUFFLED, UNTRAINED, EMBEDDING, CONTROL_TASK)
"""Controls that are accuracies. Of these, the control task is scored on its own labels, all others on the true ones."""
REQUIRED = (*ACCURACIES, DISJOINT, DESCRIPTION)
"""Without these, a result is not told."""


class MissingControlError(ValueError):
    """A result was to be told without its chance level or a control."""


@dataclass(frozen=True, eq=False)
class DescriptionLength:
    """Bits that it takes to send the labels of the fitted places to somebody who has the states.

    Attributes:
        online: by the online code of the probe, `[L]`.
        shuffled: by that of the same probe on shuffled labels, `[L]`.
        uniform: with all classes alike.
        prior: by the entropy of the labels, without looking at states.
        labels: how many labels are sent.
    """

    online: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    uniform: float
    prior: float
    labels: int

    @property
    def compression(self) -> NDArray[np.float64]:
        """Uniform code over online code, `[L]`; 1 is no compression."""
        return self.uniform / self.online


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult:
    """One task: a probe of every layer, its controls, and the places they were asked at.

    Attributes:
        task: what was asked.
        layers: L names.
        correct: whether the probe was right, `[L, N]`.
        controls: the same of those in `ACCURACIES`, `[L, N]`, or `[1, N]` where layers do not matter; a share where a
            control was repeated.
        entities: whom each place is about, `[N]`.
        shared_entities: how many entities have both fitted and held-out places; `None` if that is not known.
        rows: numbers of the held-out places among all that were given, `[N]`.
        description: of the fitted places; that of the whole task, also in a subset.
    """

    task: str
    layers: tuple[str, ...]
    correct: BoolArray
    entities: IntArray
    rows: IntArray
    controls: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shared_entities: int | None = None
    description: DescriptionLength | None = None

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.entities))
        if self.correct.shape != shape or not len(self.entities):
            raise ValueError(
                f"correct must be [layers, places] = {shape} with at least 1 place, got {self.correct.shape}"
            )
        for name, right in self.controls.items():
            if name not in ACCURACIES:
                raise ValueError(f"controls must be among {', '.join(ACCURACIES)}, got {name!r}")
            if right.shape not in (shape, (1, shape[1])):
                raise ValueError(f"the control {name!r} must be {shape} or {(1, shape[1])}, got {right.shape}")

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right answers, `[L]`."""
        return self.correct.mean(axis=1)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """95 % intervals of the accuracy, one for each layer."""
        return tuple(clustered_interval(row, self.entities) for row in self.correct)

    def control(self, name: str) -> NDArray[np.float64]:
        """Accuracy of a control, `[L]`.

        Raises:
            MissingControlError: if it was not measured.
        """
        if name not in self.controls:
            raise MissingControlError(f"the result of {self.task!r} has no control {name!r}")
        return np.broadcast_to(self.controls[name].mean(axis=1), len(self.layers)).copy()

    @property
    def selectivity(self) -> NDArray[np.float64]:
        """Accuracy beyond that on the control task, `[L]`."""
        return self.accuracy - self.control(CONTROL_TASK)

    @property
    def missing(self) -> tuple[str, ...]:
        """Controls that are not there, or not passed: entities that are on both sides make a split worthless."""
        there = {
            *self.controls,
            *([DISJOINT] if self.shared_entities == 0 else []),
            *([DESCRIPTION] if self.description is not None else []),
        }
        return tuple(name for name in REQUIRED if name not in there)

    def subset(self, rows: Rows) -> ProbeResult:
        """The same of some of the held-out places, given by their numbers among these."""
        controls = {name: right[:, rows] for name, right in self.controls.items()}
        parts = {"correct": self.correct[:, rows], "entities": self.entities[rows], "rows": self.rows[rows]}
        return replace(self, controls=controls, **parts)

    def by(self, groups: IntArray) -> dict[int, ProbeResult]:
        """The result within every group of held-out places, `[N]`, such as a position or a distance."""
        if groups.shape != self.entities.shape:
            raise ValueError(f"groups must be {self.entities.shape}, one for each held-out place, got {groups.shape}")
        return {int(group): self.subset(groups == group) for group in np.unique(groups)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and strings.

        Raises:
            MissingControlError: naming what is missing.
        """
        if self.missing:
            raise MissingControlError(
                f"the result of {self.task!r} is not told without its chance level and controls; missing: "
                f"{', '.join(self.missing)}"
            )
        assert self.description is not None
        found = {"accuracy": self.accuracy, **{name: self.control(name) for name in ACCURACIES}}
        found["selectivity"] = self.selectivity
        lengths = self.description
        found |= {"bits": lengths.online, "shuffled bits": lengths.shuffled, "compression": lengths.compression}
        columns = {name: [float(value) for value in values] for name, values in found.items()}
        intervals = [[interval.low, interval.high] for interval in self.intervals]
        return {
            "task": self.task,
            "places": len(self.entities),
            "entities": len(np.unique(self.entities)),
            "shared entities": self.shared_entities,
            "labels": lengths.labels,
            "uniform bits": lengths.uniform,
            "prior bits": lengths.prior,
            "layers": {
                layer: {"interval": intervals[number], **{name: values[number] for name, values in columns.items()}}
                for number, layer in enumerate(self.layers)
            },
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_text(self) -> str:
        """A table, one row for each layer; accuracies in percent."""
        told = self.to_dict()
        columns = (*ACCURACIES, "selectivity")
        width = max(len(name) for name in ("layer", *self.layers))
        heading = f"{'layer':<{width}}  accuracy  {'95 % interval':>14}  " + "  ".join(columns) + "  compression"
        lines = [
            f"{self.task}: {told['places']} places of {told['entities']} entities, none of which was fitted",
            heading,
        ]
        for layer, row in told["layers"].items():
            low, high = row["interval"]
            shares = "  ".join(f"{100 * row[name]:>{len(name)}.1f}" for name in columns)
            lines.append(
                f"{layer:<{width}}  {100 * row['accuracy']:>8.1f}  {100 * low:>6.1f} – {100 * high:>5.1f}  {shares}  "
                f"{row['compression']:>11.2f}"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        state = f"missing: {', '.join(self.missing)}" if self.missing else "with all controls"
        return f"<ProbeResult of {self.task!r} at {len(self.entities)} places, {state}>"


def clustered_interval(correct: BoolArray, entities: IntArray, level: float = 0.95) -> Interval:
    """Wilson interval for the share of right answers, where answers about one entity are correlated.

    The sample size is the number of answers over the design effect (the variance of the ratio of sums over entities,
    relative to independent answers), and between the number of entities' and that of answers.

    Args:
        correct: `[N]`.
        entities: whom each answer is about, `[N]`.
        level: confidence level, inside (0, 1).
    """
    _, number = np.unique(entities, return_inverse=True)
    right, asked = np.bincount(number, correct), np.bincount(number)
    total, clusters, rate = len(correct), len(asked), float(correct.mean())
    effective = float(total)
    if 1 < clusters < total:
        variance = clusters / (clusters - 1) * float(((right - rate * asked) ** 2).sum()) / total**2
        effective = rate * (1 - rate) / variance if variance > 0 else float(clusters)
    elif clusters == 1:
        effective = 1.0
    effective = min(max(effective, 1.0), float(total))
    bound = wilson_interval(rate * effective, effective, level)
    return Interval(bound.low, bound.high, "items", "Wilson over items, entities as clusters")
