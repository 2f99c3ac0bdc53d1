"""Training on one grammar world, and comparing a model with exact distributions of whatever kind.

What `_grammars` does for sentences shown as they are, for texts whose exact next-token distribution is known otherwise
(`_grammar_texts`), and judged by the world, which knows how its sentences are shown.

Shapes: N tokens of a sentence, V tokens that sentences are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import _grammars
from experiments._grammars import SMALL_RECIPE
from experiments._predictions import divergence, log_probabilities
from physlm.data.contract import IntArray
from physlm.lab import Workspace
from physlm.lab.experiment import Scale
from physlm.models.positions import Deberta, PositionConfig, Rotary
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.training.recipe import Recipe
from physlm.worlds.cfg.world import CFGWorld

_CHUNK = 1024  # sentences whose predictions are held at once


ROTARY = Rotary(fraction=1.0)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model and how it is trained, at one scale.

    Attributes:
        layers, heads, width, context, position, initial_std: of the model.
        batch_size: windows per step.
        recipe: optimiser, steps and schedule.
        log_points: points of the learning curve.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    layers: int
    heads: int
    width: int
    context: int
    batch_size: int
    recipe: Recipe
    position: PositionConfig = ROTARY
    initial_std: float = 0.02
    log_points: int = 10
    threads: int = 1

    @property
    def tokens(self) -> int:
        """Tokens that a model reads."""
        return self.recipe.steps * self.batch_size * self.context

    def config(self, vocab_size: int) -> TransformerConfig:
        """The model for a vocabulary."""
        return TransformerConfig(
            vocab_size=vocab_size,
            context=self.context,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            initial_std=self.initial_std,
            # Of GPT-NeoX, the paper's rotary model, and the faster one on a CPU.
            activation="gelu_exact",
            position=self.position,
        )


TRAINING: dict[Scale, Training] = {
    "smoke": Training(
        layers=1,
        heads=2,
        width=16,
        context=48,
        batch_size=4,
        recipe=Recipe(steps=20, learning_rate=3e-3),
        log_points=2,
    ),
    "cpu": Training(
        layers=4,
        heads=4,
        width=64,
        context=128,
        batch_size=16,
        recipe=SMALL_RECIPE,
    ),
    "gpu": Training(
        layers=8,
        heads=8,
        width=512,
        context=512,
        batch_size=96,
        recipe=Recipe(steps=5000, learning_rate=3e-4, warmup_steps=500),
    ),
    "paper": Training(
        layers=12,
        heads=12,
        width=768,
        context=512,
        batch_size=96,
        position=Deberta(distances=512),
        recipe=Recipe(steps=100_000, learning_rate=3e-4, schedule="linear", final_fraction=0.0),
    ),
}
"""One model and recipe a scale, for all experiments that ask one grammar several questions."""


def fit(
    workspace: Workspace,
    training: Training,
    world: CFGWorld,
    seed: int,
    evaluate: Callable[[Transformer], Mapping[str, Any]],
) -> tuple[Transformer, list[dict[str, Any]], float]:
    """Train a model on fresh sentences of a world.

    Returns:
        The model; its learning curve, with what `evaluate` says of the model at every point; and the CPU seconds of a
        step, evaluations aside.
    """
    model, records, seconds = _grammars.fit(
        workspace,
        world,
        training.config(world.vocab_size),
        seed,
        evaluate,
        batch_size=training.batch_size,
        recipe=training.recipe,
        log_points=training.log_points,
        threads=training.threads,
    )
    return model, [{key: value for key, value in row.items() if key != "learning_rate"} for row in records], seconds


def predictions(model: Transformer, world: CFGWorld, sentences: Sequence[IntArray]) -> Iterator[NDArray[np.float64]]:
    """What the model expects after BOS and the first k tokens of each sentence, for k from 0 to N, `[N + 1, V + 1]`.

    Natural logarithms over the tokens that sentences are made of, and last the end.
    """
    for start in range(0, len(sentences), _CHUNK):
        texts = [np.append(world.bos, sentence) for sentence in sentences[start : start + _CHUNK]]
        yield from log_probabilities(model, texts, np.arange(1, world.eos + 1))


def mean_divergence(
    model: Transformer,
    world: CFGWorld,
    sentences: Sequence[IntArray],
    exact: Callable[[IntArray], NDArray[np.float64]],
) -> float:
    """KL from the exact next-token distribution, `[N + 1, V + 1]` of a sentence, to the model's, in nats per token.

    The mean over the prefixes of a sentence, and of that over sentences.
    """
    found = predictions(model, world, sentences)
    return float(np.mean([divergence(exact(one), logs).mean() for one, logs in zip(sentences, found, strict=True)]))


def in_language(world: CFGWorld, prefixes: Sequence[IntArray], ends: Sequence[IntArray | None]) -> NDArray[np.bool_]:
    """Whether each prefix with its end is a sentence of the world; an end that never came, `None`, makes none."""
    return np.array(
        [
            end is not None and bool(world.check(None, np.concatenate([[world.bos], prefix, end]).astype(np.int64)))
            for prefix, end in zip(prefixes, ends, strict=True)
        ],
        dtype=np.bool_,
    )
