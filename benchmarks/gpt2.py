"""The peer models, of `transformers`: the very model that ours is, or GPT-2 in its shape.

Both are set up as well as they can be: fused attention, tied embeddings, and, unless told otherwise, the fused
tanh-GELU in place of GPT-2's default, which spells the same function out in several operations.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import MissingPeerError
from physlm.models.conversion import to_transformers
from physlm.models.transformer import Transformer

NAME = "transformers GPT2LMHeadModel"


def counterpart(model: Transformer, *, eos: int, pad: int) -> Any:
    """The same model, with the same weights: a `GPTNeoXForCausalLM` if positions are rotary."""
    try:
        import transformers
    except ImportError as error:
        raise MissingPeerError("this benchmark needs `transformers`: pip install 'physlm[huggingface]'") from error
    transformers.logging.set_verbosity_error()
    special = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": pad}
    return to_transformers(model, attn_implementation="sdpa", **special)


def gpt2_like(model: Transformer, *, eos: int, pad: int, default_gelu: bool = False) -> Any:
    """`model`, which has learned positions, as a `GPT2LMHeadModel`."""
    peer = counterpart(model, eos=eos, pad=pad)
    if default_gelu:
        import transformers
        from transformers.activations import ACT2FN

        default = transformers.GPT2Config().activation_function
        for block in peer.transformer.h:
            block.mlp.act = ACT2FN[default]
    return peer
