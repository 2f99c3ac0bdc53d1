from dataclasses import replace

import numpy as np
import pytest

from experiments import _memberships as memberships
from experiments._grammar_measures import in_language, mean_divergence, predictions
from experiments._grammar_texts import ShownGrammar
from experiments._grammars import make_world, test_sentences
from experiments._heatmaps import heatmap
from experiments.cfg_implicit import EXPERIMENT, NOTHING, PRESETS, divergences, name_of, shuffled, unigram
from physlm.lab import Results, Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.inference import Parser

SMOKE = PRESETS["smoke"]


def small_world(**options):
    return make_world(CFGConfig(seed=1, grammar="cfg3b", root="10", implicit=Implicit(**options)))


@pytest.mark.parametrize("weights", ["uniform", "linear"])
@pytest.mark.parametrize("bags", ["overlap", "disjoint"])
def test_the_next_token_is_exact_whatever_is_shown(bags, weights):
    world = small_world(observables=8, bags=bags, weights=weights)
    text = ShownGrammar(Parser(world.grammar), world.bags.probabilities)
    every_sentence = {tuple(one.tolist()) for one in explicit_sentences()}
    parser = Parser(world.grammar)
    chances = {one: 2.0 ** parser.log2_probabilities([one])[0] for one in every_sentence}
    assert sum(chances.values()) == pytest.approx(1)
    for seen in world.sentences("test", np.arange(6)):
        got = text.next_token(seen)
        np.testing.assert_allclose(got.sum(axis=1), 1)
        expected = sum(
            chance * np.prod(world.bags.probabilities[np.array(one) - 1, seen - 1])
            for one, chance in chances.items()
            if len(one) == len(seen)
        )
        told = np.prod([got[k, token - 1] for k, token in enumerate((*seen, world.eos))])
        assert told == pytest.approx(expected, rel=1e-9)


def explicit_sentences():
    return make_world(CFGConfig(seed=1, grammar="cfg3b", root="10")).sentences("train", np.arange(400))


def test_predictions_of_long_lists_and_short_ones_agree():
    world = make_world(SMOKE.world_config(1, SMOKE.ways[0]))
    model, sentences = Transformer(SMOKE.training.config(world.vocab_size), seed=0), test_sentences(world, 5)
    together = list(predictions(model, world, sentences))
    for sentence, logs in zip(sentences, together, strict=True):
        assert logs.shape == (len(sentence) + 1, world.alphabet_size + 1)
        np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1)
        (alone,) = predictions(model, world, [sentence])
        np.testing.assert_allclose(logs, alone, atol=1e-6)


def test_contrasts_are_those_of_a_loop():
    bags = Implicit(observables=24, bags="overlap").make(Key.of("bags"), 3)
    correlation = np.corrcoef(np.random.Generator(np.random.Philox(1)).normal(size=(24, 10)))
    expected = []
    for v, pattern in enumerate(bags.patterns):
        others = [w for w in range(24) if w != v and int(bags.patterns[w]).bit_count() == int(pattern).bit_count()]
        same = [correlation[v, w] for w in others if bags.patterns[w] == pattern]
        different = [correlation[v, w] for w in others if bags.patterns[w] != pattern]
        if pattern and same and different:
            expected.append(np.mean(same) - np.mean(different))
    assert len(expected) > 10
    np.testing.assert_allclose(memberships.contrasts(correlation, bags.membership), expected)


def test_contrasts_see_bags_and_not_how_many():
    bags = Implicit(observables=60, bags="overlap").make(Key.of("bags"), 3)
    by_membership = (bags.patterns[:, None] == bags.patterns).astype(float)
    counts = bags.membership.sum(axis=0)
    by_frequency = (counts[:, None] == counts).astype(float)
    np.testing.assert_allclose(memberships.contrasts(by_membership, bags.membership), 1)
    np.testing.assert_allclose(memberships.contrasts(by_frequency, bags.membership), 0, atol=1e-12)
    key = Key.of("shuffles")
    assert np.quantile(memberships.shuffled_contrasts(by_membership, bags.membership, key), 0.95) < 0.25
    noise = np.corrcoef(np.random.Generator(np.random.Philox(2)).normal(size=(60, 64)))
    null = memberships.shuffled_contrasts(noise, bags.membership, key)
    assert abs(null.mean()) < 0.01
    assert abs(memberships.contrasts(noise, bags.membership).mean()) < 4 * null.std()


def test_statistics_of_embeddings():
    bags = Implicit(observables=40, bags="overlap").make(Key.of("bags"), 3)
    distance = (bags.membership[:, :, None] ^ bags.membership[:, None, :]).sum(axis=0)
    found = memberships.embedding_statistics(1 - 0.5 * distance, bags.membership)
    assert found["distance"] == {"0": 1.0, "1": 0.5, "2": 0.0, "3": -0.5}
    assert (found["never_occurring"], found["never_occurring_with_in_all_bags"]) == (1.0, -0.5)
    disjoint = Implicit(observables=9, bags="disjoint").make(Key.of("bags"), 3)
    assert np.isnan(memberships.embedding_statistics(np.eye(9), disjoint.membership)["never_occurring"])


def test_a_matrix_of_correlations_comes_back():
    matrix = np.corrcoef(np.random.Generator(np.random.Philox(3)).normal(size=(7, 5)))
    again = memberships.unpack_correlations(memberships.pack_correlations(matrix))
    np.testing.assert_allclose(again, matrix, atol=0.0051)


def test_coarse_distributions():
    patterns = np.array([1, 2, 1, 3, 0])
    chances = np.array([[0.1, 0.2, 0.3, 0.1, 0.1, 0.2]])
    np.testing.assert_allclose(memberships.by_membership(patterns, chances), [[0.1, 0.4, 0.2, 0.1, 0.2]])


def test_divergence_of_memberships_is_a_part_of_the_whole():
    world = make_world(SMOKE.world_config(1, SMOKE.ways[0]))
    text = ShownGrammar(Parser(world.grammar), world.bags.probabilities)
    model, sentences = Transformer(SMOKE.training.config(world.vocab_size), seed=0), test_sentences(world, 6)
    found = divergences(model, world, sentences, text, world.bags.patterns)
    assert 0 < found["divergence_of_membership"] < found["divergence"]
    assert found["divergence"] == pytest.approx(mean_divergence(model, world, sentences, text.next_token))
    frequencies = unigram(world, 500)
    assert frequencies.sum() == pytest.approx(1)
    assert (frequencies[:-1][world.bags.patterns == 0] < frequencies[:-1].mean() / 10).all()


def test_what_is_shown_is_judged():
    world = make_world(SMOKE.world_config(1, SMOKE.ways[0]))
    sentences = test_sentences(world, 10)
    nothing = [NOTHING] * 10
    assert in_language(world, sentences, nothing).all()
    never = 1 + int(np.flatnonzero(world.bags.patterns == 0)[0])
    assert not in_language(world, sentences, [np.array([never])] * 10).any()
    mixed = shuffled(sentences, Key.of("shuffled"))
    assert all(sorted(one) == sorted(other) for one, other in zip(mixed, sentences, strict=True))
    assert in_language(world, mixed, nothing).mean() < 0.5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two conditions of the smoke scale have measured."""
    conditions = {condition.name: condition for condition in EXPERIMENT.conditions(SMOKE)}
    return {
        name: RunMetrics(
            EXPERIMENT.run(SMOKE, conditions[name], 141, Workspace(cache=tmp_path_factory.mktemp("cache")))
        )
        for name in ("overlap/uniform", "disjoint/linear")
    }


def test_a_run_has_what_the_claim_reads(runs):
    (claim,) = EXPERIMENT.claims("smoke", SMOKE)
    assert set(claim.conditions) == {name_of(way) for way in SMOKE.ways}
    everything = dict.fromkeys(claim.conditions, runs["overlap/uniform"])
    for predicate in claim.predicates:
        measured = predicate.measure(everything)
        assert -2 <= (measured if isinstance(measured, float) else measured.value) <= 2
    untrained = np.mean(runs["disjoint/linear"].at("embeddings.initial.contrasts"))
    assert abs(untrained) < 0.1
    assert [point["step"] for point in runs["overlap/uniform"].at("curve")] == [10, 20]


def test_plots_are_drawn_from_whatever_is_there(runs, tmp_path):
    results = Results(
        title="", scale="smoke", seeds=(141,), runs={(name, 141): run for name, run in runs.items()}, verdicts=()
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert {path.name for path in drawn} == {
        "correlation_overlap_uniform.png",
        "correlation_disjoint_linear.png",
        "contrasts.png",
        "accuracy.png",
        "divergence.png",
        "contrast.png",
    }
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_bad_input(tmp_path):
    with pytest.raises(
        ValueError, match=r"cuts must be 0, the model's own sentences, and one more at least, got \(0,\)"
    ):
        replace(SMOKE, cuts=(0,))
    with pytest.raises(ValueError, match=r"curve_sentences must be in 1\.\.sentences = 16, got 17"):
        replace(SMOKE, curve_sentences=17)
    names = {"rows": ["a", "b"], "columns": ["c", "d", "e"]}
    with pytest.raises(ValueError, match=r"values must be \[2, 3\] as named, got \(2, 2\)"):
        heatmap(tmp_path / "a.png", np.eye(2), **names, title="", label="", limits=(0, 1))
