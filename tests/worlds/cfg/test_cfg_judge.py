from itertools import pairwise, product

import numpy as np
import pytest

from physlm.worlds.cfg import judge as judge_module
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule
from physlm.worlds.cfg.judge import Judge
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.sampling import Sampler

LONGEST = 9
SKIPPING = Grammar.of("skipping", "S", {"S": [["A", "a"], ["b", "A", "A"]], "A": [["a"], ["b", "a"]]})
RECURSIVE = {
    "left": Grammar.of("left", "S", {"S": [["S", "a"], ["b"]]}),
    "right": Grammar.of("right", "S", {"S": [["a", "S"], ["b"]]}),
    "middle": Grammar.of("middle", "S", {"S": [["a", "S", "b"], ["a", "b"], ["c"]]}),
    "both": Grammar.of("both", "S", {"S": [["S", "S"], ["a"], ["b", "A"]], "A": [["S", "b"], ["c"]]}),
    "unit cycle": Grammar.of("unit cycle", "S", {"S": [["A"], ["a", "S"]], "A": [["S"], ["b"]]}),
}


def random_layered(seed: int) -> Grammar:
    """A random layered grammar of one to three levels of rules with one to three children."""
    generator = np.random.default_rng(seed)
    depth = int(generator.integers(1, 4))
    levels = [["R"], *([f"{level}{i}" for i in range(generator.integers(1, 4))] for level in range(depth - 1))]
    levels.append(["a", "b", "c"][: generator.integers(1, 4)])
    rules = {}
    for level, below in pairwise(levels):
        for symbol in level:
            right = {
                tuple(below[i] for i in generator.integers(0, len(below), generator.integers(1, 4)))
                for _ in range(generator.integers(1, 4))
            }
            rules[symbol] = sorted(right)
    return Grammar.of(f"random {seed}", "R", rules, terminals=levels[-1], allow_unreachable=True)


def sentences_of(g: Grammar, longest: int) -> set[tuple[str, ...]]:
    """All sentences of up to `longest` tokens, by expanding the leftmost nonterminal of every sentential form."""
    found, seen, waiting = set(), {(g.root,)}, [(g.root,)]
    while waiting:
        form = waiting.pop()
        at = next((i for i, symbol in enumerate(form) if symbol in g.rules_of), None)
        if at is None:
            found.add(form)
            continue
        for rule in g.rules_of[form[at]]:
            new = (*form[:at], *rule.children, *form[at + 1 :])
            # Nothing is empty, so longer forms give longer sentences.
            if len(new) <= longest and new not in seen:
                seen.add(new)
                waiting.append(new)
    return found


def expected(sentences: set[tuple[str, ...]], string: tuple[str, ...]) -> tuple[bool, int | None]:
    if string in sentences:
        return True, None
    prefixes = {sentence[:i] for sentence in sentences for i in range(len(sentence) + 1)}
    wrong = next((i for i in range(len(string)) if string[: i + 1] not in prefixes), len(string))
    return False, wrong


def disagreements(g: Grammar, sentences, strings) -> list:
    checker = Judge(g)
    judged = {string: checker.judge(g.encode(string)) for string in strings}
    return [string for string, j in judged.items() if (j.correct, j.position) != expected(sentences, string)]


@pytest.fixture(params=["its own way", "Earley"])
def way(request, monkeypatch):
    if request.param == "Earley":
        monkeypatch.setattr(judge_module, "_without_recursion", judge_module._earley)


@pytest.mark.usefixtures("way")
def test_small_languages_are_judged_as_by_enumeration():
    tried, right = 0, 0
    for seed in range(150):
        try:
            g = random_layered(seed)
        except GrammarError:
            continue  # a rule twice, or a nonterminal beside the root that is as high
        if g.layers.longest[0][0] > 12:
            continue
        sentences = sentences_of(g, 12)
        generator = np.random.default_rng(seed)
        strings = {tuple(generator.choice(g.terminals, generator.integers(0, 9)).tolist()) for _ in range(15)}
        known = sorted(sentences)
        strings |= {known[i] for i in generator.integers(0, len(known), 5)}
        assert disagreements(g, sentences, strings) == []
        tried += 1
        right += len(strings & sentences)
    assert tried >= 60
    assert right >= 200


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("g", [SKIPPING, *RECURSIVE.values()], ids=lambda g: g.name)
def test_all_strings_of_grammars_without_levels_are_judged_as_by_enumeration(g):
    sentences = sentences_of(g, LONGEST)
    # Every prefix of four tokens that can go on does so within nine.
    strings = [string for length in range(5) for string in product(g.terminals, repeat=length)]
    assert disagreements(g, sentences, strings) == []


def test_recursion_is_noticed():
    order = judge_module._parents_first(SKIPPING)
    assert order is not None
    assert (order[:2], sorted(order[2:])) == (("S", "A"), ["a", "b"])
    for g in RECURSIVE.values():
        assert judge_module._parents_first(g) is None


@pytest.mark.parametrize("name", ["cfg3b", "cfg3f", "cfg3e1", "cfg3k"])
def test_golden_sentences_are_right_and_end_nowhere_else(name):
    g = grammar(name)
    tokens = 1 + Sampler(g).fixed("A").symbols[-1]
    checker = Judge(g)
    assert checker.judge(tokens)
    short = checker.judge(tokens[:-1])
    assert (short.correct, short.position) == (False, len(tokens) - 1)
    assert "must go on with" in short.reason


def test_reasons_say_what_was_possible():
    checker = Judge(Grammar.of("tiny", "S", {"S": [["A", "B"]], "A": [["a"], ["b", "a"]], "B": [["c"], ["a", "a"]]}))
    cases = {
        (1, 3): (True, None, ""),
        (3,): (False, 0, "token 0 must be a or b after what precedes it, got c"),
        (2, 1): (False, 2, "the sentence stops after 2 tokens, but must go on with a or c"),
        (): (False, 0, "the sentence stops after 0 tokens, but must go on with a or b"),
        (1, 3, 3): (False, 2, "token 2 must be the end of the sentence after what precedes it, got c"),
        (1, 4): (False, 1, "token 1 must be in 1..3, got 4"),
        (0,): (False, 0, "token 0 must be in 1..3, got 0"),
        (-1,): (False, 0, "token 0 must be in 1..3, got -1"),
    }
    for tokens, judged in cases.items():
        judgement = checker.judge(tokens)
        assert (judgement.correct, judgement.position, judgement.reason) == judged
    assert checker.judge([3], skip=1).position == 1


@pytest.mark.parametrize("tokens", [[1.7], "12", None, 3, [[1, 2], [3]], np.array([1.0, 2.0]), [np.nan], ["1"]])
def test_only_whole_numbers_are_judged(tokens):
    checker = Judge(grammar("cfg3b"))
    with pytest.raises(TypeError, match="tokens must be a flat list of token ids, got "):
        checker.judge(tokens)


def test_numbers_of_any_kind_are_judged():
    checker, tokens = Judge(grammar("cfg3b")), 1 + Sampler(grammar("cfg3b")).fixed("A").symbols[-1]
    for same in (tokens.tolist(), tuple(tokens), tokens.astype(np.uint8)):
        assert checker.judge(same)
    assert checker.judge([2**70]).position == 0


def test_observables_can_stand_for_several_terminals():
    g = Grammar(name="pair", root="S", rules=(Rule("S", ("a", "b"), 1.0),))
    # Observable 1 is an "a", 2 either, 3 a "b", 4 nothing.
    checker = Judge(g, np.array([[True, True, False, False], [False, True, True, False]]))
    right = {pair for pair in product(range(1, 5), repeat=2) if checker.judge(pair)}
    assert right == {(1, 2), (1, 3), (2, 2), (2, 3)}
    judgement = checker.judge([2, 1])
    assert (judgement.position, judgement.reason) == (1, "token 1 must be b after what precedes it, got a")
    assert checker.judge([2, 4]).reason == "token 1 must be an observable of some terminal, got 4"
    assert checker.judge([2, 5]).reason == "token 1 must be in 1..4, got 5"
