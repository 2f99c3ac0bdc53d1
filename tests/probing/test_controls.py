import json

import numpy as np
import pytest

from physlm.data.streams import IGNORE
from physlm.lab.statistics import wilson_interval
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.controls import control_labels, evaluate, evaluate_states, shuffle_labels, split_entities
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.probing.linear import LinearProbes
from physlm.probing.probes import Probing
from physlm.probing.results import ACCURACIES, REQUIRED, MissingControlError, ProbeResult, clustered_interval
from physlm.probing.states import States, read_states
from physlm.randomness import Key
from physlm.worlds.bios import BiographyConfig, BiographyWorld

KEY = Key.of("controls", 0)
TRAINING = ProbeTraining(steps=300)
COUNT, CLASSES, WIDTH = 3000, 4, 16


def generator(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=number))


@pytest.fixture(scope="module")
def results():
    """A feature that the second layer holds and one that is nowhere; ten places for each entity."""
    draw = generator(1)
    entities = np.repeat(np.arange(COUNT // 10), 10)
    labels = {
        "planted": draw.integers(0, CLASSES, COUNT),
        "absent": draw.choice(CLASSES, COUNT, p=[0.4, 0.3, 0.2, 0.1]),
    }
    states, untrained = draw.normal(size=(2, COUNT, 2, WIDTH)).astype(np.float32)
    states[:, 1, :CLASSES] += 8 * np.eye(CLASSES, dtype=np.float32)[labels["planted"]]
    labels["planted"] = np.where(np.arange(COUNT) % 5 == 0, IGNORE, labels["planted"])
    found = evaluate_states(
        States(["embed", "deep"], states),
        labels,
        entities=entities,
        types=draw.integers(0, 800, COUNT),
        untrained=States(["embed", "deep"], untrained),
        training=TRAINING,
        key=KEY,
    )
    return found, labels, entities


def test_a_planted_feature_is_found_and_no_control_finds_it(results):
    found, labels, _ = results
    result = found["planted"]
    chance = np.bincount(labels["planted"][labels["planted"] >= 0]).max() / (labels["planted"] >= 0).sum()
    assert result.accuracy[1] >= 0.99
    for name in ACCURACIES:
        assert result.control(name)[1] == pytest.approx(chance, abs=0.06), name
    assert result.selectivity[1] > 0.7
    assert (labels["planted"][result.rows] != IGNORE).all()
    lengths = result.description
    assert lengths.uniform == pytest.approx(2 * lengths.labels)
    assert lengths.online[1] < 0.3 * lengths.uniform
    # Without a feature, nothing is saved over the entropy of the labels.
    assert lengths.online[0] > lengths.prior
    assert lengths.shuffled[1] > 0.95 * lengths.prior


def test_an_absent_feature_is_within_the_interval_of_chance_and_of_every_control(results):
    result = results[0]["absent"]
    for layer, interval in enumerate(result.intervals):
        for name in ACCURACIES:
            control = np.broadcast_to(result.controls[name], result.correct.shape)[layer]
            other = clustered_interval(control, result.entities)
            assert interval.low <= other.high, name
            assert other.low <= interval.high, name
    assert result.description.compression.max() < 1.15


def test_one_shuffling_is_a_lottery_where_states_are_clusters_and_the_mean_of_several_is_not():
    labels = generator(5).integers(0, 2, 120)
    states = States(["deep"], np.eye(2, dtype=np.float32)[labels][:, None])

    def control(number: int, shuffles: int) -> float:
        found = evaluate_states(
            states,
            {"cluster": labels},
            entities=np.arange(120),
            key=Key.of("lottery", number),
            embedding=None,
            training=ProbeTraining(steps=100),
            portions=None,
            shuffles=shuffles,
        )
        return found["cluster"].control("shuffled labels")[0]

    single = np.array([control(number, 1) for number in range(12)])
    several = np.array([control(number, 8) for number in range(12)])
    assert single.std() > 0.25  # all right, all wrong, or one cluster of two
    assert several.std() < 0.6 * single.std()
    assert several.mean() == pytest.approx(0.5, abs=0.15)
    with pytest.raises(MissingControlError, match="no control 'shuffled labels'"):
        control(0, 0)
    with pytest.raises(ValueError, match="shuffles must be ≥ 0, got -1"):
        control(0, -1)


def test_no_entity_is_on_both_sides(results):
    found, _, entities = results
    held_out = np.unique(found["absent"].entities)
    assert found["absent"].shared_entities == 0
    assert len(held_out) == COUNT // 20
    np.testing.assert_array_equal(found["absent"].rows, np.flatnonzero(np.isin(entities, held_out)))


def test_a_result_is_told_with_everything(results):
    result = results[0]["planted"]
    text = str(result)
    assert all(name in text for name in (*ACCURACIES, "selectivity", "95 % interval"))
    told = json.loads(result.to_json())
    assert told["layers"]["deep"]["accuracy"] == result.accuracy[1]
    assert set(ACCURACIES) < set(told["layers"]["deep"])
    assert told["shared entities"] == 0
    assert "with all controls" in repr(result)


@pytest.mark.parametrize("missing", REQUIRED)
def test_without_a_control_a_result_is_not_told(results, missing):
    whole = results[0]["planted"]
    there = {
        "controls": {name: right for name, right in whole.controls.items() if name != missing},
        "shared_entities": None if missing == "disjoint entities" else 0,
        "description": None if missing == "description length" else whole.description,
    }
    fields = {name: getattr(whole, name) for name in ("task", "layers", "correct", "entities", "rows")}
    result = ProbeResult(**fields, **there)
    assert result.missing == (missing,)
    for tell in (str, ProbeResult.to_text, ProbeResult.to_dict, ProbeResult.to_json, "{}".format):
        with pytest.raises(MissingControlError, match=f"missing: {missing}"):
            tell(result)
    assert missing in repr(result)
    assert f"{100 * result.accuracy[1]:.1f}" not in repr(result)


def test_groups_of_places_come_with_their_controls(results):
    result = results[0]["planted"]
    groups = result.rows % 3
    parts = result.by(groups)
    assert sorted(parts) == [0, 1, 2]
    for group, part in parts.items():
        np.testing.assert_array_equal(part.correct, result.correct[:, groups == group])
        np.testing.assert_allclose(
            part.control("untrained model"), result.controls["untrained model"][:, groups == group].mean(1)
        )
        assert not part.missing
    with pytest.raises(ValueError, match="one for each held-out place"):
        result.by(groups[1:])


def test_what_was_not_measured_is_missing():
    states = States.of({"only": generator(2).normal(size=(60, 3))})
    labels = {"x": np.arange(60) % 2}
    (result,) = evaluate_states(
        states, labels, entities=np.arange(60), embedding=None, portions=None, training=TRAINING, key=KEY
    ).values()
    assert result.missing == ("untrained model", "embedding layer", "control task", "description length")


def test_a_split_that_shares_entities_is_refused():
    states = States.of(generator(2).normal(size=(60, 3)))
    labels, entities = {"x": np.arange(60) % 2}, np.arange(60) // 2
    with pytest.raises(ValueError, match="different entities, got 30 on both sides"):
        evaluate_states(states, labels, entities=entities, embedding=None, fitted=np.arange(60) % 2 == 0, key=KEY)
    with pytest.raises(ValueError, match="embedding must be one of the layers states, got 'embed'"):
        evaluate_states(states, labels, entities=entities, training=ProbeTraining(steps=1), portions=None, key=KEY)
    with pytest.raises(ValueError, match="entities on both sides"):
        split_entities(np.zeros(10, dtype=int), KEY)
    with pytest.raises(ValueError, match=r"entities must be \[60\]"):
        evaluate_states(states, labels, entities=entities[1:], key=KEY)


def test_shuffled_labels_are_the_same_labels_elsewhere():
    labels = np.where(np.arange(100) % 4 == 0, IGNORE, np.arange(100))
    among = np.arange(100) < 60
    mixed = shuffle_labels(labels, among, KEY)
    np.testing.assert_array_equal(np.sort(mixed), np.sort(labels))
    np.testing.assert_array_equal(mixed[60:], labels[60:])
    np.testing.assert_array_equal(mixed == IGNORE, labels == IGNORE)
    assert (mixed[:60] != labels[:60]).sum() > 30


def test_a_control_task_has_one_label_for_each_type_and_the_prior_of_labels():
    draw = generator(5)
    types, labels = draw.integers(0, 2000, 6000), draw.choice(3, 6000, p=[0.6, 0.3, 0.1])
    control = control_labels(labels, types, labels, KEY)
    for kind in range(50):
        assert len(set(control[types == kind])) <= 1
    shares = np.bincount(control, minlength=3) / 6000
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.06)
    # The label of a type does not depend on what else there is.
    np.testing.assert_array_equal(control_labels(labels[:9], types[:9], labels, KEY), control[:9])


def test_one_answer_for_each_entity_is_wilson_and_copies_add_nothing():
    correct = generator(6).random(200) < 0.7
    alone = clustered_interval(correct, np.arange(200))
    expected = wilson_interval(correct.sum(), 200)
    assert (alone.low, alone.high) == pytest.approx((expected.low, expected.high))
    copied = clustered_interval(np.repeat(correct, 5), np.repeat(np.arange(200), 5))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=2e-3)


def test_one_large_entity_is_one_answer():
    """Nine tenths of the answers are about one person: they say little about others, however many there are."""
    entities = np.concatenate([np.zeros(900, dtype=np.int64), np.arange(1, 101)])
    correct = np.concatenate([np.ones(900, dtype=np.bool_), generator(7).random(100) < 0.5])
    interval = clustered_interval(correct, entities)
    equal = clustered_interval(correct, np.arange(1000) % 101)
    assert interval.high - interval.low > 4 * (equal.high - equal.low)


def test_a_model_is_probed_from_world_to_table():
    world = BiographyWorld(BiographyConfig(seed=0, people=120))
    samples = world.render("biographies", np.arange(120))
    places = Inputs.where(samples, samples.marks["value_position"] == 0).moved(-1)
    attribute = samples.marks["attribute"][places.places + 1]
    config = TransformerConfig(vocab_size=world.vocab_size, context=128, layers=1, heads=2, width=16)
    states, untrained = (read_states(Transformer(config, seed=seed), places) for seed in (0, 1))
    result = evaluate_states(
        states,
        {"attribute": attribute},
        entities=places.mark("person"),
        types=places.tokens,
        untrained=untrained,
        training=ProbeTraining(steps=60),
        portions=(0.1, 0.5),
        key=KEY,
    )["attribute"]
    assert not result.missing
    assert "embed" in str(result)


def test_controls_may_be_probes_of_their_own():
    states, labels = States.of(generator(2).normal(size=(80, 3))), {"x": np.arange(80) % 2}
    probing = Probing(lambda: LinearProbes(ProbeTraining(steps=5), key=KEY), states)
    entities = np.arange(80)
    result = evaluate(
        probing,
        labels,
        entities=entities,
        types=entities,
        untrained=probing,
        embedding=probing,
        portions=(0.5,),
        key=KEY,
    )["x"]
    assert not result.missing
    np.testing.assert_array_equal(result.controls["untrained model"], result.correct)


def test_the_online_code_may_have_a_probe_of_its_own():
    states, labels = States.of(generator(2).normal(size=(80, 3))), {"x": np.arange(80) % 2}

    def make(steps):
        return lambda: LinearProbes(ProbeTraining(steps=steps), key=KEY)

    def bits(*made):
        probing = Probing(make(made[0]), states, *(make(steps) for steps in made[1:]))
        result = evaluate(probing, labels, entities=np.arange(80), portions=(0.5,), key=KEY)["x"]
        return result.description.online.tolist()

    assert bits(5, 300) == bits(300)
    assert bits(5, 300) != bits(5)
