"""From piece numbers to tokens and marks, for thousands of documents at once.

- Every piece of text (names, pronouns, template halves, values, question words) is tokenised once
  into one flat table, together with the marks that do not depend on where the piece is used.
- A document is a row of piece numbers; laying it out is one ragged gather from the table.
- A sentence has four pieces: subject, words before the value, value, words after it. A question has
  five: words before the name, name, words up to the answer, value, words after it (often none).

Shapes: D documents, S sentences per document, P pieces per sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import Samples
from physlm.data.tokenizers import Tokenizer

Integers = NDArray[np.int32]

MARKS = ("role", "attribute", "person", "sentence", "value_position", "word")


class Role(IntEnum):
    """What a token is part of."""

    NAME = 0
    PRONOUN = 1
    TEMPLATE = 2
    VALUE = 3
    QUESTION = 4


@dataclass(frozen=True)
class Pieces:
    """Tokenised pieces of text, laid end to end.

    Attributes:
        tokens: token ids of all pieces, shape `[tokens]`.
        starts: where each piece begins in `tokens`, shape `[pieces]`.
        lengths: number of tokens of each piece, shape `[pieces]`.
        words: number of words that begin in each piece, shape `[pieces]`.
        role: `Role` of each token, shape `[tokens]`.
        value_position: place of each token within its value, -1 outside values, shape `[tokens]`.
        word: word of each token, counted from its piece; -1 if it continues the word before, shape `[tokens]`.
    """

    tokens: Integers
    starts: Integers
    lengths: Integers
    words: Integers
    role: Integers
    value_position: Integers
    word: Integers


def _ranges(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The ranges `[start, start + length)` laid end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    source = np.repeat(starts - (ends - lengths), lengths)
    source += np.arange(len(source))
    return source


class PieceTable:
    """Collects pieces; `add` and `join` return the numbers by which documents refer to them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[Integers] = []
        self._lengths: list[Integers] = []
        self._roles: list[Integers] = []
        self._count = 0

    def _append(self, tokens: NDArray[np.integer], lengths: NDArray[np.integer], role: Role) -> Integers:
        self._tokens.append(tokens.astype(np.int32))
        self._lengths.append(lengths.astype(np.int32))
        self._roles.append(np.full(len(tokens), role, dtype=np.int32))
        first, self._count = self._count, self._count + len(lengths)
        return np.arange(first, self._count, dtype=np.int32)

    def add(self, texts: Iterable[str], role: Role) -> Integers:
        """Tokenise one piece per text."""
        encoded = self._tokenizer.encode_batch(list(texts))
        lengths = np.array([len(tokens) for tokens in encoded], dtype=np.int32)
        return self._append(np.array([token for tokens in encoded for token in tokens], np.int32), lengths, role)

    def join(self, parts: Sequence[tuple[Sequence[str], NDArray[np.integer]]], role: Role) -> Integers:
        """One piece per row: `texts[number[row]]` of every (texts, number) in `parts`, end to end.

        Only the texts are tokenised, so that a hundred thousand names cost no more than their parts.
        """
        table = PieceTable(self._tokenizer)
        columns = [table.add(texts, role)[number] for texts, number in parts]
        pieces = table.freeze()
        rows = np.stack(columns, axis=1)
        lengths = pieces.lengths[rows]
        source = _ranges(pieces.starts[rows].reshape(-1), lengths.reshape(-1))
        return self._append(pieces.tokens[source], lengths.sum(axis=1), role)

    def freeze(self) -> Pieces:
        """The table of everything collected so far."""
        tokens, lengths = np.concatenate(self._tokens), np.concatenate(self._lengths)
        role = np.concatenate(self._roles)
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        position = _ranges(np.zeros_like(starts), lengths)
        begins = np.concatenate([[0], np.cumsum(self._tokenizer.word_starts(tokens), dtype=np.int64)])
        return Pieces(
            tokens=tokens,
            starts=starts.astype(np.int32),
            lengths=lengths,
            words=(begins[ends] - begins[starts]).astype(np.int32),
            role=role,
            value_position=np.where(role == Role.VALUE, position, -1).astype(np.int32),
            word=(begins[1:] - np.repeat(begins[starts], lengths) - 1).astype(np.int32),
        )


def document_lengths(pieces: Pieces, documents: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number of tokens of every document, shape `[D]`, from piece numbers `[D, S, P]`."""
    return pieces.lengths[documents].sum(axis=(1, 2), dtype=np.int64)


def lay_out(
    pieces: Pieces,
    documents: NDArray[np.integer],
    attribute: NDArray[np.integer],
    person: NDArray[np.integer],
    marks: Sequence[str] = MARKS,
) -> Samples:
    """Tokens and marks of documents given as piece numbers.

    Args:
        pieces: the table of pieces.
        documents: piece numbers, shape `[D, S, P]`.
        attribute: attribute of every sentence, shape `[D, S]`.
        person: person of every document, shape `[D]`.
        marks: which of `MARKS` to make.
    """
    count, sentences, parts = documents.shape
    flat = documents.reshape(-1)
    lengths = pieces.lengths[flat]
    source = _ranges(pieces.starts[flat], lengths)
    sentence_lengths = lengths.reshape(count * sentences, parts).sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(sentence_lengths.reshape(count, sentences).sum(axis=1), dtype=np.int64)])

    def spread(values: NDArray[np.integer], counts: NDArray[np.integer]) -> Integers:
        return np.repeat(values.reshape(-1).astype(np.int32), counts)

    def make(mark: str) -> Integers:
        match mark:
            case "role":
                return pieces.role[source]
            case "value_position":
                return pieces.value_position[source]
            case "attribute":
                return spread(attribute, sentence_lengths)
            case "sentence":
                return spread(np.tile(np.arange(sentences), count), sentence_lengths)
            case "person":
                return spread(person, np.diff(offsets))
            case "word":
                words = pieces.words[flat].reshape(count, sentences * parts)
                word = spread(np.cumsum(words, axis=1) - words, lengths)
                word += pieces.word[source]
                return word
            case _:
                raise ValueError(f"marks must be among {', '.join(MARKS)}, got {mark!r}")

    return Samples(tokens=pieces.tokens[source], offsets=offsets, marks={mark: make(mark) for mark in marks})
