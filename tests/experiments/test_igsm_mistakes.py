from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments._igsm import SOLUTION_ROLES, exam, training_stream
from experiments._igsm_training import pretrain
from experiments._mistaken_texts import CLEAN, ShortDocuments, Text
from experiments._mistakes_comparisons import right_after_chains, share_of_text
from experiments._mistakes_measures import after_long_chains, examine, write
from experiments._mistakes_plots import in_words
from experiments._mistakes_presets import Trial
from experiments._mistakes_training import adapt, text_loss
from experiments._regret_detectors import train_detector
from experiments.igsm_mistakes import CORE, EXPERIMENT, PRESETS, conditions, exams
from physlm.data.contract import FreshWorld
from physlm.data.streams import IGNORE, PackedStream
from physlm.lab import Results, Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.igsm.rendering import ROLES
from physlm.worlds.mistakes import AttemptRole

SMOKE = PRESETS["smoke"]


def shorter(practice):
    return replace(practice, recipe=replace(practice.recipe, steps=8), problems=4, curve_problems=2, log_points=2)


TINY = replace(
    SMOKE, practice=shorter(SMOKE.practice), low_rank=shorter(SMOKE.low_rank), continued=shorter(SMOKE.continued)
)
WORLD = SMOKE.practice.world_of(3)
CONTEXT = SMOKE.reasoner.context
VOCABULARY = WORLD.vocabulary
MANY = Text(rate=0.5)


def stream_of(text: Text, practice=SMOKE.practice) -> PackedStream:
    source = text.source(WORLD, context=CONTEXT, whole_loss=practice.whole_loss)
    return training_stream(practice, source, CONTEXT, 3)


def documents_of(windows) -> list[bytes]:
    """The documents of some windows in order, without attempts."""
    reader, found = CLEAN.world(WORLD), []
    for window in windows:
        for part in np.split(window, np.flatnonzero(window == WORLD.eos)):
            words = part[(part != WORLD.eos) & (part != WORLD.pad)]
            if len(words):
                found.append(reader.strip(words).tobytes())
    return found


def test_all_texts_tell_the_same_problems_in_the_same_order_at_equal_tokens():
    clean, windows, problems = None, None, {}
    for text in (CLEAN, MANY, Text(rate=0.5, kind="retry_weak"), Text(rate=0.5, kind="retry_miss")):
        stream = stream_of(text)
        batches = [stream.next_batch() for _ in range(10)]
        window = np.concatenate([batch.window for batch in batches])
        windows = window.shape if windows is None else windows
        assert window.shape == windows, "as many windows of as many positions"
        found = documents_of(window)
        problems[text.name] = len(found)
        clean = [WORLD["train", i].tokens.astype(np.int64).tobytes() for i in range(400)] if clean is None else clean
        source = stream.sources[0].world
        if isinstance(source, ShortDocuments):
            kept = [i for i in range(len(found)) if source.chosen("train", np.array([i]))[0] == i]
            assert len(kept) > 0.9 * len(found)
        else:
            kept = list(range(len(found)))
        assert all(found[i] == clean[i] for i in kept)
        assert stream.state()["cursors"] == [len(found)]
    assert problems["retry_0.5"] < problems["clean"]
    assert list(problems) == ["clean", "retry_0.5", "retry_weak_0.5", "retry_miss_0.5"]


@pytest.mark.parametrize("mask", ["none", "head"])
def test_loss_is_on_solutions_and_on_attempts_unless_they_are_masked(mask):
    text = replace(MANY, mask=mask)
    source = text.source(WORLD, context=CONTEXT, whole_loss=False)
    stream = PackedStream(
        [source], context=CONTEXT, batch_size=8, key=Key.of("masks"), overflow="whole", marks=("role",)
    )
    batch = stream.next_batch()
    bears_loss, roles, targets = batch.targets != IGNORE, batch.marks["role"], batch.window[:, 1:]
    attempted = np.isin(roles, (AttemptRole.FRAME, AttemptRole.NAME))
    taken_back = np.isin(roles, (AttemptRole.BACK, AttemptRole.END))
    assert attempted.any()
    assert taken_back.any()
    assert (bears_loss[attempted] == (mask == "none")).all()
    assert bears_loss[taken_back].all()
    assert bears_loss[np.isin(roles, (ROLES["solution"], ROLES["answer"]))].all()
    assert bears_loss[targets == WORLD.eos].all()
    known = [*SOLUTION_ROLES, *AttemptRole]
    assert not bears_loss[~np.isin(roles, known)].any()
    whole = text.source(WORLD, context=CONTEXT, whole_loss=True).loss_roles
    assert whole is None or (ROLES["problem"] in whole and AttemptRole.NAME not in whole)


def test_documents_that_are_too_long_give_way_to_others():
    world = MANY.world(WORLD)
    longest = int(np.median(world.lengths_at("train", np.arange(200))))
    short = ShortDocuments(world, longest)
    assert isinstance(short, FreshWorld)
    numbers = np.arange(200)
    chosen, lengths = short.chosen("train", numbers), short.lengths_at("train", numbers)
    fits = world.lengths_at("train", numbers) <= longest
    assert 0 < fits.sum() < 200
    np.testing.assert_array_equal(chosen[fits], numbers[fits])
    assert lengths.max() <= longest
    assert len(set(chosen.tolist())) == 200
    samples = short.render("train", numbers, marks=("role",))
    np.testing.assert_array_equal(np.diff(samples.offsets), lengths)
    long = int(np.flatnonzero(~fits)[0])
    document = short["train", long]
    np.testing.assert_array_equal(document.tokens, samples.document(long)[0])
    assert short.check(document.truth, document.tokens)
    assert short.fingerprint() != ShortDocuments(world, longest + 1).fingerprint()
    with pytest.raises(ValueError, match="longest must be a length of usual documents, got 3"):
        ShortDocuments(world, 3).chosen("train", numbers)


def solutions_of(text: Text, asked) -> list[np.ndarray]:
    """What the text itself says after the prompts."""
    samples = text.world(asked.world).render(asked.split, asked.indices)
    documents = [samples.document(i)[0].astype(np.int64) for i in range(len(asked.indices))]
    return [document[int(np.argmax(document == VOCABULARY.sol)) + 1 :] for document in documents]


def test_attempts_do_not_count_as_wrong_and_are_counted_as_the_text_has_them():
    asked = exam(WORLD, 3, 300)
    solutions, ended = solutions_of(MANY, asked), np.ones(300, dtype=bool)
    found = RunMetrics({"text": RunMetrics(examine(asked, solutions, ended, MANY))})
    assert found.number("text.mean") == 1
    assert found.number("text.unnecessary_operations") == 0
    attempts = MANY.attempts(asked)
    assert attempts.sum() == sum((solution == VOCABULARY.back).sum() for solution in solutions) > 200
    assert found.number("text.retries.in_right") == found.number("text.retries.in_text") == attempts.sum()
    assert found.number("text.retries.per_right_solution") == pytest.approx(attempts.mean())
    assert found.number("text.retries.in_wrong") == 0
    assert found.outcomes("text.retries.after_long_chains").all()
    assert found.number("text.retries.long_chains") == len(found.outcomes("text.retries.after_long_chains")) > 20

    clean = examine(asked, solutions_of(CLEAN, asked), ended, MANY)["retries"]
    assert clean["in_right"] == clean["places"] == 0 < clean["in_text"]
    unfinished = examine(asked, solutions, ~ended, MANY)
    assert unfinished["mean"] == 0
    assert unfinished["retries"]["in_wrong"] == attempts.sum()
    assert unfinished["retries"]["per_right_solution"] is None
    assert CLEAN.attempts(asked).sum() == 0


def test_what_follows_a_chain_of_attempts_is_judged():
    """`<attempt> <attempt> <sentence>`: right as it is, wrong with another result; beyond a mistake nobody knows."""
    asked = exam(WORLD, 3, 60)
    stop, back = VOCABULARY.id("."), VOCABULARY.back
    problems = asked.problems
    (clean,) = solutions_of(CLEAN, replace(asked, indices=asked.indices[:1]))
    ends = np.flatnonzero(clean == stop)
    first, rest = clean[: ends[0] + 1], clean[ends[0] + 1 :]
    attempt = np.array([*first[:2], back, stop])
    wrong = first.copy()
    assert VOCABULARY.decode(first[-3:]).startswith("= ")
    wrong[-2] = next(VOCABULARY.number(i) for i in range(2) if VOCABULARY.number(i) != first[-2])

    def after(*parts) -> list[bool]:
        text = np.concatenate(parts)
        verdicts = asked.world.judge.check_many(problems[:1], [text])
        return after_long_chains(asked, [text], verdicts).tolist()

    assert after(attempt, attempt, first, rest) == [True]
    assert after(attempt, first, rest) == []
    assert after(attempt, attempt, wrong, rest) == [False]
    assert after(wrong, attempt, attempt, rest) == []
    assert after(first, attempt, attempt, attempt, rest) == [True]
    assert after(attempt, attempt) == [False], "attempts without end are not right"


def test_every_way_to_write_gives_every_problem_a_solution():
    model, asked = Transformer(SMOKE.reasoner.config(WORLD.vocab_size), seed=0), exam(WORLD, 2, 6)
    texts = {}
    trained, accuracy = train_detector(model, WORLD, SMOKE.detector, Key.of("detector"))
    assert accuracy["balanced"] == pytest.approx((accuracy["ready"] + accuracy["not_ready"]) / 2)
    for decoding in ("greedy", "beams", "regret", "detector"):
        texts[decoding], ended = write(model, asked, decoding, Key.of("ways"), SMOKE, trained=trained)
        assert len(texts[decoding]) == len(ended) == 6
        assert all(len(text) <= asked.room for text in texts[decoding])
    again, _ = write(model, asked, "regret", Key.of("ways"), SMOKE)
    assert all(np.array_equal(one, other) for one, other in zip(texts["regret"], again, strict=True))
    with pytest.raises(ValueError, match="trained must be a detector where decoding is 'detector', got None"):
        write(model, asked, "detector", Key.of("ways"), SMOKE)


def test_the_trained_detector_decides_what_is_deleted():
    model, asked = Transformer(SMOKE.reasoner.config(WORLD.vocab_size), seed=0), exam(WORLD, 2, 6)
    with torch.no_grad():  # a model that mostly writes full stops
        model.final_norm.weight.zero_()
        model.final_norm.bias.fill_(1.0)
        model.embed.weight.zero_()
        model.embed.weight[WORLD.vocabulary.id(".")] = 5.0 / model.config.width

    def written(decoding, objects=None):
        trained = None if objects is None else lambda numbers, *_: np.full(len(numbers), objects)
        return write(model, asked, decoding, Key.of("ways"), SMOKE, trained=trained)[0]

    def same(some, others):
        return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))

    assert same(written("detector", False), written("greedy"))
    assert not same(written("detector", True), written("greedy"))
    assert same(written("regret", True), written("regret")), "the perfect one does not ask the other"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(cache=tmp_path_factory.mktemp("cache"))


def test_late_training_goes_on_from_the_clean_model_at_equal_tokens(workspace):
    base = pretrain(workspace, TINY.practice, SMOKE.reasoner, CLEAN, 3)
    again = pretrain(workspace, TINY.practice, SMOKE.reasoner, CLEAN, 3)
    assert again.curve == base.curve
    assert again.model is not base.model
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in weights.items())
    stream = stream_of(CLEAN, TINY.practice)
    for _ in range(TINY.practice.recipe.steps):
        stream.next_batch()
    assert base.position == stream.state()
    assert base.documents == stream.state()["cursors"][0]

    adapted = adapt(workspace, base, TINY.low_rank, MANY, 3, rank=2, loss_batches=2)
    kept = {name: value for name, value in base.model.state_dict().items() if name.endswith(".original")}
    assert kept
    assert all(
        torch.equal(value, weights[name.replace("parametrizations.", "").replace(".original", "")])
        for name, value in kept.items()
    )
    assert adapted.trained_parameters < sum(value.numel() for value in weights.values()) / 2
    going_on = stream_of(MANY, TINY.low_rank)
    going_on.restore(stream.state())
    for _ in range(8):
        going_on.next_batch()
    assert adapted.problems == going_on.state()["cursors"][0] - base.documents > 0
    assert adapted.loss_before == text_loss(again.model, TINY.low_rank, MANY, 3, batches=2) != adapted.loss_after


@pytest.fixture(scope="module")
def runs(workspace):
    """What some conditions of the smoke scale have measured."""
    known = {condition.name: condition for condition in conditions(SMOKE)}
    names = ("clean", "clean/regret", "clean/detector", "late/retry_0.2/rank2", "retry_0.5")
    return {
        name: RunMetrics(
            EXPERIMENT.run(
                TINY,
                known[name],
                201,
                Workspace(cache=workspace.cache, scratch=workspace.cache / name.replace("/", "-")),
            )
        )
        for name in names
    }


def test_every_model_is_read_by_a_claim_and_runs_have_what_claims_read(runs):
    claims = {claim.id: claim for claim in EXPERIMENT.claims("smoke", SMOKE)}
    names = {condition.name for condition in conditions(SMOKE)}
    assert set(CORE) <= set(claims)
    assert {name for claim in claims.values() for name in claim.conditions} == names
    like = {name: runs["late/retry_0.2/rank2" if name.startswith("late") else "retry_0.5"] for name in names} | runs
    like["clean/beams"] = like["retry_0.5/beams"] = runs["clean/regret"]
    for claim in claims.values():
        chosen = {name: like[name] for name in claim.conditions}
        for one in (*claim.predicates, *claim.requires):
            value = one.measure(chosen)
            value = getattr(value, "value", value)
            assert np.isnan(value) or -2 <= value <= 2
    late = runs["late/retry_0.2/rank2"]
    assert late.number("text_loss.after") < late.number("text_loss.before")
    assert late.number("problems") > runs["clean"].number("problems") > runs["retry_0.5"].number("problems")
    assert set(runs["clean/regret"].at("accuracy")) == {"new_3", "new_4"}
    assert set(runs["clean/detector"].at("detector")) == {"ready", "not_ready", "balanced"}
    assert set(runs["clean"].at("accuracy")) == {"new_3", "new_4", "familiar", "reask"}


def test_what_claims_read_is_pooled_over_sets():
    """Two sets of problems: 1 attempt of 4, and 2 of 2."""
    counts = [
        {"in_right": 1, "in_text": 4, "after_long_chains": {"format": "packbits", "shape": [0], "bits": ""}},
        {"in_right": 2, "in_text": 2, "after_long_chains": {"format": "packbits", "shape": [2], "bits": "gA=="}},
    ]
    run = RunMetrics({"accuracy": {f"new_{i}": {"retries": one} for i, one in enumerate(counts)}})
    assert share_of_text("one", ["new_0", "new_1"])({"one": run}) == 0.5
    assert right_after_chains("one", ["new_0", "new_1"])({"one": run}).value == 0.5
    assert np.isnan(right_after_chains("one", ["new_0"])({"one": run}).value)


def test_all_conditions_of_a_seed_are_asked_the_same():
    few, more = (exams(SMOKE, 3, only_hard=only_hard) for only_hard in (True, False))
    assert list(few) == ["new_3", "new_4"]
    for name, asked in few.items():
        assert asked.world is more[name].world
        np.testing.assert_array_equal(asked.indices, more[name].indices)


def test_plots_are_drawn_from_whatever_is_there(runs, tmp_path):
    results = Results(
        title="", scale="smoke", seeds=(201,), runs={(name, 201): run for name, run in runs.items()}, verdicts=()
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert {path.name for path in drawn} == {"accuracy.png", "retries.png", "hardest.png", "familiar.png"}
    assert all(path.stat().st_size > 5000 for path in drawn)
    assert in_words("retry_weak_0.1") == "later ones 10\N{NO-BREAK SPACE}%"
    assert in_words("late/retry_0.2_masked/rank4") == "clean, then wrong 20\N{NO-BREAK SPACE}%, masked, rank 4"


def test_names_of_conditions():
    assert Trial().name == "clean"
    assert Trial(decoding="beams").name == "clean/beams"
    assert Trial(late=Text(rate=0.2)).name == "late/retry_0.2/full"
    assert Trial(text=Text(rate=0.2), budgets=2).name == "double/retry_0.2"
    doubled = SMOKE.budget(Trial(text=Text(rate=0.2), budgets=2))
    assert SMOKE.windows(doubled) == 2 * SMOKE.windows(SMOKE.practice)
    for preset in PRESETS.values():
        assert len({condition.name for condition in conditions(preset)}) == len(conditions(preset))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(SMOKE, low_rate=0.3), "low_rate < middle_rate < high_rate < 1, got 0.3, 0.2 and 0.5"),
        (lambda: replace(SMOKE, hard=(4, 3)), r"hard must be growing numbers, at least one, got \(4, 3\)"),
        (
            lambda: replace(SMOKE, low_rank=replace(SMOKE.low_rank, batch_size=5)),
            "low_rank must read as many windows as practice, 80, got 100: comparisons are at equal tokens",
        ),
    ],
)
def test_presets_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        change()
