"""Description length: how many bits it takes to send labels to somebody who has the hidden states.

By the online code: the labels of a first portion are sent with all classes alike; then a probe is fitted to all that
was sent and codes the next portion by its probabilities, and so on. A label that is easy to read off is cheap early
on, so this tells few examples from many, which accuracy does not.

Shape legend: N places, L layers.
Source: Voita and Titov 2020, §2.2 (the code and its portions). That each distribution is mixed with a little of the
uniform one is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.probing.heads import Labels, labels_at
from physlm.probing.probes import Probing, R
from physlm.probing.results import DescriptionLength
from physlm.randomness import Key

PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5)
"""Shares of the places that the probes of the online code are fitted to."""
SMOOTHING = 0.01
"""Share of the uniform distribution in the online code, so that one sure mistake costs few bits."""
_LEAST_STEPS = 100
_SHUFFLED = " / shuffled"


def description_lengths(
    probing: Probing[R],
    labels: Labels,
    shuffled: Labels,
    rows: IntArray,
    entities: IntArray,
    key: Key,
    portions: Sequence[float] = PORTIONS,
) -> dict[str, DescriptionLength]:
    """Description length of the labels at some places, by task.

    Entities are sent in a random order, each with all its places: those of the first portion with all classes alike,
    those of each later one by a probe that was fitted to all before it, for as large a share of its steps.

    Args:
        probing: the probe, and what it reads.
        labels: by task, `[N]`.
        shuffled: the same in another order, sent as a control.
        rows: the places that are sent.
        entities: whom or what each place is about, `[N]`.
        key: of their order.
        portions: rising shares in (0, 1) at which the probe is fitted anew.
    """
    if any(not 0 < a < b < 1 for a, b in zip(portions, [*portions[1:], 1 - 1e-9], strict=True)):
        raise ValueError(f"portions must rise inside (0, 1), got {tuple(portions)}")
    tasks = {**labels, **{name + _SHUFFLED: values for name, values in shuffled.items()}}
    names, number = np.unique(entities[rows], return_inverse=True)
    turn = key.child("online code").generator().permutation(len(names))[number]
    order = rows[np.argsort(turn, kind="stable")]
    whole_entities = np.cumsum(np.bincount(turn))
    classes = {name: np.unique(tasks[name][rows][tasks[name][rows] != IGNORE]) for name in tasks}
    # Entities are not cut: a portion ends with the first that fills it.
    ends = np.unique(whole_entities[np.searchsorted(whole_entities, [share * len(rows) for share in portions])])
    ends = ends[ends < len(rows)]
    if not len(ends):
        raise ValueError(f"entities must be so many that a portion leaves some, got {len(names)} and {tuple(portions)}")
    make = probing.make_for_code or probing.make
    whole = make()
    bits: dict[str, NDArray[np.float64] | float] = {
        name: _asked(tasks[name], order[: ends[0]]) * float(np.log2(len(classes[name]))) for name in tasks
    }
    for start, stop in zip(ends, [*ends[1:], len(rows)], strict=True):
        known, told = np.sort(order[:start]), np.sort(order[start:stop])
        # What was never asked so far is still sent with all classes alike.
        fitted = [name for name in tasks if _asked(tasks[name], known)]
        steps = min(whole.training.steps, max(_LEAST_STEPS, round(whole.training.steps * start / len(rows))))
        cost: Mapping[str, NDArray[np.float64]] = {}
        if fitted:
            subset = {name: tasks[name] for name in fitted}
            probes = make().fit(
                probing.inputs.subset(known),
                labels_at(subset, known),
                classes={name: classes[name] for name in fitted},
                training=replace(whole.training, steps=steps),
            )
            cost = probes.bits(probing.inputs.subset(told), labels_at(subset, told), smoothing=SMOOTHING)
        for name in tasks:
            alike = _asked(tasks[name], told) * float(np.log2(len(classes[name])))
            bits[name] = bits[name] + cost.get(name, alike)
    return {name: _description(name, labels[name][rows], classes[name], bits) for name in labels}


def _asked(labels: IntArray, rows: IntArray) -> int:
    return int((labels[rows] != IGNORE).sum())


def _description(
    name: str, labels: IntArray, classes: IntArray, bits: Mapping[str, NDArray[np.float64] | float]
) -> DescriptionLength:
    _, times = np.unique(labels[labels != IGNORE], return_counts=True)
    share, total = times / times.sum(), int(times.sum())
    layers = max(np.size(cost) for cost in bits.values())
    online, shuffled = (np.broadcast_to(bits[name + suffix], layers) for suffix in ("", _SHUFFLED))
    prior = -total * float((share * np.log2(share)).sum())
    return DescriptionLength(online, shuffled, total * float(np.log2(len(classes))), prior, total)
