"""The training loop: batches in, a trained model and a log out.

- One step is: batch, loss, gradients, clip, optimisers. The batch is a pure function of the stream's position. On a GPU
  nothing in it waits for the device; the host looks at log points and checkpoints.
- A run is its model at the start, stream, recipe and objective; its state is tensors and a few integers, saved every
  `checkpoint_every` steps. How it is computed (`Execution`) is no part of it.
- A run that is killed and started again ends bit-identical to one that was not, on a CPU with as many threads and
  processes: sums that are split otherwise round differently.

Source: Physics of Language Models 3.1, App. C and D.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physlm.data.streams import PackedStream
from physlm.models.checks import require_vocabulary
from physlm.models.transformer import Transformer
from physlm.training.distributed import Group, LostProcessError, joined
from physlm.training.divergence import DivergenceError, Watch, norms
from physlm.training.execution import PLAIN, Execution
from physlm.training.learner import Learner, learner_of
from physlm.training.numerics import denormals_flushed, dropout_randomness
from physlm.training.objectives import Objective, next_token_loss
from physlm.training.optimizers import Optimizers, hidden_matrices
from physlm.training.recipe import Recipe, choose_precision
from physlm.training.reporting import REPORT_SECONDS, Report, plain_values, reporter
from physlm.training.run_folder import Record, RunFolder, identity_of

__all__ = ["DivergenceError", "LostProcessError", "Record", "Report", "train"]


def train(
    model: Transformer,
    stream: PackedStream,
    recipe: Recipe,
    *,
    objective: Objective = next_token_loss,
    parameters: Sequence[nn.Parameter] | None = None,
    evaluate: Callable[[], Mapping[str, Any]] | None = None,
    log_every: int | None = None,
    folder: Path | None = None,
    checkpoint_every: int | None = None,
    progress: Report | bool = False,
    execution: Execution = PLAIN,
) -> list[Record]:
    """Train `model` in place.

    Args:
        model: the model, on the device it is to be trained on. To continue a run, build it as it was at the start.
        stream: the training data, at its start; it is moved on by `recipe.steps` batches.
        recipe: optimiser, schedule and precision.
        objective: the loss of a batch.
        parameters: what to train; everything that requires a gradient by default.
        evaluate: called at every log point, with the model in evaluation mode; its values join the record as JSON
            (arrays and tensors as lists). Of several processes, rank 0 calls it and the others wait.
        log_every: steps between log points; ten in a run by default. The last step always is one.
        folder: where checkpoints and `metrics.jsonl` go; an unfinished run found there is continued. One process
            at a time, or those of `execution`.
        checkpoint_every: steps between checkpoints; at log points by default.
        progress: `True` for a bar with remaining time on a terminal and a line per tenth elsewhere, or a function
            of (fraction done, message), called about twice a second and at log points.
        execution: how the run is computed: in parts, compiled, on several processes.

    Returns:
        One record per log point: `step`, `loss` (mean of the objective since the last one, nats; the balance of experts
        is trained on and not part of it), `learning_rate`, and what `evaluate` returned.

    Raises:
        CheckpointError: if `folder` holds another run, or a damaged checkpoint.
        DivergenceError: if loss, gradients or weights are no longer numbers; on a CPU at once, on a GPU at the next
            log point or checkpoint.
        LostProcessError: if another process of the run has ended or hangs.
        OSError: if `folder` cannot be written to; the same call continues from the checkpoint before.
        ValueError: if there is nothing to train, a world has more token ids than the model, something that is not a
            number comes from `evaluate`, or the run cannot be computed as `execution` says.
    """
    trained = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    if not trained:
        raise ValueError("there is nothing to train: no parameter requires a gradient, or `parameters` is empty")
    log_every = max(1, recipe.steps // 10) if log_every is None else log_every
    checkpoint_every = log_every if checkpoint_every is None else checkpoint_every
    if log_every < 1 or checkpoint_every < 1:
        raise ValueError(f"log_every and checkpoint_every must be ≥ 1, got {log_every} and {checkpoint_every}")
    if stream.batch_size % execution.micro_batches:
        raise ValueError(
            f"micro_batches must divide the {stream.batch_size} rows of a batch, got {execution.micro_batches}"
        )
    require_vocabulary(model.config.vocab_size, [source.world for source in stream.sources])
    device = trained[0].device
    precision = choose_precision(recipe.precision, device)
    names = {parameter: name for name, parameter in model.named_parameters()}
    named = {names.get(parameter, f"foreign {number}"): parameter for number, parameter in enumerate(trained)}
    for parameter in trained:
        parameter.grad = None

    with (
        joined(execution, stream, device) as group,
        _frozen_but(trained, model),
        denormals_flushed(),
        learner_of(model, named, objective=objective, execution=execution, precision=precision, group=group) as learner,
    ):
        optimizers = Optimizers(learner.parameters, recipe, hidden_matrices(model))
        identity: Record = {}
        if folder is not None or group.ranks > 1:
            identity = identity_of(
                model,
                optimizers.parameters,
                stream,
                recipe,
                objective,
                log_every=log_every,
                evaluates=evaluate is not None,
            )
        run = RunFolder(folder, identity, group)
        first, records, loss_total, loss_count = run.restore(model, optimizers, stream)
        group.require_same({**identity, "checkpoint": first})
        run.clear()
        learner.take()
        watch = Watch(recipe, learner.parameters, device, first=first, newest=run.newest)
        loss_sum = torch.tensor(loss_total, device=device)
        loss_text = f", loss {records[-1]['loss']:.3f}" if records else ""
        next_report = 0.0
        with reporter(progress if group.rank == 0 else False, first / recipe.steps) as report:
            model.train()
            learner.model.train()
            for step in range(first, recipe.steps):
                with dropout_randomness(model, stream, step, device):
                    loss = learner.backward(stream.next_batch())
                gradients = norms({n: p.grad for n, p in learner.parameters.items() if p.grad is not None})
                bad = watch.look(loss, gradients)
                if device.type == "cpu":
                    watch.check_steps(gradients)
                nn.utils.clip_grads_with_norm_(learner.parameters.values(), recipe.clip, gradients.total, foreach=True)
                learning_rate = optimizers.step(step, bad=None if device.type == "cpu" else bad)
                optimizers.forget_gradients()
                loss_sum += loss
                loss_count += 1

                done = step + 1
                is_log_point = done % log_every == 0 or done == recipe.steps
                is_checkpoint = done % checkpoint_every == 0 or done == recipe.steps
                if is_log_point or is_checkpoint:
                    watch.check_steps(gradients)
                if is_checkpoint:
                    watch.check_weights(done, gradients)
                if is_log_point:
                    mean_loss = loss_sum.item() / loss_count
                    values = _evaluated(evaluate, model, learner, group)
                    records.append({"step": done, "loss": mean_loss, "learning_rate": learning_rate, **values})
                    loss_sum.zero_()
                    loss_count = 0
                    run.log(records)
                    loss_text = f", loss {mean_loss:.3f}"
                    next_report = 0.0
                if time.monotonic() >= next_report:
                    report(done / recipe.steps, f"step {done}/{recipe.steps}{loss_text}")
                    next_report = time.monotonic() + REPORT_SECONDS
                if is_checkpoint:
                    run.save(
                        learner,
                        optimizers,
                        stream,
                        model=model,
                        step=done,
                        records=records,
                        loss_total=loss_sum.item(),
                        loss_count=loss_count,
                    )
        learner.give(everywhere=True)
        group.wait()
    model.eval()
    return records


@contextmanager
def _frozen_but(trained: Sequence[nn.Parameter], model: Transformer) -> Iterator[None]:
    """Spare the gradients of all other parameters, which would pile up unused."""
    kept = {id(parameter) for parameter in trained}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _evaluated(
    evaluate: Callable[[], Mapping[str, Any]] | None, model: Transformer, learner: Learner, group: Group
) -> Record:
    """What `evaluate` says of the model as it is now."""
    if evaluate is None:
        return {}
    with learner.on_loan():
        model.eval()
        values = plain_values(evaluate()) if group.rank == 0 else None
        model.train()
    return group.tell(values)
