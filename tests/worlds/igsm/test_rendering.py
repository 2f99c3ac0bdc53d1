import re
from dataclasses import replace

import numpy as np
import pytest
from igsm_plain import draw_problem, english_problem, english_question, english_solution
from igsm_problems import WORKED_EXAMPLE

from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.names import Names, load_names
from physlm.worlds.igsm.problem import Formula
from physlm.worlds.igsm.rendering import ROLES, Renderer
from physlm.worlds.igsm.vocabulary import Vocabulary
from physlm.worlds.igsm.world import IGSMWorld

VOCABULARY = Vocabulary(23)
ENGLISH, COMPACT = Renderer(VOCABULARY, "english"), Renderer(VOCABULARY, "compact")
PROBLEM = (
    "The number of each North Pier's Tug equals each Ferry's Pine Box. "
    "The number of each Gull Bay's Ferry equals 3 more than each Tug's Pine Box. "
    "The number of each Ferry's Pine Box equals 2 times as much as the sum of each Tug's Pine Box and each Gull Bay's "
    "Tug. The number of each Tug's Pine Box equals 4. "
    "The number of each Gull Bay's Tug equals the difference of each Tug's Pine Box and each Gull Bay's Ferry."
)
QUESTION = "How many Crate does Gull Bay have?"
SOLUTION = (
    "Define Tug's Pine Box as m; so m = 4. Define Gull Bay's Ferry as T; so T = 3 + m = 3 + 4 = 7. "
    "Define Gull Bay's Tug as c; so c = m - T = 4 - 7 = 20. "
    "Define Ferry's Pine Box as H; w = m + c = 4 + 20 = 1; so H = 2 * w = 2 * 1 = 2. "
    "Define Tug's Crate as q; so q = m = 4. Define Ferry's Crate as B; so B = H = 2. "
    "Define Gull Bay's Crate as y; d = c * q = 20 * 4 = 11; K = T * B = 7 * 2 = 14; so y = d + K = 11 + 14 = 2."
)
COMPACT_PROBLEM = (
    "North Pier Tug Ferry Pine Box. Gull Bay Ferry 3 + Tug Pine Box. "
    "Ferry Pine Box 2 * ( Tug Pine Box + Gull Bay Tug ). Tug Pine Box 4. Gull Bay Tug Tug Pine Box - Gull Bay Ferry."
)
COMPACT_SOLUTION = (
    "Tug Pine Box m; m = 4. Gull Bay Ferry T; T = 3 + m = 3 + 4 = 7. Gull Bay Tug c; c = m - T = 4 - 7 = 20. "
    "Ferry Pine Box H; w = m + c = 4 + 20 = 1; H = 2 * w = 2 * 1 = 2. Tug Crate q; q = m = 4. "
    "Ferry Crate B; B = H = 2. "
    "Gull Bay Crate y; d = c * q = 20 * 4 = 11; K = T * B = 7 * 2 = 14; y = d + K = 11 + 14 = 2."
)


def text(ids):
    return VOCABULARY.decode(ids)


def test_the_worked_example_in_english():
    assert text(ENGLISH.problem(WORKED_EXAMPLE)) == PROBLEM
    assert text(ENGLISH.question(WORKED_EXAMPLE)) == QUESTION
    assert text(ENGLISH.solution(WORKED_EXAMPLE)) == f"{SOLUTION} <ans> 2"
    assert text(ENGLISH.prompt(WORKED_EXAMPLE)) == f"<bos> {PROBLEM} {QUESTION} <sol>"
    assert text(ENGLISH.document(WORKED_EXAMPLE)) == f"<bos> {PROBLEM} {QUESTION} <sol> {SOLUTION} <ans> 2"
    assert text(ENGLISH.solution(WORKED_EXAMPLE)).count(";") == 10


def test_the_worked_example_in_compact_text():
    assert text(COMPACT.problem(WORKED_EXAMPLE)) == COMPACT_PROBLEM
    assert text(COMPACT.question(WORKED_EXAMPLE)) == "Gull Bay Crate?"
    assert text(COMPACT.solution(WORKED_EXAMPLE)) == f"{COMPACT_SOLUTION} <ans> 2"


def test_the_question_may_come_first():
    first = replace(WORKED_EXAMPLE, question_first=True)
    assert text(ENGLISH.document(first)) == f"<bos> {QUESTION} {PROBLEM} <sol> {SOLUTION} <ans> 2"
    assert text(ENGLISH.prompt(first)) == f"<bos> {QUESTION} {PROBLEM} <sol>"


@pytest.mark.parametrize("settings", [{}, {"op_max": 32, "ip_max": 28, "force": True}, {"op_max": 3}])
def test_english_is_what_the_specification_says(settings):
    for seed in range(100):
        problem, _ = draw_problem(seed, **settings)
        solution, answer = english_solution(problem, VOCABULARY.names)
        assert text(ENGLISH.problem(problem)) == english_problem(problem, VOCABULARY.names)
        assert text(ENGLISH.question(problem)) == english_question(problem, VOCABULARY.names)
        assert text(ENGLISH.solution(problem)) == f"{solution} <ans> {answer}"


def test_sums_of_every_length():
    formulas = {
        Formula((0, 2, 3, 4), "sum", "none"): "North Pier Tug + Gull Bay Ferry + Tug Pine Box + Ferry Pine Box",
        Formula((4, 2, 3), "sum", "more", 7): "7 + ( Ferry Pine Box + Gull Bay Ferry + Tug Pine Box )",
        Formula((4, 2), "difference", "times", 7): "7 * ( Ferry Pine Box - Gull Bay Ferry )",
        Formula((8,), "copy", "times", 7): "7 * Gull Bay Crate",
        Formula((), "none", "none", 0): "0",
    }
    for formula, written in formulas.items():
        problem = replace(
            WORKED_EXAMPLE,
            formulas=(WORKED_EXAMPLE.formulas[0], formula, *WORKED_EXAMPLE.formulas[2:]),
            told=(0, 2, 3, 4, 1),
            solution=(3,),
            letters=(0,),
        )
        assert text(COMPACT.problem(problem)).endswith(f". Gull Bay Tug {written}.")


def test_both_dialects_say_the_same():
    """Compact text is English without its small words."""
    dropped = {VOCABULARY.id(token) for token in ("'s", "Define", "as", "so")}
    config = IGSMConfig(seed=3, max_operations=21, max_instances=28)
    for problem in IGSMWorld(config).problems("train", np.arange(200)):
        short = [token for token in ENGLISH.solution(problem).tolist() if token not in dropped]
        assert short == COMPACT.solution(problem).tolist()


def test_marks_say_what_every_token_is_part_of():
    samples = ENGLISH.documents([WORKED_EXAMPLE])
    tokens, marks = samples.document(0)

    def part(mark, value):
        return text(tokens[marks[mark] == value])

    roles = {name: part("role", number) for name, number in ROLES.items()}
    expected = {"delimiter": "<bos> <sol>", "problem": PROBLEM, "question": QUESTION, "solution": SOLUTION}
    assert roles == expected | {"answer": "<ans> 2"}
    sentences = re.findall(r"[^.]+\.", SOLUTION)
    assert [part("sentence", i) for i in range(7)] == [sentence.strip() for sentence in sentences]
    is_solution = marks["role"] == ROLES["solution"]
    assert (marks["sentence"][~is_solution] == -1).all()
    assert [int(marks["parameter"][marks["sentence"] == i][0]) for i in range(7)] == list(WORKED_EXAMPLE.solution)
    is_problem = marks["role"] == ROLES["problem"]
    stops = tokens == VOCABULARY.id(".")
    assert marks["parameter"][is_problem & stops].tolist() == list(WORKED_EXAMPLE.told)
    assert set(marks["parameter"][marks["role"] == ROLES["question"]].tolist()) == {WORKED_EXAMPLE.query}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solution": (2, 3, 1, 4, 9, 10, 8)}, "nothing before what it needs, got"),
        ({"letters": (0, 1, 2)}, "got 3 letters for 10 operations"),
        ({"modulus": 7}, "modulus must be that of the vocabulary, 23, got 7"),
    ],
)
def test_problems_that_cannot_be_written_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ENGLISH.solution(replace(WORKED_EXAMPLE, **changes))


# ----------------------------------------------------------------------------------------------------------------------
# Vocabulary and names
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rendering", ["english", "compact"])
def test_text_of_documents_is_read_back_exactly(rendering):
    world = IGSMWorld(IGSMConfig(seed=1, rendering=rendering))
    samples = world.render("train", np.arange(300))
    for i in range(300):
        tokens, _ = samples.document(i)
        assert world.vocabulary.encode(world.vocabulary.decode(tokens)).tolist() == tokens.tolist()


def test_spaces_do_not_matter_when_text_is_read():
    assert text(VOCABULARY.encode("Define  Tug's Pine\nBox as m ;so m=4 .")) == "Define Tug's Pine Box as m; so m = 4."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("so a = 29", "numbers must be below the modulus 23, got 29 at character 7"),
        ("Define Tug's Pine as m;", "got 'Pine' at character 13, in \"Define Tug's Pine as m;\""),
        ("there are 4 tugs", "got 'there' at character 0"),
        ("so m = 4 % 3", "got '%' at character 9"),
    ],
)
def test_text_of_another_dialect_is_refused_where_it_differs(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VOCABULARY.encode(wrong)


def test_ids_and_tokens_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"ids must be in 0..1730, got 1731"):
        VOCABULARY.decode([1731])
    with pytest.raises(ValueError, match="token must be one of the 1731 of this vocabulary, got 'Submarine'"):
        VOCABULARY.id("Submarine")


def test_special_tokens_come_first():
    assert VOCABULARY.tokens[:9] == ("<pad>", "<bos>", "<sol>", "<ans>", "<eos>", "<back>", "<start>", "<mid>", "<end>")
    assert (VOCABULARY.bos, VOCABULARY.sol, VOCABULARY.ans, VOCABULARY.eos, VOCABULARY.end) == (1, 2, 3, 4, 8)
    assert VOCABULARY.decode([VOCABULARY.number(22), VOCABULARY.letter(51)]) == "22 Z"


def test_names_keep_the_rules_that_make_reading_exact():
    names = load_names()
    categories = [name for chain in names.categories for name in chain]
    items = [name for chain in names.items for category in chain for name in category]
    assert (len(categories), len(items)) == (16, 1600)
    everything = [*categories, *items]
    assert len(set(everything)) == len(everything)
    taken = {*everything, *VOCABULARY.tokens}
    for name in everything:
        words = name.split(" ")
        assert all(word.isalpha() and len(word) > 1 for word in words), name
        assert not {"as", "and", "equals", "each", "of", "so"} & set(words), name
        # No token is the beginning of another, in words.
        assert not {" ".join(words[:i]) for i in range(1, len(words))} & taken, name


@pytest.mark.parametrize(("per_category", "groups"), [(4, (4,)), (20, (20,)), (21, (11, 10)), (100, (20,) * 5)])
def test_a_reduced_world_has_the_first_names_of_every_group(per_category, groups):
    names = load_names(2, per_category)
    assert names.groups == groups
    assert len(names.categories) == len(names.items) == 2
    assert all(len(category) == per_category for chain in names.items for category in chain)
    assert names.items[0][0][: groups[0]] == load_names().items[0][0][: groups[0]]
    assert len(Vocabulary(7, names)) == 9 + 7 + 52 + 11 + 20 + 8 + 8 * per_category


def test_vocabularies_of_hand_made_names():
    names = Names(
        categories=(("Box", "Bag", "Cup", "Pin"),), items=((("Ox",), ("Hen",), ("Egg",), ("Yolk",)),), groups=(1,)
    )
    vocabulary = Vocabulary(2, names)
    assert vocabulary.tokens[-8:] == ("Box", "Bag", "Cup", "Pin", "Ox", "Hen", "Egg", "Yolk")
    assert vocabulary.item(0, 2, 0) == vocabulary.id("Egg")
    assert vocabulary.category(0, 3) == vocabulary.id("Pin")
