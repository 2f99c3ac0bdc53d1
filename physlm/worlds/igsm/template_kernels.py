"""The compiled loops of solution templates: their text and its hash.

SHA-256 as in FIPS 180-4, of the text that `physlm.worlds.igsm.templates` describes, with a space before.
Compiled by numba when first called; the result is kept on disk where that can be written.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled
from physlm.worlds.igsm.kernels import Drawing
from physlm.worlds.igsm.solution_kernels import CONSTANT, COPIED, MINUS, PLUS, Steps

Bytes: TypeAlias = NDArray[np.uint8]

MOST_BYTES = 4096
"""Room for a template: 52 sentences of 18 characters, as many steps of at most 26, and padding."""
_BLOCK = 64

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
_DEFINE = np.frombuffer(b" Define ", np.uint8)
_INSTANCE, _ABSTRACT = np.frombuffer(b"Inst as ", np.uint8), np.frombuffer(b"Abst as ", np.uint8)
_SO, _EQUALS, _NUMBERS = np.frombuffer(b" so", np.uint8), np.frombuffer(b" = ", np.uint8), np.frombuffer(b"0", np.uint8)
_PLUS, _MINUS, _TIMES = (np.frombuffer(f" {operator} ".encode(), np.uint8) for operator in "+-*")
_SEMICOLON, _STOP, _SPACE = (np.frombuffer(character.encode(), np.uint8) for character in ";. ")


def _roots(power: float) -> NDArray[np.uint32]:
    """The constants of SHA-256: the first 32 fractional bits of roots of the first 64 primes."""
    primes = [n for n in range(2, 312) if all(n % divisor for divisor in range(2, n))]
    return np.array([int(prime**power % 1 * 2**32) for prime in primes], np.uint32)


_ROUND_CONSTANTS, _INITIAL = _roots(1 / 3), _roots(1 / 2)[:8]


@compiled
def _append(text: Bytes, at: int, what: Bytes) -> int:
    text[at : at + len(what)] = what
    return at + len(what)


@compiled
def _append_operand(text: Bytes, at: int, operand: int) -> int:
    return _append(text, at, _NUMBERS if operand < 0 else _LETTERS[operand : operand + 1])


@compiled
def template(row: int, drawing: Drawing, steps: Steps, text: Bytes) -> int:
    """Write the template of a solution; returns its length in bytes."""
    at = step = sentence = 0
    while step < steps.total[row]:
        own, last = step, step + steps.in_sentence[row, sentence] - 1
        at = _append(text, at, _DEFINE)
        at = _append(text, at, _INSTANCE if drawing.solution[row, sentence] < drawing.edges[row] else _ABSTRACT)
        at = _append_operand(text, at, own)
        while step <= last:
            at = _append(text, at, _SEMICOLON)
            if step == last:
                at = _append(text, at, _SO)
            at = _append(text, at, _SPACE)
            at = _append_operand(text, at, own if step == last else step + 1)
            kind = steps.kind[row, step]
            if kind != CONSTANT:
                at = _append(text, at, _EQUALS)
                at = _append_operand(text, at, steps.left[row, step])
            if kind != CONSTANT and kind != COPIED:
                operator = _PLUS if kind == PLUS else _MINUS if kind == MINUS else _TIMES
                at = _append(text, at, operator)
                at = _append_operand(text, at, steps.right[row, step])
                at = _append(text, at, _EQUALS)
                at = _append(text, at, _NUMBERS)
                at = _append(text, at, operator)
                at = _append(text, at, _NUMBERS)
            at = _append(text, at, _EQUALS)
            at = _append(text, at, _NUMBERS)
            step += 1
        at = _append(text, at, _STOP)
        sentence += 1
    return at


@compiled
def _rotated(word: np.uint32, by: int) -> np.uint32:
    return np.uint32(word >> np.uint32(by)) | np.uint32(word << np.uint32(32 - by))


@compiled
def sha256(text: Bytes, length: int, digest: NDArray[np.uint32]) -> None:
    """Hash `text[:length]`; what is after it is overwritten with padding, for which there must be 72 bytes."""
    blocks = (length + 9 + _BLOCK - 1) // _BLOCK
    text[length : blocks * _BLOCK] = 0
    text[length] = 0x80
    for i in range(8):
        text[blocks * _BLOCK - 1 - i] = (8 * length >> 8 * i) & 0xFF
    digest[:] = _INITIAL
    words, state = np.empty(64, np.uint32), np.empty(8, np.uint32)
    for block in range(blocks):
        for i in range(16):
            word = np.uint32(0)
            for j in range(4):
                word = np.uint32(word << np.uint32(8)) | np.uint32(text[block * _BLOCK + 4 * i + j])
            words[i] = word
        for i in range(16, 64):
            near, far = words[i - 15], words[i - 2]
            near = _rotated(near, 7) ^ _rotated(near, 18) ^ np.uint32(near >> np.uint32(3))
            far = _rotated(far, 17) ^ _rotated(far, 19) ^ np.uint32(far >> np.uint32(10))
            words[i] = np.uint32(words[i - 16] + near + words[i - 7] + far)
        state[:] = digest
        for i in range(64):
            a, e = state[0], state[4]
            choice = (e & state[5]) ^ (~e & state[6])
            majority = (a & state[1]) ^ (a & state[2]) ^ (state[1] & state[2])
            first = np.uint32(
                state[7]
                + (_rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25))
                + choice
                + _ROUND_CONSTANTS[i]
                + words[i]
            )
            second = np.uint32((_rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)) + majority)
            for j in range(7, 0, -1):
                state[j] = state[j - 1]
            state[4] = np.uint32(state[4] + first)
            state[0] = np.uint32(first + second)
        for i in range(8):
            digest[i] = np.uint32(digest[i] + state[i])


@compiled
def hash_templates(
    rows: NDArray[np.int64], drawing: Drawing, steps: Steps, modulus: int, residues: NDArray[np.int64]
) -> None:
    """Hash the templates at `rows`; `residues` gets each hash as an integer, modulo `modulus`."""
    text, digest = np.empty(MOST_BYTES, np.uint8), np.empty(8, np.uint32)
    for row in rows:
        sha256(text, template(row, drawing, steps, text), digest)
        residue = 0
        for i in range(8):
            residue = (residue * 2**32 + np.int64(digest[i])) % modulus
        residues[row] = residue
        drawing.template[row] = np.uint64(digest[0]) << np.uint64(32) | np.uint64(digest[1])
