"""Scoring a model against known tokens in one forward pass.

- Greedy decoding gives exactly the gold answer if and only if the most likely token is the right one at every step
  along the gold answer. So exact match needs no generation: the gold answer is read once and checked everywhere.
- Documents of any lengths are batched: sorted by length and padded on the right, which a causal model cannot see
  and from which a bidirectional model is kept by its document mask.
- The head runs only on the positions that are asked about.

All forward passes are plain float32 without dropout; `batch_size` counts documents and changes speed only.

Shape legend: B batch, T tokens, W model width, N tokens of all documents laid end to end.
Source: Physics of Language Models 3.1, §2.2 and App. D (answer and first-token accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import IntArray, Samples
from physlm.models.generation import evaluating
from physlm.models.transformer import Transformer

BoolArray = NDArray[np.bool_]

LOGITS_AT_ONCE = 2**24
"""Most logits that the head makes at once (64 MiB in float32)."""


def answer_matches(
    model: Transformer, prompts: Sequence[IntArray], answers: Sequence[IntArray], *, stop: int, batch_size: int = 512
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
        ValueError: if the model is bidirectional, a prompt is empty, or prompts and answers differ in number.
    """
    _require_causal(model, True)
    answer_lengths = _paired_lengths(prompts, answers)
    inputs, offsets = _end_to_end([part for pair in zip(prompts, answers, strict=True) for part in pair])
    targets, target_offsets = _end_to_end([np.append(answer, stop) for answer in answers])
    # The tokens that predict the answer and `stop` are the last ones of prompt and answer, one per target.
    ends = offsets[2::2]
    steps = np.arange(len(targets)) - np.repeat(target_offsets[:-1], answer_lengths + 1)
    asked = np.zeros(len(inputs), dtype=bool)
    asked[np.repeat(ends - answer_lengths - 1, answer_lengths + 1) + steps] = True
    right = _most_likely(model, inputs, offsets[::2], asked, batch_size) == targets
    return _all_right(right, target_offsets)


def first_token_matches(
    model: Transformer, prompts: Sequence[IntArray], answers: Sequence[IntArray], *, batch_size: int = 512
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
    answer_lengths = _paired_lengths(prompts, answers)
    if (answer_lengths == 0).any():
        raise ValueError(f"an answer must have at least one token, got none in answer {int(answer_lengths.argmin())}")
    inputs, offsets = _end_to_end(prompts)
    asked = np.zeros(len(inputs), dtype=bool)
    asked[offsets[1:] - 1] = True
    targets = np.array([answer[0] for answer in answers], dtype=np.int64)
    return _most_likely(model, inputs, offsets, asked, batch_size) == targets


def masked_answer_matches(
    model: Transformer,
    documents: Sequence[IntArray],
    answer_masks: Sequence[BoolArray],
    *,
    mask_id: int,
    batch_size: int = 512,
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
    if len(documents) != len(answer_masks):
        raise ValueError(f"every document needs a mask, got {len(documents)} documents and {len(answer_masks)} masks")
    for i, (document, mask) in enumerate(zip(documents, answer_masks, strict=True)):
        if len(document) != len(mask) or not np.any(mask):
            raise ValueError(
                f"mask {i} must have one truth value for each of {len(document)} tokens, at least one of them true; "
                f"got {len(mask)} values, {np.count_nonzero(mask)} true"
            )
    tokens, offsets = _end_to_end(documents)
    asked = np.concatenate([np.zeros(0, dtype=bool), *answer_masks]).astype(bool)
    right = _most_likely(model, np.where(asked, mask_id, tokens), offsets, asked, batch_size) == tokens[asked]
    hidden_before = np.append(0, np.cumsum(asked))[offsets]
    return _all_right(right, hidden_before)


def token_matches(
    model: Transformer, samples: Samples, select: BoolArray, *, bos: int, batch_size: int = 128
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
    if select.shape != samples.tokens.shape or select.dtype != bool:
        raise ValueError(
            f"select must be {len(samples.tokens)} truth values aligned with the tokens, "
            f"got shape {select.shape} of {select.dtype}"
        )
    inputs = np.empty_like(samples.tokens)
    inputs[1:] = samples.tokens[:-1]
    starts, ends = samples.offsets[:-1], samples.offsets[1:]
    inputs[starts[starts < ends]] = bos
    return _most_likely(model, inputs, samples.offsets, select, batch_size) == samples.tokens[select]


def _require_causal(model: Transformer, causal: bool) -> None:
    if model.config.causal != causal:
        kind, other = ("causal", "masked_answer_matches") if causal else ("bidirectional", "answer_matches")
        raise ValueError(f"this needs a {kind} model, got causal={model.config.causal}; see {other}")


def _paired_lengths(prompts: Sequence[IntArray], answers: Sequence[IntArray]) -> NDArray[np.int64]:
    """Lengths of the answers, once prompts are known to be fit."""
    if len(prompts) != len(answers):
        raise ValueError(f"every prompt needs an answer, got {len(prompts)} prompts and {len(answers)} answers")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"a prompt must have at least one token, got none in prompt {i}")
    return np.array([len(answer) for answer in answers], dtype=np.int64)


def _end_to_end(arrays: Sequence[IntArray]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Arrays laid end to end, and where each starts, `[arrays + 1]`."""
    offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays]).astype(np.int64), offsets


def _all_right(right: BoolArray, offsets: IntArray) -> BoolArray:
    """Whether `right` holds throughout each stretch `[offsets[i], offsets[i + 1])`."""
    wrong_before = np.append(0, np.cumsum(~right))[offsets]
    return wrong_before[1:] == wrong_before[:-1]


def _most_likely(
    model: Transformer, tokens: IntArray, offsets: IntArray, asked: BoolArray, batch_size: int
) -> NDArray[np.int64]:
    """The most likely output at the inputs where `asked` holds, in their order.

    Args:
        model: the model.
        tokens: inputs of all documents laid end to end, `[N]`.
        offsets: document `i` is `tokens[offsets[i]:offsets[i + 1]]`.
        asked: inputs at which an output is wanted, `[N]`.
        batch_size: documents per forward pass.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be ≥ 1, got {batch_size}")
    answers = np.zeros(len(tokens), dtype=np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if model.config.causal:
        # Nothing after the last input that is asked about matters; the last assignment to a document wins.
        places = np.flatnonzero(asked)
        owners = np.searchsorted(offsets, places, side="right") - 1
        lengths = np.zeros_like(lengths)
        lengths[owners] = places - starts[owners] + 1
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    with evaluating(model) as device:
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            columns = np.arange(lengths[batch].max())
            inside = columns < lengths[batch, None]
            places = np.where(inside, starts[batch, None] + columns, 0)
            wanted = inside & asked[places]
            padded = torch.from_numpy(np.where(inside, tokens[places], 0).astype(np.int64)).to(device)
            documents = None
            if not model.config.causal and not inside.all():
                documents = torch.from_numpy(inside.astype(np.int64)).to(device)
            hidden = model.hidden(padded, documents=documents)[torch.from_numpy(wanted).to(device)]
            answers[places[wanted]] = _largest_logits(model, hidden).cpu().numpy()
    return answers[asked]


def _largest_logits(model: Transformer, hidden: Float[Tensor, "N W"]) -> Int[Tensor, " N"]:
    """The token with the largest logit for each hidden state."""
    rows = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    return torch.cat([model.head(part).argmax(-1) for part in hidden.split(rows)])
