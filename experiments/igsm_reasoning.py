"""Can a small model learn to reason, and does it take depth?

Two models of equal size, one deep and one wide, learn to solve grade-school math problems whose every dependency is
known. They then solve new problems: as in training, with solution templates that were never trained on, with more
operations than were ever trained on, and with another question about a problem than the one it was made for. Every step
of every solution is judged. What a solution holds beyond what is needed is counted: a model that plans writes nothing
else.

How many solution templates the paper's own world has is estimated as well, from how often two problems share one.

Claims IGSM-1, 3, 4 and 9. Source: Physics of Language Models 2.1, sections 2, 3 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments._igsm import Exam, Practice, Reasoner, exam, familiar_exam, make_world, solve, without_a_plan
from experiments._igsm_comparisons import FAMILIAR, REASK, Runs, accuracy, gap, items, set_of
from experiments._igsm_training import pretrain
from experiments._mistaken_texts import CLEAN
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Results, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.lab.results import pack_items
from physlm.models.canon import Canon
from physlm.models.transformer import parameter_count
from physlm.randomness import Key
from physlm.training.recipe import MuonRecipe, Recipe
from physlm.worlds.igsm.config import MOST_OPERATIONS, IGSMConfig
from physlm.worlds.igsm.drawing import Drawer

DEEP, WIDE, TEMPLATES, LIMITS = "deep", "wide", "templates", "limits"
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ReasoningPreset:
    """One scale of the experiment.

    Attributes:
        practice: world, training and number of test problems.
        deep, wide: models of about the same number of parameters, the first of more layers.
        beyond: numbers of operations that are only tested.
        template_world: the world whose solution templates are counted.
        templates: how many of its problems are compared.
    """

    practice: Practice
    deep: Reasoner
    wide: Reasoner
    beyond: tuple[int, ...]
    template_world: IGSMConfig
    templates: int

    def __post_init__(self) -> None:
        if self.deep.layers <= self.wide.layers:
            raise ValueError(
                f"deep must have more layers than wide, got {self.deep.layers} and {self.wide.layers} layers"
            )
        most = self.practice.world.max_operations
        if not self.beyond or min(self.beyond) <= most or list(self.beyond) != sorted(set(self.beyond)):
            raise ValueError(f"beyond must be growing numbers of operations above {most}, got {self.beyond}")

    @property
    def reasoners(self) -> dict[str, Reasoner]:
        """The models by condition."""
        return {DEEP: self.deep, WIDE: self.wide}

    @property
    def operations(self) -> tuple[int, ...]:
        """Numbers of operations that are tested."""
        return (*self.practice.trained_operations, *self.beyond)


_MED = IGSMConfig(seed=0)
_HARDEST_MED = replace(_MED, exact_operations=15)
"""The paper's own world, whose templates are counted at every scale; of few operations there are few templates."""
PRESETS: dict[Scale, ReasoningPreset] = {
    "smoke": ReasoningPreset(
        practice=Practice(
            world=IGSMConfig(
                seed=0,
                max_operations=3,
                max_instances=6,
                modulus=5,
                categorizations=1,
                names_per_category=4,
                rendering="compact",
            ),
            batch_size=4,
            recipe=Recipe(steps=20, learning_rate=3e-3),
            problems=8,
            curve_problems=4,
            log_points=2,
        ),
        deep=Reasoner(layers=2, heads=2, width=16, context=128),
        wide=Reasoner(layers=1, heads=2, width=24, context=128),
        beyond=(4,),
        template_world=_HARDEST_MED,
        templates=1000,
    ),
    "cpu": ReasoningPreset(
        # How this came about is told in docs/lab-notes.md.
        practice=Practice(
            world=IGSMConfig(
                seed=0,
                max_operations=4,
                max_instances=5,
                modulus=5,
                categorizations=1,
                names_per_category=4,
                letters=6,  # as many as the longest problems need
                shuffled_letters=False,  # else one in ten solutions of 4 operations uses a letter twice
                rendering="compact",
            ),
            batch_size=16,
            recipe=MuonRecipe(steps=6000, learning_rate=3e-3, matrix_learning_rate=0.02, warmup_steps=50),
            problems=500,
            curve_problems=100,
        ),
        deep=Reasoner(layers=4, heads=3, width=96, context=128, initial_std=0.1, canon=Canon()),
        wide=Reasoner(layers=2, heads=4, width=136, context=128, initial_std=0.1, canon=Canon()),
        beyond=(5, 6),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
    "gpu": ReasoningPreset(
        practice=Practice(
            world=replace(_MED, rendering="compact"),
            batch_size=128,
            recipe=MuonRecipe(steps=10_000, learning_rate=1e-3, matrix_learning_rate=0.02, warmup_steps=500),
            problems=1000,
            curve_problems=200,
        ),
        deep=Reasoner(layers=8, heads=6, width=384, context=512),
        wide=Reasoner(layers=2, heads=12, width=768, context=512),
        beyond=(18, 20, 22),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
    "paper": ReasoningPreset(
        practice=Practice(
            world=_MED,
            batch_size=512,
            # 2.1, App. F; the context is what 768 tokens of its tokenizer hold, in words.
            recipe=Recipe(
                steps=100_000,
                learning_rate=2e-3,
                warmup_steps=1000,
                betas=(0.9, 0.98),
                weight_decay=0.05,
                final_fraction=0.01,
            ),
            whole_loss=True,
            problems=4096,
            curve_problems=500,
        ),
        deep=Reasoner(layers=12, heads=12, width=768, context=768),
        wide=Reasoner(layers=4, heads=21, width=1344, context=768),
        beyond=(20, 21, 22, 23),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
}


def conditions(preset: ReasoningPreset) -> list[Condition]:
    """Both models; what can be had without learning; and the number of templates."""
    models = [Condition(name, {"model": reasoner.name}) for name, reasoner in preset.reasoners.items()]
    return [*models, Condition(LIMITS, {"model": "none"}), Condition(TEMPLATES, {"model": "none"})]


def run(preset: ReasoningPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train and examine a model, or compute what needs none."""
    if condition.name == TEMPLATES:
        return count_templates(preset, seed)
    if condition.name == LIMITS:
        return limits(preset, seed)
    practice, reasoner = preset.practice, preset.reasoners[condition.name]
    torch.set_num_threads(practice.threads)
    trained = pretrain(workspace, practice, reasoner, CLEAN, seed)
    model = trained.model
    world, count = practice.world_of(seed), practice.problems
    exams = {set_of(number): exam(world, number, count) for number in preset.operations}
    exams[FAMILIAR] = familiar_exam(world, count)
    exams[REASK] = exam(world, practice.world.max_operations, count, reask=True)
    return {
        "parameters": parameter_count(model.config),
        "cpu_seconds_per_step": trained.cpu_seconds_per_step,
        "curve": [
            {name: row[name] for name in ("step", "loss", "hardest", "familiar", "reasons")} for row in trained.curve
        ],
        "accuracy": {name: solve(model, asked).metrics() for name, asked in exams.items()},
    }


def limits(preset: ReasoningPreset, seed: int) -> dict[str, Any]:
    """On the same problems: a writer without a plan, the answer 0, and a solver that computes all it can."""
    practice = preset.practice
    world, count = practice.world_of(seed), practice.problems
    planless, zero = {}, {}
    for number in preset.operations:
        asked = exam(world, number, count)
        solved = without_a_plan(asked.problems, Key.of("without a plan", seed, number))
        planless[set_of(number)] = {"mean": float(solved.mean()), "items": pack_items(solved)}
        zero[set_of(number)] = float(
            np.mean([document[-1] == world.vocabulary.number(0) for document in asked.documents])
        )
    most = practice.world.max_operations
    # It writes more than solutions hold otherwise, and needs letters for that.
    eager: dict[str, dict[str, float]] = {}
    for name, reask in ((set_of(most), False), (REASK, True)):
        config = replace(world.config, exact_operations=most, solution="everything", letters=MOST_OPERATIONS)
        asked = Exam(make_world(replace(config, reask=reask)), "test", np.arange(count))
        everything = asked.world.judge.check_many(asked.problems, asked.solutions)
        eager[name] = {
            "unnecessary_operations": float(np.mean([one.unnecessary_operations or 0 for one in everything])),
            "unnecessary_parameters": float(np.mean([one.unnecessary_parameters for one in everything])),
        }
    return {
        "without_a_plan": planless,
        "answer_zero": zero,
        "eager": eager,
    }


def count_templates(preset: ReasoningPreset, seed: int) -> dict[str, Any]:
    """Pairs of problems with the same solution template, and templates that training and test problems share."""
    drawer = Drawer(preset.template_world, Key.of("templates", seed), side=None)
    parts = [
        drawer.draw(np.arange(start, min(start + _CHUNK, preset.templates)))[0].template
        for start in range(0, preset.templates, _CHUNK)
    ]
    _, counts = np.unique(np.concatenate(parts), return_counts=True)
    world, some = preset.practice.world_of(seed), np.arange(preset.practice.problems)
    hardest = exam(world, preset.practice.world.max_operations, len(some))
    shared = np.intersect1d(hardest.world.templates("train", some), hardest.world.templates("test", some))
    return {
        "problems": preset.templates,
        "pairs": int((counts * (counts - 1) // 2).sum()),
        "shared_by_training_and_test": len(shared),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Claims
# ----------------------------------------------------------------------------------------------------------------------


def beyond_planless(name: str) -> Callable[[Runs], Measurement]:
    """Accuracy of the deep model minus that of a writer without a plan, paired by problem."""
    return lambda runs: Measurement.of_difference(
        items(runs, DEEP, [name]), runs[LIMITS].outcomes(f"without_a_plan.{name}.items").astype(np.float64)
    )


def number(condition: str, path: str) -> Callable[[Runs], float]:
    """A number of one run."""
    return lambda runs: runs[condition].number(path)


def form_failures(condition: str, name: str) -> Callable[[Runs], float]:
    """Share of a set in which the first wrong thing is the form, such as a letter used twice."""

    def measure(runs: Runs) -> float:
        reasons = runs[condition].at(f"accuracy.{name}.reasons")
        return reasons.get("format", 0) / len(runs[condition].outcomes(f"accuracy.{name}.items"))

    return measure


def effective_templates(runs: Runs) -> float:
    """One over the chance that two problems share a template, in thousands of millions."""
    problems, pairs = runs[TEMPLATES].number("problems"), runs[TEMPLATES].number("pairs")
    return problems * (problems - 1) / 2 / max(pairs, 0.5) / 1e9


def claims(scale: Scale, preset: ReasoningPreset) -> list[Claim]:
    """The claims, with thresholds fixed before the committed seeds were run (see `docs/claims/reasoning.md`)."""
    most = preset.practice.world.max_operations
    hardest, next_one = set_of(most), set_of(preset.beyond[0])
    demanding = scale in ("gpu", "paper")
    good = 0.99 if demanding else 0.95
    return [
        Claim(
            id="IGSM-1",
            statement="Problems of 15 operations have more solution templates than any model can have memorised.",
            source="2.1, Proposition 2.2",
            conditions=(TEMPLATES,),
            measure=effective_templates,
            measure_name="effective number of solution templates of "
            f"{preset.template_world.exact_operations} operations, from {preset.templates:,} problems",
            relation="≥",
            threshold=7.0,
            scale="number",
            unit="thousand million",
            control="none; as a check, templates shared by training and test problems",
            parts=(
                Predicate(
                    name=f"templates of {most} operations shared by training and test problems",
                    measure=number(TEMPLATES, "shared_by_training_and_test"),
                    relation="≤",
                    threshold=0,
                    scale="number",
                    unit="",
                ),
            ),
        ),
        Claim(
            id="IGSM-3",
            statement="A model learns to solve new problems step by step, and longer ones than it was trained on.",
            source="2.1, Fig. 3",
            conditions=(DEEP, LIMITS),
            measure=accuracy(DEEP, [FAMILIAR]),
            measure_name="new problems as in training, right in every step",
            relation="≥",
            threshold=good,
            scale="proportion",
            unit="%",
            control="a writer without a plan, else perfect, on the same problems",
            parts=(
                Predicate(
                    name=f"{most} operations, templates never trained on: model minus writer without a plan",
                    measure=beyond_planless(hardest),
                    relation="≥",
                    threshold=0.95 if demanding else 0.25,
                ),
                Predicate(
                    name=f"{preset.beyond[0]} operations, never trained on: model minus writer without a plan",
                    measure=beyond_planless(next_one),
                    relation="≥",
                    threshold=0.50 if demanding else 0.10,
                ),
            ),
        ),
        Claim(
            id="IGSM-4",
            statement="Solutions hold nothing that is not needed: the model knows what is before it writes.",
            source="2.1, Fig. 4",
            conditions=(DEEP, LIMITS),
            measure=number(DEEP, f"accuracy.{hardest}.unnecessary_operations"),
            measure_name=f"unnecessary operations in a right solution of {most}",
            relation="≤",
            threshold=0.02 if demanding else 0.05,
            scale="number",
            unit="",
            control="a solver that computes what it can until it has the answer",
            requires=(
                Requirement(
                    name="new problems as in training, right in every step",
                    measure=accuracy(DEEP, [FAMILIAR]),
                    relation="≥",
                    threshold=0.8,
                ),
                *(
                    Requirement(
                        name=f"right solutions among those looked at, {words}",
                        measure=accuracy(DEEP, [name]),
                        relation="≥",
                        threshold=0.2,
                    )
                    for name, words in ((hardest, f"{most} operations"), (REASK, "another question asked"))
                ),
            ),
            parts=(
                Predicate(
                    name="unnecessary operations of the solver that computes what it can",
                    measure=number(LIMITS, f"eager.{hardest}.unnecessary_operations"),
                    relation="≥",
                    threshold=0.5,
                    scale="number",
                    unit="",
                ),
                Predicate(
                    name="another question asked: unnecessary operations, as a share of that solver's",
                    measure=lambda runs: (
                        runs[DEEP].number(f"accuracy.{REASK}.unnecessary_operations")
                        / runs[LIMITS].number(f"eager.{REASK}.unnecessary_operations")
                    ),
                    relation="≤",
                    threshold=0.25,
                    scale="number",
                    unit="%",
                ),
            ),
        ),
        Claim(
            id="IGSM-9",
            statement="Depth matters: of two models of the same size the deeper one solves more of the hard problems.",
            source="2.1, Fig. 9",
            conditions=(DEEP, WIDE),
            measure=gap(DEEP, WIDE, [hardest]),
            measure_name=f"{most} operations: {preset.deep.name} minus {preset.wide.name}",
            relation="≥",
            threshold=0.05,
            control="the same problems, number of parameters and training",
            requires=(
                Requirement(
                    name="parameters of the deep model as a share of the wide one's",
                    measure=lambda runs: runs[DEEP].number("parameters") / runs[WIDE].number("parameters"),
                    relation="between",
                    threshold=(0.9, 1.1),
                ),
                # A letter used twice is wrong, and says nothing about depth.
                *(
                    Requirement(
                        name=f"{condition}: solutions of {most} operations that are no solutions by their form",
                        measure=form_failures(condition, hardest),
                        relation="≤",
                        threshold=0.10,
                    )
                    for condition in (DEEP, WIDE)
                ),
            ),
            parts=(
                Predicate(
                    name=f"new problems as in training: {preset.deep.name} minus {preset.wide.name}",
                    measure=gap(DEEP, WIDE, [FAMILIAR]),
                    relation="≥",
                    threshold=0.0 if demanding else 0.02,
                ),
            ),
        ),
    ]


def plots(results: Results, folder: Path) -> list[Path]:
    """Accuracy by number of operations, and how it was learnt."""
    models = [name for name in results.conditions if name in (DEEP, WIDE)]
    if not models:
        return []
    some = results.runs[models[0], results.seeds[0]]
    names = [name for name in some.at("accuracy") if name.startswith("new_")]
    labels = {name: f"{name.removeprefix('new_')} operations" for name in names}
    series = {
        model: {labels[name]: results.values(model, f"accuracy.{name}.mean") for name in names} for model in models
    }
    if LIMITS in results.conditions:
        series["no plan"] = {labels[name]: results.values(LIMITS, f"without_a_plan.{name}.mean") for name in names}
    drawn = [
        bar_with_intervals(
            folder / "accuracy.png",
            series,
            title="Solutions right in every step, by number of operations",
            subtitle=f"Templates never trained on; {len(results.seeds)} seed(s), 95 % intervals",
            xlabel="Problems solved",
        )
    ]
    for name, title in (("familiar", "new problems as in training"), ("hardest", "the most operations trained on")):
        drawn.append(
            curves_with_bands(
                folder / f"{name}.png",
                [point["step"] for point in some.at("curve")],
                {
                    model: [[point[name] for point in results.runs[model, seed].at("curve")] for seed in results.seeds]
                    for model in models
                },
                title=f"Learning to solve {title}",
                subtitle=f"{len(results.seeds)} seed(s), 95 % bands",
                xlabel="Training steps",
                ylabel="Right in every step",
            )
        )
    return drawn


def fingerprint(preset: ReasoningPreset, seed: int) -> str:
    """A hash of the problems."""
    return preset.practice.world_of(seed).fingerprint()


def cost(preset: ReasoningPreset) -> str:
    """What a preset costs."""
    practice = preset.practice
    tokens = practice.recipe.steps * practice.batch_size * preset.deep.context
    return f"two models a seed, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="igsm_reasoning",
    title="Can a small model learn to reason, and does it take depth?",
    source="Physics of Language Models 2.1 (Grade-School Math and the Hidden Reasoning Process), sections 2, 3 and 5",
    revision=3,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (186,), "cpu": (186, 187, 188, 189, 190), "gpu": (186, 187), "paper": (186, 187)},
    # Those from 181 on were run with earlier presets, and read.
    development_seeds=frozenset({*range(1, 21), *range(181, 186)}),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
