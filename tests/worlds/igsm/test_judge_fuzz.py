"""The judge against a slow one that reads text, on solutions that were drawn, rewritten and spoilt.

`scripts/fuzz_igsm_judge.py` does the same with a million spoilt solutions.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from igsm_fuzz import CONFIGS, Arena
from igsm_mutations import Mutator

PROBLEMS = 40


@pytest.fixture(scope="module")
def arenas():
    return {name: Arena(name, 5, PROBLEMS, random.Random(name)) for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dialect", ["english", "compact"])
def test_drawn_solutions_are_right(arenas, name, dialect):
    arena = arenas[name]
    solutions = arena.written(arena.problems, dialect)
    for strict in (True, False):
        verdicts = arena.judges[dialect].check_many(arena.problems, solutions, strict=strict)
        assert verdicts.correct.all()
        for problem, verdict in zip(arena.problems, verdicts, strict=True):
            assert verdict.defined == problem.solution
            assert verdict.steps == len(problem.letters)
            if name != "everything":
                assert (verdict.unnecessary_parameters, verdict.unnecessary_operations) == (0, 0)
    assert any(verdict.unnecessary_parameters for verdict in verdicts) == (name == "everything")


@pytest.mark.parametrize("name", CONFIGS)
def test_any_valid_order_is_right(arenas, name):
    arena = arenas[name]
    numbers = [number for number in range(PROBLEMS) for _ in range(5)]
    rewritten = [arena.reordered(number) for number in numbers]
    problems = [arena.problems[number] for number in numbers]
    for dialect in ("english", "compact"):
        solutions = arena.written(rewritten, dialect)
        verdicts = arena.judges[dialect].check_many(problems, solutions)
        assert verdicts.correct.all()
        assert [verdict.defined for verdict in verdicts] == [problem.solution for problem in rewritten]
        if dialect == "english":
            for number, tokens, verdict in zip(numbers, solutions, verdicts, strict=True):
                assert not arena.difference(number, tokens, verdict, strict=True)
            exchanged = [arena.exchanged(tokens.tolist()) for tokens in solutions]
            assert arena.judges[dialect].check_many(problems, exchanged).correct.all()


def agree(arena, mutator, draw, *, strict):
    """Spoil a solution and compare; the reason."""
    number = draw.randrange(PROBLEMS)
    tokens, done = mutator.spoil(arena.solutions[number], arena.solutions[draw.randrange(PROBLEMS)])
    problem, judge = arena.problems[number], arena.judges["english"]
    verdict = judge.check(problem, tokens, strict=strict)
    assert not (difference := arena.difference(number, tokens, verdict, strict=strict)), (done, difference)
    if not verdict:
        # Nothing before the wrong token is wrong.
        cut = judge.check(problem, tokens[: verdict.position], strict=strict)
        if verdict.expected == "the end":
            assert cut.correct
        else:
            assert (cut.reason, cut.position) == ("format", verdict.position)
    if not (strict or verdict):
        assert not judge.check(problem, tokens).correct  # whatever is wrong for a lenient judge is for a strict one
    return verdict.reason


@pytest.mark.parametrize("name", CONFIGS)
def test_spoilt_solutions_are_judged_as_by_the_oracle(arenas, name):
    draw = random.Random(f"spoilt {name}")
    mutator = Mutator(arenas[name].vocabulary, draw)
    reasons = Counter(agree(arenas[name], mutator, draw, strict=draw.random() < 0.8) for _ in range(500))
    assert reasons["format"] > 0
    assert len(reasons) >= 8


@settings(max_examples=200)
@given(st.sampled_from(sorted(CONFIGS)), st.randoms(use_true_random=False), st.booleans())
def test_spoilt_solutions_are_judged_as_by_the_oracle_whatever_is_drawn(arenas, name, draw, strict):
    agree(arenas[name], Mutator(arenas[name].vocabulary, draw), draw, strict=strict)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_dialects_are_judged_alike(arenas, name):
    arena, draw = arenas[name], random.Random(f"dialects {name}")
    mutator = Mutator(arena.vocabulary, draw)
    problems, spoilt, short = [], [], []
    for _ in range(400):
        number = draw.randrange(PROBLEMS)
        tokens = mutator.spoil_carefully(arena.solutions[number])
        if (compact := arena.compact(tokens)) is not None:
            problems.append(arena.problems[number])
            spoilt.append(tokens)
            short.append(compact)
    assert len(spoilt) > 200
    english = arena.judges["english"].check_many(problems, spoilt)
    compact = arena.judges["compact"].check_many(problems, short)
    for one, other in zip(english, compact, strict=True):
        assert (one.reason, one.parameter, one.sentence) == (other.reason, other.parameter, other.sentence)
    assert sum(count > 0 for count in english.counts.values()) >= 5
