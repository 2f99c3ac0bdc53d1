"""The iGSM world: grade-school math problems with every dependency known (part 2.1, §2).

- Splits: "train" and "test". No solution template (`templates`) is in both; all else is drawn alike.
- Every problem is made afresh from (settings, split, index), at the same cost wherever it is.
- A document is <bos>, problem and question, <sol>, solution, <ans> and the answer (`rendering`); whoever packs
  documents puts <eos> between them. The marks are `role`, `sentence` and `parameter`; the truth is the `Problem`.
- Sets of problems that are longer than those trained on are worlds of their own: `with_operations` and `reasked`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Judgement, Sample, Samples, hash_samples
from physlm.data.tokenizers import Tokenizer
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.drawing import Drawer, problem_at
from physlm.worlds.igsm.judge import Judge
from physlm.worlds.igsm.kernels import Drawing
from physlm.worlds.igsm.names import load_names
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.rendering import MARKS, Renderer
from physlm.worlds.igsm.subwords import Subwords
from physlm.worlds.igsm.vocabulary import Vocabulary
from physlm.worlds.recent import RecentDocuments

_FINGERPRINTED = 64
_CHUNK = 256
_CHECKED = 64
_MOST_LENGTHS = 1 << 26


class IGSMWorld:
    """Random access to grade-school math problems; implements `FreshWorld`.

    Example:
        >>> world = IGSMWorld(IGSMConfig(seed=0))
        >>> sample = world["test", 7]
        >>> bool(world.check(sample.truth, sample.tokens)), world.vocabulary.decode(sample.tokens[-2:])
        (True, '<ans> 0')

    Args:
        config: what the world is.
        tokenizer: spells the documents in its own tokens in place of whole words and names, see `Subwords`.

    Attributes:
        config: as given.
        vocabulary: its words and names.
        subwords: if there is a tokenizer, how documents are spelt.
        renderer: writes its problems.
        judge: judges solutions, in strict mode.
        drawers: draw the problems of each split, as arrays.
    """

    def __init__(self, config: IGSMConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        names = load_names(config.categorizations, config.names_per_category)
        self.vocabulary = Vocabulary(config.modulus, names)
        self.renderer = Renderer(self.vocabulary, config.rendering)
        self.judge = Judge(self.vocabulary, config.rendering)
        key = Key.of("iGSM world", config.seed)
        self._sizes = {"train": config.problems, "test": config.test_problems}
        self.drawers = {split: Drawer(config, key.child("problems", split), split) for split in self._sizes}
        self.subwords = None
        if tokenizer is not None:
            words = self._make("test", np.arange(_CHECKED))
            self.subwords = Subwords(self.vocabulary, tokenizer)
            self.subwords.check(words.document(i)[0] for i in range(_CHECKED))
        # Streams ask for lengths first, for which problems have to be made, and for tokens soon after.
        self._recent = RecentDocuments(self._make, _CHUNK)

    # ------------------------------------------------------------------------------------------------------------------
    # The World protocol
    # ------------------------------------------------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._sizes)

    @property
    def marks(self) -> tuple[str, ...]:
        """Names of the marks."""
        return MARKS

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.vocabulary) if self.subwords is None else self.subwords.vocab_size

    @property
    def bos(self) -> int:
        """Token id that opens a document."""
        return self._special(self.vocabulary.bos)

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        return self._special(self.vocabulary.eos)

    @property
    def pad(self) -> int:
        """Token id that fills unused positions."""
        return self._special(self.vocabulary.pad)

    def size(self, split: str) -> int:
        """Number of problems in `split`."""
        if split not in self._sizes:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        return self._sizes[split]

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`; all are made for it."""
        size = self.size(split)
        if size > _MOST_LENGTHS:
            raise ValueError(
                f"lengths of all problems need a split of at most {_MOST_LENGTHS}, got {size} in {split!r}: use "
                "lengths_at for some of them"
            )
        parts = (range(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK))
        return np.concatenate([np.diff(self._make(split, np.array(part)).offsets) for part in parts])

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        """Number of tokens of the documents at `indices`, which are made for it and remembered for a while."""
        return self._recent.lengths(split, self._checked(split, indices))

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order, with all marks or those named."""
        return self._recent.render(split, self._checked(split, indices), marks)

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document with its problem."""
        split, index = key
        indices = self._checked(split, np.array([index]))
        samples = self._make(split, indices)
        return Sample(samples.tokens, samples.marks, self.problems(split, indices)[0])

    def check(self, truth: Problem, tokens: Sequence[int] | IntArray) -> Judgement:
        """Judge a solution, as `Judge` does in strict mode.

        Args:
            truth: the problem.
            tokens: what comes after <sol>, or a document from <bos> on, of which what is before <sol> is not looked at.

        Returns:
            If wrong, the position of the first wrong token within `tokens`; the explanation counts from <sol>.
        """
        words = np.asarray(tokens)
        if self.subwords is not None:
            try:
                words = self.subwords.read(tokens)
            except ValueError as error:
                return Judgement(False, None, f"format: {error}")
        start = 0
        if len(words) and words[0] == self.vocabulary.bos:  # a document; within a solution, <sol> is a mistake
            (delimiters,) = np.nonzero(words == self.vocabulary.sol)
            start = int(delimiters[0]) + 1 if len(delimiters) else 0
        verdict = self.judge.check(truth, words[start:])
        position = None if verdict.position is None else start + verdict.position
        if self.subwords is not None and position is not None:
            position = self.subwords.place(tokens, words, position)
        return Judgement(verdict.correct, position, verdict.explain())

    def fingerprint(self) -> str:
        """Hash of the config, of the vocabulary and of the first documents of every split."""
        parts = [repr(self.config), *self.vocabulary.tokens]
        if self.subwords is not None:
            parts.append(self.subwords.tokenizer.fingerprint())
        for split in self.splits:
            first = np.arange(min(_FINGERPRINTED, self.size(split)))
            parts += [split, hash_samples(self.render(split, first))]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    # ------------------------------------------------------------------------------------------------------------------
    # What experiments need besides
    # ------------------------------------------------------------------------------------------------------------------

    def drawing(self, split: str, indices: IntArray) -> Drawing:
        """Many problems as arrays, some 5 KB each."""
        return self.drawers[split].draw(self._checked(split, indices))[0]

    def problems(self, split: str, indices: IntArray) -> list[Problem]:
        """Many problems."""
        drawing = self.drawing(split, indices)
        return [problem_at(drawing, row, self.config) for row in range(len(drawing.operations))]

    def templates(self, split: str, indices: IntArray) -> NDArray[np.uint64]:
        """A hash of the solution template of each problem, to see which are the same."""
        indices = self._checked(split, indices)
        parts = [self.drawing(split, indices[at : at + _CHUNK]).template for at in range(0, len(indices), _CHUNK)]
        return np.concatenate([np.empty(0, dtype=np.uint64), *parts])

    def with_operations(self, operations: int) -> IGSMWorld:
        """The same world where every problem has exactly so many operations."""
        return self._changed(exact_operations=operations)

    def reasked(self) -> IGSMWorld:
        """The same world where another parameter is asked for."""
        return self._changed(reask=True)

    def _changed(self, **changes: Any) -> IGSMWorld:
        tokenizer = None if self.subwords is None else self.subwords.tokenizer
        return IGSMWorld(replace(self.config, **changes), tokenizer)

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

    def _special(self, token: int) -> int:
        return token if self.subwords is None else self.subwords.special(token)

    def _make(self, split: str, indices: NDArray[np.int64]) -> Samples:
        drawing, steps = self.drawers[split].draw(indices)
        samples = self.renderer.write(drawing, steps, np.full(len(indices), self.config.question_first))
        return samples if self.subwords is None else self.subwords.spell(samples)
