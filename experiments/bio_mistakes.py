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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _fitting
from experiments._biographies import by_attribute, halves, recall
from experiments._wrong_values import SameValues, answer, attempted, attempts_in_text, examine, kept_wrong, sources
from experiments._wrong_values_claims import ANSWERS, RECALL, claims
from experiments._wrong_values_presets import PRESETS, BiographyMistakesPreset
from physlm.data.streams import PackedStream
from physlm.lab import Condition, Experiment, Results, Workspace
from physlm.lab.cli import main
from physlm.lab.plots import bar_with_intervals
from physlm.models.transformer import Transformer, parameter_count
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld

LOG_POINTS = 10


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
                    "first value of answers": "answers.likeliest.first.mean",
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
