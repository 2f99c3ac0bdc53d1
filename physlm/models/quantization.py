"""Weights of a few bits, to measure what a model still knows: its weights are rounded, its arithmetic is not.

- A row of a weight is cut into groups of inputs, and each group has its own grid of `2^bits` evenly spaced values from
  its least to its largest weight, zero always among them (asymmetric min–max).
- `round_to_nearest` rounds every weight on its own. `gptq` rounds one input after the other and lets those that follow
  make up for the error on given inputs: with `H = 2XᵀX`, damped, and `U` the upper Cholesky factor of its inverse, the
  error `e = (w − q) / U_jj` of column `j` is taken from the later ones as `e·U_jk`. A group's grid is made when its
  first column comes up. All of it is in float64.
- `quantize` does so to a whole model, block by block, each on what the rounded blocks below it give.

Shape legend: B rows of tokens, T tokens, N inputs seen, O outputs (rows of a weight), I inputs (its columns), G groups.
Source: Frantar et al. 2022 (GPTQ, and the grid of its code); Physics of Language Models 3.3, §8 and App. C.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils import parametrize

from physlm.models.capture import Capture
from physlm.models.checks import require_tokens
from physlm.models.experts import MixtureOfExperts
from physlm.models.feed_forward import MLP
from physlm.models.generation import evaluating
from physlm.models.linear import Linear
from physlm.models.transformer import Block, Transformer

Method = Literal["gptq", "round_to_nearest"]
Matrices = Literal["blocks", "all"]

BITS = range(2, 9)
COLUMNS_AT_ONCE = 128
"""Later columns learn of errors in parts of this many, by one product."""
TOKENS_AT_ONCE = 2**14
"""Calibration tokens that are read in one forward pass."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A rounded weight, `scales · (codes − zeros)`.

    Attributes:
        weight: the rounded values, in the type of the original.
        codes: which value of its grid every weight has.
        scales: distance of neighbouring values, of every row and group.
        zeros: the code that means zero.
        bits: codes are below `2^bits`.
        group_size: columns that share a grid; the last group may have fewer.
    """

    weight: Float[Tensor, "O I"]
    codes: UInt8[Tensor, "O I"]
    scales: Float[Tensor, "O G"]
    zeros: UInt8[Tensor, "O G"]
    bits: int
    group_size: int


@torch.no_grad()
def round_to_nearest(weight: Float[Tensor, "O I"], bits: int, *, group_size: int = 128) -> Quantized:
    """Every weight to the nearest value of its grid.

    >>> round_to_nearest(torch.tensor([[-0.3, 0.1, 0.0, 1.2]]), 2).weight
    tensor([[-0.5000,  0.0000,  0.0000,  1.0000]])

    Args:
        weight: any weight; rows share nothing.
        bits: 2 to 8.
        group_size: columns that share a grid.

    Raises:
        ValueError: if an argument is outside its range or a weight is not finite.
    """
    _check_settings(bits, group_size)
    _check_finite(weight)
    exact = weight.double()
    codes, scales, zeros = [], [], []
    for group in exact.split(group_size, dim=1):
        scale, zero = _grid(group, bits)
        codes.append(_encode(group, scale, zero, bits))
        scales.append(scale)
        zeros.append(zero)
    return _quantized(weight, torch.cat(codes, 1), torch.cat(scales, 1), torch.cat(zeros, 1), bits, group_size)


@torch.no_grad()
def gptq(
    weight: Float[Tensor, "O I"],
    hessian: Float[Tensor, "I I"],
    bits: int,
    *,
    group_size: int = 128,
    damping: float = 0.01,
) -> Quantized:
    """Round a linear layer's weight so that its outputs on given inputs change little.

    Args:
        weight: of the layer.
        hessian: of its inputs, see `hessian_of`. An input that never was is rounded to nearest.
        bits: 2 to 8.
        group_size: columns that share a grid.
        damping: added to the diagonal of the Hessian, as a share of its mean, > 0.

    Raises:
        ValueError: if an argument is outside its range, or weight or Hessian is not finite.
    """
    _check_settings(bits, group_size, damping)
    _check_finite(weight)
    rows, columns = weight.shape
    factor = _inverse_factor(hessian, damping)
    left = weight.double().clone()
    codes = torch.empty_like(left)
    scales, zeros = [], []
    for start in range(0, columns, group_size):
        end = min(start + group_size, columns)
        scale, zero = _grid(left[:, start:end], bits)
        scales.append(scale)
        zeros.append(zero)
        for first in range(start, end, COLUMNS_AT_ONCE):
            last = min(first + COLUMNS_AT_ONCE, end)
            errors = left.new_empty(rows, last - first)
            for column in range(first, last):
                exact = left[:, column : column + 1]
                code = _encode(exact, scale, zero, bits)
                codes[:, column] = code[:, 0]
                error = (exact - scale * (code - zero)) / factor[column, column]
                errors[:, column - first] = error[:, 0]
                left[:, column + 1 : last] -= error * factor[column, column + 1 : last]
            left[:, last:] -= errors @ factor[first:last, last:]
    return _quantized(weight, codes, torch.cat(scales, 1), torch.cat(zeros, 1), bits, group_size)


@torch.no_grad()
def hessian_of(inputs: Float[Tensor, "N I"]) -> Float[Tensor, "I I"]:
    """`2XᵀX` in float64: how much the squared error of a layer's outputs on these inputs curves in its weights.

    Those of several parts of the inputs add up.
    """
    exact = inputs.double()
    return 2 * exact.T @ exact


def quantize(
    model: Transformer,
    *,
    bits: int,
    method: Method = "gptq",
    calibration: Int[Tensor, "B T"] | None = None,
    group_size: int = 128,
    matrices: Matrices = "blocks",
    damping: float = 0.01,
) -> Transformer:
    """A copy of `model` with rounded matrices; the model itself stays as it is.

    Norms, biases, routers, convolutions and positional encodings are never rounded. Experts are rounded to nearest by
    either method, since some see too few calibration tokens to be fitted to them.

    Example:
        >>> from physlm.models.transformer import TransformerConfig
        >>> model = Transformer(TransformerConfig(vocab_size=100, context=16, layers=2, heads=2, width=32), seed=0)
        >>> small = quantize(model, bits=4, calibration=torch.arange(96).view(6, 16))
        >>> len(small.blocks[0].attention.query.weight[0].unique()) <= 16
        True

    Args:
        model: a transformer; low-rank updates must be merged before.
        bits: of every rounded weight, 2 to 8.
        method: "gptq", or "round_to_nearest", which reads no calibration tokens.
        calibration: tokens of ordinary text without padding, from which "gptq" takes the inputs of all layers. Those
            of a block are computed with all blocks below it rounded, and everything in it exact.
        group_size: inputs that share a grid.
        matrices: "blocks" rounds the linear layers of the blocks; "all" also the embedding, to nearest, and the head,
            which sees the same if it is tied to it.
        damping: see `gptq`.

    Raises:
        ValueError: if an argument is outside its range, calibration tokens are missing or the model has updates.
    """
    for name, value, names in (("method", method, get_args(Method)), ("matrices", matrices, get_args(Matrices))):
        if value not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")
    _check_settings(bits, group_size, damping)
    if method == "gptq" and (calibration is None or not calibration.numel()):
        raise ValueError("gptq needs calibration tokens, got none; pass some, or method='round_to_nearest'")
    if method == "gptq" and calibration is not None:
        require_tokens(calibration, model.config.vocab_size)
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise ValueError("the model has low-rank updates, and what is rounded is their sum; call merge_low_rank first")
    quantized = copy.deepcopy(model)
    quantized.zero_grad(set_to_none=True)
    tokens = calibration if method == "gptq" else None

    def round_rows(weight: Tensor) -> None:
        _put(weight, round_to_nearest(weight.flatten(0, -2), bits, group_size=group_size).weight)

    def round_layers(layers: dict[str, list[Tensor]]) -> None:
        """Round weights `[O, I]`, given by the names of their inputs."""
        hessians = {} if tokens is None else _hessians(quantized, tokens, list(layers))
        for name, weights in layers.items():
            for weight in weights:
                if tokens is None:
                    round_rows(weight)
                else:
                    _put(weight, gptq(weight, hessians[name], bits, group_size=group_size, damping=damping).weight)

    if matrices == "all":
        round_rows(quantized.embed.weight)
    for number, block in enumerate(quantized.blocks):
        if isinstance(block.mlp, MixtureOfExperts):
            for weight in (block.mlp.up, block.mlp.gate, block.mlp.down):
                if weight is not None:
                    round_rows(weight)
        round_layers(_layers(quantized, number))
    if matrices == "all" and not quantized.config.tied:
        round_layers({"final": [quantized.head.weight]})
    return quantized


def _layers(model: Transformer, number: int) -> dict[str, list[Tensor]]:
    """Weights of the linear layers of a block, by the hidden state that they read."""
    block, name = model.blocks[number], f"block.{number}."
    assert isinstance(block, Block)
    attention, mlp = block.attention, block.mlp
    readers: dict[str, tuple[Linear | None, ...]] = {
        "attn_in": (attention.query, attention.key, attention.value),
        "z": (attention.output,),
    }
    if isinstance(mlp, MLP):
        readers |= {"mlp_in": (mlp.up, mlp.gate), "mlp_post": (mlp.down,)}
    return {name + read: [layer.weight for layer in layers if layer is not None] for read, layers in readers.items()}


def _hessians(model: Transformer, tokens: Int[Tensor, "B T"], names: list[str]) -> dict[str, Tensor]:
    """`hessian_of` the hidden states with these names, on all tokens."""
    hessians: dict[str, Tensor] = {}
    with evaluating(model) as device:
        for part in tokens.split(max(1, TOKENS_AT_ONCE // tokens.shape[1])):
            capture = Capture(names)
            model.hidden(part.to(device), capture=capture)
            for name, state in capture.states.items():
                # Heads side by side are what the output layer reads.
                inputs = state.flatten(2).flatten(0, 1)
                hessians[name] = hessian_of(inputs) + hessians.get(name, 0.0)
    return hessians


@torch.no_grad()
def _put(weight: Tensor, values: Tensor) -> None:
    weight.copy_(values.view_as(weight))


def _check_settings(bits: int, group_size: int, damping: float = 1.0) -> None:
    if type(bits) is not int or bits not in BITS:
        raise ValueError(f"bits must be an int in [{BITS.start}, {BITS.stop - 1}], got {bits!r}")
    if group_size < 1:
        raise ValueError(f"group_size must be ≥ 1 inputs, got {group_size}; for one group give the number of inputs")
    if not damping > 0:
        raise ValueError(f"damping must be > 0, got {damping}")


def _check_finite(weight: Tensor) -> None:
    if not weight.isfinite().all():
        raise ValueError("weights must be finite, got some that are not; did training diverge?")


def _grid(group: Float[Tensor, "O g"], bits: int) -> tuple[Float[Tensor, "O 1"], Float[Tensor, "O 1"]]:
    """Distance of neighbouring values, and the code of zero, for every row of a group."""
    least, most = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
    scale = (most - least) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, 1.0)  # all weights are zero
    return scale, -_round(least / scale)


def _encode(group: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Codes of the nearest values."""
    return (_round(group / scale) + zero).clamp(0, 2**bits - 1)


def _round(values: Tensor) -> Tensor:
    """To the nearest integer, halves up: unlike rounding to even, it gives both ends of a grid their codes."""
    return (values + 0.5).floor()


def _inverse_factor(hessian: Float[Tensor, "I I"], damping: float) -> Float[Tensor, "I I"]:
    """The upper factor `U` of the inverse of a damped Hessian, `H⁻¹ = UᵀU`."""
    if not hessian.isfinite().all():
        raise ValueError("the Hessian must be finite, got one that is not; check the calibration inputs")
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    mean = diagonal.mean()
    diagonal += damping * torch.where(mean > 0, mean, 1.0)  # nothing was ever read
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _quantized(weight: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bits: int, group_size: int) -> Quantized:
    columns = weight.shape[1]
    spread_scales, spread_zeros = (
        values.repeat_interleave(group_size, dim=1)[:, :columns] for values in (scales, zeros)
    )
    return Quantized(
        weight=(spread_scales * (codes - spread_zeros)).to(weight.dtype),
        codes=codes.to(torch.uint8),
        scales=scales,
        zeros=zeros.to(torch.uint8),
        bits=bits,
        group_size=group_size,
    )
