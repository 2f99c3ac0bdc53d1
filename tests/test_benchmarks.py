"""Every benchmark runs in its tiny mode and ends with a JSON line that machines can read; no speed is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physlm.models.presets import preset

ROOT = Path(__file__).resolve().parents[1]
TYPES = {
    "benchmark": str,
    "value": float,
    "unit": str,
    "peer": str,
    "peer_value": float,
    "ratio": float,
    "hardware": dict,
    "commit": (str, type(None)),
    "dirty": (bool, type(None)),
    "versions": dict,
    "threads": int,
    "repetitions": int,
    "quick": bool,
    "seconds": float,
    "peak_memory_mb": float,
    "parameters": dict,
    "details": dict,
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        *("bios", "cfg-sample", "cfg-parse", "cfg-next", "igsm", "igsm-judge", "mistakes"),
        *("train", "stacked", "evaluate", "attention", "probe", "import"),
    ],
)
def test_last_line_is_a_complete_record(name):
    if name in ("train", "evaluate", "probe", "import"):
        pytest.importorskip("transformers", reason="the peer of this benchmark")
    done = run(name, "--quick")
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.rstrip("\n").split("\n")
    assert any("physlm" in row for row in table)
    record = json.loads(line)
    assert {key: type(value) for key, value in record.items() if not isinstance(value, TYPES[key])} == {}
    assert set(record) == set(TYPES)
    assert record["benchmark"] == name
    assert record["quick"] is True
    for key in ("value", "peer_value", "ratio", "seconds", "peak_memory_mb"):
        assert math.isfinite(record[key])
        assert record[key] > 0
    assert set(record["hardware"]) == {"cpu", "cores", "system"}
    assert {"python", "torch", "numpy", "physlm", "tokenizers", "transformers"} == set(record["versions"])


def test_help_teaches():
    done = run("--help")
    assert done.returncode == 0
    for name in ("bios", "train", "stacked", "evaluate", "attention", "probe", "import", "gpu", "--quick", "JSON"):
        assert name in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_its_benchmark_says_so():
    done = run("gpu", "--quick")
    assert done.returncode == 2
    assert "needs a CUDA GPU" in done.stderr


def test_what_runs_on_a_gpu_runs_on_a_cpu_too():
    pytest.importorskip("transformers", reason="the peer of this benchmark")
    from benchmarks import gpu

    config, cpu = replace(preset("GPT2-1-1", vocab_size=1024, context=16), vocab_multiple=64), torch.device("cpu")
    one = gpu.one_model(config, 2, 2, 1, cpu, compiled=False)
    assert one["parameters"] == gpu.parameter_count(config)
    many = gpu.many_models(config, 3, 2, 2, 1, cpu)
    assert many["models"] == 3
    assert min(one["value"], one["ratio"], many["value"], many["ratio"]) > 0
    # 6 for every weight, and 12 · layers · width · context for attention
    assert gpu.operations_per_token(config) == 6 * one["parameters"] + 12 * 64 * 16


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    done = run("speed")
    assert done.returncode == 2
    assert "evaluate" in done.stderr + done.stdout


def test_repetitions_must_be_positive():
    done = run("bios", "--quick", "--repetitions", "-1")
    assert done.returncode == 2
    assert "repetitions must be ≥ 1, got -1" in done.stderr
