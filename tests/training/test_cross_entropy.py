import pytest
import torch
import torch.nn.functional as F

from physlm.training import cross_entropy
from physlm.training.cross_entropy import linear_cross_entropy

ROWS, WIDTH, VOCABULARY = 37, 12, 23


def case(ignored: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    targets[:ignored] = -100
    return hidden, weight, targets


@pytest.mark.parametrize("rows_at_once", [1, 5, 37, 1000])
@pytest.mark.parametrize("ignored", [0, 5, 36])
def test_it_is_the_cross_entropy(monkeypatch, rows_at_once, ignored):
    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", rows_at_once * VOCABULARY)
    hidden, weight, targets = case(ignored)
    loss = linear_cross_entropy(hidden, weight, targets, ROWS - ignored)
    expected = F.cross_entropy(hidden @ weight.T, targets, ignore_index=-100)
    torch.testing.assert_close(loss, expected)
    got = torch.autograd.grad(3 * loss, (hidden, weight))
    for ours, theirs in zip(got, torch.autograd.grad(3 * expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_total_may_count_more_rows_than_these():
    hidden, weight, targets = case(0)
    whole = linear_cross_entropy(hidden, weight, targets, ROWS)
    parts = [
        linear_cross_entropy(h, weight, t, torch.tensor(ROWS))
        for h, t in zip(hidden.split(9), targets.split(9), strict=True)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_frozen_side_costs_no_gradient(wanted):
    hidden, weight, targets = case()
    (hidden, weight)[1 - wanted].requires_grad_(False)
    loss = linear_cross_entropy(hidden, weight, targets, 1.0)
    expected = F.cross_entropy(hidden @ weight.T, targets, ignore_index=-100, reduction="sum")
    leaf = (hidden, weight)[wanted]
    torch.testing.assert_close(torch.autograd.grad(loss, leaf), torch.autograd.grad(expected, leaf))


def test_a_loss_without_gradient():
    hidden, weight, targets = case()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, 32.0)
    torch.testing.assert_close(loss, F.cross_entropy(hidden @ weight.T, targets, ignore_index=-100))
    assert not loss.requires_grad


def test_improbable_targets_have_a_finite_loss():
    hidden = torch.tensor([[300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]), 1.0)
    assert loss.item() == pytest.approx(600.0)
    assert torch.autograd.grad(loss, hidden)[0].item() == pytest.approx(2.0)


def test_large_logits_lose_no_digits():
    hidden = torch.tensor([[1e4, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 4.0], [1.0, -3.0]])
    for target in range(3):
        targets = torch.tensor([target])
        loss = linear_cross_entropy(hidden, weight, targets, 1.0)
        expected = F.cross_entropy((hidden @ weight.T).double(), targets)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-7)
    doubled = linear_cross_entropy(hidden.double() + 0.1, weight.double(), torch.tensor([1]), 1.0)
    assert doubled >= 0


def test_autocast_rounds_products_only():
    hidden, weight, targets = case()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, 32.0)
        logits = F.linear(hidden, weight)
    expected = F.cross_entropy(logits.float(), targets, ignore_index=-100)
    torch.testing.assert_close(loss, expected)
    got, of_weight = torch.autograd.grad(loss, (hidden, weight))
    assert got.dtype == of_weight.dtype == torch.float32
    exact = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets, ignore_index=-100), (hidden, weight))
    for ours, theirs in zip((got, of_weight), exact, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("rows_at_once", [1, 7, 100])
def test_many_heads_at_once(monkeypatch, rows_at_once):
    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", 3 * rows_at_once * VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, ROWS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(3, VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(-1, VOCABULARY, (3, ROWS), generator=generator)
    totals = torch.tensor([30.0, 20.0, 10.0])
    losses = torch.func.vmap(linear_cross_entropy)(hidden, weight, targets, totals)
    alone = torch.stack([linear_cross_entropy(*parts) for parts in zip(hidden, weight, targets, totals, strict=True)])
    torch.testing.assert_close(losses, alone)
    weights = torch.tensor([1.0, 2.0, 3.0])
    got = torch.autograd.grad(losses @ weights, (hidden, weight))
    for ours, theirs in zip(got, torch.autograd.grad(alone @ weights, (hidden, weight)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_of_each_model_within_a_transform():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, ROWS, WIDTH, generator=generator)
    weight = torch.randn(3, VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(VOCABULARY, (3, ROWS), generator=generator)

    def ours(hidden, weight, targets):
        return linear_cross_entropy(hidden, weight, targets, float(ROWS))

    def theirs(hidden, weight, targets):
        return F.cross_entropy(hidden @ weight.T, targets)

    got, expected = (
        torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(hidden, weight, targets) for loss in (ours, theirs)
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
