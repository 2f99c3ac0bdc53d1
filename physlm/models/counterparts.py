"""Model families of the transformers library that are counterparts of ours: their settings and names for our parts.

A family describes a config of ours in its own settings as well as it can, and reads settings back, refusing those that
we have no counterpart of. The table at the end is what `physlm.models.conversion` works with.

Source: the configs and models of `transformers`: GPT-2, GPT-NeoX without parallel residual, Llama, Mistral.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from physlm.models.activations import Activation
from physlm.models.config import TransformerConfig
from physlm.models.positions import Learned, Rotary

if TYPE_CHECKING:
    from transformers import PretrainedConfig
else:  # the library is optional
    PretrainedConfig = Any

_THEIR_ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu_pytorch_tanh",
    "gelu_exact": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}
_OUR_ACTIVATIONS: dict[str, Activation] = {
    **{theirs: ours for ours, theirs in _THEIR_ACTIVATIONS.items()},
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_python": "gelu_exact",
    "swish": "silu",
}


class NoCounterpartError(ValueError):
    """A model has parts that the other library does not have.

    Attributes:
        parts: these parts, such as "canon" or "use_parallel_residual".
    """

    def __init__(self, message: str, parts: tuple[str, ...]) -> None:
        super().__init__(message)
        self.parts = parts


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models: how it is called, and how it says what our config says."""

    model_class: str
    config_class: str
    about: str
    names: Mapping[str, str | tuple[str, ...]]
    """Their modules, and ours that they hold, several of them joined; `#` is the number of a block."""
    describe: Callable[[TransformerConfig], dict[str, Any]]
    """The nearest settings of the family."""
    read: Callable[[PretrainedConfig], TransformerConfig]
    """The config that settings describe; an error if there is none."""
    joined_by_head: bool = False
    """Whether parts that are joined stand side by side within each head, instead of one after the other."""


def _refuse(settings: PretrainedConfig, **wanted: Any) -> None:
    """An error for every setting that is not as we have it."""
    if wrong := {name: getattr(settings, name) for name, value in wanted.items() if getattr(settings, name) != value}:
        raise NoCounterpartError(
            f"{settings.model_type} settings without a counterpart here: "
            + ", ".join(f"{name}={value!r}, must be {wanted[name]!r}" for name, value in wrong.items()),
            tuple(wrong),
        )


def _read_activation(settings: PretrainedConfig, name: str) -> Activation:
    theirs = getattr(settings, name)
    if theirs not in _OUR_ACTIVATIONS:
        raise NoCounterpartError(f"{name} must be one of {', '.join(_OUR_ACTIVATIONS)}, got {theirs!r}", (name,))
    return _OUR_ACTIVATIONS[theirs]


def _read_rotary(settings: PretrainedConfig, *, partial: bool) -> Rotary:
    parameters = settings.rope_parameters
    if parameters.get("rope_type", "default") != "default":
        raise NoCounterpartError(
            f"rope_type must be 'default', got {parameters['rope_type']!r}: rescaled rotary positions have no "
            "counterpart here",
            ("rope_parameters",),
        )
    fraction = parameters.get("partial_rotary_factor", 1.0) if partial else 1.0
    return Rotary(base=float(parameters["rope_theta"]), fraction=fraction)


def _describe_gpt2(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": max(1, config.mlp_width),  # no MLP at all cannot be said
        "activation_function": _THEIR_ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.initial_std,
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }


def _read_gpt2(settings: PretrainedConfig) -> TransformerConfig:
    _refuse(settings, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    _refuse(settings, **dict.fromkeys(("resid_pdrop", "attn_pdrop"), settings.embd_pdrop))
    hidden = 4 * settings.n_embd if settings.n_inner is None else settings.n_inner
    return TransformerConfig(
        vocab_size=settings.vocab_size,
        context=settings.n_positions,
        layers=settings.n_layer,
        heads=settings.n_head,
        width=settings.n_embd,
        mlp_ratio=hidden / settings.n_embd,
        activation=_read_activation(settings, "activation_function"),
        norm_eps=settings.layer_norm_epsilon,
        position=Learned(),
        tied=settings.tie_word_embeddings,
        dropout=settings.embd_pdrop,
        initial_std=settings.initializer_range,
    )


def _describe_shape(config: TransformerConfig) -> dict[str, Any]:
    """What the families after GPT-2 call alike."""
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": max(1, config.mlp_width),  # no MLP at all cannot be said
        "hidden_act": _THEIR_ACTIVATIONS[config.activation],
        "initializer_range": config.initial_std,
        "tie_word_embeddings": config.tied,
    }


def _read_shape(settings: PretrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": settings.vocab_size,
        "context": settings.max_position_embeddings,
        "layers": settings.num_hidden_layers,
        "heads": settings.num_attention_heads,
        "width": settings.hidden_size,
        "mlp_ratio": settings.intermediate_size / settings.hidden_size,
        "activation": _read_activation(settings, "hidden_act"),
        "tied": settings.tie_word_embeddings,
        "initial_std": settings.initializer_range,
        "scale_by_depth": False,
    }


def _rotary_of(config: TransformerConfig) -> Rotary:
    return config.position if isinstance(config.position, Rotary) else Rotary()


def _describe_gpt_neox(config: TransformerConfig) -> dict[str, Any]:
    rotary = _rotary_of(config)
    return {
        **_describe_shape(config),
        "layer_norm_eps": config.norm_eps,
        "attention_dropout": config.dropout,
        "hidden_dropout": config.dropout,
        "use_parallel_residual": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": rotary.base,
            "partial_rotary_factor": rotary.fraction,
        },
    }


def _read_gpt_neox(settings: PretrainedConfig) -> TransformerConfig:
    _refuse(settings, use_parallel_residual=False, attention_bias=True, attention_dropout=settings.hidden_dropout)
    return TransformerConfig(
        **_read_shape(settings),
        norm_eps=settings.layer_norm_eps,
        position=_read_rotary(settings, partial=True),
        dropout=settings.hidden_dropout,
    )


def _describe_mistral(config: TransformerConfig) -> dict[str, Any]:
    return {
        **_describe_shape(config),
        "num_key_value_heads": config.groups,
        "rms_norm_eps": config.norm_eps,
        "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": _rotary_of(config).base},
    }


def _read_mistral(settings: PretrainedConfig) -> TransformerConfig:
    _refuse(settings, sliding_window=None)
    return _read_gated(settings, biases=False)


def _describe_llama(config: TransformerConfig) -> dict[str, Any]:
    return {
        **{name: value for name, value in _describe_mistral(config).items() if name != "sliding_window"},
        "attention_bias": config.biases,
        "mlp_bias": config.biases,
    }


def _read_llama(settings: PretrainedConfig) -> TransformerConfig:
    _refuse(settings, mlp_bias=settings.attention_bias)
    return _read_gated(settings, biases=settings.attention_bias)


def _read_gated(settings: PretrainedConfig, *, biases: bool) -> TransformerConfig:
    head_width = settings.hidden_size // settings.num_attention_heads
    _refuse(settings, attention_dropout=0.0, head_dim=head_width)
    groups = settings.num_key_value_heads
    return TransformerConfig(
        **_read_shape(settings),
        key_value_heads=None if groups == settings.num_attention_heads else groups,
        gated=True,
        norm="rms",
        norm_eps=settings.rms_norm_eps,
        position=_read_rotary(settings, partial=False),
        biases=biases,
    )


_PROJECTIONS = ("blocks.#.attention.query", "blocks.#.attention.key", "blocks.#.attention.value")
_GATED_NAMES: dict[str, str | tuple[str, ...]] = {
    "model.embed_tokens": "embed",
    "model.layers.#.input_layernorm": "blocks.#.attention_norm",
    "model.layers.#.self_attn.q_proj": "blocks.#.attention.query",
    "model.layers.#.self_attn.k_proj": "blocks.#.attention.key",
    "model.layers.#.self_attn.v_proj": "blocks.#.attention.value",
    "model.layers.#.self_attn.o_proj": "blocks.#.attention.output",
    "model.layers.#.post_attention_layernorm": "blocks.#.mlp_norm",
    "model.layers.#.mlp.gate_proj": "blocks.#.mlp.gate",
    "model.layers.#.mlp.up_proj": "blocks.#.mlp.up",
    "model.layers.#.mlp.down_proj": "blocks.#.mlp.down",
    "model.norm": "final_norm",
}
FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        model_class="GPT2LMHeadModel",
        config_class="GPT2Config",
        about="learned positions, LayerNorm, plain MLP, biases",
        names={
            "transformer.wte": "embed",
            "transformer.wpe": "position.table",
            "transformer.h.#.ln_1": "blocks.#.attention_norm",
            "transformer.h.#.attn.c_attn": _PROJECTIONS,
            "transformer.h.#.attn.c_proj": "blocks.#.attention.output",
            "transformer.h.#.ln_2": "blocks.#.mlp_norm",
            "transformer.h.#.mlp.c_fc": "blocks.#.mlp.up",
            "transformer.h.#.mlp.c_proj": "blocks.#.mlp.down",
            "transformer.ln_f": "final_norm",
        },
        describe=_describe_gpt2,
        read=_read_gpt2,
    ),
    "gpt_neox": Family(
        model_class="GPTNeoXForCausalLM",
        config_class="GPTNeoXConfig",
        about="rotary positions on any share of a head, LayerNorm, plain MLP, biases",
        names={
            "gpt_neox.embed_in": "embed",
            "gpt_neox.layers.#.input_layernorm": "blocks.#.attention_norm",
            "gpt_neox.layers.#.attention.query_key_value": _PROJECTIONS,
            "gpt_neox.layers.#.attention.dense": "blocks.#.attention.output",
            "gpt_neox.layers.#.post_attention_layernorm": "blocks.#.mlp_norm",
            "gpt_neox.layers.#.mlp.dense_h_to_4h": "blocks.#.mlp.up",
            "gpt_neox.layers.#.mlp.dense_4h_to_h": "blocks.#.mlp.down",
            "gpt_neox.final_layer_norm": "final_norm",
        },
        describe=_describe_gpt_neox,
        read=_read_gpt_neox,
        joined_by_head=True,
    ),
    "llama": Family(
        model_class="LlamaForCausalLM",
        config_class="LlamaConfig",
        about="rotary positions on whole heads, RMSNorm, gated MLP, with or without biases, no dropout",
        names=_GATED_NAMES,
        describe=_describe_llama,
        read=_read_llama,
    ),
    "mistral": Family(
        model_class="MistralForCausalLM",
        config_class="MistralConfig",
        about="as llama, without biases",
        names=_GATED_NAMES,
        describe=_describe_mistral,
        read=_read_mistral,
    ),
}
