"""What holds in PyTorch during training: denormals are flushed, and dropout is a function of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from physlm.data.streams import PackedStream
from physlm.models.transformer import Transformer


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Treat numbers below 1e-38 as zero: a confident softmax is full of them, and a CPU is slow on each."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def dropout_randomness(model: Transformer, stream: PackedStream, step: int, device: torch.device) -> Iterator[None]:
    """Make dropout a pure function of (stream key, step, rank), and leave PyTorch's global generator as it was."""
    if model.config.dropout == 0:
        yield
        return
    seed = stream.key.child("dropout", step, *([stream.rank] if stream.rank else [])).low >> 1
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield
