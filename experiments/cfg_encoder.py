"""Does a masked language model learn the deep levels of a grammar?

A masked model (bidirectional, 15 % of the tokens to be filled in) and a causal model of the same size read the same
stream; both have DeBERTa's relative attention. Both are then asked the same question, for which no probe is needed: one
token of a test sentence is hidden, what is it? The exact answer is known, and so is how much of the sentence it takes
(`experiments._local_oracles`): a token *needs* level ℓ if its constituent of level ℓ, and no smaller one, says all that
there is to say about it. What a model *knows* of these tokens is 1 if it answers exactly and 0 if it is no better than
the exact posterior given the constituent of level ℓ + 1 alone (`experiments._hidden_tokens`). *Deep* tokens need a
level ℓ ≤ L/2, at `cpu` scale the whole sentence or a child of the root; all others are *shallow*.

The same is asked with a whole constituent of the lowest level hidden, and of the causal model about the next token,
whose constituents end before it. Last, the masked model fills in the last tokens of a sentence one by one, told how
many they are, and the causal model completes the sentence from there; the grammar says whether the result is a
sentence.

Claims CFG-8-need, CFG-8-known and CFG-8-filling: the behavioural half of CFG-8. Source: Physics of Language Models 1,
section 4, Fig. 7, where linear probes of DeBERTa find shallow levels and miss deep ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments._biographies import ModelShape
from experiments._encoder_plots import plots
from experiments._grammars import SMALL_RECIPE, GrammarShape, complete, fit, make_world, test_sentences
from experiments._hidden_tokens import (
    answers,
    constituent_questions,
    deep_by_shallow,
    fill_in,
    knowledge,
    knowledge_of,
    split_by_depth,
    token_questions,
)
from experiments._local_oracles import beyond, next_token_posteriors
from experiments._predictions import divergence, log_probabilities
from physlm.data.streams import Batch
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.results import pack_items
from physlm.models.positions import Deberta
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.objectives import Examples, MaskedWords, Objective, next_token_loss
from physlm.training.recipe import Recipe
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

Kind = Literal["masked", "causal"]


@dataclass(frozen=True, kw_only=True)
class EncoderPreset:
    """One scale of the experiment.

    Attributes:
        grammars: the first is learnt; of all of them it is computed what tokens need.
        model: shape of both models.
        distances: how many distances the relative attention tells apart.
        batch_size: windows per step.
        recipe: how both models are trained.
        mask_rate: share of the tokens that the masked model is trained to fill in.
        sentences: test sentences in which tokens are hidden.
        tokens, constituents: how many tokens, and constituents of the lowest level, are hidden in each of them, one at
            a time.
        curve_tokens: how many deep and how many shallow ones of these tokens make the learning curves.
        filled_sentences: sentences whose last tokens are filled in.
        spans: how many tokens that is, from few to many; the claim is about the last but one.
        log_points: points of the learning curves.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    grammars: tuple[GrammarShape, ...]
    model: ModelShape
    distances: int
    batch_size: int
    recipe: Recipe
    sentences: int
    tokens: int
    constituents: int
    curve_tokens: int
    filled_sentences: int
    spans: tuple[int, ...]
    mask_rate: float = 0.15
    log_points: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.grammars:
            raise ValueError("grammars must hold at least the one that is learnt, got none")
        for name in ("sentences", "tokens", "constituents", "curve_tokens", "filled_sentences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if not self.spans or self.spans[0] < 1 or list(self.spans) != sorted(set(self.spans)):
            raise ValueError(f"spans must be numbers of tokens from few to many, got {self.spans}")

    def world(self, label: str, seed: int) -> CFGWorld:
        """The world of a grammar."""
        shape = next(shape for shape in self.grammars if shape.label == label)
        return make_world(CFGConfig(seed=seed, grammar=shape.grammar, root=shape.root))

    def config(self, vocab_size: int, kind: Kind) -> TransformerConfig:
        """The masked or the causal model."""
        config = self.model.config(vocab_size, causal=kind == "causal")
        return replace(config, activation="gelu_exact", position=Deberta(distances=self.distances))


_GPU = EncoderPreset(
    grammars=(
        GrammarShape(label="unambiguous", grammar="cfg3b"),
        GrammarShape(label="ambiguous", grammar="cfg3h"),
    ),
    model=ModelShape(layers=8, heads=8, width=512, context=512),
    distances=512,
    batch_size=96,
    recipe=Recipe(steps=10_000, learning_rate=3e-4, warmup_steps=500),
    sentences=60,
    tokens=30,
    constituents=6,
    curve_tokens=200,
    filled_sentences=1000,
    spans=(1, 2, 4, 8, 16, 32, 64),
)
PRESETS: dict[Scale, EncoderPreset] = {
    "smoke": EncoderPreset(
        grammars=(GrammarShape(label="unambiguous", grammar="cfg3b", root="13"),),
        model=ModelShape(layers=1, heads=2, width=16, context=48),
        distances=48,
        batch_size=4,
        recipe=Recipe(steps=20, learning_rate=3e-3),
        sentences=6,
        tokens=4,
        constituents=2,
        curve_tokens=8,
        filled_sentences=6,
        spans=(1, 4),
        log_points=2,
    ),
    "cpu": EncoderPreset(
        grammars=(
            GrammarShape(label="unambiguous", grammar="cfg3b", root="16"),
            GrammarShape(label="ambiguous", grammar="cfg3f", root="18"),
        ),
        model=ModelShape(layers=4, heads=4, width=64, context=128),
        distances=64,
        batch_size=16,
        recipe=SMALL_RECIPE,
        sentences=100,
        tokens=20,
        constituents=3,
        curve_tokens=200,
        filled_sentences=300,
        spans=(1, 2, 4, 8, 16),
    ),
    "gpu": _GPU,
    "paper": replace(
        _GPU,
        model=ModelShape(layers=12, heads=12, width=768, context=512),
        recipe=Recipe(steps=100_000, learning_rate=3e-4, schedule="linear", final_fraction=0.0),
        sentences=200,
        filled_sentences=2000,
    ),
}


@dataclass(frozen=True)
class MaskedTokens(MaskedWords):
    """The objective of masked models, with every token a word of its own."""

    def examples(self, batch: Batch, vocab_size: int) -> Examples:
        """The window with tokens masked; the stream needs no marks."""
        words = np.broadcast_to(np.arange(batch.window.shape[1]), batch.window.shape)
        return super().examples(replace(batch, window_marks={"word": words}), vocab_size)


def conditions(preset: EncoderPreset) -> list[Condition]:
    """The two models, and what tokens need in every grammar."""
    models = [Condition(kind, {"kind": kind}) for kind in ("masked", "causal")]
    exact = [Condition(f"exact/{shape.label}", {"grammar": shape.label}) for shape in preset.grammars]
    return [*models, *exact]


def run(preset: EncoderPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model and ask it, or compute what tokens need."""
    if "grammar" in condition.options:
        return needs(preset, preset.world(str(condition.options["grammar"]), seed), seed)
    kind: Kind = "masked" if condition.options["kind"] == "masked" else "causal"
    world = preset.world(preset.grammars[0].label, seed)
    key = Key.of("hidden tokens", seed)
    tokens = token_questions(world, preset.sentences, preset.tokens, key.child("tokens"))
    constituents = constituent_questions(world, preset.sentences, preset.constituents, key.child("constituents"))
    on_curve = [question for some in split_by_depth(tokens).values() for question in some[: preset.curve_tokens]]
    special = (world.bos, world.eos)
    objective: Objective = next_token_loss
    if kind == "masked":
        objective = MaskedTokens(Key.of("masking", seed), mask=world.mask, special=special, rate=preset.mask_rate)

    def curve(model: Transformer) -> dict[str, Any]:
        known = knowledge_of(on_curve, answers(model, world, on_curve))
        return {name: known[name]["known"] for name in ("shallow", "deep")}

    model, records, _ = fit(
        workspace,
        world,
        preset.config(world.vocab_size, kind),
        seed,
        curve,
        batch_size=preset.batch_size,
        recipe=preset.recipe,
        log_points=preset.log_points,
        threads=preset.threads,
        objective=objective,
    )
    metrics: dict[str, Any] = {
        "parameters": parameter_count(model.config),
        "curve": records,
        "token": knowledge_of(tokens, answers(model, world, tokens)),
        "constituent": knowledge_of(constituents, answers(model, world, constituents)),
        "filling": filling(model, preset, world, seed),
    }
    if kind == "causal":
        metrics["next_token"] = next_token_knowledge(model, preset, world)
    return metrics


def needs(preset: EncoderPreset, world: CFGWorld, seed: int) -> dict[str, Any]:
    """What lies beyond each level on average, in nats, for a hidden token and for the next one; levels from 1."""
    questions = token_questions(world, preset.sentences, preset.tokens, Key.of("hidden tokens", seed).child("tokens"))
    hidden = beyond(np.concatenate([question.posteriors for question in questions], axis=1))
    following = np.concatenate([beyond(posteriors) for posteriors in next_tokens(world, preset.sentences)], axis=1)
    return {
        "hidden": {str(1 + level): float(nats) for level, nats in enumerate(hidden.mean(axis=1))},
        "next": {str(1 + level): float(nats) for level, nats in enumerate(following.mean(axis=1))},
    }


def next_tokens(world: CFGWorld, count: int) -> list[NDArray[np.float64]]:
    """`next_token_posteriors` of the first test sentences."""
    parser, numbers = Parser(world.grammar), np.arange(count)
    pairs = zip(world.sentences("test", numbers), world.derivations("test", numbers), strict=True)
    return [next_token_posteriors(parser, sentence, derivation) for sentence, derivation in pairs]


def next_token_knowledge(model: Transformer, preset: EncoderPreset, world: CFGWorld) -> dict[str, Any]:
    """What a causal model knows of next tokens, by the level that they need."""
    posteriors = next_tokens(world, preset.sentences)
    texts = [np.append(world.bos, sentence) for sentence in test_sentences(world, preset.sentences)]
    predicted = log_probabilities(model, texts, np.arange(1, world.eos + 1))
    return knowledge(
        np.concatenate([beyond(one) for one in posteriors], axis=1),
        np.concatenate([divergence(one[0], rows) for one, rows in zip(posteriors, predicted, strict=True)]),
    )


def filling(model: Transformer, preset: EncoderPreset, world: CFGWorld, seed: int) -> dict[str, Any]:
    """How often the result is a sentence if the last tokens are filled in: by the model, and by uniform draws."""
    parser, sentences = Parser(world.grammar), test_sentences(world, preset.filled_sentences)
    result = {}
    for span in preset.spans:
        key = Key.of("filling", seed, span)
        prefixes = [sentence[:-span] for sentence in sentences]
        if model.config.causal:
            ends = [end for end, _ in complete(model, world, prefixes, key)]
            made = [None if end is None else np.append(start, end) for start, end in zip(prefixes, ends, strict=True)]
        else:
            made = fill_in(model, world, sentences, span, key)
        draws = key.child("uniform").integers(np.arange(len(sentences)), span, world.alphabet_size) + 1
        uniform = parser.accepts([np.append(start, end) for start, end in zip(prefixes, draws, strict=True)])
        right = np.array([text is not None and parser.chart(text).is_sentence for text in made])
        result[f"span_{span}"] = {
            "mean": float(right.mean()),
            "items": pack_items(right),
            "uniform": float(uniform.mean()),
        }
    return result


def fingerprint(preset: EncoderPreset, seed: int) -> str:
    """A hash of the sentences of all grammars."""
    return "-".join(preset.world(shape.label, seed).fingerprint()[:12] for shape in preset.grammars)


Runs = Mapping[str, RunMetrics]


def known(kind: Kind, depth: str, question: str = "token") -> Callable[[Runs], float]:
    """What a model knows of the deep or the shallow tokens."""
    return lambda runs: runs[kind].number(f"{question}.{depth}.known")


def known_less(depth: str, question: str = "token") -> Callable[[Runs], float]:
    """How much more of these tokens the causal model knows."""
    return lambda runs: known("causal", depth, question)(runs) - known("masked", depth, question)(runs)


def known_less_at_equal_shallow(runs: Runs) -> float:
    """How much more of deep tokens the causal model knew when it knew as much of shallow ones as the masked at the end.

    Both are read from the learning curves, the causal model's interpolated between its points; where it never knew as
    much of shallow tokens, what it knew of deep ones when it knew most counts.
    """
    masked = runs["masked"].at("curve")[-1]
    most = max(point["shallow"] for point in runs["causal"].at("curve"))
    shallow = np.array([min(masked["shallow"], most)])
    return float(deep_by_shallow(runs["causal"].at("curve"), shallow)[0]) - masked["deep"]


def filled_less(span: int) -> Callable[[Runs], Measurement]:
    """How much more often the causal model's ends make sentences, paired by sentence."""
    path = f"filling.span_{span}.items"
    return lambda runs: Measurement.of_difference(runs["causal"].outcomes(path), runs["masked"].outcomes(path))


def needed_ratio(condition: str, level: int) -> Callable[[Runs], float]:
    """What lies beyond a level for the next token, as a multiple of the same for a hidden token."""
    path = "{}." + str(level)
    return lambda runs: runs[condition].number(path.format("next")) / runs[condition].number(path.format("hidden"))


def claims(_scale: Scale, preset: EncoderPreset) -> list[Claim]:
    """The claims; thresholds were fixed before the committed seeds were run (see `docs/claims/grammars.md`)."""
    learnt = preset.grammars[0].label
    levels = len(preset.world(learnt, 0).grammar.layers)
    few, many = preset.spans[0], preset.spans[max(0, len(preset.spans) - 2)]
    models = ("masked", "causal")
    return [
        Claim(
            id="CFG-8-need",
            statement="Without ambiguity, a hidden token hardly depends on deep levels where the next token does.",
            source="ours, on the grammars of 1, §2",
            conditions=tuple(f"exact/{shape.label}" for shape in preset.grammars),
            measure=needed_ratio(f"exact/{learnt}", levels // 2),
            measure_name=f"what lies beyond level {levels // 2}: the next token's, as a multiple of a hidden token's",
            relation="≥",
            threshold=3.0,
            scale="number",
            unit="",
            control="an ambiguous grammar, shown beside it; no model is involved",
        ),
        Claim(
            id="CFG-8-known",
            statement="A masked model knows shallow levels, and less of deep ones than its causal twin.",
            source="1, Fig. 7, by behaviour",
            conditions=models,
            measure=known_less("deep"),
            measure_name="known of hidden tokens that need deep levels: causal minus masked",
            relation="≥",
            threshold=0.20,
            control="the causal model on the same question",
            requires=(
                Requirement(
                    name="what the masked model knows of hidden tokens that need shallow levels",
                    measure=known("masked", "shallow"),
                    relation="≥",
                    threshold=0.70,
                ),
            ),
            parts=(
                Predicate(
                    name="the same when the causal model knew as much of shallow tokens as the masked one at the end",
                    measure=known_less_at_equal_shallow,
                    relation="≥",
                    threshold=0.05,
                    control="a causal model no better at shallow levels",
                ),
            ),
        ),
        Claim(
            id="CFG-8-filling",
            statement="A masked model that fills in one token as well as its causal twin cannot fill in many.",
            source="ours; 1, Fig. 7, by behaviour",
            conditions=models,
            measure=filled_less(many),
            measure_name=f"sentences after a model wrote the last {many}: causal minus masked",
            relation="≥",
            threshold=0.20,
            control="a single token at the end",
            parts=(
                Predicate(
                    name=f"the same for the last {few}",
                    measure=filled_less(few),
                    relation="≤",
                    threshold=0.10,
                ),
            ),
        ),
    ]


def cost(preset: EncoderPreset) -> str:
    """What a preset costs."""
    tokens = preset.recipe.steps * preset.batch_size * preset.model.context
    return f"two models a seed, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="cfg_encoder",
    title="Does a masked language model learn the deep levels of a grammar?",
    source="Physics of Language Models 1 (Learning Hierarchical Language Structures), section 4",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (151,), "cpu": (151, 152, 153, 154, 155), "gpu": (151, 152), "paper": (151, 152)},
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
