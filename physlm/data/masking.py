"""Training objectives for masked (bidirectional) language models, on unshifted windows.

- `mask_words` hides whole words: a word is selected with all its tokens or not at all. A selected word is masked
  (80 %), left as it is (10 %) or replaced by random tokens (10 %).
- `mask_answers` hides exactly the tokens of the answers, for question answering with a masked model.
- Inputs and targets are aligned, nothing is shifted: use `Batch.window`, `Batch.window_marks` and `Batch.rows`.
- Draws are a pure function of (key, row number, position): the batch size and the number of ranks change nothing.

Follows part 3.1 of Physics of Language Models, §7 and App. B.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.randomness import Key

MASKED = 0.8
"""Share of the selected words whose tokens become the mask."""

KEPT = 0.1
"""Share of the selected words that stay as they are; the rest becomes random tokens."""


def mask_words(
    window: IntArray,
    words: IntArray,
    *,
    key: Key,
    rows: IntArray,
    mask_id: int,
    vocab_size: int,
    rate: float = 0.15,
    special: Collection[int] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hide whole words and ask for them.

    Example:
        >>> inputs, targets = mask_words(
        ...     batch.window, batch.window_marks["word"], key=key.child("masks"), rows=batch.rows,
        ...     mask_id=world.mask, vocab_size=world.vocab_size, special=(world.eos, world.pad),
        ... )

    Args:
        window: token ids, `[rows, width]`.
        words: number of the word of each token, `[rows, width]`. A word is a run of one number ≥ 0; negative
            numbers belong to no word. The separators of a packed window keep equal numbers of two documents apart.
        key: governs the selection.
        rows: number of each row in the whole stream, `[rows]`.
        mask_id: token id of the mask; it may lie outside the vocabulary.
        vocab_size: random tokens are below this; they are never special and never the mask.
        rate: probability that a word is selected, in [0, 1].
        special: token ids that are never hidden and never put in.

    Returns:
        The tokens to read, and the targets: the original token of every selected word, `IGNORE` elsewhere.
    """
    window = np.asarray(window, dtype=np.int64)
    words, rows = np.asarray(words), np.asarray(rows)
    if window.ndim != 2 or words.shape != window.shape:
        raise ValueError(f"window and words must have one shape [rows, width], got {window.shape} and {words.shape}")
    if rows.shape != window.shape[:1]:
        raise ValueError(f"rows must give one number for each of {len(window)} rows, got shape {rows.shape}")
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    excluded = np.array(sorted({*special, mask_id}), dtype=np.int64)
    ordinary = np.setdiff1d(np.arange(vocab_size), excluded)
    if not len(ordinary):
        raise ValueError(f"vocab_size must leave an ordinary token beside {excluded.tolist()}, got {vocab_size}")

    # One 64-bit draw per token. The high half of a word's first token decides about the word,
    # the low half of each token is its random replacement.
    width = window.shape[1]
    draws = key.words(rows, width)
    is_first = np.ones(window.shape, dtype=np.bool_)
    is_first[:, 1:] = words[:, 1:] != words[:, :-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(width), 0), axis=1)
    choice = np.take_along_axis((draws >> np.uint64(32)).astype(np.float64) * 2.0**-32, first, axis=1)
    selected = (choice < rate) & (words >= 0) & ~np.isin(window, excluded)
    replacement = ordinary[((draws & np.uint64(0xFFFFFFFF)) * np.uint64(len(ordinary))) >> np.uint64(32)]

    hidden = np.where(choice < rate * MASKED, mask_id, np.where(choice < rate * (MASKED + KEPT), window, replacement))
    return np.where(selected, hidden, window), np.where(selected, window, IGNORE)


def mask_answers(
    window: IntArray, answers: NDArray[np.bool_], *, mask_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hide exactly the answers and ask for them.

    Example:
        >>> inputs, targets = mask_answers(batch.window, batch.window_marks["role"] == VALUE, mask_id=world.mask)

    Args:
        window: token ids, `[rows, width]`.
        answers: whether a token belongs to an answer, bool `[rows, width]`.
        mask_id: token id of the mask.

    Returns:
        The tokens to read, and the targets: the original token of every answer, `IGNORE` elsewhere.
    """
    window, answers = np.asarray(window, dtype=np.int64), np.asarray(answers)
    if answers.dtype != np.bool_ or answers.shape != window.shape:
        raise ValueError(
            f"answers must be bool of shape {window.shape}, got {answers.dtype} of shape {answers.shape}: "
            "compare the mark with the roles of an answer first"
        )
    return np.where(answers, mask_id, window), np.where(answers, window, IGNORE)
