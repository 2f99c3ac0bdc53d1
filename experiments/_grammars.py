"""What the grammar experiments share: presets, training on sentences, and measures of what was learnt.

- Training reads `BOS sentence EOS BOS sentence …`, cut into windows wherever they end, always fresh sentences (part 1,
  §2). Evaluation presents a sentence alone.
- *Completion accuracy* from a cut: the model goes on after the first tokens of a test sentence, drawing at temperature
  1, and the whole must be a sentence of the grammar. Not ending within the context is a failure.
- *Divergence*: KL from the exact next-token distribution to the model's, at every prefix of test sentences, in nats.
- *Diversity*: entropy of the model's own sentences, and how many of them are alike.

Source: Physics of Language Models, part 1, §3 and App. A, B; definitions in its Fig. 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import _fitting
from experiments._predictions import divergence, log_probabilities
from physlm.data.contract import IntArray
from physlm.data.streams import PackedStream, Source
from physlm.lab import Workspace
from physlm.lab.results import pack_items
from physlm.models.generation import Continuation, generate
from physlm.models.positions import PositionConfig
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.training.objectives import Objective, next_token_loss
from physlm.training.recipe import MuonRecipe, Recipe
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

BITS = 1 / np.log(2)

SMALL_RECIPE = MuonRecipe(steps=1000, learning_rate=3e-3, matrix_learning_rate=0.02, warmup_steps=50)
"""Of all small models on a CPU: Muon learns a grammar in a third of the steps of AdamW (docs/lab-notes.md)."""


@dataclass(frozen=True, kw_only=True)
class GrammarShape:
    """A grammar by name, perhaps from a nonterminal of it on; `label` names it in conditions and plots."""

    label: str
    grammar: str
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class GrammarPreset:
    """One scale of the grammar experiments.

    Attributes:
        grammars: of growing difficulty; the first is the easy one, the second the one most claims are about.
        layers, heads, width, context: of every model.
        initial_std: spread of the initial weights.
        batch_size: windows per step.
        recipe: how every model is trained.
        sentences: test sentences for accuracies, divergence and diversity.
        curve_sentences: test sentences at every point of the learning curve.
        cuts: lengths of the prefixes that are completed; 0 is a sentence of the model's own.
        log_points: points of the learning curves.
        threads: CPU threads, part of the preset because the last bits of a result depend on them.
    """

    grammars: tuple[GrammarShape, ...]
    layers: int
    heads: int
    width: int
    context: int
    batch_size: int
    recipe: Recipe
    sentences: int
    curve_sentences: int
    cuts: tuple[int, ...]
    initial_std: float = 0.02
    log_points: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        if len(self.grammars) < 2:
            raise ValueError(f"grammars must be an easy and a hard one at least, got {self.grammars}")
        if self.cuts[:1] != (0,):
            raise ValueError(f"cuts must begin with 0, the model's own sentences, got {self.cuts}")

    def world(self, label: str, seed: int) -> CFGWorld:
        """The world of a grammar."""
        shape = next(shape for shape in self.grammars if shape.label == label)
        return make_world(CFGConfig(seed=seed, grammar=shape.grammar, root=shape.root, test_sentences=self.sentences))

    def config(self, vocab_size: int, position: PositionConfig, *, causal: bool = True) -> TransformerConfig:
        """The model for a vocabulary."""
        return TransformerConfig(
            vocab_size=vocab_size,
            context=self.context,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            initial_std=self.initial_std,
            # That of GPT-NeoX, the paper's rotary model; on a CPU it takes half the time of GPT-2's approximation.
            activation="gelu_exact",
            position=position,
            causal=causal,
        )


@lru_cache(maxsize=8)
def make_world(config: CFGConfig) -> CFGWorld:
    """The world of a config."""
    return CFGWorld(config)


def fit(
    workspace: Workspace,
    world: CFGWorld,
    config: TransformerConfig,
    seed: int,
    evaluate: Callable[[Transformer], Mapping[str, Any]],
    *,
    batch_size: int,
    recipe: Recipe,
    log_points: int,
    threads: int,
    objective: Objective = next_token_loss,
) -> tuple[Transformer, list[dict[str, Any]], float]:
    """Train a model on fresh sentences of a world; what it returns is told at `_fitting.fit`."""
    stream = PackedStream(
        [Source(world, "train")],
        context=config.context,
        batch_size=batch_size,
        key=Key.of("packing", seed),
        overflow="continue",
    )
    return _fitting.fit(
        workspace,
        stream,
        config,
        seed,
        evaluate,
        recipe=recipe,
        log_points=log_points,
        threads=threads,
        objective=objective,
    )


def learn(
    workspace: Workspace, preset: GrammarPreset, world: CFGWorld, config: TransformerConfig, seed: int
) -> tuple[Transformer, list[dict[str, Any]], float]:
    """Train a model on sentences of the grammar as they are, with divergence and accuracy as its learning curve."""
    parser, test = Parser(world.grammar), test_sentences(world, preset.curve_sentences)

    def curve(model: Transformer) -> dict[str, Any]:
        right = completion_accuracy(model, world, parser, test, preset.cuts[-1], Key.of("curve", seed))
        return {
            "divergence": float(np.mean(divergences(model, parser, test, world.bos))),
            "accuracy": float(right.mean()),
        }

    return fit(
        workspace,
        world,
        config,
        seed,
        curve,
        batch_size=preset.batch_size,
        recipe=preset.recipe,
        log_points=preset.log_points,
        threads=preset.threads,
    )


def test_sentences(world: CFGWorld, count: int) -> list[IntArray]:
    """The first test sentences, without BOS."""
    return world.sentences("test", np.arange(count))


test_sentences.__test__ = False  # type: ignore[attr-defined]  # it is no test


def completion_accuracy(
    model: Transformer,
    world: CFGWorld,
    parser: Parser,
    sentences: Sequence[IntArray],
    cut: int,
    key: Key,
    *,
    temperature: float = 1.0,
) -> NDArray[np.bool_]:
    """Whether each sentence, gone on with after its first `cut` tokens, is a sentence of the grammar again."""
    made = complete(model, world, [sentence[:cut] for sentence in sentences], key, temperature=temperature)
    whole = [
        None if end is None else np.concatenate([sentence[:cut], end])
        for sentence, (end, _) in zip(sentences, made, strict=True)
    ]
    right = iter(parser.accepts([sentence for sentence in whole if sentence is not None]))
    return np.array([sentence is not None and bool(next(right)) for sentence in whole])


def go_on(
    model: Transformer, world: CFGWorld, prefixes: Sequence[IntArray], key: Key, *, temperature: float = 1.0
) -> list[Continuation]:
    """What the model writes after BOS and each prefix, until it comes to an end or the context is full."""
    return generate(
        model,
        [np.append(world.bos, prefix).astype(np.int64) for prefix in prefixes],
        max_new_tokens=model.config.context - 1 - max(map(len, prefixes)),
        stop=world.eos,
        temperature=temperature,
        key=key,
        details=True,
    )


def complete(
    model: Transformer, world: CFGWorld, prefixes: Sequence[IntArray], key: Key, *, temperature: float = 1.0
) -> list[tuple[IntArray | None, float]]:
    """What the model writes after BOS and each prefix, `None` if it does not end, and its log-probability in nats."""
    written = go_on(model, world, prefixes, key, temperature=temperature)
    return [(one.tokens if one.finished else None, float(one.log_probabilities.sum())) for one in written]


def divergences(
    model: Transformer, parser: Parser, sentences: Sequence[IntArray], bos: int, *, at_once: int = 1024
) -> NDArray[np.float64]:
    """KL from the exact next-token distribution to the model's, mean over the prefixes of each sentence, in nats.

    The model's distribution is taken over terminals and the end of the sentence. Predictions for `at_once` sentences
    are held in memory.
    """
    outcomes = np.arange(1, len(parser.grammar.terminals) + 2)
    result = []
    for start in range(0, len(sentences), at_once):
        part = sentences[start : start + at_once]
        predicted = log_probabilities(model, [np.append(bos, sentence) for sentence in part], outcomes)
        truths = (parser.chart(sentence).next_token for sentence in part)
        result += [divergence(truth, logs).mean() for truth, logs in zip(truths, predicted, strict=True)]
    return np.array(result)


def baseline_divergence(world: CFGWorld, parser: Parser, sentences: Sequence[IntArray], order: int) -> float:
    """The same for an n-gram model of that order, counted on as many sentences as would take a minute to read."""
    outcomes = len(parser.grammar.terminals) + 1
    counts: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for sentence in world.sentences("train", np.arange(min(world.size("train"), 4000))):
        text = [world.bos] * (order - 1) + sentence.tolist() + [world.eos]
        for i in range(order - 1, len(text)):
            counts.setdefault(tuple(text[i - order + 1 : i]), np.ones(outcomes))[text[i] - 1] += 1
    uniform = np.full(outcomes, 1 / outcomes)
    found = []
    for sentence in sentences:
        text = [world.bos] * (order - 1) + sentence.tolist()
        seen = [counts.get(tuple(text[i : i + order - 1]), uniform) for i in range(len(sentence) + 1)]
        predicted = np.log([row / row.sum() for row in seen])
        found.append(divergence(parser.chart(sentence).next_token, predicted).mean())
    return float(np.mean(found))


def diversity(
    model: Transformer, world: CFGWorld, sentences: Sequence[IntArray], parser: Parser, key: Key
) -> dict[str, Any]:
    """Entropy of as many sentences of the model's own as there are test sentences, and repetitions among them."""
    made = complete(model, world, [np.zeros(0, dtype=np.int64)] * len(sentences), key)
    texts = [text.tobytes() for text, _ in made if text is not None]
    true_texts = [np.asarray(sentence, dtype=np.int64).tobytes() for sentence in sentences]
    return {
        "entropy_bits": float(np.mean([-chance * BITS for _, chance in made])),
        "true_entropy_bits": float(np.mean(-parser.log2_probabilities(sentences))),
        "repeated": 1 - len(set(texts)) / max(1, len(texts)),
        "true_repeated": 1 - len(set(true_texts)) / len(true_texts),
    }


def measure(model: Transformer, preset: GrammarPreset, world: CFGWorld, seed: int) -> dict[str, Any]:
    """Everything about a trained model: accuracies by cut, divergence, diversity, and n-grams as a baseline."""
    parser, sentences = Parser(world.grammar), test_sentences(world, preset.sentences)
    found = divergences(model, parser, sentences, world.bos)
    accuracies = {}
    for cut in preset.cuts:
        key = Key.of("completions", seed, cut)
        items = completion_accuracy(model, world, parser, sentences, cut, key)
        accuracies[f"cut_{cut}"] = {"mean": float(items.mean()), "items": pack_items(items)}
    lengths = np.array([len(sentence) + 1 for sentence in sentences])
    return {
        "accuracy": accuracies,
        "divergence": float(found.mean()),
        # p* puts no mass outside the language, so at least this share of the model's own sentences must be right.
        "least_accuracy": float(np.exp(-(found * lengths).mean())),
        "n_gram_divergence": {str(order): baseline_divergence(world, parser, sentences, order) for order in (1, 3, 5)},
        **diversity(model, world, sentences, parser, Key.of("diversity", seed)),
    }


def fingerprint(preset: GrammarPreset, seed: int) -> str:
    """A hash of the sentences of all grammars."""
    return "-".join(preset.world(shape.label, seed).fingerprint()[:12] for shape in preset.grammars)
