"""The committed sentence templates and questions: every rule they must keep, and the parser."""

import json
import re
from pathlib import Path

import pytest

from physlm.worlds.bios.pools import ATTRIBUTES, VALUE_POOLS, load_pools
from physlm.worlds.bios.templates import Question, Template, Templates, load_templates, parse_question, parse_sentence

TEMPLATES_FILE = Path(__file__).parents[3] / "physlm" / "worlds" / "bios" / "data" / "templates.json"
FORMS = ("full", "short")

# Present tense, forms of "be" and reflexives do not agree with all of he, she and they.
DISAGREEING = "am are is was were be been has have does do his her their him them himself herself"
# Words that would tell of an attribute other than the sentence's own.
TELLTALE = {
    "birth": "birth birthplace birthday born newborn cradle midwife womb hometown breath life world",
    "study": "studied university college school campus student degree diploma majored graduated classes",
    "work": "work worked job employer company firm office headquarters salary payroll staff career",
}
SUBJECT_MATTER = {
    "date": "birth",
    "bcity": "birth",
    "univ": "study",
    "major": "study",
    "cname": "work",
    "ccity": "work",
}


@pytest.fixture
def content():
    return json.loads(TEMPLATES_FILE.read_text())


def words(text):
    return re.findall(r"[A-Za-z'-]+", text)


def tokens(text):
    """Words and punctuation marks: a lower bound of what a BPE tokenizer yields."""
    return re.findall(r"\w+|[^\w\s]", text)


# --- the committed data ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_fifty_distinct_sentences_of_the_required_shape(content, form, attribute):
    texts = content[form][attribute]
    assert len(texts) == len(set(texts)) == 50
    for text in texts:
        assert text.startswith("{S} ")
        assert text.endswith(".")
        assert text.count("{S}") == text.count("{V}") == text.count(".") == 1
        assert re.search(r"[a-z] \{V\}", text), text
        assert text == " ".join(text.split())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_sentences_agree_with_any_subject_and_keep_to_their_attribute(form, attribute):
    for before, after in load_templates(form).sentences[attribute]:
        used = set(words(before + after))
        assert not used & set(DISAGREEING.split()), before
        for matter, telltale in TELLTALE.items():
            assert matter == SUBJECT_MATTER[attribute] or not used & set(telltale.split()), before


@pytest.mark.parametrize("form", FORMS)
def test_words_before_the_value_identify_the_attribute(form):
    sentences = load_templates(form).sentences
    befores = {attribute: {before for before, _ in sentences[attribute]} for attribute in ATTRIBUTES}
    assert sum(map(len, befores.values())) == len(set().union(*befores.values()))


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_full_sentences_have_few_trailing_phrases(attribute):
    templates = load_templates("full").sentences[attribute]
    assert 0 < sum(after != "." for _, after in templates) / len(templates) <= 0.15


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_short_sentences_have_two_words_and_no_trailing_phrase(attribute):
    for before, after in load_templates("short").sentences[attribute]:
        assert len(words(before)) == 2
        assert after == "."


def test_short_sentences_have_a_small_inventory_that_no_value_uses():
    pools = load_pools()
    inventory = {
        word
        for templates in load_templates("short").sentences.values()
        for before, _ in templates
        for word in words(before)
    }
    assert len(inventory) <= 100
    assert not inventory & {word for name in VALUE_POOLS for word in pools.short_values[name]}


def test_a_full_biography_has_about_the_length_of_the_paper():
    # The paper counts 73 GPT-2 tokens; words and punctuation are a lower bound, names split further.
    pools, templates = load_pools(), load_templates("full").sentences
    value = {"date": 4.0} | {
        name: sum(len(tokens(text)) for text in pools.values[name]) / len(pools.values[name]) for name in VALUE_POOLS
    }
    sentence = {
        name: sum(len(tokens(before + after)) for before, after in templates[name]) / len(templates[name])
        for name in ATTRIBUTES
    }
    subjects = 3 + 5  # a full name once, then five pronouns
    assert 60 <= sum(value.values()) + sum(sentence.values()) + subjects <= 75


def test_base_order():
    assert load_templates().base_order == ("date", "bcity", "univ", "major", "cname", "ccity")


def test_questions_name_the_person_once_and_end_with_the_answer():
    for attribute, (before, between, after) in load_templates("full").questions.items():
        assert before.startswith(" "), attribute
        assert between.endswith("? Answer:")
        assert after == ""


def test_short_questions_have_at_most_two_words_before_the_name():
    for before, between, after in load_templates("short").questions.values():
        assert len(words(before)) <= 2
        assert (between, after) == ("? Answer:", "")


@pytest.mark.parametrize("form", FORMS)
def test_questions_are_distinct(form):
    assert len({(before, between) for before, between, _ in load_templates(form).questions.values()}) == 6


@pytest.mark.parametrize("form", FORMS)
def test_segments_reassemble_the_texts(content, form):
    templates = load_templates(form)
    for attribute in ATTRIBUTES:
        rendered = [f"{{S}}{before} {{V}}{after}" for before, after in templates.sentences[attribute]]
        assert rendered == content[form][attribute]
        before, between, after = templates.questions[attribute]
        source = content["questions" if form == "full" else "questions_short"][attribute]
        assert f"{before} {{N}}{between} {{V}}{after}" == " " + source


def test_templates_are_read_once_per_form():
    assert load_templates("short") is load_templates("short")
    assert load_templates("short") is not load_templates("full")


# --- parsing --------------------------------------------------------------------------------------


def test_parse_sentence():
    assert parse_sentence("{S} drew pay in {V}.") == Template(" drew pay in", ".")
    assert parse_sentence("{S} drew pay in {V} every month.") == Template(" drew pay in", " every month.")


@pytest.mark.parametrize(
    "text",
    [
        "{S} {V}.",
        "{S} worked in {V}",
        "In {V} {S} worked.",
        "Yes, {S} worked in {V}.",
        "{S} worked in {V} and {V}.",
        "{S} worked with {S} in {V}.",
        "{S}  worked in {V}.",
        "{S} worked in{V}.",
        "{S} worked in {V} .",
        "{S} worked in 3 {V}.",
        "{S} worked. Then in {V}.",
        "",
    ],
)
def test_parse_sentence_rejects(text):
    with pytest.raises(ValueError, match="a sentence must read") as error:
        parse_sentence(text)
    assert repr(text) in str(error.value)


def test_parse_question():
    assert parse_question("Who paid {N}? Answer: {V}") == Question(" Who paid", "? Answer:", "")
    assert parse_question("Where did {N} work? Answer: {V}.") == Question(" Where did", " work? Answer:", ".")


@pytest.mark.parametrize(
    "text",
    ["{N}? Answer: {V}", "Who paid {V}? Answer: {N}", "Who paid {N} {V}", "Who paid {N}? {N} {V}", "Who? {V}", ""],
)
def test_parse_question_rejects(text):
    with pytest.raises(ValueError, match="a question must read"):
        parse_question(text)


# --- user-supplied files --------------------------------------------------------------------------


def read(tmp_path, content, form="full"):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(content))
    return Templates.from_file(path, form)


@pytest.mark.parametrize("form", FORMS)
def test_from_file_reads_the_committed_layout(tmp_path, content, form):
    assert read(tmp_path, content, form) == load_templates(form)


def put(*path):
    def mutate(content):
        *parents, key, value = path
        for parent in parents:
            content = content[parent]
        content[key] = value

    return mutate


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (put("full", "univ", ["{S} learned at."]), r"a sentence must read .* got '\{S\} learned at\.'"),
        (put("full", "univ", []), "sentences of univ must be at least one"),
        (put("full", "univ", ["{S} read at {V}."] * 2), "sentences of univ must be distinct"),
        (put("full", "univ", "{S} read at {V}."), r"full\.univ must be a list"),
        (put("full", "ccity", ["{S} began life in {V}."]), "' began life in' serves both bcity and ccity"),
        (put("full", "colour", ["{S} liked {V}."]), "sentences must have exactly the keys"),
        (put("full", []), "full must be an object by attribute"),
        (put("questions", "date", "When? {V}"), "a question must read"),
        (put("base_order", ["date"]), "base_order must be a permutation"),
        (put("version", 2), "version must be 1, got 2"),
        (put("extra", 1), "exactly the keys"),
        (lambda content: content["questions"].pop("major"), "questions must have exactly the keys"),
    ],
)
def test_from_file_says_what_is_wrong(tmp_path, content, mutate, message):
    mutate(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_form_is_checked(tmp_path, content):
    with pytest.raises(ValueError, match='form must be "full" or "short", got \'long\''):
        read(tmp_path, content, "long")
