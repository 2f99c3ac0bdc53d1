"""A world whose documents have wrong attempts in them, made from any world that can name a wrong next step.

- Splits, truths and judge are those of the world inside; so are sizes, times the exposures. Tokens are the same ids;
  where the world has no <back>, one more id follows the last.
- A document is a pure function of (world inside, config, split, index). Taking its attempts out gives back the clean
  document, token by token.
- The marks are those of the world inside, and `attempt`. Which tokens of attempts have loss is for `loss_roles` to say.

Source: Physics of Language Models 2.2, §4 and §6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import FreshWorld, IntArray, Judgement, Sample, Samples, World, hash_samples
from physlm.data.streams import OUTSIDE
from physlm.randomness import Key
from physlm.worlds.bios.world import BiographyWorld
from physlm.worlds.cfg.world import CFGWorld
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes import removal
from physlm.worlds.mistakes.biographies import BiographyErrors
from physlm.worlds.mistakes.config import Mask, RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, ErrorModel
from physlm.worlds.mistakes.grammars import GrammarErrors
from physlm.worlds.mistakes.igsm import IGSMErrors
from physlm.worlds.mistakes.injection import inject
from physlm.worlds.recent import RecentDocuments, join

_FINGERPRINTED = 64
_CHECKED = 32

_MASKED: dict[Mask, tuple[AttemptRole, ...]] = {
    "none": (),
    "head": (AttemptRole.FRAME, AttemptRole.NAME),
    "name": (AttemptRole.NAME,),
}


def retry_world(world: World, config: RetryConfig, errors: ErrorModel | None = None) -> RetryWorld:
    """The world with attempts in its documents; a `FreshWorld` if the world is one.

    Example:
        >>> world = retry_world(IGSMWorld(IGSMConfig(seed=0)), RetryConfig(seed=0, rate=0.2))
        >>> isinstance(world, FreshWorld)
        True

    Args:
        world: the clean world.
        config: which attempts, and how many.
        errors: what can go wrong in the world; not needed for biographies, grammars and iGSM.

    Raises:
        ValueError: for a world that is none of these without `errors`, a kind that is not defined for it, or if there
            is nothing that could be attempted.
    """
    return (FreshRetryWorld if isinstance(world, FreshWorld) else RetryWorld)(world, config, errors)


def _error_model(world: World, config: RetryConfig) -> ErrorModel:
    if isinstance(world, IGSMWorld):
        return IGSMErrors(world, config)
    if isinstance(world, CFGWorld):
        return GrammarErrors(world, config)
    if isinstance(world, BiographyWorld):
        return BiographyErrors(world, config)
    raise ValueError(
        "errors must be an ErrorModel for a world that is no BiographyWorld, CFGWorld or IGSMWorld, "
        f"got none for a {type(world).__name__}: what would be a wrong next step in it?"
    )


class RetryWorld:
    """A world with attempts in its documents; implements `World`. Made by `retry_world`.

    Attributes:
        world: the clean world.
        config: as given.
        errors: what can go wrong in the world.
        back: id of <back>.
    """

    def __init__(self, world: World, config: RetryConfig, errors: ErrorModel | None = None) -> None:
        self.world = world
        self.config = config
        self.errors = _error_model(world, config) if errors is None else errors
        self.back = self.errors.back
        self._key = Key.of("retry", config.seed)
        if config.rate > 0:
            split = world.splits[0]
            first = self.errors.places(split, np.arange(min(_CHECKED, world.size(split))))
            if not first.candidates.any():
                raise ValueError(
                    f"the world must have something that could be attempted, got no candidates of kind {config.kind!r} "
                    f"in the first {len(first.samples)} documents of {split!r}"
                )

    # ------------------------------------------------------------------------------------------------------------------
    # The World protocol
    # ------------------------------------------------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.world.splits

    @property
    def vocab_size(self) -> int:
        """Number of token ids, <back> included."""
        return max(self.world.vocab_size, self.back + 1)

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        return self.world.eos

    @property
    def pad(self) -> int:
        """Token id that fills unused positions."""
        return self.world.pad

    def size(self, split: str) -> int:
        """Number of documents in `split`."""
        return self.world.size(split) * self.config.exposures

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`, attempts included; all are made for it."""
        size, chunk = self.size(split), self.errors.chunk
        parts = (np.arange(start, min(start + chunk, size)) for start in range(0, size, chunk))
        return np.concatenate([np.diff(self._make(split, part).offsets) for part in parts])

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or those named."""
        indices, chunk = self._checked(split, indices), self.errors.chunk
        starts = range(0, max(1, len(indices)), chunk)
        return join([self._make(split, indices[start : start + chunk]) for start in starts], marks)

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document; its truth is that of the clean one."""
        split, index = key
        samples = self._make(split, self._checked(split, np.array([index])))
        return Sample(samples.tokens, samples.marks, self.world[split, index % self.world.size(split)].truth)

    def check(self, truth: Any, tokens: Sequence[int] | IntArray) -> Judgement:
        """Judge a document as the clean world does; what was taken back does not count.

        A <back> that takes nothing back is wrong. Positions are those in `tokens`.
        """
        if self.errors.is_judged:
            return self.world.check(truth, tokens)
        tokens = np.asarray(tokens)
        kept = removal.kept(self.errors.spans(tokens), len(tokens))
        (left,) = np.nonzero(tokens[kept] == self.back)
        end = left[0] if len(left) else len(kept)
        judgement = self.world.check(truth, tokens[kept[:end]])
        if len(left) and (judgement.position is None or judgement.position >= end):
            return Judgement(False, int(kept[end]), f"token {kept[end]} is <back>, but there is nothing to take back")
        if judgement.position is None:
            return judgement
        position = int(kept[judgement.position]) if judgement.position < len(kept) else len(tokens)
        return Judgement(judgement.correct, position, judgement.reason)

    def fingerprint(self) -> str:
        """Hash of the clean world, of the config and of the first documents of every split."""
        parts = [self.world.fingerprint(), repr(self.config), type(self.errors).__name__]
        for split in self.splits:
            parts += [split, hash_samples(self.render(split, np.arange(min(_FINGERPRINTED, self.size(split)))))]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    # ------------------------------------------------------------------------------------------------------------------
    # What experiments need besides
    # ------------------------------------------------------------------------------------------------------------------

    def loss_roles(self, mask: Mask = "none", roles: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """What to learn, for `Source.loss_roles`.

        Attempts are always read. <back> and the full stop after it always have loss, so that when to take something
        back is learned.

        Args:
            mask: "none": loss on attempts too; "head": none on what was attempted, "Define A as"; "name": none on the
                name alone.
            roles: of the clean documents, what has loss; by default all, and the separators between documents.

        Returns:
            Values of the mark `role`; `None` for all.

        Source: Physics of Language Models 2.2, §4 ("with mask").
        """
        if mask not in get_args(Mask):
            raise ValueError(f"mask must be one of {', '.join(map(repr, get_args(Mask)))}, got {mask!r}")
        if roles is None and mask == "none":
            return None
        learned = (OUTSIDE, *self.errors.roles) if roles is None else tuple(roles)
        return (*map(int, learned), *(int(role) for role in AttemptRole if role not in _MASKED[mask]))

    def strip(self, tokens: Sequence[int] | IntArray) -> IntArray:
        """A document, or what a model wrote, without its attempts; those that are not complete stay."""
        tokens = np.asarray(tokens)
        return tokens[removal.kept(self.errors.spans(tokens), len(tokens))]

    def chains(self, tokens: Sequence[int] | IntArray) -> NDArray[np.int64]:
        """How many attempts there are at each place with any, in a document or in what a model wrote.

        The sum is the number of retries.
        """
        return removal.chains(self.errors.spans(np.asarray(tokens)))

    # ------------------------------------------------------------------------------------------------------------------
    # Making documents
    # ------------------------------------------------------------------------------------------------------------------

    def _checked(self, split: str, indices: IntArray) -> NDArray[np.int64]:
        size, indices = self.size(split), np.asarray(indices)
        if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
            raise ValueError(f"indices must be a flat array of integers, got shape {indices.shape} of {indices.dtype}")
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            outside = indices[(indices < 0) | (indices >= size)][0]
            raise IndexError(f"indices of {split!r} must be in 0..{size - 1}, got {outside}")
        return indices.astype(np.int64)

    def _make(self, split: str, indices: NDArray[np.int64]) -> Samples:
        places = self.errors.places(split, indices % self.world.size(split))
        config = self.config
        return inject(places, self._key.child(split), indices, rate=config.rate, max_chain=config.max_chain)


class FreshRetryWorld(RetryWorld):
    """A `RetryWorld` of a world whose documents are independent draws; implements `FreshWorld`."""

    def __init__(self, world: World, config: RetryConfig, errors: ErrorModel | None = None) -> None:
        super().__init__(world, config, errors)
        # Streams ask for lengths first, for which documents have to be made, and for tokens soon after.
        self._recent = RecentDocuments(self._make, self.errors.chunk)

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        """Number of tokens of the documents at `indices`, which are made for it and remembered for a while."""
        return self._recent.lengths(split, self._checked(split, indices))

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or those named."""
        return self._recent.render(split, self._checked(split, indices), marks)
