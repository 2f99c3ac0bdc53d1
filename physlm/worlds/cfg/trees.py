"""Parse trees as figures.

- `draw_tree` takes a tree, as an `nltk.Tree` or as nested tuples (`Derivation.tree`), and gives a matplotlib figure.
- "links" is the usual picture, nodes joined by lines, for up to some sixty leaves. "bands" has one row per level,
  each node a bar as wide as what it spans: readable for the paper's sentences of several hundred tokens.
- Colour tells the level, from dark (root) to light (terminals).

Figures are made without pyplot and its global state; matplotlib is imported on first use.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from physlm.worlds.cfg.derivation import Tree as NestedTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from nltk.tree import Tree

Style = Literal["auto", "links", "bands"]
Position = tuple[int, ...]

_INK = "#222222"
_FAINT = "#8A8A8A"
_MARK = "#D55E00"
_DPI = 200
_MOST_LINKED_LEAVES = 60
_WIDEST = 14.0  # inches
_NAMES_WIDTH = 0.8  # inches, to the left of the tree
_POINTS_PER_INCH = 72.0
_CHARACTER = 0.62  # width of a character in units of the font size
_LARGEST_FONT, _SMALLEST_FONT = 10.0, 4.5
_COLOURS = ("#1B3A5F", "#215F86", "#2A8294", "#45A38F", "#7BBF85", "#B5D67F", "#E8E58C", "#F7F3D2")


@dataclass
class _Node:
    """A node of the picture: its place `x` and the leaves it spans, counted from the left; `row` from the top."""

    label: str
    position: Position
    row: int
    x: float
    start: int
    stop: int
    parent: _Node | None
    is_leaf: bool


def draw_tree(
    tree: Tree | NestedTree,
    path: Path | None = None,
    *,
    style: Style = "auto",
    title: str = "",
    marked: Collection[Position] = (),
    axes: Axes | None = None,
) -> Figure:
    """Draw a tree.

    Args:
        tree: the tree; its leaves stand in one row at the bottom.
        path: where to write the figure; the suffix decides the format.
        style: "links", "bands", or "auto" to choose by the number of leaves.
        title: what is seen, as a sentence.
        marked: tree positions (as of `nltk.Tree.treepositions`) to outline, such as those of mistakes.
        axes: where to draw; by default a new figure of fitting size.

    Returns:
        The figure, which can be saved with `figure.savefig`.

    Raises:
        ValueError: an unknown style, or a marked position that the tree does not have.
    """
    if style not in ("auto", "links", "bands"):
        raise ValueError(f"style must be 'auto', 'links' or 'bands', got {style!r}")
    nodes, rows = _layout(tree)
    missing = set(map(tuple, marked)) - {node.position for node in nodes}
    if missing:
        raise ValueError(f"marked positions must be those of nodes of the tree, got {sorted(missing)[0]}")
    leaves = sum(node.is_leaf for node in nodes)
    if style == "auto":
        style = "links" if leaves <= _MOST_LINKED_LEAVES else "bands"
    is_even = _is_even(nodes, rows)
    width, height = _size(nodes, leaves, rows, style, title)
    if axes is None:
        axes = _new_axes(width, height, left=_NAMES_WIDTH if is_even else 0.1, top=0.42 if title else 0.08)
    figure: Any = axes.get_figure(root=True)
    inches = figure.get_figwidth() * axes.get_position().width
    axes.set_axis_off()
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(-0.6, leaves - 0.4)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=8)
    chosen = set(map(tuple, marked))
    if style == "links":
        _draw_links(axes, nodes, rows, inches / leaves, chosen, is_even=is_even)
    else:
        _draw_bands(axes, nodes, rows, inches / leaves, chosen)
    if is_even:
        _name_levels(axes, rows)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the date and the version of matplotlib, so that equal trees give equal files.
        metadata = {".png": {"Software": None}, ".svg": {"Date": None}}.get(path.suffix)
        figure.savefig(path, dpi=_DPI, metadata=metadata)
    return figure


def level_colours(rows: int) -> list[str]:
    """A colour for every level, dark at the root and light at the terminals."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    scale = LinearSegmentedColormap.from_list("levels", _COLOURS)
    return [to_hex(scale(row / max(1, rows - 1))) for row in range(rows)]


def _layout(tree: Tree | NestedTree) -> tuple[list[_Node], int]:
    """All nodes, parents first, and the number of rows; leaves stand in the last row."""
    nodes: list[_Node] = []
    waiting: list[tuple[Tree | NestedTree, Position, _Node | None]] = [(tree, (), None)]
    leaves = 0
    while waiting:
        item, position, parent = waiting.pop()
        label, children = _parts(item)
        is_leaf = isinstance(item, str)
        if not is_leaf and not children:
            raise ValueError(f"every node of a tree must have a child, got none below {label!r} at {position}")
        node = _Node(label, position, len(position), leaves, leaves, leaves + 1, parent, is_leaf)
        nodes.append(node)
        leaves += is_leaf
        waiting.extend((children[i], (*position, i), node) for i in reversed(range(len(children))))
    rows = 1 + max(node.row for node in nodes)
    first: dict[int, float] = {}
    for node in reversed(nodes):  # children before parents, the last child first
        if node.is_leaf:
            node.row = rows - 1
        else:
            node.x = (first[id(node)] + node.x) / 2
        if node.parent is not None:
            if id(node.parent) not in first:
                node.parent.x, node.parent.stop = node.x, node.stop
            first[id(node.parent)] = node.x
    return nodes, rows


def _parts(item: Tree | NestedTree) -> tuple[str, list[Tree | NestedTree]]:
    """Label and children of a node."""
    if isinstance(item, str):
        return item, []
    if isinstance(item, tuple):
        return item[0], list(item[1])
    return str(item.label()), list(item)


def _is_even(nodes: list[_Node], rows: int) -> bool:
    """Whether all leaves are equally deep, as in layered grammars."""
    return all(len(node.position) == rows - 1 for node in nodes if node.is_leaf)


def _size(nodes: list[_Node], leaves: int, rows: int, style: Style, title: str) -> tuple[float, float]:
    """Width and height of a new figure in inches."""
    margin = 0.5 if title else 0.16
    if style == "bands":
        return _WIDEST, 0.32 * rows + margin
    characters = max(len(node.label) for node in nodes if node.is_leaf)
    per_leaf = (characters * _CHARACTER + 1.3) * _LARGEST_FONT / _POINTS_PER_INCH
    width = min(_WIDEST, max(2.5, 0.095 * len(title), leaves * per_leaf))
    return width + 0.9, 0.55 * rows + margin


def _new_axes(width: float, height: float, *, left: float, top: float) -> Axes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure.add_axes((left / width, 0.08 / height, 1 - (left + 0.1) / width, 1 - (top + 0.08) / height))


def _draw_links(
    axes: Axes, nodes: list[_Node], rows: int, inches_per_leaf: float, marked: set[Position], *, is_even: bool
) -> None:
    from matplotlib.collections import LineCollection

    colours = level_colours(rows)
    # Where leaves are not equally deep, slanted lines would run behind other nodes; bent ones never leave their column.
    lines = [
        [(up.x, up.row), (node.x, node.row)]
        if is_even
        else [(up.x, up.row), (up.x, up.row + 0.5), (node.x, up.row + 0.5), (node.x, node.row)]
        for node in nodes
        if (up := node.parent) is not None
    ]
    axes.add_collection(LineCollection(lines, colors=_FAINT, linewidths=0.8, zorder=1))
    characters = max(len(node.label) for node in nodes if node.is_leaf)
    font = _font(inches_per_leaf, characters + 1.3 / _CHARACTER)
    for node in nodes:
        is_marked = node.position in marked
        fill = colours[node.row]
        box = {
            "boxstyle": "round,pad=0.28,rounding_size=0.45",
            "facecolor": fill,
            "edgecolor": _MARK if is_marked else _shade(fill),
            "linewidth": 1.8 if is_marked else 0.6,
        }
        axes.text(
            node.x,
            node.row,
            node.label,
            fontsize=font or _SMALLEST_FONT,
            color=_text_colour(fill),
            ha="center",
            va="center",
            bbox=box,
            zorder=2,
        )


def _draw_bands(axes: Axes, nodes: list[_Node], rows: int, inches_per_leaf: float, marked: set[Position]) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    colours = level_colours(rows)
    # White outlines part the bars: thin enough to leave colour in the narrowest.
    outline = min(1.0, 0.12 * inches_per_leaf * _POINTS_PER_INCH)
    for collected, edge, width in (
        (nodes, "white", outline),
        ([node for node in nodes if node.position in marked], _MARK, 1.8),
    ):
        bars = [Rectangle((node.start - 0.5, node.row - 0.42), node.stop - node.start, 0.84) for node in collected]
        fills = [colours[node.row] for node in collected]
        axes.add_collection(PatchCollection(bars, facecolors=fills, edgecolors=edge, linewidths=width))
    for row, colour in enumerate(colours):
        in_row = [node for node in nodes if node.row == row]
        fonts = [_font(inches_per_leaf * (node.stop - node.start), len(node.label) + 0.6) for node in in_row]
        common = min((font for font in fonts if font), default=None)  # one size in a row; what does not fit is left out
        for node, font in zip(in_row, fonts, strict=True):
            if font:
                centre = (node.start + node.stop - 1) / 2
                ink = _text_colour(colour)
                axes.text(centre, row, node.label, fontsize=common, color=ink, ha="center", va="center")


def _name_levels(axes: Axes, rows: int) -> None:
    """Number the rows as the paper does; only where all leaves are equally deep."""
    for row in range(rows):
        name = "root" if row == 0 else "terminals" if row == rows - 1 else f"level {row + 1}"
        axes.annotate(
            name,
            xy=(0, row),
            xycoords=("axes fraction", "data"),
            xytext=(-6, 0),
            textcoords="offset points",
            fontsize=8,
            color=_FAINT,
            ha="right",
            va="center",
            annotation_clip=False,
        )


def _font(inches: float, characters: float) -> float | None:
    """The font size at which a label fits a width, or None if it would be too small to read."""
    size = min(_LARGEST_FONT, inches * _POINTS_PER_INCH / (characters * _CHARACTER))
    return size if size >= _SMALLEST_FONT else None


def _luminance(colour: str) -> float:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _text_colour(fill: str) -> str:
    return "white" if _luminance(fill) < 0.55 else _INK


def _shade(colour: str) -> str:
    """A darker outline of the same hue."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = to_rgb(colour)
    return to_hex((0.75 * red, 0.75 * green, 0.75 * blue))
