"""What is on disk of a training run: its checkpoints and its log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
from physlm.training.distributed import Group
from physlm.training.learner import Learner
from physlm.training.objectives import Objective, objective_identity
from physlm.training.optimizers import Optimizers
from physlm.training.recipe import Recipe

Record = dict[str, Any]


def identity_of(
    model: Transformer,
    parameters: Iterable[str],
    stream: PackedStream,
    recipe: Recipe,
    objective: Objective,
    *,
    log_every: int,
    evaluates: bool,
) -> dict[str, Any]:
    """Everything that the outcome of a run depends on, as it comes back from JSON; ask for it before the first step.

    Args:
        model: the model at the start.
        parameters: names of what is trained of it.
        stream: the data; neither its position nor the number of ranks matters.
        recipe: how it is trained.
        objective: the loss.
        log_every: steps between log points.
        evaluates: whether something is evaluated there.

    Raises:
        ValueError: if something else than the model's own parameters is trained.
    """
    names = [*parameters]
    own = {name for name, _ in model.named_parameters()}
    if foreign := sum(name not in own for name in names):
        raise ValueError(
            f"a checkpoint holds the model's own parameters, got {foreign} of {len(names)} that are not: "
            "make them part of the model, or train without a folder"
        )
    identity = {
        "model": model.config.to_dict(),
        "initial weights": weights_fingerprint(model),
        "parameters": names,
        "recipe": recipe.to_dict(),
        "objective": objective_identity(objective),
        "data": stream.fingerprint(),
        "batches": {"size": stream.batch_size * stream.ranks},
        "log": {"every": log_every, "evaluates": evaluates},
    }
    return json.loads(json.dumps(identity))


class RunFolder:
    """Checkpoints and log of one run; without a folder, nothing. Of several processes, rank 0 writes.

    Args:
        folder: where they are.
        identity: what a checkpoint found there must have been made from.
        group: the processes of the run.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], group: Group) -> None:
        self.folder, self.identity, self.group = folder, identity, group

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints, oldest first; two only after a kill between writing one and deleting the other."""
        found = self.folder.glob("step-*") if self.folder else []
        return sorted((path for path in found if path.name.removeprefix("step-").isdecimal()), key=_step_of)

    def newest(self) -> Path | None:
        """The newest checkpoint."""
        return next(reversed(self.checkpoints()), None)

    def restore(
        self, model: Transformer, optimizers: Optimizers, stream: PackedStream
    ) -> tuple[int, list[Record], float, int]:
        """Continue from the newest checkpoint.

        Returns:
            The first step to do, the log so far, and the loss summed since the last log point and over how many steps.
        """
        if not (checkpoints := self.checkpoints()):
            return 0, [], 0.0, 0
        newest = checkpoints[-1]
        try:
            trainer = read_json(newest / "trainer.json")
            for name, expected in self.identity.items():
                require_same(newest, name, entry(newest / "trainer.json", trainer, name), expected)
            tensors = read_tensors(newest / "model.safetensors")
            moments = read_tensors(newest / "optimizer.safetensors")
        except DamagedError as error:
            then = f"go on from {checkpoints[-2].name}" if len(checkpoints) > 1 else "start afresh"
            raise DamagedError(f"{error}; training will then {then}") from error
        optimizers.check(moments, newest / "optimizer.safetensors")
        try:
            stream.restore(trainer["stream"])
            position = trainer["step"], trainer["records"], trainer["loss_total"], trainer["loss_count"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{newest / 'trainer.json'} is no state of this run: {error}") from error
        load_tensors(model, tensors, newest / "model.safetensors")
        optimizers.load(moments)
        return position

    def clear(self) -> None:
        """Delete what interrupted writes left, when all processes have read what they need."""
        self.group.wait()
        if self.folder is not None and self.group.rank == 0:
            delete_partial(self.folder)

    def save(
        self,
        learner: Learner,
        optimizers: Optimizers,
        stream: PackedStream,
        *,
        model: Transformer,
        step: int,
        records: Sequence[Record],
        loss_total: float,
        loss_count: int,
    ) -> None:
        """Write a checkpoint, then delete the one before it; all processes must ask for it.

        Args:
            learner: what is trained.
            optimizers: what trains it.
            stream: the data, after `step` batches.
            model: the caller's model.
            step: number of steps done.
            records: the log so far.
            loss_total: the loss summed since the last log point.
            loss_count: over how many steps.
        """
        if self.folder is None:
            return
        learner.give()
        moments = {name: tensor.cpu() for name, tensor in optimizers.state() if self.group.rank == 0}
        if self.group.rank != 0:
            return
        trainer = {
            "format_version": FORMAT_VERSION,
            **self.identity,
            "step": step,
            "stream": stream.state(),
            "records": list(records),
            "loss_total": loss_total,
            "loss_count": loss_count,
        }
        older = self.checkpoints()
        save_folder(
            self.folder / f"step-{step:09d}",
            {"model.safetensors": shared_once(model), "optimizer.safetensors": moments, "trainer.json": trainer},
        )
        for folder in older:
            if _step_of(folder) != step:
                delete_folder(folder)

    def log(self, records: Sequence[Record]) -> None:
        """Write the whole log as JSON lines; it is short, and rewriting it keeps a resumed run's log exact."""
        if self.folder is not None and self.group.rank == 0:
            lines = [json.dumps(record) + "\n" for record in records]
            write_text(self.folder / "metrics.jsonl", "".join(lines))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))
