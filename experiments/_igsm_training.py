"""Models of a seed's problems and solutions, trained from scratch once for all conditions and experiments."""

from __future__ import annotations

from dataclasses import asdict

from experiments._igsm import Practice, Reasoner, learning_curve, training_stream
from experiments._mistaken_texts import Text
from experiments._stages import Trained, fit_once
from physlm.lab import Workspace

STAGE_REVISION = 2


def pretrain(workspace: Workspace, practice: Practice, reasoner: Reasoner, text: Text, seed: int) -> Trained:
    """A model that has read problems of a seed's world from scratch.

    Args:
        workspace: of the run.
        practice: world, training, and the test problems of the learning curve.
        reasoner: the model.
        text: how solutions are told.
        seed: of the world, of the weights and of the stream.
    """
    world = practice.world_of(seed)
    source = text.source(world, context=reasoner.context, whole_loss=practice.whole_loss)
    return fit_once(
        workspace,
        "igsm-solutions",
        {
            "revision": STAGE_REVISION,
            "world": world.fingerprint(),
            "text": asdict(text),
            "whole_loss": practice.whole_loss,
            "batch_size": practice.batch_size,
            "curve_problems": practice.curve_problems,
        },
        training_stream(practice, source, reasoner.context, seed),
        reasoner.config(world.vocab_size),
        seed,
        learning_curve(practice, seed),
        recipe=practice.recipe,
        log_points=practice.log_points,
        threads=practice.threads,
        data_fingerprint=world.fingerprint(),
    )
