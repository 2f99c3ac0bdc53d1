"""The biography experiments as a user starts them, at the smoke scale: files, verdicts, resuming, refusals."""

import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from experiments._biographies import halves, make_world
from experiments._biography_presets import CELEBRITY_PRESETS, CPU_VARIANTS, DEVELOPMENT_SEEDS, PRESETS
from physlm.lab import Workspace, unpack_items
from physlm.lab.cli import main
from physlm.lab.experiment import SCALES
from physlm.lab.results import without_items
from physlm.training.checkpoints import CheckpointError

ROOT = Path(__file__).parents[2]
PLOTS = {
    "bio_qa": {"ladder.png", "order_of_learning.png"},
    "bio_celebrity": {"celebrities.png"},
    "bio_masked": {"masked.png"},
}
EXPERIMENTS = {name: importlib.import_module(f"experiments.{name}").EXPERIMENT for name in PLOTS}
SEED = EXPERIMENTS["bio_qa"].seeds["smoke"][0]


class Place:
    """A results folder and a cache, and commands that use them."""

    def __init__(self, folder):
        self.folder = folder

    def command(self, name, *arguments):
        folders = ["--out", str(self.folder / "results"), "--cache", str(self.folder / "cache")]
        return [sys.executable, "-m", f"experiments.{name}", "--scale", "smoke", *folders, *arguments]

    @property
    def settings(self):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return {"cwd": self.folder, "env": environment, "text": True}

    def run(self, name, *arguments):
        command = self.command(name, *arguments)
        return subprocess.run(command, capture_output=True, timeout=600, check=False, **self.settings)

    def report(self, name):
        return self.folder / "results" / name / "smoke"

    def run_files(self, name):
        return sorted((self.report(name) / "runs").glob("*.json"))

    def verdict(self, name):
        # NaN and Infinity, which Python would accept, are no JSON.
        return json.loads((self.report(name) / "verdict.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One complete run of each experiment, which all tests read and none changes."""
    place = Place(tmp_path_factory.mktemp("smoke"))
    for name in PLOTS:
        done = place.run(name, "--claims", "all")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr, done.stderr
    return place


def copy_of(place, folder):
    for part in ("results", "cache"):
        shutil.copytree(place.folder / part, folder / part)
    return Place(folder)


def metrics_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["metrics"]


# ----------------------------------------------------------------------------------------------------------------------
# What a run leaves behind
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLOTS)
def test_the_verdict_is_complete(place, name):
    experiment, document = EXPERIMENTS[name], place.verdict(name)
    claims = {claim.id: claim for claim in experiment.claims("smoke", experiment.presets["smoke"])}
    assert (document["experiment"], document["scale"], document["development"]) == (name, "smoke", False)
    assert document["seeds"] == list(experiment.seeds["smoke"])
    assert [claim["id"] for claim in document["claims"]] == list(claims)
    assert set(document["conditions"]) == {name for claim in claims.values() for name in claim.conditions}
    assert len(document["runs"]) == len(document["conditions"]) == len(place.run_files(name))
    for key in ("versions", "hardware", "hashes", "data_fingerprint", "parameters", "preset", "revision", "source"):
        assert document[key]
    assert document["wall_seconds"] > 0
    for recorded in document["claims"]:
        claim = claims[recorded["id"]]
        assert recorded["statement"] == claim.statement
        assert recorded["threshold"] == claim.threshold
        assert recorded["control"]
        assert len(recorded["parts"]) == 1 + len(claim.parts)
        assert len(recorded["requirements"]) == len(claim.requires)
        assert all(len(part["values"]) == len(document["seeds"]) for part in recorded["parts"])


@pytest.mark.parametrize("name", PLOTS)
def test_smoke_asserts_no_claim(place, name):
    for claim in place.verdict(name)["claims"]:
        assert claim["verdict"] == "inconclusive"
        assert "smoke" in claim["reason"]


@pytest.mark.parametrize("name", PLOTS)
def test_the_plots_show_something(place, name):
    assert {path.name for path in place.report(name).glob("*.png")} == PLOTS[name]
    for plot in PLOTS[name]:
        image = imread(place.report(name) / plot)
        assert min(image.shape[:2]) > 300
        assert len(np.unique(image[..., :3] @ np.array([1.0, 3.0, 9.0]))) > 20  # a number for each colour
        assert plot in (place.report(name) / "report.md").read_text(encoding="utf-8")


def test_every_number_is_a_number(place):
    def look(value, where):
        if isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{where}.{key}")
        elif isinstance(value, list):
            for item in value:
                look(item, where)
        elif isinstance(value, (int, float)):
            assert math.isfinite(value), where
        else:
            assert value is not None, where

    for name in PLOTS:
        for path in place.run_files(name):
            look(without_items(metrics_of(path)), path.name)


def test_accuracies_are_those_of_their_outcomes(place):
    attributes = list(PRESETS["smoke"].world.attributes)
    for name in PLOTS:
        for path in place.run_files(name):
            metrics = metrics_of(path)
            outcomes = unpack_items(metrics["questions_test"]["items"])
            assert outcomes.shape == (PRESETS["smoke"].world.people // 2, len(attributes))
            assert metrics["questions_test"]["mean"] == pytest.approx(outcomes.mean())
            by_attribute = metrics["questions_test"]["by_attribute"]
            assert list(by_attribute) == attributes
            assert list(by_attribute.values()) == pytest.approx(outcomes.mean(axis=0).tolist())


# ----------------------------------------------------------------------------------------------------------------------
# Same people, other seeds
# ----------------------------------------------------------------------------------------------------------------------


def test_conditions_of_a_seed_share_their_people(place):
    for name in PLOTS:
        fingerprints = {json.loads(path.read_text())["data_fingerprint"] for path in place.run_files(name)}
        assert len(fingerprints) == 1
    shape = PRESETS["smoke"].world
    worlds = [make_world(shape.config(SEED, variant=variant)) for variant in CPU_VARIANTS]
    worlds.append(make_world(shape.config(SEED, variant="single", celebrities=shape.people)))
    first = worlds[0]
    for world in worlds[1:]:
        assert [world.person(i) for i in range(shape.people)] == [first.person(i) for i in range(shape.people)]
        for half, people in halves(first).items():
            assert np.array_equal(halves(world)[half], people)
    assert make_world(shape.config(SEED + 1)).person(0) != first.person(0)


def test_stages_are_shared_between_experiments(place):
    """`bio_masked` reads the same biographies with the same causal model as `bio_qa`."""
    stages = [json.loads(path.read_text()) for path in (place.folder / "cache" / "stages").glob("*/stage.json")]
    # Seven ways of telling in bio_qa, with celebrities or alone four in bio_celebrity (one of them known), two masked.
    count = {name: sum(stage["name"] == name for stage in stages) for name in ("pretrain", "mixed", "pretrain-masked")}
    wanted = {condition for name in PLOTS for condition in place.verdict(name)["conditions"]}
    variants = {"finetune": set(), "full": set(), "causal": set(), "alone": set()}
    for condition in wanted:
        kind, variant = condition.split("/")
        variants.setdefault(kind, set()).add(variant)
    told = variants["finetune"] | variants["full"] | variants["causal"] | variants["alone"]
    assert count == {
        "pretrain": len(told) + len(variants["celebrities"]),
        "mixed": len(variants["mixed"]),
        "pretrain-masked": len(variants["masked"]),
    }


def test_other_seeds_give_other_results_beside_the_committed_ones(place, tmp_path):
    mine = copy_of(place, tmp_path)
    before = (mine.report("bio_qa") / "verdict.json").read_bytes()
    kept = {path: path.read_bytes() for path in mine.run_files("bio_qa")}
    done = mine.run("bio_qa", "--claims", "BIO-1", "--seeds", f"{SEED},{SEED + 100}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 4 runs are there" in done.stdout
    assert (mine.report("bio_qa") / "verdict.json").read_bytes() == before
    folder = mine.report("bio_qa") / f"seeds-{SEED}-{SEED + 100}"
    document = json.loads((folder / "verdict.json").read_text())
    assert len(set(document["data_fingerprint"].values())) == 2
    losses = [run["metrics"]["pretraining_loss"] for run in document["runs"] if run["condition"] == "finetune/single"]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    assert {path: path.read_bytes() for path in kept} == kept


# ----------------------------------------------------------------------------------------------------------------------
# Interruptions and damage
# ----------------------------------------------------------------------------------------------------------------------


def test_a_killed_sweep_goes_on_and_ends_the_same(place, tmp_path):
    mine = Place(tmp_path)
    arguments = ("--claims", "BIO-5,BIO-6", "--jobs", "1")
    process = subprocess.Popen(
        mine.command("bio_qa", *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **mine.settings
    )
    try:
        deadline = time.monotonic() + 300
        while not mine.run_files("bio_qa"):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in mine.run_files("bio_qa")}
    assert 1 <= len(finished) < 3

    done = mine.run("bio_qa", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(finished)} of 3 runs are there" in done.stdout
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished} == finished
    uninterrupted = {path.name: metrics_of(path) for path in place.run_files("bio_qa")}
    assert len(mine.run_files("bio_qa")) == 3
    for path in mine.run_files("bio_qa"):
        assert metrics_of(path) == uninterrupted[path.name]


def test_results_of_another_version_are_kept(place, tmp_path):
    mine = copy_of(place, tmp_path)
    (run,) = (path for path in mine.run_files("bio_qa") if path.name.startswith("mixed__single-"))
    verdict = mine.report("bio_qa") / "verdict.json"
    expected, changed = metrics_of(run), {}
    for path in (run, verdict):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
        changed[path] = path.read_bytes()
    done = mine.run("bio_qa", "--claims", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "its format version is 99" in done.stdout
    assert "computing 1 (" in done.stdout
    for path in (run, verdict):
        assert path.with_name(f"{path.stem}.kept-1.json").read_bytes() == changed[path]
    assert metrics_of(run) == expected  # from the finished stage
    assert json.loads(verdict.read_text())["format_version"] != 99


def test_a_damaged_stage_is_named(place, tmp_path):
    """Nothing wrong is computed from it: the message names the file, and without the stage the run succeeds."""
    shutil.copytree(place.folder / "cache", tmp_path / "cache")
    experiment, preset = EXPERIMENTS["bio_qa"], PRESETS["smoke"]
    condition = next(c for c in experiment.conditions(preset) if c.name == "finetune/single")
    for weights in (tmp_path / "cache" / "stages").glob("pretrain-*/model/model.safetensors"):
        os.truncate(weights, 1000)
    with pytest.raises(CheckpointError, match=r"stages/pretrain-\w+/model/model\.safetensors.*delete") as caught:
        experiment.run(preset, condition, SEED, Workspace(cache=tmp_path / "cache"))
    (damaged,) = (
        folder for folder in (tmp_path / "cache" / "stages").glob("pretrain-*") if f"{folder}/" in str(caught.value)
    )
    shutil.rmtree(damaged)
    metrics = experiment.run(preset, condition, SEED, Workspace(cache=tmp_path / "cache"))
    (run,) = (path for path in place.run_files("bio_qa") if path.name.startswith("finetune__single-"))
    assert json.loads(json.dumps(metrics)) == metrics_of(run)


# ----------------------------------------------------------------------------------------------------------------------
# What is said and refused
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLOTS)
def test_help_shows_scales_and_examples(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(EXPERIMENTS[name], ["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in (*(f"  {scale} " for scale in SCALES), "Examples:", f"python -m experiments.{name} --scale smoke"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conditions", "finetune/none"], "finetune/multi5+permute"),
        (["--claims", "BIO-99"], "there are core, all, BIO-1, BIO-2"),
        (["--seeds", str(min(DEVELOPMENT_SEEDS))], "used to choose the presets"),
        (["--development", "--seeds", str(SEED)], "must not be looked at before"),
    ],
)
def test_refusals_say_what_is_possible(arguments, message, tmp_path, capsys):
    assert main(EXPERIMENTS["bio_qa"], ["--scale", "smoke", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_scale_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(EXPERIMENTS["bio_qa"], ["--scale", "huge"])
    assert stopped.value.code == 2
    text = "".join(capsys.readouterr())
    assert all(scale in text for scale in ("huge", *SCALES))


def test_more_people_than_names_are_refused():
    shape = replace(PRESETS["smoke"].world, people=8001)
    with pytest.raises(ValueError, match=r"at most 8000, the number of different full names .* make first"):
        shape.config(SEED)


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_every_document_fits_into_a_window(scale):
    """Windows cut documents, as in the paper; one longer than a window would never be seen whole."""
    for preset in (PRESETS[scale], CELEBRITY_PRESETS[scale]):
        variants = {*preset.variants, *preset.mixed_variants, "single+permute1+fullname", "multi5+permute+fullname"}
        for variant in sorted(variants):
            world = make_world(preset.world.config(SEED, variant=variant))
            for split in world.splits:
                lengths = np.diff(world.render(split, np.arange(world.size(split)), marks=()).offsets)
                assert lengths.max() + 1 <= preset.model.context, (variant, split)


@pytest.mark.parametrize("name", PLOTS)
def test_every_scale_can_be_planned(name):
    """Claims read conditions that exist, at every scale; nothing is computed."""
    experiment = EXPERIMENTS[name]
    for scale, preset in experiment.presets.items():
        names = {condition.name for condition in experiment.conditions(preset)}
        claims = experiment.claims(scale, preset)
        assert all(set(claim.conditions) <= names for claim in claims)
        assert set(experiment.core) <= {claim.id for claim in claims}
        assert experiment.estimate(preset)
