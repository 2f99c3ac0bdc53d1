"""Do a few people told about in many ways make everybody else's facts extractable?

Two populations are read together: celebrities, told in five ways, and a minority, told once. Questions are learnt on
celebrities only, and asked about the minority. The control has the same minority data without celebrities, and learns
from questions on one half of the minority.

Claims BIO-15 and BIO-16. Source: Physics of Language Models 3.1, section 6 and App. G, Fig. 8 and 17.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from experiments._biographies import (
    BiographyPreset,
    ask,
    by_attribute,
    chance,
    finetune,
    make_world,
    measure,
    preset_fingerprint,
    pretrain,
)
from experiments._biography_presets import CELEBRITY_PRESETS, DEVELOPMENT_SEEDS, SEEDS, cost
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals
from physlm.models.transformer import parameter_count

CELEBRITY_VARIANT = "multi5+permute"
MINORITY_VARIANTS = ("single+permute1", "single", "single+permute1+fullname")


def conditions(preset: BiographyPreset) -> list[Condition]:
    """Each way of writing the minority, with and without celebrities."""
    del preset
    return [
        Condition(
            f"{company}/{variant}",
            {"variant": variant, "celebrities": company == "celebrities"},
            stage_key=f"{company} {variant}",
        )
        for variant in MINORITY_VARIANTS
        for company in ("celebrities", "alone")
    ]


def run(preset: BiographyPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Pretrain on everybody, finetune on celebrities (or on half of the minority), ask about the minority."""
    celebrities = preset.world.people if condition.options["celebrities"] else 0
    world = make_world(
        preset.world.config(
            seed,
            variant=str(condition.options["variant"]),
            celebrities=celebrities,
            celebrity_variant=CELEBRITY_VARIANT,
        )
    )
    model = pretrain(workspace, preset, world, seed).model
    metrics: dict[str, Any] = {
        "parameters": parameter_count(model.config),
        "chance": chance(world),
        **measure(model, world, questions=False),
    }
    taught = "questions_celebrities" if celebrities else "questions_train"
    finetune(
        model,
        preset,
        world,
        seed,
        recipe=preset.low_rank_finetuning,
        low_rank=preset.low_rank,
        split=taught,
        folder=workspace.scratch / "finetuning",
        progress=lambda fraction, message: workspace.progress(fraction, f"finetuning: {message}"),
    )
    # Held-out people are the same half of the minority in both conditions, so the comparison is person by person.
    held_out, trained = ask(model, world, "questions_test"), ask(model, world, taught)
    return metrics | {
        "questions_test": by_attribute(world, held_out),
        "questions_taught": by_attribute(world, trained),
    }


Runs = Mapping[str, RunMetrics]


def gain(better: str, worse: str) -> Callable[[Runs], Measurement]:
    """Difference of the accuracies on held-out minority people, paired by person."""
    return lambda runs: Measurement.of_difference(
        runs[better].outcomes("questions_test.items"), runs[worse].outcomes("questions_test.items")
    )


def memorised(*names: str, threshold: float) -> Requirement:
    """Every fact of the minority is recalled within its biography."""
    return Requirement(
        name="recall of every fact of the minority within its biography, worst condition",
        measure=lambda runs: min(runs[name].number(f"recall_{half}") for name in names for half in ("train", "test")),
        relation="≥",
        threshold=threshold,
    )


def claims(scale: Scale, _preset: BiographyPreset) -> list[Claim]:
    """The claims, with thresholds fixed before the committed seeds were run (see `docs/claims/knowledge.md`)."""
    demanding = scale in ("gpu", "paper")
    recalled = partial(memorised, threshold=0.99 if demanding else 0.97)
    main_row, alone = "celebrities/single+permute1", "alone/single+permute1"
    others = ("celebrities/single", "celebrities/single+permute1+fullname")
    return [
        Claim(
            id="BIO-15",
            statement="Celebrities told in many ways make the facts of a minority told once extractable.",
            source="3.1, Fig. 8 and 17",
            conditions=(main_row, alone),
            measure=gain(main_row, alone),
            measure_name="minority told once in random order: with celebrities minus without",
            relation="≥",
            threshold=0.50 if demanding else 0.20,
            control="the same minority data without celebrities",
            requires=(recalled(main_row, alone),),
        ),
        Claim(
            id="BIO-16",
            statement="Celebrities help most when the minority is told in the same format.",
            source="3.1, Fig. 17",
            conditions=(main_row, *others),
            measure=gain(main_row, others[0]),
            measure_name="with celebrities: single+permute1 minus single",
            relation="≥",
            threshold=0.0,
            control="a minority told in another format",
            requires=(recalled(main_row, *others),),
            parts=(
                Predicate(
                    name="with celebrities: single+permute1 minus single+permute1+fullname",
                    measure=gain(main_row, others[1]),
                    relation="≥",
                    threshold=0.0,
                    control="a minority told in another format",
                ),
            ),
        ),
    ]


def plots(results: Results, folder: Path) -> list[Path]:
    """Minority accuracy with and without celebrities."""
    labels = {"celebrities": "with celebrities", "alone": "without"}
    series: dict[str, dict[str, list[float]]] = {}
    for condition in results.conditions:
        company, variant = condition.split("/")
        series.setdefault(labels[company], {})[variant] = results.values(condition, "questions_test.mean")
    if not series:
        return []
    return [
        bar_with_intervals(
            folder / "celebrities.png",
            series,
            title="Answers about a minority told once, with and without celebrities",
            subtitle=f"Celebrities told in five ways; {len(results.seeds)} seed(s), 95 % intervals",
            xlabel="Questions answered exactly",
            chance=next(iter(results.runs.values())).number("chance.mean"),
        )
    ]


EXPERIMENT = Experiment(
    name="bio_celebrity",
    title="Celebrities help minorities",
    source="Physics of Language Models 3.1 (Knowledge Storage and Extraction), section 6",
    revision=1,
    presets=CELEBRITY_PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds=SEEDS,
    development_seeds=DEVELOPMENT_SEEDS,
    data_fingerprint=preset_fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
