"""How often every label is true in the problems that are drawn, against the specification (§1.11) and the paper.

The numbers are 100 minus the majority baselines of Physics of Language Models 2.1, Fig. 7a. They only come out with the
full probing set, pairs without an edge included.
"""

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.dependencies import Dependencies
from physlm.worlds.igsm.drawing import Drawer, problem_at
from physlm.worlds.igsm.labels import TASKS, Labels

PROBLEMS = 20_000
TASKS_OF_THE_PAPER = ("nece", "dep", "known", "can_next", "nece_next")
# Of the specification, then of the paper, in %.
RATES = {
    "op ≤ 15": ({}, (26.0, 16.2, 12.9, 40.3, 5.0), (25.3, 15.4, 13.0, 42.6, 5.1)),
    "op = 15": ({"exact_operations": 15}, (45.0, 18.3, 22.5, 39.5, 6.1), (45.2, 17.8, 22.4, 40.1, 6.5)),
    "op = 21": (
        {"exact_operations": 21, "max_operations": 21, "max_instances": 28},
        (52.0, 21.3, 26.0, 34.0, 6.5),
        (53.1, 20.5, 26.5, 34.7, 7.0),
    ),
}


def drawn(settings, count=PROBLEMS):
    config = IGSMConfig(seed=0, **settings)
    drawing, _ = Drawer(config, Key.of("label statistics", 0), None).draw(np.arange(count))
    return drawing, config


@pytest.mark.parametrize("family", RATES)
def test_base_rates_are_those_of_the_specification_and_near_the_paper_s(family):
    settings, specified, published = RATES[family]
    drawing, config = drawn(settings)
    rates = Labels(Dependencies(drawing, config.modulus)).base_rates()
    found = np.array([100 * rates[task] for task in TASKS_OF_THE_PAPER])
    assert np.abs(found - specified).max() < 1.5
    assert np.abs(found - published).max() < 2.5


def test_drawn_questions_have_the_base_rates():
    drawing, config = drawn({}, count=5000)
    truth = Labels(Dependencies(drawing, config.modulus))
    rates = truth.base_rates()
    for task in TASKS:
        asked = truth.draw(task, Key.of("questions", 0))
        is_true = asked.label != config.modulus if task == "value" else asked.label == 1
        by_problem = np.bincount(asked.problem, is_true) / np.bincount(asked.problem)
        assert by_problem.mean() == pytest.approx(rates[task], abs=0.005)


def test_labels_of_drawn_problems_are_those_of_their_objects():
    drawing, config = drawn({"max_operations": 21, "max_instances": 28}, count=200)
    problems = [problem_at(drawing, row, config) for row in range(200)]
    fast, slow = Labels(Dependencies(drawing, config.modulus)), Labels.of_problems(problems)
    for task in TASKS:
        one, other = (labels.draw(task, Key.of("questions", 1)) for labels in (fast, slow))
        for name in ("problem", "parameter", "other", "sentence", "label", "exists"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert np.array_equal(fast.graphs.value, slow.graphs.value)


def test_what_the_problem_mentions_is_what_the_generator_uses():
    drawing, config = drawn({})
    graphs = Dependencies(drawing, config.modulus)
    assert np.array_equal(graphs.mentioned, drawing.used)
    # Of these alone, far more are needed than of the whole probing set (specification, §1.11: 48 %).
    share = np.bitwise_count(graphs.necessary) / np.bitwise_count(graphs.mentioned)
    assert 100 * share.mean() == pytest.approx(48, abs=1.5)


def test_the_longest_distances_to_the_query_are_those_of_the_specification():
    for settings, specified in (({}, 2.2), ({"exact_operations": 15}, 4.1)):
        drawing, config = drawn(settings)
        found = Dependencies(drawing, config.modulus).distance.max(axis=1).mean()
        assert found == pytest.approx(specified, rel=0.05)
