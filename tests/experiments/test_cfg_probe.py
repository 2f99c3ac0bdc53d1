from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from experiments import _tree_attention as attention
from experiments import _tree_measures as measures
from experiments import _tree_probes as probes
from experiments._grammars import divergences
from experiments.cfg_probe import EXPERIMENT, PRESETS
from physlm.data.streams import IGNORE
from physlm.lab import Results, Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.probing.attention import distance_profile
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def world():
    return SMOKE.world(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The metrics of the smoke scale, by condition."""
    return {
        condition.name: RunMetrics(
            EXPERIMENT.run(SMOKE, condition, 191, Workspace(cache=tmp_path_factory.mktemp(condition.name)))
        )
        for condition in EXPERIMENT.conditions(SMOKE)
    }


def test_labels_are_those_of_the_derivations(world):
    numbers, levels = np.arange(6), probes.inner_levels(world)
    tokens = probes.tokens_of(world, numbers)
    at_ends = probes.symbols_where(tokens, levels, at_ends=True)
    elsewhere = probes.symbols_where(tokens, levels, at_ends=False)
    for document, derivation in enumerate(world.derivations("test", numbers)):
        here = tokens.documents == document
        assert here.sum() == len(derivation)
        for level in levels:
            is_end = derivation.ends(level - 1)
            symbol = derivation.symbols[level - 1][derivation.ancestors(level - 1)]
            assert np.array_equal(at_ends[str(level)][here], np.where(is_end, symbol, IGNORE))
            assert np.array_equal(elsewhere[str(level)][here], np.where(is_end, IGNORE, symbol))


def test_sentences_stand_between_bos_and_eos(world):
    tokens = probes.tokens_of(world, np.arange(3))
    for document, sentence in enumerate(world.sentences("test", np.arange(3))):
        shown, _ = tokens.samples.document(document)
        assert shown.tolist() == [world.bos, *sentence.tolist(), world.eos]


def test_types_of_the_control_task_are_the_last_tokens(world):
    tokens = probes.tokens_of(world, np.arange(8))
    types = probes.last_tokens(tokens, 3)
    seen = [
        tuple(tokens.samples.document(document)[0][max(0, position - 2) : position + 1])
        for document, position in zip(tokens.documents, tokens.positions, strict=True)
    ]
    pairs = set(zip(types.tolist(), seen, strict=True))
    assert len(pairs) == len(set(types.tolist())) == len(set(seen))


def test_nobody_reads_better_than_the_exact_reader():
    # It has few sentences, so that what a prefix tells can be counted: 1 1 3 1 2 may be symbols 8 7 or 9 9.
    small = CFGWorld(CFGConfig(seed=0, grammar="cfg3i", root="10"))
    tokens = probes.tokens_of(small, np.arange(600))
    exact = probes.exact_reader(small, tokens, (2,), np.arange(600))
    symbol, is_end = tokens.mark("symbol_2"), tokens.mark("end_2") == 1
    prefixes = [
        tokens.samples.document(document)[0][: position + 1].tobytes()
        for document, position in zip(tokens.documents, tokens.positions, strict=True)
    ]
    found = defaultdict(Counter)
    for row in np.flatnonzero(is_end):
        found[prefixes[row]][symbol[row]] += 1
    counted = sum(max(times.values()) for times in found.values()) / is_end.sum()
    assert counted < 1
    assert exact["ends"]["2"][is_end].mean() == pytest.approx(counted, abs=0.02)
    assert exact["boundary_so_far"]["2"].mean() < 1
    # A whole sentence has one tree.
    assert exact["ancestors"]["2"].all()
    assert exact["boundary"]["2"].all()


def test_other_documents_are_not_answered(world):
    tokens = probes.tokens_of(world, np.arange(4))
    exact = probes.exact_reader(world, tokens, probes.inner_levels(world), np.array([2]))
    for answers in exact.values():
        for right in answers.values():
            assert not right[tokens.documents != 2].any()


def test_expected_places_weigh_gains():
    assert probes.expected_place([0.3, 0.3, 0.9], [0, 0.5, 1]) == 1
    assert probes.expected_place([0.3, 0.9, 0.9], [0, 0.5, 1]) == 0.5
    assert probes.expected_place([0.3, 0.9, 0.6], [0, 0.5, 1]) == 0.5
    assert np.isnan(probes.expected_place([0.5, 0.4], [0, 1]))


def test_divergence_before_ablation_is_that_of_the_other_experiments(world):
    model = Transformer(SMOKE.training.config(world.vocab_size), seed=0)
    tokens, others, levels = probes.tokens_of(world, np.arange(10)), np.arange(10, 14), probes.inner_levels(world)
    found = probes.ablated_ends(model, world, tokens, others, levels, SMOKE.curve, controls=3, key=Key.of("ablation"))
    exact = divergences(model, Parser(world.grammar), world.sentences("test", others), world.bos).mean()
    assert set(found) == {"0"}
    for level in levels:
        row = found["0"][str(level)]
        assert -row["before"] == pytest.approx(exact, abs=1e-6)
        assert len(row["random effects"]) == 3
        assert row["effect"] != 0


def test_pairs_are_as_long(world):
    pairs = attention.pairs_of_equal_length(world, 5, 12)
    assert pairs.shape == (6, 2)
    assert len(np.unique(pairs)) == 12
    assert pairs.min() >= 5
    lengths = world.lengths_at("test", pairs.ravel()).reshape(pairs.shape)
    assert np.array_equal(lengths[:, 0], lengths[:, 1])
    few = CFGWorld(replace(world.config, test_sentences=9))
    with pytest.raises(ValueError, match=r"count must be at most \d, as many as have one of equal length, got 12"):
        attention.pairs_of_equal_length(few, 5, 12)


def test_planted_attention_is_found():
    levels = (2, 3)
    rng = np.random.default_rng(0)
    ends, patterns = [], []
    for length in (12, 15, 12):
        deepest = rng.choice([2, 3, 4], size=length, p=[0.2, 0.3, 0.5])
        at = np.stack([deepest == 2, deepest <= 3]).astype(np.int64)
        ends.append((deepest, at))
        # One head attends to ends of level 2 three times as much as to others.
        weight = np.tril(np.ones((length, length))) * np.where(deepest == 2, 3.0, 1.0)
        patterns.append((weight / 10)[None, None].astype(np.float32))
    profile = distance_profile(patterns)
    found = attention.excess_attention(patterns, profile, ends, levels)
    toward = np.array(found["toward"], dtype=float)
    assert toward.shape == (2, 5)
    mean, expected = [], []
    for pattern, (deepest, _) in zip(patterns, ends, strict=True):
        for query in range(len(deepest)):
            for key in range(query):
                if deepest[key] == 2:
                    mean.append(pattern[0, 0, query, key])
                    expected.append(profile.mean[0, 0, query - key])
    assert toward[0, 2] == pytest.approx(np.sum(mean) / np.sum(expected) - 1, abs=1e-5)
    assert toward[0, 2] > 0.5
    assert toward[0, 2] == toward[0].max()
    assert toward[1, 2] < 0
    assert np.array(found["between"], dtype=float).shape == (2, 3, 3)
    assert np.array(found["adjacent"], dtype=float).shape == (2, 2, attention.MOST_SUBTREES + 1)


def test_the_nearest_ends_are_one_subtree_back_where_one_is_closed():
    adjacent = np.arange(2 * 2 * 5, dtype=float).reshape(2, 2, 5)
    nearest, following = attention.nearest_and_next(adjacent)
    for later in range(2):
        for earlier in range(2):
            first = 1 if later <= earlier else 0
            assert nearest[later, earlier] == adjacent[later, earlier, first]
            assert following[later, earlier] == adjacent[later, earlier, first + 1]


def test_runs_have_what_the_claims_read(runs):
    claims = EXPERIMENT.claims("smoke", SMOKE)
    assert [claim.id for claim in claims] == [
        *("CFG-6", "CFG-7", "CFG-7-used", "CFG-8-probe"),
        *("CFG-9", "CFG-10-ends", "CFG-10-symbols"),
        *(f"CFG-{number}" for number in range(11, 15)),
    ]
    for claim in claims:
        assert set(claim.conditions) <= set(runs)
        for predicate in (*claim.predicates, *claim.requires):
            # Twenty steps may gain nothing, and then nothing has a place in the order.
            if "expected" not in predicate.name and "neighbouring" not in predicate.name:
                assert np.isfinite(predicate.measure(runs)), predicate.name


def test_accuracies_come_with_their_controls(runs):
    run = runs["causal"]
    assert run.at("levels") == [2, 3]
    for readout, question in (("local", "ends"), ("full", "ancestors")):
        exact = measures.readable(run, readout, question, "exact")
        assert np.array_equal(exact, np.ones(2))
        for control in ("majority", "untrained model", "shuffled labels", "embedding layer", "control task"):
            assert ((measures.readable(run, readout, question, control)) <= 1).all()
    majority = measures.readable(run, "full", "boundary", "majority", balanced=True)
    assert np.allclose(majority, 0.5)
    assert [point["step"] for point in run.at("curve")] == [0, 10, 20]


def test_everything_is_drawn(runs, tmp_path):
    results = Results(
        title=EXPERIMENT.title,
        scale="smoke",
        seeds=(191,),
        runs={(name, 191): run for name, run in runs.items()},
        verdicts=(),
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert len(drawn) == 12
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_bad_presets():
    for field, value, message in (
        ("sentences", 3, "sentences must be ≥ 4, got 3"),
        ("curve_sentences", 21, "curve_sentences must be ≤ sentences = 20, got 21"),
        ("random_directions", 0, "random_directions must be ≥ 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SMOKE, **{field: value})
