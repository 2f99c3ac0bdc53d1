"""Sentences that were begun, and what a detector is asked about them."""

import numpy as np
import pytest

from physlm.data.tokenizers import BytePairTokenizer
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.labels import labels
from physlm.worlds.igsm.openings import Head, draw_openings
from physlm.worlds.igsm.world import IGSMWorld

KEY = Key.of("openings", 0)


@pytest.fixture(scope="module", params=["english", "compact"])
def world(request):
    config = IGSMConfig(seed=0, rendering=request.param, max_operations=6, modulus=7, names_per_category=20)
    return IGSMWorld(config)


def sentences_of(world, solution):
    ends = 1 + np.flatnonzero(solution == world.vocabulary.id("."))
    return np.split(solution, ends)[: len(ends)]


def test_a_head_is_how_sentences_begin(world):
    head = Head(world.vocabulary, world.config.rendering)
    for problem in world.problems("test", np.arange(20)):
        sentences = sentences_of(world, world.renderer.solution(problem))
        names = [world.vocabulary.name(problem, problem.parameters[one]) for one in problem.solution]
        assert [head.names(sentence) for sentence in sentences] == names
        begun = head.of(np.array(names))
        for sentence, words in zip(sentences, begun, strict=True):
            assert sentence[: head.read(sentence)].tolist() == words.tolist()
            retracted = [*words, world.vocabulary.back, world.vocabulary.id(".")]
            assert head.names(retracted) is None
            assert head.read(words[:-1]) is None
    stop, letter = world.vocabulary.id("."), world.vocabulary.letter(0)
    for place, token in enumerate(begun[0].tolist()):
        for other in (stop, letter, world.vocabulary.number(1)):
            wrong = [*begun[0][:place].tolist(), other, *begun[0][place + 1 :].tolist()]
            assert head.names(wrong) is None, token


@pytest.mark.parametrize("count", [1, 5])
def test_openings_are_beginnings_of_solutions_with_the_truth_about_what_is_named(world, count):
    indices = np.arange(7, 47)
    found = draw_openings(world, "train", indices, KEY, count=count)
    head = Head(world.vocabulary, world.config.rendering)
    problems = world.problems("train", indices)
    assert len(found.ready) == len(found.samples) >= len(indices)
    told = [world.renderer.prompt(problem).tolist() for problem in problems]
    seen = set()
    for document, ready in enumerate(found.ready):
        tokens = found.samples.document(document)[0].tolist()
        (row,) = {row for row, prompt in enumerate(told) if tokens[: len(prompt)] == prompt}
        problem, solution = problems[row], world.renderer.solution(problems[row])
        written = tokens[len(told[row]) :]
        before = written[: -len(head)].count(world.vocabulary.id("."))
        assert written[: -len(head)] == np.concatenate([[], *sentences_of(world, solution)[:before]]).tolist()
        names = head.names(written[-len(head) :])
        (parameter,) = (n for n, p in enumerate(problem.parameters) if world.vocabulary.name(problem, p) == names)
        assert before < len(problem.solution), "after the last sentence there is an answer and no sentence"
        assert ready == labels(problem, before, existing_only=True)["can_next"][parameter]
        seen.add((row, before, parameter))
    assert len(seen) == len(found.ready)
    assert 0.1 < found.ready.mean() < 0.9


def test_an_opening_depends_on_its_problem_alone(world):
    many = draw_openings(world, "test", np.arange(20), KEY)
    few = draw_openings(world, "test", np.array([4, 11]), KEY)
    for document, index in enumerate((4, 11)):
        assert np.array_equal(few.samples.document(document)[0], many.samples.document(index)[0])
        assert few.ready[document] == many.ready[index]
    other = draw_openings(world, "test", np.arange(20), Key.of("openings", 1))
    assert not np.array_equal(other.samples.tokens, many.samples.tokens)


def test_what_cannot_be_begun_is_refused(world):
    with pytest.raises(ValueError, match="count must be ≥ 1, got 0"):
        draw_openings(world, "test", np.arange(2), KEY, count=0)


def test_worlds_of_subwords_are_refused():
    world = IGSMWorld(IGSMConfig(seed=0, max_operations=6))
    samples = world.render("train", np.arange(40), marks=())
    texts = (world.vocabulary.decode(samples.document(i)[0]) for i in range(40))
    subwords = IGSMWorld(world.config, BytePairTokenizer.train(texts))
    with pytest.raises(ValueError, match="tokenizer of the iGSM world must be None"):
        draw_openings(subwords, "test", np.arange(2), KEY)
