"""What a command asks for: every name checked, the conditions chosen, one request for each run.

Reports of other seeds than the committed ones go to folders of their own, and so do reports of development seeds, on
which no verdict is ever made.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physlm.lab.claims import Claim
from physlm.lab.execution import Request
from physlm.lab.experiment import Condition, Experiment, Scale
from physlm.lab.provenance import commit


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compute and what to judge.

    Attributes:
        conditions: those to compute.
        all_conditions: all there are at the preset.
        claims: all claims at the scale; those whose runs are all there are judged, chosen or not.
        chosen: the claims asked for.
        folder: where runs are kept.
        report_folder: where the report is written.
    """

    experiment: Experiment[Any]
    scale: Scale
    preset: Any
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...]
    all_conditions: tuple[Condition, ...]
    claims: tuple[Claim, ...]
    chosen: tuple[Claim, ...]
    folder: Path
    report_folder: Path
    development: bool

    @property
    def runs(self) -> set[tuple[str, int]]:
        """The (condition, seed) pairs to compute, or to find finished."""
        return {(condition.name, seed) for condition in self.conditions for seed in self.seeds}


def make_plan(
    experiment: Experiment[Any],
    scale: Scale,
    seeds: Sequence[int] | None,
    claims: str | None,
    conditions: str | None,
    out: Path,
    development: bool,
) -> Plan:
    """Check every name and choose the conditions to compute; see `physlm.lab.runner.run_experiment`."""
    preset = experiment.preset(scale)
    there = tuple(experiment.conditions(preset))
    names = [condition.name for condition in there]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{experiment.name}: conditions must have different names, repeated: {', '.join(repeated)}")
    all_claims = tuple(experiment.claims(scale, preset))
    for claim in all_claims:
        if unknown := sorted(set(claim.conditions) - set(names)):
            raise ValueError(f"claim {claim.id} reads conditions that do not exist: {', '.join(unknown)}")
    chosen = _choose_claims(experiment, all_claims, claims or ("all" if conditions else "core"))
    read = {name for claim in chosen for name in claim.conditions}
    kept = [condition for condition in there if not read or condition.name in read or (conditions and not claims)]
    if conditions:
        patterns = [pattern.strip() for pattern in conditions.split(",")]
        kept = [condition for condition in kept if any(fnmatch.fnmatchcase(condition.name, p) for p in patterns)]
        if not kept:
            raise ValueError(f"--conditions {conditions!r} matches no condition; there are:\n  " + "\n  ".join(names))
    used = _choose_seeds(experiment, scale, seeds, development)
    folder = out / experiment.name / scale
    report_folder = folder
    if development:
        folder = report_folder = folder / "development"
    elif used != tuple(experiment.seeds[scale]):
        report_folder = folder / folder_of(used)
    return Plan(
        experiment=experiment,
        scale=scale,
        preset=preset,
        seeds=used,
        conditions=tuple(kept),
        all_conditions=there,
        claims=all_claims,
        chosen=tuple(chosen),
        folder=folder,
        report_folder=report_folder,
        development=development,
    )


def folder_of(seeds: tuple[int, ...]) -> str:
    """A folder's name for seeds, short for a long row of neighbours.

    Example:
        >>> folder_of((7, 9)), folder_of((201, 202, 203))
        ('seeds-7-9', 'seeds-201-to-203')
    """
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"seeds-{seeds[0]}-to-{seeds[-1]}"
    return "seeds-" + "-".join(map(str, seeds))


def _choose_claims(experiment: Experiment[Any], claims: tuple[Claim, ...], choice: str) -> list[Claim]:
    if choice == "all":
        return list(claims)
    by_id = {claim.id: claim for claim in claims}
    if choice == "core":
        return [by_id[name] for name in experiment.core if name in by_id] or list(claims)
    wanted = [name.strip() for name in choice.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in by_id]:
        there = ", ".join(by_id) or "none at this scale"
        raise ValueError(f"no claim {', '.join(unknown)} in {experiment.name}; there are core, all, {there}")
    return [by_id[name] for name in wanted]


def _choose_seeds(
    experiment: Experiment[Any], scale: Scale, seeds: Sequence[int] | None, development: bool
) -> tuple[int, ...]:
    default = sorted(experiment.development_seeds) if development else experiment.seeds[scale]
    used = tuple(dict.fromkeys(default if seeds is None else seeds))
    if not used:
        raise ValueError("at least one seed is needed")
    reserved = set(experiment.development_seeds)
    if not development and (seen := sorted(set(used) & reserved)):
        raise ValueError(
            f"seeds {', '.join(map(str, seen))} were used to choose the presets of {experiment.name}, so a verdict on "
            f"them would be too favourable; take others (the committed ones are "
            f"{', '.join(map(str, experiment.seeds[scale]))}), or look without a verdict with --development"
        )
    if development and (foreign := sorted(set(used) - reserved)):
        allowed = ", ".join(map(str, sorted(reserved))) or "none are declared"
        raise ValueError(
            f"development runs take development seeds ({allowed}), got {', '.join(map(str, foreign))}: "
            "seeds kept for verdicts must not be looked at before"
        )
    return used


def make_requests(plan: Plan, cache: Path) -> list[Request]:
    """A request for every (seed, condition) there is, in the order in which to compute them."""
    experiment = plan.experiment
    fingerprints = {seed: experiment.data_fingerprint(plan.preset, seed) for seed in plan.seeds}
    occurrences: Counter[str] = Counter()
    ranked: list[tuple[int, int, Condition]] = []
    for index, condition in enumerate(plan.all_conditions):
        key = condition.stage_key or f"/{condition.name}"
        ranked.append((occurrences[key], index, condition))
        occurrences[key] += 1
    ranked.sort(key=lambda row: row[:2])
    checkout = commit()
    return [
        Request(
            run=experiment.run,
            experiment=experiment.name,
            revision=experiment.revision,
            scale=plan.scale,
            preset=plan.preset,
            condition=condition,
            seed=seed,
            data_fingerprint=fingerprints[seed],
            folder=plan.folder / "runs",
            cache=cache,
            commit=checkout,
        )
        for seed in plan.seeds
        for _, _, condition in ranked
    ]
