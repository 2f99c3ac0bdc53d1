"""Is what can be read also used? States are exchanged, or lose a direction, and the model's answers are compared.

- `patch` and `remove` are edits for `physlm.models.capture.Capture`, and change nothing but what they name.
- `patching` carries the state at a position and layer from one run into another, and says how much of the difference
  between their answers goes with it.
- `ablation` takes the directions of a probe out of a layer. As many random directions taken out are its control.

Shape legend: B texts, T tokens, W width, V vocabulary, k directions, R random controls.
Source: Vig et al. 2020, Meng et al. 2022 (activation patching); Elazar et al. 2021 (amnesic probing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from physlm.models.capture import Capture, Edit
from physlm.models.decoding import evaluating
from physlm.models.transformer import Transformer
from physlm.randomness import Key

Measure = Callable[[Tensor], Tensor]
"""What logits `[B, T, V]` say, as one number for each text, `[B]`: the logit of an answer, or of it against another."""


def patch(donor: Tensor, at: Bool[Tensor, "B T"] | None = None) -> Edit:
    """Put the states of `donor`, `[B, T, …]`, in place of those there are, everywhere or where `at` is true."""

    def edit(state: Tensor) -> Tensor:
        return donor if at is None else torch.where(_as(at, state), donor, state)

    return edit


def remove(
    directions: Float[Tensor, "k W"],
    *,
    at: Bool[Tensor, "B T"] | None = None,
    centre: Float[Tensor, " W"] | None = None,
) -> Edit:
    """Take the part of states along `directions` out, everywhere or where `at` is true.

    Args:
        directions: orthonormal.
        at: where.
        centre: a state whose part along the directions is put there instead, such as the mean; zero by default.

    Raises:
        ValueError: if the directions are not orthonormal.
    """
    products = directions @ directions.T
    if not torch.allclose(products, torch.eye(len(directions), device=directions.device), atol=1e-4):
        raise ValueError(f"directions must be orthonormal rows, got products {products.tolist()}")

    def edit(state: Tensor) -> Tensor:
        basis = directions.to(state)
        along = (state if centre is None else state - centre.to(state)) @ basis.T @ basis
        return state - along if at is None else torch.where(_as(at, state), state - along, state)

    return edit


def _as(at: Tensor, state: Tensor) -> Tensor:
    """A truth value for each text and token, broadcastable to states."""
    if at.shape != state.shape[:2]:
        raise ValueError(f"at must be {tuple(state.shape[:2])}, as texts and tokens are, got {tuple(at.shape)}")
    return at.to(state.device).reshape(*at.shape, *[1] * (state.ndim - 2))


@dataclass(frozen=True, eq=False)
class Patching:
    """What goes with the state at a layer and position.

    Attributes:
        layers: names of the states that were carried over.
        positions: and where.
        recipient: the measure without, `[B]`.
        donor: the measure of the run that states are from, `[B]`.
        patched: the measure with each state carried over, `[layers, positions, B]`.
    """

    layers: tuple[str, ...]
    positions: tuple[int, ...]
    recipient: NDArray[np.float64]
    donor: NDArray[np.float64]
    patched: NDArray[np.float64]

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of the difference between donor and recipient that goes with each state, `[layers, positions]`.

        Raises:
            ValueError: if donor and recipient do not differ.
        """
        difference = float((self.donor - self.recipient).mean())
        if difference == 0:
            raise ValueError("donor and recipient must differ in what is measured, got equal means")
        return (self.patched - self.recipient).mean(-1) / difference


def patching(
    model: Transformer,
    recipients: Int[Tensor, "B T"],
    donors: Int[Tensor, "B T"],
    measure: Measure,
    *,
    layers: Sequence[str],
    positions: Sequence[int],
) -> Patching:
    """Carry each state of the donors into the recipients, one layer and position at a time.

    Example:
        >>> def answer(logits):
        ...     return logits[:, -1, 7]
        >>> effect = patching(model, tokens, others, answer, layers=["embed"], positions=[3])
        >>> effect.share.shape
        (1, 1)

    Args:
        model: what reads.
        recipients: texts.
        donors: as many, of the same length; B pairs.
        measure: what of the logits is looked at.
        layers: names of hidden states `[B, T, …]`.
        positions: in the texts, in 0..T - 1.

    Raises:
        ValueError: texts of different shapes, or a position outside them.
    """
    if recipients.shape != donors.shape:
        raise ValueError(f"donors must be {tuple(recipients.shape)} as recipients are, got {tuple(donors.shape)}")
    if outside := [place for place in positions if not 0 <= place < recipients.shape[1]]:
        raise ValueError(f"positions must be in 0..{recipients.shape[1] - 1}, got {outside[0]}")
    source = Capture(layers)
    with evaluating(model) as device:
        recipients, donors = recipients.to(device), donors.to(device)
        scores = [measure(model(recipients)), measure(model(donors, capture=source))]
        for layer in layers:
            for position in positions:
                at = torch.zeros(recipients.shape, dtype=torch.bool, device=device)
                at[:, position] = True
                edits = {layer: patch(source.states[layer], at)}
                scores.append(measure(model(recipients, capture=Capture(edits=edits))))
        recipient, donor, *patched = [score.double().cpu().numpy() for score in scores]
    shape = (len(layers), len(positions), len(recipient))
    return Patching(tuple(layers), tuple(positions), recipient, donor, np.reshape(patched, shape))


@dataclass(frozen=True, eq=False)
class Ablation:
    """What is lost without some directions of a layer.

    Attributes:
        before: the measure of the model as it is, `[B]`.
        after: without the directions, `[B]`.
        random: without as many random directions, `[R, B]`.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    random: NDArray[np.float64]

    @property
    def effect(self) -> float:
        """Mean loss in what is measured."""
        return float((self.before - self.after).mean())

    @property
    def random_effects(self) -> NDArray[np.float64]:
        """The same of each set of random directions, `[R]`."""
        return (self.before - self.random).mean(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """The effect, never without that of random directions."""
        return {
            "before": float(self.before.mean()),
            "effect": self.effect,
            "random effects": [float(effect) for effect in self.random_effects],
        }


def ablation(
    model: Transformer,
    tokens: Int[Tensor, "B T"],
    layer: str,
    directions: Float[Tensor, "k W"],
    measure: Measure,
    *,
    at: Bool[Tensor, "B T"] | None = None,
    centre: Float[Tensor, " W"] | None = None,
    controls: int = 10,
    key: Key,
) -> Ablation:
    """Take the directions of a probe out of a layer, and as many random ones.

    Args:
        model: what reads.
        tokens: texts.
        layer: name of a hidden state `[B, T, W]`.
        directions: orthonormal, such as `LinearProbes.directions` gives.
        measure: what of the logits is looked at.
        at: where; everywhere by default.
        centre: what is put there instead, as for `remove`.
        controls: R, ≥ 1.
        key: of the random directions.
    """
    if controls < 1:
        raise ValueError(f"controls must be ≥ 1, got {controls}")
    generator = torch.Generator().manual_seed(key.low)
    drawn = torch.randn(controls, directions.shape[1], len(directions), generator=generator)
    bases = [directions, *torch.linalg.qr(drawn).Q.mT]
    with evaluating(model) as device:
        tokens = tokens.to(device)
        scores = [measure(model(tokens))]
        for basis in bases:
            edits = {layer: remove(basis.to(device), at=at, centre=centre)}
            scores.append(measure(model(tokens, capture=Capture(edits=edits))))
        before, after, *random = [score.double().cpu().numpy() for score in scores]
    return Ablation(before, after, np.stack(random))
