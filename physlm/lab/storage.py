"""Run files on disk: written whole or not at all, recognised by content, never overwritten silently.

A run file is small JSON and is meant to be committed: a sweep begun on one machine goes on from it on another.
A file that cannot be trusted is reported and set aside, never deleted. A run of another numerics revision is another
run: it is kept beside those of the present one and found only by who asks for it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from physlm.lab.content import SHORT_HASH, content_hash, to_json
from physlm.lab.provenance import NUMERICS_REVISION
from physlm.lab.results import RunMetrics

FORMAT_VERSION = 1
_FULL_DISK_BYTES = 1_000_000


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the one call that tests make fail
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Move a file to the first free `<stem>.kept-<n><suffix>` beside it and say where it went."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.kept-{number}{path.suffix}")).exists():
        number += 1
    path.rename(kept)
    return kept


def is_disk_full(error: BaseException | None, *folders: Path) -> bool:
    """Whether `error` comes from a full disk; libraries may hide the error number, so free space counts too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    for folder in folders:
        existing = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
        if existing is not None and shutil.disk_usage(existing).free < _FULL_DISK_BYTES:
            return True
    return False


def disk_full_at(folders: tuple[Path, ...], error: BaseException) -> bool:
    """`is_disk_full` with the folders first, for `functools.partial`."""
    return is_disk_full(error, *folders)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished (condition, seed), with everything needed to trust it.

    `numerics` is 0 and `commit` None in files written before they were recorded; `commit` also outside a checkout.
    """

    experiment: str
    revision: int
    scale: str
    condition: str
    options: Mapping[str, Any]
    seed: int
    hash: str
    preset_hash: str
    data_fingerprint: str
    metrics: RunMetrics
    wall_seconds: float
    peak_memory_bytes: int
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    numerics: int = 0
    commit: str | None = None


def run_hash(
    *,
    experiment: str,
    revision: int,
    preset: Any,
    condition: str,
    options: Any,
    seed: int,
    fingerprint: str,
    numerics: int = NUMERICS_REVISION,
) -> str:
    """What a finished run is found by: everything that its metrics depend on."""
    identity = [experiment, revision, preset, condition, options, seed, fingerprint]
    return content_hash([*identity, numerics] if numerics else identity)  # revision 0 was not part of the hash


def run_path(folder: Path, condition: str, seed: int, full_hash: str) -> Path:
    """Where a run is kept; the hash is what identifies it, the rest is for people."""
    return folder / f"{condition.replace('/', '__')}-seed{seed}-{full_hash[:SHORT_HASH]}.json"


def save_run(path: Path, record: RunRecord) -> None:
    """Write a run file; a file already there is kept beside it."""
    content = to_json(record)
    content = {"format_version": FORMAT_VERSION, **content, "metrics_hash": content_hash(content["metrics"])}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if path.exists():
        set_aside(path)
    write_atomically(path, text)


def load_run(path: Path, full_hash: str) -> RunRecord:
    """Read a run file.

    Raises:
        ValueError: it is damaged, of another format, or not the run that `full_hash` names; one line says which.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not complete JSON ({error})") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise ValueError("it is not a run file of physlm")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(f"its format version is {content['format_version']!r}, this physlm reads {FORMAT_VERSION}")
    if content.get("hash") != full_hash:
        raise ValueError("it belongs to another run (its content hash differs)")
    if content.get("metrics_hash") != content_hash(content.get("metrics")):
        raise ValueError("its metrics were changed after they were written (checksum differs)")
    found = {field.name: content[field.name] for field in fields(RunRecord) if field.name in content}
    required = {field.name for field in fields(RunRecord) if field.default is MISSING}
    if missing := sorted(required - found.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    return RunRecord(**{**found, "metrics": RunMetrics(found["metrics"])})


def find_run(folder: Path, full_hash: str, warn: Callable[[str], None]) -> RunRecord | None:
    """The finished run with this hash, or None; a file that cannot be used is named in a warning."""
    if not folder.is_dir():
        return None
    for path in sorted(folder.glob(f"*-{full_hash[:SHORT_HASH]}.json")):
        try:
            return load_run(path, full_hash)
        except (ValueError, OSError) as error:
            warn(f"{path} is not used: {error}. It is left in place and the run is computed again.")
    return None
