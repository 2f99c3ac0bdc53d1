"""Continuing prompts: greedily, by sampling or by beam search.

- Prompts of similar lengths are read together, padded on the left; what a prompt gets does not depend on the others,
  except where two tokens are equally likely to the last bits (or experts have a limited number of seats).
- A sampled token is a pure function of the logits and of (key, prompt number, step).
- Rows that have finished leave the batch, and the cache, once they are half of it.

To score known continuations, `physlm.evaluation` needs one forward pass instead of one per token.

Shape legend: B batch, V vocabulary, new = max_new_tokens, stops = stop tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Required, TypedDict, Unpack, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import IntArray
from physlm.models.beam_search import search
from physlm.models.decoding import (
    Continuation,
    Text,
    as_continuation,
    batches,
    evaluating,
    log_normaliser,
    looks,
    prepare,
)
from physlm.models.transformer import Transformer
from physlm.randomness import Key

__all__ = ["Continuation", "evaluating", "generate"]


class Settings(TypedDict, total=False):
    """How `generate` continues prompts, for type checkers; what each means is said there."""

    max_new_tokens: Required[int]
    stop: Required[int | Sequence[int]]
    temperature: float
    top_k: int | None
    beams: int
    length_power: float
    key: Key | None
    batch_size: int


@overload
def generate(
    model: Transformer, prompts: Sequence[IntArray], *, details: Literal[False] = False, **settings: Unpack[Settings]
) -> list[NDArray[np.int64]]: ...


@overload
def generate(
    model: Transformer, prompts: Sequence[IntArray], *, details: Literal[True], **settings: Unpack[Settings]
) -> list[Continuation]: ...


def generate(
    model: Transformer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: int | Sequence[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    beams: int = 1,
    length_power: float = 0.0,
    key: Key | None = None,
    batch_size: int = 256,
    details: bool = False,
) -> list[NDArray[np.int64]] | list[Continuation]:
    """Continue every prompt until a stop token or `max_new_tokens`.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> prompts = [np.array([5, 7]), np.array([9])]
        >>> len(generate(model, prompts, max_new_tokens=8, stop=0))
        2
        >>> drawn = generate(model, prompts, max_new_tokens=8, stop=0, temperature=1.0, key=Key.of(1), details=True)
        >>> [len(one.log_probabilities) == len(one.tokens) + one.finished for one in drawn]
        [True, True]

    Args:
        model: a causal model; it is put back into its training mode.
        prompts: token ids of each prompt, at least one.
        max_new_tokens: most tokens that are added to a prompt, the stop token included, ≥ 1.
        stop: token id that ends a continuation, or several of them, or none.
        temperature: divides the logits before sampling; 0 takes the most likely token.
        top_k: sample among this many most likely tokens only; `None` is all. Only with a temperature.
        beams: with more than one, the best of as many continuations that are followed at once; for all of them see
            `physlm.models.beam_search`.
        length_power: beam search divides log-probabilities by the number of tokens to this power; 0 finds likely
            texts, 1 texts of likely tokens. Only with several beams.
        key: governs sampling; required when `temperature` > 0, and only then given.
        batch_size: most rows read at once; every beam is a row.
        details: return log-probabilities, and what ended each continuation, as well.

    Returns:
        The new tokens of each prompt, without the prompt and the stop token, or with `details` a `Continuation`.

    Raises:
        TypeError: if `key` is no `Key`, or `stop` is neither a token id nor several.
        ValueError: if an argument is outside its range or would be ignored, a prompt is no 1-D array of token ids, the
            model is bidirectional, or positions would be read beyond the context that they are defined for.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be ≥ 0 (0 takes the most likely token) and finite, got {temperature}")
    if key is not None and not isinstance(key, Key):
        raise TypeError(f"key must be a Key such as Key.of('samples', 0), got {key!r}")
    if temperature > 0 and key is None:
        raise ValueError(f"sampling at temperature {temperature} needs a key; pass key=Key.of(…) or temperature=0")
    if top_k is not None and not 1 <= top_k <= model.config.vocab_size:
        raise ValueError(f"top_k must be in [1, vocab_size = {model.config.vocab_size}] or None, got {top_k}")
    if temperature == 0 and (top_k is not None or key is not None):
        name, value = ("top_k", top_k) if top_k is not None else ("key", key)
        raise ValueError(
            f"without a temperature nothing is drawn, got {name}={value}; set temperature > 0 or leave it out"
        )
    if temperature > 0 and beams > 1:
        raise ValueError(f"beam search draws nothing, got temperature {temperature} and {beams} beams; set one of them")
    if beams == 1 and length_power != 0:
        raise ValueError(f"length_power compares beams, got {length_power} and 1 beam; set beams > 1 or leave it out")
    if beams != 1:
        best_of_each = search(
            model,
            prompts,
            max_new_tokens=max_new_tokens,
            stop=stop,
            beams=beams,
            length_power=length_power,
            batch_size=batch_size,
            only_best=True,
        )
        best = [beams_of_one[0] for beams_of_one in best_of_each]
        return best if details else [continuation.tokens for continuation in best]

    prompts, stops = prepare(model, prompts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size)
    continuations: dict[int, Continuation] = {}
    with evaluating(model) as device:
        for numbers in batches(model.config, prompts, batch_size):
            uniforms = None
            if temperature > 0 and key is not None:
                uniforms = torch.from_numpy(key.uniforms(numbers, max_new_tokens)).to(device)
            text = Text(model, [prompts[i] for i in numbers], max_new_tokens)
            made = continue_texts(text, len(numbers), max_new_tokens, stops, temperature, top_k, uniforms, details)
            tokens, log_probabilities = (part.cpu().numpy() for part in made)
            for i, row, chances in zip(numbers, tokens, log_probabilities, strict=True):
                continuations[int(i)] = as_continuation(row, chances, stops)
    in_order = [continuations[i] for i in range(len(prompts))]
    return in_order if details else [continuation.tokens for continuation in in_order]


def continue_texts(
    text: Text,
    batch: int,
    max_new_tokens: int,
    stops: Sequence[int],
    temperature: float,
    top_k: int | None,
    uniforms: Float[Tensor, "B new"] | None,
    details: bool,
) -> tuple[Int[Tensor, "B new"], Float[Tensor, "B new"]]:
    """New tokens, everything after the end of a continuation negative, and with `details` their log-probabilities."""
    device = text.unread.device
    made = torch.full((batch, max_new_tokens), -1, device=device)
    log_probabilities = torch.zeros(batch, max_new_tokens, dtype=torch.float64, device=device)
    ends = torch.tensor(stops, dtype=torch.long, device=device)
    # Row r of the shrinking batch is prompt rows[r].
    rows = torch.arange(batch, device=device)
    running = torch.ones(batch, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        logits = text.next_logits()
        new = logits.argmax(-1) if uniforms is None else _sample(logits, temperature, top_k, uniforms[rows, step])
        made[rows, step] = torch.where(running, new, -1)
        if details:
            chances = logits.gather(1, new[:, None]).double() - log_normaliser(logits)
            log_probabilities[rows, step] = chances.squeeze(1)
        running = running & ~(new[:, None] == ends).any(1)
        if stops and looks(step, device):
            remaining = int(running.sum())
            if remaining == 0:
                break
            if 2 * remaining <= len(rows):
                kept = running.nonzero().squeeze(1)
                text.keep(kept)
                rows, running, new = rows[kept], running[kept], new[kept]
        text.write(new)
    return made, log_probabilities


def _sample(
    logits: Float[Tensor, "B V"], temperature: float, top_k: int | None, uniforms: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """The token at which the cumulative distribution of each row first exceeds its uniform number."""
    allowed = None
    if top_k is not None:
        allowed = logits.topk(top_k, dim=-1).indices.sort(dim=-1).values
        logits = logits.gather(1, allowed)
    logits = logits.double()
    cumulative = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total, whatever the rounding, so that no token of probability zero is ever drawn.
    threshold = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # A model that has diverged has no distribution; whatever is drawn must be a token.
    drawn = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    return (drawn if allowed is None else allowed.gather(1, drawn)).squeeze(1)
