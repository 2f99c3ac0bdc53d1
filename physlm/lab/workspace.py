"""What a run is given besides its preset: shared stages, progress and a private folder.

- A stage (a pretrained model, say) is named by its content and the numerics revision, is computed once however many
  processes ask for it, and kept. While it is computed its files live in a `.partial` folder, which an interrupted
  computation finds again.
- Locks are `flock`s: the kernel lets go of them when a process dies, however it dies.
- A stage is shared between experiments, so its config must hold everything that it depends on.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from physlm.lab.content import SHORT_HASH, content_hash, to_json
from physlm.lab.provenance import NUMERICS_REVISION
from physlm.lab.storage import sync_folder

_POLL_SECONDS = 0.1
_REPORT_SECONDS = 0.2


class Workspace:
    """Stages, progress and scratch space of one run.

    Args:
        cache: folder of shared stages and scratch folders; it may be deleted at any time between runs.
        scratch: this run's private folder, which stays until the run has finished.
        report: receives (fraction, message); at most about five times per second.

    Example:
        def run(preset, condition, seed, workspace):
            config = {"recipe": preset.pretraining, "corpus": condition.options["corpus"], "seed": seed}
            weights = workspace.stage("pretrain", config, lambda folder: pretrain(config, folder))
            return evaluate(weights / "model.safetensors", preset)
    """

    def __init__(
        self, *, cache: Path, scratch: Path | None = None, report: Callable[[float, str], None] | None = None
    ) -> None:
        self.cache = cache
        self._scratch = scratch or cache / "scratch" / f"process-{os.getpid()}"
        self._report = report
        self._last_report = 0.0
        self._last_message = ""

    @property
    def scratch(self) -> Path:
        """A private folder; what an interrupted run left there is still there when it starts again."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the run is, 0 to 1, and what it is doing; cheap enough for every step."""
        now = time.monotonic()
        due = now - self._last_report >= _REPORT_SECONDS
        if self._report is not None and (due or (message != self._last_message and fraction in (0, 1))):
            self._last_report, self._last_message = now, message
            self._report(min(max(float(fraction), 0.0), 1.0), message)

    def stage(self, name: str, config: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        """The folder of a finished stage, computed now if nobody has.

        Args:
            name: what the stage is, in lower case: "pretrain".
            config: everything the result depends on, the seed and a revision of the code included.
            compute: fills the folder it is given, where it may find its own earlier checkpoints.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise ValueError(f"a stage name is lower-case letters, digits, '-', '_' and '.', got {name!r}")
        identity = content_hash([name, config, NUMERICS_REVISION])
        folder = self.cache / "stages" / f"{name}-{identity[:SHORT_HASH]}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(folder.with_name(folder.name + ".lock"), name):
            if folder.is_dir():
                return folder
            partial = folder.with_name(folder.name + ".partial")
            partial.mkdir(exist_ok=True)
            compute(partial)
            description = {"name": name, "numerics": NUMERICS_REVISION}
            description["config"] = to_json(config, "config", type_names=True)
            (partial / "stage.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
            _sync_files(partial)
            partial.rename(folder)
            sync_folder(folder.parent)
        return folder

    @contextmanager
    def _lock(self, path: Path, name: str) -> Iterator[None]:
        """Hold an exclusive lock, saying so while another process has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.progress(0.0, f"waiting for stage {name}, which another run is computing")
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
