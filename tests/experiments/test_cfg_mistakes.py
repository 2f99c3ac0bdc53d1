from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments._grammar_attempts import (
    Unmarked,
    attempted,
    attempts_in_text,
    examine,
    next_token,
    source,
    take_apart,
    taken_back,
)
from experiments._grammar_attempts_claims import share_of_text
from experiments._grammar_measures import in_language
from experiments._grammars import go_on, test_sentences
from experiments._mistaken_texts import CLEAN, Text
from experiments._noisy_prefixes import CLEAN_PREFIX, COLD, NO_PREFIX, WARM
from experiments.cfg_mistakes import EXPERIMENT, PRESETS, pretrain
from physlm.lab import Results, Workspace, pack_items
from physlm.lab.claims import evaluate
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.recipe import Recipe
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.mistakes import AttemptRole

SMOKE = PRESETS["smoke"]
STEPS = Recipe(steps=4, learning_rate=3e-3)
TINY = replace(
    SMOKE,
    training=replace(SMOKE.training, recipe=STEPS),
    low_rank=STEPS,
    continued=STEPS,
    sentences=8,
    curve_sentences=2,
)
WORLD = SMOKE.world(3)
COUNT = 24
MANY = Text(rate=0.5)


def documents(text: Text, count: int = COUNT) -> list[np.ndarray]:
    samples = attempted(WORLD, text).render("test", np.arange(count))
    return [samples.document(i)[0] for i in range(count)]


def test_the_control_has_the_same_wrong_tokens_without_back():
    back = attempted(WORLD, MANY).back
    for marked, unmarked in zip(documents(MANY), documents(Unmarked(rate=0.5)), strict=True):
        np.testing.assert_array_equal(marked[marked != back], unmarked)
    assert sum(map(len, documents(Unmarked(rate=0.5)))) > 1.2 * sum(map(len, documents(CLEAN)))
    assert Unmarked(rate=0.2).name == "unmarked_0.2"


def test_what_is_taken_back_does_not_count_and_what_is_not_does():
    reader, sentences = attempted(WORLD, MANY), test_sentences(WORLD, COUNT)
    written = take_apart(WORLD, [document[1:] for document in documents(MANY)])
    nothing = [np.zeros(0, dtype=np.int64)] * COUNT
    for (kept, attempts), sentence, document in zip(written, sentences, documents(MANY), strict=True):
        np.testing.assert_array_equal(kept, sentence)
        assert attempts == (document == reader.back).sum()
    assert in_language(WORLD, nothing, [kept for kept, _ in written]).all()

    unmarked = [document[1:] for document in documents(Unmarked(rate=0.5))]
    longer = np.array([len(text) > len(sentence) for text, sentence in zip(unmarked, sentences, strict=True)])
    right = in_language(WORLD, nothing, [kept for kept, _ in take_apart(WORLD, unmarked)])
    assert longer.any()
    assert not right[longer].any()

    # A model may not take back what it was given, nor fail to end.
    prefix, end = sentences[0][:5], sentences[0][5:]
    kept = [kept for kept, _ in take_apart(WORLD, [np.append(reader.back, end), end])]
    assert in_language(WORLD, [prefix] * 3, [*kept, None]).tolist() == [False, True, False]


def test_what_is_taken_back_counts_in_texts_without_an_end_too():
    reader, short = attempted(WORLD, CLEAN), replace(SMOKE.training, context=9)
    model = Transformer(short.config(reader.vocab_size), seed=0)
    nothing = [np.zeros(0, dtype=np.int64)] * COUNT
    written = go_on(model, WORLD, nothing, Key.of("completions", 0, NO_PREFIX), temperature=WARM)
    unfinished = [one for one in written if not one.finished]
    assert 0 < len(unfinished) < COUNT
    assert all(len(one.tokens) == short.context - 1 for one in unfinished)
    assert any(reader.chains(one.tokens).sum() for one in unfinished)

    attempts = tokens = 0
    for one in written:
        is_attempt = (one.tokens[1:] == reader.back) & np.isin(one.tokens[:-1], 1 + np.arange(WORLD.alphabet_size))
        attempts += is_attempt.sum()
        tokens += len(one.tokens) - 2 * is_attempt.sum()
    found = RunMetrics(RunMetrics(examine(model, WORLD, 0, COUNT, 5)).at(f"{NO_PREFIX}.{WARM:g}"))
    assert found.number("attempts") == pytest.approx(attempts / tokens)
    assert found.number("unfinished") == len(unfinished) / COUNT
    assert not found.outcomes("items")[[not one.finished for one in written]].any()


def test_the_text_teaches_what_it_shows():
    """Frequencies of what follows the most common beginning without attempts, in 2,000 documents."""
    shown = attempted(WORLD, MANY)
    samples = shown.render("train", np.arange(2000))
    texts = [samples.document(i)[0][1:] for i in range(2000)]
    texts = [text for text in texts if shown.back not in text[:4]]  # nor is the third token taken back
    beginning = Counter(tuple(text[:3].tolist()) for text in texts).most_common(1)[0][0]
    following = [text[3] for text in texts if tuple(text[:3].tolist()) == beginning]
    exact = next_token(WORLD, MANY)(np.array(beginning))
    seen = np.bincount(following, minlength=WORLD.eos + 1)[1:] / len(following)
    np.testing.assert_allclose(seen, exact[-1], atol=4 * (0.25 / len(following)) ** 0.5)
    possible = Parser(WORLD.grammar).chart(np.array(beginning)).next_token
    assert exact[possible == 0].sum() > 0
    assert next_token(WORLD, replace(MANY, mask="name"))(np.array(beginning))[possible == 0].sum() == 0
    np.testing.assert_allclose(exact.sum(axis=1), 1)
    np.testing.assert_allclose(next_token(WORLD, CLEAN)(np.array(beginning)), possible)


@pytest.mark.parametrize("cut", [0, 5])
def test_attempts_of_the_text_are_counted_after_the_cut(cut):
    back, attempts, tokens = attempted(WORLD, MANY).back, 0, 0
    for document, sentence in zip(documents(MANY), test_sentences(WORLD, COUNT), strict=True):
        right = 0
        for token, following in zip(document[1:], [*document[2:], WORLD.eos], strict=True):
            attempts += token == back and right >= cut
            right += token != back and following != back
        assert right == len(sentence)
        tokens += right - cut
    assert attempts_in_text(WORLD, MANY, COUNT, cut) == attempts / tokens > 0
    assert attempts_in_text(WORLD, CLEAN, COUNT, cut) == 0


def test_chances_of_back_are_those_of_the_model():
    read_world = attempted(WORLD, MANY)
    model = Transformer(SMOKE.training.config(read_world.vocab_size), seed=0)
    samples, chances = read_world.render("test", np.arange(2)), {"wrong": [], "right": []}
    for i in range(2):
        tokens, marks = samples.document(i)
        logits = model(torch.from_numpy(tokens[None].astype(np.int64)))[0].detach().double()
        for row, role in zip(logits.softmax(-1), marks["role"], strict=True):
            if role != AttemptRole.BACK:
                chances["wrong" if role == AttemptRole.NAME else "right"].append(float(row[read_world.back]))
    found = taken_back(model, WORLD, MANY, 2)
    assert found == pytest.approx({name: np.mean(values) for name, values in chances.items()}, rel=1e-5)


def test_masked_attempts_are_read_and_not_learned():
    masked, learned = source(WORLD, replace(MANY, mask="name")).loss_roles, source(WORLD, MANY).loss_roles
    assert learned is None
    assert masked is not None
    assert AttemptRole.NAME not in masked
    assert AttemptRole.BACK in masked


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What some conditions of the smoke scale have measured."""
    cache = tmp_path_factory.mktemp("cache")
    known = {condition.name: condition for condition in EXPERIMENT.conditions(TINY)}
    names = ("clean", "retry_0.5_masked", "unmarked_0.2", "late/retry_0.2/rank2", "late/retry_0.2/full")
    return {
        name: RunMetrics(
            EXPERIMENT.run(TINY, known[name], 231, Workspace(cache=cache, scratch=cache / name.replace("/", "-")))
        )
        for name in names
    }


def test_every_model_is_read_by_a_claim_and_runs_have_what_claims_read(runs):
    claims = EXPERIMENT.claims("smoke", TINY)
    names = {condition.name for condition in EXPERIMENT.conditions(TINY)}
    assert {name for claim in claims for name in claim.conditions} == names
    everything = {name: runs.get(name, runs["retry_0.5_masked"]) for name in names}
    for claim in claims:
        for one in (*claim.predicates, *claim.requires):
            value = one.measure({name: everything[name] for name in claim.conditions})
            assert np.isfinite(getattr(value, "value", value))
    assert {name for name, run in runs.items() if "divergence" not in run} == {"unmarked_0.2"}
    late, clean = runs["late/retry_0.2/full"], runs["clean"]
    assert late.at("curve") != clean.at("curve")
    assert clean.number("sentences") > runs["retry_0.5_masked"].number("sentences")
    assert 1 < late.number("sentences") / clean.number("sentences") < 2
    assert late.number("sentences") == runs["late/retry_0.2/rank2"].number("sentences")


def test_the_clean_model_is_trained_once(tmp_path):
    world, workspace = TINY.world(5), Workspace(cache=tmp_path)
    base, again = (pretrain(TINY, world, CLEAN, 5, workspace) for _ in range(2))
    assert again.model is not base.model
    assert (again.curve, again.position) == (base.curve, base.position)
    assert len(list((tmp_path / "stages").glob("grammar-attempts-*/model"))) == 1


def made_up(own: int, cold: int, *, share: float, cold_share: float, wrong: float = 0.99, right: float = 0.001):
    """A run of 500 sentences of which so many are right, with attempts as these shares of those in its text."""

    def cell(count: int, part: float) -> dict:
        return {"items": pack_items(np.arange(500) < count), "attempts": 0.4 * part}

    return RunMetrics(
        {
            "accuracy": {
                NO_PREFIX: {f"{WARM:g}": cell(own, share)},
                CLEAN_PREFIX: {f"{WARM:g}": cell(own, share), f"{COLD:g}": cell(cold, cold_share)},
            },
            "attempts_in_text": {NO_PREFIX: 0.4, CLEAN_PREFIX: 0.4},
            "taken_back": {"wrong": wrong, "right": right},
        }
    )


AS_CLAIMED = {
    "clean": made_up(400, 480, share=0, cold_share=0),
    "retry_0.1": made_up(440, 490, share=1, cold_share=0.05),
    "retry_0.2": made_up(460, 495, share=1, cold_share=0.1),
    "retry_0.5": made_up(485, 495, share=1, cold_share=0.9),
    "retry_0.5_masked": made_up(485, 495, share=0.05, cold_share=0),
    "unmarked_0.2": made_up(100, 400, share=0, cold_share=0),
    "late/retry_0.2/rank8": made_up(300, 450, share=1, cold_share=0.1),
    "late/retry_0.2/full": made_up(480, 495, share=1, cold_share=0.1),
}


def verdicts(changes: dict) -> dict[str, str]:
    runs = dict.fromkeys(range(5), AS_CLAIMED | changes)
    return {claim.id: evaluate(claim, runs).verdict for claim in EXPERIMENT.claims("cpu", PRESETS["cpu"])}


def test_verdicts_on_made_up_numbers():
    assert set(verdicts({}).values()) == {"supported"}
    assert share_of_text("retry_0.5", CLEAN_PREFIX, COLD)(AS_CLAIMED) == pytest.approx(0.9)
    worse = verdicts({"retry_0.2": made_up(300, 300, share=0.5, cold_share=0.9, wrong=0.5, right=0.1)})
    refuted = {name for name, verdict in worse.items() if verdict == "refuted"}
    assert refuted == {"MIS-CFG-1", "MIS-CFG-2", "MIS-CFG-3", "MIS-CFG-5"}
    assert verdicts({"retry_0.5_masked": made_up(350, 495, share=0, cold_share=0)})["MIS-CFG-4"] == "refuted"


def test_models_that_learnt_nothing_support_nothing():
    nothing = made_up(0, 0, share=0, cold_share=0)
    assert "supported" not in verdicts(dict.fromkeys(AS_CLAIMED, nothing)).values()
    compared = ("MIS-CFG-1", "MIS-CFG-2", "MIS-CFG-4", "MIS-CFG-5")
    for right in (100, 490):  # nearly nothing, nearly everything
        found = verdicts({"clean": made_up(right, 480, share=0, cold_share=0)})
        assert {name for name, verdict in found.items() if verdict == "inconclusive"} == set(compared)
    spoilt = {name: made_up(10, 495, share=0.05, cold_share=0) for name in ("retry_0.5", "retry_0.5_masked")}
    assert verdicts(spoilt)["MIS-CFG-4"] == "inconclusive"


def test_plots_are_drawn_from_whatever_is_there(runs, tmp_path):
    results = Results(
        title="", scale="smoke", seeds=(231,), runs={(name, 231): run for name, run in runs.items()}, verdicts=()
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert {path.name for path in drawn} == {"accuracy.png", "attempts.png"}
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_bad_presets():
    with pytest.raises(ValueError, match=r"rates must grow .* got \(0\.3, 0\.2, 0\.5\)"):
        replace(SMOKE, low_rate=0.3)
    with pytest.raises(ValueError, match="low_rank must take as many steps as training, 20, got 4"):
        replace(SMOKE, low_rank=STEPS)
