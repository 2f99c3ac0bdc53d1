"""Scoring answers: one pass over question and gold answer, beside `generate` of `transformers` token by token.

Both models have the same weights and learned positions, briefly trained on questions so that some answers are right,
and must agree on every question; this is checked. Model and people are those of the `cpu` preset of
`experiments.bio_qa`, values and questions are worded in full, as in the paper.

The peer gets its best: greedy, with its cache, in large batches of equal prompts, hence without padding. A batch is
continued up to its longest answer; `details` also has the peer with batches of equal answer length, which it could
not know without the gold answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpt2 import NAME, copy_weights, gpt2_like
from benchmarks.harness import THREADS, Result, Settings, race
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

QUESTIONS = 2000
BATCH = 512
YEARS = 50
TRAINING_STEPS = 300
LEARNING_RATE = 3e-3


def peer_matches(
    model: Any,
    prompts: Sequence[IntArray],
    answers: Sequence[IntArray],
    *,
    stop: int,
    pad: int,
    by_answer_length: bool = False,
) -> NDArray[np.bool_]:
    """Whether greedy `model.generate` gives exactly each answer, then `stop`."""
    by_lengths: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        by_lengths[len(prompt), len(answer) if by_answer_length else 0].append(i)
    matches = np.zeros(len(prompts), dtype=bool)
    for (length, _), group in by_lengths.items():
        for start in range(0, len(group), BATCH):
            rows = group[start : start + BATCH]
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
    made = generate(model, prompts, max_new_tokens=longest + 1, stop=stop, batch_size=BATCH)
    return np.array([np.array_equal(ours, gold) for ours, gold in zip(made, answers, strict=True)])


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(THREADS)
    preset = PRESETS["smoke" if settings.quick else "cpu"]
    wanted = 60 if settings.quick else QUESTIONS
    world = BiographyWorld(
        replace(
            preset.world,
            pools=replace(preset.world.pools, years=YEARS),
            value_form="full",
            questions="full",
            date_parts=DATE_PARTS,
        ).config(0, variant="single")
    )
    questions = np.arange(min(wanted, world.size("questions_test")))
    asked = len(questions)
    prompts = [np.concatenate([[world.eos], prompt]) for prompt in world.prompts("questions_test", questions)]
    answers = world.answers("questions_test", questions)
    stop, pad = world.eos, world.pad

    config = replace(preset.model.config(world.vocab_size), position=Learned())
    model = Transformer(config, seed=0)
    source = Source(world, "questions_train")
    stream = PackedStream([source], context=config.context, batch_size=preset.batch_size, key=Key.of("benchmark"))
    train(model, stream, Recipe(steps=3 if settings.quick else TRAINING_STEPS, learning_rate=LEARNING_RATE))
    peer = gpt2_like(config, eos=stop, pad=pad).eval()
    copy_weights(model, peer)

    ours = answer_matches(model, prompts, answers, stop=stop)
    for name, theirs in (
        (NAME, peer_matches(peer, prompts, answers, stop=stop, pad=pad)),
        ("our own generate", generated_matches(model, prompts, answers, stop=stop)),
    ):
        if not np.array_equal(ours, theirs):
            differing = np.flatnonzero(ours != theirs).tolist()
            raise RuntimeError(f"answer_matches and {name} must agree on every question, they differ on {differing}")
    result = race(
        {
            "ours": lambda: answer_matches(model, prompts, answers, stop=stop),
            "peer": lambda: peer_matches(peer, prompts, answers, stop=stop, pad=pad),
            "informed peer": lambda: peer_matches(peer, prompts, answers, stop=stop, pad=pad, by_answer_length=True),
            "generate": lambda: generated_matches(model, prompts, answers, stop=stop),
        },
        settings.repetitions,
    )
    informed = {"value": result.rate("informed peer", asked), "ratio": result.ratio("ours", "informed peer")}
    generation = {
        "value": result.rate("generate", asked),
        "ratio": result.ratio("generate", "peer"),
        "ratio_of_answer_matches": result.ratio("ours", "generate"),
    }
    return Result(
        benchmark="evaluate",
        unit="questions per second",
        value=result.rate("ours", asked),
        peer=f"{NAME}.generate",
        peer_value=result.rate("peer", asked),
        ratio=result.ratio("ours", "peer"),
        parameters={
            "layers": config.layers,
            "heads": config.heads,
            "width": config.width,
            "vocab_size": config.vocab_size,
            "questions": asked,
            "batch_size": BATCH,
            "mean_prompt_tokens": float(np.mean([len(prompt) for prompt in prompts])),
            "mean_answer_tokens": float(np.mean([len(answer) for answer in answers])),
        },
        details={
            "ratio_spread": result.spread("ours", "peer"),
            "ratio_by_cpu_time": result.ratio("ours", "peer", "cpu"),
            "right_answers": float(ours.mean()),
            "our_generate": generation,
            "peer_knowing_answer_lengths": informed,
        },
        rows=[
            ("the peer, knowing the answer lengths", informed["value"], None),
            ("physlm.models.generation.generate", generation["value"], generation["ratio"]),
        ],
    )
