"""Attention in training: what each positional encoding costs, and our kernel beside PyTorch's.

The headline is causal attention alone, forward and backward, in float32: ours beside
`torch.nn.functional.scaled_dot_product_attention`. The other rows are whole training steps, forward and backward, of
one small model with each encoding in turn, as a share of the speed with rotary positions: what it costs to exchange an
encoding. Batches are random tokens, which changes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, Settings, race
from physlm.models.fused_attention import fused_attention
from physlm.models.positions import position_from_dict, position_names
from physlm.models.presets import preset
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.training.cross_entropy import linear_cross_entropy

BATCH, HEADS, CONTEXT, HEAD_WIDTH = 8, 2, 512, 64
PEER = "torch scaled_dot_product_attention"


def attention_step(parts: list[Tensor], gradient: Tensor, *, ours: bool) -> Callable[[], object]:
    """Attention and its gradient."""

    def step() -> None:
        queries, keys, values = parts
        if ours:
            outputs = fused_attention(queries, keys, values, None, causal=True, scale=HEAD_WIDTH**-0.5)
        else:
            outputs = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        torch.autograd.grad(outputs, parts, gradient)

    return step


def training_step(config: TransformerConfig, rows: int) -> Callable[[], object]:
    """Loss and gradient of a model on one batch."""
    model = Transformer(config, seed=0)
    tokens = torch.randint(config.vocab_size, (rows, config.context + 1), generator=torch.Generator().manual_seed(0))
    targets = tokens[:, 1:].flatten()

    def step() -> None:
        hidden = model.hidden(tokens[:, :-1]).flatten(0, 1)
        linear_cross_entropy(hidden, model.head.weight, targets, targets.numel()).backward()
        model.zero_grad(set_to_none=True)

    return step


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    batch, context = (2, 32) if settings.quick else (BATCH, CONTEXT)
    generator = torch.Generator().manual_seed(0)
    # Laid out as a model has them: heads beside each other within a token.
    parts = [part.transpose(1, 2) for part in torch.randn(3, batch, context, HEADS, HEAD_WIDTH, generator=generator)]
    parts = [part.requires_grad_() for part in parts]
    gradient = torch.randn(batch, context, HEADS, HEAD_WIDTH, generator=generator).transpose(1, 2)
    config = preset("GPT2-2-2", vocab_size=256, context=context)
    encodings = {name: replace(config, position=position_from_dict({"name": name})) for name in position_names()}
    result = race(
        {
            "ours": attention_step(parts, gradient, ours=True),
            "peer": attention_step(parts, gradient, ours=False),
            **{name: training_step(shape, batch) for name, shape in encodings.items()},
        },
        settings.repetitions,
    )
    tokens = batch * context
    cost = {
        name: {"tokens_per_second": result.rate(name, tokens), "ratio_to_rotary": result.ratio(name, "rotary")}
        for name in encodings
    }
    return Result(
        benchmark="attention",
        unit="tokens per second",
        value=result.rate("ours", tokens),
        peer=PEER,
        peer_value=result.rate("peer", tokens),
        ratio=result.ratio("ours", "peer"),
        parameters={
            "batch": batch,
            "heads": HEADS,
            "context": context,
            "head_width": HEAD_WIDTH,
            "layers": config.layers,
        },
        details={"ratio_spread": result.spread("ours", "peer"), "training_step_by_encoding": cost},
        rows=[
            (f"a training step, {name} (× rotary)", entry["tokens_per_second"], entry["ratio_to_rotary"])
            for name, entry in sorted(cost.items(), key=lambda item: -item[1]["ratio_to_rotary"])
        ],
    )
