import numpy as np
import pytest
import torch

from experiments import _grammars as grammars
from experiments import cfg_treebank as treebank
from experiments.cfg_treebank import EXPERIMENT, PRESETS
from physlm.lab import Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def worlds():
    return {shape.label: SMOKE.world(shape.label, 1) for shape in (SMOKE.english, SMOKE.layered)}


def test_both_parsers_have_the_same_distributions(worlds):
    sentences = treebank.fitting_sentences(worlds["layered"], SMOKE)
    general = GeneralParser(worlds["layered"].grammar)
    for sentence, exact in zip(sentences, treebank.exact_distributions(worlds["layered"], sentences), strict=True):
        assert np.allclose(exact, general.chart(sentence).next_token)


def test_divergences_are_those_of_the_other_grammar_experiments(worlds):
    world = worlds["layered"]
    model = Transformer(SMOKE.config(world.vocab_size, "1-2-8"), seed=0)
    sentences = treebank.fitting_sentences(world, SMOKE)
    got = treebank.divergences(model, world, sentences, treebank.exact_distributions(world, sentences))
    assert np.allclose(got, grammars.divergences(model, Parser(world.grammar), sentences, world.bos), atol=1e-6)


def test_sentences_can_be_cut_and_fit(worlds):
    sentences = treebank.fitting_sentences(worlds["english"], SMOKE)
    assert len(sentences) == SMOKE.sentences
    assert all(3 < len(sentence) <= 62 for sentence in sentences)
    first = worlds["english"].sentences("test", np.arange(30))
    expected = [one for one in first if 3 < len(one) <= 62][: SMOKE.sentences]
    assert all(np.array_equal(got, one) for got, one in zip(sentences, expected, strict=True))
    few = CFGWorld(CFGConfig(seed=1, grammar="english", test_sentences=6))
    with pytest.raises(ValueError, match=r"sentences must be at most 5, as many test sentences of english"):
        treebank.fitting_sentences(few, SMOKE)


def test_completions_are_judged_with_what_they_complete(worlds):
    world = worlds["layered"]
    sentences = treebank.fitting_sentences(world, SMOKE)

    model = Transformer(SMOKE.config(world.vocab_size, "1-2-8"), seed=0)
    key = Key.of("test")
    made = grammars.complete(model, world, [sentence[:3] for sentence in sentences], key)
    expected = [
        end is not None and bool(Parser(world.grammar).accepts([np.append(sentence[:3], end)])[0])
        for sentence, (end, _) in zip(sentences, made, strict=True)
    ]
    assert treebank.completions(model, world, sentences, 3, key).tolist() == expected


def test_the_control_sees_one_token(worlds):
    world = worlds["english"]
    model = Transformer(SMOKE.config(world.vocab_size, "pairs"), seed=0)
    texts = torch.tensor([[0, 4, 9, 2], [0, 7, 1, 2]])
    with torch.no_grad():
        logits = model(texts)
    assert torch.allclose(logits[0, -1], logits[1, -1], atol=1e-6)
    assert not torch.allclose(logits[0, 1], logits[1, 1], atol=1e-3)


def test_runs_have_what_the_claim_reads(tmp_path):
    runs = {
        condition.name: RunMetrics(
            EXPERIMENT.run(SMOKE, condition, 171, Workspace(cache=tmp_path / condition.name.replace("/", "-")))
        )
        for condition in EXPERIMENT.conditions(SMOKE)
    }
    (claim,) = EXPERIMENT.claims("smoke", SMOKE)
    assert set(claim.conditions) <= set(runs)
    for predicate in (*claim.predicates, *claim.requires):
        value = predicate.measure(runs)
        assert np.isfinite(getattr(value, "value", value))
    assert [point["step"] for point in runs["english/1-2-8"].at("curve")] == [10, 20]


def test_bad_presets():
    for field, value, message in (
        ("models", SMOKE.models[:1] * 2, "models must be shapes of different names"),
        ("curve_sentences", 0, r"curve_sentences must be in 1\.\.sentences = 6, got 0"),
        ("cuts", (-1,), "cuts must be numbers of tokens ≥ 0"),
    ):
        with pytest.raises(ValueError, match=message):
            SMOKE.__class__(**{**vars(SMOKE), field: value})
