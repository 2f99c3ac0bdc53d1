"""Problems as figures: what is inside what, and what is computed from what.

- Colour tells the step of the solution, from dark (first) to light (last). What the query does not need is grey, the
  query has an outline of its own.
- With `steps`, only as many steps of the solution have been taken: a picture of every state that probes ask about.
- Dependencies are laid out in columns from left to right. An arrow over several columns has a place of its own in each,
  so that it passes between parameters (Sugiyama et al. 1981).

Figures are made without pyplot and its global state; matplotlib and networkx are imported on first use.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physlm.worlds.igsm.graphs import Extent, category_name, dependency_graph, structure_graph
from physlm.worlds.igsm.names import Names
from physlm.worlds.igsm.problem import Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from networkx import DiGraph

Point = tuple[float, float]
Place = int | tuple[int, int, int]
"""A parameter, or where the arrow between two parameters passes a column: both, and the column."""

_INK, _FAINT, _PALE = "#222222", "#8A8A8A", "#CFCFCF"
_ARROW = "#6F6F6F"
_UNNEEDED, _WAITING, _ITEM = "#EDEDED", "#FFFFFF", "#F4F1E8"
_QUERY = "#D55E00"
_COLOURS = ("#1B3A5F", "#215F86", "#2A8294", "#45A38F", "#7BBF85", "#B5D67F", "#E8E58C")
_DPI = 160
_FONT = 8.0
_CHARACTER = 0.06  # inches, at that size
_BOX = 0.2  # inches that a box is wider than its text
_ROW, _PASSAGE = 0.56, 0.2  # heights in inches: of a parameter, of an arrow that passes
_GAP = 0.6  # inches between columns
_MARGIN = 0.15  # inches
_TITLE = 0.36  # inches
_SWEEPS = 12


def draw_structure(
    problem: Problem,
    names: Names | None = None,
    path: Path | None = None,
    *,
    steps: int | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Draw what can be inside what, a row per layer; edges that have been computed carry their value.

    Args:
        problem: the problem.
        names: gives items their names.
        path: where to write the figure; the suffix decides the format.
        steps: how many steps of the solution have been taken; by default all.
        title: what is seen, as a sentence.
        axes: where to draw, in inches; by default a new figure of fitting size.

    Returns:
        The figure, which can be saved with `figure.savefig`.
    """
    graph = structure_graph(problem, names)
    taken = _taken(problem, steps)
    layers, widest = len(problem.widths), max(problem.widths)
    step_of_columns = max(len(facts["name"]) for _, facts in graph.nodes(data=True)) * _CHARACTER + 0.7
    categories = [category_name(problem, layer, names) for layer in range(layers)]
    left = max(map(len, categories)) * _CHARACTER + 0.4
    width, height = left + widest * step_of_columns + _MARGIN, 0.95 * (layers - 1) + 0.5
    place = {
        item: (
            left + (item.number + (widest - problem.widths[item.layer] + 1) / 2) * step_of_columns,
            height - 0.25 - 0.95 * item.layer,
        )
        for item in graph
    }
    axes = axes or _new_axes(width, height, title)
    colours = step_colours(len(problem.solution))
    for parent, child, facts in graph.edges(data=True):
        start, end = place[parent], place[child]
        is_taken = 0 < facts["step"] <= taken
        colour = colours[facts["step"] - 1] if is_taken else _FAINT if facts["necessary"] else _PALE
        style = "-" if facts["necessary"] else (0, (4, 3))
        axes.plot(*zip(start, end, strict=True), color=colour, linewidth=2.2 if is_taken else 1.0, linestyle=style)
        if is_taken:
            # Nearer to the parent: in the middle, edges of two layers cross.
            at = (start[0] + 0.32 * (end[0] - start[0]), start[1] + 0.32 * (end[1] - start[1]))
            _text(axes, at, str(facts["value"]), fill="white", edge="none", padding=0.15)
    for item, facts in graph.nodes(data=True):
        _text(axes, place[item], facts["name"], fill=_ITEM, edge=_FAINT)
    for layer, category in enumerate(categories):
        axes.text(_MARGIN, height - 0.25 - 0.95 * layer, category, fontsize=_FONT, va="center", color=_FAINT)
    return _finish(axes, (width, height), path, title)


def draw_dependencies(
    problem: Problem,
    names: Names | None = None,
    path: Path | None = None,
    *,
    extent: Extent = "mentioned",
    steps: int | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Draw what is computed from what, from left to right; parameters that have been computed carry step and value.

    Args:
        problem: the problem.
        names: gives parameters their names.
        path: where to write the figure; the suffix decides the format.
        extent: which parameters to show, see `physlm.worlds.igsm.graphs.dependency_graph`.
        steps: how many steps of the solution have been taken; by default all.
        title: what is seen, as a sentence.
        axes: where to draw, in inches; by default a new figure of fitting size.

    Returns:
        The figure, which can be saved with `figure.savefig`.
    """
    graph = dependency_graph(problem, names, extent=extent)
    taken = _taken(problem, steps)
    labels = {number: _label(facts, taken) for number, facts in graph.nodes(data=True)}
    columns, paths = _layout(graph)
    middle, halves, width, height = _coordinates(columns, labels)
    axes = axes or _new_axes(width, height, title)
    colours = step_colours(len(problem.solution))
    for (_, end), passed in paths.items():
        is_needed = graph.nodes[end]["necessary"]
        # In and out of every column at the same height, so that it stays clear of the boxes there.
        route = [point for x, y, half in ((*middle[place], halves[place]) for place in passed) for point in
                 ((x - half, y), (x + half, y))][1:-1]  # fmt: skip
        _arrow(axes, route, _ARROW if is_needed else _PALE)
    for number, facts in graph.nodes(data=True):
        is_taken = 0 < facts["step"] <= taken
        fill = colours[facts["step"] - 1] if is_taken else _WAITING if facts["necessary"] else _UNNEEDED
        edge, thickness = (_QUERY, 2.0) if facts["is_query"] else (_FAINT, 0.7)
        ink = _INK if facts["necessary"] else _FAINT
        _text(axes, middle[number], labels[number], fill=fill, edge=edge, ink=ink, thickness=thickness)
    return _finish(axes, (width, height), path, title)


def step_colours(steps: int) -> list[str]:
    """A colour for every step of the solution, dark for the first."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    scale = LinearSegmentedColormap.from_list("steps", _COLOURS)
    return [to_hex(scale(step / max(1, steps - 1))) for step in range(steps)]


def _taken(problem: Problem, steps: int | None) -> int:
    last = len(problem.solution)
    if steps is None:
        return last
    if not 0 <= steps <= last:
        raise ValueError(f"steps must be in 0..{last}, got {steps}")
    return steps


def _label(facts: dict[str, Any], taken: int) -> str:
    if 0 < facts["step"] <= taken:
        return f"{facts['name']}\n= {facts['value']}, step {facts['step']}"
    return facts["name"]


def _layout(graph: DiGraph) -> tuple[list[list[Place]], dict[tuple[int, int], list[Place]]]:
    """The columns from left to right, each from top to bottom, and what every arrow passes.

    A parameter stands right of all that it is computed from and as near as can be to what needs it. In a column,
    everything stands where its neighbours do on average, which leaves few crossings.
    """
    from networkx import topological_sort

    order = list(topological_sort(graph))
    depth: dict[int, int] = {}
    for number in order:
        depth[number] = max((depth[before] + 1 for before in graph.predecessors(number)), default=0)
    for number in reversed(order):
        depth[number] = min((depth[after] - 1 for after in graph.successors(number)), default=depth[number])
    columns: list[list[Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for number in order:
        columns[depth[number]].append(number)
    paths: dict[tuple[int, int], list[Place]] = {}
    for start, end in graph.edges:
        passages: list[Place] = [(start, end, column) for column in range(depth[start] + 1, depth[end])]
        for column, passage in enumerate(passages, depth[start] + 1):
            columns[column].append(passage)
        paths[start, end] = [start, *passages, end]
    before: dict[Place, list[Place]] = {place: [] for column in columns for place in column}
    after: dict[Place, list[Place]] = {place: [] for place in before}
    for passed in paths.values():
        for one, next_one in pairwise(passed):
            after[one].append(next_one)
            before[next_one].append(one)
    for sweep in range(_SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        height = {place: (row + 0.5) / len(column) for column in columns for row, place in enumerate(column)}
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = {place: [height[other] for other in neighbours[place]] or [height[place]] for place in column}
            average = {place: sum(heights) / len(heights) for place, heights in wanted.items()}
            column.sort(key=average.__getitem__)
            height.update({place: (row + 0.5) / len(column) for row, place in enumerate(column)})
    return columns, paths


def _coordinates(
    columns: list[list[Place]], labels: dict[int, str]
) -> tuple[dict[Place, Point], dict[Place, float], float, float]:
    """Middle and half the width of everything, and width and height of the picture, in inches."""
    heights = [sum(_ROW if isinstance(place, int) else _PASSAGE for place in column) for column in columns]
    tallest = max(heights)
    middle: dict[Place, Point] = {}
    halves: dict[Place, float] = {}
    x = _MARGIN
    for column, height in zip(columns, heights, strict=True):
        texts = {place: labels[place].split("\n") for place in column if isinstance(place, int)}
        widths = {place: max(map(len, lines)) * _CHARACTER + _BOX for place, lines in texts.items()}
        widest = max(widths.values(), default=0.0)
        stretch = min(1.6, tallest / height)
        y = (tallest + height * stretch) / 2 + _MARGIN
        for place in column:
            size = stretch * (_ROW if isinstance(place, int) else _PASSAGE)
            middle[place] = (x + widest / 2, y - size / 2)
            halves[place] = widths[place] / 2 if isinstance(place, int) else widest / 2
            y -= size
        x += widest + _GAP
    return middle, halves, x - _GAP + _MARGIN, tallest + 2 * _MARGIN


def _arrow(axes: Axes, points: list[Point], colour: str) -> None:
    """An arrow through all points; it leaves and enters columns horizontally."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    vertices, codes = [points[0]], [Curve.MOVETO]
    for index, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if index % 2:  # past a column
            vertices.append((x1, y1))
            codes.append(Curve.LINETO)
        else:
            vertices += [((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1), (x1, y1)]
            codes += [Curve.CURVE4] * 3
    curve = Curve(vertices, codes)
    axes.add_patch(
        FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=7, color=colour, linewidth=0.9, fill=False)
    )


def _text(
    axes: Axes,
    place: Point,
    text: str,
    *,
    fill: str,
    edge: str,
    ink: str = _INK,
    thickness: float = 0.7,
    padding: float = 0.35,
) -> None:
    """A text in a box; light on dark fills."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(fill)
    is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    box = {"boxstyle": f"round,pad={padding}", "facecolor": fill, "edgecolor": edge, "linewidth": thickness}
    colour = "white" if is_dark else ink
    axes.text(*place, text, fontsize=_FONT, ha="center", va="center", color=colour, bbox=box, zorder=3)


def _new_axes(width: float, height: float, title: str) -> Axes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    above = _TITLE if title else 0.0
    width = max(width, 0.1 * len(title))
    figure = Figure(figsize=(width, height + above), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.add_axes((0.0, 0.0, 1.0, height / (height + above)))


def _finish(axes: Axes, size: Point, path: Path | None, title: str) -> Figure:
    figure: Any = axes.get_figure(root=True)
    axes.set_axis_off()
    axes.set_xlim(0, max(size[0], figure.get_figwidth() * axes.get_position().width))
    axes.set_ylim(0, size[1])
    if title:
        axes.text(_MARGIN, size[1] + 0.05, title, fontsize=11, fontweight="bold", color=_INK)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the date and the version of matplotlib, so that equal problems give equal files.
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}}.get(path.suffix)
        figure.savefig(path, dpi=_DPI, metadata=metadata)
    return figure
