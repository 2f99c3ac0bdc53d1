"""Documentation that runs: every example in README.md and docs/ is executed or checked.

- `python` blocks are executed; the blocks of one page share one namespace, in order.
- Of `bash` blocks, what is under `<!-- test: run -->` is executed, experiments at the smoke scale. Every other
  `python -m` command is parsed by the program it names, which lists or explains itself and computes nothing.
- `<!-- test: skip, because … -->` leaves a block alone; the reason is part of it.
- Links to files of this project lead somewhere.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(
    r"^(?:<!-- test: (?P<order>[^\n]*?) -->\n+)?(?P<ticks>`{3,})(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)#\s]+)[^)]*\)")

# Shell commands that prepare a machine or call this very test suite; none is executed here.
NOT_EXECUTED = ("cd", "git", "pip", "source", ".ci/run", "ruff", "pyright", "pytest")
MODULES_NOT_EXECUTED = ("pip", "pytest", "venv")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    order: str
    body: str


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page, text.count("\n", 0, fence.start("body")) + 1, fence["language"], fence["order"] or "", fence["body"]
        )
        for fence in FENCE.finditer(text)
    ]


def commands_of(block):
    """The commands of a shell block, each as words; a prompt, comments and line continuations are understood."""
    for line in re.split(r"\n|&&", block.body.replace("\\\n", " ")):
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def name(page):
    return page.relative_to(ROOT).as_posix()


BLOCKS = [block for page in PAGES for block in blocks_of(page) if not block.order.startswith("skip")]
PYTHON_PAGES = [page for page in PAGES if any(block.page == page and block.language == "python" for block in BLOCKS)]
COMMANDS = [
    pytest.param(words, block.order == "run", id=f"{name(block.page)}:{block.line}:{' '.join(words)}")
    for block in BLOCKS
    if block.language in ("bash", "sh", "shell", "console")
    for words in commands_of(block)
]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            # Blank lines in front give a traceback the line numbers of the page.
            code = compile("\n" * (block.line - 1) + block.body, str(page), "exec")
            exec(code, vars(module))


@pytest.mark.parametrize(("words", "run"), COMMANDS)
def test_commands_work(words, run, tmp_path):
    if words[0] not in ("python", "python3"):
        assert words[0] in NOT_EXECUTED, f"{words[0]!r} is neither a `python -m` command nor known to this test"
        return
    assert words[1] == "-m", "commands of this project are `python -m` commands"
    if words[2] in MODULES_NOT_EXECUTED:
        assert not run, f"{words[2]} cannot be executed within the tests"
        return
    done = subprocess.run(
        [sys.executable, *harmless(words[1:], run)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def harmless(arguments, run):
    """The same command, small enough for a test: smoke scale if it is to run, else only parsed or explained."""
    _, module, *options = arguments
    if not module.startswith("experiments."):
        return arguments if run else ["-m", module, "--help"]
    if not run:
        return arguments if "--help" in options else [*arguments, "--list"]
    options = [option for option in options if not option.startswith("--scale=")]
    if "--scale" in options:
        at = options.index("--scale")
        del options[at : at + 2]
    return ["-m", module, *options, "--scale", "smoke"]


def test_programs_that_are_named_exist():
    for page in PAGES:
        for module in re.findall(r"python -m ((?:experiments|benchmarks|scripts)\.[\w.]+)", page.read_text()):
            assert importlib.util.find_spec(module), f"{name(page)} names {module}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = [found["target"] for found in LINK.finditer(text) if not (page.parent / found["target"]).exists()]
    assert not missing


def test_blocks_are_found_with_their_orders(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n```python\na = 1\n```\n\n<!-- test: run -->\n```bash\n# all of it\n$ python -m experiments.toy \\\n"
        "    --scale gpu\n```\n<!-- test: skip, because it takes a day -->\n\n````bash\n```\n````\n"
    )
    python, run, skipped = blocks_of(page)
    assert (python.line, python.language, python.order, python.body) == (4, "python", "", "a = 1\n")
    assert (run.order, skipped.order) == ("run", "skip, because it takes a day")
    assert list(commands_of(run)) == [["python", "-m", "experiments.toy", "--scale", "gpu"]]


@pytest.mark.parametrize(
    ("given", "run", "expected"),
    [
        ("-m experiments.toy", False, "-m experiments.toy --list"),
        ("-m experiments.toy --help", False, "-m experiments.toy --help"),
        ("-m experiments.toy --scale gpu --jobs 2", False, "-m experiments.toy --scale gpu --jobs 2 --list"),
        ("-m experiments.toy --scale gpu --jobs 2", True, "-m experiments.toy --jobs 2 --scale smoke"),
        ("-m experiments.toy --scale=gpu", True, "-m experiments.toy --scale smoke"),
        ("-m benchmarks.toy --fast", False, "-m benchmarks.toy --help"),
        ("-m benchmarks.toy --fast", True, "-m benchmarks.toy --fast"),
    ],
)
def test_commands_are_made_harmless(given, run, expected):
    assert harmless(given.split(), run) == expected.split()
