import numpy as np
import pytest
from scipy import stats

from physlm.randomness import Key
from physlm.worlds.cfg.corruption import PAPER_RATES, Corruption, perturb
from physlm.worlds.cfg.grammar import Grammar, Rule
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

KEY = Key.of("test of corruption", 0)
SENTENCES = np.arange(600)
KINDS = tuple(PAPER_RATES)


def sample(corruption: Corruption | None, name: str = "cfg3h"):
    return Sampler(grammar(name), corruption).sample(KEY, SENTENCES)


def is_plausible(count: int, total: int, probability: float) -> bool:
    return stats.binomtest(int(count), int(total), probability).pvalue > 1e-4


@pytest.mark.parametrize(
    ("corruption", "matrix"),
    [
        (Corruption(kind="terminal", share=1.0, rate=0.15), [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]),
        (
            Corruption(kind="nonterminal", share=1.0, rate=0.5, exclude_self=True),
            [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]],
        ),
        (Corruption(kind="permutation", share=1.0, rate=0.05), [[0.95, 0.05, 0], [0, 0.95, 0.05], [0.05, 0, 0.95]]),
    ],
)
def test_what_a_symbol_becomes(corruption, matrix):
    np.testing.assert_allclose(corruption.matrix(3), matrix)


@pytest.mark.parametrize(
    ("kind", "exclude_self"),
    [("terminal", False), ("terminal", True), ("nonterminal", False), ("nonterminal", True), ("permutation", False)],
)
def test_rates_and_replacements(kind, exclude_self):
    rate = PAPER_RATES[kind]
    corruption = Corruption(kind=kind, share=1.0, rate=rate, exclude_self=exclude_self)
    forest = sample(corruption)
    assert forest.mistaken is not None
    assert forest.mistaken.level == (6 if kind == "terminal" else 5)
    was, became = forest.mistaken.intended.astype(int), forest.symbols[forest.mistaken.level].astype(int)
    changed = was != became
    visible = rate if exclude_self or kind == "permutation" else rate * 2 / 3
    assert is_plausible(changed.sum(), len(was), visible)
    table = np.bincount(3 * was + became, minlength=9).reshape(3, 3)
    if kind == "permutation":
        assert (became[changed] == (was[changed] + 1) % 3).all()
    else:
        for symbol in range(3):
            assert stats.chisquare(np.delete(table[symbol], symbol)).pvalue > 1e-4
    # Mistakes do not come in runs.
    assert is_plausible((changed[1:] & changed[:-1]).sum(), len(was) - 1, visible**2)


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_without_mistakes_are_those_of_the_clean_world(kind):
    clean, forest = sample(None), sample(Corruption.paper(kind, share=0.3))
    assert clean.mistaken is None
    assert forest.mistaken is not None
    chosen = forest.mistaken.chosen
    assert is_plausible(chosen.sum(), len(chosen), 0.3)
    level = forest.mistaken.level
    for above in range(level):
        assert (clean.symbols[above] == forest.symbols[above]).all()
    assert (clean.symbols[level] == forest.mistaken.intended).all()
    untouched = 0
    for i in np.flatnonzero(~chosen):
        tokens = [f.symbols[-1][f.offsets[-1][i] : f.offsets[-1][i + 1]] for f in (clean, forest)]
        untouched += np.array_equal(*tokens)
    assert untouched == (~chosen).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_larger_shares_add_sentences_and_keep_their_mistakes(kind):
    small, large = (sample(Corruption.paper(kind, share=share)) for share in (0.2, 0.7))
    assert small.mistaken is not None
    assert large.mistaken is not None
    assert (small.mistaken.chosen <= large.mistaken.chosen).all()
    assert small.mistaken.chosen.sum() < large.mistaken.chosen.sum()
    for i in np.flatnonzero(small.mistaken.chosen):
        tokens = [f.symbols[-1][f.offsets[-1][i] : f.offsets[-1][i + 1]] for f in (small, large)]
        assert np.array_equal(*tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_share_and_rate_at_their_ends(kind):
    clean = sample(None)
    for corruption in (Corruption(kind=kind, share=0.0, rate=1.0), Corruption(kind=kind, share=1.0, rate=0.0)):
        assert (sample(corruption).symbols[-1] == clean.symbols[-1]).all()
    everywhere = sample(Corruption(kind=kind, share=1.0, rate=1.0))
    assert everywhere.mistaken is not None
    assert everywhere.mistaken.chosen.all()


def test_wrong_nonterminals_take_rules_of_their_own():
    sampler = Sampler(grammar("cfg3h"), Corruption(kind="permutation", share=1.0, rate=1.0))
    forest = sampler.sample(KEY, SENTENCES)
    parents = sampler.grammar.layers.parents[5]
    assert (parents[forest.rules[5]] == forest.symbols[5]).all()


def test_terminals_of_recursive_grammars_can_be_wrong():
    rules = (Rule("S", ("a", "S"), 0.7), Rule("S", ("b",), 0.3))
    sampler = Sampler(
        Grammar(name="tail", root="S", rules=rules),
        Corruption(kind="terminal", share=1.0, rate=0.1, exclude_self=True),
    )
    forest = sampler.sample(KEY, np.arange(5_000))
    ends = forest.offsets[-1][1:] - 1
    assert is_plausible((sampler.tokens(forest)[ends] == 1).sum(), 5_000, 0.1)


def test_perturbed_prefixes():
    clean = np.random.default_rng(0).integers(1, 4, (400, 50))
    noisy = perturb(KEY, np.arange(400), clean, terminals=3)
    assert noisy.shape == clean.shape
    assert set(np.unique(noisy)) == {1, 2, 3}
    assert is_plausible((noisy != clean).sum(), clean.size, 0.1)
    others = perturb(KEY, np.arange(400), clean, terminals=3, rate=0.3, exclude_self=True)
    assert is_plausible((others != clean).sum(), clean.size, 0.3)
    # The noise belongs to (key, number), not to the batch.
    assert (perturb(KEY, np.arange(10, 20), clean[10:20], terminals=3) == noisy[10:20]).all()
    assert (perturb(KEY.child(1), np.arange(400), clean, terminals=3) != noisy).any()
    assert (perturb(KEY, np.arange(400), clean, terminals=3, rate=0.0) == clean).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corruption(kind="spelling", share=1.0, rate=0.1), "kind must be one of terminal, .*, got 'spelling'"),
        (lambda: Corruption.paper("spelling", share=1.0), "kind must be one of terminal, .*, got 'spelling'"),
        (lambda: Corruption(kind="terminal", share=1.5, rate=0.1), r"share must be in \[0, 1\], got 1.5"),
        (lambda: Corruption(kind="terminal", share=0.5, rate=-0.1), r"rate must be in \[0, 1\], got -0.1"),
        (
            lambda: Corruption(kind="permutation", share=0.5, rate=0.1, exclude_self=True),
            "exclude_self must be False with kind 'permutation'",
        ),
        (
            lambda: Corruption(kind="terminal", share=0.5, rate=0.1, exclude_self=True).matrix(1),
            "exclude_self must be False on a level of a single symbol",
        ),
        (lambda: perturb(KEY, np.arange(1), np.array([[0, 1]]), terminals=3), r"tokens must be in 1..3, got 0..1"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
