from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import _reasoning_probe_measures as measures
from experiments._igsm import exam, familiar_exam
from experiments._reasoning_probes import VProbes, balanced, pooled
from experiments._reasoning_questions import (
    GROUPS,
    HARDEST,
    NEEDLESS,
    NOT_NEEDED,
    NOT_READY,
    REASK,
    WRONG,
    ask,
    ask_about_needless,
    ask_about_wrong_steps,
    beginning,
    joined,
)
from experiments._reasoning_use import Directions, Shift, Starts, about_to_write, changes, next_tokens
from experiments.igsm_probe import EXPERIMENT, PRESETS
from physlm.data.streams import IGNORE
from physlm.lab import Results, Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.probing.results import SHUFFLED, UNTRAINED
from physlm.randomness import Key
from physlm.worlds.igsm.labels import STATE_TASKS, TASKS, labels, probing_set

SMOKE = PRESETS["smoke"]
KEY = Key.of("questions of tests")


@pytest.fixture(scope="module")
def world():
    return SMOKE.practice.world_of(3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The metrics of the smoke scale, by condition."""
    workspace = Workspace(cache=tmp_path_factory.mktemp("igsm_probe"))
    return {
        condition.name: RunMetrics(EXPERIMENT.run(SMOKE, condition, 221, workspace))
        for condition in EXPERIMENT.conditions(SMOKE)
    }


def parameters_of(world, problem):
    """Number in the probing set, by the two tokens of the name."""
    return {
        world.vocabulary.name(problem, parameter): number
        for number, parameter in enumerate(probing_set(problem.widths))
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("question_first", [False, True])
def test_answers_are_those_of_what_is_read_and_asked(world, task, question_first):
    """Every question is read back from its tokens alone, and answered from the graph of its problem."""
    config = replace(world.config, question_first=question_first)
    asked = exam(type(world)(config), 3, 25)
    found = ask(asked, task, HARDEST, KEY, questions=4, existing_only=True)
    vocabulary = world.vocabulary
    places = found.inputs(vocabulary)
    assert (places.tokens == vocabulary.end).all()
    answers = set()
    for row in range(len(found)):
        tokens = places.samples.document(int(places.documents[row]))[0][: places.positions[row] + 1].tolist()
        problem = asked.problems[int(found.text[row])]
        number = parameters_of(asked.world, problem)
        question = tokens[len(tokens) - tokens[::-1].index(vocabulary.start) : -1]
        told = tokens[: tokens.index(vocabulary.start)]
        assert told == asked.documents[int(found.text[row])][: len(told)].tolist()
        solution = told[told.index(vocabulary.sol) + 1 :] if vocabulary.sol in told else []
        assert (vocabulary.sol in told) == (task in STATE_TASKS)
        assert (vocabulary.id("?") in told) == (task != "dep" or question_first)
        assert told[-1] in {vocabulary.id("."), vocabulary.id("?"), vocabulary.sol}
        truth = labels(problem, solution.count(vocabulary.id(".")))[task]
        if task == "dep":
            assert question[2] == vocabulary.mid
            label = truth[number[tuple(question[:2])], number[tuple(question[3:])]]
        else:
            label = truth[number[tuple(question)]]
        assert label == found.label[row]
        answers.add(int(label))
    assert len(answers) >= 2
    assert len(np.unique(np.stack([found.text, *found.names.T[:2]]), axis=1).T) == len(found), "all different"


def test_beginnings_end_where_marks_say_that_sentences_do(world):
    asked = exam(world, 3, 10)
    samples = asked.world.render(asked.split, asked.indices)
    for row in range(10):
        document, marks = samples.document(row)
        for read in range(int(marks["sentence"].max()) + 2):
            told = beginning(world.vocabulary, "known", document, read)
            in_solution = marks["sentence"] >= 0
            assert set(marks["sentence"][in_solution & (np.arange(len(document)) < len(told))]) == set(range(read))
            if len(told) < len(document):
                assert marks["sentence"][len(told)] in (read, marks["sentence"][-1])


def test_questions_without_the_problem_are_the_same_questions(world):
    found = ask(exam(world, 3, 5), "nece", HARDEST, KEY, questions=3, existing_only=False)
    whole, alone = found.inputs(world.vocabulary), found.inputs(world.vocabulary, alone=True)
    assert (alone.tokens == world.vocabulary.end).all()
    for text in np.unique(found.text):
        shorter = alone.samples.document(int(text))[0]
        assert shorter[0] == world.vocabulary.bos
        assert whole.samples.document(int(text))[0][-len(shorter) + 1 :].tolist() == shorter[1:].tolist()


def test_questions_about_a_problem_do_not_depend_on_others(world):
    few, many = (ask(exam(world, 3, count), "dep", HARDEST, KEY, questions=3, existing_only=True) for count in (4, 9))
    assert np.array_equal(few.names, many.names[: len(few)])
    assert np.array_equal(few.label, many.label[: len(few)])


def test_fitted_and_asked_problems_share_no_template(world):
    known = ask(familiar_exam(world, 200), "nece", HARDEST, KEY, questions=1, existing_only=True)
    new = ask(exam(world, 3, 200), "nece", REASK, KEY, questions=1, existing_only=True)
    assert not set(known.template.tolist()) & set(new.template.tolist())
    both = joined([known, new])
    assert len(both) == len(both.beginnings) == 400
    assert (both.group[200:] == GROUPS.index(REASK)).all()
    assert np.array_equal(both.text, np.arange(400))


def test_probes_refuse_templates_that_were_fitted(world):
    asked = ask(exam(world, 3, 20), "nece", HARDEST, KEY, questions=1, existing_only=True)
    probes = VProbes("nece", asked, [asked], world.vocabulary, rank=2, training=SMOKE.training, key=KEY)
    model = Transformer(SMOKE.reasoner.config(world.vocab_size), seed=0)
    with pytest.raises(ValueError, match="different entities"):
        probes.read(model, model)


@pytest.mark.parametrize("questions", [1, 4])
def test_what_is_computed_needlessly_is_asked_about(world, questions):
    """A solver that computes everything up to the query: all of it that is not needed is asked about."""
    config = replace(world.config, exact_operations=3, solution="everything", letters=52)
    asked = exam(type(world)(config), 3, 30)
    verdicts = asked.world.judge.check_many(asked.problems, asked.solutions)
    found = ask_about_needless(asked, verdicts, KEY, questions=questions)
    assert (found.label == 0).all()
    is_needless = found.group == GROUPS.index(NEEDLESS)
    assert is_needless.sum() == sum(verdict.unnecessary_parameters for verdict in verdicts) > 0
    assert (found.group[~is_needless] == GROUPS.index(NOT_NEEDED)).all()
    assert not is_needless.all()
    assert np.bincount(found.text).max() == questions
    rows = {
        tuple(document[: document.tolist().index(world.vocabulary.sol)].tolist()): row
        for row, document in enumerate(asked.documents)
    }
    row = np.array([rows[tuple(told.tolist())] for told in found.beginnings])[found.text]
    assert set(row[~is_needless]) <= set(row[is_needless])
    for number, names, needless in zip(row, found.names, is_needless, strict=True):
        problem = asked.problems[number]
        place = parameters_of(asked.world, problem)[tuple(names.tolist())]
        parameter = problem.parameters.index(probing_set(problem.widths)[place])
        assert not labels(problem)["nece"][place]
        assert (parameter in verdicts[int(number)].defined) == needless
    assert len(np.unique(np.stack([row, *found.names.T]), axis=1).T) == len(found), "all different"
    plain = exam(world, 3, 30)
    right = plain.world.judge.check_many(plain.problems, plain.solutions)
    assert ask_about_needless(plain, right, KEY, questions=questions) is None


@pytest.mark.parametrize("task", ["can_next", "nece_next"])
def test_steps_that_were_not_ready_are_asked_about(world, task):
    asked = exam(world, 3, 60)
    stop = world.vocabulary.id(".")
    # The first sentence left out: what follows is mostly not ready.
    solutions = [tokens[int(np.argmax(tokens == stop)) + 1 :] for tokens in asked.solutions]
    verdicts = asked.world.judge.check_many(asked.problems, solutions)
    early = [row for row, verdict in enumerate(verdicts) if verdict.reason == "not_ready"]
    found = ask_about_wrong_steps(asked, solutions, verdicts, task, KEY, questions=3)
    assert len(found.beginnings) == len(early) > 10
    assert (found.label == 0).all()
    assert set(found.group.tolist()) == {GROUPS.index(WRONG), GROUPS.index(NOT_READY)}
    for text, row in enumerate(early):
        problem, verdict = asked.problems[row], verdicts[row]
        state = labels(problem, set(verdict.defined))
        number = parameters_of(world, problem)
        assert found.beginnings[text].tolist() == [
            *asked.prompts[row],
            *solutions[row][: len(found.beginnings[text]) - len(asked.prompts[row])],
        ]
        assert (found.beginnings[text] == stop).sum() == (asked.prompts[row] == stop).sum() + len(verdict.defined)
        for names, group in zip(found.names[found.text == text], found.group[found.text == text], strict=True):
            place = number[tuple(names.tolist())]
            assert not state["can_next"][place]
            assert not state["known"][place]
            is_wrong = probing_set(problem.widths)[place] == problem.parameters[verdict.parameter]
            assert is_wrong == (group == GROUPS.index(WRONG))
    alone = ask_about_wrong_steps(asked, solutions, verdicts, task, KEY, questions=1)
    assert (np.bincount(alone.text) == 1).all(), "of two questions about a state, each stands behind a text of its own"
    assert (alone.group == GROUPS.index(WRONG)).sum() == len(early)
    assert (alone.group == GROUPS.index(NOT_READY)).any()
    right = asked.world.judge.check_many(asked.problems, asked.solutions)
    assert ask_about_wrong_steps(asked, asked.solutions, right, task, KEY, questions=3) is None


@pytest.mark.parametrize("rendering", ["compact", "english"])
def test_items_are_ready_where_a_parameter_of_them_is(world, rendering):
    asked = exam(type(world)(replace(world.config, rendering=rendering)), 3, 20)
    starts = Starts.of(asked)
    row = 0
    for number, problem in enumerate(asked.problems):
        for read in range(len(problem.solution)):
            told = starts.inputs.samples.document(row)[0]
            assert (told == world.vocabulary.id(".")).sum() - (
                asked.prompts[number] == world.vocabulary.id(".")
            ).sum() == read
            written = problem.parameters[problem.solution[read]]
            assert told.tolist() == asked.documents[number][: len(told)].tolist()
            assert asked.documents[number][len(told)] == world.vocabulary.name(problem, written)[0]
            state = labels(problem, read, existing_only=True)
            for task in ("can_next", "nece"):
                expected = {}
                for parameter, answer in zip(problem.parameters, state[task], strict=True):
                    first = world.vocabulary.name(problem, parameter)[0]
                    expected[first] = max(expected.get(first, 0), int(answer))
                for item, answers in starts.items[task].items():
                    assert answers[row] == expected.get(item, IGNORE)
            row += 1
    assert row == len(starts.inputs)


def test_both_items_are_ready_where_one_of_them_is_moved(world):
    asked = exam(world, 3, 40)
    starts = Starts.of(asked)
    firsts = [starts.inputs.samples.document(row)[0].size for row in range(len(starts.inputs))]
    problem = np.repeat(np.arange(40), [len(one.solution) for one in asked.problems])
    before = np.array([asked.documents[number][first] for number, first in zip(problem, firsts, strict=True)])
    told = {str(item): answers for item, answers in starts.items["can_next"].items()}
    items, answers = np.array(list(starts.items["can_next"])), np.stack(list(told.values()), axis=1)
    rows, item, other = about_to_write(before, told, KEY)
    assert (items[item] == before[rows]).all()
    assert (answers[rows, item] == 1).all()
    assert (answers[rows, other] == 1).all()
    assert (item != other).all()
    assert set(rows) == set(np.flatnonzero((answers == 1).sum(axis=1) > 1)), "a canonical solution writes what is ready"


def test_only_names_of_items_are_counted_as_changes(world):
    model = Transformer(SMOKE.reasoner.config(world.vocab_size), seed=0)
    inputs, layer = Starts.of(exam(world, 3, 40)).inputs, "block.0.resid_post"
    # So far that what is written changes.
    directions = Directions(torch.nn.functional.normalize(torch.randn(2, 16), dim=-1), torch.tensor([50.0, -50.0]))
    rows = np.arange(len(inputs))
    about = rows, np.zeros_like(rows), np.ones_like(rows)
    before = next_tokens(model, inputs)
    after = next_tokens(model, inputs, layer, directions.shift(about[1]))
    some = np.unique(after[after != before])[:1]
    assert len(some) == 1
    for items in (some, np.arange(world.vocab_size), np.array([], dtype=int)):
        found = changes(model, inputs, before, items, about, layer, directions, 1, KEY)
        assert found["probe"] == np.mean((after != before) & np.isin(after, items))
        assert found["places"] == len(inputs)
    assert found["probe"] == found["other"] == found["random"][0] == 0, "no token is the name of an item"


def test_states_are_moved_to_the_goal_at_one_place_only():
    state, away = torch.randn(3, 5, 8), torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    goal, rows = torch.randn(4), np.array([2, 0, 3])
    places = torch.tensor([[0, 1, 2], [4, 0, 2]])
    moved = Shift(away, away, goal).edit(rows, places)(state)
    there = moved[places[0], places[1]]
    assert torch.allclose((there * away[rows]).sum(-1), goal[rows], atol=1e-5)
    random = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    elsewhere = Shift(away, random, goal).edit(rows, places)(state)
    sizes = [(changed - state).norm(dim=-1)[places[0], places[1]] for changed in (moved, elsewhere)]
    assert torch.allclose(*sizes, atol=1e-5), "as far in a random direction"
    changed = (moved != state).any(-1)
    assert changed.sum() == 3
    assert changed[places[0], places[1]].all()


def test_next_tokens_are_those_of_the_model(world):
    model = Transformer(SMOKE.reasoner.config(world.vocab_size), seed=0)
    starts = Starts.of(exam(world, 2, 6))
    found = next_tokens(model, starts.inputs)
    for row, token in enumerate(found):
        text = torch.from_numpy(starts.inputs.samples.document(row)[0]).long()[None]
        assert model(text)[0, -1].argmax() == token
    still = Directions(torch.eye(16)[:1], torch.zeros(1))
    shift = still.shift(np.zeros(len(starts.inputs), dtype=int), torch.zeros(len(starts.inputs), 16))
    assert np.array_equal(next_tokens(model, starts.inputs, "block.0.resid_post", shift), found), "nothing was moved"


def test_balanced_and_pooled_accuracies():
    found = {"0": {"questions": 30, "accuracy": 1.0}, "1": {"questions": 10, "accuracy": 0.5}}
    assert balanced(found) == 0.75
    assert pooled(found) == 0.875
    assert np.isnan(balanced({"0": found["0"]}))
    assert np.isnan(pooled({}))


def cell(accuracy, *, questions=100, control=0.5):
    controls = dict.fromkeys(measures.CONTROLS, control)
    return {"questions": questions, "accuracy": accuracy, **controls}


def made_up(**changes):
    """The metrics of a model that bears every claim out, but for what is changed."""
    share = {"nece": 0.9, "dep": 0.8, "known": 0.99, "value": 0.9, "can_next": 0.9, "nece_next": 0.85}
    share |= {task: changes[task] for task in TASKS if task in changes}
    far = changes.get("far", 0.7)
    probes = {}
    for task in TASKS:
        cells = {"0": cell(share[task]), "1": cell(share[task])}
        distance = {str(t): {"1": cell(0.9 if t < 3 else far)} for t in range(4)}
        group = {"all": cells, "unneeded": cells, "distance": distance}
        probes[task] = {"groups": {HARDEST: group, "beyond": group, REASK: group}}
    wanted = {
        "nece": {NEEDLESS: 0.3, NOT_NEEDED: 0.9},
        "can_next": {WRONG: 0.5, NOT_READY: 0.9},
        "nece_next": {WRONG: 0.5, NOT_READY: 0.9},
    }
    for task, groups in wanted.items():
        for group, accuracy in groups.items():
            probes[task]["groups"][group] = {"all": {"0": cell(changes.get(group, accuracy))}}
    layers = {
        f"block.{block}.resid_post": {
            "all": {"0": cell(0.8)},
            "distance": {str(t): {"1": cell((0.9, 0.9, 0.9, changes.get("far_middle", 0.6))[t])} for t in range(4)},
        }
        for block in range(3)
    }
    moved = {"places": 400, "probe": changes.get("used", 0.3), "other": 0.05, "random": [0.02, 0.04], "readable": 0.9}
    accuracy = {"familiar": changes.get("familiar", 0.95), HARDEST: 0.7}
    return RunMetrics(
        probes=probes,
        layers={"nece": layers},
        use={task: {str(block): moved for block in range(3)} for task in ("can_next", "nece")},
        accuracy=accuracy,
    )


def by_condition(whole, model="problem_first"):
    """The same as one run for each task, and one for the use, as the experiment makes them."""
    found = {
        f"{model}/{task}": {
            "accuracy": whole.at("accuracy"),
            "probes": {task: whole.at("probes")[task]},
            **({"layers": whole.at("layers")} if task == "nece" else {}),
        }
        for task in TASKS
    }
    found[f"{model}/use"] = {"accuracy": whole.at("accuracy"), "use": whole.at("use")}
    return {name: RunMetrics(run) for name, run in found.items()}


def held(runs):
    """Which claims hold, by id, on the values themselves; each gets the runs that it says it reads, no others."""

    def is_so(claim, predicate):
        value = predicate.measure({name: runs[name] for name in claim.conditions})
        low, high = predicate.threshold if predicate.relation == "between" else (predicate.threshold,) * 2
        return (value >= low or predicate.relation == "≤") and (value <= high or predicate.relation == "≥")

    return {
        claim.id: all(is_so(claim, one) for one in (*claim.predicates, *claim.requires))
        for claim in EXPERIMENT.claims("cpu", PRESETS["cpu"])
    }


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({}, set()),
        ({"nece": 0.72}, {"IGSM-5"}),
        ({"nece_next": 0.55}, {"IGSM-5"}),
        ({"dep": 0.55}, {"IGSM-5", "IGSM-6"}),
        ({"used": 0.06}, {"IGSM-5-used"}),
        ({NEEDLESS: 0.6}, {"IGSM-7"}),
        ({NOT_NEEDED: 0.4}, {"IGSM-7"}),
        ({WRONG: 0.8}, {"IGSM-8"}),
        ({"far_middle": 0.9}, {"IGSM-10"}),
        ({"familiar": 0.5}, {"IGSM-5", "IGSM-5-used", "IGSM-6", "IGSM-7", "IGSM-8", "IGSM-10", "IGSM-11"}),
    ],
)
def test_claims_hold_where_they_should(changes, lost):
    found = held(by_condition(made_up(**changes)) | by_condition(made_up(nece=0.95), "question_first"))
    assert {name for name, holds in found.items() if not holds} == lost


def test_question_first_has_to_be_better():
    second = by_condition(made_up(nece=0.85), "question_first")
    assert not held(by_condition(made_up()) | second)["IGSM-11"]


def test_runs_have_what_the_claims_read(runs):
    for claim in EXPERIMENT.claims("smoke", SMOKE):
        assert set(claim.conditions) <= set(runs)
        for predicate in (*claim.predicates, *claim.requires):
            value = predicate.measure({name: runs[name] for name in claim.conditions})
            assert isinstance(value, float), predicate.name
    run = measures.together(runs, "problem_first")
    assert {"parameters", "curve", "accuracy", "use"} <= set(run)
    for task in TASKS:
        assert np.isfinite(measures.beyond_controls(measures.cells(run, task)))
        summary = run.at("probes")[task]["summary"]
        assert summary["shared entities"] == 0
        assert {"accuracy", "control task", "selectivity", "compression", *measures.CONTROLS} <= set(summary)
    for layer in run.at("layers")["nece"].values():
        for found in layer["all"].values():
            assert UNTRAINED in found
            assert SHUFFLED not in found, "nobody reads it, and it costs a fit"
    assert list(measures.together(runs, "question_first").at("probes")) == list(SMOKE.question_first)


def test_everything_is_drawn(runs, tmp_path):
    results = Results(
        title=EXPERIMENT.title,
        scale="smoke",
        seeds=(221,),
        runs={(name, 221): run for name, run in runs.items()},
        verdicts=(),
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert len(drawn) == 7
    assert all(path.stat().st_size > 5000 for path in drawn)
    some = {key: run for key, run in results.runs.items() if key[0].endswith(("/dep", "/use"))}
    names = [path.name for path in EXPERIMENT.plots(replace(results, runs=some), tmp_path)]
    assert names == ["tasks.png", "used_can_next.png", "used_nece.png"]
    assert EXPERIMENT.plots(replace(results, runs={}), tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rank", 0, "rank must be ≥ 1, got 0"),
        ("study", replace(SMOKE.study, beyond=3), "study.beyond must be > 3 operations, got 3"),
        ("layered", ("dep",), "layered must be among nece, .*, with nece, got dep"),
        ("question_first", ("nece", "why"), "question_first must be among .*, got nece, why"),
    ],
)
def test_bad_presets(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(SMOKE, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("questions", 0, "questions must be ≥ 1, got 0"), ("solved", 5, "solved must be ≥ asked = 20, got 5")],
)
def test_bad_studies(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(SMOKE.study, **{field: value})


def test_bad_questions(world):
    with pytest.raises(ValueError, match="questions must be ≥ 1, got 0"):
        ask(exam(world, 3, 2), "nece", HARDEST, KEY, questions=0, existing_only=True)
