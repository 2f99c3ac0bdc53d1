"""Probes that may also change how tokens are read: a low-rank update of the input embedding of a frozen model.

- Trained are the update, the norm and the linear map; every task has its own of each. All else stays as it is, also the
  head where it is tied to the embedding.
- The update changes all hidden states, so nothing is kept between steps: each is a forward and a backward pass through
  the frozen model. Its dropout, if it has any, is on in training and off afterwards.

Shape legend: N places, n those of a batch, C classes of a task, T tokens.
Source: Physics of Language Models 3.1, App. E and F (P-probing: rank 2, LayerNorm; Q-probing: rank 16, BatchNorm); 2.1,
§4.1 and App. F.2 (V-probing: rank 8).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from physlm.data.streams import IGNORE
from physlm.models.capture import Capture
from physlm.models.low_rank import add_low_rank
from physlm.models.transformer import Transformer
from physlm.probing.batches import DocumentBatch, PlacesByDocument, document_batches
from physlm.probing.heads import LinearHeads, ProbeTraining, Tasks, fit_heads, shuffled_batches
from physlm.probing.inputs import Inputs, Rows
from physlm.probing.linear import Norm
from physlm.probing.probes import Probes
from physlm.probing.states import TOKENS_PER_BATCH
from physlm.randomness import Key


@dataclass(frozen=True, eq=False)
class _Reader:
    """What is fitted to one task."""

    model: Transformer
    norm: nn.Module
    heads: LinearHeads
    layer: str

    def logits(self, batch: DocumentBatch) -> Tensor:
        """Logits `[1, n, C]` at the places of a batch."""
        device = self.model.embed.weight.device
        tokens, inside, places = (torch.from_numpy(p).to(device) for p in (batch.tokens, batch.inside, batch.places))
        capture = Capture([self.layer])
        self.model.hidden(tokens, documents=None if self.model.config.causal else inside.long(), capture=capture)
        return self.heads(self.norm(capture.states[self.layer][places[0], places[1]]).unsqueeze(0))

    def train(self, training: bool) -> None:
        for module in (self.model, self.norm):
            module.train(training)


class EmbeddingProbes(Probes[Inputs]):
    """Linear probes with a rank-r update of the input embedding, one for each task.

    Example:
        >>> probes = EmbeddingProbes(model, rank=2, norm="layer", key=Key.of("P-probing", 0))
        >>> probes.fit(before_values, {"birth city": labels}).classes_["birth city"].shape
        (200,)

    Args:
        model: what is read; it is copied and stays as it is.
        rank: of the update; 0 trains norm and linear map only.
        training: how they are fitted; `batch_size` counts documents.
        layer: the state that is read, `[B, T, W]`.
        norm: "batch" and "layer" have a trained scale and shift.
        alpha: factor on the update, > 0.
        balanced: in the loss, all classes count alike, which rare ones need to be learnt in few steps. Probabilities
            are then those of a world in which they are equally frequent.
        key: governs the update at first, the order of documents, and dropout.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        rank: int,
        training: ProbeTraining | None = None,
        layer: str = "final",
        norm: Norm = "layer",
        alpha: float = 4.0,
        balanced: bool = False,
        key: Key,
    ) -> None:
        if rank < 0:
            raise ValueError(f"rank must be ≥ 0, got {rank}")
        Capture([layer]).check(model.config)
        self.model, self.rank, self.layer, self.norm, self.alpha, self.key = model, rank, layer, norm, alpha, key
        self.balanced = balanced
        self.training = ProbeTraining(batch_size=50, learning_rate=1e-3) if training is None else training
        self.layers_ = (layer,)

    def _fit(self, inputs: Inputs, codes: NDArray[np.int64], tasks: Tasks, training: ProbeTraining) -> None:
        self.readers_: dict[str, _Reader] = {}
        devices = [self.model.embed.weight.device] if self.model.embed.weight.is_cuda else []
        for name, column in zip(tasks.names, codes.T, strict=True):
            key = self.key.child(name)
            asked = np.flatnonzero(column != IGNORE)
            # Dropout draws from PyTorch's global generator, which belongs to the caller.
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(key.child("dropout").low)
                self.readers_[name] = self._fit_one(
                    inputs.subset(asked), column[asked], len(tasks.classes[name]), training, key
                )

    def _fit_one(
        self, inputs: Inputs, codes: NDArray[np.int64], classes: int, training: ProbeTraining, key: Key
    ) -> _Reader:
        model = copy.deepcopy(self.model).requires_grad_(False)
        if self.rank:
            seed = key.child("update").low
            add_low_rank(model, rank=0, embedding_rank=self.rank, seed=seed, alpha=self.alpha)
        width, device = model.config.width, model.embed.weight.device
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
        reader = _Reader(
            model, norms[self.norm](width).to(device), LinearHeads(1, width, classes).to(device), self.layer
        )
        trained = {
            f"{part}.{name}": parameter
            for part, module in (("model", model), ("norm", reader.norm), ("heads", reader.heads))
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        by_document = PlacesByDocument(inputs)
        lengths = by_document.lengths(causal=model.config.causal)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for documents in shuffled_batches(len(lengths), training.batch_size, key):
                batch = by_document.batch(documents, lengths)
                yield reader.logits(batch), torch.from_numpy(codes[batch.rows, None]).to(device)

        reader.train(True)
        tasks = Tasks({"": codes}, {"": np.arange(classes)}, balanced=self.balanced)
        fit_heads(trained, batches(), tasks, training.recipe())
        reader.train(False)
        return reader

    def _logits(self, inputs: Inputs) -> Iterator[tuple[Rows, Tensor]]:
        for batch in document_batches(inputs, TOKENS_PER_BATCH, causal=self.model.config.causal):
            parts = [self.readers_[name].logits(batch) for name in self.tasks_.names]
            yield batch.rows, torch.cat(parts, dim=-1)
