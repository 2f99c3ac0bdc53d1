"""Figures of `experiments.cfg_encoder`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments._hidden_tokens import deep_by_shallow
from physlm.lab import Results
from physlm.lab.plots import bar_with_intervals, curves_with_bands


def plots(results: Results, folder: Path) -> list[Path]:
    """What tokens need, what the models know of them, how that is learnt, and what becomes of long gaps."""
    seeds = f"{len(results.seeds)} seed(s), 95 % intervals"
    drawn = []
    exact = [name for name in results.conditions if name.startswith("exact/")]
    if exact:
        levels = list(results.runs[exact[0], results.seeds[0]].at("hidden"))[1:]
        drawn.append(
            bar_with_intervals(
                folder / "needs.png",
                {
                    f"{label}, {name.removeprefix('exact/')} grammar": {
                        f"level {level}": results.values(name, f"{path}.{level}") for level in levels
                    }
                    for name in exact
                    for label, path in (("hidden token", "hidden"), ("next token", "next"))
                },
                title="How much of a token lies beyond its constituent",
                subtitle=f"Exact; level 2 is a child of the root, at the last nothing is seen; {seeds}",
                xlabel="Nats",
                percent=False,
            )
        )
    if not {"masked", "causal"} <= set(results.conditions):
        return drawn
    causal, masked = "causal model", "masked model"
    asked = {
        f"{causal}, hidden token": ("causal", "token"),
        f"{masked}, hidden token": ("masked", "token"),
        f"{causal}, next token": ("causal", "next_token"),
    }
    levels = [name for name in results.runs["causal", results.seeds[0]].at("token") if name.isdigit()]
    drawn.append(
        bar_with_intervals(
            folder / "known.png",
            {
                label: {
                    "needs the sentence" if level == "1" else f"needs level {level}": results.values(
                        kind, f"{path}.{level}.known"
                    )
                    for level in levels
                }
                for label, (kind, path) in asked.items()
            },
            title="What a model knows of tokens, by the constituent they need",
            subtitle=f"1 is exact, 0 as good as the next smaller constituent; {seeds}",
            xlabel="Known",
            percent=False,
        )
    )
    grid = np.linspace(0.0, 1.0, 41)
    drawn.append(
        curves_with_bands(
            folder / "deep_by_shallow.png",
            grid,
            {
                label: _where_most_are(
                    np.array([deep_by_shallow(results.runs[kind, seed].at("curve"), grid) for seed in results.seeds])
                )
                for label, kind in ((causal, "causal"), (masked, "masked"))
            },
            title="Deep tokens known at equal knowledge of shallow ones",
            subtitle=f"Hidden tokens, in the course of training; {len(results.seeds)} seed(s), 95 % bands",
            xlabel="Known of shallow tokens",
            ylabel="Known of deep tokens",
            percent=False,
        )
    )
    spans = [int(name.removeprefix("span_")) for name in results.runs["causal", results.seeds[0]].at("filling")]
    means = {
        label: [[results.runs[kind, seed].number(f"filling.span_{n}.{path}") for n in spans] for seed in results.seeds]
        for label, kind, path in (
            (f"{causal}, goes on to the end", "causal", "mean"),
            (f"{masked}, fills in one by one", "masked", "mean"),
            ("uniform draws", "masked", "uniform"),
        )
    }
    drawn.append(
        curves_with_bands(
            folder / "filling.png",
            spans,
            means,
            title="Sentences after the last tokens were written by a model",
            subtitle=f"Test sentences, temperature 1; {len(results.seeds)} seed(s), 95 % bands",
            xlabel="Tokens written",
            ylabel="In the language",
        )
    )
    return drawn


def _where_most_are(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Curves `[seeds, points]` without points that half of the seeds or fewer have: their bands would hide all else."""
    return np.where(np.isfinite(curves).mean(axis=0) > 0.5, curves, np.nan)
