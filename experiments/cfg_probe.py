"""Where is the tree of a sentence in a model that has only seen sentences?

A model reads sentences of a grammar. Then it is probed on fresh ones, whose trees are known: can the ancestors of a
token, and the ends of constituents, be read off its hidden states; are they where a constituent ends, and in which
layer and when in training do they get there; is what can be read also used. And its attention is compared with what
dynamic programming needs: does it go, beyond what distance tells, from ends of constituents to the most adjacent ends.
A masked model of the same shape is the contrast: it fills in tokens and need not know deep levels.

Accuracies stand beside those of an exact reader, of the model before training, of the embedding and of shuffled labels
(`experiments._tree_probes`); attention beside that to the ends of another sentence, to moved ends, and of the model
before training (`experiments._tree_attention`).

Claims CFG-6 to CFG-14 but for the halves of CFG-8 that are in `cfg_encoder`. Source: Physics of Language Models 1,
sections 4 and 5, Fig. 5, 7, 8 and 9, appendix C; the ablation is ours.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from experiments._fitting import device
from experiments._grammar_measures import TRAINING, Training
from experiments._grammars import GrammarShape, divergences, fit, make_world
from experiments._tree_attention import attention_statistics, pairs_of_equal_length
from experiments._tree_claims import claims
from experiments._tree_measures import CAUSAL, MASKED
from experiments._tree_plots import plots
from experiments._tree_probes import (
    ablated_ends,
    ends,
    exact_reader,
    full_readout,
    inner_levels,
    local_accuracies,
    local_readout,
    tokens_of,
    told,
)
from experiments.cfg_encoder import MaskedTokens
from physlm.lab import Condition, Experiment, Workspace
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.models.transformer import Transformer, parameter_count
from physlm.probing.heads import ProbeTraining
from physlm.randomness import Key
from physlm.training.objectives import Objective, next_token_loss
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld


@dataclass(frozen=True, kw_only=True)
class TreePreset:
    """One scale of the experiment.

    Attributes:
        grammar: that is learnt and probed.
        training: the models and how they are trained.
        sentences: test sentences that are probed, one half fitted and the other asked.
        local, full: how probes of one state, and of the whole sentence, are trained.
        full_heads, full_head_width: of the attention to positions.
        full_portions: of the online code of full read-outs; that of local ones has all portions.
        curve_sentences: test sentences that make the learning curve.
        curve: how probes are trained for it.
        attention_sentences: test sentences, half of them as long as the other half, whose attention is looked at.
        ablated_sentences: test sentences on which the model loses directions.
        random_directions: sets of random directions beside those of a probe.
        mask_rate: share of the tokens that the masked model is trained to fill in.
    """

    grammar: GrammarShape
    training: Training
    sentences: int
    local: ProbeTraining
    full: ProbeTraining
    full_heads: int
    full_head_width: int
    full_portions: tuple[float, ...]
    curve_sentences: int
    curve: ProbeTraining
    attention_sentences: int
    ablated_sentences: int
    random_directions: int = 5
    mask_rate: float = 0.15

    def __post_init__(self) -> None:
        for name, least in (
            ("sentences", 4),
            ("curve_sentences", 2),
            ("attention_sentences", 2),
            ("ablated_sentences", 1),
            ("random_directions", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be ≥ {least}, got {getattr(self, name)}")
        if self.curve_sentences > self.sentences:
            raise ValueError(f"curve_sentences must be ≤ sentences = {self.sentences}, got {self.curve_sentences}")

    def world(self, seed: int) -> CFGWorld:
        """The world of the grammar."""
        return make_world(CFGConfig(seed=seed, grammar=self.grammar.grammar, root=self.grammar.root))


_GPU = TreePreset(
    grammar=GrammarShape(label="hard", grammar="cfg3f"),
    training=replace(TRAINING["gpu"], threads=8),
    sentences=400,
    local=ProbeTraining(steps=4000, batch_size=1024),
    full=ProbeTraining(steps=2000, batch_size=60, learning_rate=3e-3, weight_decay=1e-3),
    full_heads=16,
    full_head_width=256,
    full_portions=(0.25,),
    curve_sentences=200,
    curve=ProbeTraining(steps=1000, batch_size=1024),
    attention_sentences=200,
    ablated_sentences=60,
)
PRESETS: dict[Scale, TreePreset] = {
    "smoke": TreePreset(
        grammar=GrammarShape(label="hard", grammar="cfg3b", root="14"),
        training=TRAINING["smoke"],
        sentences=20,
        local=ProbeTraining(steps=20, batch_size=64),
        full=ProbeTraining(steps=10, batch_size=8, learning_rate=0.01, weight_decay=1e-3),
        full_heads=2,
        full_head_width=8,
        full_portions=(0.5,),
        curve_sentences=10,
        curve=ProbeTraining(steps=10, batch_size=64),
        attention_sentences=8,
        ablated_sentences=4,
        random_directions=2,
    ),
    "cpu": TreePreset(
        grammar=GrammarShape(label="hard", grammar="cfg3b", root="16"),
        training=TRAINING["cpu"],
        sentences=1000,
        local=ProbeTraining(steps=1500),
        full=ProbeTraining(steps=500, batch_size=60, learning_rate=0.01, weight_decay=1e-3),
        full_heads=8,
        full_head_width=64,
        full_portions=(0.25,),
        curve_sentences=400,
        curve=ProbeTraining(steps=300),
        attention_sentences=200,
        ablated_sentences=60,
    ),
    "gpu": _GPU,
    "paper": replace(
        _GPU,
        training=replace(TRAINING["paper"], threads=8),
        sentences=2000,
        local=ProbeTraining(steps=10_000, batch_size=1024),
        full=ProbeTraining(steps=30_000, batch_size=60, learning_rate=3e-3, weight_decay=1e-3),
        full_head_width=1024,
    ),
}


def conditions(_preset: TreePreset) -> list[Condition]:
    """The model, and the masked one."""
    return [Condition(kind, {"kind": kind}) for kind in (CAUSAL, MASKED)]


def run(preset: TreePreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model, probe it, and look at its attention."""
    torch.set_num_threads(preset.training.threads)
    world, is_causal = preset.world(seed), condition.options["kind"] == CAUSAL
    levels, key = inner_levels(world), Key.of("tree", seed)
    config = replace(preset.training.config(world.vocab_size), causal=is_causal)
    untrained = Transformer(config, seed=seed).to(device())
    model, curve = fitted(preset, world, untrained, seed, workspace)
    tokens = tokens_of(world, np.arange(preset.sentences))
    local = local_readout(model, untrained, tokens, levels, preset.local, key.child("local"))
    asked = np.unique(tokens.documents[next(iter(local.values())).rows])
    exact = exact_reader(world, tokens, levels, asked)
    is_end = ends(tokens, levels)
    metrics: dict[str, Any] = {
        "parameters": parameter_count(config),
        "levels": list(levels),
        "curve": curve,
        "local": {
            "ends": {name: told(local[f"ends/{name}"], exact["ends"][name]) for name in is_end},
            "elsewhere": {name: told(local[f"elsewhere/{name}"]) for name in is_end},
            "boundary": {
                name: told(local[f"boundary/{name}"], exact["boundary_so_far"][name], is_end[name]) for name in is_end
            },
        },
    }
    if not is_causal:
        return metrics
    full = full_readout(
        model,
        untrained,
        tokens,
        levels,
        preset.full,
        heads=preset.full_heads,
        head_width=preset.full_head_width,
        portions=preset.full_portions,
        key=key.child("full"),
    )
    asked = np.unique(tokens.documents[next(iter(full.values())).rows])
    exact = exact_reader(world, tokens, levels, asked)
    metrics["full"] = {
        "ancestors": {name: told(full[f"ancestors/{name}"], exact["ancestors"][name]) for name in is_end},
        "boundary": {name: told(full[f"boundary/{name}"], exact["boundary"][name], is_end[name]) for name in is_end},
    }
    others = np.arange(preset.sentences, preset.sentences + preset.ablated_sentences)
    metrics["divergence"] = float(
        divergences(model, Parser(world.grammar), world.sentences("test", others), world.bos).mean()
    )
    metrics["ablation"] = ablated_ends(
        model,
        world,
        tokens,
        others,
        levels,
        preset.curve,
        controls=preset.random_directions,
        key=key.child("ablation"),
    )
    pairs = pairs_of_equal_length(world, preset.sentences, preset.attention_sentences)
    metrics["attention"] = attention_statistics(model, untrained, world, pairs, levels)
    return metrics


def fitted(
    preset: TreePreset, world: CFGWorld, untrained: Transformer, seed: int, workspace: Workspace
) -> tuple[Transformer, list[dict[str, Any]]]:
    """A trained model, and what can be read at ends in its last layer from before the first step on."""
    training, levels = preset.training, inner_levels(world)
    tokens = tokens_of(world, np.arange(preset.curve_sentences))
    objective: Objective = next_token_loss
    if not untrained.config.causal:
        special = (world.bos, world.eos)
        objective = MaskedTokens(Key.of("masking", seed), mask=world.mask, special=special, rate=preset.mask_rate)

    def read(model: Transformer) -> dict[str, Any]:
        return local_accuracies(model, tokens, levels, preset.curve, Key.of("curve", seed))

    first = {"step": 0, **read(untrained)}
    model, records, _ = fit(
        workspace,
        world,
        untrained.config,
        seed,
        read,
        batch_size=training.batch_size,
        recipe=training.recipe,
        log_points=training.log_points,
        threads=training.threads,
        objective=objective,
    )
    shutil.rmtree(workspace.scratch / "training", ignore_errors=True)
    return model, [first, *({name: record[name] for name in ("loss", *first)} for record in records)]


def fingerprint(preset: TreePreset, seed: int) -> str:
    """A hash of the sentences."""
    return preset.world(seed).fingerprint()[:12]


def cost(preset: TreePreset) -> str:
    """What a preset costs."""
    return (
        f"2 models a seed, each {preset.training.tokens / 1e6:.1f}M tokens, and probes of {preset.sentences} sentences"
    )


EXPERIMENT = Experiment(
    name="cfg_probe",
    title="Where is the tree of a sentence in a model that has only seen sentences?",
    source="Physics of Language Models 1 (Learning Hierarchical Language Structures), sections 4 and 5",
    revision=2,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (196,), "cpu": (196, 197, 198, 199, 200), "gpu": (196, 197), "paper": (196, 197)},
    # The latter were run with one shuffling of labels, and read.
    development_seeds=frozenset({*range(1, 21), *range(191, 196)}),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
