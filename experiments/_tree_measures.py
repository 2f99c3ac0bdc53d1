"""What claims and figures of `cfg_probe` read from the metrics of a run.

Levels are from the largest constituents to the smallest. Excess attention is told without the level just above the
terminals, whose ends are so dense that there is nothing beside them, as in the paper's figures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from experiments._tree_attention import CONTROLS, FOREIGN, OFFSETS, SIDES, TRUE, nearest_and_next
from experiments._tree_probes import expected_place
from physlm.lab import RunMetrics
from physlm.probing.results import MAJORITY, SHUFFLED

CAUSAL, MASKED = "causal", "masked"
"""The models, by condition."""
Reader = Callable[[RunMetrics], float]
Array = NDArray[np.float64]


def levels(run: RunMetrics) -> list[int]:
    """Probed levels, from the largest constituents."""
    return [int(level) for level in run.at("levels")]


def readable(run: RunMetrics, readout: str, question: str, of: str = "accuracy", *, balanced: bool = False) -> Array:
    """Accuracy of the last layer, or of a control, by level."""
    rows = [run.at(f"{readout}.{question}.{level}") for level in levels(run)]
    values = [(row["balanced"] if balanced else row)[of] for row in rows]
    return np.array([value[-1] if isinstance(value, list) else value for value in values], dtype=np.float64)


def short_of_exact(readout: str, question: str) -> Reader:
    """How far the probe is behind the exact reader, at the level where it is farthest."""
    return lambda run: float(
        (readable(run, readout, question, "exact") - readable(run, readout, question)).max(initial=-np.inf)
    )


def beyond(readout: str, question: str, control: str, *, balanced: bool = False) -> Reader:
    """How much better the probe is than a control, mean over levels."""
    return lambda run: float(
        np.mean(
            readable(run, readout, question, balanced=balanced)
            - readable(run, readout, question, control, balanced=balanced)
        )
    )


def shuffled_beyond_majority(readout: str, question: str, *, balanced: bool = False) -> Reader:
    """How much better than the majority a probe of shuffled labels is, at the level where it is best."""

    def read(run: RunMetrics) -> float:
        shuffled, majority = (readable(run, readout, question, of, balanced=balanced) for of in (SHUFFLED, MAJORITY))
        return float((shuffled - majority).max())

    return read


def ends_beyond_elsewhere(run: RunMetrics) -> float:
    """Local probes: accuracy at ends minus accuracy elsewhere, mean over levels."""
    return float(np.mean(readable(run, "local", "ends") - readable(run, "local", "elsewhere")))


def by_layer(run: RunMetrics, question: str, of: str = "accuracy") -> Array:
    """Accuracy of local read-outs, or of a control, by level and layer; balanced where constituents end."""
    rows = [run.at(f"local.{question}.{level}") for level in levels(run)]
    return np.array([(row["balanced"] if question == "boundary" else row)[of] for row in rows])


def by_step(run: RunMetrics, question: str) -> tuple[list[float], Array]:
    """Steps of the learning curve, and accuracies of the last layer by level and step."""
    curve = run.at("curve")
    rows = [[point[question][str(level)] for point in curve] for level in levels(run)]
    return [point["step"] for point in curve], np.array(rows)


def gain(run: RunMetrics, question: str, of: str = "accuracy") -> Array:
    """What the last layer has beyond the embedding, by level."""
    found = by_layer(run, question, of)
    return found[:, -1] - found[:, 0]


def expected_layers(run: RunMetrics, question: str) -> Array:
    """Expected layer of every level, as a share of all layers."""
    found = by_layer(run, question)
    return np.array([expected_place(row, np.linspace(0, 1, found.shape[1]).tolist()) for row in found])


def expected_steps(run: RunMetrics, question: str) -> Array:
    """Expected step of every level, as a share of all steps."""
    steps, found = by_step(run, question)
    return np.array([expected_place(row, [step / steps[-1] for step in steps]) for row in found])


def spread(places: Callable[[RunMetrics, str], Array], question: str) -> Reader:
    """How much later the largest constituents are there than the smallest."""
    return lambda run: float(places(run, question)[0] - places(run, question)[-1])


def least_step(places: Callable[[RunMetrics, str], Array], question: str) -> Reader:
    """The same of neighbouring levels, where it is least."""
    return lambda run: float((-np.diff(places(run, question))).min(initial=np.inf))


def ablated(run: RunMetrics) -> tuple[Array, Array]:
    """Rise in divergence in the middle block, by level; and of random directions, `[levels, sets]`."""
    blocks = run.at("ablation")
    rows = blocks[str(len(blocks) // 2)]
    chosen = [rows[str(level)] for level in levels(run)]
    return np.array([row["effect"] for row in chosen]), np.array([row["random effects"] for row in chosen])


def used(run: RunMetrics) -> float:
    """Rise in divergence beyond that of random directions, mean over levels."""
    effect, random = ablated(run)
    return float(effect.mean() - random.mean())


def used_ratio(run: RunMetrics) -> float:
    """Rise in divergence over that of the random directions that do most, both means over levels."""
    effect, random = ablated(run)
    return float(effect.mean() / max(random.max(axis=1).mean(), 1e-9))


def excess(run: RunMetrics, ends: str, kind: str) -> Array:
    """Excess attention of a class of pairs, with ends as they are or a control."""
    return np.array(run.at("attention.excess")[ends][kind], dtype=np.float64)


def larger(values: Array) -> Array:
    """Without the level just above the terminals, whose ends are too dense to have anything beside them."""
    return values[: max(1, len(values) - 1)]


def toward(run: RunMetrics, ends: str = TRUE) -> Array:
    """Excess attention to tokens by their offset from ends, mean over larger levels."""
    return larger(excess(run, ends, "toward")).mean(axis=0)


def between(run: RunMetrics, ends: str = TRUE) -> Array:
    """The same from ends to ends, by both offsets."""
    return larger(excess(run, ends, "between")).mean(axis=0)


def adjacent(run: RunMetrics, ends: str = TRUE) -> tuple[Array, Array]:
    """Excess attention from ends to the most adjacent and to the next ends, by pair of larger levels, flat."""
    values = larger(larger(excess(run, ends, "adjacent")).swapaxes(0, 1)).swapaxes(0, 1)
    nearest, following = (of.ravel() for of in nearest_and_next(values))
    there = np.isfinite(nearest) & np.isfinite(following)
    return nearest[there], following[there]


def to_ends(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention to ends."""
    return float(toward(run, ends)[OFFSETS.index(0)])


def end_to_end(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention from ends to ends."""
    at = SIDES.index(0)
    return float(between(run, ends)[at, at])


def adjacent_first(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention to the most adjacent ends minus that to the next, mean over pairs of levels; NaN without any."""
    nearest, following = adjacent(run, ends)
    return float(np.mean(nearest - following)) if len(nearest) else np.nan


def beyond_controls(measure: Callable[[RunMetrics, str], float]) -> Reader:
    """A measure with ends as they are, minus its largest among the controls that have such pairs."""
    return lambda run: measure(run, TRUE) - float(np.nanmax([measure(run, control) for control in CONTROLS]))


def peak(measure: Callable[..., Array], at: tuple[int, ...]) -> Reader:
    """A value minus the largest beside it, each beyond that with the ends of another sentence.

    Late tokens get less attention than early ones at the same distance, and ends of larger constituents are late; ends
    of another sentence are as late.
    """

    def read(run: RunMetrics) -> float:
        values = measure(run) - measure(run, FOREIGN)
        others = values.copy()
        others[at] = np.nan
        return float(values[at] - np.nanmax(others))

    return read


def reach_ratio(of: str) -> Reader:
    """Mean distance of what heads attend to: the farthest head over the nearest."""

    def ratio(run: RunMetrics) -> float:
        reach = np.array(run.at("attention.heads")[of]["reach"])
        return float(reach.max() / reach.min())

    return ratio


def largest(run: RunMetrics) -> float:
    """Local accuracy at ends of the largest constituents."""
    return float(readable(run, "local", "ends")[0])


def smallest(run: RunMetrics) -> float:
    """Local accuracy at ends of the smallest constituents."""
    return float(readable(run, "local", "ends")[-1])
