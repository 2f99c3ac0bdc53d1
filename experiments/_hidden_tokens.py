"""Asking a masked and a causal model about the same hidden tokens, and what their answers are worth.

- A masked model answers at the mask. A causal model answers by Bayes' rule: the probability of the whole sentence, its
  end included, with every possible filling in the hidden places.
- What a model *knows* of the tokens that need level ℓ (`experiments._local_oracles`) is `1 − Σ KL(p ‖ model) / Σ
  KL(p ‖ q)` over them, with p the full posterior and q that of the local oracle of level ℓ + 1: 1 for whoever has the
  grammar, 0 for whoever has exactly its rules below level ℓ, less for whoever is wrong even about those.

Shapes: L levels, H hidden tokens, N tokens of all questions, T terminals.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from experiments._local_oracles import beyond, hidden_posteriors, needed_levels
from experiments._predictions import divergence, log_probabilities
from physlm.data.contract import IntArray
from physlm.evaluation import score
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld


@dataclass(frozen=True, eq=False)
class Question:
    """Some hidden tokens of a sentence.

    Attributes:
        sentence: token ids without BOS and EOS.
        hidden: positions of the hidden tokens, `[H]`.
        posteriors: of each of them, for the local oracles of all levels, `[L, H, T]`.
    """

    sentence: IntArray
    hidden: IntArray
    posteriors: NDArray[np.float64]


def token_questions(world: CFGWorld, sentences: int, each: int, key: Key) -> list[Question]:
    """One hidden token at a time, `each` times in each of the first test sentences."""
    return _questions(world, sentences, each, key, level=-1)


def constituent_questions(world: CFGWorld, sentences: int, each: int, key: Key) -> list[Question]:
    """A whole constituent of the lowest level at a time, `each` times in each of the first test sentences."""
    return _questions(world, sentences, each, key, level=-2)


def _questions(world: CFGWorld, sentences: int, each: int, key: Key, *, level: int) -> list[Question]:
    parser, numbers = Parser(world.grammar), np.arange(sentences)
    texts, derivations = world.sentences("test", numbers), world.derivations("test", numbers)
    asked = []
    for number, sentence, derivation in zip(numbers.tolist(), texts, derivations, strict=True):
        nodes = derivation.ancestors(level % len(derivation.symbols))
        for node in key.permutations(np.array([number]), int(nodes[-1]) + 1)[0][:each]:
            hidden = np.flatnonzero(nodes == node)
            posteriors = hidden_posteriors(parser, sentence, derivation, hidden)
            asked.append(Question(sentence, hidden, posteriors))
    return asked


def answers(model: Transformer, world: CFGWorld, questions: Sequence[Question]) -> NDArray[np.float64]:
    """Natural logarithm of the model's probability of every terminal at all hidden tokens, `[N, T]`."""
    return (_by_bayes if model.config.causal else _at_masks)(model, world, questions)


def _at_masks(model: Transformer, world: CFGWorld, questions: Sequence[Question]) -> NDArray[np.float64]:
    texts = []
    for question in questions:
        text = np.concatenate([[world.bos], question.sentence, [world.eos]])
        text[1 + question.hidden] = world.mask
        texts.append(text)
    predicted = log_probabilities(model, texts, np.arange(1, world.alphabet_size + 1))
    return np.concatenate([rows[1 + question.hidden] for rows, question in zip(predicted, questions, strict=True)])


def _by_bayes(model: Transformer, world: CFGWorld, questions: Sequence[Question]) -> NDArray[np.float64]:
    texts = []
    for question in questions:
        for filling in itertools.product(range(1, world.alphabet_size + 1), repeat=len(question.hidden)):
            text = np.append(question.sentence, world.eos)
            text[question.hidden] = filling
            texts.append(text)
    begin = np.array([world.bos])
    totals = iter(scores.sum() for scores in score(model, [begin] * len(texts), texts))
    rows = []
    for question in questions:
        count = len(question.hidden)
        shape = (world.alphabet_size,) * count
        joint = np.fromiter(totals, dtype=np.float64, count=world.alphabet_size**count).reshape(shape)
        joint -= logsumexp(joint)
        rows += [logsumexp(joint, axis=tuple(set(range(count)) - {place})) for place in range(count)]
    return np.array(rows)


def knowledge_of(questions: Sequence[Question], log_predicted: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """`knowledge` of answers to questions, `[N, T]`."""
    posteriors = np.concatenate([question.posteriors for question in questions], axis=1)
    return knowledge(beyond(posteriors), divergence(posteriors[0], log_predicted))


def knowledge(beyond_levels: NDArray[np.float64], divergences: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """What a model knows of the tokens that need each level.

    Args:
        beyond_levels: what lies beyond each level, in nats, `[L, N]`.
        divergences: KL from the full posterior to the model's answer, `[N]`.

    Returns:
        By level, for `deep` (ℓ ≤ L/2) and for `shallow` (all other levels at which anything is needed): the number of
        `tokens`, the mean of what `lies_beyond` the next smaller constituent, the mean `divergence`, and the share
        that is `known`; `None` where there is no token.
    """
    levels = len(beyond_levels)
    needed = needed_levels(beyond_levels)
    baseline = beyond_levels[np.minimum(needed, levels - 1), np.arange(len(needed))]
    groups = {str(level): needed == level for level in range(1, levels)} | _depths(needed, levels)
    return {name: _group(baseline[among], divergences[among]) for name, among in groups.items()}


def split_by_depth(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Questions about one token each, by whether they need a `deep` level or a `shallow` one."""
    posteriors = np.concatenate([question.posteriors for question in questions], axis=1)
    masks = _depths(needed_levels(beyond(posteriors)), len(posteriors))
    return {name: list(itertools.compress(questions, mask)) for name, mask in masks.items()}


def _depths(needed: NDArray[np.int64], levels: int) -> dict[str, NDArray[np.bool_]]:
    return {"deep": needed <= levels // 2, "shallow": (needed > levels // 2) & (needed < levels)}


def _group(baseline: NDArray[np.float64], divergences: NDArray[np.float64]) -> dict[str, Any]:
    if not len(baseline):
        return {"tokens": 0, "lies_beyond": None, "divergence": None, "known": None}
    return {
        "tokens": len(baseline),
        "lies_beyond": float(baseline.mean()),
        "divergence": float(divergences.mean()),
        "known": float(1 - divergences.sum() / baseline.sum()),
    }


def deep_by_shallow(curve: Sequence[Mapping[str, float]], shallow: NDArray[np.float64]) -> NDArray[np.float64]:
    """What was known of deep tokens when as much was known of shallow ones, interpolated between points of a curve.

    Args:
        curve: points with what is known of `shallow` and of `deep` tokens.
        shallow: where to read the curve, `[points]`; NaN comes back outside of it.
    """
    known = np.maximum.accumulate([point["shallow"] for point in curve])
    return np.interp(shallow, known, [point["deep"] for point in curve], left=np.nan, right=np.nan)


def fill_in(model: Transformer, world: CFGWorld, sentences: Sequence[IntArray], span: int, key: Key) -> list[IntArray]:
    """The sentences with their last `span` tokens filled in by a masked model, one by one from the left.

    Every token is drawn at temperature 1 from the model's distribution over the whole vocabulary, given all tokens
    before it and the masks after it. How many there are is given away.
    """
    texts = [np.concatenate([[world.bos], sentence, [world.eos]]).astype(np.int64) for sentence in sentences]
    for text in texts:
        text[-1 - span : -1] = world.mask
    draws = key.uniforms(np.arange(len(texts)), span)
    for step in range(span):
        predicted = log_probabilities(model, texts, np.arange(world.vocab_size))
        for text, rows, draw in zip(texts, predicted, draws[:, step], strict=True):
            place = len(text) - 1 - span + step
            cumulative = np.exp(rows[place]).cumsum()
            text[place] = np.searchsorted(cumulative, draw * cumulative[-1], side="right")
    return [text[1:-1] for text in texts]
