"""Do wrong facts that are taken back make a model recall and answer better, or does it remember them?

Models of one kind read biographies of everybody and questions about one half of the people, mixed and at equal tokens:
clean ones, and ones where now and then another value comes before the right one, and is taken back with <back>. All
then recall facts within biographies and answer questions about the *other* half, where what they take back does not
count.

Wrong values differ from reading to reading; the control, in which they are the same every time, shows what is
remembered of them. Another model reads wrong values without learning to write them.

The law of learning from mistakes is that of Physics of Language Models 2.2, for grade-school math; for knowledge
nothing is published. Claims MIS-BIO-1 to MIS-BIO-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import _fitting
from experiments._biographies import BiographyPreset, by_attribute, halves, make_world, recall
from experiments._biography_presets import PRESETS as BIOGRAPHIES
from experiments._mistaken_texts import CLEAN, Text
from experiments._wrong_values import SameValues, answer, attempted, attempts_in_text, examine, kept_wrong, sources
from physlm.data.streams import PackedStream
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals
from physlm.models.transformer import Transformer, parameter_count
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld

LOG_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class BiographyMistakesPreset:
    """One scale of the experiment.

    Attributes:
        biographies: world, model and mixed training of every model.
        variant: how biographies are told.
        middle_rate, high_rate: chances of one more attempt, growing.
        exposures: versions of every biography and question with other wrong values, ≥ 2; clean ones are there as
            often, so that the order of reading is the same.
    """

    biographies: BiographyPreset
    variant: str = "single"
    middle_rate: float = 0.2
    high_rate: float = 0.5
    exposures: int

    def __post_init__(self) -> None:
        if not 0 < self.middle_rate < self.high_rate < 1:
            raise ValueError(
                f"rates must be 0 < middle_rate < high_rate < 1, got {self.middle_rate} and {self.high_rate}"
            )
        if self.exposures < 2:
            raise ValueError(f"exposures must be ≥ 2, got {self.exposures}: wrong values would always be the same")

    @property
    def texts(self) -> dict[str, Text]:
        """What each model reads, by condition."""
        middle, high = Text(rate=self.middle_rate), Text(rate=self.high_rate)
        texts = (CLEAN, middle, high, replace(high, mask="name"), SameValues(rate=self.high_rate))
        return {text.name: text for text in texts}

    def world(self, seed: int) -> BiographyWorld:
        """The clean world of a seed."""
        return make_world(self.biographies.world.config(seed, variant=self.variant))


_SMOKE = BIOGRAPHIES["smoke"]
PRESETS: dict[Scale, BiographyMistakesPreset] = {
    "smoke": BiographyMistakesPreset(biographies=replace(_SMOKE, model=replace(_SMOKE.model, context=96)), exposures=4),
    # More than the readings of a biography; a question is read a few times in each version.
    "cpu": BiographyMistakesPreset(biographies=BIOGRAPHIES["cpu"], exposures=40),
    "gpu": BiographyMistakesPreset(biographies=BIOGRAPHIES["gpu"], exposures=120),
    "paper": BiographyMistakesPreset(biographies=BIOGRAPHIES["paper"], exposures=120),
}


def conditions(preset: BiographyMistakesPreset) -> list[Condition]:
    """A model of every text."""
    return [
        Condition(name, {"rate": text.rate, "mask": text.mask, "same": isinstance(text, SameValues)})
        for name, text in preset.texts.items()
    ]


def run(preset: BiographyMistakesPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model on a text, and ask it."""
    text, practice, world = preset.texts[condition.name], preset.biographies, preset.world(seed)
    stream = PackedStream(
        sources(world, text, preset.exposures, practice.question_share),
        context=practice.model.context,
        batch_size=practice.batch_size,
        key=Key.of("packing", seed),
    )
    people = halves(world)
    few = {half: ids[: practice.curve_people] for half, ids in people.items()}

    def recalled(model: Transformer) -> dict[str, float]:
        return {f"recall_{half}": float(recall(model, world, ids).mean()) for half, ids in few.items()}

    model, curve, seconds = _fitting.fit(
        workspace,
        stream,
        practice.model.config(stream.vocab_size),
        seed,
        recalled,
        recipe=practice.mixed,
        log_points=LOG_POINTS,
        threads=practice.threads,
    )
    questions = np.arange(world.size("questions_test"))
    answers = answer(model, world, questions)
    return {
        "parameters": parameter_count(model.config),
        "cpu_seconds_per_step": seconds,
        "curve": curve,
        "readings": readings(stream, world),
        "recall": {half: by_attribute(world, recall(model, world, ids)) for half, ids in people.items()},
        "answers": {
            "likeliest": examine(world, answers),
            "drawn": examine(world, answer(model, world, questions, Key.of("answers", seed))),
        },
        "attempts_in_text": attempts_in_text(world, text),
        "told_wrong": kept_wrong(model, world, preset.high_rate, answers),
    }


def readings(stream: PackedStream, world: BiographyWorld) -> dict[str, float]:
    """How often every document has been read in the mean, by split; with attempts in them it is less often."""
    state = stream.state()
    passes, cursors = state["passes"], state["cursors"]
    assert not isinstance(passes, int)
    assert not isinstance(cursors, int)
    return {
        source.split: (number * source.world.size(source.split) + cursor) / world.size(source.split)
        for source, number, cursor in zip(stream.sources, passes, cursors, strict=True)
    }


# ----------------------------------------------------------------------------------------------------------------------
# Claims
# ----------------------------------------------------------------------------------------------------------------------

Runs = Mapping[str, RunMetrics]
ANSWERS, FIRST, RECALL = "answers.likeliest.final", "answers.likeliest.first", "recall.test"


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


def share_of_text(condition: str, how: str) -> Callable[[Runs], float]:
    """Attempts in an answer, as a share of those in the text."""
    return lambda runs: runs[condition].number(f"answers.{how}.attempts") / runs[condition].number("attempts_in_text")


def claims(_scale: Scale, preset: BiographyMistakesPreset) -> list[Claim]:
    """The claims, with thresholds fixed before any seed was run.

    Nothing is published that a threshold could be a share of. Models of one kind differ by several points between
    seeds in what they answer: 10 points are the least that five seeds can be expected to tell from nothing.
    """
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
            conditions=(middle, high),
            measure=share_of_text(high, "likeliest"),
            measure_name=f"{percent[high]}: attempts in an answer as a share of the text's",
            relation="≤",
            threshold=0.25,
            scale="number",
            unit="%",
            control="the text",
            parts=(
                attempts(
                    name=f"{percent[middle]}: attempts in an answer as a share of the text's",
                    measure=share_of_text(middle, "likeliest"),
                ),
                between(f"{percent[high]}: answers minus first values", gap((high, ANSWERS), (high, FIRST)), 0.02),
            ),
        ),
        Claim(
            id="MIS-BIO-4",
            statement="Wrong values are remembered if they are the same every time, and only then; they are not what "
            "questions are answered with.",
            source="new for knowledge",
            conditions=(high, same),
            measure=gap((same, "told_wrong.recalled"), (high, "told_wrong.recalled")),
            measure_name=f"{told}, the wrong value comes to mind first: same every time minus not",
            relation="≥",
            threshold=0.5,
            control="wrong values that differ from reading to reading",
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
            conditions=(high, masked),
            measure=gap((masked, ANSWERS), (high, ANSWERS)),
            measure_name=f"questions answered, {percent[high]}: masked minus not",
            relation="between",
            threshold=(-0.1, 0.1),
            control="loss on everything",
            parts=(
                between(f"recall, {percent[high]}: masked minus not", gap((masked, RECALL), (high, RECALL)), 0.05),
                attempts(
                    name=f"{percent[high]} masked, answers drawn: attempts as a share of the text's",
                    measure=share_of_text(masked, "drawn"),
                ),
            ),
        ),
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Plots
# ----------------------------------------------------------------------------------------------------------------------


def plots(results: Results, folder: Path) -> list[Path]:
    """What is recalled and answered, and how often something is taken back."""
    names = results.conditions
    if not names:
        return []
    seeds = f"{len(results.seeds)} seed(s), 95 % intervals"

    def series(paths: Mapping[str, str]) -> dict[str, dict[str, list[float]]]:
        return {label: {name: results.values(name, path) for name in names} for label, path in paths.items()}

    return [
        bar_with_intervals(
            folder / "accuracy.png",
            series(
                {
                    "recalled in biographies": f"{RECALL}.mean",
                    "answered": f"{ANSWERS}.mean",
                    "first value of answers": f"{FIRST}.mean",
                    "answered, drawn": "answers.drawn.final.mean",
                }
            ),
            title="Facts about held-out people, by the wrong values in the training text",
            subtitle=f"What was taken back does not count; {seeds}",
            xlabel="Right",
        ),
        bar_with_intervals(
            folder / "attempts.png",
            series(
                {
                    "answers": "answers.likeliest.attempts",
                    "answers, drawn": "answers.drawn.attempts",
                    "training text": "attempts_in_text",
                }
            ),
            title="How often something is taken back",
            subtitle=f"By the wrong values in the training text; {seeds}",
            xlabel="Attempts in an answer",
            percent=False,
        ),
    ]


def fingerprint(preset: BiographyMistakesPreset, seed: int) -> str:
    """A hash of the clean world, and of every text about it."""
    world = preset.world(seed)
    return "-".join(attempted(world, text, preset.exposures).fingerprint()[:12] for text in preset.texts.values())


def cost(preset: BiographyMistakesPreset) -> str:
    """What a preset costs."""
    practice = preset.biographies
    tokens = practice.mixed.steps * practice.batch_size * practice.model.context
    return f"{len(preset.texts)} models a seed, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="bio_mistakes",
    title="Do wrong facts that are taken back make a model recall and answer better, or does it remember them?",
    source="New; the law is that of Physics of Language Models 2.2 (How to Learn From Mistakes)",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (241,), "cpu": (241, 242, 243, 244, 245), "gpu": (241, 242), "paper": (241, 242)},
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
