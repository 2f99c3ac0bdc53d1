"""The contract between synthetic worlds and everything that learns from them.

- A `Sample` is one annotated document: tokens, marks aligned with the tokens, and the latent truth.
- `Samples` is many documents laid end to end (ragged), so that worlds can be vectorised.
- A `World` is random access to samples, plus a judge that knows the truth; a `FreshWorld` never runs out of them.
- A sample is a pure function of (world config, split, index): no state, no order, no worker count.

Nothing here knows about any particular world, model or tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Sample:
    """One document of a world.

    Attributes:
        tokens: token ids, shape `[length]`.
        marks: named arrays aligned with `tokens`, each of shape `[length]`.
        truth: the latent object that produced the document (a person, a parse tree, a graph).
    """

    tokens: IntArray
    marks: Mapping[str, IntArray]
    truth: Any

    def __post_init__(self) -> None:
        for name, mark in self.marks.items():
            if len(mark) != len(self.tokens):
                raise ValueError(f"mark {name!r} must align with {len(self.tokens)} tokens, got {len(mark)} values")


@dataclass(frozen=True)
class Samples:
    """Many documents laid end to end.

    Attributes:
        tokens: token ids of all documents, shape `[total_tokens]`.
        offsets: document `i` is `tokens[offsets[i]:offsets[i + 1]]`, shape `[documents + 1]`.
        marks: named arrays aligned with `tokens`.
    """

    tokens: IntArray
    offsets: IntArray
    marks: Mapping[str, IntArray]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, i: int) -> tuple[IntArray, dict[str, IntArray]]:
        """Tokens and marks of document `i`."""
        span = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.tokens[span], {name: mark[span] for name, mark in self.marks.items()}


@dataclass(frozen=True)
class Judgement:
    """What a world says about an answer: right or wrong, and if wrong, where and why.

    Attributes:
        correct: whether the whole document is true in the world.
        position: index of the first wrong token, or `None` when correct.
        reason: one readable sentence, empty when correct.
    """

    correct: bool
    position: int | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.correct


@runtime_checkable
class World(Protocol):
    """A synthetic world in which every fact is known.

    `world[split, index]` gives one annotated `Sample`; `render` gives many at once and must agree
    with it byte for byte; `check` judges tokens against a truth without using the renderer.
    """

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits this world can be indexed with."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        ...

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        ...

    @property
    def pad(self) -> int:
        """Token id that fills unused positions."""
        ...

    def size(self, split: str) -> int:
        """Number of documents in `split`."""
        ...

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`, shape `[size(split)]`, without rendering."""
        ...

    def render(self, split: str, indices: IntArray) -> Samples:
        """The documents at `indices`, in that order."""
        ...

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document with its truth."""
        ...

    def check(self, truth: Any, tokens: Sequence[int] | IntArray) -> Judgement:
        """Judge a document against a truth."""
        ...

    def fingerprint(self) -> str:
        """Hash of the config and of the first documents of every split."""
        ...


@runtime_checkable
class FreshWorld(World, Protocol):
    """A world whose documents are independent draws, however many are asked for.

    They need no shuffling, so streams deal them in the order of their numbers and ask for lengths only as they go:
    a split may hold more documents than memory holds lengths.
    """

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        """Number of tokens of the documents at `indices`, without rendering."""
        ...

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or only those named."""
        ...


def hash_samples(samples: Samples) -> str:
    """Hex digest of tokens, boundaries and marks, independent of integer width."""
    digest = hashlib.blake2b(digest_size=16)
    arrays = {"tokens": samples.tokens, "offsets": samples.offsets, **samples.marks}
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name], dtype=np.int64).tobytes())
    return digest.hexdigest()


def leakage(a: Samples, b: Samples) -> float:
    """Share of the documents of `b` whose exact token sequence also occurs in `a`.

    Returns a number in [0, 1]; 0 means that no document of `b` was seen in `a`.
    """
    if len(b) == 0:
        raise ValueError("leakage needs at least one document in b, got 0")
    seen = {a.document(i)[0].astype(np.int64).tobytes() for i in range(len(a))}
    repeated = sum(b.document(i)[0].astype(np.int64).tobytes() in seen for i in range(len(b)))
    return repeated / len(b)
