"""Figures of `igsm_reasoning`."""

from __future__ import annotations

from pathlib import Path

from experiments._reasoning_presets import DEEP, LIMITS, WIDE
from physlm.lab import Results
from physlm.lab.plots import bar_with_intervals, curves_with_bands


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
