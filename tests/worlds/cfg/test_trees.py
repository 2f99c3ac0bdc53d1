"""Pictures of trees: every node is there, in its place and in its level's colour, and no label hides another."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_hex, to_rgb
from nltk.tree import Tree

from physlm.worlds.cfg.grammar import reroot
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.nltk_bridge import derivation_tree, from_tree
from physlm.worlds.cfg.sampling import Sampler
from physlm.worlds.cfg.trees import draw_tree, level_colours

UNEVEN = "(ROOT (S (NP (NP DT JJ NN) (PP IN (NP NNP))) (VP VBD (SBAR IN (S (NP PRP) (VP MD (VP VB (NP PRP$ NN))))))) .)"


def tree_of(name: str, root: str | None = None) -> Tree:
    it = grammar(name) if root is None else reroot(grammar(name), root)
    return derivation_tree(Sampler(it).fixed("A"))


def nodes_of(tree: Tree) -> list[str]:
    return [tree[p] if isinstance(tree[p], str) else tree[p].label() for p in tree.treepositions()]


def labels(figure) -> list:
    """Texts that name nodes: drawn at data coordinates, unlike titles and names of levels."""
    (axes,) = figure.axes
    return [text for text in axes.texts if text.get_transform() == axes.transData and text.get_text()]


def boxes(figure) -> list:
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    return [(text.get_bbox_patch() or text).get_window_extent(renderer) for text in labels(figure)]


@pytest.mark.parametrize("tree", [tree_of("cfg3b", "16"), tree_of("cfg3f", "18"), Tree.fromstring(UNEVEN)])
def test_links_show_every_node_without_overlap(tree):
    figure = draw_tree(tree, style="links")
    names = sorted(text.get_text() for text in labels(figure))
    assert names == sorted(nodes_of(tree))
    found = boxes(figure)
    for i, box in enumerate(found):
        assert not any(box.overlaps(other) for other in found[:i])
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in found)


def test_leaves_stand_in_order_and_parents_between_their_children():
    tree = Tree.fromstring("(S (A a (B b c)) d)")
    figure = draw_tree(tree)
    places = {text.get_text(): text.get_position() for text in labels(figure)}
    assert {leaf: places[leaf] for leaf in "abcd"} == {leaf: (i, 3) for i, leaf in enumerate("abcd")}
    assert {node: places[node] for node in "SAB"} == {"S": (1.875, 0), "A": (0.75, 1), "B": (1.5, 2)}


def lines(figure) -> list:
    (axes,) = figure.axes
    (collection,) = [item for item in axes.collections if isinstance(item, LineCollection)]
    return [segment.tolist() for segment in collection.get_segments()]


def test_links_are_straight_in_layered_trees_and_bent_in_others():
    even = lines(draw_tree(Tree.fromstring("(S (A a a) (B b))")))
    assert len(even) == 5
    assert all(len(line) == 2 for line in even)
    uneven = lines(draw_tree(Tree.fromstring("(S (A a (B b)) d)")))
    assert len(uneven) == 5
    assert all(len(line) == 4 and line[1][0] == line[0][0] and line[2][0] == line[3][0] for line in uneven)


def test_the_colour_tells_the_level():
    tree = tree_of("cfg3b", "16")
    figure = draw_tree(tree, style="links")
    colours = level_colours(5)
    fills: dict[int, set[str]] = {}
    for text in labels(figure):
        fills.setdefault(int(text.get_position()[1]), set()).add(to_hex(text.get_bbox_patch().get_facecolor()))
    assert fills == {row: {colour} for row, colour in enumerate(colours)}


@pytest.mark.parametrize("rows", [2, 3, 7, 8, 30])
def test_levels_get_lighter_from_root_to_terminals(rows):
    brightness = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in map(to_rgb, level_colours(rows))]
    assert brightness == sorted(brightness)
    assert len(set(level_colours(rows))) == rows


def contrast(one: str, other: str) -> float:
    """As the web's accessibility guidelines define it, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_labels_can_be_read_on_their_colour():
    figure = draw_tree(tree_of("cfg3f"), style="links")
    pairs = {(to_hex(t.get_color()), to_hex(t.get_bbox_patch().get_facecolor())) for t in labels(figure)}
    assert len(pairs) == 7
    assert min(contrast(*pair) for pair in pairs) > 3.5


@pytest.mark.parametrize("name", ["cfg3f", "cfg3i"])
def test_bands_span_what_their_nodes_span(name):
    tree = tree_of(name)
    figure = draw_tree(tree)  # long sentences are drawn as bands without asking
    (axes,) = figure.axes
    bars, marked = [item for item in axes.collections if isinstance(item, PatchCollection)]
    assert not marked.get_paths()
    extents = [path.get_extents() for path in bars.get_paths()]
    assert len(extents) == len(nodes_of(tree))
    by_row: dict[int, list[tuple[float, float]]] = {}
    for extent in extents:
        by_row.setdefault(round((extent.y0 + extent.y1) / 2), []).append((extent.x0, extent.x1))
    assert sorted(by_row) == list(range(7))
    for row, spans in by_row.items():
        subtrees = [tree[position] for position in tree.treepositions() if len(position) == row]
        ends = np.cumsum([1 if isinstance(subtree, str) else len(subtree.leaves()) for subtree in subtrees])
        np.testing.assert_allclose(spans, np.stack([np.append(0, ends[:-1]), ends], axis=1) - 0.5)
    sizes: dict[float, set[float]] = {}
    for text in labels(figure):
        sizes.setdefault(text.get_position()[1], set()).add(text.get_fontsize())
    assert len(sizes) >= 6
    assert all(len(found) == 1 for found in sizes.values())
    found = boxes(figure)
    assert len(found) > 30
    for i, box in enumerate(found):
        assert not any(box.overlaps(other) for other in found[:i])


def test_names_of_levels_are_there_when_leaves_are_equally_deep():
    even = {text.get_text() for text in draw_tree(tree_of("cfg3b", "16")).axes[0].texts}
    assert {"root", "level 2", "level 3", "level 4", "terminals"} <= even
    uneven = {text.get_text() for text in draw_tree(Tree.fromstring(UNEVEN)).axes[0].texts}
    assert not {"root", "level 2", "terminals"} & uneven


def test_nested_tuples_give_the_same_picture(tmp_path):
    tree = tree_of("cfg3b", "16")
    draw_tree(tree, tmp_path / "tree.svg", title="A tree")
    draw_tree(from_tree(tree), tmp_path / "nested.svg", title="A tree")
    assert "A tree" in (tmp_path / "tree.svg").read_text(encoding="utf-8")
    draw_tree(tree, tmp_path / "one.png")
    draw_tree(from_tree(tree), tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


@pytest.mark.parametrize("style", ["links", "bands"])
def test_marked_nodes_are_outlined(style):
    tree = Tree.fromstring("(S (A a a) (B b))")
    figure = draw_tree(tree, style=style, marked=[(0,), (1, 0)])
    (axes,) = figure.axes
    if style == "links":
        outlined = [t.get_text() for t in labels(figure) if t.get_bbox_patch().get_linewidth() > 1]
        assert outlined == ["A", "b"]
    else:
        _, bars = [item for item in axes.collections if isinstance(item, PatchCollection)]
        assert [path.get_extents().x0 for path in bars.get_paths()] == [-0.5, 1.5]
        assert bars.get_linewidths().tolist() == [1.8]


def test_a_tree_can_be_drawn_into_a_given_place():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    assert draw_tree(tree_of("cfg3b", "7"), axes=left, title="left") is figure
    draw_tree(tree_of("cfg3b", "8"), axes=right)
    assert (len(left.texts), len(right.texts)) == (3 + 2, 3 + 2)
    assert left.get_title("left") == "left"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_tree(("S", ("a",)), style="round"), "style must be 'auto', 'links' or 'bands', got 'round'"),
        (lambda: draw_tree(("S", ("a",)), marked=[(0, 1)]), r"nodes of the tree, got \(0, 1\)"),
        (lambda: draw_tree(("S", ("a", ("B", ())))), r"got none below 'B' at \(1,\)"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_drawing_does_without_pyplot():
    code = """if True:
        import sys
        from physlm.worlds.cfg.trees import draw_tree
        print("matplotlib" in sys.modules)
        draw_tree(("S", ("a", ("B", ("b",)))), title="a tree").savefig("/dev/null", format="png")
        print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
    """
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True", "False"]
