import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from physlm.lab import Claim, Measurement, Predicate, Requirement, RunMetrics, pack_items, unpack_items
from physlm.lab.claims import decide, evaluate, format_threshold, format_value
from physlm.lab.results import without_items


def claim(**changes):
    given = {
        "id": "T-1",
        "statement": "It helps.",
        "source": "here",
        "conditions": ("a",),
        "measure": lambda runs: runs["a"].number("x"),
        "relation": "≥",
        "threshold": 0.3,
        "control": "nothing",
    }
    return Claim(**{**given, **changes})


def runs(*values, **more):
    return {seed: {"a": RunMetrics(x=value, **more)} for seed, value in enumerate(values)}


@pytest.mark.parametrize(
    ("interval", "relation", "threshold", "expected"),
    [
        ((0.31, 0.5), "≥", 0.3, "supported"),
        ((0.3, 0.5), "≥", 0.3, "supported"),
        ((0.29, 0.5), "≥", 0.3, "inconclusive"),
        ((0.1, 0.29), "≥", 0.3, "refuted"),
        ((0.1, 0.3), "≥", 0.3, "inconclusive"),
        ((0.1, 0.3), "≤", 0.3, "supported"),
        ((0.1, 0.31), "≤", 0.3, "inconclusive"),
        ((0.31, 0.4), "≤", 0.3, "refuted"),
        ((-0.1, 0.1), "between", (-0.1, 0.1), "supported"),
        ((-0.2, 0.0), "between", (-0.1, 0.1), "inconclusive"),
        ((-0.3, 0.3), "between", (-0.1, 0.1), "inconclusive"),
        ((0.11, 0.3), "between", (-0.1, 0.1), "refuted"),
    ],
)
def test_decision_table(interval, relation, threshold, expected):
    assert decide(interval, relation, threshold) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0.5, 0.51, 0.52), "supported"), ((0.1, 0.11, 0.12), "refuted"), ((0.2, 0.4, 0.6), "inconclusive")],
)
def test_verdict_over_seeds(values, expected):
    verdict = evaluate(claim(), runs(*values))
    assert (verdict.verdict, verdict.interval_over) == (expected, "seeds")
    assert verdict.estimate == pytest.approx(np.mean(values))
    assert verdict.values == values


def test_one_seed_uses_items():
    first, second = np.ones((50, 3), bool), np.zeros((50, 3), bool)
    second[:20] = True
    verdict = evaluate(claim(measure=lambda _: Measurement.of_difference(first, second)), runs(0))
    assert (verdict.verdict, verdict.interval_over, verdict.estimate) == ("supported", "items", 0.6)
    proportion = claim(measure=lambda _: Measurement.of_items(second), scale="proportion", relation="≤")
    assert evaluate(proportion, runs(0)).verdict == "inconclusive"


def test_one_seed_without_items_is_inconclusive():
    verdict = evaluate(claim(), runs(0.9))
    assert (verdict.verdict, verdict.interval) == ("inconclusive", None)
    assert "two seeds" in verdict.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_value_that_is_not_finite_is_inconclusive(value):
    verdict = evaluate(claim(), runs(0.9, value))
    assert verdict.verdict == "inconclusive"
    assert verdict.values == (0.9, None)
    assert not verdict.failed


def requirement(threshold=0.97):
    return Requirement(
        name="recall", measure=lambda runs: runs["a"].number("recall"), relation="≥", threshold=threshold
    )


@pytest.mark.parametrize("value", [0.9, 0.1])
def test_an_unmet_requirement_is_inconclusive_whatever_the_numbers(value):
    verdict = evaluate(claim(requires=(requirement(),)), runs(value, value + 0.01, recall=0.951))
    assert verdict.verdict == "inconclusive"
    assert verdict.reason == "not valid here: recall must be ≥ 97.0 %, got 95.1 % at seed 0, 95.1 % at seed 1"
    assert [r.met for r in verdict.requirements] == [False]
    assert verdict.estimate is not None


def test_a_met_requirement_changes_nothing():
    verdict = evaluate(claim(requires=(requirement(0.9),)), runs(0.8, 0.81, recall=0.95))
    assert (verdict.verdict, verdict.requirements[0].met) == ("supported", True)


GOOD, BAD, UNSURE = (0.8, 0.81), (0.1, 0.11), (0.2, 0.5)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((GOOD, GOOD), "supported"),
        ((GOOD, BAD), "refuted"),
        ((GOOD, UNSURE), "inconclusive"),
        ((UNSURE, BAD), "refuted"),
        ((UNSURE, UNSURE), "inconclusive"),
        ((BAD, GOOD), "refuted"),
    ],
)
def test_conjunctions(parts, expected):
    part = Predicate(name="second", measure=lambda runs: runs["a"].number("y"), relation="≥", threshold=0.3)
    both = {seed: {"a": RunMetrics(x=parts[0][seed], y=parts[1][seed])} for seed in (0, 1)}
    verdict = evaluate(claim(parts=(part,), measure_name="first"), both)
    assert verdict.verdict == expected
    assert [p.name for p in verdict.parts] == ["first", "second"]
    assert bool(verdict.reason) == (expected != "supported")


def test_a_faulty_measure_costs_only_its_claim():
    verdict = evaluate(claim(measure=lambda runs: runs["a"].number("typo")), runs(0.5, 0.6))
    assert (verdict.verdict, verdict.failed) == ("inconclusive", True)
    assert "typo" in verdict.reason
    assert "KeyError" in verdict.reason


def test_not_asserted():
    verdict = evaluate(claim(), runs(0.8, 0.81), not_asserted="smoke")
    assert (verdict.verdict, verdict.reason, verdict.estimate) == ("inconclusive", "smoke", pytest.approx(0.805))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": ">"}, "relation must be"),
        ({"relation": "between"}, "pair of thresholds"),
        ({"threshold": (0.1, 0.2)}, "pair of thresholds"),
        ({"relation": "between", "threshold": (0.2, 0.1)}, "lower threshold"),
        ({"conditions": ()}, "must name the conditions"),
    ],
)
def test_bad_claims(changes, message):
    with pytest.raises(ValueError, match=message):
        claim(**changes)


def test_format():
    assert format_value(-0.00001, "points") == "0.0 points"
    assert format_value(-0.12, "points") == "-12.0 points"
    assert format_value(1500.0, "steps") == "1500 steps"
    assert format_threshold("between", (-0.1, 0.1), "points") == "between -10.0 and 10.0 points"


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)))
def test_items_survive_packing(outcomes):
    packed = pack_items(outcomes)
    back = unpack_items(packed)
    assert back.shape == outcomes.shape
    assert (back == outcomes).all()
    assert without_items({"a": {"items": packed, "n": 1}, "b": [packed, 2]}) == {"a": {"n": 1}, "b": [2]}


@given(st.integers(1, 60))
def test_packed_items_are_small(people):
    assert len(pack_items(np.ones((people, 6), bool))["bits"]) <= people + 4


def test_packing_refuses_what_is_not_yes_or_no():
    with pytest.raises(ValueError, match="bool array"):
        pack_items(np.ones(3))
    with pytest.raises(ValueError, match="need 2 bytes"):
        unpack_items({"format": "packbits", "shape": [9], "bits": ""})


def test_metrics_by_path():
    metrics = RunMetrics({"qa": {"test.exact": 0.5, "none": None}, "text": "x"})
    assert metrics.number("qa.test.exact") == 0.5
    assert math.isnan(metrics.number("qa.none"))
    with pytest.raises(KeyError, match=r"test\.exact"):
        metrics.number("qa.train")
    with pytest.raises(TypeError, match="must be a number"):
        metrics.number("text")
