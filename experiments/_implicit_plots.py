"""Figures of `cfg_implicit`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments._heatmaps import heatmap
from experiments._memberships import unpack_correlations
from physlm.lab import Results, RunMetrics
from physlm.lab.plots import bar_with_intervals, curves_with_bands


def in_words(condition: str) -> str:
    """A condition as plots call it."""
    bags, weights = condition.split("/")
    return f"{bags.replace('overlap', 'overlapping')} bags, {weights} weights"


def plots(results: Results, folder: Path) -> list[Path]:
    """Correlations of embeddings sorted by membership, with controls; accuracies; and when each is learnt."""
    names, seeds = results.conditions, f"{len(results.seeds)} seed(s)"
    drawn = [correlation_plot(folder, name, results.runs[name, results.seeds[0]]) for name in names]

    def mean_contrasts(name: str, which: str) -> list[float]:
        return [float(np.mean(results.runs[name, seed].at(f"embeddings.{which}.contrasts"))) for seed in results.seeds]

    bars = {
        "trained": {in_words(name): mean_contrasts(name, "trained") for name in names},
        "untrained": {in_words(name): mean_contrasts(name, "initial") for name in names},
        "less in 95 % of shuffles": {in_words(name): results.values(name, "embeddings.shuffled") for name in names},
    }
    drawn.append(
        bar_with_intervals(
            folder / "contrasts.png",
            bars,
            title="Embeddings say which bags a token is in",
            subtitle=f"Correlation within a membership minus between; {seeds}, 95 % intervals",
            xlabel="Difference of mean correlations, among tokens in as many bags",
            percent=False,
        )
    )
    cuts = sorted(int(cut.removeprefix("cut_")) for cut in results.runs[names[0], results.seeds[0]].at("accuracy"))
    accuracies = {f"from cut {cut}": f"accuracy.cut_{cut}.mean" for cut in cuts}
    accuracies["test sentences, shuffled"] = "shuffled_in_language.mean"
    drawn.append(
        bar_with_intervals(
            folder / "accuracy.png",
            {text: {in_words(name): results.values(name, path) for name in names} for text, path in accuracies.items()},
            title="A grammar is learnt although its terminals are never seen",
            subtitle=f"{seeds}, 95 % intervals",
            xlabel="Completions in the language of what is shown",
        )
    )
    for quantity, ylabel in (("divergence", "Divergence, nats per token"), ("contrast", "Difference of correlations")):
        curves = {
            in_words(name): [
                [point[quantity] for point in results.runs[name, seed].at("curve")] for seed in results.seeds
            ]
            for name in names
        }
        drawn.append(
            curves_with_bands(
                folder / f"{quantity}.png",
                [point["step"] for point in results.runs[names[0], results.seeds[0]].at("curve")],
                curves,
                title={"divergence": "When the grammar is learnt", "contrast": "When the bags are learnt"}[quantity],
                subtitle=f"{seeds}, 95 % bands",
                xlabel="Training steps",
                ylabel=ylabel,
                percent=False,
            )
        )
    return drawn


def correlation_plot(folder: Path, name: str, metrics: RunMetrics) -> Path:
    """Correlations between all tokens, sorted by the number of bags and then by the bags."""
    patterns = np.array(metrics.at("embeddings.patterns"))
    terminals = int(patterns.max()).bit_length()
    counts = np.array([int(pattern).bit_count() for pattern in patterns])
    order = np.lexsort((patterns, counts))
    there = list(dict.fromkeys(patterns[order].tolist()))
    labels = [f"{pattern:0{terminals}b}"[::-1] for pattern in there]
    return heatmap(
        folder / f"correlation_{name.replace('/', '_')}.png",
        unpack_correlations(metrics.at("embeddings.correlation"))[np.ix_(order, order)],
        labels,
        labels,
        title="Which tokens have embeddings that are alike",
        subtitle=f"{in_words(name)}; a digit a bag" + (f", {labels[0]} never occurs" if there[0] == 0 else ""),
        label="correlation",
        limits=(-1.0, 1.0),
        blocks=[int((patterns == pattern).sum()) for pattern in there],
    )
