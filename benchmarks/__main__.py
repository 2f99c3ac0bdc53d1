"""The command line: `python -m benchmarks [NAME]`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args

import tyro

from benchmarks.harness import HELP, THREADS, MissingPeerError, Settings, measure, publish

Name = Literal[
    "bios",
    "cfg-sample",
    "cfg-parse",
    "cfg-next",
    "igsm",
    "igsm-judge",
    "mistakes",
    "train",
    "stacked",
    "evaluate",
    "attention",
    "probe",
    "import",
    "gpu",
]
_MODULES = {"import": "imports"}
_ONLY_WHEN_ASKED = ("gpu",)


def _argument(metavar: str | None, text: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: Annotated[
        tyro.conf.Positional[Name | None], _argument("[NAME]", "Which one. Default: all of them but gpu.")
    ] = None
    repetitions: Annotated[
        int | None, _argument("N", "How often each contender is timed, ≥ 1. Default: 7, with --quick 2.")
    ] = None
    quick: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        _argument(None, "Tiny sizes, to see that everything runs; the numbers mean nothing."),
    ] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; the exit code is 2 if something that they need is missing."""
    options = tyro.cli(Options, prog="python -m benchmarks", description=HELP, args=arguments)
    repetitions = options.repetitions
    if repetitions is None:
        repetitions = 2 if options.quick else 7
    elif repetitions < 1:
        print(f"error: repetitions must be ≥ 1, got {repetitions}", file=sys.stderr)
        return 2
    if options.name is None:
        given = sys.argv[1:] if arguments is None else list(arguments)
        names = [name for name in get_args(Name) if name not in _ONLY_WHEN_ASKED]
        return max(subprocess.run([sys.executable, "-m", "benchmarks", name, *given]).returncode for name in names)
    settings = Settings(options.quick, repetitions, THREADS.get(options.name, 1))
    os.environ.update(settings.environment())
    try:
        module = import_module(f"benchmarks.{_MODULES.get(options.name, options.name.replace('-', '_'))}")
        publish(*measure(module.run, settings))
    except MissingPeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
