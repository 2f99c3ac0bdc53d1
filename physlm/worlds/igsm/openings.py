"""Sentences that are begun: a solution up to the words that say what its next sentence defines.

A detector of wrong sentences is asked there whether what was named can be computed yet.

Shapes: Q openings.

Source: Physics of Language Models 2.2, §3.1 and App. D.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.randomness import Key
from physlm.worlds.igsm.config import Rendering
from physlm.worlds.igsm.dependencies import Integers
from physlm.worlds.igsm.labels import Labels
from physlm.worlds.igsm.vocabulary import Vocabulary
from physlm.worlds.igsm.world import IGSMWorld


class Head:
    """How a sentence begins: "Define Tug's Crate as" in English, "Tug Crate" in compact text.

    Example:
        >>> head = Head(world.vocabulary, world.config.rendering)
        >>> head.names(solution[: len(head)]) == world.vocabulary.name(problem, problem.solution[0])
        True

    Args:
        vocabulary: of the world.
        rendering: "english" or "compact".
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering) -> None:
        words = ("Define", None, "'s", None, "as") if rendering == "english" else (None, None)
        self._words = [None if word is None else vocabulary.id(word) for word in words]
        self._outer, self._inner = (place for place, word in enumerate(words) if word is None)
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self._words)

    def of(self, names: Integers) -> Integers:
        """The beginnings of sentences about parameters with these names, `[Q, 2]` to `[Q, words]`."""
        tokens = np.tile([0 if word is None else word for word in self._words], (len(names), 1))
        tokens[:, [self._outer, self._inner]] = names
        return tokens

    def names(self, sentence: Sequence[int] | NDArray[np.integer]) -> tuple[int, int] | None:
        """What a sentence defines, if it begins like this and was not taken back."""
        words, vocabulary = [int(token) for token in sentence], self._vocabulary
        if len(words) < len(self) or vocabulary.back in words:
            return None
        if any(known not in (None, word) for known, word in zip(self._words, words, strict=False)):
            return None
        # The last tokens of a vocabulary are names of categories, and after these of items.
        outer, inner = words[self._outer], words[self._inner]
        is_named = outer >= vocabulary.first_item and inner >= vocabulary.first_category
        return (outer, inner) if is_named else None

    def read(self, sentence: Sequence[int] | NDArray[np.integer]) -> int | None:
        """How many words of a sentence it is, or `None` if the sentence begins otherwise or was taken back."""
        return None if self.names(sentence) is None else len(self)


@dataclass(frozen=True, eq=False)
class Openings:
    """Solutions that were begun.

    Attributes:
        samples: prompt, whole sentences, and the head of one more: Q documents.
        ready: whether what it names can be computed now, the label `can_next`, `[Q]`.
    """

    samples: Samples
    ready: IntArray


def draw_openings(world: IGSMWorld, split: str, indices: IntArray, key: Key, *, count: int = 1) -> Openings:
    """Canonical solutions cut before a random sentence, and the head of a sentence about a random parameter.

    What is named may have been computed before, and is then not ready either.

    Args:
        world: whose problems; one that writes whole words.
        split: of the world.
        indices: of problems in the split.
        key: of the draw; what is drawn for a problem depends on its number in the split and on nothing else.
        count: of every problem, all different, or all there are if fewer.

    Raises:
        ValueError: if the world spells its documents in subwords, or `count` is < 1.
    """
    if world.subwords is not None:
        raise ValueError("tokenizer of the iGSM world must be None, as heads are made of whole words, got one")
    truth = Labels.of_problems(world.problems(split, indices))
    asked = truth.draw("can_next", key, indices.astype(np.int64), count=count, existing_only=True, finished=False)
    heads = Head(world.vocabulary, world.config.rendering).of(
        truth.names(world.vocabulary, asked.problem, asked.parameter)
    )
    told = world.render(split, indices, marks=("sentence",))
    documents: list[IntArray] = []
    for problem, read, head in zip(asked.problem, asked.sentence, heads, strict=True):
        span = slice(int(told.offsets[problem]), int(told.offsets[problem + 1]))
        tokens, sentence = told.tokens[span], told.marks["sentence"][span]
        first = int(np.flatnonzero(sentence >= 0)[0])
        end = first + int(np.count_nonzero((sentence >= 0) & (sentence < read)))
        documents.append(np.concatenate([tokens[:end], head]))
    offsets = np.cumsum([0, *map(len, documents)])
    return Openings(Samples(np.concatenate(documents), offsets, {}), asked.label)
