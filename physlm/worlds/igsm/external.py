"""How well does any language model solve problems of this world? Prompts in a file, answers graded from another.

    python -m physlm.worlds.igsm.external export problems.jsonl --operations 2-20
    python -m physlm.worlds.igsm.external ask problems.jsonl answers.jsonl --base-url http://localhost:8000/v1 --model M
    python -m physlm.worlds.igsm.external grade problems.jsonl answers.jsonl

- `export` writes exercises, see `physlm.worlds.igsm.exercises`.
- `ask` sends what has no answer yet, and appends each answer as it comes. Killed at any time, the same command goes on.
- `grade` prints accuracy by number of operations, see `physlm.worlds.igsm.grading`.

Source: Physics of Language Models 2.1, Fig. 2 and App. G.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from physlm.worlds.igsm.client import ChatClient, EndpointError, Reply
from physlm.worlds.igsm.exercises import (
    PUBLISHED_WORLD,
    Answer,
    Exercise,
    make_exercises,
    mend,
    read_answers,
    read_exercises,
    write_exercises,
)
from physlm.worlds.igsm.grading import format_table, grade


def ask(
    client: ChatClient,
    exercises: Sequence[Exercise],
    path: Path,
    *,
    parallel: int = 1,
    progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> int:
    """Ask a model what it has not answered yet, and append the answers to a file as they come.

    Args:
        client: the model.
        exercises: what to ask.
        path: the file; answers of this model to the very same prompts are not asked for again.
        parallel: requests at a time.
        progress: is told after every answer how many there are, and of how many.

    Returns:
        How many were asked now.

    Raises:
        EndpointError: if an exercise gets no answer; all answers before are in the file.
    """
    if parallel < 1:
        raise ValueError(f"parallel must be ≥ 1, got {parallel}")
    mend(path)
    given = {(answer.id, answer.digest) for answer in read_answers(path) if answer.model == client.model}
    waiting = [exercise for exercise in exercises if (exercise.id, exercise.digest) not in given]
    stopped = threading.Event()

    def attempt(exercise: Exercise) -> Reply | None:
        if stopped.is_set():
            return None
        try:
            return client.complete([{"role": "user", "content": exercise.prompt}])
        except BaseException:
            stopped.set()
            raise

    failure: BaseException | None = None
    done = len(exercises) - len(waiting)
    with path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(parallel) as pool:
        asked = {pool.submit(attempt, exercise): exercise for exercise in waiting}
        try:
            for future in as_completed(asked):
                # When one fails, what is under way may still be answered and is kept; nothing more is asked.
                failure = failure or future.exception()
                reply = None if future.exception() else future.result()
                if reply is None:
                    continue
                answer = Answer(asked[future].id, reply.text, client.model, asked[future].digest, reply.finish_reason)
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                file.flush()
                done += 1
                progress(done, len(exercises))
        finally:
            stopped.set()
    if failure is not None:
        raise failure
    return len(waiting)


def _operations(text: str) -> list[int]:
    """Numbers and ranges, as "2-20" or "2,5,10-12"."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found += range(int(first), int(last or first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be numbers and ranges such as 2-20 or 2,5,10-12, got {text!r}"
            ) from None
    if not found:
        raise argparse.ArgumentTypeError(f"must name a number, got the empty range {text!r}")
    return found


def _option(text: str) -> tuple[str, Any]:
    """`name=value`, the value as JSON or else as it is."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m physlm.worlds.igsm.external",
        description="Problems of the iGSM world for any language model: prompts, answers, and accuracy by operations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        made.add_argument("problems", type=Path, help="file of exercises, JSON lines")
        return made

    export = command("export", "Write prompts to a file.")
    export.add_argument("--operations", type=_operations, default="2-20", help="as 2-20 or 2,5,10-12")
    export.add_argument("--count", type=int, default=30, help="problems for each number of operations")
    export.add_argument("--shots", type=int, default=5, help="solved examples in every prompt")
    export.add_argument("--modulus", type=int, default=PUBLISHED_WORLD.modulus, help="a prime")
    export.add_argument(
        "--max-instances", type=int, default=PUBLISHED_WORLD.max_instances, help="sentences of a problem, at most"
    )
    export.add_argument("--names", type=int, default=PUBLISHED_WORLD.names_per_category, help="names in each category")
    export.add_argument("--seed", type=int, default=0, help="decides all problems")

    asking = command("ask", "Ask a model; goes on where it was interrupted, and ends with the table.")
    asking.add_argument("answers", type=Path, help="file that answers are appended to, JSON lines")
    asking.add_argument("--base-url", required=True, help="address of the endpoint, as http://localhost:8000/v1")
    asking.add_argument("--model", required=True, help="name of the model there")
    asking.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    asking.add_argument(
        "--option",
        type=_option,
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="field of every request, as max_tokens=2000; temperature is 0, and left out with temperature=null",
    )
    asking.add_argument("--parallel", type=int, default=1, help="requests at a time")
    asking.add_argument("--timeout", type=float, default=120.0, help="seconds until a request counts as lost")
    asking.add_argument("--retries", type=int, default=5, help="how often to try again")

    grading = command("grade", "Report accuracy by number of operations.")
    grading.add_argument("answers", type=Path, help="file of answers, JSON lines with id and text")
    grading.add_argument("--model", help="only the answers of this model")
    grading.add_argument("--json", action="store_true", help="end with one JSON line for machines")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 the endpoint failed, 2 the command cannot be done as given."""
    given = _parser().parse_args(arguments)
    try:
        return {"export": _export, "ask": _ask, "grade": _grade}[given.command](given)
    except EndpointError as error:
        print(f"{error}\nAnswers so far are in {given.answers}; the same command goes on.", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _export(given: argparse.Namespace) -> int:
    exercises = make_exercises(
        replace(
            PUBLISHED_WORLD,
            seed=given.seed,
            modulus=given.modulus,
            max_instances=given.max_instances,
            names_per_category=given.names,
        ),
        operations=given.operations,
        problems=given.count,
        shots=given.shots,
    )
    count = write_exercises(given.problems, exercises)
    print(f"{count} exercises, modulus {given.modulus}, in {given.problems}")
    return 0


def _ask(given: argparse.Namespace) -> int:
    exercises = read_exercises(given.problems)
    options = {name: value for name, value in {"temperature": 0, **dict(given.option)}.items() if value is not None}
    client = ChatClient(
        base_url=given.base_url,
        model=given.model,
        key_variable=given.key_variable,
        options=options,
        timeout=given.timeout,
        retries=given.retries,
    )

    def progress(done: int, count: int) -> None:
        print(f"\r{done}/{count} answered", end="" if done < count else "\n", file=sys.stderr, flush=True)

    ask(client, exercises, given.answers, parallel=given.parallel, progress=progress)
    given.json = False
    return _grade(given)


def _grade(given: argparse.Namespace) -> int:
    exercises = read_exercises(given.problems)
    answers = [answer for answer in read_answers(given.answers) if given.model in (None, answer.model)]
    if not answers:
        raise ValueError(f"{given.answers} must hold answers{f' of {given.model!r}' if given.model else ''}, got none")
    models = sorted({answer.model for answer in answers})
    if len(models) > 1:
        raise ValueError(f"answers must be of one model, got those of {', '.join(models)}: choose with --model")
    rows = grade(exercises, answers)
    print(format_table(rows, exercises[0].world.modulus, models[0]))
    if given.json:
        print(
            json.dumps(
                {"model": models[0], "modulus": exercises[0].world.modulus, "rows": [asdict(row) for row in rows]}
            )
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
