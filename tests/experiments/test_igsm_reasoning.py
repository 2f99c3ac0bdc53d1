from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from experiments._igsm import SOLUTION_ROLES, Exam, exam, familiar_exam, make_world, solve, without_a_plan
from experiments._reasoning_claims import effective_templates
from experiments._reasoning_presets import DEEP, LIMITS, PRESETS, TEMPLATES, WIDE
from experiments.igsm_reasoning import EXPERIMENT, conditions, count_templates, limits
from physlm.data.streams import IGNORE, PackedStream, Source
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer, parameter_count
from physlm.randomness import Key
from physlm.training.objectives import next_token_loss
from physlm.worlds.igsm.dependencies import Dependencies

SMOKE = PRESETS["smoke"]
WORLD = SMOKE.practice.world_of(3)


def chance_without_a_plan(problem) -> float:
    """Share of all orders of the parameters in which everything up to the query comes after what it needs."""
    graphs = Dependencies.of([problem])
    predecessors = [int(mask) for mask in graphs.predecessors[0, : int(graphs.count[0])]]
    right = total = 0
    for order in permutations(range(len(predecessors))):
        written, good = 0, True
        for parameter in order[: order.index(problem.query) + 1]:
            good &= predecessors[parameter] & ~written == 0
            written |= 1 << parameter
        right, total = right + good, total + 1
    return right / total


@pytest.mark.parametrize("scale", ["cpu", "gpu", "paper"])
def test_letters_of_longer_problems_are_all_seen_in_training(scale):
    preset = PRESETS[scale]
    world = preset.practice.world_of(1)
    seen = {letter for one in world.problems("train", np.arange(500)) for letter in one.letters}
    asked = {letter for one in exam(world, preset.beyond[-1], 100).problems for letter in one.letters}
    assert asked <= seen


def test_a_writer_without_a_plan_is_right_as_often_as_random_orders_are():
    asked = exam(WORLD, 2, 400)
    graphs = Dependencies.of(asked.problems)
    small = [problem for problem, count in zip(asked.problems, graphs.count, strict=True) if count <= 6][:8]
    assert len(small) == 8
    for i, problem in enumerate(small):
        often = without_a_plan([problem] * 4000, Key.of("orders", i)).mean()
        assert often == pytest.approx(chance_without_a_plan(problem), abs=0.03)


def test_a_writer_without_a_plan_is_accepted_by_the_judge_when_it_is_right():
    """Its orders are judged as solutions: those called right compute everything they use, the others do not."""
    problems = exam(WORLD, 3, 200).problems
    right = without_a_plan(problems, Key.of("judged"))
    graphs = Dependencies.of(problems)
    generator = Key.of("judged").generator()
    for row, (problem, is_right) in enumerate(zip(problems, right, strict=True)):
        order = generator.permutation(int(graphs.count[row])).tolist()
        order = order[: order.index(problem.query) + 1]
        rewritten = replace(problem, solution=tuple(order))
        try:
            tokens = WORLD.renderer.solution(rewritten)
        except ValueError:  # something is not ready, or there are more steps than letters
            assert not is_right or len(order) > len(problem.solution)
            continue
        if is_right:
            assert WORLD.judge.check(problem, tokens).correct


def test_new_problems_have_templates_that_were_not_trained_on_and_familiar_ones_do():
    trained = set(WORLD.templates("train", np.arange(3000)).tolist())
    new = exam(WORLD, 3, 200)
    familiar = familiar_exam(WORLD, 200)
    assert not trained & set(new.world.templates(new.split, new.indices).tolist())
    seen = [template in trained for template in familiar.world.templates(familiar.split, familiar.indices).tolist()]
    assert np.mean(seen) > 0.95
    texts = {document.tobytes() for document in familiar.documents}
    stream = [WORLD["train", i].tokens.astype(np.int64).tobytes() for i in range(200)]
    assert len(texts & set(stream)) < 40, "other problems, although some of one operation are bound to be the same"


def test_a_model_is_asked_for_the_solution_and_for_its_end():
    stream = PackedStream(
        [Source(WORLD, "train", loss_roles=SOLUTION_ROLES)],
        context=256,
        batch_size=2,
        key=Key.of("stream"),
        overflow="whole",
        document_mask=True,
    )
    batch = stream.next_batch()
    targets = next_token_loss.examples(batch, WORLD.vocab_size).targets
    assert (targets == WORLD.eos).sum() >= 2
    for row_inputs, row_targets in zip(batch.inputs, targets, strict=True):
        for before, target in zip(row_inputs, row_targets, strict=True):
            if before == WORLD.vocabulary.sol:
                assert target != IGNORE
        assert WORLD.vocabulary.id("?") not in row_targets


def test_the_solutions_of_the_world_pass_and_hold_nothing_unneeded():
    for asked in (exam(WORLD, 3, 100), exam(WORLD, 3, 100, reask=True), familiar_exam(WORLD, 100)):
        verdicts = asked.world.judge.check_many(asked.problems, asked.solutions)
        assert verdicts.correct.all()
        assert {one.unnecessary_operations for one in verdicts} == {0}


def test_an_untrained_model_solves_nothing_and_every_failure_has_a_reason():
    asked = exam(WORLD, 2, 40)
    solved = solve(Transformer(SMOKE.deep.config(WORLD.vocab_size), seed=0), asked)
    assert not solved.correct.any()
    assert sum(solved.reasons.values()) == 40
    assert solved.metrics()["unnecessary_operations"] is None


def test_limits_need_no_model():
    found = RunMetrics(limits(SMOKE, 3))
    asked = exam(WORLD, 3, SMOKE.practice.problems)
    zeros = np.mean([asked.world.vocabulary.decode(document[-1:]) == "0" for document in asked.documents])
    assert found.number("answer_zero.new_3") == zeros
    eager = make_world(replace(WORLD.config, exact_operations=3, solution="everything"))
    whole = Exam(eager, "test", np.arange(SMOKE.practice.problems))
    verdicts = eager.judge.check_many(whole.problems, whole.solutions)
    assert (
        found.number("eager.new_3.unnecessary_operations")
        == np.mean([one.unnecessary_operations or 0 for one in verdicts])
        > 0
    )


def test_templates_are_counted_by_pairs():
    """A world of few templates: as many pairs as the chances of the templates say."""
    preset = replace(SMOKE, template_world=replace(SMOKE.practice.world, exact_operations=2), templates=4000)
    found = RunMetrics(count_templates(preset, 3))
    assert found.number("shared_by_training_and_test") == 0
    templates = np.concatenate([exam(WORLD, 2, 4000).world.templates(split, np.arange(4000)) for split in ("train",)])
    _, counts = np.unique(templates, return_counts=True)
    on_one_side = 1 / ((counts / counts.sum()) ** 2).sum()
    effective = effective_templates({TEMPLATES: found}) * 1e9
    assert on_one_side < effective < 2 * on_one_side


def test_the_world_of_the_paper_has_more_templates_than_can_be_told_from_a_few_problems():
    """As it stands it would have some sixty: an eighth of its problems have one operation, and two templates."""
    preset = replace(SMOKE, templates=20_000)
    found = {TEMPLATES: RunMetrics(count_templates(preset, 3))}
    assert effective_templates(found) > 0.05
    every_length = replace(preset, template_world=replace(preset.template_world, exact_operations=None))
    assert effective_templates({TEMPLATES: RunMetrics(count_templates(every_length, 3))}) < 1e-6


def test_all_conditions_run_and_are_judged(tmp_path):
    from physlm.lab.runner import run_experiment

    names = [condition.name for condition in conditions(SMOKE)]
    assert names == [DEEP, WIDE, LIMITS, TEMPLATES]
    report = run_experiment(EXPERIMENT, scale="smoke", out=tmp_path / "results", cache=tmp_path / "cache", jobs=1)
    assert [verdict.id for verdict in report.verdicts] == ["IGSM-1", "IGSM-3", "IGSM-4", "IGSM-9"]
    assert {"accuracy.png", "familiar.png", "hardest.png"} <= {path.name for path in report.folder.iterdir()}


@pytest.mark.parametrize("scale", PRESETS)
def test_deep_and_wide_models_are_of_one_size(scale):
    preset = PRESETS[scale]
    size = make_world(preset.practice.world).vocab_size
    deep, wide = (parameter_count(reasoner.config(size)) for reasoner in (preset.deep, preset.wide))
    if scale != "smoke":
        assert 0.9 < deep / wide < 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(SMOKE, beyond=(3,)), "beyond must be growing numbers of operations above 3"),
        (lambda: replace(SMOKE, deep=SMOKE.wide), "deep must have more layers than wide"),
        (lambda: replace(SMOKE.practice, curve_problems=9), r"curve_problems must be in 1..problems = 8, got 9"),
        (
            lambda: replace(SMOKE.practice, world=replace(SMOKE.practice.world, max_operations=1)),
            "world.max_operations must be ≥ 2, got 1",
        ),
    ],
)
def test_presets_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        change()
