"""Numbers of derivations beyond what float64 holds exactly: counted modulo primes, then put together.

Chinese remainder theorem: a whole number below the product of some primes is known from its remainders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from physlm.worlds.cfg.layers import Layers
from physlm.worlds.cfg.tables import Tables

_BELOW = 2**31  # products of two remainders then fit into int64, and remainders into float64
_WITNESSES = (2, 3, 5, 7)  # enough for all numbers below 3,215,031,751


def count_derivations(layers: Layers, read: Callable[[int], Tables], rounded: float) -> int:
    """The exact number of derivations of a sentence.

    Args:
        layers: of the grammar.
        read: reads the sentence in a mode, here a prime modulus.
        rounded: the number in float64, perhaps infinite.
    """
    result, product = 0, 1
    limit: float = _BELOW
    for prime in _primes():
        tables = read(prime)
        span = tables.root_span(tables.read)
        remainder = 0 if span is None else int(tables.spans.second[span])
        if product == 1:
            # Rounding errors add up to far less than a factor of two.
            limit = math.log2(rounded) + 1 if math.isfinite(rounded) else most_derivations(layers, tables.read)
        result += product * ((remainder - result) * pow(product, -1, prime) % prime)
        product *= prime
        if product.bit_length() - 1 > limit:
            break
    return result


def most_derivations(layers: Layers, length: int) -> float:
    """An upper bound on the number of derivations of a string of `length` tokens, in bits.

    A derivation is known from the rules of its nodes, and a level has no more nodes than fit side by side.
    """
    bits = 0.0
    for first_rules, shortest in zip(layers.first_rules, layers.shortest, strict=False):
        degree = int((first_rules[1:] - first_rules[:-1]).max())
        bits += length // int(shortest.min()) * math.log2(degree)
    return bits


def _primes() -> Iterator[int]:
    """Primes below 2**31, from the largest down."""
    return (number for number in range(_BELOW - 1, 2, -2) if _is_prime(number))


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test, which is certain for these numbers."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True
