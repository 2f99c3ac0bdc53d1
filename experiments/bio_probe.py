"""Where are people's facts in a model that has memorised their biographies, and does that say what it can be asked?

Models read biographies told in different ways, as in `bio_qa`. Probes are then asked for the facts of people whom they
were not fitted to: at the places before the values of a biography (P-probing), and behind a name alone (Q-probing).
What can be read behind the name is compared with the questions that the same model answers about the same people once
it has been finetuned, and the directions in which a fact can be read are taken out of it.

Claims BIO-11 to BIO-14 and BIO-18; BIO-14-used is ours. Source: Physics of Language Models 3.1, sections 5 and 6, App.
E and F, Fig. 5 to 7, 13, 15, 18 and 19.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments._biographies import (
    BiographyPreset,
    ask,
    by_attribute,
    chance,
    finetune,
    make_world,
    measure,
    preset_fingerprint,
    pretrain,
)
from experiments._biography_presets import CELEBRITY_PRESETS, PRESETS
from experiments._biography_presets import cost as pretraining_cost
from experiments._biography_probe_claims import claims
from experiments._biography_probe_measures import ALONE, CELEBRITIES, NAMES, POSITIONS
from experiments._biography_probe_plots import plots
from experiments._biography_probes import Readout, probe_layers, probe_names, probe_positions
from experiments._biography_removal import remove_from_names
from experiments._fitting import device
from experiments.bio_celebrity import CELEBRITY_VARIANT, MINORITY_VARIANTS
from physlm.lab import Condition, Experiment, Workspace, pack_items
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.models.transformer import Transformer, parameter_count
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import BoolArray
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld, PoolSizes


@dataclass(frozen=True, kw_only=True)
class ProbePreset:
    """One scale of the experiment.

    Attributes:
        biographies: world, model and training of `bio_qa`.
        celebrities: those of `bio_celebrity`.
        couples: ways of telling facts in pairs.
        positions, names: how P- and Q-probes are made.
        layers: how linear probes at the end of names are trained.
        removed_rank: directions that are taken out of the end of a name, an eighth of the width.
        removed_texts: biographies, at most, in which that is done for each attribute.
        random_directions: sets of random directions beside those of a probe.
    """

    biographies: BiographyPreset
    celebrities: BiographyPreset
    couples: tuple[str, ...]
    positions: Readout
    names: Readout
    layers: ProbeTraining
    removed_rank: int
    removed_texts: int = 500
    random_directions: int = 5

    def __post_init__(self) -> None:
        for name in ("removed_rank", "removed_texts", "random_directions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if other := [name for name in self.couples if not name.startswith("couple")]:
            raise ValueError(f"couples must be among couple1, couple2, couple5, got {other[0]!r}")


def _training(steps: int, batch_size: int, learning_rate: float) -> ProbeTraining:
    return ProbeTraining(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, weight_decay=0.3, betas=(0.9, 0.999)
    )


def _preset(
    scale: Scale,
    *,
    couples: tuple[str, ...],
    positions: ProbeTraining,
    names: ProbeTraining,
    layers: ProbeTraining,
    biographies: BiographyPreset | None = None,
    celebrities: BiographyPreset | None = None,
    portion: float = 0.25,
    alpha: float = 4.0,
) -> ProbePreset:
    return ProbePreset(
        biographies=PRESETS[scale] if biographies is None else biographies,
        celebrities=CELEBRITY_PRESETS[scale] if celebrities is None else celebrities,
        couples=couples,
        positions=Readout(rank=2, alpha=alpha, norm="layer", training=positions, portions=(portion,)),
        names=Readout(rank=16, alpha=alpha, norm="batch", training=names, portions=(portion,)),
        layers=layers,
        removed_rank=PRESETS[scale].model.width // 8,
    )


def _with_values(preset: BiographyPreset, count: int, steps: int) -> BiographyPreset:
    """The same with fewer values of every fact, and another length of pretraining."""
    pools = PoolSizes(bcity=count, univ=count, major=count, cname=count, first_year=1900, years=count)
    return replace(
        preset, world=replace(preset.world, pools=pools), pretraining=replace(preset.pretraining, steps=steps)
    )


# The paper's probes get 30,000 steps at 1e-3, for fifty thousand people; with fewer steps the rate is higher.
_PRESETS: dict[Scale, ProbePreset] = {
    "smoke": replace(
        _preset(
            "smoke",
            couples=("couple1", "couple5"),
            positions=_training(2, 10, 1e-2),
            names=_training(2, 10, 1e-2),
            layers=_training(3, 20, 1e-2),
            portion=0.5,
        ),
        removed_texts=4,
        random_directions=2,
    ),
    "cpu": _preset(
        "cpu",
        # A hundred values leave five people each to fit a probe to, and a strong update learns these by heart
        # (docs/lab-notes.md).
        biographies=_with_values(PRESETS["cpu"], 20, steps=5500),
        celebrities=_with_values(CELEBRITY_PRESETS["cpu"], 20, steps=5000),
        alpha=0.5,
        couples=("couple1", "couple5"),
        positions=_training(100, 25, 1e-2),
        names=_training(100, 50, 1e-2),
        layers=ProbeTraining(steps=500),
    ),
    "gpu": _preset(
        "gpu",
        couples=("couple1", "couple2", "couple5"),
        positions=_training(3000, 50, 3e-3),
        names=_training(3000, 200, 3e-3),
        layers=ProbeTraining(steps=3000, batch_size=1024),
    ),
    "paper": _preset(
        "paper",
        couples=("couple1", "couple2", "couple5"),
        positions=_training(30_000, 50, 1e-3),
        names=_training(30_000, 200, 1e-3),
        layers=ProbeTraining(steps=10_000, batch_size=1024),
    ),
}


def conditions(preset: ProbePreset) -> list[Condition]:
    """P- and Q-probing of every way of telling, P-probing of couples, and both of a minority told once."""
    variants = preset.biographies.variants
    found = [
        Condition(f"{probes}/{variant}", {"probes": [probes], "variant": variant}, stage_key=variant)
        for probes, told in ((POSITIONS, (*variants, *preset.couples)), (NAMES, variants))
        for variant in told
    ]
    minority = MINORITY_VARIANTS[0]
    return found + [
        Condition(
            f"{company}/{minority}",
            {"probes": [POSITIONS, NAMES], "variant": minority, "celebrities": company == CELEBRITIES},
            stage_key=f"{company} {minority}",
        )
        for company in (CELEBRITIES, ALONE)
    ]


def run(preset: ProbePreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model on biographies as in `bio_qa` or `bio_celebrity`, and probe it."""
    options = condition.options
    probes = options["probes"]
    assert isinstance(probes, list)
    training, world = _world(preset, options, seed)
    model = pretrain(workspace, training, world, seed).model
    untrained = Transformer(model.config, seed=seed).to(device()).eval()
    key = Key.of("facts", seed)
    metrics: dict[str, Any] = {
        "parameters": parameter_count(model.config),
        "chance": chance(world),
        **measure(model, world, questions=False),
    }
    if POSITIONS in probes:
        workspace.progress(0.1, "P-probing")
        metrics[POSITIONS] = packed(probe_positions(model, untrained, world, preset.positions, key))
    if NAMES in probes:
        workspace.progress(0.5, "Q-probing")
        metrics[NAMES] = packed(probe_names(model, untrained, world, preset.names, key))
    if probes == [NAMES]:
        workspace.progress(0.8, "linear probes at the end of the name")
        metrics["layers"] = probe_layers(model, untrained, world, preset.layers, key)
        metrics["removed"] = remove_from_names(
            model,
            world,
            preset.layers,
            rank=preset.removed_rank,
            texts=preset.removed_texts,
            controls=preset.random_directions,
            key=key.child("removed"),
        )
        metrics["questions_test"] = by_attribute(world, answers(training, world, model, seed, workspace))
    return metrics


def _world(preset: ProbePreset, options: Mapping[str, Any], seed: int) -> tuple[BiographyPreset, BiographyWorld]:
    """How a condition is trained, and on which world."""
    variant = str(options["variant"])
    if "celebrities" not in options:
        return preset.biographies, make_world(preset.biographies.world.config(seed, variant=variant))
    training = preset.celebrities
    count = training.world.people if options["celebrities"] else 0
    return training, make_world(
        training.world.config(seed, variant=variant, celebrities=count, celebrity_variant=CELEBRITY_VARIANT)
    )


def answers(
    preset: BiographyPreset, world: BiographyWorld, model: Transformer, seed: int, workspace: Workspace
) -> BoolArray:
    """Whether questions about held-out people are answered after the LoRA finetuning of `bio_qa`.

    The model is changed.

    Returns:
        `[people, attributes]`.
    """
    finetune(
        model,
        preset,
        world,
        seed,
        recipe=preset.low_rank_finetuning,
        low_rank=preset.low_rank,
        folder=workspace.scratch / "finetuning",
        progress=lambda fraction, message: workspace.progress(0.9 + 0.1 * fraction, f"finetuning: {message}"),
    )
    return ask(model, world, "questions_test")


def packed(found: Any) -> Any:
    """The same with arrays of outcomes as JSON values."""
    if isinstance(found, Mapping):
        return {name: packed(part) for name, part in found.items()}
    return pack_items(found) if isinstance(found, np.ndarray) else found


def fingerprint(preset: ProbePreset, seed: int) -> str:
    """Fingerprint of the people of a seed."""
    return preset_fingerprint(preset.biographies, seed)


def cost(preset: ProbePreset) -> str:
    """What one pretraining and the probes of it cost."""
    return (
        f"{pretraining_cost(preset.biographies)}; each probe with its controls some 30 fits of "
        f"{preset.positions.training.steps} steps (P) or {preset.names.training.steps} (Q)"
    )


EXPERIMENT = Experiment(
    name="bio_probe",
    title="Where memorised facts are, and whether that says what can be asked",
    source="Physics of Language Models 3.1 (Knowledge Storage and Extraction), sections 5 and 6",
    revision=1,
    presets=_PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (211,), "cpu": (211, 212, 213, 214, 215), "gpu": (211, 212), "paper": (211, 212)},
    core=("BIO-11", "BIO-14-used"),
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
