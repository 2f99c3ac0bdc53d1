"""A minimal transformer: pre-norm blocks whose every part is chosen by name in one frozen config.

- Embedding, blocks of attention and MLP (or experts), final norm, head. By default it is the GPT-2 block with rotary
  positions and a head tied to the embedding.
- Exchanging a part leaves the initial weights of all others as they were, bit for bit: every weight is drawn from the
  seed and its own name.
- `causal=False` gives the masked-language-model twin; nothing else changes.
- Hidden states are read and edited by name (`physlm.models.capture`) in the one forward pass.
- Decoding with a `Cache`, prompts padded on the left, and documents laid over each other (`Layout`) are the same code.

Shape legend: B batch, T queries, S keys, H heads, D head width, W model width, V vocabulary, N tokens of a layout,
A asked places.
Source: Physics of Language Models 3.1, App. B (GPT2-rotary); Radford et al. 2019 (GPT-2).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from physlm.models.activations import ACTIVATIONS
from physlm.models.attention import Attention, Cache, Layout, Read, build_canon
from physlm.models.capture import Capture, tap_names
from physlm.models.checks import require_tokens
from physlm.models.config import TransformerConfig, parameter_count
from physlm.models.experts import MixtureOfExperts
from physlm.models.feed_forward import MLP, residual_scale
from physlm.models.linear import Linear
from physlm.models.norms import build_norm
from physlm.models.positions import PositionalEncoding
from physlm.randomness import Key

__all__ = ["Cache", "Capture", "Layout", "Transformer", "TransformerConfig", "parameter_count", "tap_names"]


class Block(nn.Module):
    """Pre-norm attention, then pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, position: PositionalEncoding) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = build_norm(config, config.width)
        self.attention = Attention(config, layer, position)
        self.mlp: MLP | MixtureOfExperts | None = None
        if config.experts is not None:
            self.mlp = MixtureOfExperts(
                config.width,
                config.experts,
                activation=ACTIVATIONS[config.activation],
                gated=config.gated,
                biases=config.biases,
                down_scale=residual_scale(config),
            )
        elif config.mlp_ratio:
            self.mlp = MLP(config, layer)
        self.mlp_norm = build_norm(config, config.width) if self.mlp is not None else None
        self.dropout = nn.Dropout(config.dropout)
        self.canon_a, self.canon_c, self.canon_d = (build_canon(config, letter) for letter in "ACD")

    def forward(self, residual: Float[Tensor, "... W"], read: Read) -> Float[Tensor, "... W"]:
        """Read from and add to the residual stream, `[B, T, W]`, `[N, W]` or `[A, W]` in a layout."""
        capture, layout, name = read.capture, read.layout, f"block.{self.layer}."
        residual = capture(name + "resid_pre", residual)
        inputs = read.convolve(self.canon_a, name + "canon_a", self.attention_norm(residual))
        attention_out = self.dropout(self.attention(capture(name + "attn_in", inputs), read))
        attention_out = capture(name + "attn_out", attention_out)
        if layout is not None and read.last:
            residual = residual[layout.tokens.flatten()[layout.asked]]
        residual = capture(name + "resid_mid", residual + attention_out)
        if self.mlp is not None and self.mlp_norm is not None:
            inputs = read.convolve(self.canon_c, name + "canon_c", self.mlp_norm(residual))
            inputs = capture(name + "mlp_in", inputs)
            if isinstance(self.mlp, MLP):
                convolve = partial(read.convolve, self.canon_d, name + "canon_d") if self.canon_d else None
                mlp_out = self.mlp(inputs, capture, convolve)
            else:
                mlp_out = self.mlp(inputs)
            mlp_out = self.dropout(mlp_out)
            residual = residual + capture(name + "mlp_out", mlp_out)
        return capture(name + "resid_post", residual)


class Transformer(nn.Module):
    """The language model: tokens in, logits over the next token (or the masked token) out.

    Example:
        >>> config = TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32)
        >>> Transformer(config, seed=0)(torch.zeros(3, 16, dtype=torch.long)).shape
        torch.Size([3, 16, 100])
    """

    checkpoint_activations: bool = False
    """Keep only what goes into each block for the backward pass, and compute the rest again."""

    def __init__(self, config: TransformerConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        # Layers draw default weights from PyTorch's global generator, which belongs to the caller.
        with torch.random.fork_rng(devices=[]):
            self.embed = nn.Embedding(config.embedding_rows, config.width)
            self.position = config.position.build(config.shape)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config, layer, self.position) for layer in range(config.layers))
            self.final_norm = build_norm(config, config.width)
            self.head = Head(config)
            if config.tied:
                self.head.weight = self.embed.weight
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw every weight on the CPU from `seed` and its own name."""
        drawn: set[nn.Parameter] = set()
        for path, module in self.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter in drawn:
                    continue
                drawn.add(parameter)
                key = Key.of("initial weights", seed, f"{path}.{name}")
                generator = torch.Generator().manual_seed(key.low)
                values = torch.empty(parameter.shape)
                draw: Any = getattr(module, "initialise", None)
                if draw is not None:
                    draw(name, values, generator, self.config.initial_std)
                elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                    values.fill_(1.0 if name == "weight" else 0.0)
                else:
                    values.normal_(0.0, self.config.initial_std, generator=generator)
                parameter.copy_(values)
        self.embed.weight[self.config.vocab_size :] = 0.0
        self.head.weight[self.config.vocab_size :] = 0.0

    def hidden(
        self,
        tokens: Int[Tensor, "..."],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        starts: Int[Tensor, " B"] | None = None,
        first_position: int = 0,
        cache: Cache | None = None,
        capture: Capture | None = None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "... W"]:
        """Final normalised hidden states, `[B, T, W]`, or with a layout `[A, W]`.

        Args:
            tokens: token ids, `[B, T]`, or with a layout `[N]`.
            documents: document number of every token; attention then stays within a document. Not with a cache.
            starts: column of the first token of every row; what is before it is padding, and positions count from
                it. A cache remembers it.
            first_position: position of the first token; only absolute encodings notice.
            cache: what is known of earlier tokens; these tokens are read as their continuation.
            capture: reads and edits hidden states by name.
            layout: how the documents are laid over `tokens`, and where hidden states are wanted.

        Raises:
            ValueError: if `tokens` are no token ids (on an accelerator, values are not looked at), an encoding would be
                read beyond its context, arguments exclude each other, the cache is full, or the model has no hidden
                state of a captured name.
        """
        capture = capture or Capture()
        capture.check(self.config)
        require_tokens(tokens, self.config.vocab_size, dimensions=2 if layout is None else 1)
        read = self._read(tokens, documents, starts, first_position, cache, capture, layout)
        last_read = read if layout is None else self._last_read(read, layout)
        positions = read.positions if layout is None else read.positions[layout.places % len(read.positions)]
        residual = self.dropout(self.position.embed(self.embed(tokens), positions))
        residual = capture("embed", residual)
        for block in self.blocks:
            block_read = last_read if block is self.blocks[-1] else read
            if self.checkpoint_activations and torch.is_grad_enabled():
                residual = checkpoint(block, residual, block_read, use_reentrant=False)
            else:
                residual = block(residual, block_read)
        if cache is not None:
            cache.length += tokens.shape[1]
        if layout is not None and not last_read.last:
            residual = residual[layout.tokens.flatten()[layout.asked]]
        return capture("final", self.final_norm(residual))

    def _read(
        self,
        tokens: Tensor,
        documents: Tensor | None,
        starts: Tensor | None,
        first_position: int,
        cache: Cache | None,
        capture: Capture,
        layout: Layout | None,
    ) -> Read:
        """Positions and masks of this pass."""
        if first_position < 0:
            raise ValueError(f"first_position must be ≥ 0, got {first_position}")
        before = cache.length if cache is not None else 0
        length = (tokens if layout is None else layout.tokens).shape[1]
        end = before + length
        if cache is not None:
            if documents is not None or layout is not None:
                raise ValueError("a cache holds one document per row, got `documents` or a `layout` as well")
            cache.check(self.config, tokens.shape[0])
            if end > cache.capacity:
                raise ValueError(
                    f"the cache has room for {cache.capacity} tokens, got {end}; make it with a larger capacity"
                )
            if starts is not None and before:
                raise ValueError("`starts` is told with the first tokens of a cache, got it after them")
            cache.starts = starts if before == 0 else cache.starts
            starts = cache.starts
        if starts is not None and (documents is not None or layout is not None):
            raise ValueError("rows with padding hold one document each, got `documents` or a `layout` as well")
        self.position.reserve(first_position + end)
        columns = torch.arange(end, device=tokens.device)
        key_positions = columns if starts is None else (columns - starts[:, None]).clamp(min=0)
        key_positions = key_positions + first_position
        # One and the same tensor tells encodings that queries and keys are the same tokens.
        positions = key_positions[..., before:] if before else key_positions

        score = self.position.score(positions, key_positions)
        # One query sees every key, and attention knows the plain causal mask; all else is spelled out.
        masked = self.config.causal and length > 1
        plain = masked and documents is None and starts is None and before == 0
        if documents is not None or starts is not None or (masked and not plain):
            visible = self._visible(columns[before:], columns, documents, starts)
            score = torch.where(visible, 0.0 if score is None else score, float("-inf"))
        padding = None if starts is None else (columns[before:] >= starts[:, None]).unsqueeze(-1)
        lags = None
        if self.config.canon is not None and documents is not None:
            lags = torch.stack(
                [
                    F.pad(documents[:, lag:] == documents[:, :-lag], (lag, 0))[:, :length]
                    for lag in range(1, self.config.canon.kernel)
                ]
            )
        return Read(positions, key_positions, plain, score, cache, capture, layout, False, padding, lags)

    def _last_read(self, read: Read, layout: Layout) -> Read:
        """What the last block reads in a layout: it goes on where something is asked, if neighbours do not matter."""
        if self.config.canon is not None and {"C", "D"} & set(self.config.canon.sublayers):
            return read
        score = read.score
        # The last block has fewer queries than keys, which the fused kernel's mask is not made for.
        if read.causal:
            visible = self._visible(read.positions, read.positions, None, None)
            score = torch.where(visible, 0.0 if score is None else score, float("-inf"))
        score = None if score is None else score[..., layout.first_asked :, :]
        return replace(read, causal=False, score=score, last=True)

    def _visible(self, columns: Tensor, key_columns: Tensor, documents: Tensor | None, starts: Tensor | None) -> Tensor:
        """Which keys each query may see, bool, broadcastable to `[B, H, T, S]`."""
        same = columns[:, None] == key_columns[None, :]
        visible = columns[:, None] >= key_columns[None, :] if self.config.causal else torch.ones_like(same)
        if documents is not None:
            visible = visible & (documents[:, None, :, None] == documents[:, None, None, :])
        if starts is not None:
            # Padding sees itself, since a query must see something.
            visible = visible & (key_columns >= starts[:, None, None, None]) | same
        return visible

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        documents: Int[Tensor, "B T"] | None = None,
        starts: Int[Tensor, " B"] | None = None,
        first_position: int = 0,
        cache: Cache | None = None,
        capture: Capture | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits at every position; for the arguments see `hidden`."""
        return self.head(
            self.hidden(
                tokens,
                documents=documents,
                starts=starts,
                first_position=first_position,
                cache=cache,
                capture=capture,
            )
        )


class Head(Linear):
    """Hidden states to logits; rows beyond the vocabulary are never shown."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.width, config.embedding_rows, bias=False)
        self.vocab_size = config.vocab_size

    def forward(self, input: Float[Tensor, "... W"]) -> Float[Tensor, "... V"]:  # noqa: A002
        """`[..., W]` to `[..., V]`."""
        return super().forward(input)[..., : self.vocab_size]
