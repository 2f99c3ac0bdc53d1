"""The parts that tokens play in a text, and how far a model is from the least possible loss on each of them.

Source: parts and least losses are ours; the worlds are those of Physics of Language Models 1 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments._grammars import test_sentences
from experiments._local_oracles import beyond, needed_levels, next_token_posteriors
from experiments._predictions import divergence, log_probabilities
from physlm.evaluation import score
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld, Role
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

LEARNT = 0.9
"""Share of the fall of the loss at which a part counts as learnt."""
FORM, CONTENT = "form", "content"


@dataclass(frozen=True, eq=False)
class Measured:
    """Texts whose tokens play known parts.

    Attributes:
        parts: the part of every token of every text; the empty string where it plays none.
        loss: of every token of every text above the least possible, in nats, for a model as it is.
    """

    parts: list[NDArray[np.str_]]
    loss: Callable[[Transformer], list[NDArray[np.float64]]]

    def shuffled(self, key: Key) -> list[NDArray[np.str_]]:
        """The parts in random order within each text."""
        orders = (key.permutations(np.array([i]), len(parts))[0] for i, parts in enumerate(self.parts))
        return [parts[order] for parts, order in zip(self.parts, orders, strict=True)]


def measured_sentences(world: CFGWorld, count: int) -> Measured:
    """Test sentences; the parts are what next tokens need: `form` a shallow level, `content` the sentence."""
    parser, numbers = Parser(world.grammar), np.arange(count)
    sentences = test_sentences(world, count)
    texts = [np.append(world.bos, sentence) for sentence in sentences]
    truth, parts = [], []
    for sentence, derivation in zip(sentences, world.derivations("test", numbers), strict=True):
        posteriors = next_token_posteriors(parser, sentence, derivation)
        needed, levels = needed_levels(beyond(posteriors)), len(posteriors)
        between = [f"level {level}" for level in range(2, levels // 2 + 1)]
        parts.append(np.array(["", CONTENT, *between, *[FORM] * (levels - levels // 2)])[needed])
        truth.append(posteriors[0])

    def loss(model: Transformer) -> list[NDArray[np.float64]]:
        predicted = log_probabilities(model, texts, np.arange(1, world.eos + 1))
        return [divergence(rows, log_rows) for rows, log_rows in zip(truth, predicted, strict=True)]

    return Measured(parts, loss)


def measured_biographies(world: BiographyWorld, count: int, templates: int) -> Measured:
    """The first biographies; the parts are `form`, `content` and `names`, and pronouns play none."""
    samples = world.render("biographies", np.arange(count), marks=("role",))
    texts = [samples.document(i)[0] for i in range(count)]
    role = samples.marks["role"]
    # What the draws of templates and of people cost at the least, spread over all tokens that they decide.
    nats = {
        Role.TEMPLATE: len(world.config.attributes) * np.log(templates) * count,
        Role.NAME: np.log(world.config.people) * count,
    }
    least = np.zeros(len(role))
    for drawn, total in nats.items():
        least[role == drawn] = total / np.count_nonzero(role == drawn)
    names = {Role.TEMPLATE: FORM, Role.VALUE: CONTENT, Role.NAME: "names"}
    parts = np.array([names.get(one, "") for one in Role])[role]
    edges = samples.offsets[1:-1]

    def loss(model: Transformer) -> list[NDArray[np.float64]]:
        scores = score(model, [np.array([world.eos])] * count, texts)
        return [-logs - floor for logs, floor in zip(scores, np.split(least, edges), strict=True)]

    return Measured(np.split(parts, edges), loss)


def by_part(parts: list[NDArray[np.str_]], losses: list[NDArray[np.float64]]) -> dict[str, float]:
    """Mean loss of the tokens that play each part."""
    flat, values = np.concatenate(parts), np.concatenate(losses)
    return {str(name): float(values[flat == name].mean()) for name in np.unique(flat) if name}


def step_learnt(steps: Sequence[int], losses: Sequence[float]) -> tuple[float, bool]:
    """The step at which a loss has fallen by `LEARNT` of what it was at first, and whether it did at all.

    Args:
        steps: of the points of the curve, the first before any training.
        losses: above the least possible, at these points.
    """
    goal = (1 - LEARNT) * losses[0]
    for i in range(1, len(losses)):
        if losses[i] <= goal:
            share = (losses[i - 1] - goal) / (losses[i - 1] - losses[i])
            return steps[i - 1] + share * (steps[i] - steps[i - 1]), True
    return float(steps[-1]), False
