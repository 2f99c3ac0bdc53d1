"""What is said before anything is computed: what is there, what is missing for which claim, and what it will cost.

Times are means over finished runs of the same preset, on whatever machine they were made. Of runs that share a stage
one pays for it, so a mean is right for a whole sweep and not for every run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from physlm.lab.content import content_hash
from physlm.lab.display import duration
from physlm.lab.execution import Request
from physlm.lab.plan import Plan
from physlm.lab.provenance import NUMERICS_REVISION


def recorded_seconds(folder: Path, preset: Any) -> dict[str, list[float]]:
    """Seconds that finished runs of a preset took, by condition; files that cannot be read do not count."""
    seconds: dict[str, list[float]] = {}
    wanted = content_hash(preset)
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["preset_hash"] == wanted:
                seconds.setdefault(str(record["condition"]), []).append(float(record["wall_seconds"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return seconds


def announce_plan(console: Console, plan: Plan, there: int, computing: str = "") -> None:
    """Say what was asked for, and how many of its runs are finished."""
    title, source = escape(plan.experiment.title), escape(plan.experiment.source)
    console.print(f"[bold]{title}[/]\n[dim]{source}[/]", highlight=False)
    console.print(
        f"scale {plan.scale}, {len(plan.conditions)} conditions, seeds {', '.join(map(str, plan.seeds))}: "
        f"{there} of {len(plan.runs)} runs are there{computing}",
        highlight=False,
    )


def announce_missing(
    console: Console, plan: Plan, missing: Sequence[Request], older: Collection[Request], jobs: int
) -> None:
    """Say which claims the missing runs are for, and what they will cost.

    Args:
        console: where to print.
        plan: what was asked for.
        missing: the runs that will be computed.
        older: those of them that are finished with an earlier numerics revision.
        jobs: how many runs are computed at a time.
    """
    if older:
        console.print(
            f"[yellow]{len(older)} of these runs are finished with an earlier numerics revision[/] than the present "
            f"one ({NUMERICS_REVISION}): the same seeds gave other weights. They are kept, not mixed with new runs, "
            "and computed again. --recorded shows their report and computes nothing.",
            highlight=False,
        )
    _by_claim(console, plan, missing)
    _expected(console, plan, missing, jobs)


def _by_claim(console: Console, plan: Plan, missing: Sequence[Request]) -> None:
    """Which claims the missing runs are for."""
    lacking = {
        claim.id: sum(request.condition.name in claim.conditions for request in missing) for claim in plan.chosen
    }
    for identity, count in lacking.items():
        needs = f"{_runs(count)} to compute" if count else "all runs are there"
        console.print(f"  {escape(identity)}: {needs}", highlight=False)
    cheapest = min(lacking, key=lambda identity: lacking[identity], default="")
    if cheapest and lacking[cheapest] < len(missing):
        only = f"only {lacking[cheapest]} of them" if lacking[cheapest] else "nothing"
        console.print(f"  (--claims {escape(cheapest)} computes {only})", highlight=False)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _expected(console: Console, plan: Plan, missing: Sequence[Request], jobs: int) -> None:
    experiment = plan.experiment
    recorded = recorded_seconds(plan.folder / "runs", plan.preset)
    if experiment.estimate is not None:
        console.print(f"expected cost: {escape(experiment.estimate(plan.preset))}", highlight=False)
    if not recorded:
        return
    means = {condition: fmean(seconds) for condition, seconds in recorded.items()}
    other = fmean(means.values())
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    total = 0.0
    for name, count in Counter(request.condition.name for request in missing).items():
        seconds = count * means.get(name, other)
        total += seconds
        table.add_row(
            f"  {escape(name)}", _runs(count), duration(seconds), "" if name in means else "no record: as the others"
        )
    console.print("expected time, by finished runs of this preset:")
    console.print(table)
    console.print(f"  in all {duration(total)}; {jobs} at a time, about {duration(total / jobs)}", highlight=False)
