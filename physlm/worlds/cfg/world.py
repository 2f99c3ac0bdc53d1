"""The grammar world: sentences with their whole derivation (part 1, §2).

- Splits: "train", with mistakes if the config asks for them, and "test", without. Their keys differ; sentences of
  small languages can still occur in both, see `physlm.data.contract.leakage`.
- A document is BOS and the sentence; whoever packs documents puts the end-of-text token between them.
- Every sentence is made afresh from (seed, split, index), at the same cost wherever it is. Nothing is stored, so a
  split may be as large as a training run needs.
- The marks are those of `physlm.worlds.cfg.marks`; the truth of a sample is its `Derivation`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Judgement, Sample, Samples, hash_samples
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.derivation import Derivation, Forest
from physlm.worlds.cfg.judge import Judge, as_integers
from physlm.worlds.cfg.marks import insert_begin, make_marks, mark_names
from physlm.worlds.cfg.sampling import Sampler

_BOS = 0
_FINGERPRINTED = 64
_CHUNK = 4096
_MOST_LENGTHS = 1 << 30


class CFGWorld:
    """Random access to the sentences of a grammar; implements `World`.

    Example:
        >>> world = CFGWorld(CFGConfig(seed=0, grammar="cfg3f"))
        >>> sample = world["test", 7]
        >>> bool(world.check(sample.truth, sample.tokens)), sample.truth.labels(0)
        (True, ['22'])

    Args:
        config: what the world is.

    Raises:
        ValueError: if mistakes are asked for at a level that the grammar does not have, or if there are fewer
            observables than needed.
    """

    def __init__(self, config: CFGConfig) -> None:
        self.config = config
        self.grammar = config.used_grammar()
        key = Key.of("grammar world", config.seed)
        self.bags = None
        if config.implicit is not None:
            self.bags = config.implicit.make(key.child("bags"), len(self.grammar.terminals))
        self._samplers = {
            "train": Sampler(self.grammar, config.corruption),
            "test": Sampler(self.grammar),
        }
        self._sizes = {"train": config.sentences, "test": config.test_sentences}
        self._keys = {split: key.child("sentences", split) for split in self._sizes}
        self._lengths: dict[str, NDArray[np.int32]] = {}
        self._judge = Judge(self.grammar, None if self.bags is None else self.bags.membership)
        levels = len(self.grammar.layers) if self._samplers["test"].is_layered else None
        self.marks = mark_names(levels)

    # ------------------------------------------------------------------------------------------------------------------
    # The World protocol
    # ------------------------------------------------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._sizes)

    @property
    def alphabet_size(self) -> int:
        """Number of tokens that a sentence can be made of: terminals, or observables in an implicit world."""
        return len(self.grammar.terminals) if self.config.implicit is None else self.config.implicit.observables

    @property
    def vocab_size(self) -> int:
        """Number of token ids: BOS, the alphabet, EOS and MASK."""
        return self.alphabet_size + 3

    @property
    def bos(self) -> int:
        """Token id that opens a document."""
        return _BOS

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        return self.alphabet_size + 1

    @property
    def mask(self) -> int:
        """Token id for hiding tokens from a masked model."""
        return self.alphabet_size + 2

    @property
    def pad(self) -> int:
        """Token id that fills unused positions; the same as `bos`."""
        return _BOS

    def size(self, split: str) -> int:
        """Number of sentences in `split`."""
        if split not in self._sizes:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {split!r}")
        return self._sizes[split]

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`; computed once, about 3 seconds per million sentences."""
        size = self.size(split)
        if split not in self._lengths:
            if size > _MOST_LENGTHS:
                raise ValueError(
                    f"lengths of all sentences need a split of at most {_MOST_LENGTHS} sentences, got {size} in "
                    f"{split!r}: use lengths_at for some of them"
                )
            lengths = np.empty(size, dtype=np.int32)
            for start in range(0, size, _CHUNK):
                lengths[start : start + _CHUNK] = self._document_lengths(
                    split, np.arange(start, min(start + _CHUNK, size))
                )
            self._lengths[split] = lengths
        return self._lengths[split].astype(np.int64)

    def lengths_at(self, split: str, indices: IntArray) -> IntArray:
        """Number of tokens of the documents at `indices`, however large the split."""
        indices = self._checked(split, indices)
        parts = [
            self._document_lengths(split, indices[start : start + _CHUNK]) for start in range(0, len(indices), _CHUNK)
        ]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def render(self, split: str, indices: IntArray, marks: Sequence[str] | None = None) -> Samples:
        """The documents at `indices`, in that order.

        Args:
            split: one of `splits`.
            indices: numbers of documents in `[0, size(split))`, in any order, repeated or not.
            marks: which marks to make, all by default; fewer cost less time.
        """
        names = self.marks if marks is None else tuple(marks)
        unknown = [name for name in names if name not in self.marks]
        if unknown:
            raise ValueError(f"marks must be among {', '.join(self.marks)}, got {unknown[0]!r}")
        indices = self._checked(split, indices)
        # Chunks that fit the processor's caches are twice as fast as one large batch.
        starts = range(0, len(indices), _CHUNK) if len(indices) else (0,)
        parts = [self._render(split, indices[start : start + _CHUNK], names) for start in starts]
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return Samples(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
            {name: np.concatenate([part.marks[name] for part in parts]) for name in names},
        )

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document; its truth is the `Derivation` that the sentence was made by."""
        split, index = key
        samples = self.render(split, np.array([index]))
        return Sample(samples.tokens, samples.marks, self.derivations(split, np.array([index]))[0])

    def check(self, truth: Derivation | None, tokens: Sequence[int] | IntArray) -> Judgement:
        """Whether a document is a sentence of the language, BOS included where documents have it.

        Args:
            truth: not looked at: any sentence of the language is right. A sentence with mistakes mostly is not one.
            tokens: the document without the end-of-text token; cut it off before judging what a model wrote.

        Returns:
            If wrong, the position of the first token after which no sentence of the language is possible.

        Raises:
            TypeError: if the tokens are no flat list of whole numbers.
        """
        del truth
        document = as_integers(tokens)
        if not self.config.bos:
            return self._judge.judge(document)
        if document[:1] != [_BOS]:
            got = f"token {document[0]}" if document else "nothing"
            return Judgement(False, 0, f"a document must open with BOS ({_BOS}), got {got}")
        return self._judge.judge(document[1:], skip=1)

    def fingerprint(self) -> str:
        """Hash of the config, of the rules and of the first documents of every split."""
        parts = [repr(self.config), repr(self.grammar)]
        if self.bags is not None:
            parts.append(hashlib.blake2b(np.packbits(self.bags.membership).tobytes()).hexdigest())
        for split in self.splits:
            first = np.arange(min(_FINGERPRINTED, self.size(split)))
            parts += [split, hash_samples(self.render(split, first))]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    # ------------------------------------------------------------------------------------------------------------------
    # What experiments need besides
    # ------------------------------------------------------------------------------------------------------------------

    def forest(self, split: str, indices: IntArray) -> Forest:
        """The derivations of many sentences as arrays, level by level."""
        indices = self._checked(split, indices)
        return self._samplers[split].sample(self._keys[split], indices)

    def derivations(self, split: str, indices: IntArray) -> list[Derivation]:
        """The derivation of each sentence."""
        forest = self.forest(split, indices)
        return [self._samplers[split].derivation(forest, i) for i in range(len(forest))]

    def sentences(self, split: str, indices: IntArray) -> list[IntArray]:
        """The sentences without BOS."""
        samples = self.render(split, indices, marks=())
        return [samples.document(i)[0][self.config.bos :] for i in range(len(samples))]

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

    def _document_lengths(self, split: str, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._samplers[split].lengths(self._keys[split], indices) + self.config.bos

    def _render(self, split: str, indices: NDArray[np.int64], names: Sequence[str]) -> Samples:
        sampler, key = self._samplers[split], self._keys[split]
        forest = sampler.sample(key, indices)
        offsets = forest.offsets[-1]
        terminals = sampler.tokens(forest)
        tokens = terminals
        if self.bags is not None:
            tokens = self.bags.show(key, indices, np.diff(offsets), (terminals - 1).astype(np.uint32)).astype(np.int32)
            tokens += 1
        marks = make_marks(forest, terminals, names, bos=self.config.bos)
        if self.config.bos:
            tokens = insert_begin(tokens, offsets, _BOS)
            offsets = offsets + np.arange(len(offsets))
        return Samples(tokens, offsets, marks)
