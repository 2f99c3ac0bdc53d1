"""Lengths and entropies against the specification's table, against enumeration, and on recursive grammars."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physlm.worlds.cfg.closed_forms import (
    choice_entropies,
    derivation_entropy,
    entropy_by_level,
    expected_counts,
    length_distribution,
    length_quantile,
    mean_length,
)
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule
from physlm.worlds.cfg.named import grammar, names
from physlm.worlds.cfg.random_grammars import RandomGrammarConfig, random_grammar

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
# Mean, standard deviation, least, quantiles, greatest, bits of a derivation: specification, section 1.3.
TABLE = {
    "cfg3b": (275.62, 41.71, 138, (198, 251, 277, 307, 341, 370), 432, 169.25),
    "cfg3i": (308.09, 45.97, 114, (235, 274, 307, 341, 386, 434), 564, 186.94),
    "cfg3h": (236.38, 41.50, 97, (173, 201, 237, 270, 301, 339), 459, 204.78),
    "cfg3g": (252.43, 53.01, 80, (166, 212, 255, 291, 338, 400), 729, 269.92),
    "cfg3f": (249.86, 69.38, 64, (148, 191, 248, 303, 365, 444), 729, 268.66),
    "cfg3e1": (198.58, 46.81, 66, (132, 158, 195, 237, 276, 320), 557, 215.98),
    "cfg3e2": (246.36, 55.90, 82, (158, 195, 253, 287, 334, 397), 645, 256.35),
    "cfg3j": (543.93, 133.60, 128, (359, 445, 518, 636, 792, 920), 2052, 618.59),
    "cfg3k": (516.31, 91.06, 132, (377, 448, 512, 578, 676, 796), 1458, 608.33),
}
FITS_512 = {"cfg3j": 0.48, "cfg3k": 0.49}
DECIMALS = 0.0055  # the table's two decimals, rounded either way


def geometric(again: float) -> Grammar:
    return Grammar(name="chain", root="S", rules=(Rule("S", ("a", "S"), again), Rule("S", ("a",), 1 - again)))


def branching(p: float) -> Grammar:
    return Grammar(name="bushy", root="S", rules=(Rule("S", ("S", "S"), p), Rule("S", ("a",), 1 - p)))


def test_the_table_covers_all_published_grammars():
    assert set(TABLE) == set(names())


@pytest.mark.parametrize("name", TABLE)
def test_lengths_of_the_published_grammars(name):
    mean, deviation, least, quantiles, greatest, _ = TABLE[name]
    it = grammar(name)
    distribution = length_distribution(it)
    lengths = np.arange(len(distribution))
    assert distribution.sum() == pytest.approx(1, abs=1e-12)
    exact_mean = (lengths * distribution).sum()
    assert exact_mean == pytest.approx(mean, abs=DECIMALS)
    assert mean_length(it) == pytest.approx(exact_mean, rel=1e-12)
    assert np.sqrt(((lengths - exact_mean) ** 2 * distribution).sum()) == pytest.approx(deviation, abs=DECIMALS)
    assert tuple(length_quantile(distribution, q) for q in QUANTILES) == quantiles
    assert np.flatnonzero(distribution)[0] == it.layers.shortest[0][0] == least
    # The longest sentence of cfg3j is rarer than the smallest float; the layers know it all the same.
    assert it.layers.longest[0][0] == len(distribution) - 1 == greatest
    if name in FITS_512:
        assert distribution[: 512 - 2 + 1].sum() == pytest.approx(FITS_512[name], abs=0.005)
    else:
        assert distribution[: 512 - 2 + 1].sum() > 0.999998  # the specification says 0.999999; cfg3f has 0.9999986


@pytest.mark.parametrize("name", TABLE)
def test_entropy_of_derivations_of_the_published_grammars(name):
    it = grammar(name)
    assert derivation_entropy(it) == pytest.approx(TABLE[name][-1], abs=DECIMALS)
    by_level = entropy_by_level(it)
    assert len(by_level) == len(it.layers) - 1
    assert by_level.sum() == pytest.approx(derivation_entropy(it), rel=1e-12)
    assert by_level[0] == pytest.approx(np.log2(len(it.rules_of[it.root])))


@pytest.mark.parametrize("name", names())
def test_the_closed_form_of_the_entropy(name):
    # The specification's recursion: H(a) = log2 |R(a)| + mean over rules of the children's entropies.
    it = grammar(name)
    entropy = dict.fromkeys(it.terminals, 0.0)
    for level in reversed(it.layers.symbols[:-1]):
        for symbol in level:
            rules = it.rules_of[symbol]
            below = [sum(entropy[child] for child in rule.children) for rule in rules]
            entropy[symbol] = np.log2(len(rules)) + np.mean(below)
    assert derivation_entropy(it) == pytest.approx(entropy[it.root], rel=1e-12)
    middle = it.layers.symbols[3][1]
    assert derivation_entropy(it, middle) == pytest.approx(entropy[middle], rel=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 3))
@settings(max_examples=40)
def test_lengths_of_small_layered_grammars_by_enumeration(seed, shortest, levels):
    config = RandomGrammarConfig(
        seed=seed, sizes=(1, *[2] * (levels - 1)), degrees=(1, 2), lengths=(shortest, shortest + 1)
    )
    it = random_grammar(config)

    def derivations(symbol):
        """(probability, length) of every derivation."""
        if symbol not in it.rules_of:
            return [(Fraction(1), 1)]
        found = []
        for rule in it.rules_of[symbol]:
            for parts in itertools.product(*(derivations(child) for child in rule.children)):
                probability = Fraction(1, len(it.rules_of[symbol]))
                for part, _ in parts:
                    probability *= part
                found.append((probability, sum(length for _, length in parts)))
        return found

    everything = derivations(it.root)
    expected = [Fraction(0)] * (1 + max(length for _, length in everything))
    for probability, length in everything:
        expected[length] += probability
    np.testing.assert_allclose(length_distribution(it), np.array(expected, dtype=float), atol=1e-14)
    bits = -sum(float(probability) * np.log2(float(probability)) for probability, _ in everything)
    assert derivation_entropy(it) == pytest.approx(bits, rel=1e-12, abs=1e-12)


def test_a_recursive_grammar_with_known_lengths():
    it = geometric(0.4)
    np.testing.assert_allclose(
        length_distribution(it, longest=6), [0, *(0.6 * 0.4**k for k in range(6))], rtol=0, atol=1e-15
    )
    assert mean_length(it) == pytest.approx(1 / 0.6)
    one = -(0.4 * np.log2(0.4) + 0.6 * np.log2(0.6))
    assert choice_entropies(it) == {"S": pytest.approx(one)}
    assert derivation_entropy(it) == pytest.approx(one / 0.6)


def test_a_branching_grammar_has_catalan_lengths():
    p = 0.3
    catalan = [1, 1, 2, 5, 14, 42, 132]
    expected = [0, *(c * p**k * (1 - p) ** (k + 1) for k, c in enumerate(catalan))]
    np.testing.assert_allclose(length_distribution(branching(p), longest=7), expected, atol=1e-15)


def test_chains_of_single_children_that_return():
    # A symbol that may become itself again: the equations have to be solved, not unrolled once.
    it = Grammar(
        name="loop",
        root="S",
        rules=(
            *(Rule("S", ("T",), 0.5), Rule("S", ("a",), 0.5)),
            *(Rule("T", ("S",), 0.5), Rule("T", ("a", "a"), 0.5)),
        ),
    )
    np.testing.assert_allclose(length_distribution(it, longest=3), [0, 2 / 3, 1 / 3, 0], atol=1e-15)
    assert expected_counts(it) == pytest.approx({"S": 4 / 3, "T": 2 / 3, "a": 4 / 3})


def test_english_lengths_agree_with_their_mean():
    it = grammar("english")
    distribution = length_distribution(it, longest=700)
    assert distribution.sum() == pytest.approx(1, abs=1e-6)
    assert (np.arange(701) * distribution).sum() == pytest.approx(mean_length(it), abs=1e-3)
    assert length_quantile(distribution, 0.5) == 12


@pytest.mark.parametrize("longest", [1, 3, 64, 100, 729, 900])
def test_a_cut_distribution_is_the_beginning_of_the_whole(longest):
    whole = length_distribution(grammar("cfg3f"))
    cut = length_distribution(grammar("cfg3f"), longest=longest)
    assert len(cut) == longest + 1
    np.testing.assert_allclose(cut[: len(whole)], whole[: len(cut)], rtol=1e-12)
    assert (cut[len(whole) :] == 0).all()


@pytest.mark.parametrize("p", [0.5, 0.6, 0.99])
def test_grammars_without_finite_mean_are_refused(p):
    with pytest.raises(GrammarError, match=r"finite mean size, but those from 'S'.*'S → S S'"):
        expected_counts(branching(p))


def test_a_deep_grammar_without_recursion_is_never_mistaken_for_an_endless_one():
    # Each symbol has five children of the next: 5^30 nodes, yet finite.
    rules = {str(i): [[str(i + 1)] * 5] for i in range(30)}
    assert mean_length(Grammar.of("deep", "0", rules)) == pytest.approx(5.0**30, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: length_distribution(geometric(0.4)), "longest must be given for the recursive chain"),
        (lambda: length_distribution(geometric(0.4), longest=0), "at least 1 token, got 0"),
        (lambda: mean_length(geometric(0.4), "a"), "nonterminal of chain, got 'a'"),
        (lambda: length_quantile(length_distribution(geometric(0.9), longest=3), 0.9), "quantile must be in .* raise"),
        (lambda: length_quantile(np.array([0.0, 1.0]), 0), "quantile must be in"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()
