"""What can be read of people's facts off a model that has read their biographies, and where.

- *P-probing*: a biography is read as in training, and a probe is asked at six places, the words before each value. At
  position i (0 to 5) i values have been told; asked is for those that have not. One probe serves all positions.
- *Q-probing*: a name is read alone, between two end-of-text tokens, and a probe is asked at the second one.
- Both probes are a low-rank update of the input embedding, a norm and a linear map below a frozen model, one for each
  attribute. The whole value is asked for where its first token does not tell it.
- *At the end of the name*, linear probes read every layer.

Probes are fitted to the half of the people whose questions may be trained on, and asked about the other half. The
control task has a random label for every first name.

Shape legend: N places, A attributes, P people of the minority, H held-out people.
Source: Physics of Language Models 3.1, §5, App. E and F; the linear probes are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._biographies import halves
from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.models.transformer import Transformer
from physlm.probing.controls import evaluate, evaluate_states
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import Labels, ProbeTraining
from physlm.probing.inputs import BoolArray, Inputs, select
from physlm.probing.linear import Norm
from physlm.probing.probes import Probing
from physlm.probing.results import ACCURACIES, ProbeResult
from physlm.probing.states import read_states
from physlm.randomness import Key
from physlm.worlds.bios import BiographyWorld, Role

PROBE = "probe"
"""The probe itself, beside its controls."""
FIRST, WHOLE = "first", "whole"
"""What is asked for: the first token of a value, or the value."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """How a probe with an update of the embedding is made.

    Attributes:
        rank: of the update.
        alpha: factor on the update.
        norm: before the linear map.
        training: how it is fitted; `batch_size` counts documents.
        portions: of the online code.
    """

    rank: int
    alpha: float
    norm: Norm
    training: ProbeTraining
    portions: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Biographies:
    """The places before values in all biographies of the minority.

    Attributes:
        places: the token before each value, N places.
        people: whom each is about, `[N]`.
        position: how many values were told before, `[N]`.
        ahead: how many values are told before that of each attribute, `[N, A]`: 0 is told next, and what is negative
            was told already.
    """

    places: Inputs
    people: IntArray
    position: IntArray
    ahead: NDArray[np.int64]

    @classmethod
    def of(cls, world: BiographyWorld) -> Biographies:
        """All biographies, each after an end-of-text token as in training."""
        samples = world.render("biographies", np.arange(world.size("biographies")))
        opened = select(samples, np.ones(len(samples.tokens), dtype=np.bool_), before=[world.eos])
        values = Inputs.where(opened, opened.marks["value_position"] == 0)
        count = len(world.config.attributes)
        told_at = np.argsort(values.mark("attribute").reshape(-1, count), axis=1)
        ahead = told_at[:, None, :] - np.arange(count)[:, None]
        position = np.tile(np.arange(count), len(samples))
        return cls(values.moved(-1), values.mark("person"), position, ahead.reshape(-1, count))


def names_of(world: BiographyWorld) -> Inputs:
    """The end-of-text token behind the name of every person of the minority, P places."""
    samples = world.render("biographies", np.arange(world.config.people), marks=("role", "sentence"))
    is_name = (samples.marks["sentence"] == 0) & (samples.marks["role"] == Role.NAME)
    return Inputs.last(select(samples, is_name, before=[world.eos], after=[world.eos]))


def values_of(world: BiographyWorld) -> dict[str, dict[str, IntArray]]:
    """What is asked for, by attribute `[P]`: the first token, and the whole value where that is something else.

    Whole dates are not asked for: there are more of them than people (part 3.1, App. E).
    """
    people = np.arange(world.config.people)
    samples = world.render("biographies", people, marks=())
    first = samples.tokens[samples.offsets[:-1, None] + world.value_starts("biographies", people)]
    asked: dict[str, dict[str, IntArray]] = {FIRST: dict(zip(world.config.attributes, first.T, strict=True)), WHOLE: {}}
    for attribute in world.config.attributes:
        if attribute == "date":
            continue
        whole = world.people.indices(attribute, world.config.date_parts)[0][people]
        if len(np.unique(whole)) > len(np.unique(asked[FIRST][attribute])):
            asked[WHOLE][attribute] = whole
    return asked


def taught(world: BiographyWorld, people: IntArray) -> BoolArray:
    """Whether each of these people is in the half that probes are fitted to."""
    return np.isin(people, halves(world)["train"])


def _readout(
    model: Transformer,
    untrained: Transformer,
    world: BiographyWorld,
    inputs: Inputs,
    labels: Labels,
    people: IntArray,
    readout: Readout,
    key: Key,
) -> dict[str, ProbeResult]:
    """A probe for every task at places that are about people, with all controls."""

    def probing(reader: Transformer, layer: str) -> Probing[Inputs]:
        return Probing(
            lambda: EmbeddingProbes(
                reader,
                rank=readout.rank,
                alpha=readout.alpha,
                norm=readout.norm,
                layer=layer,
                training=readout.training,
                key=key.child("probe"),
            ),
            inputs,
        )

    return evaluate(
        probing(model, "final"),
        labels,
        entities=people,
        types=world.people.first[people],
        untrained=probing(untrained, "final"),
        embedding=probing(model, "embed"),
        fitted=taught(world, people),
        portions=readout.portions,
        shuffles=1,
        key=key,
    )


def outcomes(results: Mapping[str, ProbeResult], asked: BoolArray) -> dict[str, BoolArray]:
    """Whether the last layer of a probe, and its controls, are right at chosen places.

    Args:
        results: of A tasks, with all controls.
        asked: which of the given places are chosen for each task, `[N, A]`; of every held-out person equally many.

    Returns:
        Of the probe and of each control `[H, chosen of each person]`, people in order; of each person the tasks in
        order.
    """
    chosen = [(result, asked[result.rows, task]) for task, result in enumerate(results.values())]
    parts = [result.subset(here) for result, here in chosen if here.any()]
    entities = np.concatenate([np.zeros(0, dtype=np.int64), *(part.entities for part in parts)])
    people, count = np.unique(entities, return_counts=True)
    if len(np.unique(count)) != 1:
        counts = ", ".join(map(str, np.unique(count))) or "none"
        raise ValueError(f"asked must choose equally many places of every held-out person, got {counts}")
    order = np.argsort(entities, kind="stable")

    def by_person(right: list[BoolArray]) -> BoolArray:
        values = np.concatenate(right)
        if not np.isin(values, (0, 1)).all():
            raise ValueError("outcomes must be right or wrong, got shares: shuffle labels once")
        return values[order].reshape(len(people), -1) == 1

    found = {PROBE: by_person([part.correct[-1] for part in parts])}
    return found | {name: by_person([part.controls[name][-1] for part in parts]) for name in ACCURACIES}


def _cells(result: ProbeResult, position: IntArray, positions: int) -> dict[str, list[float | None]]:
    """Accuracy of a probe and its controls by position; `None` where it is never asked."""
    parts = result.by(position[result.rows])
    found = {PROBE: {at: part.accuracy[-1] for at, part in parts.items()}}
    found |= {name: {at: part.control(name)[-1] for at, part in parts.items()} for name in ACCURACIES}
    return {name: [float(row[at]) if at in row else None for at in range(positions)] for name, row in found.items()}


def probe_positions(
    model: Transformer, untrained: Transformer, world: BiographyWorld, readout: Readout, key: Key
) -> dict[str, Any]:
    """P-probing.

    Returns:
        For "first" and, where that is something else, "whole": under "tasks" each attribute with all controls, under
        "cells" the same by position; and outcomes of held-out people as arrays (`outcomes`): "start", of what is not
        told next at position 0; "before", of what is told next. Of biographies in couples second attributes alone are
        asked for: "start"; "others", once something else was told but not the first; "partner", once the first was.
    """
    texts, attributes = Biographies.of(world), list(world.config.attributes)
    in_couples = world.config.variant.startswith("couple")
    found: dict[str, Any] = {}
    for what, every in values_of(world).items():
        values = {name: known for name, known in every.items() if not in_couples or attributes.index(name) % 2 == 1}
        if not values:
            continue
        columns = [attributes.index(name) for name in values]
        ahead = texts.ahead[:, columns]
        labels = {
            name: np.where(ahead[:, column] >= 0, known[texts.people], IGNORE).astype(np.int64)
            for column, (name, known) in enumerate(values.items())
        }
        results = _readout(
            model, untrained, world, texts.places, labels, texts.people, readout, key.child("positions", what)
        )
        at_start = (texts.position == 0)[:, None]
        chosen = {"before": ahead == 0}
        if in_couples:
            partner = texts.ahead[:, [column - 1 for column in columns]]
            chosen = {
                "start": np.broadcast_to(at_start, ahead.shape),
                "others": (partner >= 0) & ~at_start,
                "partner": (partner < 0) & (ahead >= 0),
            }
        elif what == FIRST:
            chosen["start"] = at_start & (ahead > 0)
        found[what] = {
            "tasks": {name: result.to_dict() for name, result in results.items()},
            "cells": {name: _cells(result, texts.position, len(attributes)) for name, result in results.items()},
            **{name: outcomes(results, asked) for name, asked in chosen.items()},
        }
    return found


def probe_names(
    model: Transformer, untrained: Transformer, world: BiographyWorld, readout: Readout, key: Key
) -> dict[str, Any]:
    """Q-probing: under "first" and "whole" each attribute with all controls, and outcomes `[H, A]`."""
    inputs, people = names_of(world), np.arange(world.config.people)
    found: dict[str, Any] = {}
    for what, values in values_of(world).items():
        if values:
            labels = {name: known.astype(np.int64) for name, known in values.items()}
            results = _readout(model, untrained, world, inputs, labels, people, readout, key.child("names", what))
            everywhere = np.ones((len(people), len(labels)), dtype=np.bool_)
            tasks = {name: result.to_dict() for name, result in results.items()}
            found[what] = {"tasks": tasks, "outcomes": outcomes(results, everywhere)}
    return found


def probe_layers(
    model: Transformer, untrained: Transformer, world: BiographyWorld, training: ProbeTraining, key: Key
) -> dict[str, Any]:
    """Linear probes of every layer at the last token of the name: each attribute with all controls."""
    inputs, people = names_of(world).moved(-1), np.arange(world.config.people)
    results = evaluate_states(
        read_states(model, inputs),
        {name: known.astype(np.int64) for name, known in values_of(world)[FIRST].items()},
        entities=people,
        types=world.people.first[people],
        untrained=read_states(untrained, inputs),
        fitted=taught(world, people),
        training=training,
        key=key.child("layers"),
    )
    return {name: result.to_dict() for name, result in results.items()}
