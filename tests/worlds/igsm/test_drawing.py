"""The compiled drawing against the plain algorithms of the specification, and what must hold of every problem."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from igsm_plain import draw_problem, english_solution
from igsm_problems import ancestors, predecessors
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig, most_operations
from physlm.worlds.igsm.drawing import Drawer, NoSuchProblemError, drawing_of, problem_at
from physlm.worlds.igsm.names import load_names
from physlm.worlds.igsm.problem import Abstract, Instance
from physlm.worlds.igsm.templates import side, template

NAMES = load_names()
CATEGORIES = [name for chain in NAMES.categories for name in chain]
LEAST_EXPECTED = 10


def drawer(split=None, key="drawing", **settings):
    return Drawer(IGSMConfig(seed=0, **settings), Key.of(key), split)


def arrays(count, split=None, **settings):
    return drawer(split, **settings).draw(np.arange(count))[0]


def problems(count, split=None, **settings):
    drawing = arrays(count, split, **settings)
    return [problem_at(drawing, row, IGSMConfig(seed=0, **settings)) for row in range(count)], drawing


def template_of(problem):
    return template(english_solution(problem, NAMES)[0], CATEGORIES)


def agree(ours, theirs):
    """Probability that two lists of outcomes differ as much if they come from one distribution."""
    ours, theirs = Counter(ours), Counter(theirs)
    share = theirs.total() / (ours.total() + theirs.total())
    columns, rest = [], [0, 0]
    for outcome in {*ours, *theirs}:
        pair = [ours[outcome], theirs[outcome]]
        if sum(pair) * min(share, 1 - share) >= LEAST_EXPECTED:
            columns.append(pair)
        else:
            rest = [rest[0] + pair[0], rest[1] + pair[1]]
    columns += [rest] if min(rest) >= LEAST_EXPECTED else []
    return stats.chi2_contingency(np.array(columns).T).pvalue if len(columns) > 1 else 1.0


# ----------------------------------------------------------------------------------------------------------------------
# Distribution
# ----------------------------------------------------------------------------------------------------------------------


def distances(problem):
    """Length of the shortest path from every necessary parameter to the query."""
    found, front, steps = {}, [problem.parameters[problem.query]], 0
    while front:
        found |= dict.fromkeys(front, steps)
        front = list({b for a in front for b in predecessors(problem, a)} - set(found))
        steps += 1
    return found


def depth(problem):
    """Length of the longest path to the query."""
    longest = {}
    for number in problem.solution:
        parameter = problem.parameters[number]
        longest[parameter] = 1 + max((longest[b] for b in predecessors(problem, parameter)), default=0)
    return longest[problem.parameters[problem.query]]


def level(problem, number):
    parameter = problem.parameters[number]
    return parameter.category - parameter.item.layer if isinstance(parameter, Abstract) else 0


def features(problem, used):
    """What is compared, by name: a list of outcomes for each problem."""
    necessary = set(problem.solution)
    shape = [(len(formula.operands), formula.combination, formula.operator) for formula in problem.formulas]
    operands = [
        (len(formula.operands), place, level(problem, operand), number in necessary, operand in necessary)
        for number, formula in enumerate(problem.formulas)
        for place, operand in enumerate(formula.operands)
    ]
    to_query = distances(problem)
    return {
        "edges": [len(problem.edges)],
        "widths": [problem.widths],
        "vertices in use": [used],
        "operations": [len(problem.letters)],
        "sentences": [len(problem.solution)],
        "kind of query": [level(problem, problem.query)],
        "kinds in the solution": [tuple(sorted(level(problem, number) for number in problem.solution))],
        "kinds by place": [(min(i, 9), level(problem, number)) for i, number in enumerate(problem.solution)],
        "formulas that are needed": [s for number, s in enumerate(shape) if number in necessary],
        "formulas that are not": [s for number, s in enumerate(shape) if number not in necessary],
        "operands": operands,
        "most distant from the query": [max(to_query.values())],
        "longest path": [depth(problem)],
        "constants": [f.constant for f in problem.formulas if f.operator == "more" or f.combination == "none"],
        "factors": [formula.constant for formula in problem.formulas if formula.operator == "times"],
        "first told": [problem.told[0]],
        "letters": [problem.letters[0]],
        "categories": [(problem.categorization, problem.first_category, len(problem.widths))],
    }


SETTINGS = {
    "op ≤ 15": ({}, {}, 2000),
    "op = 15": ({"exact_operations": 15}, {"force": True}, 500),
    "op = 9, ip ≤ 5, released bias": (
        {"exact_operations": 9, "max_instances": 5, "depth_bias": "not_needed"},
        {"force": True, "op_max": 9, "ip_max": 5, "bias": "not_needed"},
        1000,
    ),
    "op = 21, ip ≤ 28": (
        {"exact_operations": 21, "max_operations": 21, "max_instances": 28},
        {"force": True, "op_max": 21, "ip_max": 28},
        200,
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_problems_are_distributed_as_the_plain_algorithms_say(name):
    settings, plain_settings, count = SETTINGS[name]
    ours, drawing = problems(2 * count, **settings)
    used = np.bitwise_count(drawing.used).tolist()
    drawn = [features(*pair) for pair in zip(ours, used, strict=True)]
    plain = [features(*draw_problem(seed, **plain_settings)) for seed in range(count)]
    chances = {
        feature: agree([x for f in drawn for x in f[feature]], [x for f in plain for x in f[feature]])
        for feature in drawn[0]
    }
    # Outcomes within one problem depend on each other, so small chances are somewhat more frequent than they should be.
    assert min(chances.values()) > 1e-4, chances


@pytest.mark.parametrize(("operations", "count"), [(2, 1000), (3, 2000), (4, 2000)])
def test_templates_of_few_operations_are_as_frequent_as_the_plain_algorithms_say(operations, count):
    theirs = [
        int.from_bytes(hashlib.sha256(f" {template_of(problem)}".encode()).digest()[:8], "big")
        for problem, _ in (draw_problem(seed, op_max=operations, force=True) for seed in range(count))
    ]
    assert agree(arrays(4 * count, exact_operations=operations).template.tolist(), theirs) > 1e-3


def light(most):
    smaller = np.arange(most, -1, -1) ** 2 / most**2
    return smaller[:-1] - smaller[1:]


def uniform(most):
    return np.full(most, 1 / most)


def middle(most):
    larger = (np.arange(most + 1) / most) ** 3
    return np.diff(larger)


def heavy(most):
    s = np.arange(1, most + 1)
    once = np.array([[(t >= first) / (most - first + 1) for t in s] for first in s])
    return uniform(most) @ once @ once


@pytest.mark.parametrize("distribution", [light, uniform, middle, heavy])
def test_operations_have_exactly_the_distribution_asked_for(distribution):
    drawing = arrays(20_000, operation_distribution=distribution.__name__)
    counts = np.bincount(drawing.operations, minlength=16)[1:]
    assert stats.chisquare(counts, 20_000 * distribution(15)).pvalue > 1e-3


def test_the_split_changes_no_number_of_operations_but_one():
    """Both templates of one operation are for training; tests have the others in proportion."""
    for split, missing in (("train", 0), ("test", 1)):
        drawing = arrays(10_000, split)
        expected = light(15)[missing:] / light(15)[missing:].sum()
        counts = np.bincount(drawing.operations, minlength=16)[1:]
        assert not counts[:missing].any()
        assert stats.chisquare(counts[missing:], 10_000 * expected).pvalue > 1e-3


def test_another_parameter_is_asked_for():
    """Operations from op = 20 (§3, *reask*): mean 9.9, median 8, 90th percentile 20."""
    operations = arrays(10_000, exact_operations=20, reask=True).operations
    assert operations.mean() == pytest.approx(9.9, abs=0.5)
    assert np.median(operations) == pytest.approx(8, abs=1)
    assert np.percentile(operations, 90) == pytest.approx(20, abs=2)
    assert operations.max() > 40
    # The problem is the same, but for those of which too long a solution was asked.
    asked, original = arrays(1000, exact_operations=20, reask=True), arrays(1000, exact_operations=20)
    is_same = (asked.constant == original.constant).all(axis=1)
    assert is_same.mean() > 0.95
    assert (asked.told == original.told)[is_same].all()
    assert (asked.solution != original.solution).any(axis=1).mean() > 0.9


# ----------------------------------------------------------------------------------------------------------------------
# What holds of every problem
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "settings"),
    [
        ("train", {}),
        ("test", {"question_first": True, "names_per_category": 4, "categorizations": 1}),
        ("test", {"exact_operations": 32, "max_instances": 28}),
        ("train", {"max_instances": 2, "max_operations": 5, "modulus": 2}),
        ("train", {"exact_operations": 40, "max_instances": 40, "modulus": 97}),
        ("test", {"exact_operations": 15, "reask": True}),
        ("test", {"solution": "everything"}),
    ],
)
def test_every_problem_is_sound(split, settings):
    config = IGSMConfig(seed=0, **settings)
    drawn, drawing = problems(100, split, **settings)
    for problem, operations in zip(drawn, drawing.operations.tolist(), strict=True):
        assert 2 <= len(problem.widths) <= 4
        assert all(2 <= width <= 4 for width in problem.widths)
        assert len(problem.edges) <= config.max_instances
        assert list(problem.edges) == sorted(set(problem.edges), key=lambda edge: (edge.parent.layer, *numbers(edge)))
        assert all(edge.parent.number < problem.widths[edge.parent.layer] for edge in problem.edges)
        inside = {edge.child for edge in problem.edges}
        below_the_top = sum(problem.widths[1:])
        assert len(inside) == below_the_top
        assert problem.first_category + len(problem.widths) <= 4
        for layer, names in enumerate(problem.names):
            assert len(set(names)) == len(names) == problem.widths[layer]
            group = np.repeat(np.arange(20), load_names(4, config.names_per_category).groups[0])[list(names)]
            assert len(set(group.tolist())) == 1
        for formula in problem.formulas:
            assert len(formula.operands) + (formula.operator != "none") <= 4
            assert 0 <= formula.constant < problem.modulus
            assert formula.operator != "times" or formula.constant > 0
            few = {0: ("none",), 1: ("copy",), 2: ("sum", "difference")}.get(len(formula.operands), ("sum",))
            assert formula.combination in few
            assert len(set(formula.operands)) == len(formula.operands)
        assert sorted(problem.told) == list(range(len(problem.edges)))
        assert len(set(problem.letters)) == len(problem.letters) == operations
        solved = [problem.parameters[number] for number in problem.solution]
        for i, parameter in enumerate(solved):
            assert set(predecessors(problem, parameter)) <= set(solved[:i])
            assert parameter not in ancestors(problem, parameter)
        needed = {*ancestors(problem, solved[-1]), solved[-1]}
        assert needed <= set(solved) if config.solution == "everything" else needed == set(solved)
        assert side(template_of(problem)) == split or config.solution == "everything"
        if config.exact_operations is not None and not config.reask:
            assert operations == config.exact_operations
        assert config.question_first == problem.question_first


def numbers(edge):
    return edge.parent.number, edge.child.number


def test_a_solution_of_everything_also_computes_what_is_not_needed():
    everything, _ = problems(300, "train", solution="everything")
    shortest, _ = problems(300, "train")
    extra = 0
    for whole, short in zip(everything, shortest, strict=True):
        if whole.formulas == short.formulas:
            assert whole.query == short.query
            assert set(short.solution) <= set(whole.solution)
            extra += len(whole.solution) - len(short.solution)
    assert extra / 300 > 1


def test_hashes_of_templates_are_those_of_their_text():
    drawn, drawing = problems(300, max_operations=21, max_instances=28)
    texts = [f" {template_of(problem)}" for problem in drawn]
    hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
    assert drawing.template.tolist() == hashes
    lengths = {len(text) % 64 for text in texts}
    assert lengths & {55, 56, 63, 0}  # texts that just fit a block, and that just do not


@pytest.mark.parametrize("settings", [{}, {"exact_operations": 20, "reask": True}, {"solution": "everything"}])
def test_a_problem_does_not_depend_on_what_else_is_drawn(settings):
    config = IGSMConfig(seed=0, **settings)
    together, _ = problems(64, "test", **settings)
    order = np.random.default_rng(0).permutation(64)[:20]
    apart, _ = drawer("test", **settings).draw(order)
    assert [problem_at(apart, row, config) for row in range(20)] == [together[i] for i in order]


def test_problems_of_other_keys_are_others():
    first, second = drawer(key="a").draw(np.arange(200))[0], drawer(key="b").draw(np.arange(200))[0]
    assert (first.constant == second.constant).all(axis=1).mean() < 0.05


def test_no_template_is_on_both_sides():
    train, test = (set(arrays(10_000, split).template.tolist()) for split in ("train", "test"))
    assert not train & test
    whole = arrays(10_000)
    few = whole.template[whole.operations == 3].tolist()
    assert np.mean([template in train or template in test for template in few]) > 0.9
    assert np.mean([template in train for template in few]) == pytest.approx(17 / 23, abs=0.1)


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be drawn
# ----------------------------------------------------------------------------------------------------------------------


def test_one_operation_cannot_be_tested():
    with pytest.raises(NoSuchProblemError, match=r"problems of 1 operations must exist in split 'test' .* got none in"):
        drawer("test", exact_operations=1).draw(np.arange(1))


def test_a_small_world_without_one_operation_to_test_has_others():
    """Most problems of so small a world have one operation, of which all templates are trained on."""
    operations = arrays(5_000, "test", max_operations=3, max_instances=4).operations
    assert set(operations.tolist()) == {2, 3}


@pytest.mark.parametrize("settings", [{}, {"reask": True}, {"solution": "everything"}])
def test_few_letters_are_enough_for_every_solution(settings):
    drawing = arrays(2_000, max_operations=6, max_instances=8, letters=8, **settings)
    for operations, letters in zip(drawing.operations.tolist(), drawing.letters.tolist(), strict=True):
        assert len(set(letters[:operations])) == operations <= 8
        assert max(letters[:operations]) < 8
    used = [letter for row, n in zip(drawing.letters, drawing.operations, strict=True) for letter in row[:n]]
    counts = np.bincount(used, minlength=8)
    assert abs(counts / counts.mean() - 1).max() < 0.1


@pytest.mark.parametrize("settings", [{}, {"reask": True}, {"solution": "everything"}])
def test_letters_in_the_order_of_the_alphabet(settings):
    drawing = arrays(500, max_operations=6, max_instances=8, letters=8, shuffled_letters=False, **settings)
    firsts = drawing.letters[:, 0]
    for first, operations, letters in zip(firsts, drawing.operations.tolist(), drawing.letters.tolist(), strict=True):
        assert letters[:operations] == [(first + i) % 8 for i in range(operations)]
    assert np.bincount(firsts, minlength=8).min() > 500 / 8 / 2


@pytest.mark.parametrize("max_instances", [2, 3, 4, 5, 6, 7, 8, 9, 10, 20])
def test_the_feasible_range_is_feasible(max_instances):
    most = most_operations(max_instances)
    for operations in {most, most - 1, most // 2}:
        settings = {"exact_operations": operations, "max_instances": max_instances}
        drawing, _ = drawer(**settings).draw(np.arange(8))
        assert (drawing.operations == operations).all()


def test_beyond_the_feasible_range_nothing_is_found():
    config = IGSMConfig(seed=0, exact_operations=11, max_instances=3)
    object.__setattr__(config, "exact_operations", 14)
    with pytest.raises(NoSuchProblemError, match="problems of 14 operations must exist"):
        Drawer(config, Key.of("x"), None).draw(np.arange(1))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_operations": 0}, ValueError, r"max_operations must be in 1..52, got 0: every operation takes a letter"),
        ({"max_operations": 53}, ValueError, r"max_operations must be in 1..52, got 53"),
        ({"max_operations": 1.5}, TypeError, "max_operations must be an int, got 1.5"),
        (
            {"max_instances": 4, "max_operations": 19},
            ValueError,
            r"max_operations must be in 1..18 with max_inst",
        ),
        ({"max_instances": 6, "exact_operations": 40}, ValueError, r"exact_operations must be in 1..34 with .*got 40"),
        ({"max_instances": 1}, ValueError, r"max_instances must be in 2..40, got 1"),
        ({"max_instances": 41}, ValueError, r"max_instances must be in 2..40, got 41"),
        ({"modulus": 1}, ValueError, r"modulus must be in 2..1000, got 1: with fewer than two numbers"),
        ({"modulus": 21}, ValueError, "modulus must be a prime, got 21: .*wrong steps have right results"),
        ({"modulus": 9}, ValueError, "modulus must be a prime, got 9"),
        ({"names_per_category": 3}, ValueError, r"names_per_category must be in 4..100, got 3: a layer has up to 4"),
        ({"letters": 0}, ValueError, r"letters must be in 1..52, got 0"),
        ({"letters": 14}, ValueError, "max_operations must be at most letters=14, as every operation .*got 15"),
        ({"letters": 15, "exact_operations": 16}, ValueError, "exact_operations must be at most letters=15, .*got 16"),
        ({"categorizations": 5}, ValueError, r"categorizations must be in 1..4, got 5"),
        ({"rendering": "french"}, ValueError, "rendering must be one of 'english', 'compact', got 'french'"),
        ({"operation_distribution": "log"}, ValueError, "operation_distribution must be one of 'light', .*got 'log'"),
        ({"depth_bias": "rel"}, ValueError, "depth_bias must be one of 'needed', 'not_needed', got 'rel'"),
        ({"solution": "longest"}, ValueError, "solution must be one of"),
        ({"reask": 1}, TypeError, "reask must be True or False, got 1"),
        ({"shuffled_letters": None}, TypeError, "shuffled_letters must be True or False, got None"),
        ({"problems": 0}, ValueError, "problems must be in 1.."),
        ({"seed": "a"}, TypeError, "seed must be an int, got 'a'"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        IGSMConfig(**{"seed": 0, **settings})


def test_problems_and_arrays_say_the_same():
    drawn, drawing = problems(50, max_operations=21, max_instances=28)
    again = drawing_of(drawn)
    config = IGSMConfig(seed=0, max_operations=21, max_instances=28)
    assert [problem_at(again, row, config) for row in range(50)] == drawn
    assert isinstance(drawn[0].edges[0], Instance)
    assert (again.operations == drawing.operations).all()
