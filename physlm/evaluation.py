"""Scoring a model against known tokens in one forward pass.

- Greedy decoding gives exactly the gold answer if and only if the most likely token is the right one at every step
  along the gold answer. So exact match needs no generation: the gold answer is read once and checked everywhere.
- Documents of any lengths are batched: sorted by length and padded on the right, which a causal model cannot see
  and from which a bidirectional model is kept by its document mask.
- Most of the last block, and the head, run only on the positions that are asked about.
- The right token is compared with the largest other logit, which is cheaper to find than where the largest is.
- `score` gives the log-probability of every token instead, in natural logarithms.
- Questions start alike (`What is the birth city of …`): documents are sorted, and what those of a batch share with
  the one before is read once, by everything but attention. Padding is seen by attention only.

All forward passes are plain float32 without dropout; `batch_size` counts documents and changes speed only.

Shape legend: B batch, T tokens, W model width, N tokens of all documents laid end to end.
Source: Physics of Language Models 3.1, §2.2 and App. D (answer and first-token accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import IntArray, Samples
from physlm.models.checks import require_id, token_arrays
from physlm.models.decoding import evaluating, log_normaliser
from physlm.models.transformer import Layout, Transformer

BoolArray = NDArray[np.bool_]
Judge = Callable[[Tensor, Tensor], Tensor]
"""What logits `[N, V]`, which it may overwrite, say of targets `[N]`."""

LOGITS_AT_ONCE = 2**24
"""Most logits that the head makes at once (64 MiB in float32)."""


def answer_matches(
    model: Transformer, prompts: Sequence[IntArray], answers: Sequence[IntArray], *, stop: int, batch_size: int = 256
) -> BoolArray:
    """Whether greedy decoding of each prompt gives exactly its answer, then `stop`.

    Equal to comparing `generate(model, prompts, …, stop=stop)` with the answers (tested), in one pass: as long as
    the greedy tokens agree with the gold answer, both condition on the same tokens, so the first disagreement in
    one is the first in the other.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> answer_matches(model, [np.array([5, 7]), np.array([9])], [np.array([8]), np.array([6, 6])], stop=0).shape
        (2,)

    Args:
        model: a causal model.
        prompts: token ids of each question, at least one.
        answers: token ids of each gold answer, without `stop`.
        stop: token id that ends an answer.
        batch_size: questions per forward pass.

    Returns:
        One truth value per question.

    Raises:
        ValueError: if the model is bidirectional, a prompt or answer is no 1-D array of token ids, a prompt is empty,
            or prompts and answers differ in number.
    """
    _require_causal(model, True)
    prompts, answers = _checked_pairs(model, prompts, "answers", answers)
    end = np.array([require_id("stop", stop, model.config.vocab_size)])
    right, answer_offsets = _at_continuations(model, prompts, answers, end, batch_size, _is_argmax)
    return _all_right(right.astype(bool), answer_offsets)


def first_token_matches(
    model: Transformer, prompts: Sequence[IntArray], answers: Sequence[IntArray], *, batch_size: int = 256
) -> BoolArray:
    """Whether the most likely token after each prompt is the first token of its answer.

    Args:
        model: a causal model.
        prompts: token ids of each question, at least one.
        answers: token ids of each gold answer, at least one; tokens after the first are not looked at.
        batch_size: questions per forward pass.

    Returns:
        One truth value per question.

    Raises:
        ValueError: if the model is bidirectional, a prompt or answer is empty, or they differ in number.
    """
    _require_causal(model, True)
    prompts, answers = _checked_pairs(model, prompts, "answers", answers)
    for i, answer in enumerate(answers):
        if len(answer) == 0:
            raise ValueError(f"an answer must have at least one token, got none in answer {i}")
    inputs, offsets = _end_to_end(prompts)
    asked = np.zeros(len(inputs), dtype=bool)
    asked[offsets[1:] - 1] = True
    targets = np.array([answer[0] for answer in answers], dtype=np.int64)
    return _are_most_likely(model, inputs, offsets, asked, targets, batch_size)


def score(
    model: Transformer, prompts: Sequence[IntArray], continuations: Sequence[IntArray], *, batch_size: int = 256
) -> list[NDArray[np.float64]]:
    """Natural logarithm of the probability of each token of a continuation, given all that comes before it.

    Their sum is the log-probability of the whole continuation. To score whole documents, let every prompt be the token
    that comes between documents in training. That a continuation ends is scored only if the token that ends it is part
    of it.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> question = np.array([5, 7])
        >>> scores = score(model, [question, question], [np.array([8, 0]), np.array([6, 6, 0])])
        >>> [len(one) for one in scores]
        [2, 3]

    Args:
        model: a causal model.
        prompts: token ids of each prompt, at least one. Texts that start alike cost less.
        continuations: token ids of what follows each of them, perhaps none.
        batch_size: texts per forward pass.

    Returns:
        For each continuation as many numbers ≤ 0 as it has tokens, in nats.

    Raises:
        ValueError: if the model is bidirectional, a prompt is empty, or prompts and continuations differ in number.
    """
    _require_causal(model, True)
    prompts, continuations = _checked_pairs(model, prompts, "continuations", continuations)
    end = np.zeros(0, dtype=np.int64)
    values, offsets = _at_continuations(model, prompts, continuations, end, batch_size, _log_probabilities)
    return [values[start:end].copy() for start, end in pairwise(offsets)]


def masked_answer_matches(
    model: Transformer,
    documents: Sequence[IntArray],
    answer_masks: Sequence[BoolArray],
    *,
    mask_id: int,
    batch_size: int = 256,
) -> BoolArray:
    """Whether a masked model recovers every answer token of each document, all of them hidden at once.

    Args:
        model: a bidirectional model.
        documents: token ids of each document.
        answer_masks: which tokens of each document are hidden, at least one.
        mask_id: token id that replaces the hidden tokens.
        batch_size: documents per forward pass.

    Returns:
        One truth value per document.

    Raises:
        ValueError: if the model is causal, or masks do not fit the documents or hide nothing.
    """
    _require_causal(model, False)
    require_id("mask_id", mask_id, model.config.vocab_size)
    documents = token_arrays("documents", documents, model.config.vocab_size)
    masks = [np.asarray(mask) for mask in answer_masks]
    if len(documents) != len(masks):
        raise ValueError(f"every document needs a mask, got {len(documents)} documents and {len(masks)} masks")
    for i, (document, mask) in enumerate(zip(documents, masks, strict=True)):
        if mask.dtype != bool or document.shape != mask.shape or not mask.any():
            raise ValueError(
                f"mask {i} must have one truth value for each of {len(document)} tokens, at least one of them true; "
                f"got {mask.dtype} of shape {mask.shape}, {np.count_nonzero(mask)} true"
            )
    tokens, offsets = _end_to_end(documents)
    asked = np.concatenate([np.zeros(0, dtype=bool), *masks])
    right = _are_most_likely(model, np.where(asked, mask_id, tokens), offsets, asked, tokens[asked], batch_size)
    hidden_before = np.append(0, np.cumsum(asked))[offsets]
    return _all_right(right, hidden_before)


def token_matches(
    model: Transformer, samples: Samples, select: BoolArray, *, bos: int, batch_size: int = 256
) -> BoolArray:
    """Whether the most likely token, given everything before it in its document, is the true one.

    With `select` marking the first token of each value, this is the recall of a world's facts from its documents.

    Example:
        >>> recalled = token_matches(model, world.render("train", np.arange(100)), first_tokens, bos=world.eos)

    Args:
        model: a causal model.
        samples: documents, each read as `[bos] + tokens`.
        select: which tokens are asked about, aligned with `samples.tokens`.
        bos: token id in front of every document; the token between documents in training.
        batch_size: documents per forward pass.

    Returns:
        One truth value per selected token, in the order of `samples.tokens[select]`.

    Raises:
        ValueError: if the model is bidirectional or `select` is not aligned with the tokens.
    """
    _require_causal(model, True)
    require_id("bos", bos, model.config.vocab_size)
    if select.shape != samples.tokens.shape or select.dtype != bool:
        raise ValueError(
            f"select must be {len(samples.tokens)} truth values aligned with the tokens, "
            f"got shape {select.shape} of {select.dtype}"
        )
    inputs = np.empty_like(samples.tokens)
    inputs[1:] = samples.tokens[:-1]
    starts, ends = samples.offsets[:-1], samples.offsets[1:]
    inputs[starts[starts < ends]] = bos
    return _are_most_likely(model, inputs, samples.offsets, select, samples.tokens[select], batch_size)


def _require_causal(model: Transformer, causal: bool) -> None:
    if model.config.causal != causal:
        kind, other = ("causal", "masked_answer_matches") if causal else ("bidirectional", "answer_matches")
        raise ValueError(f"this needs a {kind} model, got causal={model.config.causal}; see {other}")
    if causal and not model.config.position.cacheable:
        raise ValueError(
            f"{model.config.position.name} positions cannot be scored in one pass: later tokens change earlier ones; "
            "use physlm.generate, which reads the text again for every token"
        )


def _checked_pairs(
    model: Transformer, prompts: Sequence[IntArray], name: str, answers: Sequence[IntArray]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Prompts and what follows each of them, which errors call `name`."""
    asked, given = (token_arrays(*part, model.config.vocab_size) for part in (("prompts", prompts), (name, answers)))
    if len(asked) != len(given):
        raise ValueError(f"every prompt needs an answer, got {len(asked)} prompts and {len(given)} answers")
    for i, prompt in enumerate(asked):
        if len(prompt) == 0:
            raise ValueError(f"a prompt must have at least one token, got none in prompt {i}")
    return asked, given


def _end_to_end(arrays: Sequence[IntArray]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Arrays laid end to end, and where each starts, `[arrays + 1]`."""
    offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays]).astype(np.int64), offsets


def _all_right(right: BoolArray, offsets: IntArray) -> BoolArray:
    """Whether `right` holds throughout each stretch `[offsets[i], offsets[i + 1])`."""
    wrong_before = np.append(0, np.cumsum(~right))[offsets]
    return wrong_before[1:] == wrong_before[:-1]


def _at_continuations(
    model: Transformer,
    prompts: Sequence[IntArray],
    continuations: Sequence[IntArray],
    end: IntArray,
    batch_size: int,
    judge: Judge,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What `judge` says of every token of the continuations, each followed by `end`, and where each of them starts."""
    tokens, offsets = _end_to_end([part for pair in zip(prompts, continuations, strict=True) for part in (*pair, end)])
    first, counts = offsets[1::3], offsets[3::3] - offsets[1::3]
    continuation_offsets = np.append(0, np.cumsum(counts))
    places = np.repeat(first - continuation_offsets[:-1], counts) + np.arange(continuation_offsets[-1])
    # Each token is asked for at the one before it.
    asked = np.zeros(len(tokens), dtype=bool)
    asked[places - 1] = True
    return _judge(model, tokens, offsets[::3], asked, tokens[places], batch_size, judge), continuation_offsets


def _are_most_likely(
    model: Transformer, tokens: IntArray, offsets: IntArray, asked: BoolArray, targets: IntArray, batch_size: int
) -> BoolArray:
    """Whether each target is the most likely output at its input; for the arguments see `_judge`."""
    return _judge(model, tokens, offsets, asked, targets, batch_size, _is_argmax).astype(bool)


def _judge(
    model: Transformer,
    tokens: IntArray,
    offsets: IntArray,
    asked: BoolArray,
    targets: IntArray,
    batch_size: int,
    judge: Judge,
) -> NDArray[np.float64]:
    """What `judge` says of each target at its input; truth values are zero and one.

    Args:
        model: the model.
        tokens: inputs of all documents laid end to end, `[tokens]`.
        offsets: document `i` is `tokens[offsets[i]:offsets[i + 1]]`.
        asked: inputs at which an output is asked for, `[tokens]`.
        targets: the output asked for at each of them, in their order.
        batch_size: documents per forward pass.
        judge: compares outputs with targets.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be ≥ 1, got {batch_size}")
    vocab_size = model.config.vocab_size
    # An accelerator that looks up a token that does not exist is lost to the whole process.
    for what, numbers in (("what is asked for", targets), ("what is read", tokens)):
        outside = (numbers < 0) | (numbers >= vocab_size)
        if outside.any():
            raise ValueError(f"{what} must be token ids in [0, {vocab_size}), got {numbers[outside][0]}")
    said = np.zeros(len(tokens), dtype=np.float64)
    wanted = np.zeros(len(tokens), dtype=np.int64)
    wanted[asked] = targets
    causal = model.config.causal
    starts, lengths = offsets[:-1], np.diff(offsets)
    if causal:
        # Nothing after the last input that is asked about matters; the last assignment to a document wins.
        places = np.flatnonzero(asked)
        owners = np.searchsorted(offsets, places, side="right") - 1
        lengths = np.zeros_like(lengths)
        lengths[owners] = places - starts[owners] + 1
    order = _alike_together(tokens, starts, lengths)
    with evaluating(model) as device:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            columns = np.arange(_fast_width(int(lengths[batch].max()), model.config.context))
            inside = columns < lengths[batch, None]
            places = np.where(inside, starts[batch, None] + columns, 0)
            here = inside & asked[places]
            rows = np.where(inside, tokens[places], 0)
            layout, firsts = _lay_out(rows, inside, here, share=causal, device=device)
            hidden = model.hidden(
                torch.from_numpy(rows.flatten()[firsts]).to(device),
                documents=None if causal else torch.from_numpy(inside.astype(np.int64)).to(device),
                layout=layout,
            )
            targets_here = torch.from_numpy(wanted[places[here]]).to(device)
            said[places[here]] = _by_slices(model, hidden, targets_here, judge).cpu().numpy()
    return said[asked]


def _fast_width(width: int, context: int) -> int:
    """A width that takes attention less time: by vectors of 16 keys, and what is left over one by one."""
    padded = math.ceil(width / 16) * 16
    return padded if padded - width <= 6 and padded <= context else width


def _alike_together(tokens: IntArray, starts: IntArray, lengths: IntArray) -> NDArray[np.int64]:
    """Numbers of the documents that are read at all: by length, those of one length by their tokens."""
    keys = [
        (length, tokens[start : start + length].tobytes())
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    return np.array(sorted(np.flatnonzero(lengths).tolist(), key=keys.__getitem__), dtype=np.int64)


def _lay_out(
    rows: IntArray, inside: BoolArray, asked: BoolArray, *, share: bool, device: torch.device
) -> tuple[Layout, NDArray[np.int64]]:
    """The layout in which no padding is a token, nor, with `share`, what a row has in common with the one before.

    Args:
        rows: documents, padded to `[B, T]`.
        inside: what of them is no padding.
        asked: where hidden states are wanted.
        share: whether to leave out what is shared.
        device: where the layout is needed.

    Returns:
        The layout, and the first place of each of its tokens.
    """
    new = inside.copy()
    if share:
        same = (rows[1:] == rows[:-1]) & inside[1:] & inside[:-1]
        new[1:] &= ~np.logical_and.accumulate(same, axis=1)
    firsts = np.flatnonzero(new)
    # Tokens are counted row by row, so that what a row shares is the latest token above it.
    numbers = np.zeros(new.shape, dtype=np.int64)
    numbers[new] = np.arange(len(firsts))
    numbers = np.maximum.accumulate(numbers, axis=0)
    numbers, places, wanted = (torch.from_numpy(part).to(device) for part in (numbers, firsts, np.flatnonzero(asked)))
    return Layout(numbers, places, wanted, int(asked.any(axis=0).argmax())), firsts


def _by_slices(
    model: Transformer, hidden: Float[Tensor, "N W"], targets: Int[Tensor, " N"], judge: Judge
) -> Bool[Tensor, " N"] | Float[Tensor, " N"]:
    """What `judge` says of the targets, for so many at once that their logits fit."""
    rows = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([judge(model.head(states), target) for states, target in parts])


def _log_probabilities(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Natural logarithm of the probability of each target."""
    return (logits.gather(1, targets[:, None]).double() - log_normaliser(logits)).squeeze(1)


def _is_argmax(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """`logits.argmax(-1) == targets`, several times as fast on a CPU; overwrites `logits`."""
    columns = targets[:, None]
    own = logits.gather(1, columns)
    rivals = logits.scatter_(1, columns, float("-inf")).amax(1, keepdim=True)
    right = own > rivals
    # Neither larger nor smaller: which of equals, or of numbers that are none, comes first is left to argmax.
    unclear = ~(right | (own < rivals)).squeeze(1)
    right = right.squeeze(1)
    if unclear.any():
        restored = logits[unclear].scatter_(1, columns[unclear], own[unclear])
        right[unclear] = restored.argmax(-1) == targets[unclear]
    return right
