"""Matrices as pictures: tables of numbers in colour, and correlations in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_INK, _FAINT = "#222222", "#8A8A8A"
_MOST_INCHES = 6.5


def heatmap(
    path: Path,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    label: str,
    limits: tuple[float, float],
    blocks: Sequence[int] = (),
    number: str | None = None,
) -> Path:
    """A matrix in colour.

    Args:
        path: where to write; the suffix decides the format.
        values: `[rows, columns]`; NaN is left white.
        rows: a name for each row, or with `blocks` for each block.
        columns: the same for columns.
        title: what is seen, as a sentence.
        subtitle: how it was measured.
        label: the quantity, beside the scale.
        limits: ends of the scale. If they lie on both sides of zero, zero is white.
        blocks: number of rows, and of columns, that each name stands for; lines are drawn between blocks.
        number: format of a number in every cell, ".0f"; none by default.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    low, high = limits
    sizes = (np.array(blocks), np.array(blocks)) if len(blocks) else (np.ones(len(rows)), np.ones(len(columns)))
    edges = [np.concatenate([[0], np.cumsum(size)]) for size in sizes]
    if values.shape != (edges[0][-1], edges[1][-1]):
        raise ValueError(f"values must be [{edges[0][-1]:.0f}, {edges[1][-1]:.0f}] as named, got {values.shape}")
    cell = min(0.95, _MOST_INCHES / values.shape[1])
    height = cell * values.shape[0] if len(blocks) else 0.34 * values.shape[0]
    with matplotlib.rc_context({"font.size": 9.5, "svg.hashsalt": "physlm"}):
        figure = Figure(figsize=(cell * values.shape[1] + 2.6, height + 1.7), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=_INK)
        axes.set_title(subtitle, loc="left", fontsize=9, color=_FAINT, pad=8)
        image = axes.imshow(
            values,
            cmap="RdBu_r" if low < 0 < high else "Blues",
            vmin=low,
            vmax=high,
            aspect="equal" if len(blocks) else "auto",
            interpolation="nearest",
        )
        for axis, names, edge in ((axes.yaxis, rows, edges[0]), (axes.xaxis, columns, edges[1])):
            axis.set_ticks((edge[1:] + edge[:-1] - 1) / 2, labels=list(names))
            axis.set_tick_params(length=0, colors=_INK)
        for line in (axes.axhline, axes.axvline):
            for at in edges[0 if line == axes.axhline else 1][1:-1]:
                line(at - 0.5, color=_INK if len(blocks) else "white", linewidth=0.6 if len(blocks) else 2)
        if number is not None:
            for (row, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    share = abs(value) / max(-low, high) if low < 0 < high else (value - low) / (high - low)
                    dark = share > 0.6
                    axes.text(
                        column, row, format(value, number), ha="center", va="center", color="white" if dark else _INK
                    )
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label=label, shrink=0.8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)
    return path
