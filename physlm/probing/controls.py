"""A probe together with everything it is to be believed by.

`evaluate` fits a probe to one half of the entities and asks about the other, and measures besides:

| control | what | what it would show |
| --- | --- | --- |
| majority | always the commonest label of the fitted places | the label is mostly one |
| shuffled labels | the same probe, fitted to labels in other orders | the probe's own prior |
| untrained model | the same probe on a model of the same shape as it was drawn | the shape alone, or the tokens, tell |
| embedding layer | the same probe on what enters the first block | the token alone tells |
| control task | a label for each type (token), drawn from the prior | the probe memorises; the rest is selectivity |
| disjoint entities | nobody is on both sides | the probe remembers entities |
| description length | bits of an online code of the labels | accuracy was bought by many examples |

States that fall into clusters, one for each label, make a single shuffling a lottery: its probe names whole clusters,
by luck rightly. So labels are shuffled several times where that is cheap, and the mean is told.

Shuffled labels and the control task are further tasks of the same fit, and the embedding is one of the layers, so that
all of it costs three fits: this one, that of the untrained model, and the parts of the online code.

Shape legend: N places, L layers.
Source: Hewitt and Liang 2019 (control tasks); Voita and Titov 2020 (description length); Zhang and Bowman 2018
(untrained models).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.probing.description_length import PORTIONS, description_lengths
from physlm.probing.heads import Labels, ProbeTraining, labels_at
from physlm.probing.inputs import BoolArray
from physlm.probing.linear import LinearProbes, Norm
from physlm.probing.probes import Probes, Probing, R
from physlm.probing.results import (
    CONTROL_TASK,
    EMBEDDING,
    MAJORITY,
    SHUFFLED,
    UNTRAINED,
    ProbeResult,
)
from physlm.probing.states import States
from physlm.randomness import Key

SHUFFLES = 5
"""Orders of the labels, for linear probes on hidden states."""

_CONTROL_TASK = f" / {CONTROL_TASK}"


def _shuffled(number: int) -> str:
    return f" / {SHUFFLED} {number}"


def split_entities(entities: IntArray, key: Key, *, fitted: float = 0.5) -> BoolArray:
    """Which places are fitted, `[N]`: those of a random share of the entities.

    Raises:
        ValueError: fewer than two entities, or a share that leaves one side without any.
    """
    names, number = np.unique(entities, return_inverse=True)
    count = round(fitted * len(names))
    if not 0 < count < len(names):
        raise ValueError(f"fitted must leave entities on both sides, got {fitted} of {len(names)} entities")
    is_fitted = np.zeros(len(names), dtype=np.bool_)
    is_fitted[key.child("entities").generator().permutation(len(names))[:count]] = True
    return is_fitted[number]


def shuffle_labels(labels: IntArray, among: BoolArray, key: Key) -> IntArray:
    """Labels `[N]` in another order among the asked places where `among` is true; the others keep theirs."""
    rows = np.flatnonzero(among & (labels != IGNORE))
    mixed = np.array(labels)
    mixed[rows] = labels[key.child("shuffled").generator().permutation(rows)]
    return mixed


def control_labels(labels: IntArray, types: IntArray, prior: IntArray, key: Key) -> IntArray:
    """Labels of a control task, `[N]`: one for each type, drawn from the labels in `prior`.

    The label of a type depends on the key and the type alone. Where the task is not asked, neither is this one.
    """
    names, number = np.unique(types, return_inverse=True)
    drawn = key.child("control task").integers(names.astype(np.int64), 1, len(prior))[:, 0]
    return np.where(labels == IGNORE, IGNORE, prior[drawn][number])


def evaluate(
    probing: Probing[R],
    labels: Labels,
    *,
    entities: IntArray,
    key: Key,
    types: IntArray | None = None,
    untrained: Probing[R] | None = None,
    embedding: str | Probing[R] | None = None,
    fitted: float | BoolArray = 0.5,
    portions: Sequence[float] | None = PORTIONS,
    shuffles: int = 1,
) -> dict[str, ProbeResult]:
    """Probe every layer for every task, with controls.

    What is left out is missing in the results, which then refuse to be told.

    Args:
        probing: the probe, and N places of the trained model.
        labels: by task, `[N]`, `IGNORE` where it is not asked.
        entities: whom or what each place is about, `[N]`: a person, or the document where all are independent.
        key: governs the split, shuffled labels, control tasks and the order of the online code.
        types: what the control task gives a label to, `[N]`: mostly the token at the place.
        untrained: the same places of a model of the same shape as it was drawn.
        embedding: name of the layer that is the embedding, or the probe on it.
        fitted: share of the entities that is fitted, or which places are, `[N]`.
        portions: of the online code; `None` leaves it out.
        shuffles: in how many other orders labels are fitted; 0 leaves the control out.

    Raises:
        ValueError: arrays of other lengths, negative `shuffles`, none although the online code needs one, or a split
            of entities that shares some.
    """
    least = 0 if portions is None else 1
    if shuffles < least:
        raise ValueError(f"shuffles must be ≥ {least}{' for an online code' if least else ''}, got {shuffles}")
    count = len(probing.inputs)
    for name, array in {"entities": entities, "types": types, **labels}.items():
        if array is not None and np.shape(array) != (count,):
            raise ValueError(f"{name} must be [{count}], one for each place, got {np.shape(array)}")
    is_fitted = split_entities(entities, key, fitted=fitted) if isinstance(fitted, float) else np.asarray(fitted)
    if is_fitted.shape != (count,) or is_fitted.all() or not is_fitted.any():
        raise ValueError(f"fitted must be [{count}] with places on both sides, got {is_fitted.sum()} that are fitted")
    if shared := len(np.intersect1d(entities[is_fitted], entities[~is_fitted])):
        raise ValueError(f"fitted and held-out places must be about different entities, got {shared} on both sides")

    tasks = dict(labels)
    for name, values in labels.items():
        for number in range(shuffles):
            order = key.child(name, number) if number else key.child(name)
            tasks[name + _shuffled(number)] = shuffle_labels(values, is_fitted, order)
        if types is not None:
            prior = values[is_fitted & (values != IGNORE)]
            tasks[name + _CONTROL_TASK] = control_labels(values, types, prior, key.child(name))

    fitted_rows, held_out = np.flatnonzero(is_fitted), np.flatnonzero(~is_fitted)
    probes, correct = _fit_and_ask(probing, tasks, fitted_rows, held_out)
    untrained_correct = _fit_and_ask(untrained, labels, fitted_rows, held_out)[1] if untrained else None
    embedding_correct = (
        _fit_and_ask(embedding, labels, fitted_rows, held_out)[1] if isinstance(embedding, Probing) else None
    )
    if isinstance(embedding, str) and embedding not in probes.layers_:
        raise ValueError(f"embedding must be one of the layers {', '.join(probes.layers_)}, got {embedding!r}")
    descriptions = {}
    if portions is not None:
        mixed = {name: tasks[name + _shuffled(0)] for name in labels}
        descriptions = description_lengths(probing, labels, mixed, fitted_rows, entities, key, portions)

    results: dict[str, ProbeResult] = {}
    for name, values in labels.items():
        asked = np.flatnonzero(values[held_out] != IGNORE)
        if not len(asked):
            raise ValueError(f"labels of {name!r} must be asked at held-out places too, got none")
        known, times = np.unique(values[is_fitted & (values != IGNORE)], return_counts=True)
        controls = {MAJORITY: (values[held_out] == known[times.argmax()])[None]}
        if shuffles:
            controls[SHUFFLED] = np.mean([correct[name + _shuffled(number)] for number in range(shuffles)], axis=0)
        if types is not None:
            controls[CONTROL_TASK] = correct[name + _CONTROL_TASK]
        if untrained_correct is not None:
            controls[UNTRAINED] = untrained_correct[name]
        if embedding_correct is not None:
            controls[EMBEDDING] = embedding_correct[name]
        elif isinstance(embedding, str):
            controls[EMBEDDING] = correct[name][[probes.layers_.index(embedding)]]
        whole = ProbeResult(
            task=name,
            layers=probes.layers_,
            correct=correct[name],
            entities=entities[held_out],
            rows=held_out,
            controls=controls,
            shared_entities=shared,
            description=descriptions.get(name),
        )
        results[name] = whole.subset(asked)
    return results


def _fit_and_ask(
    probing: Probing[R], labels: Labels, fitted: IntArray, held_out: IntArray
) -> tuple[Probes[R], dict[str, BoolArray]]:
    """A fitted probe, and whether it is right at held-out places, by task `[L, held out]`.

    Shuffled labels are true ones at held-out places; there, only their order in fitting was changed.
    """
    probes = probing.make().fit(probing.inputs.subset(fitted), labels_at(labels, fitted))
    return probes, probes.correct(probing.inputs.subset(held_out), labels_at(labels, held_out))


def evaluate_states(
    states: States,
    labels: Labels,
    *,
    entities: IntArray,
    key: Key,
    types: IntArray | None = None,
    untrained: States | None = None,
    embedding: str | States | None = "embed",
    fitted: float | BoolArray = 0.5,
    training: ProbeTraining | None = None,
    norm: Norm = "batch",
    portions: Sequence[float] | None = PORTIONS,
    shuffles: int = SHUFFLES,
) -> dict[str, ProbeResult]:
    """`evaluate` for linear probes on hidden states: all layers and tasks at once.

    Example:
        >>> places = Inputs.where(samples, samples.marks["value_position"] == 0).moved(-1)
        >>> results = evaluate_states(
        ...     read_states(model, places),
        ...     {"birth city": labels},
        ...     entities=places.mark("person"),
        ...     types=places.tokens,
        ...     untrained=read_states(Transformer(model.config, seed=1), places),
        ...     key=Key.of("probe", 0),
        ... )
        >>> print(results["birth city"])

    Args:
        states: N places of the trained model; one layer is the embedding, or it is given on its own.
        labels: by task, `[N]`, `IGNORE` where it is not asked.
        entities: whom or what each place is about, `[N]`.
        key: governs everything that is drawn.
        types: what the control task gives a label to, `[N]`.
        untrained: the same places and layers of a model of the same shape as it was drawn.
        embedding: name of the layer that is the embedding, or its states.
        fitted: share of the entities that is fitted, or which places are, `[N]`.
        training: how the probes are fitted.
        norm: what is done to states first.
        portions: of the online code; `None` leaves it out.
        shuffles: in how many other orders labels are fitted; 0 leaves the control out.
    """

    def reading(inputs: States) -> Probing[States]:
        return Probing(lambda: LinearProbes(training, norm=norm, key=key.child("probe")), inputs)

    return evaluate(
        reading(states),
        labels,
        entities=entities,
        key=key,
        types=types,
        untrained=None if untrained is None else reading(untrained),
        embedding=reading(embedding) if isinstance(embedding, States) else embedding,
        fitted=fitted,
        portions=portions,
        shuffles=shuffles,
    )
