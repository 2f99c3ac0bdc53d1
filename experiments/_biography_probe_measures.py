"""What claims and figures of `bio_probe` read from the metrics of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from experiments._biography_probes import FIRST, PROBE, WHOLE
from physlm.lab import Measurement, RunMetrics
from physlm.probing.inputs import BoolArray
from physlm.probing.results import UNTRAINED

POSITIONS, NAMES = "positions", "names"
"""Kinds of probes, and of conditions."""
CELEBRITIES, ALONE = "celebrities", "alone"
"""A minority that was read together with celebrities, or alone."""
Runs = Mapping[str, RunMetrics]
Array = NDArray[np.float64]
Right = Callable[[Runs], BoolArray]
"""Whether each answer about each held-out person is right, `[people, answers]`."""


def at_positions(condition: str, place: str, of: str = PROBE) -> Right:
    """P-probing for first tokens at some places ("start", "before", "others", "partner"), of the probe or a control."""
    return lambda runs: runs[condition].outcomes(f"{POSITIONS}.{FIRST}.{place}.{of}")


def at_names(condition: str, of: str = PROBE) -> Right:
    """Q-probing for first tokens, of the probe or a control."""
    return lambda runs: runs[condition].outcomes(f"{NAMES}.{FIRST}.outcomes.{of}")


def minus(first: Right, second: Right) -> Callable[[Runs], Measurement]:
    """Difference of two accuracies, paired by person."""
    return lambda runs: Measurement.of_difference(first(runs).mean(axis=1), second(runs).mean(axis=1))


def share(of: Right) -> Callable[[Runs], Measurement]:
    """Accuracy."""
    return lambda runs: Measurement.of_items(of(runs))


def cells(run: RunMetrics, what: str = FIRST, of: str = PROBE) -> dict[str, Array]:
    """Accuracy of P-probing by position for each attribute, NaN where it is never asked."""
    rows = run.at(f"{POSITIONS}.{what}.cells")
    return {name: np.array([np.nan if v is None else v for v in row[of]]) for name, row in rows.items()}


def worst_cell(condition: str) -> Callable[[Runs], float]:
    """Accuracy of P-probing at the position and for the attribute where it is least."""
    return lambda runs: float(min(np.nanmin(row) for row in cells(runs[condition]).values()))


def whole_at_start(run: RunMetrics, what: str = WHOLE) -> float:
    """P-probing at position 0, mean over the attributes that are asked for as a whole."""
    found = cells(run, what)
    return float(np.mean([found[name][0] for name in run.at(f"{POSITIONS}.{WHOLE}.cells")]))


def read_and_answered(runs: Runs, conditions: tuple[str, ...], of: str = PROBE) -> tuple[Array, Array]:
    """Accuracy of Q-probing for first tokens, and of answers after finetuning, `[conditions, attributes]`."""
    read = [runs[name].outcomes(f"{NAMES}.{FIRST}.outcomes.{of}").mean(axis=0) for name in conditions]
    answered = [runs[name].outcomes("questions_test.items").mean(axis=0) for name in conditions]
    return np.array(read), np.array(answered)


def agreement(conditions: tuple[str, ...], of: str = PROBE) -> Callable[[Runs], float]:
    """Pearson's correlation over ways of telling and attributes; 0 if one of the two is the same everywhere."""

    def correlation(runs: Runs) -> float:
        read, answered = (values.ravel() for values in read_and_answered(runs, conditions, of))
        if np.ptp(read) == 0 or np.ptp(answered) == 0:
            return 0.0
        return float(np.corrcoef(read, answered)[0, 1])

    return correlation


def middle_block(run: RunMetrics) -> str:
    """The middle one of the blocks from which other tokens can still read."""
    return str(len(run.at("removed")) // 2)


def removed(run: RunMetrics) -> dict[str, float]:
    """Fall in the log-probability of what follows the name, mean over attributes: probe, random, other."""
    rows = list(run.at("removed")[middle_block(run)].values())
    return {
        PROBE: float(np.mean([row["effect"] for row in rows])),
        "random": float(np.mean([row["random effects"] for row in rows])),
        "other": float(np.mean([row["other effect"] for row in rows])),
    }


def removed_beyond(condition: str, control: str) -> Callable[[Runs], float]:
    """The same beyond that of random directions, or of those of another attribute."""
    return lambda runs: removed(runs[condition])[PROBE] - removed(runs[condition])[control]


def readable_layer(condition: str) -> Callable[[Runs], float]:
    """What linear probes of the middle block read at the end of the name beyond those of the untrained model."""

    def beyond(runs: Runs) -> float:
        layer = f"block.{middle_block(runs[condition])}.resid_post"
        rows = [task["layers"][layer] for task in runs[condition].at("layers").values()]
        return float(np.mean([row["accuracy"] - row[UNTRAINED] for row in rows]))

    return beyond
