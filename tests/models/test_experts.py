import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from physlm.models.experts import (
    MIN_EVALUATION_ROOM,
    Experts,
    MixtureOfExperts,
    auxiliary_loss,
    balanced_assignment,
)

WIDTH = 8


def build(config: Experts, *, gated=False, biases=True, activation=F.gelu, width=WIDTH, seed=0, **options):
    """A mixture whose every parameter, biases included, is large enough for differences to show."""
    mixture = MixtureOfExperts(width, config, activation=activation, gated=gated, biases=biases, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return mixture


def batch(*shape, seed=1) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def one_expert(mixture: MixtureOfExperts, expert: int, token: torch.Tensor) -> torch.Tensor:
    """The MLP of one expert, written out."""

    def affine(weight, bias, inputs):
        outputs = weight[expert] @ inputs
        return outputs if bias is None else outputs + bias[expert]

    hidden = affine(mixture.up, mixture.up_bias, token)
    if mixture.gate is None:
        hidden = mixture.activation(hidden)
    else:
        hidden = mixture.activation(affine(mixture.gate, mixture.gate_bias, token)) * hidden
    return affine(mixture.down, mixture.down_bias, hidden)


def loop(mixture: MixtureOfExperts, tokens: torch.Tensor, room: int) -> torch.Tensor:
    """Choice by choice, token by token: what the mixture must compute."""
    probabilities = (tokens @ mixture.router.T).softmax(-1)
    best = probabilities.sort(dim=-1, descending=True).indices[:, : mixture.config.top_k]
    outputs = torch.zeros_like(tokens)
    taken = [0] * mixture.config.experts
    for choice in range(mixture.config.top_k):
        for number, token in enumerate(tokens):
            expert = int(best[number, choice])
            if taken[expert] < room:
                weight = probabilities[number, expert]
                if mixture.config.top_k > 1:
                    weight = weight / probabilities[number, best[number]].sum()
                outputs[number] = outputs[number] + weight * one_expert(mixture, expert, token)
            taken[expert] += 1
    return outputs


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("top_k", "factor"),
    [(1, None), (1, 2.0), (1, 1.0), (1, 0.3), (2, None), (2, 1.0), (2, 0.5), (5, 1.0)],
)
def test_equals_a_loop_over_tokens_and_experts(top_k, factor, training, gated, biases):
    config = Experts(experts=5, top_k=top_k, hidden_ratio=1.5, capacity_factor=factor, evaluation_capacity_factor=9.0)
    mixture = build(config, gated=gated, biases=biases).train(training)
    residual = batch(3, 13)
    room = math.ceil(factor * top_k * 39 / 5) if factor and training else 39
    expected = loop(mixture, residual.flatten(0, 1), room).view_as(residual)
    torch.testing.assert_close(mixture(residual), expected)
    gradient = torch.randn(residual.shape, generator=torch.Generator().manual_seed(3))
    actual = torch.autograd.grad(mixture(residual), list(mixture.parameters()), gradient)
    for ours, theirs in zip(actual, torch.autograd.grad(expected, list(mixture.parameters()), gradient), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_one_expert_is_the_mlp():
    mixture = build(Experts(experts=1, capacity_factor=1.0, hidden_ratio=4.0))
    residual = batch(4, 6)
    hidden = F.gelu(F.linear(residual, mixture.up[0], mixture.up_bias[0]))
    torch.testing.assert_close(mixture(residual), F.linear(hidden, mixture.down[0], mixture.down_bias[0]))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 3)])
def test_keeps_the_shape(shape):
    mixture = build(Experts(experts=3))
    assert mixture(batch(*shape)).shape == (*shape, WIDTH)


@pytest.mark.parametrize(
    ("config", "tokens", "training", "room"),
    [
        (Experts(), 3200, True, 200),
        (Experts(), 3200, False, 800),
        (Experts(), 33, True, 3),  # rounded up
        (Experts(), 1, True, 1),
        (Experts(capacity_factor=100.0), 3200, True, 3200),  # nobody comes twice
        (Experts(top_k=2), 3200, True, 400),
        (Experts(capacity_factor=None), 3200, True, None),
        (Experts(evaluation_capacity_factor=None), 3200, False, None),
        (Experts(evaluation_capacity_factor=0.1), 3200, False, MIN_EVALUATION_ROOM),
        (Experts(), 20, False, 20),
        (Experts(routing="balanced", capacity_factor=0.5), 3200, True, 100),
        (Experts(routing="balanced"), 3201, True, 101),
        (Experts(routing="balanced"), 3200, False, 800),
    ],
)
def test_room(config, tokens, training, room):
    assert config.room(tokens, training=training) == room


def test_tokens_beyond_the_room_get_nothing_and_earlier_ones_go_first():
    mixture = build(Experts(experts=4, capacity_factor=1.0))
    with torch.no_grad():
        mixture.router.zero_()
        mixture.router[2] = 1.0
    residual = batch(20).abs()  # everybody wants expert 2, which has room for five
    outputs = mixture(residual)
    assert outputs[5:].eq(0).all()
    assert outputs[:5].ne(0).any(-1).all()
    assert mixture.route(residual).loads.tolist() == [0, 0, 20, 0]


def test_second_choices_wait_for_all_first_choices():
    mixture = build(Experts(experts=2, top_k=2, capacity_factor=0.5), biases=False)
    with torch.no_grad():
        mixture.router.zero_()
        mixture.router[0, 0] = 5.0
    residual = batch(4)
    residual[:, 0] = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # the last two want expert 0 first, which has room for two
    routes = mixture.route(residual)
    assert routes.experts.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert routes.places.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]
    expected = torch.stack([routes.weights[0, i] * one_expert(mixture, [1, 1, 0, 0][i], residual[i]) for i in range(4)])
    torch.testing.assert_close(mixture(residual), expected)


@pytest.mark.parametrize("top_k", [1, 3])
def test_balance_loss_is_the_formula(top_k):
    mixture = build(Experts(experts=6, top_k=top_k, balance_weight=0.3))
    residual = batch(5, 7)
    mixture(residual)
    probabilities = (residual.flatten(0, 1) @ mixture.router.T).softmax(-1)
    first = probabilities.argmax(-1).tolist()
    shares = [first.count(expert) / 35 for expert in range(6)]
    expected = 0.3 * 6 * sum(share * probabilities[:, expert].mean() for expert, share in enumerate(shares))
    torch.testing.assert_close(mixture.balance_loss, expected)
    (actual,) = torch.autograd.grad(mixture.balance_loss, mixture.router)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, mixture.router)[0])


def test_balance_loss_is_least_at_uniform_routing():
    def loss(scores: torch.Tensor) -> float:
        """The router reads its scores off tokens that are one-hot."""
        mixture = build(Experts(experts=4, balance_weight=1.0), biases=False)
        with torch.no_grad():
            mixture.router.copy_(F.pad(scores.T, (0, WIDTH - len(scores))))
        mixture(torch.eye(WIDTH)[: len(scores)])
        return mixture.balance_loss.item()

    assert loss(3 * torch.eye(4)) == pytest.approx(1.0)  # each expert wanted by one token
    skewed = torch.tensor([[2.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    assert loss(skewed) > 1.05
    collapsed = torch.tensor([[50.0, 0, 0, 0]] * 4)
    assert loss(collapsed) == pytest.approx(4.0)


def test_training_on_the_balance_loss_balances():
    mixture = build(Experts(experts=4, balance_weight=1.0))
    with torch.no_grad():
        mixture.router[0] = 0.5
    residual = batch(400) + 0.5
    before = mixture.route(residual).loads.max().item()
    optimizer = torch.optim.Adam([mixture.router], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        mixture(residual)
        mixture.balance_loss.backward()
        optimizer.step()
    assert before > 250
    assert mixture.route(residual).loads.max().item() < 180


def test_auxiliary_loss_sums_over_the_mixtures_of_a_model():
    model = nn.Sequential(build(Experts(experts=3)), nn.Linear(WIDTH, WIDTH), build(Experts(experts=5), seed=4))
    assert auxiliary_loss(model) is None
    model(batch(30))
    expected = model[0].balance_loss + model[2].balance_loss
    torch.testing.assert_close(auxiliary_loss(model), expected)
    auxiliary_loss(model).backward()
    assert model[0].router.grad.abs().sum() > 0
    assert model[2].router.grad.abs().sum() > 0
    model.eval()(batch(30))
    assert auxiliary_loss(model) is None  # not the one of the last step
    assert auxiliary_loss(nn.Linear(2, 2)) is None


def test_the_output_teaches_the_router():
    mixture = build(Experts(experts=4))
    mixture(batch(50)).sum().backward()
    assert mixture.router.grad.abs().amax(-1).gt(1e-3).all()
    alone = build(Experts(experts=4, top_k=4, capacity_factor=None))
    alone(batch(50)).sum().backward()
    assert alone.router.grad.abs().amax(-1).gt(1e-3).all()


@given(
    tokens=st.integers(1, 70),
    experts=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    skew=st.sampled_from([0.0, 1.0, 30.0]),
    levels=st.sampled_from([0, 2]),
)
def test_balanced_assignment_sizes_differ_by_one_at_most(tokens, experts, seed, skew, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(tokens, experts, generator=generator)
    if levels:  # many ties
        scores = (scores * levels).round()
    scores = scores + skew * torch.randn(experts, generator=generator)
    assigned = balanced_assignment(scores)
    sizes = assigned.bincount(minlength=experts)
    assert len(sizes) == experts
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(assigned, balanced_assignment(scores))


@pytest.mark.parametrize("skew", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_balanced_assignment_is_nearly_the_best(seed, skew):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(128, 8, generator=generator) + skew * torch.randn(8, generator=generator)
    rows, seats = linear_sum_assignment(-scores.repeat_interleave(16, dim=1).numpy())
    best = scores[rows, seats // 16].sum()
    mean = scores.mean(1).sum()
    total = scores.gather(1, balanced_assignment(scores).unsqueeze(1)).sum()
    assert (total - mean) / (best - mean) > 0.95


@pytest.mark.parametrize("tokens", [40, 43, 3])
def test_balanced_routing_drops_nobody_in_training_and_is_top_one_outside(tokens):
    mixture = build(Experts(experts=5, routing="balanced", evaluation_capacity_factor=None))
    residual = batch(tokens)
    routes = mixture.route(residual)
    assert routes.loads.max() - routes.loads.min() <= 1
    expected = torch.stack(
        [
            routes.probabilities[number, expert] * one_expert(mixture, int(expert), residual[number])
            for number, expert in enumerate(routes.experts[0])
        ]
    )
    torch.testing.assert_close(mixture(residual), expected)
    assert mixture.balance_loss is None
    plain = build(Experts(experts=5, evaluation_capacity_factor=None)).eval()
    assert torch.equal(mixture.eval()(residual), plain(residual))


@pytest.mark.parametrize("routing", ["top_k", "balanced"])
def test_is_deterministic(routing):
    config = Experts(experts=8, routing=routing)
    first, second = build(config), build(config)
    residual = batch(6, 11)
    assert torch.equal(first(residual), second(residual))
    assert torch.equal(first(residual), first(residual))


def test_a_token_changes_no_earlier_one():
    mixture = build(Experts(experts=4, capacity_factor=1.0))
    before = batch(30)
    after = before.clone()
    after[17] = -after[17]
    torch.testing.assert_close(mixture(after)[:17], mixture(before)[:17])


def test_decoding_a_few_rows_is_as_good_as_reading_all():
    mixture = build(Experts(experts=16)).eval()
    residual = batch(1, 1).expand(40, 1, WIDTH)  # all rows want the same expert
    assert torch.equal(mixture(residual)[0], mixture(residual)[-1])
    assert mixture(residual).ne(0).any(-1).all()


@pytest.mark.parametrize(
    "config",
    [
        Experts(experts=4),
        Experts(experts=4, top_k=2),
        Experts(experts=4, routing="balanced"),
        Experts(experts=4, capacity_factor=None),
    ],
)
@pytest.mark.parametrize("gated", [True, False])
def test_autocast_computes_in_bfloat16_and_routes_in_float32(config, gated):
    mixture = build(config, gated=gated)
    residual = batch(4, 25).requires_grad_()
    exact = mixture(residual)
    exact_routes = mixture.route(residual.flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        rough = mixture(residual)
        routes = mixture.route(residual.flatten(0, 1))
    assert rough.dtype == torch.bfloat16
    assert torch.equal(routes.experts, exact_routes.experts)
    assert routes.probabilities.dtype == torch.float32
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    rough.float().square().sum().backward()
    assert mixture.router.grad.dtype == torch.float32
    assert residual.grad.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        Experts(experts=4),
        Experts(experts=4, top_k=2, capacity_factor=None),
        Experts(experts=4, routing="balanced"),
    ],
)
def test_many_models_at_once_are_as_one_by_one(config):
    models = [build(config, gated=True, seed=seed) for seed in range(3)]
    inputs = batch(3, 2, 15)

    def loss(parameters, residual):
        outputs = torch.func.functional_call(models[0], parameters, (residual,))
        auxiliary = auxiliary_loss(models[0])
        return outputs.square().mean() + (0.0 if auxiliary is None else auxiliary)

    stacked = torch.func.stack_module_state(models)[0]
    gradients, losses = torch.func.vmap(torch.func.grad_and_value(loss))(stacked, inputs)
    for number, model in enumerate(models):
        alone = model(inputs[number]).square().mean() + (auxiliary_loss(model) or 0.0)
        torch.testing.assert_close(losses[number], alone)
        alone.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name][number], parameter.grad)


COMPILED = """
import torch
from physlm.models.experts import Experts, MixtureOfExperts, auxiliary_loss

for changes in ({}, {"top_k": 2, "capacity_factor": None}, {"routing": "balanced"}):
    torch.manual_seed(0)
    mixture = MixtureOfExperts(8, Experts(experts=4, **changes), activation=torch.relu, gated=False, biases=True)
    torch.nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in mixture.parameters())), mixture.parameters())
    residual = torch.randn(4, 10, 8)

    def step(residual):
        outputs, auxiliary = mixture(residual), auxiliary_loss(mixture)
        return outputs.square().sum() + (0.0 if auxiliary is None else auxiliary)

    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(residual), step(residual))
    ours, theirs = (torch.autograd.grad(function(residual), mixture.router)[0] for function in (compiled, step))
    torch.testing.assert_close(ours, theirs)
print("compiled")
"""


def test_compiles_to_one_graph():
    # In a process of its own, since what checks shapes in tests cannot be compiled.
    result = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert result.stdout == "compiled\n", result.stderr


def test_can_be_copied_after_a_step():
    mixture = build(Experts(experts=4))
    mixture(batch(20)).sum().backward()
    for twin in (copy.deepcopy(mixture), pickle.loads(pickle.dumps(build(Experts(experts=4), activation=torch.relu)))):
        assert twin.balance_loss is None
        assert torch.equal(twin.up, mixture.up)
    assert mixture.balance_loss is not None


def test_recomputing_activations_changes_nothing():
    residual = batch(40)
    gradients = []
    for recompute in (False, True):
        mixture = build(Experts(experts=4, capacity_factor=1.0, balance_weight=1.0))
        if recompute:
            outputs = torch.utils.checkpoint.checkpoint(mixture, residual, use_reentrant=False)
        else:
            outputs = mixture(residual)
        (outputs.square().sum() + auxiliary_loss(mixture)).backward()
        gradients.append([parameter.grad for parameter in mixture.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("config", [Experts(), Experts(experts=3, hidden_ratio=2.6), Experts(experts=1)])
def test_parameter_count_is_the_formula(config, gated, biases):
    mixture = MixtureOfExperts(24, config, activation=F.silu, gated=gated, biases=biases)
    count = config.parameter_count(24, gated=gated, biases=biases)
    assert count == sum(parameter.numel() for parameter in mixture.parameters())


def test_initial_weights():
    mixture = MixtureOfExperts(64, Experts(experts=8), activation=F.gelu, gated=True, biases=True, down_scale=0.25)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in mixture.named_parameters():
            parameter.fill_(7.0)
            mixture.initialise(name, parameter, generator, 0.02)
    for name in ("router", "up", "gate"):
        assert mixture.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.1)
    assert mixture.down.std().item() == pytest.approx(0.005, rel=0.05)
    for name in ("up_bias", "gate_bias", "down_bias"):
        assert mixture.get_parameter(name).eq(0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experts": 0}, "experts must be ≥ 1, got 0"),
        ({"top_k": 0}, r"top_k must be in \[1, 32\].*got 0"),
        ({"experts": 2, "top_k": 3}, r"top_k must be in \[1, 2\].*got 3"),
        ({"hidden_ratio": 0.0}, "hidden_ratio must be > 0 and finite, got 0.0"),
        ({"hidden_ratio": math.inf}, "hidden_ratio must be > 0 and finite, got inf"),
        ({"capacity_factor": 0.0}, "capacity_factor must be > 0 and finite, got 0.0; None is unlimited"),
        ({"evaluation_capacity_factor": math.nan}, "evaluation_capacity_factor must be > 0 and finite, got nan"),
        ({"routing": "balanced", "top_k": 2}, "balanced routing sends a token to one expert, got top_k 2"),
        ({"balance_weight": -1.0}, "balance_weight must be ≥ 0 and finite, got -1.0"),
    ],
)
def test_bad_configs(arguments, message):
    with pytest.raises(ValueError, match=message):
        Experts(**arguments)


def test_an_expert_needs_a_hidden_unit():
    with pytest.raises(ValueError, match=r"at least one hidden unit at width 8, got 0\.01"):
        build(Experts(hidden_ratio=0.01))


def test_an_unknown_routing_is_refused_where_no_types_are_checked():
    config = Experts()
    object.__setattr__(config, "routing", "random")
    with pytest.raises(ValueError, match="routing must be one of top_k, balanced, got 'random'"):
        config.__post_init__()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", [Experts(top_k=2), Experts(routing="balanced"), Experts(capacity_factor=None)])
def test_shapes_follow_from_the_number_of_tokens(config, training, monkeypatch):
    # Fake tensors have no values that anything could depend on, and an accelerator would not be asked for them.
    monkeypatch.setattr("physlm.models.experts.readable", lambda: False)
    with FakeTensorMode():
        mixture = MixtureOfExperts(WIDTH, config, activation=F.gelu, gated=True, biases=True).train(training)
        outputs = mixture(torch.empty(4, 300, WIDTH))
        outputs.sum().backward()
    assert outputs.shape == (4, 300, WIDTH)
    assert mixture.router.grad.shape == mixture.router.shape
