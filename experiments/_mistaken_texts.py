"""Solutions to read with wrong attempts in them, each taken back: which attempts, and which of their tokens bear loss.

- All texts of a seed are made of the same problems in the same order, with the same solutions; they differ in the
  attempts alone.
- *Equal tokens*: every model reads as many windows of as many positions. The more attempts, the fewer problems it sees.
- A document that no window holds, which attempts can make it, is left out, and another problem takes its place.

Source: Physics of Language Models 2.2, §4 and §6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._igsm import SOLUTION_ROLES, Exam
from physlm.data.contract import FreshWorld, IntArray, Judgement, Sample, Samples
from physlm.data.streams import Source
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes import AttemptRole, Kind, Mask, RetryConfig, RetryWorld, retry_world

_REPLACEMENTS = 64  # problems that may take the place of one that is too long, one after another


class ShortDocuments:
    """The documents of a world that are not too long; implements `FreshWorld`.

    Documents keep their numbers. In place of one that is too long comes one from further on in the split, a fixed
    distance away, so that documents remain independent draws.

    Args:
        world: whose documents.
        longest: most tokens of a document.
    """

    def __init__(self, world: FreshWorld, longest: int) -> None:
        self.world = world
        self.longest = longest
        self.splits = world.splits
        self.vocab_size, self.eos, self.pad = world.vocab_size, world.eos, world.pad

    def size(self, split: str) -> int:
        """Number of documents in `split`."""
        return self.world.size(split)

    def chosen(self, split: str, indices: IntArray) -> NDArray[np.int64]:
        """Which document of the world each is."""
        found = np.array(indices, dtype=np.int64)
        distance, size = self.size(split) // _REPLACEMENTS, self.size(split)
        for number in range(1, _REPLACEMENTS):
            is_long = self.world.lengths_at(split, found) > self.longest
            if not is_long.any():
                return found
            found[is_long] = (np.asarray(indices, dtype=np.int64)[is_long] + number * distance) % size
        raise ValueError(f"longest must be a length of usual documents, got {self.longest}: hardly any is as short")

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`; all are made for it."""
        return self.lengths_at(split, np.arange(self.size(split)))

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        """Number of tokens of the documents at `indices`."""
        return self.world.lengths_at(split, self.chosen(split, indices))

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or those named."""
        return self.world.render(split, self.chosen(split, indices), marks)

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document with its truth."""
        split, index = key
        return self.world[split, int(self.chosen(split, np.array([index]))[0])]

    def check(self, truth: Any, tokens: Sequence[int] | IntArray) -> Judgement:
        """As in the world."""
        return self.world.check(truth, tokens)

    def fingerprint(self) -> str:
        """Hash of the world, and the length."""
        return f"{self.world.fingerprint()}-{self.longest}"


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a model reads.

    Attributes:
        rate: chance of one more attempt before a sentence, in [0, 1); 0 is the clean text.
        kind: what is attempted.
        mask: which tokens of attempts bear no loss.
    """

    rate: float = 0.0
    kind: Kind = "retry"
    mask: Mask = "none"

    @property
    def name(self) -> str:
        """In the names of conditions, "clean" or "retry_weak_0.1"."""
        if self.rate == 0:
            return "clean"
        return f"{self.kind}_{self.rate:g}{'' if self.mask == 'none' else '_masked'}"

    def world(self, clean: IGSMWorld) -> RetryWorld:
        """The same problems with these attempts in their solutions."""
        return retry_world(clean, RetryConfig(seed=clean.config.seed, rate=self.rate, kind=self.kind))

    def source(self, clean: IGSMWorld, *, context: int, whole_loss: bool, split: str = "train") -> Source:
        """The documents that fit into a window, with loss on solutions or on everything, the masked aside."""
        roles = None if whole_loss else SOLUTION_ROLES
        if self.rate == 0:
            return Source(clean, split, loss_roles=roles)
        world = self.world(clean)
        assert isinstance(world, FreshWorld)  # as the clean one is
        short = ShortDocuments(world, context - 1)  # a window of context + 1 tokens holds two separators as well
        return Source(short, split, loss_roles=world.loss_roles(self.mask, roles))

    def attempts(self, asked: Exam) -> NDArray[np.int64]:
        """How many attempts this text would have in the solution of each problem, `[N]`."""
        samples = self.world(asked.world).render(asked.split, asked.indices)
        is_back = samples.marks["role"] == AttemptRole.BACK
        return np.diff(np.append(0, np.cumsum(is_back))[samples.offsets])


CLEAN = Text()
