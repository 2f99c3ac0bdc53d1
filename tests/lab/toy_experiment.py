"""A tiny experiment for the real runner: coin flips whose bias depends on the condition, after a shared stage.

Sentinel files named by environment variables make runs fail, wait or die on demand; they are no part of any result.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, pack_items
from physlm.lab.cli import main
from physlm.lab.plots import bar_with_intervals


@dataclass(frozen=True)
class Preset:
    people: int = 200
    bias: float = 0.6


RATES = {"ladder/none": 0.2, "ladder/half": 0.5, "ladder/full": 0.9, "other/control": 0.2}


def conditions(preset):
    return [
        Condition(name, {"rate": rate, "bias": preset.bias}, stage_key="a" if rate < 0.5 else "b")
        for name, rate in RATES.items()
    ]


def _trace(word):
    if folder := os.environ.get("TOY_TRACE"):
        (Path(folder) / f"{word}-{os.getpid()}-{time.monotonic_ns()}").touch()


def run(preset, condition, seed, workspace):
    _trace("run")
    toy = os.environ.get("TOY_TROUBLE", "")

    def pretrain(folder):
        _trace("stage")
        started = folder / "checkpoint.txt"
        if not started.exists():
            started.write_text("half way")
        time.sleep(0.3)
        (folder / "weights.txt").write_text(condition.stage_key)

    stage = workspace.stage("pretrain", {"key": condition.stage_key, "seed": seed, "preset": preset}, pretrain)
    assert (stage / "weights.txt").read_text() == condition.stage_key
    trouble, _, where = toy.partition(":")
    if where == condition.name:
        if trouble == "raise":
            raise RuntimeError("the toy was told to fail")
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "full":
            raise OSError(28, "No space left on device")
        if trouble == "hang":
            while True:
                workspace.progress(0.5, "hanging")
                time.sleep(0.05)
    workspace.progress(1.0, "answering")
    draws = np.random.Generator(np.random.Philox(key=[seed, int(condition.options["rate"] * 100)]))
    outcomes = draws.random((preset.people, 3)) < condition.options["rate"]
    return {
        "parameters": 7,
        "accuracy": outcomes.mean(),
        "recall": 0.99,
        "nothing": np.nan,
        "items": pack_items(outcomes),
    }


def gain(runs):
    return Measurement.of_difference(runs["ladder/full"].outcomes("items"), runs["ladder/none"].outcomes("items"))


def claims(_scale, _preset):
    memorised = Requirement(
        name="recall", measure=lambda runs: runs["ladder/none"].number("recall"), relation="≥", threshold=0.97
    )
    return [
        Claim(
            id="TOY-1",
            statement="A full ladder is much better than none.",
            source="nowhere, section 1",
            conditions=("ladder/none", "ladder/full"),
            measure=gain,
            relation="≥",
            threshold=0.3,
            control="no ladder",
            requires=(memorised,),
        ),
        Claim(
            id="TOY-2",
            statement="Half a ladder is useless.",
            source="nowhere, section 2",
            conditions=("ladder/half",),
            measure=lambda runs: Measurement.of_items(runs["ladder/half"].outcomes("items")),
            relation="≤",
            threshold=0.3,
            scale="proportion",
            unit="%",
            control="chance",
        ),
    ]


def plots(results, folder):
    values = {condition: results.values(condition, "accuracy") for condition in results.conditions}
    path = folder / "ladder.png"
    return [bar_with_intervals(path, {"toy": values}, title="Ladders help", xlabel="accuracy")]


EXPERIMENT = Experiment(
    name="toy",
    title="Coins on ladders",
    source="Physics of Coins, section 1",
    revision=1,
    presets={"smoke": Preset(people=20), "cpu": Preset()},
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (1,), "cpu": (101, 102)},
    core=("TOY-1",),
    data_fingerprint=lambda preset, seed: f"coins-{preset.people}-{seed}",
    estimate=lambda preset: f"{preset.people} coins",
    development_seeds=frozenset({7, 8}),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
