"""The shape of a transformer as data: every part by name, and how many parameters that makes.

Source: Physics of Language Models 3.1, App. B (GPT2-rotary); 3.3, §2 and App. A (LLaMA and Mistral blocks, MLP
widths, experts); 4.1, §3 (Canon layers).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from physlm.models.activations import ACTIVATIONS, Activation
from physlm.models.canon import Canon
from physlm.models.checks import require_whole_numbers
from physlm.models.experts import Experts
from physlm.models.positions import PositionConfig, Rotary, position_from_dict
from physlm.models.positions.base import ModelShape, share_of_heads

Norm = Literal["layer", "rms"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a transformer; the defaults are the GPT-2 block with rotary positions.

    Attributes:
        vocab_size: number of token ids (PAD, EOS, MASK and at least one word).
        context: longest window in tokens that the model is trained on.
        layers, heads, width: depth, attention heads and residual width; `width` is a multiple of `heads`.
        key_value_heads: heads of keys and values, each shared by a group of query heads; `None` is `heads`.
        mlp_ratio: hidden width of the MLP as a multiple of `width`, rounded; 0 is no MLP at all. Experts have a
            `hidden_ratio` of their own instead: beside them this stays at its default or says the same.
        activation: of the MLP; "gelu" is approximated by a tanh, as in GPT-2.
        gated: multiply the activated hidden units by a second projection (SwiGLU with "silu", GeGLU with "gelu").
        experts: a mixture of experts in the place of every MLP.
        norm: LayerNorm or RMSNorm.
        norm_eps: added to the variance in norms.
        query_key_norm: normalise all queries of a token, and all keys, before they are split into heads; not with
            positions that stand in for them.
        canon: convolutions over the last few tokens inside the blocks.
        position: config of the positional encoding.
        biases: whether linear layers and LayerNorms have biases.
        tied: whether the head is the embedding.
        causal: whether a token sees only itself and earlier tokens.
        dropout: probability of zeroing an embedding, attention or MLP output while training.
        initial_std: standard deviation of the initial weights.
        scale_by_depth: divide it by the square root of twice the number of layers for what is added to the residual
            stream (GPT-2).
        vocab_multiple: the embedding has rows for a multiple of this many tokens, which GPUs like; those beyond
            `vocab_size` stay zero and are never seen.
    """

    vocab_size: int
    context: int
    layers: int
    heads: int
    width: int
    key_value_heads: int | None = None
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    gated: bool = False
    experts: Experts | None = None
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    query_key_norm: bool = False
    canon: Canon | None = None
    position: PositionConfig = field(default_factory=Rotary)
    biases: bool = True
    tied: bool = True
    causal: bool = True
    dropout: float = 0.0
    initial_std: float = 0.02
    scale_by_depth: bool = True
    vocab_multiple: int = 1

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "context", "layers", "heads", "width", "vocab_multiple")
        require_whole_numbers(self, *sizes, "key_value_heads")
        if self.vocab_size < 4:
            raise ValueError(f"vocab_size must be ≥ 4 (PAD, EOS, MASK and a word), got {self.vocab_size}")
        for name in sizes[1:]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be ≥ 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width {self.width} and heads {self.heads}")
        if self.key_value_heads is not None and (self.key_value_heads < 1 or self.heads % self.key_value_heads):
            raise ValueError(f"key_value_heads must divide heads = {self.heads}, got {self.key_value_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.mlp_ratio < math.inf:
            raise ValueError(f"mlp_ratio must be ≥ 0 and finite, got {self.mlp_ratio}; 0 is no MLP")
        if self.mlp_ratio > 0 and self.mlp_width < 1:
            raise ValueError(f"mlp_ratio must give at least one hidden unit, or be 0, got {self.mlp_ratio}")
        for name in ("initial_std", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name, names in (("activation", tuple(ACTIVATIONS)), ("norm", get_args(Norm))):
            if getattr(self, name) not in names:
                raise ValueError(f"{name} must be one of {', '.join(names)}, got {getattr(self, name)!r}")
        if not isinstance(self.position, PositionConfig):
            raise TypeError(
                f"position must be a config such as Rotary() or position_from_dict({{'name': 'rotary'}}), "
                f"got {self.position!r}"
            )
        self._check_position(self.position)
        if self.experts is not None:
            self._check_experts(self.experts)
        if self.canon is not None:
            self._check_canon(self.canon)

    def _check_position(self, position: PositionConfig) -> None:
        if self.query_key_norm and position.replaces_content:
            raise ValueError(
                f"query_key_norm needs queries and keys, which {position.name} positions replace, got "
                "query_key_norm=True; set it to False"
            )
        if isinstance(position, Rotary) and self.groups != self.heads:
            what = f"position.head_fraction, with key_value_heads = {self.groups},"
            share_of_heads(what, position.head_fraction, self.groups)

    def _check_experts(self, experts: Experts) -> None:
        if self.mlp_ratio not in (type(self).mlp_ratio, experts.hidden_ratio):
            raise ValueError(
                f"experts are as wide as their hidden_ratio says, got experts.hidden_ratio {experts.hidden_ratio} and "
                f"mlp_ratio {self.mlp_ratio}; set mlp_ratio to the same, or leave it at {type(self).mlp_ratio}"
            )

    def _check_canon(self, canon: Canon) -> None:
        if not self.causal:
            raise ValueError("Canon layers look back only and need causal=True, got causal=False; set canon=None")
        if "D" in canon.sublayers and self.experts is not None:
            raise ValueError(
                f"Canon-D needs neighbours that experts do not have, got canon {canon.sublayers!r} with experts; "
                "use Canon(sublayers='ABC')"
            )
        if {"C", "D"} & set(canon.sublayers) and self.mlp_ratio == 0:
            raise ValueError(f"Canon-C and -D are parts of the MLP, got canon {canon.sublayers!r} and mlp_ratio 0")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.key_value_heads or self.heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP."""
        return round(self.width * self.mlp_ratio)

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding: `vocab_size`, rounded up."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def shape(self) -> ModelShape:
        """What the positional encoding may know."""
        return ModelShape(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            head_width=self.head_width,
            context=self.context,
            causal=self.causal,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object from which `from_dict` makes an equal config."""
        return {**asdict(self), "position": self.position.to_dict()}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> TransformerConfig:
        """The config that `to_dict` described; unknown keys are an error, missing ones have their defaults."""
        _known(cls, entry, "transformer config")
        parts: dict[str, Any] = {}
        for name, part in (("experts", Experts), ("canon", Canon)):
            if entry.get(name) is not None:
                _known(part, entry[name], name)
                parts[name] = part(**entry[name])
        if "position" in entry:
            parts["position"] = position_from_dict(entry["position"])
        return cls(**{**entry, **parts})


def _known(config_class: Any, entry: dict[str, Any], what: str) -> None:
    known = {item.name for item in fields(config_class)}
    if unknown := set(entry) - known:
        raise ValueError(f"{what} has no field {sorted(unknown)}; its fields are {sorted(known)}")


def parameter_count(config: TransformerConfig, *, embedding: bool = True) -> int:
    """Number of parameters, in closed form: a tied embedding counted once, frozen and padding rows not at all.

    >>> parameter_count(TransformerConfig(vocab_size=50_257, context=512, layers=12, heads=12, width=768))
    123653376

    Args:
        config: the model.
        embedding: count the token embedding and the head too.
    """
    norm = config.width * (2 if config.norm == "layer" and config.biases else 1)
    per_layer = _attention_count(config) + norm
    per_layer += _mlp_count(config)
    if config.mlp_ratio:
        per_layer += norm
    if config.canon is not None and config.canon.trained:
        per_layer += config.canon.kernel * sum(canon_widths(config).values())
    vocabulary = config.vocab_size * config.width * (1 if config.tied else 2) if embedding else 0
    return vocabulary + config.position.build(config.shape).parameter_count() + config.layers * per_layer + norm


def canon_widths(config: TransformerConfig) -> dict[str, int]:
    """Channels of each Canon layer of a block, by its letter."""
    if config.canon is None:
        return {}
    key_value = config.groups * config.head_width
    widths = {
        "A": config.width,
        "B": key_value if config.position.replaces_content else config.width + 2 * key_value,
        "C": config.width,
        "D": config.mlp_width * (2 if config.gated else 1),
    }
    return {letter: widths[letter] for letter in config.canon.sublayers}


def _attention_count(config: TransformerConfig) -> int:
    width, key_value, bias = config.width, config.groups * config.head_width, int(config.biases)
    values = (width + bias) * key_value + (width + bias) * width
    if config.position.replaces_content:
        return values
    norms = (width + key_value) * (2 if config.norm == "layer" and config.biases else 1) if config.query_key_norm else 0
    return values + (width + bias) * width + (width + bias) * key_value + norms


def _mlp_count(config: TransformerConfig) -> int:
    if config.experts is not None:
        return config.experts.parameter_count(config.width, gated=config.gated, biases=config.biases)
    width, hidden, bias = config.width, config.mlp_width, int(config.biases)
    if not hidden:
        return 0
    return (2 if config.gated else 1) * (width + bias) * hidden + (hidden + bias) * width
