"""One run on several processes, as `torchrun` starts them.

- Each process trains on its own rows of every batch. How many tokens are asked for in all is agreed on before every
  step, so that the loss is that of the whole batch whatever the rows of each hold.
- What the hosts agree on goes through gloo, gradients and weights through NCCL on GPUs. The hosts meet in every step,
  so a process that is gone is noticed within it, and one that hangs after `Execution.timeout_seconds`.
- Rank 0 writes checkpoints, evaluates and reports; the records it makes are those of every process.

Example, as `train.py` started by `torchrun --nproc-per-node 2 train.py`:
    >>> process = this_process()
    >>> stream = PackedStream(
    ...     mixture, context=512, batch_size=96 // process.ranks, key=key, rank=process.rank, ranks=process.ranks
    ... )
    >>> model = Transformer(config, seed=0).to(process.device)
    >>> train(model, stream, recipe, execution=Execution(distribute="ddp"), folder=folder)
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from physlm.data.streams import PackedStream
from physlm.training.execution import Execution


class LostProcessError(RuntimeError):
    """Another process of the run has ended or hangs."""

    explains_itself = True


@dataclass(frozen=True)
class Process:
    """This process among those of the run.

    Attributes:
        rank: its number, from 0.
        ranks: how many there are.
        local_rank: its number on this machine.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @property
    def device(self) -> torch.device:
        """The GPU that is this process's own, or the CPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def this_process() -> Process:
    """What `torchrun` tells this process about itself; without it, the only one."""
    return Process(*(int(os.environ.get(name, default)) for name, default in _ENVIRONMENT))


_ENVIRONMENT = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


class Group:
    """The processes of a run; alone, there is nobody to agree with."""

    def __init__(self, process: Process, hosts: dist.ProcessGroup | None) -> None:
        self.rank, self.ranks = process.rank, process.ranks
        self._hosts = hosts

    def total(self, count: int) -> int:
        """Sum of the counts of all processes."""
        if self._hosts is None:
            return count
        counts = torch.tensor([count])
        dist.all_reduce(counts, group=self._hosts)
        return int(counts)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on its device."""
        if self._hosts is not None:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.total(0)

    def tell(self, value: Any) -> Any:
        """The JSON value that rank 0 has."""
        if self._hosts is None:
            return value
        content = json.dumps(value).encode() if self.rank == 0 else b""
        message = torch.zeros(self.total(len(content)), dtype=torch.uint8)
        if self.rank == 0:
            message.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(message, src=0, group=self._hosts)
        return json.loads(bytes(message.tolist()))

    def require_same(self, what: dict[str, Any]) -> None:
        """Refuse to go on if processes differ in any entry of a JSON object.

        Raises:
            ValueError: naming the entries.
        """
        expected = self.tell({name: _digest(value) for name, value in what.items()})
        others = [name for name, value in what.items() if _digest(value) != expected.get(name)]
        if self.total(len(others)):
            raise ValueError(
                f"all processes must be started alike, got another {', '.join(others) or 'run elsewhere'} on rank "
                f"{self.rank} than on rank 0; give all of them the same folder, seeds, data and recipe"
            )


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextmanager
def joined(execution: Execution, stream: PackedStream, device: torch.device) -> Iterator[Group]:
    """Meet the other processes of the run, if there are any, and part with them at the end.

    Raises:
        LostProcessError: if one of them ends or hangs in between.
        ValueError: if `stream` or `device` are not this process's own.
    """
    if execution.distribute == "none":
        if stream.ranks > 1:
            raise ValueError(
                f"train runs in one process and would not average gradients, got a stream of {stream.ranks} ranks; "
                "use Execution(distribute='ddp') and torchrun"
            )
        yield Group(Process(), None)
        return
    process = this_process()
    if any(name not in os.environ for name, _ in _ENVIRONMENT):
        raise ValueError(
            f"distribute={execution.distribute!r} needs processes that torchrun starts, got none of its environment "
            "variables; run `torchrun --nproc-per-node 2 script.py`, or use distribute='none'"
        )
    if (stream.rank, stream.ranks) != (process.rank, process.ranks):
        raise ValueError(
            f"the stream must be that of rank {process.rank} of {process.ranks}, got rank {stream.rank} of "
            f"{stream.ranks}; make it with rank=this_process().rank and ranks=this_process().ranks"
        )
    try:
        hosts = _meet(execution, device)
        yield Group(process, hosts)
        dist.destroy_process_group(hosts)
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise LostProcessError(
            f"rank {process.rank} lost the other processes ({_first_line(error)}): one has ended, and said why, or "
            f"did not answer for {execution.timeout_seconds:g} s; start all of them again with the same command, which "
            "goes on from the last checkpoint"
        ) from None


def _meet(execution: Execution, device: torch.device) -> dist.ProcessGroup:
    """Start the process group that carries tensors, if there is none, and return one for the hosts."""
    timeout = timedelta(seconds=execution.timeout_seconds)
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", timeout=timeout, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=timeout)
        # It serves all runs of these processes; torchrun does not let them meet twice.
        atexit.register(_part)
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_loss(error: RuntimeError) -> bool:
    """Whether an error says that another process did not answer; gloo's have no class of their own."""
    words = ("gloo", "Connection closed by peer", "Connection reset", "Broken pipe", "recvValue failed")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _first_line(error: RuntimeError) -> str:
    line = str(error).splitlines()[0]
    line = line.partition("] ")[2] if line.startswith("[") else line
    return line.partition(". ")[0]
