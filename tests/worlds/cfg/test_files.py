"""Grammars as plain text: what the format means, errors with line numbers, counts, and the way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physlm.worlds.cfg.files import dumps, from_counts, load, loads, save
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule
from physlm.worlds.cfg.named import ENGLISH, grammar, names

TOY = """
# A toy grammar.
name: toy
root: S
terminals: DT NN VBZ IN

S -> NP VP
NP -> DT NN [0.75] | NN [0.25]   # the probabilities sum to one
VP -> VBZ {30} | VBZ NP {15}
    | VBZ PP {15}

1 PP -> IN NP
"""


def rules_of(text: str, **settings) -> dict[str, float]:
    return {str(rule): rule.probability for rule in loads(text, **settings).rules}


def test_the_format():
    it = loads(TOY)
    assert (it.name, it.root, it.terminals) == ("toy", "S", ("DT", "NN", "VBZ", "IN"))
    assert {str(rule): rule.probability for rule in it.rules} == {
        "S → NP VP": 1.0,
        "NP → DT NN": 0.75,
        "NP → NN": 0.25,
        "VP → VBZ": 0.5,
        "VP → VBZ NP": 0.25,
        "VP → VBZ PP": 0.25,
        "PP → IN NP": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S -> a", {"S → a": 1.0}),
        ("S --> a b", {"S → a b": 1.0}),
        ("S → a | b", {"S → a": 0.5, "S → b": 0.5}),
        ("S->a", None),
        ("S ::= a", None),
        ("S -> 'ε' a", {"S → ε a": 1.0}),
        ("S -> a|b", {"S → a": 0.5, "S → b": 0.5}),
        ("S -> a[0.5]|b[.5]", {"S → a": 0.5, "S → b": 0.5}),
        ("S -> a {1}\nS -> b {3}", {"S → a": 0.25, "S → b": 0.75}),
        ("S -> a {1}\n  | b {3}", {"S → a": 0.25, "S → b": 0.75}),
        ("1 S -> a\n3 S -> b", {"S → a": 0.25, "S → b": 0.75}),
        ("  1\tS -->\ta\r\n  3 S --> b b", {"S → a": 0.25, "S → b b": 0.75}),
        ("22 -> 21 20 | 20\n21 -> 1\n20 -> 2", {"22 → 21 20": 0.5, "22 → 20": 0.5, "21 → 1": 1.0, "20 → 2": 1.0}),
        ("S -> '|' \"''\" '#' \"->\"", {"S → | '' # ->": 1.0}),
        ("S -> PRP$ O'Neil C# -LRB- ``", {"S → PRP$ O'Neil C# -LRB- ``": 1.0}),
        ("S -> NP # a comment -> with an arrow\nNP -> n", {"S → NP": 1.0, "NP → n": 1.0}),
        ("root: S\nA -> a\nS -> A A", {"A → a": 1.0, "S → A A": 1.0}),
        ("name -> root: , :", {"name → root: , :": 1.0}),
        ("S -> S S [0.25] | a [0.75]", {"S → S S": 0.25, "S → a": 0.75}),
    ],
)
def test_a_text_means_these_rules(text, expected):
    if expected is None:
        with pytest.raises(GrammarError, match=r"line 1: a rule must read .* with one arrow between spaces"):
            loads(text)
    else:
        assert rules_of(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, ["at least one rule", "got none"]),
        ("# nothing\n\n", None, ["at least one rule"]),
        ("S -> a\nb c", 2, ["PARENT -> CHILD", "got 'b c'"]),
        ("S -> a\n\nA B C -> d", 3, ["one arrow", "A B C -> d"]),
        ("S -> a -> b", 1, ["one arrow"]),
        ("S ->", 1, ["one or more symbols", "'S -> '"]),
        ("S -> a | | b", 1, ["one or more symbols"]),
        ("S -> a |", 1, ["one or more symbols"]),
        ("S -> [0.5] a", 1, ["at most one weight"]),
        ("S -> a [0.5] [0.5]", 1, ["at most one weight"]),
        ("| a", 1, ["must follow a rule"]),
        ("S -> a [x] | b", 1, ["probability", "got 'x'"]),
        ("S -> a [0] | b [1]", 1, ["(0, 1]", "got '0'"]),
        ("S -> a [1.5]", 1, ["(0, 1]", "got '1.5'"]),
        ("S -> a [nan]", 1, ["(0, 1]", "got 'nan'"]),
        ("S -> a {0}", 1, ["whole number from 1", "got '0'"]),
        ("S -> a {2.5}", 1, ["whole number from 1", "got '2.5'"]),
        ("0.5 S -> a", 1, ["whole number from 1", "got '0.5'"]),
        ("X S -> a", 1, ["whole number from 1", "got 'X'"]),
        ("3 S -> a | b", 1, ["one rule without further weights", "got 3"]),
        ("3 S -> a {3}", 1, ["one rule without further weights"]),
        ("S -> a [0.5]\nS -> b {3}", 2, ["'S' must all have probabilities", "a count here", "probability in line 1"]),
        ("S -> a {1}\n\nS -> b", 3, ["no weight here", "a count in line 1"]),
        ("S -> a\nS -> b\nS -> a", 3, ["'S → a' must be given once", "line 1 has it"]),
        ("S -> a | a", 1, ["'S → a' must be given once"]),
        ("S -> A\nA -> a [0.4]\n  | b [0.5]", 2, ["'A' must sum to 1", "0.9", "'A → b' 0.5"]),
        ("S -> a\nA -> b", 2, ["'A' is unreachable", "'A → b'"]),
        ("S -> A a | a\nA -> A", 2, ["'A' is unproductive", "A → A"]),
        ("terminals: a\nS -> a\n  | typo", 3, ["'typo' of 'S → typo' is unproductive"]),
        ("terminals: a b\nS -> a", 1, ["'b' is unreachable"]),
        ("terminals: a S\nS -> a", 2, ["terminal 'S' must have no rules"]),
        ("S -> a\nroot: T", 2, ["root", "'T'"]),
        ("root: S\nroot: S\nS -> a", 2, ["given once", "after line 1"]),
        ("root: S T\nS -> a", 1, ["one word", "S T"]),
        ("root:\nS -> a", 1, ["symbols alone"]),
        ("terminals: a | b\nS -> a", 1, ["symbols alone"]),
        ("unreachable: yes\nS -> a", 1, ["'allowed'", "'yes'"]),
        ("S -> 'a", 1, ["quote", '"\'a"', "column 6"]),
        ("S -> a ]", 1, ["bracket", "']'", "column 8"]),
        ("S -> ''", 1, ["quotes", "column 6"]),
        ("S -> a S\n   | ε", 2, ["must not be empty", "got ε", "in quotes"]),
    ],
)
def test_a_mistake_is_reported_with_its_line(text, line, words):
    with pytest.raises(GrammarError) as error:
        loads(text, source="my.txt")
    message = str(error.value)
    assert message.startswith(f"my.txt, line {line}: " if line else "my.txt: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S -> A b\nA -> S a\n   | a", ["line 2: ", "rule 'A → S a'", "cyclic: S → A → S", "GeneralParser"]),
        ("S -> A B\nA -> a\nB -> a A", ["line 3: ", "rule 'B → a A'", "skips a level", "GeneralParser"]),
        ("unreachable: allowed\nS -> A\nA -> a\n\nT -> A A", ["line 5: ", "must hold the root 'S' alone"]),
    ],
)
def test_a_grammar_that_must_be_layered_is_refused_with_the_line(text, words, tmp_path):
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    assert load(tmp_path / "my.txt") == loads(text, name="my")
    with pytest.raises(GrammarError) as error:
        load(tmp_path / "my.txt", layered=True)
    for word in ["my.txt, ", *words]:
        assert word in str(error.value)
    assert loads("S -> A A\nA -> a", layered=True).layers.sizes == (1, 1, 1)


def test_files_of_other_editors(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes("\ufeffroot: S\r\nS -> a b\r\n".encode())
    assert load(path).root == "S"
    path.write_bytes("S -> a\n  | é".encode("latin-1"))
    with pytest.raises(GrammarError, match=r"^my\.txt, line 2: the file must be in UTF-8, got the byte 0xe9"):
        load(path)


@pytest.mark.parametrize("name", ["", "my grammar", "two  spaces", "a|b [x]", "#1", "it's", "->"])
def test_any_name_survives_being_written(name):
    it = Grammar.of(name, "S", {"S": [["a", "ε"]]})
    assert loads(dumps(it), source=name) == it if name else loads(dumps(it)).rules == it.rules


def test_unreachable_symbols_can_be_allowed():
    it = loads("unreachable: allowed\nS -> a\nB -> b")
    assert it.allow_unreachable
    assert loads(dumps(it)) == it


@pytest.mark.parametrize("name", [*names(), ENGLISH])
def test_named_grammars_survive_being_written(name, tmp_path):
    it = grammar(name)
    save(it, tmp_path / "any.txt")
    assert load(tmp_path / "any.txt") == it


@st.composite
def odd_grammars(draw):
    """Recursive grammars with odd symbols and odd probabilities, all reachable and productive by construction."""
    symbol = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=4)
    symbol = symbol.filter(lambda text: not any(c.isspace() for c in text) and not {"'", '"'} <= set(text))
    symbols = draw(st.lists(symbol, min_size=3, max_size=8, unique=True))
    parents, terminals = symbols[: len(symbols) // 2], symbols[len(symbols) // 2 :]
    sides: dict[str, list[tuple[str, ...]]] = {
        parent: [tuple(draw(st.lists(st.sampled_from(terminals), min_size=1, max_size=3)))] for parent in parents
    }
    sides[parents[0]].append(tuple(symbols))
    rules = []
    for parent in parents:
        extra = draw(st.lists(st.lists(st.sampled_from(symbols), min_size=1, max_size=5).map(tuple), max_size=3))
        alternatives = list(dict.fromkeys([*sides[parent], *extra]))
        weights = draw(st.lists(st.integers(1, 999), min_size=len(alternatives), max_size=len(alternatives)))
        rules += [Rule(parent, a, w / sum(weights)) for a, w in zip(alternatives, weights, strict=True)]
    return Grammar(name="odd", root=parents[0], rules=tuple(rules), terminals=tuple(terminals))


@given(odd_grammars())
def test_what_is_written_is_read_back_exactly(it):
    assert loads(dumps(it)) == it


def test_a_symbol_with_both_quotes_cannot_be_written():
    with pytest.raises(ValueError, match="both kinds of quotes"):
        dumps(Grammar.of("g", "S", {"S": [["|'\""]]}))
    with pytest.raises(ValueError, match="or a line break"):
        dumps(Grammar.of("two\nlines", "S", {"S": [["a"]]}))


def test_the_name_comes_from_the_file(tmp_path):
    (tmp_path / "mine.txt").write_text("S -> a", encoding="utf-8")
    assert load(tmp_path / "mine.txt").name == "mine"
    assert load(str(tmp_path / "mine.txt"), name="other").name == "other"
    (tmp_path / "bad.txt").write_text("S ->", encoding="utf-8")
    with pytest.raises(GrammarError, match=r"^bad\.txt, line 1: "):
        load(tmp_path / "bad.txt")


COUNTS = """
90 S -> NP VP
 7 S -> X VP
 3 S -> VP
60 NP -> n
40 NP -> NP PP
50 PP -> i NP
 4 X -> x
80 VP -> v
20 VP -> v Y
30 Y -> Z
 5 Z -> z
50 W -> w
"""


@pytest.mark.parametrize("minimum", [10, 40])  # 40 is the count of a rule that stays
def test_rare_rules_are_dropped_with_what_they_leave_useless(minimum):
    # X and Z lose their only rules, hence S → X VP, Y → Z and VP → v Y go too; X, Z, Y must not become terminals.
    # W was counted, but nothing leads there.
    it = loads(COUNTS, minimum_count=minimum)
    assert {str(rule): rule.probability for rule in it.rules} == {
        "S → NP VP": 1.0,
        "NP → n": 0.6,
        "NP → NP PP": 0.4,
        "PP → i NP": 1.0,
        "VP → v": 1.0,
    }
    assert it.terminals == ("n", "i", "v")
    assert not it.allow_unreachable
    ordered = loads("terminals: w z x v i n\n" + COUNTS, minimum_count=minimum)
    assert ordered.terminals == ("v", "i", "n")  # those that are left, in the order asked for
    with pytest.raises(GrammarError, match="line 8: symbol 'i' of 'PP → i NP' is unproductive"):
        loads("terminals: v n x z w\n" + COUNTS, minimum_count=minimum)


def test_counts_without_a_minimum_are_all_kept():
    it = loads(COUNTS.replace("50 W -> w", ""))
    assert len(it.rules) == 11
    assert it.rules_of["S"][1].probability == pytest.approx(0.07)
    with pytest.raises(GrammarError, match="line 13: symbol 'W' is unreachable"):
        loads(COUNTS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loads(COUNTS, minimum_count=100), "root 'S' must keep a rule, got none counted 100 times"),
        (lambda: loads("S -> a [0.5] | b [0.5]", minimum_count=2), "line 1: minimum_count needs a count"),
        (lambda: from_counts("g", "S", {("S", ("a",)): 0}), "at least 1, got 0 for 'S → a'"),
    ],
)
def test_counts_that_make_no_grammar(call, message):
    with pytest.raises(GrammarError, match=message):
        call()


def test_a_large_count_file_reads_fast_enough_to_be_used():
    lines = [f"{100 + i} NP -> {' '.join(f't{(i * k) % 97}' for k in range(1, 2 + i % 6))} u{i}" for i in range(3000)]
    it = loads("1 S -> NP\n" + "\n".join(lines))
    assert len(it.rules) == 3001
