from dataclasses import replace

import numpy as np
import pytest

from experiments._biographies import halves
from experiments._mistaken_texts import CLEAN, Text
from experiments._wrong_values import (
    SameValues,
    answer,
    are,
    attempted,
    attempts_in_text,
    examine,
    kept_wrong,
    read_answers,
    sources,
    told_wrong,
)
from experiments._wrong_values_claims import corrected
from experiments.bio_mistakes import EXPERIMENT, PRESETS, readings
from physlm.data.streams import PackedStream
from physlm.lab import Results, Workspace, pack_items
from physlm.lab.claims import evaluate
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.recipe import Recipe
from physlm.worlds.mistakes import AttemptRole

SMOKE = PRESETS["smoke"]
TINY = replace(
    SMOKE,
    biographies=replace(SMOKE.biographies, mixed=Recipe(steps=4, learning_rate=3e-3), curve_people=4),
)
WORLD = SMOKE.world(3)
MANY = Text(rate=0.5)
READER = attempted(WORLD, CLEAN, 1)
QUESTIONS = np.arange(WORLD.size("questions_test"))
EXPECTED = WORLD.answers("questions_test", QUESTIONS)


def answers_of(text: Text) -> list[np.ndarray]:
    """What a text itself says after questions about held-out people."""
    samples = attempted(WORLD, text, 1).render("questions_test", QUESTIONS)
    prompts = WORLD.prompts("questions_test", QUESTIONS)
    return [samples.document(i)[0][len(prompt) :] for i, prompt in enumerate(prompts)]


def test_what_is_taken_back_does_not_count_and_first_values_are_told_apart():
    written = answers_of(MANY)
    found = read_answers(WORLD, written, [True] * len(written))
    tried = np.array([READER.back in tokens for tokens in written])
    assert are(found.kept, EXPECTED).all()
    np.testing.assert_array_equal(are(found.first, EXPECTED), ~tried)
    assert found.attempts.sum() == sum((tokens == READER.back).sum() for tokens in written) > tried.sum()
    metrics = RunMetrics(examine(WORLD, found))
    assert metrics.number("final.mean") == 1
    assert metrics.number("first.mean") == pytest.approx(1 - tried.mean())
    assert metrics.number("attempts") == pytest.approx(attempts_in_text(WORLD, MANY))
    assert metrics.number("attempts") == pytest.approx(1, abs=0.3)
    assert metrics.number("unfinished") == 0
    assert metrics.outcomes("corrected.final").tolist() == [True] * tried.sum()
    assert metrics.outcomes("corrected.first").tolist() == [False] * tried.sum()
    assert attempts_in_text(WORLD, CLEAN) == 0

    right, wrong = EXPECTED[0], next(one for one in EXPECTED[6:] if not np.array_equal(one, EXPECTED[0]))
    back = [READER.back]
    planted = [np.concatenate(parts) for parts in ([wrong], [right, back, wrong], [back, right], [right, back])]
    found = read_answers(WORLD, planted, [True] * 4)
    assert not are(found.kept, [right] * 4).any()
    assert are(found.first, [right] * 4).tolist() == [False, True, False, True]
    assert found.attempts.tolist() == [0, 1, 0, 1]


def test_answers_without_an_end_are_wrong_but_what_they_take_back_counts():
    """A loop of values that are taken back is what a model that corrects nothing would write."""
    value, back = EXPECTED[0], [READER.back]
    texts = [np.concatenate([value, back] * 7), np.append(value, back), value]
    found = read_answers(WORLD, texts, [False] * 3)
    assert found.kept == [None] * 3
    assert are(found.first, [value] * 3).tolist() == [True, True, False]
    assert found.attempts.tolist() == [7, 1, 0]

    looping = [np.concatenate([tokens, back, tokens, back]) for tokens in EXPECTED]
    metrics = RunMetrics(examine(WORLD, read_answers(WORLD, looping, [False] * len(looping))))
    assert [metrics.number(name) for name in ("final.mean", "first.mean", "attempts", "unfinished")] == [0, 1, 2, 1]
    assert metrics.outcomes("corrected.first").sum() == len(EXPECTED)


def test_copies_have_the_same_wrong_values_or_fresh_ones():
    people = np.arange(WORLD.config.people)
    same, fresh = attempted(WORLD, SameValues(rate=0.5), 3), attempted(WORLD, MANY, 3)
    copies = {}
    for name, world in (("same", same), ("fresh", fresh)):
        assert world.size("biographies") == 3 * len(people)
        samples = world.render("biographies", np.arange(3 * len(people)))
        np.testing.assert_array_equal(world.lengths("biographies"), np.diff(samples.offsets))
        documents = [samples.document(i)[0].tobytes() for i in range(3 * len(people))]
        copies[name] = np.array(documents, dtype=object).reshape(3, -1)
    assert (copies["same"] == copies["fresh"][0]).all()
    assert (copies["fresh"][1:] != copies["fresh"][0]).mean() > 0.9
    last = 3 * len(people) - 1
    assert same["biographies", last].tokens.tobytes() == copies["same"][2, -1]
    assert same.fingerprint() != fresh.fingerprint()
    assert SameValues(rate=0.5).name == "same_0.5"


def test_facts_told_wrongly_are_found_with_what_was_told():
    told, people = told_wrong(WORLD, 0.5), halves(WORLD)["test"]
    samples = attempted(WORLD, SameValues(rate=0.5), 1).render("biographies", people)
    assert 0.35 < len(told.values) / len(EXPECTED) < 0.6  # half of the places, but for values that begin alike
    for beginning, value, question in zip(told.beginnings, told.values, told.questions.tolist(), strict=True):
        document = samples.document(question // len(WORLD.config.attributes))[0]
        written = np.concatenate([beginning[1:], value, [READER.back]])
        np.testing.assert_array_equal(document[: len(written)], written)
        assert value[0] != EXPECTED[question][0]
        rest = READER.strip(document[len(beginning) - 1 :])
        np.testing.assert_array_equal(rest[: len(EXPECTED[question])], EXPECTED[question])


def test_wrong_values_in_answers_are_counted():
    told = told_wrong(WORLD, 0.5)
    written = list(EXPECTED)
    for question, value in zip(told.questions[:5], told.values, strict=False):
        written[question] = value
    model = Transformer(SMOKE.biographies.model.config(READER.vocab_size), seed=0)
    answers = read_answers(WORLD, written, [True] * len(written))
    found = RunMetrics(kept_wrong(model, WORLD, 0.5, answers))
    assert found.outcomes("answered").tolist() == [True] * 5 + [False] * (len(told.values) - 5)
    assert found.outcomes("recalled").mean() < 0.3
    assert found.at("facts") == len(told.values)


def test_texts_differ_in_attempts_alone_and_are_read_in_one_order():
    people = {}
    for text in (CLEAN, MANY):
        read = sources(WORLD, text, SMOKE.exposures, 0.8)
        assert [source.loss_roles for source in read] == [None, None]
        stream = PackedStream(read, context=96, batch_size=4, key=Key.of("packing", 0))
        windows = np.concatenate([stream.next_batch().window for _ in range(5)])
        found = [
            READER.strip(part[1:]).tobytes()
            for row in windows
            for part in np.split(row, np.flatnonzero(row == WORLD.eos))[1:-1]
        ]
        people[text.name] = found
        told = readings(stream, WORLD)
        assert told["questions_train"] > told["biographies"] > 0
    assert len(people["clean"]) > len(people[MANY.name])
    assert people["clean"][:2] == people[MANY.name][:2]
    masked = sources(WORLD, replace(MANY, mask="name"), 4, 0.8)[0].loss_roles
    assert masked is not None
    assert AttemptRole.NAME not in masked
    assert AttemptRole.BACK in masked


def test_the_same_and_fresh_wrong_values_are_read_in_one_order():
    people = []
    for text in (MANY, SameValues(rate=0.5)):
        stream = PackedStream(
            sources(WORLD, text, SMOKE.exposures, 0.8),
            context=96,
            batch_size=40,
            key=Key.of("packing", 0),
            marks=("person",),
            document_mask=True,
        )
        found: dict[int, list[int]] = {0: [], 1: []}
        for batch in (stream.next_batch() for _ in range(5)):
            for row, source in enumerate(batch.source.tolist()):
                number, person = batch.window_documents[row], batch.window_marks["person"][row]
                number = np.where(person >= 0, number, -1)  # a separator at the end opens a document that is not there
                found[source] += [int(person[number == one][0]) for one in range(number.max() + 1)]
        people.append(found)
    for source in (0, 1):
        shared = min(len(found[source]) for found in people)
        assert shared > 50
        assert people[0][source][:shared] == people[1][source][:shared]


def test_answers_end_or_are_none():
    model = Transformer(SMOKE.biographies.model.config(READER.vocab_size), seed=0)
    for key in (None, Key.of("answers", 0)):
        found = answer(model, WORLD, QUESTIONS[:12], key)
        assert len(found.kept) == len(found.first) == len(found.attempts) == 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What some conditions of the smoke scale have measured."""
    known = {condition.name: condition for condition in EXPERIMENT.conditions(TINY)}
    names = ("clean", "retry_0.5_masked", "same_0.5")
    return {
        name: RunMetrics(
            EXPERIMENT.run(TINY, known[name], 241, Workspace(cache=tmp_path_factory.mktemp(name.replace(".", "-"))))
        )
        for name in names
    }


def test_every_model_is_read_by_a_claim_and_runs_have_what_claims_read(runs):
    claims = EXPERIMENT.claims("smoke", TINY)
    names = {condition.name for condition in EXPERIMENT.conditions(TINY)}
    assert {name for claim in claims for name in claim.conditions} == names
    everything = {name: runs.get(name, runs["retry_0.5_masked"]) for name in names}
    for claim in claims:
        chosen = {name: everything[name] for name in claim.conditions}
        for requirement in claim.requires:
            value = requirement.measure(chosen)
            assert np.isfinite(getattr(value, "value", value))
        is_empty = claim.id == "MIS-BIO-3" and not len(corrected(chosen, "retry_0.5", "final"))
        for predicate in claim.predicates:
            value = predicate.measure(chosen)
            is_nan = is_empty and "something was taken back" in predicate.name
            assert np.isfinite(getattr(value, "value", value)) != is_nan
    assert runs["clean"].number("attempts_in_text") == 0 < runs["same_0.5"].number("attempts_in_text")
    assert [point["step"] for point in runs["clean"].at("curve")] == [1, 2, 3, 4]


def made_up(
    recalled: int,
    answered: int,
    *,
    share: float,
    took_back: tuple[int, int, int] = (100, 30, 30),
    told: tuple[int, int] = (0, 0),
) -> RunMetrics:
    """A run on 500 people and one attribute: how many in a hundred are recalled and answered, and 500 told wrongly.

    Something is taken back in so many answers, of which so many are right at first, and in the end.
    """
    again, first, final = took_back

    def cell(count: int) -> dict:
        return {"items": pack_items(np.arange(500)[:, None] < 5 * count)}

    def asked(part: float) -> dict:
        right = {name: pack_items(np.arange(again) < count) for name, count in (("first", first), ("final", final))}
        return {"final": cell(answered), "corrected": right, "attempts": part}

    return RunMetrics(
        {
            "recall": {"test": cell(recalled)},
            "answers": {"likeliest": asked(share), "drawn": asked(share)},
            "attempts_in_text": 1.0,
            "told_wrong": {
                name: pack_items(np.arange(500) < 5 * count)
                for name, count in zip(("recalled", "answered"), told, strict=True)
            },
        }
    )


AS_CLAIMED = {
    "clean": made_up(98, 70, share=0, took_back=(0, 0, 0)),
    "retry_0.2": made_up(98, 71, share=0.02),
    "retry_0.5": made_up(97, 68, share=0.05),
    "retry_0.5_masked": made_up(97, 69, share=0.05),
    "same_0.5": made_up(97, 65, share=0.7, told=(90, 1)),
}


def verdicts(changes: dict) -> dict[str, str]:
    runs = dict.fromkeys(range(5), AS_CLAIMED | changes)
    return {claim.id: evaluate(claim, runs).verdict for claim in EXPERIMENT.claims("cpu", PRESETS["cpu"])}


def test_verdicts_on_made_up_numbers():
    found = verdicts({})
    assert found == dict.fromkeys(found, "supported")
    helped = verdicts({"retry_0.5": made_up(99, 90, share=0.6, told=(60, 0))})
    assert {name for name, verdict in helped.items() if verdict == "refuted"} == {
        "MIS-BIO-1",
        "MIS-BIO-3",
        "MIS-BIO-4",
        "MIS-BIO-5",
    }
    assert verdicts({"retry_0.2": made_up(70, 70, share=0)})["MIS-BIO-2"] == "refuted"


@pytest.mark.parametrize(
    ("took_back", "verdict"),
    [
        ((100, 30, 30), "supported"),
        ((100, 30, 60), "refuted"),  # what is taken back is corrected
        ((100, 60, 30), "refuted"),  # or was right
        ((30, 9, 9), "supported"),
        ((29, 9, 9), "inconclusive"),  # too few to tell
        ((29, 0, 29), "inconclusive"),
        ((0, 0, 0), "inconclusive"),
    ],
)
def test_whether_taking_back_corrects_is_asked_where_something_is_taken_back(took_back, verdict):
    assert verdicts({"retry_0.5": made_up(97, 68, share=0.05, took_back=took_back)})["MIS-BIO-3"] == verdict


def test_models_that_learnt_nothing_support_nothing():
    nothing = made_up(0, 0, share=0, took_back=(0, 0, 0))
    assert set(verdicts(dict.fromkeys(AS_CLAIMED, nothing)).values()) == {"inconclusive"}
    forgetful = verdicts({"clean": made_up(50, 70, share=0)})
    assert set(forgetful.values()) == {"inconclusive"}
    all_known = verdicts({"clean": made_up(98, 98, share=0)})
    assert {name for name, verdict in all_known.items() if verdict == "inconclusive"} == {
        "MIS-BIO-1",
        "MIS-BIO-3",
        "MIS-BIO-5",
    }


def test_plots_are_drawn_from_whatever_is_there(runs, tmp_path):
    results = Results(
        title="", scale="smoke", seeds=(241,), runs={(name, 241): run for name, run in runs.items()}, verdicts=()
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert {path.name for path in drawn} == {"accuracy.png", "attempts.png"}
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_bad_presets():
    with pytest.raises(ValueError, match=r"0 < middle_rate < high_rate < 1, got 0\.6 and 0\.5"):
        replace(SMOKE, middle_rate=0.6)
    with pytest.raises(ValueError, match="exposures must be ≥ 2, got 1: wrong values would always be the same"):
        replace(SMOKE, exposures=1)
