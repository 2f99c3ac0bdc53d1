"""What `Parser` and `GeneralParser` answer about many sentences: one question about each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.tables import Sentence

Count = TypeVar("Count", bound=float)
"""Of derivations: infinite in some grammars, whole in layered ones."""


class BatchInference(ABC, Generic[Count]):
    """The questions that take many sentences."""

    @abstractmethod
    def chart(self, sentence: Sentence) -> Any:
        """Everything about one sentence, with the properties that `physlm.worlds.cfg.inference.Chart` has."""

    def accepts(self, sentences: Iterable[Sentence]) -> NDArray[np.bool_]:
        """Whether each is a sentence of the language."""
        return np.array([self.chart(sentence).is_sentence for sentence in sentences], dtype=np.bool_)

    def errors(self, sentences: Iterable[Sentence]) -> NDArray[np.int64]:
        """`error` of each chart, -1 for sentences of the language."""
        found = (self.chart(sentence).error for sentence in sentences)
        return np.array([-1 if error is None else error for error in found], dtype=np.int64)

    def derivations(self, sentences: Iterable[Sentence]) -> list[Count]:
        """`derivations` of each chart."""
        return [self.chart(sentence).derivations for sentence in sentences]

    def log2_probabilities(self, sentences: Iterable[Sentence]) -> NDArray[np.float64]:
        """Probability of each, in bits; -inf for strings outside the language."""
        return np.array([self.chart(sentence).log2_probability for sentence in sentences], dtype=np.float64)

    def next_tokens(self, sentences: Iterable[Sentence]) -> list[NDArray[np.float64]]:
        """`next_token` of each chart."""
        return [self.chart(sentence).next_token for sentence in sentences]
