"""Several processes learn what one does; the processes are real, on the CPU."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from parallel_run import CASES, run
from small import RECIPE, STEPS, make_model, make_stream, tensors

from physlm.training.checkpoints import load_model
from physlm.training.distributed import Process, this_process
from physlm.training.execution import Execution
from physlm.training.loop import train
from physlm.training.sharding import part_like, split_copy, whole

HERE = Path(__file__).parent
SCRIPT = HERE / "parallel_run.py"
HOWS = ("ddp", "fsdp")
ROUNDING = {"rtol": 1e-3, "atol": 2e-5}


def environment(**more):
    return {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What two processes of torchrun made of every case."""
    folder = tmp_path_factory.mktemp("outcomes")
    names = [f"{name}-{how}" for name, how in product(CASES, HOWS)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, SCRIPT, folder, *names], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def pair(*arguments):
    """The script in two processes, which know of each other but which nobody watches."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            env=environment(**shared, RANK=f"{rank}", LOCAL_RANK=f"{rank}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def read(path):
    return json.loads(path.read_text())


def assert_same_curve(records, others):
    assert [record["step"] for record in records] == [record["step"] for record in others]
    for name in ("loss", "norm"):
        assert [record[name] for record in records] == pytest.approx([record[name] for record in others], rel=1e-4)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(outcomes, name, how):
    model, records = run(CASES[name])
    first, second = (read(outcomes / f"{name}-{how}.{rank}.json") for rank in range(2))
    assert first == second
    assert_same_curve(first["records"], records)
    torch.testing.assert_close(tensors(load_model(outcomes / f"{name}-{how}")), tensors(model), **ROUNDING)


def test_processes_that_were_started_differently_are_refused(outcomes):
    for rank in range(2):
        said = (outcomes / f"different.{rank}.txt").read_text()
        assert said.startswith("all processes must be started alike, got another ")
        assert ("another initial weights on rank 1" in said) == (rank == 1)


BLOWS = {"ddp": (signal.SIGKILL, 600, r"Connection (closed|reset)"), "fsdp": (signal.SIGSTOP, 6, r"[Tt]imed out")}


@pytest.fixture(scope="module")
def struck(tmp_path_factory):
    """Runs whose rank 1 was killed or stopped in the middle, with what rank 0 said and how long it took to."""
    folder, said = tmp_path_factory.mktemp("struck"), {}
    for how, (blow, timeout, _) in BLOWS.items():
        first, second = pair("--killable", timeout, folder, how)
        for line in first.stdout:
            if json.loads(line) >= 0.4:
                break
        second.send_signal(blow)
        start = time.monotonic()
        _, errors = first.communicate(timeout=60)
        said[how] = first.returncode, errors, time.monotonic() - start
        second.kill()
        second.communicate()
    return folder, said


@pytest.mark.parametrize("how", HOWS)
def test_a_process_that_is_lost_ends_the_others_with_one_clear_error(struck, how):
    folder, said = struck
    code, errors, waited = said[how]
    assert code == 1
    assert waited < BLOWS[how][1] + 15
    last = errors.strip().splitlines()[-1]
    assert "LostProcessError: rank 0 lost the other processes (" in last
    assert re.search(BLOWS[how][2], last)
    assert "start all of them again with the same command" in last
    (checkpoint,) = (folder / how).glob("step-*")
    assert 0 < int(checkpoint.name.removeprefix("step-")) < STEPS


@pytest.mark.parametrize("how", HOWS)
def test_one_process_goes_on_where_two_were(struck, outcomes, tmp_path, how):
    folder, _ = struck
    shutil.copytree(folder / how, tmp_path / how)
    model, records = run(CASES["plain"], folder=tmp_path / how)
    assert_same_curve(records, read(outcomes / f"plain-{how}.0.json")["records"])
    torch.testing.assert_close(tensors(model), tensors(load_model(outcomes / f"plain-{how}")), **ROUNDING)


def test_lost_runs_end_as_if_nothing_had_happened(struck, outcomes, tmp_path):
    folder, _ = struck
    for how in HOWS:
        shutil.copytree(folder / how, tmp_path / how)
    for process in pair("--killable", 600, tmp_path, *HOWS):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    for how in HOWS:
        expected = read(outcomes / f"plain-{how}.0.json")
        assert read(tmp_path / f"resumed-{how}.0.json") == read(tmp_path / f"resumed-{how}.1.json") == expected


def test_two_processes_go_on_where_one_was():
    """The state of a run does not know of processes: the identity of the data counts the rows of all."""
    streams = make_stream(), make_stream(batch_size=2, rank=1, ranks=2)
    for stream in streams:
        stream.next_batch()
    assert streams[0].state() == streams[1].state()


@pytest.mark.parametrize("how", HOWS)
def test_without_torchrun_there_is_nobody_to_share_with(how):
    with pytest.raises(ValueError, match=f"distribute='{how}' needs processes that torchrun starts.*nproc-per-node"):
        train(make_model(), make_stream(), RECIPE, execution=Execution(distribute=how))


def test_a_stream_of_another_rank_is_refused(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert this_process() == Process(rank=1, ranks=2, local_rank=1)
    with pytest.raises(ValueError, match="stream must be that of rank 1 of 2, got rank 0 of 1"):
        train(make_model(), make_stream(), RECIPE, execution=Execution(distribute="ddp"))


def test_one_rank_of_several_is_refused():
    with pytest.raises(ValueError, match=r"would not average gradients, got a stream of 2 ranks; .*distribute='ddp'"):
        train(make_model(), make_stream(ranks=2), RECIPE)


def test_without_torchrun_a_process_is_the_only_one():
    assert this_process() == Process(rank=0, ranks=1, local_rank=0)


def test_a_number_that_stands_alone_cannot_be_split():
    model = make_model()
    model.position.register_parameter("slope", torch.nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(
        ValueError, match=r"cannot split numbers that stand alone, got \['position.slope'\]; use .*'ddp'"
    ):
        split_copy(model, None)


def test_what_is_not_split_is_whole():
    weight = make_model().embed.weight
    assert whole(weight) is weight
    assert part_like(weight, weight) is weight
