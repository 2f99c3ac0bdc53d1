"""What a batch asks of a model: a scalar loss in nats per predicted token.

- Any function of (model, batch) is an objective.
- Those that ask for tokens are a `TokenObjective`: they say as arrays what is read and what is asked (`Examples`), and
  `token_loss` is the loss of that. Whatever trains in parts, compiled, on several processes or several models at once
  builds on this split.
- `next_token_loss` is the language-modelling loss on the tokens that the stream marks for loss.
- `MaskedWords` masks whole words and asks for them back (Physics of Language Models 3.1, App. B and H).
- `MaskedAnswers` masks exactly the answer of each question, the finetuning objective of the masked model.

Shape legend: B rows, T tokens, A asked places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.masking import mask_answers, mask_words
from physlm.data.streams import IGNORE, Batch
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.cross_entropy import linear_cross_entropy

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


class Asked(NamedTuple):
    """What a model reads and what it is asked, on a device."""

    inputs: Int[Tensor, "B T"]
    """Token ids."""
    targets: Int[Tensor, " A"]
    """The right token at every asked place, or `IGNORE`."""
    documents: Int[Tensor, "B T"] | None = None
    """Document numbers, if attention stays within a document."""
    places: Int[Tensor, " A"] | None = None
    """The asked places, counted row by row; `None` for all `B · T`."""


@dataclass(frozen=True)
class Examples:
    """What a model reads and what it is asked, as arrays.

    Attributes:
        inputs: token ids, `[B, T]`.
        targets: the right token at every place, `IGNORE` where nothing is asked, `[B, T]`.
        documents: document numbers if attention stays within a document, `[B, T]`.
    """

    inputs: NDArray[np.integer]
    targets: NDArray[np.integer]
    documents: NDArray[np.integer] | None = None

    @cached_property
    def count(self) -> int:
        """Number of places where a token is asked for."""
        return int(np.count_nonzero(self.targets != IGNORE))

    def split(self, parts: int) -> list[Examples]:
        """The rows in `parts` equal parts, in order; `parts` must divide their number."""
        if len(self.inputs) % parts:
            raise ValueError(f"parts must divide the {len(self.inputs)} rows of a batch, got {parts}")
        if parts == 1:
            return [self]
        documents = [None] * parts if self.documents is None else np.split(self.documents, parts)
        return [
            Examples(*part)
            for part in zip(np.split(self.inputs, parts), np.split(self.targets, parts), documents, strict=True)
        ]

    def on(self, device: torch.device, *, dense: bool = False) -> Asked:
        """The same as tensors on `device`, without waiting for the copy.

        Args:
            device: where to.
            dense: always ask at all places, so that shapes do not depend on the batch.
        """
        documents = None if self.documents is None else _copy(self.documents, device)
        inputs = _copy(self.inputs, device)
        if dense or self.count >= _DENSE_SHARE * self.targets.size:
            return Asked(inputs, _copy(self.targets, device).flatten(), documents)
        is_asked = self.targets != IGNORE
        places = _copy(np.flatnonzero(is_asked), device)
        return Asked(inputs, _copy(self.targets[is_asked], device), documents, places)


def _copy(array: NDArray[np.integer], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def device_of(model: Transformer) -> torch.device:
    """Where the model is."""
    return model.final_norm.weight.device  # reading the embedding's would compute its low-rank update


def require_question(count: int, places: int) -> None:
    """Refuse a batch in which nothing is asked.

    Raises:
        ValueError: if `count` is 0.
    """
    if count == 0:
        raise ValueError(
            f"a batch must have a token to predict, got none among {places}: "
            "check the roles that bear loss, or use larger batches"
        )


def token_loss(model: Transformer, asked: Asked, total: Tensor | float) -> Float[Tensor, ""]:
    """Cross-entropy summed over the asked places and divided by `total`, in nats.

    Args:
        model: the model.
        asked: what it reads and is asked.
        total: what the sum is divided by: for the mean, the number of targets that are not `IGNORE`.
    """
    hidden = model.hidden(asked.inputs, documents=asked.documents).flatten(0, 1)
    if asked.places is not None:
        hidden = hidden[asked.places]
    if torch.compiler.is_compiling():
        logits = model.head(hidden).float()
        return F.cross_entropy(logits, asked.targets, ignore_index=IGNORE, reduction="sum") / total
    return linear_cross_entropy(hidden, model.head.weight[: model.config.vocab_size], asked.targets, total)


class TokenObjective(ABC):
    """An objective that asks for tokens: the mean negative log-likelihood of what `examples` asks."""

    @abstractmethod
    def examples(self, batch: Batch, vocab_size: int) -> Examples:
        """What a model with `vocab_size` token ids reads and is asked in this batch."""

    def __call__(self, model: Transformer, batch: Batch) -> Tensor:
        """The loss in nats per predicted token.

        Raises:
            ValueError: if there is none in the batch.
        """
        examples = self.examples(batch, model.config.vocab_size)
        require_question(examples.count, examples.targets.size)
        return token_loss(model, examples.on(device_of(model)), examples.count)


class NextToken(TokenObjective):
    """The next token, wherever the stream says so."""

    def __init__(self) -> None:
        self.__qualname__ = "next_token_loss"  # its name in checkpoints

    def examples(self, batch: Batch, vocab_size: int) -> Examples:
        """The shifted view of the window."""
        del vocab_size
        return Examples(batch.inputs, batch.targets, batch.documents)


next_token_loss = NextToken()
"""Mean negative log-likelihood of the next token."""


@dataclass(frozen=True)
class MaskedWords(TokenObjective):
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

    def examples(self, batch: Batch, vocab_size: int) -> Examples:
        """The window with words masked; the stream must carry the mark `word`."""
        inputs, targets = mask_words(
            batch.window,
            batch.window_marks["word"],
            key=self.key,
            rows=batch.rows,
            mask_id=self.mask,
            vocab_size=vocab_size,
            rate=self.rate,
            special=self.special,
        )
        return Examples(inputs, targets, batch.window_documents)


@dataclass(frozen=True)
class MaskedAnswers(TokenObjective):
    """Mask exactly the answers.

    Attributes:
        mask: id of the mask token.
        role: value of the mark `role` that answers have.
    """

    mask: int
    role: int

    def examples(self, batch: Batch, vocab_size: int) -> Examples:
        """The window with answers masked; the stream must carry the mark `role`."""
        del vocab_size
        answers = batch.window_marks["role"] == self.role
        inputs, targets = mask_answers(batch.window, answers, mask_id=self.mask)
        return Examples(inputs, targets, batch.window_documents)
