"""Probing: hidden states of all layers, beside TransformerLens, and all layers beside one.

The headline is capture: the residual stream after the embedding and after every block, at every token, in memory as one
array. The peer is `run_with_cache` of TransformerLens, a bridge around the same model in `transformers` with the same
weights, told to keep what is asked for or left to keep everything, whichever is faster in this run. It is no dependency
of this project; where it is not installed (`pip install transformer-lens`), the peer is what its users write without
it, a forward hook on the embedding and on every block of the model in `transformers`, which is measured in any case.
All read the same batches of documents of one length, so that nothing is padded, copy into the same array, and must
agree; this is checked.

Two more contenders read the states and fit linear probes to them, of all layers or of the last alone: what the other
layers cost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
TOLERANCE = 1e-4
HOOKS = f"forward hooks on {NAME}"
LENS = "TransformerLens run_with_cache"

Read = Callable[[Tensor], list[Tensor]]
"""States of all layers, each `[documents, tokens, width]`, from tokens `[documents, tokens]`."""


def copied(read: Read, tokens: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """States `[places, layers, width]` of all tokens, batch by batch."""
    documents, context = tokens.shape
    values = np.empty((documents * context, LAYERS + 1, width), dtype=np.float32)
    rows = max(1, TOKENS_PER_BATCH // context)
    with torch.inference_mode():
        for start in range(0, documents, rows):
            states = read(torch.from_numpy(tokens[start : start + rows]))
            block = torch.stack([state.flatten(0, 1) for state in states], dim=1)
            values[start * context : start * context + len(block)] = block.numpy()
    return values


def hook_reader(peer: Any) -> Read:
    """Forward hooks in plain PyTorch."""

    def read(tokens: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []

        def keep(_module: Any, _arguments: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        handles = [module.register_forward_hook(keep) for module in (peer.transformer.drop, *peer.transformer.h)]
        peer.transformer(tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        return kept

    return read


def lens_readers(peer: Any) -> dict[str, Read]:
    """`run_with_cache` of TransformerLens, if it is installed; it takes `peer` over."""
    if find_spec("transformer_lens") is None:
        return {}
    import tokenizers
    import transformers

    # It asks for a tokenizer, which nothing here uses, and would look for one on the network.
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"0": 0}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0")
    bridge = import_module("transformer_lens.model_bridge").TransformerBridge
    lens = bridge.boot_transformers("gpt2", hf_model=peer, tokenizer=tokenizer)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS))]

    def read(tokens: Tensor, **options: Any) -> list[Tensor]:
        _, cache = lens.run_with_cache(tokens, return_type=None, **options)
        return [cache[name] for name in names]

    return {LENS: partial(read, names_filter=names), f"{LENS}, keeping everything": read}


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    documents, context = (4, 16) if settings.quick else (DOCUMENTS, CONTEXT)
    shape = TransformerConfig(
        vocab_size=VOCABULARY, context=context, layers=LAYERS, heads=HEADS, width=WIDTH, position=Learned()
    )
    model = Transformer(shape, seed=0).eval()
    readers = {
        HOOKS: hook_reader(gpt2_like(model, eos=0, pad=0).eval()),
        **lens_readers(gpt2_like(model, eos=0, pad=0).eval()),
    }
    generator = Key.of("probe benchmark").generator()
    tokens = generator.integers(0, VOCABULARY, (documents, context))
    samples = Samples(tokens.reshape(-1), np.arange(0, tokens.size + 1, context), {})
    inputs = Inputs.where(samples, np.ones(tokens.size, dtype=np.bool_))
    labels = {"label": generator.integers(0, CLASSES, tokens.size)}
    layers = residual_layers(shape)
    training = ProbeTraining(steps=QUICK_STEPS if settings.quick else STEPS)

    ours = read_states(model, inputs)[:]
    for name, read in readers.items():
        apart = np.abs(ours - copied(read, tokens, WIDTH)).max()
        if apart > TOLERANCE:
            raise AssertionError(f"all must read the same states, got {name} that differs by up to {apart}")

    def probed(names: tuple[str, ...]) -> object:
        return LinearProbes(training, key=Key.of("probe")).fit(read_states(model, inputs, names), labels)

    result = race(
        {
            "ours": lambda: read_states(model, inputs),
            **{name: partial(copied, read, tokens, WIDTH) for name, read in readers.items()},
            "all layers": lambda: probed(layers),
            "one layer": lambda: probed(layers[-1:]),
        },
        settings.repetitions,
    )
    # Where it is there, the faster way of TransformerLens; else the hooks.
    peer = max([name for name in readers if name != HOOKS] or [HOOKS], key=lambda name: result.rate(name, tokens.size))
    return Result(
        benchmark="probe",
        unit="tokens per second",
        value=result.rate("ours", tokens.size),
        peer=peer,
        peer_value=result.rate(peer, tokens.size),
        ratio=result.ratio("ours", peer),
        parameters={
            "documents": documents,
            "context": context,
            "layers": LAYERS,
            "width": WIDTH,
            "classes": CLASSES,
            "steps": training.steps,
        },
        details={
            "ratio_spread": result.spread("ours", peer),
            "ratio_to": {name: result.ratio("ours", name) for name in readers},
            "transformer_lens": version("transformer-lens") if find_spec("transformer_lens") else None,
            "all_layers_over_one": result.ratio("one layer", "all layers"),
            "all_layers_over_one_spread": result.spread("one layer", "all layers"),
        },
        rows=[
            *((name, result.rate(name, tokens.size), None) for name in readers if name != peer),
            ("read and probe one layer", result.rate("one layer", tokens.size), None),
            (
                "read and probe all layers (× one layer)",
                result.rate("all layers", tokens.size),
                result.ratio("all layers", "one layer"),
            ),
        ],
    )
