"""Checkpoints that survive `kill -9` and refuse what does not belong to them.

- A model folder holds `model.safetensors` and `config.json`; a checkpoint adds the optimiser's tensors and the
  trainer's integers. Nothing is pickled.
- Folders are written under another name, flushed to disk, then renamed: a folder that exists is complete. Folders
  are renamed again before they are deleted; whatever begins with `.partial-` may be deleted at any time.
- What a checkpoint was made from (model config, recipe, data fingerprint) is stored and compared on load.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
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
_UPDATE = ".parametrizations."
_SHOWN = 4


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to something else; the message says which file and what to do."""

    explains_itself = True


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing or cannot be read."""


def shared_once(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, those that share memory (tied embeddings) listed once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            tensors[name] = tensor.detach().contiguous()
        seen.add(tensor.data_ptr())
    return tensors


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of all names and values, the same on every device."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in shared_once(model).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error_number(error: OSError | SafetensorError) -> int | None:
    """The operating system's error number, which safetensors tells in its message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def save_folder(folder: Path, files: Mapping[str, Mapping[str, Tensor] | Mapping[str, Any]]) -> None:
    """Write a folder of `.safetensors` and `.json` files so that it is either complete or absent.

    Raises:
        OSError: if the disk is full or unwritable; an older folder of that name is left as it was.
    """
    partial = folder.with_name(_PARTIAL + folder.name)
    replaced = folder.with_name(_PARTIAL + "replaced-" + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            path = partial / name
            if name.endswith(".safetensors"):
                save_file({key: tensor.cpu() for key, tensor in content.items()}, path)
            else:
                path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
            _sync(path)
        _sync(partial)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        partial.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        message = (
            f"could not write {folder} ({error}); what was saved earlier is untouched: "
            "make room or repair the disk, then run the same command again"
        )
        number = _error_number(error)
        raise (OSError(message) if number is None else OSError(number, message)) from error
    shutil.rmtree(replaced, ignore_errors=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder that `save_folder` wrote, such that it never exists in part under its own name."""
    doomed = folder.with_name(_PARTIAL + folder.name)
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def delete_partial(folder: Path) -> None:
    """Delete what interrupted writes and deletions left in `folder`."""
    for path in folder.glob(_PARTIAL + "*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a killed process, sees the old content or the new and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(_PARTIAL + path.name)
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not write {path} ({error}); the file before it is untouched") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedError(f"cannot read {path}: {error}; delete {path.parent} to go on without it") from error
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
        raise DamagedError(f"cannot read {path}: {error}; delete {path.parent} to go on without it") from error


def entry(path: Path, content: Mapping[str, Any], name: str) -> Any:
    """One entry of a JSON object from a checkpoint."""
    if name not in content:
        raise CheckpointError(f"{path} has no entry {name!r}: it is no checkpoint of this kind; use another folder")
    return content[name]


def require_same(path: Path, name: str, stored: Any, expected: Any) -> None:
    """Refuse a checkpoint whose `name` is not what this run would have written."""
    if stored == expected:
        return
    detail = f"{_short(stored)}, expected {_short(expected)}"
    if isinstance(stored, dict) and isinstance(expected, dict):
        keys = [key for key in {**stored, **expected} if stored.get(key) != expected.get(key)]
        detail = "; ".join(f"{key} is {_short(stored.get(key))}, expected {_short(expected.get(key))}" for key in keys)
    elif isinstance(stored, list) and isinstance(expected, list):
        detail = f"only there {_short([x for x in stored if x not in expected])}, "
        detail += f"only here {_short([x for x in expected if x not in stored])}"
    raise CheckpointError(
        f"{path} was made from another {name}: {detail}. "
        "Use another folder, or run with the configuration it was made from"
    )


def _short(value: Any) -> str:
    """`repr`, of a long list only the beginning."""
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"[{', '.join(map(repr, value[:_SHOWN]))}, … {len(value) - _SHOWN} more]"
    return repr(value)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill `model` with the tensors that `shared_once` named; all of them or, with an error, none."""
    expected = shared_once(model)
    if missing := [name for name in expected if name not in tensors]:
        raise CheckpointError(f"{path} does not fit the model: it lacks {_short(missing)}")
    if unknown := [name for name in tensors if name not in expected]:
        raise CheckpointError(f"{path} does not fit the model, which has no {_short(unknown)}")
    for name, tensor in tensors.items():
        if expected[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path} does not fit the model: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def save_model(model: Transformer, folder: Path, *, data_fingerprint: str) -> None:
    """Write `model.safetensors` and `config.json`, with the fingerprint of the data the model was trained on.

    Raises:
        ValueError: if the model carries low-rank updates that were not merged.
        OSError: if the disk is full or unwritable; an older model of that name is left as it was.
    """
    tensors = shared_once(model)
    if updates := [name for name in tensors if _UPDATE in name]:
        raise ValueError(
            f"the model carries {len(updates)} tensors of low-rank updates ({updates[0]}, …): "
            "fold them in with merge_low_rank, or save low_rank_state beside the base model"
        )
    config = {"format_version": FORMAT_VERSION, "model": model.config.to_dict(), "data_fingerprint": data_fingerprint}
    save_folder(folder, {"model.safetensors": tensors, "config.json": config})


def load_model(
    folder: Path, *, config: TransformerConfig | None = None, data_fingerprint: str | None = None
) -> Transformer:
    """Read what `save_model` wrote; a model whose head is not tied to its embedding comes back untied.

    Args:
        folder: a model folder.
        config: the config the model must have, if given.
        data_fingerprint: the data it must have been trained on, if given.

    Raises:
        CheckpointError: if a file is missing, damaged, or made from another config or world.
    """
    path = folder / "config.json"
    stored = read_json(path)
    if config is not None:
        require_same(folder, "model config", entry(path, stored, "model"), json.loads(json.dumps(config.to_dict())))
    if data_fingerprint is not None:
        require_same(folder, "world", entry(path, stored, "data_fingerprint"), data_fingerprint)
    try:
        model = Transformer(TransformerConfig.from_dict(entry(path, stored, "model")), seed=0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes no model of this version of physlm: {error}") from error
    path = folder / "model.safetensors"
    tensors = read_tensors(path)
    if "head.weight" in tensors:
        model.head.weight = nn.Parameter(torch.empty_like(model.head.weight))
    load_tensors(model, tensors, path)
    return model
