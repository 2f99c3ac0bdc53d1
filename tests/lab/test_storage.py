import enum
import errno
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from physlm.lab import RunMetrics, Workspace
from physlm.lab.content import canonical_json, content_hash, to_json
from physlm.lab.storage import RunRecord, find_run, is_disk_full, run_path, save_run, write_atomically


@dataclass(frozen=True)
class Left:
    rate: float = 0.5


@dataclass(frozen=True)
class Right:
    rate: float = 0.5


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ((1, 2), [1, 2], True),
        (np.int64(3), 3, True),
        (1, 1.0, False),
        (Left(), Left(0.5), True),
        (Left(), Right(), False),
        (Left(), {"rate": 0.5}, False),
        ([Left()], [Right()], False),
    ],
)
def test_content_hash(first, second, same):
    assert (content_hash(first) == content_hash(second)) == same


def test_content_hash_is_the_same_everywhere():
    assert canonical_json(Left()) == '{"__type__":"Left","rate":0.5}'
    assert content_hash({"a": [1, "é"]}) == content_hash(json.loads('{"a":[1,"é"]}'))


def test_to_json():
    value = {"a": np.float32(0.5), "b": np.array([[True]]), "c": Path("x/y"), "d": {2, 1}, "e": Colour.RED}
    assert to_json(value) == {"a": 0.5, "b": [[True]], "c": "x/y", "d": [1, 2], "e": "red"}
    assert to_json([float("inf"), None]) == [None, None]
    with pytest.raises(TypeError, match=r"value\['a'\]\[1\] is a object"):
        to_json({"a": [1, object()]})
    with pytest.raises(TypeError, match="keys must be strings"):
        to_json({1: 2})


def record(**changes):
    given = {
        "experiment": "toy",
        "revision": 1,
        "scale": "cpu",
        "condition": "a/b",
        "options": {},
        "seed": 1,
        "hash": "f" * 64,
        "preset_hash": "0",
        "data_fingerprint": "d",
        "metrics": RunMetrics(x=0.5),
        "wall_seconds": 1.0,
        "peak_memory_bytes": 1,
        "hardware": {},
        "versions": {},
    }
    return RunRecord(**{**given, **changes})


def test_run_files_round_trip_and_are_never_overwritten(tmp_path):
    path = run_path(tmp_path, "a/b", 1, "f" * 64)
    assert path.name == "a__b-seed1-ffffffffffff.json"
    save_run(path, record())
    save_run(path, record(metrics=RunMetrics(x=0.75)))
    found = find_run(tmp_path, "f" * 64, pytest.fail)
    assert found is not None
    assert found.metrics.number("x") == 0.75
    assert len(list(tmp_path.glob("*.kept-1.json"))) == 1


def change(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not complete JSON"),
        (lambda _: "", "not complete JSON"),
        (lambda _: "[]", "not a run file"),
        (change(format_version=99), "format version is 99"),
        (change(hash="f" * 12 + "0" * 52), "another run"),
        (change(metrics={"x": 0.9}), "checksum differs"),
    ],
)
def test_a_run_file_that_cannot_be_trusted(tmp_path, damage, message):
    path = run_path(tmp_path, "a/b", 1, "f" * 64)
    save_run(path, record())
    damaged = damage(path.read_text())
    path.write_text(damaged)
    warnings = []
    assert find_run(tmp_path, "f" * 64, warnings.append) is None
    assert len(warnings) == 1
    assert message in warnings[0]
    assert path.name in warnings[0]
    assert "\n" not in warnings[0]
    assert path.read_text() == damaged


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "verdict.json"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, "new")
    assert is_disk_full(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]


def test_a_full_disk_is_seen_behind_other_errors(tmp_path):
    hidden = RuntimeError("writing weights failed")
    hidden.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_disk_full(hidden)
    assert not is_disk_full(RuntimeError("no"), tmp_path / "not" / "there")


def test_an_interrupted_stage_finds_its_checkpoint(tmp_path):
    workspace = Workspace(cache=tmp_path)
    seen = []

    def compute(folder):
        seen.append([p.name for p in folder.iterdir()])
        (folder / "step-1").touch()
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.stage("pretrain", {"seed": 1}, compute)
    folder = workspace.stage("pretrain", {"seed": 1}, compute)
    assert workspace.stage("pretrain", {"seed": 1}, compute) == folder
    assert seen == [[], ["step-1"]]
    assert sorted(p.name for p in folder.iterdir()) == ["stage.json", "step-1"]
    assert workspace.stage("pretrain", {"seed": 2}, lambda _: None) != folder


def test_stages_asked_for_at_once_are_computed_once(tmp_path):
    computed = []
    begin = threading.Barrier(4)

    def ask():
        begin.wait()
        Workspace(cache=tmp_path).stage("pretrain", {}, lambda _: computed.append(1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]


def test_stage_names(tmp_path):
    with pytest.raises(ValueError, match="stage name"):
        Workspace(cache=tmp_path).stage("../x", {}, lambda _: None)
