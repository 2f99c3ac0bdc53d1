import numpy as np
import pytest

from physlm.randomness import Key


@pytest.mark.parametrize("count", [1, 4, 10])
def test_words_are_those_of_numpys_philox(count):
    key = Key.of("anything", 7)
    words = key.words(np.array([0, 3, 2**40]), count)
    for row, index in zip(words, [0, 3, 2**40], strict=True):
        bits = np.array([key.high, key.low], dtype=np.uint64)
        expected = np.random.Philox(key=bits, counter=np.array([0, index, 0, 0], dtype=np.uint64)).random_raw(count)
        assert np.array_equal(row, expected)


def test_draws_depend_on_key_and_index_only():
    key = Key.of("a", 1)
    forwards = key.integers(np.arange(50), 6, 46)
    backwards = key.integers(np.arange(50)[::-1], 6, 46)[::-1]
    assert np.array_equal(forwards, backwards)
    assert not np.array_equal(forwards, Key.of("a", 2).integers(np.arange(50), 6, 46))
    assert not np.array_equal(forwards[1:], Key.of("a", 2).integers(np.arange(49), 6, 46))


def test_keys_take_numpy_integers_for_what_they_are():
    assert Key.of("a", 3) == Key.of("a", np.int64(3))
    assert Key.of("a", 3) != Key.of("a", "3")
    assert Key.of("a", 3).child("b") != Key.of("a", 3)


def test_integers_and_permutations_are_uniform():
    key = Key.of("uniform", 0)
    counts = np.bincount(key.integers(np.arange(20_000), 3, 6).ravel(), minlength=6)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 25  # χ² with 5 degrees of freedom: p = 0.0001
    orders = key.permutations(np.arange(6_000), 3) @ np.array([9, 3, 1])
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 25
    uniforms = key.uniforms(np.arange(1000), 2)
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
