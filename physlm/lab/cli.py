"""The command line that every experiment has: `python -m experiments.<name>`.

Exit codes: 0 everything ran, whatever the verdicts; 1 something failed; 2 the command cannot be done as given;
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from physlm.lab.claims import format_threshold
from physlm.lab.experiment import SCALES, Experiment, Scale
from physlm.lab.runner import DEFAULT_CACHE, DEFAULT_OUT, describe, run_experiment

_SCALE_HELP = {
    "smoke": "seconds; shows that everything runs, asserts no claim",
    "cpu": "minutes on two cores",
    "gpu": "a quarter of an hour a model on one data-centre GPU",
    "paper": "the paper's own size; hours to a day",
}


def _argument(metavar: str | None, text: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    scale: Annotated[Scale | None, _argument("SCALE", "Which preset, see above. Default: cpu.")] = None
    seeds: Annotated[str | None, _argument("101,102", "Default: the committed seeds of the scale.")] = None
    claims: Annotated[
        str | None, _argument("IDS", 'Claims to decide: "core" (default), "all" or ids as "BIO-4,BIO-5".')
    ] = None
    only: Annotated[str | None, _argument("PATTERN", 'Only the conditions that match, as "finetune/*".')] = None
    resume: Annotated[bool, _argument(None, "Use finished runs (default), or compute everything afresh.")] = True
    out: Annotated[Path, _argument("FOLDER", "Where runs and reports are kept. Default: results.")] = DEFAULT_OUT
    cache: Annotated[
        Path, _argument("FOLDER", "Where shared stages are kept; may be deleted between runs. Default: .physlm.")
    ] = DEFAULT_CACHE
    jobs: Annotated[int | None, _argument("N", "Runs at a time. Default: from the cores.")] = None
    development: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Take the development seeds, to choose a preset; no verdict is made."),
    ] = False
    listing: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(name="list", help="Show conditions and claims, run nothing.", help_behavior_hint=""),
    ] = False


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, report; returns the exit code.

    Example:
        if __name__ == "__main__":
            raise SystemExit(main(EXPERIMENT))
    """
    program = f"python -m experiments.{experiment.name}"
    options = tyro.cli(Options, prog=program, description=_help(experiment, program), args=arguments)
    console = Console()
    errors = Console(stderr=True)
    given = list(sys.argv[1:] if arguments is None else arguments)
    again = " ".join([program, *given])
    try:
        if options.listing:
            _list(experiment, options.scale or experiment.default_scale, console)
            return 0
        report = run_experiment(
            experiment,
            options.scale,
            parse_seeds(options.seeds),
            options.claims,
            options.only,
            options.out,
            options.resume,
            options.jobs,
            options.cache,
            development=options.development,
            console=console,
        )
    except KeyboardInterrupt:
        message = f"stopped. Finished runs are kept; go on with: {again}"
        errors.print(escape(message), highlight=False, soft_wrap=True)
        return 130
    except ValueError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    return 0 if report.ok else 1


def parse_seeds(text: str | None) -> list[int] | None:
    """Seeds from "101,102".

    Example:
        >>> parse_seeds("101, 102")
        [101, 102]
    """
    if text is None:
        return None
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f'seeds are whole numbers separated by commas, as "101,102", got {text!r}') from None


def _help(experiment: Experiment[Any], program: str) -> str:
    scales = "\n".join(
        f"  {scale:<6} {_SCALE_HELP[scale]}; seeds {', '.join(map(str, experiment.seeds[scale]))}"
        for scale in SCALES
        if scale in experiment.presets
    )
    return f"""{experiment.title}

{experiment.source}.

Computes the conditions that the chosen claims read, compares them with thresholds fixed before the run, and
writes verdict.json, report.md and plots to results/{experiment.name}/<scale>/. Finished runs are kept: the same
command goes on where it was stopped.

Scales:
{scales}

Examples:
  {program}
  {program} --list
  {program} --scale smoke
  {program} --claims all --seeds 101,102,103
"""


def _list(experiment: Experiment[Any], scale: Scale, console: Console) -> None:
    found = describe(experiment, scale)
    console.print(f"[bold]{escape(experiment.title)}[/], scale {scale}", highlight=False)
    console.print("\n[bold]conditions[/]")
    for condition in found["conditions"]:
        console.print(f"  {escape(condition.name)}", highlight=False)
    console.print("\n[bold]claims[/] (* core)")
    for claim in found["claims"]:
        mark = "*" if claim.id in experiment.core else " "
        threshold = format_threshold(claim.relation, claim.threshold, claim.unit)
        console.print(f"{mark} [bold]{escape(claim.id)}[/] {escape(claim.statement)}", highlight=False)
        console.print(f"    [dim]{escape(claim.source)}; claimed {escape(threshold)}[/]", highlight=False)
        console.print(f"    [dim]reads {escape(', '.join(claim.conditions))}[/]", highlight=False)
