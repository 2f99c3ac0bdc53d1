import numpy as np
import pytest

from experiments.cfg_encoder import EXPERIMENT, PRESETS, MaskedTokens
from physlm.data.streams import IGNORE, PackedStream, Source
from physlm.lab import Workspace
from physlm.lab.results import RunMetrics
from physlm.randomness import Key

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {
        condition.name: RunMetrics(
            EXPERIMENT.run(SMOKE, condition, 151, Workspace(cache=tmp_path_factory.mktemp("cache")))
        )
        for condition in EXPERIMENT.conditions(SMOKE)
    }


def test_tokens_are_hidden_but_never_what_separates_sentences():
    world = SMOKE.world("unambiguous", 1)
    stream = PackedStream(
        [Source(world, "train")], context=255, batch_size=64, key=Key.of("stream"), overflow="continue"
    )
    objective = MaskedTokens(Key.of("masks"), mask=world.mask, special=(world.bos, world.eos), rate=0.15)
    batch = stream.next_batch()
    examples = objective.examples(batch, world.vocab_size)
    is_token = (batch.window != world.bos) & (batch.window != world.eos)
    is_asked = examples.targets != IGNORE
    assert not (is_asked & ~is_token).any()
    assert np.array_equal(examples.targets[is_asked], batch.window[is_asked])
    assert np.array_equal(examples.inputs[~is_asked], batch.window[~is_asked])
    assert is_asked[is_token].mean() == pytest.approx(0.15, abs=0.015)
    assert (examples.inputs == world.mask)[is_asked].mean() == pytest.approx(0.8, abs=0.04)
    assert (examples.inputs[is_asked] == batch.window[is_asked]).mean() == pytest.approx(0.1 + 0.1 / 3, abs=0.04)


def test_every_claim_can_be_measured(runs):
    for claim in EXPERIMENT.claims("smoke", SMOKE):
        assert set(claim.conditions) <= set(runs)
        for predicate in (*claim.predicates, *claim.requires):
            measured = predicate.measure(runs)
            assert np.isfinite(getattr(measured, "value", measured))


def test_both_models_are_asked_the_same(runs):
    for question in ("token", "constituent"):
        for group in runs["masked"].at(question):
            asked = [runs[kind].at(f"{question}.{group}") for kind in ("masked", "causal")]
            for fact in ("tokens", "lies_beyond"):
                assert asked[0][fact] == asked[1][fact]
    assert [point["step"] for point in runs["masked"].at("curve")] == [10, 20]
    assert 0 <= runs["masked"].number("filling.span_1.uniform") <= 1


def test_less_lies_beyond_larger_constituents(runs):
    for kind in ("hidden", "next"):
        nats = list(runs["exact/unambiguous"].at(kind).values())
        assert nats[0] == pytest.approx(0, abs=1e-12)
        assert nats == sorted(nats)


def test_equal_knowledge_is_read_from_the_curves():
    (claim,) = (claim for claim in EXPERIMENT.claims("smoke", SMOKE) if claim.id == "CFG-8-known")

    def of(*points):
        return RunMetrics(curve=[{"shallow": shallow, "deep": deep} for shallow, deep in points])

    causal = of((0.2, -0.2), (0.6, 0.2), (0.9, 0.8))
    matched = claim.predicates[1].measure
    assert matched({"causal": causal, "masked": of((0.1, 0.0), (0.4, -0.5))}) == pytest.approx(0.0 + 0.5)
    assert matched({"causal": causal, "masked": of((0.95, 0.7))}) == pytest.approx(0.8 - 0.7)
    assert np.isnan(matched({"causal": causal, "masked": of((0.1, 0.0))}))


def test_bad_presets():
    for field, value, message in (
        ("grammars", (), "grammars must hold at least the one that is learnt"),
        ("curve_tokens", 0, "curve_tokens must be ≥ 1, got 0"),
        ("spans", (4, 1), r"spans must be numbers of tokens from few to many, got \(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            SMOKE.__class__(**{**vars(SMOKE), field: value})
