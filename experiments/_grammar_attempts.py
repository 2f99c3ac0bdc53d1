"""Sentences of a grammar with wrong tokens in them, taken back by <back> or not, and models that write such sentences.

- All texts of a seed are made of the same sentences in the same order; they differ in the attempts alone.
- Before every token of a sentence, with some chance, one more token that no sentence has there (2.2, §4, for grammars).
- What a model writes is judged without what it has taken back. To take back a token that it was given is wrong. So is
  a text without an end; what it took back counts as in any other.

Shapes: N tokens of a sentence, T terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._grammar_measures import in_language
from experiments._grammars import go_on, test_sentences
from experiments._mistaken_texts import CLEAN, Text
from experiments._noisy_prefixes import CLEAN_PREFIX, COLD, NO_PREFIX, WARM
from experiments._predictions import log_probabilities
from physlm.data.contract import IntArray
from physlm.data.streams import Source
from physlm.lab import pack_items
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld
from physlm.worlds.mistakes import AttemptRole, RetryConfig, RetryWorld, retry_world
from physlm.worlds.mistakes.error_models import Attempts, Places
from physlm.worlds.mistakes.grammars import GrammarErrors

TASKS = ((NO_PREFIX, WARM), (CLEAN_PREFIX, WARM), (CLEAN_PREFIX, COLD))
"""What models are asked to write, and at which temperature. At a low one all own sentences would be nearly the same."""


@dataclass(frozen=True, kw_only=True)
class Unmarked(Text):
    """The same wrong tokens at the same places, without <back>."""

    @property
    def name(self) -> str:
        """In the names of conditions, "unmarked_0.2"."""
        return f"unmarked_{self.rate:g}"


class UnmarkedErrors(GrammarErrors):
    """Wrong tokens that nothing takes back: as `GrammarErrors`, but for <back>."""

    def places(self, split: str, indices: NDArray) -> Places:
        """Documents, and a place before every token of their sentences."""
        marked = super().places(split, indices)

        def write(place: IntArray, number: IntArray) -> Attempts:
            attempts = marked.write(place, number)
            role = attempts.marks["role"]
            wrong = role == AttemptRole.NAME
            return Attempts(attempts.tokens[wrong], np.ones_like(attempts.lengths), {"role": role[wrong]})

        return replace(marked, write=write)

    def spans(self, tokens: IntArray) -> IntArray:
        """None: what is wrong cannot be told from what is right by looking for a token."""
        del tokens
        return np.zeros((0, 2), dtype=np.int64)


def attempted(world: CFGWorld, text: Text) -> RetryWorld:
    """The same sentences with the attempts of a text, in a vocabulary that has <back>."""
    config = RetryConfig(seed=world.config.seed, rate=text.rate)
    return retry_world(world, config, UnmarkedErrors(world, config) if isinstance(text, Unmarked) else None)


def source(world: CFGWorld, text: Text) -> Source:
    """The training sentences of a text, with loss on all tokens but those it masks."""
    read = attempted(world, text)
    return Source(read, "train", loss_roles=read.loss_roles(text.mask))


def next_token(world: CFGWorld, text: Text) -> Callable[[IntArray], NDArray[np.float64]]:
    """The exact distribution of what a text teaches to write after a beginning without attempts.

    A function of a sentence, `[N + 1, T + 1]` for its first k tokens, k from 0 to N; the last column is the end. Where
    attempts bear no loss, it is the distribution of the tokens that do.
    """
    parser, rate = Parser(world.grammar), text.rate

    def exact(sentence: IntArray) -> NDArray[np.float64]:
        chances = parser.chart(sentence).next_token
        going_on, end = chances[:, :-1], chances[:, -1:]
        impossible = going_on == 0
        candidates = impossible.sum(axis=1, keepdims=True)
        # Attempts come before tokens, and never before the end.
        attempt = np.where(candidates > 0, rate, 0.0) * (1 - end) * impossible / np.maximum(candidates, 1)
        right = np.where(candidates > 0, 1 - rate, 1.0) * going_on
        taught = np.concatenate([right + attempt if text.mask == "none" else right, end], axis=1)
        return taught / taught.sum(axis=1, keepdims=True)

    return exact


def take_apart(world: CFGWorld, written: Sequence[IntArray]) -> list[tuple[IntArray, int]]:
    """What was written after prefixes, without what was taken back; and how often that was."""
    reader = attempted(world, CLEAN)
    return [(reader.strip(tokens), int(reader.chains(tokens).sum())) for tokens in written]


def examine(model: Transformer, world: CFGWorld, seed: int, count: int, cut: int) -> dict[str, Any]:
    """Sentences of its own and completions of the first test sentences, judged, and the attempts in them.

    Returns:
        By task and temperature: `items`, whether each is a sentence of the grammar; `attempts`, for each token that was
        not taken back, in all texts; `unfinished`, the share of texts that came to no end.
    """
    found: dict[str, Any] = {name: {} for name, _ in TASKS}
    for name, temperature in TASKS:
        prefixes = [sentence[: cut_of(name, cut)] for sentence in test_sentences(world, count)]
        written = go_on(model, world, prefixes, Key.of("completions", seed, name), temperature=temperature)
        taken = take_apart(world, [one.tokens for one in written])
        ends = [kept if one.finished else None for one, (kept, _) in zip(written, taken, strict=True)]
        right = in_language(world, prefixes, ends)
        found[name][f"{temperature:g}"] = {
            "mean": float(right.mean()),
            "items": pack_items(right),
            "attempts": sum(attempts for _, attempts in taken) / max(1, sum(len(kept) for kept, _ in taken)),
            "unfinished": float(np.mean([not one.finished for one in written])),
        }
    return found


def cut_of(task: str, cut: int) -> int:
    """How many tokens of a test sentence are given."""
    return 0 if task == NO_PREFIX else cut


def attempts_in_text(world: CFGWorld, text: Text, count: int, cut: int) -> float:
    """Attempts that a text has in the first test sentences after their first tokens, for each token that follows."""
    samples = attempted(world, text).render("test", np.arange(count))
    attempts = tokens = 0
    for i in range(count):
        _, marks = samples.document(i)
        is_clean = marks["role"] < AttemptRole.FRAME
        before = np.cumsum(is_clean) - is_clean - world.config.bos  # tokens of the sentence before each position
        attempts += int(((before >= cut) & (marks["role"] == AttemptRole.BACK)).sum())
        tokens += int(((before >= cut) & is_clean).sum())
    return attempts / tokens


def taken_back(model: Transformer, world: CFGWorld, text: Text, count: int) -> dict[str, float]:
    """The model's chance of <back> after wrong tokens and after right ones, in test sentences of a text.

    The text has it after all wrong ones and after no right one.
    """
    read = attempted(world, text)
    samples = read.render("test", np.arange(count))
    texts = [samples.document(i)[0] for i in range(count)]
    logs = log_probabilities(model, texts, np.arange(read.vocab_size))
    back = np.exp(np.concatenate([rows[:, read.back] for rows in logs]))
    role = samples.marks["role"]
    return {
        "wrong": float(back[role == AttemptRole.NAME].mean()),
        "right": float(back[role < AttemptRole.FRAME].mean()),
    }
