import numpy as np
import pytest
import torch

from experiments import _grammars as grammars
from experiments.cfg_positions import ENCODINGS, EXPERIMENT, PRESETS
from physlm.data.streams import PackedStream, Source
from physlm.lab import Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.cfg.inference import Parser

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def world():
    return SMOKE.world("easy", 1)


@pytest.fixture(scope="module")
def model(world):
    """A model that has learnt the easy grammar in part."""
    made = Transformer(SMOKE.config(world.vocab_size, ENCODINGS["rotary"]), seed=0)
    stream = PackedStream([Source(world, "train")], context=SMOKE.context, batch_size=8, key=Key.of("test"))
    train(made, stream, Recipe(steps=150, learning_rate=1e-2))
    return made


def test_divergence_is_that_of_a_loop_over_prefixes(model, world):
    parser, sentences = Parser(world.grammar), grammars.test_sentences(world, 5)
    got = grammars.divergences(model, parser, sentences, world.bos, at_once=2)
    for sentence, divergence in zip(sentences, got, strict=True):
        truth = parser.chart(sentence).next_token
        terms = []
        for k in range(len(sentence) + 1):
            tokens = torch.tensor([[world.bos, *sentence[:k].tolist()]])
            predicted = model(tokens)[0, -1, 1 : world.eos + 1].double().log_softmax(-1)
            terms.append(sum(p * (np.log(p) - predicted[t].item()) for t, p in enumerate(truth[k]) if p > 0))
        assert divergence == pytest.approx(np.mean(terms), abs=1e-6)


def test_completions_keep_the_prefix_and_are_judged_by_the_grammar(model, world):
    parser, sentences = Parser(world.grammar), grammars.test_sentences(world, 8)
    key = Key.of("completions")
    right = grammars.completion_accuracy(model, world, parser, sentences, 2, key)
    made = grammars.complete(model, world, [sentence[:2] for sentence in sentences], key)
    expected = [
        end is not None and bool(parser.accepts([np.concatenate([sentence[:2], end])])[0])
        for sentence, (end, _) in zip(sentences, made, strict=True)
    ]
    assert right.tolist() == expected
    assert any(expected)


def test_valid_sentences_are_at_least_as_many_as_divergence_says(model, world):
    preset = SMOKE.__class__(**{**vars(SMOKE), "sentences": 8})
    measured = grammars.measure(model, preset, world, seed=1)
    assert measured["accuracy"]["cut_0"]["mean"] >= measured["least_accuracy"] - 0.35
    assert 0 < measured["divergence"] < measured["n_gram_divergence"]["1"]
    assert measured["entropy_bits"] > 0


def test_longer_n_grams_are_closer(world):
    parser, sentences = Parser(world.grammar), grammars.test_sentences(world, 8)
    divergence = [grammars.baseline_divergence(world, parser, sentences, order) for order in (1, 2, 4)]
    assert divergence[0] > divergence[1] > divergence[2] > 0


def test_a_run_has_what_the_claims_read(tmp_path):
    conditions = {condition.name: condition for condition in EXPERIMENT.conditions(SMOKE)}
    runs = {
        name: RunMetrics(EXPERIMENT.run(SMOKE, condition, 121, Workspace(cache=tmp_path / name.replace("/", "-"))))
        for name, condition in conditions.items()
        if name in ("hard/rotary", "hard/absolute", "easy/rotary", "easy/absolute")
    }
    (claim,) = (claim for claim in EXPERIMENT.claims("smoke", SMOKE) if claim.id == "CFG-2")
    for predicate in claim.predicates:
        assert -1 <= predicate.measure(runs).value <= 1
    curve = runs["hard/rotary"].at("curve")
    assert [point["step"] for point in curve] == [10, 20]


def test_bad_presets():
    with pytest.raises(ValueError, match="grammars must be an easy and a hard one"):
        SMOKE.__class__(**{**vars(SMOKE), "grammars": SMOKE.grammars[:1]})
    with pytest.raises(ValueError, match="cuts must begin with 0"):
        SMOKE.__class__(**{**vars(SMOKE), "cuts": (10,)})
