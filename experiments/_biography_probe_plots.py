"""Figures of `bio_probe`; values are means over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments._biography_probe_measures import ALONE, CELEBRITIES, NAMES, POSITIONS, cells, middle_block
from experiments._biography_probes import FIRST, PROBE
from experiments._heatmaps import heatmap
from physlm.lab import Results, RunMetrics
from physlm.lab.plots import COLOURS, STYLE, bar_with_intervals, make_figure, save_figure
from physlm.probing.results import ACCURACIES, MAJORITY, SHUFFLED, UNTRAINED


def plots(results: Results, folder: Path) -> list[Path]:
    """Where facts can be read in a biography, behind a name, and whether that is used and can be asked."""
    read = [name for name in results.conditions if POSITIONS in _runs(results, name)[0]]
    named = [name for name in results.conditions if NAMES in _runs(results, name)[0]]
    answered = [name for name in named if "questions_test" in _runs(results, name)[0]]
    drawn = [_positions(results, folder, name) for name in read]
    if named:
        drawn.append(_names(results, named, folder / "names.png"))
    if answered:
        drawn.append(_extraction(results, answered, folder / "extraction.png"))
        drawn += [_layers(results, name, folder) for name in answered]
        drawn.append(_removed(results, answered, folder / "removed.png"))
    return drawn


def _runs(results: Results, condition: str) -> list[RunMetrics]:
    return [results.runs[condition, seed] for seed in results.seeds]


def _seeds(results: Results) -> str:
    return f"{len(results.seeds)} seed(s)"


def _told(condition: str) -> str:
    """How the biographies of a condition are told, in words."""
    kind, variant = condition.split("/")
    return variant + {CELEBRITIES: ", with celebrities", ALONE: ", without celebrities"}.get(kind, "")


def _file(kind: str, condition: str) -> str:
    return f"{kind}_{condition.replace('/', '_').replace('+', '_')}.png"


def _positions(results: Results, folder: Path, condition: str) -> Path:
    """P-probing by position and attribute, beside chance and the model before training."""
    shown = {PROBE: "", MAJORITY: "majority", UNTRAINED: "untrained", SHUFFLED: "shuffled"}
    rows = [
        np.mean([np.stack(list(cells(run, FIRST, of).values())) for run in _runs(results, condition)], axis=0)
        for of in shown
    ]
    attributes = list(cells(_runs(results, condition)[0]))
    return _accuracies(
        folder / _file("positions", condition.removeprefix(f"{POSITIONS}/")),
        np.concatenate(rows),
        [f"{name} ({label})" if label else name for label in shown.values() for name in attributes],
        [f"position {number}" for number in range(rows[0].shape[1])],
        f"Where facts can be read: {_told(condition)}",
        f"P-probing for first tokens, held-out people (%); {_seeds(results)}",
    )


def _accuracies(
    path: Path, values: NDArray[np.float64], rows: list[str], columns: list[str], title: str, subtitle: str
) -> Path:
    """A table of accuracies in percent."""
    return heatmap(
        path, 100 * values, rows, columns, title=title, subtitle=subtitle, label="%", limits=(0, 100), number=".0f"
    )


def _names(results: Results, conditions: list[str], path: Path) -> Path:
    """Q-probing by way of telling, with all controls."""
    return bar_with_intervals(
        path,
        {
            of: {
                _told(name): [
                    float(run.outcomes(f"{NAMES}.{FIRST}.outcomes.{of}").mean()) for run in _runs(results, name)
                ]
                for name in conditions
            }
            for of in (PROBE, *ACCURACIES)
        },
        title="What can be read behind a name alone",
        subtitle=f"Q-probing for first tokens, held-out people; {_seeds(results)}, 95 % intervals",
        xlabel="Accuracy",
    )


def _extraction(results: Results, conditions: list[str], path: Path) -> Path:
    """Q-probing against answers, a dot for each attribute, way of telling and seed."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(
            6.4,
            5.4,
            "What can be read behind a name, and what is answered",
            f"Held-out people, a dot for each attribute and seed; {_seeds(results)}",
        )
        for number, name in enumerate(conditions):
            runs = _runs(results, name)
            read = [run.outcomes(f"{NAMES}.{FIRST}.outcomes.{PROBE}").mean(axis=0) for run in runs]
            asked = [run.outcomes("questions_test.items").mean(axis=0) for run in runs]
            colour = COLOURS[number % len(COLOURS)]
            axes.scatter(100 * np.concatenate(read), 100 * np.concatenate(asked), s=18, color=colour, label=_told(name))
        axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="Q-probing (%)", ylabel="Answers after finetuning (%)")
        axes.legend(loc="upper left", fontsize=8)
        return save_figure(figure, path)


def _layers(results: Results, condition: str, folder: Path) -> Path:
    """Linear probes at the end of the name by layer, beside the model before training."""
    runs = _runs(results, condition)
    tasks = runs[0].at("layers")
    layers = list(next(iter(tasks.values()))["layers"])
    values = np.mean(
        [
            [
                [run.at("layers")[name]["layers"][layer][of] for layer in layers]
                for of in ("accuracy", UNTRAINED)
                for name in tasks
            ]
            for run in runs
        ],
        axis=0,
    )
    return _accuracies(
        folder / _file("layers", condition.removeprefix(f"{NAMES}/")),
        values,
        [f"{name}{suffix}" for suffix in ("", " (untrained)") for name in tasks],
        ["embedding", *(f"block {number}" for number in range(1, len(layers)))],
        f"In which layer facts are at the end of the name: {_told(condition)}",
        f"Linear probes of the last token of the name, held-out people (%); {_seeds(results)}",
    )


def _removed(results: Results, conditions: list[str], path: Path) -> Path:
    """What is lost without the directions of a probe, in the middle block."""

    def fall(condition: str, of: str) -> list[float]:
        rows = [run.at("removed")[middle_block(run)].values() for run in _runs(results, condition)]
        return [float(np.mean([np.mean(row[of]) for row in run])) for run in rows]

    labels = {"effect": "its own directions", "other effect": "another attribute's", "random effects": "random ones"}
    return bar_with_intervals(
        path,
        {label: {_told(name): fall(name, of) for name in conditions} for of, label in labels.items()},
        title="What is lost without the directions of a fact at the end of the name",
        subtitle=f"Middle block, value told right after the name; {_seeds(results)}, 95 % intervals",
        xlabel="Fall in log-probability (nats)",
        percent=False,
    )
