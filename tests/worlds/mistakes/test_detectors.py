"""What perfect detectors say of right and wrong sentences."""

import numpy as np
import pytest

from physlm.worlds.bios import BiographyConfig, BiographyWorld
from physlm.worlds.cfg import CFGConfig, CFGWorld
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.labels import labels
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.detectors import JudgeDetector, ReadinessDetector
from physlm.worlds.mistakes.world import retry_world

COUNT = 30


@pytest.fixture(scope="module", params=["english", "compact"])
def world(request):
    return IGSMWorld(IGSMConfig(seed=0, rendering=request.param, modulus=7, names_per_category=20))


def sentences_of(world, solution):
    """Where each sentence of a solution begins and ends."""
    ends = 1 + np.flatnonzero(solution == world.vocabulary.id("."))
    return zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)


def named(world, problem, parameter):
    """The beginning of a sentence about a parameter, and a full stop."""
    outer, inner = world.vocabulary.name(problem, problem.parameters[parameter])
    vocabulary = world.vocabulary
    if world.config.rendering == "compact":
        return [outer, inner, vocabulary.letter(3), vocabulary.id(".")]
    return [vocabulary.id("Define"), outer, vocabulary.id("'s"), inner, vocabulary.id("as"), vocabulary.id(".")]


def test_readiness_is_that_of_the_labels(world):
    problems = world.problems("test", np.arange(COUNT))
    detector = ReadinessDetector(world.vocabulary, world.config.rendering, problems)
    numbers, texts, begins, expected = [], [], [], []
    for number, problem in enumerate(problems):
        prompt, solution = world.renderer.prompt(problem), world.renderer.solution(problem)
        for read, (start, end) in enumerate(sentences_of(world, solution)):
            state = labels(problem, read, existing_only=True)["can_next"]
            before = [*prompt, *solution[:start]]
            for parameter in range(len(problem.parameters)):
                numbers.append(number)
                texts.append(np.array([*before, *named(world, problem, parameter)]))
                begins.append(len(before))
                expected.append(not state[parameter])
            numbers.append(number)
            texts.append(np.array([*before, *solution[start:end]]))
            begins.append(len(before))
            expected.append(False)
    assert detector(np.array(numbers), texts, np.array(begins)).tolist() == expected
    assert 0.2 < np.mean(expected) < 0.9


def test_readiness_has_no_opinion_on_what_defines_nothing(world):
    vocabulary = world.vocabulary
    problem = world["test", 0].truth
    detector = ReadinessDetector(vocabulary, world.config.rendering, [problem])
    prompt = world.renderer.prompt(problem).tolist()
    last = named(world, problem, problem.query)
    stop, back = vocabulary.id("."), vocabulary.back
    unknown = [*last]
    unknown[last.index(vocabulary.name(problem, problem.parameters[problem.query])[0])] = len(vocabulary) - 1
    assert len(problem.solution) > 1
    assert detector(np.array([0]), [np.array([*prompt, *last])], np.array([len(prompt)])).tolist() == [True]
    for sentence in ([stop], [*last[:-1], back, stop], last[1:], unknown):
        text = np.array([*prompt, *sentence])
        assert detector(np.array([0]), [text], np.array([len(prompt)])).tolist() == [False]
    # What was taken back has not been computed, and what was computed wrongly has.
    everything = [token for p in problem.solution[:-1] for token in named(world, problem, p)]
    retracted = [token for p in problem.solution[:-1] for token in [*named(world, problem, p)[:-1], back, stop]]
    for before, is_wrong in ((everything, False), (retracted, True), ([*everything, *last], True)):
        text = np.array([*prompt, *before, *last])
        assert detector(np.array([0]), [text], np.array([len(prompt) + len(before)])).tolist() == [is_wrong]


def test_the_judge_objects_to_the_sentence_with_the_first_mistake(world):
    problems = world.problems("test", np.arange(COUNT))
    detector = JudgeDetector(world, problems, skip=1)
    numbers, texts, begins, expected = [], [], [], []
    for number, problem in enumerate(problems):
        document = np.array([world.eos, *world.renderer.prompt(problem), *world.renderer.solution(problem)])
        first = len(world.renderer.prompt(problem)) + 1
        spans = [(first + start, first + end) for start, end in sentences_of(world, document[first:])]
        wrong = document.copy()
        sentence = number % len(spans)
        result = spans[sentence][1] - 2  # the number before the full stop
        wrong[result] = world.vocabulary.number((wrong[result] - world.vocabulary.first_number + 1) % 7)
        for text in (document, wrong):
            for place, (start, end) in enumerate(spans):
                numbers.append(number)
                texts.append(text[:end])
                begins.append(start)
                expected.append(text is wrong and place == sentence)
    assert detector(np.array(numbers), texts, np.array(begins)).tolist() == expected


def test_judges_of_other_worlds_detect_as_well():
    grammar = CFGWorld(CFGConfig(seed=0, grammar="cfg3b", root="19"))
    sentence = grammar["test", 0].tokens
    detector = JudgeDetector(grammar, [None])
    for read in range(2, len(sentence)):
        assert not detector(np.array([0]), [sentence[:read]], np.array([read - 1]))[0]
        continuations = [np.array([*sentence[:read], token]) for token in (1, 2, 3)]
        judged = [grammar.check(None, text).position == read for text in continuations]
        assert detector(np.zeros(3, dtype=int), continuations, np.full(3, read)).tolist() == judged

    bios = retry_world(BiographyWorld(BiographyConfig(seed=0, people=20)), RetryConfig(seed=0, rate=0.5))
    sample = next(s for s in (bios["biographies", i] for i in range(20)) if s.marks["attempt"].max() >= 0)
    begin, end = 0, int(np.argmax(sample.tokens == bios.back))
    value = int(np.argmax(sample.marks["attempt"] == 0))
    detector = JudgeDetector(bios, [sample.truth])
    assert detector(np.array([0]), [sample.tokens[:end]], np.array([value])).tolist() == [True]
    assert detector(np.array([0]), [sample.tokens[: end + 1]], np.array([value])).tolist() == [False]
    assert detector(np.array([0]), [sample.tokens[:value]], np.array([begin])).tolist() == [False]
    with pytest.raises(ValueError, match="skip must be ≥ 0, got -1"):
        JudgeDetector(bios, [], skip=-1)
