"""Live progress, readable at 80 columns: bars on a terminal, some lines now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

_LINE_SECONDS = 30.0
_MESSAGE_WIDTH = 38  # "pretrain: step 10000/10000, loss 0.123"
_SEED_WIDTH = 9  # " seed 111"


def duration(seconds: float) -> str:
    """Seconds for people: "45 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shortened(label: str, width: int) -> str:
    """A run's name in `width` characters; what is left out is the end of the condition, not the seed.

    Example:
        >>> shortened("finetune/single+permute1 seed 111", 24)
        'finetune/singl… seed 111'
    """
    if len(label) <= width:
        return label
    return f"{label[: max(1, width - _SEED_WIDTH - 1)]}…{label[-_SEED_WIDTH:]}"


class Display:
    """Progress of a sweep.

    Remaining time is what is left of the work at the pace of this session, partly done runs included: what a run had
    done before it was interrupted counts as done, not as done now. Runs differ in length, so it is an estimate.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.console = console
        self.total = total
        self.completed = 0
        self._fractions: dict[str, tuple[float, str]] = {}
        self._found: dict[str, float] = {}
        self._found_in_completed = 0.0
        self._begin = self._last_line = time.monotonic()
        self._lines: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        self._overall: TaskID | None = None
        self._label_width = console.width - _MESSAGE_WIDTH - 9
        if console.is_terminal:
            bar = min(24, max(6, (console.width - 74) // 2))
            self._label_width = console.width - bar - _MESSAGE_WIDTH - 8
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=bar),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("[dim]{task.fields[message]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
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
            name = escape(f"  {shortened(label, self._label_width - 2)}")
            self._lines[label] = self._progress.add_task(name, total=1.0, message="starting")

    def update(self, label: str, fraction: float, message: str) -> None:
        """A run reported."""
        self._fractions[label] = (fraction, message)
        # The first report is where the run was found; one below it is of the next stage, begun in this session.
        self._found[label] = min(fraction, self._found.get(label, fraction))
        if self._progress is not None and label in self._lines:
            self._progress.update(self._lines[label], completed=fraction, message=escape(message))

    def end(self, label: str) -> None:
        """A run finished or failed."""
        self._fractions.pop(label, None)
        self._found_in_completed += self._found.pop(label, 0.0)
        self.completed += 1
        if self._progress is not None and (line := self._lines.pop(label, None)) is not None:
            self._progress.remove_task(line)

    def remaining_seconds(self) -> float | None:
        """An estimate, once there is something to base it on."""
        gained = self._done() - self._found_in_completed - sum(self._found.values())
        elapsed = time.monotonic() - self._begin
        return (self.total - self._done()) * elapsed / gained if gained > 0.02 and elapsed > 1 else None

    def _done(self) -> float:
        return self.completed + sum(fraction for fraction, _ in self._fractions.values())

    def refresh(self) -> None:
        """Bring the overall bar up to date, or print a line if it is time."""
        left = self.remaining_seconds()
        about = f"About {duration(left)} left." if left is not None else ""
        if self._progress is not None and self._overall is not None:
            message = f"{self.completed} finished. {about}"
            self._progress.update(self._overall, completed=self._done(), message=message)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"{self.completed} of {self.total} runs finished. {about}".rstrip())
            names = {label: shortened(label, self._label_width) for label in self._fractions}
            width = max(map(len, names.values()), default=0)
            for label, (fraction, message) in self._fractions.items():
                line = Text(f"  {names[label]:<{width}} {fraction:>4.0%}  {message}")
                self.console.print(line, no_wrap=True, overflow="ellipsis", highlight=False)
