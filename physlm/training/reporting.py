"""What a run tells while it goes on: progress for people, values that JSON can hold for the log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[float, str], None]

REPORT_SECONDS = 0.5
"""Least time between two reports of progress."""


@contextmanager
def reporter(progress: Report | bool, start: float) -> Iterator[Report]:
    """A function of (fraction, message): the caller's own, a bar or lines on standard error, or nothing."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("training", total=1.0)
            bar.update(task, completed=start)
            yield lambda fraction, message: bar.update(task, completed=fraction, description=message)
    elif progress:
        printed = int(start * 10)

        def print_line(fraction: float, message: str) -> None:
            nonlocal printed
            if int(fraction * 10) > printed:
                printed = int(fraction * 10)
                print(message, file=sys.stderr, flush=True)

        yield print_line
    else:
        yield lambda _fraction, _message: None


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they would come back from a checkpoint."""

    def to_list(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} is not")

    try:
        return json.loads(json.dumps(dict(values), default=to_list, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "evaluate must return finite numbers, strings, None, and lists, arrays or dictionaries of them, "
            f"got {values!r} ({error}); None stands for what is undefined"
        ) from error
