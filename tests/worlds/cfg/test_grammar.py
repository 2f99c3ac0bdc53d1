"""Grammars as data: what is accepted, what is refused and how, and the array view of layered grammars."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule, reroot
from physlm.worlds.cfg.named import grammar, names
from physlm.worlds.cfg.random_grammars import RandomGrammarConfig, random_grammar

TINY = Grammar.of("tiny", "S", {"S": [["A", "B"], ["B"]], "A": [["a"], ["a", "b", "a"]], "B": [["c", "a"]]})
SMALL = st.builds(
    lambda seed, sizes, least, extra, shortest, longer: random_grammar(
        RandomGrammarConfig(
            seed=seed, sizes=(1, *sizes), degrees=(least, least + extra), lengths=(shortest, shortest + 2 + longer)
        )
    ),
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(2, 4), min_size=1, max_size=4),
    least=st.integers(1, 2),
    extra=st.integers(0, 1),
    shortest=st.integers(1, 2),
    longer=st.integers(0, 2),
)


def of(rules: dict[str, list[str]], **settings) -> Grammar:
    """A grammar from words: {"S": ["A b", "c"]}."""
    return Grammar.of(
        "bad", "S", {parent: [children.split() for children in all_] for parent, all_ in rules.items()}, **settings
    )


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("S", (), 1.0), ["at least one child", "S → (nothing)"]),
        (("S", ("a b",), 1.0), ["without spaces", "'a b'"]),
        (("", ("a",), 1.0), ["non-empty", "→ a"]),
        (("S", ("a", 1), 1.0), ["non-empty string", "S → a 1"]),
        (("S", "ab", 1.0), ["tuple of symbols", "'ab'"]),
        (("S", ("a",), 0.0), ["in (0, 1]", "0.0", "S → a"]),
        (("S", ("a",), 1.1), ["in (0, 1]", "1.1"]),
        (("S", ("a",), math.nan), ["in (0, 1]", "nan"]),
    ],
)
def test_a_bad_rule_is_refused(rule, words):
    with pytest.raises(GrammarError) as error:
        Rule(*rule)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("make", "words", "rule"),
    [
        (lambda: of({}), ["at least one rule"], None),
        (lambda: of({"S": ["A"], "A": []}), ["at least one rule", "none for 'A'"], None),
        (
            lambda: Grammar(name="bad", root="S", rules=(("S", ("a",), 1.0),)),
            ["class Rule", "('S', ('a',), 1.0)"],
            None,
        ),
        (lambda: Grammar.of("bad", "S", {"S": ["ab"]}), ["list of symbols", "'ab'"], None),
        (lambda: of({"A": ["a"]}), ["root", "'S'", "A"], None),
        (lambda: of({"S": ["a"], "B": ["b"]}), ["'B' is unreachable", "'B → b' is never used"], "B → b"),
        (lambda: of({"S": ["a"]}, terminals="ab"), ["'b' is unreachable", "'S'"], None),
        (lambda: of({"S": ["a", "S S"], "B": ["S"]}), ["'B' is unreachable"], "B → S"),
        (lambda: of({"S": ["A", "a"], "A": ["A a"]}), ["'A' is unproductive", "A → A a"], "A → A a"),
        (lambda: of({"S": ["A", "a"], "A": ["B"], "B": ["A"]}), ["unproductive", "A → B"], "A → B"),
        (lambda: of({"S": ["A", "a"]}, terminals="a"), ["'A' of 'S → A' is unproductive", "terminals a"], "S → A"),
        (lambda: of({"S": ["a", "b", "a"]}), ["distinct", "'S → a' twice"], "S → a"),
        (lambda: of({"S": ["a"]}, terminals="aa"), ["distinct", "'a' 2 times"], None),
        (lambda: of({"S": ["A"], "A": ["a"]}, terminals=["A", "a"]), ["terminal 'A'", "'A → a'"], "A → a"),
        (
            lambda: Grammar(name="bad", root="S", rules=(Rule("S", ("a",), 0.5), Rule("S", ("b",), 0.499))),
            ["'S' must sum to 1", "0.999", "'S → a' 0.5", "'S → b' 0.499"],
            "S → a",
        ),
        (
            lambda: Grammar(name="bad", root="S", rules=(Rule("S", ("a",), 0.5), Rule("S", ("b",), 0.5 + 2e-9))),
            ["must sum to 1"],
            "S → a",
        ),
    ],
)
def test_a_bad_grammar_is_refused_with_the_rule(make, words, rule):
    with pytest.raises(GrammarError) as error:
        make()
    for word in words:
        assert word in str(error.value)
    assert (str(error.value.rule) if error.value.rule else None) == rule


@pytest.mark.parametrize(
    ("rules", "words", "rule"),
    [
        ({"S": ["a S", "a"]}, ["cyclic", "S → S", "'S → a S'", "GeneralParser takes any grammar"], "S → a S"),
        ({"S": ["A"], "A": ["B a"], "B": ["b", "A"]}, ["cyclic", "A → B → A", "'B → A'"], "B → A"),
        ({"S": ["A a"], "A": ["b"]}, ["skips a level", "'S → A a'", "'a' is 0", "'A' in 'S → A a' is 1"], "S → A a"),
        ({"S": ["A", "a"], "A": ["b"]}, ["skips a level", "'S → a'", "'A' in 'S → A' is 1"], "S → a"),
        ({"S": ["A", "B"], "A": ["a"], "B": ["A", "a"]}, ["skips a level", "'B → a'"], "B → a"),
    ],
)
def test_layers_refuse_cycles_and_skipped_levels(rules, words, rule):
    recursive = of(rules)  # is a good grammar otherwise
    for _ in range(2):  # the refusal is not cached as a success
        with pytest.raises(GrammarError) as error:
            _ = recursive.layers
        for word in words:
            assert word in str(error.value)
        assert str(error.value.rule) == rule


def test_a_second_symbol_as_high_as_the_root_is_refused():
    two_roots = of({"S": ["A"], "A": ["a"], "T": ["A A"]}, allow_unreachable=True)
    with pytest.raises(GrammarError, match=r"level 0 of bad must hold the root 'S' alone.*'T → A A'"):
        _ = two_roots.layers


def test_lengths_of_very_deep_grammars_do_not_overflow():
    depth = 70
    rules = {f"N{level}": [[f"N{level + 1}"], [f"N{level + 1}"] * 2] for level in range(depth)}
    layers = Grammar.of("deep", "N0", {**rules, f"N{depth}": [["a"]]}).layers
    assert (layers.shortest[0].tolist(), layers.longest[0].tolist()) == ([1], [2**40])
    assert [int(layers.longest[depth - level][0]) for level in range(4)] == [1, 2, 4, 8]


def test_unreachable_symbols_keep_their_level_when_allowed():
    layers = of({"S": ["A"], "A": ["a"], "B": ["a b"]}, allow_unreachable=True).layers
    assert layers.symbols == (("S",), ("A", "B"), ("a", "b"))
    assert layers.longest[1].tolist() == [1, 2]


def test_tokens_are_bos_terminals_eos_mask():
    assert TINY.terminals == ("a", "b", "c")
    assert (TINY.bos, TINY.eos, TINY.mask, TINY.vocab_size) == (0, 4, 5, 6)
    assert TINY.encode("cab").tolist() == [3, 1, 2]
    assert TINY.encode([]).dtype == np.int64
    assert TINY.decode(np.array([3, 1, 2])) == ("c", "a", "b")
    with pytest.raises(ValueError, match=r"symbol 1 must be a terminal of tiny \(a b c\), got 'S'"):
        TINY.encode(["a", "S"])
    for token in (0, 4, 5, -1):
        with pytest.raises(ValueError, match=rf"token 1 must be a terminal of tiny \(1 to 3\), got {token}; strip"):
            TINY.decode([1, token])


def test_the_order_of_terminals_can_be_given():
    assert of({"S": ["b a"]}).terminals == ("b", "a")
    assert of({"S": ["b a"]}, terminals=["a", "b"]).encode("ba").tolist() == [2, 1]


def test_equal_grammars_are_equal_whatever_the_order_of_their_parents_rules():
    rules = [Rule("S", ("A",), 0.5), Rule("A", ("a",), 1.0), Rule("S", ("A", "A"), 0.5)]
    one = Grammar(name="g", root="S", rules=tuple(rules))
    other = Grammar(name="g", root="S", rules=(rules[0], rules[2], rules[1]))
    assert one == other
    assert hash(one) == hash(other)
    assert one != dataclasses.replace(one, name="h")
    assert one.rules[1] == rules[2]


def test_a_grammar_survives_pickling_with_its_layers():
    published = grammar("cfg3f")
    copy = pickle.loads(pickle.dumps(published))
    assert copy == published
    np.testing.assert_array_equal(copy.layers.children[2], published.layers.children[2])


def test_layers_of_a_small_grammar_by_hand():
    layers = TINY.layers
    assert len(layers) == 3
    assert layers.symbols == (("S",), ("A", "B"), ("a", "b", "c"))
    assert layers.sizes == (1, 2, 3)
    assert [array.tolist() for array in layers.parents] == [[0, 0], [0, 0, 1]]
    assert [array.tolist() for array in layers.first_rules] == [[0, 2], [0, 2, 3]]
    assert [array.tolist() for array in layers.children] == [[[0, 1], [1, -1]], [[0, -1, -1], [0, 1, 0], [2, 0, -1]]]
    assert [array.tolist() for array in layers.lengths] == [[2, 1], [1, 3, 2]]
    assert [array.tolist() for array in layers.probabilities] == [[0.5, 0.5], [0.5, 0.5, 1.0]]
    assert [array.tolist() for array in layers.shortest] == [[2], [1, 2], [1, 1, 1]]
    assert [array.tolist() for array in layers.longest] == [[5], [3, 2], [1, 1, 1]]


def check_layers(it: Grammar) -> None:
    """Arrays say the same as the rules, and nothing else."""
    layers = it.layers
    assert layers.symbols[0] == (it.root,)
    assert layers.symbols[-1] == it.terminals
    assert sorted(symbol for level in layers.symbols for symbol in level) == sorted((*it.nonterminals, *it.terminals))
    rebuilt = []
    for level, (symbols, below) in enumerate(zip(layers.symbols, layers.symbols[1:], strict=False)):
        parents, first, children = layers.parents[level], layers.first_rules[level], layers.children[level]
        assert {array.dtype for array in (parents, first, children, layers.lengths[level])} == {np.dtype(np.int64)}
        assert (np.diff(parents) >= 0).all()
        assert len(first) == len(symbols) + 1
        np.testing.assert_array_equal(np.repeat(np.arange(len(symbols)), np.diff(first)), parents)
        np.testing.assert_array_equal((children >= 0).sum(axis=1), layers.lengths[level])
        assert children.shape[1] == layers.lengths[level].max()
        totals = np.add.reduceat(layers.probabilities[level], first[:-1])
        np.testing.assert_allclose(totals, 1, atol=1e-12)
        for parent, row, length, probability in zip(
            parents, children, layers.lengths[level], layers.probabilities[level], strict=True
        ):
            assert (row[length:] == -1).all()
            names_below = tuple(below[child] for child in row[:length])
            rebuilt.append(Rule(symbols[parent], names_below, float(probability)))
            spans = [layers.shortest[level + 1][row[:length]].sum(), layers.longest[level + 1][row[:length]].sum()]
            assert layers.shortest[level][parent] <= spans[0] <= spans[1] <= layers.longest[level][parent]
    assert set(rebuilt) == set(it.rules)
    for parent in it.nonterminals:
        assert [rule for rule in rebuilt if rule.parent == parent] == list(it.rules_of[parent])


@pytest.mark.parametrize("name", names())
def test_layers_hold_the_rules_of_named_grammars(name):
    check_layers(grammar(name))


@given(SMALL)
def test_layers_hold_the_rules_of_random_grammars(it):
    check_layers(it)


def test_rerooting_keeps_rules_and_drops_what_is_above():
    whole = grammar("cfg3b")
    part = reroot(whole, "16")
    assert part.name == "cfg3b@16"
    assert part.layers.symbols == (("16",), ("13", "14", "15"), ("10", "11", "12"), ("7", "8", "9"), ("1", "2", "3"))
    assert part.terminals == whole.terminals
    assert all(part.rules_of[parent] == whole.rules_of[parent] for parent in part.nonterminals)
    assert reroot(whole, "22", name="cfg3b") == whole


def test_rerooting_drops_terminals_that_cannot_occur():
    part = reroot(TINY, "B", name="B")
    assert (part.name, part.terminals, part.rules) == ("B", ("a", "c"), (Rule("B", ("c", "a"), 1.0),))
    with pytest.raises(ValueError, match=r"nonterminal of tiny \(S A B\), got 'a'"):
        reroot(TINY, "a")


def test_rerooting_at_the_root_removes_unreachable_symbols():
    whole = grammar("cfg3e1")
    part = reroot(whole, whole.root)
    assert set(part.nonterminals) == whole.reachable & set(whole.nonterminals)
    assert part.layers.sizes == (1, 3, 8, 24, 72, 27, 9)
