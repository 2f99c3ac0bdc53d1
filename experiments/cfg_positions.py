"""Which positional encoding learns a grammar?

One small model per encoding reads the same fresh sentences in the same order. Then it goes on with test sentences, its
next-token distribution is compared with the exact one at every prefix, and its own sentences are counted. A second
grammar, easy, has the control: there, absolute positions are no handicap.

Claims CFG-1 to CFG-5 and CFG-19. Source: Physics of Language Models 1, section 3, Fig. 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments._grammars import SMALL_RECIPE, GrammarPreset, GrammarShape, fingerprint, learn, measure
from physlm.lab import Claim, Condition, Experiment, Measurement, Requirement, Results, RunMetrics, Workspace
from physlm.lab.claims import Predicate, number_of
from physlm.lab.cli import main
from physlm.lab.experiment import Scale
from physlm.lab.plots import bar_with_intervals, curves_with_bands
from physlm.models.positions import (
    Deberta,
    Learned,
    NoPosition,
    PositionConfig,
    PositionOnly,
    Rotary,
    Uniform,
)
from physlm.models.transformer import parameter_count
from physlm.training.recipe import Recipe

ENCODINGS: dict[str, PositionConfig] = {
    "absolute": Learned(),
    "relative": Deberta(distances=128),
    "rotary": Rotary(fraction=1.0),
    # Without the gain its scores are still growing at the end of a small budget, which says nothing about positions.
    "position_only": PositionOnly(gain=10.0),
    "uniform": Uniform(),
    "none": NoPosition(),
}
"""GPT, GPT_rel, GPT_rot, GPT_pos and GPT_uni of the paper, and no positions at all."""
ON_EASY = ("absolute", "rotary")
ON_OTHERS = ("rotary",)
BROKEN_WINDOWS = "uniform_one_token"

WHOLE_GRAMMARS = (
    GrammarShape(label="easy", grammar="cfg3b"),
    GrammarShape(label="hard", grammar="cfg3f"),
    GrammarShape(label="many-symbols", grammar="cfg3e2"),
    GrammarShape(label="ambiguous", grammar="cfg3g"),
)

PRESETS: dict[Scale, GrammarPreset] = {
    "smoke": GrammarPreset(
        grammars=(
            GrammarShape(label="easy", grammar="cfg3b", root="10"),
            GrammarShape(label="hard", grammar="cfg3b", root="13"),
        ),
        layers=1,
        heads=2,
        width=16,
        context=48,
        batch_size=4,
        recipe=Recipe(steps=20, learning_rate=3e-3),
        sentences=8,
        curve_sentences=4,
        cuts=(0, 3),
        log_points=2,
    ),
    "cpu": GrammarPreset(
        grammars=(
            GrammarShape(label="easy", grammar="cfg3b", root="13"),
            GrammarShape(label="hard", grammar="cfg3b", root="16"),
            # Alike in depth, length (41 and 40 tokens) and entropy (42 and 43 bits a sentence).
            GrammarShape(label="many-symbols", grammar="cfg3e2", root="71"),
            GrammarShape(label="ambiguous", grammar="cfg3f", root="16"),
        ),
        layers=4,
        heads=4,
        width=64,
        context=128,
        batch_size=16,
        recipe=SMALL_RECIPE,
        sentences=500,
        curve_sentences=100,
        cuts=(0, 10),
    ),
    "gpu": GrammarPreset(
        grammars=WHOLE_GRAMMARS,
        layers=8,
        heads=8,
        width=512,
        context=512,
        batch_size=96,
        recipe=Recipe(steps=10_000, learning_rate=3e-4, warmup_steps=500),
        sentences=2000,
        curve_sentences=200,
        cuts=(0, 50),
    ),
    "paper": GrammarPreset(
        grammars=WHOLE_GRAMMARS,
        layers=12,
        heads=12,
        width=768,
        context=512,
        batch_size=96,
        recipe=Recipe(steps=100_000, learning_rate=3e-4, warmup_steps=1000),
        sentences=20_000,
        curve_sentences=500,
        cuts=(0, 50),
    ),
}


def conditions(preset: GrammarPreset) -> list[Condition]:
    """Every encoding on the hard grammar, two on the easy one, rotary on all others; and a broken control."""
    labels = [shape.label for shape in preset.grammars]
    pairs = [("hard", encoding) for encoding in (*ENCODINGS, BROKEN_WINDOWS)]
    pairs += [("easy", encoding) for encoding in ON_EASY]
    pairs += [(label, encoding) for label in labels if label not in ("easy", "hard") for encoding in ON_OTHERS]
    return [Condition(f"{label}/{encoding}", {"grammar": label, "encoding": encoding}) for label, encoding in pairs]


def run(preset: GrammarPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train on sentences, then measure."""
    encoding = str(condition.options["encoding"])
    position = Uniform(windows=(0,) * preset.heads) if encoding == BROKEN_WINDOWS else ENCODINGS[encoding]
    world = preset.world(str(condition.options["grammar"]), seed)
    config = preset.config(world.vocab_size, position)
    model, records, seconds = learn(workspace, preset, world, config, seed)
    metrics = measure(model, preset, world, seed)
    return {
        "parameters": parameter_count(config),
        "cpu_seconds_per_step": seconds,
        "curve": [{name: record[name] for name in ("step", "loss", "divergence", "accuracy")} for record in records],
        **metrics,
    }


Runs = Mapping[str, RunMetrics]


def accuracy(condition: str, cut: int) -> Callable[[Runs], Measurement]:
    """Completion accuracy from a cut."""
    return lambda runs: Measurement.of_items(runs[condition].outcomes(f"accuracy.cut_{cut}.items"))


def gap(better: str, worse: str, cut: int) -> Callable[[Runs], Measurement]:
    """Difference of completion accuracies, paired by test sentence."""
    return lambda runs: Measurement.of_difference(
        runs[better].outcomes(f"accuracy.cut_{cut}.items"), runs[worse].outcomes(f"accuracy.cut_{cut}.items")
    )


def learned(*names: str, threshold: float, cut: int) -> Requirement:
    """The better model has learnt the grammar, without which a comparison says little."""
    return Requirement(
        name=f"completion accuracy from cut {cut} of {' and '.join(names)}",
        measure=lambda runs: min(float(runs[name].number(f"accuracy.cut_{cut}.mean")) for name in names),
        relation="≥",
        threshold=threshold,
    )


def claims(scale: Scale, preset: GrammarPreset) -> list[Claim]:
    """The claims, with thresholds fixed before the committed seeds were run (see `docs/claims/grammars.md`)."""
    demanding = scale in ("gpu", "paper")
    cut = preset.cuts[-1]
    good, wide = (0.95, 0.20) if demanding else (0.70, 0.30)
    rotary, relative, absolute = "hard/rotary", "hard/relative", "hard/absolute"
    only, uniform, broken = "hard/position_only", "hard/uniform", f"hard/{BROKEN_WINDOWS}"
    chosen = [
        Claim(
            id="CFG-1",
            statement="Relative and rotary models learn the grammar.",
            source="1, Fig. 4 left",
            conditions=(rotary, relative, broken),
            measure=accuracy(rotary, cut),
            measure_name=f"rotary: completions from cut {cut} in the language",
            relation="≥",
            threshold=good,
            scale="proportion",
            unit="%",
            control="a model that sees one token back only",
            parts=(
                Predicate(
                    name=f"relative: completions from cut {cut} in the language",
                    measure=accuracy(relative, cut),
                    relation="≥",
                    threshold=good,
                    scale="proportion",
                    unit="%",
                ),
                Predicate(
                    name="one token back only: own sentences in the language",
                    measure=accuracy(broken, 0),
                    relation="≤",
                    threshold=0.05,
                    scale="proportion",
                    unit="%",
                ),
            ),
        ),
        Claim(
            id="CFG-2",
            statement="Absolute positions are inferior, and only where the grammar is hard.",
            source="1, Fig. 4",
            conditions=(rotary, absolute, "easy/rotary", "easy/absolute"),
            measure=gap(rotary, absolute, cut),
            measure_name=f"hard grammar, completions from cut {cut}: rotary minus absolute",
            relation="≥",
            threshold=wide,
            control="the easy grammar",
            requires=(learned("easy/rotary", threshold=0.9, cut=0),),
            parts=(
                Predicate(
                    name="easy grammar, own sentences: rotary minus absolute",
                    measure=gap("easy/rotary", "easy/absolute", 0),
                    relation="≤",
                    threshold=0.10,
                ),
            ),
        ),
        Claim(
            id="CFG-3",
            statement="Attention by position alone, even uniform windows, beats absolute positions and comes close.",
            source="1, Fig. 4",
            conditions=(rotary, absolute, only, uniform, broken),
            measure=gap(uniform, absolute, cut),
            measure_name=f"completions from cut {cut}: uniform windows minus absolute",
            relation="≥",
            threshold=wide / 2,
            control="windows of one token",
            parts=(
                Predicate(
                    name=f"completions from cut {cut}: position-only minus absolute",
                    measure=gap(only, absolute, cut),
                    relation="≥",
                    threshold=wide / 2,
                ),
                Predicate(
                    name=f"completions from cut {cut}: rotary minus uniform windows",
                    measure=gap(rotary, uniform, cut),
                    relation="≤",
                    threshold=0.25,
                ),
            ),
        ),
        Claim(
            id="CFG-4",
            statement="What a model writes is as diverse as the language.",
            source="1, Fig. 4 middle",
            conditions=(rotary, relative),
            measure=lambda runs: runs[rotary].number("entropy_bits") / runs[rotary].number("true_entropy_bits"),
            measure_name="rotary: entropy of its own sentences, as a share of the language's",
            relation="between",
            threshold=(0.95, 1.10),
            scale="number",
            unit="",
            control="the language's own entropy and repetitions",
            parts=(
                Predicate(
                    name="rotary: repeated sentences minus those of the language",
                    measure=lambda runs: runs[rotary].number("repeated") - runs[rotary].number("true_repeated"),
                    relation="≤",
                    threshold=0.01,
                    scale="number",
                ),
            ),
        ),
        Claim(
            id="CFG-5",
            statement="The model has the exact next-token distribution, not only valid sentences.",
            source="1, Fig. 4 right",
            conditions=(rotary, relative),
            measure=number_of(rotary, "divergence"),
            measure_name="rotary: divergence from the exact distribution, nats per token",
            relation="≤",
            threshold=0.005 if demanding else 0.03,
            scale="number",
            unit="nats",
            control="n-gram models on the same grammar",
            parts=(
                Predicate(
                    name="rotary: divergence as a share of the best n-gram's",
                    measure=lambda runs: (
                        runs[rotary].number("divergence")
                        / min(runs[rotary].number(f"n_gram_divergence.{order}") for order in (1, 3, 5))
                    ),
                    relation="≤",
                    threshold=0.25,
                    scale="number",
                    unit="",
                ),
            ),
        ),
    ]
    if len(preset.grammars) > 3:
        easier, harder = "many-symbols/rotary", "ambiguous/rotary"
        chosen.append(
            Claim(
                id="CFG-19",
                statement="More symbols in a level make a grammar easier, ambiguity makes it harder.",
                source="1, Fig. 4",
                conditions=(easier, harder),
                measure=lambda runs: (
                    (runs[harder].number("divergence") - runs[easier].number("divergence"))
                    / runs[harder].number("divergence")
                ),
                measure_name="divergence of rotary: ambiguous grammar minus many symbols, as a share of the former",
                relation="≥",
                threshold=0.0,
                scale="number",
                unit="%",
                control="a grammar of the same depth, length and entropy",
            )
        )
    return chosen


def plots(results: Results, folder: Path) -> list[Path]:
    """Accuracy by encoding, and how divergence falls."""
    drawn = []
    cuts = sorted(int(name.removeprefix("cut_")) for name in next(iter(results.runs.values())).at("accuracy"))
    hard = [name for name in results.conditions if name.startswith("hard/")]
    if hard:
        series = {
            f"cut {cut}": {
                name.removeprefix("hard/").replace("_", " "): results.values(name, f"accuracy.cut_{cut}.mean")
                for name in hard
            }
            for cut in cuts
        }
        drawn.append(
            bar_with_intervals(
                folder / "accuracy.png",
                series,
                title="Completions in the language, by positional encoding",
                subtitle=f"The hard grammar; {len(results.seeds)} seed(s), 95 % intervals",
                xlabel="Completions that are sentences of the grammar",
            )
        )
        steps = [point["step"] for point in results.runs[hard[0], results.seeds[0]].at("curve")]
        curves = {
            name.removeprefix("hard/").replace("_", " "): [
                [point["divergence"] for point in results.runs[name, seed].at("curve")] for seed in results.seeds
            ]
            for name in hard
        }
        drawn.append(
            curves_with_bands(
                folder / "divergence.png",
                steps,
                curves,
                title="How far the next-token distribution is from the exact one",
                subtitle=f"The hard grammar; {len(results.seeds)} seed(s), 95 % bands",
                xlabel="Training steps",
                ylabel="Divergence, nats per token",
                percent=False,
            )
        )
    return drawn


DEVELOPMENT_SEEDS = frozenset(range(1, 21))
SEEDS: dict[Scale, tuple[int, ...]] = {
    "smoke": (121,),
    "cpu": (121, 122, 123, 124, 125),
    "gpu": (121, 122),
    "paper": (121, 122),
}
DECISIVE_SEEDS = {"CFG-2": tuple(range(201, 221))}
"""So many because CFG-2 scatters by 8.6 points on ten seeds, 121 to 130; see `docs/claims/grammars.md`."""


def cost(preset: GrammarPreset) -> str:
    """What a preset costs."""
    tokens = preset.recipe.steps * preset.batch_size * preset.context
    return f"{len(conditions(preset))} models a seed, each {tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="cfg_positions",
    title="Which positional encoding learns a grammar?",
    source="Physics of Language Models 1 (Learning Hierarchical Language Structures), section 3",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    plots=plots,
    seeds=SEEDS,
    development_seeds=DEVELOPMENT_SEEDS,
    decisive_seeds=DECISIVE_SEEDS,
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
