"""Unrelated text as a world, the control of what any further text does to a model (part 3.1, §6, Fig. 8 "+wiki").

- The documents are whatever texts it is given (a corpus of one's own, one document per file or line); the one split
  is "text".
- It knows its documents and nothing else: its judge says whether a document is one of them.
- To mix it with another world, give both the same tokenizer: a closed vocabulary made from the texts of both, or any
  byte-level one.

Example:
    >>> config = BiographyConfig(seed=0, people=100)
    >>> texts = [" The tide rose twice.", " Rain fell on the hills."]
    >>> tokenizer = WordTokenizer.from_texts([*world_texts(config), *texts])
    >>> half_text = [Source(BiographyWorld(config, tokenizer), "biographies", 0.5),
    ...              Source(TextWorld(texts, tokenizer), "text", 0.5)]
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from physlm.data.contract import IntArray, Judgement, Sample, Samples
from physlm.data.tokenizers import Tokenizer, WordTokenizer

SPLIT = "text"


class TextWorld:
    """A fixed list of documents; implements `World`.

    Args:
        texts: the documents, none of them empty. With a word-level or GPT-2-like tokenizer, begin each with a space.
        tokenizer: by default a closed vocabulary of all words in the texts.

    Raises:
        ValueError: if there is no document, or one without a token.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer | None = None) -> None:
        if not texts:
            raise ValueError("texts must hold at least one document, got none")
        self.texts = tuple(texts)
        self.tokenizer = WordTokenizer.from_texts(texts) if tokenizer is None else tokenizer
        encoded = [np.asarray(ids, dtype=np.int32) for ids in self.tokenizer.encode_batch(list(texts))]
        empty = [number for number, ids in enumerate(encoded) if len(ids) == 0]
        if empty:
            raise ValueError(f"every document must have at least one token, document {empty[0]} has none")
        self._lengths = np.array([len(ids) for ids in encoded])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._tokens = np.concatenate(encoded)

    @classmethod
    def from_file(cls, path: str | Path, tokenizer: Tokenizer | None = None) -> TextWorld:
        """One document per line that is not blank, each read with a space before it."""
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        texts = [f" {line.strip()}" for line in lines if line.strip()]
        if not texts:
            raise ValueError(f"{path} must hold at least one line of text, got none")
        return cls(texts, tokenizer)

    @property
    def splits(self) -> tuple[str, ...]:
        """The one split."""
        return (SPLIT,)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        return self.tokenizer.vocab_size

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        return self.tokenizer.eos

    @property
    def pad(self) -> int:
        """Token id that fills unused positions."""
        return self.tokenizer.pad

    def size(self, split: str) -> int:
        """Number of documents."""
        self._require(split)
        return len(self.texts)

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document."""
        self._require(split)
        return self._lengths

    def render(self, split: str, indices: IntArray) -> Samples:
        """The documents at `indices`, with the mark `word`: number of the whole word within the document."""
        self._require(split)
        indices = np.asarray(indices)
        outside = indices[(indices < 0) | (indices >= len(self.texts))]
        if len(outside):
            raise IndexError(f"index must be in 0..{len(self.texts) - 1}, got {outside[0]}")
        lengths = self._lengths[indices]
        offsets = np.append(0, np.cumsum(lengths))
        positions = np.repeat(self._starts[indices] - offsets[:-1], lengths) + np.arange(offsets[-1])
        tokens = self._tokens[positions]
        words = np.cumsum(self.tokenizer.word_starts(tokens)) if len(tokens) else np.zeros(0, dtype=np.int64)
        first_words = words[offsets[:-1]] if len(indices) else words
        return Samples(tokens, offsets, {"word": words - np.repeat(first_words, lengths)})

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document; its truth is its text."""
        split, index = key
        self._require(split)
        samples = self.render(split, np.array([index]))
        return Sample(samples.tokens, samples.marks, self.texts[index])

    def check(self, truth: str, tokens: Sequence[int] | IntArray) -> Judgement:
        """Whether a document says exactly what `truth` says, and the first token at which it departs from it."""
        ids = [int(token) for token in tokens]
        text = self.tokenizer.decode(ids)
        if text == truth:
            return Judgement(True)
        position = next(
            (end for end in range(len(ids)) if not truth.startswith(self.tokenizer.decode(ids[: end + 1]))), -1
        )
        if position < 0:
            return Judgement(False, len(ids), f"the document ends before {truth[len(text) :][:40]!r}")
        return Judgement(False, position, f"{self.tokenizer.decode(ids[position : position + 1])!r} is not in the text")

    def fingerprint(self) -> str:
        """Hash of the texts and the tokenizer."""
        parts = [self.tokenizer.fingerprint(), *self.texts]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    @staticmethod
    def _require(split: str) -> None:
        if split != SPLIT:
            raise ValueError(f"split must be {SPLIT!r}, got {split!r}")
