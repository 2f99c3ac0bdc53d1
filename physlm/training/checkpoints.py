"""Checkpoints that survive `kill -9` and refuse what does not belong to them.

- A model folder holds `model.safetensors` and `config.json`; a checkpoint adds the optimiser's tensors and the
  trainer's integers. Nothing is pickled.
- Folders are written under another name, flushed to disk, then renamed: a folder that exists is complete.
- What a checkpoint was made from (model config, recipe, data fingerprint) is stored and compared on load.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from physlm.models.transformer import Transformer, TransformerConfig

FORMAT_VERSION = 1
_PARTIAL = ".partial-"


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to something else; the message says which file and what to do."""


def shared_once(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, those that share memory (tied embeddings) listed once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            tensors[name] = tensor.detach().contiguous()
        seen.add(tensor.data_ptr())
    return tensors


def save_folder(folder: Path, files: Mapping[str, Mapping[str, Tensor] | Mapping[str, Any]]) -> None:
    """Write a folder of `.safetensors` and `.json` files so that it is either complete or absent.

    Raises:
        OSError: if the disk is full or unwritable; an older folder of that name is left as it was.
    """
    partial = folder.with_name(_PARTIAL + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            path = partial / name
            if name.endswith(".safetensors"):
                save_file({key: tensor.cpu() for key, tensor in content.items()}, path)
            else:
                path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"could not write the checkpoint {folder.name} ({error}); earlier checkpoints are untouched: "
            "free some space and run the same command again to resume"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; delete the folder {path.parent} to start afresh") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version") if isinstance(content, dict) else None
        raise CheckpointError(
            f"{path} has format_version {version!r}, this version of physlm reads {FORMAT_VERSION}; "
            "move the folder away to start afresh, or read it with the version that wrote it"
        )
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint, on the CPU."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; delete the folder {path.parent} to start afresh"
        ) from error


def require_same(path: Path, name: str, stored: Any, expected: Any) -> None:
    """Refuse a checkpoint whose `name` is not what this run would have written."""
    if stored == expected:
        return
    detail = f"{stored!r}, expected {expected!r}"
    if isinstance(stored, dict) and isinstance(expected, dict):
        keys = [key for key in {**stored, **expected} if stored.get(key) != expected.get(key)]
        detail = "; ".join(f"{key} is {stored.get(key)!r}, expected {expected.get(key)!r}" for key in keys)
    raise CheckpointError(
        f"{path} was made from another {name}: {detail}. "
        "Use another folder, or run with the configuration it was made from"
    )


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill `model` with the tensors that `shared_once` named."""
    expected = shared_once(model)
    if set(expected) != set(tensors):
        difference = sorted(set(expected) ^ set(tensors))
        raise CheckpointError(f"{path} does not fit the model: {', '.join(difference[:4])} … are only in one of them")
    state = model.state_dict()
    for name, tensor in tensors.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path} does not fit the model: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(state[name].shape)}"
            )
        with torch.no_grad():
            state[name].copy_(tensor)


def save_model(model: Transformer, folder: Path, *, data_fingerprint: str) -> None:
    """Write `model.safetensors` and `config.json`, with the fingerprint of the data the model was trained on."""
    config = {"format_version": FORMAT_VERSION, "model": model.config.to_dict(), "data_fingerprint": data_fingerprint}
    save_folder(folder, {"model.safetensors": shared_once(model), "config.json": config})


def load_model(
    folder: Path, *, config: TransformerConfig | None = None, data_fingerprint: str | None = None
) -> Transformer:
    """Read what `save_model` wrote.

    Args:
        folder: a model folder.
        config: the config the model must have, if given.
        data_fingerprint: the data it must have been trained on, if given.

    Raises:
        CheckpointError: if a file is missing, damaged, or made from another config or world.
    """
    stored = read_json(folder / "config.json")
    if config is not None:
        require_same(folder, "model config", stored["model"], json.loads(json.dumps(config.to_dict())))
    if data_fingerprint is not None:
        require_same(folder, "world", stored["data_fingerprint"], data_fingerprint)
    model = Transformer(TransformerConfig.from_dict(stored["model"]), seed=0)
    load_tensors(model, read_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    return model
