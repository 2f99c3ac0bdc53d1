"""Attempts in biographies and answers."""

import numpy as np
import pytest

from physlm.data.contract import FreshWorld
from physlm.data.streams import OUTSIDE, PackedStream, Source
from physlm.data.tokenizers import BytePairTokenizer
from physlm.randomness import Key
from physlm.worlds.bios import BiographyConfig, BiographyWorld, world_texts
from physlm.worlds.bios.config import Wording
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole
from physlm.worlds.mistakes.world import retry_world

CONFIG = BiographyConfig(seed=0, people=60, variant="multi2+permute")
SPLITS = ("biographies", "questions_train")


@pytest.fixture(scope="module", params=["words", "byte pairs"])
def clean(request):
    if request.param == "words":
        return BiographyWorld(CONFIG)
    return BiographyWorld(CONFIG, BytePairTokenizer.train(world_texts(CONFIG), 2000))


def attempted(world, samples):
    """Text of every attempt, without <back>, with attribute and person of the value after it."""
    attempt, role, tokens = samples.marks["attempt"], samples.marks["role"], samples.tokens
    start = 0
    for back in np.flatnonzero(role == AttemptRole.BACK):
        while attempt[start] == OUTSIDE or (start <= back and attempt[start] != attempt[back]):
            start += 1
        following = back + 1
        while attempt[following] != OUTSIDE:
            following += 1
        assert samples.marks["value_position"][following] == 0
        text = world.world.tokenizer.decode(tokens[start:back]).removeprefix(" ")
        yield text, samples.marks["attribute"][following], samples.marks["person"][following]
        start = back + 1


@pytest.mark.parametrize("split", SPLITS)
def test_attempts_are_other_values_of_the_attribute(clean, split):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.5))
    values = Wording(CONFIG).values
    seen = {name: set() for name in CONFIG.attributes}
    count = 0
    for text, attribute, person in attempted(world, world.render(split, np.arange(world.size(split)))):
        name = CONFIG.attributes[attribute]
        assert text != clean.person(int(person)).facts[name]
        if name != "date":
            assert f" {text}" in values[name][0]
        seen[name].add(text)
        count += 1
    assert count > 100
    assert all(len(texts) > 10 for texts in seen.values())


def test_candidates_are_all_other_values_and_each_once(clean):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.5))
    places = world.errors.places("biographies", np.arange(2))
    values = Wording(CONFIG).values
    names = np.array(CONFIG.attributes)[places.samples.marks["attribute"][places.position]]
    people = places.samples.marks["person"][places.position]
    for place, (name, person) in enumerate(zip(names.tolist(), people.tolist(), strict=True)):
        count = int(places.candidates[place])
        assert count == np.prod([len(texts) for texts in values[name]]) - 1
        number = np.arange(count) if name != "date" else np.arange(0, count, 1 + count // 500)
        written = places.write(np.full(len(number), place), number)
        ends = np.cumsum(written.lengths)
        assert (written.tokens[ends - 1] == clean.vocab_size).all()
        texts = {clean.tokenizer.decode(part[:-1]).removeprefix(" ") for part in np.split(written.tokens, ends[:-1])}
        assert len(texts) == len(number)
        assert clean.person(person).facts[name] not in texts
        if name != "date":
            assert texts == {text[1:] for text in values[name][0]} - {clean.person(person).facts[name]}


@pytest.mark.parametrize("split", SPLITS)
def test_documents_are_clean_ones_with_attempts(clean, split):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.4))
    assert not isinstance(world, FreshWorld), "the people must still be shuffled"
    assert (world.vocab_size, world.back, world.size(split)) == (
        clean.vocab_size + 1,
        clean.vocab_size,
        clean.size(split),
    )
    indices = np.arange(min(world.size(split), 120))
    samples, without = world.render(split, indices), clean.render(split, indices)
    is_clean = samples.marks["attempt"] == OUTSIDE
    assert all(np.array_equal(samples.marks[name][is_clean], mark) for name, mark in without.marks.items())
    assert world.lengths(split)[indices].tolist() == np.diff(samples.offsets).tolist()
    for i in indices.tolist():
        tokens, marks = samples.document(i)
        assert world.strip(tokens).tolist() == without.document(i)[0].tolist()
        assert world.chains(tokens).sum() == marks["attempt"].max() + 1
    for i in range(12):
        sample = world[split, i]
        assert sample.tokens.tolist() == samples.document(i)[0].tolist()
        assert world.check(sample.truth, sample.tokens)


def test_every_exposure_has_other_attempts(clean):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.5, exposures=5))
    size = clean.size("biographies")
    assert world.size("biographies") == len(world.lengths("biographies")) == 5 * size
    versions = [world["biographies", 7 + size * exposure] for exposure in range(5)]
    assert len({version.tokens.tobytes() for version in versions}) == 5
    assert {world.strip(version.tokens).tobytes() for version in versions} == {clean["biographies", 7].tokens.tobytes()}
    assert all(version.truth == clean["biographies", 7].truth for version in versions)
    with pytest.raises(IndexError, match=f"indices of 'biographies' must be in 0..{5 * size - 1}, got {5 * size}"):
        world["biographies", 5 * size]


def test_streams_mix_them_with_clean_questions(clean):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.5))
    mixture = [Source(world, "biographies", 0.5, world.loss_roles("head")), Source(clean, "questions_train", 0.5)]
    stream = PackedStream(mixture, context=128, batch_size=8, key=Key.of("stream"), marks=("role",))
    batch = stream.next_batch()
    assert stream.vocab_size == world.vocab_size
    assert (batch.window[batch.source == 0] == world.back).any()
    assert not (batch.window[batch.source == 1] == world.back).any()
    has_loss, role = batch.targets >= 0, batch.marks["role"]
    assert not has_loss[role == AttemptRole.NAME].any()
    assert has_loss[role == AttemptRole.BACK].all()
    assert has_loss[role < AttemptRole.FRAME].all()


def test_false_values_that_stay_are_found():
    clean = BiographyWorld(CONFIG)
    world = retry_world(clean, RetryConfig(seed=0, rate=0.5))
    sample = next(s for s in (world["biographies", i] for i in range(20)) if s.marks["attempt"].max() >= 0)
    tokens = sample.tokens.tolist()
    back = tokens.index(world.back)
    judgement = world.check(sample.truth, [*tokens[:back], *tokens[back + 1 :]])
    assert not judgement
    assert judgement.position is not None
    assert judgement.position <= back
    judgement = world.check(sample.truth, [world.back, *tokens])
    assert (judgement.position, judgement.reason) == (0, "token 0 is <back>, but there is nothing to take back")
    with pytest.raises(ValueError, match="kind must be 'retry' for a BiographyWorld, got 'retry_miss'"):
        retry_world(clean, RetryConfig(seed=0, rate=0.3, kind="retry_miss"))
