"""Live progress: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

_LINE_SECONDS = 10.0


def duration(seconds: float) -> str:
    """Seconds for people: "45 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display:
    """Progress of a sweep.

    Remaining time is what is left of the work at the pace so far, partly done runs included; runs differ in
    length, so it is an estimate.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.completed = 0
        self._fractions: dict[str, tuple[float, str]] = {}
        self._begin = self._last_line = time.monotonic()
        self._lines: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("[dim]{task.fields[message]}"),
                console=console,
                transient=True,
            )
            self._overall = self._progress.add_task(f"[bold]{total} runs", total=total, message="")

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(text, highlight=False)

    def start(self, label: str) -> None:
        """A run began."""
        self._fractions[label] = (0.0, "")
        if self._progress is not None:
            self._lines[label] = self._progress.add_task(f"  {escape(label)}", total=1.0, message="starting")

    def update(self, label: str, fraction: float, message: str) -> None:
        """A run reported."""
        self._fractions[label] = (fraction, message)
        if self._progress is not None and label in self._lines:
            self._progress.update(self._lines[label], completed=fraction, message=escape(message))

    def end(self, label: str) -> None:
        """A run finished or failed."""
        self._fractions.pop(label, None)
        self.completed += 1
        if self._progress is not None and (line := self._lines.pop(label, None)) is not None:
            self._progress.remove_task(line)

    def remaining_seconds(self) -> float | None:
        """An estimate, once there is something to base it on."""
        done = self.completed + sum(fraction for fraction, _ in self._fractions.values())
        elapsed = time.monotonic() - self._begin
        return (self.total - done) * elapsed / done if done > 0.02 and elapsed > 1 else None

    def refresh(self) -> None:
        """Bring the overall bar up to date, or print a line if it is time."""
        left = self.remaining_seconds()
        about = f"About {duration(left)} left." if left is not None else ""
        done = self.completed + sum(fraction for fraction, _ in self._fractions.values())
        if self._progress is not None and self._overall is not None:
            message = f"{self.completed} finished. {about}"
            self._progress.update(self._overall, completed=done, message=message)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            running = "; ".join(
                f"{label} {fraction:.0%}{' ' + message if message else ''}"
                for label, (fraction, message) in self._fractions.items()
            )
            self.say(escape(f"{self.completed} of {self.total} runs finished. {about} Running: {running}"))
