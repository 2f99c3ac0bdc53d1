"""Our attention for training on a CPU is PyTorch's, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from physlm.models import fused_attention as module
from physlm.models.fused_attention import fused_attention


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    """Ours also where PyTorch's kernel would be as fast."""
    monkeypatch.setattr(module, "MIN_KEYS", 0)
    monkeypatch.setattr(module, "MIN_WIDTH", 0)
    monkeypatch.setattr(module, "MIN_KEYS_ROUNDED", 0)


SCORES = {
    "none": None,
    "all": (1, 1),
    "per head": (3, 1, 1),
    "head and key": (3, 1, 5),
    "document": (2, 1, 5, 5),
    "whole": (2, 3, 5, 5),
}


def inputs(length: int, *, strided: bool = True, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Queries, keys and values `[2, 3, length, 4]`, laid out as a model has them."""
    generator = torch.Generator().manual_seed(length)
    drawn = torch.randn(2, length, 3, 3, 4, generator=generator, dtype=dtype).unbind(2)
    return [(part.transpose(1, 2) if strided else part.transpose(1, 2).contiguous()).requires_grad_() for part in drawn]


def both(parts: list[torch.Tensor], score: torch.Tensor | None, causal: bool) -> list[list[torch.Tensor]]:
    """Output and gradients by our kernel, and by plain operations in float64."""
    gradient = torch.randn(2, 3, parts[0].shape[2], 4, generator=torch.Generator().manual_seed(9))
    results = []
    for ours in (True, False):
        leaves = [part.detach().clone().requires_grad_() for part in parts]
        extra = None if score is None else score.clone().requires_grad_()
        if ours:
            output = fused_attention(*leaves, extra, causal=causal, scale=0.7)
            assert "_Attention" in type(output.grad_fn).__name__ + str(output.grad_fn.next_functions)
        else:
            queries, keys, values = (leaf.double() for leaf in leaves)
            products = 0.7 * queries @ keys.mT + (0 if extra is None else extra.double())
            if causal:
                products = products.masked_fill(torch.ones(products.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
            output = products.softmax(-1) @ values
        wanted = leaves if extra is None else [*leaves, extra]
        results.append([output, *torch.autograd.grad(output, wanted, gradient.to(output.dtype))])
    return results


@pytest.mark.parametrize("shape", SCORES.values(), ids=SCORES.keys())
@pytest.mark.parametrize("causal", [True, False])
def test_values_and_gradients(shape, causal):
    score = None if shape is None else torch.randn(shape, generator=torch.Generator().manual_seed(4))
    for got, expected in zip(*both(inputs(5), score, causal), strict=True):
        torch.testing.assert_close(got, expected.to(got.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 16, 17, 40])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks(monkeypatch, length, causal):
    monkeypatch.setattr(module, "BLOCK", 3)
    for score in (None, torch.randn(3, length, length, generator=torch.Generator().manual_seed(4))):
        for got, expected in zip(*both(inputs(length), score, causal), strict=True):
            torch.testing.assert_close(got, expected.to(got.dtype), rtol=1e-4, atol=1e-5)


def test_masks_of_minus_infinity():
    visible = torch.ones(5, 5).tril().bool() & (torch.arange(5) != 1)
    visible[1, 0] = True
    mask = torch.where(visible, 0.0, -torch.inf)
    parts = inputs(5)
    ours = fused_attention(*parts, mask, causal=False, scale=0.5)
    theirs = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=0.5)
    torch.testing.assert_close(ours, theirs)
    for got, expected in zip(
        torch.autograd.grad(ours.sum(), parts), torch.autograd.grad(theirs.sum(), parts), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_more_keys_than_queries():
    queries, keys, values = inputs(8)
    ours = fused_attention(queries[:, :, 6:], keys, values, None, causal=False, scale=0.5)
    theirs = F.scaled_dot_product_attention(queries[:, :, 6:], keys, values, scale=0.5)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_score", [False, True])
@pytest.mark.parametrize("block", [8, 64])
def test_bfloat16_is_close(monkeypatch, causal, with_score, block):
    monkeypatch.setattr(module, "MIN_KEYS_ROUNDED", 0)
    monkeypatch.setattr(module, "BLOCK", block)
    parts = inputs(40)
    score = torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1)) if with_score else None
    exact = fused_attention(*parts, score, causal=causal, scale=0.5)
    rounded = fused_attention(*(part.bfloat16() for part in parts), score, causal=causal, scale=0.5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.03)
    for got, expected in zip(
        torch.autograd.grad(rounded.float().square().sum(), parts),
        torch.autograd.grad(exact.square().sum(), parts),
        strict=True,
    ):
        assert (got - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("with_score", [False, True])
def test_double_precision_is_kept(monkeypatch, with_score):
    monkeypatch.setattr(module, "MIN_KEYS", 0)
    monkeypatch.setattr(module, "MIN_WIDTH", 0)
    parts = [part.detach().double().requires_grad_() for part in inputs(8)]
    score = torch.randn(3, 8, 8, dtype=torch.double, requires_grad=True) if with_score else None
    ours = fused_attention(*parts, score, causal=False, scale=0.5)
    theirs = F.scaled_dot_product_attention(*parts, attn_mask=score, scale=0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    wanted = parts if score is None else [*parts, score]
    for got, expected in zip(
        torch.autograd.grad(ours.square().sum(), wanted),
        torch.autograd.grad(theirs.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_what_would_keep_too_much_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT", 2 * 3 * 8 * 8 - 1)
    output = fused_attention(*inputs(8), None, causal=True, scale=0.5)
    assert "ScaledDotProduct" in type(output.grad_fn).__name__


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 1, 8), (3, 8, 1)])
@pytest.mark.parametrize("least_keys", [0, 100])
def test_scores_that_are_alike_for_many_pairs_hide_the_future_too(monkeypatch, shape, least_keys):
    monkeypatch.setattr(module, "MIN_KEYS", least_keys)
    monkeypatch.setattr(module, "BLOCK", 1)
    score = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    parts = inputs(8)
    whole = score.expand(3, 8, 8) + torch.full((8, 8), -torch.inf).triu(1)
    expected = F.scaled_dot_product_attention(*parts, attn_mask=whole, scale=0.5)
    torch.testing.assert_close(fused_attention(*parts, score, causal=True, scale=0.5), expected)


def test_few_keys_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(module, "MIN_KEYS", 9)
    output = fused_attention(*inputs(8), None, causal=True, scale=0.5)
    assert "ScaledDotProduct" in type(output.grad_fn).__name__
    score = torch.zeros(3, 8, 8, requires_grad=True)
    fused_attention(*inputs(8), score, causal=True, scale=0.5).sum().backward()
    assert score.grad is not None


def test_narrow_heads_in_float32_are_left_to_pytorch_and_bfloat16_is_ours(monkeypatch):
    monkeypatch.setattr(module, "MIN_WIDTH", 5)
    output = fused_attention(*inputs(8), None, causal=True, scale=0.5)
    assert "ScaledDotProduct" in type(output.grad_fn).__name__
    monkeypatch.setattr(module, "MIN_KEYS_ROUNDED", 8)
    parts = [part.detach().bfloat16().requires_grad_() for part in inputs(8)]
    output = fused_attention(*parts, None, causal=True, scale=0.5)
    assert "ScaledDotProduct" not in type(output.grad_fn).__name__
    expected = F.scaled_dot_product_attention(*(part.float() for part in parts), is_causal=True, scale=0.5)
    torch.testing.assert_close(output.float(), expected, atol=2e-2, rtol=2e-2)


def test_nothing_is_kept_where_no_gradient_is_wanted():
    with torch.no_grad():
        assert not fused_attention(*inputs(8), None, causal=True, scale=0.5).requires_grad


@pytest.mark.parametrize("causal", [True, False])
def test_many_models_at_once(causal):
    many = [torch.stack([part, part.flip(0), 2 * part]).detach().requires_grad_() for part in inputs(6)]
    score = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def attend(queries, keys, values):
        return fused_attention(queries, keys, values, score, causal=causal, scale=0.5)

    stacked = torch.func.vmap(attend)(*many)
    alone = torch.stack([attend(*(part[i] for part in many)) for i in range(3)])
    torch.testing.assert_close(stacked, alone)
    for got, expected in zip(
        torch.autograd.grad(stacked.square().sum(), [*many, score]),
        torch.autograd.grad(alone.square().sum(), [*many, score]),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
