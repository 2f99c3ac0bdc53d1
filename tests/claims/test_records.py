"""The committed verdicts: they follow from the committed runs, and these were asked for by this code.

Nothing is trained here. Every number is computed again from the run files, each of which carries a checksum and is
found by the hash of all that it depends on: experiment, revision, preset, condition, seed, data, and the numerics
revision, which is that of the record and may precede the present one.
"""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from physlm.lab.claims import evaluate
from physlm.lab.content import content_hash, to_json
from physlm.lab.plan import folder_of
from physlm.lab.provenance import NUMERICS_REVISION
from physlm.lab.results import without_items
from physlm.lab.storage import FORMAT_VERSION, load_run, run_hash, run_path

RESULTS = Path(__file__).parents[2] / "results"
SCALE = "cpu"
RECORDED = sorted(path.parents[1].name for path in RESULTS.glob(f"*/{SCALE}/verdict.json"))
DECIDED_ON_MORE = [
    (name, claim)
    for name in RECORDED
    for claim in importlib.import_module(f"experiments.{name}").EXPERIMENT.decisive_seeds
]
SEEDS_OF_A_VERDICT = 5
SUPPORTED = ("BIO-1", "BIO-4", "BIO-5")


class Record:
    """A committed verdict and, beside it, what the code says now of everything but the numerics.

    With a claim, it is the verdict on the decisive seeds of that claim.
    """

    def __init__(self, name, claim=None):
        self.runs_folder = RESULTS / name / SCALE / "runs"
        self.experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        declared = self.experiment.decisive_seeds[claim] if claim else self.experiment.seeds[SCALE]
        self.declared_seeds = tuple(declared)
        self.folder = RESULTS / name / SCALE / (folder_of(self.declared_seeds) if claim else ".")
        self.document = json.loads(
            (self.folder / "verdict.json").read_text(encoding="utf-8"), parse_constant=pytest.fail
        )
        self.preset = self.experiment.preset(SCALE)
        self.conditions = {condition.name: condition for condition in self.experiment.conditions(self.preset)}
        self.claims = {claim.id: claim for claim in self.experiment.claims(SCALE, self.preset)}
        self.verdicts = {claim["id"]: claim for claim in self.document["claims"]}
        self.seeds = tuple(self.document["seeds"])
        self.fingerprints = {seed: self.experiment.data_fingerprint(self.preset, seed) for seed in self.seeds}

    def run(self, condition, seed):
        """A run file, found and verified by the hash that the code gives it at the record's numerics revision."""
        full_hash = run_hash(
            experiment=self.experiment.name,
            revision=self.experiment.revision,
            preset=self.preset,
            condition=condition,
            options=self.conditions[condition].options,
            seed=seed,
            fingerprint=self.fingerprints[seed],
            numerics=self.document["numerics"],
        )
        assert self.document["hashes"]["runs"][f"{condition} seed {seed}"] == full_hash
        return load_run(run_path(self.runs_folder, condition, seed, full_hash), full_hash)


@pytest.fixture(scope="module", params=[*((name, None) for name in RECORDED), *DECIDED_ON_MORE], ids=str)
def record(request):
    return Record(*request.param)


def same(recorded, computed, where="verdict"):
    """Equal up to the last bits of floating-point numbers, which differ between processors and libraries."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        assert recorded.keys() == computed.keys(), where
        for key, value in recorded.items():
            same(value, computed[key], f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(computed, list):
        assert len(recorded) == len(computed), where
        for index, value in enumerate(recorded):
            same(value, computed[index], f"{where}[{index}]")
    elif isinstance(recorded, float) and isinstance(computed, (int, float)):
        assert math.isclose(recorded, computed, rel_tol=1e-6, abs_tol=1e-9), where
    else:
        assert recorded == computed, where


def test_the_main_experiment_is_recorded():
    assert "bio_qa" in RECORDED, (
        "results/bio_qa/cpu/verdict.json is missing: run `python -m experiments.bio_qa --claims all`"
    )


def test_the_seeds_are_five_or_more_that_nobody_looked_at(record):
    assert record.seeds == record.declared_seeds
    assert len(set(record.seeds)) == len(record.seeds) >= SEEDS_OF_A_VERDICT
    assert not set(record.seeds) & set(record.experiment.development_seeds)
    assert record.document["development"] is False


def test_the_record_belongs_to_this_code(record):
    document = record.document
    assert document["format_version"] == FORMAT_VERSION
    assert document["scale"] == SCALE
    assert document["revision"] == record.experiment.revision
    assert document["preset"] == to_json(record.preset)
    assert document["hashes"]["preset"] == content_hash(record.preset)
    assert document["data_fingerprint"] == {str(seed): value for seed, value in record.fingerprints.items()}
    for name, options in document["conditions"].items():
        assert options == to_json(record.conditions[name].options)


def test_no_claim_is_left_out(record):
    """A claim that does not hold is recorded too: all that the finished runs can decide."""
    finished = set(record.document["conditions"])
    decidable = [identity for identity, claim in record.claims.items() if set(claim.conditions) <= finished]
    assert list(record.verdicts) == decidable
    assert decidable


def test_thresholds_are_those_of_the_code(record):
    for identity, recorded in record.verdicts.items():
        claim = record.claims[identity]
        expected = [(part.name, part.relation, to_json(part.threshold)) for part in claim.predicates]
        assert [(part["name"], part["relation"], part["threshold"]) for part in recorded["parts"]] == expected
        required = [(need.name, need.relation, to_json(need.threshold)) for need in claim.requires]
        assert [(need["name"], need["relation"], need["threshold"]) for need in recorded["requirements"]] == required
        assert recorded["statement"] == claim.statement


def test_verdicts_follow_from_the_runs(record):
    runs = {
        seed: {name: record.run(name, seed).metrics for name in record.document["conditions"]} for seed in record.seeds
    }
    for identity, recorded in record.verdicts.items():
        computed = to_json(evaluate(record.claims[identity], runs))
        assert not computed.pop("failed")
        same(recorded, computed, identity)


def test_the_summary_repeats_the_runs(record):
    listed = [(run["condition"], run["seed"]) for run in record.document["runs"]]
    assert sorted(listed) == sorted((name, seed) for name in record.document["conditions"] for seed in record.seeds)
    for summary in record.document["runs"]:
        run = record.run(summary["condition"], summary["seed"])
        assert summary["metrics"] == without_items(dict(run.metrics))
        assert (run.experiment, run.scale) == (record.experiment.name, SCALE)
        assert run.numerics == record.document["numerics"]


def test_a_record_of_earlier_numerics_says_so(record):
    numerics = record.document["numerics"]
    report = (record.folder / "report.md").read_text(encoding="utf-8")
    assert f"numerics revision {numerics}" in report
    said = "same seeds now give other weights" in report
    assert said == (numerics < NUMERICS_REVISION), (
        f"`python -m experiments.{record.experiment.name} --recorded` writes the report again"
    )


def test_the_report_is_there_with_its_plots(record):
    report = (record.folder / "report.md").read_text(encoding="utf-8")
    for identity, verdict in record.verdicts.items():
        assert f"## {identity}: {verdict['verdict']}" in report
    plots = list(record.folder.glob("*.png"))
    # Some of the claims may leave nothing to draw.
    assert plots or len(record.verdicts) < len(record.claims)
    assert all(f"({plot.name})" in report for plot in plots)


@pytest.mark.skipif("bio_qa" not in RECORDED, reason="its absence is a failure of its own")
@pytest.mark.parametrize("identity", SUPPORTED)
def test_the_central_claims_are_supported(identity):
    verdict = Record("bio_qa").verdicts[identity]
    assert verdict["verdict"] == "supported", verdict["reason"]
    assert verdict["interval_over"] == "seeds"
    assert all(requirement["met"] for requirement in verdict["requirements"])


def test_the_tables_in_the_documents_are_those_of_the_records():
    script = Path(__file__).parents[2] / "scripts" / "update_results.py"
    subprocess.run([sys.executable, script, "--check"], check=True)
