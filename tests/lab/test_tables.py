"""The tables of the documents are made from experiments and records, so that none is forgotten."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
from toy_experiment import EXPERIMENT

from physlm.lab import verdict_table
from physlm.lab.provenance import NUMERICS_REVISION

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The script, with two toy experiments and a results folder of its own."""
    spec = importlib.util.spec_from_file_location("update_results", ROOT / "scripts" / "update_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    later = dataclasses.replace(EXPERIMENT, name="later")
    known = {"toy": (EXPERIMENT, "Do ladders help?"), "later": (later, "Do they help later?")}
    monkeypatch.setattr(module, "all_experiments", lambda: known)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def record(tables, **changes):
    """A recorded claim of each verdict."""
    part = {"name": "gain", "estimate": 0.5, "interval": [0.4, 0.6], "unit": "points", "relation": "≥"}
    part |= {"threshold": 0.3, "reason": ""}
    claims = [
        {
            "id": f"TOY-{number}",
            "statement": "S.",
            "seeds": [7, 8],
            "verdict": verdict,
            "reason": reason,
            "parts": [{**part, "verdict": verdict}],
            "requirements": [{"name": "recall", "met": not reason.startswith("not valid")}],
        }
        for number, (verdict, reason) in enumerate(
            [
                ("inconclusive", "not valid here: recall must be ≥ 97.0 %, got 3.0 % at seed 1"),
                ("inconclusive", "the interval straddles the threshold"),
                ("refuted", ""),
                ("supported", ""),
            ],
            start=1,
        )
    ]
    path = tables.RESULTS / "toy" / "cpu" / "verdict.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"claims": claims, "seeds": [7, 8], "numerics": NUMERICS_REVISION, **changes}))


def test_every_claim_is_told_whatever_its_verdict(tables):
    record(tables)
    rows = tables.table("summary").splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["inconclusive", "inconclusive", "not reproduced", "supported"]
    assert "a requirement is not met: recall*" in rows[0]
    assert "straddles" in rows[1]
    assert all("**50.0** [40.0, 60.0] (claimed ≥ 30.0 points)" in row for row in rows)
    assert "refuted" in tables.table("toy")
    assert "weights" not in tables.table("summary")


def test_a_claim_with_decisive_seeds_is_told_by_these(tables, monkeypatch):
    record(tables)
    seeds = (11, 12, 13)
    decided = dataclasses.replace(EXPERIMENT, decisive_seeds={"TOY-2": seeds})
    monkeypatch.setattr(tables, "all_experiments", lambda: {"toy": (decided, "Do ladders help?")})
    before = tables.table("toy")
    assert "seeds)" not in before
    path = tables.RESULTS / "toy" / "cpu" / "seeds-11-to-13" / "verdict.json"
    path.parent.mkdir()
    first = json.loads((path.parents[1] / "verdict.json").read_text())
    claim = first["claims"][1] | {"verdict": "supported", "reason": "", "seeds": list(seeds)}
    path.write_text(json.dumps({**first, "claims": [first["claims"][0], claim], "seeds": list(seeds)}))
    changed = [row for row in tables.table("toy").splitlines() if row not in before.splitlines()]
    assert len(changed) == 1
    assert changed[0].startswith("| TOY-2 | S. | supported (3 seeds) |")


def test_decisive_seeds_are_fresh():
    with pytest.raises(ValueError, match=r"decisive seeds .* of TOY-2 are not fresh"):
        dataclasses.replace(EXPERIMENT, decisive_seeds={"TOY-2": EXPERIMENT.seeds[EXPERIMENT.default_scale]})


def test_a_record_can_be_shown_by_its_path(tables):
    path = tables.RESULTS / "toy" / "cpu" / "verdict.json"
    assert verdict_table(path) == "Nothing is recorded here yet."
    record(tables, experiment="toy", numerics=0)
    assert verdict_table(str(path)) + "\n" == tables.table("toy")


def test_a_record_of_older_numerics_is_told_as_such(tables):
    record(tables, numerics=0)
    assert "`toy`: These runs were made with numerics revision 0" in tables.table("summary").splitlines()[-1]
    assert "numerics revision 0" in tables.table("toy")


def test_an_experiment_without_a_record_has_its_row(tables):
    record(tables)
    toy, later = tables.table("experiments").splitlines()[2:]
    command = "| `python -m experiments.toy` | Do ladders help? | TOY-1, 2 |"
    assert toy == f"{command} 1 supported, 1 not reproduced, 2 inconclusive |"
    assert later.endswith("| nothing yet |")


def test_experiments_are_found_by_being_there(tmp_path, monkeypatch):
    import experiments

    (tmp_path / "added.py").write_text(
        f'"""Is it found?\n\nMore."""\n\nimport sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        "from toy_experiment import EXPERIMENT\n"
    )
    (tmp_path / "_shared.py").write_text("raise AssertionError('modules with an underscore are no experiments')\n")
    monkeypatch.setattr(experiments, "__path__", [str(tmp_path)])
    spec = importlib.util.spec_from_file_location("update_results", ROOT / "scripts" / "update_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.all_experiments() == {"toy": (EXPERIMENT, "Is it found?")}


def test_claims_are_abbreviated(tables):
    assert tables.abbreviated(["CFG-10", "CFG-9", "BIO-5-ladder", "BIO-5", "FORMAT"]) == (
        "BIO-5, 5-ladder, CFG-9, 10, FORMAT"
    )


def test_the_readme_has_both_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- results: summary -->" in text
    assert "<!-- results: experiments -->" in text
