"""To the transformers library and back, where it has a counterpart of the model.

- Families: `gpt2` (learned positions), `gpt_neox` (rotary positions), `llama` and `mistral` (RMSNorm and gated MLP).
- A family can express a config if describing the config in the family's terms and reading that again changes nothing.
  Whatever it would change is named in the error, so nothing is dropped silently; neither is a weight.
- Not carried over, because it says how weights were drawn and not what they mean: `scale_by_depth`, which comes back
  as the family's own habit. Rows of the embedding beyond the vocabulary are cut off.
- `transformers` is imported on use. Nothing here touches the network.

Source: the model classes of `transformers` (GPT-2, GPT-NeoX without parallel residual, Llama, Mistral).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from physlm.models.counterparts import FAMILIES, Family, NoCounterpartError
from physlm.models.positions import Rotary
from physlm.models.positions.rotary import Layout
from physlm.models.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
else:  # the library is optional
    PretrainedConfig = PreTrainedModel = Any

_PARTIAL = ".partial-"
_UPDATE = ".parametrizations."


def to_transformers(model: Transformer, **options: Any) -> PreTrainedModel:
    """The same model as one of `transformers`, with weights of its own, on the same device, in the same precision.

    Example:
        >>> config = TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32)
        >>> type(to_transformers(Transformer(config, seed=0), eos_token_id=1)).__name__
        'GPTNeoXForCausalLM'

    Args:
        model: the model; low-rank updates must have been merged.
        options: further settings of their config, such as `eos_token_id`, `pad_token_id` or `attn_implementation`.
            Without an `eos_token_id`, their `generate` does not know where to stop.

    Returns:
        A `GPT2LMHeadModel`, `GPTNeoXForCausalLM`, `LlamaForCausalLM` or `MistralForCausalLM`.

    Raises:
        NoCounterpartError: if no family has all parts of the model; it names the parts.
        ValueError: if the model carries low-rank updates, or options contradict it.
        ImportError: if `transformers` is not installed.
    """
    library = _library()
    _check_merged(model)
    config = _in_their_terms(model)
    family, settings = _counterpart(library, config, options)
    with torch.random.fork_rng(devices=[]):  # their first weights are drawn from the caller's generator
        theirs = getattr(library, family.model_class)(settings)
    _adopt(theirs, model)
    with torch.no_grad():
        for their, our, way in _pairs(family, config, model, theirs):
            _fill(their, way.join(our))
    return theirs.train(model.training)


def from_transformers(theirs: PreTrainedModel) -> Transformer:
    """The same model as a `Transformer`, with weights of its own, on the same device and in the same precision.

    Args:
        theirs: a `GPT2LMHeadModel`, `GPTNeoXForCausalLM`, `LlamaForCausalLM` or `MistralForCausalLM`.

    Raises:
        NoCounterpartError: if it is of another class, or has a setting or a weight that we have no counterpart of.
        ImportError: if `transformers` is not installed.
    """
    library = _library()
    family = next((one for one in FAMILIES.values() if isinstance(theirs, getattr(library, one.model_class))), None)
    if family is None:
        known = ", ".join(one.model_class for one in FAMILIES.values())
        raise NoCounterpartError(
            f"only {known} have a counterpart here, got {type(theirs).__name__}", (type(theirs).__name__,)
        )
    head: Any = theirs.get_output_embeddings()
    config = replace(family.read(theirs.config), tied=head.weight is theirs.get_input_embeddings().weight)
    model = Transformer(config, seed=0)
    _adopt(model, theirs)
    with torch.no_grad():
        for their, our, way in _pairs(family, config, model, theirs):
            for target, value in zip(our, way.split(their), strict=True):
                _fill(target, value)
    return model.train(theirs.training)


def save_transformers(model: Transformer, folder: str | Path, **options: Any) -> None:
    """Write a folder that `transformers` reads with `from_pretrained`: `config.json` and `model.safetensors`.

    Args:
        model: the model; low-rank updates must have been merged.
        folder: where to; must not exist. It is there in full or not at all.
        options: as in `to_transformers`.

    Raises:
        FileExistsError: if `folder` exists.
        NoCounterpartError: if no family has all parts of the model.
        ValueError: if the model carries low-rank updates, or options contradict it.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists and would be overwritten; delete it or choose another folder")
    theirs = to_transformers(model, **options)
    partial = folder.with_name(_PARTIAL + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        theirs.save_pretrained(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_transformers(folder: str | Path) -> Transformer:
    """Read a folder that `save_transformers` or their `save_pretrained` wrote, in the precision it is stored in.

    Args:
        folder: a local folder with `config.json` and safetensors; pickled weights are not read.

    Raises:
        FileNotFoundError: if there is no such folder.
        NoCounterpartError: if it holds another kind of model.
        ValueError: if weights are missing, left over, or of another shape.
    """
    library, folder = _library(), Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} must be a local folder with config.json and model.safetensors: download it first"
        )
    settings = library.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if settings.model_type not in FAMILIES:
        raise NoCounterpartError(
            f"{folder} holds a model of type {settings.model_type!r}; only {', '.join(FAMILIES)} have a counterpart",
            (settings.model_type,),
        )
    family = FAMILIES[settings.model_type]
    family.read(settings)  # refuses, before any weight is read, what has no counterpart
    theirs, report = getattr(library, family.model_class).from_pretrained(
        str(folder),
        config=settings,
        local_files_only=True,
        use_safetensors=True,
        dtype="auto",
        ignore_mismatched_sizes=True,  # they are in the report, as missing weights are
        output_loading_info=True,
    )
    if wrong := {what: names for what, names in report.items() if names}:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {wrong}; save the model again")
    return from_transformers(theirs)


@torch.no_grad()
def change_rotary_layout(model: Transformer, layout: Layout) -> Transformer:
    """A copy of `model` with rotary positions in the other layout, and queries and keys reordered to fit.

    It says the same, up to rounding. `transformers` knows the layout "half" only.

    Args:
        model: a model with rotary positions; low-rank updates must have been merged.
        layout: the layout of the copy.

    Raises:
        ValueError: if the model has other positions, or carries low-rank updates.
    """
    position = model.config.position
    if not isinstance(position, Rotary):
        raise ValueError(f"only rotary positions have a layout, got {position.name}")
    _check_merged(model)
    tied = model.head.weight is model.embed.weight
    changed = Transformer(replace(model.config, tied=tied, position=replace(position, layout=layout)), seed=0)
    _adopt(changed, model)
    changed.load_state_dict(model.state_dict())
    if layout == position.layout:
        return changed.train(model.training)
    width = model.config.head_width
    turned = int(width * position.fraction)
    order = torch.arange(width)
    pairs = "(m two) -> (two m)" if layout == "half" else "(two m) -> (m two)"
    order[:turned] = rearrange(order[:turned], pairs, two=2)
    order = order.to(model.embed.weight.device)
    for block in changed.blocks:
        attention = block.get_submodule("attention")
        for name, tensor in attention.named_parameters():
            part = name.split(".")[0]
            if part in ("query", "key", "query_norm", "key_norm"):
                tensor.copy_(rearrange(tensor, "(head D) ... -> head D ...", D=width)[:, order].flatten(0, 1))
            elif part == "canon_b":  # channels of queries, keys and values
                mixed = model.config.width + model.config.groups * width
                heads = rearrange(tensor[:, :mixed], "lag (head D) -> lag head D", D=width)
                tensor[:, :mixed] = heads[:, :, order].flatten(1)
    return changed.train(model.training)


@dataclass(frozen=True)
class _Way:
    """How one tensor of theirs holds some of ours."""

    parts: int
    """How many of ours there are."""
    transposed: bool = False
    """Whether a matrix is kept as `[in, out]`."""
    heads: int = 1
    """Heads for each of which the parts stand side by side."""

    def join(self, ours: list[Tensor]) -> Tensor:
        """Ours to theirs."""
        theirs = rearrange(ours, "part (head D) ... -> (head part D) ...", head=self.heads)
        return theirs.T if self.transposed else theirs

    def split(self, theirs: Tensor) -> list[Tensor]:
        """Theirs to ours."""
        theirs = theirs.T if self.transposed else theirs
        rows = rearrange(theirs, "(head part D) ... -> part (head D) ...", part=self.parts, head=self.heads)
        return list(rows.unbind(0))


def _library() -> Any:
    """The module `transformers`."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "conversion needs the extra physlm[huggingface]: pip install 'physlm[huggingface]'"
        ) from error
    return transformers


def _check_merged(model: Transformer) -> None:
    if updates := [name for name in model.state_dict() if _UPDATE in name]:
        raise ValueError(
            f"the model carries {len(updates)} tensors of low-rank updates ({updates[0]}, …): "
            "fold them in with merge_low_rank"
        )


def _in_their_terms(model: Transformer) -> TransformerConfig:
    """The config of `model`, without what is the same to every reader of its weights."""
    config = model.config
    return replace(
        config,
        tied=model.head.weight is model.embed.weight,
        key_value_heads=None if config.groups == config.heads else config.groups,
        mlp_ratio=config.mlp_ratio if config.experts else config.mlp_width / config.width,
        vocab_multiple=1,
    )


def _counterpart(library: Any, config: TransformerConfig, options: dict[str, Any]) -> tuple[Family, PretrainedConfig]:
    """The first family that expresses all of `config`, and its settings."""
    # Both of the last two know grouped keys and values; only Mistral is known for them.
    order = ("gpt2", "gpt_neox", "llama", "mistral")
    if config.groups != config.heads:
        order = ("gpt2", "gpt_neox", "mistral", "llama")
    lacking: dict[str, list[str]] = {}
    for name in order:
        family = FAMILIES[name]
        shape = family.describe(config)
        if taken := set(options) & set(shape):
            raise ValueError(f"{', '.join(sorted(taken))} follow from the model and cannot be options")
        # Their defaults are the token ids of another vocabulary.
        settings = getattr(library, family.config_class)(
            **{"bos_token_id": None, "eos_token_id": None, **shape, **options}
        )
        found = family.read(settings)
        lacking[name] = [
            field.name
            for field in fields(config)
            if field.name != "scale_by_depth" and getattr(found, field.name) != getattr(config, field.name)
        ]
        if not lacking[name]:
            return family, settings
    nearest = min(order, key=lambda name: len(lacking[name]))
    parts = ", ".join(f"{part}={getattr(config, part)!r}" for part in lacking[nearest])
    about = "; ".join(f"{name}: {family.about}" for name, family in FAMILIES.items())
    raise NoCounterpartError(
        f"transformers has no counterpart of {parts} in {nearest}, its nearest family here; the families are {about}. "
        "Such a model is kept by save_model",
        tuple(lacking[nearest]),
    )


def _adopt(module: nn.Module, other: nn.Module) -> None:
    """Move `module` to where `other` is, and its weights, but not its tables of frequencies, into that precision."""
    precision, *others = {parameter.dtype for parameter in other.parameters()}
    if others or not precision.is_floating_point:
        raise ValueError(
            f"all weights must be in one floating-point precision, got {[precision, *others]}; convert them first"
        )
    module.to(next(other.parameters()).device)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(precision)


def _pairs(
    family: Family, config: TransformerConfig, model: Transformer, theirs: PreTrainedModel
) -> Iterator[tuple[Tensor, list[Tensor], _Way]]:
    """Each tensor of theirs, those of ours that it holds, and how; all tensors of both, once."""
    their_tensors: dict[str, Tensor] = dict(theirs.named_parameters())
    our_tensors: dict[str, Tensor] = dict(model.named_parameters())
    for name in ("embed.weight", "head.weight"):
        if name in our_tensors:
            our_tensors[name] = our_tensors[name][: config.vocab_size]
    names = [(their, (our,) if isinstance(our, str) else our) for their, our in family.names.items()]
    expanded = [
        (their.replace("#", str(layer)), [our.replace("#", str(layer)) for our in ours])
        for their, ours in names
        for layer in range(config.layers if "#" in their else 1)
    ]
    if not config.tied:
        head = next(name for name, module in theirs.named_modules() if module is theirs.get_output_embeddings())
        expanded.append((head, ["head"]))
    for their_module, our_modules in expanded:
        for kind in ("weight", "bias"):
            their_name = f"{their_module}.{kind}"
            # The table of positions is a weight of its own, not a layer that has one.
            our_names = [our if our in our_tensors else f"{our}.{kind}" for our in our_modules]
            if their_name not in their_tensors or not all(our in our_tensors for our in our_names):
                continue
            their, ours = their_tensors.pop(their_name), [our_tensors.pop(our) for our in our_names]
            heads = config.heads if len(ours) > 1 and family.joined_by_head else 1
            layer = theirs.get_submodule(their_module)
            transposed = type(layer).__name__ == "Conv1D" and their.ndim == 2  # GPT-2 keeps its matrices as [in, out]
            yield their, ours, _Way(len(ours), transposed, heads)
    if their_tensors or our_tensors:
        left = (*their_tensors, *our_tensors)
        raise NoCounterpartError(f"weights without a counterpart: {', '.join(left)}", left)


def _fill(target: Tensor, value: Tensor) -> None:
    """Copy, never broadcast."""
    if target.shape != value.shape:
        raise ValueError(f"a weight must have shape {tuple(target.shape)}, got {tuple(value.shape)}")
    target.copy_(value)
