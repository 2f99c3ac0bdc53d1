"""The same documents in the tokens of a text tokenizer, as the papers have them (GPT-2's byte pairs).

- Every token of the vocabulary is spelt by the tokenizer, with the space before it, so that documents are spelt by
  looking up. That this is how the tokenizer spells whole texts is checked on texts of the world.
- Special tokens are no text; they get ids after the tokenizer's own.

Specification, §2.5; Physics of Language Models 2.2, App. D.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.data.decks import ranges
from physlm.data.tokenizers import Tokenizer, check_segments
from physlm.worlds.igsm.vocabulary import SPECIAL_TOKENS, Vocabulary


class Subwords:
    """Spells tokens of a vocabulary in those of a tokenizer, and reads them back.

    Args:
        vocabulary: of the world.
        tokenizer: of texts, as `BytePairTokenizer` or `HuggingFaceTokenizer`.

    Attributes:
        vocab_size: number of ids: the tokenizer's, then the special tokens of the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size + len(SPECIAL_TOKENS)
        spelt = tokenizer.encode_batch([vocabulary.spaced(i) for i in range(len(SPECIAL_TOKENS), len(vocabulary))])
        pieces = [[self.special(i)] for i in range(len(SPECIAL_TOKENS))] + spelt
        self._counts = np.array([len(piece) for piece in pieces])
        self._starts = np.cumsum(self._counts) - self._counts
        self._pieces = np.array([i for piece in pieces for i in piece], dtype=np.int32)

    def special(self, token: int) -> int:
        """Id of a special token of the vocabulary."""
        return self.tokenizer.vocab_size + token

    def check(self, documents: Iterable[IntArray]) -> None:
        """Check that the tokenizer spells the text of these documents as they are spelt here.

        Raises:
            ValueError: at the first text where it does not.
        """
        check_segments(self.tokenizer, (tuple(map(self.vocabulary.spaced, words)) for words in documents))

    def spell(self, samples: Samples) -> Samples:
        """Documents in subwords; marks are repeated for every piece."""
        counts = self._counts[samples.tokens]
        ends = np.concatenate([[0], np.cumsum(counts)])
        return Samples(
            self._pieces[ranges(self._starts[samples.tokens], counts)],
            ends[samples.offsets],
            {name: np.repeat(mark, counts) for name, mark in samples.marks.items()},
        )

    def read(self, ids: Sequence[int] | IntArray) -> NDArray[np.int32]:
        """The tokens of the vocabulary that are spelt like this.

        Raises:
            ValueError: at the first word that the vocabulary does not have.
        """
        text, piece = "", []
        for i in np.asarray(ids).tolist():
            if i < self.tokenizer.vocab_size:
                piece.append(i)
            else:
                text += f"{self.tokenizer.decode(piece)} {SPECIAL_TOKENS[i - self.tokenizer.vocab_size]}"
                piece = []
        return self.vocabulary.encode(text + self.tokenizer.decode(piece))

    def place(self, ids: Sequence[int] | IntArray, words: NDArray[np.int32], word: int) -> int | None:
        """Where in `ids` the word with this number begins; `None` if they are not spelt as here."""
        pieces = self._pieces[ranges(self._starts[words], self._counts[words])]
        is_ours = np.array_equal(pieces, np.asarray(ids))
        return int(self._counts[words[:word]].sum()) if is_ours else None
