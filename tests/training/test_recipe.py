import json
import math

import pytest

from physlm.training.recipe import MuonRecipe, Recipe

STEPS, WARMUP, PEAK = 100, 20, 0.4


def recipe(**changes) -> Recipe:
    return Recipe(**{"steps": STEPS, "learning_rate": PEAK, "warmup_steps": WARMUP, "final_fraction": 0.1, **changes})


def rates(**changes):
    return [recipe(**changes).learning_rate_at(step) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_is_a_straight_line_from_zero_to_the_peak(schedule):
    expected = [PEAK * (step + 1) / WARMUP for step in range(WARMUP)]
    assert rates(schedule=schedule)[:WARMUP] == pytest.approx(expected)
    assert recipe(schedule=schedule).learning_rate_at(WARMUP) == pytest.approx(PEAK)


def test_without_warm_up_the_first_step_has_the_peak():
    assert recipe(warmup_steps=0).learning_rate_at(0) == PEAK


@pytest.mark.parametrize(
    ("schedule", "closed_form"),
    [
        ("cosine", lambda t: 0.1 + 0.9 * math.cos(math.pi * t / 2) ** 2),
        ("linear", lambda t: 1 - 0.9 * t),
        ("constant", lambda _: 1.0),
    ],
)
def test_decay_has_its_closed_form(schedule, closed_form):
    expected = [PEAK * closed_form((step - WARMUP) / (STEPS - WARMUP)) for step in range(WARMUP, STEPS)]
    assert rates(schedule=schedule)[WARMUP:] == pytest.approx(expected)


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_end_is_the_final_fraction_and_nothing_leaves_the_bounds(schedule, final_fraction):
    changes = {"schedule": schedule, "final_fraction": final_fraction}
    assert recipe(**changes).learning_rate_at(STEPS) == pytest.approx(PEAK * final_fraction)
    decay = rates(**changes)[WARMUP:]
    assert decay == sorted(decay, reverse=True)
    assert all(PEAK * final_fraction <= rate <= PEAK for rate in decay)
    assert all(0 < rate <= PEAK for rate in rates(**changes)[:WARMUP])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an integer ≥ 1, got 0"),
        ({"steps": 10.5}, "steps must be an integer ≥ 1, got 10.5"),
        ({"warmup_steps": STEPS}, "warmup_steps must be in"),
        ({"warmup_steps": -1}, "warmup_steps must be in"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and finite, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be > 0 and finite, got nan"),
        ({"clip": math.inf}, "clip must be > 0 and finite, got inf"),
        ({"eps": -1e-8}, "eps must be > 0 and finite"),
        ({"final_fraction": 1.5}, "final_fraction must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be ≥ 0"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"schedule": "step"}, "schedule must be one of .*cosine.*got 'step'"),
        ({"precision": "float16"}, "precision must be one of .*bfloat16.*got 'float16'"),
    ],
)
def test_errors_name_the_field_and_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_recipe_comes_back_from_json():
    original = recipe(schedule="linear", betas=(0.8, 0.99), precision="float32")
    assert Recipe.from_dict(json.loads(json.dumps(original.to_dict()))) == original
    assert Recipe.from_dict({"steps": 3, "learning_rate": 0.1}) == Recipe(steps=3, learning_rate=0.1)


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValueError, match="no field \\['momentum'\\]"):
        Recipe.from_dict({**recipe().to_dict(), "momentum": 0.9})


# ----------------------------------------------------------------------------------------------------------------------
# Muon
# ----------------------------------------------------------------------------------------------------------------------


def muon(**changes) -> MuonRecipe:
    return MuonRecipe(**{**vars(recipe()), "matrix_learning_rate": 0.02, **changes})


def test_both_rates_follow_one_schedule():
    for step in range(STEPS):
        assert muon().learning_rate_at(step) == recipe().learning_rate_at(step)
        assert muon().matrix_learning_rate_at(step) == pytest.approx(recipe().learning_rate_at(step) * 0.02 / PEAK)


def test_a_recipe_comes_back_as_what_it_was():
    for original in (recipe(), muon(nesterov=False, momentum=0.9)):
        assert Recipe.from_dict(json.loads(json.dumps(original.to_dict()))) == original
    assert MuonRecipe.from_dict(muon().to_dict()) == muon()
    assert "optimizer" not in recipe().to_dict()
    with pytest.raises(ValueError, match=r"optimizer of a MuonRecipe must be one of \['muon'\], got 'adamw'"):
        MuonRecipe.from_dict(recipe().to_dict())
    with pytest.raises(ValueError, match=r"optimizer of a Recipe must be one of \['adamw', 'muon'\], got 'lion'"):
        Recipe.from_dict({**recipe().to_dict(), "optimizer": "lion"})


def test_the_fields_of_a_recipe_are_those_that_finished_runs_are_found_by():
    assert [*vars(recipe())] == [
        "steps",
        "learning_rate",
        "final_fraction",
        "warmup_steps",
        "schedule",
        "weight_decay",
        "betas",
        "eps",
        "clip",
        "precision",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrix_learning_rate": 0.0}, "matrix_learning_rate must be > 0 and finite, got 0.0"),
        ({"momentum": 1.0}, "momentum must be in .*got 1.0"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps must be an integer in .*got 0"),
        ({"steps": 0}, "steps must be an integer ≥ 1, got 0"),
    ],
)
def test_errors_of_muon_name_the_field_and_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        muon(**changes)
