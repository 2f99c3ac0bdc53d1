"""Softmax attention in one call: PyTorch's fused kernel, and for training on a CPU our own.

- PyTorch's kernel for the backward pass on a CPU takes about twice as long as the matrix products it is made of, and
  has no gradient for scores. Ours goes through the queries a block at a time, skips keys that no query of a block may
  see, and keeps the attention weights for the backward pass.
- What is kept grows with the square of the length, so beyond `MAX_KEPT` weights it is PyTorch's kernel again.

Shape legend: B batch, H heads, T queries, S keys, D head width, E B times H.
Source: Dao et al. 2022 (FlashAttention: the gradient by blocks).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64
"""Queries of a block, if there are twice as many at least."""

MIN_KEYS, MIN_WIDTH = 192, 48
"""With fewer keys than this or narrower heads, PyTorch's kernel is as fast, unless the score has a gradient, which it
is slow to give."""

MIN_KEYS_ROUNDED = 96
"""The same for bfloat16, which PyTorch's kernel is no faster in than in float32; for heads of any width."""

MAX_KEPT = 2**25
"""Most attention weights that are kept for the backward pass of one layer of one model (128 MiB)."""


def fused_attention(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B H S D"],
    values: Float[Tensor, "B H S D"],
    score: Tensor | None,
    *,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T D"]:
    """`softmax(scale · queries · keysᵀ + score) · values`.

    Args:
        queries: what asks.
        keys: what is compared.
        values: what is mixed.
        score: added to the scaled products, broadcastable to `[B, H, T, S]`.
        causal: hide later keys; queries and keys are then the same tokens.
        scale: factor on the products.
        dropout: probability of zeroing an attention weight.
    """
    if score is not None:
        lengths = queries.shape[-2], keys.shape[-2]
        score = score.expand(*score.shape[:-2], *lengths)
    if _is_ours(queries, keys, values, score, dropout):
        return _Attention.apply(queries, keys, values, score, causal, scale)[0]
    if causal and score is not None:
        score, causal = score + causal_mask(score), False
    if queries.device.type == "cpu":
        # There the kernel is several times faster in float32 than in bfloat16.
        queries, keys, values = (at_least_float32(part) for part in (queries, keys, values))
    score = None if score is None else score.to(queries.dtype)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=score, dropout_p=dropout, is_causal=causal, scale=scale
    )


def causal_mask(score: Float[Tensor, "*heads T T"]) -> Float[Tensor, "T T"]:
    """−∞ for later keys and zero elsewhere, to be added to a score."""
    return torch.full(score.shape[-2:], -math.inf, dtype=score.dtype, device=score.device).triu(1)


def at_least_float32(states: Tensor) -> Tensor:
    """The same in float32, if it has fewer bits."""
    return states if states.dtype.itemsize >= torch.float32.itemsize else states.float()


def _is_ours(queries: Tensor, keys: Tensor, values: Tensor, score: Tensor | None, dropout: float) -> bool:
    if queries.device.type != "cpu" or dropout or torch.compiler.is_compiling():
        return False
    if queries.shape[:-1].numel() * keys.shape[-2] > MAX_KEPT:
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    if not torch.is_grad_enabled():
        return False
    if score is not None and score.requires_grad:
        return True
    if not any(part.requires_grad for part in (queries, keys, values)):
        return False
    if queries.dtype.itemsize < torch.float32.itemsize:
        return keys.shape[-2] >= MIN_KEYS_ROUNDED
    return keys.shape[-2] >= MIN_KEYS and keys.shape[-1] >= MIN_WIDTH


def _for_product(part: Tensor) -> Tensor:
    """A part of batched rows as products take it: those in few bits would copy it column by column once transposed."""
    return part.contiguous() if part.dtype.itemsize < torch.float32.itemsize else part


def _blocks(queries: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """First and last query of every block, and the keys it needs."""
    size = BLOCK if queries >= 2 * BLOCK else queries
    return [
        (start, min(start + size, queries), min(start + size, queries) if causal else keys)
        for start in range(0, queries, size)
    ]


class _Attention(torch.autograd.Function):
    """Attention by batched matrix products, all tensors `[E, length, D]` inside."""

    @staticmethod
    def forward(
        queries: Tensor, keys: Tensor, values: Tensor, score: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, ...]:
        batch, heads, length, width = queries.shape
        scaled, keys, values = (queries * scale).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        outputs = torch.empty_like(scaled)
        kept = []
        blocks = _blocks(length, keys.shape[1], causal)
        future = torch.ones(blocks[0][1], blocks[0][1], dtype=torch.bool).triu_(1)
        for start, end, seen in blocks:
            # Only the products are rounded to what they are made in; softmax works in float32 inside.
            scores = torch.bmm(scaled[:, start:end], _for_product(keys[:, :seen]).mT)
            if score is not None:
                scores = at_least_float32(scores)
                scores.unflatten(0, (batch, heads)).add_(score[..., start:end, :seen])
            if causal:
                scores[:, :, start:].masked_fill_(future[: end - start, : end - start], -math.inf)
            pattern = scores.softmax(dim=-1).to(scaled.dtype)
            kept.append(pattern)
            outputs[:, start:end] = torch.bmm(pattern, values[:, :seen])
        return outputs.view(batch, heads, length, width), scaled, keys, values, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.score_shape = None if inputs[3] is None else inputs[3].shape
        ctx.causal, ctx.scale = inputs[4:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        scaled, keys, values, *kept = ctx.saved_tensors
        gradient = gradients[0]
        assert gradient is not None
        batch, heads, length, _ = gradient.shape
        gradient = gradient.flatten(0, 1).to(scaled.dtype)
        of_queries, of_keys, of_values = torch.empty_like(scaled), torch.zeros_like(keys), torch.zeros_like(values)
        precision = torch.promote_types(scaled.dtype, torch.float32)
        of_score = None
        if ctx.needs_input_grad[3]:
            of_score = torch.zeros(ctx.score_shape, dtype=precision, device=scaled.device)
        blocks = _blocks(length, keys.shape[1], ctx.causal)
        for (start, end, seen), pattern in zip(blocks, kept, strict=True):
            part = _for_product(gradient[:, start:end])
            of_values[:, :seen] += torch.bmm(pattern.mT, part)
            of_pattern = torch.bmm(part, _for_product(values[:, :seen]).mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_pattern, pattern, -1, pattern.dtype)
            if of_score is not None:
                target = of_score[..., start:end, :seen]
                target += of_scores.unflatten(0, (batch, heads)).sum_to_size(target.shape)
            of_keys[:, :seen] += torch.bmm(of_scores.mT, scaled[:, start:end])
            of_queries[:, start:end] = torch.bmm(of_scores, keys[:, :seen]).mul_(ctx.scale)
        of_inputs = (tensor.unflatten(0, (batch, heads)) for tensor in (of_queries, of_keys, of_values))
        return (*of_inputs, of_score, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Many models at once are a larger batch."""
        models = info.batch_size

        def stacked(tensor: Tensor, dimension: int | None) -> Tensor:
            return tensor.expand(models, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)

        *inputs, score, causal, scale = args
        parts = (stacked(part, dim) for part, dim in zip(inputs, in_dims[:3], strict=True))
        queries, keys, values = (part.flatten(0, 1) for part in parts)
        if score is not None:
            score = stacked(score, in_dims[3])
            score = score.reshape(models, *(1,) * (5 - score.ndim), *score.shape[1:])
            batch = len(queries) // models
            score = score.expand(models, batch, *score.shape[2:]).flatten(0, 1)
        output = fused_attention(queries, keys, values, score, causal=causal, scale=scale)
        return (output.unflatten(0, (models, -1)),), (0,)
