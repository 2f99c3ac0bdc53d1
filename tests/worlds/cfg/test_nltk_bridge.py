"""Grammars and trees in nltk's classes: nothing is lost on the way, and nltk's own parsers agree with us."""

import math
import subprocess
import sys

import numpy as np
import pytest
from nltk.grammar import CFG, PCFG, Nonterminal, Production
from nltk.parse import BottomUpChartParser, InsideChartParser, ViterbiParser
from nltk.tree import Tree

from physlm.randomness import Key
from physlm.worlds.cfg.files import from_counts, loads
from physlm.worlds.cfg.grammar import Grammar, GrammarError, reroot
from physlm.worlds.cfg.named import ENGLISH, grammar, names
from physlm.worlds.cfg.nltk_bridge import (
    count_rules,
    derivation_tree,
    from_nltk,
    from_tree,
    to_cfg,
    to_pcfg,
    to_tree,
    tree_log2_probability,
    tree_rules,
)
from physlm.worlds.cfg.random_grammars import RandomGrammarConfig, random_grammar
from physlm.worlds.cfg.sampling import Sampler

TOY = loads("S -> NP VP\nNP -> DT NN [0.75] | NP PP [0.25]\nVP -> V NP {2} | V {1}\nPP -> IN NP", name="toy")

# Rule-A and rule-M sentences: tokens and log2-probability of the derivation (specification, section 2.4).
GOLDEN = {
    ("cfg3b", None, "A"): (238, "32321313231321313213", -157.0),
    ("cfg3i", None, "A"): (484, "11312312113123121131", -259.0),
    ("cfg3h", None, "A"): (262, "12232213232213232213", -223.345875),
    ("cfg3g", None, "A"): (225, "13213223323123313213", -202.875200),
    ("cfg3f", None, "A"): (192, "31112112131131131131", -177.891738),
    ("cfg3e1", None, "A"): (144, "18699869822572194693", -153.741363),
    ("cfg3e2", None, "A"): (200, "22122232414112131111", -213.969938),
    ("cfg3b", None, "M"): (200, "32213112332213121322", -134.0),
    ("cfg3h", None, "M"): (278, "12123213121231312131", -229.345875),
    ("cfg3e1", None, "M"): (139, "18697557534877225162", -156.911288),
    ("cfg3e2", None, "M"): (245, "22312131112234141412", -248.839113),
    ("cfg3b", "16", "A"): (35, "32321313231321313213", -23.0),
    ("cfg3f", "18", "A"): (54, "31112112122112122131", -48.454138),
}


def sampled_trees(it: Grammar, count: int) -> list[Tree]:
    sampler = Sampler(it)
    forest = sampler.sample(Key.of("trees", 1), np.arange(count))
    return [derivation_tree(sampler.derivation(forest, i)) for i in range(count)]


@pytest.mark.parametrize("name", [*names(), ENGLISH])
def test_a_grammar_goes_to_nltk_and_back(name):
    it = grammar(name)
    there = to_pcfg(it)
    assert isinstance(there, PCFG)
    assert [str(production).partition(" [")[0] for production in there.productions()] == [
        str(production) for production in to_cfg(it).productions()
    ]
    back = from_nltk(there, name=name, terminals=it.terminals, allow_unreachable=it.allow_unreachable)
    assert back == it


def test_what_nltk_gets():
    assert [str(production) for production in to_pcfg(TOY).productions()] == [
        "S -> NP VP [1.0]",
        "NP -> 'DT' 'NN' [0.75]",
        "NP -> NP PP [0.25]",
        "VP -> 'V' NP [0.666667]",
        "VP -> 'V' [0.333333]",
        "PP -> 'IN' NP [1.0]",
    ]


def test_a_plain_grammar_of_nltk_keeps_all_but_the_probabilities():
    plain = to_cfg(TOY)
    assert not isinstance(plain, PCFG)
    back = from_nltk(plain, name="toy")
    assert [str(rule) for rule in back.rules] == [str(rule) for rule in TOY.rules]
    assert [rule.probability for rule in back.rules] == [1, 0.5, 0.5, 0.5, 0.5, 1]


def test_rules_of_a_plain_grammar_are_equally_likely():
    it = from_nltk(CFG.fromstring("S -> NP VP\nNP -> 'I' | 'the' N | NP 'too'\nN -> 'cat'\nVP -> 'sleep'"), name="cat")
    assert it.terminals == ("I", "the", "too", "cat", "sleep")
    assert [rule.probability for rule in it.rules_of["NP"]] == [1 / 3] * 3
    assert it.name == "cat"
    assert it.root == "S"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S -> NP 'a' | 'b'", ["'NP' of 'S → NP a' is unproductive"]),
        ("S -> 'S' | 'a'", ["different names", "'S' for both"]),
        ("S -> 'a' | ", ["at least one child", "S → (nothing)"]),
        ("S -> 'a'\nB -> 'b'", ["'B' is unreachable"]),
        ("S -> S", ["'S' is unproductive"]),
        ("S -> 'a' | 'a'", ["'S → a' twice"]),
        ("S -> 'New York'", ["without spaces", "'New York'"]),
    ],
)
def test_what_nltk_accepts_and_we_do_not(text, words):
    with pytest.raises(GrammarError) as error:
        from_nltk(CFG.fromstring(text))
    for word in words:
        assert word in str(error.value)


def test_text_is_no_grammar_of_nltk():
    with pytest.raises(TypeError, match=r"nltk\.CFG or nltk\.PCFG, got \"S -> 'a'\"; read text with files\.loads"):
        from_nltk("S -> 'a'")


def test_nearly_right_probabilities_have_to_be_normalized_on_purpose():
    rough = PCFG.fromstring("S -> 'a' [0.333] | 'b' [0.333] | 'c' [0.333]")
    with pytest.raises(GrammarError, match=r"'S' must sum to 1, got 0\.999"):
        from_nltk(rough)
    assert [rule.probability for rule in from_nltk(rough, normalize=True).rules] == [pytest.approx(1 / 3)] * 3


def test_symbols_of_nltk_need_not_be_strings():
    start = Nonterminal(("NP", 3))
    with pytest.raises(GrammarError, match="without spaces"):
        from_nltk(CFG(start, [Production(start, [7])]))
    start = Nonterminal(3)
    it = from_nltk(CFG(start, [Production(start, [7, "x"])]))
    assert (it.root, it.terminals) == ("3", ("7", "x"))


@pytest.mark.parametrize(("name", "root", "rule"), GOLDEN)
def test_trees_of_the_golden_sentences(name, root, rule):
    length, beginning, bits = GOLDEN[name, root, rule]
    it = grammar(name) if root is None else reroot(grammar(name), root)
    tree = derivation_tree(Sampler(it).fixed(rule))
    assert tree.label() == it.root
    assert len(tree.leaves()) == length
    assert "".join(tree.leaves()[:20]) == beginning
    assert {len(position) for position in tree.treepositions("leaves")} == {len(it.layers) - 1}
    assert tree_log2_probability(it, tree) == pytest.approx(bits, abs=1e-6)


@pytest.mark.parametrize("name", ["cfg3b", "cfg3f", ENGLISH])
def test_sampled_trees_use_rules_of_the_grammar(name):
    it = grammar(name)
    for tree in sampled_trees(it, 20):
        rules = tree_rules(it, tree)
        assert set(rules) <= set(it.rules)
        assert len(rules) == len([position for position in tree.treepositions() if not isinstance(tree[position], str)])
        assert set(tree.leaves()) <= set(it.terminals)
        assert to_tree(from_tree(tree)) == tree
        assert Tree.fromstring(str(tree)) == tree


def test_rules_are_listed_from_the_root_and_from_the_left():
    tree = Tree.fromstring("(S (NP (NP DT NN) (PP IN (NP DT NN))) (VP V))")
    assert [str(rule) for rule in tree_rules(TOY, tree)] == [
        *("S → NP VP", "NP → NP PP", "NP → DT NN", "PP → IN NP", "NP → DT NN", "VP → V"),
    ]
    assert tree_log2_probability(TOY, tree) == pytest.approx(math.log2(0.25 * 0.75 * 0.75 / 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(NP DT NN)", "must begin with 'S', the root of toy, got 'NP'"),
        ("(S (NP DT NN) (VP V V))", r"got 'VP → V V' at tree position \(1,\)"),
        ("(S (NP (NP DT NN) (PP IN (NP NN DT))) (VP V))", r"got 'NP → NN DT' at tree position \(0, 1, 1\)"),
        ("(S NP (VP V))", r"leaves must be terminals of toy, got 'NP' at tree position \(0,\)"),
        ("(S (NP (DT the) NN) (VP V))", r"got 'DT → the' at tree position \(0, 0\)"),
        ("(S)", r"got 'S → ' at tree position \(\)"),
    ],
)
def test_a_tree_that_is_no_derivation_is_refused_where(text, message):
    with pytest.raises(ValueError, match=message):
        tree_rules(TOY, Tree.fromstring(text))


def test_a_single_terminal_is_no_tree():
    with pytest.raises(ValueError, match="nonterminal at its root, got the terminal 'a'"):
        to_tree("a")


@pytest.mark.parametrize("seed", range(12))
def test_nltk_parsers_agree_with_our_trees(seed):
    it = random_grammar(
        RandomGrammarConfig(seed=seed, sizes=(1, 2, 2, 2), degrees=(1, 3), lengths=(1, 2)), name="small"
    )
    # nltk's parsers have their own ideas about symbols that nothing leads to.
    it = reroot(it, it.root)
    there = to_pcfg(it)
    for tree in sampled_trees(it, 4):
        sentence = tree.leaves()
        written = tree.pformat(margin=10**6)
        assert written in {parse.pformat(margin=10**6) for parse in BottomUpChartParser(to_cfg(it)).parse(sentence)}
        chances = {parse.pformat(margin=10**6): parse.prob() for parse in InsideChartParser(there).parse(sentence)}
        assert math.log2(chances[written]) == pytest.approx(tree_log2_probability(it, tree), abs=1e-9)
        (best,) = ViterbiParser(there).parse(sentence)
        assert math.log2(best.prob()) == pytest.approx(tree_log2_probability(it, best), abs=1e-9)
        assert best.prob() == pytest.approx(max(chances.values()), rel=1e-12)


def test_nltk_parses_english():
    it = grammar(ENGLISH)
    sentence = ["DT", "JJ", "NN", "VBD", "IN", "DT", "NN", "."]
    (best,) = ViterbiParser(to_pcfg(it)).parse(sentence)
    assert best.leaves() == sentence
    assert math.log2(best.prob()) == pytest.approx(tree_log2_probability(it, best), abs=1e-9)


TREEBANK = [
    "( (S (NP-SBJ-1 (DT The) (NN cat)) (VP (VBD sat) (PP-LOC=2 (IN on) (NP (PRP it)))) (. .)))",
    "( (S (NP-SBJ (-NONE- *)) (VP (VB Sit) (NP (NP (-NONE- *T*)))) (-LRB- -LRB-) (. !)))",
    "( (S (NP-SBJ (NP (NN cat))) (VP (VBD sat))))",
]


def test_counting_rules_of_a_treebank():
    counts = count_rules(map(Tree.fromstring, TREEBANK))
    assert counts == {
        ("NP", ("DT", "NN")): 1,
        ("NP", ("PRP",)): 1,
        ("PP", ("IN", "NP")): 1,
        ("VP", ("VBD", "PP")): 1,
        ("S", ("NP", "VP", ".")): 1,
        ("ROOT", ("S",)): 3,
        ("VP", ("VB",)): 1,
        ("S", ("VP", "-LRB-", ".")): 1,
        ("NP", ("NN",)): 1,
        ("VP", ("VBD",)): 1,
        ("S", ("NP", "VP")): 1,
    }
    it = from_counts("bank", "ROOT", counts)
    assert set(it.terminals) == {"DT", "NN", "PRP", "IN", "VBD", "VB", ".", "-LRB-"}
    assert it.rules_of["S"][0].probability == pytest.approx(1 / 3)


def test_counting_with_functions_words_and_traces_kept():
    counts = count_rules(map(Tree.fromstring, TREEBANK), words=False, functions=True, dropped=())
    assert counts["NP-SBJ-1", ("DT", "NN")] == 1
    assert counts["PP-LOC=2", ("IN", "NP")] == 1
    assert counts["DT", ("The",)] == 1
    assert counts["-NONE-", ("*",)] == 1
    assert counts["NP-SBJ", ("NP",)] == 1


def test_counting_recovers_the_grammar_that_made_the_trees():
    it = grammar("cfg3h")
    made = from_counts("again", it.root, count_rules(sampled_trees(it, 300), words=False))
    assert set(made.nonterminals) == set(it.nonterminals)
    found = {str(rule): rule.probability for rule in made.rules}
    # All 39 rules, each within 5 standard errors; the root, with 300 nodes, is the roughest.
    assert found == {str(rule): pytest.approx(rule.probability, abs=0.15) for rule in it.rules}
    assert found["7 → 2 3 2"] == pytest.approx(1 / 3, abs=0.02)


def test_nltk_and_matplotlib_are_loaded_only_when_needed():
    code = """if True:
        import sys
        import physlm.worlds.cfg
        from physlm.worlds.cfg import closed_forms, files, nltk_bridge, trees
        files.dumps(physlm.worlds.cfg.named_grammar("english"))
        print(sorted({"nltk", "matplotlib", "torch"} & set(sys.modules)))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
