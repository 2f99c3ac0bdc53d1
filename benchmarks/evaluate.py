"""Scoring answers: one pass over question and gold answer, beside `generate` of `transformers` token by token.

The headline is what users of the `cpu` preset of `experiments.bio_qa` do: its own world, its questions about the
people whose questions are held out (3,000), its model. A second task has the same people with questions and values
worded in full, as in the paper, so that answers are several tokens long.

Both models have the same weights and learned positions, briefly trained on questions so that some answers are right,
and must agree on every question; this is checked. More training would not change the times: we read every gold answer
to its end, right or wrong, and the peer continues a batch until its longest answer is complete.

The peer gets its best: greedy, fused attention, no gradients, its cache, batches of prompts of equal length, hence
without padding, and of the sizes in `PEER_BATCHES` the one that is fastest in this run. `details` also has the
peer with batches of equal answer length, which it could not know without the gold answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpt2 import NAME, gpt2_like
from benchmarks.harness import Result, Settings, race
from experiments._biographies import BiographyPreset, WorldShape
from experiments._biography_presets import PRESETS
from physlm.data.contract import IntArray
from physlm.data.streams import PackedStream, Source
from physlm.evaluation import answer_matches
from physlm.models.generation import generate
from physlm.models.positions import Learned
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.bios import BiographyWorld
from physlm.worlds.bios.config import DATE_PARTS

PEER_BATCHES = (128, 512, 4096)
TRAINING_STEPS = 300
LEARNING_RATE = 3e-3


def peer_matches(
    model: Any,
    prompts: Sequence[IntArray],
    answers: Sequence[IntArray],
    *,
    stop: int,
    pad: int,
    batch_size: int,
    by_answer_length: bool = False,
) -> NDArray[np.bool_]:
    """Whether greedy `model.generate` gives exactly each answer, then `stop`."""
    by_lengths: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        by_lengths[len(prompt), len(answer) if by_answer_length else 0].append(i)
    matches = np.zeros(len(prompts), dtype=bool)
    for (length, _), group in by_lengths.items():
        for start in range(0, len(group), batch_size):
            rows = group[start : start + batch_size]
            tokens = torch.from_numpy(np.stack([prompts[i] for i in rows]).astype(np.int64))
            longest = max(len(answers[i]) for i in rows)
            with torch.inference_mode():
                made = model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=longest + 1,
                    do_sample=False,
                    eos_token_id=stop,
                    pad_token_id=pad,
                )[:, length:].numpy()
            for i, row in zip(rows, made, strict=True):
                gold = np.append(answers[i], stop)
                matches[i] = np.array_equal(row[: len(gold)], gold)
    return matches


def generated_matches(
    model: Transformer, prompts: Sequence[IntArray], answers: Sequence[IntArray], *, stop: int
) -> NDArray[np.bool_]:
    """The same with our own `generate`."""
    longest = max(len(answer) for answer in answers)
    made = generate(model, prompts, max_new_tokens=longest + 1, stop=stop)
    return np.array([np.array_equal(ours, gold) for ours, gold in zip(made, answers, strict=True)])


def contest(shape: WorldShape, preset: BiographyPreset, settings: Settings) -> dict[str, Any]:
    """Rates and ratios on the questions of one world."""
    world = BiographyWorld(shape.config(0, variant="single"))
    questions = np.arange(60 if settings.quick else world.size("questions_test"))
    asked = len(questions)
    prompts = [np.concatenate([[world.eos], prompt]) for prompt in world.prompts("questions_test", questions)]
    answers = world.answers("questions_test", questions)
    stop, pad = world.eos, world.pad

    config = replace(preset.model.config(world.vocab_size), position=Learned())
    model = Transformer(config, seed=0)
    source = Source(world, "questions_train")
    stream = PackedStream([source], context=config.context, batch_size=preset.batch_size, key=Key.of("benchmark"))
    train(model, stream, Recipe(steps=3 if settings.quick else TRAINING_STEPS, learning_rate=LEARNING_RATE))
    peer = gpt2_like(model, eos=stop, pad=pad).eval()

    def theirs(batch_size: int, *, informed: bool = False) -> NDArray[np.bool_]:
        return peer_matches(
            peer, prompts, answers, stop=stop, pad=pad, batch_size=batch_size, by_answer_length=informed
        )

    peers: dict[str, Callable[[], NDArray[np.bool_]]] = {
        f"peer, batches of {size}": partial(theirs, size) for size in PEER_BATCHES
    }
    contenders = {
        "ours": lambda: answer_matches(model, prompts, answers, stop=stop),
        **peers,
        "informed peer": partial(theirs, max(PEER_BATCHES), informed=True),
        "generate": lambda: generated_matches(model, prompts, answers, stop=stop),
    }
    ours = answer_matches(model, prompts, answers, stop=stop)
    for name, matches in contenders.items():
        if not np.array_equal(ours, outcomes := matches()):
            differing = np.flatnonzero(ours != outcomes).tolist()
            raise RuntimeError(f"answer_matches and {name} must agree on every question, they differ on {differing}")
    result = race(contenders, settings.repetitions)
    best = max(peers, key=lambda name: result.rate(name, asked))
    return {
        "value": result.rate("ours", asked),
        "peer_value": result.rate(best, asked),
        "ratio": result.ratio("ours", best),
        "ratio_spread": result.spread("ours", best),
        "ratio_by_cpu_time": result.ratio("ours", best, "cpu"),
        "best_peer": best,
        "ratio_to_peers": {name: result.ratio("ours", name) for name in peers},
        "questions": asked,
        "mean_prompt_tokens": float(np.mean([len(prompt) for prompt in prompts])),
        "mean_answer_tokens": float(np.mean([len(answer) for answer in answers])),
        "vocab_size": config.vocab_size,
        "right_answers": float(ours.mean()),
        "our_generate": {"value": result.rate("generate", asked), "ratio": result.ratio("generate", best)},
        "peer_knowing_answer_lengths": {
            "value": result.rate("informed peer", asked),
            "ratio": result.ratio("ours", "informed peer"),
        },
    }


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    preset = PRESETS["smoke" if settings.quick else "cpu"]
    own = contest(preset.world, preset, settings)
    in_full = replace(preset.world, value_form="full", questions="full", date_parts=DATE_PARTS)
    long = contest(in_full, preset, settings)
    generation = own["our_generate"]
    return Result(
        benchmark="evaluate",
        unit="questions per second",
        value=own["value"],
        peer=f"{NAME}.generate",
        peer_value=own["peer_value"],
        ratio=own["ratio"],
        parameters={
            "layers": preset.model.layers,
            "heads": preset.model.heads,
            "width": preset.model.width,
            "peer_batch_sizes": PEER_BATCHES,
            **{name: own[name] for name in ("vocab_size", "questions", "mean_prompt_tokens", "mean_answer_tokens")},
        },
        details={
            "ratio_spread": own["ratio_spread"],
            "ratio_by_cpu_time": own["ratio_by_cpu_time"],
            "own_world": own,
            "long_answers": long,
        },
        rows=[
            ("physlm.models.generation.generate", generation["value"], generation["ratio"]),
            ("physlm, long answers", long["value"], long["ratio"]),
            ("the peer, long answers", long["peer_value"], None),
            ("the peer, long answers, knowing their lengths", long["peer_knowing_answer_lengths"]["value"], None),
        ],
    )
