"""The runner: which runs are needed, which are there, compute the rest in parallel, and judge.

- A finished (condition, seed) is a small file found by content hash. Killing the runner, or a worker, or the
  machine loses at most the runs in progress; those continue from their own checkpoints in shared stages.
- A run that fails costs itself only. The report is written when nothing failed; the run files are kept always.
- Reports of other seeds than the committed ones go to folders of their own, and so do reports of development
  seeds, on which no verdict is ever made.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from physlm.lab.claims import Claim, evaluate
from physlm.lab.display import Display, duration
from physlm.lab.execution import Request, execute
from physlm.lab.experiment import Condition, Experiment, Scale
from physlm.lab.pool import Failure, Task, run_tasks
from physlm.lab.provenance import cpu_count
from physlm.lab.report import Report, print_report, write_report
from physlm.lab.results import RunMetrics
from physlm.lab.storage import RunRecord, disk_full_at, find_run, load_run, run_hash

DEFAULT_OUT = Path("results")
DEFAULT_CACHE = Path(".physlm")


@dataclass(frozen=True)
class Plan:
    """What a command asks for."""

    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...]
    claims: tuple[Claim, ...]
    chosen: tuple[str, ...]
    folder: Path
    report_folder: Path


def run_experiment(
    experiment: Experiment[Any],
    scale: Scale | None = None,
    seeds: Sequence[int] | None = None,
    claims: str | None = None,
    only: str | None = None,
    out: Path = DEFAULT_OUT,
    resume: bool = True,
    jobs: int | None = None,
    cache: Path = DEFAULT_CACHE,
    *,
    development: bool = False,
    console: Console | None = None,
) -> Report:
    """Compute what is missing and judge the claims.

    Args:
        experiment: what to run.
        scale: which preset; default `cpu`.
        seeds: default, the committed seeds of the scale.
        claims: "core", "all" or ids separated by commas; default "core", or "all" if `only` is given.
        only: a pattern for condition names ("finetune/*"); the others are left out.
        out: results folder; runs and report go to `<out>/<experiment>/<scale>/`.
        resume: use finished runs and stages; otherwise everything is computed afresh, and what was there is kept.
        jobs: parallel runs.
        cache: folder of shared stages; it may be deleted between runs.
        development: use development seeds, to choose a preset; claims are measured and never decided.
        console: where to print.

    Returns:
        The report; `report.failures` names what did not finish.

    Raises:
        ValueError: a name that does not exist, or seeds that may not be used; the message says what may.
        OSError: the disk is full or not writable.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; finished runs are kept.
    """
    console = console or Console()
    scale = scale or experiment.default_scale
    preset = experiment.preset(scale)
    plan = make_plan(experiment, scale, seeds, claims, only, out, development)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be ≥ 1, got {jobs}")
    gpu = scale in ("gpu", "paper")
    default_jobs = experiment.jobs.get(scale) or (1 if gpu else max(1, cpu_count() // experiment.threads_per_run))
    if not resume:
        cache = cache / "afresh" / f"{time.time_ns():x}"
    requests = _requests(experiment, scale, preset, plan, cache)
    warned: set[str] = set()

    def warn(message: str) -> None:
        if message not in warned:
            warned.add(message)
            console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)

    records: dict[tuple[str, int], RunRecord] = {}
    if resume:
        for request in requests:
            if found := find_run(plan.folder / "runs", request.hash, warn):
                records[request.condition.name, request.seed] = found
    needed = {condition.name for condition in plan.conditions}
    missing = [
        request
        for request in requests
        if request.condition.name in needed and (request.condition.name, request.seed) not in records
    ]
    wanted = len(plan.conditions) * len(plan.seeds)
    jobs = min(jobs or default_jobs, max(1, len(missing)))
    _announce(console, experiment, scale, preset, plan, wanted, len(missing), jobs)
    begin = time.monotonic()
    failures = _compute(missing, records, console, jobs, experiment.threads_per_run, (out, cache)) if missing else []
    report = _judge(experiment, scale, preset, plan, records, failures, development)
    if not failures:
        write_report(report, experiment.plots, console)
    print_report(report, console)
    if missing:
        console.print(f"[dim]{len(missing)} runs in {duration(time.monotonic() - begin)}[/]", highlight=False)
    return report


def make_plan(
    experiment: Experiment[Any],
    scale: Scale,
    seeds: Sequence[int] | None,
    claims: str | None,
    only: str | None,
    out: Path,
    development: bool,
) -> Plan:
    """Check every name and choose the conditions to compute."""
    preset = experiment.preset(scale)
    conditions = list(experiment.conditions(preset))
    names = [condition.name for condition in conditions]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{experiment.name}: conditions must have different names, repeated: {', '.join(repeated)}")
    all_claims = tuple(experiment.claims(scale, preset))
    for claim in all_claims:
        if unknown := sorted(set(claim.conditions) - set(names)):
            raise ValueError(f"claim {claim.id} reads conditions that do not exist: {', '.join(unknown)}")
    chosen = _choose_claims(experiment, all_claims, claims or ("all" if only else "core"))
    read = {name for claim in chosen for name in claim.conditions}
    kept = [condition for condition in conditions if not read or condition.name in read or (only and not claims)]
    if only:
        patterns = [pattern.strip() for pattern in only.split(",")]
        kept = [condition for condition in kept if any(fnmatch.fnmatchcase(condition.name, p) for p in patterns)]
        if not kept:
            raise ValueError(f"--only {only!r} matches no condition; there are:\n  " + "\n  ".join(names))
    used = _choose_seeds(experiment, scale, seeds, development)
    folder = out / experiment.name / scale
    report_folder = folder
    if development:
        folder = report_folder = folder / "development"
    elif used != tuple(experiment.seeds[scale]):
        report_folder = folder / ("seeds-" + "-".join(map(str, used)))
    ids = tuple(claim.id for claim in chosen)
    return Plan(used, tuple(kept), all_claims, ids, folder, report_folder)


def _choose_claims(experiment: Experiment[Any], claims: tuple[Claim, ...], choice: str) -> list[Claim]:
    if choice == "all":
        return list(claims)
    by_id = {claim.id: claim for claim in claims}
    if choice == "core":
        return [by_id[name] for name in experiment.core if name in by_id] or list(claims)
    wanted = [name.strip() for name in choice.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in by_id]:
        there = ", ".join(by_id) or "none at this scale"
        raise ValueError(f"no claim {', '.join(unknown)} in {experiment.name}; there are core, all, {there}")
    return [by_id[name] for name in wanted]


def _choose_seeds(
    experiment: Experiment[Any], scale: Scale, seeds: Sequence[int] | None, development: bool
) -> tuple[int, ...]:
    default = sorted(experiment.development_seeds) if development else experiment.seeds[scale]
    used = tuple(dict.fromkeys(default if seeds is None else seeds))
    if not used:
        raise ValueError("at least one seed is needed")
    reserved = set(experiment.development_seeds)
    if not development and (seen := sorted(set(used) & reserved)):
        raise ValueError(
            f"seeds {', '.join(map(str, seen))} were used to choose the presets of {experiment.name}, so a verdict on "
            f"them would be too favourable; take others (the committed ones are "
            f"{', '.join(map(str, experiment.seeds[scale]))}), or look without a verdict with --development"
        )
    if development and (foreign := sorted(set(used) - reserved)):
        allowed = ", ".join(map(str, sorted(reserved))) or "none are declared"
        raise ValueError(
            f"development runs take development seeds ({allowed}), got {', '.join(map(str, foreign))}: "
            "seeds kept for verdicts must not be looked at before"
        )
    return used


def _requests(experiment: Experiment[Any], scale: Scale, preset: Any, plan: Plan, cache: Path) -> list[Request]:
    """A request for every (seed, condition), in the order in which to compute them."""
    fingerprints = {seed: experiment.data_fingerprint(preset, seed) for seed in plan.seeds}
    occurrences: Counter[str] = Counter()
    ranked: list[tuple[int, int, Condition]] = []
    for index, condition in enumerate(experiment.conditions(preset)):
        key = condition.stage_key or f"/{condition.name}"
        ranked.append((occurrences[key], index, condition))
        occurrences[key] += 1
    ranked.sort(key=lambda row: row[:2])
    return [
        Request(
            run=experiment.run,
            experiment=experiment.name,
            revision=experiment.revision,
            scale=scale,
            preset=preset,
            condition=condition,
            seed=seed,
            hash=run_hash(
                experiment=experiment.name,
                revision=experiment.revision,
                preset=preset,
                condition=condition.name,
                options=condition.options,
                seed=seed,
                fingerprint=fingerprints[seed],
            ),
            data_fingerprint=fingerprints[seed],
            folder=plan.folder / "runs",
            cache=cache,
        )
        for seed in plan.seeds
        for _, _, condition in ranked
    ]


def _announce(
    console: Console,
    experiment: Experiment[Any],
    scale: Scale,
    preset: Any,
    plan: Plan,
    wanted: int,
    missing: int,
    jobs: int,
) -> None:
    console.print(f"[bold]{escape(experiment.title)}[/]  [dim]{escape(experiment.source)}[/]", highlight=False)
    seeds = ", ".join(map(str, plan.seeds))
    console.print(
        f"scale {scale}, {len(plan.conditions)} conditions, seeds {seeds}: "
        f"{wanted - missing} of {wanted} runs are there"
        + (f", computing {missing} ({jobs} at a time)" if missing else ""),
        highlight=False,
    )
    if missing and experiment.estimate is not None:
        console.print(f"expected cost: {escape(experiment.estimate(preset))}", highlight=False)


class _Observer:
    """Turns what happens in the pool into records, failures and progress."""

    def __init__(self, display: Display, requests: Mapping[str, Request]) -> None:
        self.display = display
        self.requests = requests
        self.records: dict[tuple[str, int], RunRecord] = {}
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
    records: dict[tuple[str, int], RunRecord],
    console: Console,
    jobs: int,
    threads: int,
    folders: tuple[Path, ...],
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


def _judge(
    experiment: Experiment[Any],
    scale: Scale,
    preset: Any,
    plan: Plan,
    records: Mapping[tuple[str, int], RunRecord],
    failures: list[Failure],
    development: bool,
) -> Report:
    """Judge every claim whose runs are all there, chosen now or computed earlier."""
    names = [condition.name for condition in experiment.conditions(preset)]
    complete = [name for name in names if all((name, seed) in records for seed in plan.seeds)]
    runs: dict[int, dict[str, RunMetrics]] = {
        seed: {name: records[name, seed].metrics for name in complete} for seed in plan.seeds
    }
    reason = "the smoke scale only shows that everything runs; it asserts no claim" if scale == "smoke" else ""
    if development:
        reason = "development seeds: numbers for choosing a preset, no verdict"
    ready = [claim for claim in plan.claims if set(claim.conditions) <= set(complete)]
    verdicts = tuple(evaluate(claim, runs, not_asserted=reason) for claim in ready)
    ready_ids = {claim.id for claim in ready}
    return Report(
        experiment=experiment.name,
        title=experiment.title,
        source=experiment.source,
        revision=experiment.revision,
        scale=scale,
        development=development,
        preset=preset,
        seeds=plan.seeds,
        conditions=tuple(condition for condition in experiment.conditions(preset) if condition.name in complete),
        records={(name, seed): records[name, seed] for name in complete for seed in plan.seeds},
        verdicts=verdicts,
        skipped=tuple(identity for identity in plan.chosen if identity not in ready_ids),
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
