"""Exact inference on the paper's grammars: identities, limits and bad input."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.cfg.closed_forms import derivation_entropy
from physlm.worlds.cfg.dense import DenseParser
from physlm.worlds.cfg.entropy import language_entropy
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.grammar import Grammar, Rule, reroot
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.judge import Judge
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of inference")


def named(name):
    base, _, root = name.partition("@")
    return reroot(grammar(base), root) if root else grammar(base)


def fixed(name, rule="A"):
    return Sampler(named(name)).fixed(rule).symbols[-1] + 1


def sample(which, count, *words):
    sampler = Sampler(which)
    forest = sampler.sample(KEY.child(*words), np.arange(count))
    return sampler, forest, np.split(sampler.tokens(forest).astype(np.int64), forest.offsets[-1][1:-1])


@pytest.mark.parametrize("name", ["cfg3b", "cfg3i", "cfg3f", "cfg3e2", "cfg3k"])
def test_identities_on_sampled_sentences(name):
    which = grammar(name)
    parser = Parser(which)
    sampler, forest, sentences = sample(which, 20, "identities", name)
    for number, (sentence, bits) in enumerate(zip(sentences, sampler.bits(forest), strict=True)):
        chart, derivation = parser.chart(sentence), sampler.derivation(forest, number)
        assert chart.is_sentence
        np.testing.assert_allclose(chart.next_token.sum(axis=1), 1, rtol=1e-11)
        chosen = np.append(sentence - 1, which.eos - 1)
        chances = chart.next_token[np.arange(len(chosen)), chosen]
        assert np.log2(chances).sum() == pytest.approx(chart.log2_probability, rel=1e-12)
        assert chart.log2_probability >= -bits - 1e-9
        if chart.derivations == 1:
            assert chart.log2_probability == pytest.approx(-bits, rel=1e-12)
            assert chart.best.derivation.tree() == derivation.tree()
        assert -bits - 1e-9 <= chart.best.log2_probability <= chart.log2_probability + 1e-9
        for level in range(len(parser.layers)):
            np.testing.assert_allclose(chart.ancestors(level).sum(axis=1), 1, rtol=1e-9)
            if chart.derivations == 1:
                assert (
                    chart.ancestors(level).argmax(axis=1) == derivation.symbols[level][derivation.ancestors(level)]
                ).all()
                np.testing.assert_allclose(chart.boundaries(level).sum(axis=1), derivation.ends(level), atol=1e-9)
    changed = [np.concatenate([sentence[:1] % len(which.terminals) + 1, sentence[1:]]) for sentence in sentences]
    assert parser.accepts(sentences).all()
    assert parser.accepts(changed).mean() <= 0.1  # almost never


@pytest.mark.parametrize("name", ["cfg3b", "cfg3h", "cfg3f", "cfg3e1"])
def test_errors_are_where_the_judge_finds_them(name):
    which = grammar(name)
    parser, judge = Parser(which), Judge(which)
    generator = KEY.child("wrong", name).generator()
    wrong = []
    for sentence in sample(which, 12, "judged", name)[2]:
        string = sentence.copy()
        string[generator.integers(len(string))] = generator.integers(0, which.vocab_size)
        wrong += [sentence, string, sentence[: generator.integers(len(sentence))], np.append(sentence, sentence[:9])]
    judgements = [judge.judge(string) for string in wrong]
    expected = [-1 if judgement.correct else judgement.position for judgement in judgements]
    assert parser.errors(wrong).tolist() == expected
    assert len(set(expected)) > 20


def test_long_sentences_do_not_underflow():
    which = grammar("cfg3k")
    sampler, forest, sentences = sample(which, 300, "long")
    longest = int(np.argmax([len(sentence) for sentence in sentences]))
    twice = Rule("S", ("25", "25"), 1.0)
    doubled = Grammar(name="twice", root="S", rules=(twice, *which.rules), terminals=which.terminals)
    sentence = np.concatenate([sentences[longest]] * 2)
    assert len(sentence) > 1200
    chart, single = Parser(doubled).chart(sentence), Parser(which).chart(sentences[longest])
    assert chart.is_sentence
    assert chart.log2_probability < -1400
    assert chart.log2_probability >= 2 * single.log2_probability - 1e-6
    assert chart.best.log2_probability == pytest.approx(2 * single.best.log2_probability, abs=2)
    np.testing.assert_allclose(chart.next_token.sum(axis=1), 1, rtol=1e-10)
    assert sampler.bits(forest)[longest] >= -single.log2_probability - 1e-9
    # The dense parser scales by the mean bits per token, which is enough here.
    shorter = next(sentence for sentence in sentences if 450 < len(sentence) < 500)
    dense = DenseParser(which).log2_probabilities([shorter])
    np.testing.assert_allclose(dense.numpy(), Parser(which).log2_probabilities([shorter]))


def ternary(levels):
    """Every symbol is three of the next; just above the terminal there are two names for the same thing."""
    rules = {f"X{level}": [[f"X{level + 1}"] * 3] for level in range(levels)}
    return Grammar.of("ternary", "X0", {**rules, f"X{levels}": [["B"], ["C"]], "B": [["a"]], "C": [["a"]]})


@pytest.mark.parametrize("levels", [3, 4, 5, 7])
def test_counts_are_exact_however_large(levels):
    parser, length = Parser(ternary(levels)), 3**levels
    chart = parser.chart(np.ones(length, dtype=np.int64))
    assert chart.derivations == 2**length
    assert chart.log2_probability == pytest.approx(0, abs=1e-9)
    assert chart.best.log2_probability == -length


def count_by_length(which):
    """Number of derivations of every length of a grammar over one terminal, in Python's integers."""
    known = {which.terminals[0]: [0, 1]}
    for parent in reversed(which.nonterminals):  # children come before parents
        total: list[int] = []
        for rule in which.rules_of[parent]:
            product = [1]
            for child in rule.children:
                longer = [0] * (len(product) + len(known[child]) - 1)
                for i, left in enumerate(product):
                    for j, right in enumerate(known[child]):
                        longer[i + j] += left * right
                product = longer
            total = [a + b for a, b in zip_longest(total, product, fillvalue=0)]
        known[parent] = total
    return known[which.root]


@pytest.mark.parametrize("number", range(4))
def test_large_counts_of_random_grammars_are_exact(number):
    generator = KEY.child("counts", number).generator()
    rules = {}
    for level in range(5):
        below = ["a"] if level == 4 else [f"{'ABCD'[level]}{i}" for i in range(4)]
        for parent in ["S"] if level == 0 else [f"{'ABCD'[level - 1]}{i}" for i in range(4)]:
            sides = {tuple(generator.choice(below, size=size).tolist()) for size in (1, 2, 3, 3, 3)}
            rules[parent] = sorted(sides)
    which = Grammar.of("counts", "S", rules, allow_unreachable=True)
    expected, parser = count_by_length(which), Parser(which)
    lengths = [1, 5, 40, 60, 120, 200, 243, 250]
    expected += [0] * 10
    assert parser.derivations([np.ones(n, dtype=np.int64) for n in lengths]) == [expected[n] for n in lengths]
    assert max(expected) > 2**80


def test_membership_and_counts_survive_what_probabilities_do_not():
    rules = [
        Rule("S", ("A",), 1e-200),
        Rule("S", ("B",), 1 - 1e-200),
        Rule("A", ("C",), 1e-200),
        Rule("A", ("D",), 1 - 1e-200),
        Rule("B", ("D",), 1.0),
        Rule("C", ("a", "b"), 1.0),
        Rule("D", ("a", "a"), 1.0),
    ]
    chart = Parser(Grammar(name="steep", root="S", rules=tuple(rules))).chart([1, 2])
    assert chart.is_sentence
    assert chart.derivations == 1
    for question in ("log2_probability", "next_token", "best", "prefix_log2_probabilities"):
        with pytest.raises(FloatingPointError, match="probabilities in steep span more than float64 can hold"):
            getattr(chart, question)
    with pytest.raises(FloatingPointError, match="span more than float64"):
        chart.ancestors(1)


# What was read, its first wrong position, and how many positions have a next-token distribution.
NO_SENTENCES = [
    ([], 0, 1),
    ([3, 2], 2, 3),
    ([3, 2, 2, 2], 2, 3),
    ([3, 2, 1, 1], 3, 4),
    ([3, 1, 1, 2, 3], 4, 5),
    ([0, 3, 1], 0, 1),
    ([3, 1, 4], 2, 3),
    ([3, 1, 5, 1], 2, 3),
    ([3] * 100, 1, 2),
]


@pytest.mark.parametrize(("tokens", "error", "defined"), NO_SENTENCES)
def test_strings_outside_the_language(tokens, error, defined):
    rules = {"S": [["7", "8"], ["7", "7"]], "7": [["3", "1"], ["3", "2"]], "8": [["1", "2"]]}
    which = Grammar.of("small", "S", rules, terminals=("1", "2", "3"))
    parser = Parser(which)
    chart = parser.chart(tokens)
    assert not chart.is_sentence
    assert (chart.error, chart.derivations, chart.log2_probability) == (error, 0, -np.inf)
    assert parser.errors([tokens, [3, 1, 1, 2]]).tolist() == [error, -1]
    assert chart.next_token.shape == (len(tokens) + 1, 4)
    assert (~np.isnan(chart.next_token)).all(axis=1).tolist() == [k < defined for k in range(len(tokens) + 1)]
    assert np.isnan(chart.closings(1)[defined:]).all()
    assert np.isfinite(chart.closings(1)[:defined]).all()
    assert np.isfinite(chart.prefix_log2_probabilities).sum() == defined
    for question in (lambda: chart.best, lambda: chart.ancestors(1), lambda: chart.boundaries(1)):
        with pytest.raises(ValueError, match="only sentences of small have derivations; this string leaves it at"):
            question()
    general = GeneralParser(which).chart(tokens)
    assert (general.is_sentence, general.error, general.derivations) == (False, error, 0)
    assert general.log2_probability == -np.inf
    np.testing.assert_allclose(general.next_token, chart.next_token, atol=1e-15)
    with pytest.raises(ValueError, match="only sentences of small have derivations"):
        _ = general.best
    dense = DenseParser(which)
    assert dense.accepts([tokens, [3, 1, 1, 2]]).tolist() == [False, True]
    np.testing.assert_allclose(dense.next_tokens([tokens]).numpy()[0], chart.next_token, atol=1e-15)


def test_a_string_longer_than_the_language_allows_costs_no_more():
    parser = Parser(grammar("cfg3b"))
    endless = np.concatenate([fixed("cfg3b"), np.ones(10**5, dtype=np.int64)])
    assert parser.errors([endless]).tolist() == [238]
    assert parser.nearest(endless) is None
    assert np.isnan(parser.chart(endless).next_token[239:]).all()


BAD_INPUT = [
    ([1, 6], "token 1 must be in the vocabulary of cfg3b, from 0 to 5, got 6"),
    ([-1, 2], "token 0 must be in the vocabulary of cfg3b, from 0 to 5, got -1"),
    (
        [1.0, 2.0],
        r"a list of token ids, or a matrix of weights in floats, got float64 of shape \(2,\)",
    ),
    ([[1, 2, 3], [3, 1, 2]], r"got int64 of shape \(2, 3\); for several sentences use the methods that take many"),
    ([[1, 2, 3], [3, 1]], "for several sentences use the methods that take many"),
    ([[0.1, 0.2], [0.3, 0.1]], "weights must have one column per terminal of cfg3b, 3, got 2"),
    ([[0.5, 0.5, 0], [0, -1, 0]], r"weights must be finite and ≥ 0, got \[0.0, -1.0, 0.0\] at position 1"),
    ([[np.nan, 0, 0]], "weights must be finite and ≥ 0"),
    (3, r"a sentence must be a list of token ids.* got int64 of shape \(\); methods that take many sentences need a"),
    (["3", "1"], "a sentence must be a list of token ids"),
]


@pytest.mark.parametrize(("sentence", "message"), BAD_INPUT)
def test_bad_input_is_refused(sentence, message):
    which = grammar("cfg3b")
    for parse in (
        Parser(which).chart,
        Parser(which).nearest,
        Parser(which).prefix().extend,
        GeneralParser(which).chart,
        GeneralParser(which).nearest,
    ):
        with pytest.raises(ValueError, match=message):
            parse(sentence)


def test_other_bad_input_is_refused():
    chart = Parser(grammar("cfg3b")).chart(fixed("cfg3b"))
    for level in (-1, 7):
        with pytest.raises(ValueError, match=rf"level must be in 0\.\.6 \(0 is the root\), got {level}"):
            chart.ancestors(level)
    with pytest.raises(ValueError, match="there must be at least one sentence, got none"):
        DenseParser(grammar("cfg3b")).accepts([])
    with pytest.raises(ValueError, match="memory must be ≥ 1 byte, got 0"):
        DenseParser(grammar("cfg3b"), memory=0)
    recursive = Grammar.of("recursive", "S", {"S": [["a", "S"], ["a"]]})
    for parser in (Parser, DenseParser):
        with pytest.raises(ValueError, match="S → a S"):
            parser(recursive)


def test_one_sentence_where_many_are_wanted_is_refused():
    for method in (Parser(grammar("cfg3b")).accepts, DenseParser(grammar("cfg3b")).accepts):
        with pytest.raises(ValueError, match="methods that take many sentences need a list of them"):
            method([3, 2, 3])


def test_the_dense_parser_says_when_it_is_at_its_end():
    parser = DenseParser(ternary(4))
    with pytest.raises(OverflowError, match="more than 2\\*\\*53 derivations, which is not exact here"):
        parser.derivations([np.ones(81, dtype=np.int64)])
    weights = np.zeros((81, 1))
    weights[:] = 1.0
    parser.bits_per_token = -20.0  # as if the grammar were far from the sentence
    with pytest.raises(FloatingPointError, match="too improbable or too probable for its length"):
        parser.log2_probabilities([weights])
    with pytest.raises(FloatingPointError, match="too improbable or too probable for its length"):
        parser.next_tokens([weights])


def test_nearest_repairs_a_few_changed_tokens():
    which = grammar("cfg3f")
    parser, generator = Parser(which), KEY.child("changes").generator()
    sentence = fixed("cfg3f")
    assert parser.nearest(sentence).distance == 0
    wrong = sentence.copy()
    places = generator.choice(len(sentence), size=4, replace=False)
    wrong[places] = [which.bos, which.eos, which.mask, wrong[places[3]] % 3 + 1]
    nearest = parser.nearest(wrong)
    assert 3 <= nearest.distance <= 4
    assert nearest.distance == (nearest.tokens != wrong).sum()
    assert parser.chart(nearest.tokens).is_sentence
    assert parser.nearest(sentence[:30]) is None


def test_implicit_sentences():
    which = reroot(grammar("cfg3f"), "16")
    bags = Implicit(observables=30).make(KEY.child("bags"), 3)
    parser, (_, _, sentences) = Parser(which), sample(which, 20, "implicit")
    generator = KEY.child("observables").generator()
    for sentence in sentences:
        shown = np.array([generator.choice(30, p=bags.probabilities[token - 1]) for token in sentence])
        chart = parser.chart(bags.probabilities[:, shown].T)
        assert chart.is_sentence
        observables = chart.next_token[:, :-1] @ bags.probabilities
        np.testing.assert_allclose(observables.sum(axis=1) + chart.next_token[:, -1], 1, rtol=1e-12)
        chances = np.append(observables[np.arange(len(shown)), shown], chart.next_token[-1, -1])
        assert np.log2(chances).sum() == pytest.approx(chart.log2_probability)
        assert (bags.probabilities[chart.best.derivation.symbols[-1], shown] > 0).all()
        assert chart.best.log2_probability <= chart.log2_probability + 1e-9
        assert parser.nearest(bags.probabilities[:, shown].T).distance == 0
        shown[3] = np.flatnonzero(bags.patterns == 0)[0]  # one that shows no terminal
        assert parser.chart(bags.probabilities[:, shown].T).error == 3


def test_the_derivation_entropy_is_the_mean_over_sentences_of_a_tiny_language():
    tiny = Grammar.of("tiny", "S", {"S": [["A", "A"], ["A"]], "A": [["a"], ["a", "a"]]})
    strings = [[1] * length for length in range(1, 5)]
    bits = Parser(tiny).log2_probabilities(strings)
    assert (2**bits).sum() == pytest.approx(1)
    found = language_entropy(tiny, KEY.child("tiny"), 4000)
    assert found.bits == pytest.approx(-(2**bits * bits).sum(), abs=5 * found.standard_error)
    assert found.derivation_bits == derivation_entropy(tiny)
