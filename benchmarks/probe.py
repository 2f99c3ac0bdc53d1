"""Probing: hidden states of all layers, beside forward hooks in plain PyTorch, and all layers beside one.

The headline is capture: the residual stream after the embedding and after every block, at every token, in memory as one
array, from one model with the weights of the peer. The peer is what its users write: the same model in `transformers`,
a forward hook on the embedding and on every block, batches of the same documents, and a copy into the same array. It
stands in for `run_with_cache` of TransformerLens, which keeps far more than was asked for and, as this is written, asks
for older versions of `transformers` than this project. Both must agree; this is checked. All documents are equally long,
so that neither pads.

Two more contenders read the states and fit linear probes to them, of all layers or of the last alone: what the other
layers cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpt2 import NAME, gpt2_like
from benchmarks.harness import Result, Settings, race
from physlm.data.contract import Samples
from physlm.models.positions import Learned
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.probing.linear import LinearProbes
from physlm.probing.states import TOKENS_PER_BATCH, read_states, residual_layers
from physlm.randomness import Key

DOCUMENTS, CONTEXT, VOCABULARY, CLASSES = 256, 128, 512, 40
LAYERS, HEADS, WIDTH = 4, 4, 128
STEPS, QUICK_STEPS = 400, 3
PEER = f"forward hooks on {NAME}"


def hooked_states(peer: Any, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """States `[places, layers, width]` by forward hooks."""
    documents, context = tokens.shape
    modules = [peer.transformer.drop, *peer.transformer.h]
    values = np.empty((documents * context, len(modules), peer.config.n_embd), dtype=np.float32)
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _arguments: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(keep) for module in modules]
    rows = max(1, TOKENS_PER_BATCH // context)
    try:
        with torch.inference_mode():
            for start in range(0, documents, rows):
                kept.clear()
                peer.transformer(torch.from_numpy(tokens[start : start + rows]), use_cache=False)
                block = torch.stack([state.flatten(0, 1) for state in kept], dim=1)
                values[start * context : start * context + len(block)] = block.numpy()
    finally:
        for handle in handles:
            handle.remove()
    return values


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    documents, context = (4, 16) if settings.quick else (DOCUMENTS, CONTEXT)
    shape = TransformerConfig(
        vocab_size=VOCABULARY, context=context, layers=LAYERS, heads=HEADS, width=WIDTH, position=Learned()
    )
    model = Transformer(shape, seed=0).eval()
    peer = gpt2_like(model, eos=0, pad=0).eval()
    generator = Key.of("probe benchmark").generator()
    tokens = generator.integers(0, VOCABULARY, (documents, context))
    samples = Samples(tokens.reshape(-1), np.arange(0, tokens.size + 1, context), {})
    inputs = Inputs.where(samples, np.ones(tokens.size, dtype=np.bool_))
    labels = {"label": generator.integers(0, CLASSES, tokens.size)}
    layers = residual_layers(shape)
    training = ProbeTraining(steps=QUICK_STEPS if settings.quick else STEPS)

    ours, theirs = read_states(model, inputs)[:], hooked_states(peer, tokens)
    if not np.allclose(ours, theirs, atol=1e-4):
        raise AssertionError(f"both must read the same states, got differences up to {np.abs(ours - theirs).max()}")

    def probed(names: tuple[str, ...]) -> object:
        return LinearProbes(training, key=Key.of("probe")).fit(read_states(model, inputs, names), labels)

    result = race(
        {
            "ours": lambda: read_states(model, inputs),
            "peer": lambda: hooked_states(peer, tokens),
            "all layers": lambda: probed(layers),
            "one layer": lambda: probed(layers[-1:]),
        },
        settings.repetitions,
    )
    return Result(
        benchmark="probe",
        unit="tokens per second",
        value=result.rate("ours", tokens.size),
        peer=PEER,
        peer_value=result.rate("peer", tokens.size),
        ratio=result.ratio("ours", "peer"),
        parameters={
            "documents": documents,
            "context": context,
            "layers": LAYERS,
            "width": WIDTH,
            "classes": CLASSES,
            "steps": training.steps,
        },
        details={
            "ratio_spread": result.spread("ours", "peer"),
            "all_layers_over_one": result.ratio("one layer", "all layers"),
            "all_layers_over_one_spread": result.spread("one layer", "all layers"),
        },
        rows=[
            ("read and probe one layer", result.rate("one layer", tokens.size), None),
            (
                "read and probe all layers (× one layer)",
                result.rate("all layers", tokens.size),
                result.ratio("all layers", "one layer"),
            ),
        ],
    )
