"""Can a language model answer questions about what it has memorised?

Models read biographies until they recall every fact of everybody, then learn to answer questions about one half of
the people; the measure is how many questions about the *other* half they answer. The conditions differ in how the
biographies were told (once, reordered, rewritten, with full names) and in when the questions came (after
pretraining, or mixed into it).

Claims BIO-1, 2, 4, 5, 6, 7, 8, 9. Source: Physics of Language Models 3.1, sections 2 to 4, Fig. 1 to 3 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments._biographies import (
    BiographyPreset,
    ask,
    by_attribute,
    chance,
    finetune,
    learning_curve,
    make_world,
    measure,
    mix,
    preset_fingerprint,
    pretrain,
)
from experiments._biography_presets import DEVELOPMENT_SEEDS, PRESETS, SEEDS, cost
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.models.transformer import parameter_count

CURVES = {
    "first_token_train": "questions, trained people",
    "recall_train": "biographies, trained people",
    "recall_test": "biographies, held-out people",
    "first_token_test": "questions, held-out people",
    "questions_test": "the same, whole answer",
}
LADDER = ("finetune/single", "finetune/single+fullname", "finetune/multi5+fullname", "finetune/multi5+permute")


def conditions(preset: BiographyPreset) -> list[Condition]:
    """LoRA finetuning after pretraining on every variant, full finetuning on two, mixed training on some."""
    found = [
        Condition(f"finetune/{variant}", {"training": "finetune", "variant": variant}, stage_key=variant)
        for variant in preset.variants
    ]
    found += [
        Condition(f"full/{variant}", {"training": "full", "variant": variant}, stage_key=variant)
        for variant in ("single", "multi5+permute")
    ]
    found += [
        Condition(f"mixed/{variant}", {"training": "mixed", "variant": variant}, stage_key=f"mixed {variant}")
        for variant in preset.mixed_variants
    ]
    return found


def run(preset: BiographyPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train one model in one condition and ask it everything."""
    training, variant = condition.options["training"], str(condition.options["variant"])
    world = make_world(preset.world.config(seed, variant=variant))
    metrics: dict[str, Any] = {
        "parameters": parameter_count(preset.model.config(world.vocab_size)),
        "chance": chance(world),
    }
    if training == "mixed":
        trained = mix(
            workspace, preset, world, seed, evaluate=lambda model: learning_curve(model, world, preset.curve_people)
        )
        curves = {name: [record[name] for record in trained.records] for name in CURVES}
        steps = [record["step"] for record in trained.records]
        return metrics | measure(trained.model, world) | {"curves": {"step": steps, **curves}}

    pretrained = pretrain(workspace, preset, world, seed)
    metrics |= measure(pretrained.model, world, questions=False)
    metrics["pretraining_loss"] = pretrained.records[-1]["loss"]
    recipes = (preset.low_rank_finetuning,) if training == "finetune" else preset.full_finetuning
    attempts: list[dict[str, Any]] = []
    for number, recipe in enumerate(recipes):
        model = pretrain(workspace, preset, world, seed).model
        finetune(
            model,
            preset,
            world,
            seed,
            recipe=recipe,
            low_rank=preset.low_rank if training == "finetune" else None,
            folder=workspace.scratch / f"finetuning-{number}",
            progress=lambda fraction, message, number=number: workspace.progress(
                (number + fraction) / len(recipes), f"finetuning: {message}"
            ),
        )
        asked = {half: ask(model, world, f"questions_{half}") for half in ("train", "test")}
        attempts.append({f"questions_{half}": by_attribute(world, right) for half, right in asked.items()})
    # The best of the grid on held-out people: for a negative result, that is the honest number (G10).
    best = max(attempts, key=lambda attempt: attempt["questions_test"]["mean"])
    grid = [
        {"learning_rate": recipe.learning_rate, "train": attempt["questions_train"]["mean"]}
        | {"test": attempt["questions_test"]["mean"]}
        for recipe, attempt in zip(recipes, attempts, strict=True)
    ]
    return metrics | best | {"grid": grid}


# ----------------------------------------------------------------------------------------------------------------------
# Claims
# ----------------------------------------------------------------------------------------------------------------------

Runs = Mapping[str, RunMetrics]


def held_out(runs: Runs, condition: str) -> np.ndarray:
    """Outcomes on held-out people, `[people, attributes]`."""
    return runs[condition].outcomes("questions_test.items")


def memorised(*names: str, threshold: float) -> Requirement:
    """Every fact of everybody is recalled within the biography: nothing else makes "cannot answer" interesting."""
    return Requirement(
        name="recall of every fact within its biography, worst condition",
        measure=lambda runs: min(runs[name].number(f"recall_{half}") for name in names for half in ("train", "test")),
        relation="≥",
        threshold=threshold,
    )


def answered(condition: str, threshold: float) -> tuple[Predicate, ...]:
    """How much is answered about held-out people in one condition."""
    return (
        Predicate(
            name=f"held-out people: {condition}",
            measure=lambda runs: Measurement.of_items(held_out(runs, condition)),
            relation="≥",
            threshold=threshold,
            scale="proportion",
            unit="%",
            control="chance",
        ),
    )


def gain(better: str, worse: str) -> Callable[[Runs], Measurement]:
    """Difference of the accuracies on held-out people, paired by person."""
    return lambda runs: Measurement.of_difference(held_out(runs, better), held_out(runs, worse))


def between_attributes(condition: str, first: str, second: str) -> Callable[[Runs], Measurement]:
    """Difference of the accuracies of two attributes in one condition, paired by person."""

    def difference(runs: Runs) -> Measurement:
        names = list(runs[condition].at("questions_test.by_attribute"))
        right = held_out(runs, condition)
        return Measurement.of_difference(right[:, names.index(first)], right[:, names.index(second)])

    return difference


def above_chance(condition: str) -> Callable[[Runs], Measurement]:
    """Accuracy on held-out people minus that of the best constant answers."""
    return lambda runs: Measurement.of_items(
        held_out(runs, condition).astype(float) - np.array(list(runs[condition].at("chance.whole").values()))
    )


def best_on_trained_people(condition: str) -> Callable[[Runs], Measurement]:
    """Accuracy on trained people of the learning rate that is best on *them*, as so many independent questions.

    The outcomes that are kept are those of the learning rate that is best on held-out people.
    """

    def best(runs: Runs) -> Measurement:
        questions = runs[condition].outcomes("questions_train.items").size
        right = max(attempt["train"] for attempt in runs[condition].at("grid"))
        return Measurement.of_items(np.arange(questions) < round(right * questions))

    return best


def reaches_half(run: RunMetrics, curve: str) -> float:
    """Share of the training after which a learning curve first is at ≥ 50 %; NaN if it never is."""
    steps, values = run.at("curves.step"), np.array(run.at(f"curves.{curve}"))
    reached = np.flatnonzero(values >= 0.5)
    return steps[reached[0]] / steps[-1] if len(reached) else float("nan")


def later(second: str, first: str) -> Callable[[Runs], float]:
    """By how much of the training one curve of mixed training reaches 50 % after another, at least.

    If the second one never does, the difference is at least what is left of the training.
    """

    def difference(runs: Runs) -> float:
        run = runs["mixed/single"]
        end = reaches_half(run, second)
        return (1.0 if np.isnan(end) else end) - reaches_half(run, first)

    return difference


def mixed_range(names: Sequence[str]) -> Callable[[Runs], float]:
    """Best minus worst accuracy of mixed training over the ways of writing biographies."""

    def spread(runs: Runs) -> float:
        means = [held_out(runs, name).mean() for name in names]
        return float(max(means) - min(means))

    return spread


def ladder(recalled: Callable[..., Requirement]) -> Claim:
    """The order of four rungs, where a preset has them all."""
    return Claim(
        id="BIO-5-ladder",
        statement="The ladder climbs: single < single+fullname < multi5+fullname < multi5+permute.",
        source="3.1, Fig. 3",
        conditions=LADDER,
        measure=gain(LADDER[3], LADDER[2]),
        measure_name="multi5+permute minus multi5+fullname",
        relation="≥",
        threshold=0.0,
        control="the rung below",
        requires=(recalled(*LADDER),),
        parts=tuple(
            Predicate(
                name=f"{upper.removeprefix('finetune/')} minus {lower.removeprefix('finetune/')}",
                measure=gain(upper, lower),
                relation="≥",
                threshold=0.0,
                control="the rung below",
            )
            for lower, upper in ((LADDER[0], LADDER[1]), (LADDER[1], LADDER[2]))
        ),
    )


def claims(scale: Scale, preset: BiographyPreset) -> list[Claim]:
    """The claims, with thresholds fixed before the committed seeds were run (see `docs/claims/knowledge.md`).

    At `gpu` and `paper` scale recall must be better, and BIO-1 and BIO-5 also assert how much is answered.
    """
    demanding = scale in ("gpu", "paper")
    recalled = partial(memorised, threshold=0.99 if demanding else 0.97)
    # One point of the learning curves, below which two curves cannot be told apart.
    grid_step = max(1, preset.mixed.steps // preset.log_points) / preset.mixed.steps
    mixed = tuple(f"mixed/{variant}" for variant in preset.mixed_variants)
    single, permuted = "finetune/single", "finetune/multi5+permute"
    found = [
        Claim(
            id="BIO-1",
            statement="Mixing questions into pretraining makes knowledge extractable even if told only once.",
            source="3.1, Fig. 1(a)",
            conditions=("mixed/single", single),
            measure=gain("mixed/single", single),
            measure_name="held-out people: mixed training minus finetuning, on single biographies",
            relation="≥",
            threshold=0.30,
            control="questions after pretraining",
            parts=answered("mixed/single", 0.75) if demanding else (),
            requires=(recalled("mixed/single", single),),
        ),
        Claim(
            id="BIO-2",
            statement="Mixed training studies for the test: questions on trained people come first, "
            "then their biographies, then everybody's, and questions on held-out people last.",
            source="3.1, Fig. 1(b, c)",
            conditions=("mixed/single",),
            measure=later("recall_test", "recall_train"),
            measure_name="training from 50 % recall of trained people to 50 % recall of held-out people",
            relation="≥",
            threshold=grid_step,
            scale="number",
            unit="%",
            control="trained people",
            parts=(
                Predicate(
                    name="from questions on trained people to their biographies",
                    measure=later("recall_train", "first_token_train"),
                    relation="≥",
                    threshold=0.0,
                    scale="number",
                    unit="%",
                ),
                Predicate(
                    name="from biographies of held-out people to questions on them",
                    measure=later("first_token_test", "recall_test"),
                    relation="≥",
                    threshold=grid_step,
                    scale="number",
                    unit="%",
                ),
            ),
        ),
        Claim(
            id="BIO-4",
            statement="Perfect memorisation of biographies told once, then finetuning, does not give extraction.",
            source="3.1, Fig. 2",
            conditions=(single, "full/single", permuted),
            measure=above_chance(single),
            measure_name="held-out people above chance, LoRA finetuning",
            relation="≤",
            threshold=0.10,
            control="the best constant answers",
            requires=(
                recalled(single),
                Requirement(
                    name="the same finetuning of multi5+permute, above chance",
                    measure=lambda runs: above_chance(permuted)(runs).value,
                    relation="≥",
                    threshold=0.30,
                    unit="points",
                ),
            ),
            parts=(
                Predicate(
                    name="held-out people above chance, best full finetuning",
                    measure=above_chance("full/single"),
                    relation="≤",
                    threshold=0.10,
                    control="the best constant answers",
                ),
                Predicate(
                    name="trained people, full finetuning at its best learning rate",
                    measure=best_on_trained_people("full/single"),
                    relation="≥",
                    threshold=0.95,
                    scale="proportion",
                    unit="%",
                    control="held-out people",
                ),
            ),
        ),
        Claim(
            id="BIO-5",
            statement="Biographies told in several ways make the same knowledge extractable after finetuning.",
            source="3.1, Fig. 3",
            conditions=(permuted, single),
            measure=gain(permuted, single),
            measure_name="held-out people: multi5+permute minus single",
            relation="≥",
            threshold=0.30,
            control="single biographies",
            requires=(recalled(permuted, single),),
            parts=answered(permuted, 0.85) if demanding else (),
        ),
        Claim(
            id="BIO-6",
            statement="Permuting the sentences of a single biography does not help.",
            source="3.1, Fig. 3",
            conditions=("finetune/single+permute1", single),
            measure=gain("finetune/single+permute1", single),
            measure_name="held-out people: single+permute1 minus single",
            relation="≤",
            threshold=0.02,
            control="single biographies",
            requires=(recalled("finetune/single+permute1", single),),
        ),
        Claim(
            id="BIO-7",
            statement="Told in a fixed order, what directly follows the name is attached to it far better "
            "than what comes later.",
            source="3.1, Fig. 3 and section 4.1",
            conditions=("finetune/multi5",),
            measure=between_attributes("finetune/multi5", "date", "cname"),
            measure_name="multi5, held-out people: date (told first) minus employer (told fifth)",
            relation="≥",
            threshold=0.50,
            control="the employer",
            requires=(recalled("finetune/multi5"),),
        ),
        Claim(
            id="BIO-8",
            statement="The company's city hangs on the company, not on the name, unless the order varies.",
            source="3.1, Fig. 3 and Remark 5.1",
            conditions=("finetune/multi5+fullname", permuted),
            measure=between_attributes("finetune/multi5+fullname", "cname", "ccity"),
            measure_name="multi5+fullname, held-out people: company minus company city",
            relation="≥",
            threshold=0.30,
            control="the company",
            requires=(recalled("finetune/multi5+fullname", permuted),),
            parts=(
                Predicate(
                    name="multi5+permute, held-out people: company minus company city",
                    measure=between_attributes(permuted, "cname", "ccity"),
                    relation="between",
                    threshold=(-0.10, 0.10),
                    control="the company",
                ),
            ),
        ),
        Claim(
            id="BIO-9",
            statement="With mixed training it barely matters how the biographies are told.",
            source="3.1, Fig. 3",
            conditions=mixed,
            measure=mixed_range(mixed),
            measure_name=f"held-out people: best minus worst of {len(mixed)} ways of telling",
            relation="≤",
            threshold=0.15,
            control="the worst way of telling",
            requires=(recalled(*mixed),),
        ),
    ]
    if {rung.removeprefix("finetune/") for rung in LADDER} <= set(preset.variants):
        found.append(ladder(recalled))
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Plots
# ----------------------------------------------------------------------------------------------------------------------


def recall_note(results: Results) -> str:
    """The worst recall of all models, in words."""
    worst = min(run.number(f"recall_{half}") for run in results.runs.values() for half in ("train", "test"))
    return f"Recall within biographies ≥ {worst:.1%}"


def plots(results: Results, folder: Path) -> list[Path]:
    """The augmentation ladder and the order of learning."""
    drawn: list[Path] = []
    series: dict[str, dict[str, list[float]]] = {}
    labels = {
        "finetune": "pretrain, then finetune (LoRA)",
        "full": "pretrain, then finetune (all weights)",
        "mixed": "mixed training",
    }
    for condition in results.conditions:
        training, variant = condition.split("/")
        series.setdefault(labels[training], {})[variant] = results.values(condition, "questions_test.mean")
    first = next(iter(results.runs.values()), None)
    if series and first is not None:
        drawn.append(
            bar_with_intervals(
                folder / "ladder.png",
                series,
                title="Answers about held-out people",
                subtitle=f"by how biographies were told. {recall_note(results)}; "
                f"{len(results.seeds)} seed(s), 95 % intervals",
                xlabel="Questions answered exactly",
                chance=first.number("chance.mean"),
            )
        )
    if "mixed/single" in results.conditions:
        run = results.runs["mixed/single", results.seeds[0]]
        drawn.append(
            curves_with_bands(
                folder / "order_of_learning.png",
                run.at("curves.step"),
                {label: results.curves("mixed/single", f"curves.{name}") for name, label in CURVES.items()},
                title="Order of learning in mixed training",
                subtitle="Biographies told once, questions on the trained half of the people only; first words",
                xlabel="Training step",
                ylabel="Accuracy",
            )
        )
    return drawn


EXPERIMENT = Experiment(
    name="bio_qa",
    title="Memorised is not extractable: questions about biographies",
    source="Physics of Language Models 3.1 (Knowledge Storage and Extraction), sections 2 to 4",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds=SEEDS,
    core=("BIO-1", "BIO-4", "BIO-5"),
    development_seeds=DEVELOPMENT_SEEDS,
    data_fingerprint=preset_fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
