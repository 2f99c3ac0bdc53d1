"""Exact inference against the golden values of the specification."""

from __future__ import annotations

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.cfg.dense import DenseParser
from physlm.worlds.cfg.entropy import language_entropy
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.grammar import reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of inference")

# Grammar (@ and the new root), rule, tokens, first 20 tokens, bits, derivations: specification, §2.4.
SENTENCES = [
    ("cfg3b", "A", 238, "32321313231321313213", -157.000000, 1),
    ("cfg3i", "A", 484, "11312312113123121131", -259.000000, 1),
    ("cfg3h", "A", 262, "12232213232213232213", -223.345875, 1),
    ("cfg3g", "A", 225, "13213223323123313213", -202.875200, 1),
    ("cfg3f", "A", 192, "31112112131131131131", -177.891738, 1),
    ("cfg3e1", "A", 144, "18699869822572194693", -153.741363, 1),
    ("cfg3e2", "A", 200, "22122232414112131111", -213.969938, 1),
    ("cfg3b", "M", 200, "32213112332213121322", -134.000000, 1),
    ("cfg3i", "M", 326, "11231312121132231223", -194.830075, 9),
    ("cfg3g", "M", 176, "13213212311333123311", -189.195500, 2),
    ("cfg3f", "M", 161, "31133111212211131232", -182.362413, 2),
    ("cfg3h", "M", 278, "12123213121231312131", -229.345875, 1),
    ("cfg3e1", "M", 139, "18697557534877225162", -156.911288, 1),
    ("cfg3e2", "M", 245, "22312131112234141412", -248.839113, 1),
    ("cfg3b@16", "A", 35, "32321313231321313213", -23.000000, 1),
    ("cfg3f@18", "A", 54, "31112112122112122131", -48.454138, 1),
]

# After k tokens of the rule-A sentence: Pr[1], Pr[2], Pr[3], Pr[EOS].
NEXT_TOKENS = {
    "cfg3b": {
        0: (0.15625, 0.125, 0.71875, 0),
        2: (0.545455, 0.136364, 0.318182, 0),
        50: (0.333333, 0.666667, 0, 0),
        238: (0, 0, 0, 1),
    },
    "cfg3h": {
        0: (0.630787, 0.20409, 0.165123, 0),
        2: (0.420846, 0.141593, 0.437561, 0),
        50: (0.61657, 0.217726, 0.165703, 0),
        262: (0, 0, 0, 1),
    },
    "cfg3g": {
        0: (0.395062, 0.482853, 0.122085, 0),
        2: (0.235955, 0.646067, 0.117978, 0),
        50: (0.238095, 0.642857, 0.119048, 0),
        224: (0.098765, 0.123457, 0.527778, 0.25),
        225: (0.187135, 0.233918, 0.105263, 0.473684),
    },
    "cfg3f": {
        0: (0.367863, 0.070385, 0.561753, 0),
        2: (0.612196, 0.387804, 0, 0),
        50: (0.927224, 0.072776, 0, 0),
        192: (0.385031, 0.019304, 0.38138, 0.214286),
    },
}

# Entropy in bits of derivations and strings, share of ambiguous sentences: specification, §1.3.
ENTROPIES = {
    "cfg3b": (169.25, 169.25, 0.000),
    "cfg3i": (186.94, 184.67, 0.838),
    "cfg3h": (204.78, 204.67, 0.129),
    "cfg3g": (269.92, 268.00, 0.813),
    "cfg3f": (268.66, 268.17, 0.394),
    "cfg3e1": (215.98, 215.98, 0.000),
    "cfg3e2": (256.35, 256.35, 0.000),
    "cfg3j": (618.59, 617.8, 0.58),
    "cfg3k": (608.33, 607.1, 0.75),
}

# Percent, levels from just above the terminals up to the one below the root: specification, §1.4.
CEILINGS = {
    "cfg3i": {"whole": (99.7, 99.7, 99.7, 99.4, 99.9), "prefix": (97.2, 98.4, 100, 100, 100)},
    "cfg3f": {"whole": (100, 99.9, 99.3, 99.2, 98.9), "prefix": (100, 99.2, 99.2, 98.6, 97.5)},
}


def named(name):
    base, _, root = name.partition("@")
    return reroot(grammar(base), root) if root else grammar(base)


def fixed(name, rule="A"):
    return Sampler(named(name)).fixed(rule).symbols[-1] + 1


def sample(which, count, *words):
    sampler = Sampler(which)
    forest = sampler.sample(KEY.child(*words), np.arange(count))
    return sampler, forest, np.split(sampler.tokens(forest).astype(np.int64), forest.offsets[-1][1:-1])


@pytest.mark.parametrize(("name", "rule", "length", "start", "bits", "derivations"), SENTENCES)
def test_golden_sentences(name, rule, length, start, bits, derivations):
    which, sentence = named(name), fixed(name, rule)
    assert len(sentence) == length
    assert "".join(which.decode(sentence[:20])) == start
    chart = Parser(which).chart(sentence)
    assert chart.is_sentence
    assert chart.error is None
    assert chart.derivations == derivations
    assert chart.log2_probability == pytest.approx(bits, abs=5e-7)


@pytest.mark.parametrize("name", NEXT_TOKENS)
def test_golden_next_tokens(name):
    result = Parser(grammar(name)).chart(fixed(name)).next_token
    for position, expected in NEXT_TOKENS[name].items():
        np.testing.assert_allclose(result[position], expected, atol=5.1e-7)


@pytest.mark.parametrize(("name", "rule"), [("cfg3b", "A"), ("cfg3g", "M"), ("cfg3f@18", "A")])
def test_golden_sentences_by_the_other_parsers(name, rule):
    which, sentence = named(name), fixed(name, rule)
    chart = Parser(which).chart(sentence)
    dense = DenseParser(which)
    np.testing.assert_allclose(dense.log2_probabilities([sentence]).numpy(), [chart.log2_probability], rtol=1e-12)
    np.testing.assert_allclose(dense.next_tokens([sentence]).numpy()[0], chart.next_token, atol=1e-12)
    assert dense.derivations([sentence]) == [chart.derivations]
    if len(sentence) < 100:
        general = GeneralParser(which).chart(sentence)
        np.testing.assert_allclose(general.next_token, chart.next_token, atol=1e-12)
        assert general.log2_probability == pytest.approx(chart.log2_probability)


@pytest.mark.parametrize("name", ENTROPIES)
def test_entropies_of_the_specification(name):
    of_derivation, of_string, ambiguous = ENTROPIES[name]
    count = 100 if name in ("cfg3j", "cfg3k", "cfg3e1") else 300
    found = language_entropy(grammar(name), KEY.child("entropy"), count)
    assert found.derivation_bits == pytest.approx(of_derivation, abs=0.006)
    # The specification sampled too: its last digits are as uncertain as ours, or are rounded to 0.1.
    slack = 0.3 if name in ("cfg3j", "cfg3k") else 0.02
    assert found.bits == pytest.approx(of_string, abs=4.5 * found.standard_error + slack)
    assert abs(found.ambiguous - ambiguous) < 4.5 * (0.25 / count) ** 0.5 + (0.1 if slack > 0.1 else 0)
    assert found.bits <= found.derivation_bits + 1e-9


def test_entropy_needs_more_than_one_sentence():
    with pytest.raises(ValueError, match="sentences must be ≥ 2, so that there is a standard error, got 1"):
        language_entropy(grammar("cfg3b"), KEY, 1)


@pytest.mark.parametrize("name", CEILINGS)
def test_information_ceilings_of_the_specification(name):
    which = grammar(name)
    sampler, forest, sentences = sample(which, 150, "ceilings", name)
    parser, levels = Parser(which), range(5, 0, -1)
    right: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for number, sentence in enumerate(sentences):
        chart, derivation = parser.chart(sentence), sampler.derivation(forest, number)
        for level in levels:
            whole = chart.ancestors(level).max(axis=1)
            ends = chart.closings(level)[1:][derivation.ends(level)]
            before = ends.max(axis=1) / ends.sum(axis=1)
            right.setdefault(("whole", level), []).append((whole.sum(), len(whole)))
            right.setdefault(("prefix", level), []).append((before.sum(), len(before)))
    for seen, expected in CEILINGS[name].items():
        for level, percent in zip(levels, expected, strict=True):
            sums = np.array(right[seen, level])
            accuracy = sums[:, 0].sum() / sums[:, 1].sum()
            error = np.std(sums[:, 0] - accuracy * sums[:, 1]) * len(sums) ** 0.5 / sums[:, 1].sum()
            assert 100 * accuracy == pytest.approx(percent, abs=100 * 5 * error + 0.1)
