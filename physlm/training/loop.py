"""The training loop: batches in, a trained model and a log out.

- One step is: batch, loss, gradients, clip, AdamW. The batch is a pure function of the stream's position.
- A run is its model at the start, stream, recipe and objective; its state is tensors and a few integers, saved every
  `checkpoint_every` steps.
- A run that is killed and started again ends bit-identical to one that was not, on a CPU with as many threads: sums
  that are split over another number of threads round differently.

Source: Physics of Language Models 3.1, App. C and D.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from physlm.data.streams import PackedStream
from physlm.models.transformer import Transformer
from physlm.training.checkpoints import (
    FORMAT_VERSION,
    CheckpointError,
    DamagedError,
    delete_folder,
    delete_partial,
    entry,
    load_tensors,
    read_json,
    read_tensors,
    require_same,
    save_folder,
    shared_once,
    weights_fingerprint,
    write_text,
)
from physlm.training.objectives import Objective, next_token_loss, objective_identity
from physlm.training.recipe import Recipe, choose_precision

Record = dict[str, Any]
Report = Callable[[float, str], None]

_REPORT_SECONDS = 0.5
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


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
        model: the model, on the device it is to be trained on. To continue a run, build it as it was at the start.
        stream: the training data, at its start; it is moved on by `recipe.steps` batches.
        recipe: optimiser, schedule and precision.
        objective: the loss of a batch.
        parameters: what to train; everything that requires a gradient by default.
        evaluate: called at every log point, with the model in evaluation mode; its values join the record as JSON
            (arrays and tensors as lists).
        log_every: steps between log points; ten in a run by default. The last step always is one.
        folder: where checkpoints and `metrics.jsonl` go; an unfinished run found there is continued. One process
            at a time.
        checkpoint_every: steps between checkpoints; at log points by default.
        progress: `True` for a bar with remaining time on a terminal and a line per tenth elsewhere, or a function
            of (fraction done, message), called about twice a second and at log points.

    Returns:
        One record per log point: `step`, `loss` (mean since the last one, nats), `learning_rate`, and what
        `evaluate` returned.

    Raises:
        CheckpointError: if `folder` holds another run, or a damaged checkpoint.
        DivergenceError: if the loss is not finite at a log point.
        OSError: if `folder` cannot be written to; the same call continues from the checkpoint before.
        ValueError: if there is nothing to train, or something that is not a number comes from `evaluate`.
    """
    if stream.ranks > 1:
        raise ValueError(
            f"train runs in one process and would not average gradients, got a stream of {stream.ranks} ranks"
        )
    trained = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    if not trained:
        raise ValueError("there is nothing to train: no parameter requires a gradient, or `parameters` is empty")
    log_every = max(1, recipe.steps // 10) if log_every is None else log_every
    checkpoint_every = log_every if checkpoint_every is None else checkpoint_every
    if log_every < 1 or checkpoint_every < 1:
        raise ValueError(f"log_every and checkpoint_every must be ≥ 1, got {log_every} and {checkpoint_every}")
    device = trained[0].device
    precision = choose_precision(recipe.precision, device)
    optimizer = _adamw(trained, recipe)
    run = _Run(model, optimizer, stream, folder)
    if folder is not None:
        run.identify(recipe=recipe, objective=objective, log_every=log_every, evaluates=evaluate is not None)
    first, records, loss_total, loss_count = run.restore()
    loss_sum = torch.tensor(loss_total, device=device)
    loss_text = f", loss {records[-1]['loss']:.3f}" if records else ""
    next_report = 0.0

    with _reporter(progress, first / recipe.steps) as report, _frozen_but(trained, model), _denormals_flushed():
        optimizer.zero_grad(set_to_none=True)
        model.train()
        for step in range(first, recipe.steps):
            learning_rate = recipe.learning_rate_at(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
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
                mean_loss = _finite(loss_sum.item(), done, recipe) / loss_count
                model.eval()
                values = {} if evaluate is None else _plain(evaluate())
                model.train()
                records.append({"step": done, "loss": mean_loss, "learning_rate": learning_rate, **values})
                loss_sum.zero_()
                loss_count = 0
                run.log(records)
                loss_text = f", loss {mean_loss:.3f}"
                next_report = 0.0
            if time.monotonic() >= next_report:
                report(done / recipe.steps, f"step {done}/{recipe.steps}{loss_text}")
                next_report = time.monotonic() + _REPORT_SECONDS
            if done % checkpoint_every == 0 or done == recipe.steps:
                run.save(done, records, _finite(loss_sum.item(), done, recipe), loss_count)
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


def _plain(values: Mapping[str, Any]) -> Record:
    """The values as they would come back from a checkpoint."""

    def to_list(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} is not")

    try:
        return json.loads(json.dumps(dict(values), default=to_list, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "evaluate must return finite numbers, strings, None, and lists, arrays or dictionaries of them, "
            f"got {values!r} ({error}); None stands for what is undefined"
        ) from error


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    """The loss, if it is a number."""
    if not math.isfinite(loss):
        raise DivergenceError(
            f"the loss is {loss} at step {step}: lower learning_rate (now {recipe.learning_rate}) "
            f"or clip (now {recipe.clip}), or lengthen warmup_steps (now {recipe.warmup_steps})"
        )
    return loss


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Treat numbers below 1e-38 as zero: a confident softmax is full of them, and a CPU is slow on each."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _dropout_randomness(model: Transformer, stream: PackedStream, step: int) -> Iterator[None]:
    """Make dropout a pure function of (stream key, step), and leave PyTorch's global generator as it was."""
    if model.config.dropout == 0:
        yield
        return
    seed = stream.key.child("dropout", step).low >> 1
    device = model.final_norm.weight.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


@contextmanager
def _reporter(progress: Report | bool, start: float) -> Iterator[Report]:
    """A function of (fraction, message): the caller's own, a bar or lines on standard error, or nothing."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            bar.update(task, completed=start)
            yield lambda fraction, message: bar.update(task, completed=fraction, description=message)
    elif progress:
        printed = int(start * 10)

        def print_line(fraction: float, message: str) -> None:
            nonlocal printed
            if int(fraction * 10) > printed:
                printed = int(fraction * 10)
                print(message, file=sys.stderr, flush=True)

        yield print_line
    else:
        yield lambda _fraction, _message: None


class _Run:
    """What is on disk of a training run; without a folder, nothing."""

    def __init__(
        self, model: Transformer, optimizer: torch.optim.Optimizer, stream: PackedStream, folder: Path | None
    ) -> None:
        self.model, self.optimizer, self.stream, self.folder = model, optimizer, stream, folder
        self.identity: dict[str, Any] = {}
        self.parameters: dict[str, nn.Parameter] = {}

    def identify(self, *, recipe: Recipe, objective: Objective, log_every: int, evaluates: bool) -> None:
        """Note everything that the outcome depends on, as it comes back from JSON."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if foreign := sum(p not in names for p in parameters):
            raise ValueError(
                f"a checkpoint holds the model's own parameters, got {foreign} of {len(parameters)} that are not: "
                "make them part of the model, or train without a folder"
            )
        self.parameters = {names[parameter]: parameter for parameter in parameters}
        identity = {
            "model": self.model.config.to_dict(),
            "initial weights": weights_fingerprint(self.model),
            "parameters": list(self.parameters),
            "recipe": recipe.to_dict(),
            "objective": objective_identity(objective),
            "data": self.stream.fingerprint(),
            "batches": {"size": self.stream.batch_size},
            "log": {"every": log_every, "evaluates": evaluates},
        }
        self.identity = json.loads(json.dumps(identity))

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, oldest first; two only after a kill between writing one and deleting the other."""
        found = self.folder.glob("step-*") if self.folder else []
        return sorted((path for path in found if path.name.removeprefix("step-").isdecimal()), key=_step_of)

    def restore(self) -> tuple[int, list[Record], float, int]:
        """Continue from the newest checkpoint.

        Returns:
            The first step to do, the log so far, and the loss summed since the last log point and over how many steps.
        """
        if self.folder is None or not (checkpoints := self.checkpoints()):
            return 0, [], 0.0, 0
        newest = checkpoints[-1]
        try:
            trainer = read_json(newest / "trainer.json")
            for name, expected in self.identity.items():
                require_same(newest, name, entry(newest / "trainer.json", trainer, name), expected)
            tensors = read_tensors(newest / "model.safetensors")
            states = self._optimizer_states(newest / "optimizer.safetensors")
        except DamagedError as error:
            then = f"go on from {checkpoints[-2].name}" if len(checkpoints) > 1 else "start afresh"
            raise DamagedError(f"{error}; training will then {then}") from error
        try:
            self.stream.restore(trainer["stream"])
            position = trainer["step"], trainer["records"], trainer["loss_total"], trainer["loss_count"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{newest / 'trainer.json'} is no state of this run: {error}") from error
        load_tensors(self.model, tensors, newest / "model.safetensors")
        for parameter, state in states.items():
            self.optimizer.state[parameter] = state
        delete_partial(self.folder)
        return position

    def _optimizer_states(self, path: Path) -> dict[nn.Parameter, dict[str, Tensor]]:
        """AdamW's moments of every parameter that has had a gradient."""
        tensors = read_tensors(path)
        states: dict[nn.Parameter, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():
            found = {moment: tensors.pop(f"{name}.{moment}") for moment in _MOMENTS if f"{name}.{moment}" in tensors}
            if not found:
                continue
            shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if {moment: tuple(tensor.shape) for moment, tensor in found.items()} != shapes:
                raise CheckpointError(f"{path} does not fit the parameter {name} of shape {tuple(parameter.shape)}")
            states[parameter] = {moment: tensor.to(parameter.device, copy=True) for moment, tensor in found.items()}
        if tensors:
            raise CheckpointError(f"{path} does not fit the model, which does not train {min(tensors)}")
        return states

    def save(self, step: int, records: Sequence[Record], loss_total: float, loss_count: int) -> None:
        """Write a checkpoint, then delete the one before it; the loss is that summed since the last log point."""
        if self.folder is None:
            return
        moments = {
            f"{name}.{moment}": tensor
            for name, parameter in self.parameters.items()
            for moment, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        trainer = {
            "format_version": FORMAT_VERSION,
            **self.identity,
            "step": step,
            "stream": self.stream.state(),
            "records": list(records),
            "loss_total": loss_total,
            "loss_count": loss_count,
        }
        older = self.checkpoints()
        save_folder(
            self.folder / f"step-{step:09d}",
            {
                "model.safetensors": shared_once(self.model),
                "optimizer.safetensors": moments,
                "trainer.json": trainer,
            },
        )
        for folder in older:
            if _step_of(folder) != step:
                delete_folder(folder)

    def log(self, records: Sequence[Record]) -> None:
        """Write the whole log as JSON lines; it is short, and rewriting it keeps a resumed run's log exact."""
        if self.folder is not None:
            lines = [json.dumps(record) + "\n" for record in records]
            write_text(self.folder / "metrics.jsonl", "".join(lines))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
