"""Training: whole steps of our loop beside a plain PyTorch loop around GPT-2 of `transformers`, on two threads.

A step is: the next packed batch to tensors, forward, loss, backward, clip, AdamW. Both models have the same shape and
take the same batches and fused AdamW; ours turns queries and keys (rotary positions), the peer adds learned positions,
which is less work. There are two shapes: the papers' smallest model (GPT2-4-2, a million parameters, windows of 512),
which the headline is about, and the `cpu` preset of `experiments.bio_qa`.

The peer is `GPT2LMHeadModel` set up as well as it can be: fused attention, and the fused tanh-GELU in place of its
default, which spells the same function out in several operations; as it comes, it is a row of its own. Both sides use
the same precision: float32, and where the processor multiplies bfloat16 matrices fast, the same autocast. The headline
is what our recipes do by default ("auto").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpt2 import NAME, gpt2_like
from benchmarks.harness import Race, Result, Settings, race
from experiments._biography_presets import PRESETS
from physlm.data.streams import IGNORE, PackedStream, Source
from physlm.models.positions import Learned
from physlm.models.presets import preset
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Precision, Recipe, choose_precision
from physlm.worlds.bios import BiographyWorld

LEARNING_RATE = 1e-3
CPU = torch.device("cpu")


def our_loop(config: TransformerConfig, stream: PackedStream, recipe: Recipe) -> Callable[[], object]:
    """`recipe.steps` steps of `physlm.training.loop.train`, going on with model and stream at every call."""
    model = Transformer(config, seed=0)
    return lambda: train(model, stream, recipe, log_every=recipe.steps)


def peer_loop(model: Any, stream: PackedStream, recipe: Recipe) -> Callable[[], object]:
    """The same steps as one writes them by hand."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    is_bfloat16 = choose_precision(recipe.precision, CPU) == torch.bfloat16

    def steps() -> None:
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)
        model.train()
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
            batch = stream.next_batch()
            inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps


def contest(
    config: TransformerConfig, world: BiographyWorld, rows: int, steps: int, repetitions: int
) -> dict[str, Any]:
    """Rates and ratios of one shape, by precision."""

    def stream() -> PackedStream:
        source = Source(world, "biographies")
        return PackedStream([source], context=config.context, batch_size=rows, key=Key.of("benchmark"))

    recipe = Recipe(steps=steps, learning_rate=LEARNING_RATE)
    precisions: dict[str, Precision] = {"float32": "float32"}
    if choose_precision("auto", CPU) != torch.float32:
        precisions["bfloat16"] = "bfloat16"
    learned = Transformer(replace(config, position=Learned()), seed=0)
    loops: dict[str, Callable[[], object]] = {}
    for name, precision in precisions.items():
        in_precision = replace(recipe, precision=precision)
        loops[f"ours {name}"] = our_loop(config, stream(), in_precision)
        for kind, default_gelu in (("peer", False), ("peer as it comes", True)):
            peer = gpt2_like(learned, eos=world.eos, pad=world.pad, default_gelu=default_gelu)
            loops[f"{kind} {name}"] = peer_loop(peer, stream(), in_precision)
    result = race(loops, repetitions)
    tokens = steps * rows * config.context
    return {
        "parameters": parameter_count(config),
        "layers": config.layers,
        "heads": config.heads,
        "width": config.width,
        "context": config.context,
        "vocab_size": config.vocab_size,
        "batch_size": rows,
        "steps": steps,
        **{name: _numbers(result, name, tokens) for name in precisions},
    }


def _numbers(result: Race, precision: str, tokens: int) -> dict[str, Any]:
    ours, peer, as_it_comes = (f"{kind} {precision}" for kind in ("ours", "peer", "peer as it comes"))
    return {
        "value": result.rate(ours, tokens),
        "peer_value": result.rate(peer, tokens),
        "ratio": result.ratio(ours, peer),
        "ratio_spread": result.spread(ours, peer),
        "ratio_by_cpu_time": result.ratio(ours, peer, "cpu"),
        "peer_as_it_comes": result.rate(as_it_comes, tokens),
        "ratio_to_peer_as_it_comes": result.ratio(ours, as_it_comes),
    }


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    shapes = PRESETS["smoke" if settings.quick else "cpu"]
    small = BiographyWorld(shapes.world.config(0, variant="multi5+permute"))
    large = small if settings.quick else BiographyWorld(PRESETS["gpu"].world.config(0, variant="multi5+permute"))
    context, rows = (32, 2) if settings.quick else (512, 8)
    contests = {
        "million": contest(
            preset("GPT2-4-2", vocab_size=large.vocab_size, context=context),
            large,
            rows,
            2 if settings.quick else 5,
            settings.repetitions,
        ),
        "cpu preset": contest(
            shapes.model.config(small.vocab_size),
            small,
            shapes.batch_size,
            3 if settings.quick else 40,
            settings.repetitions,
        ),
    }
    precision = "float32" if choose_precision("auto", CPU) == torch.float32 else "bfloat16"
    headline = contests["million"][precision]
    table = []
    for shape, numbers in contests.items():
        for name in ("bfloat16", "float32"):
            if name in numbers:
                table += [
                    (f"{shape}, {name}: physlm", numbers[name]["value"], numbers[name]["ratio"]),
                    (f"{shape}, {name}: {NAME}", numbers[name]["peer_value"], None),
                    (f"{shape}, {name}: as it comes", numbers[name]["peer_as_it_comes"], None),
                ]
    return Result(
        benchmark="train",
        unit="tokens per second",
        value=headline["value"],
        peer=NAME,
        peer_value=headline["peer_value"],
        ratio=headline["ratio"],
        parameters={name: value for name, value in contests["million"].items() if not isinstance(value, dict)}
        | {"precision": precision},
        details=contests,
        rows=table,
    )
