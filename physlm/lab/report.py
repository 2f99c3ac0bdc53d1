"""Reports: a table on the terminal, `report.md` for people, `verdict.json` for machines.

`verdict.json` carries everything needed to judge the numbers: preset, hashes, versions, hardware, every run's
metrics (without the bulky per-item outcomes, which stay in the run files) and every claim with its interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from physlm.lab.claims import Part, Verdict, format_threshold, format_value
from physlm.lab.content import content_hash, to_json
from physlm.lab.display import duration
from physlm.lab.experiment import Condition
from physlm.lab.pool import Failure
from physlm.lab.provenance import NUMERICS_REVISION
from physlm.lab.results import Results, without_items
from physlm.lab.storage import FORMAT_VERSION, RunRecord, set_aside, write_atomically

_COLOURS = {"supported": "green", "refuted": "red", "inconclusive": "yellow"}

Plots = Callable[[Results, Path], Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a command.

    Attributes:
        numerics: the numerics revision of all its runs.
        records: finished runs by (condition, seed), of the conditions finished for every seed.
        verdicts: on every claim whose runs are all there.
        skipped: chosen claims that lack runs.
        failures: runs that did not finish.
        folder: where the report is.
    """

    experiment: str
    title: str
    source: str
    revision: int
    numerics: int
    scale: str
    development: bool
    preset: Any
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...]
    records: Mapping[tuple[str, int], RunRecord]
    verdicts: tuple[Verdict, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    folder: Path

    @property
    def ok(self) -> bool:
        """Everything ran and could be measured, whatever the verdicts."""
        return not self.failures and not any(verdict.failed for verdict in self.verdicts)

    @property
    def results(self) -> Results:
        """The view that plots get."""
        return Results(
            title=self.title,
            scale=self.scale,
            seeds=self.seeds,
            runs={key: record.metrics for key, record in self.records.items()},
            verdicts=self.verdicts,
        )


def to_document(report: Report) -> dict[str, Any]:
    """The content of `verdict.json`."""
    records = list(report.records.values())
    parameters = {
        record.condition: record.metrics["parameters"] for record in records if "parameters" in record.metrics
    }
    document = {
        "format_version": FORMAT_VERSION,
        "experiment": report.experiment,
        "title": report.title,
        "source": report.source,
        "revision": report.revision,
        "numerics": report.numerics,
        "scale": report.scale,
        "development": report.development,
        "seeds": report.seeds,
        "claims": [
            {key: value for key, value in to_json(verdict).items() if key != "failed"} for verdict in report.verdicts
        ],
        "preset": report.preset,
        "conditions": {condition.name: condition.options for condition in report.conditions},
        "hashes": {
            "preset": content_hash(report.preset),
            "runs": {f"{record.condition} seed {record.seed}": record.hash for record in records},
        },
        "data_fingerprint": {str(record.seed): record.data_fingerprint for record in records},
        "parameters": parameters,
        "versions": _distinct([record.versions for record in records]),
        "commits": list(dict.fromkeys(record.commit for record in records)),
        "hardware": _distinct([record.hardware for record in records]),
        "wall_seconds": round(sum(record.wall_seconds for record in records), 3),
        "peak_memory_bytes": max((record.peak_memory_bytes for record in records), default=0),
        "runs": [
            {
                "condition": record.condition,
                "seed": record.seed,
                "wall_seconds": record.wall_seconds,
                "peak_memory_bytes": record.peak_memory_bytes,
                "metrics": without_items(record.metrics),
            }
            for record in records
        ],
    }
    return to_json(document, "verdict")


def _distinct(values: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The different values, in order: runs of one sweep may come from several machines."""
    distinct: list[Mapping[str, Any]] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def write_report(report: Report, plots: Plots | None, console: Console) -> list[Path]:
    """Write `verdict.json`, `report.md` and the plots; an earlier verdict is overwritten if it is of the same kind.

    One of another format or of another numerics revision is set aside.
    """
    report.folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    if plots is not None and report.records:
        try:
            drawn = list(plots(report.results, report.folder))
        except Exception as error:  # hours of runs must not be lost to a plot
            message = f"the plots could not be drawn ({type(error).__name__}: {error})"
            console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)
    verdict = report.folder / "verdict.json"
    if other := _otherness(verdict, report.numerics):
        kept = set_aside(verdict)
        message = f"{verdict} had {other}; kept as {kept.name}"
        console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)
    text = json.dumps(to_document(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(verdict, text)
    markdown = report.folder / "report.md"
    write_atomically(markdown, to_markdown(report, drawn))
    return [verdict, markdown, *drawn]


def _otherness(path: Path, numerics: int) -> str:
    """Why the verdict at `path` must not be overwritten by one of a numerics revision, or nothing."""
    if not path.exists():
        return ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        content = None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        return "another format"
    return "" if content.get("numerics", 0) == numerics else "another numerics revision"


def numerics_note(numerics: int) -> str:
    """What a reader must know of runs of a numerics revision; nothing if it is the present one."""
    if numerics == NUMERICS_REVISION:
        return ""
    return (
        f"These runs were made with numerics revision {numerics}, before the present one ({NUMERICS_REVISION}): the "
        "same seeds now give other weights. They are not mixed with new runs."
    )


def _estimate(part: Part | Verdict) -> str:
    text = format_value(part.estimate, part.unit)
    if part.interval is not None:
        low, high = (format_value(end, part.unit, bare=True) for end in part.interval)
        text += f" [{low}, {high}]"
    return text


def print_report(report: Report, console: Console) -> None:
    """The table of verdicts on the terminal, then what else there is to know."""
    if report.verdicts:
        table = Table(show_lines=True, expand=False)
        table.add_column("claim", no_wrap=True)
        table.add_column("estimate [95 % interval]", overflow="fold")
        for verdict in report.verdicts:
            first = Text(verdict.id, style="bold")
            first.append(f"\n{verdict.verdict}", style=f"bold {_COLOURS[verdict.verdict]}")
            table.add_row(first, _told(verdict))
        console.print(table)
        if any(verdict.interval_over == "items" for verdict in report.verdicts):
            console.print("[dim]One seed: intervals are over items and say nothing about other seeds.[/]")
    if note := numerics_note(report.numerics):
        console.print(f"[yellow]{escape(note)}[/]", highlight=False)
    if report.skipped:
        console.print(f"not judged, as runs are missing: {escape(', '.join(report.skipped))}", highlight=False)
    if report.failures:
        names = ", ".join(failure.label for failure in report.failures)
        console.print(
            f"[red]failed runs ({len(report.failures)}):[/] {escape(names)}. Finished runs are kept; the same command "
            "tries the others again. No report was written.",
            highlight=False,
        )
    else:
        console.print(f"report: {escape(str(report.folder / 'report.md'))}", highlight=False, soft_wrap=True)


def _told(verdict: Verdict) -> Group:
    """Statement, measurements and reason of a verdict, in as many lines as the terminal needs."""
    measured = Table.grid(padding=(0, 1, 0, 0))
    for part in verdict.parts:
        text = Text(_estimate(part), style="bold")
        text.append(f", claimed {format_threshold(part.relation, part.threshold, part.unit)}", style="not bold")
        if len(verdict.parts) > 1:
            text.append(f": {part.name}", style="not bold dim")
        measured.add_row("•", text)
    lines: list[Text | Table] = [Text(verdict.statement), measured]
    if verdict.control:
        lines.append(Text(f"compared with {verdict.control}", style="dim"))
    if verdict.reason:
        lines.append(Text(verdict.reason, style="yellow"))
    return Group(*lines)


def to_markdown(report: Report, plots: Sequence[Path] = ()) -> str:
    """The content of `report.md`."""
    lines = [f"# {report.title}", "", f"Source: {report.source}.  "]
    lines.append(f"Scale `{report.scale}`, seeds {', '.join(map(str, report.seeds))}, revision {report.revision}.")
    if note := numerics_note(report.numerics):
        lines += ["", f"**{note}**"]
    if report.development:
        lines += ["", "**Development seeds: numbers for choosing a preset, no verdict.**"]
    if report.verdicts:
        lines += ["", "| claim | verdict | estimate [95 % interval] | claimed | compared with |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for verdict in report.verdicts:
            claimed = format_threshold(verdict.relation, verdict.threshold, verdict.unit)
            cells = (verdict.id, f"**{verdict.verdict}**", _estimate(verdict), claimed, verdict.control)
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    for plot in plots:
        lines += ["", f"![{plot.stem.replace('_', ' ')}]({plot.relative_to(report.folder).as_posix()})"]
    for verdict in report.verdicts:
        lines += ["", f"## {verdict.id}: {verdict.verdict}", "", f"{verdict.statement} ({verdict.source})", ""]
        if verdict.reason:
            lines += [f"*{verdict.reason}.*", ""]
        for part in verdict.parts:
            claimed = format_threshold(part.relation, part.threshold, part.unit)
            name = part.name.rstrip(".")
            lines.append(f"- {name}: {_estimate(part)}, claimed {claimed}: {part.verdict}{_seeds(verdict, part)}")
        for requirement in verdict.requirements:
            wanted = format_threshold(requirement.relation, requirement.threshold, requirement.unit)
            values = ", ".join(format_value(value, requirement.unit) for value in requirement.values)
            state = "met" if requirement.met else "**not met**"
            lines.append(f"- required: {requirement.name} {wanted}: {state} ({values})")
    lines += _provenance(report)
    return "\n".join(lines) + "\n"


def _seeds(verdict: Verdict, part: Part) -> str:
    if part.interval_over == "items":
        return f" ({part.method}; one seed)"
    values = ", ".join(
        f"{seed}: {format_value(value, part.unit, bare=True)}"
        for seed, value in zip(verdict.seeds, part.values, strict=False)
    )
    return f" ({part.method + '; ' if part.method else ''}by seed {values})"


def _provenance(report: Report) -> list[str]:
    document = to_document(report)
    lines = ["", "## How it was made", ""]
    for machine in document["hardware"]:
        memory = machine["memory_bytes"] / 2**30
        accelerator = f", {machine['accelerator']}" if machine["accelerator"] else ""
        lines.append(f"- hardware: {machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB{accelerator}")
    lines += [
        "- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
        for versions in document["versions"]
    ]
    lines.append(f"- numerics revision {report.numerics}")
    lines += [f"- commit `{commit}`" for commit in document["commits"] if commit]
    peak = document["peak_memory_bytes"] / 2**20
    time = duration(document["wall_seconds"])
    lines.append(f"- {len(report.records)} runs, {time} of computing in all, peak memory {peak:.0f} MiB")
    lines.append(f"- preset `{document['hashes']['preset'][:12]}`; every number is in `verdict.json`")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
