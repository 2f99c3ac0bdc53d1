"""The command line: `python -m benchmarks [NAME]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args

import tyro

from benchmarks.harness import HELP, THREAD_VARIABLES, MissingPeerError, Settings, measure, publish

Name = Literal["bios", "train", "evaluate"]


def _argument(metavar: str | None, text: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    name: Annotated[
        tyro.conf.Positional[Name | None], _argument("[NAME]", "bios, train or evaluate. Default: all of them.")
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
    # Libraries read these when they are first loaded, which is in the benchmarks below.
    os.environ.update(THREAD_VARIABLES)
    repetitions = options.repetitions
    if repetitions is None:
        repetitions = 2 if options.quick else 7
    elif repetitions < 1:
        print(f"error: repetitions must be ≥ 1, got {repetitions}", file=sys.stderr)
        return 2
    try:
        for name in (options.name,) if options.name else get_args(Name):
            publish(*measure(import_module(f"benchmarks.{name}").run, Settings(options.quick, repetitions)))
    except MissingPeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
