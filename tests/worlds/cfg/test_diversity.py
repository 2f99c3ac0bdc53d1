"""Counting what symbols become: against trees read by recursion, against all choices, and against known supports."""

from collections import Counter
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.cfg.diversity import expected_distinct, least_support, sentential_forms
from physlm.worlds.cfg.grammar import Grammar, reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

UNAMBIGUOUS = reroot(grammar("cfg3b"), "19")
KEY = Key.of("diversity", 0)


def sample(it, count, key=KEY):
    """Sentences and the trees that they were made by."""
    sampler = Sampler(it)
    forest = sampler.sample(key, np.arange(count))
    derivations = [sampler.derivation(forest, i) for i in range(count)]
    return [1 + derivation.symbols[-1] for derivation in derivations], [one.tree() for one in derivations]


def depth_first(tree, depth):
    """Nodes of a tree at a depth, from the left."""
    return [tree] if depth == 0 else [node for child in tree[1] for node in depth_first(child, depth - 1)]


def label(node):
    return node if isinstance(node, str) else node[0]


@pytest.mark.parametrize(("upper", "lower"), [(0, 1), (0, 5), (1, 3), (2, 3), (4, 5)])
def test_forms_are_those_of_the_trees(upper, lower):
    sentences, trees = sample(UNAMBIGUOUS, 30)
    expected = {symbol: Counter() for symbol in UNAMBIGUOUS.layers.symbols[upper]}
    for tree in trees:
        for node in depth_first(tree, upper):
            expected[label(node)][tuple(map(label, depth_first(node, lower - upper)))] += 1
    assert sentential_forms(sentences, Parser(UNAMBIGUOUS), upper=upper, lower=lower) == expected


def test_forms_one_level_below_are_the_rules():
    sentences, _ = sample(grammar("cfg3f"), 20)
    forms = sentential_forms(sentences, Parser(grammar("cfg3f")), upper=4, lower=5)
    assert {(symbol, form) for symbol, counts in forms.items() for form in counts} == {
        (rule.parent, rule.children) for rule in grammar("cfg3f").rules if rule.parent in forms
    }


def test_strings_outside_the_language_have_no_forms():
    parser = Parser(UNAMBIGUOUS)
    (sentence,), _ = sample(UNAMBIGUOUS, 1)
    one = sentential_forms([sentence], parser, upper=1, lower=2)
    assert sentential_forms([[], sentence, sentence[:-1], [0, 4]], parser, upper=1, lower=2) == one
    assert sentential_forms([], parser, upper=0, lower=1) == {"19": Counter()}


def test_an_ambiguous_sentence_counts_once_by_its_best_derivation():
    rules = {"S": [["A", "B"], ["B", "A"]], "A": [["a"], ["a", "a"], ["b"]], "B": [["a"], ["a", "a"]]}
    it = Grammar.of("ambiguous", "S", rules)
    forms = sentential_forms([it.encode("aaa")], Parser(it), upper=0, lower=1)
    # A → a B → a a and A → a a B → a have 1/12 each, and so has either order.
    assert forms["S"].total() == 1
    assert set(forms["S"]) <= {("A", "B"), ("B", "A")}


def test_two_samples_of_a_language_are_equally_diverse_and_a_peaked_one_is_not():
    it = reroot(grammar("cfg3f"), "16")
    parser = Parser(it)
    one, other = (sample(it, 400, KEY.child(number))[0] for number in range(2))
    # A model at a low temperature writes the same few sentences again and again.
    peaked = one[:20] * 20
    forms = [sentential_forms(sentences, parser, upper=1, lower=3) for sentences in (one, other, peaked)]
    for symbol in it.layers.symbols[1]:
        nodes = min(counts[symbol].total() for counts in forms)
        first, second, repeated = (expected_distinct(counts[symbol], nodes) for counts in forms)
        assert first == pytest.approx(second, rel=0.1)
        assert repeated < 0.5 * first


@pytest.mark.parametrize("counts", [(3, 2, 1), (1, 1, 1, 1), (5,), (4, 1, 1), ()])
def test_expected_distinct_is_the_mean_over_all_choices(counts):
    forms = {(str(i),): count for i, count in enumerate(counts)}
    nodes = [form for form, count in forms.items() for _ in range(count)]
    for chosen in range(len(nodes) + 1):
        numbers = [len(set(choice)) for choice in combinations(nodes, chosen)]
        assert expected_distinct(forms, chosen) == pytest.approx(float(Fraction(sum(numbers), len(numbers))), abs=1e-12)


def test_expected_distinct_of_many_nodes():
    counts = {(str(i),): 1000 for i in range(1000)}
    assert expected_distinct(counts, 10**6) == 1000
    # Nearly draws with replacement: 1000 (1 - (1 - 1/1000)^1000), and a little more without.
    assert expected_distinct(counts, 1000) == pytest.approx(1000 * (1 - 0.999**1000), rel=1e-3)


@pytest.mark.parametrize("chances", [(1.0,), (0.5, 0.5), (0.7, 0.2, 0.1), (0.25,) * 4, (0.2,) * 5])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_the_bound_on_the_support_holds_as_often_as_promised(chances, confidence):
    held = 0.0
    for drawn in product(range(len(chances)), repeat=6):
        chance = float(np.prod([chances[i] for i in drawn]))
        held += chance * (least_support([[i] for i in drawn], confidence=confidence) <= len(chances))
    assert held >= confidence - 1e-12


def test_the_bound_on_the_support_grows_with_the_square_until_the_first_repetition():
    assert least_support([]) == least_support([[1]]) == least_support([[1], np.array([1]), [2], [3]]) == 0
    distinct = [np.array([1, i]) for i in range(2000)]
    assert least_support(distinct) == pytest.approx(2000 * 1999 / (2 * np.log(20)))
    assert least_support([*distinct[:100], *distinct[:1], *distinct[100:]]) == least_support(distinct[:100])
    assert least_support([[1], [1, 1], []]) == least_support(distinct[:3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sentential_forms([], Parser(UNAMBIGUOUS), upper=2, lower=2),
            r"0 ≤ upper < lower ≤ 5, got upper 2 and",
        ),
        (lambda: sentential_forms([], Parser(UNAMBIGUOUS), upper=0, lower=6), "upper 0 and lower 6"),
        (lambda: sentential_forms([], Parser(UNAMBIGUOUS), upper=-1, lower=1), "upper -1"),
        (lambda: expected_distinct({("a",): 3}, 4), r"in 0\.\.3, the number of nodes counted, got 4"),
        (lambda: expected_distinct({("a",): 3}, -1), "got -1"),
        (lambda: least_support([[1]], confidence=1.0), r"confidence must be in \(0, 1\), got 1\.0"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
