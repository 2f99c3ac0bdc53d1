"""Figures for reports: one look, readable by everyone, no global state.

- `Figure` objects throughout; pyplot and its global state are not used, and matplotlib is imported on first use.
- Colours are Okabe and Ito's, told apart under every common colour blindness.
- Bars have an interval and a dot per seed, so that nobody takes three seeds for thirty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physlm.lab.statistics import Interval, seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#F0E442")
_INK = "#222222"
_FAINT = "#8A8A8A"
_GRID = "#E4E4E4"
_DPI = 150
STYLE: Any = {  # the keys are a type of matplotlib, which is not imported here
    "font.size": 9.5,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "physlm",
}


def bar_with_intervals(
    path: Path,
    series: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    title: str,
    xlabel: str,
    subtitle: str = "",
    percent: bool = True,
    chance: float | None = None,
    items_per_seed: int | None = None,
    intervals: Mapping[tuple[str, str], Interval] | None = None,
) -> Path:
    """Horizontal bars for a ladder of conditions, read from top to bottom.

    Args:
        path: where to write; the suffix decides the format.
        series: legend label → condition → one value per seed. Bars of one condition stand together.
        title: what is seen, as a sentence.
        xlabel: quantity; "(%)" is added if `percent`.
        subtitle: how it was measured.
        percent: the values are fractions of 1.
        chance: a dashed line: what guessing achieves.
        items_per_seed: makes intervals near 0 and 1 honest (`seed_interval`).
        intervals: intervals by (legend label, condition), for single seeds.
    """
    import matplotlib

    conditions = list(dict.fromkeys(name for values in series.values() for name in values))
    if not conditions:
        raise ValueError("nothing to draw: the series are empty")
    factor = 100.0 if percent else 1.0
    thickness = 0.78 / len(series)
    with matplotlib.rc_context(STYLE):
        height = 1.55 + len(conditions) * max(0.36, 0.21 * len(series) + 0.1)
        figure, axes = make_figure(7.2, height, title, subtitle)
        for index, (label, values) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            for row, condition in enumerate(conditions):
                points = np.asarray(values.get(condition, ()), dtype=np.float64)
                points = points[np.isfinite(points)]
                if not len(points):
                    continue
                # A condition's bars stand around its row, however many of the series it has.
                there = [name for name, others in series.items() if len(others.get(condition, ()))]
                y = row + (there.index(label) - (len(there) - 1) / 2) * thickness
                mean = float(points.mean()) * factor
                axes.barh(y, mean, height=thickness * 0.88, color=colour, alpha=0.82, linewidth=0, zorder=2)
                interval = (intervals or {}).get((label, condition))
                if interval is None and len(points) > 1:
                    interval = seed_interval(points.tolist(), proportion=percent, items_per_seed=items_per_seed)
                right = mean
                if interval is not None:
                    low, high = interval.low * factor, interval.high * factor
                    axes.plot([low, high], [y, y], color=_INK, linewidth=1.1, solid_capstyle="butt", zorder=4)
                    right = max(right, high)
                if len(points) > 1:
                    spread = np.linspace(-0.22, 0.22, len(points)) * thickness
                    dots = {"s": 9, "facecolor": "white", "edgecolor": _INK, "linewidth": 0.6, "zorder": 5}
                    axes.scatter(points * factor, y + spread, **dots)
                right = max(right, float(points.max()) * factor)
                number = f"{mean:.1f}" if percent else f"{mean:.3g}"
                axes.annotate(
                    number, (right, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=_INK
                )
        _finish_bars(axes, conditions, f"{xlabel} (%)" if percent else xlabel, percent)
        if chance is not None:
            axes.axvline(chance * factor, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=3, label="chance")
        _legend(figure, axes, series, chance)
        return save_figure(figure, path)


def curves_with_bands(
    path: Path,
    x: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    subtitle: str = "",
    percent: bool = True,
    chance: float | None = None,
) -> Path:
    """Learning curves: the mean over seeds, a pointwise 95 % band, and a thin line per seed.

    Args:
        path: where to write; the suffix decides the format.
        x: `[points]`, shared by all curves.
        curves: label → `[seeds, points]`, or `[points]` for one seed; NaN leaves a gap.
        title: what is seen, as a sentence.
        xlabel: quantity and unit, "training step".
        ylabel: quantity; "(%)" is added if `percent`.
        subtitle: how it was measured.
        percent: the values are fractions of 1.
        chance: a dashed line: what guessing achieves.
    """
    import matplotlib

    if not curves:
        raise ValueError("nothing to draw: there are no curves")
    positions = np.asarray(x, dtype=np.float64)
    factor = 100.0 if percent else 1.0
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(7.2, 4.3, title, subtitle)
        for index, (label, values) in enumerate(curves.items()):
            array = np.atleast_2d(np.asarray(values, dtype=np.float64))
            if array.shape[1] != len(positions):
                raise ValueError(f"curve {label!r} has {array.shape[1]} points, x has {len(positions)}")
            colour = COLOURS[index % len(COLOURS)]
            mean, low, high = _band(array, percent)
            if len(array) > 1:
                axes.fill_between(positions, low * factor, high * factor, color=colour, alpha=0.16, linewidth=0)
                axes.plot(positions, array.T * factor, color=colour, linewidth=0.6, alpha=0.45)
            axes.plot(positions, mean * factor, color=colour, linewidth=2.0, label=label, zorder=3)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(f"{ylabel} (%)" if percent else ylabel)
        axes.set_xlim(positions.min(), positions.max())
        if percent:
            axes.set_ylim(-2, 102)
        if chance is not None:
            axes.axhline(chance * factor, color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), label="chance")
        _legend(figure, axes, curves, chance)
        return save_figure(figure, path)


def _band(array: NDArray[np.float64], percent: bool) -> tuple[NDArray[np.float64], ...]:
    """Mean, low and high at every point; one seed has no band."""
    columns: list[tuple[float, float, float]] = []
    for column in array.T:
        finite = column[np.isfinite(column)]
        if not len(finite):
            columns.append((math.nan, math.nan, math.nan))
            continue
        mean = float(finite.mean())
        if len(finite) < 2:
            columns.append((mean, mean, mean))
            continue
        interval = seed_interval(finite.tolist(), proportion=percent)
        columns.append((mean, interval.low, interval.high))
    return tuple(np.array(columns).T)


def make_figure(width: float, height: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """An empty figure in the common look, sizes in inches; to be made and drawn within `rc_context(STYLE)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=_INK)
    if subtitle:
        axes.set_title(subtitle, loc="left", fontsize=9, color=_FAINT, pad=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _finish_bars(axes: Axes, conditions: Sequence[str], xlabel: str, percent: bool) -> None:
    axes.set_yticks(range(len(conditions)), conditions)
    axes.set_ylim(len(conditions) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    if percent:
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
    else:
        axes.margins(x=0.1)


_LEGEND_CHARACTERS = 90
"""How much text a row of the legend holds."""


def _legend(figure: Figure, axes: Axes, labels: Mapping[str, Any], chance: float | None) -> None:
    """A legend below the axes, when there is anything to tell apart."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, names = axes.get_legend_handles_labels()
    if not names or names == ["chance"]:
        bars = [Patch(color=COLOURS[i % len(COLOURS)], alpha=0.82, label=label) for i, label in enumerate(labels)]
        handles = bars if len(labels) > 1 else []
        if chance is not None:
            handles = [*handles, Line2D([], [], color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), label="chance")]
        names = [str(handle.get_label()) for handle in handles]
    if handles:
        longest = max(len(name) for name in names)
        columns = max(1, min(len(handles), 3, _LEGEND_CHARACTERS // (longest + 5)))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=9, handlelength=1.6)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, in the format of the suffix, the same bytes for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=_DPI, metadata=metadata)
    return path
