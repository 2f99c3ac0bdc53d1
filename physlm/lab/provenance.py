"""Where numbers came from: numerics, versions, commit and hardware, and nothing that names a machine or a person."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

NUMERICS_REVISION = 1
"""Part of the identity of every run and stage: bumped when the same preset and seed begin to give other numbers.

That is other initial weights, other batches or another rule of training, whatever the experiment; not last bits, which
differ between processors anyway. Runs of different revisions are never judged together.

- 0: weights are drawn one after another. The time before runs recorded a revision.
- 1: every weight is drawn from the seed and its own name.
"""

_CHECKOUT = Path(__file__).parents[2]
_CODE = ("physlm", "experiments")
_GIT_SECONDS = 10
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_STATUS = Path("/proc/self/status")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, without importing them."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "physlm"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = _source_version() if package == "physlm" else "not installed"
    return found


def _source_version() -> str:
    """The version of a source checkout that is used without being installed."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        project = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == "physlm":
            return f"{project['version']} (source)"
    return "unknown"


def commit(checkout: Path = _CHECKOUT) -> str | None:
    """The commit of a checkout, with "-dirty" if its code differs from it; None where there is no checkout."""
    if not (checkout / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", *_CODE) else "")
    except (OSError, subprocess.SubprocessError):  # no git, no commit, or a checkout of somebody else
        return None


def has_accelerator() -> bool:
    """Whether PyTorch can use an accelerator; loads PyTorch."""
    import torch

    return torch.cuda.is_available()


def cpu_count() -> int:
    """Cores this process may use: affinity and container limits included."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        quota, period = _CGROUP_LIMIT.read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def hardware() -> dict[str, Any]:
    """CPU model, cores, memory and accelerator. The accelerator is looked at only if torch is already loaded."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            model = found.group(1).strip()
    memory = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    accelerator = None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        accelerator = torch.cuda.get_device_name(0)
    return {"cpu": model, "cores": cpu_count(), "memory_bytes": memory, "accelerator": accelerator}


def reset_peak_memory() -> None:
    """Forget this process's peak so that the next reading belongs to one run (Linux; elsewhere a no-op)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, or peak accelerator memory if that is larger."""
    peak = 0
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE):
            peak = int(found.group(1)) * 1024
    if not peak:
        with contextlib.suppress(ImportError):
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak = max(peak, int(torch.cuda.max_memory_allocated()))
    return peak
