"""Retry upon regret: what a model writes is deleted sentence by sentence where a detector objects, and written again.

- The base decoding (greedy, or beam search) writes on; the first sentence that is objected to is deleted, and drawn
  from the model's distribution until it passes or the budget of the text is spent. Then the base decoding goes on.
- Greedy decoding writes the same whether it is stopped after every sentence or not, so it is not: a text is written to
  its end, the detector is asked about its sentences one after another, and what follows a deleted one is thrown away.
  With beams, what is written after each deletion is the best of whole continuations.
- What is drawn is a pure function of (key, number of the prompt, deletions so far, place in the sentence): the other
  prompts do not matter.

Source: Physics of Language Models 2.2, §3.2; the temperature is not given there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.models.checks import stop_tokens
from physlm.models.decoding import Text, batches, evaluating, prepare
from physlm.models.generation import continue_texts, generate
from physlm.models.transformer import Transformer
from physlm.randomness import Key

_MOST_DELETIONS = 1 << 20


@runtime_checkable
class Detector(Protocol):
    """Says which sentences are wrong."""

    def __call__(self, numbers: IntArray, texts: Sequence[IntArray], begins: IntArray) -> NDArray[np.bool_]:
        """Whether the last sentence of each text is wrong.

        Args:
            numbers: of the prompt that each text goes on from, `[Q]`.
            texts: prompt, sentences, and last the one that is asked about, whole.
            begins: where in the text that sentence begins, `[Q]`.

        Returns:
            Shape `[Q]`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Regretted:
    """What was added to a prompt."""

    tokens: NDArray[np.int64]
    """The new tokens that were kept, without the prompt and without the stop token."""
    deletions: int
    """How many sentences were deleted."""
    stop: int | None
    """The stop token that ended it; `None` if there was room for no more tokens."""


@dataclass
class _Draft:
    """A prompt and what has been kept after it.

    Attributes:
        number: of the prompt.
        tokens: prompt and continuation.
        longest: how many tokens there may be.
        begin: where the sentence begins that is being written.
        deletions: so far.
        is_drawn: whether that sentence is drawn, because the one before it was deleted.
        stop: the stop token that ended it.
        is_open: whether there is more to write.
    """

    number: int
    tokens: NDArray[np.int64]
    longest: int
    begin: int = field(init=False)
    deletions: int = 0
    is_drawn: bool = False
    stop: int | None = None
    is_open: bool = True

    def __post_init__(self) -> None:
        self.begin = len(self.tokens)

    def add(self, tokens: NDArray[np.int64], stop: int | None) -> None:
        """Write on."""
        room = self.longest - len(self.tokens)
        is_ended = stop is not None and len(tokens) < room
        self.tokens = np.concatenate([self.tokens, tokens[:room]])
        self.stop = stop if is_ended else None
        self.is_open = not is_ended and len(self.tokens) < self.longest

    def delete(self) -> None:
        """Take the sentence back, and all after it."""
        self.tokens, self.is_drawn, self.is_open, self.stop = self.tokens[: self.begin], True, True, None
        self.deletions += 1


def retry_upon_regret(
    model: Transformer,
    prompts: Sequence[IntArray],
    *,
    detector: Detector,
    sentence_end: int | Sequence[int],
    stop: int | Sequence[int],
    max_new_tokens: int,
    key: Key,
    most_deletions: int = 10,
    temperature: float = 1.0,
    beams: int = 1,
    batch_size: int = 256,
) -> list[Regretted]:
    """Continue every prompt until a stop token, and write again what the detector objects to.

    Example:
        >>> detector = ReadinessDetector(world.vocabulary, world.config.rendering, problems)
        >>> prompts = [world.renderer.prompt(problem) for problem in problems]
        >>> full_stop, eos = world.vocabulary.id("."), world.eos
        >>> written = retry_upon_regret(
        ...     model, prompts, detector=detector, sentence_end=full_stop, stop=eos, max_new_tokens=500, key=Key.of(0)
        ... )

    Args:
        model: a causal model; it is put back into its training mode.
        prompts: token ids of each prompt, at least one. A sentence begins where a prompt ends.
        detector: asked about whole sentences only.
        sentence_end: token id that ends a sentence and belongs to it, or several of them.
        stop: token id that ends a continuation, or several of them.
        max_new_tokens: most tokens that are kept after a prompt, the stop token included, ≥ 1.
        key: governs what is drawn.
        most_deletions: how many sentences of one text may be deleted, ≥ 0; when they are, nothing more is asked.
        temperature: divides the logits when a sentence is drawn, > 0.
        beams: of the base decoding; 1 is greedy.
        batch_size: most rows read at once.

    Returns:
        What was added to each prompt.

    Raises:
        ValueError: if a number is outside its range, a token ends both sentences and continuations, or the detector
            does not answer every question; besides, as for `generate`.
    """
    if not 0 <= most_deletions < _MOST_DELETIONS:
        raise ValueError(f"most_deletions must be in [0, {_MOST_DELETIONS}), got {most_deletions}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be > 0 and finite, got {temperature}: drawn greedily, a sentence stays")
    ends = stop_tokens(sentence_end, model.config.vocab_size)
    texts, stops = prepare(model, prompts, max_new_tokens=max_new_tokens, stop=stop, batch_size=batch_size)
    if not ends or set(ends) & set(stops):
        raise ValueError(f"sentence_end must be at least one token and none of stop, {stops}, got {ends}")
    drafts = [_Draft(number, text, len(text) + max_new_tokens) for number, text in enumerate(texts)]
    longest = max((draft.longest for draft in drafts), default=0)
    while open_drafts := [draft for draft in drafts if draft.is_open]:
        # No text goes on beyond the positions that the longest one may take.
        room = longest - max(len(draft.tokens) for draft in open_drafts)
        written = [draft for draft in open_drafts if not draft.is_drawn]
        made = generate(
            model,
            [draft.tokens for draft in written],
            max_new_tokens=room,
            stop=stops,
            beams=beams,
            batch_size=batch_size,
            details=True,
        )
        for draft, continuation in zip(written, made, strict=True):
            draft.add(continuation.tokens, continuation.stop)
        drawn = [draft for draft in open_drafts if draft.is_drawn]
        _draw_on(model, drawn, key, room, temperature, ends, stops, batch_size)
        _reconsider(open_drafts, detector, ends, most_deletions)
    return [
        Regretted(draft.tokens[len(text) :].copy(), draft.deletions, draft.stop)
        for draft, text in zip(drafts, texts, strict=True)
    ]


def _draw_on(
    model: Transformer,
    drafts: Sequence[_Draft],
    key: Key,
    room: int,
    temperature: float,
    ends: Sequence[int],
    stops: Sequence[int],
    batch_size: int,
) -> None:
    """Draw the rest of each draft's sentence, or as much of it as there is room for."""
    texts = [draft.tokens for draft in drafts]
    with evaluating(model) as device:
        for group in batches(model.config, texts, batch_size):
            uniforms = np.stack([_uniforms(drafts[i], key, room) for i in group])
            text = Text(model, [texts[i] for i in group], room)
            made, _ = continue_texts(
                text,
                len(group),
                room,
                (*ends, *stops),
                temperature,
                None,
                torch.from_numpy(uniforms).to(device),
                details=False,
            )
            for i, row in zip(group, made.cpu().numpy(), strict=True):
                tokens = row[row >= 0]
                last = int(tokens[-1])
                drafts[i].add(tokens[:-1] if last in stops else tokens, last if last in stops else None)


def _uniforms(draft: _Draft, key: Key, room: int) -> NDArray[np.float64]:
    """The random numbers of the next `room` tokens of the sentence that is being drawn."""
    drawn = len(draft.tokens) - draft.begin
    address = np.array([draft.number * _MOST_DELETIONS + draft.deletions])
    return key.uniforms(address, drawn + room)[0, drawn:]


def _reconsider(drafts: Iterable[_Draft], detector: Detector, ends: Sequence[int], most_deletions: int) -> None:
    """Ask about one sentence of every draft after another, until each has nothing to ask or deletes one."""
    waiting = list(drafts)
    while waiting:
        asked: list[tuple[_Draft, int]] = []
        for draft in waiting:
            (found,) = np.nonzero(np.isin(draft.tokens[draft.begin :], ends))
            if not len(found):
                continue
            end = draft.begin + int(found[0]) + 1
            if draft.deletions < most_deletions:
                asked.append((draft, end))
            elif draft.is_drawn:
                draft.begin, draft.is_drawn = end, False
        if not asked:
            return
        numbers = np.array([draft.number for draft, _ in asked])
        begins = np.array([draft.begin for draft, _ in asked])
        is_wrong = np.asarray(detector(numbers, [draft.tokens[:end] for draft, end in asked], begins))
        if is_wrong.shape != numbers.shape:
            raise ValueError(f"detector must give one answer to each of {len(asked)} questions, got {is_wrong.shape}")
        waiting = []
        for (draft, end), wrong in zip(asked, is_wrong.tolist(), strict=True):
            if wrong:
                draft.delete()
            else:
                draft.begin, draft.is_drawn = end, False
                waiting.append(draft)
