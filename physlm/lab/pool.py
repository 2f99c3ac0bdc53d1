"""A process pool whose workers may die.

`concurrent.futures` gives up on everything when one worker is killed; a sweep of hours must not. Here a task whose
worker died is reported as such, a new worker takes its place, and the rest goes on.

- Workers are spawned, never forked, with thread counts set before torch can be imported.
- A worker ends when its parent does, even when the parent was killed.
- The parent alone hears Ctrl-C.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from physlm.lab.storage import is_disk_full

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 3.0

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Task:
    """One call for a worker.

    Attributes:
        label: how people know it.
        call: picklable; receives a progress reporter, returns something picklable.
        group: tasks of one group share an expensive stage; other groups are started first.
    """

    label: str
    call: Callable[[Report], Any]
    group: Hashable = None


@dataclass(frozen=True)
class Failure:
    """Why a task did not finish.

    Attributes:
        label: the task's.
        summary: one line.
        details: a traceback, or nothing.
        disk_full: the worker found no space.
    """

    label: str
    summary: str
    details: str = ""
    disk_full: bool = False


class Observer(Protocol):
    """Hears of everything that happens in the pool, in the parent process; `stop` ends it early."""

    stop: bool

    def started(self, task: Task) -> None:
        """A worker took the task."""

    def progressed(self, task: Task, fraction: float, message: str) -> None:
        """The task reported."""

    def finished(self, task: Task, result: Any) -> None:
        """The task returned."""

    def failed(self, task: Task, failure: Failure) -> None:
        """The task raised, or its worker died."""

    def tick(self) -> None:
        """Time passed."""


class _Worker:
    def __init__(self, threads: int, disk_full: Callable[[BaseException], bool]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, threads, disk_full), daemon=False)
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))), _deaf_to_interrupts():
            self.process.start()
        theirs.close()
        self.task: Task | None = None


def run_tasks(
    tasks: Sequence[Task],
    observer: Observer,
    *,
    jobs: int,
    threads: int = 1,
    disk_full: Callable[[BaseException], bool] = is_disk_full,
) -> None:
    """Run all tasks, at most `jobs` at a time; outcomes go to the observer.

    When the observer says stop, running tasks are stopped and no other is started. An exception, Ctrl-C included,
    stops every worker before it goes on.
    """
    pending = list(tasks)
    workers: list[_Worker] = []
    try:
        while pending or any(worker.task for worker in workers):
            _hand_out(pending, workers, observer, jobs, threads, disk_full)
            busy = [worker for worker in workers if worker.task]
            handles = [handle for worker in busy for handle in (worker.connection, worker.process.sentinel)]
            wait(handles, timeout=_TICK_SECONDS)
            for worker in busy:
                _listen(worker, observer)
                if worker.task is None and not worker.process.is_alive():
                    workers.remove(worker)
            observer.tick()
            if observer.stop:
                return
    finally:
        _dismiss(workers)


def _hand_out(
    pending: list[Task],
    workers: list[_Worker],
    observer: Observer,
    jobs: int,
    threads: int,
    disk_full: Callable[[BaseException], bool],
) -> None:
    while pending and sum(worker.task is not None for worker in workers) < jobs:
        taken = {worker.task.group for worker in workers if worker.task and worker.task.group is not None}
        task = next((task for task in pending if task.group not in taken), pending[0])
        worker = next((worker for worker in workers if worker.task is None), None)
        if worker is None:
            worker = _Worker(threads, disk_full)
            workers.append(worker)
        try:
            worker.connection.send(task)
        except OSError:  # it died while idle
            workers.remove(worker)
            continue
        worker.task = task
        pending.remove(task)
        observer.started(task)


def _listen(worker: _Worker, observer: Observer) -> None:
    """Take everything a worker has said; if it is dead and has not finished, say so."""
    alive = worker.process.is_alive()  # asked first: what it said before it died is still in the pipe
    with contextlib.suppress(EOFError, OSError):
        while worker.task is not None and worker.connection.poll():
            kind, *content = worker.connection.recv()
            task = worker.task
            if kind == "progress":
                observer.progressed(task, *content)
                continue
            worker.task = None
            if kind == "done":
                observer.finished(task, content[0])
            else:
                summary, details, full = content
                observer.failed(task, Failure(task.label, summary, details, full))
    if worker.task is not None and not alive:
        task, worker.task = worker.task, None
        observer.failed(task, Failure(task.label, _cause_of_death(worker.process.exitcode)))


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = "; often the system ran out of memory, try fewer --jobs" if name == "SIGKILL" else ""
        return f"its process was killed ({name}{hint})"
    return f"its process ended with exit code {code} before finishing"


def _dismiss(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        with contextlib.suppress(OSError):
            if worker.task is None:
                worker.connection.send(None)
        if worker.task is not None:
            worker.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()
        worker.process.close()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process started inside ignores Ctrl-C from its first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(connection: Connection, threads: int, disk_full: Callable[[BaseException], bool]) -> None:
    """The life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task: Task | None = connection.recv()
        except (EOFError, OSError):
            return
        except Exception as error:
            connection.send(("failed", f"could not be started: {error!r}", traceback.format_exc(), False))
            continue
        if task is None:
            return
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(threads)
        try:
            result = task.call(lambda fraction, message: connection.send(("progress", fraction, message)))
            answer = ("done", result)
        except Exception as error:
            # An error written for the user says what to do; a traceback would only hide it.
            details = "" if getattr(error, "explains_itself", False) else traceback.format_exc()
            answer = ("failed", f"{type(error).__name__}: {error}", details, disk_full(error))
        connection.send(answer)
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
