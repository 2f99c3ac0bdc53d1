"""Beam search: the likeliest continuations, found by following several at once.

- A beam is a continuation, finished or not. In every step each unfinished one is extended by every token, the finished
  ones stay as they are, and of all these the best are kept. Nothing is drawn, and one beam is greedy decoding.
- The best is that of the highest log-probability, stop token included, divided by the number of tokens to the power
  `length_power`. With as many beams as there are continuations, the search is exhaustive.
- A prompt is done when all its beams are finished; if only the best is wanted, as soon as no other can become better.

Shape legend: B batch, K beams, V vocabulary, C candidates of each beam, new = max_new_tokens.
Source: Sutskever et al. 2014, §3.2; Wu et al. 2016, §7 (normalising by length).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from physlm.data.contract import IntArray
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


def beam_search(
    model: Transformer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: int | Sequence[int],
    beams: int,
    length_power: float = 0.0,
    batch_size: int = 256,
) -> list[list[Continuation]]:
    """The best continuations of every prompt.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> (found,) = beam_search(model, [np.array([5, 7])], max_new_tokens=4, stop=0, beams=3)
        >>> len(found), found[0].score() >= found[1].score() >= found[2].score()
        (3, True)

    Args:
        model: a causal model; it is put back into its training mode.
        prompts: token ids of each prompt, at least one.
        max_new_tokens: most tokens that are added to a prompt, the stop token included, ≥ 1.
        stop: token id that ends a continuation, or several of them, or none.
        beams: how many continuations are followed at once, ≥ 1.
        length_power: log-probabilities are divided by the number of tokens to this power, ≥ 0; 0 finds likely texts, 1
            texts of likely tokens.
        batch_size: most rows read at once, if it is no less than `beams`; every beam is a row.

    Returns:
        For each prompt its beams, those with the highest `score(length_power)` first. There are fewer of them only if
        there are fewer possible continuations.

    Raises:
        TypeError: if `stop` is neither a token id nor several.
        ValueError: if an argument is outside its range, a prompt is no 1-D array of token ids, the model is
            bidirectional, or positions would be read beyond the context that they are defined for.
    """
    return search(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop=stop,
        beams=beams,
        length_power=length_power,
        batch_size=batch_size,
        only_best=False,
    )


def search(
    model: Transformer,
    prompts: Sequence[IntArray],
    *,
    max_new_tokens: int,
    stop: int | Sequence[int],
    beams: int,
    length_power: float,
    batch_size: int,
    only_best: bool,
) -> list[list[Continuation]]:
    """As `beam_search`; if only the best beam of each prompt is wanted, the others are not searched to their ends."""
    if beams < 1:
        raise ValueError(f"beams must be ≥ 1, got {beams}")
    if not 0 <= length_power < math.inf:
        raise ValueError(f"length_power must be ≥ 0 and finite, got {length_power}; 0 leaves lengths out")
    prompts, stops = prepare(model, prompts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size)
    found: dict[int, list[Continuation]] = {}
    with evaluating(model):
        for numbers in batches(model.config, prompts, max(1, batch_size // beams)):
            text = Text(model, [prompts[i] for i in numbers], max_new_tokens)
            tokens, log_probabilities = (
                part.cpu().numpy()
                for part in _follow(text, len(numbers), beams, max_new_tokens, stops, length_power, only_best)
            )
            for i, rows, chances in zip(numbers, tokens, log_probabilities, strict=True):
                # A beam that holds no continuation has an impossible token.
                held = np.flatnonzero(~np.isneginf(chances).any(axis=1))
                found[int(i)] = [as_continuation(rows[beam], chances[beam], stops) for beam in held]
    return [found[i] for i in range(len(prompts))]


def _follow(
    text: Text,
    batch: int,
    beams: int,
    max_new_tokens: int,
    stops: Sequence[int],
    length_power: float,
    only_best: bool,
) -> tuple[Int[Tensor, "B K new"], Float[Tensor, "B K new"]]:
    """New tokens of all beams, best first, negative after their ends, and their log-probabilities."""
    device = text.unread.device
    ends = torch.tensor(stops, dtype=torch.long, device=device)
    made = torch.full((batch, beams, max_new_tokens), -1, device=device)
    log_probabilities = torch.zeros(batch, beams, max_new_tokens, dtype=torch.float64, device=device)
    found = (made.clone(), log_probabilities.clone())
    finished = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    totals = torch.zeros(batch, beams, dtype=torch.float64, device=device)
    # At first there is one beam, of no tokens; the others hold nothing.
    totals[:, 1:] = -math.inf
    # Row r of the shrinking batch is prompt rows[r].
    rows = torch.arange(batch, device=device)
    for step in range(max_new_tokens):
        logits = text.next_logits().unflatten(0, (len(rows), -1))
        width = logits.shape[1]
        best = logits.topk(min(beams, logits.shape[-1]), dim=-1)
        chances = best.values.double() - log_normaliser(logits)
        candidates = best.indices.expand(-1, beams, -1)
        # What is finished stays as it is: one candidate that adds nothing.
        stay = torch.full_like(chances[0, 0], -math.inf)
        stay[0] = 0.0
        chances = torch.where(finished[..., None], stay, chances)

        lengths = (made >= 0).sum(-1) + ~finished
        sums = totals[..., None] + chances
        ranks, order = (sums / lengths[..., None].double() ** length_power).flatten(1).topk(beams)
        parents = torch.div(order, candidates.shape[-1], rounding_mode="floor")
        new = candidates.flatten(1).gather(1, order)
        totals = sums.flatten(1).gather(1, order)
        was_finished = finished.gather(1, parents)
        history = parents[..., None].expand_as(made)
        made, log_probabilities = made.gather(1, history), log_probabilities.gather(1, history)
        made[..., step] = torch.where(was_finished, -1, new)
        log_probabilities[..., step] = torch.where(totals == -math.inf, totals, chances.flatten(1).gather(1, order))
        finished = was_finished | (new[..., None] == ends).any(-1)
        if step == max_new_tokens - 1:
            break

        if stops and looks(step, device):
            open_totals = torch.where(finished, -math.inf, totals).amax(1)
            done = open_totals == -math.inf
            if only_best:
                # More tokens never make a continuation likelier, but may share what it costs.
                done |= finished[:, 0] & (ranks[:, 0] >= open_totals / max_new_tokens**length_power)
            remaining = int((~done).sum())
            if remaining == 0:
                break
            if 2 * remaining <= len(rows):
                found[0][rows], found[1][rows] = made, log_probabilities
                kept = (~done).nonzero().squeeze(1)
                rows, made, log_probabilities, totals = rows[kept], made[kept], log_probabilities[kept], totals[kept]
                finished, parents, new = finished[kept], parents[kept], new[kept]
                text.keep((kept[:, None] * width + torch.arange(width, device=device)).flatten())
        own = torch.arange(len(rows), device=device)[:, None]
        if step:
            text.exchange((own * beams + parents).flatten())
        else:
            text.keep(own.expand_as(parents).flatten())
        text.write(new.flatten())
    found[0][rows], found[1][rows] = made, log_probabilities
    return found
