"""Prefixes read token by token: the same as charts, and an exact oracle to sample from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.cfg.grammar import Grammar, reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of prefixes")


@pytest.fixture(scope="module")
def parser():
    return Parser(grammar("cfg3f"))


@pytest.fixture(scope="module")
def sentence():
    return Sampler(grammar("cfg3f")).fixed("M").symbols[-1] + 1


def test_every_position_is_as_in_the_chart(parser, sentence):
    chart, prefix = parser.chart(sentence), parser.prefix()
    for position, token in enumerate(sentence):
        assert len(prefix) == position
        np.testing.assert_array_equal(prefix.next_token, chart.next_token[position])
        assert prefix.can_end == (chart.next_token[position, -1] > 0)
        assert prefix.log2_probability == pytest.approx(chart.prefix_log2_probabilities[position])
        prefix.append(int(token))
    assert prefix.can_end
    np.testing.assert_array_equal(prefix.next_token, chart.next_token[-1])


@pytest.mark.parametrize("pieces", [[1, 160], [64, 64, 33], [0, 161], [100, 0, 61]])
def test_pieces_are_read_as_one(parser, sentence, pieces):
    prefix, start = parser.prefix(), 0
    for piece in pieces:
        prefix.extend(sentence[start : start + piece])
        start += piece
    np.testing.assert_array_equal(prefix.next_token, parser.chart(sentence).next_token[-1])


def test_weights_are_read_too(parser):
    weights = KEY.child("weights").generator().random((20, 3))
    prefix = parser.prefix()
    prefix.extend(weights[:7])
    prefix.extend(weights[7:])
    np.testing.assert_array_equal(prefix.next_token, parser.chart(weights).next_token[-1])


def test_copies_go_their_own_ways(parser, sentence):
    prefix = parser.prefix()
    prefix.extend(sentence[:50])
    before, other = prefix.next_token, prefix.copy()
    other.extend(sentence[50:])
    assert (len(prefix), len(other)) == (50, 161)
    np.testing.assert_array_equal(prefix.next_token, before)
    third = prefix.copy()
    prefix.extend(sentence[50:])
    np.testing.assert_array_equal(prefix.next_token, other.next_token)
    np.testing.assert_array_equal(third.next_token, before)


def test_what_cannot_follow_is_refused_and_changes_nothing():
    prefix = Parser(Grammar.of("small", "S", {"S": [["A", "A"]], "A": [["a", "b"], ["a", "c"]]})).prefix()
    with pytest.raises(ValueError, match="token 0 must be one of 1 after these 0 tokens, got 2"):
        prefix.append(2)
    prefix.append(1)
    before = prefix.next_token
    for token in (0, 1, 4, 5):  # BOS, a, EOS, MASK
        with pytest.raises(ValueError, match=f"token 0 must be one of 2, 3 after these 1 tokens, got {token}"):
            prefix.append(token)
    np.testing.assert_array_equal(prefix.next_token, before)
    with pytest.raises(ValueError, match="token 3 must be the end of the sentence after these 4 tokens, got 1"):
        prefix.extend([2, 1, 3, 1])
    assert (len(prefix), prefix.can_end) == (4, True)
    assert prefix.next_token.tolist() == [0, 0, 0, 1]


def test_completions_are_sentences(parser, sentence):
    prefix, generator = parser.prefix(), KEY.child("completions").generator()
    prefix.extend(sentence[:50])
    for _ in range(10):
        rest = prefix.copy().complete(generator)
        assert parser.chart(np.concatenate([sentence[:50], rest])).is_sentence


def test_completions_have_the_frequencies_of_the_language():
    which = reroot(grammar("cfg3h"), "8")
    parser, generator = Parser(which), KEY.child("frequencies").generator()
    drawn = Counter(tuple(parser.prefix().complete(generator).tolist()) for _ in range(600))
    strings = sorted(drawn)
    chances = 2 ** parser.log2_probabilities(strings)
    assert chances.sum() == pytest.approx(1)
    assert stats.chisquare([drawn[string] for string in strings], 600 * chances).pvalue > 1e-4
