"""Many small models trained at once in one process: seeds, learning rates, whole recipes.

- Every weight gets a leading dimension, and one forward and backward pass (`torch.func.vmap`) is that of all models. A
  small model spends much of its time on starting operations; a stack starts as many as one model does.
- Each model has batches, clipping, optimiser and schedule of its own and does not notice the others: its losses are
  those of `train` up to rounding. Dropout is the exception: it drops other units than in a run alone.
- In the meantime the weights of the models are parts of one matrix, `[M, P]`, so whoever evaluates a model or writes a
  checkpoint sees it as trained so far.
- A model that diverges stays as it was, and the others go on.

Shape legend: M models, P trained numbers of a model, B batch, T tokens, A asked places.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from physlm.data.streams import IGNORE, PackedStream
from physlm.models.checks import require_vocabulary
from physlm.models.low_rank import LowRankUpdate
from physlm.models.transformer import Transformer
from physlm.training.checkpoints import (
    FORMAT_VERSION,
    CheckpointError,
    delete_folder,
    entry,
    load_tensors,
    read_json,
    read_tensors,
    require_same,
    save_folder,
    shared_once,
)
from physlm.training.distributed import Group, Process
from physlm.training.divergence import DivergenceError, Norms, Watch, norms
from physlm.training.learner import TokenLoss
from physlm.training.numerics import denormals_flushed, dropout_randomness
from physlm.training.objectives import Asked, Examples, TokenObjective, next_token_loss, require_question
from physlm.training.optimizers import Optimizers, hidden_matrices
from physlm.training.recipe import MuonRecipe, Recipe, choose_precision
from physlm.training.reporting import REPORT_SECONDS, Report, plain_values, reporter
from physlm.training.run_folder import Record, RunFolder, identity_of

__all__ = ["StackDivergenceError", "train_stacked"]


class StackDivergenceError(DivergenceError):
    """Some models of a stack diverged; the others are trained to the end.

    Attributes:
        records: the log of every model. That of a diverged one ends with a record whose `loss` is `None` and whose
            `diverged` says what happened.
        diverged: what happened, by the number of the model.
    """

    def __init__(
        self, message: str, *, records: Sequence[list[Record]] = (), diverged: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(message)
        self.records = [*records]
        self.diverged = {**(diverged or {})}


def train_stacked(
    models: Sequence[Transformer],
    streams: Sequence[PackedStream],
    recipes: Sequence[Recipe],
    *,
    objective: TokenObjective | Sequence[TokenObjective] = next_token_loss,
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    log_every: int | None = None,
    folder: Path | None = None,
    checkpoint_every: int | None = None,
    progress: Report | bool = False,
) -> list[list[Record]]:
    """Train all `models` in place, each as `train` would.

    Example:
        >>> models = [Transformer(config, seed=seed) for seed in range(8)]
        >>> logs = train_stacked(models, [make_stream(seed) for seed in range(8)], [recipe] * 8)
        >>> final_losses = [log[-1]["loss"] for log in logs]

    Args:
        models: models of one config on one device. To continue a run, build them as they were at the start.
        streams: the training data of each model, at its start, in batches of one size.
        recipes: how each model is trained; anything may differ but the number of steps and the precision.
        objective: the loss of a batch: one for all, or one for each, then of one kind.
        evaluate: called with the number of every model at every log point, that model in evaluation mode; its values
            join the record of the model as JSON (arrays and tensors as lists).
        log_every: steps between log points; ten in a run by default. The last step always is one.
        folder: where checkpoints of the whole stack and `metrics.jsonl` go; an unfinished run found there is continued.
        checkpoint_every: steps between checkpoints; at log points by default.
        progress: as for `train`.

    Returns:
        For every model the records that `train` returns.

    Raises:
        CheckpointError: if `folder` holds another run, or a damaged checkpoint.
        OSError: if `folder` cannot be written to; the same call continues from the checkpoint before.
        StackDivergenceError: at the end, or as soon as no model is left, if loss, gradients or weights of a model were
            no longer numbers. It holds all logs.
        ValueError: if the models cannot be a stack, there is nothing to train, or something that is not a number comes
            from `evaluate`.
    """
    objectives = [objective] * len(models) if isinstance(objective, TokenObjective) else [*objective]
    _require_stackable(models, streams, recipes, objectives)
    steps = recipes[0].steps
    log_every = max(1, steps // 10) if log_every is None else log_every
    checkpoint_every = log_every if checkpoint_every is None else checkpoint_every
    if log_every < 1 or checkpoint_every < 1:
        raise ValueError(f"log_every and checkpoint_every must be ≥ 1, got {log_every} and {checkpoint_every}")

    with denormals_flushed(), _stacked(models, recipes[0]) as stack:
        members = [
            _Member(stack, number, *parts)
            for number, parts in enumerate(zip(models, streams, recipes, objectives, strict=True))
        ]
        run = _StackFolder(folder, members, log_every=log_every, evaluates=evaluate is not None)
        first, loss_count = run.restore_all()
        run.clear()
        for member in members:
            member.begin(first, run)

        text, next_report = "", 0.0
        with reporter(progress, first / steps) as report:
            for model in models:
                model.train()
            for step in range(first, steps):
                if all(member.diverged for member in members):
                    break
                examples = [member.examples() for member in members]
                with dropout_randomness(models[0], streams[0], step, stack.device):
                    losses = stack.backward(examples)
                for member, loss, norm in zip(members, losses, stack.gradient_norms(), strict=True):
                    member.step(step, loss, norm)
                loss_count += 1

                done = step + 1
                is_log_point = done % log_every == 0 or done == steps
                is_checkpoint = done % checkpoint_every == 0 or done == steps
                for member in members:
                    if is_log_point or is_checkpoint:
                        member.check(done, weights=is_checkpoint)
                    if is_log_point:
                        member.record(done, loss_count, evaluate)
                if is_log_point:
                    loss_count = 0
                    run.log_all()
                    text, next_report = _range_of_losses(members), 0.0
                if time.monotonic() >= next_report:
                    report(done / steps, f"step {done}/{steps}{text}")
                    next_report = time.monotonic() + REPORT_SECONDS
                if is_checkpoint:
                    run.save_all(done, loss_count)
        run.log_all()
    for model in models:
        model.eval()
    _require_convergence(members)
    return [member.records for member in members]


def _require_stackable(
    models: Sequence[Transformer],
    streams: Sequence[PackedStream],
    recipes: Sequence[Recipe],
    objectives: Sequence[TokenObjective],
) -> None:
    """Refuse what cannot be one computation.

    Raises:
        ValueError: naming the value.
    """
    if not models:
        raise ValueError("a stack must have at least 1 model, got 0")
    for what, parts in (("streams", streams), ("recipes", recipes), ("objectives", objectives)):
        if len(parts) != len(models):
            raise ValueError(f"{what} must be one for each of {len(models)} models, got {len(parts)}")
    for what, parts in (("models", models), ("streams", streams)):
        if len({id(part) for part in parts}) != len(parts):
            raise ValueError(f"{what} must be different objects, got one of them twice; build one for each model")
    for stream in streams:
        if stream.ranks > 1:
            raise ValueError(f"a stack is trained in one process, got a stream of {stream.ranks} ranks; use ranks=1")
    for model, stream in zip(models, streams, strict=True):
        require_vocabulary(model.config.vocab_size, [source.world for source in stream.sources])
    if any(model.checkpoint_activations for model in models):
        raise ValueError("a stack keeps all activations, got a model with checkpoint_activations; set it to False")
    _require_one("config", [model.config.to_dict() for model in models])
    _require_one("parameters", [_shapes(model) for model in models])
    _require_one("stream", [{name: getattr(s, name) for name in _OF_STREAM} for s in streams])
    _require_one("recipe", [{name: getattr(recipe, name) for name in _OF_RECIPE} for recipe in recipes])
    _require_one("objective", [{"kind": type(objective).__qualname__} for objective in objectives])


_OF_STREAM = ("batch_size", "context", "document_mask")
_OF_RECIPE = ("steps", "precision")


def _shapes(model: Transformer) -> dict[str, str]:
    """All that the parameters of two models must have in common, and the factors of low-rank updates."""
    shapes = {
        name: f"{tuple(p.shape)}, {p.dtype} on {p.device}, {'trained' if p.requires_grad else 'frozen'}"
        for name, p in model.named_parameters()
    }
    updates = ((name, module) for name, module in model.named_modules() if isinstance(module, LowRankUpdate))
    return {**shapes, **{f"{name}.alpha": f"{update.alpha}" for name, update in updates}}


def _require_one(what: str, of_each: Sequence[Mapping[str, Any]]) -> None:
    for number, other in enumerate(of_each):
        names = [name for name in {**of_each[0], **other} if of_each[0].get(name) != other.get(name)]
        if names:
            name = names[0]
            raise ValueError(
                f"models of a stack must have the same {what}, got {name} {of_each[0].get(name)} in model 0 and "
                f"{other.get(name)} in model {number}; train them in stacks of their own"
            )


class _Stack:
    """The weights of several models as one matrix, and their gradients as another.

    Attributes:
        device: where the models are.
        gradients: `[M, P]`, laid out like the weights.
    """

    def __init__(self, models: Sequence[Transformer], precision: torch.dtype) -> None:
        self.precision = precision
        # The first model says what is computed; the weights of all are handed to it.
        self.loss = TokenLoss(models[0])
        each = [dict(model.named_parameters()) for model in models]
        hidden = hidden_matrices(models[0])
        kinds = {name: _kind(name, p, hidden) for name, p in each[0].items() if p.requires_grad}
        if not kinds:
            raise ValueError("there is nothing to train: no parameter requires a gradient")
        self.kinds = dict(sorted(kinds.items(), key=lambda item: item[1]))
        self._own = [{name: parameters[name] for name in self.kinds} for parameters in each]
        sizes = [parameter.numel() for parameter in self._own[0].values()]
        *starts, end = accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0)
        self.places = {n: slice(at, at + size) for n, at, size in zip(self.kinds, starts, sizes, strict=True)}

        like = next(iter(self._own[0].values())).detach()
        self.device = like.device
        self.weights, self.gradients = (like.new_zeros(len(models), end) for _ in range(2))
        self._kept = [{name: parameter.data for name, parameter in own.items()} for own in self._own]
        self._leaves = {name: weights.requires_grad_() for name, weights in self._across(self.weights).items()}
        frozen = {name: torch.stack([own[name].detach() for own in each]) for name in each[0] if name not in kinds}
        self._all = {f"model.{name}": weights for name, weights in {**self._leaves, **frozen}.items()}
        self._slots = [*self._across(self.gradients).values()]

    def weights_of(self, number: int) -> dict[str, nn.Parameter]:
        """What is trained of a model, by name."""
        return self._own[number]

    def gradients_of(self, number: int) -> dict[str, Tensor]:
        """Gradients of a model, by the names of its parameters."""
        return self._parts_of(self.gradients, number)

    def _parts_of(self, matrix: Tensor, number: int) -> dict[str, Tensor]:
        own = self._own[number]
        return {name: matrix[number, place].view(own[name].shape) for name, place in self.places.items()}

    def _across(self, matrix: Tensor) -> dict[str, Tensor]:
        """Each parameter in all models, `[M, …]`, as views of a matrix `[M, P]`."""
        return {name: matrix[:, place].view(-1, *self._own[0][name].shape) for name, place in self.places.items()}

    def joined(self, number: int, recipe: Recipe) -> dict[str, nn.Parameter]:
        """Weights of a model with their gradients; what AdamW treats alike is one, to start it once."""
        muon = isinstance(recipe, MuonRecipe)
        groups = {name: [name] for name, kind in self.kinds.items() if muon and kind == _HIDDEN}
        for title, kinds in (("matrices", (_MATRIX,) if muon else (_HIDDEN, _MATRIX)), ("vectors", (_VECTOR,))):
            groups[title] = [name for name, kind in self.kinds.items() if kind in kinds]
        joined: dict[str, nn.Parameter] = {}
        for title, names in groups.items():
            if not names:
                continue
            # Neighbours, since the order is that of kinds.
            place = slice(self.places[names[0]].start, self.places[names[-1]].stop)
            shape = {"matrices": (1, -1), "vectors": (-1,)}.get(title) or self._own[number][title].shape
            joined[title] = nn.Parameter(self.weights[number, place].view(shape))
            joined[title].grad = self.gradients[number, place].view(shape)
        return joined

    def backward(self, examples: Sequence[Examples]) -> Float[Tensor, " M"]:
        """Leave the gradients of all models in `gradients`; returns their losses, which are not waited for."""
        asked, totals = _together(examples, self.device)

        def loss(weights: dict[str, Tensor], asked: Asked, total: Tensor) -> tuple[Tensor, ...]:
            value, auxiliary = functional_call(self.loss, weights, (asked, total))
            return (value,) if auxiliary is None else (value, auxiliary)

        dimensions: list[Any] = [None if part is None else 0 for part in asked]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            parts = vmap(loss, (0, Asked(*dimensions), 0), randomness="different")(self._all, asked, totals)
        total = torch.stack(parts).sum()
        found = torch.autograd.grad(total, [*self._leaves.values()], allow_unused=True)
        gradients = dict(zip(self._leaves, cast("tuple[Tensor | None, ...]", found), strict=True))
        if unused := [name for name, gradient in gradients.items() if gradient is None]:
            raise ValueError(
                f"all that is trained must have a part in the loss, which {', '.join(unused)} has not: "
                "freeze it with requires_grad_(False)"
            )
        torch._foreach_copy_(self._slots, found)  # pyright: ignore[reportPrivateImportUsage]
        return parts[0].detach()

    def gradient_norms(self) -> Float[Tensor, " M"]:
        """Norms of the gradients of the models."""
        return torch.linalg.vector_norm(self.gradients, dim=1)

    def take(self) -> None:
        """Make what is trained of the models parts of `weights`."""
        for number, own in enumerate(self._own):
            for name, part in self._parts_of(self.weights, number).items():
                own[name].data = part.copy_(own[name].data)
                own[name].grad = None

    def release(self) -> None:
        """Give it back the memory that it had."""
        for own, kept in zip(self._own, self._kept, strict=True):
            for name, parameter in own.items():
                parameter.data = kept[name].copy_(parameter.data)


@contextmanager
def _stacked(models: Sequence[Transformer], recipe: Recipe) -> Iterator[_Stack]:
    device = next(models[0].parameters()).device
    stack = _Stack(models, choose_precision(recipe.precision, device))
    stack.take()
    try:
        yield stack
    finally:
        stack.release()


_ALIGNED = 32
"""Every parameter begins at a multiple of this many numbers, which fast kernels ask for; the gaps stay zero."""

_HIDDEN, _MATRIX, _VECTOR = range(3)


def _kind(name: str, parameter: Tensor, hidden: set[str]) -> int:
    """What Muon trains, then what else decays, then what does not, as in `Optimizers`."""
    if parameter.ndim < 2 or name.endswith("bias"):
        return _VECTOR
    return _HIDDEN if name in hidden else _MATRIX


def _together(examples: Sequence[Examples], device: torch.device) -> tuple[Asked, Float[Tensor, " M"]]:
    """The batches of all models as one, and how much is asked in each."""
    host = torch.device("cpu")
    parts = [part.on(host) for part in examples]
    if any(part.places is None for part in parts):
        parts = [part.on(host, dense=True) for part in examples]
    most = max(len(part.targets) for part in parts)

    def stacked(tensors: Sequence[Tensor | None], fill: int = 0) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        if len(present) < len(tensors):
            return None
        # What fills up shorter ones are places whose target does not count.
        if present[0].ndim == 1:
            present = [F.pad(tensor, (0, most - len(tensor)), value=fill) for tensor in present]
        return _send(torch.stack(present), device)

    fields = (stacked(field, fill) for field, fill in zip(zip(*parts, strict=True), (0, IGNORE, 0, 0), strict=True))
    totals = torch.tensor([part.count for part in examples], dtype=torch.float32)
    return Asked(*fields), _send(totals, device)  # pyright: ignore[reportArgumentType]


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _Member:
    """One model of a stack with all that is its own.

    Attributes:
        records: its log so far.
        loss_sum: its losses since the last log point, summed.
    """

    def __init__(
        self,
        stack: _Stack,
        number: int,
        model: Transformer,
        stream: PackedStream,
        recipe: Recipe,
        objective: TokenObjective,
    ) -> None:
        self.number, self.model, self.stream, self.recipe, self.objective = number, model, stream, recipe, objective
        self.records: list[Record] = []
        self.loss_sum = torch.zeros((), device=stack.device)
        self.parameters, self.gradients = stack.weights_of(number), stack.gradients_of(number)
        self.optimizers = Optimizers(stack.joined(number, recipe), recipe, hidden_matrices(model))
        self._on_cpu = stack.device.type == "cpu"

    @property
    def diverged(self) -> str | None:
        """What happened, if the model has diverged."""
        return self.records[-1].get("diverged") if self.records else None

    def begin(self, first: int, run: RunFolder) -> None:
        """Get ready for step number `first`, counted from 0."""
        self._watch = Watch(self.recipe, self.parameters, self.loss_sum.device, first=first, newest=run.newest)

    def examples(self) -> Examples:
        """The next batch.

        Raises:
            ValueError: if nothing is asked in it.
        """
        examples = self.objective.examples(self.stream.next_batch(), self.model.config.vocab_size)
        require_question(examples.count, examples.targets.size)
        return examples

    def step(self, number: int, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """Update the weights at step `number`, counted from 0; `norm` is that of the gradient."""
        if self.diverged:
            return
        self.loss_sum += loss
        bad = self._watch.look(loss, Norms((), norm.new_empty(0), norm))
        if self._on_cpu and bad:
            self.check(number + 1)
            return
        nn.utils.clip_grads_with_norm_(self.optimizers.parameters.values(), self.recipe.clip, norm, foreach=True)
        self.optimizers.step(number, bad=None if self._on_cpu else bad)

    def check(self, done: int, *, weights: bool = False) -> None:
        """Note it if a step was bad, or if `weights` are to be looked at and are; `done` steps are."""
        if self.diverged:
            return
        gradients = norms(self.gradients)
        try:
            self._watch.check_steps(gradients)
            if weights:
                self._watch.check_weights(done, gradients)
        except DivergenceError as error:
            self.records.append({"step": done, "loss": None, "diverged": str(error)})
            self.loss_sum.zero_()

    def record(self, done: int, losses: int, evaluate: Callable[[int], Mapping[str, Any]] | None) -> None:
        """Log the mean loss of the last `losses` steps."""
        if self.diverged:
            return
        values: Record = {}
        if evaluate is not None:
            self.model.eval()
            values = plain_values(evaluate(self.number))
            self.model.train()
        rate = self.recipe.learning_rate_at(done - 1)
        self.records.append({"step": done, "loss": self.loss_sum.item() / losses, "learning_rate": rate, **values})
        self.loss_sum.zero_()


class _StackFolder(RunFolder):
    """Checkpoints and log of a whole stack."""

    def __init__(self, folder: Path | None, members: Sequence[_Member], *, log_every: int, evaluates: bool) -> None:
        self.members = members
        self.models = nn.ModuleList(member.model for member in members)
        identity = _identity(members, log_every=log_every, evaluates=evaluates) if folder else {}
        super().__init__(folder, identity, Group(Process(), None))

    def log_all(self) -> None:
        """Write all logs as one, in the order of steps."""
        records = [{"model": member.number, **record} for member in self.members for record in member.records]
        self.log(sorted(records, key=lambda record: record["step"]))

    def save_all(self, step: int, loss_count: int) -> None:
        """Write a checkpoint after `step` steps, then delete the one before it."""
        if self.folder is None:
            return
        moments = {
            f"{member.number}.{name}": tensor for member in self.members for name, tensor in member.optimizers.state()
        }
        trainer = {
            "format_version": FORMAT_VERSION,
            **self.identity,
            "step": step,
            "streams": [member.stream.state() for member in self.members],
            "records": [member.records for member in self.members],
            "loss_totals": [member.loss_sum.item() for member in self.members],
            "loss_count": loss_count,
        }
        older = self.checkpoints()
        folder = self.folder / f"step-{step:09d}"
        files = {"model.safetensors": shared_once(self.models), "optimizer.safetensors": moments}
        save_folder(folder, {**files, "trainer.json": trainer})
        for other in older:
            if other != folder:
                delete_folder(other)

    def restore_all(self) -> tuple[int, int]:
        """Continue from the newest checkpoint; returns the first step to do, and how many since the last log point."""
        if (newest := self.newest()) is None:
            return 0, 0
        path = newest / "trainer.json"
        trainer = read_json(path)
        for name, expected in self.identity.items():
            require_same(newest, name, entry(path, trainer, name), expected)
        tensors = read_tensors(newest / "model.safetensors")
        moments = read_tensors(newest / "optimizer.safetensors")
        for member in self.members:
            of_this = f"{member.number}."
            own = {name.removeprefix(of_this): moments[name] for name in moments if name.startswith(of_this)}
            member.optimizers.check(own, newest / "optimizer.safetensors")
            member.optimizers.load(own)
        try:
            for number, member in enumerate(self.members):
                member.stream.restore(trainer["streams"][number])
                member.records = [*trainer["records"][number]]
                member.loss_sum.fill_(trainer["loss_totals"][number])
            position = trainer["step"], trainer["loss_count"]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no state of this run: {error}") from error
        load_tensors(self.models, tensors, newest / "model.safetensors")
        return position


_OWN = ("initial weights", "recipe", "objective", "data")


def _identity(members: Sequence[_Member], *, log_every: int, evaluates: bool) -> dict[str, Any]:
    """What the outcome depends on: what all have in common, and lists of what is each model's own."""
    of_each = [
        identity_of(
            member.model,
            member.parameters,
            member.stream,
            member.recipe,
            member.objective,
            log_every=log_every,
            evaluates=evaluates,
        )
        for member in members
    ]
    return {name: [one[name] for one in of_each] if name in _OWN else of_each[0][name] for name in of_each[0]}


def _range_of_losses(members: Sequence[_Member]) -> str:
    losses = [member.records[-1]["loss"] for member in members if not member.diverged]
    lost = len(members) - len(losses)
    text = f", losses {min(losses):.3f} to {max(losses):.3f}" if losses else ""
    return text + (f", {lost} diverged" if lost else "")


def _require_convergence(members: Sequence[_Member]) -> None:
    diverged = {member.number: member.diverged for member in members if member.diverged}
    if not diverged:
        return
    each = "; ".join(f"model {number}: {what}" for number, what in diverged.items())
    raise StackDivergenceError(
        f"{len(diverged)} of {len(members)} models diverged, the others are trained to the end. {each}",
        records=[member.records for member in members],
        diverged=diverged,
    )
