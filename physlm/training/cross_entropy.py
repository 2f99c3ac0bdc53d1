"""Cross-entropy of a linear head without ever holding all logits.

- Rows are taken a part at a time: logits, softmax, and both gradients of a part are made while it is in the cache of
  the processor, so that memory is that of one part, and nothing is read twice from far away.
- Gradients are computed together with the loss, since the loss is a mean: the backward pass only scales them.
- The precision of the products is that of autocast, as for `F.linear`; everything else is float32.

Shape legend: N rows, W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from physlm.models.linear import linear

LOGITS_AT_ONCE = {"cpu": 2**19, "cuda": 2**28}
"""Most logits of a part: 2 MiB, about a core's cache, or 1 GiB."""


def linear_cross_entropy(
    hidden: Float[Tensor, "N W"], weight: Float[Tensor, "V W"], targets: Int[Tensor, " N"], total: Tensor | float
) -> Float[Tensor, ""]:
    """Sum of `-log softmax(hidden · weightᵀ)[target]` over the rows, divided by `total`; negative targets count zero.

    Within `torch.func.vmap` the heads of all models are done at once.

    Args:
        hidden: final hidden states.
        weight: of the head.
        targets: right token of every row, or a negative number for none.
        total: what the sum is divided by, such as the number of rows that count.

    Returns:
        The loss in nats; differentiable with respect to `hidden` and `weight`.
    """
    device = hidden.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if not isinstance(total, Tensor):
        # Filled on the device: a copy from here would be waited for.
        total = torch.full((), float(total), dtype=torch.float32, device=hidden.device)
    wanted = torch.is_grad_enabled() and hidden.requires_grad, torch.is_grad_enabled() and weight.requires_grad
    return _LinearCrossEntropy.apply(hidden, weight, targets, total.to(hidden.device), product, *wanted)[0]


class _LinearCrossEntropy(torch.autograd.Function):
    """Of one head, or with a further dimension in front of several at once."""

    @staticmethod
    def forward(
        hidden: Float[Tensor, "*models N W"],
        weight: Float[Tensor, "*models V W"],
        targets: Int[Tensor, "*models N"],
        total: Tensor,
        product: torch.dtype,
        wants_hidden: bool,
        wants_weight: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        inputs, matrix = hidden.to(product), weight.to(product)
        of_hidden = torch.empty_like(inputs) if wants_hidden else None
        of_weight = torch.zeros_like(weight) if wants_weight else None
        loss = hidden.new_zeros(hidden.shape[:-2], dtype=torch.float32)
        rows = max(1, LOGITS_AT_ONCE.get(hidden.device.type, 2**28) // weight.shape[:-1].numel())
        for start in range(0, inputs.shape[-2], rows):
            part, target = inputs[..., start : start + rows, :], targets[..., start : start + rows, None]
            counts = target >= 0
            target = target.clamp(min=0)
            logits = linear(part, matrix) if matrix.ndim == 2 else part @ matrix.mT
            probabilities = F.softmax(logits, dim=-1, dtype=torch.float32)
            # The largest probability never underflows, which that of the target may.
            below_largest = logits.amax(-1, keepdim=True).float() - logits.gather(-1, target).float()
            nats = below_largest - probabilities.amax(-1, keepdim=True).log_()
            loss += nats.masked_fill_(~counts, 0.0).sum((-2, -1))
            if not (wants_hidden or wants_weight):
                continue
            probabilities.scatter_add_(-1, target, probabilities.new_full((), -1.0).expand(target.shape))
            gradient = probabilities.to(product)
            # Rows that do not count, and the factor of all, are left to the products: these have fewer columns.
            if of_hidden is not None:
                of_hidden[..., start : start + rows, :] = (gradient @ matrix).mul_(counts)
            if of_weight is not None:
                of_weight += gradient.mT @ (part * counts)
        factor = total.reciprocal().expand(loss.shape)
        for gradient in (of_hidden, of_weight):
            if gradient is not None:
                gradient *= factor[..., None, None]
        return loss * factor, of_hidden, of_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None, Tensor | None]) -> None:
        _, of_hidden, of_weight = output
        ctx.mark_non_differentiable(*(saved for saved in (of_hidden, of_weight) if saved is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.dtypes = inputs[0].dtype, inputs[1].dtype

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        assert gradient is not None
        scaled = (
            None if saved is None else saved.to(dtype).mul(gradient[..., None, None])
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
        """Many heads at once: batched products."""

        def stacked(tensor: Tensor, dimension: int | None) -> Tensor:
            return tensor.expand(info.batch_size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)

        hidden, weight, targets, total = (stacked(part, dim) for part, dim in zip(args[:4], in_dims[:4], strict=True))
        # Asked for where it was called, within a transform, or of what is stacked.
        wanted = (
            asked or (torch.is_grad_enabled() and part.requires_grad)
            for asked, part in zip(args[5:7], (hidden, weight), strict=True)
        )
        outputs = _LinearCrossEntropy.apply(hidden, weight, targets, total, args[4], *wanted)
        return outputs, tuple(None if output is None else 0 for output in outputs)
