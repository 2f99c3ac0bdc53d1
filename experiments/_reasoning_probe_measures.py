"""What claims and figures of `igsm_probe` read from the metrics of a run.

Where nothing is said of them, parameters exist and problems have the most operations that were trained on and templates
that were not. *Balanced* is the accuracy averaged over labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from experiments._reasoning_probes import ALONE, Cells, balanced, pooled
from experiments._reasoning_questions import HARDEST, NEEDLESS, NOT_NEEDED, NOT_READY, WRONG
from experiments._tree_probes import expected_place
from physlm.lab import RunMetrics
from physlm.probing.results import MAJORITY, SHUFFLED, UNTRAINED
from physlm.worlds.igsm.labels import Task

PROBLEM_FIRST, QUESTION_FIRST = "problem_first", "question_first"
"""The models, the paper's pq and qp: a condition is a model, a slash, and what it is asked."""
USE = "use"
"""Beside the tasks: whether what can be read is used."""
CONTROLS = (MAJORITY, UNTRAINED, SHUFFLED, ALONE)
"""Accuracies on the true labels that a probe has to surpass."""
Reader = Callable[[RunMetrics], float]
Array = NDArray[np.float64]
_LEAST = 20  # questions about a distance


def together(runs: Mapping[str, RunMetrics], model: str) -> RunMetrics:
    """All that was asked of a model, as one run.

    Args:
        runs: of a seed, by condition.
        model: one of the two.
    """
    parts = [run for name, run in runs.items() if name.startswith(f"{model}/")]
    shared = {name: value for run in parts for name, value in run.items()}
    by_task = {
        kind: {task: found for run in parts for task, found in run.get(kind, {}).items()}
        for kind in ("probes", "layers")
    }
    return RunMetrics({**shared, **by_task})


def cells(run: RunMetrics, task: Task, group: str = HARDEST, part: str = "all") -> Cells:
    """Accuracies by label; empty if there was no such question."""
    return run.at("probes")[task]["groups"].get(group, {}).get(part, {})


def beyond_controls(found: Cells) -> float:
    """Balanced accuracy, minus that of the control that does best."""
    return balanced(found) - max((balanced(found, control) for control in CONTROLS), default=np.nan)


def least_beyond_controls(run: RunMetrics) -> float:
    """The same of the task where it is least."""
    return float(np.min([beyond_controls(cells(run, task)) for task in run.at("probes")]))


def shuffled_beyond_majority(run: RunMetrics) -> float:
    """Balanced accuracy of a probe of shuffled labels, minus that of the majority, of the task where it is most."""
    found = [cells(run, task) for task in run.at("probes")]
    return float(np.max([balanced(one, SHUFFLED) - balanced(one, MAJORITY) for one in found]))


def known(task: Task, group: str = HARDEST) -> Reader:
    """Balanced accuracy of a task."""
    return lambda run: balanced(cells(run, task, group))


def unneeded_beyond_controls(task: Task) -> Reader:
    """The same of parameters that the query does not need, minus that of the control that does best."""
    return lambda run: beyond_controls(cells(run, task, part="unneeded"))


def worst_label_of_unneeded(task: Task) -> Reader:
    """Accuracy on the label where it is lower, of parameters that the query does not need."""
    return lambda run: min(
        (float(cell["accuracy"]) for cell in cells(run, task, part="unneeded").values()), default=np.nan
    )


def right(task: Task, group: str) -> Reader:
    """Share of right answers; NaN without any."""
    return lambda run: pooled(cells(run, task, group))


def count(task: Task, group: str) -> Reader:
    """How many questions there were."""
    return lambda run: float(sum(cell["questions"] for cell in cells(run, task, group).values()))


def needless_gap(run: RunMetrics) -> float:
    """Right answers about parameters not needed, minus about those of them that the model computed needlessly."""
    return right("nece", NOT_NEEDED)(run) - right("nece", NEEDLESS)(run)


def wrong_step_gap(task: Task) -> Reader:
    """Right answers about parameters not ready, minus about those of them that the model wrote next."""
    return lambda run: right(task, NOT_READY)(run) - right(task, WRONG)(run)


def distances(run: RunMetrics) -> list[int]:
    """Distances to the query, from 1, that enough questions are about."""
    found = run.at("probes")["nece"]["groups"][HARDEST]["distance"]
    return sorted(int(far) for far, by_label in found.items() if int(far) > 0 and by_label["1"]["questions"] >= _LEAST)


def by_layer(run: RunMetrics, distance: int, of: str = "accuracy") -> Array:
    """Balanced accuracy on needed parameters at a distance and on those not needed, by layer from the embedding.

    The state at <end> is always the same there, so that the first is one half.
    """
    layers = [*run.at("layers")["nece"].values(), run.at("probes")["nece"]["groups"][HARDEST]]
    values = [(found["distance"][str(distance)]["1"][of] + found["all"]["0"][of]) / 2 for found in layers]
    return np.array([0.5, *values])


def _near_and_far(run: RunMetrics, of: str = "accuracy") -> tuple[Array, Array]:
    near, *_, far = distances(run)
    return by_layer(run, near, of), by_layer(run, far, of)


def middle_gap(run: RunMetrics, of: str = "accuracy") -> float:
    """Behind the middle block: the nearest parameters minus the farthest; NaN if there are no two distances."""
    if len(distances(run)) < 2:
        return float("nan")
    near, far = _near_and_far(run, of)
    return float((near - far)[len(near) // 2])


def later(run: RunMetrics) -> float:
    """Expected layer of the farthest parameters minus that of the nearest, as a share of all layers."""
    if len(distances(run)) < 2:
        return float("nan")
    near, far = (expected_place(row.tolist(), np.linspace(0, 1, len(row)).tolist()) for row in _near_and_far(run))
    return far - near


def farthest_in_last_layer(run: RunMetrics) -> float:
    """Balanced accuracy of the last layer at the farthest distance."""
    return float(by_layer(run, distances(run)[-1])[-1]) if distances(run) else float("nan")


def middle_block(run: RunMetrics, task: Task = "can_next") -> Mapping[str, float | list[float]]:
    """What changes if states behind the middle block are moved."""
    blocks = run.at("use")[task]
    return blocks[str(len(blocks) // 2)]


def used(run: RunMetrics) -> float:
    """Share of places where what is written changes, beyond that by random directions."""
    found = numbers(middle_block(run))
    return float(found["probe"] - np.mean(found["random"]))


def used_ratio(run: RunMetrics) -> float:
    """The share over that by the random directions that do most."""
    found = numbers(middle_block(run))
    return float(found["probe"] / max(np.max(found["random"]), 1e-3))


def beyond_another_item(run: RunMetrics) -> float:
    """The share beyond that by directions of another item of the problem."""
    found = numbers(middle_block(run))
    return float(found["probe"] - found["other"])


def numbers(found: Mapping[str, float | list[float] | None]) -> dict[str, Array]:
    """As arrays, with NaN for null."""
    return {name: np.array(value, dtype=np.float64) for name, value in found.items()}
