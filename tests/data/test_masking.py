import math

import numpy as np
import pytest
from toy_world import EOS, MASK, PAD, ToyWorld

from physlm.data.masking import KEPT, MASKED, mask_answers, mask_words
from physlm.data.streams import IGNORE, PackedStream, Source
from physlm.randomness import Key

KEY = Key.of("masking test", 1)
SPECIAL = (EOS, PAD, MASK)
WORLD = ToyWorld(sizes=(("train", 400),), shortest=3, longest=40)


def batch_of(rows, **changes):
    options = {"context": 128, "batch_size": rows, "key": KEY, "marks": ("word", "role"), "overflow": "whole"}
    return PackedStream([Source(WORLD, "train")], **{**options, **changes}).next_batch()


def mask(batch, **changes):
    options = {"key": KEY, "rows": batch.rows, "mask_id": MASK, "vocab_size": WORLD.vocab_size, "special": SPECIAL}
    return mask_words(batch.window, batch.window_marks["word"], **{**options, **changes})


def words_of(batch):
    """(row, first column, last column + 1) of every word, found one token at a time."""
    found = []
    for row, numbers in enumerate(batch.window_marks["word"].tolist()):
        start = 0
        for column in range(1, len(numbers) + 1):
            if column == len(numbers) or numbers[column] != numbers[start]:
                if numbers[start] >= 0:
                    found.append((row, start, column))
                start = column
    return found


def within(count, total, share):
    return abs(count - total * share) <= 4 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_rates(rate):
    batch = batch_of(400)
    inputs, targets = mask(batch, rate=rate)
    words = words_of(batch)
    chosen = [w for w in words if targets[w[0], w[1]] != IGNORE]
    assert within(len(chosen), len(words), rate)
    masked = kept = 0
    for row, start, stop in chosen:
        piece = inputs[row, start:stop]
        masked += bool((piece == MASK).all())
        kept += bool((piece == batch.window[row, start:stop]).all())
    assert within(masked, len(chosen), MASKED)
    # A random token equals the original in one of a thousand cases.
    assert within(kept, len(chosen), KEPT)


def test_words_are_hidden_whole():
    batch = batch_of(100)
    inputs, targets = mask(batch, rate=0.4)
    for row, start, stop in words_of(batch):
        is_target = targets[row, start:stop] != IGNORE
        is_mask = inputs[row, start:stop] == MASK
        assert is_target.all() or not is_target.any()
        assert is_mask.all() or not is_mask.any()


def test_targets_are_the_original_tokens_and_the_rest_is_untouched():
    batch = batch_of(100)
    inputs, targets = mask(batch)
    selected = targets != IGNORE
    np.testing.assert_array_equal(targets[selected], batch.window[selected])
    np.testing.assert_array_equal(inputs[~selected], batch.window[~selected])
    assert not selected[np.isin(batch.window, SPECIAL)].any()
    assert not np.isin(inputs[selected], (EOS, PAD)).any()
    assert inputs.dtype == targets.dtype == np.int64


def test_each_random_token_is_uniform_over_the_ordinary_ones():
    window = np.full((500, 100), 7)
    words = np.tile(np.arange(100) // 2, (500, 1))
    inputs, targets = mask_words(
        window, words, key=KEY, rows=np.arange(500), mask_id=2, vocab_size=10, rate=1.0, special=(0, 1)
    )
    assert (targets == 7).all()
    counts = np.bincount(inputs.ravel(), minlength=10)
    assert counts[:2].tolist() == [0, 0]
    share = (1 - MASKED - KEPT) / 7
    assert all(within(counts[token], inputs.size / 2, share * 2) for token in (3, 4, 5, 6, 8, 9))
    pairs = inputs.reshape(-1, 2)
    ordinary = pairs[(pairs != 2).all(axis=1)]
    assert (ordinary[:, 0] != ordinary[:, 1]).any()


def test_words_of_neighbouring_documents_with_one_number_are_two_words():
    window = np.tile([EOS, 5, EOS, 6], (2000, 1))
    words = np.tile([-1, 0, -1, 0], (2000, 1))
    _, targets = mask_words(
        window, words, key=KEY, rows=np.arange(2000), mask_id=MASK, vocab_size=10, rate=0.5, special=SPECIAL
    )
    both = ((targets[:, 1] != IGNORE) & (targets[:, 3] != IGNORE)).sum()
    assert within(both, 2000, 0.25)


@pytest.mark.parametrize("overflow", ["cut", "whole"])
def test_batch_size_and_ranks_change_nothing(overflow):
    large = batch_of(60, overflow=overflow)
    inputs, targets = mask(large)
    small = [batch_of(20, rank=rank, ranks=3, overflow=overflow) for rank in range(3)]
    for batch in small:
        part_inputs, part_targets = mask(batch)
        np.testing.assert_array_equal(part_inputs, inputs[batch.rows])
        np.testing.assert_array_equal(part_targets, targets[batch.rows])
    assert (mask(large, key=Key.of("other"))[1] != targets).any()
    assert (mask(large, rows=large.rows + 1)[1] != targets).any()


def test_extreme_rates():
    batch = batch_of(10)
    inputs, targets = mask(batch, rate=0.0)
    np.testing.assert_array_equal(inputs, batch.window)
    assert (targets == IGNORE).all()
    _, targets = mask(batch, rate=1.0)
    np.testing.assert_array_equal(targets != IGNORE, batch.window_marks["word"] >= 0)


def test_special_tokens_inside_a_word_are_not_touched():
    window = np.tile([5, PAD, 6, MASK], (50, 1))
    inputs, targets = mask_words(
        window, np.zeros((50, 4)), key=KEY, rows=np.arange(50), mask_id=MASK, vocab_size=10, rate=1.0, special=SPECIAL
    )
    assert (inputs[:, [1, 3]] == [PAD, MASK]).all()
    np.testing.assert_array_equal(targets, np.tile([5, IGNORE, 6, IGNORE], (50, 1)))


def test_inputs_are_left_alone():
    batch = batch_of(10)
    before = batch.window.copy()
    mask(batch, rate=1.0)
    mask_answers(batch.window, batch.window_marks["role"] == 2, mask_id=MASK)
    np.testing.assert_array_equal(batch.window, before)


def test_answers_are_hidden_exactly():
    batch = batch_of(10)
    answers = batch.window_marks["role"] == 2
    inputs, targets = mask_answers(batch.window, answers, mask_id=MASK)
    assert (inputs[answers] == MASK).all()
    np.testing.assert_array_equal(targets[answers], batch.window[answers])
    np.testing.assert_array_equal(inputs[~answers], batch.window[~answers])
    assert (targets[~answers] == IGNORE).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.2}, "rate must be in .* got 1.2"),
        ({"rows": np.arange(3)}, r"4 rows, got shape \(3,\)"),
        ({"vocab_size": 3}, "got 3"),
    ],
)
def test_errors_name_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        mask(batch_of(4), **changes)


def test_errors_of_shape():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        mask_words(np.zeros((2, 3)), np.zeros((2, 4)), key=KEY, rows=np.arange(2), mask_id=MASK, vocab_size=9)
    with pytest.raises(ValueError, match="got int64"):
        mask_answers(np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=int), mask_id=MASK)
