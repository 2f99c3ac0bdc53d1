import pickle
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from physlm.data.contract import World, leakage
from physlm.data.tokenizers import BytePairTokenizer, WordTokenizer
from physlm.worlds.bios import (
    MARKS,
    BiographyConfig,
    BiographyWorld,
    Person,
    PoolSizes,
    Question,
    Role,
    sample_texts,
    world_texts,
)

SMALL = BiographyConfig(seed=3, people=101, celebrities=20, variant="multi2+permute")
REDUCED = BiographyConfig(
    seed=0,
    people=200,
    variant="single+permute2",
    pools=PoolSizes(first=20, middle=20, last=20, bcity=10, univ=10, major=10, cname=10, years=10),
    value_form="short",
    template_form="short",
    templates=4,
    questions="short",
    date_parts=("month",),
    attributes=("date", "major", "cname", "ccity"),
)


@pytest.fixture(scope="module")
def world() -> BiographyWorld:
    return BiographyWorld(SMALL)


@pytest.fixture(scope="module")
def byte_pair_world() -> BiographyWorld:
    texts = [*world_texts(SMALL), *sample_texts(SMALL, 50)]
    return BiographyWorld(SMALL, BytePairTokenizer.train(texts, vocab_size=800))


@pytest.fixture(params=["word", "byte pair"])
def either_world(request, world, byte_pair_world) -> BiographyWorld:
    return {"word": world, "byte pair": byte_pair_world}[request.param]


def test_it_is_a_world(world):
    assert isinstance(world, World)
    assert world.splits == (
        "biographies",
        "celebrity_biographies",
        "questions_train",
        "questions_test",
        "questions_celebrities",
    )
    assert {split: world.size(split) for split in world.splits} == {
        "biographies": 202,
        "celebrity_biographies": 100,
        "questions_train": 300,
        "questions_test": 306,
        "questions_celebrities": 120,
    }
    assert "celebrity_biographies" not in BiographyWorld(REDUCED).splits


def test_any_batch_and_order_equals_one_by_one(either_world):
    world = either_world
    for split in world.splits:
        indices = np.random.default_rng(0).integers(0, world.size(split), 40)
        samples = world.render(split, indices)
        for i, index in enumerate(indices):
            tokens, marks = samples.document(i)
            one = world[split, int(index)]
            assert np.array_equal(tokens, one.tokens)
            assert marks.keys() == one.marks.keys() == set(MARKS)
            assert all(np.array_equal(marks[mark], one.marks[mark]) for mark in MARKS)


def test_some_marks_are_the_same_as_all_marks(world):
    indices = np.arange(50)
    everything = world.render("biographies", indices)
    for mark in MARKS:
        only = world.render("biographies", indices, marks=(mark,))
        assert set(only.marks) == {mark}
        assert np.array_equal(only.marks[mark], everything.marks[mark])
    with pytest.raises(ValueError, match=r"marks must be among role, .* got 'colour'"):
        world.render("biographies", indices, marks=("colour",))


def test_lengths_are_those_of_the_documents(either_world):
    for split in either_world.splits:
        samples = either_world.render(split, np.arange(either_world.size(split)))
        assert np.array_equal(either_world.lengths(split), np.diff(samples.offsets))


def test_no_document_at_all(world):
    assert len(world.render("biographies", np.array([], dtype=np.int64))) == 0


def test_another_process_makes_the_same_world(world):
    program = (
        "from physlm.worlds.bios import *\n"
        "config = BiographyConfig(seed=3, people=101, celebrities=20, variant='multi2+permute')\n"
        "print(BiographyWorld(config).fingerprint())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == world.fingerprint() == BiographyWorld(SMALL).fingerprint()


def test_fingerprint_tells_worlds_apart(world, byte_pair_world):
    others = [BiographyWorld(BiographyConfig(seed=seed, people=101, variant="single")) for seed in (3, 4)]
    assert len({w.fingerprint() for w in (world, byte_pair_world, *others)}) == 4


def test_a_pickled_world_is_the_same_world(world):
    copy = pickle.loads(pickle.dumps(world))
    assert copy.fingerprint() == world.fingerprint()


def test_seeds_differ():
    a, b = (BiographyWorld(BiographyConfig(seed=seed, people=100)) for seed in (0, 1))
    indices = np.arange(100)
    assert leakage(a.render("biographies", indices), b.render("biographies", indices)) == 0
    assert not np.array_equal(a.questions("questions_train")[0], b.questions("questions_train")[0])


def test_documents_and_truths_belong_together(world):
    entry = world["biographies", 101 + 7]
    assert isinstance(entry.truth, Person)
    assert entry.truth == world.person(7)
    celebrity = world["celebrity_biographies", 20 * 4 + 3]
    assert celebrity.truth == world.person(101 + 3)
    assert set(celebrity.marks["person"].tolist()) == {104}
    for split in ("questions_train", "questions_test", "questions_celebrities"):
        person, attribute = world.questions(split)
        question = world[split, 13]
        assert question.truth == Question(world.person(int(person[13])), SMALL.attributes[attribute[13]])
        assert attribute[13] == 13 % 6
        assert person[13] == person[12]
        assert world.tokenizer.decode(question.tokens).endswith(f"Answer: {question.truth.answer}")


def test_questions_split_the_people_in_half(world):
    train, test = (set(world.questions(split)[0].tolist()) for split in ("questions_train", "questions_test"))
    assert not train & test
    assert train | test == set(range(101))
    assert len(train) == 50
    assert set(world.questions("questions_celebrities")[0].tolist()) == set(range(101, 121))


def test_nothing_leaks_from_training_to_test_questions(world):
    everything = {split: world.render(split, np.arange(world.size(split))) for split in world.splits}
    assert leakage(everything["questions_train"], everything["questions_test"]) == 0
    assert leakage(everything["questions_celebrities"], everything["questions_test"]) == 0
    assert leakage(everything["questions_test"], everything["questions_test"]) == 1


def test_documents_hold_no_special_token(either_world):
    tokenizer = either_world.tokenizer
    for split in either_world.splits:
        tokens = either_world.render(split, np.arange(either_world.size(split))).tokens
        assert not np.isin(tokens, [tokenizer.pad, tokenizer.eos, tokenizer.mask]).any()


def test_tokens_are_those_of_the_text(either_world):
    for split in either_world.splits:
        indices = np.arange(0, either_world.size(split), 11)
        samples = either_world.render(split, indices)
        for i, text in enumerate(either_world.texts(split, indices)):
            assert either_world.tokenizer.encode(text) == samples.document(i)[0].tolist()


def runs(mark: np.ndarray) -> list[slice]:
    """Where neighbouring tokens have the same mark."""
    edges = [0, *(np.flatnonzero(np.diff(mark)) + 1).tolist(), len(mark)]
    return [slice(a, b) for a, b in pairwise(edges)]


def test_marks_of_biographies_agree_with_the_text(either_world):
    world, decode = either_world, either_world.tokenizer.decode
    for i in range(0, world.size("biographies"), 9):
        sample = world["biographies", i]
        tokens, marks, person = sample.tokens, sample.marks, sample.truth
        assert set(marks["person"].tolist()) == {person.id}
        told = []
        for number, sentence in enumerate(runs(marks["sentence"])):
            assert set(marks["sentence"][sentence].tolist()) == {number}
            (attribute,) = set(marks["attribute"][sentence].tolist())
            told.append(attribute)
            roles = [Role(marks["role"][sentence][part.start]) for part in runs(marks["role"][sentence])]
            assert roles == [Role.NAME if number == 0 else Role.PRONOUN, Role.TEMPLATE, Role.VALUE, Role.TEMPLATE]
            value = marks["role"][sentence] == Role.VALUE
            assert decode(tokens[sentence][value]) == f" {person.facts[SMALL.attributes[attribute]]}"
            position = marks["value_position"][sentence]
            assert position[value].tolist() == list(range(value.sum()))
            assert set(position[~value].tolist()) == {-1}
        assert sorted(told) == list(range(6))
        assert decode(tokens[marks["role"] == Role.NAME]) == f" {person.name}"
        starts = world.value_starts("biographies", np.array([i]))[0]
        assert marks["attribute"][starts].tolist() == list(range(6))
        assert set(marks["value_position"][starts].tolist()) == {0}


def test_marks_of_questions_agree_with_the_text(either_world):
    world, decode = either_world, either_world.tokenizer.decode
    for i in range(0, world.size("questions_test"), 17):
        sample = world["questions_test", i]
        roles = [Role(sample.marks["role"][part.start]) for part in runs(sample.marks["role"])]
        assert roles == [Role.QUESTION, Role.NAME, Role.QUESTION, Role.VALUE]
        assert decode(sample.tokens[sample.marks["value_position"] >= 0]) == f" {sample.truth.answer}"
        assert SMALL.attributes[sample.marks["attribute"][0]] == sample.truth.attribute
        assert set(sample.marks["person"].tolist()) == {sample.truth.person.id}
        (prompt,) = world.prompts("questions_test", np.array([i]))
        (answer,) = world.answers("questions_test", np.array([i]))
        assert np.array_equal(np.concatenate([prompt, answer]), sample.tokens)
        assert decode(prompt).endswith("Answer:")
        assert decode(answer) == f" {sample.truth.answer}"
        assert world.value_starts("questions_test", np.array([i])).tolist() == [[len(prompt)]]


def test_word_marks_are_those_of_the_tokenizer(either_world):
    for split in either_world.splits:
        sample = either_world[split, 5]
        expected = np.cumsum(either_world.tokenizer.word_starts(sample.tokens)) - 1
        assert np.array_equal(sample.marks["word"], expected)


def test_chance_is_that_of_the_best_constant_answer(world):
    config = BiographyConfig(seed=0, people=20_000)
    big = BiographyWorld(config)
    chance = big.chance()
    indices = np.arange(config.people)
    samples = big.render("biographies", indices, marks=())
    starts = big.value_starts("biographies", indices) + samples.offsets[:-1, None]
    for column, attribute in enumerate(config.attributes):
        most = np.bincount(samples.tokens[starts[:, column]]).max() / config.people
        assert most == pytest.approx(chance["first_token"][attribute], rel=0.15, abs=0.004)
    most = np.bincount(big.people.values["ccity"]).max() / config.people
    assert most == pytest.approx(chance["whole"]["ccity"], rel=0.1)
    assert chance["whole"]["ccity"] == pytest.approx(36 / 263)
    assert chance["whole"]["date"] == pytest.approx(1 / 67_200)
    assert world.chance() == chance


def test_a_reduced_world(world):
    small = BiographyWorld(REDUCED)
    assert small.vocab_size < 200 < world.vocab_size
    assert small.size("questions_train") == 400
    for split in small.splits:
        for i in range(0, small.size(split), 13):
            sample = small[split, i]
            assert small.check(sample.truth, sample.tokens), small.check(sample.truth, sample.tokens).reason
    assert set(small.person(0).facts) == set(REDUCED.attributes)
    assert small.person(0).facts["date"].isalpha()
    # One token per value, three of the name, two words and a full stop: 4 sentences.
    assert set(small.lengths("biographies").tolist()) == {4 * 5 + 2}
    assert set(small.chance()["whole"]) == set(REDUCED.attributes)
    assert small.chance()["first_token"]["date"] == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        (("month", "day", "year"), r"[A-Z]\w+ \d+, \d{4}"),
        (("month", "day"), r"[A-Z]\w+ \d+"),
        (("month", "year"), r"[A-Z]\w+ \d{4}"),
        (("day", "year"), r"\d+, \d{4}"),
        (("year",), r"\d{4}"),
    ],
)
def test_date_parts(parts, form):
    world = BiographyWorld(BiographyConfig(seed=0, people=10, date_parts=parts))
    for i in range(10):
        sample = world["biographies", i]
        assert world.check(sample.truth, sample.tokens)
        assert re.fullmatch(form, sample.truth.facts["date"])
    assert len(world.chance()["first_token"]) == 6


def test_a_tokenizer_that_cuts_values_differently_is_refused():
    class Merging(WordTokenizer):
        """Joins the answer marker with the word after it."""

        def encode(self, text):
            ids = super().encode(text)
            colon = super().encode(":")[0]
            if colon in ids[:-1]:
                del ids[ids.index(colon)]
            return ids

    with pytest.raises(ValueError, match="tokenized differently"):
        BiographyWorld(SMALL, Merging.from_texts(world_texts(SMALL)))


def test_a_vocabulary_with_holes_is_refused():
    with pytest.raises(ValueError, match="not in this closed vocabulary"):
        BiographyWorld(SMALL, WordTokenizer.from_texts(world_texts(SMALL)[10:]))


def test_wrong_splits_and_indices(world):
    with pytest.raises(ValueError, match=r"split must be one of biographies, .* got 'train'"):
        world.size("train")
    with pytest.raises(ValueError, match=r"split must be one of questions_train, .* got 'biographies'"):
        world.prompts("biographies", np.arange(2))
    with pytest.raises(IndexError, match=r"indices of 'biographies' must be in 0..201, got 202"):
        world["biographies", 202]
    with pytest.raises(IndexError, match="got -1"):
        world["biographies", -1]
    with pytest.raises(ValueError, match="flat array of integers"):
        world.render("biographies", np.array([0.5]))
    with pytest.raises(IndexError, match=r"person must be in 0\.\.120, got 121"):
        world.person(121)


def test_sample_texts_are_biographies():
    texts = sample_texts(SMALL, 5)
    assert len(texts) == 5
    assert all(text.startswith(" ") and text.endswith(".") for text in texts)
    assert len(sample_texts(REDUCED, 10_000)) == 400


def test_golden_fingerprint(world):
    """A change here means that every recorded result is about another world: make it knowingly."""
    assert world.fingerprint() == "31293b1ed2dc7530532992cbf3c07b05"
