"""Labels against the worked example, against sets and recursion, and as draws."""

from functools import cache

import numpy as np
import pytest
from igsm_problems import NAMES, WORKED_EXAMPLE, ancestors, instance, predecessors, random_problem, value

from physlm.randomness import Key
from physlm.worlds.igsm.dependencies import NONE, Dependencies
from physlm.worlds.igsm.graphs import parameter_name
from physlm.worlds.igsm.labels import STATE_TASKS, TASKS, Labels, labels, probing_set
from physlm.worlds.igsm.problem import Abstract, Formula, Instance, Item, Problem
from physlm.worlds.igsm.vocabulary import Vocabulary

PROBLEMS = [random_problem(seed, modulus=7) for seed in range(150)]


@pytest.fixture(scope="module")
def many():
    return Labels.of_problems(PROBLEMS)


@cache
def facts(number):
    """Everything about problem `number` of `PROBLEMS` that labels are made of, by sets and recursion."""
    problem = PROBLEMS[number]
    query = problem.parameters[problem.query]
    return {
        "before": {parameter: set(predecessors(problem, parameter)) for parameter in problem.parameters},
        "ancestors": {parameter: ancestors(problem, parameter) for parameter in problem.parameters},
        "value": {parameter: value(problem, parameter) for parameter in problem.parameters},
        "necessary": {query, *ancestors(problem, query)},
    }


def expected(number, task, parameter, other, computed):
    """A label, from its definition in words."""
    known = facts(number)
    if task == "nece":
        return int(parameter in known["necessary"])
    if task == "dep":
        return int(other in known["ancestors"].get(parameter, ()))
    if task == "known":
        return int(parameter in computed)
    if task == "value":
        return known["value"][parameter] if parameter in computed else PROBLEMS[number].modulus
    can_next = parameter not in computed and known["before"].get(parameter, set()) <= computed
    return int(can_next and (task == "can_next" or parameter in known["necessary"]))


def test_worked_example_after_the_second_sentence():
    found = labels(WORKED_EXAMPLE, 2)
    named = [parameter_name(WORKED_EXAMPLE, parameter, NAMES) for parameter in probing_set(WORKED_EXAMPLE.widths)]

    def true(task):
        return {name for name, label in zip(named, found[task], strict=True) if label}

    assert true("known") == {"Tug's Pine Box", "Gull Bay's Ferry"}
    assert true("can_next") == {"Gull Bay's Tug", "Tug's Crate", "North Pier's Ferry"}  # the last one has no edge
    assert true("nece_next") == {"Gull Bay's Tug", "Tug's Crate"}
    assert set(named) - true("nece") == {
        "North Pier's Tug",
        "North Pier's Ferry",
        "North Pier's Ship",
        "North Pier's Crate",
        "Gull Bay's Ship",
    }
    values = dict(zip(named, found["value"].tolist(), strict=True))
    assert {name: label for name, label in values.items() if label != 23} == {
        "Tug's Pine Box": 4,
        "Gull Bay's Ferry": 7,
    }


def test_worked_example_values_and_distances():
    graphs = Dependencies.of([WORKED_EXAMPLE])
    assert graphs.value[0, list(WORKED_EXAMPLE.solution)].tolist() == [4, 7, 20, 2, 4, 2, 2]
    assert graphs.distance[0, list(WORKED_EXAMPLE.solution)].tolist() == [2, 1, 1, 2, 1, 1, 0]
    assert graphs.distance[0, 0] == NONE


def test_probing_set_has_every_pair_and_every_abstract_parameter():
    found = probing_set((2, 3, 2))
    assert len(found) == len(set(found)) == 6 + 6 + 2 * 2 + 3
    assert found[0] == instance(0, 0, 0)
    assert found[-1] == Abstract(Item(1, 2), 2)
    for problem in PROBLEMS:
        assert set(problem.parameters) <= set(probing_set(problem.widths))


def test_all_labels_of_single_problems_are_those_of_the_definition():
    for number, problem in enumerate(PROBLEMS[:40]):
        asked = probing_set(problem.widths)
        read = number % (len(problem.solution) + 1)
        computed = {problem.parameters[k] for k in problem.solution[:read]}
        found = labels(problem, read)
        for task in TASKS:
            if task == "dep":
                wanted = [[expected(number, task, a, b, computed) for b in asked] for a in asked]
            else:
                wanted = [expected(number, task, a, None, computed) for a in asked]
            assert found[task].tolist() == wanted


def test_only_existing_parameters_in_the_problem_s_order():
    for problem in PROBLEMS[:20]:
        whole, existing = labels(problem, 1), labels(problem, 1, existing_only=True)
        place = [probing_set(problem.widths).index(parameter) for parameter in problem.parameters]
        for task in TASKS:
            part = whole[task][np.ix_(place, place)] if task == "dep" else whole[task][place]
            assert np.array_equal(existing[task], part)


def test_any_set_of_computed_parameters_may_be_given():
    """A model may take another order, or compute what is not needed."""
    number, unneeded = next(
        (number, parameter)
        for number, problem in enumerate(PROBLEMS)
        for parameter, before in enumerate(map(facts(number)["before"].get, problem.parameters))
        if parameter not in problem.solution and not before
    )
    problem = PROBLEMS[number]
    found = labels(problem, {unneeded}, existing_only=True)
    computed = {problem.parameters[unneeded]}
    for task in STATE_TASKS:
        wanted = [expected(number, task, parameter, None, computed) for parameter in problem.parameters]
        assert found[task].tolist() == wanted


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("existing_only", [False, True])
def test_drawn_questions_have_the_right_labels(many, task, existing_only):
    asked = many.draw(task, Key.of("questions", 0), existing_only=existing_only)
    assert len(asked) > 1000
    assert not existing_only or asked.exists.all()
    chosen = set()
    for row in range(len(asked)):
        problem = PROBLEMS[asked.problem[row]]
        members = probing_set(problem.widths)
        parameter = members[asked.parameter[row]]
        other = members[asked.other[row]] if task == "dep" else None
        assert (asked.sentence[row] == NONE) == (task not in STATE_TASKS)
        read = max(0, asked.sentence[row])
        computed = {problem.parameters[k] for k in problem.solution[:read]}
        assert asked.label[row] == expected(int(asked.problem[row]), task, parameter, other, computed)
        assert asked.exists[row] == ({parameter, other} - {None} <= set(problem.parameters))
        assert other != parameter
        chosen.add((int(asked.problem[row]), parameter, other, int(asked.sentence[row])))
    assert len(chosen) == len(asked), "questions about a problem are all different"


def test_draws_take_everything_when_there_is_less_than_asked_for(many):
    asked = many.draw("nece", Key.of("questions", 1), count=100)
    assert np.array_equal(np.bincount(asked.problem), many.sizes)
    for row in range(5):
        assert set(asked.parameter[asked.problem == row]) == set(range(many.sizes[row]))


def test_draws_are_uniform():
    truth = Labels.of_problems([WORKED_EXAMPLE] * 4000)
    asked = truth.draw("known", Key.of("questions", 2), count=3)
    cells = asked.parameter * 8 + asked.sentence
    seen = np.bincount(cells, minlength=12 * 8)
    mean = len(asked) / (12 * 8)
    assert len(seen) == 12 * 8
    assert np.abs(seen - mean).max() < 5 * np.sqrt(mean)


def test_draws_belong_to_the_number_of_the_problem(many):
    key = Key.of("questions", 3)
    whole = many.draw("value", key, np.arange(len(PROBLEMS)) + 1000)
    part = Labels.of_problems(PROBLEMS[60:90]).draw("value", key, np.arange(60, 90) + 1000)
    where = (whole.problem >= 60) & (whole.problem < 90)
    for name in ("parameter", "sentence", "label"):
        assert np.array_equal(getattr(whole, name)[where], getattr(part, name))


@pytest.mark.parametrize("existing_only", [False, True])
def test_base_rates_are_means_over_everything_that_can_be_asked(existing_only):
    shares = {task: [] for task in TASKS}
    for problem in PROBLEMS[:30]:
        found = [labels(problem, read, existing_only=existing_only) for read in range(len(problem.solution) + 1)]
        count = len(found[0]["nece"])
        shares["nece"].append(found[0]["nece"].mean())
        shares["dep"].append(found[0]["dep"].sum() / (count * (count - 1)))
        shares["value"].append(np.mean([state["value"] != problem.modulus for state in found]))
        for task in ("known", "can_next", "nece_next"):
            shares[task].append(np.mean([state[task] for state in found]))
    rates = Labels.of_problems(PROBLEMS[:30]).base_rates(existing_only=existing_only)
    assert rates == pytest.approx({task: np.mean(values) for task, values in shares.items()})


def test_names_are_those_of_the_vocabulary(many):
    vocabulary = Vocabulary(7, NAMES)
    for task in ("nece", "dep"):
        asked = many.draw(task, Key.of("names", 0))
        found = many.names(vocabulary, asked.problem, asked.parameter)
        for row in range(0, len(asked), 7):
            problem = PROBLEMS[asked.problem[row]]
            assert tuple(found[row]) == vocabulary.name(problem, probing_set(problem.widths)[asked.parameter[row]])


def test_a_circle_is_refused():
    problem = Problem(
        23, (1, 2), 0, 0, ((0,), (0, 1)), (instance(0, 0, 0), instance(0, 0, 1)),
        (Formula((1,), "copy", "none"), Formula((0,), "copy", "none")), (0, 1), (0, 1), (0, 1),
    )  # fmt: skip
    with pytest.raises(ValueError, match="depend on itself, got one that does in problem 1"):
        Dependencies.of([WORKED_EXAMPLE, problem])


def test_bad_questions_are_refused(many):
    with pytest.raises(ValueError, match=r"sentences must be in 0\.\.7, got 8"):
        labels(WORKED_EXAMPLE, 8)
    with pytest.raises(ValueError, match=r"task must be one of nece, dep, .*, got 'next'"):
        many.of("next", [0], [0], sentence=[0])
    with pytest.raises(ValueError, match="task must be one of nece"):
        many.draw("next", Key.of("questions", 0))
    with pytest.raises(ValueError, match="known is asked of a state"):
        many.of("known", [0], [0])
    with pytest.raises(ValueError, match="dep is asked about two parameters"):
        many.of("dep", [0], [0])
    with pytest.raises(ValueError, match="count must be ≥ 1, got 0"):
        many.draw("nece", Key.of("questions", 0), count=0)
    with pytest.raises(ValueError, match="at least one problem"):
        Labels.of_problems([])
    with pytest.raises(ValueError, match="problems must have one modulus, got 7, 23"):
        Labels.of_problems([WORKED_EXAMPLE, PROBLEMS[0]])


def test_instances_are_told_from_abstract_parameters(many):
    for row, problem in enumerate(PROBLEMS[:20]):
        kinds = many.members[row, : many.sizes[row], 3]
        assert [isinstance(parameter, Instance) for parameter in probing_set(problem.widths)] == (kinds == 0).tolist()
