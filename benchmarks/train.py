"""Training: whole steps of our loop beside a plain PyTorch loop around GPT-2 of `transformers`.

A step is: the next packed batch to tensors, forward, loss, backward, clip, AdamW. Both models have the shape of the
`cpu` preset of `experiments.bio_qa` and take the same batches and fused AdamW; ours turns queries and keys (rotary
positions), the peer adds learned positions, which is less work.

The headline is the precision that the preset trains in, "auto": bfloat16 matrix products where the hardware does them
fast, under the same autocast on both sides. Float32 on both sides comes second; there the ratio is about 1, because
both spend their time in the same matrix kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpt2 import NAME, gpt2_like
from benchmarks.harness import THREADS, Result, Settings, race
from experiments._biography_presets import PRESETS
from physlm.data.streams import IGNORE, PackedStream, Source
from physlm.models.positions import Learned
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Precision, Recipe, choose_precision
from physlm.worlds.bios import BiographyWorld

STEPS = 40
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


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(THREADS)
    preset = PRESETS["smoke" if settings.quick else "cpu"]
    steps = 3 if settings.quick else STEPS
    world = BiographyWorld(preset.world.config(0, variant="multi5+permute"))
    config = preset.model.config(world.vocab_size)

    def stream() -> PackedStream:
        source = Source(world, "biographies")
        return PackedStream([source], context=config.context, batch_size=preset.batch_size, key=Key.of("benchmark"))

    recipe = Recipe(steps=steps, learning_rate=LEARNING_RATE)
    precisions: dict[str, Precision] = {"auto": "auto"}
    if choose_precision("auto", CPU) != torch.float32:
        precisions["float32"] = "float32"
    learned = Transformer(replace(config, position=Learned()), seed=0)
    loops: dict[str, Callable[[], object]] = {}
    for name, precision in precisions.items():
        peer = gpt2_like(learned, eos=world.eos, pad=world.pad)
        loops[f"ours {name}"] = our_loop(config, stream(), replace(recipe, precision=precision))
        loops[f"peer {name}"] = peer_loop(peer, stream(), replace(recipe, precision=precision))
    untuned = gpt2_like(learned, eos=world.eos, pad=world.pad, default_gelu=True)
    loops["untuned peer"] = peer_loop(untuned, stream(), recipe)
    result = race(loops, settings.repetitions)

    tokens = steps * preset.batch_size * config.context
    float32 = "float32" if "float32" in precisions else "auto"
    in_float32 = {
        "value": result.rate(f"ours {float32}", tokens),
        "peer_value": result.rate(f"peer {float32}", tokens),
        "ratio": result.ratio(f"ours {float32}", f"peer {float32}"),
        "ratio_by_cpu_time": result.ratio(f"ours {float32}", f"peer {float32}", "cpu"),
        "note": "about 1 is expected: both sides are bound by the same matrix kernels",
    }
    as_it_comes = {
        "value": result.rate("untuned peer", tokens),
        "ratio": result.ratio("ours auto", "untuned peer"),
    }
    return Result(
        benchmark="train",
        unit="tokens per second",
        value=result.rate("ours auto", tokens),
        peer=NAME,
        peer_value=result.rate("peer auto", tokens),
        ratio=result.ratio("ours auto", "peer auto"),
        parameters={
            "layers": config.layers,
            "heads": config.heads,
            "width": config.width,
            "context": config.context,
            "vocab_size": config.vocab_size,
            "batch_size": preset.batch_size,
            "parameters": parameter_count(config),
            "steps": steps,
            "precision": str(choose_precision("auto", CPU)).removeprefix("torch."),
        },
        details={
            "ratio_spread": result.spread("ours auto", "peer auto"),
            "ratio_by_cpu_time": result.ratio("ours auto", "peer auto", "cpu"),
            "milliseconds_per_step": 1e3 * tokens / steps / result.rate("ours auto", tokens),
            "float32": in_float32,
            "peer_with_default_gelu": as_it_comes,
        },
        rows=[
            ("physlm, float32", in_float32["value"], in_float32["ratio"]),
            (f"{NAME}, float32", in_float32["peer_value"], None),
            ("the peer with its default GELU", as_it_comes["value"], None),
        ],
    )
