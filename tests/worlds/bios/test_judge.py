from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physlm.worlds.bios import BiographyConfig, BiographyWorld, Person, PoolSizes, Question
from physlm.worlds.bios.templates import load_templates

FULL = BiographyWorld(BiographyConfig(seed=1, people=50, celebrities=10, variant="single+permute2"))
TINY = {
    "seed": 0,
    "people": 40,
    "pools": PoolSizes(first=5, middle=5, last=5, bcity=4, univ=4, major=4, cname=4, years=4),
    "value_form": "short",
    "template_form": "short",
    "templates": 2,
    "questions": "short",
    "date_parts": ("day", "year"),
    "attributes": ("date", "cname", "ccity"),
}
WORLDS = [BiographyWorld(BiographyConfig(variant=f"multi2+permute{subject}", **TINY)) for subject in ("", "+fullname")]


def encode(text: str) -> list[int]:
    return FULL.tokenizer.encode(text)


def judge(text: str, truth: Person | Question):
    return FULL.check(truth, encode(text))


def true_texts(world: BiographyWorld, person: Person) -> set[str]:
    """Every true biography of a person, by listing them all."""
    fullname = "fullname" in world.config.variant
    sentences = load_templates("short").sentences
    texts = set()
    for order in permutations(world.config.attributes):
        for chosen in product(range(2), repeat=len(order)):
            subjects = [person.name] + [person.name if fullname else person.pronoun] * (len(order) - 1)
            known = [sentences[attribute][c] for attribute, c in zip(order, chosen, strict=True)]
            texts.add(
                "".join(
                    f" {subject}{before} {person.facts[attribute]}{after}"
                    for subject, attribute, (before, after) in zip(subjects, order, known, strict=True)
                )
            )
    return texts


@st.composite
def mutated(draw, world: BiographyWorld, split: str):
    """A document and one to three changes to its tokens."""
    index = st.integers(0, world.size(split) - 1)
    sample, other = world[split, draw(index)], world[split, draw(index)]
    tokens = sample.tokens.tolist()
    token = st.integers(0, world.vocab_size - 1)
    for _ in range(draw(st.integers(1, 3))):
        # Both ends are favoured, where a judge that stops early would not look.
        place = st.one_of(st.integers(0, len(tokens)), st.sampled_from([0, max(len(tokens) - 1, 0), len(tokens)]))
        i, j = sorted((draw(place), draw(place)))
        match draw(st.sampled_from(["replace", "swap", "drop", "repeat", "insert", "graft", "cut", "take"])):
            case "replace":
                tokens[i : i + 1] = [draw(token)]
            case "swap" if j < len(tokens):
                tokens[i], tokens[j] = tokens[j], tokens[i]
            case "drop":
                del tokens[i : j + 1]
            case "repeat":
                tokens[j:j] = tokens[i:j]
            case "insert":
                tokens[i:i] = [draw(token)]
            case "graft":
                tokens[i : j + 1] = other.tokens[i : j + 1].tolist()
            case "cut":
                tokens = tokens[:i]
            case "take":
                tokens = sentence_swapped(tokens, other.tokens.tolist(), draw, world)
    return sample.truth, tokens


def sentence_swapped(tokens, other, draw, world):
    """One whole sentence replaced, dropped, repeated or taken from elsewhere."""
    (stop,) = world.tokenizer.encode(".")

    def cut(ids):
        ends = [i + 1 for i, token in enumerate(ids) if token == stop]
        return [ids[a:b] for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]

    sentences = cut(tokens)
    i = draw(st.integers(0, len(sentences) - 1))
    sentences[i : i + draw(st.integers(0, 1))] = [draw(st.sampled_from([*sentences, *cut(other)]))]
    return [token for sentence in sentences for token in sentence]


def assert_judged_rightly(world, truth, tokens, valid):
    """`valid` is the set of all true texts."""
    judgement = world.check(truth, tokens)
    text = world.tokenizer.decode(tokens)
    special = [i for i, token in enumerate(tokens) if token in (world.pad, world.eos, world.tokenizer.mask)]
    assert judgement.correct == (not special and text in valid)
    if judgement.correct:
        assert judgement.position is None
        assert judgement.reason == ""
        return

    def possible(count):
        first = world.tokenizer.decode(tokens[:count])
        return not any(i < count for i in special) and any(true.startswith(first) for true in valid)

    assert judgement.reason
    assert possible(judgement.position)
    assert judgement.position == len(tokens) or not possible(judgement.position + 1)


@pytest.mark.parametrize("world", WORLDS, ids=["pronoun", "fullname"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutated_biography_is_accepted_unless_it_is_true(world, data):
    truth, tokens = data.draw(mutated(world, "biographies"))
    assert_judged_rightly(world, truth, tokens, true_texts(world, truth))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutated_question_is_accepted_unless_it_is_true(data):
    world = WORLDS[0]
    truth, tokens = data.draw(mutated(world, "questions_train"))
    wording = load_templates("short")  # TINY asks the short questions
    before, between, after = wording.questions[truth.attribute]
    expected = f"{before} {truth.person.name}{between} {truth.answer}{after}"
    assert_judged_rightly(world, truth, tokens, {expected})


@pytest.mark.parametrize("world", WORLDS, ids=["pronoun", "fullname"])
def test_all_true_biographies_are_accepted(world):
    person = world.person(0)
    texts = true_texts(world, person)
    assert len(texts) == 6 * 2**3
    assert all(world.check(person, world.tokenizer.encode(text)) for text in texts)


def test_the_biography_of_someone_else_is_false():
    for i in range(10):
        sample = FULL["biographies", i]
        assert not FULL.check(FULL.person(i + 1), sample.tokens)


def test_celebrities_are_judged_by_their_own_variant():
    config = {"seed": 1, "people": 5, "celebrities": 5}
    world = BiographyWorld(BiographyConfig(variant="single", celebrity_variant="multi2+fullname", **config))
    swapped = BiographyWorld(BiographyConfig(variant="single+fullname", celebrity_variant="multi2", **config))
    for split in ("biographies", "celebrity_biographies"):
        sample = world[split, 0]
        assert world.check(sample.truth, sample.tokens)
        assert "the subject is" in swapped.check(sample.truth, sample.tokens).reason


@pytest.fixture
def entry():
    """A person and the sentences of their biography in base order."""
    person = FULL.person(0)
    sentences = {name: load_templates("full").sentences[name][0] for name in person.facts}
    subjects = [person.name] + [person.pronoun] * 5
    texts = {
        name: f" {subject}{before} {person.facts[name]}{after}"
        for subject, (name, (before, after)) in zip(subjects, sentences.items(), strict=True)
    }
    return person, texts


def test_reason_wrong_value(entry):
    person, texts = entry
    other = next(
        FULL.person(i).facts["cname"] for i in range(1, 50) if FULL.person(i).facts["cname"] != person.facts["cname"]
    )
    text = "".join(texts.values()).replace(person.facts["cname"], other)
    judgement = judge(text, person)
    assert judgement.reason == (
        f"sentence 5: the employer is given as {other!r}, of {person.name} it is {person.facts['cname']!r}"
    )
    before = "".join(list(texts.values())[:4]) + texts["cname"].removesuffix(f" {person.facts['cname']}.")
    assert judgement.position == len(encode(before))


def test_reason_missing_repeated_and_unknown_sentences(entry):
    person, texts = entry
    five = "".join(list(texts.values())[:5])
    assert judge(five, person).reason == "missing after sentence 5: city of the employer"
    assert judge(five, person).position == len(encode(five))
    assert judge(five + texts["cname"], person).reason == "sentence 6: the employer is told again"
    assert "sentence 6 is no known sentence: 'on on on.'" in judge(f"{five} on on on.", person).reason
    whole = five + texts["ccity"]
    assert judge(whole, person)
    assert judge(whole + texts["ccity"], person).reason.startswith("all is told after sentence 6, but the text goes on")
    half = FULL.check(person, encode(whole)[:-2])
    assert half.reason.startswith("the text ends within sentence 6")
    assert FULL.check(person, []).reason.startswith("missing after sentence 0: birth date, birth city")


def test_reason_wrong_subject(entry):
    person, texts = entry
    wrong = next(pronoun for pronoun in ("He", "She") if pronoun != person.pronoun)
    text = texts["date"] + texts["univ"].replace(f" {person.pronoun} ", f" {wrong} ", 1)
    judgement = judge(text, person)
    assert judgement.reason == f"sentence 2: the subject is {wrong!r}, it must be {person.pronoun!r}"
    assert judgement.position == len(encode(texts["date"]))


def test_special_tokens_are_faults(entry):
    person, texts = entry
    tokens = encode("".join(texts.values()))
    judgement = FULL.check(person, [*tokens, FULL.eos])
    assert (judgement.correct, judgement.position) == (False, len(tokens))
    assert "special token" in judgement.reason


def test_reasons_of_questions():
    sample = FULL["questions_train", 0]
    question, other = sample.truth, FULL["questions_train", 6]
    name, answer = question.person.name, question.answer
    text = FULL.tokenizer.decode(sample.tokens)
    wrong = judge(text.replace(answer, other.truth.answer), question)
    assert wrong.reason == f"the answer is {other.truth.answer!r}, the birth date of {name} is {answer!r}"
    assert text.startswith(FULL.tokenizer.decode(sample.tokens[: wrong.position]))
    assert f"not about {name!r}" in judge(text.replace(name, other.truth.person.name), question).reason
    assert "not the question about the birth date" in FULL.check(question, FULL["questions_train", 1].tokens).reason
    assert FULL.check(question, sample.tokens[:-1]).position == len(sample.tokens) - 1
    assert not FULL.check(question, np.append(sample.tokens, encode(".")))
