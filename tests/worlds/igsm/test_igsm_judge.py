"""The judge on the worked example of the specification (§2.8): what it accepts, and every reason to refuse."""

import re
from dataclasses import replace

import numpy as np
import pytest
from igsm_problems import WORKED_EXAMPLE, instance

from physlm.worlds.igsm.judge import REASONS, Judge
from physlm.worlds.igsm.problem import Abstract, Formula, Item
from physlm.worlds.igsm.vocabulary import Vocabulary

SENTENCES = (
    "Define Tug's Pine Box as m; so m = 4.",
    "Define Gull Bay's Ferry as T; so T = 3 + m = 3 + 4 = 7.",
    "Define Gull Bay's Tug as c; so c = m - T = 4 - 7 = 20.",
    "Define Ferry's Pine Box as H; w = m + c = 4 + 20 = 1; so H = 2 * w = 2 * 1 = 2.",
    "Define Tug's Crate as q; so q = m = 4.",
    "Define Ferry's Crate as B; so B = H = 2.",
    "Define Gull Bay's Crate as y; d = c * q = 20 * 4 = 11; K = T * B = 7 * 2 = 14; so y = d + K = 11 + 14 = 2.",
)
TEXT = " ".join([*SENTENCES, "<ans> 2"])
VOCABULARY = Vocabulary(23)
NUMBERS = {parameter: number for number, parameter in enumerate(WORKED_EXAMPLE.parameters)}
TUG_BOX, FERRY, TUG, FERRY_BOX, TUG_CRATE, FERRY_CRATE, CRATE = WORKED_EXAMPLE.solution
TOP_TUG, TOP_SHIP, SHIP = (NUMBERS[p] for p in (instance(0, 0, 0), Abstract(Item(0, 0), 1), Abstract(Item(0, 1), 1)))


def compact(text):
    for old, new in ((r"Define ", ""), (r"'s ", " "), (r" as ", " "), (r"so ", "")):
        text = re.sub(old, new, text)
    return text


@pytest.fixture(scope="module", params=["english", "compact"])
def written(request):
    """A judge, and what turns English text into that which it reads."""
    judge = Judge(VOCABULARY, request.param)
    return judge, (compact if request.param == "compact" else str)


@pytest.fixture(scope="module")
def judge():
    return Judge(VOCABULARY, "english")


def tokens(text):
    return VOCABULARY.encode(text)


def changed(old, new, text=TEXT):
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def test_the_worked_example_is_right(written):
    judge, dialect = written
    for strict in (True, False):
        verdict = judge.check(WORKED_EXAMPLE, tokens(dialect(TEXT)), strict=strict)
        assert verdict
        assert (verdict.correct, verdict.reason, verdict.explain()) == (True, None, "")
        assert verdict.parameter is verdict.sentence is verdict.position is None
        assert verdict.defined == WORKED_EXAMPLE.solution
        assert (verdict.steps, verdict.retries) == (10, 0)
        assert (verdict.unnecessary_parameters, verdict.unnecessary_operations) == (0, 0)


RIGHT = {
    "another order of sentences": " ".join([*(SENTENCES[i] for i in (0, 4, 1, 2, 3, 5, 6)), "<ans> 2"]),
    "operands of a sum exchanged": changed("T = 3 + m = 3 + 4", "T = m + 3 = 4 + 3"),
    "products first": changed("K = T * B = 7 * 2 = 14", "K = B * T = 2 * 7 = 14"),
    "twice as a sum": changed("2 * w = 2 * 1", "w + w = 1 + 1"),
    "a difference said with the constant it is modulo 23": changed("3 + m = 3 + 4", "m - 20 = 4 - 20"),
    "letters renamed": re.sub(r"\b[mTcHwqBydK]\b", lambda letter: letter[0].swapcase(), TEXT),
    "a step that leads nowhere": changed("w = m", "z = m * m = 4 * 4 = 16; w = m"),
    "what follows the end": TEXT + "<eos> 2 . Define 's",
}


@pytest.mark.parametrize("name", RIGHT)
def test_whatever_is_right_is_accepted(name, written):
    judge, dialect = written
    verdict = judge.check(WORKED_EXAMPLE, tokens(dialect(RIGHT[name])))
    assert verdict.correct, verdict
    assert verdict.unnecessary_operations == (name == "a step that leads nowhere")


def test_what_is_not_needed_is_right_and_counted(written):
    judge, dialect = written
    extra = "Define North Pier's Tug as A; so A = H = 2. Define Gull Bay's Ship as s; so s = c + T = 20 + 7 = 4. "
    text = changed("Define Gull Bay's Crate", extra + "Define Gull Bay's Crate")
    verdict = judge.check(WORKED_EXAMPLE, tokens(dialect(text)))
    assert verdict.correct
    assert (verdict.unnecessary_parameters, verdict.unnecessary_operations, verdict.steps) == (2, 2, 12)
    assert verdict.defined[-3:] == (TOP_TUG, SHIP, CRATE)


def test_sentences_taken_back_do_not_count(written):
    judge, dialect = written
    text = changed("Define Gull Bay's Crate", "Define Gull Bay's Ship as <back>. Define Gull Bay's Crate")
    text = changed("Define", "Define Gull Bay's Crate as <back>. Define", text)
    verdict = judge.check(WORKED_EXAMPLE, tokens(dialect(text)))
    assert verdict.correct
    assert verdict.retries == 2
    assert verdict.defined == WORKED_EXAMPLE.solution
    wrong = judge.check(WORKED_EXAMPLE, tokens(dialect(changed("4 - 7 = 20", "4 - 7 = 19", text))))
    assert (wrong.reason, wrong.parameter, wrong.sentence, wrong.retries) == ("calc", TUG, 3, 1)


# What is changed, the reason, the first wrong parameter, its sentence, and the text up to the wrong token.
REFUSED = [
    ("so m = 4", "so m = 5", "value", TUG_BOX, 0, "so m = "),
    ("T = 3 + m = 3 + 4 = 7", "T = 4 + m = 4 + 4 = 8", "value", FERRY, 1, "4 + 4 = "),
    ("c = m - T = 4 - 7 = 20", "c = T - m = 7 - 4 = 3", "value", TUG, 2, "7 - 4 = "),
    ("2 * w = 2 * 1 = 2", "w + 1 = 1 + 1 = 2", "formula", FERRY_BOX, 3, "1 + 1 = "),
    ("3 + 4 = 7", "3 + 4 = 8", "calc", FERRY, 1, "3 + 4 = "),
    ("3 + 4 = 7", "3 + 5 = 8", "reference", FERRY, 1, "3 + m = 3 + "),
    ("3 + 4 = 7", "2 + 4 = 6", "reference", FERRY, 1, "3 + m = "),
    ("3 + 4 = 7", "3 * 4 = 12", "reference", FERRY, 1, "3 + m = 3 "),
    ("q = m = 4", "q = m = 5", "reference", TUG_CRATE, 4, "q = m = "),
    ("w = m + c = 4 + 20 = 1", "w = m + c = 4 + 20 = 2", "calc", FERRY_BOX, 3, "4 + 20 = "),
    ("c = m - T = 4 - 7 = 20", "c = m - m = 4 - 4 = 0", "wrong_deps", TUG, 2, "4 - 4 = 0"),
    ("c = m - T = 4 - 7 = 20", "c = 20", "wrong_deps", TUG, 2, "so c = 20"),
    ("B = H = 2", "B = w = 1", "wrong_deps", FERRY_CRATE, 5, "B = "),
    ("q = m = 4", "q = T = 7", "wrong_deps", TUG_CRATE, 4, "q = "),
    ("2 * w = 2 * 1 = 2", "2 * c = 2 * 20 = 17", "wrong_deps", FERRY_BOX, 3, "2 * 20 = 17"),
    ("Tug's Crate", "Gull Bay's Crate", "not_ready", CRATE, 4, "so H = 2 * w = 2 * 1 = 2. Define Gull Bay's "),
    (SENTENCES[1], "", "not_ready", TUG, 1, "so m = 4. Define Gull Bay's "),
    ("Tug's Crate", "Tug's Tool", "unknown", None, 4, "2 * 1 = 2. Define Tug's "),
    ("Tug's Crate", "Tug's Ship", "unknown", None, 4, "2 * 1 = 2. Define Tug's "),
    ("Tug's Crate", "Tug's Ferry", "unknown", None, 4, "2 * 1 = 2. Define Tug's "),
    ("Tug's Crate", "Crate's Tug", "unknown", None, 4, "2 * 1 = 2. Define "),
    (SENTENCES[4], SENTENCES[0], "redefined", TUG_BOX, 4, "2 * 1 = 2. Define Tug's "),
    ("as q", "as m", "format", TUG_CRATE, 4, "Define Tug's Crate as "),
    ("w = m + c", "T = m + c", "format", FERRY_BOX, 3, "as H; "),
    ("w = m + c", "w = z + c", "format", FERRY_BOX, 3, "w = "),
    ("w = m + c", "w = H + c", "format", FERRY_BOX, 3, "w = "),
    ("4 + 20 = 1;", "4 + 20 = 1.", "format", FERRY_BOX, 3, "4 + 20 = 1"),
    ("4 + 20 = 1;", "4 + 20 = 1 = 1;", "format", FERRY_BOX, 3, "4 + 20 = 1"),
    ("so q = m = 4.", "so q = m.", "format", TUG_CRATE, 4, "q = m"),
    ("so q = m = 4.", "so q = m = 4;", "format", TUG_CRATE, 4, "q = m = 4"),
    ("as q", "q q", "format", TUG_CRATE, 4, "Define Tug's Crate "),
    ("<ans> 2", "<ans> 3", "answer", CRATE, None, "<ans> "),
    ("<ans> 2", "<ans> 2 2", "format", None, None, "<ans> 2 "),
    ("<ans> 2", "<ans>", "format", None, None, "<ans>"),
    (SENTENCES[6], "", "wrong_query", None, None, SENTENCES[5]),
    (
        SENTENCES[6],
        SENTENCES[6] + " Define North Pier's Tug as A; so A = H = 2.",
        "wrong_query",
        TOP_TUG,
        7,
        SENTENCES[6],
    ),
]


@pytest.mark.parametrize(("old", "new", "reason", "parameter", "sentence", "before"), REFUSED)
def test_what_is_wrong_is_refused_with_where_and_why(judge, old, new, reason, parameter, sentence, before):
    text = changed(old, new).replace("  ", " ")
    verdict = judge.check_text(WORKED_EXAMPLE, text)
    assert not verdict
    assert (verdict.reason, verdict.parameter, verdict.sentence) == (reason, parameter, sentence)
    assert verdict.position == len(tokens(text[: text.index(before) + len(before)])), verdict.explain()
    assert verdict.explain().startswith(f"{reason}: token {verdict.position}")
    assert verdict.unnecessary_operations is None
    # In compact text there are fewer words to be wrong.
    if not (reason == "format" and ("as" in old or old.startswith("so") or "so" in new or new.endswith("."))):
        short = Judge(VOCABULARY, "compact").check_text(WORKED_EXAMPLE, compact(text))
        assert (short.reason, short.parameter, short.sentence) == (reason, parameter, sentence)


def test_an_intermediate_result_belongs_to_its_sentence(written):
    """The number is right and rests on the right parameter, but that parameter is not what is used."""
    judge, dialect = written
    text = changed("so T = 3", "z = m = 4; so T = 3")
    assert judge.check_text(WORKED_EXAMPLE, dialect(text)).correct
    for strict in (True, False):
        verdict = judge.check_text(WORKED_EXAMPLE, dialect(changed("so q = m", "so q = z", text)), strict=strict)
        assert (verdict.reason, verdict.parameter, verdict.sentence) == ("wrong_deps", TUG_CRATE, 4)


def test_every_reason_occurs_above():
    assert {row[2] for row in REFUSED} == set(REASONS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * w = 2 * 1 = 2", "w + 1 = 1 + 1 = 2"),
        ("so c = m - T = 4 - 7 = 20", "so c = T - m = 7 - 4 = 3"),
    ],
)
def test_lenient_asks_only_for_the_answer(judge, old, new):
    text = changed(old, new)
    if "c = T" in new:  # everything that follows from the wrong value, worked out
        for before, after in (("4 + 20 = 1", "4 + 3 = 7"), ("2 * 1 = 2", "2 * 7 = 14"), ("B = H = 2", "B = H = 14")):
            text = changed(before, after, text)
        text = changed("20 * 4 = 11", "3 * 4 = 12", text)
        text = changed("7 * 2 = 14", "7 * 14 = 6", text)
        text = changed("11 + 14 = 2", "12 + 6 = 18", text)
        assert judge.check_text(WORKED_EXAMPLE, text, strict=False).reason == "value"
        assert judge.check_text(WORKED_EXAMPLE, text, strict=False).parameter == CRATE
        assert judge.check_text(WORKED_EXAMPLE, text).parameter == TUG
    else:
        assert judge.check_text(WORKED_EXAMPLE, text, strict=False).correct


def test_a_solution_cut_anywhere_ends_too_early(written):
    judge, dialect = written
    whole = tokens(dialect(TEXT))
    verdicts = judge.check_many([WORKED_EXAMPLE] * len(whole), [whole[:stop] for stop in range(len(whole))])
    for stop, verdict in enumerate(verdicts):
        assert (verdict.reason, verdict.position) == ("format", stop)
        assert verdict.explain()
    assert verdicts.counts["format"] == len(whole)


def test_another_dialect_is_a_matter_of_format(judge):
    verdict = judge.check_text(WORKED_EXAMPLE, compact(TEXT))
    assert (verdict.reason, verdict.position, verdict.expected) == ("format", 0, "'Define' or <ans>")
    verdict = Judge(VOCABULARY, "compact").check_text(WORKED_EXAMPLE, TEXT)
    assert (verdict.reason, verdict.position, verdict.expected) == ("format", 0, "a name or <ans>")
    # Words that the vocabulary does not have, before, in and after what it has.
    for text, position in (
        ("Let us see. " + TEXT, 0),
        (changed("Pine Box", "Oak Box"), 3),
        (changed("so m = 4", "so m = 23"), 10),
        (changed("so m = 4", "hence m = 4"), 7),
        (TEXT + " as asked", len(tokens(TEXT))),
    ):
        verdict = judge.check_text(WORKED_EXAMPLE, text)
        assert (verdict.reason, verdict.position) == ("format", position), text
    assert judge.check_text(WORKED_EXAMPLE, "").position == 0
    # In a sentence that is taken back, anything goes.
    assert judge.check_text(WORKED_EXAMPLE, "Hm, the Oak Box <back>. " + TEXT).retries == 1


def test_tokens_may_be_any_integers(judge):
    whole = tokens(TEXT)
    for given in (whole.tolist(), tuple(whole.tolist()), whole.astype(np.int64), whole.astype(np.uint16)):
        assert judge.check(WORKED_EXAMPLE, given).correct
    for stranger in (-1, -(10**12), len(VOCABULARY), 10**12):
        verdict = judge.check(WORKED_EXAMPLE, [*whole[:5].tolist(), stranger, *whole[6:].tolist()])
        assert (verdict.reason, verdict.position) == ("format", 5)
    assert judge.check(WORKED_EXAMPLE, []).reason == "format"


def test_many_are_judged_as_one_by_one(judge):
    texts = [TEXT, *(changed(old, new) for old, new, *_ in REFUSED)]
    problems = [replace(WORKED_EXAMPLE, modulus=23) if i % 3 else WORKED_EXAMPLE for i in range(len(texts))]
    verdicts = judge.check_many(problems, [tokens(text) for text in texts])
    assert len(verdicts) == len(texts)
    assert list(verdicts) == [judge.check_text(problem, text) for problem, text in zip(problems, texts, strict=True)]
    assert list(verdicts[3:9:2]) == list(verdicts)[3:9:2]
    assert verdicts.correct.tolist() == [True] + [False] * len(REFUSED)
    assert verdicts.counts == {reason: sum(row[2] == reason for row in REFUSED) for reason in REASONS}
    assert len(judge.check_many([], [])) == 0
    with pytest.raises(ValueError, match="a problem for every solution, got 1 for 2"):
        judge.check_many(problems[:1], [[], []])


def test_an_item_without_children_has_none_of_anything(judge):
    """Without its only edge, North Pier has no ships and no crates: the sum of nothing."""
    problem = replace(
        WORKED_EXAMPLE,
        edges=WORKED_EXAMPLE.edges[1:],
        formulas=tuple(
            replace(formula, operands=tuple(operand - 1 for operand in formula.operands))
            for formula in WORKED_EXAMPLE.formulas[1:]
        ),
        told=(0, 1, 2, 3),
        solution=(5,),
        letters=(0,),
    )
    assert problem.parameters[problem.query] == Abstract(Item(0, 0), 2)
    verdict = judge.check_text(problem, "Define North Pier's Crate as a; so a = 0. <ans> 0")
    assert (verdict.correct, verdict.unnecessary_operations) == (True, 0)
    assert judge.check_text(problem, "Define North Pier's Crate as a; so a = 1. <ans> 1").reason == "value"


def test_a_number_that_the_problem_does_not_have(judge):
    problem = replace(WORKED_EXAMPLE, modulus=5)
    verdict = judge.check_text(problem, "Define Tug's Pine Box as m; so m = 6.")
    assert (verdict.reason, verdict.position, verdict.expected) == ("format", 10, "a number below the modulus")


def test_the_canonical_solution_is_not_looked_at(judge):
    """Only its last parameter is, which is the query."""
    scrambled = replace(WORKED_EXAMPLE, solution=(TOP_TUG, CRATE), letters=(), told=())
    assert judge.check_text(scrambled, TEXT) == judge.check_text(WORKED_EXAMPLE, TEXT)


def test_what_is_no_problem_is_refused(judge):
    def with_formula(number, formula):
        formulas = list(WORKED_EXAMPLE.formulas)
        formulas[number] = formula
        return replace(WORKED_EXAMPLE, formulas=tuple(formulas))

    for problem, message in (
        (with_formula(3, Formula((4,), "copy", "none")), "no parameter that depends on itself"),
        (with_formula(3, Formula((99,), "copy", "none")), "operands and query within"),
        (replace(WORKED_EXAMPLE, solution=(77,)), "operands and query within"),
        (replace(WORKED_EXAMPLE, edges=(*WORKED_EXAMPLE.edges[:4], instance(1, 5, 0))), "edges between adjacent"),
        (replace(WORKED_EXAMPLE, formulas=()), "a formula for every edge"),
        (replace(WORKED_EXAMPLE, names=((0,), (0, 1), (0,))), "a name for every item"),
        (
            replace(WORKED_EXAMPLE, widths=(20, 20), names=(tuple(range(20)),) * 2, edges=(), formulas=()),
            "at most 64 parameters and 32 items",
        ),
        (replace(WORKED_EXAMPLE, names=((10**6, 1), (0, 1), (0,))), "names of the vocabulary"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            judge.check(problem, tokens(TEXT))
    with pytest.raises(ValueError, match="rendering must be one of english, compact, got 'german'"):
        Judge(VOCABULARY, "german")  # type: ignore[arg-type]
