"""Inference against enumeration: every derivation of many small random grammars, with exact fractions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import pytest

from physlm.randomness import Key
from physlm.worlds.cfg.dense import DenseParser
from physlm.worlds.cfg.general import GeneralParser
from physlm.worlds.cfg.grammar import Grammar, Rule
from physlm.worlds.cfg.inference import Parser

KEY = Key.of("inference against enumeration")
GRAMMARS, DERIVATIONS = 1000, 400
PER_CHUNK = 100
CLOSE = {"rtol": 1e-12, "atol": 0}


@dataclass
class Enumerated:
    """A grammar with the exact weights of its rules, and its language: string → (derivations, probability)."""

    grammar: Grammar
    weights: dict[tuple[str, tuple[str, ...]], Fraction]
    language: dict[tuple[str, ...], tuple[int, Fraction]]

    def starting(self, prefix):
        """Exact probability that a sentence begins so."""
        return sum((p for string, (_, p) in self.language.items() if string[: len(prefix)] == prefix), Fraction(0))

    def encode(self, string):
        return self.grammar.encode(string)


def draw_rules(generator):
    """A random layered grammar: right-hand sides of 1 to 3 symbols, uneven weights, often ambiguous."""
    levels = int(generator.integers(2, 5))
    symbols = [["S"]]
    symbols += [[f"{'ABC'[level]}{i}" for i in range(generator.integers(1, 4))] for level in range(levels - 2)]
    symbols += [list("abc")[: generator.integers(1, 4)]]
    rules = {}
    for level in range(levels - 1):
        for parent in symbols[level]:
            sides = {
                tuple(generator.choice(symbols[level + 1], size=generator.integers(1, 4 if level < 2 else 3)).tolist())
                for _ in range(generator.integers(1, 4))
            }
            parts = generator.integers(1, 10, size=len(sides)).tolist()
            rules[parent] = {side: Fraction(part, sum(parts)) for side, part in zip(sorted(sides), parts, strict=True)}
    return without_unreachable(rules)


def without_unreachable(rules):
    reached, waiting = {"S"}, ["S"]
    while waiting:
        new = {child for side in rules.get(waiting.pop(), ()) for child in side} - reached
        reached |= new
        waiting.extend(new)
    return {parent: sides for parent, sides in rules.items() if parent in reached}


def enumerate_strings(rules, symbol, most):
    """String → (derivations, probability) of everything that a symbol derives; `None` if there is too much."""

    @cache
    def of(symbol):
        if symbol not in rules:
            return {(symbol,): (1, Fraction(1))}
        total = defaultdict(lambda: (0, Fraction(0)))
        for side, weight in rules[symbol].items():
            if np.prod([float(len(of(child))) for child in side]) > most:
                raise OverflowError
            for parts in product(*(of(child).items() for child in side)):
                string = tuple(token for part, _ in parts for token in part)
                count, chance = total[string]
                for_parts = weight
                ways = 1
                for _, (part_count, part_chance) in parts:
                    ways *= part_count
                    for_parts *= part_chance
                total[string] = (count + ways, chance + for_parts)
        return dict(total)

    try:
        return of(symbol)
    except OverflowError:
        return None


def to_grammar(rules):
    return Grammar(
        name="random",
        root="S",
        rules=tuple(Rule(p, side, float(weight)) for p, sides in rules.items() for side, weight in sides.items()),
        terminals=tuple(sorted({c for sides in rules.values() for side in sides for c in side if c not in rules})),
    )


def random_grammar(number):
    """The random grammar with a number; those with a single sentence, or too many to enumerate, are drawn again."""
    generator = KEY.child(number).generator()
    while True:
        rules = draw_rules(generator)
        language = enumerate_strings(rules, "S", DERIVATIONS)
        if language is not None and len(language) > 1:
            weights = {(parent, side): w for parent, sides in rules.items() for side, w in sides.items()}
            return Enumerated(to_grammar(rules), weights, language), generator


def strings_to_try(case, generator, most):
    """Sentences, sentences with a token changed, added or cut off, and random strings."""
    sentences = list(case.language)
    chosen = [sentences[i] for i in generator.permutation(len(sentences))[:most]]
    alphabet = case.grammar.terminals
    tried = dict.fromkeys(chosen)
    for sentence in chosen:
        changed = list(sentence)
        changed[generator.integers(len(changed))] = alphabet[generator.integers(len(alphabet))]
        tried.update(dict.fromkeys([tuple(changed), sentence[:-1], (*sentence, alphabet[0])]))
    return list(tried)


def exact_next_tokens(case, string):
    """Rows of exact conditional probabilities, `None` where nothing is defined."""
    rows = []
    for k in range(len(string) + 1):
        total = case.starting(string[:k])
        if total == 0:
            return rows + [None] * (len(string) + 1 - k)
        following = [case.starting((*string[:k], terminal)) for terminal in case.grammar.terminals]
        ending = case.language.get(string[:k], (0, Fraction(0)))[1]
        assert sum(following) + ending == total
        rows.append([float(part / total) for part in (*following, ending)])
    return rows


def check_next_token(case, string, result):
    exact = exact_next_tokens(case, string)
    assert result.shape == (len(string) + 1, len(case.grammar.terminals) + 1)
    for row, expected in zip(result, exact, strict=True):
        if expected is None:
            assert np.isnan(row).all()
        else:
            np.testing.assert_allclose(row, expected, **CLOSE)
    return exact


def test_the_random_grammars_are_varied():
    cases = [random_grammar(number)[0] for number in range(100)]
    assert {len(case.grammar.layers) for case in cases} == {2, 3, 4}
    assert {len(rule.children) for case in cases for rule in case.grammar.rules} == {1, 2, 3}
    assert sum(any(count > 1 for count, _ in case.language.values()) for case in cases) > 20
    assert sum(len(case.language) > 50 for case in cases) > 5
    assert any(a != b and b[: len(a)] == a for case in cases for a in case.language for b in case.language)


@pytest.mark.parametrize("chunk", range(GRAMMARS // PER_CHUNK))
def test_counts_probabilities_and_prefixes_agree(chunk):
    for number in range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK):
        case, generator = random_grammar(number)
        assert sum(chance for _, chance in case.language.values()) == 1
        parser = Parser(case.grammar)
        for string in strings_to_try(case, generator, most=3):
            count, chance = case.language.get(string, (0, Fraction(0)))
            chart = parser.chart(case.encode(string))
            assert chart.is_sentence == (count > 0)
            assert chart.derivations == count
            assert isinstance(chart.derivations, int)
            np.testing.assert_allclose(2**chart.log2_probability, float(chance), **CLOSE)
            exact = check_next_token(case, string, chart.next_token)
            possible = sum(row is not None for row in exact)
            assert chart.error == (None if count else possible - 1)
            begins = [float(case.starting(string[:k])) for k in range(len(string) + 1)]
            np.testing.assert_allclose(2**chart.prefix_log2_probabilities, begins, **CLOSE)


@pytest.mark.parametrize("chunk", range(3))
def test_the_general_parser_agrees(chunk):
    for number in range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK):
        case, generator = random_grammar(number)
        parser, layered = GeneralParser(case.grammar), Parser(case.grammar)
        for string in strings_to_try(case, generator, most=1):
            tokens = case.encode(string)
            chart, other = parser.chart(tokens), layered.chart(tokens)
            assert (chart.is_sentence, chart.error, chart.derivations) == (
                other.is_sentence,
                other.error,
                other.derivations,
            )
            np.testing.assert_allclose(chart.log2_probability, other.log2_probability, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(chart.next_token, other.next_token, rtol=1e-12, atol=1e-15)
            if chart.is_sentence:
                tree, bits = chart.best
                np.testing.assert_allclose(bits, other.best.log2_probability, rtol=1e-12, atol=1e-12)
                assert leaves(tree) == string
                np.testing.assert_allclose(2**bits, float(tree_weight(tree, case.weights)), **CLOSE)


def test_batches_of_matrix_products_agree():
    for number in range(60):
        case, generator = random_grammar(number)
        strings = strings_to_try(case, generator, most=2)
        tokens = [case.encode(string) for string in strings]
        dense, parser = DenseParser(case.grammar, memory=100_000), Parser(case.grammar)
        np.testing.assert_array_equal(dense.accepts(tokens).numpy(), parser.accepts(tokens))
        assert dense.derivations(tokens) == parser.derivations(tokens)
        np.testing.assert_allclose(
            dense.log2_probabilities(tokens).numpy(), parser.log2_probabilities(tokens), rtol=1e-12, atol=1e-12
        )
        result = dense.next_tokens(tokens).numpy()
        for string, rows, expected in zip(strings, result, parser.next_tokens(tokens), strict=True):
            np.testing.assert_allclose(rows[: len(string) + 1], expected, rtol=1e-12, atol=1e-15)
            assert np.isnan(rows[len(string) + 1 :]).all()


def test_the_nearest_sentence_is_nearest():
    found = 0
    for number in range(200):
        case, generator = random_grammar(number)
        parser, alphabet = Parser(case.grammar), case.grammar.terminals
        general = GeneralParser(case.grammar)
        length = len(next(iter(case.language))) + int(generator.integers(0, 2))
        string = tuple(alphabet[i] for i in generator.integers(len(alphabet), size=length))
        distances = [
            sum(a != b for a, b in zip(string, sentence, strict=True))
            for sentence in case.language
            if len(sentence) == length
        ]
        nearest = parser.nearest(case.encode(string))
        as_any = general.nearest(case.encode(string))
        assert (nearest is None) == (not distances) == (as_any is None)
        if nearest is not None:
            found += 1
            assert as_any.distance == min(distances) == (as_any.tokens != case.encode(string)).sum()
            assert case.grammar.decode(as_any.tokens) in case.language
            assert nearest.distance == min(distances) == (nearest.tokens != case.encode(string)).sum()
            assert case.grammar.decode(nearest.tokens) in case.language
    assert found > 100


def trees(rules, symbol):
    """Every derivation as nested tuples."""
    if symbol not in rules:
        return [symbol]
    return [
        (symbol, parts) for side in rules[symbol] for parts in product(*(list(trees(rules, child)) for child in side))
    ]


def leaves(tree):
    return (tree,) if isinstance(tree, str) else tuple(token for child in tree[1] for token in leaves(child))


def tree_weight(tree, weights):
    if isinstance(tree, str):
        return Fraction(1)
    symbol, children = tree
    result = weights[symbol, tuple(child if isinstance(child, str) else child[0] for child in children)]
    for child in children:
        result *= tree_weight(child, weights)
    return result


def tree_spans(tree, start=0, level=0):
    """(level, symbol, start, end) of every node."""
    if isinstance(tree, str):
        return [(level, tree, start, start + 1)]
    spans, end = [], start
    for child in tree[1]:
        below = tree_spans(child, end, level + 1)
        spans += below
        end = max(stop for _, _, _, stop in below)
    return [(level, tree[0], start, end), *spans]


@pytest.mark.parametrize("chunk", range(4))
def test_posteriors_and_best_derivations_agree(chunk):
    for number in range(chunk * 50, (chunk + 1) * 50):
        case, generator = random_grammar(number)
        rules = defaultdict(list)
        for parent, side in case.weights:
            rules[parent].append(side)
        every = [(tree, tree_weight(tree, case.weights)) for tree in trees(rules, "S")]
        assert sum(weight for _, weight in every) == 1
        string = list(case.language)[generator.integers(len(case.language))]
        chart = Parser(case.grammar).chart(case.encode(string))
        of_string = [(tree, weight) for tree, weight in every if leaves(tree) == string]
        check_best(chart, of_string)
        total = sum(weight for _, weight in of_string)
        names = case.grammar.layers.symbols
        for level in range(len(names)):
            ancestors = np.zeros((len(string), len(names[level])))
            boundaries = np.zeros_like(ancestors)
            closings = np.zeros((len(string) + 1, len(names[level])))
            for tree, weight in of_string:
                for node_level, symbol, start, end in tree_spans(tree):
                    if node_level == level:
                        column = names[level].index(symbol)
                        ancestors[start:end, column] += float(weight / total)
                        boundaries[end - 1, column] += float(weight / total)
            for tree, weight in every:
                for node_level, symbol, _, end in tree_spans(tree):
                    if node_level == level and leaves(tree)[:end] == string[:end]:
                        closings[end, names[level].index(symbol)] += float(weight / case.starting(string[:end]))
            np.testing.assert_allclose(chart.ancestors(level), ancestors, atol=1e-12)
            np.testing.assert_allclose(chart.boundaries(level), boundaries, atol=1e-12)
            np.testing.assert_allclose(chart.closings(level), closings, atol=1e-12)


def check_best(chart, of_string):
    best = max(weight for _, weight in of_string)
    np.testing.assert_allclose(2**chart.best.log2_probability, float(best), **CLOSE)
    found = dict(of_string)[chart.best.derivation.tree()]
    np.testing.assert_allclose(float(found), float(best), **CLOSE)


def test_weights_of_observables_sum_over_all_strings():
    for number in range(100):
        case, generator = random_grammar(number)
        alphabet = case.grammar.terminals
        length = len(next(iter(case.language)))
        weights = generator.random((length, len(alphabet))) * (generator.random((length, len(alphabet))) < 0.8)
        expected, count = 0.0, 0
        for string, (derivations, chance) in case.language.items():
            if len(string) == length:
                seen = np.prod([row[alphabet.index(token)] for row, token in zip(weights, string, strict=True)])
                expected += float(chance) * seen
                count += derivations * (seen > 0)
        for chart in (Parser(case.grammar).chart(weights), GeneralParser(case.grammar).chart(weights)):
            np.testing.assert_allclose(2**chart.log2_probability, expected, **CLOSE)
            assert chart.derivations == count
            assert chart.is_sentence == (count > 0)
            assert np.nansum(chart.next_token, axis=1) == pytest.approx(
                (~np.isnan(chart.next_token[:, 0])).astype(float)
            )
        dense = DenseParser(case.grammar)
        np.testing.assert_allclose(2 ** dense.log2_probabilities([weights]).numpy(), [expected], **CLOSE)
