"""Claims and verdicts: a sentence, a measure, a control and a threshold written down before the run.

- A verdict compares a 95 % confidence interval with the threshold: all of it on the claimed side is
  `supported`, all of it on the other side is `refuted`, and an interval that straddles is `inconclusive`.
- With several seeds the interval is over seeds; with one seed it is over items, and says nothing about other seeds.
- Requirements are what makes a comparison valid at all (both models memorised their data). If one is not met the
  claim is inconclusive, whatever the numbers.
- A claim may have several parts: supported if all are, refuted if any is. (A conjunction needs no correction for
  multiple tests to be supported.)

Fractions are stored as fractions (0.35); the units "%" and "points" show them times 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.lab.results import RunMetrics
from physlm.lab.statistics import Interval, bootstrap_interval, proportion_interval, seed_interval

Relation = Literal["≥", "≤", "between"]
Quantity = Literal["proportion", "difference", "number"]
Decision = Literal["supported", "refuted", "inconclusive"]
Threshold: TypeAlias = "float | tuple[float, float]"


@dataclass(frozen=True)
class Measurement:
    """One seed's value of a measure.

    Attributes:
        value: the number that is compared with the threshold.
        items: per-item values whose mean is `value`, `[rows]` or `[rows, columns]`; a row (a person) is one
            cluster. For a difference, the paired differences. They give an interval when there is one seed.
        count: how many independent items are behind `value`; default, the number of rows.
    """

    value: float
    items: NDArray[Any] | None = None
    count: int | None = None

    @classmethod
    def of_items(cls, items: NDArray[Any]) -> Measurement:
        """The mean of `items`, which it keeps."""
        return cls(float(np.mean(items)), items=items)

    @classmethod
    def of_difference(cls, first: NDArray[Any], second: NDArray[Any]) -> Measurement:
        """mean(first) − mean(second), paired by item."""
        return cls.of_items(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))

    @property
    def rows(self) -> int | None:
        """The number of independent items, if known."""
        return self.count if self.count is not None else None if self.items is None else len(self.items)


Measure: TypeAlias = "Callable[[Mapping[str, RunMetrics]], Measurement | float]"


def number_of(condition: str, path: str) -> Measure:
    """A measure: the number at a dotted path of the metrics of a condition."""
    return lambda runs: runs[condition].number(path)


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """A measure with a threshold.

    Attributes:
        name: what is measured, in words.
        measure: one seed's runs by condition → value.
        relation: the claimed side. "between" takes a pair of thresholds and claims that both hold.
        threshold: in the unit of the value (fractions for "%" and "points").
        scale: what kind of quantity it is, which decides how its interval is made.
        unit: how it is shown: "%" and "points" times 100, anything else as is.
        control: what the value is compared with.
    """

    name: str
    measure: Measure
    relation: Relation
    threshold: Threshold
    scale: Quantity = "difference"
    unit: str = "points"
    control: str = ""

    def __post_init__(self) -> None:
        _check_relation(self.name, self.relation, self.threshold)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What must hold, at every seed, for a comparison to mean anything; checked on the values themselves."""

    name: str
    measure: Measure
    relation: Relation
    threshold: Threshold
    unit: str = "%"

    def __post_init__(self) -> None:
        _check_relation(self.name, self.relation, self.threshold)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of a paper, as a predicate over finished runs.

    Attributes:
        id: as in the specification, "BIO-5".
        statement: the sentence that is true or not.
        source: where the paper says it.
        conditions: the conditions it reads; only these are computed for it.
        measure, relation, threshold, scale, unit, control: the headline predicate.
        measure_name: what the headline measures, in words; default, the statement.
        parts: further predicates that must hold too.
        requires: what must hold for the verdict to mean anything.
    """

    id: str
    statement: str
    source: str
    conditions: tuple[str, ...]
    measure: Measure
    relation: Relation
    threshold: Threshold
    control: str
    scale: Quantity = "difference"
    unit: str = "points"
    measure_name: str = ""
    parts: tuple[Predicate, ...] = ()
    requires: tuple[Requirement, ...] = ()

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError(f"claim {self.id} must name the conditions it reads")
        _check_relation(self.id, self.relation, self.threshold)

    @property
    def predicates(self) -> tuple[Predicate, ...]:
        """The headline first, then the other parts."""
        headline = Predicate(
            name=self.measure_name or self.statement,
            measure=self.measure,
            relation=self.relation,
            threshold=self.threshold,
            scale=self.scale,
            unit=self.unit,
            control=self.control,
        )
        return (headline, *self.parts)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The verdict on one predicate; `values` has one number per seed, null where it is not finite."""

    name: str
    verdict: Decision
    estimate: float | None
    interval: tuple[float, float] | None
    interval_over: Literal["seeds", "items"] | None
    method: str
    relation: Relation
    threshold: Threshold
    unit: str
    control: str
    values: tuple[float | None, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Whether one requirement was met."""

    name: str
    met: bool
    relation: Relation
    threshold: Threshold
    unit: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome for a claim; the numbers of its headline are those of `parts[0]`."""

    id: str
    statement: str
    source: str
    verdict: Decision
    estimate: float | None
    interval: tuple[float, float] | None
    interval_over: Literal["seeds", "items"] | None
    threshold: Threshold
    relation: Relation
    unit: str
    control: str
    seeds: tuple[int, ...]
    values: tuple[float | None, ...]
    parts: tuple[Part, ...]
    requirements: tuple[Requirements, ...]
    reason: str
    failed: bool = False


def _check_relation(name: str, relation: str, threshold: Threshold) -> None:
    if relation not in ("≥", "≤", "between"):
        raise ValueError(f"{name}: relation must be ≥, ≤ or between, got {relation!r}")
    if (relation == "between") != isinstance(threshold, tuple):
        raise ValueError(f"{name}: 'between' takes a pair of thresholds, ≥ and ≤ take one, got {threshold!r}")
    if isinstance(threshold, tuple) and not threshold[0] < threshold[1]:
        raise ValueError(f"{name}: the lower threshold must come first, got {threshold!r}")


def decide(interval: tuple[float, float], relation: Relation, threshold: Threshold) -> Decision:
    """Compare an interval with a threshold.

    Example:
        >>> decide((0.2, 0.4), "≥", 0.1), decide((0.2, 0.4), "≤", 0.1), decide((0.2, 0.4), "≥", 0.3)
        ('supported', 'refuted', 'inconclusive')
    """
    low, high = interval
    lower, upper = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    if relation == "≥":
        upper = math.inf
    elif relation == "≤":
        lower = -math.inf
    if lower <= low and high <= upper:
        return "supported"
    return "refuted" if high < lower or low > upper else "inconclusive"


def format_value(value: float | None, unit: str, *, signed: bool = False, bare: bool = False) -> str:
    """A value with its unit, fractions times 100 for "%" and "points".

    Example:
        >>> format_value(0.305, "points"), format_value(None, "%")
        ('30.5 points', 'n/a')
    """
    if value is None:
        return "n/a"
    hundredfold = unit in ("%", "points")
    number = f"{value * 100 if hundredfold else value:{'+' if signed else ''}{'.1f' if hundredfold else '.4g'}}"
    number = number if number.strip("+-0.") else number.lstrip("+-")  # no "-0.0"
    return number if bare or not unit else f"{number} {unit}"


def format_threshold(relation: Relation, threshold: Threshold, unit: str) -> str:
    """The claimed side, "≥ 30.0 points"."""
    if isinstance(threshold, tuple):
        low, high = (format_value(end, unit, bare=True) for end in threshold)
        return f"between {low} and {high} {unit}".rstrip()
    return f"{relation} {format_value(threshold, unit)}"


def evaluate(
    claim: Claim, runs: Mapping[int, Mapping[str, RunMetrics]], *, level: float = 0.95, not_asserted: str = ""
) -> Verdict:
    """The verdict on a claim.

    Args:
        claim: the claim.
        runs: metrics by seed, then by condition; every condition the claim reads is there.
        level: confidence level of the intervals.
        not_asserted: a reason for which the claim is not asserted here; the verdict is then inconclusive.
    """
    seeds = tuple(runs)
    chosen = {seed: {name: runs[seed][name] for name in claim.conditions} for seed in seeds}
    failed = ""
    requirements: list[Requirements] = []
    parts: list[Part] = []
    for requirement in claim.requires:
        measured, failure = _measure(requirement.measure, chosen)
        failed = failed or (failure and f"{requirement.name} could not be measured: {failure}")
        values = tuple(measurement.value for measurement in measured)
        met = len(values) == len(seeds) and all(
            math.isfinite(value) and decide((value, value), requirement.relation, requirement.threshold) == "supported"
            for value in values
        )
        requirements.append(
            Requirements(
                name=requirement.name,
                met=met,
                relation=requirement.relation,
                threshold=requirement.threshold,
                unit=requirement.unit,
                values=tuple(_finite(value) for value in values),
            )
        )
    for predicate in claim.predicates:
        measured, failure = _measure(predicate.measure, chosen)
        failed = failed or (failure and f"{predicate.name} could not be measured: {failure}")
        parts.append(_judge(predicate, measured, failure, level))
    decision, reason = _combine(parts, requirements, seeds)
    if not_asserted or failed:
        decision, reason = "inconclusive", failed or not_asserted
        parts = [replace(part, verdict="inconclusive", reason=part.reason or reason) for part in parts]
    headline = parts[0]
    return Verdict(
        id=claim.id,
        statement=claim.statement,
        source=claim.source,
        verdict=decision,
        estimate=headline.estimate,
        interval=headline.interval,
        interval_over=headline.interval_over,
        threshold=claim.threshold,
        relation=claim.relation,
        unit=claim.unit,
        control=claim.control,
        seeds=seeds,
        values=headline.values,
        parts=tuple(parts),
        requirements=tuple(requirements),
        reason=reason,
        failed=bool(failed),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _measure(measure: Measure, runs: Mapping[int, Mapping[str, RunMetrics]]) -> tuple[list[Measurement], str]:
    """One measurement per seed, or what went wrong: a faulty measure must not cost the other verdicts."""
    measured: list[Measurement] = []
    for seed, conditions in runs.items():
        try:
            value = measure(conditions)
            measured.append(value if isinstance(value, Measurement) else Measurement(float(value)))
        except Exception as error:
            return [], f"{type(error).__name__} at seed {seed}: {error}"
    return measured, ""


def _judge(predicate: Predicate, measured: Sequence[Measurement], failure: str, level: float) -> Part:
    values = tuple(measurement.value for measurement in measured)
    interval: Interval | None = None
    reason = failure
    estimate = None
    if values and all(math.isfinite(value) for value in values):
        estimate = float(np.mean(values))
        interval = _interval(predicate.scale, measured, level)
        reason = "" if interval else "one seed and no per-item values: no interval can be had; use two seeds or more"
    elif not failure:
        reason = "the measure is not finite at every seed"
    ends = None if interval is None else (interval.low, interval.high)
    decision: Decision = "inconclusive" if ends is None else decide(ends, predicate.relation, predicate.threshold)
    if ends is not None and decision == "inconclusive":
        reason = "the interval straddles the threshold"
    return Part(
        name=predicate.name,
        verdict=decision,
        estimate=estimate,
        interval=ends,
        interval_over=None if interval is None else interval.over,
        method="" if interval is None else interval.method,
        relation=predicate.relation,
        threshold=predicate.threshold,
        unit=predicate.unit,
        control=predicate.control,
        values=tuple(_finite(value) for value in values),
        reason=reason,
    )


def _interval(scale: Quantity, measured: Sequence[Measurement], level: float) -> Interval | None:
    proportion = scale == "proportion"
    counts = [measurement.rows for measurement in measured]
    if len(measured) >= 2:
        known = [count for count in counts if count]
        items = min(known) if known and scale != "number" else None
        values = [measurement.value for measurement in measured]
        return seed_interval(values, level, proportion=proportion, items_per_seed=items)
    items = measured[0].items
    if items is None:
        return None
    return proportion_interval(items, level) if proportion else bootstrap_interval(items, level)


def _combine(parts: Sequence[Part], requirements: Sequence[Requirements], seeds: Sequence[int]) -> tuple[Decision, str]:
    for requirement in requirements:
        if not requirement.met:
            unmet = [
                f"{format_value(value, requirement.unit)} at seed {seed}"
                for seed, value in zip(seeds, requirement.values, strict=False)
                if value is None or decide((value, value), requirement.relation, requirement.threshold) != "supported"
            ]
            wanted = format_threshold(requirement.relation, requirement.threshold, requirement.unit)
            return "inconclusive", f"not valid here: {requirement.name} must be {wanted}, got {', '.join(unmet)}"
    several = len(parts) > 1
    for decision in ("refuted", "inconclusive"):
        for part in parts:
            if part.verdict == decision:
                return decision, f"{part.name}: {part.reason or 'refuted'}" if several else part.reason
    return "supported", ""
