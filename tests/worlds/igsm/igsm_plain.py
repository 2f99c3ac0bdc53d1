"""The drawing algorithms of the specification (§1.4–1.10) and its text (§2), line by line, to compare the world with.

Parameters are ("I", i, j, k) and ("A", i, j, k) as there, and `RNG` is a fresh random constant.
"""

import math
import random
from itertools import pairwise

from physlm.worlds.igsm.problem import Abstract, Formula, Instance, Item, Problem

RNG = "RNG"


class Failure(Exception):  # noqa: N818
    pass


def between(draw, low, high):
    return draw.randint(low, high)


def target_operations(draw, op_max, style="light"):
    if style == "light":
        return min(between(draw, 1, op_max), between(draw, 1, op_max))
    if style == "uniform":
        return between(draw, 1, op_max)
    if style == "middle":
        return max(between(draw, 1, op_max) for _ in range(3))
    t0 = between(draw, 1, op_max)
    t1 = between(draw, t0, op_max)
    return between(draw, t1, op_max)


class Structure:
    """G_s: layers and which item is inside which."""

    def __init__(self, draw, e, d, w0, w1):
        widths, p = [w0] * d, draw.random()
        while any(width < w1 for width in widths):
            e_min = sum(widths[1:])
            e_max = sum(a * b for a, b in pairwise(widths))
            if e_max < e:
                grow = True
            elif e_min == e:
                break
            elif draw.random() < p:
                grow = True
            else:
                break
            if grow:
                layer = draw.choice([i for i, width in enumerate(widths) if width < w1])
                widths[layer] += 1
        self.widths = widths
        edges = {("I", i - 1, draw.randrange(widths[i - 1]), k) for i in range(1, d) for k in range(widths[i])}
        absent = sorted(
            {("I", i, j, k) for i in range(d - 1) for j in range(widths[i]) for k in range(widths[i + 1])} - edges
        )
        edges |= set(draw.sample(absent, e - len(edges)))
        assert len(edges) == e
        self.instances = sorted(edges)
        self.abstracts = [("A", i, j, k) for i in range(d) for j in range(widths[i]) for k in range(i + 1, d)]

    def parts(self, a):
        """What an abstract parameter is computed from directly."""
        _, i, j, k = a
        children = [edge for edge in self.instances if edge[1:3] == (i, j)]
        if k == i + 1:
            return children
        return [b for edge in children for b in (edge, ("A", i + 1, edge[3], k))]

    def everything_below(self, a):
        if a[0] == "I":
            return {a}
        return {a}.union(*(self.everything_below(b) for b in self.parts(a)))

    def operations(self, a):
        return 1 if a[0] == "I" else max(1, len(self.parts(a)) - 1)


def draw_necessary_1(draw, structure, n, m):
    def op(graph):
        return sum(structure.operations(a) for a in graph)

    graph, updated = set(), True
    while updated:
        updated = False
        for level in range(len(structure.widths) - 1, 0, -1):
            missing = [a for a in structure.abstracts if a[3] - a[1] == level and a not in graph]
            if missing:
                larger = graph | structure.everything_below(draw.choice(missing))
                if op(larger) <= n:
                    graph, updated = larger, True
                    break
    missing = [a for a in structure.instances if a not in graph]
    graph |= set(draw.sample(missing, min(len(missing), m - op(graph))))
    if not graph:
        raise Failure
    return graph


def draw_necessary_2(draw, structure, graph, bias):
    before = {a: list(structure.parts(a)) if a[0] == "A" else [] for a in sorted(graph)}
    p0, g = draw.random(), abs(draw.gauss(0, 1))
    topo = []

    def biased_pick(pool):
        next1 = {b for a in topo for b in before[a]} - set(topo)
        weights = [math.exp(g * ((y[0] == "A") + ((y in next1) == (bias == "needed")))) for y in pool]
        return draw.choices(pool, weights)[0]

    while True:
        outside = [a for a in before if a not in topo]
        next1 = [a for a in outside if any(a in before[b] for b in topo)]
        next2 = [a for a in outside if not any(a in before[b] for b in outside)]
        both = [a for a in next2 if a in next1]
        if topo and not both:
            raise Failure
        x = draw.choice(both if topo else next2)
        topo.insert(0, x)
        outside.remove(x)
        if not outside:
            return before, topo
        next2 = [a for a in outside if not any(a in before[b] for b in outside)]
        if not any(a in before[b] for a in next2 for b in topo):
            if x[0] == "A":
                raise Failure
            before[x].append(biased_pick(next2))
        elif x[0] == "I" and draw.random() < p0:
            before[x].append(biased_pick(outside))


def draw_necessary_3(draw, structure, before, topo, s):
    current = {a: structure.operations(a) for a in topo}
    cap = {a: min(3, max(1, place)) for place, a in enumerate(topo)}
    while sum(current.values()) < s:
        free = [a for a in topo if a[0] == "I" and current[a] < cap[a]]
        if not free:
            raise Failure
        current[draw.choice(free)] += 1
    if sum(current.values()) != s:
        raise Failure
    for place, a in enumerate(topo):
        if a[0] == "A":
            continue
        pool = [RNG, *topo[:place]]
        k = draw.choice([1, 2]) if current[a] == 1 else current[a] + 1
        k = min(k, len(pool))
        if before[a]:
            pool.remove(before[a][0])
            k -= 1
        if k == len(pool):
            before[a] += pool
            continue
        if draw.random() < 0.5 and k > 0:
            before[a].append(RNG)
            k -= 1
        pool.remove(RNG)
        before[a] += draw.sample(pool, k)


def draw_unnecessary(draw, structure, before):
    independent = []

    def add(b):
        if b != RNG and b not in before:
            before[b] = []
            for c in structure.parts(b):
                add(c)
                before[b].append(c)

    while missing := [a for a in structure.instances if a not in before]:
        known = [
            *before,
            *(
                a
                for a in structure.abstracts
                if a not in before and all(b in before for b in structure.everything_below(a) if b[0] == "I")
            ),
        ]
        a = draw.choice(missing)
        if draw.random() < 0.5:
            pool = [RNG, *independent]
            independent.append(a)
        else:
            pool = [RNG, *known]
        k = 1
        while k < min(4, len(pool)) and draw.random() < 0.5:
            k += 1
        if k == len(pool):
            chosen = pool
        else:
            chosen = []
            if draw.random() < 0.5:
                chosen, k = [RNG], k - 1
            chosen += draw.sample([b for b in pool if b != RNG], k)
        for b in chosen:
            add(b)
        before[a] = list(chosen)


def draw_formula(draw, before, modulus, number):
    operands = [number[b] for b in before if b != RNG]
    draw.shuffle(operands)
    combination = ("none", "copy", "sum", "sum", "sum")[len(operands)]
    if len(operands) == 2:
        combination = draw.choice(["sum", "difference"])
    if RNG not in before:
        return Formula(tuple(operands), combination, "none")
    if not operands:
        return Formula((), "none", "none", draw.randrange(modulus))
    if draw.random() < 0.5:
        return Formula(tuple(operands), combination, "more", draw.randrange(modulus))
    return Formula(tuple(operands), combination, "times", draw.randrange(1, modulus))


def three_way(draw, rel):
    return draw.choices([2, 3, 4], [math.exp(-((rel - center) ** 2)) for center in (0.2, 0.5, 0.8)])[0]


def draw_problem(seed, *, op_max=15, ip_max=20, force=False, modulus=23, bias="needed", style="light"):
    """A problem with nothing but its English left out, and the number of vertices of G_d."""
    draw = random.Random(seed)
    s = op_max if force else target_operations(draw, op_max, style)
    while True:
        try:
            n = max(between(draw, 1, s), between(draw, 1, s))
            m = between(draw, n, s)
            rel = (s - 1) / (ip_max - 1)
            while True:
                d = three_way(draw, rel)
                w0, w1 = sorted([three_way(draw, rel), three_way(draw, rel)])
                if (d - 1) * w0 <= ip_max:
                    break
            low = (d - 1) * w0
            e = min(between(draw, low, ip_max), between(draw, low, ip_max), (d - 1) * w1**2)
            for attempt in range(1000):
                try:
                    structure = Structure(draw, e, d, w0, w1)
                    graph = draw_necessary_1(draw, structure, n, m)
                    before, topo = draw_necessary_2(draw, structure, graph, bias)
                    break
                except Failure:
                    if attempt == 999:
                        raise
            draw_necessary_3(draw, structure, before, topo, s)
            break
        except Failure:
            continue
    draw_unnecessary(draw, structure, before)
    number = {a: i for i, a in enumerate([*structure.instances, *structure.abstracts])}
    names = tuple(tuple(draw.sample(range(20), width)) for width in structure.widths)
    problem = Problem(
        modulus=modulus,
        widths=tuple(structure.widths),
        categorization=draw.randrange(4),
        first_category=draw.randint(0, 4 - d),
        names=names,
        edges=tuple(Instance(Item(i, j), Item(i + 1, k)) for _, i, j, k in structure.instances),
        formulas=tuple(draw_formula(draw, before[a], modulus, number) for a in structure.instances),
        told=tuple(draw.sample(range(e), e)),
        solution=tuple(number[a] for a in topo),
        letters=tuple(draw.sample(range(52), s)),
    )
    return problem, len(before)


# ----------------------------------------------------------------------------------------------------------------------
# Text
# ----------------------------------------------------------------------------------------------------------------------


def name_of(problem, parameter, names):
    def item(item):
        category = problem.first_category + item.layer
        return names.items[problem.categorization][category][problem.names[item.layer][item.number]]

    if isinstance(parameter, Abstract):
        category = names.categories[problem.categorization][problem.first_category + parameter.category]
        return item(parameter.item), category
    return item(parameter.parent), item(parameter.child)


def english_problem(problem, names):
    def each(number):
        outer, inner = name_of(problem, problem.parameters[number], names)
        return f"each {outer}'s {inner}"

    sentences = []
    for number in problem.told:
        formula = problem.formulas[number]
        operands = [each(operand) for operand in formula.operands]
        text = f"The number of {each(number)} equals"
        if formula.operator == "more":
            text += f" {formula.constant} more than"
        if formula.operator == "times":
            text += f" {formula.constant} times as much as"
        if not operands:
            text += f" {formula.constant}"
        elif len(operands) == 1:
            text += f" {operands[0]}"
        else:
            text += f" the {formula.combination} of {', '.join(operands[:-1])} and {operands[-1]}"
        sentences.append(text + ".")
    return " ".join(sentences)


def english_question(problem, names):
    outer, inner = name_of(problem, problem.parameters[problem.query], names)
    return f"How many {inner} does {outer} have?"


def english_solution(problem, names):
    """The text of the solution, and the answer."""
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[letter] for letter in problem.letters)
    letter, value, sentences = {}, {}, []

    def combined(result, left, sign, right):
        """One equation; operands are letters or numbers."""
        a, b = (value.get(operand, operand) for operand in (left, right))
        value[result] = {"+": a + b, "-": a - b, "*": a * b}[sign] % problem.modulus
        return f"{result} = {left} {sign} {right} = {a} {sign} {b} = {value[result]}"

    for number in problem.solution:
        parameter = problem.parameters[number]
        own = letter[number] = next(letters)
        todo = []  # (left, sign, right) in order; a result not known yet is the index of its step
        sign, operator, constant = "+", "none", 0
        if isinstance(parameter, Abstract):
            terms = []
            for edge in problem.edges:
                if edge.parent == parameter.item:
                    count = letter[problem.parameters.index(edge)]
                    if parameter.category == parameter.item.layer + 1:
                        terms.append(count)
                    else:
                        inside = letter[problem.parameters.index(Abstract(edge.child, parameter.category))]
                        terms.append((count, inside))
        else:
            formula = problem.formulas[number]
            terms = [letter[operand] for operand in formula.operands]
            sign = "-" if formula.combination == "difference" else "+"
            operator, constant = formula.operator, formula.constant
        total = None
        for term in terms:
            if isinstance(term, tuple):
                todo.append((term[0], "*", term[1]))
                term = len(todo) - 1
            if total is None:
                total = term
            else:
                todo.append((total, sign, term))
                total = len(todo) - 1
        if operator != "none":
            todo.append((constant, "+" if operator == "more" else "*", total, "constant"))
        outer, inner = name_of(problem, parameter, names)
        parts, results = [f"Define {outer}'s {inner} as {own}"], []
        for place, (left, step, right, *is_constant) in enumerate(todo):
            result = own if place == len(todo) - 1 else next(letters)
            left = left if is_constant or isinstance(left, str) else results[left]
            right = right if isinstance(right, str) else results[right]
            results.append(result)
            parts.append(("so " if result == own else "") + combined(result, left, step, right))
        if not todo:
            value[own] = constant if total is None else value[total]
            parts.append(f"so {own} = {constant}" if total is None else f"so {own} = {total} = {value[own]}")
        sentences.append("; ".join(parts) + ".")
    return " ".join(sentences), value[letter[problem.query]]
