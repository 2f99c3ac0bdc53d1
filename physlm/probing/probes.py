"""The surface of every probe, after scikit-learn: `fit`, `predict_proba`, `predict`, `score`, `classes_`.

A probe here is many: one for each layer and task. What comes back has the layers first and is told by task.

Shape legend: N places, L layers, K classes of a task, C outputs of all tasks together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.probing.heads import Labels, ProbeTraining, Tasks
from physlm.probing.inputs import BoolArray, Rows


@runtime_checkable
class Readable(Protocol):
    """What a probe reads: N places of which some can be taken."""

    def __len__(self) -> int: ...

    def subset(self, rows: Rows) -> Any:
        """Some of the places."""
        ...


R = TypeVar("R", bound=Readable)
P = TypeVar("P", bound="Probes[Any]")


class Probes(ABC, Generic[R]):
    """Probes of several layers and tasks, fitted together.

    Attributes:
        classes_: the classes of every task, once fitted.
        layers_: names of the layers, once fitted.
    """

    training: ProbeTraining
    layers_: tuple[str, ...]
    _tasks: Tasks | None = None

    @abstractmethod
    def _fit(self, inputs: R, codes: NDArray[np.int64], tasks: Tasks, training: ProbeTraining) -> None:
        """Fit to codes `[N, T]`."""

    @abstractmethod
    def _logits(self, inputs: R) -> Iterator[tuple[Rows, Tensor]]:
        """Logits `[L, n, C]` of all places, some at a time."""

    def fit(
        self: P,
        inputs: R,
        labels: Labels,
        *,
        classes: Mapping[str, IntArray] | None = None,
        training: ProbeTraining | None = None,
    ) -> P:
        """Fit all layers and tasks.

        Args:
            inputs: N places.
            labels: by task, `[N]`, `IGNORE` where it is not asked.
            classes: of tasks that have others than occur in the labels, each sorted.
            training: another than the probe was made with.

        Raises:
            ValueError: labels that are not one whole number for each place, or a task that is never asked.
        """
        tasks = Tasks(labels, classes)
        codes = tasks.encode(labels)
        if len(codes) != len(inputs):
            raise ValueError(f"labels must be [{len(inputs)}], one for each place, got {len(codes)}")
        self._fit(inputs, codes, tasks, self.training if training is None else training)
        self._tasks = tasks
        return self

    @property
    def tasks_(self) -> Tasks:
        """The tasks it was fitted to.

        Raises:
            ValueError: if it was not fitted.
        """
        if self._tasks is None:
            raise ValueError(f"this {type(self).__name__} is not fitted; call fit first")
        return self._tasks

    @property
    def classes_(self) -> dict[str, IntArray]:
        """The classes of every task."""
        return dict(self.tasks_.classes)

    @torch.inference_mode()
    def predict_proba(self, inputs: R) -> dict[str, NDArray[np.float32]]:
        """Probabilities of the classes, by task `[L, N, K]`."""
        tasks, count = self.tasks_, len(inputs)
        found = {
            name: np.empty((len(self.layers_), count, len(classes)), np.float32)
            for name, classes in tasks.classes.items()
        }
        for rows, logits in self._logits(inputs):
            for name, columns in tasks.columns.items():
                found[name][:, rows] = logits[..., columns].softmax(-1).cpu().numpy()
        return found

    @torch.inference_mode()
    def predict(self, inputs: R) -> dict[str, IntArray]:
        """The most probable class, by task `[L, N]`."""
        tasks = self.tasks_
        found = {
            name: np.empty((len(self.layers_), len(inputs)), classes.dtype) for name, classes in tasks.classes.items()
        }
        for rows, logits in self._logits(inputs):
            for name, columns in tasks.columns.items():
                found[name][:, rows] = tasks.classes[name][logits[..., columns].argmax(-1).cpu().numpy()]
        return found

    def correct(self, inputs: R, labels: Labels) -> dict[str, BoolArray]:
        """Whether the prediction is the label, by task `[L, N]`; false where it is not asked."""
        predicted = self.predict(inputs)
        return {
            name: (predicted[name] == values) & (np.asarray(values) != IGNORE)
            for name, values in labels.items()
            if name in predicted
        }

    def score(self, inputs: R, labels: Labels) -> dict[str, NDArray[np.float64]]:
        """Accuracy where the task is asked, by task `[L]`."""
        correct = self.correct(inputs, labels)
        return {name: right.sum(1) / max(1, (labels[name] != IGNORE).sum()) for name, right in correct.items()}

    @torch.inference_mode()
    def bits(self, inputs: R, labels: Labels, *, smoothing: float = 0.0) -> dict[str, NDArray[np.float64]]:
        """Bits that the labels cost when coded by the probabilities, summed over places, by task `[L]`.

        Args:
            inputs: N places.
            labels: by task, `[N]`, each among the classes.
            smoothing: share of the uniform distribution that is mixed in, in [0, 1].
        """
        tasks = self.tasks_
        codes = dict(zip(tasks.names, tasks.encode(labels).T, strict=True))
        found = {name: np.zeros(len(self.layers_)) for name in tasks.classes}
        for rows, logits in self._logits(inputs):
            for name, columns in tasks.columns.items():
                asked = np.flatnonzero(codes[name][rows] != IGNORE)
                right = torch.from_numpy(codes[name][rows][asked]).to(logits.device)
                chances = logits[:, torch.from_numpy(asked).to(logits.device), columns].double().softmax(-1)
                chances = chances.gather(-1, right.expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
                mixed = (1 - smoothing) * chances + smoothing / len(tasks.classes[name])
                found[name] -= mixed.log2().sum(1).cpu().numpy()
        return found


@dataclass(frozen=True)
class Probing(Generic[R]):
    """A kind of probe and what it reads.

    Attributes:
        make: an unfitted probe, the same at every call.
        inputs: N places.
        make_for_code: the same for an online code, if another: one whose probabilities are those of its labels.
    """

    make: Callable[[], Probes[R]]
    inputs: R
    make_for_code: Callable[[], Probes[R]] | None = None
