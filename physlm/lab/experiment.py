"""An experiment is data plus one pure function: (preset, condition, seed) → metrics.

- Presets are frozen dataclasses, one per scale; going from one scale to the next changes numbers, never code.
- Everything that distinguishes a condition is in its options.
- Claims are predicates over the metrics (`physlm.lab.claims`); plots are drawn from the same metrics.
- The runner (`physlm.lab.runner`) does the rest: what to compute, in parallel, once, with resume and report.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from physlm.lab.claims import Claim
from physlm.lab.content import JSON, to_json
from physlm.lab.results import Results
from physlm.lab.workspace import Workspace

Scale = Literal["smoke", "cpu", "gpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)

Preset = TypeVar("Preset")


@dataclass(frozen=True)
class Condition:
    """One cell of an experiment.

    Attributes:
        name: path-like, "finetune/multi5+permute"; letters, digits and `/ + - _ . =`.
        options: everything that distinguishes it from the other conditions, as JSON values.
        stage_key: conditions with the same key share an expensive stage; different keys are started first, so
            that processes do not wait for each other. It does not change any result.
    """

    name: str
    options: Mapping[str, JSON] = field(default_factory=dict)
    stage_key: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9/+_.=-]*", self.name) or "__" in self.name:
            raise ValueError(
                f"a condition's name is letters, digits and / + - _ . = (no '__'), as it names a file: {self.name!r}"
            )
        to_json(self.options, f"options of {self.name}")


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[Preset]):
    """Everything about an experiment.

    Attributes:
        name: as in `python -m experiments.<name>` and `results/<name>/`.
        title: one line.
        source: paper and section.
        revision: bumped whenever results change meaning; finished runs of other revisions are not used.
        presets: frozen dataclasses by scale.
        conditions: all conditions at a preset.
        run: a top-level function (preset, condition, seed, workspace) → metrics as JSON values; it must depend on
            nothing else. The metric "parameters", if there, is reported as the model's size.
        claims: the claims asserted at a scale.
        seeds: the committed seeds by scale.
        decisive_seeds: further seeds at the default scale by claim, where the committed ones left it undecided; fresh,
            and their number fixed beforehand by the spread of what was seen. They have a record of their own.
        data_fingerprint: a short hash of the data that (preset, seed) produces.
        core: ids of the claims computed when none are chosen; empty means all.
        plots: draws from the results into a folder and returns the files.
        estimate: says in one line what a preset costs, printed before it starts.
        development_seeds: seeds used while presets were being chosen; a verdict refuses them.
        threads_per_run: CPU threads for each run.
        jobs: parallel runs by scale; default, cores // threads_per_run, and 1 at "gpu" and "paper".
    """

    name: str
    title: str
    source: str
    revision: int
    presets: Mapping[Scale, Preset]
    conditions: Callable[[Preset], Sequence[Condition]]
    run: Callable[[Preset, Condition, int, Workspace], Mapping[str, Any]]
    claims: Callable[[Scale, Preset], Sequence[Claim]]
    seeds: Mapping[Scale, Sequence[int]]
    data_fingerprint: Callable[[Preset, int], str]
    core: Sequence[str] = ()
    plots: Callable[[Results, Path], Sequence[Path]] | None = None
    estimate: Callable[[Preset], str] | None = None
    development_seeds: AbstractSet[int] = frozenset()
    decisive_seeds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    threads_per_run: int = 1
    jobs: Mapping[Scale, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"an experiment's name is a module name in lower case, got {self.name!r}")
        for scale, preset in self.presets.items():
            if scale not in SCALES:
                raise ValueError(f"{self.name}: scales are {', '.join(SCALES)}, got {scale!r}")
            parameters = getattr(type(preset), "__dataclass_params__", None)
            if not dataclasses.is_dataclass(preset) or parameters is None or not parameters.frozen:
                raise ValueError(f"{self.name}: the preset {scale!r} must be a frozen dataclass, got {preset!r}")
            if not self.seeds.get(scale):
                raise ValueError(f"{self.name}: the scale {scale!r} has no seeds")
            if used := sorted(set(self.seeds[scale]) & set(self.development_seeds)):
                raise ValueError(f"{self.name}: committed seeds {used} of {scale!r} are development seeds")
        known = {*self.development_seeds, *(seed for seeds in self.seeds.values() for seed in seeds)}
        for claim, seeds in self.decisive_seeds.items():
            if used := sorted(set(seeds) & known):
                raise ValueError(f"{self.name}: decisive seeds {used} of {claim} are not fresh")
        if "<" in getattr(self.run, "__qualname__", "<"):
            raise ValueError(f"{self.name}: run must be a top-level function, as other processes import it")
        if self.threads_per_run < 1:
            raise ValueError(f"{self.name}: threads_per_run must be ≥ 1, got {self.threads_per_run}")

    @property
    def default_scale(self) -> Scale:
        """`cpu`, or the smallest scale there is."""
        return "cpu" if "cpu" in self.presets else next(scale for scale in SCALES if scale in self.presets)

    def preset(self, scale: Scale) -> Preset:
        """The preset of a scale; an unknown one is a ValueError naming those there are."""
        if scale not in self.presets:
            there = ", ".join(known for known in SCALES if known in self.presets)
            raise ValueError(f"{self.name} has no preset for scale {scale!r}; it has {there}")
        return self.presets[scale]
