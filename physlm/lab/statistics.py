"""Intervals that mean what they say, for few seeds and many items.

- Over seeds: Student's t. Three seeds are too few to bootstrap (it covers 73–84 % where 95 % is claimed).
- Proportions near 0 or 1: the same on the logit scale, where the spread of seeds is about symmetric.
- Over items: Wilson for a proportion, a bootstrap over rows (people) for a difference. Answers about one person
  are correlated, so a row is drawn as a whole, and Wilson's sample size is corrected by the design effect.
- Two conditions are always compared in pairs: by seed or by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri, stdtrit

NEAR_THE_EDGE = 0.1
_RULE_OF_THREE = 3.0  # no event among n items: the rate is below 3/n with 95 % confidence
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: lower end.
        high: upper end.
        over: what varied, "seeds" or "items".
        method: how it was made, in words.
    """

    low: float
    high: float
    over: Literal["seeds", "items"]
    method: str


def seed_interval(
    values: Sequence[float],
    level: float = 0.95,
    *,
    proportion: bool = False,
    items_per_seed: int | None = None,
) -> Interval:
    """Student-t interval for the mean over at least two seeds.

    Args:
        values: one value per seed.
        level: confidence level, inside (0, 1).
        proportion: the values are proportions in [0, 1]. If any lies within `NEAR_THE_EDGE` of 0 or 1, the
            interval is made on the logit scale, after clipping the values to [1/2n, 1 − 1/2n], and is widened to
            include the plain mean where it does not; otherwise it is cut to [0, 1]. One seed at exactly 0 or 1
            beside others well inside makes a wide interval: on this scale, such seeds do differ a lot.
        items_per_seed: n, the number of items (people) behind each value. Without it a proportion stays on the
            plain scale. Seeds that agree exactly say nothing about their spread; what n items leave open is
            then used (Wilson for a proportion, the rule of three otherwise).

    Example:
        >>> interval = seed_interval([0.40, 0.50, 0.60])
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.252, 0.748)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"an interval over seeds needs at least 2 values, got {array.tolist()}")
    if not np.isfinite(array).all():
        raise ValueError(f"values must be finite, got {array.tolist()}")
    if proportion and (array.min() < 0 or array.max() > 1):
        raise ValueError(f"proportions must lie in [0, 1], got {array.tolist()}")
    mean = float(array.mean())
    if items_per_seed and np.ptp(array) == 0:
        if proportion:
            bound = wilson_interval(mean * items_per_seed, items_per_seed, level)
            return Interval(bound.low, bound.high, "seeds", "Wilson over the items of one seed, as all seeds agree")
        margin = _RULE_OF_THREE / items_per_seed
        return Interval(mean - margin, mean + margin, "seeds", "rule of three, as all seeds agree")
    if proportion and items_per_seed and (array.min() < NEAR_THE_EDGE or array.max() > 1 - NEAR_THE_EDGE):
        edge = 0.5 / items_per_seed
        low, high = _student(logit(np.clip(array, edge, 1 - edge)), level)
        low, high = min(float(expit(low)), mean), max(float(expit(high)), mean)
        return Interval(low, high, "seeds", "Student t over seeds, logit scale")
    low, high = _student(array, level)
    if proportion:
        low, high = max(low, 0.0), min(high, 1.0)
    return Interval(low, high, "seeds", "Student t over seeds")


def _student(array: NDArray[np.float64], level: float) -> tuple[float, float]:
    margin = float(stdtrit(len(array) - 1, 0.5 + level / 2) * array.std(ddof=1) / math.sqrt(len(array)))
    return float(array.mean()) - margin, float(array.mean()) + margin


def wilson_interval(successes: float, items: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion over independent items.

    Example:
        >>> interval = wilson_interval(0, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.0, 0.278)
    """
    if items <= 0 or not 0 <= successes <= items:
        raise ValueError(f"successes must lie between 0 and items > 0, got {successes} of {items}")
    z = float(ndtri(0.5 + level / 2))
    rate = successes / items
    scale = 1 + z**2 / items
    centre = (rate + z**2 / (2 * items)) / scale
    margin = z * math.sqrt(rate * (1 - rate) / items + z**2 / (4 * items**2)) / scale
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin), "items", "Wilson over items")


def proportion_interval(items: ArrayLike, level: float = 0.95) -> Interval:
    """Wilson interval for the mean of outcomes in [0, 1], where the rows of `[rows, columns]` are clusters.

    The sample size is the number of outcomes over the design effect (the variance of the mean of rows relative
    to independent outcomes), and between one row's and one outcome's worth per row.
    """
    rows = _rows(items)
    outcomes = np.asarray(items).size
    rate = float(rows.mean())
    effective = float(len(rows))
    if len(rows) > 1 and 0 < rate < 1:
        variance = float(rows.var(ddof=1)) / len(rows)
        if variance > 0:
            effective = min(max(rate * (1 - rate) / variance, 1.0), float(outcomes))
    interval = wilson_interval(rate * effective, effective, level)
    return Interval(interval.low, interval.high, "items", "Wilson over items, rows as clusters")


def bootstrap_interval(items: ArrayLike, level: float = 0.95, *, resamples: int = 4000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over the rows of `items`; deterministic (Philox, keyed by `seed`).

    When all rows are the same a bootstrap has nothing to vary; the rule of three, ±3/rows, is used.
    """
    rows = _rows(items)
    mean = float(rows.mean())
    if np.ptp(rows) == 0:
        margin = _RULE_OF_THREE / len(rows)
        return Interval(mean - margin, mean + margin, "items", "rule of three, as all items agree")
    generator = np.random.Generator(np.random.Philox(key=seed))
    chunk = max(1, _CHUNK // len(rows))
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, len(rows), size=(min(chunk, resamples - start), len(rows)))
        means.append(rows[draws].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), "items", "bootstrap over items")


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, *, resamples: int = 4000, seed: int = 0
) -> Interval:
    """Bootstrap interval for mean(first) − mean(second) on the same items."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired items must have equal shapes, got {a.shape} and {b.shape}")
    return bootstrap_interval(a - b, level, resamples=resamples, seed=seed)


def paired_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Differences, first − second, by seed; both must cover the same seeds."""
    if first.keys() != second.keys():
        raise ValueError(f"paired by seed, but the seeds differ: {sorted(first)} and {sorted(second)}")
    return {seed: first[seed] - second[seed] for seed in first}


def _rows(items: ArrayLike) -> NDArray[Any]:
    """The mean of every row, after checks."""
    array = np.asarray(items, dtype=np.float64)
    if array.ndim == 0 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"items must be finite and at least one, got an array of shape {array.shape}")
    return array.reshape(len(array), -1).mean(axis=1)
