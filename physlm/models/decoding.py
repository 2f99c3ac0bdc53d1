"""What all ways of continuing prompts share: their result, batches of prompts, and texts that grow token by token.

- Prompts of different lengths are read together, padded on the left; those of a batch have similar lengths.
- A `Text` reads each new token alone and keeps the rest in a cache. If the positional encoding does not allow that, it
  reads everything again.

Shape legend: B batch, T tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from physlm.data.contract import IntArray
from physlm.models.checks import stop_tokens, token_arrays
from physlm.models.transformer import Cache, Transformer, TransformerConfig

PADDING = 16
"""A prompt is padded to at most twice its length and this much more; longer ones are in another batch."""

STEPS_UNSEEN = 8
"""Steps after which an accelerator is asked who has finished, for it must then wait for the host."""


@dataclass(frozen=True, eq=False)
class Continuation:
    """What was added to a prompt."""

    tokens: NDArray[np.int64]
    """The new tokens, without the prompt and without the stop token."""
    log_probabilities: NDArray[np.float64]
    """Natural logarithm of the probability that the model gives to each new token, whatever the temperature; if a stop
    token ended the continuation, its own comes last."""
    stop: int | None
    """The stop token that ended it; `None` if there was room for no more tokens."""

    @property
    def finished(self) -> bool:
        """Whether it ended by a stop token."""
        return self.stop is not None

    def score(self, length_power: float = 0.0) -> float:
        """Log-probability of the whole, stop token included, divided by its number of tokens to this power."""
        return float(self.log_probabilities.sum()) / len(self.log_probabilities) ** length_power


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Within it, `model` only reads: no dropout, no gradients, no autocast; yields the device of the model.

    Weights that are computed from others (low-rank updates) are computed once. The training mode of every module
    is put back afterwards.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), parametrize.cached():
            yield device
    finally:
        for module, training in modes.items():
            module.training = training


def prepare(
    model: Transformer, prompts: Sequence[IntArray], *, max_new_tokens: int, stop: int | Sequence[int], batch_size: int
) -> tuple[list[NDArray[np.int64]], tuple[int, ...]]:
    """Check what every way of continuing needs, and reserve positions; returns the prompts and the stop tokens.

    Raises:
        TypeError: if `stop` is neither an id nor several.
        ValueError: if the model is bidirectional, a number or token is outside its range, a prompt is empty or no 1-D
            array of integers, or positions would be read beyond the context that they are defined for.
    """
    config = model.config
    if not config.causal:
        raise ValueError("generation needs a causal model, got causal=False; fill masks with physlm.evaluation instead")
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens and batch_size must be ≥ 1, got {max_new_tokens} and {batch_size}")
    stops = stop_tokens(stop, config.vocab_size)
    texts = token_arrays("prompts", prompts, config.vocab_size)
    lengths = [len(text) for text in texts]
    if 0 in lengths:
        raise ValueError(f"a prompt must have at least one token, got none in prompt {lengths.index(0)}")
    if lengths:
        # The last new token is never read, so it needs no position.
        model.position.reserve(max(lengths) + max_new_tokens - 1)
    return texts, stops


def batches(config: TransformerConfig, prompts: Sequence[IntArray], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the prompts of each batch, from short to long."""
    # Padding would take the seats of other tokens where experts have a limited number of them.
    crowded = config.experts is not None and config.experts.evaluation_capacity_factor is not None
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        shortest = lengths[order[start]]
        longest_allowed = shortest if crowded else 2 * shortest + PADDING
        if end == len(order) or end - start == batch_size or lengths[order[end]] > longest_allowed:
            yield order[start:end]
            start = end


def log_normaliser(logits: Float[Tensor, "... V"]) -> Float[Tensor, "... 1"]:
    """What is subtracted from logits, in double precision, to give log-probabilities."""
    return logits.float().logsumexp(-1, keepdim=True).double()


def looks(step: int, device: torch.device) -> bool:
    """Whether to look, after this step, who has finished."""
    return device.type == "cpu" or step % STEPS_UNSEEN == STEPS_UNSEEN - 1


def as_continuation(
    made: NDArray[np.int64], log_probabilities: NDArray[np.float64], stops: Sequence[int]
) -> Continuation:
    """A row of new tokens, after the last of which everything is negative, and their log-probabilities."""
    length = int((made >= 0).sum())
    stop = int(made[length - 1]) if made[length - 1] in stops else None
    tokens = made[: length - 1] if stop is not None else made[:length]
    return Continuation(tokens.copy(), log_probabilities[:length].copy(), stop)


class Text:
    """Prompts of a batch and what is written after them.

    Args:
        model: a causal model.
        prompts: the prompts, at least one, none of them empty.
        max_new_tokens: most tokens that will be written after them.
    """

    def __init__(self, model: Transformer, prompts: Sequence[IntArray], max_new_tokens: int) -> None:
        self.model = model
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        longest = int(lengths.max())
        starts = longest - lengths
        self.prompt_columns = longest
        padded = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, start, prompt in zip(padded, starts, prompts, strict=True):
            row[start:] = prompt
        like = model.embed.weight
        self.unread: Int[Tensor, "B T"] = torch.from_numpy(padded).to(like.device)
        self.starts = torch.from_numpy(starts).to(like.device) if starts.any() else None
        self.cache = None
        if model.config.position.cacheable:
            self.cache = Cache(model.config, len(prompts), longest + max_new_tokens - 1, like=like)

    def write(self, tokens: Int[Tensor, " B"]) -> None:
        """Add a token to every row."""
        new = tokens[:, None]
        self.unread = new if self.cache is not None else torch.cat([self.unread, new], dim=1)

    def next_logits(self) -> Float[Tensor, "B V"]:
        """Read on; what is likely to come next."""
        # A cache remembers where rows start.
        starts = self.starts if self.cache is None or self.cache.length == 0 else None
        hidden = self.model.hidden(self.unread, starts=starts, cache=self.cache)
        return self.model.head(hidden[:, -1])

    def keep(self, rows: Int[Tensor, " rows"]) -> None:
        """Make row `rows[i]` row `i`, before anything is written to it; a row may be kept more than once."""
        if self.cache is not None:
            self.cache.keep(rows)
            return
        self.unread = self.unread[rows]
        self.starts = None if self.starts is None else self.starts[rows]

    def exchange(self, rows: Int[Tensor, " B"]) -> None:
        """What `keep` does, where row `i` and row `rows[i]` have the same prompt and no row is lost: in less time."""
        if self.cache is None:
            self.keep(rows)
            return
        # The prompts, and the room for what is to come, stay where they are.
        for part in self.cache.storage.flatten(0, 1):
            written = part[:, :, self.prompt_columns : self.cache.length]
            written.copy_(written.index_select(0, rows))
        self.cache.earlier = {name: states[rows] for name, states in self.cache.earlier.items()}
