"""Going on with a trained model on texts with attempts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments._igsm import Practice, learning_curve, training_stream
from experiments._mistaken_texts import Text
from experiments._stages import Trained, documents_read
from physlm.lab import Workspace
from physlm.models.generation import evaluating
from physlm.models.low_rank import add_low_rank
from physlm.models.transformer import Transformer
from physlm.training.loop import train
from physlm.training.objectives import next_token_loss


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
        problems=documents_read(stream.state()) - base.documents,
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
