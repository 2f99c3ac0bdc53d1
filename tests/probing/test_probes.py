import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from physlm.data.streams import IGNORE
from physlm.probing.heads import LinearHeads, ProbeTraining, Standardise, Tasks, shuffled_batches
from physlm.probing.linear import LinearProbe, LinearProbes
from physlm.probing.states import FileArray, States
from physlm.randomness import Key

KEY = Key.of("probes", 0)
SHORT = ProbeTraining(steps=40, batch_size=64)


def generator(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=number))


def planted(count: int = 1500, width: int = 16, classes: int = 5, layers: int = 3, scale: float = 4.0):
    """States of which all layers but the first hold the label along random directions."""
    draw = generator(3)
    labels = draw.integers(0, classes, count)
    states = draw.normal(size=(count, layers, width)) * np.array([0.01, 1.0, 30.0])[:layers, None]
    directions = np.linalg.qr(draw.normal(size=(width, width)))[0][:classes]
    for layer in range(1, layers):
        states[:, layer] += scale * [0.01, 1.0, 30.0][layer] * directions[labels]
    return States([f"layer {i}" for i in range(layers)], states.astype(np.float32)), labels


def halves(count):
    return slice(0, count // 2), slice(count // 2, count)


def test_a_planted_feature_is_found_whatever_the_scale_of_the_layer():
    states, labels = planted(scale=8.0)
    fitted, held_out = halves(len(states))
    probes = LinearProbes(ProbeTraining(steps=400), key=KEY).fit(states.subset(fitted), {"x": labels[fitted]})
    score = probes.score(states.subset(held_out), {"x": labels[held_out]})["x"]
    assert (score[1:] >= 0.99).all()
    assert score[0] < 0.3


def test_the_surface_of_scikit_learn():
    states, labels = planted()
    array, names = states[:][:, 1], labels * 10 - 3
    probe = LinearProbe(SHORT, key=KEY).fit(array, names)
    np.testing.assert_array_equal(probe.classes_, np.unique(names))
    probabilities = probe.predict_proba(array)
    assert probabilities.shape == (len(array), 5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probe.predict(array), probe.classes_[probabilities.argmax(1)])
    assert probe.score(array, names) == pytest.approx((probe.predict(array) == names).mean())
    with pytest.raises(ValueError, match="not fitted"):
        _ = LinearProbe(SHORT, key=KEY).classes_


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_all_layers_and_tasks_at_once_are_each_alone(norm):
    states, labels = planted(600)
    tasks = {
        "all": labels,
        "some": np.where(np.arange(600) % 3 == 0, labels % 2, IGNORE),
        "alike": generator(9).integers(0, 5, 600),
    }
    together = LinearProbes(SHORT, norm=norm, key=KEY).fit(states, tasks)
    proba = together.predict_proba(states)
    for number, layer in enumerate(states.layers):
        for name in ("all", "alike"):
            alone = LinearProbes(SHORT, norm=norm, key=KEY).fit(states.only([layer]), {name: tasks[name]})
            ours = alone.predict_proba(states.only([layer]))[name][0]
            np.testing.assert_allclose(proba[name][number], ours, atol=2e-4)
    # A task that is asked at some places only is fitted to these.
    assert set(together.classes_["some"]) == {0, 1}
    single = LinearProbes(SHORT, norm=norm, key=KEY).fit(states.only(["layer 1"]), tasks)
    np.testing.assert_allclose(proba["some"][1], single.predict_proba(states.only(["layer 1"]))["some"][0], atol=2e-4)


def test_states_in_a_file_give_the_probe_of_states_in_memory(tmp_path):
    states, labels = planted(600)
    file = FileArray((600, 3, 16), np.float32, tmp_path)
    file[:] = states[:]
    rows = np.flatnonzero(labels != 4)
    fits = [
        LinearProbes(SHORT, key=KEY).fit(held.subset(rows), {"x": labels[rows]})
        for held in (states, States(states.layers, file))
    ]
    first, second = (fit.predict_proba(states)["x"] for fit in fits)
    np.testing.assert_array_equal(first, second)


def test_a_probe_depends_on_its_key_alone_and_moves_no_global_state():
    states, labels = planted(300)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, again, other = (
        LinearProbes(SHORT, key=key).fit(states, {"x": labels}).predict_proba(states)["x"]
        for key in (KEY, KEY, Key.of("other"))
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


def test_loss_is_that_of_each_task_alone():
    labels = {
        "a": np.array([0, 1, IGNORE, 2]),
        "b": np.array([5, IGNORE, IGNORE, 9]),
        "c": np.array([2, 1, 0, IGNORE]),
        "d": np.array([1, 0, 0, 1]),
    }
    tasks = Tasks(labels)
    codes = torch.from_numpy(tasks.encode(labels))
    logits = torch.randn(2, 4, tasks.outputs, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(())
    for number, name in enumerate(tasks.names):
        for layer in logits:
            own = layer[:, tasks.columns[name]]
            expected = expected + F.cross_entropy(own, codes[:, number], ignore_index=IGNORE)
    torch.testing.assert_close(tasks.loss(logits, codes), expected)
    assert tasks.outputs == 3 + 2 + 3 + 2


def test_classes_may_count_alike():
    labels = {"a": np.array([0, 0, 0, 1, IGNORE, 1]), "b": np.array([2, 1, 1, 1, 0, IGNORE])}
    tasks = Tasks(labels, {"a": np.array([0, 1, 7]), "b": np.arange(3)}, balanced=True)
    codes = torch.from_numpy(tasks.encode(labels))
    logits = torch.randn(2, 6, tasks.outputs, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(())
    weights = {"a": [5 / 6, 5 / 4, 0.0], "b": [5 / 3, 5 / 9, 5 / 3]}
    for number, name in enumerate(tasks.names):
        for layer in logits:
            own, weight = layer[:, tasks.columns[name]], torch.tensor(weights[name])
            losses = F.cross_entropy(own, codes[:, number], weight, ignore_index=IGNORE, reduction="none")
            expected = expected + losses.sum() / 5
    torch.testing.assert_close(tasks.loss(logits, codes), expected)


def test_labels_that_were_never_seen_are_never_right():
    states, labels = planted(300)
    probes = LinearProbes(SHORT, key=KEY).fit(states, {"x": labels})
    assert not probes.correct(states, {"x": labels + 100})["x"].any()
    ignored = probes.correct(states, {"x": np.full(300, IGNORE)})["x"]
    assert not ignored.any()


def test_bits_are_those_of_the_probabilities():
    states, labels = planted(300)
    asked = np.where(np.arange(300) % 2, labels, IGNORE)
    probes = LinearProbes(SHORT, key=KEY).fit(states, {"x": asked})
    chances = probes.predict_proba(states)["x"][:, asked != IGNORE]
    own = np.take_along_axis(chances, asked[asked != IGNORE][None, :, None], axis=2)
    np.testing.assert_allclose(probes.bits(states, {"x": asked})["x"], -np.log2(own).sum((1, 2)), rtol=1e-4)
    mixed = -np.log2(0.9 * own + 0.1 / 5).sum((1, 2))
    np.testing.assert_allclose(probes.bits(states, {"x": asked}, smoothing=0.1)["x"], mixed, rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_without_its_directions_the_probe_tells_nothing_apart(norm):
    states, labels = planted(600)
    probes = LinearProbes(SHORT, norm=norm, key=KEY).fit(states, {"x": labels})
    basis = probes.directions("x", "layer 1").numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-5)
    removed = states[:].copy()
    removed[:, 1] -= removed[:, 1] @ basis.T @ basis
    logits = np.log(probes.predict_proba(States(states.layers, removed))["x"][1])
    np.testing.assert_allclose(logits, logits[:1].repeat(600, axis=0), atol=1e-3)
    first = probes.directions("x", "layer 1", rank=1).numpy()
    np.testing.assert_allclose(np.abs(first @ basis[:1].T), 1, atol=1e-5)
    with pytest.raises(ValueError, match=r"rank must be in 1\.\.4"):
        probes.directions("x", "layer 1", rank=5)


def test_standardised_over_blocks_as_over_all():
    values = generator(4).normal(1000.0, 3.0, (500, 2, 6)).astype(np.float32)
    values[:, :, 0] = 7.0
    whole = Standardise([values])
    parts = Standardise([values[:100], values[100:130], values[130:]])
    states = torch.from_numpy(values)
    torch.testing.assert_close(whole(states), parts(states), atol=1e-4, rtol=0)
    assert not parts(states)[..., 0].any()
    torch.testing.assert_close(parts(states)[..., 1:].std(0, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)
    torch.testing.assert_close(parts(states).mean(0), torch.zeros(2, 6), atol=1e-3, rtol=0)


def test_every_number_comes_once_before_any_comes_again():
    batches = shuffled_batches(10, 4, KEY)
    numbers = np.concatenate([next(batches) for _ in range(10)])
    for start in range(0, 40, 10):
        assert sorted(numbers[start : start + 10]) == list(range(10))
    assert len(next(shuffled_batches(3, 8, KEY))) == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "at least 1 task"),
        ({"x": np.full(4, IGNORE)}, "ask every task somewhere"),
        ({"x": np.zeros(4)}, "whole numbers, got float64"),
        ({"x": np.zeros(4, int), "y": np.zeros(3, int)}, "of one length"),
        ({"x": np.zeros(3, int)}, r"labels must be \[4\]"),
    ],
)
def test_labels_are_checked(labels, message):
    with pytest.raises(ValueError, match=message):
        LinearProbes(SHORT, key=KEY).fit(States.of(np.zeros((4, 2))), labels)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size must be ≥ 1, got 0"):
        ProbeTraining(batch_size=0)
    with pytest.raises(ValueError, match="steps must be an integer ≥ 1, got 0"):
        ProbeTraining(steps=0)
    with pytest.raises(ValueError, match="norm must be one of batch, layer, none, got 'rms'"):
        LinearProbes(norm="rms", key=KEY)


def test_heads_start_without_an_opinion():
    assert not LinearHeads(2, 4, 3)(torch.ones(2, 5, 4)).any()
