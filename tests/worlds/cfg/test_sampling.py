from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.cfg.corruption import Corruption
from physlm.worlds.cfg.grammar import Grammar, Rule, reroot
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of sampling", 0)

# grammar, rule, length, first 20 tokens, log2 of the probability of the derivation where it is the only one (§2.4)
GOLDEN = [
    ("cfg3b", "A", 238, "32321313231321313213", -157.000000),
    ("cfg3i", "A", 484, "11312312113123121131", -259.000000),
    ("cfg3h", "A", 262, "12232213232213232213", -223.345875),
    ("cfg3g", "A", 225, "13213223323123313213", -202.875200),
    ("cfg3f", "A", 192, "31112112131131131131", -177.891738),
    ("cfg3e1", "A", 144, "18699869822572194693", -153.741363),
    ("cfg3e2", "A", 200, "22122232414112131111", -213.969938),
    ("cfg3b", "M", 200, "32213112332213121322", -134.000000),
    ("cfg3i", "M", 326, "11231312121132231223", None),
    ("cfg3g", "M", 176, "13213212311333123311", None),
    ("cfg3f", "M", 161, "31133111212211131232", None),
    ("cfg3h", "M", 278, "12123213121231312131", -229.345875),
    ("cfg3e1", "M", 139, "18697557534877225162", -156.911288),
    ("cfg3e2", "M", 245, "22312131112234141412", -248.839113),
    ("cfg3b@16", "A", 35, "32321313231321313213", -23.000000),
    ("cfg3f@18", "A", 54, "31112112122112122131", -48.454138),
]

# mean, standard deviation, percentiles 5, 25, 50, 75, 95, 99.9, and bits of a derivation (§1.3)
LENGTHS = {
    "cfg3b": (275.62, 41.71, (198, 251, 277, 307, 341, 370), 169.25),
    "cfg3i": (308.09, 45.97, (235, 274, 307, 341, 386, 434), 186.94),
    "cfg3h": (236.38, 41.50, (173, 201, 237, 270, 301, 339), 204.78),
    "cfg3g": (252.43, 53.01, (166, 212, 255, 291, 338, 400), 269.92),
    "cfg3f": (249.86, 69.38, (148, 191, 248, 303, 365, 444), 268.66),
    "cfg3e1": (198.58, 46.81, (132, 158, 195, 237, 276, 320), 215.98),
    "cfg3e2": (246.36, 55.90, (158, 195, 253, 287, 334, 397), 256.35),
    "cfg3j": (543.93, 133.60, (359, 445, 518, 636, 792, 920), 618.59),
    "cfg3k": (516.31, 91.06, (377, 448, 512, 578, 676, 796), 608.33),
}


TINY = Grammar(
    name="tiny",
    root="S",
    rules=(
        Rule("S", ("A", "B"), 0.3),
        Rule("S", ("B", "A", "A"), 0.7),
        Rule("A", ("x", "y"), 0.25),
        Rule("A", ("y",), 0.75),
        Rule("B", ("x",), 0.5),
        Rule("B", ("y", "x"), 1 / 3),
        Rule("B", ("z", "z", "z", "x"), 1 / 6),
    ),
)
RECURSIVE = Grammar(
    name="recursive",
    root="S",
    rules=(
        Rule("S", ("NP", "VP"), 1.0),
        Rule("NP", ("the", "N"), 0.6),
        Rule("NP", ("NP", "PP"), 0.3),
        Rule("NP", ("it",), 0.1),
        Rule("PP", ("near", "NP"), 1.0),
        Rule("VP", ("runs",), 0.5),
        Rule("VP", ("sees", "NP"), 0.5),
        Rule("N", ("cat",), 0.9),
        Rule("N", ("dog",), 0.1),
    ),
)
SAMPLERS = {
    "cfg3f": Sampler(grammar("cfg3f")),
    "cfg3f, terminals wrong": Sampler(grammar("cfg3f"), Corruption(kind="terminal", share=0.5, rate=0.2)),
    "cfg3f, nonterminals wrong": Sampler(grammar("cfg3f"), Corruption(kind="nonterminal", share=0.5, rate=0.2)),
    "tiny": Sampler(TINY),
    "recursive": Sampler(RECURSIVE),
    "recursive, terminals wrong": Sampler(RECURSIVE, Corruption(kind="terminal", share=0.5, rate=0.2)),
}


def used(name: str) -> Grammar:
    base, _, root = name.partition("@")
    return reroot(grammar(base), root) if root else grammar(base)


def tokens_of(sampler: Sampler, sentences, key: Key = KEY) -> list[list[int]]:
    forest = sampler.sample(key, np.asarray(sentences, dtype=np.int64))
    return [part.tolist() for part in np.split(sampler.tokens(forest), forest.offsets[-1][1:-1])]


@cache
def exact_lengths(name: str) -> np.ndarray:
    """Probability of every length, by convolving the distributions of the children."""
    g = grammar(name)

    @cache
    def of(symbol: str) -> np.ndarray:
        if symbol not in g.rules_of:
            return np.array([0.0, 1.0])
        total = np.zeros(1)
        for rule in g.rules_of[symbol]:
            together = np.ones(1)
            for child in rule.children:
                together = np.convolve(together, of(child))
            longer = np.zeros(max(len(total), len(together)))
            longer[: len(total)] += total
            longer[: len(together)] += rule.probability * together
            total = longer
        return total

    return of(g.root)


@pytest.mark.parametrize(("name", "rule", "length", "start", "log_probability"), GOLDEN)
def test_sentences_without_chance_are_the_golden_ones(name, rule, length, start, log_probability):
    g = used(name)
    derivation = Sampler(g).fixed(rule)
    assert len(derivation) == length
    assert "".join(derivation.labels(-1)[:20]) == start
    if log_probability is not None:
        used_rules = zip(g.layers.probabilities, derivation.rules, strict=True)
        total = sum(np.log2(probabilities[rules]).sum() for probabilities, rules in used_rules)
        assert total == pytest.approx(log_probability, abs=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
@given(sentences=st.lists(st.integers(0, 2**37), min_size=1, max_size=8))
def test_any_batch_equals_one_by_one(name, sentences):
    sampler = SAMPLERS[name]
    together = tokens_of(sampler, sentences)
    assert together == [tokens_of(sampler, [sentence])[0] for sentence in sentences]
    assert [len(tokens) for tokens in together] == sampler.lengths(KEY, np.array(sentences)).tolist()


def test_no_sentences_give_an_empty_forest():
    for sampler in SAMPLERS.values():
        forest = sampler.sample(KEY, np.array([], dtype=np.int64))
        assert len(forest) == len(sampler.tokens(forest)) == len(sampler.bits(forest)) == 0


def test_keys_govern_everything():
    sampler = SAMPLERS["cfg3f"]
    assert tokens_of(sampler, range(5)) == tokens_of(sampler, range(5), Key.of("test of sampling", 0))
    assert tokens_of(sampler, range(5)) != tokens_of(sampler, range(5), Key.of("test of sampling", 1))


def test_first_sentence_is_what_it_always_was():
    start = "".join(map(str, tokens_of(SAMPLERS["cfg3f"], [0])[0]))
    assert (len(start), start[:40]) == (231, "1233111322121221121111233322311121213313")


@pytest.mark.parametrize("name", SAMPLERS)
def test_derivations_follow_the_rules(name):
    sampler = SAMPLERS[name]
    g = sampler.grammar
    forest = sampler.sample(KEY, np.arange(40))
    wrong = 0
    for i in range(40):
        derivation = sampler.derivation(forest, i)
        for level, rules in enumerate(derivation.rules):
            children = derivation.labels(level + 1)
            if derivation.mistaken == level + 1:
                assert derivation.intended is not None
                wrong += (derivation.intended != derivation.symbols[level + 1]).sum()
                children = [derivation.names[level + 1][symbol] for symbol in derivation.intended]
            below = np.split(children, np.flatnonzero(np.diff(derivation.parents[level + 1])) + 1)
            listed = [(rule.parent, rule.children) for rule in layer_rules(g, level, sampler.is_layered)]
            for label, rule, right in zip(derivation.labels(level), rules, below, strict=True):
                assert (label, tuple(right)) == (listed[rule] if rule >= 0 else (label, (right[0],)))
                if rule < 0 and derivation.mistaken != level + 1:
                    assert label == right[0]
                    assert label in g.terminals
        leaves = [1 + g.terminals.index(label) for label in derivation.labels(-1)]
        assert leaves == tokens_of(sampler, [i])[0]
        assert leaves_of(derivation.tree()) == derivation.labels(-1)
    assert (wrong > 0) == ("wrong" in name)


def layer_rules(g: Grammar, level: int, is_layered: bool) -> list[Rule]:
    symbols = g.layers.symbols[level] if is_layered else g.nonterminals
    return [rule for symbol in symbols for rule in g.rules_of[symbol]]


def leaves_of(tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [leaf for child in tree[1] for leaf in leaves_of(child)]


def test_trees_show_rules_and_nothing_else():
    sampler = SAMPLERS["recursive"]
    forest = sampler.sample(KEY, np.arange(300))
    seen = set()

    def visit(tree):
        if not isinstance(tree, str):
            seen.add((tree[0], tuple(child if isinstance(child, str) else child[0] for child in tree[1])))
            for child in tree[1]:
                visit(child)

    for i in range(300):
        tree = sampler.derivation(forest, i).tree()
        assert tree[0] == "S"
        visit(tree)
    assert seen == {(rule.parent, rule.children) for rule in RECURSIVE.rules}


def test_ancestors_and_ends_nest():
    sampler = SAMPLERS["cfg3f"]
    forest = sampler.sample(KEY, np.arange(50))
    same_neighbours = 0
    for i in range(50):
        derivation = sampler.derivation(forest, i)
        count, levels = len(derivation), len(derivation.symbols)
        assert derivation.ancestors(0).tolist() == [0] * count
        assert derivation.ancestors(levels - 1).tolist() == list(range(count))
        assert derivation.ends(0).tolist() == [False] * (count - 1) + [True]
        assert derivation.ends(levels - 1).all()
        for level in range(levels):
            above, ends = derivation.ancestors(level), derivation.ends(level)
            assert ends[-1]
            assert ends.sum() == len(derivation.symbols[level])
            assert (np.diff(above) == ends[:-1]).all()
            if level:
                assert (derivation.ends(level - 1) <= ends).all()
                assert (derivation.parents[level][above] == derivation.ancestors(level - 1)).all()
                # Where two neighbours carry one symbol, the symbols alone would miss a boundary.
                symbol = derivation.symbols[level][above]
                same_neighbours += (ends[:-1] & (symbol[1:] == symbol[:-1])).sum()
    assert same_neighbours > 0


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_follow_the_published_distribution(name):
    mean, deviation, percentiles, bits = LENGTHS[name]
    exact = exact_lengths(name)
    lengths = np.arange(len(exact))
    assert exact @ lengths == pytest.approx(mean, abs=0.006)
    assert (exact @ lengths**2 - (exact @ lengths) ** 2) ** 0.5 == pytest.approx(deviation, abs=0.006)
    shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95, 0.999])
    assert np.searchsorted(np.cumsum(exact), shares).tolist() == list(percentiles)

    sampler = Sampler(grammar(name))
    drawn = sampler.lengths(KEY, np.arange(8_000))
    edges = np.searchsorted(np.cumsum(exact), np.linspace(0.05, 0.95, 19))
    observed = np.bincount(np.searchsorted(edges, drawn), minlength=20)
    expected = np.add.reduceat(exact, np.concatenate([[0], edges + 1]))
    assert stats.chisquare(observed, expected * len(drawn)).pvalue > 1e-4
    surprise = sampler.bits(sampler.sample(KEY, np.arange(2_000)))
    assert surprise.mean() == pytest.approx(bits, abs=4 * surprise.std() / 2_000**0.5)


@pytest.mark.parametrize("name", ["cfg3b", "cfg3f", "cfg3e2"])
def test_every_symbol_takes_each_of_its_rules_equally_often(name):
    sampler = Sampler(grammar(name))
    forest = sampler.sample(KEY, np.arange(4_000))
    layers = sampler.grammar.layers
    worst = 1.0
    tests = 0
    for level, rules in enumerate(forest.rules):
        counts = np.bincount(rules, minlength=len(layers.parents[level]))
        for start, stop in zip(layers.first_rules[level], layers.first_rules[level][1:], strict=False):
            if counts[start:stop].sum() >= 100 and stop - start > 1:
                worst = min(worst, stats.chisquare(counts[start:stop]).pvalue)
                tests += 1
    assert tests >= 15
    assert worst > 1e-4 / tests


def strings_of(g: Grammar) -> dict[tuple[str, ...], float]:
    """Every string of a grammar without recursion, with its probability."""

    def of(symbol: str) -> dict[tuple[str, ...], float]:
        if symbol not in g.rules_of:
            return {(symbol,): 1.0}
        found: Counter = Counter()
        for rule in g.rules_of[symbol]:
            for parts in product(*(of(child).items() for child in rule.children)):
                string = tuple(token for words, _ in parts for token in words)
                found[string] += rule.probability * np.prod([probability for _, probability in parts])
        return found

    return of(g.root)


def test_whole_strings_have_their_probabilities():
    exact = strings_of(TINY)
    assert sum(exact.values()) == pytest.approx(1.0)
    drawn = Counter(tuple(tokens) for tokens in tokens_of(SAMPLERS["tiny"], range(60_000)))
    numbered = {tuple(TINY.encode(string).tolist()): probability for string, probability in exact.items()}
    assert set(drawn) <= set(numbered)
    observed = [drawn[string] for string in numbered]
    assert stats.chisquare(observed, np.array(list(numbered.values())) * 60_000).pvalue > 1e-4


def test_recursive_grammars_have_their_distribution():
    # Geometric: the number of "a" before the final "b".
    g = Grammar(name="tail", root="S", rules=(Rule("S", ("a", "S"), 0.7), Rule("S", ("b",), 0.3)))
    lengths = Sampler(g).lengths(KEY, np.arange(20_000))
    observed = np.bincount(np.minimum(lengths, 15) - 1, minlength=15)
    expected = 0.3 * 0.7 ** np.arange(15)
    expected[-1] = 0.7**14
    assert stats.chisquare(observed, expected * 20_000).pvalue > 1e-4


def test_grammars_that_skip_levels_have_their_distribution():
    g = Grammar.of("skipping", "S", {"S": [["A", "a"], ["b", "A", "A"]], "A": [["a"], ["b", "a"]]})
    exact = {tuple(g.encode(string).tolist()): p for string, p in strings_of(g).items()}
    sampler = Sampler(g)
    assert not sampler.is_layered
    drawn = Counter(tuple(tokens) for tokens in tokens_of(sampler, range(20_000)))
    observed = [drawn[string] for string in exact]
    assert sum(observed) == 20_000
    assert stats.chisquare(observed, np.array(list(exact.values())) * 20_000).pvalue > 1e-4


def test_sentences_without_finite_expected_length_are_refused():
    g = Grammar(name="explosive", root="S", rules=(Rule("S", ("S", "S"), 0.6), Rule("S", ("a",), 0.4)))
    with pytest.raises(ValueError, match=r"'explosive' must have a finite expected length, got .* multiply by 1\.2 "):
        Sampler(g)


def test_nonterminal_mistakes_need_levels():
    with pytest.raises(ValueError, match="'permutation' need a layered grammar, got 'recursive': use 'terminal'"):
        Sampler(RECURSIVE, Corruption.paper("permutation", share=1.0))


def test_unknown_fixed_rules_are_refused():
    with pytest.raises(ValueError, match="rule must be 'A' or 'M', got 'B'"):
        SAMPLERS["tiny"].fixed("B")
