"""Is a grammar read off a treebank easy to learn?

The English-like grammar that comes with the library, recursive, with flat rules of unequal frequency over thirty tags,
is read through the path of a user's own file. Beside it stands an ambiguous layered grammar, at `cpu` scale a part of
cfg3f whose sentences are as long on average. The same models learn both: two small transformers, and as a control one
that sees a single token. They go on with test sentences, and their next-token distribution is compared with the exact
one at every prefix; what the control achieves is what pairs of tokens give away.

Claim CFG-20. Source: Physics of Language Models 1, appendix G; the treebank itself is licensed and not part of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._biographies import ModelShape
from experiments._grammars import SMALL_RECIPE, GrammarShape, complete, fit, make_world
from experiments._predictions import divergence, log_probabilities
from physlm.data.contract import IntArray
from physlm.lab import Claim, Condition, Experiment, Measurement, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.lab.results import pack_items
from physlm.models.positions import Uniform
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.recipe import Recipe
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.sampling import layers_of
from physlm.worlds.cfg.world import CFGWorld

PAIRS = "pairs"
"""The control: attention to the token itself and nothing else, so that only pairs of tokens can be learnt."""


@dataclass(frozen=True, kw_only=True)
class TreebankPreset:
    """One scale of the experiment.

    Attributes:
        english: the treebank-like grammar.
        layered: the one it is compared with.
        models: shapes by name, from small to large; the names are those of the papers, layers-heads-head width.
        batch_size: windows per step.
        recipe: how every model is trained.
        sentences: test sentences, of those longer than every cut that fit into the context.
        curve_sentences: how many of them make the learning curves.
        cuts: lengths of the prefixes that are completed; 0 is a sentence of the model's own.
        log_points: points of the learning curves.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    english: GrammarShape
    layered: GrammarShape
    models: tuple[ModelShape, ...]
    batch_size: int
    recipe: Recipe
    sentences: int
    curve_sentences: int
    cuts: tuple[int, ...]
    log_points: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.models or len({name_of(shape) for shape in self.models}) < len(self.models):
            raise ValueError(f"models must be shapes of different names, got {[name_of(s) for s in self.models]}")
        if not 0 < self.curve_sentences <= self.sentences:
            raise ValueError(f"curve_sentences must be in 1..sentences = {self.sentences}, got {self.curve_sentences}")
        if not self.cuts or min(self.cuts) < 0:
            raise ValueError(f"cuts must be numbers of tokens ≥ 0, got {self.cuts}")

    def world(self, label: str, seed: int) -> CFGWorld:
        """The world of a grammar."""
        shape = next(shape for shape in (self.english, self.layered) if shape.label == label)
        return make_world(CFGConfig(seed=seed, grammar=shape.grammar, root=shape.root))

    def config(self, vocab_size: int, name: str) -> TransformerConfig:
        """A model by name."""
        if name == PAIRS:
            config = self.models[-1].config(vocab_size)
            return replace(config, position=Uniform(windows=(0,) * config.heads))
        return next(shape for shape in self.models if name_of(shape) == name).config(vocab_size)


def name_of(shape: ModelShape) -> str:
    """Layers-heads-head width, as the papers name their models."""
    return f"{shape.layers}-{shape.heads}-{shape.width // shape.heads}"


_ENGLISH = GrammarShape(label="english", grammar="english")
_GPU = TreebankPreset(
    english=_ENGLISH,
    layered=GrammarShape(label="layered", grammar="cfg3f"),
    models=(
        ModelShape(layers=2, heads=4, width=64, context=512, rotary_fraction=1.0),
        ModelShape(layers=6, heads=4, width=128, context=512, rotary_fraction=1.0),
    ),
    batch_size=96,
    recipe=Recipe(steps=10_000, learning_rate=1e-3, warmup_steps=500),
    sentences=1000,
    curve_sentences=50,
    cuts=(0, 10),
)
PRESETS: dict[Scale, TreebankPreset] = {
    "smoke": TreebankPreset(
        english=_ENGLISH,
        layered=GrammarShape(label="layered", grammar="cfg3f", root="10"),
        models=(
            ModelShape(layers=1, heads=1, width=8, context=64, rotary_fraction=1.0),
            ModelShape(layers=1, heads=2, width=16, context=64, rotary_fraction=1.0),
        ),
        batch_size=4,
        recipe=Recipe(steps=20, learning_rate=3e-3),
        sentences=6,
        curve_sentences=4,
        cuts=(0, 3),
        log_points=2,
    ),
    "cpu": TreebankPreset(
        english=_ENGLISH,
        layered=GrammarShape(label="layered", grammar="cfg3f", root="15"),
        models=(
            ModelShape(layers=2, heads=4, width=32, context=128, rotary_fraction=1.0),
            ModelShape(layers=2, heads=4, width=64, context=128, rotary_fraction=1.0),
        ),
        batch_size=16,
        recipe=SMALL_RECIPE,
        sentences=400,
        curve_sentences=50,
        cuts=(0, 5),
    ),
    "gpu": _GPU,
    "paper": replace(
        _GPU,
        recipe=Recipe(steps=100_000, learning_rate=3e-4, schedule="linear", final_fraction=0.0),
        sentences=10_000,
    ),
}


def conditions(preset: TreebankPreset) -> list[Condition]:
    """Every model and the control on both grammars."""
    names = [*map(name_of, preset.models), PAIRS]
    return [
        Condition(f"{shape.label}/{name}", {"grammar": shape.label, "model": name})
        for shape in (preset.english, preset.layered)
        for name in names
    ]


def run(preset: TreebankPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model on sentences, let it complete others, and compare its distribution with the exact one."""
    world = preset.world(str(condition.options["grammar"]), seed)
    sentences = fitting_sentences(world, preset)
    truth = exact_distributions(world, sentences)

    def curve(model: Transformer) -> dict[str, Any]:
        some = slice(preset.curve_sentences)
        return {"divergence": float(divergences(model, world, sentences[some], truth[some]).mean())}

    model, records, _ = fit(
        workspace,
        world,
        preset.config(world.vocab_size, str(condition.options["model"])),
        seed,
        curve,
        batch_size=preset.batch_size,
        recipe=preset.recipe,
        log_points=preset.log_points,
        threads=preset.threads,
    )
    accuracy = {}
    for cut in preset.cuts:
        right = completions(model, world, sentences, cut, Key.of("completions", seed, cut))
        accuracy[f"cut_{cut}"] = {"mean": float(right.mean()), "items": pack_items(right)}
    return {
        "parameters": parameter_count(model.config),
        "curve": records,
        "accuracy": accuracy,
        "divergence": float(divergences(model, world, sentences, truth).mean()),
        "mean_length": float(np.mean([len(sentence) for sentence in sentences])),
        "entropy": float(np.mean([entropy(rows) for rows in truth])),
    }


def fitting_sentences(world: CFGWorld, preset: TreebankPreset) -> list[IntArray]:
    """The first test sentences that are longer than every cut and fit into the context with BOS and EOS.

    Raises:
        ValueError: if too few of the test sentences do.
    """
    fitting: list[IntArray] = []
    for start in range(0, world.size("test"), preset.sentences):
        numbers = np.arange(start, min(start + preset.sentences, world.size("test")))
        found = world.sentences("test", numbers)
        fitting += [one for one in found if max(preset.cuts) < len(one) <= preset.models[0].context - 2]
        if len(fitting) >= preset.sentences:
            return fitting[: preset.sentences]
    raise ValueError(
        f"sentences must be at most {len(fitting)}, as many test sentences of {world.grammar.name} as are longer than "
        f"{max(preset.cuts)} tokens and fit into the context, got {preset.sentences}"
    )


def exact_distributions(world: CFGWorld, sentences: list[IntArray]) -> list[NDArray[np.float64]]:
    """The exact distribution of the next token after every prefix of each sentence."""
    parser = GeneralParser(world.grammar) if layers_of(world.grammar) is None else Parser(world.grammar)
    return [parser.chart(sentence).next_token for sentence in sentences]


def divergences(
    model: Transformer, world: CFGWorld, sentences: list[IntArray], truth: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """KL from the exact next-token distribution to the model's, mean over the prefixes of each sentence, in nats."""
    texts = [np.append(world.bos, sentence) for sentence in sentences]
    predicted = log_probabilities(model, texts, np.arange(1, world.eos + 1))
    return np.array([divergence(rows, log_rows).mean() for rows, log_rows in zip(truth, predicted, strict=True)])


def completions(
    model: Transformer, world: CFGWorld, sentences: list[IntArray], cut: int, key: Key
) -> NDArray[np.bool_]:
    """Whether each sentence, gone on with after its first `cut` tokens at temperature 1, is a sentence again."""
    starts = [np.append(world.bos, sentence[:cut]) for sentence in sentences]
    ends = [end for end, _ in complete(model, world, [start[1:] for start in starts], key)]
    pairs = zip(starts, ends, strict=True)
    return np.array([end is not None and bool(world.check(None, np.append(start, end))) for start, end in pairs])


def entropy(distributions: NDArray[np.float64]) -> float:
    """Mean entropy of the rows, in nats."""
    possible = distributions > 0
    logs = np.log(distributions, where=possible, out=np.zeros_like(distributions))
    return float(-(distributions * logs).sum(axis=-1).mean())


def fingerprint(preset: TreebankPreset, seed: int) -> str:
    """A hash of the sentences of both grammars."""
    return "-".join(preset.world(shape.label, seed).fingerprint()[:12] for shape in (preset.english, preset.layered))


Runs = Mapping[str, RunMetrics]


def easier(model: str, cut: int) -> Callable[[Runs], float]:
    """Completion accuracy on the treebank-like grammar minus that on the layered one."""
    path = f"accuracy.cut_{cut}.mean"
    return lambda runs: runs[f"english/{model}"].number(path) - runs[f"layered/{model}"].number(path)


def accuracy(condition: str, cut: int) -> Callable[[Runs], Measurement]:
    """Completion accuracy from a cut."""
    return lambda runs: Measurement.of_items(runs[condition].outcomes(f"accuracy.cut_{cut}.items"))


def claims(_scale: Scale, preset: TreebankPreset) -> list[Claim]:
    """The claim; its thresholds were fixed before the committed seeds were run (see `docs/claims/grammars.md`)."""
    cut = preset.cuts[-1]
    names = [name_of(shape) for shape in preset.models]
    return [
        Claim(
            id="CFG-20",
            statement="Small models learn a treebank-like grammar, and not an ambiguous layered one.",
            source="1, App. G",
            conditions=tuple(condition.name for condition in conditions(preset)),
            measure=accuracy(f"english/{names[-1]}", cut),
            measure_name=f"{names[-1]} on the treebank-like grammar: completions from cut {cut} in the language",
            relation="≥",
            threshold=0.75,
            scale="proportion",
            unit="%",
            control="the same models on the layered grammar, and a model that sees one token",
            parts=(
                *(
                    Predicate(
                        name=f"{name}, completions from cut {cut}: treebank-like minus layered",
                        measure=easier(name, cut),
                        relation="≥",
                        threshold=0.30,
                    )
                    for name in names
                ),
                Predicate(
                    name=f"treebank-like grammar, completions from cut {cut}: {names[-1]} minus one token seen",
                    measure=lambda runs: Measurement.of_difference(
                        runs[f"english/{names[-1]}"].outcomes(f"accuracy.cut_{cut}.items"),
                        runs[f"english/{PAIRS}"].outcomes(f"accuracy.cut_{cut}.items"),
                    ),
                    relation="≥",
                    threshold=0.20,
                ),
                Predicate(
                    name=f"{names[-1]}: divergence from the exact distribution, layered minus treebank-like",
                    measure=lambda runs: (
                        runs[f"layered/{names[-1]}"].number("divergence")
                        - runs[f"english/{names[-1]}"].number("divergence")
                    ),
                    relation="≥",
                    threshold=0.03,
                    scale="number",
                    unit="nats",
                ),
            ),
        )
    ]


def plots(results: Results, folder: Path) -> list[Path]:
    """Completions by grammar and model, and how divergence falls."""
    seeds = f"{len(results.seeds)} seed(s)"
    labels = {"english": "treebank-like", "layered": "layered"}
    models = list(dict.fromkeys(name.partition("/")[2] for name in results.conditions))
    cut = max(int(one.removeprefix("cut_")) for one in next(iter(results.runs.values())).at("accuracy"))

    def values(path: str) -> dict[str, dict[str, list[float]]]:
        return {
            label: {
                _described(results, model): results.values(f"{grammar}/{model}", path)
                for model in models
                if f"{grammar}/{model}" in results.conditions
            }
            for grammar, label in labels.items()
        }

    drawn = [
        bar_with_intervals(
            folder / "accuracy.png",
            values(f"accuracy.cut_{cut}.mean"),
            title="Completions in the language, by grammar and model",
            subtitle=f"Test sentences cut after {cut} tokens, temperature 1; {seeds}, 95 % intervals",
            xlabel="Completions that are sentences of the grammar",
        ),
        bar_with_intervals(
            folder / "divergence.png",
            values("divergence"),
            title="How far the next-token distribution is from the exact one",
            subtitle=f"Test sentences; {seeds}, 95 % intervals",
            xlabel="Divergence, nats per token",
            percent=False,
        ),
    ]
    steps = [point["step"] for point in results.runs[results.conditions[0], results.seeds[0]].at("curve")]
    curves = {
        f"{labels[grammar]}, {_described(results, model)}": [
            [point["divergence"] for point in results.runs[name, seed].at("curve")] for seed in results.seeds
        ]
        for name in results.conditions
        for grammar, _, model in (name.partition("/"),)
    }
    drawn.append(
        curves_with_bands(
            folder / "learning.png",
            steps,
            curves,
            title="How the next-token distribution nears the exact one",
            subtitle=f"Test sentences; {seeds}, 95 % bands",
            xlabel="Training steps",
            ylabel="Divergence, nats per token",
            percent=False,
        )
    )
    return drawn


def _described(results: Results, model: str) -> str:
    """A model's name with its size."""
    if model == PAIRS:
        return "one token seen"
    run = next(run for (name, _), run in results.runs.items() if name.endswith(f"/{model}"))
    return f"{model} ({run.number('parameters') / 1000:.0f}k)"


def cost(preset: TreebankPreset) -> str:
    """What a preset costs."""
    tokens = preset.recipe.steps * preset.batch_size * preset.models[0].context
    return f"{len(conditions(preset))} models a seed, each reads {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="cfg_treebank",
    title="Is a grammar read off a treebank easy to learn?",
    source="Physics of Language Models 1 (Learning Hierarchical Language Structures), appendix G",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds={"smoke": (171,), "cpu": (171, 172, 173, 174, 175), "gpu": (171, 172), "paper": (171, 172)},
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
