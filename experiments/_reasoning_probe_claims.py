"""Claims of `igsm_probe`; thresholds were fixed before any run, see `docs/claims/reasoning-probes.md`."""

from __future__ import annotations

from typing import Any

from experiments._reasoning_probe_measures import (
    PROBLEM_FIRST,
    QUESTION_FIRST,
    USE,
    Reader,
    beyond_another_item,
    count,
    farthest_in_last_layer,
    known,
    later,
    least_beyond_controls,
    middle_block,
    middle_gap,
    needless_gap,
    numbers,
    right,
    shuffled_beyond_majority,
    together,
    unneeded_beyond_controls,
    used,
    used_ratio,
    worst_label_of_unneeded,
    wrong_step_gap,
)
from experiments._reasoning_questions import BEYOND, HARDEST, NEEDLESS, REASK, WRONG
from physlm.lab import Claim, Requirement
from physlm.lab.claims import Measure, Predicate, Quantity, Relation
from physlm.lab.experiment import Scale
from physlm.probing.results import UNTRAINED
from physlm.worlds.igsm.labels import TASKS

_CONTROLS = "majority; the model before training; shuffled labels; questions without the problem"


def of(model: str, reader: Reader) -> Measure:
    """A number of one of the models."""
    return lambda runs: reader(together(runs, model))


def asked(*tasks: str, model: str = PROBLEM_FIRST) -> tuple[str, ...]:
    """The conditions in which a model is asked something."""
    return tuple(f"{model}/{task}" for task in tasks)


def _part(name: str, reader: Reader, relation: Relation, threshold: float, scale: Quantity = "difference") -> Predicate:
    unit = {"difference": "points", "proportion": "%", "number": ""}[scale]
    measure = of(PROBLEM_FIRST, reader)
    return Predicate(name=name, measure=measure, relation=relation, threshold=threshold, scale=scale, unit=unit)


def _enough(name: str, reader: Reader, least: float, unit: str = "") -> Requirement:
    return Requirement(name=name, measure=of(PROBLEM_FIRST, reader), relation="≥", threshold=least, unit=unit)


def learnt(model: str) -> Requirement:
    """A model that cannot solve problems is not asked what it knows of them."""
    return Requirement(
        name=f"{model}: new problems as in training, right in every step",
        measure=of(model, lambda run: run.number("accuracy.familiar")),
        relation="≥",
        threshold=0.8,
    )


def claims(scale: Scale, _preset: Any) -> list[Claim]:
    """The claims."""
    demanding = scale in ("gpu", "paper")
    return [
        _six_tasks(demanding),
        _used(),
        _unneeded(demanding),
        _needless(demanding),
        _wrong_steps(),
        _distance(),
        _question_first(),
    ]


def _six_tasks(demanding: bool) -> Claim:
    return Claim(
        id="IGSM-5",
        statement="What is needed, what depends on what, what is known and what can be computed next is in the states.",
        source="2.1, Fig. 7a",
        conditions=asked(*TASKS),
        measure=of(PROBLEM_FIRST, least_beyond_controls),
        measure_name="balanced accuracy minus the best of the controls, task where it is least",
        relation="≥",
        threshold=0.30 if demanding else 0.10,
        control=_CONTROLS,
        requires=(learnt(PROBLEM_FIRST),),
        parts=(
            _part(
                "what the query needs, before the solution begins: balanced accuracy",
                known("nece"),
                "≥",
                0.95 if demanding else 0.75,
                "proportion",
            ),
            _part("what is known: balanced accuracy", known("known"), "≥", 0.99 if demanding else 0.90, "proportion"),
            _part("values: balanced accuracy", known("value"), "≥", 0.99 if demanding else 0.75, "proportion"),
            _part(
                "shuffled labels minus majority, balanced, task where it is most", shuffled_beyond_majority, "≤", 0.05
            ),
        ),
    )


def _used() -> Claim:
    return Claim(
        id="IGSM-5-used",
        statement="Whether an item is ready, as it can be read where a sentence begins, decides if it is written of.",
        source="ours",
        conditions=asked(USE),
        measure=of(PROBLEM_FIRST, used),
        measure_name="middle block: share of next items that change where the state is moved to not ready, minus as "
        "far in random directions",
        relation="≥",
        threshold=0.05,
        control="changes of the same size in random directions",
        requires=(
            learnt(PROBLEM_FIRST),
            _enough("places where states were moved", lambda run: float(numbers(middle_block(run))["places"]), 100),
            _enough(
                "balanced accuracy of the probes whose directions are taken",
                lambda run: float(numbers(middle_block(run))["readable"]),
                0.6,
                "%",
            ),
        ),
        parts=(
            _part("the same share over that of the random directions that do most", used_ratio, "≥", 2.0, "number"),
            _part(
                "the same share minus that where another item that is ready is moved to not ready",
                beyond_another_item,
                "≥",
                0.0,
            ),
        ),
    )


def _unneeded(demanding: bool) -> Claim:
    return Claim(
        id="IGSM-6",
        statement="The model knows dependencies and readiness of parameters that the query does not need, the former "
        "before there is a question.",
        source="2.1, Fig. 7b and 12",
        conditions=asked("dep", "can_next"),
        measure=of(PROBLEM_FIRST, unneeded_beyond_controls("dep")),
        measure_name="dependencies of parameters not needed, balanced accuracy minus the best of the controls",
        relation="≥",
        threshold=0.30 if demanding else 0.10,
        control=_CONTROLS,
        requires=(learnt(PROBLEM_FIRST),),
        parts=(
            _part(
                "readiness of parameters not needed, balanced accuracy minus the best of the controls",
                unneeded_beyond_controls("can_next"),
                "≥",
                0.25 if demanding else 0.10,
            ),
            _part(
                "dependencies of parameters not needed, accuracy on the label where it is lower",
                worst_label_of_unneeded("dep"),
                "≥",
                0.95 if demanding else 0.55,
                "proportion",
            ),
            _part(
                "readiness of parameters not needed, accuracy on the label where it is lower",
                worst_label_of_unneeded("can_next"),
                "≥",
                0.95 if demanding else 0.55,
                "proportion",
            ),
        ),
    )


def _needless(demanding: bool) -> Claim:
    return Claim(
        id="IGSM-7",
        statement="What the model computes needlessly it took for needed before it wrote anything.",
        source="2.1, Fig. 8a",
        conditions=asked("nece"),
        measure=of(PROBLEM_FIRST, right("nece", NEEDLESS)),
        measure_name="another question asked: probe of what is needed right about parameters computed needlessly",
        relation="≤",
        threshold=0.50,
        scale="proportion",
        unit="%",
        control="the same probe on other parameters of the same problems that are not needed, behind the same words",
        requires=(
            learnt(PROBLEM_FIRST),
            _enough("parameters computed needlessly", count("nece", NEEDLESS), 20),
        ),
        parts=(
            _part(
                "another question asked: right about all parameters",
                right("nece", REASK),
                "≥",
                0.89 if demanding else 0.70,
                "proportion",
            ),
            _part("right about those not needed minus about those computed needlessly", needless_gap, "≥", 0.20),
        ),
    )


def _wrong_steps() -> Claim:
    return Claim(
        id="IGSM-8",
        statement="What the model computes too early it took for ready.",
        source="2.1, Fig. 8b",
        conditions=asked("can_next", "nece_next"),
        measure=of(PROBLEM_FIRST, wrong_step_gap("can_next")),
        measure_name="probe of what is ready: right about parameters that are not, minus about the one written next",
        relation="≥",
        threshold=0.20,
        control="other parameters that are neither known nor ready in the same states",
        requires=(
            learnt(PROBLEM_FIRST),
            _enough("first wrong steps that were not ready", count("can_next", WRONG), 30),
        ),
        parts=(_part("the same of what is ready and needed", wrong_step_gap("nece_next"), "≥", 0.20),),
    )


def _distance() -> Claim:
    return Claim(
        id="IGSM-10",
        statement="Layer by layer, what is needed is found from the query on: the nearest parameters first.",
        source="2.1, Fig. 10 and 14",
        conditions=asked("nece"),
        measure=of(PROBLEM_FIRST, middle_gap),
        measure_name="what is needed, behind the middle block, balanced: nearest parameters minus farthest",
        relation="≥",
        threshold=0.05,
        control="the model before training",
        requires=(
            learnt(PROBLEM_FIRST),
            _enough("last layer, farthest parameters, balanced", farthest_in_last_layer, 0.60, "%"),
        ),
        parts=(
            _part("expected layer, as a share of the layers: farthest minus nearest", later, "≥", 0.0),
            _part(
                "nearest minus farthest behind the middle block: trained minus untrained model",
                lambda run: middle_gap(run) - middle_gap(run, UNTRAINED),
                "≥",
                0.0,
            ),
        ),
    )


def _question_first() -> Claim:
    needed = known("nece", BEYOND)
    return Claim(
        id="IGSM-11",
        statement="With the question first, what is needed is known better in problems longer than trained on.",
        source="2.1, Fig. 7a",
        conditions=asked("nece") + asked("nece", model=QUESTION_FIRST),
        measure=lambda runs: needed(together(runs, QUESTION_FIRST)) - needed(together(runs, PROBLEM_FIRST)),
        measure_name="more operations than trained on, what is needed, balanced: question first minus problem first",
        relation="≥",
        threshold=0.0,
        control="as many problems, the same training",
        requires=(
            learnt(PROBLEM_FIRST),
            learnt(QUESTION_FIRST),
            Requirement(
                name="most operations, right in every step: question first minus problem first",
                measure=lambda runs: (
                    together(runs, QUESTION_FIRST).number(f"accuracy.{HARDEST}")
                    - together(runs, PROBLEM_FIRST).number(f"accuracy.{HARDEST}")
                ),
                relation="between",
                threshold=(-0.10, 0.10),
                unit="points",
            ),
        ),
    )
