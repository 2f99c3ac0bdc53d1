"""Is what can be read of a problem used? A model about to write a sentence, with one direction of its state changed.

- Where a sentence of a solution begins, linear probes are fitted for every name that comes first in a parameter's: is
  any parameter of this item ready (`can_next`), does the query need any (`nece`)? Each probe has one direction.
- The state at that place is then moved along the direction of the item that the model is about to write of, to where it
  is on average if the answer is no. Does the model still write of that item?
- Controls: the state is moved just as far in a random direction; or along the direction of another item of the
  problem whose answer is yes as well, to where that one's answer is no.

Shape legend: N places, W width, B texts of a batch.
Source: the question is that of Elazar et al. 2021; iGSM labels of Physics of Language Models 2.1, §4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from experiments._igsm import Exam
from experiments._reasoning_questions import beginning
from physlm.data.contract import IntArray, Samples
from physlm.data.streams import IGNORE
from physlm.models.capture import Capture, Edit
from physlm.models.decoding import evaluating
from physlm.models.transformer import Transformer
from physlm.probing.batches import document_batches
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.probing.linear import LinearProbes
from physlm.probing.states import TOKENS_PER_BATCH, States, read_states
from physlm.randomness import Key
from physlm.worlds.igsm.dependencies import NONE
from physlm.worlds.igsm.labels import Labels, Task

USED_TASKS: tuple[Task, ...] = ("can_next", "nece")
_LEAST = 5  # places of either label that a direction is fitted to


@dataclass(frozen=True, eq=False)
class Starts:
    """The places at which sentences of canonical solutions begin, N of them.

    Attributes:
        inputs: the last token before the name in each sentence; every text ends there.
        items: by task and first name of parameters: whether the answer is yes, `IGNORE` where the problem has no
            parameter of that item, `[N]`.
    """

    inputs: Inputs
    items: dict[Task, dict[int, IntArray]]

    @classmethod
    def of(cls, exam: Exam) -> Starts:
        """All places in the solutions of these problems."""
        vocabulary, truth = exam.world.vocabulary, Labels.of_problems(exam.problems)
        problem = np.repeat(np.arange(len(exam.indices)), truth.sentences)
        sentence = np.concatenate([np.arange(count) for count in truth.sentences])
        # Every sentence in English begins with the same word, and only then with a name.
        opening = np.array(
            [vocabulary.id("Define")] if exam.world.config.rendering == "english" else [], dtype=np.int64
        )
        texts = [
            np.concatenate([beginning(vocabulary, "can_next", exam.documents[row], read), opening])
            for row, read in zip(problem.tolist(), sentence.tolist(), strict=True)
        ]
        row, place = np.nonzero(truth.numbers >= 0)
        first = np.full(truth.numbers.shape, NONE)
        first[row, place] = truth.names(vocabulary, row, place)[:, 0]
        place = np.arange(truth.numbers.shape[1])
        items: dict[Task, dict[int, IntArray]] = {}
        for task in USED_TASKS:
            answer = truth.of(task, problem[:, None], place, sentence=sentence[:, None]) == 1
            items[task] = {}
            for item in np.unique(first[first != NONE]).tolist():
                is_of = first[problem] == item
                items[task][item] = np.where(is_of.any(axis=1), (is_of & answer).any(axis=1), IGNORE)
        offsets = np.cumsum([0, *map(len, texts)])
        return cls(Inputs.last(Samples(np.concatenate(texts), offsets, {})), items)


@dataclass(frozen=True, eq=False)
class Shift:
    """A change of states: as far in direction `toward` as the state is from `goal` in direction `away`, backwards.

    Attributes:
        away, toward: unit vectors, `[N, W]`.
        goal: coordinate along `away`, `[N]`.
    """

    away: Float[Tensor, "N W"]
    toward: Float[Tensor, "N W"]
    goal: Float[Tensor, " N"]

    def edit(self, rows: IntArray, places: Int[Tensor, "2 B"]) -> Edit:
        """For the texts `rows` in a batch, at one place each."""
        text, position = places

        def change(state: Tensor) -> Tensor:
            away, toward, goal = (
                part[torch.from_numpy(rows)].to(state) for part in (self.away, self.toward, self.goal)
            )
            here = state[text, position]
            distance = (here * away).sum(-1) - goal
            changed = state.clone()
            changed[text, position] = here - distance.unsqueeze(-1) * toward
            return changed

        return change


def next_tokens(model: Transformer, inputs: Inputs, layer: str = "", shift: Shift | None = None) -> IntArray:
    """The most likely token behind each place, with the states of a layer changed there or as they are, `[N]`.

    Args:
        model: a causal one.
        inputs: one place of each text.
        layer: whose states are changed.
        shift: how.
    """
    found = np.zeros(len(inputs), dtype=np.int64)
    with evaluating(model) as device:
        for batch in document_batches(inputs, TOKENS_PER_BATCH, causal=True):
            places = torch.from_numpy(batch.places).to(device)
            edits = {} if shift is None else {layer: shift.edit(batch.rows, places)}
            logits = model(torch.from_numpy(batch.tokens).to(device), capture=Capture(edits=edits))
            found[batch.rows] = logits[places[0], places[1]].argmax(-1).cpu().numpy()
    return found


@dataclass(frozen=True, eq=False)
class Directions:
    """Of I items, at one layer.

    Attributes:
        vector: of unit length, `[I, W]`.
        goal: where states are along it, on average, if the answer is no, `[I]`.
    """

    vector: Float[Tensor, "I W"]
    goal: Float[Tensor, " I"]

    @classmethod
    def of(cls, probes: LinearProbes, states: States, labels: Mapping[str, IntArray]) -> Directions:
        """Directions of fitted probes, one task for each item.

        Args:
            probes: fitted.
            states: of one layer, that they were fitted to.
            labels: by item.
        """
        (layer,) = states.layers
        vector = torch.cat([probes.directions(name, layer) for name in labels])
        centre = np.stack([states[np.flatnonzero(answer == 0)][:, 0].mean(axis=0) for answer in labels.values()])
        return cls(vector, (vector * torch.from_numpy(centre)).sum(-1))

    def shift(self, items: IntArray, toward: Float[Tensor, "N W"] | None = None) -> Shift:
        """To where the answer about one item each is no; or as far in other directions."""
        away = self.vector[torch.from_numpy(items)]
        return Shift(away, away if toward is None else toward, self.goal[torch.from_numpy(items)])


def used_directions(
    model: Transformer, fitted: Exam, asked: Exam, training: ProbeTraining, *, controls: int, key: Key
) -> dict[str, dict[str, dict[str, Any]]]:
    """How often a model writes of another item than the one it was about to, by task and block.

    Only places count at which the model is about to write of an item for which the answer is yes and a direction known.

    Args:
        model: a causal one.
        fitted: problems that probes are fitted to.
        asked: problems in whose solutions states are changed.
        training: of the probes.
        controls: sets of random directions, ≥ 1.
        key: of the probes and directions.

    Returns:
        For each: "places", how many; shares of them where another item is written of, by the directions of the "probe",
        by those of "other" items whose answer is yes, and by "random" ones, a list; "readable", the balanced accuracy
        of the probes where sentences of the asked problems begin. Shares are NaN where there is no place.
    """
    if controls < 1:
        raise ValueError(f"controls must be ≥ 1, got {controls}")
    layers = [f"block.{block}.resid_post" for block in range(max(1, model.config.layers - 1))]
    known, new = Starts.of(fitted), Starts.of(asked)
    states, new_states = read_states(model, known.inputs, layers), read_states(model, new.inputs, layers)
    before = next_tokens(model, new.inputs)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for task in USED_TASKS:
        labels = {
            str(item): answer
            for item, answer in known.items[task].items()
            if min((answer == 0).sum(), (answer == 1).sum()) >= _LEAST and item in new.items[task]
        }
        told = {name: new.items[task][int(name)] for name in labels}
        probes = LinearProbes(training, key=key.child(task, "probes")).fit(states, labels)
        right = probes.correct(new_states, told)
        about = about_to_write(before, told, key.child(task, "other"))
        found[task] = {}
        for number, layer in enumerate(layers):
            by_label = [np.concatenate([right[name][number, told[name] == label] for name in told]) for label in (0, 1)]
            found[task][str(number)] = {
                "readable": float(np.mean([answers.mean() for answers in by_label])),
                **changes(
                    model,
                    new.inputs,
                    before,
                    np.array(list(new.items[task])),
                    about,
                    layer,
                    Directions.of(probes, states.only([layer]), labels),
                    controls,
                    key.child(task, number),
                ),
            }
    return found


def about_to_write(before: IntArray, labels: Mapping[str, IntArray], key: Key) -> tuple[IntArray, IntArray, IntArray]:
    """Where the model is about to write of an item whose answer is yes; that item, and another such.

    Places where the answer is yes for no other are left out: to move another that is not ready anyway is no change.

    Args:
        before: what the model is about to write, `[N]`.
        labels: answers by item, `[N]` each.
        key: of the choice among others.

    Returns:
        Numbers of places, and of items in the order of `labels`.
    """
    items, answers = np.array([int(name) for name in labels]), np.stack(list(labels.values()), axis=1)
    is_next = (items == before[:, None]) & (answers == 1)
    is_other = (answers == 1) & ~is_next
    rows = np.flatnonzero(is_next.any(axis=1) & is_other.any(axis=1))
    luck = key.uniforms(rows, len(items))
    return rows, is_next[rows].argmax(axis=1), np.where(is_other[rows], luck, -1).argmax(axis=1)


def changes(
    model: Transformer,
    inputs: Inputs,
    before: IntArray,
    items: IntArray,
    about: tuple[IntArray, IntArray, IntArray],
    layer: str,
    directions: Directions,
    controls: int,
    key: Key,
) -> dict[str, Any]:
    """How often another item is written of if states are moved, as `used_directions` tells it.

    Args:
        model: a causal one.
        inputs: N places.
        before: what is written there, `[N]`.
        items: tokens that are names of items.
        about: places, items that are about to be written of, and others, numbered as in `directions`.
        layer: whose states are moved.
        directions: of the items, at this layer.
        controls: sets of random directions.
        key: of these.
    """
    rows, item, other = about
    if not len(rows):
        return {"places": 0, "probe": float("nan"), "other": float("nan"), "random": [float("nan")] * controls}

    def share(shift: Shift) -> float:
        after = next_tokens(model, inputs.subset(rows), layer, shift)
        return float(((after != before[rows]) & np.isin(after, items)).mean())

    generator = torch.Generator().manual_seed(key.low)
    drawn = torch.randn(controls, len(rows), directions.vector.shape[1], generator=generator)
    return {
        "places": len(rows),
        "probe": share(directions.shift(item)),
        "other": share(directions.shift(other)),
        "random": [share(directions.shift(item, toward)) for toward in F.normalize(drawn, dim=-1)],
    }
