"""The read-out of the grammar probe: linear in the states of a whole sentence, mixed by attention to positions alone.

`G_i(x) = Σ_r Σ_k w_{r,i→k} f_r(E_k(x))` with `w_{r,i→k} ∝ exp⟨P_{i,r}, P_{k,r}⟩` over the k that a mask allows. Neither
the weights nor the sum look at what stands at k, so whatever is read off was linearly there.

- Masks: "full", "causal" (k ≤ i), "tridiagonal" (|i - k| ≤ 1) and "diagonal" (k = i, a plain linear read-out).
- Dot products are divided by the root of the width of P, and states are standardised first, both by our choice: neither
  changes what can be expressed.
- Exponentials are made once for all sentences of a batch; each sentence has its own sum over its tokens.

Shape legend: L layers, B sentences, n tokens (of the longest), R heads of attention, D width of P, W width of a state,
C outputs of all tasks together.
Source: Physics of Language Models 1, eq. (4.2) and (4.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from physlm.data.contract import IntArray
from physlm.data.decks import ranges
from physlm.data.streams import IGNORE
from physlm.probing.heads import ProbeTraining, Standardise, Tasks, fit_heads, shuffled_batches
from physlm.probing.inputs import Inputs, Rows
from physlm.probing.probes import Probes
from physlm.probing.states import States
from physlm.randomness import Key

Mask = Literal["full", "causal", "tridiagonal", "diagonal"]
_STD = 0.02
_LEAST = 1e-30
"""Sums of exponentials are at least this, should a short sentence have none of the larger ones."""


class Sentences:
    """The states of all tokens of sentences, end to end.

    Example:
        >>> tokens = Inputs.where(samples, samples.marks["role"] == Role.TOKEN)
        >>> sentences = Sentences.of(tokens, read_states(model, tokens, ["final"]))

    Args:
        states: of all tokens, `[N, L, W]`.
        offsets: sentence i is rows `offsets[i]` to `offsets[i + 1]`, `[sentences + 1]`.
    """

    def __init__(self, states: States, offsets: IntArray) -> None:
        offsets = np.asarray(offsets, dtype=np.int64)
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(states) or (np.diff(offsets) < 1).any():
            raise ValueError(f"offsets must rise from 0 to the {len(states)} tokens, got {offsets.tolist()[:8]} …")
        self.states, self.offsets = states, offsets

    @classmethod
    def of(cls, inputs: Inputs, states: States) -> Sentences:
        """Sentences of the documents that the places are in; the places of each must follow each other."""
        new = np.flatnonzero(np.diff(inputs.documents)) + 1
        adjacent = np.diff(inputs.positions) == 1
        adjacent[new - 1] = True
        if not adjacent.all():
            row = int(adjacent.argmin())
            raise ValueError(
                f"positions of a sentence must follow each other, got {inputs.positions[row]} and then "
                f"{inputs.positions[row + 1]} in document {inputs.documents[row]}"
            )
        return cls(states, np.concatenate([[0], new, [len(inputs)]]))

    def __len__(self) -> int:
        return len(self.states)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sentence."""
        return np.diff(self.offsets)

    def subset(self, rows: Rows) -> Sentences:
        """Some of the sentences, given by the rows of all their tokens."""
        chosen = np.zeros(len(self), dtype=np.bool_)
        chosen[rows] = True
        counts = np.add.reduceat(chosen.astype(np.int64), self.offsets[:-1])
        cut = (counts > 0) & (counts < self.lengths)
        if cut.any():
            sentence = int(cut.argmax())
            raise ValueError(
                f"sentences are taken whole, got {counts[sentence]} of {self.lengths[sentence]} tokens of {sentence}"
            )
        return Sentences(self.states.subset(np.flatnonzero(chosen)), np.append(0, np.cumsum(counts[counts > 0])))

    def batch(self, chosen: IntArray) -> tuple[NDArray[np.int64], Float[Tensor, "L B n W"], Bool[Tensor, "B n"]]:
        """Rows of the tokens of some sentences, their states with zeros behind, and what is inside."""
        lengths = self.lengths[chosen]
        rows = ranges(self.offsets[chosen], lengths)
        inside = np.arange(lengths.max()) < lengths[:, None]
        _, layers, width = self.states.shape
        padded = np.zeros((layers, *inside.shape, width), dtype=np.float32)
        padded[:, inside] = self.states[rows].transpose(1, 0, 2)
        return rows, torch.from_numpy(padded), torch.from_numpy(inside)


def allowed(mask: Mask, length: int) -> Bool[Tensor, "n n"]:
    """Whether position i (row) may read position k (column)."""
    places = torch.arange(length)
    apart = places[:, None] - places
    return {
        "full": torch.ones_like(apart, dtype=torch.bool),
        "causal": apart >= 0,
        "tridiagonal": apart.abs() <= 1,
        "diagonal": apart == 0,
    }[mask]


class PositionAttention(nn.Module):
    """The read-out itself; every layer starts from the same weights, drawn from `key`."""

    def __init__(
        self, layers: int, width: int, outputs: int, context: int, heads: int, head_width: int, mask: Mask, key: Key
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(key.low)
        self.mask: Mask = mask

        def draw(*shape: int) -> nn.Parameter:
            values = torch.empty(1, *shape).normal_(0.0, _STD, generator=generator)
            return nn.Parameter(values.repeat(layers, *[1] * len(shape)))

        self.position = draw(heads, context, head_width)
        self.weight = draw(width, heads * outputs)
        self.bias = nn.Parameter(torch.zeros(layers, 1, 1, outputs))

    def forward(self, states: Float[Tensor, "L B n W"], inside: Bool[Tensor, "B n"]) -> Float[Tensor, "L B n C"]:
        """Logits at every position."""
        layers, batch, length, _ = states.shape
        _, heads, context, head_width = self.position.shape
        if length > context:
            raise ValueError(f"sentences must have at most {context} tokens, those of the longest fitted, got {length}")
        position = self.position[:, :, :length]
        scores = position @ position.mT * head_width**-0.5
        scores = scores.masked_fill(~allowed(self.mask, length), float("-inf"))
        shares = (scores - scores.amax(-1, keepdim=True)).exp()  # L R n n
        sums = (shares.flatten(1, 2) @ inside.T.float()).unflatten(1, (heads, length))  # L R n B
        # Zero outside, so that nothing is read there.
        values = (states.flatten(1, 2) @ self.weight).view(layers, batch, length, heads, -1)
        values = (values * inside[:, :, None, None]).permute(0, 3, 2, 1, 4)  # L R n B C
        mixed = (shares @ values.flatten(3)).unflatten(-1, (batch, -1)) / sums.clamp(min=_LEAST).unsqueeze(-1)
        return mixed.sum(1).transpose(1, 2) + self.bias


class PositionAttentionProbes(Probes[Sentences]):
    """A multi-head position-attention probe for every layer and task; heads and positions are shared by the tasks.

    Example:
        >>> probes = PositionAttentionProbes(heads=16, head_width=1024, key=Key.of("ancestors", 0))
        >>> probes.fit(sentences, {"level 3": tokens.mark("symbol_3")})

    Args:
        heads, head_width: R and D.
        mask: which positions may be read.
        training: how it is fitted; `batch_size` counts sentences.
        context: tokens of the longest sentence that can be read; by default of the longest that is fitted.
        key: governs the weights at first and the order of sentences.
    """

    def __init__(
        self,
        *,
        heads: int = 16,
        head_width: int = 1024,
        mask: Mask = "full",
        training: ProbeTraining | None = None,
        context: int | None = None,
        key: Key,
    ) -> None:
        if heads < 1 or head_width < 1:
            raise ValueError(f"heads and head_width must be ≥ 1, got {heads} and {head_width}")
        if mask not in get_args(Mask):
            raise ValueError(f"mask must be one of {', '.join(get_args(Mask))}, got {mask!r}")
        default = ProbeTraining(batch_size=60, learning_rate=3e-3, weight_decay=1e-3)
        self.training = default if training is None else training
        self.heads, self.head_width, self.context, self.key = heads, head_width, context, key
        self.mask: Mask = mask

    def _fit(self, inputs: Sentences, codes: NDArray[np.int64], tasks: Tasks, training: ProbeTraining) -> None:
        asked = np.flatnonzero(np.logical_or.reduceat((codes != IGNORE).any(axis=1), inputs.offsets[:-1]))
        _, layers, width = inputs.states.shape
        self.layers_ = inputs.states.layers
        self.standardise_ = Standardise(block for _, block in inputs.states.blocks())
        context = int(inputs.lengths.max()) if self.context is None else self.context
        self.readout_ = PositionAttention(
            layers, width, tasks.outputs, context, self.heads, self.head_width, self.mask, self.key.child("weights")
        )

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in shuffled_batches(len(asked), training.batch_size, self.key):
                rows, logits = self._read(inputs, asked[chosen])
                yield logits, torch.from_numpy(codes[rows])

        fit_heads(dict(self.readout_.named_parameters()), batches(), tasks, training.recipe())

    def _read(self, inputs: Sentences, chosen: IntArray) -> tuple[NDArray[np.int64], Float[Tensor, "L tokens C"]]:
        """Rows and logits of the tokens of some sentences."""
        rows, states, inside = inputs.batch(chosen)
        states = self.standardise_(states.movedim(0, -2)).movedim(-2, 0)
        return rows, self.readout_(states, inside)[:, inside]

    def _logits(self, inputs: Sentences) -> Iterator[tuple[Rows, Tensor]]:
        if inputs.states.layers != self.layers_:
            raise ValueError(f"layers must be {', '.join(self.layers_)}, got {', '.join(inputs.states.layers)}")
        for start in range(0, len(inputs.lengths), self.training.batch_size):
            stop = min(start + self.training.batch_size, len(inputs.lengths))
            yield self._read(inputs, np.arange(start, stop))
