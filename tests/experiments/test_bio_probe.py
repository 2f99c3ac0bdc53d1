import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import _biography_probe_measures as measures
from experiments._biographies import WorldShape, halves, make_world
from experiments._biography_probe_claims import claims
from experiments._biography_probes import (
    PROBE,
    Biographies,
    names_of,
    outcomes,
    probe_layers,
    probe_names,
    probe_positions,
    taught,
    values_of,
)
from experiments._biography_removal import remove_from_names
from experiments.bio_probe import EXPERIMENT
from physlm.data.streams import PackedStream, Source
from physlm.evaluation import score
from physlm.lab import Results, Workspace
from physlm.lab.claims import evaluate
from physlm.lab.results import RunMetrics, pack_items
from physlm.models.transformer import Transformer
from physlm.probing.heads import ProbeTraining
from physlm.probing.results import ACCURACIES, ProbeResult
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.bios import BiographyWorld, PoolSizes

SMOKE = EXPERIMENT.presets["smoke"]
SMALL = replace(SMOKE.biographies.world, people=12, attributes=("bcity", "cname"))
SHAPE = replace(SMOKE.biographies.model, layers=2, width=16)
KEY = Key.of("tests of probes", 0)
VARIANTS = ("single", "single+fullname", "multi5+permute", "couple1")


def world_of(variant, shape=SMOKE.biographies.world):
    return make_world(shape.config(1, variant=variant))


def model_of(world, seed=0):
    return Transformer(SHAPE.config(world.vocab_size), seed=seed)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The metrics of the smoke scale by condition, as they are written to files."""
    cache = tmp_path_factory.mktemp("cache")
    metrics = {
        c.name: EXPERIMENT.run(SMOKE, c, 211, Workspace(cache=cache, scratch=cache / c.name.replace("/", "-")))
        for c in EXPERIMENT.conditions(SMOKE)
    }
    return {name: RunMetrics(json.loads(json.dumps(run, allow_nan=False))) for name, run in metrics.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Places and labels
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_places_are_before_values(variant):
    world = world_of(variant)
    texts, first = Biographies.of(world), list(values_of(world)["first"].values())
    count = len(first)
    assert len(texts.places) == count * world.size("biographies")
    for place in range(0, len(texts.places), 7):
        tokens, _ = texts.places.samples.document(texts.places.documents[place])
        at = texts.places.positions[place]
        assert tokens[0] == world.eos
        (following,) = np.flatnonzero(texts.ahead[place] == 0)
        assert tokens[at + 1] == first[following][texts.people[place]]
        assert texts.position[place] == (texts.ahead[place] < 0).sum()
        for attribute in range(count):
            told = first[attribute][texts.people[place]] in tokens[: at + 1]
            # Two attributes may share a city, so only what is told must be there.
            assert told or texts.ahead[place, attribute] >= 0


def test_names_stand_alone():
    for variant in VARIANTS:
        world = world_of(variant)
        names = names_of(world)
        for person in range(0, world.config.people, 5):
            tokens, _ = names.samples.document(person)
            assert tokens[[0, -1]].tolist() == [world.eos, world.eos]
            assert world.tokenizer.decode(tokens[1:-1]).strip() == world.person(person).name
            assert names.positions[person] == len(tokens) - 1


def test_values_of_one_word_are_asked_for_once():
    assert values_of(world_of("single"))["whole"] == {}
    pools = PoolSizes(first=20, middle=20, last=20, bcity=40, univ=60, major=30, cname=30)
    world = BiographyWorld(WorldShape(people=80, pools=pools).config(1))
    asked = values_of(world)
    assert list(asked["first"]) == list(world.config.attributes)
    assert "univ" in asked["whole"]
    assert "date" not in asked["whole"]
    for name, whole in asked["whole"].items():
        facts = [world.person(person).facts[name] for person in range(80)]
        assert len(set(zip(facts, whole.tolist(), strict=True))) == len(set(facts)) == len(set(whole.tolist()))


def test_probes_are_fitted_to_the_people_whose_questions_may_be_trained_on():
    world = world_of("single")
    people = np.arange(world.config.people)
    assert np.array_equal(people[taught(world, people)], halves(world)["train"])


# ----------------------------------------------------------------------------------------------------------------------
# Outcomes
# ----------------------------------------------------------------------------------------------------------------------


def made_up(task, correct, people, rows):
    right = np.array([correct], dtype=bool)
    return ProbeResult(
        task=task,
        layers=("final",),
        correct=right,
        entities=np.array(people),
        rows=np.array(rows),
        controls=dict.fromkeys(ACCURACIES, ~right),
    )


def test_outcomes_are_by_person():
    results = {
        "first": made_up("first", [1, 0, 0, 1], [5, 3, 5, 3], [0, 1, 2, 3]),
        "second": made_up("second", [0, 1], [3, 5], [1, 2]),
    }
    asked = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=bool)
    found = outcomes(results, asked)
    assert set(found) == {PROBE, *ACCURACIES}
    assert found[PROBE].tolist() == [[False, False], [True, True]]
    assert found["majority"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("asked", [[[1, 0], [0, 1], [1, 0], [0, 0]], [[0, 0]] * 4])
def test_unequal_numbers_of_outcomes_are_refused(asked):
    results = {name: made_up(name, [1, 0, 0, 1], [5, 3, 5, 3], [0, 1, 2, 3]) for name in ("first", "second")}
    with pytest.raises(ValueError, match="asked must choose equally many places of every held-out person, got"):
        outcomes(results, np.array(asked, dtype=bool))


# ----------------------------------------------------------------------------------------------------------------------
# Measures on a model
# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A world of two facts, and a model that has read it often."""
    world = world_of("single+permute1", SMALL)
    model = model_of(world)
    stream = PackedStream([Source(world, "biographies")], context=64, batch_size=4, key=KEY)
    train(model, stream, Recipe(steps=120, learning_rate=1e-2), log_every=120)
    return world, model.eval()


def test_probes_of_positions_have_controls_and_no_shared_people(trained):
    world, model = trained
    found = probe_positions(model, model_of(world), world, SMOKE.positions, KEY)
    assert set(found) == {"first"}
    assert set(found["first"]) == {"tasks", "cells", "before", "start"}
    for name, told in found["first"]["tasks"].items():
        assert told["shared entities"] == 0
        cells = found["first"]["cells"][name]
        assert set(cells) == {PROBE, *ACCURACIES}
        assert all(0 <= value <= 1 for row in cells.values() for value in row)
    held_out = len(halves(world)["test"])
    for place in ("before", "start"):
        assert {right.dtype for right in found["first"][place].values()} == {np.dtype(bool)}
    assert found["first"]["before"][PROBE].shape == (held_out, 2)
    assert found["first"]["start"][PROBE].shape == (held_out, 1)


def test_the_embedding_of_the_last_token_says_nothing_of_a_name(trained):
    world, model = trained
    found = probe_names(model, model_of(world), world, SMOKE.names, KEY)["first"]
    held_out = halves(world)["test"]
    for name, told in found["tasks"].items():
        # Every name ends with the same token: its probe has one answer for everybody.
        of_one_answer = np.unique(values_of(world)["first"][name][held_out], return_counts=True)[1] / len(held_out)
        assert np.isclose([0, *of_one_answer], told["layers"]["final"]["embedding layer"]).any()
    assert found["outcomes"][PROBE].shape == (len(halves(world)["test"]), 2)


def test_layers_are_read_at_the_end_of_the_name(trained):
    world, model = trained
    found = probe_layers(model, model_of(world), world, ProbeTraining(steps=5), KEY)
    assert list(found) == ["bcity", "cname"]
    assert list(found["bcity"]["layers"]) == ["embed", "block.0.resid_post", "block.1.resid_post"]


def test_what_is_lost_is_measured_from_what_the_model_says(trained):
    world, model = trained
    training = ProbeTraining(steps=20)
    found = remove_from_names(model, world, training, rank=2, texts=100, controls=3, key=KEY)
    assert set(found) == {"0"}
    texts, first = Biographies.of(world), values_of(world)["first"]
    for column, (name, row) in enumerate(found["0"].items()):
        is_asked = (texts.position == 0) & (texts.ahead[:, column] == 0) & ~taught(world, texts.people)
        chosen = texts.places.subset(is_asked)
        prompts = [
            texts.places.samples.document(document)[0][: position + 1].astype(np.int64)
            for document, position in zip(chosen.documents, chosen.positions, strict=True)
        ]
        answers = [np.array([first[name][person]], dtype=np.int64) for person in texts.people[is_asked]]
        expected = np.mean([value[0] for value in score(model, prompts, answers)])
        assert row["texts"] == len(prompts)
        assert row["before"] == pytest.approx(expected, abs=1e-4)
        assert len(row["random effects"]) == 3
        assert row["effect"] != row["other effect"] != 0


def test_no_more_directions_are_taken_out_than_tell_values_apart(trained):
    world, model = trained
    most = max(len(np.unique(known)) for known in values_of(world)["first"].values()) - 1
    one, few, many = (
        remove_from_names(model, world, ProbeTraining(steps=20), rank=rank, texts=100, controls=1, key=KEY)["0"]
        for rank in (1, most, 10 * most)
    )
    assert few == many
    assert all(one[name]["before"] == few[name]["before"] for name in one)
    assert all(one[name]["effect"] != few[name]["effect"] for name in one)


# ----------------------------------------------------------------------------------------------------------------------
# The smoke scale
# ----------------------------------------------------------------------------------------------------------------------


def test_runs_have_what_the_claims_read(runs):
    found = EXPERIMENT.claims("smoke", SMOKE)
    assert [claim.id for claim in found] == ["BIO-11", "BIO-13", "BIO-14", "BIO-14-used", "BIO-18"]
    for claim in found:
        assert set(claim.conditions) <= set(runs)
        for predicate in (*claim.predicates, *claim.requires):
            measured = predicate.measure(runs)
            assert math.isfinite(getattr(measured, "value", measured)), predicate.name


def test_conditions_ask_about_the_same_people(runs):
    people = SMOKE.biographies.world.people // 2
    for name, run in runs.items():
        if name.startswith("names/"):
            assert run.outcomes(f"names.first.outcomes.{PROBE}").shape == run.outcomes("questions_test.items").shape
        if name.startswith(("celebrities/", "alone/")):
            assert run.outcomes(f"positions.first.start.{PROBE}").shape == (people, 5)
    seconds, entries = 3, 5
    couples = runs["positions/couple5"]
    assert list(couples.at("positions.first.tasks")) == ["bcity", "major", "ccity"]
    for place, count in (("start", 3), ("others", 6), ("partner", seconds)):
        assert couples.outcomes(f"positions.first.{place}.{PROBE}").shape == (people, count * entries)


def test_a_table_of_a_fixed_order_is_triangular(runs):
    for number, row in enumerate(measures.cells(runs["positions/single"]).values()):
        assert np.isfinite(row).tolist() == [position <= number for position in range(6)]
    for row in measures.cells(runs["positions/multi5+permute"]).values():
        assert np.isfinite(row).all()


def test_everything_is_drawn(runs, tmp_path):
    results = Results(
        title=EXPERIMENT.title,
        scale="smoke",
        seeds=(211,),
        runs={(name, 211): run for name, run in runs.items()},
        verdicts=(),
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    read = sum("positions" in run for run in runs.values())
    answered = sum("questions_test" in run for run in runs.values())
    assert len(set(drawn)) == read + answered + 3
    assert all(path.stat().st_size > 5000 for path in drawn)
    none = Results(title="", scale="smoke", seeds=(211,), runs={}, verdicts=())
    assert EXPERIMENT.plots(none, tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# Claims on made-up numbers
# ----------------------------------------------------------------------------------------------------------------------


def shares(*rates, people=100):
    """Outcomes `[people, rates]` with these shares of right answers."""
    return pack_items(np.arange(people)[:, None] < np.round(np.array(rates) * people))


def positions_run(*, recall=1.0, **places):
    """A run of P-probing: by place, the accuracy of the probe and of every control."""
    told = {
        place: {PROBE: shares(right), **{name: shares(control) for name in ACCURACIES}}
        for place, (right, control) in places.items()
    }
    return RunMetrics(recall_train=1.0, recall_test=recall, positions={"first": told})


def names_run(read, answered, *, untrained=(0.02, 0.02), recall=1.0, **metrics):
    """A run of Q-probing: accuracies by attribute of the probe, of answers, and of the untrained model."""
    told = {PROBE: shares(*read), **{name: shares(*untrained) for name in ACCURACIES}}
    first = {"outcomes": told}
    return RunMetrics(
        recall_train=1.0,
        recall_test=recall,
        names={"first": first},
        questions_test={"items": shares(*answered)},
        **metrics,
    )


def verdict(identity, made, scale="cpu"):
    (claim,) = (c for c in claims(scale, EXPERIMENT.presets[scale]) if c.id == identity)
    return evaluate(claim, dict.fromkeys(range(3), made))


def test_facts_told_once_are_not_at_the_name():
    often = positions_run(start=(0.8, 0.02), before=(0.95, 0.02))
    once = positions_run(start=(0.03, 0.02), before=(0.95, 0.02))
    made = {"positions/multi5+permute": often, "positions/single": once}
    assert verdict("BIO-11", made).verdict == "supported"
    everywhere = positions_run(start=(0.8, 0.02), before=(0.95, 0.02))
    assert verdict("BIO-11", made | {"positions/single": everywhere}).verdict == "refuted"
    # A probe that does as well on the untrained model, or with labels of first names, says nothing.
    assert verdict("BIO-11", made | {"positions/multi5+permute": positions_run(start=(0.8, 0.75))}).verdict == "refuted"
    forgotten = positions_run(start=(0.03, 0.02), before=(0.95, 0.02), recall=0.9)
    assert verdict("BIO-11", made | {"positions/single": forgotten}).verdict == "inconclusive"


def test_the_second_of_a_pair_hangs_on_the_first():
    once = positions_run(start=(0.1, 0.02), others=(0.1, 0.02), partner=(0.95, 0.02))
    often = positions_run(start=(0.6, 0.02), others=(0.62, 0.02), partner=(0.95, 0.02))
    made = {"positions/couple1": once, "positions/couple5": often}
    assert verdict("BIO-13", made).verdict == "supported"
    helped = positions_run(start=(0.3, 0.02), others=(0.6, 0.02), partner=(0.95, 0.02))
    assert verdict("BIO-13", made | {"positions/couple5": helped}).verdict == "refuted"


def test_probing_predicts_extraction_or_does_not():
    names = [f"names/{variant}" for variant in EXPERIMENT.presets["cpu"].biographies.variants]
    rates = [(0.05, 0.1), (0.03, 0.02), (0.4, 0.1), (0.2, 0.1), (0.9, 0.8)]
    made = {name: names_run(rate, rate, untrained=(0.02, 0.02)) for name, rate in zip(names, rates, strict=True)}
    assert measures.agreement(tuple(names))(made) == pytest.approx(1)
    assert measures.agreement(tuple(names), "untrained model")(made) == 0
    assert verdict("BIO-14", made).verdict == "supported"
    other = {name: names_run(r, s) for name, r, s in zip(names, rates, rates[::-1], strict=True)}
    assert verdict("BIO-14", other).verdict == "refuted"


def used_run(effect, other, *, trained=0.6):
    row = {"effect": effect, "other effect": other, "random effects": [0.1, 0.2]}
    task = {"layers": {"block.1.resid_post": {"accuracy": trained, "untrained model": 0.02}}}
    return names_run(
        (0.5, 0.5),
        (0.5, 0.5),
        layers={"date": task, "bcity": task},
        removed={"0": {"date": {}, "bcity": {}}, "1": {"date": row, "bcity": row}},
    )


def test_what_is_read_is_used_or_is_not():
    name = "names/multi5+permute"
    assert verdict("BIO-14-used", {name: used_run(1.0, 0.3)}).verdict == "supported"
    assert verdict("BIO-14-used", {name: used_run(0.16, 0.1)}).verdict == "refuted"
    assert verdict("BIO-14-used", {name: used_run(1.0, 1.2)}).verdict == "refuted"
    # Where nothing can be read, that it is not used says nothing.
    assert verdict("BIO-14-used", {name: used_run(0.16, 0.1, trained=0.05)}).verdict == "inconclusive"


def test_celebrities_bring_facts_to_names():
    def minority(start, name):
        return positions_run(start=(start, 0.02)) | names_run((name, name), (0.0, 0.0))

    made = {"celebrities/single+permute1": minority(0.5, 0.6), "alone/single+permute1": minority(0.05, 0.03)}
    made = {name: RunMetrics(run) for name, run in made.items()}
    assert verdict("BIO-18", made).verdict == "supported"
    alike = {name: RunMetrics(minority(0.4, 0.4)) for name in made}
    assert verdict("BIO-18", alike).verdict == "refuted"


def test_whole_values_are_claimed_where_there_are_any():
    at = {scale: [claim.id for claim in claims(scale, EXPERIMENT.presets[scale])] for scale in EXPERIMENT.presets}
    assert "BIO-12" in at["gpu"]
    assert "BIO-12" in at["paper"]
    assert "BIO-12" not in at["cpu"]

    def run(whole):
        cells = {
            "first": {"cells": {"univ": {PROBE: [0.99, 1.0]}, "date": {PROBE: [1.0, None]}}},
            "whole": {"cells": {"univ": {PROBE: [whole, 1.0]}}},
        }
        return RunMetrics(recall_train=1.0, recall_test=1.0, positions=cells)

    made = {"positions/multi5+permute": run(0.9), "positions/single": run(0.02)}
    assert verdict("BIO-12", made, "gpu").verdict == "supported"
    assert verdict("BIO-12", made | {"positions/multi5+permute": run(0.6)}, "gpu").verdict == "refuted"


def test_committed_seeds_are_no_development_seeds():
    assert EXPERIMENT.seeds["cpu"] == (211, 212, 213, 214, 215)
    assert EXPERIMENT.development_seeds == frozenset(range(1, 21))
    assert set(EXPERIMENT.core) <= {claim.id for claim in claims("cpu", EXPERIMENT.presets["cpu"])}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("removed_rank", 0, "removed_rank must be ≥ 1, got 0"),
        ("removed_texts", 0, "removed_texts must be ≥ 1, got 0"),
        ("random_directions", -1, "random_directions must be ≥ 1, got -1"),
        ("couples", ("couple1", "single"), "couples must be among couple1, couple2, couple5, got 'single'"),
    ],
)
def test_bad_presets_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(SMOKE, **{field: value})


def test_the_model_is_left_alone(trained):
    world, model = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe_names(model, model_of(world), world, SMOKE.names, KEY)
    remove_from_names(model, world, ProbeTraining(steps=5), rank=1, texts=5, controls=1, key=KEY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
