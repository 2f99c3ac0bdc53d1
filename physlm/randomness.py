"""Counter-based randomness: every draw is a pure function of (key, index, position).

- A `Key` is 128 bits hashed from words ("people", seed, …). Keys are hashed, never added, so that
  neighbouring seeds or chunks share nothing.
- `Key.words(index, count)` is a vectorised Philox4x64-10 (Salmon et al., SC 2011) that gives any
  sample its own random words at random access; it is bit-identical to `numpy.random.Philox`.
- `Key.generator()` is an ordinary NumPy generator, for draws that belong to a whole world.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
_WORDS_PER_BLOCK = 4


def _multiply(a: np.uint64, b: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """High and low 64 bits of the 128-bit products `a * b`."""
    a_high, a_low = a >> _HALF, a & _LOW
    b_high, b_low = b >> _HALF, b & _LOW
    low_low, high_low, low_high = a_low * b_low, a_high * b_low, a_low * b_high
    carry = (low_low >> _HALF) + (high_low & _LOW) + low_high
    return a_high * b_high + (high_low >> _HALF) + (carry >> _HALF), a * b


@dataclass(frozen=True)
class Key:
    """A 128-bit key for counter-based draws.

    Example:
        >>> key = Key.of("biographies", 7)
        >>> key.child("templates").integers(np.arange(3), count=6, below=46).shape
        (3, 6)
    """

    high: int
    low: int

    @classmethod
    def of(cls, *words: str | int) -> Key:
        """Hash any words to a key; the same words always give the same key, NumPy's integers among them."""
        words = tuple(word if isinstance(word, str) else int(word) for word in words)
        digest = hashlib.blake2b(repr(words).encode(), digest_size=16).digest()
        return cls(int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"))

    def child(self, *words: str | int) -> Key:
        """An independent key for a named part of what this key governs."""
        return Key.of(self.high, self.low, *words)

    def generator(self) -> np.random.Generator:
        """A NumPy generator on this key, for draws that belong to a whole world."""
        return np.random.Generator(np.random.Philox(key=np.array([self.high, self.low], dtype=np.uint64)))

    def words(self, index: NDArray[np.integer], count: int) -> NDArray[np.uint64]:
        """`count` random 64-bit words for every index, shape `[len(index), count]`."""
        blocks = -(-count // _WORDS_PER_BLOCK)
        index = np.asarray(index)
        # Counter layout: word 0 counts blocks within a sample (1-based, as NumPy increments before use),
        # word 1 is the sample index.
        counter = [
            np.tile(np.arange(1, blocks + 1, dtype=np.uint64), len(index)),
            np.repeat(index.astype(np.uint64), blocks),
            np.zeros(blocks * len(index), dtype=np.uint64),
            np.zeros(blocks * len(index), dtype=np.uint64),
        ]
        key_high, key_low = self.high, self.low
        for _ in range(_ROUNDS):
            high_0, low_0 = _multiply(_MULTIPLIERS[0], counter[0])
            high_1, low_1 = _multiply(_MULTIPLIERS[1], counter[2])
            counter = [
                high_1 ^ counter[1] ^ np.uint64(key_high),
                low_1,
                high_0 ^ counter[3] ^ np.uint64(key_low),
                low_0,
            ]
            key_high = (key_high + _WEYL[0]) & 0xFFFFFFFFFFFFFFFF
            key_low = (key_low + _WEYL[1]) & 0xFFFFFFFFFFFFFFFF
        return np.stack(counter, axis=1).reshape(len(index), blocks * _WORDS_PER_BLOCK)[:, :count]

    def integers(self, index: NDArray[np.integer], count: int, below: int | NDArray[np.integer]) -> NDArray[np.int64]:
        """Uniform integers in `[0, below)`, shape `[len(index), count]`; `below` is at most 2**31.

        `below` may be an array that broadcasts to the result. The bias of taking the high bits of a
        32-bit product is below `below / 2**32`.
        """
        high_bits = self.words(index, count) >> _HALF
        return ((high_bits * np.asarray(below, dtype=np.uint64)) >> _HALF).astype(np.int64)

    def uniforms(self, index: NDArray[np.integer], count: int) -> NDArray[np.float64]:
        """Uniform floats in `[0, 1)`, shape `[len(index), count]`."""
        return (self.words(index, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutations(self, index: NDArray[np.integer], size: int) -> NDArray[np.int64]:
        """A uniformly random order of `range(size)` for every index, shape `[len(index), size]`."""
        return np.argsort(self.words(index, size), axis=1, kind="stable")
