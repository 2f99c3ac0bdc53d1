"""Sentences that were begun, and what a detector is asked about them."""

import numpy as np
import pytest

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
    if world.config.rendering == "english":
        assert head.names([world.vocabulary.id("so"), *begun[0][1:]]) is None


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
