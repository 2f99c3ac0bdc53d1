"""Linear probes on hidden states of a model that stays as it is: all layers and tasks by one product.

Shape legend: N places, n those of a batch, L layers, W width, C outputs of all tasks together, K classes.
Source: Alain and Bengio 2016 (linear classifier probes); Physics of Language Models 3.1, App. E and F, which put a
LayerNorm or BatchNorm before the linear map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.probing.heads import LinearHeads, ProbeTraining, Standardise, Tasks, fit_heads, shuffled_batches
from physlm.probing.inputs import Rows
from physlm.probing.probes import Probes
from physlm.probing.states import States
from physlm.randomness import Key

Norm = Literal["batch", "layer", "none"]
"""What is done to states first: standardise every unit over all places, every state over its units, or nothing."""


class LinearProbes(Probes[States]):
    """A linear probe for every layer and task.

    Example:
        >>> probes = LinearProbes(key=Key.of("probes", 0)).fit(states, {"attribute": labels})
        >>> probes.score(others, {"attribute": their_labels})["attribute"].shape  # one accuracy for each layer
        (3,)

    Args:
        training: how they are fitted.
        norm: what is done to states first.
        key: governs the order of places.
    """

    def __init__(self, training: ProbeTraining | None = None, *, norm: Norm = "batch", key: Key) -> None:
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        self.training = ProbeTraining() if training is None else training
        self.norm: Norm = norm
        self.key = key

    def _fit(self, inputs: States, codes: NDArray[np.int64], tasks: Tasks, training: ProbeTraining) -> None:
        asked = np.flatnonzero((codes != IGNORE).any(axis=1))
        states, codes = inputs.subset(asked), codes[asked]
        _, layers, width = states.shape
        self.layers_ = states.layers
        self.standardise_: Standardise | None = None
        if self.norm == "batch":
            self.standardise_ = Standardise(block for _, block in states.blocks())
        self.heads_ = LinearHeads(layers, width, tasks.outputs)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for rows in shuffled_batches(len(states), training.batch_size, self.key):
                yield self.heads_(self._normalised(states[rows])), torch.from_numpy(codes[rows])

        fit_heads(dict(self.heads_.named_parameters()), batches(), tasks, training.recipe())

    def _normalised(self, states: NDArray[np.float32]) -> Float[Tensor, "L n W"]:
        """What the linear map reads, given states `[n, L, W]`."""
        read = torch.from_numpy(states)
        if self.standardise_ is not None:
            read = self.standardise_(read)
        elif self.norm == "layer":
            read = F.layer_norm(read, read.shape[-1:])
        return read.transpose(0, 1)

    def _logits(self, inputs: States) -> Iterator[tuple[Rows, Tensor]]:
        if inputs.layers != self.layers_:
            raise ValueError(f"states must be of the layers {', '.join(self.layers_)}, got {', '.join(inputs.layers)}")
        for rows, block in inputs.blocks():
            yield rows, self.heads_(self._normalised(block))

    def directions(self, task: str, layer: str, *, rank: int | None = None) -> Float[Tensor, "rank W"]:
        """An orthonormal basis of the directions, in states as they are, along which the probe tells classes apart.

        Args:
            task: one of those it was fitted to.
            layer: likewise.
            rank: how many, those first that change the logits most; by default, and at most, K - 1.
        """
        tasks = self.tasks_
        if task not in tasks.columns or layer not in self.layers_:
            raise ValueError(
                f"task and layer must be among {', '.join(tasks.columns)} and {', '.join(self.layers_)}, "
                f"got {task!r} and {layer!r}"
            )
        number, columns = self.layers_.index(layer), tasks.columns[task]
        weight = self.heads_.weight.detach()[number, :, columns]
        most = min(len(weight), columns.stop - columns.start - 1)
        if rank is not None and not 1 <= rank <= most:
            raise ValueError(f"rank must be in 1..{most}, got {rank}")
        weight = weight - weight.mean(dim=1, keepdim=True)  # a logit that all classes share tells none apart
        if self.standardise_ is not None:
            weight = weight / self.standardise_.spread[number].unsqueeze(1)
        elif self.norm == "layer":
            weight = weight - weight.mean(dim=0)
        basis, _, _ = torch.linalg.svd(weight, full_matrices=False)
        return basis[:, : most if rank is None else rank].T


class LinearProbe:
    """One linear probe on plain arrays, as in scikit-learn.

    Example:
        >>> probe = LinearProbe(key=Key.of("probe", 0)).fit(states, labels)
        >>> probe.predict_proba(states).shape == (len(states), len(probe.classes_))
        True

    Args:
        training: how it is fitted.
        norm: what is done to states first.
        key: governs the order of samples.
    """

    def __init__(self, training: ProbeTraining | None = None, *, norm: Norm = "batch", key: Key) -> None:
        self._probes = LinearProbes(training, norm=norm, key=key)

    def fit(self, states: NDArray[Any], labels: IntArray) -> LinearProbe:
        """Fit to states `[samples, width]` and labels `[samples]`."""
        self._probes.fit(States.of(states), {"label": labels})
        return self

    @property
    def classes_(self) -> IntArray:
        """The classes, sorted."""
        return self._probes.classes_["label"]

    def predict_proba(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities, `[samples, classes]`."""
        return self._probes.predict_proba(States.of(states))["label"][0]

    def predict(self, states: NDArray[Any]) -> IntArray:
        """The most probable class, `[samples]`."""
        return self._probes.predict(States.of(states))["label"][0]

    def score(self, states: NDArray[Any], labels: IntArray) -> float:
        """Accuracy."""
        return float(self._probes.score(States.of(states), {"label": labels})["label"][0])
