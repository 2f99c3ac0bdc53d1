"""Training a model on a stream, with a learning curve whose cost is not counted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from physlm.data.streams import PackedStream
from physlm.lab import Workspace
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.training.loop import train
from physlm.training.objectives import Objective, next_token_loss
from physlm.training.recipe import Recipe


def device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    workspace: Workspace,
    stream: PackedStream,
    config: TransformerConfig,
    seed: int,
    evaluate: Callable[[Transformer], Mapping[str, Any]],
    *,
    recipe: Recipe,
    log_points: int,
    threads: int,
    objective: Objective = next_token_loss,
) -> tuple[Transformer, list[dict[str, Any]], float]:
    """Train a model on a stream.

    Returns:
        The model; its log, with what `evaluate` says of the model at every point; and the CPU seconds of a step,
        evaluations aside: of the steps made here, if others were made before an interruption, and NaN if none was.
    """
    torch.set_num_threads(threads)
    model = Transformer(config, seed=seed).to(device())
    spent, points = 0.0, 0

    def measured() -> Mapping[str, Any]:
        nonlocal spent, points
        points += 1
        started = time.process_time()
        found = evaluate(model)
        spent += time.process_time() - started
        return found

    started = time.process_time()
    records = train(
        model,
        stream,
        recipe,
        objective=objective,
        evaluate=measured,
        log_every=max(1, recipe.steps // log_points),
        folder=workspace.scratch / "training",
        progress=workspace.progress,
    )
    seconds = time.process_time() - started - spent
    # A checkpoint is written at every point of the log, so that an interrupted run goes on from one of them.
    steps = recipe.steps - (records[-points - 1]["step"] if points < len(records) else 0)
    return model, records, seconds / steps if steps else math.nan
