"""Where numbers came from: versions, hardware and memory, and nothing that names a machine or a person."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

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
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == "physlm":
            return f"{project['version']} (source)"
    return "unknown"


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
