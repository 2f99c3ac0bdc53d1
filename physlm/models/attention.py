"""Attention: by the fused kernel when nobody looks, step by step when somebody does.

- Everything positions do is asked of the encoding (`physlm.models.positions`): turning queries and keys, and additive
  scores, which may stand in for the content score.
- A `Cache` makes decoding incremental; it is the same code, fed with fewer queries.
- A `Layout` lays documents that start alike over each other: everything but attention reads what they share once.

Shape legend: B batch, T queries, S keys, H heads, G heads of keys and values, D head width, W model width, N tokens of
a layout, A asked places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.canon import CanonLayer
from physlm.models.capture import Capture
from physlm.models.config import TransformerConfig, canon_widths
from physlm.models.feed_forward import residual_scale
from physlm.models.fused_attention import at_least_float32, causal_mask, fused_attention
from physlm.models.linear import Linear, linear
from physlm.models.norms import build_norm
from physlm.models.positions import PositionalEncoding


class Cache:
    """What later tokens need to know of those already read.

    For reading without gradients. Keys and values are `[B, G, capacity, D]` each per layer; the last inputs of every
    Canon layer are kept as well. With `starts`, `[B]`, everything before that column of a row is padding.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, *, like: Tensor) -> None:
        if not config.causal:
            raise ValueError("a bidirectional model cannot be cached: its earlier tokens see later ones")
        if not config.position.cacheable:
            raise ValueError(
                f"{config.position.name} positions cannot be cached: later tokens change earlier ones; "
                "read the whole text again for every token"
            )
        shape = (config.layers, 2, batch, config.groups, capacity, config.head_width)
        self.storage = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.earlier: dict[str, Tensor] = {}
        self.starts: Tensor | None = None
        self.length = 0

    @property
    def capacity(self) -> int:
        """Tokens there is room for."""
        return self.storage.shape[4]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[B, G, T, D]` keys and values to a layer; returns all of them, `[B, G, S, D]`."""
        end = self.length + keys.shape[2]
        self.storage[layer, 0, :, :, self.length : end] = keys
        self.storage[layer, 1, :, :, self.length : end] = values
        # Under autocast they come in fewer bits than the weights that the cache was made like.
        stored = self.storage[layer, :, :, :, :end].to(keys.dtype)
        return stored[0], stored[1]

    def check(self, config: TransformerConfig, batch: int) -> None:
        """Refuse another model's cache, or one for another number of rows.

        Raises:
            ValueError: naming both shapes.
        """
        layers, _, rows, groups, _, head_width = self.storage.shape
        expected = (config.layers, batch, config.groups, config.head_width)
        if (layers, rows, groups, head_width) != expected:
            raise ValueError(
                f"the cache is for {layers} layers, {rows} rows and {groups} heads of width {head_width}, got "
                f"{expected[0]}, {expected[1]} and {expected[2]} of width {expected[3]}; "
                "make it for this model and batch"
            )

    def keep(self, rows: Int[Tensor, " rows"]) -> None:
        """Make row `rows[i]` of the batch row `i`, and forget all others; a row may be kept more than once.

        Call it between passes; `rows` are indices into the batch as it is now.
        """
        self.storage = self.storage[:, :, rows]
        self.earlier = {name: states[rows] for name, states in self.earlier.items()}
        self.starts = None if self.starts is None else self.starts[rows]


@dataclass(frozen=True)
class Layout:
    """Documents `[B, T]` over tokens `[N]` that several of them may share, for reading without gradients.

    In a causal model, documents share a token if they are the same up to and including it. Places that belong to no
    document hold any token; there, nothing is asked.
    """

    tokens: Int[Tensor, "B T"]
    """The token at every place, as an index."""
    places: Int[Tensor, " N"]
    """A place of every token, counted row by row."""
    asked: Int[Tensor, " A"]
    """Places whose final hidden states are wanted."""
    first_asked: int
    """Column before which nothing is asked."""

    def after_attention(self, last: bool) -> Int[Tensor, " places"]:
        """Where the results of attention are wanted, among its queries; those of the last block begin later."""
        if not last:
            return self.places
        columns = self.tokens.shape[1]
        rows = torch.div(self.asked, columns, rounding_mode="floor")
        return self.asked - (rows + 1) * self.first_asked

    def spread(self, states: Tensor) -> Tensor:
        """`[N, W]` to `[B, T, W]`, as fast as copying, which indexing is not."""
        return F.embedding(self.tokens, states)


@dataclass(frozen=True)
class Read:
    """What every block needs to know about the tokens being read in this pass."""

    positions: Tensor
    """Integer positions of the queries, `[T]` or `[B, T]`."""
    key_positions: Tensor
    """Integer positions of the keys, `[S]` or `[B, S]`."""
    causal: bool
    """Whether the causal mask applies in its plain form (queries and keys are the same tokens)."""
    score: Tensor | None
    """Additive mask and score that all layers share, broadcastable to `[B, H, T, S]`."""
    cache: Cache | None
    capture: Capture
    layout: Layout | None = None
    last: bool = False
    """Whether this is a last block that with a layout goes on only where something is asked."""
    padding: Tensor | None = None
    """Zero where a token is padding and one elsewhere, `[B, T, 1]`; `None` without padding."""
    visible_lags: Tensor | None = None
    """For every lag from 1 on, whether a token and the one that far back are one document's, `[lags, B, T]`."""

    def convolve(self, layer: CanonLayer | None, name: str, states: Tensor) -> Tensor:
        """Apply a Canon layer, if there is one, to `[B, T, M]`, or in a layout to `[N, M]`."""
        if layer is None:
            return states
        if self.layout is not None and states.ndim == 2:
            mixed = self.convolve(layer, name, self.layout.spread(states))
            return mixed.flatten(0, 1).index_select(0, self.layout.places)
        if self.padding is not None:
            states = states * self.padding
        if self.cache is None:
            return layer(states, None, self.visible_lags)
        before = layer.config.kernel - 1
        earlier = self.cache.earlier.get(name)
        if earlier is None:
            earlier = states.new_zeros(states.shape[0], before, states.shape[2])
        self.cache.earlier[name] = torch.cat([earlier, states], dim=1)[:, -before:]
        return layer(states, earlier)


class Attention(nn.Module):
    """Multi-head attention; several query heads may share keys and values."""

    position: PositionalEncoding

    def __init__(self, config: TransformerConfig, layer: int, position: PositionalEncoding) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        width, key_value = config.width, config.groups * config.head_width
        content = not config.position.replaces_content
        self.query = Linear(width, width, bias=config.biases) if content else None
        self.key = Linear(width, key_value, bias=config.biases) if content else None
        self.value = Linear(width, key_value, bias=config.biases)
        self.output = Linear(width, width, bias=config.biases, initial_scale=residual_scale(config))
        self.query_norm = build_norm(config, width) if config.query_key_norm and content else None
        self.key_norm = build_norm(config, key_value) if config.query_key_norm and content else None
        self.canon_b = build_canon(config, "B")
        # Kept out of the module tree: the encoding belongs to the model and is shared by all blocks.
        self.__dict__["position"] = position

    def forward(self, inputs: Float[Tensor, "... W"], read: Read) -> Float[Tensor, "... W"]:
        """Mix information between positions, `[B, T, W]`; `[N, W]` or `[A, W]` in a layout."""
        capture, layout = read.capture, read.layout
        projected = self._project(inputs)
        if layout is not None:
            projected = layout.spread(projected)
        queries, keys, values = self._heads(projected, read)
        if read.cache is not None:
            keys, values = read.cache.extend(self.layer, keys, values)
        first = layout.first_asked if layout is not None and read.last else 0
        positions = read.positions[..., first:] if first else read.positions
        if queries is None:
            own = self.position.layer_score(self.layer, None, None, positions, read.key_positions)
            mixed = self._mix(_total(own, read.score), values, read)
        else:
            queries = queries[:, :, first:]
            keys, values = self._each_head(keys), self._each_head(values)
            own = self.position.layer_score(self.layer, queries, keys, positions, read.key_positions)
            mixed = self._attend(queries, keys, values, _total(own, read.score), read)
        mixed = capture(self._name("z"), rearrange(mixed.to(projected.dtype), "B H T D -> B T H D"))
        if capture.wants(self._name("head_out")):
            weight = rearrange(self.output.weight, "W (H D) -> H D W", H=self.config.heads)
            parts = capture(self._name("head_out"), torch.einsum("B T H D, H D W -> B T H W", mixed, weight))
            summed = parts.sum(dim=2)
            return summed + self.output.bias if self.config.biases else summed
        mixed = mixed.flatten(2)
        if layout is not None:
            mixed = mixed.flatten(0, 1).index_select(0, layout.after_attention(read.last))
        return self.output(mixed)

    def _name(self, state: str) -> str:
        return f"block.{self.layer}.{state}"

    def _project(self, inputs: Float[Tensor, "... W"]) -> Tensor:
        """Queries, keys and values side by side, by one product; values alone if there is no content score."""
        if self.query is None or self.key is None:
            return self.value(inputs)
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers]) if self.config.biases else None
        return linear(inputs, weight, bias)

    def _heads(self, projected: Tensor, read: Read) -> tuple[Tensor | None, Tensor, Tensor]:
        """Queries `[B, H, T, D]`, keys and values `[B, G, T, D]`, positions applied.

        An encoding that replaces the content score has no queries, and its values stand in for the keys.
        """
        config, capture = self.config, read.capture
        key_value = config.groups * config.head_width
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys, values = projected.split([config.width, key_value, key_value], dim=-1)
            projected = torch.cat([self.query_norm(queries), self.key_norm(keys), values], dim=-1)
        projected = read.convolve(self.canon_b, self._name("canon_b"), projected)
        heads = rearrange(projected, "B T (heads D) -> B heads T D", D=config.head_width)
        if self.query is None:
            values = self._tap("v", heads, capture)
            return None, values, values
        looked_at = capture.wants(*(self._name(name) for name in ("q", "k", "v", "rot_q", "rot_k")))
        if config.groups == config.heads and not looked_at:
            # Parts of a split are put together again by one copy in the backward pass, those of a slice by three.
            turned, values = heads.unflatten(1, (3, config.heads)).transpose(0, 1).split([2, 1])
            queries, keys = self.position.rotate(turned, read.positions).unbind(0)
            return queries, keys, values.squeeze(0)
        queries, keys, values = heads.split([config.heads, config.groups, config.groups], dim=1)
        queries, keys, values = (
            self._tap(name, states, capture) for name, states in (("q", queries), ("k", keys), ("v", values))
        )
        queries = self._tap("rot_q", self.position.rotate(queries, read.positions), capture)
        keys = self._tap("rot_k", self.position.rotate(keys, read.positions), capture)
        return queries, keys, values

    def _tap(self, name: str, states: Float[Tensor, "B heads T D"], capture: Capture) -> Tensor:
        """Show `[B, T, heads, D]` to whoever looks."""
        name = self._name(name)
        return capture(name, states.transpose(1, 2)).transpose(1, 2) if capture.wants(name) else states

    def _each_head(self, states: Float[Tensor, "B G S D"]) -> Float[Tensor, "B H S D"]:
        """Keys or values of a group, repeated for each of its heads."""
        repeats = self.config.heads // self.config.groups
        return states.repeat_interleave(repeats, dim=1) if repeats > 1 else states

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, score: Tensor | None, read: Read
    ) -> Float[Tensor, "B H T D"]:
        """Softmax attention, fused unless somebody looks inside."""
        device = queries.device.type
        scale = self.position.content_scale(self.config.head_width)
        with torch.autocast(device, enabled=False):
            if not read.capture.wants(self._name("attn_scores"), self._name("pattern")):
                dropout = self.config.dropout if self.training else 0.0
                return fused_attention(queries, keys, values, score, causal=read.causal, scale=scale, dropout=dropout)
            queries, keys, values = (at_least_float32(part) for part in (queries, keys, values))
            scores = queries @ keys.mT * scale
            return self._mix(scores if score is None else scores + score, values, read)

    def _mix(self, scores: Tensor | None, values: Float[Tensor, "B G S D"], read: Read) -> Tensor:
        """Values mixed by the softmax of the scores, `[H, T, S]` or `[B, H, T, S]`, step by step."""
        if scores is None:
            raise ValueError("an encoding that replaces the content score must give a score, got none")
        if read.causal:
            scores = scores + causal_mask(scores)
        capture = read.capture
        values = self._each_head(values) if values.shape[1] != self.config.heads else values
        with torch.autocast(values.device.type, enabled=False):
            if capture.wants(self._name("attn_scores"), self._name("pattern")):
                scores = scores.expand(values.shape[0], *scores.shape[-3:])
            scores = capture(self._name("attn_scores"), scores)
            pattern = capture(self._name("pattern"), scores.softmax(dim=-1))
            if self.training and self.config.dropout:
                pattern = F.dropout(pattern, self.config.dropout)
            return pattern @ values.to(pattern.dtype)


def build_canon(config: TransformerConfig, letter: str) -> CanonLayer | None:
    """The Canon layer of that letter, if a block has it."""
    channels = canon_widths(config)
    return CanonLayer(channels[letter], config.canon) if config.canon and letter in channels else None


def _total(own: Tensor | None, shared: Tensor | None) -> Tensor | None:
    """Sum of what there is."""
    if own is None or shared is None:
        return shared if own is None else own
    return own + shared
