"""Hidden states of many places in many layers at once, in memory or in a file.

- `read_states` reads each document once, whatever the number of layers. A `Transformer` is read by the names of
  `physlm.models.capture`, any other module by those of its submodules.
- What does not fit the bytes that were allowed is kept in a temporary file. Only the rows that are asked for are ever
  mapped, so what is resident is a batch and not the file; the file goes when nobody needs it.
- An array `[N, W]` from anywhere becomes `States.of(array)`.

Shape legend: N places, L layers, W width of a state, B batch, T tokens.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from physlm.models.capture import Capture
from physlm.models.config import TransformerConfig
from physlm.models.decoding import evaluating
from physlm.models.transformer import Transformer
from physlm.probing.batches import document_batches
from physlm.probing.inputs import Inputs, Rows

TOKENS_PER_BATCH = 8192
"""Tokens, padding included, that a model reads at once."""
MEMORY_BYTES = 2**30
"""Larger arrays of states are kept in a file."""
ROWS_AT_ONCE = 8192
"""Places whose states are in memory at once when all are gone through."""
_BY_PAIR = ("attn_scores", "pattern")


class FileArray:
    """An array in a temporary file, of which only what is indexed is ever in memory.

    Args:
        shape: of the array.
        dtype: of its numbers.
        folder: where the file is made; by default where the system keeps temporary files.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path | None = None) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="states-", dir=folder, delete=False) as file:
            file.truncate(int(np.prod(shape)) * self.dtype.itemsize)
        self.path = Path(file.name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    def __len__(self) -> int:
        return self.shape[0]

    # A map is closed as soon as its rows are copied: pages of an open one count as resident.
    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[rows])

    def __setitem__(self, rows: Rows, values: NDArray[Any]) -> None:
        np.memmap(self.path, self.dtype, "r+", shape=self.shape)[rows] = values


class States:
    """Hidden states `[N, L, W]`.

    Example:
        >>> states = States.of({"first": np.zeros((100, 16)), "second": np.ones((100, 16))})
        >>> states.shape, states.only(["second"]).subset(slice(0, 10)).shape
        ((100, 2, 16), (10, 1, 16))

    Args:
        layers: L names.
        values: the states, `[N, L, W]`.
    """

    def __init__(self, layers: Sequence[str], values: NDArray[Any] | FileArray) -> None:
        if len(values.shape) != 3 or values.shape[1] != len(layers):
            raise ValueError(f"values must be [places, {len(layers)} layers, width], got {values.shape}")
        self.layers = tuple(layers)
        self._values = values
        self._columns = np.arange(len(layers))
        self._rows: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, states: NDArray[Any] | Mapping[str, NDArray[Any]]) -> States:
        """States from arrays `[N, W]`, one or one for each layer."""
        named = dict(states) if isinstance(states, Mapping) else {"states": states}
        shapes = {np.shape(array) for array in named.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"states must be arrays [places, width] of one shape, got {sorted(shapes)}")
        return cls(tuple(named), np.stack(list(named.values()), axis=1))

    def __len__(self) -> int:
        return len(self._values) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Places, layers and width."""
        return len(self), len(self.layers), self._values.shape[2]

    @property
    def in_memory(self) -> bool:
        """Whether the states are in memory rather than in a file."""
        return not isinstance(self._values, FileArray)

    def __getitem__(self, rows: Rows) -> NDArray[np.float32]:
        """The states of some places, `[chosen, L, W]`."""
        values = self._values[rows if self._rows is None else self._rows[rows]]
        if len(self._columns) != values.shape[1] or (np.diff(self._columns) != 1).any():
            values = values[:, self._columns]
        return values.astype(np.float32, copy=False)

    def subset(self, rows: Rows) -> States:
        """Some of the places, without copying their states."""
        known = np.arange(len(self._values)) if self._rows is None else self._rows
        return self._view(self.layers, self._columns, known[rows])

    def only(self, layers: Sequence[str]) -> States:
        """Some of the layers, without copying their states."""
        unknown = [name for name in layers if name not in self.layers]
        if unknown or not layers:
            raise ValueError(f"layers must be among {', '.join(self.layers)}, got {unknown or 'none'}")
        return self._view(layers, self._columns[[self.layers.index(name) for name in layers]], self._rows)

    def _view(self, layers: Sequence[str], columns: NDArray[np.int64], rows: NDArray[np.int64] | None) -> States:
        view = States.__new__(States)
        view.layers, view._values, view._columns, view._rows = tuple(layers), self._values, columns, rows
        return view

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All states in order, some places at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(self)))
            yield rows, self[rows]


def residual_layers(config: TransformerConfig) -> tuple[str, ...]:
    """The residual stream as it enters the first block and leaves each."""
    return ("embed", *(f"block.{layer}.resid_post" for layer in range(config.layers)))


def read_states(
    model: nn.Module,
    inputs: Inputs,
    layers: Sequence[str] | None = None,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    memory_bytes: int = MEMORY_BYTES,
    folder: Path | None = None,
    call: Callable[[Any, Tensor], object] | None = None,
) -> States:
    """Hidden states at all places, by one pass over each document.

    Example:
        >>> states = read_states(model, Inputs.last(samples))
        >>> states.layers
        ('embed', 'block.0.resid_post', 'block.1.resid_post')

    Args:
        model: a `Transformer`, or any module that reads token ids `[B, T]`. The latter is given documents of equal
            length at a time, since what it makes of padding is not known.
        inputs: documents and places.
        layers: of a `Transformer`, names of its hidden states, by default `residual_layers`; of another module, names
            of submodules whose outputs (or the first of them) are `[B, T, …]`. All must be equally wide.
        tokens_per_batch: tokens, padding included, that are read at once.
        memory_bytes: larger results are kept in a file.
        folder: where this file is made.
        call: how another module is run on tokens; `module(tokens)` by default.

    Raises:
        ValueError: a layer that the model does not have, that is not a state by position, or of another width.
    """
    if isinstance(model, Transformer):
        layers = tuple(residual_layers(model.config) if layers is None else layers)
        reader: Callable[..., dict[str, Tensor]] = _read_transformer
        causal, equal_lengths = model.config.causal, False
    else:
        if layers is None:
            raise ValueError(f"layers of a {type(model).__name__} must be named, got None; see its named_modules()")
        layers, causal, equal_lengths = tuple(layers), False, True
        run = call or (lambda module, tokens: module(tokens))
        reader = _hooked_reader(run)
    if not layers:
        raise ValueError("layers must name at least 1 hidden state, got none")
    values: NDArray[Any] | FileArray | None = None
    with evaluating(model) as device:
        for batch in document_batches(inputs, tokens_per_batch, causal=causal, equal_lengths=equal_lengths):
            tokens, inside = (torch.from_numpy(part).to(device) for part in (batch.tokens, batch.inside))
            states = reader(model, tokens, inside, layers)
            at = torch.from_numpy(batch.places).to(device)
            chosen = [_by_position(name, states[name], tokens.shape)[at[0], at[1]] for name in layers]
            if len({state.shape for state in chosen}) > 1:
                widths = {name: state.shape[1] for name, state in zip(layers, chosen, strict=True)}
                raise ValueError(f"layers that are read together must be equally wide, got {widths}")
            block = torch.stack(chosen, dim=1).float().cpu().numpy()
            if values is None:
                shape = (len(inputs), *block.shape[1:])
                fits = int(np.prod(shape)) * block.itemsize <= memory_bytes
                values = np.empty(shape, dtype=np.float32) if fits else FileArray(shape, np.float32, folder)
            values[batch.rows] = block
    assert values is not None
    return States(layers, values)


def _read_transformer(model: Transformer, tokens: Tensor, inside: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    capture = Capture(layers)
    model.hidden(tokens, documents=None if model.config.causal else inside.long(), capture=capture)
    return capture.states


def _hooked_reader(run: Callable[[Any, Tensor], object]) -> Callable[..., dict[str, Tensor]]:
    def read(module: nn.Module, tokens: Tensor, inside: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        del inside  # documents of equal length have no padding
        known = dict(module.named_modules())
        states: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _arguments: object, output: Any) -> None:
                states[name] = output[0] if isinstance(output, (tuple, list)) else output

            return hook

        handles: list[torch.utils.hooks.RemovableHandle] = []
        try:
            for name in layers:
                if name not in known:
                    close = get_close_matches(name, known, n=3, cutoff=0)
                    raise ValueError(f"this model has no submodule {name!r}; close names are {', '.join(close)}")
                handles.append(known[name].register_forward_hook(keep(name)))
            run(module, tokens)
        finally:
            for handle in handles:
                handle.remove()
        if silent := [name for name in layers if name not in states]:
            raise ValueError(f"submodules must run when the model reads tokens, got {silent[0]!r}, which did not")
        return states

    return read


def _by_position(name: str, state: Tensor, shape: torch.Size) -> Tensor:
    """A state as `[B, T, W]`."""
    if name.rpartition(".")[2] in _BY_PAIR or state.ndim < 3 or state.shape[:2] != shape:
        raise ValueError(
            f"layers must be states by position, {tuple(shape)} and then widths, got {name!r} of {tuple(state.shape)}"
        )
    return state.flatten(2)
