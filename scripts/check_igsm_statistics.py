"""Hold the statistics of the iGSM world against its specification, and record them.

    python scripts/check_igsm_statistics.py           draw, print, write results/igsm_statistics.json
    python scripts/check_igsm_statistics.py --check   only hold the recorded numbers against the specification

The exit code is 1 if a mean is off by more than 5 %, or a base rate by more than 1.5 points. Problems are drawn from
both sides of the split, as the specification's are. About half a minute on a CPU.

Means are those of Physics of Language Models 2.1 as measured on a re-implementation (§1.11); base rates are how often
the label of a random question is true, in percent, and 100 minus the majority baselines of Fig. 7a.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.dependencies import Dependencies
from physlm.worlds.igsm.drawing import Drawer
from physlm.worlds.igsm.labels import Labels

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "results" / "igsm_statistics.json"

PROBLEMS = 40_000
MEDIUM: dict[str, Any] = {"max_operations": 15, "max_instances": 20}
HARD: dict[str, Any] = {"max_operations": 21, "max_instances": 28}
FAMILIES: dict[str, dict[str, Any]] = {
    "op ≤ 15": MEDIUM,
    **{f"op = {operations}": MEDIUM | {"exact_operations": operations} for operations in (15, 20, 23)},
    "op ≤ 21, hard": HARD,
    **{f"op = {operations}, hard": HARD | {"exact_operations": operations} for operations in (21, 28, 32)},
}
STATISTICS = ("instance parameters", "vertices", "layers", "sentences", "longest distance to the query")
MEANS: dict[str, tuple[float | None, ...]] = {
    "op ≤ 15": (9.2, 11.4, 2.92, 4.8, 2.2),
    "op = 15": (10.7, 14.6, 3.21, 11.4, 4.1),
    "op = 20": (11.4, 16.3, 3.34, 14.2, 4.5),
    "op = 23": (11.8, 17.4, 3.42, 15.7, 4.6),
    "op ≤ 21, hard": (11.3, 13.6, 2.96, None, None),
    "op = 21, hard": (13.4, 17.9, 3.23, 14.5, 4.5),
    "op = 28, hard": (14.4, 20.1, 3.35, 18.2, 4.9),
    "op = 32, hard": (14.9, 21.6, 3.46, 20.0, 4.9),
}
TASKS = ("nece", "dep", "known", "can_next", "nece_next")
BASE_RATES = {
    "op ≤ 15": (26.0, 16.2, 12.9, 40.3, 5.0),
    "op = 15": (45.0, 18.3, 22.5, 39.5, 6.1),
    "op = 21, hard": (52.0, 21.3, 26.0, 34.0, 6.5),
}
LARGEST_RATIO = 0.05
LARGEST_POINTS = 1.5


def options() -> argparse.Namespace:
    """What was asked for; an unknown option is refused before anything is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check",
        action="store_true",
        help="draw and write nothing, compare what is recorded; exit code 1 if a row is off",
    )
    return parser.parse_args()


def main() -> int:
    """Draw, write and compare, or only compare."""
    if not options().check:
        found = {"problems": PROBLEMS, "families": {name: measured(name) for name in FAMILIES}}
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    families = json.loads(RECORD.read_text(encoding="utf-8"))["families"]
    off = 0
    for name in FAMILIES:
        print(name)
        for statistic, specified in zip(STATISTICS, MEANS[name], strict=True):
            mean = families[name]["means"][statistic]
            if specified is None:
                print(f"  {statistic:30} {mean:6.2f}")
                continue
            ratio = mean / specified - 1
            off += abs(ratio) > LARGEST_RATIO
            print(f"  {statistic:30} {mean:6.2f}   specified {specified:5.2f}   {100 * ratio:+.1f} %")
        for task, specified in zip(TASKS, BASE_RATES.get(name, ()), strict=False):
            points = families[name]["base_rates"][task] - specified
            off += abs(points) > LARGEST_POINTS
            print(f"  {task + ' is true, %':30} {specified + points:6.2f}   specified {specified:5.2f}   {points:+.2f}")
    print(f"{off} off" if off else "all within 5 % and 1.5 points")
    return int(off > 0)


def measured(name: str) -> dict[str, dict[str, float]]:
    """Means over problems, and base rates in percent."""
    config = IGSMConfig(seed=0, **FAMILIES[name])
    drawing, _ = Drawer(config, Key.of("iGSM statistics"), None).draw(np.arange(PROBLEMS))
    graphs = Dependencies(drawing, config.modulus)
    columns = (
        drawing.edges,
        np.bitwise_count(drawing.used),
        drawing.layers,
        (drawing.solution >= 0).sum(axis=1),
        graphs.distance.max(axis=1),
    )
    rates = Labels(graphs).base_rates()
    return {
        "means": {
            statistic: round(float(column.mean()), 4) for statistic, column in zip(STATISTICS, columns, strict=True)
        },
        "base_rates": {task: round(100 * rates[task], 3) for task in TASKS},
    }


if __name__ == "__main__":
    raise SystemExit(main())
