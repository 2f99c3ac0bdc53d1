"""The gradient of a batch, computed as an `Execution` says.

- A batch is taken in equal parts of its rows. Each part's loss is its sum over the tokens asked for, divided by their
  number in the whole batch on all processes, so parts with more of them weigh more and nothing depends on the parts.
- Compiled or on several processes, the loss is the forward pass of one module, since PyTorch hooks there.
- Mixtures of experts add their balance to the gradient; the loss that is reported is the objective alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from physlm.data.streams import Batch
from physlm.models.experts import auxiliary_loss
from physlm.models.transformer import Transformer
from physlm.training.distributed import Group
from physlm.training.execution import Execution
from physlm.training.objectives import Asked, Objective, TokenObjective, require_question, token_loss
from physlm.training.sharding import part_like, processes_of, split, split_copy, whole


class TokenLoss(nn.Module):
    """`token_loss` of a model, and what its experts add, as a module."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, asked: Asked, total: Tensor | float) -> tuple[Tensor, Tensor | None]:
        """The loss, and the auxiliary loss if there is one."""
        return token_loss(self.model, asked, total), auxiliary_loss(self.model)


class Learner:
    """A model that one process trains in place.

    Attributes:
        model: the model that gets the gradients.
        parameters: what is trained of it, by name.
    """

    def __init__(
        self,
        model: Transformer,
        trained: Mapping[str, nn.Parameter],
        *,
        objective: Objective,
        execution: Execution,
        precision: torch.dtype,
        group: Group,
    ) -> None:
        self.objective, self.execution, self.precision, self.group = objective, execution, precision, group
        self.device = next(iter(trained.values())).device
        self.model, self.parameters = model, dict(trained)
        self._take_over()
        loss = TokenLoss(self.model)
        if execution.compile:
            self._compile(loss)
        self.loss = self._hooked(loss)

    def _take_over(self) -> None:
        """Make `model` and `parameters` those that get the gradients."""

    def _compile(self, loss: TokenLoss) -> None:
        """Have the loss compiled when it is first computed."""
        # On its own: PyTorch gives up compiling code that many runs of one process had compiled before.
        loss.compile(dynamic=False, isolate_recompiles=True)

    def _hooked(self, loss: TokenLoss) -> nn.Module:
        """The loss with what processes do before and after it."""
        return loss

    def backward(self, batch: Batch) -> Tensor:
        """Leave the gradient of the whole batch in the parameters.

        Returns:
            The loss of the whole batch in nats, without the balance of experts; it is not waited for.

        Raises:
            ValueError: if nothing is asked in the batch.
        """
        if not isinstance(self.objective, TokenObjective):
            with self._autocast():
                loss = self.objective(self.model, batch)
                auxiliary = auxiliary_loss(self.model)
            (loss if auxiliary is None else loss + auxiliary).backward()
            return loss.detach()
        examples = self.objective.examples(batch, self.model.config.vocab_size)
        count = self.group.total(examples.count)
        require_question(count, examples.targets.size * self.group.ranks)
        dense = self.execution.compile
        # A number would be compiled in.
        total = torch.full((), count, dtype=torch.float32, device=self.device) if dense else count
        parts = examples.split(self.execution.micro_batches)
        losses: list[Tensor] = []
        for number, part in enumerate(parts, start=1):
            with self._adding_up(is_last=number == len(parts)):
                with self._autocast():
                    loss, auxiliary = self.loss(part.on(self.device, dense=dense), total)
                losses.append(loss.detach())
                # Processes average their gradients, and the loss is a sum over them.
                loss = loss if self.group.ranks == 1 else loss * self.group.ranks
                (loss if auxiliary is None else loss + auxiliary / len(parts)).backward()
        return self.group.sum(losses[0] if len(losses) == 1 else torch.stack(losses).sum())

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def _adding_up(self, *, is_last: bool) -> AbstractContextManager[object]:
        """What keeps gradients to this process until the last part."""
        del is_last
        return nullcontext()

    def take(self) -> None:
        """Take over the weights of the caller's model."""

    def give(self, *, everywhere: bool = False) -> None:
        """Write the weights into the caller's model, on rank 0 or on all; all processes must ask for it."""
        del everywhere

    @contextmanager
    def on_loan(self) -> Iterator[None]:
        """The caller's model as trained so far, on rank 0, and where it was when training began."""
        yield

    def close(self) -> None:
        """Leave the caller's model where it was when training began."""


class ReplicatedLearner(Learner):
    """A model that every process holds whole (DDP)."""

    def _hooked(self, loss: TokenLoss) -> nn.Module:
        # That all start alike is checked, not brought about.
        replica = DistributedDataParallel(loss, init_sync=False, forward_sync_buffers=False)
        if self.device.type == "cpu":
            # PyTorch wants the very class in the annotation, not its name.
            replica.register_comm_hook(self.group.ranks, lambda ranks, bucket: _average(ranks, bucket))
        return replica

    def _adding_up(self, *, is_last: bool) -> AbstractContextManager[object]:
        assert isinstance(self.loss, DistributedDataParallel)
        return nullcontext() if is_last else self.loss.no_sync()


def _average(ranks: int, bucket: Any) -> torch.futures.Future[Tensor]:
    """Average the gradients of all processes, each on its own.

    After the first step DDP sends them in other parcels, and those are what decides in which order processes are added
    up. A resumed run would notice.
    """
    under_way = [dist.all_reduce(gradient.div_(ranks), async_op=True) for gradient in bucket.gradients()]
    for work in under_way:
        if work is not None:
            work.wait()
    average: torch.futures.Future[Tensor] = torch.futures.Future()
    average.set_result(bucket.buffer())
    return average


class SplitLearner(Learner):
    """A copy of the caller's model whose weights are split over the processes (FSDP)."""

    def _take_over(self) -> None:
        self._caller, self._callers = self.model, self.parameters
        # Out of the way; block by block, the parts come back to the device.
        self._caller.to("cpu")
        self._mesh = processes_of(self.group.ranks, self.device)
        self.model = split_copy(self._caller, self._mesh)

    def _compile(self, loss: TokenLoss) -> None:
        # Weights come and go between blocks, so each block is compiled on its own, without its hooks.
        for block in loss.model.blocks:
            compiled = torch.compile(block.forward, dynamic=False, isolate_recompiles=True)  # pyright: ignore[reportCallIssue]
            block.forward = compiled

    def _hooked(self, loss: TokenLoss) -> nn.Module:
        split(loss, self._mesh)
        own = dict(self.model.named_parameters())
        self.parameters = {name: own[name] for name in self._callers}
        return loss

    @torch.no_grad()
    def take(self) -> None:
        """Keep this process's part of the caller's weights."""
        for name, parameter in self.parameters.items():
            parameter.copy_(part_like(parameter, self._callers[name].to(self.device)))

    @torch.no_grad()
    def give(self, *, everywhere: bool = False) -> None:
        """Put the parts together, one weight after the other."""
        for name, parameter in self.parameters.items():
            weights = whole(parameter)
            if everywhere or self.group.rank == 0:
                self._callers[name].copy_(weights)

    @contextmanager
    def on_loan(self) -> Iterator[None]:
        """The whole model is on rank 0's device for this long only."""
        self.give()
        if self.group.rank == 0:
            self._caller.to(self.device)
        yield
        self._caller.to("cpu")

    def close(self) -> None:
        """Bring the caller's model back to the device."""
        self._caller.to(self.device)


_LEARNERS = {"none": Learner, "ddp": ReplicatedLearner, "fsdp": SplitLearner}


@contextmanager
def learner_of(
    model: Transformer,
    trained: Mapping[str, nn.Parameter],
    *,
    objective: Objective,
    execution: Execution,
    precision: torch.dtype,
    group: Group,
) -> Iterator[Learner]:
    """What trains `trained` of `model` in this way.

    Raises:
        ValueError: if the objective or the parameters cannot be trained in this way.
    """
    is_simple = (execution.micro_batches, execution.compile, execution.distribute) == (1, False, "none")
    if not is_simple and not isinstance(objective, TokenObjective):
        raise ValueError(
            f"micro_batches, compile and distribute need a TokenObjective, which says what is asked, got {objective!r} "
            f"with {execution}; make it one, or leave these at their defaults"
        )
    own = {id(parameter) for parameter in model.parameters()}
    if execution.distribute != "none" and (foreign := [n for n, p in trained.items() if id(p) not in own]):
        raise ValueError(f"processes share the model's own parameters, got {len(foreign)} that are not")
    learner = _LEARNERS[execution.distribute](
        model, trained, objective=objective, execution=execution, precision=precision, group=group
    )
    before = model.checkpoint_activations
    learner.model.checkpoint_activations = execution.checkpoint_activations
    try:
        with _balance_kept() if execution.compile else nullcontext():
            yield learner
    finally:
        model.checkpoint_activations = before
        learner.close()


def _balance_kept() -> AbstractContextManager[object]:
    """Let a compiled block whose activations are computed again leave the balance of its experts behind, once."""
    import torch._dynamo.config

    return torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
