import io
import re

import pytest
from rich.console import Console
from toy_experiment import EXPERIMENT

from physlm.lab import display, run_experiment
from physlm.lab.display import Display, shortened
from physlm.lab.report import print_report

LONG = "finetune/single+permute1+fullname seed 111"
MESSAGE = "pretrain: step 10000/10000, loss 0.123"


def shown(width, *, terminal):
    """A display of two runs, and the text it prints to."""
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None)
    progress = Display(console, 40)
    for label in (LONG, "mixed/single seed 112"):
        progress.start(label)
        progress.update(label, 0.0, MESSAGE)
        progress.update(label, 0.66, MESSAGE)
    return progress, console, text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_fits_into_a_narrow_terminal(width, terminal, monkeypatch):
    now = display.time.monotonic()
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    progress, console, text = shown(width, terminal=terminal)
    now += 600
    progress.refresh()
    if terminal:
        text.truncate(0)
        text.seek(0)
        console.print(progress._progress.get_renderable())
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    assert len(lines) == 3  # one for all, one for each run, none broken
    assert max(map(len, lines)) <= width
    assert "About 4 h 53 min left." in lines[0]
    for line, seed in zip(lines[1:], ("seed 111", "seed 112"), strict=True):
        assert seed in line
        assert re.search(r"66 ?%", line)
        assert line.endswith(MESSAGE)


def test_a_long_name_keeps_its_seed():
    assert shortened(LONG, 20) == "finetune/s… seed 111"
    assert shortened(LONG, 200) == LONG


def remaining(monkeypatch, found, reached, *, finished=0):
    """Seconds left after 100 s in which one of four runs went from one fraction to another."""
    now = display.time.monotonic()
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    progress = Display(Console(file=io.StringIO()), 4)
    for number in range(finished):
        progress.start(str(number))
        progress.update(str(number), found, "")
        progress.end(str(number))
    progress.start("run")
    for fraction in (found, reached):
        progress.update("run", fraction, "")
    now += 100
    return progress.remaining_seconds()


def test_remaining_time_counts_what_this_session_did(monkeypatch):
    assert remaining(monkeypatch, 0.0, 0.1) == pytest.approx(3900)
    # Found at 80 %, 10 % done in 100 s: 310 % are left. By all that is done, it would seem to take 344 s.
    assert remaining(monkeypatch, 0.8, 0.9) == pytest.approx(3100)
    assert remaining(monkeypatch, 0.8, 0.9, finished=1) == pytest.approx(2.1 / 0.3 * 100)
    assert remaining(monkeypatch, 0.8, 0.8) is None
    # A run that was found late in one stage has gone on to the next, of which nothing is known yet.
    assert remaining(monkeypatch, 0.8, 0.0) is None


def test_verdicts_fit_into_a_narrow_terminal(places):
    report = run_experiment(EXPERIMENT, claims="all", seeds=[101], console=Console(quiet=True), **places)
    for width in (80, 120):
        text = io.StringIO()
        print_report(report, Console(file=text, width=width))
        table = [line for line in text.getvalue().splitlines() if line[:1] in "│┃├┏"]
        assert max(map(len, table)) <= width
        told = "\n".join(table)
        for part in ("supported", "refuted", "A full ladder is much better than none.", "compared with no ladder"):
            assert part in told
        assert re.search(r"• \d+\.\d points \[\d+\.\d, \d+\.\d\], claimed ≥ 30\.0 points", told)
