"""One run, in a worker process: call the experiment's function, write the run file, tidy up.

The worker writes the file itself, so that a finished run is on disk even if the runner dies that very moment.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physlm.lab.content import SHORT_HASH, content_hash, to_json
from physlm.lab.experiment import Condition
from physlm.lab.provenance import NUMERICS_REVISION, hardware, peak_memory_bytes, reset_peak_memory, versions
from physlm.lab.results import RunMetrics
from physlm.lab.storage import RunRecord, run_hash, run_path, save_run
from physlm.lab.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything a worker needs for one run; picklable.

    `commit` is that of the moment the sweep began: the checkout may change while the run is computed.
    """

    run: Callable[[Any, Condition, int, Workspace], Mapping[str, Any]]
    experiment: str
    revision: int
    scale: str
    preset: Any
    condition: Condition
    seed: int
    data_fingerprint: str
    folder: Path
    cache: Path
    numerics: int = NUMERICS_REVISION
    commit: str | None = None

    @functools.cached_property
    def hash(self) -> str:
        """What the finished run is found by."""
        return run_hash(
            experiment=self.experiment,
            revision=self.revision,
            preset=self.preset,
            condition=self.condition.name,
            options=self.condition.options,
            seed=self.seed,
            fingerprint=self.data_fingerprint,
            numerics=self.numerics,
        )

    @property
    def label(self) -> str:
        """How people know the run."""
        return f"{self.condition.name} seed {self.seed}"


def execute(request: Request, report: Callable[[float, str], None]) -> str:
    """Do the run and return the path of its file."""
    reset_peak_memory()
    scratch = request.cache / "scratch" / f"{request.experiment}-{request.hash[:SHORT_HASH]}"
    workspace = Workspace(cache=request.cache, scratch=scratch, report=report)
    begin = time.monotonic()
    metrics = request.run(request.preset, request.condition, request.seed, workspace)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"run must return a mapping of metrics, got {type(metrics).__name__}")
    record = RunRecord(
        experiment=request.experiment,
        revision=request.revision,
        scale=request.scale,
        condition=request.condition.name,
        options=request.condition.options,
        seed=request.seed,
        hash=request.hash,
        preset_hash=content_hash(request.preset),
        data_fingerprint=request.data_fingerprint,
        metrics=RunMetrics(to_json(dict(metrics), "metrics")),
        wall_seconds=round(time.monotonic() - begin, 3),
        peak_memory_bytes=peak_memory_bytes(),
        hardware=hardware(),
        versions=versions(),
        numerics=request.numerics,
        commit=request.commit,
    )
    path = run_path(request.folder, request.condition.name, request.seed, request.hash)
    save_run(path, record)
    shutil.rmtree(scratch, ignore_errors=True)
    return str(path)
