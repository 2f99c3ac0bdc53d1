"""What a positional encoding may do.

- It may act in three places only: on the embeddings (`embed`), on queries and keys (`rotate`), or as an additive
  attention score (`score` or `layer_score`), which may also stand in for the content score (`replaces_content`).
- Each of these defaults to doing nothing, so an encoding overrides the one it needs. One that is limited in length, or
  keeps a table, says so in `reserve`.
- Tables that are computed, which are buffers, keep at least float32 in a model of fewer bits, whose far positions would
  otherwise be the same; what is made of them is rounded where it meets the model's states.
- Positions are explicit integers, one row for all documents or one for each, so decoding with a cache and prompts that
  are padded on the left are the same code as a full forward pass.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width. `[*, T]` is `[T]` or, where every
document has positions of its own, `[B, T]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What an encoding may know of the model that it is built for."""

    layers: int
    width: int
    heads: int
    head_width: int
    context: int
    causal: bool


class PositionalEncoding(nn.Module):
    """The identity encoding: attention without any notion of position."""

    def reserve(self, length: int) -> None:
        """Get ready for positions below `length`; called at the start of every forward pass.

        Raises:
            ValueError: if the encoding is not defined there.
        """
        del length

    def embed(self, residual: Tensor, positions: Tensor) -> Tensor:
        """Change the embeddings, `[B, T, W]`, at integer `positions`, `[*, T]`."""
        del positions
        return residual

    def rotate(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Change queries or keys, `[..., H, T, D]`, at integer `positions`, `[*, T]`.

        With positions `[B, T]` the vectors are `[..., B, H, T, D]`.
        """
        del positions
        return vectors

    def content_scale(self, head_width: int) -> float:
        """Factor on the query-key product."""
        return head_width**-0.5

    def score(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """A score `[H, T, S]` or `[B, H, T, S]` added before the softmax in all layers, or `None`; made once a pass.

        Args:
            query_positions: `[*, T]`.
            key_positions: `[*, S]`; later keys than the query are masked by the caller.
        """
        del query_positions, key_positions
        return None

    def layer_score(
        self, layer: int, queries: Tensor | None, keys: Tensor | None, query_positions: Tensor, key_positions: Tensor
    ) -> Tensor | None:
        """A score `[H, T, S]` or `[B, H, T, S]` that differs from layer to layer, or reads queries and keys, or `None`.

        Args:
            layer: number of the block.
            queries: `[B, H, T, D]`, after `rotate`; `None` if the encoding replaces the content score.
            keys: `[B, H, S, D]`, those of a group repeated for each of its heads; `None` likewise.
            query_positions: `[*, T]`.
            key_positions: `[*, S]`; the same tensor as `query_positions` where queries and keys are the same tokens.
                Later keys than the query are masked by the caller if the model is causal.
        """
        del layer, queries, keys, query_positions, key_positions
        return None

    def parameter_count(self) -> int:
        """Number of trainable numbers in this encoding."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionalEncoding:
        """What PyTorch calls to move a module or to change its type: buffers are moved, but never rounded."""
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            if moved.dtype.itemsize < min(buffer.dtype.itemsize, torch.float32.itemsize):
                setattr(self, name, buffer.to(moved.device))
        return self


def distances(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """How far each query, `[*, T]`, is behind each key, `[*, S]`: `[*, T, S]`, negative for later keys."""
    return query_positions[..., :, None] - key_positions[..., None, :]


def are_consecutive(query_positions: Tensor, key_positions: Tensor) -> bool:
    """Whether queries and keys are the same tokens, one after another, so that `by_distance` can be used."""
    return query_positions is key_positions and query_positions.ndim == 1


def by_distance(columns: Float[Tensor, "*heads T R"], *, upper: bool = False) -> Float[Tensor, "*heads T T"]:
    """Every row moved by its number, so that columns of distances become columns of tokens; no entry is looked up.

    Args:
        columns: with `R = 2T - 1`, entry (t, s) of the result is `columns[t, s - t + T - 1]`. With `R = T` it is the
            same on and below the diagonal; what is above it has no meaning and must be masked.
        upper: with `R = T`, entry (t, s) is `columns[t, s - t]` on and above the diagonal, without meaning below.

    Source: Dai et al. 2019, App. B.
    """
    length, count = columns.shape[-2:]
    if length == 1:
        return columns
    first = length - 1
    if count == length:
        columns = F.pad(columns, (0, 1) if upper else (1, 0))
        count, first = length + 1, 0 if upper else length
    return columns.flatten(-2)[..., first : first + length * (count - 1)].unflatten(-1, (length, -1))[..., :length]


def per_head(values: Tensor) -> Tensor:
    """A number for each head, `[H]`, in the place that heads have in scores: `[H, 1, 1]`."""
    return values[:, None, None]


def look_up(table: Tensor, columns: Tensor) -> Tensor:
    """Scores `[*, H, T, S]` that stand in a table `[H, columns]`, at `columns`, `[*, T, S]`."""
    # Selecting by one index has a much faster gradient than general indexing.
    return table.index_select(1, columns.flatten()).unflatten(1, columns.shape).movedim(0, -3)


def share_of_heads(what: str, fraction: float, heads: int) -> int:
    """How many heads a fraction of them is; `what` names the fraction in the error.

    Raises:
        ValueError: if it is not a whole number ≥ 1.
    """
    share = round(fraction * heads)
    if share < 1 or abs(share - fraction * heads) > 1e-6:
        raise ValueError(
            f"{what} must be a whole number ≥ 1 of {heads} heads, got {fraction} × {heads} = {fraction * heads:g}; "
            f"choose k / {heads}"
        )
    return share


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """Base of the configs of positional encodings."""

    name: ClassVar[str] = ""
    relative: ClassVar[bool] = True
    """Whether attention depends on distances only, so that moving all positions changes nothing."""
    beyond_context: ClassVar[Literal["works", "error"]] = "works"
    """What happens at positions beyond the context that the model is built for."""
    replaces_content: ClassVar[bool] = False
    """Whether the score stands in for the query-key product; blocks then have no query and key matrices."""
    cacheable: ClassVar[bool] = True
    """Whether what was computed for a token stays right when later tokens are read."""

    def build(self, shape: ModelShape) -> PositionalEncoding:
        """The module this config describes, for a model of the given shape."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `position_from_dict` makes an equal config."""
        return {"name": self.name, **asdict(self)}


_REGISTRY: dict[str, type[PositionConfig]] = {}
ConfigClass = TypeVar("ConfigClass", bound=type[PositionConfig])


def register(name: str) -> Callable[[ConfigClass], ConfigClass]:
    """Make a config class available under `name`."""

    def decorate(config_class: ConfigClass) -> ConfigClass:
        if name in _REGISTRY and _REGISTRY[name].__qualname__ != config_class.__qualname__:
            raise ValueError(f"a positional encoding named {name!r} is already registered: {_REGISTRY[name]}")
        config_class.name = name
        _REGISTRY[name] = config_class
        return config_class

    return decorate


def position_names() -> tuple[str, ...]:
    """Names of all positional encodings."""
    return tuple(sorted(_REGISTRY))


def position_from_dict(entry: dict[str, Any]) -> PositionConfig:
    """The config that `PositionConfig.to_dict` described."""
    parameters = dict(entry)
    name = parameters.pop("name", None)
    if name not in _REGISTRY:
        raise ValueError(f"position must be one of {', '.join(position_names())}, got {name!r}")
    known = {field.name for field in fields(_REGISTRY[name])}
    if unknown := set(parameters) - known:
        raise ValueError(f"position {name!r} has no field {sorted(unknown)}; its fields are {sorted(known)}")
    # JSON has lists where a config has tuples.
    return _REGISTRY[name](
        **{key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    )
