"""Training on texts with attempts: from scratch, once for all that needs the model, and late, from a trained model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments import _fitting
from experiments._igsm import Practice, Reasoner, learning_curve, training_stream
from experiments._mistaken_texts import Text
from physlm.data.streams import StreamState
from physlm.lab import Workspace
from physlm.models.generation import evaluating
from physlm.models.low_rank import add_low_rank
from physlm.models.transformer import Transformer
from physlm.training.checkpoints import load_model, save_model
from physlm.training.loop import train
from physlm.training.objectives import next_token_loss

STAGE_REVISION = 1


@dataclass(frozen=True)
class Trained:
    """A model that was trained from scratch.

    Attributes:
        model: it, an object of its own at every call.
        curve: its learning curve.
        cpu_seconds_per_step: of training, evaluations aside.
        position: of the stream at the end.
    """

    model: Transformer
    curve: list[dict[str, Any]]
    cpu_seconds_per_step: float
    position: StreamState

    @property
    def problems(self) -> int:
        """How many problems it has read; with attempts in them they are fewer."""
        return _problems(self.position)


def _problems(position: StreamState) -> int:
    """How many documents a stream of fresh ones has dealt; no split is ever read to its end."""
    cursors = position["cursors"]
    assert not isinstance(cursors, int)
    return sum(cursors)


def pretrain(workspace: Workspace, practice: Practice, reasoner: Reasoner, text: Text, seed: int) -> Trained:
    """A model that has read a text of a seed's world from scratch, computed once for all conditions that need it."""
    world = practice.world_of(seed)
    config = reasoner.config(world.vocab_size)
    source = text.source(world, context=reasoner.context, whole_loss=practice.whole_loss)
    identity = {
        "revision": STAGE_REVISION,
        "world": world.fingerprint(),
        "text": asdict(text),
        "whole_loss": practice.whole_loss,
        "model": config.to_dict(),
        "recipe": practice.recipe.to_dict(),
        "batch_size": practice.batch_size,
        "seed": seed,
        "curves": [practice.log_points, practice.curve_problems],
        "threads": practice.threads,
    }

    def compute(folder: Path) -> None:
        if (folder / "log.json").exists():  # killed after the last step
            return
        stream = training_stream(practice, source, reasoner.context, seed)
        model, curve, seconds = _fitting.fit(
            Workspace(cache=workspace.cache, scratch=folder, report=workspace.progress),
            stream,
            config,
            seed,
            learning_curve(practice, seed),
            recipe=practice.recipe,
            log_points=practice.log_points,
            threads=practice.threads,
        )
        save_model(model, folder / "model", data_fingerprint=world.fingerprint())
        unfinished = folder / "log.partial"
        log = {"curve": curve, "cpu_seconds_per_step": seconds, "position": stream.state()}
        unfinished.write_text(json.dumps(log), encoding="utf-8")
        unfinished.rename(folder / "log.json")
        shutil.rmtree(folder / "training")

    folder = workspace.stage("igsm-solutions", identity, compute)
    model = load_model(folder / "model", config=config, data_fingerprint=world.fingerprint())
    log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    return Trained(model.to(_fitting.device()).eval(), **log)


@dataclass(frozen=True)
class Adapted:
    """What came of going on with a trained model.

    Attributes:
        curve: its learning curve, counted from where it went on.
        problems: how many it has read since.
        trained_parameters: how many numbers were trained.
        loss_before, loss_after: on test problems of the text, nats per token of the solution.
    """

    curve: list[dict[str, Any]]
    problems: int
    trained_parameters: int
    loss_before: float
    loss_after: float


def adapt(
    workspace: Workspace,
    base: Trained,
    practice: Practice,
    text: Text,
    seed: int,
    *,
    rank: int | None,
    loss_batches: int,
) -> Adapted:
    """Train a trained model on another text, in place, from the problem on that it has come to.

    Args:
        workspace: of the run.
        base: the model.
        practice: how it is trained now.
        text: what it reads now.
        seed: as of the model.
        rank: of a low-rank update of queries and values, twice that for the embedding; `None` trains all weights.
        loss_batches: batches on which the loss is measured.
    """
    model, world = base.model, practice.world_of(seed)
    context = model.config.context
    parameters = None
    if rank is not None:
        parameters = add_low_rank(model, rank=rank, embedding_rank=2 * rank, seed=seed)
    stream = training_stream(
        practice, text.source(world, context=context, whole_loss=practice.whole_loss), context, seed
    )
    stream.restore(base.position)
    before = text_loss(model, practice, text, seed, batches=loss_batches)
    curve = train(
        model,
        stream,
        practice.recipe,
        parameters=parameters,
        evaluate=partial(learning_curve(practice, seed), model),
        log_every=max(1, practice.recipe.steps // practice.log_points),
        folder=workspace.scratch / "late",
        progress=workspace.progress,
    )
    trained = model.parameters() if parameters is None else parameters
    return Adapted(
        curve=curve,
        problems=_problems(stream.state()) - base.problems,
        trained_parameters=sum(parameter.numel() for parameter in trained),
        loss_before=before,
        loss_after=text_loss(model, practice, text, seed, batches=loss_batches),
    )


def text_loss(model: Transformer, practice: Practice, text: Text, seed: int, *, batches: int) -> float:
    """Loss on what bears loss in a text about test problems, nats per token."""
    context = model.config.context
    source = text.source(practice.world_of(seed), context=context, whole_loss=practice.whole_loss, split="test")
    stream = training_stream(practice, source, context, seed)
    with evaluating(model):
        return sum(next_token_loss(model, stream.next_batch()).item() for _ in range(batches)) / batches
