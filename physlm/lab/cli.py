"""The command line that every experiment has: `python -m experiments.<name>`.

Exit codes: 0 everything ran, whatever the verdicts; 1 something failed; 2 the command cannot be done as given;
130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from physlm.lab.claims import format_threshold
from physlm.lab.experiment import SCALES, Experiment, Scale
from physlm.lab.runner import DEFAULT_CACHE, describe, run_experiment

_SCALE_HELP = {
    "smoke": "seconds; shows that everything runs, asserts no claim",
    "cpu": "minutes to an hour a seed on two cores",
    "gpu": "a quarter of an hour a model on one data-centre GPU",
    "paper": "the paper's own size; hours to a day",
}


_OTHER_SEEDS = range(201, 10_000)


def _argument(metavar: str | None, text: str, **options: Any) -> Any:
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="", **options)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run. What is empty or 0 the runner chooses; a field that may be None would be shown to users as such."""

    scale: Annotated[Scale, _argument("SCALE", "Which preset, see above.")] = "cpu"
    seeds: Annotated[
        str, _argument("SEEDS", 'Separated by commas, as "201,202". Default: the committed seeds, see above.')
    ] = ""
    claims: Annotated[
        str, _argument("IDS", 'Claims to decide: "core" (default), "all" or ids separated by commas, see above.')
    ] = ""
    conditions: Annotated[
        str,
        _argument(
            "PATTERNS",
            'Only the conditions that match, as "finetune/*"; several are separated by commas. See --list.',
        ),
    ] = ""
    jobs: Annotated[
        int,
        _argument("N", "Runs (a condition with a seed) at a time. Default: as many as there are cores for."),
    ] = 0
    resume: Annotated[bool, _argument(None, "Use finished runs (default), or compute everything afresh.")] = True
    recorded: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Judge the finished runs and compute nothing; those of earlier numerics if need be."),
    ] = False
    out: Annotated[
        str,
        _argument(
            "FOLDER", "Where runs and reports are kept. Default: results; at scale smoke, a folder in that of --cache."
        ),
    ] = ""
    cache: Annotated[
        Path, _argument("FOLDER", "Where shared stages are kept; may be deleted between runs. Default: .physlm.")
    ] = DEFAULT_CACHE
    allow_cpu: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Compute the scales gpu and paper on a CPU, too."),
    ] = False
    development: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Take the development seeds, to choose a preset; no verdict is made."),
    ] = False
    listing: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Show conditions and claims, run nothing.", name="list"),
    ] = False


def main(experiment: Experiment[Any], arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, report; returns the exit code.

    Example:
        if __name__ == "__main__":
            raise SystemExit(main(EXPERIMENT))
    """
    program = f"python -m experiments.{experiment.name}"
    default = Options(scale=experiment.default_scale)
    options = tyro.cli(Options, prog=program, description=_help(experiment, program), args=arguments, default=default)
    console = Console()
    errors = Console(stderr=True)
    try:
        if options.listing:
            _list(experiment, options.scale, console)
            return 0
        report = run_experiment(
            experiment,
            options.scale,
            parse_seeds(options.seeds),
            options.claims or None,
            options.conditions or None,
            Path(options.out) if options.out else None,
            options.resume,
            options.jobs or None,
            options.cache,
            recorded=options.recorded,
            development=options.development,
            allow_cpu=options.allow_cpu,
            console=console,
        )
    except KeyboardInterrupt:
        given = sys.argv[1:] if arguments is None else arguments
        errors.print(escape(_go_on(program, given)), highlight=False, soft_wrap=True)
        return 130
    except ValueError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 1
    return 0 if report.ok else 1


def _go_on(program: str, given: Sequence[str]) -> str:
    """What is lost by an interruption, and the command that goes on."""
    again = shlex.join([*program.split(), *(argument for argument in given if argument != "--no-resume")])
    if "--no-resume" in given:
        return f"stopped. Finished runs are kept, unfinished ones will begin afresh; go on with: {again}"
    return (
        "stopped. Finished runs are kept, and unfinished ones continue from their last checkpoint when the same "
        f"command is repeated: {again}"
    )


def parse_seeds(text: str) -> list[int] | None:
    """Seeds from "201,202"; nothing gives None, which stands for the committed seeds.

    Example:
        >>> parse_seeds("201, 202")
        [201, 202]
    """
    if not text:
        return None
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f'seeds are whole numbers separated by commas, as "201,202", got {text!r}') from None


def _help(experiment: Experiment[Any], program: str) -> str:
    scales = "\n".join(
        f"  {scale:<6} {_SCALE_HELP[scale]}; seeds {', '.join(map(str, experiment.seeds[scale]))}"
        for scale in SCALES
        if scale in experiment.presets
    )
    scale = experiment.default_scale
    claims = [
        f"{claim.id}{'*' if claim.id in experiment.core else ''}"
        for claim in experiment.claims(scale, experiment.preset(scale))
    ]
    core = " (* core)" if experiment.core else " (all core)"
    taken = {*experiment.development_seeds, *(seed for seeds in experiment.seeds.values() for seed in seeds)}
    threads = "one CPU thread" if experiment.threads_per_run == 1 else f"{experiment.threads_per_run} CPU threads"
    others = [str(seed) for seed in _OTHER_SEEDS if seed not in taken][:2]
    return f"""{experiment.title}

{experiment.source}.

- Computes the conditions that the chosen claims read, in parallel,
  {threads} each.
- Compares them with thresholds fixed before the run.
- Writes verdict.json, report.md and plots to
  results/{experiment.name}/<scale>/.
- Finished runs are kept: the same command goes on where it was stopped.

Scales:
{scales}

Claims at {scale}{core}: {", ".join(claims)}

Examples:
  {program}
  {program} --list
  {program} --scale smoke
  {program} --claims all --seeds {",".join(others)}
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
        console.print(f"{mark} [bold]{escape(claim.id)}[/]", highlight=False)
        details = (
            f"[dim]{escape(claim.source)}; claimed {escape(threshold)}\nreads {escape(', '.join(claim.conditions))}[/]"
        )
        console.print(Padding(f"{escape(claim.statement)}\n{details}", (0, 0, 0, 4)), highlight=False)
