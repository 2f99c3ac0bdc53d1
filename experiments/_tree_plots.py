"""Figures of `cfg_probe`; values are means over seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments._heatmaps import heatmap
from experiments._tree_attention import CONTROLS, OFFSETS, SIDES, TRUE
from experiments._tree_measures import CAUSAL, MASKED, by_layer, by_step, excess, levels, readable
from physlm.lab import Results, RunMetrics
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.probing.results import EMBEDDING, MAJORITY, SHUFFLED, UNTRAINED

_CONTROLS = {"exact": "exact reader", **{name: name for name in (UNTRAINED, EMBEDDING, SHUFFLED, MAJORITY)}}
_EXCESS = 100.0
_FARTHEST_SHOWN = 40


def plots(results: Results, folder: Path) -> list[Path]:
    """What can be read where and when, whether it is used, and what attention goes to."""
    if CAUSAL not in results.conditions:
        return []
    symbol, end = "the symbol of a constituent is at its end", "a constituent is known to end"
    drawn = [
        _layers(
            results,
            folder / "layers_ends.png",
            "ends",
            f"In which layer {symbol}",
            "Linear probes of the last token, accuracy",
        ),
        _layers(
            results,
            folder / "layers_boundaries.png",
            "boundary",
            f"In which layer {end}",
            "Linear probes of every token, balanced accuracy",
        ),
        *_accuracies(results, folder),
        _learning(results, folder / "learning_ends.png", "ends", f"When {symbol}", "Accuracy"),
        _learning(results, folder / "learning_boundaries.png", "boundary", f"When {end}", "Balanced accuracy"),
    ]
    drawn += [_ablation(results, folder), _heads(results, folder)]
    return [*drawn, _toward(results, folder), _between(results, folder), _adjacent(results, folder)]


def _runs(results: Results, condition: str = CAUSAL) -> list[RunMetrics]:
    return [results.runs[condition, seed] for seed in results.seeds]


def _mean(results: Results, of: Callable[[RunMetrics], NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.mean([of(run) for run in _runs(results)], axis=0)


def _seeds(results: Results) -> str:
    return f"{len(results.seeds)} seed(s)"


def _level(level: int, among: list[int]) -> str:
    where = {among[0]: " (below the root)", among[-1]: " (above the tokens)"}.get(level, "")
    return f"level {level}{where}"


def _layers(results: Results, path: Path, question: str, title: str, subtitle: str) -> Path:
    """Local read-outs by layer and level."""
    names = levels(_runs(results)[0])
    values = np.concatenate(
        [_mean(results, lambda run, of=of: by_layer(run, question, of)) for of in ("accuracy", UNTRAINED)]
    )
    return heatmap(
        path,
        100 * values.T,
        ["embedding", *(f"block {layer}" for layer in range(1, values.shape[1]))],
        [f"level {level}{suffix}" for suffix in ("", "\nuntrained") for level in names],
        title=title,
        subtitle=f"{subtitle} (%); {_seeds(results)}",
        label="%",
        limits=(0, 100),
        number=".0f",
    )


def _accuracies(results: Results, folder: Path) -> list[Path]:
    """Each question by level, beside the exact reader and the controls."""
    asked = [
        ("ends", "local", "ends", False, "The symbol of a constituent, read off the state at its end"),
        ("ancestors", "full", "ancestors", False, "The ancestors of every token, read off all states of the sentence"),
        ("boundaries", "full", "boundary", True, "Whether a constituent ends, read off all states of the sentence"),
    ]
    names = levels(_runs(results)[0])

    def series(condition: str, readout: str, question: str, of: str, balanced: bool) -> dict[str, list[float]]:
        rows = np.array([readable(r, readout, question, of, balanced=balanced) for r in _runs(results, condition)])
        return {_level(level, names): rows[:, column].tolist() for column, level in enumerate(names)}

    drawn: list[Path] = []
    for file, readout, question, balanced, title in asked:
        bars = {
            label: series(CAUSAL, readout, question, of, balanced)
            for of, label in {"accuracy": "probe", **_CONTROLS}.items()
        }
        if readout == "local" and MASKED in results.conditions:
            bars["masked model"] = series(MASKED, readout, question, "accuracy", balanced)
        drawn.append(
            bar_with_intervals(
                folder / f"{file}.png",
                bars,
                title=title,
                subtitle=f"Last layer, sentences that were not fitted; {_seeds(results)}, 95 % intervals",
                xlabel="Balanced accuracy" if balanced else "Accuracy",
            )
        )
    return drawn


def _learning(results: Results, path: Path, question: str, title: str, ylabel: str) -> Path:
    """Local read-outs of the last layer in the course of training."""
    names = levels(_runs(results)[0])
    rows = [by_step(run, question) for run in _runs(results)]
    values = np.array([row for _, row in rows])
    return curves_with_bands(
        path,
        rows[0][0],
        {_level(level, names): values[:, number] for number, level in reversed(list(enumerate(names)))},
        title=title,
        subtitle=f"Linear probes of the last layer; {_seeds(results)}, 95 % bands",
        xlabel="Training steps",
        ylabel=ylabel,
    )


def _ablation(results: Results, folder: Path) -> Path:
    """Rise in divergence by block and level."""
    runs = _runs(results)
    names = levels(runs[0])
    blocks = list(runs[0].at("ablation"))

    def rise(of: str) -> dict[str, list[float]]:
        return {
            f"block {int(block) + 1}, level {level}": [
                float(np.mean(run.at("ablation")[block][str(level)][of])) for run in runs
            ]
            for block in blocks
            for level in reversed(names)
        }

    return bar_with_intervals(
        folder / "ablation.png",
        {"directions of the probe": rise("effect"), "random directions": rise("random effects")},
        title="What the model loses without what can be read at ends",
        subtitle=f"Directions put to their mean at ends of the level; {_seeds(results)}, 95 % intervals",
        xlabel="Rise in divergence from the exact distribution, nats per token",
        percent=False,
    )


def _heads(results: Results, folder: Path) -> Path:
    """Mean weight by distance of the heads of one seed, those that look nearest first."""
    heads = _runs(results)[0].at("attention.heads.trained")
    mean, reach = np.array(heads["mean"]), np.array(heads["reach"])
    order = [(layer, head) for layer in range(len(reach)) for head in np.argsort(reach[layer]).tolist()]
    values = np.array([mean[layer, head, :_FARTHEST_SHOWN] for layer, head in order])
    return heatmap(
        folder / "heads.png",
        100 * values,
        [f"block {layer + 1}, {reach[layer, head]:.0f} tokens" for layer, head in order],
        [str(distance) if distance % 5 == 0 else "" for distance in range(values.shape[1])],
        title="How far back heads look",
        subtitle=f"Mean weight (%) by distance in tokens; heads with their mean distance; seed {results.seeds[0]}",
        label="%",
        limits=(0, float(np.ceil(100 * np.quantile(values, 0.98)))),
    )


def _compared(
    path: Path, results: Results, kind: str, rows: list[str], columns: list[str], title: str, subtitle: str
) -> Path:
    """Excess `[rows, columns]` of a kind of pairs with ends as they are, and beside it the controls."""

    def of(ends: str) -> NDArray[np.float64]:
        values = _mean(results, lambda run: excess(run, ends, kind)[: max(1, len(levels(run)) - 1)])
        return values.mean(axis=0) if values.ndim == 3 else values

    values = _EXCESS * np.concatenate([of(ends) for ends in (TRUE, *CONTROLS)], axis=1)
    largest = float(np.nanmax(np.abs(values)))
    names = [
        f"{column}\n{ends.replace(' of ', chr(10) + 'of ')}" if place == len(columns) // 2 else column
        for ends in (TRUE, *CONTROLS)
        for place, column in enumerate(columns)
    ]
    return heatmap(
        path, values, rows, names, title=title, subtitle=subtitle, label="%", limits=(-largest, largest), number=".0f"
    )


def _toward(results: Results, folder: Path) -> Path:
    names = levels(_runs(results)[0])
    return _compared(
        folder / "toward.png",
        results,
        "toward",
        [_level(level, names) for level in names[: max(1, len(names) - 1)]],
        [f"{-offset:+d}" if offset else "0" for offset in OFFSETS],
        "Beyond distance, how much more attention tokens near ends get",
        f"Excess over the mean at the same distance (%), by place beside the end; {_seeds(results)}",
    )


def _between(results: Results, folder: Path) -> Path:
    places = [f"{-side:+d}" if side else "0" for side in SIDES]
    return _compared(
        folder / "between.png",
        results,
        "between",
        [f"key at {place}" for place in places],
        places,
        "It comes from ends and goes to ends",
        f"Excess (%), by place of key (rows) and query (columns) beside ends of one level; {_seeds(results)}",
    )


def _adjacent(results: Results, folder: Path) -> Path:
    """Excess by subtrees in between, for every pair of levels."""
    names = levels(_runs(results)[0])
    values = _EXCESS * _mean(results, lambda run: excess(run, TRUE, "adjacent"))
    pairs = [(later, earlier) for earlier in range(len(names)) for later in range(len(names))]
    columns = np.stack([values[later, earlier] for later, earlier in reversed(pairs)], axis=1)
    largest = float(np.nanmax(np.abs(columns)))
    return heatmap(
        folder / "adjacent.png",
        columns,
        [f"{subtrees} back" for subtrees in range(len(columns))],
        [f"{names[later]} to {names[earlier]}" for later, earlier in reversed(pairs)],
        title="It goes to the most adjacent ends",
        subtitle=f"Excess (%) from ends of one level to ends of another so many subtrees back; {_seeds(results)}",
        label="%",
        limits=(-largest, largest),
        number=".0f",
    )
