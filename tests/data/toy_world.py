"""A small world with ragged documents, for tests of everything that only needs the contract."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physlm.data.contract import IntArray, Judgement, Sample, Samples, hash_samples
from physlm.randomness import Key

PAD, EOS, MASK, FIRST = 0, 1, 2, 3
ROLES = 3


@dataclass(frozen=True)
class ToyWorld:
    """Document `i` of a split is entry `i % entries` of person `i // entries`.

    Its tokens are a hash of (split, document, position); words are pairs of tokens, numbered from 0 in every document.
    """

    sizes: tuple[tuple[str, int], ...] = (("train", 23),)
    entries: int = 1
    shortest: int = 1
    longest: int = 9
    vocab_size: int = 1000
    eos: int = EOS
    pad: int = PAD

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.sizes)

    def size(self, split: str) -> int:
        return dict(self.sizes)[split]

    def lengths(self, split: str) -> IntArray:
        span = self.longest - self.shortest + 1
        key = Key.of("toy lengths", split)
        return self.shortest + key.integers(np.arange(self.size(split)), 1, span)[:, 0]

    def render(self, split: str, indices: IntArray) -> Samples:
        return self._lay_out(split, indices, self.lengths(split)[np.asarray(indices)])

    def _lay_out(self, split: str, indices: IntArray, counts: IntArray) -> Samples:
        indices = np.asarray(indices)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        document = np.repeat(indices, counts)
        mixed = (document * 7919 + position * 104729 + 31 * self.splits.index(split)) * 2654435761 % 2**31
        marks = {
            "role": position % ROLES,
            "person": document // self.entries,
            "document": document,
            "position": position,
            "word": position // 2,
        }
        return Samples(FIRST + mixed % (self.vocab_size - FIRST), offsets, marks)

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        split, index = key
        tokens, marks = self.render(split, np.array([index])).document(0)
        return Sample(tokens, marks, truth=key)

    def check(self, truth: Any, tokens: Sequence[int] | IntArray) -> Judgement:
        expected = self[truth].tokens.tolist()
        if list(tokens) == expected:
            return Judgement(True)
        return Judgement(False, position=0, reason=f"expected {expected}")

    def fingerprint(self) -> str:
        parts = [hash_samples(self.render(split, np.arange(min(8, size)))) for split, size in self.sizes]
        return Key.of(repr(self), *parts).high.to_bytes(8, "little").hex()


class FreshToyWorld(ToyWorld):
    """The same documents, dealt in the order of their numbers; no list of all lengths."""

    def lengths(self, split: str) -> IntArray:
        raise AssertionError(f"all lengths of {split!r} were asked for")

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        span = self.longest - self.shortest + 1
        return self.shortest + Key.of("toy lengths", split).integers(np.asarray(indices), 1, span)[:, 0]

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        samples = self._lay_out(split, indices, self.lengths_at(split, indices))
        names = samples.marks if marks is None else marks
        return Samples(samples.tokens, samples.offsets, {name: samples.marks[name] for name in names})
