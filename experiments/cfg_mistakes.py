"""Do mistakes that are taken back make a model write better sentences of a grammar?

Models of one kind read sentences of the same grammar, at equal tokens: clean ones, and ones where now and then a token
is written that no sentence has there, and taken back with <back>. All then write sentences of their own and go on with
beginnings of test sentences, where what they take back does not count.

What might explain an effect, or do as well, is tried too: the same wrong tokens without <back>; attempts that are read
and not learned; attempts that only come after training on clean text.

The law of learning from mistakes is that of Physics of Language Models 2.2, for grade-school math; for grammars nothing
is published. Claims MIS-CFG-1 to MIS-CFG-5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments._grammar_attempts import Unmarked, attempted, attempts_in_text, examine, next_token, source, taken_back
from experiments._grammar_attempts_claims import CORE, claims
from experiments._grammar_attempts_presets import PRESETS, GrammarMistakesPreset
from experiments._grammar_measures import Training, mean_divergence
from experiments._grammars import test_sentences
from experiments._mistaken_texts import Text
from experiments._mistakes_presets import Trial
from experiments._noisy_prefixes import CLEAN_PREFIX, COLD, NO_PREFIX, WARM
from experiments._stages import Trained, documents_read, fit_once
from physlm.data.streams import PackedStream
from physlm.lab import Condition, Experiment, Results, RunMetrics, Workspace
from physlm.lab.cli import main
from physlm.lab.plots import bar_with_intervals
from physlm.models.low_rank import add_low_rank
from physlm.models.transformer import Transformer, parameter_count
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.worlds.cfg.world import CFGWorld

STAGE_REVISION = 1


def conditions(preset: GrammarMistakesPreset) -> list[Condition]:
    """Models of all texts, and what becomes of the model of clean text."""
    return [Condition(name, trial.options, stage_key=trial.base) for name, trial in preset.trials.items()]


def stream_of(training: Training, world: CFGWorld, text: Text, seed: int) -> PackedStream:
    """Windows of a text, cut wherever they end."""
    return PackedStream(
        [source(world, text)],
        context=training.context,
        batch_size=training.batch_size,
        key=Key.of("packing", seed),
        overflow="continue",
    )


def learnt(preset: GrammarMistakesPreset, world: CFGWorld, seed: int) -> Callable[[Transformer], dict[str, float]]:
    """What the learning curves show: own sentences, and how surely wrong tokens are taken back."""

    def curve(model: Transformer) -> dict[str, float]:
        found = RunMetrics(examine(model, world, seed, preset.curve_sentences, preset.cut))
        back = taken_back(model, world, Text(rate=preset.middle_rate), preset.curve_sentences)
        return {"own": found.number(f"{NO_PREFIX}.{WARM:g}.mean"), "taken_back": back["wrong"]}

    return curve


def pretrain(preset: GrammarMistakesPreset, world: CFGWorld, text: Text, seed: int, workspace: Workspace) -> Trained:
    """The model that has read a text from scratch."""
    training = preset.training
    read = source(world, text).world.fingerprint()
    return fit_once(
        workspace,
        "grammar-attempts",
        {
            "revision": STAGE_REVISION,
            "world": read,
            "text": [text.name, asdict(text)],
            "windows": [training.context, training.batch_size],
            "curves": [preset.curve_sentences, preset.cut, preset.middle_rate],
        },
        stream_of(training, world, text, seed),
        training.config(attempted(world, text).vocab_size),
        seed,
        learnt(preset, world, seed),
        recipe=training.recipe,
        log_points=training.log_points,
        threads=training.threads,
        data_fingerprint=read,
    )


def adapt(
    preset: GrammarMistakesPreset, world: CFGWorld, trial: Trial, base: Trained, seed: int, workspace: Workspace
) -> tuple[list[dict[str, Any]], int]:
    """Train a model on the late text of a trial, in place, from the sentence on that it has come to.

    Returns:
        The learning curve, and how many sentences have been read in all.
    """
    assert trial.late is not None
    model, parameters, recipe = base.model, None, preset.continued
    if trial.rank is not None:
        parameters = add_low_rank(model, rank=trial.rank, embedding_rank=2 * trial.rank, seed=seed)
        recipe = preset.low_rank
    stream = stream_of(preset.training, world, trial.late, seed)
    stream.restore({**base.position, "shown": [0]})  # the sentence it was in, from its beginning
    curve = learnt(preset, world, seed)
    learning = train(
        model,
        stream,
        recipe,
        parameters=parameters,
        evaluate=lambda: curve(model),
        log_every=max(1, recipe.steps // preset.training.log_points),
        folder=workspace.scratch / "late",
        progress=workspace.progress,
    )
    return learning, documents_read(stream.state())


def run(preset: GrammarMistakesPreset, condition: Condition, seed: int, workspace: Workspace) -> dict[str, Any]:
    """Train a model on a text, or further on another; then let it write."""
    trial, world = preset.trials[condition.name], preset.world(seed)
    torch.set_num_threads(preset.training.threads)
    base = pretrain(preset, world, trial.text, seed, workspace)
    model, parameters = base.model, parameter_count(base.model.config)
    curve, sentences_read = base.curve, base.documents
    if trial.late is not None:
        curve, sentences_read = adapt(preset, world, trial, base, seed, workspace)
    read, count = trial.late or trial.text, preset.sentences
    metrics: dict[str, Any] = {
        "parameters": parameters,
        "cpu_seconds_per_step": base.cpu_seconds_per_step,
        "sentences": sentences_read,
        "curve": curve,
        "accuracy": examine(model, world, seed, count, preset.cut),
        "attempts_in_text": {
            NO_PREFIX: attempts_in_text(world, read, count, 0),
            CLEAN_PREFIX: attempts_in_text(world, read, count, preset.cut),
        },
        # In the text of the middle rate, whatever was read.
        "taken_back": taken_back(model, world, Text(rate=preset.middle_rate), count),
    }
    if not isinstance(read, Unmarked):  # there the beginning of a sentence may hold wrong tokens already
        sentences = test_sentences(world, count)
        metrics["divergence"] = mean_divergence(model, world, sentences, next_token(world, read))
    return metrics


def plots(results: Results, folder: Path) -> list[Path]:
    """What is in the language, and how often something is taken back."""
    names = results.conditions
    if not names:
        return []
    cells = {
        "own sentences": f"{NO_PREFIX}.{WARM:g}",
        "completions": f"{CLEAN_PREFIX}.{WARM:g}",
        f"completions, temperature {COLD}": f"{CLEAN_PREFIX}.{COLD:g}",
    }

    def series(what: str) -> dict[str, dict[str, list[float]]]:
        return {
            label: {name: results.values(name, f"accuracy.{cell}.{what}") for name in names}
            for label, cell in cells.items()
        }

    seeds = f"{len(results.seeds)} seed(s), 95 % intervals"
    in_text = {name: results.values(name, f"attempts_in_text.{NO_PREFIX}") for name in names}
    return [
        bar_with_intervals(
            folder / "accuracy.png",
            series("mean"),
            title="Sentences of the grammar, by the attempts in the training text",
            subtitle=f"What was taken back does not count; {seeds}",
            xlabel="In the language",
        ),
        bar_with_intervals(
            folder / "attempts.png",
            {**series("attempts"), "training text": in_text},
            title="How often something is taken back",
            subtitle=f"By the attempts in the training text; {seeds}",
            xlabel="Attempts for each token that is kept",
            percent=False,
        ),
    ]


def fingerprint(preset: GrammarMistakesPreset, seed: int) -> str:
    """A hash of the sentences, and of every text of them."""
    world = preset.world(seed)
    texts = {text.name: text for trial in preset.trials.values() for text in (trial.text, trial.late or trial.text)}
    return "-".join(attempted(world, text).fingerprint()[:12] for text in texts.values())


def cost(preset: GrammarMistakesPreset) -> str:
    """What a preset costs."""
    return f"{len(preset.trials)} models a seed, each reads {preset.training.tokens / 1e6:.1f}M tokens"


EXPERIMENT = Experiment(
    name="cfg_mistakes",
    title="Do mistakes that are taken back make a model write better sentences of a grammar?",
    source="New; the law is that of Physics of Language Models 2.2 (How to Learn From Mistakes)",
    revision=1,
    presets=PRESETS,
    conditions=conditions,
    run=run,
    claims=claims,
    core=CORE,
    plots=plots,
    seeds={"smoke": (231,), "cpu": (231, 232, 233, 234, 235), "gpu": (231, 232), "paper": (231, 232)},
    development_seeds=frozenset(range(1, 21)),
    data_fingerprint=fingerprint,
    estimate=cost,
)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT))
