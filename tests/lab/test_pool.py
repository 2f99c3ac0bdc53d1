import dataclasses
import functools
import os
import time
from pathlib import Path

import pytest
from rich.console import Console
from toy_experiment import EXPERIMENT

from physlm.lab import run_experiment, runner
from physlm.lab.pool import Task, run_tasks


class Outcomes:
    """An observer that keeps what it hears."""

    stop = False

    def __init__(self):
        self.results = {}

    def started(self, task):
        pass

    def progressed(self, task, fraction, message):
        pass

    def finished(self, task, result):
        self.results[task.label] = result

    def failed(self, task, failure):
        pytest.fail(f"{task.label}: {failure.summary}")

    def tick(self):
        pass


def meet(folder, name, others, _report):
    """Wait until all others have come too, which they do only if they run at the same time."""
    (Path(folder) / name).touch()
    deadline = time.monotonic() + 60
    while not all((Path(folder) / other).exists() for other in others):
        assert time.monotonic() < deadline, f"{name} waited for {others} in vain"
        time.sleep(0.02)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def test_runs_are_parallel_with_one_thread_each(tmp_path):
    names = ("first", "second")
    tasks = [Task(name, functools.partial(meet, str(tmp_path), name, names)) for name in names]
    outcomes = Outcomes()
    run_tasks(tasks, outcomes, jobs=2, threads=1)
    assert set(outcomes.results) == set(names)
    processes, threads = zip(*outcomes.results.values(), strict=True)
    assert len(set(processes)) == 2
    assert set(threads) == {"1"}


@pytest.mark.parametrize(("cores", "threads", "jobs"), [(2, 1, 2), (2, 2, 1), (1, 1, 1), (8, 3, 2)])
def test_cores_are_shared_out(places, monkeypatch, cores, threads, jobs):
    """As many runs at a time as there are cores for, at the threads that each takes."""
    monkeypatch.setattr(runner, "cpu_count", lambda: cores)
    given = []
    monkeypatch.setattr(runner, "run_tasks", lambda *_, jobs, threads, **__: given.append((jobs, threads)))
    run_experiment(dataclasses.replace(EXPERIMENT, threads_per_run=threads), console=Console(quiet=True), **places)
    assert given == [(jobs, threads)]
