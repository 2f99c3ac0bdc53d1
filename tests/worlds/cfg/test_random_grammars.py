"""Random grammars: the construction's guarantees, its distribution, and what cannot be asked for."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from physlm.worlds.cfg.random_grammars import LADDER, RandomGrammarConfig, ladder, random_grammar

PINNED = [
    "13 → 12 12",
    "13 → 12 10 11",
    "10 → 8 8 8",
    "10 → 9 7",
    "11 → 8 9 8",
    "11 → 7 7",
    "12 → 9 7 8",
    "12 → 7 9",
    "7 → 1 1 2",
    "7 → 1 1",
    "7 → 2 2",
    "8 → 1 2 2",
    "8 → 2 1 2",
    "8 → 2 3 3",
    "9 → 3 3",
    "9 → 2 3 2",
    "9 → 1 2 1",
]

CONFIGS = st.builds(
    lambda seed, sizes, degree, more, shortest, longer, distinct: RandomGrammarConfig(
        seed=seed,
        sizes=(1, *sizes),
        degrees=(degree, degree + more),
        lengths=(shortest, shortest + longer),
        distinct=distinct,
    ),
    seed=st.integers(0, 10**9),
    sizes=st.lists(st.integers(5, 6), min_size=1, max_size=4),  # wide enough for six times three different rules
    degree=st.integers(1, 2),
    more=st.integers(0, 1),
    shortest=st.integers(2, 3),
    longer=st.integers(0, 1),
    distinct=st.booleans(),
)


@given(CONFIGS)
def test_a_random_grammar_is_what_was_asked_for(config):
    it = random_grammar(config)
    assert it.layers.sizes == config.sizes
    assert it == random_grammar(config)
    assert it.terminals == tuple(str(1 + i) for i in range(config.sizes[-1]))
    numbers = [int(symbol) for level in reversed(it.layers.symbols[:-1]) for symbol in level]
    assert numbers == list(range(config.sizes[-1] + 4, config.sizes[-1] + 4 + len(it.nonterminals)))
    for level in it.layers.symbols[:-1]:
        sides = [rule.children for symbol in level for rule in it.rules_of[symbol]]
        assert len(set(sides)) == len(sides)
        for symbol in level:
            assert config.degrees[0] <= len(it.rules_of[symbol]) <= config.degrees[1]
        for side in sides:
            assert config.lengths[0] <= len(side) <= config.lengths[1]
            assert not config.distinct or len(set(side)) == len(side)


def test_grammars_of_neighbouring_seeds_share_nothing_but_chance():
    made = [random_grammar(ladder("f", seed=seed)) for seed in range(40)]
    assert len({it.rules for it in made}) == 40
    # Two grammars agree in a given rule of given length about as often as two random words do.
    firsts = Counter(it.rules_of["7"][0].children for it in made)
    assert firsts.most_common(1)[0][1] < 10


def test_this_grammar_never_changes():
    it = random_grammar(ladder("h", seed=0, levels=4), name="pinned")
    assert [str(rule) for rule in it.rules] == PINNED


def test_degrees_lengths_and_children_are_uniform():
    # Wide levels, so that the redrawing of repeated right-hand sides does not matter.
    config = RandomGrammarConfig(seed=5, sizes=(1, 400, 400, 400), degrees=(2, 4), lengths=(3, 6))
    it = random_grammar(config)
    degrees = Counter(len(rules) for rules in it.rules_of.values())
    lengths = Counter(len(rule.children) for rule in it.rules)
    first = Counter(rule.children[0] for rule in it.rules)
    last = Counter(rule.children[-1] for rule in it.rules)
    assert stats.chisquare([degrees[d] for d in (2, 3, 4)]).pvalue > 1e-4
    assert stats.chisquare([lengths[n] for n in (3, 4, 5, 6)]).pvalue > 1e-4
    for counts in (first, last):
        terminals = [counts[terminal] for terminal in it.terminals]
        assert stats.chisquare(terminals).pvalue > 1e-4


def test_short_right_hand_sides_are_rarer_when_few_exist():
    # The whole rule is redrawn when it repeats, its length included; so all 3 + 9 right-hand sides can be used up.
    config = RandomGrammarConfig(seed=1, sizes=(1, 3, 3), degrees=(4, 4), lengths=(1, 2))
    it = random_grammar(config)
    sides = {rule.children for symbol in it.layers.symbols[1] for rule in it.rules_of[symbol]}
    assert len(sides) == 12


@pytest.mark.parametrize(
    ("difficulty", "degrees", "distinct"),
    [("b", {2}, True), ("i", {2}, False), ("h", {2, 3}, False), ("g", {3}, False), ("f", {3, 4}, False)],
)
def test_the_ladder_makes_siblings_of_the_published_grammars(difficulty, degrees, distinct):
    made = [random_grammar(ladder(difficulty, seed=seed)) for seed in range(5)]
    assert {it.layers.sizes for it in made} == {(1, 3, 3, 3, 3, 3, 3)}
    assert {len(rules) for it in made for rules in it.rules_of.values()} == degrees
    assert {len(rule.children) for it in made for rule in it.rules} == {2, 3}
    assert all(len(set(r.children)) == len(r.children) for it in made for r in it.rules) == distinct


def test_the_ladder_has_depth_and_width():
    assert ladder("f", seed=3, levels=8).sizes == (1, *[3] * 7)
    assert ladder("b", seed=3, levels=2, size=4).sizes == (1, 4)
    assert list(LADDER) == ["b", "i", "h", "g", "f"]


def test_unreachable_symbols_stay():
    config = RandomGrammarConfig(seed=0, sizes=(1, 3, 9, 27, 81, 27, 9), degrees=(3, 3))
    it = random_grammar(config)
    assert it.layers.sizes == config.sizes
    assert set(it.nonterminals) - it.reachable


def capacity(below: int, lengths: range, distinct: bool) -> int:
    return sum(math.perm(below, n) if distinct else below**n for n in lengths)


@pytest.mark.parametrize("distinct", [False, True])
def test_a_level_can_be_filled_to_its_last_right_hand_side(distinct):
    possible = capacity(3, range(2, 4), distinct)
    settings = {"sizes": (1, 3), "lengths": (2, 3), "distinct": distinct}
    full = random_grammar(RandomGrammarConfig(seed=0, degrees=(possible, possible), **settings))
    assert len(full.rules) == possible
    with pytest.raises(ValueError, match=rf"got {possible} for up to {possible + 1} rules"):
        RandomGrammarConfig(seed=0, degrees=(2, possible + 1), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (1,)}, r"sizes must be 1 for the root, .* got \(1,\)"),
        ({"sizes": (2, 3)}, r"sizes must be 1 for the root"),
        ({"sizes": (1, 0)}, r"got \(1, 0\)"),
        ({"sizes": (1, 3), "degrees": (0, 2)}, r"degrees must be .* got \(0, 2\)"),
        ({"sizes": (1, 3), "degrees": (3, 2)}, r"degrees must be .* got \(3, 2\)"),
        ({"sizes": (1, 3), "lengths": (2,)}, r"lengths must be .* got \(2,\)"),
        ({"sizes": (1, 2), "distinct": True}, r"up to 3 children for the 2 symbols of level 1"),
        ({"sizes": (1, 3, 1), "lengths": (2, 2)}, r"level 1 must have enough .* got 1 for up to 6"),
    ],
)
def test_what_cannot_be_asked_for(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomGrammarConfig(seed=0, **settings)


@pytest.mark.parametrize("seed", ["0", 1.0, None, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match=f"seed must be an int, got {seed!r}"):
        ladder("b", seed=seed)


def test_an_unknown_difficulty_is_refused():
    with pytest.raises(ValueError, match="one of b, i, h, g, f, got 'z'"):
        ladder("z", seed=0)
