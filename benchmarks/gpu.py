"""Training on a GPU: a model of 124M parameters in bfloat16, and a stack of small ones; only when asked for.

- GPT2-12-12 with the vocabulary of GPT-2, rounded up, at windows of 512 and 1,024 tokens: tokens per second, the share
  of the GPU's dense bfloat16 peak that the model's multiplications make, and peak memory. The peer is the same shape
  of `transformers` in a plain loop with the same compilation.
- Sixteen models of a million parameters trained at once, beside one after another.

Batches are random tokens: what is measured is the step. Needs a CUDA GPU; otherwise it says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpt2 import NAME, gpt2_like
from benchmarks.harness import MissingPeerError, Result, Settings, race
from physlm.data.streams import PackedStream, Source
from physlm.models.positions import Learned
from physlm.models.presets import preset
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.execution import Execution
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.training.stacked import train_stacked
from physlm.worlds.text import TextWorld

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Dense bfloat16 products per second that vendors state."""

VOCABULARY = 50_257
STACK = 16
TOKENS = 32_768
"""Of a batch of the large model."""
PAD, EOS = 0, 1


def operations_per_token(config: TransformerConfig) -> float:
    """Multiplications and additions of a training step per token: 6 for every weight, and attention to the window."""
    return 6 * parameter_count(config) + 12 * config.layers * config.width * config.context


def random_stream(context: int, rows: int, seed: int) -> PackedStream:
    """Windows of random words."""
    numbers = Key.of("gpu benchmark", seed).generator().integers(0, 900, (4 * rows, context))
    world = TextWorld(["".join(f" w{number}" for number in document) for document in numbers])
    return PackedStream([Source(world, "text")], context=context, batch_size=rows, key=Key.of("gpu benchmark", seed))


def waiting(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`work`, and then until a GPU has done it."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def peer_loop(
    model: Any, tokens: torch.Tensor, recipe: Recipe, device: torch.device, *, compiled: bool
) -> Callable[[], object]:
    """The same steps as one writes them by hand."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)
    forward: Any = torch.compile(model) if compiled else model

    def steps() -> None:
        for _ in range(recipe.steps):
            with torch.autocast(device.type, torch.bfloat16):
                logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
                loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def one_model(
    config: TransformerConfig, rows: int, steps: int, repetitions: int, device: torch.device, *, compiled: bool
) -> dict[str, Any]:
    """A model beside the same of `transformers`, its vocabulary rounded up as well.

    Ours is one run, timed between its log points, since every run compiles anew.
    """
    recipe = Recipe(steps=steps * (repetitions + 1), learning_rate=1e-4, precision="bfloat16")
    stream = random_stream(config.context, rows, 0)
    window = torch.from_numpy(stream.next_batch().window.astype(np.int64)).to(device)
    model = Transformer(config, seed=0).to(device)
    marks: list[float] = []

    def mark() -> dict[str, Any]:
        waiting(lambda: None, device)()
        marks.append(time.perf_counter())
        return {}

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train(model, stream, recipe, log_every=steps, evaluate=mark, execution=Execution(compile=compiled))
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    del model
    learned = replace(config, position=Learned(), vocab_size=config.embedding_rows, vocab_multiple=1)
    peer = gpt2_like(Transformer(learned, seed=0), eos=EOS, pad=PAD).to(device).train()
    theirs = waiting(peer_loop(peer, window, replace(recipe, steps=steps), device, compiled=compiled), device)
    times = race({"peer": theirs}, repetitions).wall["peer"]
    tokens = steps * rows * config.context
    rate, peer_rate = tokens / median(np.diff(marks).tolist()), tokens / median(times)
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    return {
        "context": config.context,
        "batch_size": rows,
        "parameters": parameter_count(config),
        "value": rate,
        "peer_value": peer_rate,
        "ratio": rate / peer_rate,
        "share_of_peak": None if peak is None else rate * operations_per_token(config) / peak,
        "peak_memory_mb": memory,
    }


def many_models(
    config: TransformerConfig, models: int, rows: int, steps: int, repetitions: int, device: torch.device
) -> dict[str, Any]:
    """Small models at once, and one after another."""
    recipe = Recipe(steps=steps, learning_rate=1e-3, precision="bfloat16")
    many = [Transformer(config, seed=seed).to(device) for seed in range(models)]
    streams = [random_stream(config.context, rows, seed) for seed in range(models)]
    alone = [Transformer(config, seed=seed).to(device) for seed in range(models)]

    def one_after_another() -> None:
        for model, stream in zip(alone, streams, strict=True):
            train(model, stream, recipe, log_every=steps)

    def at_once() -> None:
        train_stacked(many, streams, [recipe] * models, log_every=steps)

    result = race(
        {"at once": waiting(at_once, device), "one after another": waiting(one_after_another, device)}, repetitions
    )
    tokens = models * steps * rows * config.context
    return {
        "models": models,
        "parameters": parameter_count(config),
        "value": result.rate("at once", tokens),
        "one_after_another": result.rate("one after another", tokens),
        "ratio": result.ratio("at once", "one after another"),
    }


def run(settings: Settings) -> Result:
    """Measure."""
    if not torch.cuda.is_available():
        raise MissingPeerError("this benchmark needs a CUDA GPU, and torch.cuda.is_available() is False")
    device = torch.device("cuda")
    steps = 3 if settings.quick else 20
    windows = []
    for context in (512, 1024):
        config = replace(preset("GPT2-12-12", vocab_size=VOCABULARY, context=context), vocab_multiple=128)
        windows.append(one_model(config, TOKENS // context, steps, settings.repetitions, device, compiled=True))
    small = preset("GPT2-4-2", vocab_size=1024, context=128)
    stack = many_models(small, STACK, 8, steps, settings.repetitions, device)
    first = windows[0]
    rows: list[tuple[str, float, float | None]] = [
        (f"124M, windows of {entry['context']}", entry["value"], entry["ratio"]) for entry in windows[1:]
    ]
    stack_of = f"{STACK} models of {stack['parameters']:,} parameters at once (× one after another)"
    rows.append((stack_of, stack["value"], stack["ratio"]))
    return Result(
        benchmark="gpu",
        unit="tokens per second",
        value=first["value"],
        peer=NAME,
        peer_value=first["peer_value"],
        ratio=first["ratio"],
        parameters={"device": torch.cuda.get_device_name(), "steps": steps},
        details={"windows": windows, "stacked": stack},
        rows=rows,
    )
