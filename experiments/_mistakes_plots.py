"""Figures of `igsm_mistakes`."""

from __future__ import annotations

from pathlib import Path

from experiments._igsm_comparisons import FAMILIAR
from physlm.lab import Results
from physlm.lab.plots import bar_with_intervals, curves_with_bands

_IN_WORDS = {"retry": "wrong", "retry_weak": "later ones", "retry_miss": "any"}
_DECODING = {"beams": "beams", "regret": "perfect detector", "detector": "trained detector"}


def in_words(condition: str) -> str:
    """A condition as plots call it."""
    first, *others = condition.split("/")
    if first == "late":
        return f"clean, then {_text(others[0])}, {others[1].replace('rank', 'rank ').replace('full', 'all weights')}"
    if first == "double":
        return f"{_text(others[0])}, twice as long"
    return ", ".join([_text(first), *(_DECODING[other] for other in others)])


def _text(name: str) -> str:
    kind, _, rate = name.removesuffix("_masked").rpartition("_")
    if not kind:
        return "clean"
    share = f"{_IN_WORDS[kind]} {100 * float(rate):g}\N{NO-BREAK SPACE}%"
    return f"{share}, masked" if name.endswith("_masked") else share


def plots(results: Results, folder: Path) -> list[Path]:
    """What is solved, how often something is taken back, and how it was learnt."""
    names = results.conditions
    if not names:
        return []
    some = results.runs[names[0], results.seeds[0]]
    sets = {name: f"{name.removeprefix('new_')} operations" for name in some.at("accuracy") if name.startswith("new_")}
    asked_all = [name for name in names if FAMILIAR in results.runs[name, results.seeds[0]].at("accuracy")]
    seeds = f"{len(results.seeds)} seed(s)"

    series = {
        label: {in_words(name): results.values(name, f"accuracy.{tested}.mean") for name in names}
        for tested, label in sets.items()
    }
    series["as in training"] = {in_words(name): results.values(name, f"accuracy.{FAMILIAR}.mean") for name in asked_all}
    drawn = [
        bar_with_intervals(
            folder / "accuracy.png",
            series,
            title="Problems solved, by the attempts in the training text",
            subtitle=f"Right in every step; numbers of operations: new templates; {seeds}, 95 % intervals",
            xlabel="Problems solved",
        )
    ]
    if taught := [name for name in names if name.split("/")[0] != "clean"]:
        drawn.append(
            bar_with_intervals(
                folder / "retries.png",
                {
                    label: {
                        in_words(name): results.values(name, f"accuracy.{tested}.retries.per_right_solution")
                        for name in taught
                    }
                    for tested, label in sets.items()
                },
                title="How often something is taken back",
                subtitle=f"In right solutions, by the attempts in the training text; {seeds}, 95 % intervals",
                xlabel="Attempts in a solution",
                percent=False,
            )
        )
    learners = [name for name in asked_all if "/" not in name]
    for curve, title in (("hardest", "the most operations trained on"), (FAMILIAR, "new problems as in training")):
        if learners:
            drawn.append(
                curves_with_bands(
                    folder / f"{curve}.png",
                    [point["step"] for point in results.runs[learners[0], results.seeds[0]].at("curve")],
                    {
                        in_words(name): [
                            [point[curve] for point in results.runs[name, seed].at("curve")] for seed in results.seeds
                        ]
                        for name in learners
                    },
                    title=f"Learning to solve {title}",
                    subtitle=f"By the attempts in the training text; {seeds}, 95 % bands",
                    xlabel="Training steps",
                    ylabel="Right in every step",
                )
            )
    return drawn
