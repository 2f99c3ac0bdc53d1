import numpy as np
import pytest
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.world import CFGWorld

KEY = Key.of("test of implicit grammars", 0)


def worlds(**options) -> CFGWorld:
    return CFGWorld(CFGConfig(seed=1, grammar="cfg3f", root="18", implicit=Implicit(**options)))


@pytest.mark.parametrize(("observables", "terminals"), [(300, 3), (10, 4), (3, 3)])
def test_disjoint_bags_deal_observables_in_turn(observables, terminals):
    bags = Implicit(observables=observables, bags="disjoint").make(KEY, terminals)
    assert bags.membership.sum(axis=0).tolist() == [1] * observables
    assert bags.membership.argmax(axis=0).tolist() == [v % terminals for v in range(observables)]
    assert bags.patterns.tolist() == [1 << v % terminals for v in range(observables)]


def test_overlapping_bags_have_the_expected_shares():
    draws, count = 400, 300
    patterns = np.concatenate([Implicit().make(KEY.child(i), 3).patterns for i in range(draws)])
    inside = 1 - (1 - 1 / count) ** 150
    assert inside == pytest.approx(1 - np.exp(-0.5), abs=1e-3)
    shares = np.bincount(patterns, minlength=8) / len(patterns)
    for pattern in range(8):
        members = pattern.bit_count()
        expected = inside**members * (1 - inside) ** (3 - members)
        # A fixed number of draws makes the shares less variable than independent membership would.
        assert shares[pattern] == pytest.approx(expected, abs=4 * (expected / len(patterns)) ** 0.5)
        assert shares[pattern] == pytest.approx([0.224, 0.145, 0.094, 0.061][members], abs=0.01)


def test_bags_come_from_the_key():
    first = Implicit().make(KEY, 3).membership
    assert (Implicit().make(KEY, 3).membership == first).all()
    assert (Implicit().make(KEY.child(1), 3).membership != first).any()
    assert (worlds().bags.membership == worlds().bags.membership).all()


@pytest.mark.parametrize("bags", ["overlap", "disjoint"])
def test_linear_weights_grow_with_the_rank(bags):
    made = Implicit(observables=60, bags=bags, weights="linear").make(KEY, 3)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1.0)
    for row, members in zip(made.probabilities, made.membership, strict=True):
        assert (row[~members] == 0).all()
        size = members.sum()
        np.testing.assert_allclose(row[members], np.arange(1, size + 1) / (size * (size + 1) / 2))


@pytest.mark.parametrize("weights", ["uniform", "linear"])
@pytest.mark.parametrize("bags", ["overlap", "disjoint"])
def test_observables_are_drawn_from_the_bag_of_their_terminal(bags, weights):
    world = worlds(observables=90, bags=bags, weights=weights)
    samples = world.render("train", np.arange(8_000), ("terminal",))
    terminals, tokens = samples.marks["terminal"], samples.tokens
    assert (tokens[terminals < 0] == world.bos).all()
    for terminal, probabilities in enumerate(world.bags.probabilities):
        observed = np.bincount(tokens[terminals == terminal + 1] - 1, minlength=90)
        possible = probabilities > 0
        assert observed[~possible].sum() == 0
        assert stats.chisquare(observed[possible], probabilities[possible] * observed.sum()).pvalue > 1e-4
    # What a terminal is shown as does not depend on how its neighbour is shown.
    pair = (terminals[1:] == 1) & (terminals[:-1] == 1)
    halves = [(tokens[1:][pair] > 45), (tokens[:-1][pair] > 45)]
    assert stats.chi2_contingency(np.histogram2d(*halves, bins=2)[0]).pvalue > 1e-4


def test_the_sentences_behind_are_those_of_the_explicit_world():
    explicit = CFGWorld(CFGConfig(seed=1, grammar="cfg3f", root="18"))
    world = worlds()
    plain, shown = (w.render("train", np.arange(50)) for w in (explicit, world))
    assert (plain.tokens[plain.tokens > 0] == shown.marks["terminal"][shown.marks["terminal"] > 0]).all()
    for mark in ("symbol_2", "end_3", "deepest_end"):
        assert (plain.marks[mark] == shown.marks[mark]).all()


def test_vocabulary_and_judgement():
    world = worlds()
    assert (world.alphabet_size, world.bos, world.eos, world.mask, world.vocab_size) == (300, 0, 301, 302, 303)
    unused = 1 + np.flatnonzero(world.bags.patterns == 0)
    assert len(unused) > 20
    for i in range(20):
        sample = world["test", i]
        assert world.check(sample.truth, sample.tokens)
        assert not set(unused) & set(sample.tokens)
        # Another member of the same bag is as good.
        row = world.bags.membership[sample.marks["terminal"][1] - 1]
        other = sample.tokens.copy()
        other[1] = 1 + np.flatnonzero(row)[-1]
        assert world.check(sample.truth, other)
        other[4] = unused[0]
        judgement = world.check(sample.truth, other)
        assert (judgement.position, judgement.correct) == (4, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observables": 0}, "observables must be ≥ 1, got 0"),
        ({"bags": "partial"}, "bags must be one of overlap, disjoint, got 'partial'"),
        ({"weights": "NU2"}, "weights must be one of uniform, linear, got 'NU2'"),
        ({"observables": 2, "bags": "disjoint"}, "observables must be ≥ 3 with 3 terminals, got 2"),
        ({"observables": 1}, "observables must be ≥ 2 with 3 terminals, got 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        worlds(**options)
