"""What does a model that solves grade-school math problems know before it writes, and does it use it?

A model learns to solve problems whose every dependency is known. Then it is asked, by probes that take the name of a
parameter as their question: does the query need it, does it depend on that one, is it known, what is its value, is it
ready, is it ready and needed? Answers about parameters that the query does not need say whether the model works out
more than it has to; answers by layer say where distant ones are found. Mistakes are looked at too: is what the model
computes needlessly thought to be needed, and what it computes too early thought to be ready?

What can be read is then changed: the model is about to write of an item, and its state is moved to where that item is
not ready. A second model is trained on problems that begin with their question.

Claims IGSM-5, 6, 7, 8, 10 and 11. Source: Physics of Language Models 2.1, sections 4 and 5; the change of states is
ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from experiments._fitting import device
from experiments._igsm import Practice, Reasoner
from experiments._igsm_training import pretrain
from experiments._mistaken_texts import CLEAN
from experiments._reasoning_presets import PRESETS as REASONING
from experiments._reasoning_probe_claims import claims
from experiments._reasoning_probe_measures import PROBLEM_FIRST, QUESTION_FIRST, USE
from experiments._reasoning_probe_plots import plots
from experiments._reasoning_probes import SHUFFLES, VProbes
from experiments._reasoning_questions import HARDEST
from experiments._reasoning_study import Study, StudyConfig
from experiments._reasoning_use import used_directions
from experiments.igsm_reasoning import EXPERIMENT as REASONING_EXPERIMENT
from physlm.lab import Condition, Experiment, Workspace
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.models.transformer import Transformer, parameter_count
from physlm.probing.heads import ProbeTraining
from physlm.randomness import Key
from physlm.worlds.igsm.labels import TASKS, Task


@dataclass(frozen=True, kw_only=True)
class ReasoningProbePreset:
    """One scale of the experiment.

    Attributes:
        practice: world and training, of `igsm_reasoning`.
        reasoner: the model.
        study: which problems, and how many questions about them.
        rank: of the update of the embedding.
        training: of these probes; a batch is of texts.
        portions: of their online code.
        layered: tasks that are read off every layer.
        question_first: tasks that the model of problems after their question is asked.
        linear: how probes are trained whose directions are taken.
        random_directions: sets of random directions beside those.
    """

    practice: Practice
    reasoner: Reasoner
    study: StudyConfig
    rank: int = 8
    training: ProbeTraining
    portions: tuple[float, ...]
    layered: tuple[Task, ...] = ("nece",)
    question_first: tuple[Task, ...] = ("nece",)
    linear: ProbeTraining
    random_directions: int = 5

    def __post_init__(self) -> None:
        for name in ("rank", "random_directions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if self.study.beyond <= (trained := self.practice.world.max_operations):
            raise ValueError(f"study.beyond must be > {trained} operations, got {self.study.beyond}")
        for name in ("layered", "question_first"):
            tasks = getattr(self, name)
            if "nece" not in tasks or not set(tasks) <= set(TASKS):
                raise ValueError(
                    f"{name} must be among {', '.join(TASKS)}, with nece, got {', '.join(tasks) or 'none'}"
                )

    def practice_of(self, condition: Condition) -> Practice:
        """The same practice with the question before or behind the problem."""
        question_first = condition.options["model"] == QUESTION_FIRST
        return replace(self.practice, world=replace(self.practice.world, question_first=question_first))


def _preset(scale: Scale, **measured: Any) -> ReasoningProbePreset:
    """The deep model of `igsm_reasoning` at this scale, and how it is measured."""
    reasoning = REASONING[scale]
    return ReasoningProbePreset(practice=reasoning.practice, reasoner=reasoning.deep, portions=(0.25,), **measured)


PRESETS: dict[Scale, ReasoningProbePreset] = {
    "smoke": _preset(
        "smoke",
        study=StudyConfig(beyond=4, fitted=60, asked=20, solved=20, questions=4),
        training=ProbeTraining(steps=3, batch_size=4, learning_rate=0.01),
        linear=ProbeTraining(steps=10, batch_size=32),
        random_directions=2,
    ),
    "cpu": _preset(
        "cpu",
        study=StudyConfig(beyond=5, fitted=1000, asked=300, solved=500, questions=6),
        training=ProbeTraining(steps=150, batch_size=16, learning_rate=0.01),
        linear=ProbeTraining(steps=1000),
    ),
    "gpu": _preset(
        "gpu",
        study=StudyConfig(beyond=18, fitted=4000, asked=500, solved=2000, questions=4),
        training=ProbeTraining(steps=2000, batch_size=64, learning_rate=5e-3),
        linear=ProbeTraining(steps=2000),
    ),
    "paper": _preset(
        "paper",
        study=StudyConfig(beyond=20, fitted=50_000, asked=4096, solved=20_000, questions=1, existing_only=False),
        # 2.1, App. F.2.
        training=ProbeTraining(steps=100_000, batch_size=256, learning_rate=2e-3),
        layered=TASKS,
        question_first=TASKS,
        linear=ProbeTraining(steps=10_000),
    ),
}


def conditions(preset: ReasoningProbePreset) -> list[Condition]:
    """Every task of both models on its own, and whether what is read is used; the models are shared."""
    asked = {PROBLEM_FIRST: (*TASKS, USE), QUESTION_FIRST: preset.question_first}
    probed = [
        Condition(f"{model}/{task}", {"model": model, "asked": task}, stage_key=model)
        for model, tasks in asked.items()
        for task in tasks
    ]
    return [
        *probed,
        Condition(f"{PROBLEM_FIRST}/{USE}", {"model": PROBLEM_FIRST, "asked": USE}, stage_key=PROBLEM_FIRST),
    ]


def run(preset: ReasoningProbePreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model, or take it from its stage, and probe it for one task or change its states."""
    practice = preset.practice_of(condition)
    torch.set_num_threads(practice.threads)
    trained = pretrain(workspace, practice, preset.reasoner, CLEAN, seed)
    model, key = trained.model, Key.of("reasoning probes", seed)
    study = Study(preset.study, practice, model, seed)
    metrics: dict[str, Any] = {
        "parameters": parameter_count(model.config),
        "curve": trained.curve,
        "accuracy": study.accuracy(),
    }
    if condition.options["asked"] == USE:
        workspace.progress(0.5, "changing states")
        found = used_directions(
            model,
            study.known[-1],
            study.exams[HARDEST],
            preset.linear,
            controls=preset.random_directions,
            key=key.child("use"),
        )
        return {**metrics, "use": found}
    task = cast(Task, condition.options["asked"])
    untrained = Transformer(model.config, seed=seed).to(device())
    probes = VProbes(
        task,
        study.fitted(task),
        study.asked(task),
        study.world.vocabulary,
        rank=preset.rank,
        training=preset.training,
        key=key.child(task),
    )
    workspace.progress(0.1, "probing the last layer")
    result = probes.read(model, untrained, portions=preset.portions)
    metrics["probes"] = {task: {"summary": probes.summary(result), "groups": probes.told(result)}}
    if condition.options["model"] == PROBLEM_FIRST and task in preset.layered:
        layers = [f"block.{block}.resid_post" for block in range(model.config.layers - 1)]
        metrics["layers"] = {task: {}}
        for number, layer in enumerate(layers):
            workspace.progress(0.6 + 0.4 * number / len(layers), f"probing {layer}")
            metrics["layers"][task][layer] = probes.told(probes.read(model, untrained, layer))[HARDEST]
    return metrics


def fingerprint(preset: ReasoningProbePreset, seed: int) -> str:
    """A hash of the problems, in both orders."""
    models = {condition.options["model"]: condition for condition in conditions(preset)}
    return "-".join(preset.practice_of(one).world_of(seed).fingerprint()[:12] for one in models.values())


def cost(preset: ReasoningProbePreset) -> str:
    """What a preset costs."""
    tokens = preset.practice.recipe.steps * preset.practice.batch_size * preset.reasoner.context
    # The probe, shuffled labels, control task, untrained model, and a quarter of two more for the online code; layer by
    # layer the probe and the untrained model. Questions without their texts are short.
    layers, fits = preset.reasoner.layers - 1, 3.5 + SHUFFLES
    probes = fits * (len(TASKS) + len(preset.question_first)) + 2 * layers * len(preset.layered)
    texts = probes * preset.training.steps * preset.training.batch_size
    return f"2 models a seed, each reads {tokens / 1e6:.1f}M tokens; probes read {texts / 1e6:.2f}M texts"


EXPERIMENT = Experiment(
    name="igsm_probe",
    title="What does a model that reasons know before it writes, and does it use it?",
    source="Physics of Language Models 2.1 (Grade-School Math and the Hidden Reasoning Process), sections 4 and 5",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    # The models of `igsm_reasoning`, trained once for both.
    seeds=REASONING_EXPERIMENT.seeds,
    development_seeds=REASONING_EXPERIMENT.development_seeds,
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
