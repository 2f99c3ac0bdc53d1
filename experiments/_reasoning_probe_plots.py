"""Figures of `igsm_probe`; values are over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments._heatmaps import heatmap
from experiments._reasoning_probe_measures import (
    CONTROLS,
    PROBLEM_FIRST,
    QUESTION_FIRST,
    USE,
    Reader,
    by_layer,
    cells,
    distances,
    known,
    numbers,
    right,
    together,
)
from experiments._reasoning_probes import balanced
from experiments._reasoning_questions import BEYOND, HARDEST, NEEDLESS, NOT_NEEDED, NOT_READY, WRONG
from physlm.lab import Results, RunMetrics
from physlm.lab.plots import bar_with_intervals
from physlm.probing.results import UNTRAINED
from physlm.worlds.igsm.labels import TASKS, Task

_NAMES: dict[Task, str] = {
    "nece": "needed by the query",
    "dep": "depends on that one",
    "known": "known",
    "value": "its value",
    "can_next": "ready",
    "nece_next": "ready and needed",
}


def plots(results: Results, folder: Path) -> list[Path]:
    """What can be read, of what is not needed, by distance, about mistakes, and whether it is used."""
    known_of: list[Task] = [task for task in TASKS if f"{PROBLEM_FIRST}/{task}" in results.conditions]
    drawn: list[Path] = []
    if known_of:
        drawn.append(
            _bars(
                results,
                folder / "tasks.png",
                {
                    of: {
                        _NAMES[task]: (lambda run, task=task, of=of: balanced(cells(run, task), of))
                        for task in known_of
                    }
                    for of in ("accuracy", *CONTROLS)
                },
                "What a model knows of the parameters of a problem",
                "V-probes of the last layer, templates never trained on",
                "Balanced accuracy",
            )
        )
    if {"dep", "can_next"} <= set(known_of):
        drawn.append(_unneeded(results, folder))
    if "nece" in known_of:
        drawn.append(_distance(results, folder))
    if {"nece", "can_next", "nece_next"} <= set(known_of):
        drawn.append(_mistakes(results, folder))
    if f"{PROBLEM_FIRST}/{USE}" in results.conditions:
        drawn += [_use(results, folder, "can_next", "not ready"), _use(results, folder, "nece", "not needed")]
    if "nece" in known_of and f"{QUESTION_FIRST}/nece" in results.conditions:
        drawn.append(_question_first(results, folder))
    return drawn


def _unneeded(results: Results, folder: Path) -> Path:
    """Dependencies and readiness of what the query does not need."""
    return _bars(
        results,
        folder / "unneeded.png",
        {
            of: {
                f"{_NAMES[task]}: {answer}": (
                    lambda run, task=task, of=of, label=label: _of_label(run, task, label, of)
                )
                for task in ("dep", "can_next")
                for answer, label in (("yes", "1"), ("no", "0"))
            }
            for of in ("accuracy", *CONTROLS)
        },
        "It knows of parameters that the query does not need",
        "By the right answer; dependencies are asked before there is a question",
        "Accuracy",
    )


def _mistakes(results: Results, folder: Path) -> Path:
    """What the model wrote wrongly, and others like it."""
    return _bars(
        results,
        folder / "mistakes.png",
        {
            "others like it": {
                "needed? not needed": right("nece", NOT_NEEDED),
                "ready? not ready": right("can_next", NOT_READY),
                "ready and needed? not ready": right("nece_next", NOT_READY),
            },
            "what the model wrote": {
                "needed? not needed": right("nece", NEEDLESS),
                "ready? not ready": right("can_next", WRONG),
                "ready and needed? not ready": right("nece_next", WRONG),
            },
        },
        "Mistakes were made before they were written",
        "Probes of parameters of which the answer is no",
        "Right answers",
    )


def _question_first(results: Results, folder: Path) -> Path:
    """What is needed, of both models."""
    return bar_with_intervals(
        folder / "question_first.png",
        {
            name: {
                words: [known("nece", group)(run) for run in _runs(results, condition)]
                for group, words in ((HARDEST, "most operations"), (BEYOND, "more than trained on"))
            }
            for condition, name in ((PROBLEM_FIRST, "problem first"), (QUESTION_FIRST, "question first"))
        },
        title="What is needed, if the question comes first",
        subtitle=f"V-probes of the last layer; {len(results.seeds)} seed(s), 95 % intervals",
        xlabel="Balanced accuracy",
    )


def _runs(results: Results, model: str = PROBLEM_FIRST) -> list[RunMetrics]:
    return [together({name: results.runs[name, seed] for name in results.conditions}, model) for seed in results.seeds]


def _of_label(run: RunMetrics, task: Task, label: str, of: str) -> float:
    return float(cells(run, task, part="unneeded").get(label, {}).get(of, np.nan))


def _bars(
    results: Results, path: Path, readers: dict[str, dict[str, Reader]], title: str, subtitle: str, xlabel: str
) -> Path:
    series = {
        label: {name: [reader(run) for run in _runs(results)] for name, reader in rows.items()}
        for label, rows in readers.items()
    }
    return bar_with_intervals(
        path,
        series,
        title=title,
        subtitle=f"{subtitle}; {len(results.seeds)} seed(s), 95 % intervals",
        xlabel=xlabel,
    )


def _distance(results: Results, folder: Path) -> Path:
    """Readability by layer and distance, of the trained and of the untrained model."""
    runs = _runs(results)
    shared = sorted(set.intersection(*(set(distances(run)) for run in runs))) or [1]
    rows = [
        np.mean([by_layer(run, far, of) for run in runs], axis=0) for of in ("accuracy", UNTRAINED) for far in shared
    ]
    values = 100 * np.array(rows).T
    return heatmap(
        folder / "distance.png",
        values,
        ["embedding", *(f"block {layer}" for layer in range(1, len(values)))],
        [f"distance {far}{suffix}" for suffix in ("", "\nuntrained") for far in shared],
        title="In which layer it is known what the query needs",
        subtitle=f"By distance from the query; balanced accuracy (%); {len(runs)} seed(s)",
        label="%",
        limits=(0, 100),
        number=".0f",
    )


def _use(results: Results, folder: Path, task: Task, words: str) -> Path:
    """Changes of what is written by block."""
    runs = _runs(results)
    names = {"probe": "direction of the item", "other": "of another such item", "random": "random direction"}
    return bar_with_intervals(
        folder / f"used_{task}.png",
        {
            label: {
                f"block {int(block) + 1}": [float(np.mean(numbers(run.at("use")[task][block])[name])) for run in runs]
                for block in runs[0].at("use")[task]
            }
            for name, label in names.items()
        },
        title=f"If the state says that the item is {words}",
        subtitle=f"Where a sentence begins; {len(runs)} seed(s), 95 % intervals",
        xlabel="The next sentence is about another item",
    )
