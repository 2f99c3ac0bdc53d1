"""A model that is trained from scratch once, for all conditions that go on from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _fitting
from physlm.data.streams import PackedStream, StreamState
from physlm.lab import Workspace
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.training.checkpoints import CheckpointError, DamagedError, load_model, save_model
from physlm.training.recipe import Recipe


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
    def documents(self) -> int:
        """How many documents have been read."""
        return documents_read(self.position)


def documents_read(position: StreamState) -> int:
    """How many documents a stream of fresh ones has dealt, as no split of them is ever read to its end."""
    cursors = position["cursors"]
    assert not isinstance(cursors, int)
    return sum(cursors)


def fit_once(
    workspace: Workspace,
    name: str,
    identity: Mapping[str, Any],
    stream: PackedStream,
    config: TransformerConfig,
    seed: int,
    evaluate: Callable[[Transformer], Mapping[str, Any]],
    *,
    recipe: Recipe,
    log_points: int,
    threads: int,
    data_fingerprint: str,
) -> Trained:
    """`_fitting.fit` as a stage.

    Args:
        workspace: of the run.
        name: of the stage.
        identity: everything that the result depends on besides the model, the recipe, the seed, the number of points
            of the curve and of threads: a revision of the code, the data, the windows, what is evaluated.
        stream: from its beginning; where it is afterwards depends on whether the stage was there.
        config: of the model.
        seed: of its first weights.
        evaluate: what the learning curve shows.
        recipe: how it is trained.
        log_points: points of the curve.
        threads: CPU threads.
        data_fingerprint: of the data, to be kept with the model.
    """
    trained_by = {
        "model": config.to_dict(),
        "recipe": recipe.to_dict(),
        "seed": seed,
        "log_points": log_points,
        "threads": threads,
    }

    def compute(folder: Path) -> None:
        if (folder / "log.json").exists():  # killed after the last step
            return
        model, curve, seconds = _fitting.fit(
            Workspace(cache=workspace.cache, scratch=folder, report=workspace.progress),
            stream,
            config,
            seed,
            evaluate,
            recipe=recipe,
            log_points=log_points,
            threads=threads,
        )
        save_model(model, folder / "model", data_fingerprint=data_fingerprint)
        unfinished = folder / "log.partial"
        log = {"curve": curve, "cpu_seconds_per_step": seconds, "position": stream.state()}
        unfinished.write_text(json.dumps(log), encoding="utf-8")
        unfinished.rename(folder / "log.json")
        shutil.rmtree(folder / "training")

    folder = workspace.stage(name, {**identity, **trained_by}, compute)
    with read_again(folder):
        model = load_model(folder / "model", config=config, data_fingerprint=data_fingerprint)
        log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    return Trained(model.to(_fitting.device()).eval(), **log)


@contextmanager
def read_again(folder: Path) -> Iterator[None]:
    """Say what to do where a finished stage cannot be read."""
    try:
        yield
    except (DamagedError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"the cached stage {folder} is damaged ({error}): delete that folder and run the same command again; "
            "finished runs are kept"
        ) from error
