"""What all probes share: tasks and their labels, the loss of many heads at once, and how they are trained.

- A task is a set of classes and a label for every place, `IGNORE` where it is not asked. The outputs of all tasks lie
  side by side, those with equally many classes as one block, so that one product and one softmax serve them all.
- Every layer and task has weights of its own, and the loss is a sum over them. AdamW treats every weight alone, so a
  head that is fitted together with others is the head that would be fitted alone.

Shape legend: N places, n those of a batch, L layers, W width, T tasks, C outputs of all tasks together, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.randomness import Key
from physlm.training.optimizers import Optimizers
from physlm.training.recipe import Recipe

UNSEEN = -1
"""Code of a label that is none of the classes; every answer to it is wrong."""

_ROUNDING = 1e-12
"""Variance of float32 rounding, as a share of the mean square."""

Labels = Mapping[str, IntArray]
"""Labels by task, each `[N]`, `IGNORE` where the task is not asked."""


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How a probe is trained: AdamW with a rate that falls to zero, in float32.

    Attributes:
        steps: optimiser steps.
        batch_size: places in a step; of a probe that reads whole documents, documents.
        learning_rate: at the beginning.
        weight_decay, betas, eps: of AdamW; biases and norms are not decayed.

    Raises:
        ValueError: naming the field that is out of range.
    """

    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 0.01
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be ≥ 1, got {self.batch_size}")
        self.recipe()

    def recipe(self, steps: int | None = None) -> Recipe:
        """The same as a recipe, with another number of steps if one is given."""
        return Recipe(
            steps=self.steps if steps is None else steps,
            learning_rate=self.learning_rate,
            final_fraction=0.0,
            schedule="linear",
            weight_decay=self.weight_decay,
            betas=self.betas,
            eps=self.eps,
            precision="float32",
        )


def labels_at(labels: Labels, rows: IntArray) -> dict[str, IntArray]:
    """The labels of some places."""
    return {name: values[rows] for name, values in labels.items()}


class Tasks:
    """The classes of several tasks, and where their outputs are.

    Example:
        >>> tasks = Tasks({"colour": np.array([3, 7, IGNORE]), "shape": np.array([0, 1, 2])})
        >>> tasks.outputs, tasks.classes["colour"]
        (5, array([3, 7]))

    Args:
        labels: by task.
        classes: of tasks that have others than occur in `labels`, each sorted.
        balanced: in the loss, all classes of a task count alike, however often they are the label.

    Raises:
        ValueError: no task, labels that are not whole numbers `[N]`, or a task that is never asked.
    """

    def __init__(
        self, labels: Labels, classes: Mapping[str, IntArray] | None = None, *, balanced: bool = False
    ) -> None:
        if not labels:
            raise ValueError("labels must have at least 1 task, got none")
        shapes = {name: np.shape(values) for name, values in labels.items()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
            raise ValueError(f"labels of all tasks must be [places] of one length, got {shapes}")
        found: dict[str, IntArray] = {}
        for name, values in labels.items():
            if np.asarray(values).dtype.kind not in "iu":
                raise ValueError(f"labels must be whole numbers, got {np.asarray(values).dtype} in task {name!r}")
            given = (classes or {}).get(name)
            found[name] = np.unique(values[values != IGNORE]) if given is None else np.asarray(given)
            if len(found[name]) == 0:
                raise ValueError(f"labels must ask every task somewhere, got only {IGNORE} in task {name!r}")
        # Tasks with equally many classes are neighbours, and one block.
        self.names: tuple[str, ...] = tuple(sorted(found, key=lambda name: len(found[name])))
        self.classes: dict[str, IntArray] = {name: found[name] for name in labels}
        sizes = np.array([len(found[name]) for name in self.names])
        self.outputs = int(sizes.sum())
        ends = np.cumsum(sizes)
        self.columns = {
            name: slice(int(end - size), int(end)) for name, size, end in zip(self.names, sizes, ends, strict=True)
        }
        self._blocks = [
            (slice(first, first + count), int(size))
            for size, first, count in zip(*np.unique(sizes, return_index=True, return_counts=True), strict=True)
        ]

        self._class_weights = self._balancing(labels) if balanced else None

    def _balancing(self, labels: Labels) -> Float[Tensor, "T K"]:
        """What every place counts by task and class: 1 on average, and classes that are never the label nothing."""
        codes = self.encode(labels)
        weights = torch.zeros(len(self.names), max(map(len, self.classes.values())))
        for task, column in enumerate(codes.T):
            times = np.bincount(column[column >= 0], minlength=weights.shape[1])
            occurs = times > 0
            weights[task, torch.from_numpy(occurs)] = torch.from_numpy(
                times.sum() / (occurs.sum() * times[occurs])
            ).float()
        return weights

    def encode(self, labels: Labels) -> NDArray[np.int64]:
        """Numbers of the classes, `[N, T]` in the order of `names`; `IGNORE` stays, and others are `UNSEEN`."""
        columns: list[NDArray[np.int64]] = []
        for name in self.names:
            if name not in labels:
                raise ValueError(f"labels must have the task {name!r}, got {', '.join(labels)}")
            values, classes = np.asarray(labels[name]), self.classes[name]
            codes = np.searchsorted(classes, values)
            is_known = classes[np.minimum(codes, len(classes) - 1)] == values
            columns.append(np.where(values == IGNORE, IGNORE, np.where(is_known, codes, UNSEEN)))
        return np.stack(columns, axis=1)

    def loss(self, logits: Float[Tensor, "L n C"], codes: Int[Tensor, "n T"]) -> Tensor:
        """Cross-entropy in nats, a mean over the places where a task is asked, summed over layers and tasks."""
        asked = codes >= 0
        weight = asked / asked.sum(dim=0).clamp(min=1)
        if self._class_weights is not None:
            of_class = self._class_weights.to(codes.device).expand(len(codes), -1, -1)
            weight = weight * of_class.gather(-1, codes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        total = logits.new_zeros(())
        start = 0
        for tasks, size in self._blocks:
            count = tasks.stop - tasks.start
            block = logits[..., start : start + count * size].unflatten(-1, (count, size))
            start += count * size
            targets = codes[:, tasks].clamp(min=0).expand(len(logits), -1, -1)
            right = block.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            total = total - (right * weight[:, tasks]).sum()
        return total


def shuffled(count: int, key: Key) -> Iterator[int]:
    """The numbers below `count`, again and again, each time in another order."""
    epoch = 0
    while True:
        yield from key.child("order", epoch).generator().permutation(count).tolist()
        epoch += 1


def shuffled_batches(count: int, batch_size: int, key: Key) -> Iterator[NDArray[np.int64]]:
    """Endless batches of numbers below `count`, of all of them if they are fewer; each comes as often as any other."""
    order, batch_size = shuffled(count, key), min(batch_size, count)
    while True:
        yield np.fromiter(islice(order, batch_size), dtype=np.int64, count=batch_size)


def fit_heads(
    trained: Mapping[str, nn.Parameter], batches: Iterator[tuple[Tensor, Tensor]], tasks: Tasks, recipe: Recipe
) -> None:
    """Train parameters in place.

    Args:
        trained: by name.
        batches: endless pairs of logits `[L, n, C]`, made with the parameters as they are, and codes `[n, T]`.
        tasks: what is asked.
        recipe: AdamW and its schedule.
    """
    optimizers = Optimizers(trained, recipe)
    for step, (logits, codes) in enumerate(islice(batches, recipe.steps)):
        tasks.loss(logits, codes).backward()
        optimizers.step(step)
        optimizers.forget_gradients()


class LinearHeads(nn.Module):
    """A linear map for every layer, `[L, n, W]` to `[L, n, C]`, zero at first: the problem is convex."""

    def __init__(self, layers: int, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, width, outputs))
        self.bias = nn.Parameter(torch.zeros(layers, 1, outputs))

    def forward(self, states: Float[Tensor, "L n W"]) -> Float[Tensor, "L n C"]:
        """Logits of all layers by one batched product."""
        return torch.baddbmm(self.bias, states, self.weight)


class Standardise(nn.Module):
    """Subtracts a mean and divides by a spread, both `[L, W]` and fixed: a BatchNorm whose batch is all places.

    What its trained scale and shift could do, the linear map behind it does.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, blocks: Iterable[NDArray[np.float32]]) -> None:
        super().__init__()
        count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for block in blocks:
            # Means and sums of squares about them are added up without losing digits (Chan et al. 1979).
            states, own = torch.from_numpy(block), len(block)
            own_mean = states.mean(0)
            own_squares = (states - own_mean).square_().sum(0)
            apart = own_mean.double() - mean
            squares = squares + own_squares + apart.square() * count * own / (count + own)
            mean = mean + apart * own / (count + own)
            count += own
        if not count:
            raise ValueError("states must have at least 1 place, got 0")
        variance = squares / count
        # What a unit varies by rounding alone is not made large.
        spread = torch.where(variance > _ROUNDING * (mean.square() + variance), variance.sqrt(), 1.0)
        self.register_buffer("mean", mean.float())
        self.register_buffer("spread", spread.float())

    def forward(self, states: Float[Tensor, "... L W"]) -> Float[Tensor, "... L W"]:
        """Standardised states."""
        return (states - self.mean).mul_(1 / self.spread)
