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

from physlm.lab import Condition, Experiment, Workspace, run_experiment, runner, workspace
from physlm.lab.plan import folder_of, make_plan, make_requests
from physlm.lab.provenance import NUMERICS_REVISION, commit
from physlm.lab.storage import FORMAT_VERSION, run_path

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
    sweep(places, conditions="ladder/none", seeds=[101])
    changes = [
        {"revision": 2},
        {"presets": {"cpu": Preset(bias=0.7)}},
        {"data_fingerprint": lambda *_: "other data"},
        {"conditions": lambda _: [Condition(n, {"rate": 0.3}, stage_key="a") for n in toy_experiment.RATES]},
    ]
    for count, change in enumerate(changes, 2):
        sweep(places, experiment=dataclasses.replace(EXPERIMENT, **change), conditions="ladder/none", seeds=[101])
        assert trace("run") == count
    sweep(places, conditions="ladder/none", seeds=[101], resume=False)
    assert trace("run") == 6
    assert len(run_files(places)) == 6  # nothing was lost, the recomputed one included
    report, _ = sweep(places, conditions="ladder/none", seeds=[101])
    assert trace("run") == 6
    assert report.verdicts == ()


def test_a_stage_shared_by_two_processes_is_computed_once(places, trace):
    sweep(places, conditions="ladder/none,other/control", seeds=[101])
    assert (trace("run"), trace("stage")) == (2, 1)


def test_a_damaged_run_file_is_reported_kept_and_recomputed(places, trace):
    sweep(places, conditions="ladder/none", seeds=[101])
    (path,) = run_files(places)
    path.write_text(path.read_text()[:100])
    report, text = sweep(places, conditions="ladder/none", seeds=[101])
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
    assert "unfinished ones continue from their last checkpoint" in " ".join(errors.split())
    assert "repeated: python -m experiments.toy --out" in errors
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
        ({"conditions": "nothing/*"}, r"matches no condition; there are:\s+ladder/none"),
        ({"scale": "paper"}, "it has smoke, cpu"),
        ({"jobs": 0}, "jobs must be"),
        ({"recorded": True}, r"no finished run of scale 'cpu' and seeds 101, 102.*leave out --recorded"),
        ({"recorded": True, "resume": False}, "give one of the two"),
    ],
)
def test_what_is_refused(places, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(places, **options)
    assert not places["out"].exists()


def test_a_scale_for_accelerators_is_refused_without_one(places, trace, monkeypatch):
    monkeypatch.setattr(runner, "has_accelerator", lambda: False)
    presets = {"cpu": Preset(), "gpu": Preset(people=50)}
    large = dataclasses.replace(EXPERIMENT, presets=presets, seeds={"cpu": (101,), "gpu": (101,)})
    with pytest.raises(ValueError, match=r"'gpu' is meant for an accelerator.*--scale cpu.*--recorded.*--allow-cpu"):
        sweep(places, experiment=large, scale="gpu")
    assert not places["out"].exists()
    assert sweep(places, experiment=large, scale="gpu", allow_cpu=True)[0].ok
    assert trace("run") == 2
    assert sweep(places, experiment=large, scale="gpu", recorded=True)[0].ok


def test_what_is_missing_is_said_beforehand_with_its_cost(places):
    sweep(places)
    _, text = sweep(places, claims="all")
    assert "2 of 6" not in text
    assert "4 of 6 runs are there, computing 2 (2 at a time)" in text
    assert "TOY-1: all runs are there" in text
    assert "TOY-2: 2 runs to compute" in text
    assert "--claims TOY-1 computes nothing" in text
    (line,) = (line for line in text.splitlines() if "ladder/half " in line and "no record" in line)
    assert "2 runs" in line
    assert "ladder/full " not in text.split("in all")[0].split("expected time")[1]
    _, text = sweep(places, claims="all")
    assert "expected" not in text


# ----------------------------------------------------------------------------------------------------------------------
# Numerics
# ----------------------------------------------------------------------------------------------------------------------


def make_older(places):
    """Turn every finished run into one from before numerics revisions were recorded."""
    plan = make_plan(EXPERIMENT, "cpu", None, "all", None, places["out"], development=False)
    older = {
        request.hash: dataclasses.replace(request, numerics=0).hash for request in make_requests(plan, places["cache"])
    }
    for path in run_files(places):
        content = json.loads(path.read_text())
        del content["numerics"], content["commit"]
        content["hash"] = older[content["hash"]]
        run_path(path.parent, content["condition"], content["seed"], content["hash"]).write_text(json.dumps(content))
        path.unlink()
    verdict = places["out"] / "toy" / "cpu" / "verdict.json"
    content = json.loads(verdict.read_text())
    del content["numerics"]
    verdict.write_text(json.dumps(content))
    return {path: path.read_bytes() for path in (*run_files(places), verdict)}


def test_a_run_file_says_with_which_numerics_and_code_it_was_made(places):
    sweep(places, conditions="ladder/none", seeds=[101])
    (path,) = run_files(places)
    content = json.loads(path.read_text())
    assert content["numerics"] == NUMERICS_REVISION
    assert content["commit"] == commit()
    assert content["versions"]["physlm"]


def test_stages_of_other_numerics_are_not_shared(tmp_path, monkeypatch):
    folders = set()
    for revision in (NUMERICS_REVISION, NUMERICS_REVISION + 1):
        monkeypatch.setattr(workspace, "NUMERICS_REVISION", revision)
        folders.add(Workspace(cache=tmp_path).stage("pretrain", {"seed": 1}, lambda _: None))
    assert len(folders) == 2


def test_runs_of_older_numerics_are_reported_as_such(places, trace):
    sweep(places)
    kept = make_older(places)
    before = trace("run")
    report, text = sweep(places, recorded=True)
    assert trace("run") == before
    assert (report.numerics, report.verdicts[0].verdict) == (0, "supported")
    assert "4 of 4 runs are there" in text
    for told in (text, (report.folder / "report.md").read_text()):
        assert "numerics revision 0, before the present one" in told
    assert json.loads((report.folder / "verdict.json").read_text())["numerics"] == 0
    assert all(path.read_bytes() == content for path, content in kept.items() if "seed" in path.name)


def test_runs_of_older_numerics_are_never_mixed_with_new_ones(places, trace):
    sweep(places)
    kept = make_older(places)
    before = trace("run")
    half, text = sweep(places, conditions="ladder/full", claims="TOY-1")
    assert trace("run") == before + 2
    assert "2 of these runs are finished with an earlier numerics revision" in text
    assert half.verdicts == ()  # the other condition is there, but of older numerics
    assert half.skipped == ("TOY-1",)

    whole, text = sweep(places)
    assert trace("run") == before + 4
    assert {record.numerics for record in whole.records.values()} == {NUMERICS_REVISION}
    assert whole.verdicts[0].verdict == "supported"
    assert "earlier" not in sweep(places)[1]
    assert trace("run") == before + 4
    verdict = whole.folder / "verdict.json"
    assert json.loads(verdict.read_text())["numerics"] == NUMERICS_REVISION
    for path, content in kept.items():
        place = path.with_name("verdict.kept-1.json") if path == verdict else path
        assert place.read_bytes() == content


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


@pytest.mark.parametrize(
    ("seeds", "name"),
    [
        ((7,), "seeds-7"),
        ((7, 9), "seeds-7-9"),
        ((7, 8), "seeds-7-8"),
        ((201, 202, 203), "seeds-201-to-203"),
        ((203, 202, 201), "seeds-203-202-201"),
    ],
)
def test_reports_of_other_seeds_have_folders_of_their_own(seeds, name):
    assert folder_of(seeds) == name
