"""Is the form of a text learnt before its content?

One small model reads sentences of a grammar, another biographies. While they learn, the loss on every token is followed
by the part that the token plays, as what is left above the least possible loss, which is known exactly:

- *Grammar*: the divergence of the model from the exact next-token distribution. What a next token needs is computed
  from the grammar (`experiments._local_oracles`): form are those that need a shallow level (ℓ > L/2) at most, content
  those that need the whole sentence.
- *Biographies*: loss minus the entropy of what the text was made with. Form are the words of the sentence templates, of
  which one of so many was drawn; content are the values, which follow from the name. Names, of which one of so many
  people's was drawn, are followed as well.

A part is *learnt* when the loss above the least has fallen by 90 % since before the first step, interpolated between
points of the curve; what is not learnt by the end counts as learnt at the last step, which understates the claim. The
control shuffles the parts among the tokens of each text: then nothing comes first.

Claims P23-grammar and P23-biographies. Source: the statement "format is learned before knowledge", which the talks on
Physics of Language Models make in passing; roles, threshold and control are ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments._biographies import ModelShape, WorldShape
from experiments._biographies import make_world as make_biographies
from experiments._fitting import device
from experiments._grammars import SMALL_RECIPE, GrammarShape
from experiments._grammars import make_world as make_grammar
from experiments._text_parts import (
    CONTENT,
    FORM,
    LEARNT,
    by_part,
    measured_biographies,
    measured_sentences,
    step_learnt,
)
from physlm.data.decks import Overflow
from physlm.data.streams import PackedStream, Source
from physlm.lab import Claim, Condition, Experiment, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.models.transformer import Transformer, parameter_count
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.bios import BiographyWorld, PoolSizes
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.world import CFGWorld


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one of the two worlds is read.

    Attributes:
        model: shape of the model.
        batch_size: windows per step.
        recipe: how it is trained.
        texts: texts on which the curves are measured.
        log_points: points of the curves.
    """

    model: ModelShape
    batch_size: int
    recipe: Recipe
    texts: int
    log_points: int

    def __post_init__(self) -> None:
        for name in ("batch_size", "texts", "log_points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FormPreset:
    """One scale of the experiment.

    Attributes:
        grammar: what the sentences are from.
        sentences: how they are read.
        people: the world of biographies, told once.
        templates: sentences in use per attribute.
        biographies: how they are read.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    grammar: GrammarShape
    sentences: Reading
    people: WorldShape
    templates: int
    biographies: Reading
    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.biographies.texts <= self.people.people:
            raise ValueError(f"texts must be in 1..people = {self.people.people}, got {self.biographies.texts}")

    def grammar_world(self, seed: int) -> CFGWorld:
        """The sentences of a seed."""
        return make_grammar(CFGConfig(seed=seed, grammar=self.grammar.grammar, root=self.grammar.root))

    def biography_world(self, seed: int) -> BiographyWorld:
        """The biographies of a seed."""
        return make_biographies(self.people.config(seed, templates=self.templates))


_SHORT = PoolSizes(bcity=100, univ=100, major=100, cname=100, first_year=1900, years=100)
_GPU = FormPreset(
    grammar=GrammarShape(label="grammar", grammar="cfg3b"),
    sentences=Reading(
        model=ModelShape(layers=8, heads=8, width=512, context=512, rotary_fraction=1.0),
        batch_size=96,
        recipe=Recipe(steps=5000, learning_rate=3e-4, warmup_steps=500),
        texts=60,
        log_points=200,
    ),
    people=WorldShape(people=5000),
    templates=50,
    biographies=Reading(
        model=ModelShape(layers=6, heads=8, width=512, context=512),
        batch_size=96,
        recipe=Recipe(steps=5000, learning_rate=1e-3, warmup_steps=500),
        texts=500,
        log_points=200,
    ),
)
PRESETS: dict[Scale, FormPreset] = {
    "smoke": FormPreset(
        grammar=GrammarShape(label="grammar", grammar="cfg3b", root="13"),
        sentences=Reading(
            model=ModelShape(layers=1, heads=2, width=16, context=48, rotary_fraction=1.0),
            batch_size=4,
            recipe=Recipe(steps=20, learning_rate=3e-3),
            texts=6,
            log_points=5,
        ),
        people=WorldShape(
            people=20,
            pools=PoolSizes(
                first=20, middle=20, last=20, bcity=5, univ=5, major=5, cname=15, years=1, months=12, days=1
            ),
            value_form="short",
            date_parts=("month",),
        ),
        templates=3,
        biographies=Reading(
            model=ModelShape(layers=1, heads=2, width=16, context=128),
            batch_size=4,
            recipe=Recipe(steps=20, learning_rate=3e-3),
            texts=6,
            log_points=5,
        ),
    ),
    "cpu": FormPreset(
        grammar=GrammarShape(label="grammar", grammar="cfg3b", root="16"),
        sentences=Reading(
            model=ModelShape(layers=4, heads=4, width=64, context=128, rotary_fraction=1.0),
            batch_size=16,
            recipe=SMALL_RECIPE,
            texts=100,
            log_points=50,
        ),
        people=WorldShape(people=200, pools=_SHORT, value_form="short", date_parts=("year",)),
        templates=10,
        biographies=Reading(
            model=ModelShape(layers=3, heads=2, width=64, context=132, initial_std=0.12),
            batch_size=4,
            recipe=Recipe(steps=1500, learning_rate=3e-3, warmup_steps=100, weight_decay=0.3),
            texts=100,
            log_points=75,
        ),
    ),
    "gpu": _GPU,
    "paper": replace(
        _GPU,
        sentences=replace(
            _GPU.sentences,
            model=ModelShape(layers=12, heads=12, width=768, context=512, rotary_fraction=1.0),
            recipe=Recipe(steps=100_000, learning_rate=3e-4, schedule="linear", final_fraction=0.0),
        ),
        people=WorldShape(people=100_000),
        biographies=replace(
            _GPU.biographies,
            model=ModelShape(layers=12, heads=12, width=768, context=512),
            recipe=Recipe(steps=80_000, learning_rate=1e-3, warmup_steps=1000),
        ),
    ),
}


def conditions(preset: FormPreset) -> list[Condition]:
    """The two kinds of text."""
    del preset
    return [Condition(kind, {"kind": kind}) for kind in ("grammar", "biographies")]


def run(preset: FormPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model and follow the loss by part."""
    torch.set_num_threads(preset.threads)
    world: CFGWorld | BiographyWorld
    overflow: Overflow
    if condition.options["kind"] == "grammar":
        reading, world = preset.sentences, preset.grammar_world(seed)
        source, overflow = Source(world, "train"), "continue"
        measured = measured_sentences(world, reading.texts)
    else:
        reading, world = preset.biographies, preset.biography_world(seed)
        source, overflow = Source(world, "biographies"), "cut"
        measured = measured_biographies(world, reading.texts, preset.templates)
    model = Transformer(reading.model.config(world.vocab_size), seed=seed).to(device())
    shuffled = measured.shuffled(Key.of("shuffled parts", seed))

    def losses() -> dict[str, Any]:
        values = measured.loss(model)
        return {"parts": by_part(measured.parts, values), "shuffled": by_part(shuffled, values)}

    first = {"step": 0, **losses()}
    stream = PackedStream(
        [source],
        context=reading.model.context,
        batch_size=reading.batch_size,
        key=Key.of("packing", seed),
        overflow=overflow,
    )
    records = train(
        model,
        stream,
        reading.recipe,
        evaluate=losses,
        log_every=max(1, reading.recipe.steps // reading.log_points),
        checkpoint_every=max(1, reading.recipe.steps // 10),
        folder=workspace.scratch / "training",
        progress=workspace.progress,
    )
    shutil.rmtree(workspace.scratch / "training", ignore_errors=True)
    curve = [first, *records]
    steps = [int(point["step"]) for point in curve]
    metrics: dict[str, Any] = {
        "parameters": parameter_count(model.config),
        "steps": steps,
        "tokens": {name: int(sum((parts == name).sum() for parts in measured.parts)) for name in first["parts"]},
    }
    for kind in ("parts", "shuffled"):
        metrics[kind] = {}
        for name in first[kind]:
            losses_of_part = [point[kind][name] for point in curve]
            step, reached = step_learnt(steps, losses_of_part)
            metrics[kind][name] = {"learnt_at": step, "reached": reached, "loss": losses_of_part}
        metrics[kind]["content_after_form"] = metrics[kind][CONTENT]["learnt_at"] / metrics[kind][FORM]["learnt_at"]
    return metrics


Runs = Mapping[str, RunMetrics]


def delay(condition: str, kind: str = "parts") -> Callable[[Runs], float]:
    """How many times as many steps content takes as form."""
    return lambda runs: runs[condition].number(f"{kind}.content_after_form")


def claims(_scale: Scale, _preset: FormPreset) -> list[Claim]:
    """The claims; thresholds were fixed before the committed seeds were run (see `docs/claims/grammars.md`)."""
    statements = {
        "grammar": "Tokens that a shallow constituent decides are learnt long before those that need the sentence.",
        "biographies": "The words of the sentences are learnt long before the facts that they tell.",
    }
    return [
        Claim(
            id=f"P23-{kind}",
            statement=statement,
            source="talks: format is learned before knowledge",
            conditions=(kind,),
            measure=delay(kind),
            measure_name="steps until content is learnt, as a multiple of those until form is",
            relation="≥",
            threshold=2.0,
            scale="number",
            unit="",
            control="parts shuffled among the tokens of each text",
            parts=(
                Predicate(
                    name="the same with the parts shuffled",
                    measure=delay(kind, "shuffled"),
                    relation="between",
                    threshold=(0.8, 1.25),
                    scale="number",
                    unit="",
                ),
            ),
        )
        for kind, statement in statements.items()
    ]


LABELS = {
    "grammar": {FORM: "shallow level (form)", CONTENT: "whole sentence (content)"},
    "biographies": {FORM: "words of the sentences (form)", CONTENT: "values (content)"},
}


def parts_in_order(results: Results, kind: str) -> dict[str, str]:
    """Every part that some seed has no lack of, form first, with its label."""
    shared = set.intersection(*(set(results.runs[kind, seed].at("tokens")) for seed in results.seeds))
    between = sorted(shared - {FORM, CONTENT}, reverse=True)
    return {name: LABELS[kind].get(name, name) for name in (FORM, *between, CONTENT)}


def plots(results: Results, folder: Path) -> list[Path]:
    """What is left to learn of each part, and when each is learnt."""
    titles = {
        "grammar": "by the constituent that a token needs",
        "biographies": "by part of a biography",
    }
    seeds = f"{len(results.seeds)} seed(s)"
    drawn = []
    for kind in results.conditions:
        named = parts_in_order(results, kind)
        losses = {name: results.curves(kind, f"parts.{name}.loss") for name in named}
        drawn.append(
            curves_with_bands(
                folder / f"{kind}.png",
                results.runs[kind, results.seeds[0]].at("steps"),
                {label: losses[name] / losses[name][:, :1] for name, label in named.items()},
                title=f"What is left to learn, {titles[kind]}",
                subtitle=f"Loss above the least possible, as a share of that before training; {seeds}, 95 % bands",
                xlabel="Training steps",
                ylabel="Left to learn",
                percent=False,
            )
        )
        learnt = {
            series: {label: results.values(kind, f"{path}.{name}.learnt_at") for name, label in named.items()}
            for series, path in (("as they are", "parts"), ("shuffled (control)", "shuffled"))
        }
        drawn.append(
            bar_with_intervals(
                folder / f"{kind}_steps.png",
                learnt,
                title=f"When it is learnt, {titles[kind]}",
                subtitle=f"Steps until {LEARNT:.0%} of the loss above the least is gone; {seeds}, 95 % intervals",
                xlabel="Training steps",
                percent=False,
            )
        )
    return drawn


def fingerprint(preset: FormPreset, seed: int) -> str:
    """A hash of sentences and biographies."""
    return f"{preset.grammar_world(seed).fingerprint()[:12]}-{preset.biography_world(seed).fingerprint()[:12]}"


def cost(preset: FormPreset) -> str:
    """What a preset costs."""
    readings = (preset.sentences, preset.biographies)
    tokens = [reading.recipe.steps * reading.batch_size * reading.model.context / 1e6 for reading in readings]
    return f"two models a seed, which read {tokens[0]:.1f}M and {tokens[1]:.1f}M tokens"


EXPERIMENT = Experiment(
    name="format_first",
    title="Is the form of a text learnt before its content?",
    source="Physics of Language Models 1 and 3.1 (their worlds); talks: format is learned before knowledge",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (161,), "cpu": (161, 162, 163, 164, 165), "gpu": (161, 162), "paper": (161, 162)},
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
