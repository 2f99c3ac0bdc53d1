"""How diverse sentences are: what every symbol became in them, and how large a language they must come from.

- `sentential_forms` parses sentences and counts, for every symbol of a level, what it became some levels below.
- `expected_distinct` says how many different forms there are among a number of nodes, so that what a model wrote can be
  compared with sentences of the language itself although a symbol is not equally frequent in both.
- `least_support` bounds the number of different sentences from below, by the birthday paradox.

Source: Physics of Language Models, part 1 (arXiv 2305.13673), section 3 and appendix B; specification, §2.9.
Rarefaction: Hurlbert, Ecology 52 (1971).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.tables import Sentence

Form = tuple[str, ...]
"""The symbols of one level that a node became, from the left."""


def sentential_forms(
    sentences: Iterable[Sentence], parser: Parser, *, upper: int, lower: int
) -> dict[str, Counter[Form]]:
    """What every symbol of the level `upper` became on the level `lower`, and how often.

    Of a sentence with several derivations the most probable one is taken, as nobody knows by which a model wrote it;
    compare with sentences of the language that went through the same function.

    Example:
        >>> parser, world = Parser(grammar("cfg3b")), CFGWorld(CFGConfig(seed=0, grammar="cfg3b"))
        >>> forms = sentential_forms(world.sentences("test", np.arange(200)), parser, upper=1, lower=3)
        >>> forms["20"].most_common(1), forms["20"].total(), len(forms["20"])
        ([(('15', '13', '15', '13', '14'), 29)], 200, 12)

    Args:
        sentences: token ids without BOS and EOS; strings outside the language have no forms and are left out.
        parser: of the grammar.
        upper: level of the symbols, from 0, the root.
        lower: a level below; the terminals are level L - 1.

    Returns:
        Symbol → form → number of nodes, for all symbols of the level, met or not.
    """
    levels = parser.layers.symbols
    if not 0 <= upper < lower < len(levels):
        raise ValueError(f"levels must be 0 ≤ upper < lower ≤ {len(levels) - 1}, got upper {upper} and lower {lower}")
    counts: dict[str, Counter[Form]] = {symbol: Counter() for symbol in levels[upper]}
    for chart in map(parser.chart, sentences):
        if not chart.is_sentence:
            continue
        derivation = chart.best.derivation
        symbols, parts = derivation.labels(upper), derivation.labels(lower)
        begins = np.searchsorted(derivation.ancestors(upper, lower), np.arange(len(symbols) + 1)).tolist()
        for symbol, begin, end in zip(symbols, begins, begins[1:], strict=False):
            counts[symbol][tuple(parts[begin:end])] += 1
    return counts


def expected_distinct(counts: Mapping[Form, int], nodes: int) -> float:
    """Mean number of different forms among `nodes` of the nodes counted, over all ways to choose them.

    Example:
        >>> expected_distinct({("a",): 2, ("b",): 1}, 2)
        1.666666666666667

    Args:
        counts: how often each form was met.
        nodes: how many nodes to choose, from 0 to all of them; take the smaller total of two samples to compare them.
    """
    total = sum(counts.values())
    if not 0 <= nodes <= total:
        raise ValueError(f"nodes must be in 0..{total}, the number of nodes counted, got {nodes}")
    return math.fsum(1 - _chance_of_none(count, total, nodes) for count in counts.values())


def _chance_of_none(count: int, total: int, chosen: int) -> float:
    """Chance that none of `count` among `total` is chosen."""
    if chosen > total - count:
        return 0.0
    return math.exp(_log_binomial(total - count, chosen) - _log_binomial(total, chosen))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def least_support(sentences: Sequence[Sequence[int] | NDArray[np.integer]], *, confidence: float = 0.95) -> float:
    """How many different sentences the source of these must be able to make, at the least.

    If a source makes S sentences, k draws are all different with a chance of at most exp(-k (k - 1) / 2S), however
    likely each is. So k different sentences before the first repetition speak against every S below the bound.

    Example:
        >>> round(least_support([[i] for i in range(20_000)]))
        66758302

    Args:
        sentences: independent draws, in the order in which they were drawn.
        confidence: how often such a bound holds at least, in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    seen: set[bytes] = set()
    for sentence in sentences:
        text = np.asarray(sentence, dtype=np.int64).tobytes()
        if text in seen:
            break
        seen.add(text)
    return len(seen) * (len(seen) - 1) / (-2 * math.log1p(-confidence))
