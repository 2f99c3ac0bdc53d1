"""Claims of `igsm_reasoning`; why these thresholds, and what came before them, is in `docs/claims/reasoning.md`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments._igsm_comparisons import FAMILIAR, REASK, Runs, accuracy, gap, items, set_of
from experiments._reasoning_presets import DEEP, LIMITS, TEMPLATES, WIDE, ReasoningPreset
from physlm.lab import Claim, Measurement, Requirement
from physlm.lab.claims import Predicate, number_of
from physlm.lab.experiment import Scale


def beyond_planless(name: str) -> Callable[[Runs], Measurement]:
    """Accuracy of the deep model minus that of a writer without a plan, paired by problem."""
    return lambda runs: Measurement.of_difference(
        items(runs, DEEP, [name]), runs[LIMITS].outcomes(f"without_a_plan.{name}.items").astype(np.float64)
    )


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
                    measure=number_of(TEMPLATES, "shared_by_training_and_test"),
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
            statement="Right solutions hold nothing that is not needed.",
            source="2.1, Fig. 4",
            conditions=(DEEP, LIMITS),
            measure=number_of(DEEP, f"accuracy.{hardest}.unnecessary_operations"),
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
                    measure=number_of(LIMITS, f"eager.{hardest}.unnecessary_operations"),
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
