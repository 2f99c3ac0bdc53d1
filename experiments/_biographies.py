"""What the biography experiments share: presets, training stages and measurements.

- A stage is a trained model, cached by everything that it depends on; conditions that share one compute it once.
- All conditions of one seed live in the same world: same people, same split, same values.
- A measurement keeps the outcome of every question as `[people, attributes]`, so comparisons are paired by person.

Source: Physics of Language Models 3.1, sections 2 to 7 and App. C, D, H.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._fitting import device
from experiments._stages import read_again
from physlm.data.contract import Samples
from physlm.data.streams import PackedStream, Source
from physlm.evaluation import answer_matches, first_token_matches, masked_answer_matches, token_matches
from physlm.lab import Workspace, pack_items
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import Rotary
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.training.checkpoints import load_model, save_model
from physlm.training.loop import train
from physlm.training.objectives import MaskedWords, Objective, next_token_loss, objective_identity
from physlm.training.recipe import Recipe
from physlm.worlds.bios import BiographyConfig, BiographyWorld, PoolSizes, Role
from physlm.worlds.bios.config import ATTRIBUTES, DATE_PARTS

# Bumped whenever a stage's result changes although its config does not.
STAGE_REVISION = 2


@dataclass(frozen=True, kw_only=True)
class WorldShape:
    """Everything about the world except its seed and how its biographies are written (see `BiographyConfig`)."""

    people: int
    pools: PoolSizes = field(default_factory=PoolSizes)
    value_form: str = "full"
    template_form: str = "full"
    questions: str = "full"
    date_parts: tuple[str, ...] = DATE_PARTS
    attributes: tuple[str, ...] = ATTRIBUTES

    def config(self, seed: int, **options: Any) -> BiographyConfig:
        """The world of a seed; `options` are fields of `BiographyConfig`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return BiographyConfig(seed=seed, **{**fields, **options})


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A GPT2-rotary model; the vocabulary is the world's."""

    layers: int
    heads: int
    width: int
    context: int
    initial_std: float = 0.02
    rotary_fraction: float = 0.25

    def config(self, vocab_size: int, *, causal: bool = True) -> TransformerConfig:
        """The config for a vocabulary."""
        return TransformerConfig(
            vocab_size=vocab_size,
            context=self.context,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            initial_std=self.initial_std,
            position=Rotary(fraction=self.rotary_fraction),
            causal=causal,
        )


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Ranks of a LoRA finetuning: on query and value, and on the input embedding."""

    rank: int
    embedding_rank: int
    std: float


@dataclass(frozen=True, kw_only=True)
class BiographyPreset:
    """One scale of the biography experiments.

    Attributes:
        world, model: what is learned, and by what.
        batch_size, finetuning_batch_size: windows of `model.context` tokens per step.
        pretraining: recipe on biographies; the same for every way of writing them, so that every *person* is
            seen equally often.
        mixed: recipe of mixed training.
        question_share: share of the windows of mixed training that hold questions.
        low_rank: ranks of LoRA finetuning.
        low_rank_finetuning: its recipe.
        full_finetuning: recipes of full finetuning; the best is reported.
        masked: recipe of the masked model's pretraining.
        mask_rate: share of the words it has to fill in.
        variants: ways of writing biographies in the augmentation ladder.
        mixed_variants: ways of writing them in mixed training.
        minority_share: share of the reading that goes to people when there are celebrities; `None` reads
            uniformly over entries.
        log_points: points of the learning curves.
        curve_people: people of each half whose answers make the learning curves.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    world: WorldShape
    model: ModelShape
    batch_size: int
    finetuning_batch_size: int
    pretraining: Recipe
    mixed: Recipe
    question_share: float
    low_rank: LowRank
    low_rank_finetuning: Recipe
    full_finetuning: tuple[Recipe, ...]
    masked: Recipe
    variants: tuple[str, ...]
    mixed_variants: tuple[str, ...]
    mask_rate: float = 0.15
    minority_share: float | None = None
    log_points: int = 40
    curve_people: int = 100
    threads: int = 1


@lru_cache(maxsize=4)
def make_world(config: BiographyConfig) -> BiographyWorld:
    """The world of a config."""
    return BiographyWorld(config)


# ----------------------------------------------------------------------------------------------------------------------
# Stages
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A trained model with the log of its training."""

    model: Transformer
    records: list[dict[str, Any]]


def stage(
    workspace: Workspace,
    name: str,
    *,
    preset: BiographyPreset,
    world: BiographyWorld,
    seed: int,
    sources: Sequence[Source],
    recipe: Recipe,
    batch_size: int,
    causal: bool = True,
    evaluate: Callable[[Transformer], Mapping[str, Any]] | None = None,
    marks: tuple[str, ...] = (),
    objective: Objective = next_token_loss,
) -> Trained:
    """A model trained from scratch, computed once for all conditions and experiments that need it.

    Raises:
        ValueError: if a document does not fit into a window, so that its end might never be read.
        CheckpointError: if a finished stage is damaged.
    """
    longest = max(int(world.lengths(source.split).max()) for source in sources)
    if longest + 1 > preset.model.context:
        raise ValueError(
            f"context must be ≥ {longest + 1}, the longest document of {', '.join(source.split for source in sources)} "
            f"and its end, got {preset.model.context}"
        )
    config = preset.model.config(world.vocab_size, causal=causal)
    identity = {
        "revision": STAGE_REVISION,
        "world": world.fingerprint(),
        "sources": [[source.split, source.share] for source in sources],
        "model": config.to_dict(),
        "recipe": recipe.to_dict(),
        "batch_size": batch_size,
        "seed": seed,
        "objective": objective_identity(objective),
        "curves": [preset.log_points, preset.curve_people] if evaluate else None,
        "threads": preset.threads,
    }

    def compute(folder: Path) -> None:
        if (folder / "records.json").exists():  # killed after the last step
            return
        model = Transformer(config, seed=seed).to(device())
        stream = PackedStream(
            sources,
            context=preset.model.context,
            batch_size=batch_size,
            key=Key.of("packing", seed),
            marks=marks,
        )
        records = train(
            model,
            stream,
            recipe,
            objective=objective,
            evaluate=partial(evaluate, model) if evaluate else None,
            log_every=max(1, recipe.steps // preset.log_points),
            checkpoint_every=max(1, recipe.steps // 10),
            folder=folder / "training",
            progress=lambda fraction, message: workspace.progress(fraction, f"{name}: {message}"),
        )
        save_model(model, folder / "model", data_fingerprint=world.fingerprint())
        unfinished = folder / "records.partial"
        unfinished.write_text(json.dumps(records))
        unfinished.rename(folder / "records.json")
        shutil.rmtree(folder / "training")

    folder = workspace.stage(name, identity, compute)
    with read_again(folder):
        model = load_model(folder / "model", config=config, data_fingerprint=world.fingerprint()).to(device())
        records = json.loads((folder / "records.json").read_text())
    return Trained(model.eval(), records)


def pretrain(workspace: Workspace, preset: BiographyPreset, world: BiographyWorld, seed: int) -> Trained:
    """A model that has read the biographies of everybody, celebrities included, and no question."""
    return stage(
        workspace,
        "pretrain",
        preset=preset,
        world=world,
        seed=seed,
        sources=biography_sources(world, minority_share=preset.minority_share),
        recipe=preset.pretraining,
        batch_size=preset.batch_size,
    )


def biography_sources(
    world: BiographyWorld, share: float = 1.0, *, minority_share: float | None = None
) -> list[Source]:
    """The biographies of all populations: uniform over entries, or with `minority_share` for people.

    A window holds one population, so that entries count alike if windows are shared in proportion to tokens.
    """
    if not world.config.celebrities:
        return [Source(world, "biographies", share=share)]
    splits = ("biographies", "celebrity_biographies")
    sizes = {split: int(world.lengths(split).sum()) + world.size(split) for split in splits}
    people = sizes["biographies"] / sum(sizes.values()) if minority_share is None else minority_share
    return [
        Source(world, "biographies", share=share * people),
        Source(world, "celebrity_biographies", share=share * (1 - people)),
    ]


def finetune(
    model: Transformer,
    preset: BiographyPreset,
    world: BiographyWorld,
    seed: int,
    *,
    recipe: Recipe,
    low_rank: LowRank | None,
    split: str = "questions_train",
    folder: Path | None = None,
    progress: Callable[[float, str], None] | bool = False,
    evaluate: Callable[[], Mapping[str, Any]] | None = None,
    objective: Objective = next_token_loss,
    marks: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Train a pretrained model on questions, in place: all weights, or a low-rank update of a frozen model.

    With a `folder` for its checkpoints, an interrupted finetuning is continued.
    """
    parameters = None
    if low_rank is not None:
        parameters = add_low_rank(
            model, rank=low_rank.rank, embedding_rank=low_rank.embedding_rank, std=low_rank.std, seed=seed
        )
    stream = PackedStream(
        [Source(world, split)],
        context=preset.model.context,
        batch_size=preset.finetuning_batch_size,
        key=Key.of("finetuning", seed),
        marks=marks,
    )
    return train(
        model,
        stream,
        recipe,
        objective=objective,
        parameters=parameters,
        evaluate=evaluate,
        log_every=max(1, recipe.steps // 20),
        folder=folder,
        checkpoint_every=max(1, recipe.steps // 4),
        progress=progress,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Measurements
# ----------------------------------------------------------------------------------------------------------------------


def ask(model: Transformer, world: BiographyWorld, split: str, people: int | None = None) -> NDArray[np.bool_]:
    """Whether each question is answered exactly right by greedy decoding, `[people, attributes]`."""
    return _ask(model, world, split, people, partial(answer_matches, stop=world.eos))


def ask_first_token(
    model: Transformer, world: BiographyWorld, split: str, people: int | None = None
) -> NDArray[np.bool_]:
    """Whether the first token of each answer is right, `[people, attributes]`."""
    return _ask(model, world, split, people, first_token_matches)


def _ask(model: Transformer, world: BiographyWorld, split: str, people: int | None, judge: Any) -> NDArray[np.bool_]:
    attributes = len(world.config.attributes)
    questions = np.arange(world.size(split) if people is None else min(people * attributes, world.size(split)))
    prompts = [np.concatenate([[world.eos], prompt]) for prompt in world.prompts(split, questions)]
    return judge(model, prompts, world.answers(split, questions)).reshape(-1, attributes)


def recall(model: Transformer, world: BiographyWorld, people: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether the first token of each value is recalled within the biography, `[people, attributes]`."""
    samples = world.render("biographies", people, marks=("value_position",))
    matches = token_matches(model, samples, samples.marks["value_position"] == 0, bos=world.eos)
    return matches.reshape(len(people), -1)


def halves(world: BiographyWorld) -> dict[str, NDArray[np.integer]]:
    """The people of either half: `train`, whose questions may be trained on, and `test`."""
    return {half: np.unique(world.questions(f"questions_{half}")[0]) for half in ("train", "test")}


def by_attribute(world: BiographyWorld, outcomes: NDArray[np.bool_]) -> dict[str, Any]:
    """A metric entry: mean, mean by attribute, and every outcome."""
    return {
        "mean": float(outcomes.mean()),
        "by_attribute": dict(zip(world.config.attributes, outcomes.mean(axis=0).tolist(), strict=True)),
        "items": pack_items(outcomes),
    }


def measure(model: Transformer, world: BiographyWorld, *, questions: bool = True) -> dict[str, Any]:
    """Recall of biographies and, with `questions`, answers on both halves; see `by_attribute` for the entries."""
    metrics: dict[str, Any] = {}
    for half, people in halves(world).items():
        metrics[f"recall_{half}"] = float(recall(model, world, people).mean())
        if questions:
            metrics[f"questions_{half}"] = by_attribute(world, ask(model, world, f"questions_{half}"))
            first = ask_first_token(model, world, f"questions_{half}")
            metrics[f"first_token_{half}"] = float(first.mean())
    return metrics


def chance(world: BiographyWorld) -> dict[str, Any]:
    """Accuracy of the best constant answers: by attribute, and their mean."""
    whole, first = world.chance()["whole"], world.chance()["first_token"]
    return {
        "whole": whole,
        "first_token": first,
        "mean": float(np.mean(list(whole.values()))),
        "first_token_mean": float(np.mean(list(first.values()))),
    }


def learning_curve(model: Transformer, world: BiographyWorld, people: int) -> dict[str, float]:
    """The five curves of the order-of-learning figure (3.1, Fig. 1)."""
    sides = {half: ids[:people] for half, ids in halves(world).items()}
    return {
        "recall_train": float(recall(model, world, sides["train"]).mean()),
        "recall_test": float(recall(model, world, sides["test"]).mean()),
        "first_token_train": float(ask_first_token(model, world, "questions_train", people).mean()),
        "first_token_test": float(ask_first_token(model, world, "questions_test", people).mean()),
        "questions_test": float(ask(model, world, "questions_test", people).mean()),
    }


def mix(
    workspace: Workspace,
    preset: BiographyPreset,
    world: BiographyWorld,
    seed: int,
    *,
    evaluate: Callable[[Transformer], Mapping[str, Any]] | None = None,
) -> Trained:
    """A model that has read biographies of everybody and questions about one half of the people, mixed."""
    share = preset.question_share
    return stage(
        workspace,
        "mixed",
        preset=preset,
        world=world,
        seed=seed,
        sources=[*biography_sources(world, 1 - share), Source(world, "questions_train", share)],
        recipe=preset.mixed,
        batch_size=preset.batch_size,
        evaluate=evaluate,
    )


def preset_fingerprint(preset: BiographyPreset, seed: int) -> str:
    """Fingerprint of the world of a seed, told once: how it is told is part of the condition."""
    return make_world(preset.world.config(seed)).fingerprint()


# ----------------------------------------------------------------------------------------------------------------------
# The masked twin (3.1, section 7)
# ----------------------------------------------------------------------------------------------------------------------


def pretrain_masked(workspace: Workspace, preset: BiographyPreset, world: BiographyWorld, seed: int) -> Trained:
    """A bidirectional model that has filled in masked words of everybody's biographies."""
    return stage(
        workspace,
        "pretrain-masked",
        preset=preset,
        world=world,
        seed=seed,
        sources=biography_sources(world),
        recipe=preset.masked,
        batch_size=preset.batch_size,
        causal=False,
        marks=("word",),
        objective=MaskedWords(
            Key.of("masking", seed),
            mask=world.tokenizer.mask,
            special=(world.pad, world.eos, world.tokenizer.mask),
            rate=preset.mask_rate,
        ),
    )


def ask_masked(model: Transformer, world: BiographyWorld, split: str) -> NDArray[np.bool_]:
    """Whether every token of each masked answer is recovered, `[people, attributes]`; its length is given away."""
    samples = world.render(split, np.arange(world.size(split)), marks=("role",))
    return _fill(model, world, samples, samples.marks["role"] == Role.VALUE).reshape(-1, len(world.config.attributes))


def masked_recall(model: Transformer, world: BiographyWorld, people: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each value is recovered when it alone is masked in the biography, `[people, attributes]`."""
    columns = []
    for attribute in range(len(world.config.attributes)):
        samples = world.render("biographies", people, marks=("role", "attribute"))
        answers = (samples.marks["role"] == Role.VALUE) & (samples.marks["attribute"] == attribute)
        columns.append(_fill(model, world, samples, answers))
    return np.stack(columns, axis=1)


def _fill(model: Transformer, world: BiographyWorld, samples: Samples, answers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the marked tokens of each document are recovered, read between two end-of-text tokens as in training."""
    documents, masks = [], []
    for start, end in zip(samples.offsets[:-1], samples.offsets[1:], strict=True):
        documents.append(np.concatenate([[world.eos], samples.tokens[start:end], [world.eos]]))
        masks.append(np.concatenate([[False], answers[start:end], [False]]))
    return masked_answer_matches(model, documents, masks, mask_id=world.tokenizer.mask)
