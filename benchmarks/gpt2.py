"""The peer model: GPT-2 of `transformers`, set up as well as it can be, in the shape and with the weights of ours.

Fused attention, tied embeddings, and, unless told otherwise, the fused tanh-GELU in place of GPT-2's
default, which spells the same function out in several operations.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import MissingPeerError
from physlm.models.transformer import Transformer, TransformerConfig

NAME = "transformers GPT2LMHeadModel"


FUSED_GELU, DEFAULT_GELU = "gelu_pytorch_tanh", "gelu_new"


def gpt2_like(config: TransformerConfig, *, eos: int, pad: int, activation: str = FUSED_GELU) -> Any:
    """A `GPT2LMHeadModel` of the same shape, with learned positions whatever ours are."""
    try:
        import transformers
    except ImportError as error:
        raise MissingPeerError("this benchmark needs `transformers`: pip install 'physlm[huggingface]'") from error
    transformers.logging.set_verbosity_error()
    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "initializer_range": config.initial_std,
    }
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    special = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": pad}
    options = {"activation_function": activation, "attn_implementation": "sdpa", **dropout, **special}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **options))


@torch.no_grad()
def copy_weights(model: Transformer, peer: Any) -> None:
    """Give `peer` the weights of `model`, which has learned positions."""
    body = peer.transformer
    pairs = [(body.wte, model.embed), (body.ln_f, model.final_norm)]
    body.wpe.weight.copy_(model.position.get_parameter("table"))
    for theirs, ours in zip(body.h, model.blocks, strict=True):
        attention: Any = ours.get_submodule("attention")
        projections = (attention.query, attention.key, attention.value)
        theirs.attn.c_attn.weight.copy_(torch.cat([p.weight for p in projections]).T)
        theirs.attn.c_attn.bias.copy_(torch.cat([p.bias for p in projections]))
        for convolution, linear in (
            (theirs.attn.c_proj, attention.output),
            (theirs.mlp.c_fc, ours.get_submodule("mlp.up")),
            (theirs.mlp.c_proj, ours.get_submodule("mlp.down")),
        ):
            convolution.weight.copy_(linear.weight.T)
            convolution.bias.copy_(linear.bias)
        pairs += [(theirs.ln_1, ours.get_submodule("attention_norm")), (theirs.ln_2, ours.get_submodule("mlp_norm"))]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
