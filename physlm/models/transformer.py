"""A minimal transformer in one file: the GPT-2 block with exchangeable positions.

- Pre-norm blocks of attention and a GELU MLP with biases, a final LayerNorm, embeddings tied to the head.
- Positions are a named part (`physlm.models.positions`) that acts on embeddings, queries and keys, or scores.
- `causal=False` gives the masked-language-model twin; nothing else changes.
- Hidden states are captured by name (`embed`, `block.3.resid_mid`, `block.3.attn_out`, …) in the one forward pass.
- A `Cache` makes decoding incremental; it is the same attention code, fed with fewer queries.
- A `Layout` lays documents that start alike over each other: everything but attention reads what they share once,
  and the last block and final norm do their work only where hidden states are asked for.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width, V vocabulary, N tokens of a layout,
A asked places.
Source: Physics of Language Models 3.1, App. B (GPT2-rotary); Radford et al. 2019 (GPT-2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.linear import linear
from physlm.models.positions import PositionalEncoding, PositionConfig, Rotary, position_from_dict


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a transformer.

    Attributes:
        vocab_size: number of token ids (PAD, EOS, MASK and at least one word).
        context: longest window in tokens that the model is trained on.
        layers, heads, width: depth, attention heads and residual width; `width` is a multiple of `heads`.
        mlp_ratio: hidden width of the MLP as a multiple of `width`.
        position: config of the positional encoding.
        causal: whether a token sees only itself and earlier tokens.
        dropout: probability of zeroing an embedding, attention or MLP output while training.
        initial_std: standard deviation of the initial weights; output projections get it divided by
            the square root of twice the number of layers (GPT-2).
    """

    vocab_size: int
    context: int
    layers: int
    heads: int
    width: int
    mlp_ratio: float = 4.0
    position: PositionConfig = field(default_factory=Rotary)
    causal: bool = True
    dropout: float = 0.0
    initial_std: float = 0.02

    def __post_init__(self) -> None:
        if self.vocab_size < 4:
            raise ValueError(f"vocab_size must be ≥ 4 (PAD, EOS, MASK and a word), got {self.vocab_size}")
        for name in ("context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width {self.width} and heads {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.mlp_ratio <= 0 or self.initial_std <= 0:
            raise ValueError(f"mlp_ratio and initial_std must be > 0, got {self.mlp_ratio} and {self.initial_std}")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP."""
        return int(self.width * self.mlp_ratio)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `from_dict` makes an equal config."""
        return {**asdict(self), "position": self.position.to_dict()}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> TransformerConfig:
        """The config that `to_dict` described; unknown keys are an error."""
        known = {item.name for item in fields(cls)}
        if unknown := set(entry) - known:
            raise ValueError(f"transformer config has no field {sorted(unknown)}; its fields are {sorted(known)}")
        return cls(**{**entry, "position": position_from_dict(entry["position"])})


def parameter_count(config: TransformerConfig) -> int:
    """Number of parameters, in closed form (the tied embedding counted once).

    >>> parameter_count(TransformerConfig(vocab_size=50_257, context=512, layers=12, heads=12, width=768))
    123653376
    """
    width, hidden = config.width, config.mlp_width
    attention = 3 * width * width + 3 * width + width * width + width
    mlp = 2 * width * hidden + hidden + width
    norms = 4 * width
    position = config.position.build(
        width=width, heads=config.heads, head_width=config.head_width, context=config.context
    ).parameter_count()
    return config.vocab_size * width + position + config.layers * (attention + mlp + norms) + 2 * width


class Capture:
    """Collects hidden states by name during a forward pass; anything not asked for costs nothing.

    Names: `embed`, `final`, and per block `block.3.resid_pre`, `.attn_out`, `.resid_mid`, `.mlp_out`, `.resid_post`.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = frozenset(names)
        self.states: dict[str, Tensor] = {}

    def __call__(self, name: str, state: Tensor) -> None:
        """Keep `state` if `name` was asked for."""
        if name in self.names:
            self.states[name] = state


class Cache:
    """Keys and values of the tokens already read, each `[B, H, capacity, D]` per layer."""

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, *, like: Tensor) -> None:
        shape = (config.layers, 2, batch, config.heads, capacity, config.head_width)
        self.storage = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append `[B, H, T, D]` keys and values to a layer; returns all of them, `[B, H, S, D]`."""
        end = self.length + keys.shape[2]
        self.storage[layer, 0, :, :, self.length : end] = keys
        self.storage[layer, 1, :, :, self.length : end] = values
        return self.storage[layer, 0, :, :, :end], self.storage[layer, 1, :, :, :end]

    def keep(self, rows: Int[Tensor, " rows"]) -> None:
        """Forget all rows of the batch but `rows`, which become rows 0, 1, ….

        Call it between passes; `rows` are indices into the batch as it is now.
        """
        self.storage = self.storage[:, :, rows]


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


@dataclass(frozen=True)
class Read:
    """What every block needs to know about the tokens being read in this pass."""

    positions: Tensor
    """Integer positions of the queries, `[T]`."""
    causal: bool
    """Whether the causal mask applies in its plain form (queries and keys are the same tokens)."""
    score: Tensor | None
    """Additive mask or positional score, broadcastable to `[B, H, T, S]`."""
    cache: Cache | None
    capture: Capture
    layout: Layout | None = None
    last: bool = False
    """Whether this is the last block, which with a layout goes on only where something is asked."""


class Attention(nn.Module):
    """Multi-head attention with biases."""

    position: PositionalEncoding

    def __init__(self, config: TransformerConfig, layer: int, position: PositionalEncoding) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        # Kept out of the module tree: the encoding belongs to the model and is shared by all blocks.
        self.__dict__["position"] = position

    def forward(self, residual: Float[Tensor, "... W"], read: Read) -> Float[Tensor, "... W"]:
        """Mix information between positions, `[B, T, W]`; `[N, W]` or `[A, W]` in a layout."""
        heads = self.config.heads
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        bias = torch.cat([self.query.bias, self.key.bias, self.value.bias])
        projected = linear(residual, weight, bias)
        if read.layout is not None:
            # As fast as copying, which indexing is not.
            projected = F.embedding(read.layout.tokens, projected)
        projected = rearrange(projected, "B T (three H D) -> three B H T D", three=3, H=heads)
        queries, keys = self.position.rotate(projected[:2], read.positions).unbind(0)
        values = projected[2]
        if read.cache is not None:
            keys, values = read.cache.extend(self.layer, keys, values)
        if self.position.replaces_content:
            queries = torch.zeros_like(queries)
        if read.layout is not None and read.last:
            queries = queries[:, :, read.layout.first_asked :]
        mixed = self._attend(queries, keys, values, read)
        mixed = rearrange(mixed, "B H T D -> B T (H D)")
        if read.layout is not None:
            mixed = mixed.flatten(0, 1).index_select(0, read.layout.after_attention(read.last))
        return linear(mixed, self.output.weight, self.output.bias)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, read: Read) -> Float[Tensor, "B H T D"]:
        """Softmax attention by the fused kernel, which on a CPU is several times faster in float32 than in bfloat16."""
        device = queries.device.type
        precision = torch.float32 if device == "cpu" else queries.dtype
        score = None if read.score is None else read.score.to(precision)
        with torch.autocast(device, enabled=False):
            return F.scaled_dot_product_attention(
                queries.to(precision),
                keys.to(precision),
                values.to(precision),
                attn_mask=score,
                dropout_p=self.config.dropout if self.training else 0.0,
                is_causal=read.causal,
            )


class MLP(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, config.width)

    def forward(self, residual: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        """Transform each position on its own."""
        activated = linear(residual, self.up.weight, self.up.bias, gelu=True)
        return linear(activated, self.down.weight, self.down.bias)


class Block(nn.Module):
    """Pre-norm attention, then pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, position: PositionalEncoding) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config, layer, position)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, residual: Float[Tensor, "... W"], read: Read) -> Float[Tensor, "... W"]:
        """Read from and add to the residual stream, `[B, T, W]`, `[N, W]` or `[A, W]` in a layout."""
        capture = read.capture
        capture(f"block.{self.layer}.resid_pre", residual)
        attention_out = self.dropout(self.attention(self.attention_norm(residual), read))
        capture(f"block.{self.layer}.attn_out", attention_out)
        if read.layout is not None and read.last:
            residual = residual[read.layout.tokens.flatten()[read.layout.asked]]
        residual = residual + attention_out
        capture(f"block.{self.layer}.resid_mid", residual)
        mlp_out = self.dropout(self.mlp(self.mlp_norm(residual)))
        capture(f"block.{self.layer}.mlp_out", mlp_out)
        residual = residual + mlp_out
        capture(f"block.{self.layer}.resid_post", residual)
        return residual


class Transformer(nn.Module):
    """The language model: tokens in, logits over the next token (or the masked token) out.

    Example:
        >>> config = TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32)
        >>> Transformer(config, seed=0)(torch.zeros(3, 16, dtype=torch.long)).shape
        torch.Size([3, 16, 100])
    """

    def __init__(self, config: TransformerConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        # Layers draw default weights from PyTorch's global generator, which belongs to the caller.
        with torch.random.fork_rng(devices=[]):
            self.embed = nn.Embedding(config.vocab_size, config.width)
            self.position = config.position.build(
                width=config.width, heads=config.heads, head_width=config.head_width, context=config.context
            )
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config, layer, self.position) for layer in range(config.layers))
            self.final_norm = nn.LayerNorm(config.width)
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
            self.head.weight = self.embed.weight
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw all weights from `seed`, in the order of their names, on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(self.named_parameters()):
            std = self.config.initial_std
            if "norm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                if name.endswith(("attention.output.weight", "mlp.down.weight")):
                    std /= math.sqrt(2 * self.config.layers)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def hidden(
        self,
        tokens: Int[Tensor, "..."],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        capture: Capture | None = None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "... W"]:
        """Final normalised hidden states, `[B, T, W]`, or with a layout `[A, W]`.

        Args:
            tokens: token ids, `[B, T]`, or with a layout `[N]`.
            documents: document number of every token; attention then stays within a document. Not with a cache.
            cache: keys and values of earlier tokens; these tokens are read as their continuation.
            capture: collects named hidden states.
            layout: how the documents are laid over `tokens`, and where hidden states are wanted.

        Raises:
            ValueError: if learned positions would be read beyond the context, or `documents` come with a cache.
        """
        capture = capture or Capture()
        if cache is not None and documents is not None:
            raise ValueError("a cache holds one document per row, got `documents` as well; leave one of them out")
        start = cache.length if cache is not None else 0
        end = start + (tokens if layout is None else layout.tokens).shape[1]
        self.position.reserve(end)
        key_positions = torch.arange(end, device=tokens.device)
        positions = key_positions[start:]
        score = self.position.score(positions, key_positions)
        # One query sees every key, and the fused kernel knows the plain causal mask; all else is spelled out.
        masked = self.config.causal and len(positions) > 1
        plain = masked and score is None and documents is None and start == 0
        if documents is not None or (masked and not plain):
            visible = self._visible(positions, key_positions, documents)
            score = torch.where(visible, 0.0 if score is None else score, float("-inf"))
        read = Read(positions, plain, score, cache, capture, layout)
        last_read = replace(read, last=True)
        if layout is not None:
            # The last block has fewer queries than keys, which the fused kernel's mask is not made for.
            if plain:
                score = torch.where(self._visible(positions, key_positions, None), 0.0, float("-inf"))
            score = None if score is None else score[..., layout.first_asked :, :]
            last_read = replace(last_read, causal=False, score=score)

        token_positions = positions if layout is None else positions[layout.places % len(positions)]
        residual = self.dropout(self.position.embed(self.embed(tokens), token_positions))
        capture("embed", residual)
        *earlier, last = self.blocks
        for block in earlier:
            residual = block(residual, read)
        residual = last(residual, last_read)
        if cache is not None:
            cache.length = end
        residual = self.final_norm(residual)
        capture("final", residual)
        return residual

    def _visible(self, positions: Tensor, key_positions: Tensor, documents: Tensor | None) -> Tensor:
        """Which keys each query may see, bool, broadcastable to `[B, H, T, S]`."""
        visible = torch.ones(len(positions), len(key_positions), dtype=torch.bool, device=positions.device)
        if self.config.causal:
            visible = positions[:, None] >= key_positions[None, :]
        if documents is not None:
            visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
        return visible

    def forward(
        self, tokens: Int[Tensor, "B T"], *, documents: Int[Tensor, "B T"] | None = None, capture: Capture | None = None
    ) -> Float[Tensor, "B T V"]:
        """Logits at every position."""
        return self.head(self.hidden(tokens, documents=documents, capture=capture))
