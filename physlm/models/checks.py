"""What is refused before anything is computed: numbers that are not whole, and what are no token ids.

Tokens on an accelerator are looked at only as far as the host knows them, by shape and type: asking for their values
would make every step wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from physlm.data.contract import World

_ID_TYPES = (torch.int64, torch.int32)
"""What an embedding can be read at."""


def require_whole_numbers(config: Any, *names: str) -> None:
    """Refuse a config in which one of these fields is neither an int nor `None`.

    Raises:
        TypeError: naming the field; `True`, `64.0` and NumPy's integers, which JSON does not know, are no ints.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{name} must be an int, got {value!r}")


def readable() -> bool:
    """Whether values are there to be looked at, which they are not while a program is traced or vectorised."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def require_tokens(tokens: Tensor, vocab_size: int, *, dimensions: int = 2) -> None:
    """Refuse what a model cannot read as tokens; values are looked at on a CPU only.

    Args:
        tokens: token ids, `[B, T]`, or `[N]` with one dimension.
        vocab_size: ids are below this.
        dimensions: of `tokens`.

    Raises:
        ValueError: if they have another shape or type, or an id is outside the vocabulary.
    """
    if tokens.dtype not in _ID_TYPES or tokens.ndim != dimensions:
        shape = "[rows, tokens]" if dimensions == 2 else "[tokens]"
        raise ValueError(
            f"tokens must be int64 or int32 of shape {shape}, got {tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    if tokens.device.type == "cpu" and tokens.numel() and readable():
        least, most = (int(end) for end in tokens.aminmax())
        if least < 0 or most >= vocab_size:
            raise ValueError(f"tokens must be ids in [0, {vocab_size}), got {least if least < 0 else most}")


def require_id(name: str, value: Any, vocab_size: int) -> int:
    """A token id as an int.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is outside the vocabulary.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a token id, an int, got {value!r}")
    if not 0 <= value < vocab_size:
        raise ValueError(f"{name} must be a token id in [0, {vocab_size}), got {value}")
    return int(value)


def token_arrays(name: str, arrays: Any, vocab_size: int) -> list[NDArray[np.int64]]:
    """Texts as arrays of token ids, each `[its tokens]`.

    Args:
        name: what they are, for errors.
        arrays: 1-D arrays or lists of whole numbers, perhaps empty; the rows of a matrix will do.
        vocab_size: ids are below this.

    Raises:
        ValueError: naming the first text that is no such array, or the first id that is outside the vocabulary.
    """
    if isinstance(arrays, str) or not hasattr(arrays, "__len__"):
        raise ValueError(f"{name} must be a sequence of arrays of token ids, got {arrays!r}")
    texts = [np.asarray(array) for array in arrays]
    for number, text in enumerate(texts):
        if text.ndim != 1 or (text.dtype.kind not in "iu" and text.size):
            what = repr(text.item()) if text.ndim == 0 else f"{text.dtype} of shape {text.shape}"
            raise ValueError(
                f"{name} must be a sequence of 1-D arrays of token ids, got {what} as number {number}; "
                "a tokenizer makes ids of text, and a single array goes into a list"
            )
    whole = [text.astype(np.int64, copy=False) for text in texts]
    # An accelerator that looks up a token that does not exist is lost to the whole process.
    everything = np.concatenate([np.zeros(0, dtype=np.int64), *whole])
    outside = (everything < 0) | (everything >= vocab_size)
    if outside.any():
        raise ValueError(f"{name} must be token ids in [0, {vocab_size}), got {everything[outside][0]}")
    return whole


def stop_tokens(stop: Any, vocab_size: int) -> tuple[int, ...]:
    """The ids that end a continuation, given one of them, several or none.

    Raises:
        TypeError: if it is neither an id nor a sequence of ids.
        ValueError: if an id is outside the vocabulary.
    """
    if stop is None:
        raise TypeError("stop must be a token id or several of them, got None; for no stop token give ()")
    several = isinstance(stop, Iterable) and not isinstance(stop, str)
    return tuple(require_id("stop", token, vocab_size) for token in (stop if several else (stop,)))


def require_vocabulary(vocab_size: int, worlds: Sequence[World]) -> None:
    """Refuse to train a model on worlds that have more token ids than it.

    Raises:
        ValueError: naming the world and both sizes.
    """
    for world in worlds:
        if world.vocab_size > vocab_size:
            raise ValueError(
                f"the model's vocab_size must be ≥ {world.vocab_size}, that of the {type(world).__name__} it is "
                f"trained on, got {vocab_size}"
            )
