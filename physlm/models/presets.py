"""The models of the papers, by the names they have there.

- A preset is a `TransformerConfig`; everything else is a field away. Llama(RoPE) with Canon-ABCD is
  `replace(preset("Llama(RoPE) 12L768D", vocab_size=…, context=…), canon=Canon())`, the ablations of 3.3, §7, are
  `tied=True` and `gated=False, mlp_ratio=4.0` on a LLaMA.
- ℓ is the number of layers, h the number of heads, which are 64 wide; "12L768D" is 12 layers of width 768.
- "GPT2" means rotary positions throughout, as it does in the papers: on whole heads in Parts 2 and 3.3, on a quarter of
  each head in Part 3.1 ("GPT2-rotary"). "GPT", in Part 1, is the original with learned positions. "RoPE¼" is half of
  each of half of the heads, as in the main tables of Part 4.1.
- "BERT" and "DeBERTa" are the encoders of Part 1: "GPT" and "GPT_rel" that see both sides. Their norms come before
  attention and MLP, not after them as in the models that are called so elsewhere, so that a masked model and a causal
  one differ in what they see and are asked, and in nothing else.
- Vocabularies are not part of a preset. The sizes that Part 3.3 prints are those with the 3,275 tokens of GPT-2 that
  occur in its biographies.

Source: Physics of Language Models 1, §3 (GPT, GPT_rel, GPT_rot, GPT_pos, GPT_uni, the encoders); 3.1, App. B
(GPT2-rotary); 3.3, §2, §7 and App. A (GPT2, LLaMA, Mistral, experts); 4.1, §3 (Llama and GPT2 with RoPE, NoPE, ALiBi).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from physlm.models.config import TransformerConfig
from physlm.models.experts import Experts
from physlm.models.positions import Alibi, Deberta, HardAlibi, Learned, NoPosition, PositionOnly, Rotary, Uniform

HEAD_WIDTH = 64
"""Width of a head in every model whose name does not say otherwise."""

_ROTARY = Rotary(fraction=1.0)
_LLAMA: Mapping[str, Any] = {
    "mlp_ratio": 8 / 3,
    "activation": "silu",
    "gated": True,
    "norm": "rms",
    "norm_eps": 1e-6,
    "biases": False,
    "tied": False,
    "scale_by_depth": False,
}
_STANDARD_MLP: Mapping[str, Any] = {**_LLAMA, "gated": False, "mlp_ratio": 4.0}
_BERT: Mapping[str, Any] = {"causal": False, "position": Learned()}
_DEBERTA: Mapping[str, Any] = {"causal": False, "position": Deberta()}

_BY_LAYERS_AND_HEADS: Mapping[str, Mapping[str, Any]] = {
    "GPT2": {},
    "GPT2_1/4": {"mlp_ratio": 1.0},
    "GPT2_0": {"mlp_ratio": 0.0},
    "GPT2-MoE-32": {"experts": Experts(experts=32)},
    "LLaMA": _LLAMA,
    "Mistral": {**_LLAMA, "mlp_ratio": 3.5},
    "BERT": _BERT,
    "DeBERTa": _DEBERTA,
}
"""ℓ-h of Part 3.3 (GPT2 of Part 2 as well), and small encoders of Part 1."""
_POSITIONS: Mapping[str, Mapping[str, Any]] = {
    "RoPE": {"position": _ROTARY},
    "RoPE1/4": {"position": Rotary(fraction=0.5, head_fraction=0.5)},
    "NoPE": {"position": NoPosition()},
    "ALiBi": {"position": Alibi()},
    "H-ALiBi": {"position": HardAlibi()},
}
_BY_LAYERS_AND_WIDTH: Mapping[str, Mapping[str, Any]] = {
    f"{family}({name})": {**block, **position}
    for family, block in (("Llama", _LLAMA), ("GPT2", _STANDARD_MLP))
    for name, position in _POSITIONS.items()
}
"""Of Part 4.1, where GPT2 is Llama with a standard MLP."""
_SMALL: Mapping[str, Any] = {"layers": 12, "heads": 12, "width": 768}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "GPT2 small": _SMALL,
    "GPT2 medium": {"layers": 24, "heads": 16, "width": 1024},
    "GPT2 large": {"layers": 36, "heads": 20, "width": 1280},
    "GPT2-rotary small": {**_SMALL, "position": Rotary(fraction=0.25)},
    "GPT2-rotary 20h": {"layers": 12, "heads": 20, "width": 1280, "position": Rotary(fraction=0.25)},
    "GPT2-rotary 32h": {"layers": 12, "heads": 32, "width": 2048, "position": Rotary(fraction=0.25)},
    "GPT": {**_SMALL, "position": Learned()},
    "GPT_rel": {**_SMALL, "position": Deberta()},
    "GPT_rot": _SMALL,
    "GPT_pos": {**_SMALL, "position": PositionOnly()},
    "GPT_uni": {"layers": 12, "heads": 8, "width": 1024, "position": Uniform()},
    "BERT": {**_SMALL, **_BERT},
    "DeBERTa": {**_SMALL, **_DEBERTA},
}
_SIZED = re.compile(r"(?P<family>.+)-(?P<layers>[1-9]\d*)-(?P<heads>[1-9]\d*)")
_SHAPED = re.compile(r"(?P<family>.+?)[ -](?P<layers>[1-9]\d*)l(?P<width>[1-9]\d*)d")


def preset(name: str, *, vocab_size: int, context: int) -> TransformerConfig:
    """The config of a model of the papers.

    Example:
        >>> from physlm.models.config import parameter_count
        >>> parameter_count(preset("GPT2-12-12", vocab_size=3275, context=512))
        87571200

    Args:
        name: one of `preset_names`, with numbers for ℓ, h and d, in capitals or not; "¼" may be written "1/4" and the
            other way round.
        vocab_size: number of token ids.
        context: longest window in tokens.

    Raises:
        ValueError: if there is no model of that name.
    """
    plain = name.casefold().replace("¼", "1/4").replace("_{1/4}", "_1/4").replace("(1/4))", "1/4)")
    sized, shaped = _SIZED.fullmatch(plain), _SHAPED.fullmatch(plain)
    fields: dict[str, Any]
    if (fixed := _named(plain, _FIXED)) is not None:
        fields = {**fixed}
    elif sized and (family := _named(sized["family"], _BY_LAYERS_AND_HEADS)) is not None:
        heads = int(sized["heads"])
        fields = {"layers": int(sized["layers"]), "heads": heads, "width": heads * HEAD_WIDTH, **family}
        if sized["family"] == "mistral":
            fields["key_value_heads"] = _mistral_groups(heads)
    elif shaped and (family := _named(shaped["family"], _BY_LAYERS_AND_WIDTH)) is not None:
        width = int(shaped["width"])
        if width % HEAD_WIDTH:
            raise ValueError(
                f"the width in {name!r} must be a multiple of {HEAD_WIDTH}, the width of a head, got {width}"
            )
        fields = {"layers": int(shaped["layers"]), "heads": width // HEAD_WIDTH, "width": width, **family}
    else:
        examples = (known.replace("ℓ-h", "12-12").replace("ℓLdD", "12L768D") for known in preset_names())
        raise ValueError(
            f"no model of the papers is called {name!r}; there are {', '.join(examples)}, where 12-12 may be any "
            f"numbers of layers and of heads of width {HEAD_WIDTH}, and 12L768D any number of layers and a width that "
            f"is a multiple of {HEAD_WIDTH}"
        )
    return TransformerConfig(vocab_size=vocab_size, context=context, **{"position": _ROTARY, **fields})


def _named(name: str, table: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of a name in small letters."""
    return next((fields for known, fields in table.items() if known.casefold() == name), None)


def preset_names() -> tuple[str, ...]:
    """All names, ℓ, h and d standing for numbers: "GPT2-ℓ-h", "Llama(RoPE) ℓLdD", "GPT_rel" and so on."""
    return (
        *(f"{family}-ℓ-h" for family in _BY_LAYERS_AND_HEADS),
        *(f"{family} ℓLdD" for family in _BY_LAYERS_AND_WIDTH),
        *_FIXED,
    )


def _mistral_groups(heads: int) -> int:
    """Heads of keys and values of a Mistral.

    "4 groups" if the heads are a multiple of 4, "1 group" if their number is odd, otherwise 2. A group is what shares
    one head of keys and values, as in Ainslie et al. 2023 (GQA), so these are the numbers of such heads.
    """
    if heads % 2:
        return 1
    return 2 if heads % 4 else 4
