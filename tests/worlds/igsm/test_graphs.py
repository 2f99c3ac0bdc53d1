"""Graphs and drawings of the worked example and of random problems."""

import io

import networkx
import numpy as np
import pytest
from igsm_problems import NAMES, WORKED_EXAMPLE, ancestors, predecessors, random_problem, value

from physlm.worlds.igsm.drawings import _layout, draw_dependencies, draw_structure, step_colours
from physlm.worlds.igsm.graphs import dependency_graph, parameter_name, structure_graph
from physlm.worlds.igsm.problem import Instance, Item


def named(graph):
    return {name: number for number, name in graph.nodes(data="name")}


def test_structure_of_the_worked_example():
    graph = structure_graph(WORKED_EXAMPLE, NAMES)
    assert graph.nodes[Item(0, 1)] == {"name": "Gull Bay", "layer": 0, "category": "Harbor"}
    assert graph.edges[Item(0, 1), Item(1, 1)] == {"parameter": 2, "value": 7, "necessary": True, "step": 2}
    assert graph.edges[Item(0, 0), Item(1, 0)] == {"parameter": 0, "value": 2, "necessary": False, "step": 0}
    assert graph.number_of_edges() == 5


def test_dependencies_of_the_worked_example():
    graph = dependency_graph(WORKED_EXAMPLE, NAMES, extent="all")
    number = named(graph)
    assert graph.nodes[number["Gull Bay's Crate"]] == {
        "name": "Gull Bay's Crate",
        "kind": "abstract",
        "value": 2,
        "necessary": True,
        "step": 7,
        "is_query": True,
    }
    before = {graph.nodes[other]["name"] for other in graph.predecessors(number["Gull Bay's Crate"])}
    assert before == {"Gull Bay's Tug", "Gull Bay's Ferry", "Tug's Crate", "Ferry's Crate"}


@pytest.mark.parametrize(
    ("extent", "left_out"),
    [
        ("necessary", {"North Pier's Tug", "North Pier's Ship", "North Pier's Crate", "Gull Bay's Ship"}),
        ("mentioned", {"North Pier's Ship", "North Pier's Crate", "Gull Bay's Ship"}),
        ("all", set()),
    ],
)
def test_extents(extent, left_out):
    everything = {parameter_name(WORKED_EXAMPLE, parameter, NAMES) for parameter in WORKED_EXAMPLE.parameters}
    assert everything - set(named(dependency_graph(WORKED_EXAMPLE, NAMES, extent=extent))) == left_out


@pytest.mark.parametrize("seed", range(20))
def test_graphs_agree_with_the_definitions(seed):
    problem = random_problem(seed)
    graph = dependency_graph(problem, extent="all")
    number = {parameter: k for k, parameter in enumerate(problem.parameters)}
    for parameter, k in number.items():
        assert set(graph.predecessors(k)) == {number[other] for other in predecessors(problem, parameter)}
        assert graph.nodes[k]["value"] == value(problem, parameter)
        assert graph.nodes[k]["kind"] == ("instance" if isinstance(parameter, Instance) else "abstract")
    query = problem.parameters[problem.query]
    needed = {number[other] for other in ancestors(problem, query)} | {problem.query}
    assert {k for k, is_needed in graph.nodes(data="necessary") if is_needed} == needed
    assert set(dependency_graph(problem, extent="necessary")) == needed
    assert networkx.is_directed_acyclic_graph(graph)


def test_other_formats_hold_everything():
    graph = dependency_graph(WORKED_EXAMPLE, NAMES)
    file = io.BytesIO()
    networkx.write_graphml(graph, file)
    again = networkx.read_graphml(io.BytesIO(file.getvalue()), node_type=int)
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert set(again.edges) == set(graph.edges)


@pytest.mark.parametrize("seed", range(20))
def test_columns_lead_from_left_to_right(seed):
    graph = dependency_graph(random_problem(seed), extent="all")
    columns, paths = _layout(graph)
    column_of = {place: number for number, column in enumerate(columns) for place in column}
    assert len(column_of) == sum(map(len, columns)), "everything has one place"
    for (start, end), passed in paths.items():
        assert (passed[0], passed[-1]) == (start, end)
        assert np.diff([column_of[place] for place in passed]).tolist() == [1] * (len(passed) - 1)


def test_drawings_are_written_and_alike(tmp_path):
    for draw in (draw_structure, draw_dependencies):
        figure = draw(WORKED_EXAMPLE, NAMES, tmp_path / "one.png", steps=3, title="After three steps")
        draw(WORKED_EXAMPLE, NAMES, tmp_path / "again.png", steps=3, title="After three steps")
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()
        texts = {text.get_text() for text in figure.axes[0].texts}
        assert "After three steps" in texts
    assert {"Gull Bay's Tug\n= 20, step 3", "Ferry's Pine Box", "North Pier's Tug"} <= texts


def test_steps_are_coloured_and_what_is_unneeded_is_grey():
    def fills(steps):
        figure = draw_dependencies(WORKED_EXAMPLE, NAMES, steps=steps)
        boxes = {text.get_text().split("\n")[0]: text.get_bbox_patch() for text in figure.axes[0].texts}
        return {name: tuple(box.get_facecolor()) for name, box in boxes.items()}

    from matplotlib.colors import to_rgba

    colours = step_colours(7)
    before, after = fills(0), fills(7)
    assert {before[name] for name in before if name != "North Pier's Tug"} == {to_rgba("white")}
    for step, number in enumerate(WORKED_EXAMPLE.solution):
        name = parameter_name(WORKED_EXAMPLE, WORKED_EXAMPLE.parameters[number], NAMES)
        assert after[name] == to_rgba(colours[step])
    assert len(set(colours)) == 7
    assert before["North Pier's Tug"] == after["North Pier's Tug"]


def test_drawing_on_given_axes(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    upper, lower = figure.subplots(2)
    assert draw_structure(WORKED_EXAMPLE, axes=upper) is figure
    assert draw_dependencies(WORKED_EXAMPLE, axes=lower) is figure
    figure.savefig(tmp_path / "both.svg")


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="extent must be 'necessary', 'mentioned' or 'all', got 'some'"):
        dependency_graph(WORKED_EXAMPLE, extent="some")
    for draw in (draw_structure, draw_dependencies):
        with pytest.raises(ValueError, match=r"steps must be in 0\.\.7, got 8"):
            draw(WORKED_EXAMPLE, steps=8)
