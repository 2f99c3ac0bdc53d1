"""Weights split over processes (FSDP): splitting a model, and whole tensors from parts and back.

- The model that the caller holds is never split. A copy of it is, and what the copy learns is written back where the
  weights are needed: for evaluating and for checkpoints on rank 0, at the end everywhere. So whatever reads the model
  is ordinary code, and a checkpoint is the same file whoever wrote it.
- Weights travel in float32, as they are kept, so that the outcome is that of one process up to rounding.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from physlm.models.transformer import Transformer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be split over processes; all of them must ask for it."""
    return cast("DTensor", tensor).full_tensor() if _is_split(tensor) else tensor


def part_like(like: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole tensor, the part that this process has of `like`; the tensor itself if that is not split."""
    if not _is_split(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    split = cast("DTensor", like)
    # Every process has the whole tensor, so nothing is sent.
    return distribute_tensor(tensor, split.device_mesh, split.placements, src_data_rank=None)


def _is_split(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose import takes as long as a small run


def processes_of(ranks: int, device: torch.device) -> DeviceMesh:
    """All processes in a row, as `split` wants them."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (ranks,))


def split_copy(model: Transformer, mesh: DeviceMesh) -> Transformer:
    """A copy of `model`, its blocks split over processes; `split` must split the rest.

    Raises:
        ValueError: if a parameter cannot be split.
    """
    if alone := [name for name, parameter in model.named_parameters() if parameter.ndim == 0]:
        raise ValueError(f"fsdp cannot split numbers that stand alone, got {alone}; use distribute='ddp'")
    parts = copy.deepcopy(model)
    for block in parts.blocks:
        split(block, mesh)
    return parts


def split(module: nn.Module, mesh: DeviceMesh) -> None:
    """Split all parameters of `module` that are not yet split, in place, and move them to the device of `mesh`."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh)
