"""Continuing prompts, greedily or by sampling, with a key-value cache.

- Prompts of any lengths: those of equal length are read together, so nothing is ever padded.
- A sampled token is a pure function of the logits and of (key, prompt number, step): neither the batch size nor the
  other prompts change it.
- Rows that have finished leave the batch, and the cache, once they are half of it.

To score known answers, `physlm.evaluation` needs one forward pass instead of one per token.

Shape legend: B batch, T tokens of the prompt, V vocabulary, new = max_new_tokens, new_and_stop = new + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from physlm.data.contract import IntArray
from physlm.models.transformer import Cache, Transformer
from physlm.randomness import Key


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


def generate(
    model: Transformer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    key: Key | None = None,
    batch_size: int = 256,
) -> list[NDArray[np.int64]]:
    """Continue every prompt until `stop` or `max_new_tokens`.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> continuations = generate(model, [np.array([5, 7]), np.array([9])], max_new_tokens=8, stop=0)
        >>> len(continuations)
        2

    Args:
        model: a causal model; it is put back into its training mode.
        prompts: token ids of each prompt, at least one.
        max_new_tokens: most tokens that are added to a prompt, `stop` included, ≥ 1.
        stop: token id that ends a continuation.
        temperature: divides the logits before sampling; 0 takes the most likely token.
        top_k: sample among this many most likely tokens only; `None` is all.
        key: governs sampling; required when `temperature` > 0.
        batch_size: most prompts read at once.

    Returns:
        The new tokens of each prompt, without the prompt and without `stop`.

    Raises:
        ValueError: if an argument is outside its range, the model is bidirectional, or learned positions would
            be read beyond the context.
    """
    config = model.config
    if not config.causal:
        raise ValueError("generation needs a causal model, got causal=False; fill masks with physlm.evaluation instead")
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens and batch_size must be ≥ 1, got {max_new_tokens} and {batch_size}")
    if not 0 <= stop < config.vocab_size:
        raise ValueError(f"stop must be a token id in [0, {config.vocab_size}), got {stop}")
    if temperature < 0:
        raise ValueError(f"temperature must be ≥ 0 (0 takes the most likely token), got {temperature}")
    if temperature > 0 and key is None:
        raise ValueError(f"sampling at temperature {temperature} needs a key; pass key=Key.of(…) or temperature=0")
    if top_k is not None and not 1 <= top_k <= config.vocab_size:
        raise ValueError(f"top_k must be in [1, vocab_size = {config.vocab_size}] or None, got {top_k}")
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    if (lengths == 0).any():
        raise ValueError(f"a prompt must have at least one token, got none in prompt {int(np.argmin(lengths))}")

    continuations: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(prompts)
    with evaluating(model) as device:
        for numbers in _equal_length_batches(lengths, batch_size):
            tokens = torch.from_numpy(np.stack([prompts[i] for i in numbers]).astype(np.int64)).to(device)
            # The last new token is never read, so it needs no position.
            model.position.reserve(tokens.shape[1] + max_new_tokens - 1)
            uniforms = None
            if temperature > 0 and key is not None:
                uniforms = torch.from_numpy(key.uniforms(numbers, max_new_tokens)).to(device)
            made = _continue(model, tokens, stop, max_new_tokens, temperature, top_k, uniforms).cpu().numpy()
            ends = (made == stop).argmax(axis=1)
            for i, row, end in zip(numbers, made, ends, strict=True):
                continuations[i] = row[:end].copy()
    return continuations


def _equal_length_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of the prompts of each batch."""
    order = np.argsort(lengths, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _continue(
    model: Transformer,
    tokens: Int[Tensor, "B T"],
    stop: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    uniforms: Float[Tensor, "B new"] | None,
) -> Int[Tensor, "B new_and_stop"]:
    """New tokens of prompts of one length; everything after the end of a continuation is `stop`."""
    batch, length = tokens.shape
    made = tokens.new_full((batch, max_new_tokens + 1), stop)
    cache = Cache(model.config, batch, length + max_new_tokens - 1, like=model.embed.weight)
    # Row r of the shrinking batch is prompt rows[r].
    rows = torch.arange(batch, device=tokens.device)
    running = torch.ones(batch, dtype=torch.bool, device=tokens.device)
    for step in range(max_new_tokens):
        logits = model.head(model.hidden(tokens, cache=cache)[:, -1])
        new = logits.argmax(-1) if uniforms is None else _sample(logits, temperature, top_k, uniforms[rows, step])
        new = torch.where(running, new, stop)
        made[rows, step] = new
        running = running & (new != stop)
        remaining = int(running.sum())
        if remaining == 0:
            break
        if 2 * remaining <= len(rows):
            kept = running.nonzero().squeeze(1)
            cache.keep(kept)
            rows, running, new = rows[kept], running[kept], new[kept]
        tokens = new[:, None]
    return made


def _sample(
    logits: Float[Tensor, "B V"], temperature: float, top_k: int | None, uniforms: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """The token at which the cumulative distribution of each row first exceeds its uniform number."""
    logits = logits.double() / temperature
    if top_k is not None:
        best = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best.indices, best.values)
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total, whatever the rounding, so that no token of probability zero is ever drawn.
    threshold = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
