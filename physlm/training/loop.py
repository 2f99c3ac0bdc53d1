"""The training loop: batches in, a trained model and a log out.

- One step is: batch, loss, gradients, clip, AdamW. The batch is a pure function of the stream's position.
- A run is its model, stream and recipe; its state is tensors and a few integers, saved every `checkpoint_every` steps.
- A run that is killed and started again ends bit-identical to one that was not, on a CPU with as many threads.

Source: Physics of Language Models 3.1, App. C and D.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from physlm.data.streams import PackedStream
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.checkpoints import (
    FORMAT_VERSION,
    load_tensors,
    read_json,
    read_tensors,
    require_same,
    save_folder,
    shared_once,
)
from physlm.training.objectives import Objective, next_token_loss
from physlm.training.recipe import Recipe, choose_precision

Record = dict[str, Any]
Report = Callable[[float, str], None]


class DivergenceError(RuntimeError):
    """The loss is no longer a number."""


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
) -> list[Record]:
    """Train `model` in place.

    Args:
        model: the model, on the device it is to be trained on.
        stream: the training data, at its start; it is moved on by `recipe.steps` batches.
        recipe: optimiser, schedule and precision.
        objective: the loss of a batch.
        parameters: what to train; everything that requires a gradient by default.
        evaluate: called at every log point, with the model in evaluation mode; its values join the record.
        log_every: steps between log points; ten in a run by default. The last step always is one.
        folder: where checkpoints and `metrics.jsonl` go; an unfinished run found there is continued.
        checkpoint_every: steps between checkpoints; at log points by default.
        progress: `True` for a bar with remaining time, or a function of (fraction done, message).

    Returns:
        One record per log point: `step`, `loss` (mean since the last one, nats), `learning_rate`, and what
        `evaluate` returned.

    Raises:
        CheckpointError: if `folder` holds another run.
        DivergenceError: if the loss is not finite at a log point.
    """
    trained = [p for p in parameters or model.parameters() if p.requires_grad]
    device = model.embed.weight.device
    precision = choose_precision(recipe.precision, device)
    optimizer = _adamw(trained, recipe)
    log_every = log_every or max(1, recipe.steps // 10)
    checkpoint_every = checkpoint_every or log_every
    run = _Run(model, stream, recipe, optimizer, folder)
    first, records = run.restore()
    loss_sum = torch.zeros((), device=device)
    loss_count = 0

    with _reporter(progress) as report:
        for step in range(first, recipe.steps):
            learning_rate = recipe.learning_rate_at(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            model.train()
            with _dropout_randomness(model, stream, step):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                    loss = objective(model, stream.next_batch())
                loss.backward()
            nn.utils.clip_grad_norm_(trained, recipe.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum += loss.detach()
            loss_count += 1

            done = step + 1
            if done % log_every == 0 or done == recipe.steps:
                mean_loss = loss_sum.item() / loss_count
                if not math.isfinite(mean_loss):
                    raise DivergenceError(
                        f"the loss is {mean_loss} at step {done}: lower learning_rate (now {recipe.learning_rate}) "
                        f"or clip (now {recipe.clip}), or lengthen warmup_steps (now {recipe.warmup_steps})"
                    )
                model.eval()
                values = {} if evaluate is None else dict(evaluate())
                records.append({"step": done, "loss": mean_loss, "learning_rate": learning_rate, **values})
                loss_sum.zero_()
                loss_count = 0
                run.log(records)
                report(done / recipe.steps, f"step {done}/{recipe.steps}, loss {mean_loss:.3f}")
            if done % checkpoint_every == 0 or done == recipe.steps:
                run.save(done, records, loss_sum.item(), loss_count)
    model.eval()
    return records


def _adamw(parameters: Sequence[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices and leaves vectors (biases, norms) alone."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((matrices, recipe.weight_decay), (vectors, 0.0))
        if group
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)


@contextmanager
def _dropout_randomness(model: Transformer, stream: PackedStream, step: int) -> Iterator[None]:
    """Make dropout a pure function of (stream key, step), and leave PyTorch's global generator as it was."""
    if model.config.dropout == 0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(stream.key.child("dropout", step).low >> 1)
        yield


@contextmanager
def _reporter(progress: Report | bool) -> Iterator[Report]:
    """A function of (fraction, message): the caller's own, a bar on standard error, or nothing."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        from rich.console import Console

        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            yield lambda fraction, message: bar.update(task, completed=fraction, description=message)
    else:
        yield lambda fraction, message: None


class _Run:
    """What is on disk of a training run."""

    def __init__(
        self,
        model: Transformer,
        stream: PackedStream,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        folder: Path | None,
    ) -> None:
        self.model, self.stream, self.optimizer, self.folder = model, stream, optimizer, folder
        self.identity = json.loads(
            json.dumps(
                {
                    "model": model.config.to_dict(),
                    "recipe": recipe.to_dict(),
                    "data": stream.fingerprint() if folder else "",
                    "batch_size": stream.batch_size,
                }
            )
        )

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def restore(self) -> tuple[int, list[Record]]:
        """Continue from the newest checkpoint; returns the first step to do and the log so far."""
        checkpoints = sorted(self.folder.glob("step-*")) if self.folder else []
        if not checkpoints:
            return 0, []
        checkpoint = checkpoints[-1]
        trainer = read_json(checkpoint / "trainer.json")
        for name, expected in self.identity.items():
            require_same(checkpoint, name, trainer[name], expected)
        load_tensors(self.model, read_tensors(checkpoint / "model.safetensors"), checkpoint / "model.safetensors")
        moments = read_tensors(checkpoint / "optimizer.safetensors")
        for number, parameter in enumerate(self._parameters()):
            self.optimizer.state[parameter] = {
                name: moments[f"{number}.{name}"].to(parameter.device) for name in ("step", "exp_avg", "exp_avg_sq")
            }
        self.stream.restore(trainer["stream"])
        return trainer["step"], trainer["records"]

    def save(self, step: int, records: Sequence[Record]) -> None:
        """Write a checkpoint, then delete the one before it."""
        if self.folder is None:
            return
        moments = {
            f"{number}.{name}": tensor
            for number, parameter in enumerate(self._parameters())
            for name, tensor in self.optimizer.state[parameter].items()
        }
        trainer = {
            "format_version": FORMAT_VERSION,
            **self.identity,
            "step": step,
            "stream": self.stream.state(),
            "records": list(records),
        }
        older = list(self.folder.glob("step-*"))
        save_folder(
            self.folder / f"step-{step:09d}",
            {
                "model.safetensors": shared_once(self.model),
                "optimizer.safetensors": moments,
                "trainer.json": trainer,
            },
        )
        for folder in older:
            if folder.name != f"step-{step:09d}":
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()

    def log(self, records: Sequence[Record]) -> None:
        """Write the whole log as JSON lines; it is short, and rewriting it keeps a resumed run's log exact."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
