import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_experiment import EXPERIMENT

from physlm.lab.cli import _go_on, main, parse_seeds
from physlm.lab.plots import bar_with_intervals, curves_with_bands

ROOT = Path(__file__).parents[2]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(EXPERIMENT, ["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in ("Coins on ladders", "Physics of Coins", "--no-resume", "--claims", "--list", "--development"):
        assert part in text
    for part in ("asserts no claim", "Examples", "python -m experiments.toy --scale smoke", "101, 102"):
        assert part in text
    assert "gpu    " not in text
    assert "Claims at cpu (* core): TOY-1*, TOY-2" in text
    assert "--seeds 201,202" in text  # neither committed nor used for choosing presets


@pytest.mark.parametrize("arguments", [["--help"], ["--scale", "huge"], ["--jobs", "many"], ["--out"], ["--jobs", ""]])
def test_no_type_of_python_is_shown(capsys, arguments):
    with pytest.raises(SystemExit):
        main(EXPERIMENT, arguments)
    assert "None" not in "".join(capsys.readouterr())


def test_help_fits_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(EXPERIMENT, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for option in ("--seeds", "--conditions", "--claims", "--jobs", "--recorded", "--allow-cpu"):
        assert any(option in line for line in lines)


def test_list(capsys):
    assert main(EXPERIMENT, ["--list"]) == 0
    text = capsys.readouterr().out
    assert "ladder/none" in text
    assert "* TOY-1" in text
    assert "≤ 30.0 %" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claims", "TOY-9"], "there are core, all, TOY-1, TOY-2"),
        (["--conditions", "x"], "ladder/none"),
        (["--seeds", "1,two"], "whole numbers"),
        (["--seeds", "7"], "used to choose"),
        (["--scale", "paper"], "it has smoke, cpu"),
    ],
)
def test_user_errors_are_one_message(capsys, arguments, message):
    assert main(EXPERIMENT, arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_an_unwritable_folder_is_one_message(capsys, tmp_path):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "results")
    assert main(EXPERIMENT, ["--scale", "smoke", "--out", out, "--cache", str(tmp_path / "cache")]) == 1
    assert "results" in "".join("".join(capsys.readouterr()).split())  # long paths are broken into lines


def test_a_smoke_run_exits_with_zero(tmp_path, capsys):
    arguments = ["--scale", "smoke", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert main(EXPERIMENT, arguments) == 0
    assert "inconclusive" in capsys.readouterr().out


def test_a_smoke_run_is_no_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(EXPERIMENT, ["--scale", "smoke"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [".physlm"]
    assert (tmp_path / ".physlm" / "results" / "toy" / "smoke" / "report.md").exists()
    assert ".physlm/" in (ROOT / ".gitignore").read_text().splitlines()


def test_an_interrupted_command_without_resume_is_continued_with_it():
    told = _go_on("python -m experiments.toy", ["--no-resume", "--conditions", "ladder/*"])
    assert told.endswith("go on with: python -m experiments.toy --conditions 'ladder/*'")
    assert "checkpoint" not in told


def test_seeds():
    assert parse_seeds("") is None
    assert parse_seeds("101, 102") == [101, 102]


def test_importing_the_lab_is_light():
    code = (
        "import sys, physlm.lab; print([m for m in ('torch', 'matplotlib', 'tyro', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_are_written_and_reproducible(tmp_path, suffix):
    rows = {"one seed": [0.3], "three": [0.97, 0.99, 1.0], "nothing": [float("nan")]}
    curve = np.linspace(0, 1, 20) * np.array([[0.9], [1.0]])
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{suffix}"
        bar_with_intervals(path, {"x": rows, "y": rows}, title="t", xlabel="accuracy", chance=0.1, items_per_seed=50)
        other = tmp_path / f"{name}-curve.{suffix}"
        curves_with_bands(other, np.arange(20), {"x": curve, "y": curve[0]}, title="t", xlabel="step", ylabel="a")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert (tmp_path / f"a-curve.{suffix}").read_bytes() == (tmp_path / f"b-curve.{suffix}").read_bytes()


def test_figures_refuse_nonsense(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        bar_with_intervals(tmp_path / "a.png", {}, title="t", xlabel="x")
    with pytest.raises(ValueError, match="has 3 points, x has 2"):
        curves_with_bands(tmp_path / "a.png", [0, 1], {"c": [1, 2, 3]}, title="t", xlabel="x", ylabel="y")
