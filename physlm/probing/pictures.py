"""Pictures of what probes found; none of an accuracy is drawn without its controls.

A picture of a result asks it for its text form first, so a result without controls is refused here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physlm.lab.plots import COLOURS, STYLE, make_figure, save_figure
from physlm.probing.results import ACCURACIES, MAJORITY, ProbeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#222222"
_DEEPEST = 3.0  # rows of the tree that the widest arc reaches down
_LEAF_INCHES = 0.3


def layer_position_map(
    path: Path, results: Mapping[int, ProbeResult], *, title: str, subtitle: str = "", xlabel: str = "position"
) -> Path:
    """Accuracy of every layer at every position, in percent; a row above shows what the majority has.

    Args:
        path: where to write; the suffix decides the format.
        results: by position, of the same layers, as `ProbeResult.by` gives them.
        title: what is seen, as a sentence.
        subtitle: how it was measured.
        xlabel: what positions are.

    Raises:
        MissingControlError: if a result lacks a control.
    """
    import matplotlib

    told = {position: result.to_dict()["layers"] for position, result in sorted(results.items())}
    names = list(next(iter(told.values())))
    rows = [[layers[name]["accuracy"] for layers in told.values()] for name in names]
    for control in reversed(ACCURACIES):
        # Of the controls, the layer that does best.
        rows.insert(0, [max(layer[control] for layer in layers.values()) for layers in told.values()])
    values = 100 * np.array(rows)
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(max(4.5, 2.6 + 0.55 * len(told)), 1.6 + 0.3 * len(rows), title, subtitle)
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(rows)), [*(f"control: {name}" for name in ACCURACIES), *names])
        axes.set_xticks(range(len(told)), [str(position) for position in told])
        axes.set_xlabel(xlabel)
        axes.axhline(len(ACCURACIES) - 0.5, color=_INK, linewidth=1)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 60 else _INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, ax=axes, label="accuracy (%)", shrink=0.8)
        return save_figure(figure, path)


def accuracy_by_distance(
    path: Path,
    results: Mapping[int, ProbeResult],
    *,
    layer: str,
    title: str,
    subtitle: str = "",
    xlabel: str = "distance",
) -> Path:
    """Accuracy of one layer at every distance with its interval, beside its controls.

    Args:
        path: where to write; the suffix decides the format.
        results: by distance, as `ProbeResult.by` gives them.
        layer: which.
        title: what is seen, as a sentence.
        subtitle: how it was measured.
        xlabel: what distances are, and their unit.

    Raises:
        MissingControlError: if a result lacks a control.
    """
    import matplotlib

    told = {distance: result.to_dict()["layers"][layer] for distance, result in sorted(results.items())}
    distances = list(told)
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(7.2, 4.3, title, subtitle)
        accuracy = 100 * np.array([row["accuracy"] for row in told.values()])
        low, high = 100 * np.array([row["interval"] for row in told.values()]).T
        errors = np.abs([accuracy - low, high - accuracy])
        axes.errorbar(distances, accuracy, errors, color=COLOURS[0], marker="o", markersize=4, capsize=2, label="probe")
        for control, colour in zip(ACCURACIES, COLOURS[1:], strict=False):
            shares = [100 * row[control] for row in told.values()]
            style = (0, (4, 3)) if control == MAJORITY else "-"
            axes.plot(distances, shares, color=colour, linewidth=1.2, linestyle=style, label=control)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(-2, 102)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
        return save_figure(figure, path)


def attention_over_tree(
    path: Path,
    weights: NDArray[np.floating],
    draw: Callable[[Axes], object] | None = None,
    *,
    title: str,
    subtitle: str = "",
    least: float = 0.1,
) -> Path:
    """What every token attends to, as arcs below a parse tree.

    Example:
        >>> attention_over_tree(path, pattern, lambda axes: draw_tree(sample.truth.tree(), axes=axes), title="Head 3")

    Args:
        path: where to write; the suffix decides the format.
        weights: from query (row) to key (column), `[n, n]`; a pattern, or its residual.
        draw: draws the tree of n leaves into the axes, leaf i at x = i and the root on top.
        title: what is seen, as a sentence.
        subtitle: how it was measured.
        least: weights below are left out.

    Raises:
        ValueError: weights that are no square matrix.
    """
    import matplotlib
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not len(weights):
        raise ValueError(f"weights must be [tokens, tokens], got {weights.shape}")
    length = len(weights)
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(min(14.0, max(4.5, 1.5 + _LEAF_INCHES * length)), 4.5, title, subtitle)
        axes.set_axis_off()
        axes.set_xlim(-0.6, length - 0.4)
        axes.set_ylim(0.6, -0.6)
        if draw is not None:
            draw(axes)
        below, top = axes.get_ylim()
        largest = max(float(weights.max()), least)
        for query, key in np.argwhere(weights >= least):
            if query == key:
                continue
            depth = below + _DEEPEST * abs(query - key) / length * 4 / 3  # a cubic reaches 3/4 of its control points
            ends = [(query, below), (query, depth), (key, depth), (key, below)]
            curve = Curve(ends, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
            strength = float(weights[query, key]) / largest
            axes.add_patch(
                PathPatch(curve, facecolor="none", edgecolor=COLOURS[5], linewidth=0.5 + 2 * strength, alpha=strength)
            )
        axes.set_ylim(below + _DEEPEST, top)
        return save_figure(figure, path)
