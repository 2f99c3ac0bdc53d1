"""Prompts, files, a whole run against a server that solves, and the table."""

import json
import re

import pytest
from chat_server import ChatServer
from igsm_problems import NAMES, WORKED_EXAMPLE

from physlm.worlds.igsm.client import ChatClient, EndpointError
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.exercises import Answer, make_exercises, mend, read_answers, read_exercises, write_exercises
from physlm.worlds.igsm.external import ask, main
from physlm.worlds.igsm.grading import PUBLISHED, format_table, grade
from physlm.worlds.igsm.prompts import Example, few_shot_prompt, read_answer, solution_as_judged, structure_text
from physlm.worlds.igsm.rendering import Renderer

WORLD = IGSMConfig(seed=3, modulus=5, categorizations=1, names_per_category=4)


@pytest.fixture(scope="module")
def exercises():
    return list(make_exercises(WORLD, operations=[2, 5], problems=4, shots=2))


@pytest.fixture(scope="module")
def solutions(exercises):
    """The right reply to every prompt, written by the world."""
    from physlm.worlds.igsm.exercises import world_of

    replies = {}
    for exercise in exercises:
        vocabulary = world_of(exercise.world).vocabulary
        text = vocabulary.decode(Renderer(vocabulary, "english").solution(exercise.problem()))
        replies[exercise.prompt] = text.replace("<ans>", "Answer:")
    return replies


def client_of(server):
    return ChatClient(base_url=server.base_url, model="solver", pause=0.01, retries=0)


def test_the_structure_of_the_worked_example_in_words():
    assert structure_text(WORKED_EXAMPLE, NAMES) == (
        "Kinds: Harbor (North Pier, Gull Bay), Ship (Tug, Ferry), Crate (Pine Box).\n"
        "Directly inside North Pier: Tug. Directly inside Gull Bay: Tug, Ferry. Directly inside Tug: Pine Box. "
        "Directly inside Ferry: Pine Box."
    )


def test_a_prompt_has_rules_examples_and_the_problem_without_its_solution():
    shown, asked = Example("S1", "P1", "W1", 3), Example("S2", "P2", "W2", 4)
    prompt = few_shot_prompt(asked, [shown], 7)
    rules, example, question = prompt.rsplit("\n\n", 2)
    assert "modulo 7" in rules
    assert "from 0 to 6" in rules
    assert example == "Example 1\nS1\nProblem: P1\nSolution: W1\nAnswer: 3"
    assert question == "Now solve this one\nS2\nProblem: P2\nSolution:"
    assert "Example" not in few_shot_prompt(asked, [], 7)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so y = 2. Answer: 2", 2),
        ("Answer: 2.", 2),
        ("**Answer:** 14", 14),
        ("Answer: **3**\n", 3),
        ("The answer is 4.", 4),
        ("answer = $\\boxed{1}$", 1),
        ("Answer: -3", -3),
        ("Answer: 1. No, wait. Answer: 2", 2),
        ("so it has 3 of 4", 4),
        ("so y = 17.", 17),
        ("I cannot tell.", None),
        ("", None),
        ("it is 2.5", None),
    ],
)
def test_answers_are_read(text, answer):
    assert read_answer(text) == answer


def test_a_reply_is_brought_into_the_form_of_the_judge():
    assert (
        solution_as_judged("Solution: Define a as b; so b = 4.\n\n**Answer: 4**") == "Define a as b; so b = 4. <ans> 4"
    )
    assert solution_as_judged("nothing of the kind") == "nothing of the kind"


def test_exercises_are_of_the_size_asked_for(exercises):
    assert [exercise.id for exercise in exercises] == [f"{count}-00{k}" for count in ("02", "05") for k in range(4)]
    for exercise in exercises:
        assert exercise.prompt.count("Answer: ") == 3  # two examples and the instruction
        assert "modulo 5" in exercise.prompt
        assert exercise.problem().modulus == 5
        examples = re.findall(r"Solution: (.*)", exercise.prompt)
        assert [text.count(";") for text in examples] == [exercise.operations] * 2
    assert len({exercise.prompt for exercise in exercises}) == len(exercises)
    assert list(make_exercises(WORLD, operations=[2, 5], problems=4, shots=2)) == exercises


def test_files_keep_exercises(exercises, tmp_path):
    assert write_exercises(tmp_path / "new" / "problems.jsonl", exercises) == 8
    assert read_exercises(tmp_path / "new" / "problems.jsonl") == exercises


def test_a_model_that_solves_is_found_to_do_so(exercises, solutions, tmp_path):
    with ChatServer(solutions.__getitem__) as server:
        assert ask(client_of(server), exercises, tmp_path / "answers.jsonl", parallel=3) == 8
    rows = grade(exercises, read_answers(tmp_path / "answers.jsonl"))
    assert [row.operations for row in rows] == [2, 5, None]
    for row in rows:
        assert row.correct == row.right_steps == row.answered == row.problems
        assert row.unreadable == 0
        assert row.interval[1] == pytest.approx(1)
        assert 0.3 < row.interval[0] < 0.8
    assert [row.problems for row in rows] == [4, 4, 8]


def test_the_right_answer_by_wrong_steps_is_told_apart(exercises):
    answers = [Answer(exercise.id, f"It must be so. Answer: {exercise.answer}") for exercise in exercises]
    row = grade(exercises, answers)[-1]
    assert (row.correct, row.right_steps) == (8, 0)


def test_always_zero_is_a_baseline(exercises):
    row = grade(exercises, [Answer(exercise.id, "Answer: 0") for exercise in exercises])[-1]
    assert row.correct == row.zeros == sum(exercise.answer == 0 for exercise in exercises)


def test_unreadable_and_missing_answers_are_counted(exercises):
    row = grade(exercises, [Answer(exercises[0].id, "no idea"), Answer(exercises[1].id, "")])[-1]
    assert (row.problems, row.answered, row.unreadable, row.correct, row.accuracy) == (8, 2, 2, 0, 0.0)


def test_the_last_answer_counts(exercises):
    first = exercises[0]
    rows = grade(exercises, [Answer(first.id, "no idea"), Answer(first.id, f"Answer: {first.answer}")])
    assert (rows[0].answered, rows[0].correct) == (1, 1)


def test_answers_of_other_exercises_are_refused(exercises):
    with pytest.raises(ValueError, match="answers must be to these exercises, got one to '99-000'"):
        grade(exercises, [Answer("99-000", "Answer: 1")])
    with pytest.raises(ValueError, match="got one to another prompt for '02-000'"):
        grade(exercises, [Answer("02-000", "Answer: 1", digest="0")])
    with pytest.raises(ValueError, match="must hold at least one"):
        grade([], [])


def test_a_run_that_breaks_off_goes_on(exercises, solutions, tmp_path):
    path = tmp_path / "answers.jsonl"
    with ChatServer(solutions.__getitem__, [None, None, None, 500]) as server:
        with pytest.raises(EndpointError, match="answered 500"):
            ask(client_of(server), exercises, path)
        assert len(read_answers(path)) == 3
        with path.open("a") as file:
            file.write('{"id": "02-003", "te')  # as a program leaves it that is killed
        told = []
        asked = ask(client_of(server), exercises, path, progress=lambda *counts: told.append(counts))
        assert asked == 5
        assert told == [(count, 8) for count in range(4, 9)]
        assert ask(client_of(server), exercises, path) == 0
        assert len(server.requests) == 9
        assert sorted(answer.id for answer in read_answers(path)) == [exercise.id for exercise in exercises]
        other = ChatClient(base_url=server.base_url, model="another")
        assert ask(other, exercises[:2], path) == 2, "another model has not answered yet"


def test_what_is_under_way_when_one_fails_is_kept(exercises, solutions, tmp_path):
    with ChatServer(solutions.__getitem__, [400]) as server, pytest.raises(EndpointError):
        ask(client_of(server), exercises, tmp_path / "answers.jsonl", parallel=3)
    assert len(read_answers(tmp_path / "answers.jsonl")) == len(server.requests) - 1 < 8


def test_a_last_line_without_its_end_is_kept_if_it_is_whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "a", "text": "1"}\n{"id": "b", "text": "2"}')
    mend(path)
    assert path.read_text() == '{"id": "a", "text": "1"}\n{"id": "b", "text": "2"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "1"}\n{"id": \n', "line 2, must be a JSON object"),
        ('{"id": "a"}\n', 'line 1, must be an object with id, text, got {"id": "a"}'),
        ("[1]\n", "line 1, must be an object with id, text"),
    ],
)
def test_lines_that_are_no_answers_are_named(tmp_path, content, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_answers(path)


def test_exercises_of_another_version_are_refused(exercises, tmp_path):
    path = tmp_path / "problems.jsonl"
    write_exercises(path, exercises)
    row = json.loads(path.read_text().split("\n")[0])
    path.write_text(json.dumps({**row, "world": {**row["world"], "colour": 1}}))
    with pytest.raises(ValueError, match=r"must be of this version of the world: .*colour.*; export anew"):
        read_exercises(path)
    path.write_text(json.dumps({**row, "prompt": "What is 1 + 1?"}))
    with pytest.raises(ValueError, match="exercise '02-000' must be of this version"):
        read_exercises(path)[0].problem()
    path.write_text("")
    with pytest.raises(ValueError, match="must hold exercises, got an empty file"):
        read_exercises(path)


def test_the_table_has_the_published_numbers_where_they_belong(exercises):
    answers = [Answer(exercise.id, f"Answer: {exercise.answer}") for exercise in exercises]
    table = format_table(grade(exercises, answers), 5, "solver").split("\n")
    assert table[0] == "Accuracy by number of operations, modulus 5, solver"
    assert table[2].split()[:3] == ["2", "4/4", "100.0"]
    assert table[2].split()[-2:] == ["96.7", "96.7"]
    assert table[3].split()[-2:] == ["93.3", "93.3"]
    assert table[4].split()[0] == "all"
    assert "GPT" not in format_table(grade(exercises, answers), 7)
    assert all(len(numbers) == 19 for numbers in PUBLISHED.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"problems": 0}, "problems must be ≥ 1, got 0"), ({"shots": -1}, "shots must be ≥ 0, got -1")],
)
def test_bad_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        list(make_exercises(WORLD, **wrong))


# ----------------------------------------------------------------------------------------------------------------------
# The command line
# ----------------------------------------------------------------------------------------------------------------------


def test_commands_from_prompts_to_table(tmp_path, capsys):
    problems, answers = str(tmp_path / "problems.jsonl"), str(tmp_path / "answers.jsonl")
    assert main(["export", problems, "--operations", "2,4-5", "--count", "2", "--shots", "1", "--seed", "7"]) == 0
    assert "6 exercises, modulus 5" in capsys.readouterr().out
    right = {exercise.prompt: f"Answer: {exercise.answer}" for exercise in read_exercises(tmp_path / "problems.jsonl")}
    with ChatServer(right.__getitem__) as server:
        command = ["ask", problems, answers, "--base-url", server.base_url, "--model", "solver", "--parallel", "2"]
        assert main([*command, "--option", "max_tokens=50", "--option", "temperature=null"]) == 0
        body = server.requests[0]["body"]
    assert body["max_tokens"] == 50
    assert "temperature" not in body
    shown = capsys.readouterr()
    assert "6/6 answered" in shown.err
    assert "100.0" in shown.out
    assert main(["grade", problems, answers, "--json"]) == 0
    record = json.loads(capsys.readouterr().out.rstrip().split("\n")[-1])
    assert (record["model"], record["modulus"]) == ("solver", 5)
    assert [row["operations"] for row in record["rows"]] == [2, 4, 5, None]


def test_commands_that_fail_say_why(tmp_path, capsys):
    problems, answers = tmp_path / "problems.jsonl", tmp_path / "answers.jsonl"
    assert main(["grade", str(problems), str(answers)]) == 2
    assert "problems.jsonl" in capsys.readouterr().err
    write_exercises(problems, make_exercises(WORLD, operations=[2], problems=1, shots=0))
    answers.write_text('{"id": "02-000", "text": "1", "model": "a"}\n{"id": "02-000", "text": "1", "model": "b"}\n')
    assert main(["grade", str(problems), str(answers)]) == 2
    assert "those of a, b: choose with --model" in capsys.readouterr().err
    assert main(["grade", str(problems), str(answers), "--model", "c"]) == 2
    assert "must hold answers of 'c', got none" in capsys.readouterr().err
    with ChatServer(str, [401]) as server:
        arguments = ["ask", str(problems), str(answers), "--base-url", server.base_url, "--model", "solver"]
        assert main(arguments) == 1
    assert "the same command goes on" in capsys.readouterr().err
    for wrong in ("five", "3-2", "1--2"):
        with pytest.raises(SystemExit, match="2"):
            main(["export", str(problems), "--operations", wrong])
    assert "must be numbers and ranges such as 2-20" in capsys.readouterr().err
