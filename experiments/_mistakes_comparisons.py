"""What the claims of `igsm_mistakes` read from finished runs besides accuracies: attempts, over sets of problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from experiments._igsm_comparisons import Measure, Runs, items
from physlm.lab import Measurement


def best_of(runs: Runs, conditions: Sequence[str], names: Sequence[str]) -> str:
    """The condition that solves most."""
    return max(conditions, key=lambda condition: items(runs, condition, names).mean())


def total(runs: Runs, condition: str, names: Sequence[str], count: str) -> float:
    """A count of `examine`, over some sets of problems."""
    return sum(runs[condition].number(f"accuracy.{name}.retries.{count}") for name in names)


def ratio(numerator: float, denominator: float) -> float:
    """NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan


def share_of_text(condition: str, names: Sequence[str]) -> Callable[[Runs], float]:
    """Attempts in right solutions, as a share of those in the training text on the same problems."""
    return lambda runs: ratio(total(runs, condition, names, "in_right"), total(runs, condition, names, "in_text"))


def retries_per_solution(runs: Runs, condition: str, names: Sequence[str]) -> float:
    """Attempts in a right solution."""
    return ratio(total(runs, condition, names, "in_right"), total(runs, condition, names, "right_solutions"))


def long_share(condition: str, names: Sequence[str]) -> Callable[[Runs], float]:
    """Of the places with attempts, the share that has two or more."""
    return lambda runs: ratio(total(runs, condition, names, "long_chains"), total(runs, condition, names, "places"))


def right_after_chains(condition: str, names: Sequence[str]) -> Measure:
    """Share of right sentences after two attempts or more."""

    def measure(runs: Runs) -> Measurement:
        found = [runs[condition].outcomes(f"accuracy.{name}.retries.after_long_chains") for name in names]
        outcomes = np.concatenate(found)
        return Measurement.of_items(outcomes) if len(outcomes) else Measurement(math.nan)

    return measure


def unnecessary(conditions: Sequence[str], name: str) -> Callable[[Runs], float]:
    """Unnecessary operations in a right solution, the most of all conditions."""
    return lambda runs: max(
        (runs[condition].number(f"accuracy.{name}.unnecessary_operations") for condition in conditions),
        key=lambda value: math.inf if math.isnan(value) else value,
    )
