import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.cfg.choices import ADDRESS_BITS, LARGEST_SPLIT, Choices, ranges

KEY = Key.of("test of choices", 0)


def choices(*distributions) -> Choices:
    first = np.cumsum([0, *map(len, distributions)])
    return Choices(first, np.concatenate([np.asarray(d, dtype=float) for d in distributions]))


def uniform(degree: int) -> list[float]:
    return [1 / degree] * degree


def goodness(observed, expected) -> float:
    """p-value of the χ² test."""
    return float(stats.chisquare(observed, np.asarray(expected) * np.sum(observed)).pvalue)


def draw(which: Choices, counts, symbol: int = 0, key: Key = KEY, first: int = 0):
    counts = np.asarray(counts, dtype=np.int64)
    symbols = np.full(counts.sum(), symbol, dtype=np.uint8)
    return which.draw(key, first + np.arange(len(counts)), counts, symbols)


def test_ranges_count_up_for_every_count():
    assert ranges(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
    assert ranges(np.array([], dtype=np.int64)).tolist() == []


# Pieces of 8 bits alone would give 86 : 85 : 85 instead of thirds; so many draws tell the difference.
@pytest.mark.parametrize("degree", [2, 3, 4, 5, 6, 7, 12, 17, 65])
def test_uniform_choices_are_uniform(degree):
    drawn = draw(choices(uniform(degree)), [40] * 100_000)
    assert goodness(np.bincount(drawn, minlength=degree), uniform(degree)) > 1e-4


def test_pieces_alone_would_fail_that_test():
    assert goodness(np.array([86, 85, 85]) / 256 * 4_000_000, uniform(3)) < 1e-9


@pytest.mark.parametrize(
    "probabilities",
    [
        [0.9, 0.1],
        [0.001, 0.999],
        [0.5, 0.0, 0.5],
        [0.0, 1.0, 0.0],
        [1e-5, 0.3, 0.7 - 1e-5],
        list(np.arange(1, 31) / np.arange(1, 31).sum()),
    ],
)
def test_probabilities_are_met_and_zero_means_never(probabilities):
    drawn = draw(choices([1.0], probabilities), [25] * 40_000, symbol=1)
    counts = np.bincount(drawn - 1, minlength=len(probabilities))
    possible = np.asarray(probabilities) > 0
    assert counts[~possible].sum() == 0
    assert possible.sum() == 1 or goodness(counts[possible], np.asarray(probabilities)[possible]) > 1e-4


def test_a_rare_outcome_far_below_one_piece_still_occurs():
    drawn = draw(choices([1 - 2e-5, 2e-5]), [100] * 20_000)
    count = int((drawn == 1).sum())
    assert stats.binomtest(count, len(drawn), 2e-5).pvalue > 1e-4


def test_neighbours_are_independent():
    drawn = draw(choices(uniform(3)), [60] * 20_000).reshape(-1, 60)
    for other in (np.roll(drawn, 1, axis=1), np.roll(drawn, 1, axis=0), np.roll(drawn, 31, axis=1)):
        table = np.bincount((3 * drawn + other).reshape(-1), minlength=9).reshape(3, 3)
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_outcomes_are_numbered_symbol_after_symbol():
    which = choices([1.0], uniform(2), uniform(3))
    symbols = np.tile(np.array([0, 1, 2], dtype=np.uint8), 100)
    drawn = which.draw(KEY, np.arange(3), np.array([100, 50, 150]), symbols)
    first = which.first[symbols]
    assert ((first <= drawn) & (drawn < which.first[symbols + 1])).all()
    assert set(drawn) == set(range(6))


def test_of_matrix_numbers_rows_and_columns():
    which = Choices.of_matrix(np.array([[0.0, 1.0], [1.0, 0.0]]))
    drawn = which.draw(KEY, np.arange(1), np.array([40]), np.tile(np.array([0, 1], dtype=np.uint8), 20))
    assert (drawn % 2).tolist() == [1, 0] * 20


def test_a_single_outcome_needs_no_draw():
    which = choices([1.0], [1.0], [1.0])
    symbols = np.array([2, 0, 1], dtype=np.uint8)
    assert which.is_certain
    assert which.draw(KEY, np.arange(1), np.array([3]), symbols).tolist() == [2, 0, 1]


@pytest.mark.parametrize("degree", [3, 40])
@given(counts=st.lists(st.integers(0, 90), min_size=1, max_size=6), data=st.data())
def test_a_draw_depends_on_key_sentence_and_node_alone(degree, counts, data):
    which = choices(uniform(degree))
    together = np.split(draw(which, counts), np.cumsum(counts)[:-1])
    order = data.draw(st.permutations(range(len(counts))))
    for i in order:
        # A longer sentence begins like a shorter one, whatever is drawn along with it.
        alone = which.draw(KEY, np.array([i]), np.array([counts[i] + 7]), np.zeros(counts[i] + 7, dtype=np.uint8))
        assert alone[: counts[i]].tolist() == together[i].tolist()


def test_keys_and_distant_sentences_differ():
    which = choices(uniform(4))
    drawn = {
        draw(which, [64], first=first, key=key).tobytes()
        for key in (KEY, KEY.child(1))
        for first in (0, 1, 1 << ADDRESS_BITS, LARGEST_SPLIT - 1)
    }
    assert len(drawn) == 8
