"""What a batch asks of a model: a scalar loss in nats per predicted token.

- `next_token_loss` is the language-modelling loss on the tokens that the stream marks for loss.
- `MaskedWords` masks whole words and asks for them back (Physics of Language Models 3.1, App. B and H).
- `MaskedAnswers` masks exactly the answer of each question, the finetuning objective of the masked model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.masking import mask_answers, mask_words
from physlm.data.streams import IGNORE, Batch
from physlm.models.transformer import Transformer
from physlm.randomness import Key

Objective = Callable[[Transformer, Batch], Tensor]

# Below this share of predicted positions, gathering them before the vocabulary projection is cheaper.
_DENSE_SHARE = 0.9


def objective_identity(objective: Objective) -> dict[str, Any]:
    """What tells objectives apart, as JSON: the name, and the fields if it is a dataclass.

    Two functions of one name count as the same; whoever needs parameters makes a dataclass.
    """
    if is_dataclass(objective) and not isinstance(objective, type):
        return {"name": type(objective).__qualname__, **asdict(objective)}
    return {"name": getattr(objective, "__qualname__", type(objective).__qualname__)}


def _to_device(array: NDArray[np.integer], model: Transformer) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
    device = model.final_norm.weight.device  # reading the embedding's would compute its low-rank update
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _loss(
    model: Transformer,
    inputs: NDArray[np.integer],
    targets: NDArray[np.integer],
    documents: NDArray[np.integer] | None,
) -> Tensor:
    """Mean cross-entropy of `targets` that are not `IGNORE`, all arrays `[rows, length]`.

    Raises:
        ValueError: if none are.
    """
    predicted = targets != IGNORE
    share = predicted.mean()
    if share == 0:
        raise ValueError(
            f"a batch must have a token to predict, got none among {targets.size}: "
            "check the roles that bear loss, or use larger batches"
        )
    hidden = model.hidden(
        _to_device(inputs, model), documents=None if documents is None else _to_device(documents, model)
    ).flatten(0, 1)
    if share < _DENSE_SHARE:
        hidden = hidden[_to_device(np.flatnonzero(predicted), model)]
        targets = targets[predicted]
    logits = model.head(hidden).float()
    return F.cross_entropy(logits, _to_device(targets, model).flatten(), ignore_index=IGNORE)


def next_token_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the next token."""
    return _loss(model, batch.inputs, batch.targets, batch.documents)


@dataclass(frozen=True)
class MaskedWords:
    """Whole-word masking: 15 % of the words, of which 80 % masked, 10 % kept and 10 % replaced by random tokens.

    Attributes:
        key: which words are chosen, as a pure function of the row number.
        mask: id of the mask token.
        special: ids that are never masked (padding, end of document).
        rate: share of the words that are to be predicted.
    """

    key: Key
    mask: int
    special: tuple[int, ...]
    rate: float = 0.15

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the chosen words; the stream must carry the mark `word`."""
        inputs, targets = mask_words(
            batch.window,
            batch.window_marks["word"],
            key=self.key,
            rows=batch.rows,
            mask_id=self.mask,
            vocab_size=model.config.vocab_size,
            rate=self.rate,
            special=self.special,
        )
        return _loss(model, inputs, targets, batch.window_documents)


@dataclass(frozen=True)
class MaskedAnswers:
    """Mask exactly the answers.

    Attributes:
        mask: id of the mask token.
        role: value of the mark `role` that answers have.
    """

    mask: int
    role: int

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the answer tokens; the stream must carry the mark `role`."""
        answers = batch.window_marks["role"] == self.role
        inputs, targets = mask_answers(batch.window, answers, mask_id=self.mask)
        return _loss(model, inputs, targets, batch.window_documents)
