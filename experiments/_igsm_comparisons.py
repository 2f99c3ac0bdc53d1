"""Accuracies on sets of grade-school math problems, as claims read them from finished runs.

A run keeps, under `accuracy`, whether each problem of every set was solved. Sets are named by `set_of`, `FAMILIAR`
(drawn as in training) and `REASK` (another question is asked); several are pooled, problem by problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.lab import Measurement, RunMetrics

FAMILIAR, REASK = "familiar", "reask"


def set_of(operations: int) -> str:
    """Test problems with so many operations, of solution templates that were never trained on."""
    return f"new_{operations}"


Runs = Mapping[str, RunMetrics]
Measure = Callable[[Runs], Measurement]


def items(runs: Runs, condition: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Whether each problem of some sets was solved."""
    outcomes = [runs[condition].outcomes(f"accuracy.{name}.items") for name in names]
    return np.concatenate(outcomes).astype(np.float64)


def accuracy(condition: str, names: Sequence[str]) -> Measure:
    """Share of solutions that are right in every step."""
    return lambda runs: Measurement.of_items(items(runs, condition, names))


def gap(first: str, second: str, names: Sequence[str]) -> Measure:
    """Difference of two accuracies, paired by problem."""
    return lambda runs: Measurement.of_difference(items(runs, first, names), items(runs, second, names))
