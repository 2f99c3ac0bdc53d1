"""What makes a hidden unit most active.

Shape legend: N places, M units, k tokens for each.
Source: Karpathy, Johnson and Fei-Fei 2016; Geva et al. 2021 (top-activating texts of MLP units).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.probing.inputs import Inputs
from physlm.probing.states import States


@dataclass(frozen=True, eq=False)
class TopActivations:
    """The places where each unit is most active, the most active first.

    Attributes:
        values: the activations, `[M, k]`.
        rows: numbers of the places, `[M, k]`.
        inputs: all places.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    inputs: Inputs

    @property
    def tokens(self) -> IntArray:
        """The token at each place, `[M, k]`."""
        return self.inputs.tokens[self.rows]

    @property
    def documents(self) -> IntArray:
        """Number of the document of each place, `[M, k]`."""
        return self.inputs.documents[self.rows]

    @property
    def positions(self) -> IntArray:
        """Position of each place in its document, `[M, k]`."""
        return self.inputs.positions[self.rows]


def top_activations(states: States, inputs: Inputs, *, count: int = 10) -> TopActivations:
    """The most activating tokens of every unit of one layer.

    Example:
        >>> places = Inputs.where(samples, samples.marks["role"] >= 0)
        >>> top = top_activations(read_states(model, places, ["block.1.mlp_post"]), places, count=5)
        >>> top.tokens.shape  # units, tokens of each
        (128, 5)

    Args:
        states: of one layer, such as `block.1.mlp_post`, at N places.
        inputs: these places.
        count: k.
    """
    places, layers, units = states.shape
    if layers != 1 or places != len(inputs):
        raise ValueError(f"states must be of 1 layer at {len(inputs)} places, got {layers} layers at {places}")
    if not 1 <= count <= places:
        raise ValueError(f"count must be in 1..{places}, the number of places, got {count}")
    values, rows = torch.zeros(0, units), torch.zeros(0, units, dtype=torch.long)
    for among, block in states.blocks():
        numbers = torch.arange(among.start, among.stop)[:, None].expand(-1, units)
        values, rows = torch.cat([values, torch.from_numpy(block[:, 0])]), torch.cat([rows, numbers])
        values, best = values.topk(min(count, len(values)), dim=0)
        rows = rows.gather(0, best)
    return TopActivations(values.T.numpy(), rows.T.numpy(), inputs)
