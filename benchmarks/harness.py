"""What the benchmarks share: fair timing, provenance, a table for people and a JSON line for machines.

- Contenders take turns (A B, B A, …), so that a busy or throttling machine slows all of them alike. A rate is the
  median over the repetitions; a ratio is the median of the ratios within each turn.
- Everything runs on one thread, so that ratios tell about the code and not about the number of cores; what is about
  training runs on two, as users' laptops do.
- Every benchmark has a process of its own, and imports heavy libraries after its number of threads is fixed.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from physlm.lab.provenance import hardware, peak_memory_bytes, reset_peak_memory, versions

HELP = """\
Speed and memory beside a public peer, measured in the same run.

  bios       making biographies: tokens per CPU-second, beside string formatting and `tokenizers`
  cfg-sample sentences of a grammar: tokens per CPU-second, beside rewriting one symbol at a time
  cfg-parse  membership and number of derivations: sentences per CPU-second, beside `nltk`
  cfg-next   exact next-token distributions: sentences per CPU-second, beside `nltk`
  igsm       problems of grade-school math: problems per CPU-second, beside plain Python
  igsm-judge checking their solutions: solutions per CPU-second, beside plain Python
  mistakes   wrong attempts put into their solutions: problems per CPU-second, beside plain Python
  train      training a small model: tokens per second, beside the same model in `transformers`
  stacked    training eight seeds at once: tokens per second, beside one after another
  evaluate   scoring answers: questions per second, beside `generate` of `transformers`
  attention  attention in training: tokens per second, beside PyTorch's kernel; the cost of every encoding
  probe      hidden states of all layers: tokens per second, beside TransformerLens or hooks; all layers or one
  import     starting: beside `import transformers`
  gpu        training on a GPU: 124M parameters and stacks of small models; only when asked for

Each takes about a minute, prints a table, and as its last line one JSON object with the value, the peer's value, \
their ratio, the hardware and the commit. Contenders take turns on one or two threads; medians are reported.

  python -m benchmarks              all of them
  python -m benchmarks train        one
  python -m benchmarks bios | tail -n 1 >> history.jsonl

`train`, `evaluate`, `probe`, `import` and `gpu` need the extra physlm[huggingface].
"""

THREADS = {"train": 2, "stacked": 2, "attention": 2}
"""Threads of the benchmarks that have more than one."""
_ROOT = Path(__file__).resolve().parents[1]
_MEBIBYTE = 2**20

Clock = Literal["wall", "cpu"]


class MissingPeerError(RuntimeError):
    """A library to compare with is not installed."""


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure.

    Attributes:
        quick: tiny sizes, to see that everything runs.
        repetitions: timed turns of every contender, ≥ 1.
        threads: of everything that computes.
    """

    quick: bool
    repetitions: int
    threads: int

    def environment(self) -> dict[str, str]:
        """Variables that libraries read when they are first loaded."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        return {**dict.fromkeys(names, str(self.threads)), "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Race:
    """Seconds of every contender in every turn, by wall clock and by CPU time."""

    wall: Mapping[str, Sequence[float]]
    cpu: Mapping[str, Sequence[float]]

    def rate(self, name: str, amount: float, clock: Clock = "wall") -> float:
        """Median of `amount` per second."""
        return amount / median(getattr(self, clock)[name])

    def ratio(self, name: str, peer: str, clock: Clock = "wall") -> float:
        """How many times faster `name` is than `peer`: the median over the turns."""
        return median(self._ratios(name, peer, clock))

    def spread(self, name: str, peer: str, clock: Clock = "wall") -> list[float]:
        """Smallest and largest ratio of any turn."""
        ratios = self._ratios(name, peer, clock)
        return [min(ratios), max(ratios)]

    def _ratios(self, name: str, peer: str, clock: Clock) -> list[float]:
        seconds = getattr(self, clock)
        return [theirs / ours for ours, theirs in zip(seconds[name], seconds[peer], strict=True)]


def race(contenders: Mapping[str, Callable[[], object]], repetitions: int) -> Race:
    """Time every contender `repetitions` times in turn, after one untimed turn."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    in_order = list(contenders.items())
    for turn in range(repetitions):
        # Back and forth: a contender may find the memory of the process as the one before has left it.
        for name, run in in_order if turn % 2 == 0 else in_order[::-1]:
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            run()
            cpu[name].append(time.process_time() - cpu_start)
            wall[name].append(time.perf_counter() - wall_start)
    return Race(wall, cpu)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found.

    Attributes:
        benchmark: its name.
        unit: of `value` and `peer_value`.
        value, peer_value: our rate and the peer's; more is better.
        peer: what we are compared with.
        ratio: how many times faster we are; the median over the turns, so not exactly `value / peer_value`.
        parameters: sizes that the rates depend on.
        details: everything else that was measured.
        rows: further lines of the table, as (what, rate, ratio to the headline's or its own peer).
    """

    benchmark: str
    unit: str
    value: float
    peer: str
    peer_value: float
    ratio: float
    parameters: Mapping[str, Any]
    details: Mapping[str, Any]
    rows: Sequence[tuple[str, float, float | None]] = field(default=())


def measure(run: Callable[[Settings], Result], settings: Settings) -> tuple[Result, dict[str, Any]]:
    """Run one benchmark; returns what it found and the JSON object that records it."""
    reset_peak_memory()
    checkout = commit()  # before the run, during which the checkout may change
    start = time.perf_counter()
    result = run(settings)
    machine = hardware()
    record = {
        "benchmark": result.benchmark,
        "value": result.value,
        "unit": result.unit,
        "peer": result.peer,
        "peer_value": result.peer_value,
        "ratio": result.ratio,
        "hardware": {"cpu": machine["cpu"], "cores": machine["cores"], "system": platform.system()},
        **checkout,
        "versions": {**versions(), **{name: _version(name) for name in ("tokenizers", "transformers")}},
        "threads": settings.threads,
        "repetitions": settings.repetitions,
        "quick": settings.quick,
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_bytes() / _MEBIBYTE,
        "parameters": dict(result.parameters),
        "details": dict(result.details),
    }
    return result, record


def publish(result: Result, record: Mapping[str, Any]) -> None:
    """Print the table, then the JSON object on one line."""
    machine = record["hardware"]
    table = Table(
        title=f"{result.benchmark}: {result.unit}",
        caption=f"{machine['cpu']}, {record['threads']} of {machine['cores']} cores, "
        f"{record['peak_memory_mb']:.0f} MB at most" + (", quick: the numbers mean nothing" if record["quick"] else ""),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("what")
    table.add_column("rate", justify="right")
    table.add_column("× peer", justify="right")
    ours, theirs = ("physlm", result.value, result.ratio), (result.peer, result.peer_value, None)
    for what, rate, ratio in (ours, theirs, *result.rows):
        table.add_row(what, f"{rate:,.0f}", "" if ratio is None else f"{ratio:.2f}")
    Console().print(table)
    print(json.dumps(record, allow_nan=False), flush=True)


def commit() -> dict[str, Any]:
    """The commit of this checkout and whether files differ from it; both `None` outside a git checkout."""
    if _git("rev-parse", "--show-toplevel") != str(_ROOT):
        return {"commit": None, "dirty": None}
    return {"commit": _git("rev-parse", "--short", "HEAD") or None, "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
