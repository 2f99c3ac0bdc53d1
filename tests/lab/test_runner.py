import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_experiment
from rich.console import Console
from toy_experiment import EXPERIMENT, Preset

from physlm.lab import Condition, Experiment, run_experiment
from physlm.lab.storage import FORMAT_VERSION

HERE = Path(__file__).parent


def sweep(places, *, experiment=EXPERIMENT, **options):
    """A report and what was printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    report = run_experiment(experiment, console=console, **places, **{"jobs": 2, **options})
    return report, text.getvalue()


def toy_process(places, *arguments, **environment):
    command = [sys.executable, str(HERE / "toy_experiment.py"), "--out", str(places["out"])]
    command += ["--cache", str(places["cache"]), *arguments]
    root = str(HERE.parents[1])
    variables = {**os.environ, "PYTHONPATH": root, "COLUMNS": "160", **environment}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_files(places):
    return sorted((places["out"] / "toy" / "cpu" / "runs").glob("*.json"))


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_sweep_its_cache_and_its_report(places, trace):
    report, text = sweep(places)
    assert trace("run") == 4  # core: two conditions, two seeds
    assert trace("stage") == 4
    assert [(v.id, v.verdict, v.interval_over) for v in report.verdicts] == [("TOY-1", "supported", "seeds")]
    assert report.ok
    assert "TOY-1" in text
    assert "200 coins" in text
    document = json.loads((report.folder / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert document["format_version"] == FORMAT_VERSION
    assert {"title", "preset", "conditions", "hashes", "data_fingerprint", "versions", "hardware"} <= document.keys()
    assert document["parameters"] == {"ladder/none": 7, "ladder/full": 7}
    assert document["data_fingerprint"] == {"101": "coins-200-101", "102": "coins-200-102"}
    claim = document["claims"][0]
    for key in ("statement", "estimate", "interval", "threshold", "relation", "unit", "control", "seeds", "values"):
        assert key in claim
    assert claim["requirements"][0]["met"] is True
    assert claim["parts"][0]["estimate"] == claim["estimate"]
    assert [set(run["metrics"]) for run in document["runs"]] == [{"parameters", "accuracy", "recall", "nothing"}] * 4
    assert (report.folder / "ladder.png").read_bytes().startswith(b"\x89PNG")
    markdown = (report.folder / "report.md").read_text()
    assert "## TOY-1: supported" in markdown
    assert "(ladder.png)" in markdown
    assert not list((places["cache"] / "scratch").glob("*"))

    first = (report.folder / "verdict.json").read_bytes()
    again, _ = sweep(places)
    assert trace("run") == 4
    assert (again.folder / "verdict.json").read_bytes() == first

    more, text = sweep(places, claims="all")
    assert trace("run") == 6
    assert trace("stage") == 4  # the third condition shares one
    assert [v.verdict for v in more.verdicts] == ["supported", "refuted"]
    core, _ = sweep(places)
    assert len(core.verdicts) == 2  # what is there is judged

    fewer, _ = sweep(places, seeds=[102])
    assert trace("run") == 6
    assert fewer.folder.name == "seeds-102"
    assert fewer.verdicts[0].interval_over == "items"
    assert len(json.loads((core.folder / "verdict.json").read_text())["seeds"]) == 2


def test_what_invalidates_a_finished_run(places, trace):
    sweep(places, only="ladder/none", seeds=[101])
    changes = [
        {"revision": 2},
        {"presets": {"cpu": Preset(bias=0.7)}},
        {"data_fingerprint": lambda *_: "other data"},
        {"conditions": lambda _: [Condition(n, {"rate": 0.3}, stage_key="a") for n in toy_experiment.RATES]},
    ]
    for count, change in enumerate(changes, 2):
        sweep(places, experiment=dataclasses.replace(EXPERIMENT, **change), only="ladder/none", seeds=[101])
        assert trace("run") == count
    sweep(places, only="ladder/none", seeds=[101], resume=False)
    assert trace("run") == 6
    assert len(run_files(places)) == 6  # nothing was lost, the recomputed one included
    report, _ = sweep(places, only="ladder/none", seeds=[101])
    assert trace("run") == 6
    assert report.verdicts == ()


def test_a_stage_shared_by_two_processes_is_computed_once(places, trace):
    sweep(places, only="ladder/none,other/control", seeds=[101])
    assert (trace("run"), trace("stage")) == (2, 1)


def test_a_damaged_run_file_is_reported_kept_and_recomputed(places, trace):
    sweep(places, only="ladder/none", seeds=[101])
    (path,) = run_files(places)
    path.write_text(path.read_text()[:100])
    report, text = sweep(places, only="ladder/none", seeds=[101])
    assert text.count("warning:") == 1
    assert path.name in text
    assert report.ok
    assert trace("run") == 2
    assert sorted(len(p.read_text()) == 100 for p in run_files(places)) == [False, True]


@pytest.mark.parametrize(("trouble", "message"), [("raise", "told to fail"), ("die", "SIGKILL")])
def test_a_run_that_fails_costs_only_itself(places, trace, monkeypatch, trouble, message):
    monkeypatch.setenv("TOY_TROUBLE", f"{trouble}:ladder/none")
    report, text = sweep(places, claims="all", seeds=[101])
    assert [failure.label for failure in report.failures] == ["ladder/none seed 101"]
    assert not report.ok
    assert message in text
    assert "ladder/none seed 101" in text
    assert len(run_files(places)) == 2
    assert [v.id for v in report.verdicts] == ["TOY-2"]
    assert report.skipped == ("TOY-1",)
    assert not (report.folder / "verdict.json").exists()
    monkeypatch.delenv("TOY_TROUBLE")
    before = trace("run")
    report, _ = sweep(places, claims="all", seeds=[101])
    assert report.ok
    assert trace("run") == before + 1


def test_a_full_disk_stops_the_sweep_and_says_what_to_do(places, monkeypatch):
    monkeypatch.setenv("TOY_TROUBLE", "full:ladder/full")
    with pytest.raises(OSError, match=r"disk is full.*ladder/full seed 101.*same command"):
        sweep(places, seeds=[101], jobs=1)
    assert len(run_files(places)) == 1


def test_killing_the_runner_loses_only_runs_in_progress(places, trace):
    arguments = ("--claims", "all", "--seeds", "101", "--jobs", "1")
    process = toy_process(places, *arguments, TOY_TROUBLE="hang:ladder/half")
    wait_for(lambda: len(run_files(places)) >= 1 and trace("run") >= 2)
    wait_for(lambda: trace("stage") == 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished, begun = len(run_files(places)), trace("run")
    assert 1 <= finished < 3
    report, text = sweep(places, claims="all", seeds=[101])
    assert report.ok
    assert f"{finished} of 3 runs are there" in text
    assert trace("run") == begun + 3 - finished
    # `python toy_experiment.py` and an imported module give the same hashes; the interrupted stage went on.
    assert len(run_files(places)) == 3


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_clean(places, trace, kind):
    process = toy_process(places, "--claims", "TOY-2", "--jobs", "2", TOY_TROUBLE="hang:ladder/half")
    wait_for(lambda: trace("stage") == 2)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "go on with: python -m experiments.toy --out" in errors
    assert "Traceback" not in errors


def test_smoke_and_development_make_no_verdict(places):
    smoke, _ = sweep(places, scale="smoke")
    assert [v.verdict for v in smoke.verdicts] == ["inconclusive"]
    assert "asserts no claim" in smoke.verdicts[0].reason
    development, _ = sweep(places, seeds=[7], development=True)
    assert development.folder.name == "development"
    assert [v.verdict for v in development.verdicts] == ["inconclusive"]
    assert development.verdicts[0].estimate == pytest.approx(0.7, abs=0.1)


def test_a_verdict_of_another_format_is_kept(places):
    folder = places["out"] / "toy" / "cpu"
    folder.mkdir(parents=True)
    (folder / "verdict.json").write_text('{"format_version": 0}')
    _, text = sweep(places)
    assert (folder / "verdict.kept-1.json").read_text() == '{"format_version": 0}'
    assert "another format" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [7, 101]}, "seeds 7 were used to choose the presets"),
        ({"seeds": [101], "development": True}, "kept for verdicts"),
        ({"claims": "TOY-9"}, r"no claim TOY-9.*TOY-1, TOY-2"),
        ({"only": "nothing/*"}, r"matches no condition; there are:\s+ladder/none"),
        ({"scale": "paper"}, "it has smoke, cpu"),
        ({"jobs": 0}, "jobs must be"),
    ],
)
def test_what_is_refused(places, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(places, **options)
    assert not places["out"].exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": lambda *_: {}}, "top-level function"),
        ({"seeds": {"smoke": (1,), "cpu": (7,)}}, "development seeds"),
        ({"seeds": {"smoke": (1,)}}, "has no seeds"),
        ({"presets": {"cpu": {"people": 3}}}, "frozen dataclass"),
        ({"name": "Toy"}, "module name"),
    ],
)
def test_bad_experiments(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EXPERIMENT, **changes)
    assert isinstance(EXPERIMENT, Experiment)


def test_condition_names_are_file_names():
    with pytest.raises(ValueError, match="names a file"):
        Condition("../escape me")
