"""Does a model learn to reason better from text in which mistakes are made and taken back?

Models of one kind read solutions of the same grade-school math problems, at equal tokens: clean ones, and ones where
now and then a sentence is begun that is wrong, and taken back with <back>. Three kinds of attempts, several rates. All
then solve the same new problems, where attempts that are taken back do not count.

What else might do is tried as well: finetuning a model of clean text on such text, at a low rank and whole; and letting
it draw again what a detector objects to, a perfect one or one that was trained.

Claims MIS-1 to MIS-9. Source: Physics of Language Models 2.2.
"""

from __future__ import annotations

from typing import Any

import torch

from experiments._igsm import Exam, exam, familiar_exam
from experiments._igsm_comparisons import FAMILIAR, REASK, set_of
from experiments._igsm_training import pretrain
from experiments._mistakes_claims import CORE, claims
from experiments._mistakes_measures import examine, write
from experiments._mistakes_plots import plots
from experiments._mistakes_presets import PRESETS, MistakesPreset
from experiments._mistakes_training import adapt
from experiments._regret_detectors import train_detector
from experiments.igsm_reasoning import EXPERIMENT as REASONING
from physlm.lab import Condition, Experiment, Workspace
from physlm.lab.cli import main
from physlm.models.transformer import parameter_count
from physlm.randomness import Key


def conditions(preset: MistakesPreset) -> list[Condition]:
    """Models of all texts; what is done with the model of clean text; and other ways to write."""
    return [Condition(name, trial.options, stage_key=trial.base) for name, trial in preset.trials.items()]


def exams(preset: MistakesPreset, seed: int, *, only_hard: bool) -> dict[str, Exam]:
    """What is asked, the same of all models of a seed."""
    practice = preset.practice
    world, count = practice.world_of(seed), practice.problems
    asked = {set_of(number): exam(world, number, count) for number in preset.hard}
    if not only_hard:
        asked[FAMILIAR] = familiar_exam(world, count)
        asked[REASK] = exam(world, practice.world.max_operations, count, reask=True)
    return asked


def run(preset: MistakesPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train or adapt a model, and examine it."""
    trial = preset.trials[condition.name]
    torch.set_num_threads(preset.practice.threads)
    base = pretrain(workspace, preset.budget(trial), preset.reasoner, trial.text, seed)
    metrics: dict[str, Any] = {
        "parameters": parameter_count(base.model.config),
        "cpu_seconds_per_step": base.cpu_seconds_per_step,
        "problems": base.documents,
        "curve": base.curve,
    }
    if trial.late is not None:
        practice = preset.continued if trial.rank is None else preset.low_rank
        adapted = adapt(workspace, base, practice, trial.late, seed, rank=trial.rank, loss_batches=preset.loss_batches)
        metrics |= {
            "problems": base.documents + adapted.problems,
            "trained_parameters": adapted.trained_parameters,
            "curve": adapted.curve,
            "text_loss": {"before": adapted.loss_before, "after": adapted.loss_after},
        }
    detector = None
    if trial.decoding == "detector":
        world, key = preset.practice.world_of(seed), Key.of("detector", seed)
        detector, metrics["detector"] = train_detector(base.model, world, preset.detector, key)
    read = trial.late or trial.text
    metrics["accuracy"] = {}
    for name, asked in exams(preset, seed, only_hard=trial.decoding != "greedy").items():
        key = Key.of("regret", seed, name)
        solutions, ended = write(base.model, asked, trial.decoding, key, preset, trained=detector)
        metrics["accuracy"][name] = examine(asked, solutions, ended, text=read)
    return metrics


def fingerprint(preset: MistakesPreset, seed: int) -> str:
    """A hash of the problems, and of every text about them."""
    world = preset.practice.world_of(seed)
    texts = {trial.text.name: trial.text for trial in preset.trials.values()}
    return "-".join([world.fingerprint()[:12], *(text.world(world).fingerprint()[:12] for text in texts.values())])


def cost(preset: MistakesPreset) -> str:
    """What a preset costs."""
    tokens = preset.windows(preset.practice) * preset.reasoner.context
    read = {name for claim in claims("cpu", preset) if claim.id in CORE for name in claim.conditions}
    budgets = [trial.budgets for trial in preset.trials.values() if trial.decoding == "greedy"]
    return f"{len(read)} models a seed, with all claims {sum(budgets)}, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="igsm_mistakes",
    title="Does a model learn to reason better from text in which mistakes are made and taken back?",
    source="Physics of Language Models 2.2 (How to Learn From Mistakes on Grade-School Math Problems)",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    core=CORE,
    plots=plots,
    # Where the clean model is that of `igsm_reasoning`, it is trained once for both. At cpu scale it is not, and those
    # seeds were read.
    seeds={**REASONING.seeds, "cpu": (246, 247, 248, 249, 250)},
    development_seeds=REASONING.development_seeds,
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
