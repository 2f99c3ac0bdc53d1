"""Can a small model learn to reason, and does it take depth?

Two models of equal size, one deep and one wide, learn to solve grade-school math problems whose every dependency is
known. They then solve new problems: as in training, with solution templates that were never trained on, with more
operations than were ever trained on, and with another question about a problem than the one it was made for. Every step
of every solution is judged. What a solution holds beyond what is needed is counted: a model that plans writes nothing
else.

How many solution templates the paper's own world has is estimated as well, from how often two problems share one.

Claims IGSM-1, 3, 4 and 9. Source: Physics of Language Models 2.1, sections 2, 3 and 5.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments._igsm import Exam, exam, familiar_exam, make_world, solve, without_a_plan
from experiments._igsm_comparisons import FAMILIAR, REASK, set_of
from experiments._igsm_training import pretrain
from experiments._mistaken_texts import CLEAN
from experiments._reasoning_claims import claims
from experiments._reasoning_plots import plots
from experiments._reasoning_presets import LIMITS, PRESETS, TEMPLATES, ReasoningPreset
from physlm.lab import Condition, Experiment, Workspace
from physlm.lab.cli import main
from physlm.lab.results import pack_items
from physlm.models.transformer import parameter_count
from physlm.randomness import Key
from physlm.worlds.igsm.config import MOST_OPERATIONS
from physlm.worlds.igsm.drawing import Drawer

_CHUNK = 1 << 16


def conditions(preset: ReasoningPreset) -> list[Condition]:
    """Both models; what can be had without learning; and the number of templates."""
    models = [Condition(name, {"model": reasoner.name}) for name, reasoner in preset.reasoners.items()]
    return [*models, Condition(LIMITS, {"model": "none"}), Condition(TEMPLATES, {"model": "none"})]


def run(preset: ReasoningPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train and examine a model, or compute what needs none."""
    if condition.name == TEMPLATES:
        return count_templates(preset, seed)
    if condition.name == LIMITS:
        return limits(preset, seed)
    practice, reasoner = preset.practice, preset.reasoners[condition.name]
    torch.set_num_threads(practice.threads)
    trained = pretrain(workspace, practice, reasoner, CLEAN, seed)
    model = trained.model
    world, count = practice.world_of(seed), practice.problems
    exams = {set_of(number): exam(world, number, count) for number in preset.operations}
    exams[FAMILIAR] = familiar_exam(world, count)
    exams[REASK] = exam(world, practice.world.max_operations, count, reask=True)
    return {
        "parameters": parameter_count(model.config),
        "cpu_seconds_per_step": trained.cpu_seconds_per_step,
        "curve": [
            {name: row[name] for name in ("step", "loss", "hardest", "familiar", "reasons")} for row in trained.curve
        ],
        "accuracy": {name: solve(model, asked).metrics() for name, asked in exams.items()},
    }


def limits(preset: ReasoningPreset, seed: int) -> dict[str, Any]:
    """On the same problems: a writer without a plan, the answer 0, and a solver that computes all it can."""
    practice = preset.practice
    world, count = practice.world_of(seed), practice.problems
    planless, zero = {}, {}
    for number in preset.operations:
        asked = exam(world, number, count)
        solved = without_a_plan(asked.problems, Key.of("without a plan", seed, number))
        planless[set_of(number)] = {"mean": float(solved.mean()), "items": pack_items(solved)}
        zero[set_of(number)] = float(
            np.mean([document[-1] == world.vocabulary.number(0) for document in asked.documents])
        )
    most = practice.world.max_operations
    # It writes more than solutions hold otherwise, and needs letters for that.
    eager: dict[str, dict[str, float]] = {}
    for name, reask in ((set_of(most), False), (REASK, True)):
        config = replace(world.config, exact_operations=most, solution="everything", letters=MOST_OPERATIONS)
        asked = Exam(make_world(replace(config, reask=reask)), "test", np.arange(count))
        everything = asked.world.judge.check_many(asked.problems, asked.solutions)
        eager[name] = {
            "unnecessary_operations": float(np.mean([one.unnecessary_operations or 0 for one in everything])),
            "unnecessary_parameters": float(np.mean([one.unnecessary_parameters for one in everything])),
        }
    return {
        "without_a_plan": planless,
        "answer_zero": zero,
        "eager": eager,
    }


def count_templates(preset: ReasoningPreset, seed: int) -> dict[str, Any]:
    """Pairs of problems with the same solution template, and templates that training and test problems share."""
    drawer = Drawer(preset.template_world, Key.of("templates", seed), side=None)
    parts = [
        drawer.draw(np.arange(start, min(start + _CHUNK, preset.templates)))[0].template
        for start in range(0, preset.templates, _CHUNK)
    ]
    _, counts = np.unique(np.concatenate(parts), return_counts=True)
    world, some = preset.practice.world_of(seed), np.arange(preset.practice.problems)
    hardest = exam(world, preset.practice.world.max_operations, len(some))
    shared = np.intersect1d(hardest.world.templates("train", some), hardest.world.templates("test", some))
    return {
        "problems": preset.templates,
        "pairs": int((counts * (counts - 1) // 2).sum()),
        "shared_by_training_and_test": len(shared),
    }


def fingerprint(preset: ReasoningPreset, seed: int) -> str:
    """A hash of the problems."""
    return preset.practice.world_of(seed).fingerprint()


def cost(preset: ReasoningPreset) -> str:
    """What a preset costs."""
    practice = preset.practice
    tokens = practice.recipe.steps * practice.batch_size * preset.deep.context
    return f"two models a seed, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="igsm_reasoning",
    title="Can a small model learn to reason, and does it take depth?",
    source="Physics of Language Models 2.1 (Grade-School Math and the Hidden Reasoning Process), sections 2, 3 and 5",
    revision=3,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (186,), "cpu": (186, 187, 188, 189, 190), "gpu": (186, 187), "paper": (186, 187)},
    # Those from 181 on were run with earlier presets, and read.
    development_seeds=frozenset({*range(1, 21), *range(181, 186)}),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
