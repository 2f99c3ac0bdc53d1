from dataclasses import replace

import numpy as np
import pytest

from physlm.probing.pictures import accuracy_by_distance, attention_over_tree, layer_position_map
from physlm.probing.results import ACCURACIES, DescriptionLength, MissingControlError, ProbeResult
from physlm.worlds.cfg.trees import draw_tree

TREE = ("S", ("A", "a", "b"), ("B", ("A", "a", "b"), "c"))


@pytest.fixture
def results():
    draw = np.random.Generator(np.random.Philox(key=1))
    correct = draw.random((2, 60)) < 0.8
    lengths = DescriptionLength(np.ones(2), np.ones(2), 1.0, 1.0, 60)
    result = ProbeResult(
        task="parent",
        layers=("embed", "block.0.resid_post"),
        correct=correct,
        controls={name: draw.random((2, 60)) < 0.3 for name in ACCURACIES},
        entities=np.arange(60),
        rows=np.arange(60),
        shared_entities=0,
        description=lengths,
    )
    return result.by(np.arange(60) % 4)


def test_pictures_are_written_and_are_the_same_again(results, tmp_path):
    def draw(path):
        layer_position_map(path / "map.svg", results, title="Where the parent is known")
        accuracy_by_distance(path / "distance.svg", results, layer="embed", title="Near ones are known")
        weights = np.tril(np.full((5, 5), 0.2))
        attention_over_tree(path / "tree.svg", weights, lambda axes: draw_tree(TREE, axes=axes), title="One head")
        attention_over_tree(path / "plain.png", weights, title="One head")
        return {file.name: file.read_bytes() for file in path.iterdir()}

    first, again = draw(tmp_path / "first"), draw(tmp_path / "again")
    assert set(first) == {"map.svg", "distance.svg", "tree.svg", "plain.png"}
    assert first == again
    for control in ACCURACIES:
        assert control.encode() in first["map.svg"]
        assert control.encode() in first["distance.svg"]


def test_an_arc_for_every_weight_that_is_large_enough(tmp_path):
    weights = np.zeros((4, 4))
    weights[3, 0], weights[2, 1], weights[1, 1] = 0.5, 0.05, 0.9

    def arcs(least):
        path = attention_over_tree(tmp_path / f"{least}.svg", weights, title="Arcs", least=least)
        return path.read_text().count("stroke: #d55e00")

    assert (arcs(0.1), arcs(0.01)) == (1, 2)
    with pytest.raises(ValueError, match=r"\[tokens, tokens\], got \(2, 3\)"):
        attention_over_tree(tmp_path / "no.svg", np.zeros((2, 3)), title="No")


def test_no_picture_of_a_result_without_its_controls(results, tmp_path):
    bare = {position: replace(result, controls={}) for position, result in results.items()}
    for draw in (
        lambda: layer_position_map(tmp_path / "map.svg", bare, title="Map"),
        lambda: accuracy_by_distance(tmp_path / "map.svg", bare, layer="embed", title="Map"),
    ):
        with pytest.raises(MissingControlError, match="majority"):
            draw()
    assert not list(tmp_path.iterdir())
