"""Training: whole steps of our loop beside a plain PyTorch loop around models of `transformers`, on two threads.

A step is: the next packed batch to tensors, forward, loss, backward, clip, AdamW. All take the same batches and fused
AdamW. There are two shapes: the papers' smallest model (GPT2-4-2, a million parameters, windows of 512), which the
headline is about, and the `cpu` preset of `experiments.bio_qa`. There are three peers, all with fused attention:

- The headline's is the same model: the `GPTNeoXForCausalLM` that ours is converted to, rotary positions and weights.
- `GPT2LMHeadModel` of the same shape, with the fused tanh-GELU, has less to do: it adds learned positions to the
  embeddings, where we turn every query and key.
- The same as it comes, with a GELU spelt out in several operations.

All use the same precision: float32, and where the processor multiplies bfloat16 matrices fast, the same autocast. The
headline is what our recipes do by default ("auto").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpt2 import counterpart, gpt2_like
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

NAME = "transformers GPTNeoXForCausalLM, the same model"
PEERS = {"same model": "GPTNeoXForCausalLM", "gpt2": "GPT2LMHeadModel", "gpt2 as it comes": "GPT-2 as it comes"}
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
    model, learned = Transformer(config, seed=0), Transformer(replace(config, position=Learned()), seed=0)
    eos, pad = world.eos, world.pad
    loops: dict[str, Callable[[], object]] = {}
    for name, precision in precisions.items():
        in_precision = replace(recipe, precision=precision)
        loops[f"ours {name}"] = our_loop(config, stream(), in_precision)
        peers = {
            "same model": counterpart(model, eos=eos, pad=pad),
            "gpt2": gpt2_like(learned, eos=eos, pad=pad),
            "gpt2 as it comes": gpt2_like(learned, eos=eos, pad=pad, default_gelu=True),
        }
        for kind, peer in peers.items():
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
    ours = f"ours {precision}"
    peers = {
        kind: {
            "value": result.rate(f"{kind} {precision}", tokens),
            "ratio": result.ratio(ours, f"{kind} {precision}"),
            "ratio_spread": result.spread(ours, f"{kind} {precision}"),
            "ratio_by_cpu_time": result.ratio(ours, f"{kind} {precision}", "cpu"),
        }
        for kind in PEERS
    }
    return {"value": result.rate(ours, tokens), "peers": peers}


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
                table.append((f"{shape}, {name}: physlm", numbers[name]["value"], None))
                table += [
                    (f"{shape}, {name}: {PEERS[kind]}", peer["value"], peer["ratio"])
                    for kind, peer in numbers[name]["peers"].items()
                ]
    return Result(
        benchmark="train",
        unit="tokens per second",
        value=headline["value"],
        peer=NAME,
        peer_value=headline["peers"]["same model"]["value"],
        ratio=headline["peers"]["same model"]["ratio"],
        parameters={name: value for name, value in contests["million"].items() if not isinstance(value, dict)}
        | {"precision": precision},
        details=contests,
        rows=table,
    )
