"""Is what can be read of people's facts at the end of their names used?

Of each attribute, the directions by which a linear probe tells values apart are put to their mean at the last token of
the name, and the model is asked for the value that follows. The controls are as many random directions, and those of
another attribute. Probes are fitted to one half of the people and the model is asked about the other half.

Source: ours, after Elazar et al. 2021 (amnesic probing).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments._biography_probes import FIRST, Biographies, names_of, taught, values_of
from physlm.models.transformer import Transformer
from physlm.probing.batches import PlacesByDocument
from physlm.probing.heads import ProbeTraining, labels_at
from physlm.probing.interventions import ablation
from physlm.probing.linear import LinearProbes
from physlm.probing.states import read_states
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld


def remove_from_names(
    model: Transformer,
    world: BiographyWorld,
    training: ProbeTraining,
    *,
    rank: int,
    texts: int,
    controls: int,
    key: Key,
) -> dict[str, dict[str, Any]]:
    """What the model no longer knows without the directions of probes at the last token of the name.

    Asked is for the value that is told first in the biography of a held-out person, whatever is left of the name.

    Args:
        model: a causal one.
        world: of the biographies.
        training: of the linear probes, which are fitted to the other half of the people.
        rank: directions that are taken out, those that tell most.
        texts: biographies, at most, for each attribute.
        controls: sets of random directions.
        key: of the probes, and of the random directions.

    Returns:
        For each block and each attribute that is told first by somebody, in nats: the log-probability of the first
        token of the value ("before") and by how much it falls ("effect"), that of random directions ("random effects")
        and that of the directions of the attribute after it ("other effect").
    """
    names, told = names_of(world).moved(-1), Biographies.of(world)
    values = values_of(world)[FIRST]
    layers = [f"block.{block}.resid_post" for block in range(max(1, model.config.layers - 1))]
    states = read_states(model, names, layers)
    fitted = np.flatnonzero(taught(world, np.arange(len(names))))
    labels = {name: known.astype(np.int64) for name, known in values.items()}
    probes = LinearProbes(training, key=key.child("probes")).fit(states.subset(fitted), labels_at(labels, fitted))
    most = {name: min(rank, states.shape[2], len(probes.classes_[name]) - 1) for name in values}
    is_first = (told.position == 0) & ~taught(world, told.people)
    found: dict[str, dict[str, Any]] = {str(block): {} for block in range(len(layers))}
    for column, name in enumerate(values):
        rows = np.flatnonzero(is_first & (told.ahead[:, column] == 0))[:texts]
        if not len(rows):
            continue
        by_document = PlacesByDocument(told.places.subset(rows))
        batch = by_document.batch(np.arange(len(rows)), by_document.lengths(causal=True))
        people = told.people[rows][batch.rows]
        right = torch.from_numpy(labels[name][people])
        row, position = torch.from_numpy(batch.places)
        at = torch.zeros(batch.tokens.shape, dtype=torch.bool)
        at[row, torch.from_numpy(names.positions[people])] = True

        def told_right(logits: Tensor, row: Tensor = row, position: Tensor = position, right: Tensor = right) -> Tensor:
            device = logits.device
            asked = logits[row.to(device), position.to(device)].double().log_softmax(-1)
            return asked.gather(1, right.to(device)[:, None]).squeeze(1)

        other = list(values)[(column + 1) % len(values)]
        for block, layer in enumerate(layers):
            taken = partial(
                ablation,
                model,
                torch.from_numpy(batch.tokens),
                layer,
                measure=told_right,
                at=at,
                centre=torch.from_numpy(states.only([layer])[:][:, 0].mean(axis=0)),
                key=key.child("random", block, name),
            )
            own = taken(probes.directions(name, layer, rank=most[name]), controls=controls)
            foreign = taken(probes.directions(other, layer, rank=most[other]), controls=1)
            found[str(block)][name] = own.to_dict() | {"other effect": foreign.effect, "texts": len(rows)}
    return found
