"""Inference on recursive grammars: closed forms, enumeration of short strings, and nltk's parsers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.grammar import Grammar, Rule, reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.nltk_bridge import to_pcfg
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of general inference")


def make(*rules, root="S"):
    return Grammar(name="test", root=root, rules=tuple(Rule(p, tuple(c.split()), w) for p, c, w in rules))


def test_left_recursion_is_a_geometric_series():
    parser = GeneralParser(make(("S", "S a", 0.7), ("S", "a", 0.3)))
    chart = parser.chart([1] * 50)
    np.testing.assert_allclose(chart.next_token[1:], [[0.7, 0.3]] * 50, rtol=1e-12)
    np.testing.assert_allclose(chart.next_token[0], [1, 0], rtol=1e-12)
    assert chart.log2_probability == pytest.approx(49 * math.log2(0.7) + math.log2(0.3))
    assert chart.derivations == 1


def test_doubling_counts_with_catalan_numbers():
    parser = GeneralParser(make(("S", "S S", 0.3), ("S", "a", 0.7)))
    catalan = [math.comb(2 * n, n) // (n + 1) for n in range(300)]
    chance = np.array([0.0] + [float(catalan[n - 1] * 0.3 ** (n - 1)) * 0.7**n for n in range(1, 300)])
    chart = parser.chart([1] * 40)
    assert chart.derivations == catalan[39]
    assert 2**chart.log2_probability == pytest.approx(chance[40], rel=1e-12)
    beginning = chance[::-1].cumsum()[::-1]  # a sentence has at least k tokens
    np.testing.assert_allclose(2**chart.prefix_log2_probabilities, beginning[:41] / beginning[0], rtol=1e-9)
    np.testing.assert_allclose(chart.next_token[1:, -1], chance[1:41] / beginning[1:41], rtol=1e-9)


def test_brackets_must_be_balanced():
    chart = GeneralParser(make(("S", "a S b", 0.4), ("S", "a b", 0.6))).chart([1, 1, 1, 2, 2, 2, 1])
    assert (chart.is_sentence, chart.error, chart.derivations) == (False, 6, 0)
    np.testing.assert_allclose(chart.next_token[:4], [[1, 0, 0], [0.4, 0.6, 0], [0.4, 0.6, 0], [0.4, 0.6, 0]])
    assert chart.next_token[4:7].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert np.isnan(chart.next_token[7]).all()
    assert chart.log2_probability == -np.inf


def test_circles_of_unit_rules_are_summed():
    # X → Y → X …: from X the chance of "a" solves x = 0.5 y + 0.5, y = 0.4 x.
    which = make(("S", "X b", 1.0), ("X", "Y", 0.5), ("X", "a", 0.5), ("Y", "X", 0.4), ("Y", "c", 0.6))
    parser = GeneralParser(which)
    a, c, b = (which.encode([token])[0] for token in "acb")
    assert 2 ** parser.chart([a, b]).log2_probability == pytest.approx(0.5 / 0.8)
    assert 2 ** parser.chart([c, b]).log2_probability == pytest.approx(0.3 / 0.8)
    np.testing.assert_allclose(parser.chart([]).next_token[0][[a - 1, c - 1, b - 1, 3]], [0.625, 0.375, 0, 0])
    assert parser.chart([a, b]).derivations == math.inf
    assert parser.chart([b]).derivations == 0
    tree, bits = parser.chart([a, b]).best
    assert (tree, bits) == (("S", (("X", ("a",)), "b")), -1)


def test_a_circle_beside_the_path_does_not_count():
    which = make(("S", "A", 0.5), ("S", "C", 0.5), ("A", "a", 1.0), ("C", "C", 0.5), ("C", "c", 0.5))
    parser = GeneralParser(which)
    assert [parser.chart(which.encode(token)).derivations for token in "ac"] == [1, math.inf]
    assert 2 ** parser.chart(which.encode("c")).log2_probability == pytest.approx(0.5)


def test_a_circle_below_a_chain_is_followed():
    which = make(("S", "A", 1.0), ("A", "B", 1.0), ("B", "C", 0.5), ("B", "b", 0.5), ("C", "B", 0.5), ("C", "c", 0.5))
    assert [GeneralParser(which).chart(which.encode(token)).derivations for token in "bc"] == [math.inf] * 2
    which = make(("S", "A", 1.0), ("A", "B", 1.0), ("B", "B", 0.5), ("B", "b", 0.5))
    assert GeneralParser(which).chart([1]).derivations == math.inf


def derive(which, longest):
    """Every string up to a length: its derivations and their probability; each step rewrites the first nonterminal."""
    found, chances = Counter(), Counter()
    waiting = [((which.root,), 1.0)]
    while waiting:
        symbols, chance = waiting.pop()
        place = next((i for i, symbol in enumerate(symbols) if symbol in which.rules_of), None)
        if place is None:
            found[symbols] += 1
            chances[symbols] += chance
            continue
        for rule in which.rules_of[symbols[place]]:
            longer = (*symbols[:place], *rule.children, *symbols[place + 1 :])
            if len(longer) <= longest:
                waiting.append((longer, chance * rule.probability))
    return found, chances


def random_recursive_grammar(number):
    """Right-hand sides of 2 or 3 symbols, or of one terminal; mean sizes kept finite by the weight of the latter."""
    generator = KEY.child("random", number).generator()
    nonterminals = ["S", "A", "B"][: generator.integers(1, 4)]
    rules = {}
    for parent in nonterminals:
        sides = {(str(generator.choice(list("ab"))),)}
        while len(sides) < generator.integers(2, 5):
            side = generator.choice([*nonterminals, "a", "b"], size=generator.integers(1, 4))
            if len(side) > 1 or side[0] in "ab":
                sides.add(tuple(map(str, side)))
        weights = [3.0 if len(side) == 1 else 1.0 for side in sorted(sides)]
        rules[parent] = [Rule(parent, side, w / sum(weights)) for side, w in zip(sorted(sides), weights, strict=True)]
    reached, waiting = {"S"}, ["S"]
    while waiting:
        new = {child for rule in rules.get(waiting.pop(), ()) for child in rule.children} - reached
        reached |= new
        waiting.extend(new)
    kept = [rule for parent in nonterminals if parent in reached for rule in rules[parent]]
    return Grammar(name="random", root="S", rules=tuple(kept), terminals=tuple(sorted(reached & {"a", "b"})))


def test_random_recursive_grammars_agree_with_enumeration():
    strings = 0
    for number in range(120):
        which = random_recursive_grammar(number)
        found, chances = derive(which, 5)
        parser = GeneralParser(which)
        every = {()}
        for _ in range(4):
            every |= {(*string, terminal) for string in every for terminal in which.terminals}
        for string in sorted(every):
            chart = parser.chart(which.encode(string))
            strings += 1
            assert chart.derivations == found[string]
            assert chart.is_sentence == (found[string] > 0)
            assert 2**chart.log2_probability == pytest.approx(chances[string], rel=1e-12)
            following = chart.next_token[chart.read]
            np.testing.assert_allclose(following.sum(), 1, rtol=1e-9)
            if chart.read == len(string):
                begins = 2 ** chart.prefix_log2_probabilities[-1]
                assert following[-1] * begins == pytest.approx(chances[string], rel=1e-12)
    assert strings > 2000


def test_the_nearest_sentence_is_nearest_in_recursive_grammars():
    found = 0
    for number in range(60):
        which = random_recursive_grammar(number)
        language, _ = derive(which, 5)
        parser = GeneralParser(which)
        generator = KEY.child("nearest", number).generator()
        for length in range(1, 6):
            string = generator.integers(1, len(which.terminals) + 1, size=length)
            distances = [
                int((which.encode(sentence) != string).sum()) for sentence in language if len(sentence) == length
            ]
            nearest = parser.nearest(string)
            assert (nearest is None) == (not distances)
            if nearest is not None:
                found += 1
                assert nearest.distance == min(distances) == (nearest.tokens != string).sum()
                assert tuple(which.decode(nearest.tokens)) in language
    assert found > 150


def test_the_nearest_sentence_of_circles_and_brackets():
    circles = make(("S", "X b", 1.0), ("X", "Y", 0.5), ("X", "a", 0.5), ("Y", "X", 0.4), ("Y", "c", 0.6))
    nearest = GeneralParser(circles).nearest(circles.encode("bb"))
    assert (nearest.distance, circles.decode(nearest.tokens)[-1]) == (1, "b")
    brackets = make(("S", "a S b", 0.4), ("S", "a b", 0.6))
    assert GeneralParser(brackets).nearest([2] * 20).distance == 10
    for impossible in ([1, 2, 1], []):
        assert GeneralParser(brackets).nearest(impossible) is None


def test_many_sentences_at_once():
    which = make(("S", "a S b", 0.4), ("S", "a b", 0.6))
    parser, sentences = GeneralParser(which), [[1, 2], [1, 1, 2], [1, 1, 2, 2]]
    assert parser.accepts(sentences).tolist() == [True, False, True]
    assert parser.errors(sentences).tolist() == [-1, 3, -1]
    assert parser.derivations(sentences) == [1, 0, 1]
    np.testing.assert_allclose(2 ** parser.log2_probabilities(sentences), [0.6, 0.0, 0.24])
    assert [rows.shape for rows in parser.next_tokens(sentences)] == [(3, 3), (4, 3), (5, 3)]


def test_prefix_probabilities_are_sums_over_all_longer_sentences():
    which = make(("S", "A S", 0.2), ("S", "A", 0.3), ("S", "b", 0.5), ("A", "a", 0.9), ("A", "a b", 0.1))
    _, chances = derive(which, 14)
    parser = GeneralParser(which)
    for prefix in ("", "a", "ab", "aa", "aab", "b"):
        begins = sum(chance for string, chance in chances.items() if string[: len(prefix)] == tuple(prefix))
        chart = parser.chart(which.encode(prefix))
        assert 2 ** chart.prefix_log2_probabilities[-1] == pytest.approx(begins, abs=1e-6)


def test_a_treebank_like_grammar_agrees_with_nltk():
    from nltk.parse import ChartParser
    from nltk.parse.pchart import InsideChartParser

    which = grammar("english")
    theirs, parser, sampler = to_pcfg(which), GeneralParser(which), Sampler(which)
    forest = sampler.sample(KEY.child("english"), np.arange(80))
    ambiguous = 0
    for sentence in np.split(sampler.tokens(forest), forest.offsets[-1][1:-1]):
        if len(sentence) > 9:
            continue
        words = list(which.decode(sentence))
        trees = list(InsideChartParser(theirs).parse(words))
        chart = parser.chart(sentence)
        assert chart.derivations == len(trees) == sum(1 for _ in ChartParser(theirs).parse(words))
        assert 2**chart.log2_probability == pytest.approx(sum(tree.prob() for tree in trees), rel=1e-9)
        tree, bits = chart.best
        assert 2**bits == pytest.approx(max(tree.prob() for tree in trees), rel=1e-9)
        assert as_nltk(tree) in {as_nltk(tree) for tree in trees}
        np.testing.assert_allclose(chart.next_token.sum(axis=1), 1, rtol=1e-9)
        ambiguous += len(trees) > 1
    assert ambiguous > 5


def as_nltk(tree):
    """A tree as a string, from either library."""
    if isinstance(tree, str):
        return tree
    label, children = tree if isinstance(tree, tuple) else (tree.label(), tree)
    return f"({label} {' '.join(as_nltk(child) for child in children)})"


@pytest.mark.parametrize(("name", "root"), [("cfg3f", "13"), ("cfg3i", "14"), ("cfg3h", "11")])
def test_layered_grammars_agree_with_nltk(name, root):
    from nltk.parse import EarleyChartParser
    from nltk.parse.pchart import InsideChartParser

    which = reroot(grammar(name), root)
    theirs, parser, sampler = to_pcfg(which), Parser(which), Sampler(which)
    forest = sampler.sample(KEY.child(name), np.arange(12))
    for sentence in np.split(sampler.tokens(forest), forest.offsets[-1][1:-1]):
        words = list(which.decode(sentence))
        trees = list(InsideChartParser(theirs).parse(words))
        chart = parser.chart(sentence)
        assert chart.derivations == len(trees)
        assert 2**chart.log2_probability == pytest.approx(sum(tree.prob() for tree in trees), rel=1e-9)
        assert 2**chart.best.log2_probability == pytest.approx(max(tree.prob() for tree in trees), rel=1e-9)
        # nltk looks one token ahead and leaves out what does not fit, so what its edges wait for is spelled out here.
        edges = [e for e in EarleyChartParser(theirs).chart_parse(words).edges() if e.is_incomplete()]
        for position in range(len(words) + 1):
            waiting = {str(edge.nextsym()) for edge in edges if edge.end() == position}
            found = {which.terminals[i] for i in np.flatnonzero(chart.next_token[position, :-1])}
            assert found == beginnings(which, waiting)


def beginnings(which, symbols):
    """Terminals that some of the symbols can begin with."""
    while not symbols <= set(which.terminals):
        symbols = {
            first
            for symbol in symbols
            for first in ([symbol] if symbol in which.terminals else [r.children[0] for r in which.rules_of[symbol]])
        }
    return symbols
