"""Attempts in sentences of grammars, against the judge of the grammar world."""

import numpy as np
import pytest

from physlm.data.contract import FreshWorld
from physlm.data.streams import IGNORE, OUTSIDE, PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.cfg import CFGConfig, CFGWorld, Corruption, Grammar, Implicit, Rule
from physlm.worlds.cfg.judge import Judge
from physlm.worlds.cfg.marks import Role
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole
from physlm.worlds.mistakes.world import retry_world

CONFIG = RetryConfig(seed=0, rate=0.3)
RECURSIVE = Grammar(
    name="brackets",
    root="s",
    rules=(Rule("s", ("open", "s", "close"), 0.4), Rule("s", ("open", "close"), 0.6)),
)
WORLDS = {
    "layered": CFGConfig(seed=0, grammar="cfg3b", root="19"),
    "deeper": CFGConfig(seed=0, grammar="cfg3f", root="19", bos=False),
    "recursive": CFGConfig(seed=0, grammar=RECURSIVE),
    "implicit": CFGConfig(seed=0, grammar="cfg3b", root="19", implicit=Implicit(observables=12)),
}


@pytest.fixture(scope="module", params=WORLDS)
def clean(request):
    return CFGWorld(WORLDS[request.param])


def judge_of(world):
    return Judge(world.grammar, None if world.bags is None else world.bags.membership)


def test_candidates_are_the_tokens_that_no_sentence_goes_on_with(clean):
    world, judge = retry_world(clean, CONFIG), judge_of(clean)
    documents = 6
    places = world.errors.places("train", np.arange(documents))
    number = np.concatenate([np.arange(count) for count in places.candidates])
    written = places.write(np.repeat(np.arange(len(places.candidates)), places.candidates), number)
    tokens = written.tokens.reshape(-1, 2)
    assert (tokens[:, 1] == clean.vocab_size).all()
    sentences, at, place = clean.sentences("train", np.arange(documents)), 0, 0
    for document, sentence in enumerate(sentences):
        assert places.first[document] == place
        for read in range(len(sentence)):
            found = tokens[at : at + places.candidates[place], 0].tolist()
            prefix = sentence[:read].tolist()
            wrong = [
                token
                for token in range(1, clean.alphabet_size + 1)
                if judge.judge([*prefix, token]).position == read and clean_has(clean, token)
            ]
            assert found == wrong
            assert places.position[place] == places.samples.offsets[document] + clean.config.bos + read
            at, place = at + len(found), place + 1
    assert 0 < at == len(tokens)


def clean_has(world, token):
    return world.bags is None or world.bags.membership[:, token - 1].any()


def test_documents_are_clean_ones_with_attempts(clean):
    world = retry_world(clean, CONFIG)
    assert isinstance(world, FreshWorld)
    assert (world.vocab_size, world.back) == (clean.vocab_size + 1, clean.vocab_size)
    indices = np.arange(150)
    samples, without = world.render("test", indices), clean.render("test", indices)
    attempts = samples.marks["attempt"]
    assert (attempts >= 0).sum() == 2 * (samples.tokens == world.back).sum() > 100
    assert (samples.marks["role"][attempts >= 0].reshape(-1, 2) == [AttemptRole.NAME, AttemptRole.BACK]).all()
    assert (samples.marks["terminal"][attempts >= 0] == OUTSIDE).all()
    for name, mark in without.marks.items():
        assert np.array_equal(samples.marks[name][attempts == OUTSIDE], mark)
    for i in range(len(samples)):
        tokens, marks = samples.document(i)
        assert world.strip(tokens).tolist() == without.document(i)[0].tolist()
        assert world.chains(tokens).sum() == marks["attempt"].max() + 1
        assert world.check(None, tokens)


def test_positions_of_the_judgement_are_those_in_the_document():
    clean = CFGWorld(WORLDS["layered"])
    world = retry_world(clean, CONFIG)
    sample = next(s for s in (world["test", i] for i in range(20)) if len(world.chains(s.tokens)) > 3)
    tokens = sample.tokens.tolist()
    at = tokens.index(world.back)
    judgement = world.check(None, [*tokens[:at], *tokens[at + 1 :]])  # what was attempted is not taken back
    assert (judgement.correct, judgement.position) == (False, at - 1)
    assert world.check(None, tokens[:-1]).position == len(tokens) - 1
    judgement = world.check(None, [tokens[0], world.back, *tokens[1:]])
    assert (judgement.correct, judgement.position) == (False, 1)
    assert judgement.reason == "token 1 is <back>, but there is nothing to take back"
    assert world.check(None, [tokens[0], 1, world.back, 2, world.back, world.back, *tokens[1:]]).position == 5


def test_nothing_is_attempted_once_a_sentence_has_left_the_language():
    config = CFGConfig(seed=0, grammar="cfg3b", root="19", corruption=Corruption.paper("terminal", share=1.0))
    clean = CFGWorld(config)
    world = retry_world(clean, RetryConfig(seed=0, rate=0.9))
    samples, left = world.render("train", np.arange(40)), 0
    for i, sentence in enumerate(clean.sentences("train", np.arange(40))):
        wrong = judge_of(clean).judge(sentence).position
        if wrong is None or wrong == len(sentence):
            continue
        _, marks = samples.document(i)
        read = np.cumsum(marks["attempt"] == OUTSIDE)[marks["attempt"] >= 0] - clean.config.bos
        assert read.max(initial=0) <= wrong
        left += 1
    assert left > 20


def test_loss_on_attempts_is_masked():
    world = retry_world(CFGWorld(WORLDS["layered"]), CONFIG)
    assert world.loss_roles() is None
    learned = world.loss_roles("head", roles=(Role.TOKEN, OUTSIDE))
    source = Source(world, "train", loss_roles=learned)
    stream = PackedStream(
        [source], context=64, batch_size=4, key=Key.of("stream"), marks=("role",), overflow="continue"
    )
    batch = stream.next_batch()
    assert batch.window.max() < stream.vocab_size == world.vocab_size
    has_loss = batch.targets != IGNORE
    role = batch.marks["role"]
    assert (role == AttemptRole.NAME).any()
    assert np.array_equal(has_loss, (role != AttemptRole.NAME) & (role != Role.BEGIN))


def test_other_kinds_and_grammars_of_any_string_are_refused():
    with pytest.raises(ValueError, match="kind must be 'retry' for a CFGWorld, got 'retry_weak'"):
        retry_world(CFGWorld(WORLDS["layered"]), RetryConfig(seed=0, rate=0.3, kind="retry_weak"))
    anything = Grammar(name="anything", root="s", rules=(Rule("s", ("a",), 0.5), Rule("s", ("b",), 0.5)))
    with pytest.raises(ValueError, match="no candidates of kind 'retry' in the first 32 documents"):
        retry_world(CFGWorld(CFGConfig(seed=0, grammar=anything)), CONFIG)
