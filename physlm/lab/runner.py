"""The runner: which runs are there, compute the rest in parallel, and judge.

- A finished (condition, seed) is a small file found by content hash. Killing the runner, or a worker, or the
  machine loses at most the runs in progress; those continue from their own checkpoints in shared stages.
- A run that fails costs itself only. The report is written when nothing failed; the run files are kept always.
- Runs of one numerics revision are judged together, and nothing else is.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from rich.console import Console
from rich.markup import escape

from physlm.lab.announcement import announce_missing, announce_plan
from physlm.lab.claims import evaluate
from physlm.lab.display import Display, duration
from physlm.lab.execution import Request, execute
from physlm.lab.experiment import Experiment, Scale
from physlm.lab.plan import Plan, make_plan, make_requests
from physlm.lab.pool import Failure, Task, run_tasks
from physlm.lab.provenance import NUMERICS_REVISION, cpu_count, has_accelerator
from physlm.lab.report import Report, print_report, write_report
from physlm.lab.results import RunMetrics
from physlm.lab.storage import RunRecord, disk_full_at, find_run, load_run

DEFAULT_OUT = Path("results")
DEFAULT_CACHE = Path(".physlm")
_ON_ACCELERATORS: tuple[Scale, ...] = ("gpu", "paper")

Records: TypeAlias = dict[tuple[str, int], RunRecord]


def run_experiment(
    experiment: Experiment[Any],
    scale: Scale | None = None,
    seeds: Sequence[int] | None = None,
    claims: str | None = None,
    conditions: str | None = None,
    out: Path | None = None,
    resume: bool = True,
    jobs: int | None = None,
    cache: Path = DEFAULT_CACHE,
    *,
    recorded: bool = False,
    development: bool = False,
    allow_cpu: bool = False,
    console: Console | None = None,
) -> Report:
    """Compute what is missing and judge the claims.

    Args:
        experiment: what to run.
        scale: which preset; default `cpu`.
        seeds: default, the committed seeds of the scale.
        claims: "core", "all" or ids separated by commas; default "core", or "all" if `conditions` is given.
        conditions: patterns for condition names ("finetune/*"), separated by commas; the others are left out.
        out: results folder; runs and report go to `<out>/<experiment>/<scale>/`. Default `results`, but
            `<cache>/results` at the smoke scale, which is no result.
        resume: use finished runs and stages; otherwise everything is computed afresh, and what was there is kept.
        jobs: parallel runs, each with `experiment.threads_per_run` threads; default, as many as there are cores for.
        cache: folder of shared stages; it may be deleted between runs.
        recorded: judge the finished runs and compute nothing, if need be those of an earlier numerics revision.
        development: use development seeds, to choose a preset; claims are measured and never decided.
        allow_cpu: compute the scales that are meant for an accelerator without one, too.
        console: where to print.

    Returns:
        The report; `report.failures` names what did not finish.

    Raises:
        ValueError: a name that does not exist, seeds that may not be used, no accelerator for a scale that is meant
            for one, or nothing recorded; the message says what may be done.
        OSError: the disk is full or not writable.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; finished runs are kept.
    """
    console = console or Console()
    scale = scale or experiment.default_scale
    plan = make_plan(experiment, scale, seeds, claims, conditions, out or _default_out(scale, cache), development)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be ≥ 1, got {jobs}")
    if recorded and not resume:
        raise ValueError("recorded runs are finished ones, which --no-resume leaves out: give one of the two")
    if scale in _ON_ACCELERATORS and not (recorded or allow_cpu or has_accelerator()):
        raise ValueError(
            f"scale {scale!r} is meant for an accelerator, and PyTorch sees none here: on a CPU a single run may take "
            f"days. Take --scale {experiment.default_scale}, look at what is recorded with --recorded, or compute it "
            "here all the same with --allow-cpu"
        )
    requests = make_requests(plan, cache if resume else cache / "afresh" / f"{time.time_ns():x}")
    warned: set[str] = set()

    def warn(message: str) -> None:
        if message not in warned:
            warned.add(message)
            console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)

    if recorded:
        numerics, records = _newest_recorded(plan, requests, warn)
        announce_plan(console, plan, len(records.keys() & plan.runs))
        report = _judge(plan, records, [], numerics)
        write_report(report, experiment.plots, console)
        print_report(report, console)
        return report
    records = _find(requests, warn) if resume else {}
    missing = [
        request
        for request in requests
        if (key := (request.condition.name, request.seed)) in plan.runs and key not in records
    ]
    older = [request for request in missing if resume and any(_find([each], warn) for each in _earlier(request))]
    default_jobs = experiment.jobs.get(scale) or (
        1 if scale in _ON_ACCELERATORS else max(1, cpu_count() // experiment.threads_per_run)
    )
    jobs = min(jobs or default_jobs, max(1, len(missing)))
    computing = f", computing {len(missing)} ({jobs} at a time)" if missing else ""
    announce_plan(console, plan, len(plan.runs) - len(missing), computing)
    begin = time.monotonic()
    failures: list[Failure] = []
    if missing:
        announce_missing(console, plan, missing, older, jobs)
        folders = (plan.folder, missing[0].cache)
        failures = _compute(missing, records, console, jobs, experiment.threads_per_run, folders)
    report = _judge(plan, records, failures, NUMERICS_REVISION)
    if not failures:
        write_report(report, experiment.plots, console)
    print_report(report, console)
    if missing:
        console.print(f"[dim]{len(missing)} runs in {duration(time.monotonic() - begin)}[/]", highlight=False)
    return report


def _default_out(scale: Scale, cache: Path) -> Path:
    return cache / "results" if scale == "smoke" else DEFAULT_OUT


def _find(requests: Sequence[Request], warn: Callable[[str], None]) -> Records:
    """The finished runs, by (condition, seed)."""
    return {
        (request.condition.name, request.seed): found
        for request in requests
        if (found := find_run(request.folder, request.hash, warn))
    }


def _earlier(request: Request) -> list[Request]:
    """The same run under every earlier numerics revision, newest first."""
    return [dataclasses.replace(request, numerics=numerics) for numerics in reversed(range(request.numerics))]


def _newest_recorded(plan: Plan, requests: Sequence[Request], warn: Callable[[str], None]) -> tuple[int, Records]:
    """The numerics revision that most of the plan's runs are finished with, the newest among equals, and its runs."""
    found = {
        revision: _find([dataclasses.replace(request, numerics=revision) for request in requests], warn)
        for revision in range(NUMERICS_REVISION + 1)
    }
    newest = max(found, key=lambda revision: (len(found[revision].keys() & plan.runs), revision))
    if not found[newest]:
        raise ValueError(
            f"no finished run of scale {plan.scale!r} and seeds {', '.join(map(str, plan.seeds))} is recorded in "
            f"{plan.folder / 'runs'}: leave out --recorded to compute them"
        )
    return newest, found[newest]


class _Observer:
    """Turns what happens in the pool into records, failures and progress."""

    def __init__(self, display: Display, requests: Mapping[str, Request]) -> None:
        self.display = display
        self.requests = requests
        self.records: Records = {}
        self.failures: list[Failure] = []
        self.stop = False

    def started(self, task: Task) -> None:
        self.display.start(task.label)

    def progressed(self, task: Task, fraction: float, message: str) -> None:
        self.display.update(task.label, fraction, message)

    def finished(self, task: Task, result: Any) -> None:
        request = self.requests[task.label]
        record = load_run(Path(result), request.hash)
        self.records[request.condition.name, request.seed] = record
        self.display.end(task.label)
        self.display.say(f"[green]✓[/] {escape(task.label)}  [dim]{duration(record.wall_seconds)}[/]")

    def failed(self, task: Task, failure: Failure) -> None:
        self.failures.append(failure)
        self.stop = self.stop or failure.disk_full
        self.display.end(task.label)
        self.display.say(f"[red]✗ {escape(failure.label)}: {escape(failure.summary)}[/]")
        if failure.details and not failure.disk_full:
            self.display.say(f"[dim]{escape(failure.details.rstrip())}[/]")

    def tick(self) -> None:
        self.display.refresh()


def _compute(
    missing: Sequence[Request],
    records: Records,
    console: Console,
    jobs: int,
    threads: int,
    folders: tuple[Path, Path],
) -> list[Failure]:
    tasks = [
        Task(
            request.label,
            functools.partial(execute, request),
            (request.condition.stage_key, request.seed) if request.condition.stage_key else None,
        )
        for request in missing
    ]
    with Display(console, len(tasks)) as display, _terminate_like_interrupt():
        observer = _Observer(display, {request.label: request for request in missing})
        full = functools.partial(disk_full_at, folders)
        run_tasks(tasks, observer, jobs=jobs, threads=threads, disk_full=full)
    records.update(observer.records)
    if observer.stop:
        raise OSError(
            f"the disk is full: stopped after {observer.failures[-1].label}. The {len(observer.records)} runs finished "
            f"by now are kept. Free some space (old stages in {folders[1] / 'stages'} may be deleted), or point "
            "--cache or --out to another disk, and give the same command again: it goes on from here."
        )
    return observer.failures


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM (a batch system's "time is up") ends a sweep as cleanly as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _judge(plan: Plan, records: Mapping[tuple[str, int], RunRecord], failures: list[Failure], numerics: int) -> Report:
    """Judge every claim whose runs are all there, chosen now or computed earlier."""
    experiment = plan.experiment
    complete = [
        condition for condition in plan.all_conditions if all((condition.name, seed) in records for seed in plan.seeds)
    ]
    names = [condition.name for condition in complete]
    runs: dict[int, dict[str, RunMetrics]] = {
        seed: {name: records[name, seed].metrics for name in names} for seed in plan.seeds
    }
    reason = "the smoke scale only shows that everything runs; it asserts no claim" if plan.scale == "smoke" else ""
    if plan.development:
        reason = "development seeds: numbers for choosing a preset, no verdict"
    ready = [claim for claim in plan.claims if set(claim.conditions) <= set(names)]
    return Report(
        experiment=experiment.name,
        title=experiment.title,
        source=experiment.source,
        revision=experiment.revision,
        numerics=numerics,
        scale=plan.scale,
        development=plan.development,
        preset=plan.preset,
        seeds=plan.seeds,
        conditions=tuple(complete),
        records={(name, seed): records[name, seed] for name in names for seed in plan.seeds},
        verdicts=tuple(evaluate(claim, runs, not_asserted=reason) for claim in ready),
        skipped=tuple(claim.id for claim in plan.chosen if claim not in ready),
        failures=tuple(failures),
        folder=plan.report_folder,
    )


def describe(experiment: Experiment[Any], scale: Scale) -> dict[str, Any]:
    """Conditions and claims at a scale, for `--list`."""
    preset = experiment.preset(scale)
    return {
        "conditions": list(experiment.conditions(preset)),
        "claims": list(experiment.claims(scale, preset)),
        "preset": dataclasses.asdict(preset),
    }
