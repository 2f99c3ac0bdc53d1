"""Figures of `cfg_robustness`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments._heatmaps import heatmap
from experiments._noisy_prefixes import CLEAN_PREFIX, COLD, NO_PREFIX, NOISY_PREFIX, TEMPERATURES, WARM
from physlm.lab import Results
from physlm.lab.plots import bar_with_intervals, curves_with_bands

IN_WORDS = {"terminal": "wrong terminals", "nonterminal": "wrong symbols", "permutation": "permuted symbols"}
TASKS_IN_WORDS = {NO_PREFIX: "no prefix", CLEAN_PREFIX: "clean prefix", NOISY_PREFIX: "noisy prefix"}


def in_words(condition: str) -> str:
    """A condition as plots call it."""
    name = condition.removeprefix("ideal/")
    kind, _, share = name.partition("_")
    text = f"{IN_WORDS[kind]}, {100 * float(share):.0f}\N{NO-BREAK SPACE}%" if share else "no mistakes"
    return f"{text}, exact" if name != condition else text


def plots(results: Results, folder: Path) -> list[Path]:
    """Everything as a table, as in the paper; what noise does; the modes; and when robustness comes."""
    names = results.conditions
    trained = [name for name in names if not name.startswith("ideal/")]

    def values(name: str, task: str, temperature: float) -> list[float]:
        return results.values(name, f"accuracy.{task}.{temperature:g}.mean")

    seeds = f"{len(results.seeds)} seed(s)"
    cells = [(task, temperature) for task in TASKS_IN_WORDS for temperature in TEMPERATURES]
    drawn = [
        heatmap(
            folder / "accuracy.png",
            np.array([[100 * float(np.mean(values(name, *cell))) for name in names] for cell in cells]),
            [f"{TASKS_IN_WORDS[task]}, τ = {temperature:g}" for task, temperature in cells],
            [in_words(name).replace(",", "").replace(" ", "\n") for name in names],
            title="What mistakes in the training text do",
            subtitle=f"Completions in the language (%), by mistakes in the training text; mean of {seeds}",
            label="%",
            limits=(0, 100),
            number=".0f",
        ),
        bar_with_intervals(
            folder / "robustness.png",
            {
                f"temperature {temperature:g}": {
                    in_words(name): values(name, NOISY_PREFIX, temperature) for name in names
                }
                for temperature in (COLD, WARM)
            },
            title="Mistakes in the training text make robust, at a low temperature",
            subtitle=f"After prefixes spoilt by noise; by mistakes in the text; {seeds}, 95 % intervals",
            xlabel="Completions in the language",
        ),
    ]
    modes = {"model": {}, "exact distribution of its text": {}}
    for name in names:
        if f"ideal/{name}" in names:
            for task, text in TASKS_IN_WORDS.items():
                row = f"{in_words(name).split(', ')[1]} with mistakes, {text}"
                modes["model"][row] = values(name, task, WARM)
                modes["exact distribution of its text"][row] = values(f"ideal/{name}", task, WARM)
    if modes["model"]:
        drawn.append(
            bar_with_intervals(
                folder / "modes.png",
                modes,
                title="Whether to make mistakes is decided by the prefix",
                subtitle=f"Wrong terminals in the text, temperature 1; {seeds}, 95 % intervals",
                xlabel="Completions in the language",
            )
        )
    if trained:
        drawn.append(
            curves_with_bands(
                folder / "learning.png",
                [point["step"] for point in results.runs[trained[0], results.seeds[0]].at("curve")],
                {
                    in_words(name): [
                        [point[NOISY_PREFIX] for point in results.runs[name, seed].at("curve")]
                        for seed in results.seeds
                    ]
                    for name in trained
                },
                title="When robustness is learnt",
                subtitle=f"After noisy prefixes, temperature {COLD}; by mistakes in the text; {seeds}",
                xlabel="Training steps",
                ylabel="Completions in the language",
            )
        )
    return drawn
