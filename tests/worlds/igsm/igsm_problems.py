"""Problems for tests: the worked example of the specification (§2.8), and random ones made without the generator."""

import random

from physlm.worlds.igsm.names import Names
from physlm.worlds.igsm.problem import Abstract, Formula, Instance, Item, Problem

NAMES = Names(
    categories=(("Harbor", "Ship", "Crate", "Tool"),),
    items=((("North Pier", "Gull Bay"), ("Tug", "Ferry"), ("Pine Box",), ("Saw",)),),
    groups=(2,),
)


def instance(layer, parent, child):
    return Instance(Item(layer, parent), Item(layer + 1, child))


WORKED_EXAMPLE = Problem(
    modulus=23,
    widths=(2, 2, 1),
    categorization=0,
    first_category=0,
    names=((0, 1), (0, 1), (0,)),
    edges=(instance(0, 0, 0), instance(0, 1, 0), instance(0, 1, 1), instance(1, 0, 0), instance(1, 1, 0)),
    formulas=(
        Formula((4,), "copy", "none"),
        Formula((3, 2), "difference", "none"),
        Formula((3,), "copy", "more", 3),
        Formula((), "none", "none", 4),
        Formula((3, 1), "sum", "times", 2),
    ),
    told=(0, 2, 4, 3, 1),
    solution=(3, 2, 1, 4, 9, 10, 8),
    letters=tuple(map("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".index, "mTcHwqBydK")),
)


def predecessors(problem, parameter):
    """What a parameter is computed from, said as the specification says it."""
    if isinstance(parameter, Instance):
        formula = problem.formulas[problem.edges.index(parameter)]
        return [problem.parameters[operand] for operand in formula.operands]
    inside = [edge for edge in problem.edges if edge.parent == parameter.item]
    if parameter.category == parameter.item.layer + 1:
        return inside
    return [other for edge in inside for other in (edge, Abstract(edge.child, parameter.category))]


def ancestors(problem, parameter):
    found = set()
    waiting = predecessors(problem, parameter)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += predecessors(problem, other)
    return found


def value(problem, parameter):
    if isinstance(parameter, Abstract):
        total = 0
        for edge in problem.edges:
            if edge.parent == parameter.item:
                deeper = parameter.category > parameter.item.layer + 1
                times = value(problem, Abstract(edge.child, parameter.category)) if deeper else 1
                total += value(problem, edge) * times
        return total % problem.modulus
    formula = problem.formulas[problem.edges.index(parameter)]
    if not formula.operands:
        return formula.constant
    values = [value(problem, problem.parameters[operand]) for operand in formula.operands]
    result = values[0] - values[1] if formula.combination == "difference" else sum(values)
    if formula.operator != "none":
        result = result + formula.constant if formula.operator == "more" else result * formula.constant
    return result % problem.modulus


def random_problem(seed, modulus=23):
    """A problem of any shape; its solution is a random order of what a random query needs."""
    draw = random.Random(seed)
    layers = draw.randint(2, 4)
    widths = tuple(draw.randint(1 if layers < 4 else 2, 4) for _ in range(layers))
    pairs = [
        instance(layer, parent, child)
        for layer in range(layers - 1)
        for parent in range(widths[layer])
        for child in range(widths[layer + 1])
    ]
    edges = tuple(draw.sample(pairs, draw.randint(1, min(28, len(pairs)))))
    bare = Problem(
        modulus, widths, 0, 0, tuple(tuple(range(width)) for width in widths), edges,
        tuple(Formula((), "none", "none", 0) for _ in edges), (), (0,), (),
    )  # fmt: skip
    numbers = {parameter: number for number, parameter in enumerate(bare.parameters)}
    defined, formulas = [], {}
    for edge in draw.sample(edges, len(edges)):
        # An abstract parameter can be an operand once all instance parameters that it is made of are defined.
        pool = [
            other
            for other in bare.parameters
            if other in defined
            or (isinstance(other, Abstract) and all(a in defined for a in ancestors(bare, other) if a in edges))
        ]
        operands = tuple(numbers[other] for other in draw.sample(pool, min(len(pool), draw.randint(0, 4))))
        combination = ("none", "copy", draw.choice(["sum", "difference"]), "sum", "sum")[len(operands)]
        operator = draw.choice(["none", "more", "times"]) if operands else "none"
        constant = draw.randrange(1, modulus) if operator != "none" or not operands else 0
        formulas[edge] = Formula(operands, combination, operator, constant)
        defined.append(edge)
    whole = Problem(
        modulus, widths, 0, 0, bare.names, edges, tuple(formulas[edge] for edge in edges),
        tuple(draw.sample(range(len(edges)), len(edges))), (0,), (),
    )  # fmt: skip
    query = draw.choice(whole.parameters)
    needed = [*ancestors(whole, query), query]
    order = []
    while len(order) < len(needed):
        ready = [a for a in needed if a not in order and all(b in order for b in predecessors(whole, a))]
        order.append(draw.choice(sorted(ready, key=numbers.__getitem__)))
    order.append(order.pop(order.index(query)))
    solution = tuple(numbers[parameter] for parameter in order)
    return Problem(
        modulus, widths, 0, 0, bare.names, edges, whole.formulas, whole.told, solution, tuple(range(len(solution)))
    )
