"""What a positional encoding may do.

- It may act in three places only: on the embeddings (`embed`), on queries and keys (`rotate`), or as an
  additive attention score (`score`), which may also stand in for the content score (`replaces_content`).
- Each of the three defaults to doing nothing, so an encoding overrides the one it needs. One that is limited in
  length, or keeps a table, says so in `reserve`.
- Positions are explicit integers, so decoding with a cache is the same code as a full forward pass.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn


class PositionalEncoding(nn.Module):
    """The identity encoding: attention without any notion of position."""

    replaces_content: ClassVar[bool] = False
    """Whether `score` is used instead of the query-key product."""

    def reserve(self, length: int) -> None:
        """Get ready for positions below `length`; called at the start of every forward pass.

        Raises:
            ValueError: if the encoding is not defined there.
        """
        del length

    def embed(self, residual: Tensor, positions: Tensor) -> Tensor:
        """Change the embeddings, `[B, T, W]`, at integer `positions`, `[T]`."""
        del positions
        return residual

    def rotate(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Change queries or keys, `[..., T, D]`, at integer `positions`, `[T]`."""
        del positions
        return vectors

    def score(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """A score `[H, T, S]` added before the softmax, or `None`."""
        del query_positions, key_positions
        return None

    def parameter_count(self) -> int:
        """Number of trainable numbers in this encoding."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """Base of the configs of positional encodings."""

    name: ClassVar[str] = ""

    def build(self, *, width: int, heads: int, head_width: int, context: int) -> PositionalEncoding:
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
    return _REGISTRY[name](**parameters)
