"""Claims of `bio_mistakes`, with thresholds fixed before any seed was run.

Nothing is published that a threshold could be a share of. Models of one kind differ by several points between seeds in
what they answer: 10 points are the least that five seeds can be expected to tell from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from experiments._wrong_values_presets import BiographyMistakesPreset
from physlm.lab import Claim, Measurement, Requirement, RunMetrics
from physlm.lab.claims import Predicate
from physlm.lab.experiment import Scale

Runs = Mapping[str, RunMetrics]
ANSWERS, RECALL = "answers.likeliest.final", "recall.test"


def items(runs: Runs, condition: str, what: str) -> NDArray[np.float64]:
    """Outcomes on held-out people, `[people, attributes]`; of facts told wrongly, `[facts]`."""
    path = what if what.startswith("told_wrong") else f"{what}.items"
    return runs[condition].outcomes(path).astype(np.float64)


def share(condition: str, what: str) -> Callable[[Runs], Measurement]:
    """Share of outcomes that are true."""
    return lambda runs: Measurement.of_items(items(runs, condition, what))


def gap(first: tuple[str, str], second: tuple[str, str]) -> Callable[[Runs], Measurement]:
    """Difference of two shares, each of a condition and an outcome, paired by person."""
    return lambda runs: Measurement.of_difference(items(runs, *first), items(runs, *second))


def corrected(runs: Runs, condition: str, which: str) -> NDArray[np.bool_]:
    """Of the likeliest answers in which something was taken back, which are right, `[answers]`: "final" or "first"."""
    return runs[condition].outcomes(f"answers.likeliest.corrected.{which}")


def correction(condition: str) -> Callable[[Runs], Measurement]:
    """What taking back was worth: final minus first values of the answers with attempts; NaN if there are none."""

    def measure(runs: Runs) -> Measurement:
        final, first = (corrected(runs, condition, which) for which in ("final", "first"))
        return Measurement.of_difference(final, first) if len(final) else Measurement(math.nan)

    return measure


def share_of_text(condition: str, how: str) -> Callable[[Runs], float]:
    """Attempts in an answer, as a share of those in the text."""
    return lambda runs: runs[condition].number(f"answers.{how}.attempts") / runs[condition].number("attempts_in_text")


def claims(_scale: Scale, preset: BiographyMistakesPreset) -> list[Claim]:
    """The claims, with thresholds fixed before any seed was run."""
    clean, middle, high, masked, same = preset.texts
    percent = {middle: f"{100 * preset.middle_rate:g} %", high: f"{100 * preset.high_rate:g} %"}

    def between(name: str, measure: Callable[[Runs], Measurement], most: float) -> Predicate:
        return Predicate(name=name, measure=measure, relation="between", threshold=(-most, most))

    attempts = partial(Predicate, relation="≤", threshold=0.25, scale="number", unit="%", control="the text")
    requires = (
        Requirement(
            name="clean text: recall of every fact about held-out people",
            measure=share(clean, RECALL),
            relation="≥",
            threshold=0.8,
        ),
        Requirement(
            name="clean text, held-out people: neither nothing nor nearly everything answered",
            measure=share(clean, ANSWERS),
            relation="between",
            threshold=(0.1, 0.95),
        ),
    )
    enough = Requirement(
        name=f"{percent[high]}: answers in which something was taken back",
        measure=lambda runs: float(len(corrected(runs, high, "final"))),
        relation="≥",
        threshold=30,
        unit="",
    )
    told = f"facts told wrongly in {percent[high]} of places"
    return [
        Claim(
            id="MIS-BIO-1",
            statement="Wrong values that are taken back neither help nor harm answers about held-out people.",
            source="after 2.2, Fig. 4; new for knowledge",
            conditions=(clean, middle, high),
            measure=gap((middle, ANSWERS), (clean, ANSWERS)),
            measure_name=f"questions answered: {percent[middle]} minus clean text",
            relation="between",
            threshold=(-0.1, 0.1),
            control="clean text",
            requires=requires,
            parts=(
                between(
                    f"questions answered: {percent[high]} minus clean text", gap((high, ANSWERS), (clean, ANSWERS)), 0.1
                ),
            ),
        ),
        Claim(
            id="MIS-BIO-2",
            statement="Facts are recalled as well, although fewer biographies are read.",
            source="new for knowledge",
            conditions=(clean, middle, high),
            measure=gap((middle, RECALL), (clean, RECALL)),
            measure_name=f"recall: {percent[middle]} minus clean text",
            relation="≥",
            threshold=-0.05,
            control="clean text",
            requires=requires[:1],
            parts=(
                Predicate(
                    name=f"recall: {percent[high]} minus clean text",
                    measure=gap((high, RECALL), (clean, RECALL)),
                    relation="≥",
                    threshold=-0.05,
                ),
            ),
        ),
        Claim(
            id="MIS-BIO-3",
            statement="A model that is asked hardly takes anything back, and what it does take back corrects nothing.",
            source="after 2.2, Fig. 5; new for knowledge",
            conditions=(clean, middle, high),
            measure=share_of_text(high, "likeliest"),
            measure_name=f"{percent[high]}: attempts in an answer as a share of the text's",
            relation="≤",
            threshold=0.25,
            scale="number",
            unit="%",
            control="the text",
            requires=(*requires, enough),
            parts=(
                attempts(
                    name=f"{percent[middle]}: attempts in an answer as a share of the text's",
                    measure=share_of_text(middle, "likeliest"),
                ),
                between(
                    f"{percent[high]}, answers in which something was taken back: final minus first values",
                    correction(high),
                    0.1,
                ),
            ),
        ),
        Claim(
            id="MIS-BIO-4",
            statement="Wrong values are remembered if they are the same every time, and only then; they are not what "
            "questions are answered with.",
            source="new for knowledge",
            conditions=(clean, high, same),
            measure=gap((same, "told_wrong.recalled"), (high, "told_wrong.recalled")),
            measure_name=f"{told}, the wrong value comes to mind first: same every time minus not",
            relation="≥",
            threshold=0.5,
            control="wrong values that differ from reading to reading",
            requires=requires[:1],
            parts=(
                Predicate(
                    name=f"{told}, the wrong value comes to mind first: not the same every time",
                    measure=share(high, "told_wrong.recalled"),
                    relation="≤",
                    threshold=0.05,
                    scale="proportion",
                    unit="%",
                ),
                Predicate(
                    name=f"{told}, the wrong value is the answer: same every time minus not",
                    measure=gap((same, "told_wrong.answered"), (high, "told_wrong.answered")),
                    relation="≤",
                    threshold=0.05,
                ),
            ),
        ),
        Claim(
            id="MIS-BIO-5",
            statement="Whether wrong values bear loss hardly matters to what is answered and recalled.",
            source="after 2.2, Figs. 4 and 5; new for knowledge",
            conditions=(clean, high, masked),
            measure=gap((masked, ANSWERS), (high, ANSWERS)),
            measure_name=f"questions answered, {percent[high]}: masked minus not",
            relation="between",
            threshold=(-0.1, 0.1),
            control="loss on everything",
            requires=requires,
            parts=(
                between(f"recall, {percent[high]}: masked minus not", gap((masked, RECALL), (high, RECALL)), 0.05),
                attempts(
                    name=f"{percent[high]} masked, answers drawn: attempts as a share of the text's",
                    measure=share_of_text(masked, "drawn"),
                ),
            ),
        ),
    ]
