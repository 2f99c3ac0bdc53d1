"""Problems as graphs of `networkx`.

- `structure_graph` has an item for every node and an instance parameter for every edge. `dependency_graph` has a
  parameter for every node and an edge from everything that it is computed from.
- Attributes are numbers and texts, so that any format of networkx can hold them.
- networkx is imported on first use. For pictures see `physlm.worlds.igsm.drawings`.

Source: Physics of Language Models 2.1, §2.1, Fig. 1 and 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from physlm.worlds.igsm.dependencies import Dependencies
from physlm.worlds.igsm.names import Names
from physlm.worlds.igsm.problem import Instance, Item, Parameter, Problem

if TYPE_CHECKING:
    from networkx import DiGraph

Extent = Literal["necessary", "mentioned", "all"]


def structure_graph(problem: Problem, names: Names | None = None) -> DiGraph:
    """What can be inside what.

    Example:
        >>> structure_graph(problem, names).edges[Item(0, 1), Item(1, 1)]["step"]
        2

    Args:
        problem: the problem.
        names: gives nodes their names; without, they are numbers.

    Returns:
        Nodes are `Item` with `name`, `layer` and `category`; edges have the `parameter` (its number), its `value`,
        whether it is `necessary`, and the `step` of the solution that computes it, counted from 1, or 0.
    """
    from networkx import DiGraph

    facts = _facts(problem, Dependencies.of([problem]))
    graph = DiGraph(modulus=problem.modulus)
    for layer, width in enumerate(problem.widths):
        for number in range(width):
            item = Item(layer, number)
            graph.add_node(
                item, name=item_name(problem, item, names), layer=layer, category=category_name(problem, layer, names)
            )
    for number, edge in enumerate(problem.edges):
        graph.add_edge(edge.parent, edge.child, parameter=number, **facts[number])
    return graph


def dependency_graph(problem: Problem, names: Names | None = None, *, extent: Extent = "mentioned") -> DiGraph:
    """What is computed from what.

    Args:
        problem: the problem.
        names: gives parameters their names; without, they are numbers.
        extent: "necessary" for what the query needs; "mentioned" for all instance parameters, the query, and what they
            depend on; "all" for everything that is defined.

    Returns:
        Nodes are numbers into `problem.parameters` with `name`, `kind` ("instance" or "abstract"), `value`,
        `necessary`, `step` (of the solution, counted from 1, or 0) and `is_query`. Edges lead to what is
        computed from a node.
    """
    from networkx import DiGraph

    if extent not in ("necessary", "mentioned", "all"):
        raise ValueError(f"extent must be 'necessary', 'mentioned' or 'all', got {extent!r}")
    graphs = Dependencies.of([problem])
    facts = _facts(problem, graphs)
    everything = (1 << len(problem.parameters)) - 1
    shown = {"necessary": int(graphs.necessary[0]), "mentioned": int(graphs.mentioned[0]), "all": everything}[extent]
    graph = DiGraph(modulus=problem.modulus)
    for number, parameter in enumerate(problem.parameters):
        if shown >> number & 1:
            graph.add_node(
                number,
                name=parameter_name(problem, parameter, names),
                kind="instance" if isinstance(parameter, Instance) else "abstract",
                is_query=number == problem.query,
                **facts[number],
            )
    for number in list(graph):
        before = int(graphs.predecessors[0, number])
        graph.add_edges_from((other, number) for other in range(len(problem.parameters)) if before >> other & 1)
    return graph


def parameter_name(problem: Problem, parameter: Parameter, names: Names | None = None) -> str:
    """The full name of a parameter, as "Gull Bay's Ferry" or "Gull Bay's Crate"."""
    if isinstance(parameter, Instance):
        return f"{item_name(problem, parameter.parent, names)}'s {item_name(problem, parameter.child, names)}"
    return f"{item_name(problem, parameter.item, names)}'s {category_name(problem, parameter.category, names)}"


def item_name(problem: Problem, item: Item, names: Names | None) -> str:
    """Name of an item; without `names`, its layer and number."""
    if names is None:
        return f"{item.layer}.{item.number}"
    category = problem.first_category + item.layer
    return names.items[problem.categorization][category][problem.names[item.layer][item.number]]


def category_name(problem: Problem, layer: int, names: Names | None) -> str:
    """Name of the category of a layer; without `names`, its number."""
    return (
        f"layer {layer}" if names is None else names.categories[problem.categorization][problem.first_category + layer]
    )


def _facts(problem: Problem, graphs: Dependencies) -> list[dict[str, Any]]:
    """Value, necessity and step of every parameter."""
    steps = {number: step for step, number in enumerate(problem.solution, 1)}
    necessary = int(graphs.necessary[0])
    return [
        {
            "value": int(graphs.value[0, number]),
            "necessary": bool(necessary >> number & 1),
            "step": steps.get(number, 0),
        }
        for number in range(len(problem.parameters))
    ]
