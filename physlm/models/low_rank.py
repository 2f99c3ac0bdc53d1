"""Low-rank finetuning: a frozen transformer plus small trainable updates (LoRA).

- An update is a `torch.nn.utils.parametrize` parametrization: whoever reads `layer.weight` gets `W + α·A·B`, and the
  transformer knows nothing about it. Only A and B are trained.
- A starts at zero, so the outputs are unchanged at step 0. α multiplies the update; it is not divided by the rank.
- Updates go to the query and value matrices of every block, or others that are named, and to the token embedding on
  its *input side only*: the head stays tied to the frozen embedding.
- A mixture of experts has an update of its own for each expert; its router stays as it is.
- `low_rank_state` is what a finetuned model adds to its base; `merge_low_rank` folds it in for good.

Shape legend: O rows of a weight, I its columns, R rank. `*experts` is nothing, or how many there are.
Source: Hu et al. 2021 (LoRA); Physics of Language Models 3.1, App. D (embedding updates, α = 4). That the head does
not move is our choice where the paper does not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from physlm.models.canon import CanonLayer
from physlm.models.experts import MixtureOfExperts
from physlm.models.transformer import Transformer

Target = Literal["query", "key", "value", "output", "gate", "up", "down", "head"]
_OF_ATTENTION = ("query", "key", "value", "output")

STD = 0.05
"""Standard deviation of B. At width 64 it trains well with α = 4 and a learning rate of 5e-3."""


class LowRankUpdate(nn.Module):
    """Adds `α·A·B` to a weight `[O, I]`: A is `[O, R]` and zero at first, B is `[R, I]` and Gaussian.

    Of the weights `[E, O, I]` of experts, each has an A and B of its own.
    """

    def __init__(
        self, shape: Sequence[int], rank: int, alpha: float, generator: torch.Generator, *, std: float = STD
    ) -> None:
        super().__init__()
        *experts, rows, columns = shape
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"rank must be in [1, {min(rows, columns)}] for a {rows} × {columns} weight, got {rank}")
        self.alpha = alpha
        self.a = nn.Parameter(torch.zeros(*experts, rows, rank))
        self.b = nn.Parameter(torch.randn(*experts, rank, columns, generator=generator) * std)

    def forward(self, weight: Float[Tensor, "*experts O I"]) -> Float[Tensor, "*experts O I"]:
        """The updated weight."""
        # Not addmm, whose sum autocast would round to bfloat16, the embedding with it.
        return weight + self.alpha * (self.a @ self.b)


class FullUpdate(nn.Module):
    """Adds a trained matrix, zero at first, to a weight `[O, I]`."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(rows, columns))

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """The updated weight."""
        return weight + self.delta


def add_low_rank(
    model: Transformer,
    *,
    rank: int,
    embedding_rank: int,
    seed: int,
    alpha: float = 4.0,
    std: float = STD,
    train_embedding: bool = False,
    targets: Sequence[Target] = ("query", "value"),
) -> list[nn.Parameter]:
    """Freeze `model` and add trainable updates to it, in place.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> trainable = add_low_rank(model, rank=8, embedding_rank=16, seed=0)
        >>> sum(parameter.numel() for parameter in trainable)
        4160

    Args:
        model: a transformer without updates.
        rank: rank of the update of each matrix in `targets`; 0 is none.
        embedding_rank: rank of the update of the token embedding, seen by the input only; 0 is none.
        seed: of the Gaussian halves of the updates.
        alpha: factor on every low-rank update, > 0.
        std: standard deviation of the Gaussian halves, > 0.
        train_embedding: train a whole matrix on top of the input embedding instead of a low-rank one.
        targets: which matrices of every block, each named once, and "head" for the output side of the embedding; "up",
            "gate" and "down" are those of every expert if there are experts.

    Returns:
        The trainable parameters, for the optimiser.

    Raises:
        ValueError: if an argument is outside its range, nothing would be trained, a target is unknown, named twice or
            not in the model, or the model has updates already.
    """
    if alpha <= 0 or std <= 0:
        raise ValueError(f"alpha and std must be > 0, got {alpha} and {std}")
    if rank < 0 or embedding_rank < 0:
        raise ValueError(f"rank and embedding_rank must be ≥ 0, got {rank} and {embedding_rank}")
    if train_embedding and embedding_rank:
        raise ValueError(
            f"the embedding is trained whole or at a rank, got train_embedding and embedding_rank {embedding_rank}; "
            "set embedding_rank to 0"
        )
    if not (rank or embedding_rank or train_embedding):
        raise ValueError("rank and embedding_rank are 0, so nothing would be trained; make one of them ≥ 1")
    if updated := _updated(model):
        names = ", ".join(".".join(place) for place in updated)
        raise ValueError(f"the model has updates already ({names}); merge_low_rank folds them in")

    generator = torch.Generator().manual_seed(seed)
    updates: list[tuple[nn.Module, str, nn.Module]] = []

    def add_update(module: nn.Module, tensor: str, rank: int) -> None:
        shape = module.get_parameter(tensor).shape
        updates.append((module, tensor, LowRankUpdate(shape, rank, alpha, generator, std=std)))

    if rank:
        for module, tensor in _matrices(model, targets):
            add_update(module, tensor, rank)
    if embedding_rank:
        add_update(model.embed, "weight", embedding_rank)
    if train_embedding:
        updates.append((model.embed, "weight", FullUpdate(*model.embed.weight.shape)))

    model.requires_grad_(False)
    for module, tensor, update in updates:
        parametrize.register_parametrization(module, tensor, update.to(module.get_parameter(tensor)))
    return [parameter for *_, update in updates for parameter in update.parameters()]


def _matrices(model: Transformer, targets: Sequence[Target]) -> list[tuple[nn.Module, str]]:
    """The modules that hold these matrices, block by block, and how the weight is called there.

    Raises:
        ValueError: if a name is unknown or repeated, there is none, or the model has no such matrix.
    """
    if not targets:
        raise ValueError(
            "targets must name at least one matrix to have an update of a rank ≥ 1, got none; set rank to 0"
        )
    for number, target in enumerate(targets):
        if target not in get_args(Target):
            raise ValueError(f"targets must be among {', '.join(get_args(Target))}, got {target!r}")
        if target in targets[:number]:
            raise ValueError(f"targets must be named once each, got {target!r} twice in {tuple(targets)}")
    places: list[tuple[nn.Module, str]] = []
    for block in model.blocks:
        for target in targets:
            if target == "head":
                continue
            part = getattr(block, "attention" if target in _OF_ATTENTION else "mlp")
            matrix = getattr(part, target, None)
            if matrix is None:
                raise ValueError(f"this model has no {target!r} matrix to update; choose other targets")
            # Experts keep all their weights in one tensor, everybody else has a layer for each.
            places.append((part, target) if isinstance(part, MixtureOfExperts) else (matrix, "weight"))
    return [*places, (model.head, "weight")] if "head" in targets else places


def merge_low_rank(model: Transformer) -> None:
    """Fold all updates into the weights, in place: the outputs stay, and every parameter is trainable again.

    If the embedding or the head was updated, the two now differ, so each has a parameter of its own and the model is
    untied from here on: it has `vocab_size · width` more parameters than `parameter_count` says, and its `state_dict`
    loads only into a model that was untied in the same way.

    Raises:
        ValueError: if the model has no updates.
    """
    places = [(model.get_submodule(path), tensor) for path, tensor in _updated(model)]
    if not places:
        raise ValueError(
            "the model has no low-rank updates to merge; were they merged before, or never added by add_low_rank?"
        )
    merged = [getattr(module, tensor).detach().clone() for module, tensor in places]
    for (module, tensor), weight in zip(places, merged, strict=True):
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=False)
        # A parameter of its own: what the layer had may be shared by the embedding and the head.
        setattr(module, tensor, nn.Parameter(weight))
    model.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, CanonLayer):
            module.weight.requires_grad_(module.config.trained)


def low_rank_state(model: Transformer) -> dict[str, Tensor]:
    """The trained updates alone, under their names in `model.state_dict()`; `load_low_rank` puts them back."""
    return {name: tensor for name, tensor in model.state_dict().items() if _is_update(name)}


def load_low_rank(model: Transformer, state: Mapping[str, Tensor]) -> None:
    """Load what `low_rank_state` gave into a base model that `add_low_rank` has prepared with the same ranks.

    Raises:
        ValueError: if the model has other updates than `state`.
        RuntimeError: if the shapes differ.
    """
    expected = low_rank_state(model).keys()
    if expected != state.keys():
        raise ValueError(
            f"the updates differ: only in the model {sorted(expected - state.keys())}, only in the state "
            f"{sorted(state.keys() - expected)}; call add_low_rank with the arguments the state was made with"
        )
    model.load_state_dict(dict(state), strict=False)


def _is_update(name: str) -> bool:
    return ".parametrizations." in name and not name.endswith(".original")


def _updated(model: Transformer) -> list[tuple[str, str]]:
    """The path of every module with an update, and how the updated weight is called there."""
    return [
        (path, tensor)
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for tensor, _ in module.get_submodule("parametrizations").named_children()
    ]
