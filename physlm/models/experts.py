"""A mixture of experts: many MLPs, of which a router picks one or a few for every token.

- An expert has room for a limited number of tokens. First choices are seated before second ones, earlier tokens before
  later ones, and whoever finds no seat skips the MLP. What a token gets thus depends on the others of its batch.
- Tokens are sorted by expert into a padded buffer `[E, C, W]`, and all experts compute at once. With limited room all
  shapes follow from the number of tokens, so that an accelerator never waits for the host.
- The weight of an expert is its softmax probability (Switch); of several, divided by their sum (GShard).
- `balance_loss` is what the router pays for unequal experts, after each forward pass in training; whoever trains adds
  `auxiliary_loss(model)` to the loss.
- "balanced" routing needs none: in training every expert gets equally many tokens, by an auction.

Shape legend: N tokens, W model width, E experts, M hidden units of an expert, K choices of a token, C room.
Source: Physics of Language Models 3.3, §7 (32 experts `W → W → W`, first choice, twice the even share in training and
eight times in tests); Lepikhin et al. 2020 (GShard); Fedus et al. 2021 (Switch, the balance loss); Lewis et al. 2021
(BASE, the balanced assignment).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physlm.models.checks import readable, require_whole_numbers
from physlm.models.linear import linear

Routing = Literal["top_k", "balanced"]

MIN_EVALUATION_ROOM = 64
"""Outside training an expert has room for this many tokens at least, so that decoding a few rows drops none."""
PRICE_ROUNDS, PRICE_TEMPERATURE = 8, 0.2
"""Balancing steps on prices, and their temperature in standard deviations of the scores. On normal scores, with or
without popular experts, they bring the assignment to 97–100% of the way from the mean to the best total."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Experts in the place of an MLP; the defaults are those of Physics of Language Models 3.3.

    Attributes:
        experts: how many there are.
        top_k: how many of them a token is sent to.
        hidden_ratio: hidden width of one expert as a multiple of the model's width, rounded.
        capacity_factor: room of an expert in training, as a multiple of the even share `top_k · tokens / experts`;
            `None` is unlimited.
        evaluation_capacity_factor: the same outside training.
        routing: "top_k" sends tokens where the router wants them; "balanced" does so outside training, where it gives
            every expert equally many tokens and `capacity_factor` and `balance_weight` play no part.
        balance_weight: factor on the balance loss.
    """

    experts: int = 32
    top_k: int = 1
    hidden_ratio: float = 1.0
    capacity_factor: float | None = 2.0
    evaluation_capacity_factor: float | None = 8.0
    routing: Routing = "top_k"
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        require_whole_numbers(self, "experts", "top_k")
        if self.experts < 1:
            raise ValueError(f"experts must be ≥ 1, got {self.experts}; for no experts leave the mixture out")
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must be in [1, {self.experts}], the number of experts, got {self.top_k}")
        if not 0 < self.hidden_ratio < math.inf:
            raise ValueError(f"hidden_ratio must be > 0 and finite, got {self.hidden_ratio}")
        for name in ("capacity_factor", "evaluation_capacity_factor"):
            factor = getattr(self, name)
            if factor is not None and not 0 < factor < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {factor}; None is unlimited")
        if self.routing not in get_args(Routing):
            raise ValueError(f"routing must be one of {', '.join(get_args(Routing))}, got {self.routing!r}")
        if self.routing == "balanced" and self.top_k != 1:
            raise ValueError(f"balanced routing sends a token to one expert, got top_k {self.top_k}; set it to 1")
        if not 0 <= self.balance_weight < math.inf:
            raise ValueError(f"balance_weight must be ≥ 0 and finite, got {self.balance_weight}")

    def hidden_width(self, width: int) -> int:
        """Hidden units of one expert in a model of this width."""
        return round(width * self.hidden_ratio)

    def room(self, tokens: int, *, training: bool) -> int | None:
        """Tokens that an expert takes out of a batch of `tokens`; `None` is all that come."""
        factor = self.capacity_factor if training else self.evaluation_capacity_factor
        if training and self.routing == "balanced":
            return math.ceil(tokens / self.experts)
        if factor is None:
            return None
        least = 1 if training else MIN_EVALUATION_ROOM
        return min(tokens, max(least, math.ceil(factor * self.top_k * tokens / self.experts)))

    def parameter_count(self, width: int, *, gated: bool, biases: bool) -> int:
        """Parameters of router and experts, in closed form.

        >>> Experts(experts=32).parameter_count(768, gated=False, biases=False) == 64 * 768**2 + 32 * 768
        True
        """
        hidden, bias = self.hidden_width(width), int(biases)
        expert = (2 if gated else 1) * (width + bias) * hidden + (hidden + bias) * width
        return self.experts * (width + expert)


class Routes(NamedTuple):
    """Where the tokens of a batch go."""

    experts: Int[Tensor, "K N"]
    """The chosen experts, best first."""
    weights: Float[Tensor, "K N"]
    """Factors on their outputs."""
    places: Int[Tensor, "K N"]
    """How many stand before this token in the line for its expert; those with a place below the room are seated."""
    order: Int[Tensor, " choices"]
    """All `K · N` choices, sorted by expert and place."""
    loads: Int[Tensor, " E"]
    """Length of the line for every expert."""
    probabilities: Float[Tensor, "N E"]
    """What the router says."""


class MixtureOfExperts(nn.Module):
    """Experts and their router, `[..., W]` to `[..., W]`.

    Example:
        >>> mixture = MixtureOfExperts(16, Experts(experts=4), activation=torch.relu, gated=False, biases=True)
        >>> mixture(torch.zeros(2, 5, 16)).shape, mixture.up.shape
        (torch.Size([2, 5, 16]), torch.Size([4, 16, 16]))

    Weights are zero until `initialise` draws them.

    Args:
        width: of the model.
        config: the experts.
        activation: of the hidden units.
        gated: multiply the activated hidden units of `gate` by those of `up`.
        biases: whether experts have biases; the router has none.
        down_scale: factor on the standard deviation of the initial weights of `down`.
    """

    def __init__(
        self,
        width: int,
        config: Experts,
        *,
        activation: Callable[[Tensor], Tensor],
        gated: bool,
        biases: bool,
        down_scale: float = 1.0,
    ) -> None:
        super().__init__()
        hidden, experts = config.hidden_width(width), config.experts
        if hidden < 1:
            raise ValueError(
                f"hidden_ratio must give at least one hidden unit at width {width}, got {config.hidden_ratio}"
            )
        self.config = config
        self.activation = activation
        self.down_scale = down_scale
        # As in a linear layer, rows are outputs and columns are inputs.
        self.router = nn.Parameter(torch.zeros(experts, width))
        self.up = nn.Parameter(torch.zeros(experts, hidden, width))
        self.gate = nn.Parameter(torch.zeros(experts, hidden, width)) if gated else None
        self.down = nn.Parameter(torch.zeros(experts, width, hidden))
        self.up_bias = nn.Parameter(torch.zeros(experts, hidden)) if biases else None
        self.gate_bias = nn.Parameter(torch.zeros(experts, hidden)) if gated and biases else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if biases else None
        self.balance_loss: Tensor | None = None

    def initialise(self, name: str, parameter: Tensor, generator: torch.Generator, std: float) -> None:
        """Draw weights from a normal distribution; biases are zero."""
        if name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, std * (self.down_scale if name == "down" else 1.0), generator=generator)

    def __getstate__(self) -> dict[str, object]:
        # The loss of the last batch hangs on a graph that cannot be copied.
        return {**self.__dict__, "balance_loss": None}

    def __deepcopy__(self, memo: dict[int, object]) -> MixtureOfExperts:
        # With low-rank updates, PyTorch copies everything and allows no state to be asked for.
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__dict__ = copy.deepcopy(MixtureOfExperts.__getstate__(self), memo)
        return copied

    def forward(self, residual: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        """Send every token through its experts; those without a seat get zero."""
        tokens = residual.reshape(-1, residual.shape[-1])
        self.balance_loss = None
        if not len(tokens):
            return residual
        routes = self.route(tokens)
        if self.training and self.config.routing == "top_k":
            self.balance_loss = self.config.balance_weight * _imbalance(routes)
        room = self._room(routes)
        seats = torch.arange(room, device=tokens.device)
        starts = routes.loads.cumsum(0) - routes.loads
        # Seats that stay empty compute on some token as well; nobody reads the result, and its gradient is zero.
        seated = routes.order[(starts[:, None] + seats).clamp(max=len(routes.order) - 1)] % len(tokens)
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            tokens = tokens.to(torch.get_autocast_dtype(device))
        outputs = self._compute(tokens.index_select(0, seated.flatten()).unflatten(0, seated.shape)).flatten(0, 1)

        is_seated = routes.places < room
        sources = routes.experts * room + routes.places.clamp(max=room - 1)
        weights = torch.where(is_seated, routes.weights, 0.0).to(outputs.dtype)
        chosen = outputs.index_select(0, sources.flatten()).unflatten(0, sources.shape) * weights.unsqueeze(-1)
        mixed = chosen[0] if len(chosen) == 1 else chosen.sum(0)
        return mixed.view(*residual.shape[:-1], -1)

    def route(self, tokens: Float[Tensor, "N W"]) -> Routes:
        """Where these tokens would go, and their order in the lines; who is seated depends on the room besides."""
        precision = torch.promote_types(self.router.dtype, torch.float32)
        with torch.autocast(tokens.device.type, enabled=False):
            scores = linear(tokens.to(precision), self.router.to(precision))
        probabilities = scores.softmax(-1)
        if self.training and self.config.routing == "balanced":
            experts = balanced_assignment(scores.detach()).unsqueeze(0)
        elif self.config.top_k == 1:
            experts = scores.argmax(-1).unsqueeze(0)
        else:
            experts = scores.topk(self.config.top_k, dim=-1).indices.T
        weights = probabilities.gather(1, experts.T).T
        if self.config.top_k > 1:
            weights = weights / weights.sum(0)
        order, places, loads = _line_up(experts.flatten(), self.config.experts)
        return Routes(experts, weights, places.view(experts.shape), order, loads, probabilities)

    def _room(self, routes: Routes) -> int:
        """Seats of every expert in the buffer."""
        tokens = routes.experts.shape[1]
        room = self.config.room(tokens, training=self.training)
        # Without a limit the buffer is as long as the longest line, which costs an accelerator a wait for the host; on
        # a CPU to look is cheap in any case. Where values cannot be looked at, it has room for everybody.
        look = readable() and (room is None or routes.loads.device.type == "cpu")
        longest = int(routes.loads.max()) if look else tokens
        return min(longest, room or tokens)

    def _compute(self, inputs: Float[Tensor, "E C W"]) -> Float[Tensor, "E C W"]:
        """All experts at once."""
        hidden = _stacked_linear(inputs, self.up, self.up_bias)
        if self.gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(_stacked_linear(inputs, self.gate, self.gate_bias)) * hidden
        return _stacked_linear(hidden, self.down, self.down_bias)


def auxiliary_loss(model: nn.Module) -> Float[Tensor, ""] | None:
    """Sum of the balance losses of the last forward pass, weights included; `None` if there are none.

    To be called between a forward pass in training and its backward pass.
    """
    mixtures = (module for module in model.modules() if isinstance(module, MixtureOfExperts))
    losses = [mixture.balance_loss for mixture in mixtures if mixture.balance_loss is not None]
    return torch.stack(losses).sum() if losses else None


@torch.no_grad()
def balanced_assignment(scores: Float[Tensor, "N E"]) -> Int[Tensor, " N"]:
    """An expert for every token, so that no expert has two tokens more than another and the total score is high.

    Experts first get prices at which about equally many tokens want each, since the best total does not depend on
    prices. Then, in every round, each token left bids for the best expert with room, by how much it prefers it to the
    next best; the highest bids win, and the earlier of equal ones. A round seats everybody left or fills an expert, so
    that there are at most as many rounds as experts.

    >>> balanced_assignment(torch.tensor([[3.0, 0.0], [2.0, 0.0], [9.0, 1.0], [9.0, 5.0]]))
    tensor([1, 1, 0, 0])
    """
    tokens, experts = scores.shape
    share, extra = divmod(tokens, experts)
    scores = _priced(scores)
    assigned = torch.full_like(scores[:, 0], -1, dtype=torch.long)
    # What is left when all experts have the same goes to different ones.
    for room, rounds in ((share, experts if share else 0), (1, extra)):
        rooms = torch.full_like(scores[0], room, dtype=torch.long)
        for _ in range(rounds):
            assigned, rooms = _bid(scores, assigned, rooms)
            if assigned.device.type == "cpu" and readable() and not (assigned < 0).any():
                break
    return assigned


def _priced(scores: Tensor) -> Tensor:
    """Scores less the prices of experts, which some steps of Sinkhorn's algorithm find."""
    scores = scores - scores.mean(1, keepdim=True)
    temperature = (PRICE_TEMPERATURE * scores.square().mean().sqrt()).clamp(min=1e-20)
    prices = torch.zeros_like(scores[0])
    for _ in range(PRICE_ROUNDS):
        demand = (scores / temperature - prices).log_softmax(1).logsumexp(0)
        prices = prices + demand - math.log(scores.shape[0] / scores.shape[1])
    return scores - prices * temperature


def _bid(scores: Tensor, assigned: Tensor, rooms: Tensor) -> tuple[Tensor, Tensor]:
    """One round of the auction: experts of all tokens, -1 for those left, and what room is left."""
    experts = scores.shape[1]
    best, choices = torch.where(rooms > 0, scores, -math.inf).topk(min(2, experts), dim=1)
    bids = best[:, 0] - best[:, 1] if experts > 1 else best[:, 0]
    is_bidding = (assigned < 0) & (best[:, 0] > -math.inf)
    # Those who do not bid stand in a line of their own.
    choices = torch.where(is_bidding, choices[:, 0], experts)
    by_bid = torch.where(is_bidding, bids, -math.inf).argsort(descending=True, stable=True)
    _, places, _ = _line_up(choices[by_bid], experts + 1)
    places = torch.zeros_like(places).scatter(0, by_bid, places)
    has_won = is_bidding & (places < rooms[choices.clamp(max=experts - 1)])
    assigned = torch.where(has_won, choices, assigned)
    won = ((choices.unsqueeze(1) == torch.arange(experts, device=scores.device)) & has_won.unsqueeze(1)).sum(0)
    return assigned, rooms - won


def _line_up(
    choices: Int[Tensor, " choices"], experts: int
) -> tuple[Int[Tensor, " choices"], Int[Tensor, " choices"], Int[Tensor, " E"]]:
    """Sort choices by expert: their order, the place of each in the line for its expert, and the lengths of lines."""
    order = choices.argsort(stable=True)
    loads = (choices.unsqueeze(1) == torch.arange(experts, device=choices.device)).sum(0)
    starts = loads.cumsum(0) - loads
    in_line = torch.arange(len(choices), device=choices.device) - starts[choices[order]]
    return order, torch.zeros_like(order).scatter(0, order, in_line), loads


def _imbalance(routes: Routes) -> Float[Tensor, ""]:
    """`E · Σ fₑ·Pₑ`, of the shares of first choices and the mean probabilities; one if either is uniform."""
    experts = routes.probabilities.shape[1]
    is_first = routes.experts[0].unsqueeze(1) == torch.arange(experts, device=routes.experts.device)
    shares = is_first.to(routes.probabilities.dtype).mean(0)
    return experts * (shares * routes.probabilities.mean(0)).sum()


def _stacked_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[E, C, I]` by weights `[E, O, I]`."""
    if bias is None:
        return torch.bmm(inputs, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)
