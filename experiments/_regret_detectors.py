"""Detectors of wrong sentences that are trained: probes of a frozen model, at the words that say what comes next.

They are fitted to canonical solutions that were begun, and asked, in use, about what a model writes itself.

Source: Physics of Language Models 2.2, §3.1 and App. D.2, version 1: an update of the embedding and a linear map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physlm.models.transformer import Transformer
from physlm.probing.detectors import ProbeDetector
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.randomness import Key
from physlm.worlds.igsm.openings import Head, draw_openings
from physlm.worlds.igsm.world import IGSMWorld

_READY = "ready"


@dataclass(frozen=True, kw_only=True)
class DetectorTraining:
    """How a detector is trained.

    Attributes:
        fitted: problems that it is fitted to, with solution templates that the model was trained on.
        asked: problems with other templates, on which its accuracy is told.
        rank: of the update of the embedding.
        alpha: factor on the update.
        training: a batch is of problems.
    """

    fitted: int
    asked: int
    rank: int = 8
    alpha: float = 4.0
    training: ProbeTraining

    def __post_init__(self) -> None:
        for name in ("fitted", "asked", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")


def train_detector(
    model: Transformer, world: IGSMWorld, training: DetectorTraining, key: Key
) -> tuple[ProbeDetector, dict[str, float]]:
    """A detector of sentences about what is not ready.

    Args:
        model: is read, and stays as it is.
        world: whose problems.
        training: how it is trained.
        key: governs what is drawn.

    Returns:
        The detector, and its accuracy about random parameters after canonical sentences of new problems: by label
        ("ready", "not_ready") and "balanced", their mean.

    Raises:
        ValueError: if so few problems are asked that one of the labels does not occur.
    """
    fitted = draw_openings(world, "train", np.arange(training.fitted), key.child("fitted"))
    probes = EmbeddingProbes(
        model, rank=training.rank, alpha=training.alpha, norm="layer", training=training.training, key=key
    )
    probes.fit(Inputs.last(fitted.samples), {_READY: fitted.ready})
    asked = draw_openings(world, "test", np.arange(training.asked), key.child("asked"))
    if len(np.unique(asked.ready)) < 2:
        raise ValueError(f"asked must be so many problems that both labels occur, got {training.asked}")
    right = probes.correct(Inputs.last(asked.samples), {_READY: asked.ready})[_READY][-1]
    found = {name: float(right[asked.ready == label].mean()) for name, label in (("ready", 1), ("not_ready", 0))}
    detector = ProbeDetector(probes, _READY, Head(world.vocabulary, world.config.rendering).read)
    return detector, {**found, "balanced": float(np.mean(list(found.values())))}
