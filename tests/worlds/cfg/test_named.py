"""The published tables: sizes, degrees and rule counts of the specification, and the English-like grammar."""

import hashlib

import pytest

from physlm.worlds.cfg import closed_forms
from physlm.worlds.cfg.grammar import GrammarError
from physlm.worlds.cfg.named import grammar, names

THREES = (1, 3, 3, 3, 3, 3, 3)
# Sizes, degrees, rules with two and with three children (specification, section 1.2), digest of all rules.
TABLES = {
    "cfg3b": (THREES, {2}, (11, 21), "4a84476a76ad85f6"),
    "cfg3i": (THREES, {2}, (15, 17), "944bb2c0c4ccfc9c"),
    "cfg3h": (THREES, {2, 3}, (20, 19), "88b374ec06e61f58"),
    "cfg3g": (THREES, {3}, (25, 23), "d9c6331add7356c3"),
    "cfg3f": (THREES, {3, 4}, (26, 28), "dd3249898be6d0e0"),
    "cfg3e1": ((1, 3, 9, 27, 81, 27, 9), {3}, (234, 210), "14d32654e6b3a878"),
    "cfg3e2": ((1, 3, 9, 27, 27, 9, 4), {3}, (114, 114), "589ae63e58eb7252"),
    "cfg3j": ((*THREES, 3), {3}, (30, 27), "f65b14179156a43c"),
    "cfg3k": ((*THREES, 3), {3, 4}, (33, 35), "ede7435011178d33"),
}
NEVER_USED = {"152", "126", "135", "42", "48", "61", "64", "67", "95", "115"}


def digest(name: str) -> str:
    return hashlib.blake2b(repr([str(rule) for rule in grammar(name).rules]).encode(), digest_size=8).hexdigest()


def test_all_published_grammars_are_there():
    assert names() == tuple(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_the_published_tables(name):
    sizes, degrees, lengths, expected = TABLES[name]
    it = grammar(name)
    assert it.layers.sizes == sizes
    assert {len(rules) for rules in it.rules_of.values()} == degrees
    assert (*(sum(len(rule.children) == n for rule in it.rules) for n in (2, 3)),) == lengths
    assert len(it.rules) == sum(lengths)
    assert it.terminals == tuple(str(1 + i) for i in range(sizes[-1]))
    assert all(rule.probability == 1 / len(it.rules_of[rule.parent]) for rule in it.rules)
    # Nonterminals are numbered upwards from |T| + 4, and ascend within a level.
    numbers = [[int(symbol) for symbol in level] for level in reversed(it.layers.symbols[:-1])]
    assert [n for level in numbers for n in level] == list(range(sizes[-1] + 4, sizes[-1] + 4 + sum(sizes[:-1])))
    assert digest(name) == expected


@pytest.mark.parametrize("name", TABLES)
def test_no_right_hand_side_occurs_twice_in_a_level(name):
    it = grammar(name)
    for level in it.layers.symbols[:-1]:
        sides = [rule.children for symbol in level for rule in it.rules_of[symbol]]
        assert len(set(sides)) == len(sides)


def test_only_cfg3b_has_distinct_symbols_in_every_right_hand_side():
    distinct = {name for name in names() if all(len(set(r.children)) == len(r.children) for r in grammar(name).rules)}
    assert distinct == {"cfg3b"}


def test_one_published_rule_of_each_level():
    it = grammar("cfg3f")
    wanted = ["22 → 20 19 21", "19 → 17 18", "17 → 14 15", "15 → 11 11 10", "10 → 9 7 9", "8 → 1 2"]
    assert [str(it.rules_of[text.split()[0]][1]) for text in wanted] == wanted


def test_cfg3e1_alone_has_unreachable_symbols():
    for name in names():
        it = grammar(name)
        assert it.allow_unreachable == (name == "cfg3e1")
        unreachable = set(it.nonterminals) - it.reachable
        used = {child for rule in it.rules for child in rule.children}
        if name == "cfg3e1":
            assert set(it.nonterminals) - used - {it.root} == NEVER_USED
            # Three more are only used by those.
            assert unreachable - NEVER_USED == {"73", "85", "146"}
        else:
            assert not unreachable


def test_a_grammar_is_loaded_once():
    assert grammar("cfg3f") is grammar("cfg3f")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"one of cfg3b, .*english, got 'cfg3z'; read your own file"):
        grammar("cfg3z")


def test_english_has_the_make_of_a_treebank_grammar():
    it = grammar("english")
    assert (len(it.rules), len(it.nonterminals), len(it.terminals)) == (155, 15, 30)
    assert max(len(rules) for rules in it.rules_of.values()) == len(it.rules_of["NP"]) == 62
    assert {len(rule.children) for rule in it.rules} == {1, 2, 3, 4, 5, 6, 7}
    assert any(rule.parent in rule.children for rule in it.rules)
    assert it.encode(["DT", ".", ":"]).tolist() == [1, 29, 30]
    # About 60 bits a sentence, as the paper's treebank grammar.
    assert closed_forms.derivation_entropy(it) == pytest.approx(59.55, abs=0.01)
    assert closed_forms.mean_length(it) == pytest.approx(18.93, abs=0.01)


def test_english_has_finitely_many_derivations_per_sentence():
    # A cycle of rules with one child would give infinitely many.
    it = grammar("english")
    left = set(it.nonterminals)
    while left:
        leaves = {p for p in left if not any(len(r.children) == 1 and r.children[0] in left for r in it.rules_of[p])}
        assert leaves
        left -= leaves


def test_english_has_no_layers():
    with pytest.raises(GrammarError, match=r"rule '.*' makes english cyclic"):
        _ = grammar("english").layers
