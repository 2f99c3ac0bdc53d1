"""The entropy of a language: how much is open about a sentence that is not about its derivation.

- The entropy of strings is that of derivations (exact, `closed_forms`), less what a string leaves open about its
  derivation. Only this small difference is sampled, so that a few hundred sentences give the entropy to a few
  hundredths of a bit.

Specification, §1.3 and 2.5. Everything is in bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physlm.randomness import Key
from physlm.worlds.cfg.closed_forms import derivation_entropy, mean_length
from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.sampling import Sampler


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Entropy of a language, estimated from sampled sentences.

    Attributes:
        bits: of the string, per sentence.
        standard_error: of `bits`.
        derivation_bits: of the derivation, exactly.
        ambiguous: share of the sampled sentences with more than one derivation.
        bits_per_token: `bits` over the mean number of tokens, the end included.
    """

    bits: float
    standard_error: float
    derivation_bits: float
    ambiguous: float
    bits_per_token: float


def language_entropy(grammar: Grammar, key: Key, sentences: int = 1000) -> Entropy:
    """Entropy of the strings of a layered grammar.

    Args:
        grammar: a layered grammar.
        key: governs which sentences are sampled.
        sentences: how many, at least 2.

    Raises:
        ValueError: if there are too few sentences, or the grammar is not layered.
    """
    if sentences < 2:
        raise ValueError(f"sentences must be ≥ 2, so that there is a standard error, got {sentences}")
    parser, sampler = Parser(grammar), Sampler(grammar)
    forest = sampler.sample(key, np.arange(sentences))
    strings = np.split(sampler.tokens(forest), forest.offsets[-1][1:-1])
    charts = [parser.chart(string) for string in strings]
    # Bits that the string leaves open about the derivation it came from: their mean is the difference of entropies.
    left_open = sampler.bits(forest) + np.array([chart.log2_probability for chart in charts])
    of_derivation = derivation_entropy(grammar)
    bits = of_derivation - float(left_open.mean())
    return Entropy(
        bits=bits,
        standard_error=float(left_open.std(ddof=1)) / sentences**0.5,
        derivation_bits=of_derivation,
        ambiguous=float(np.mean([chart.derivations > 1 for chart in charts])),
        bits_per_token=bits / (mean_length(grammar) + 1),
    )
