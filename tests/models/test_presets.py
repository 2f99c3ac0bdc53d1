"""The papers' models have the sizes that the papers print."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from physlm.models.canon import Canon
from physlm.models.config import TransformerConfig, parameter_count
from physlm.models.presets import preset, preset_names
from physlm.models.transformer import Transformer

USED = 3275  # tokens of GPT-2 that occur in the biographies of Part 3.3
GPT2 = 50_257

# Part 3.3, labels of the plots, in millions.
# fmt: off
SIZES = {
    "4-2": 1.21, "2-3": 1.52, "6-2": 1.61, "8-2": 2.01, "4-3": 2.41, "5-3": 2.85, "6-3": 3.30, "5-4": 4.79,
    "3-6": 6.58, "2-8": 7.98, "5-6": 10.1, "6-6": 11.9, "16-4": 13.5, "8-6": 15.5, "10-6": 19.0, "12-6": 22.6,
    "8-8": 26.9, "10-8": 33.2, "2-20": 43.5, "16-8": 52.1, "3-20": 63.2, "4-20": 82.9, "12-12": 87.6, "8-16": 104,
    "6-20": 122, "12-16": 155, "6-24": 175, "8-24": 232, "20-16": 255, "24-16": 306, "12-24": 345, "20-20": 398,
    "24-20": 476, "25-20": 496, "28-20": 555, "12-32": 611, "36-20": 713,
}
# fmt: on
# Part 2.1, 12·ℓ·d² in millions.
PART_2 = {"4-21": 87, "8-15": 88, "12-12": 85, "16-10": 79, "20-9": 80}
PART_2 |= {"4-30": 177, "8-21": 173, "12-17": 170, "16-15": 177, "20-13": 166}


def make(name: str, **changes) -> TransformerConfig:
    return replace(preset(name, vocab_size=USED, context=512), **changes)


def per_layer(config: TransformerConfig) -> int:
    """Parameters of a block: what one layer more adds."""
    return parameter_count(replace(config, layers=3)) - parameter_count(replace(config, layers=2))


def of_mlp(config: TransformerConfig) -> float:
    """Weights of the MLP of a block, in multiples of the squared width."""
    return config.mlp_width * config.width * (3 if config.gated else 2) / config.width**2


@pytest.mark.parametrize(("size", "millions"), SIZES.items())
def test_sizes_of_part_3_3(size, millions):
    assert f"{parameter_count(make(f'GPT2-{size}')) / 1e6:.3g}" == f"{millions:.3g}"


@pytest.mark.parametrize(("size", "millions"), PART_2.items())
def test_sizes_of_part_2(size, millions):
    config = make(f"GPT2-{size}")
    assert round(12 * config.layers * config.width**2 / 1e6) == millions
    assert parameter_count(config, embedding=False) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("GPT2-rotary small", "123.7"),  # printed as 124M
        # Printed as 302M and 682M. The first is what learned positions for 1,024 tokens would make it, the second is
        # no size of a model with 12 layers and 32 heads that we could find.
        ("GPT2-rotary 20h", "300.5"),
        ("GPT2-rotary 32h", "707.2"),
        ("GPT2-12-12", "123.7"),
    ],
)
def test_sizes_with_the_whole_vocabulary(name, millions):
    assert f"{parameter_count(preset(name, vocab_size=GPT2, context=512)) / 1e6:.1f}" == millions


def test_the_running_example_of_part_3_3():
    assert parameter_count(make("GPT2-12-12")) == 87_571_200  # 87.57M


def test_experts_of_part_3_3():
    config = make("GPT2-MoE-32-12-12", biases=False)
    attention, router = 4 * 768**2, 32 * 768
    total = per_layer(config) - router - 2 * 768
    assert total == (4 + 64) * 768**2
    active = attention + (total - attention) // 32
    assert f"{total / active:.1f}" == "11.3"
    assert f"{active / total:.1%}" == "8.8%"
    assert (config.experts.top_k, config.experts.capacity_factor, config.experts.evaluation_capacity_factor) == (
        1,
        2,
        8,
    )


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("GPT2-12-12", 8),
        ("GPT2_1/4-12-12", 2),
        ("GPT2_0-12-12", 0),
        ("LLaMA-12-12", 8),
        ("Mistral-12-12", 10.5),
        ("Llama(RoPE) 12L768D", 8),
        ("GPT2(RoPE) 12L768D", 8),
    ],
)
def test_weights_of_the_mlp(name, share):
    assert of_mlp(make(name)) == share


def test_llama_is_untied_and_without_biases():
    config = make("LLaMA-12-12")
    assert parameter_count(config) == 12 * (12 * 768**2 + 2 * 768) + 768 + 2 * USED * 768
    tied = replace(config, tied=True)
    assert parameter_count(config) - parameter_count(tied) == USED * 768


@pytest.mark.parametrize(
    ("heads", "groups"), [(1, 1), (2, 2), (3, 1), (4, 4), (6, 2), (7, 1), (12, 4), (20, 4), (22, 2)]
)
def test_groups_of_mistral(heads, groups):
    config = make(f"Mistral-2-{heads}")
    assert config.groups == groups
    width, key_value = 64 * heads, 64 * groups
    assert per_layer(config) == 2 * width**2 + 2 * width * key_value + 10.5 * width**2 + 2 * width


@pytest.mark.parametrize(
    ("name", "letters", "added"),
    [
        ("Llama(RoPE) 12L768D", "ABCD", 380_928),  # 0.45% of 84.9M
        ("Llama(RoPE) 12L768D", "AC", 12 * 4 * 2 * 768),
        ("GPT2(RoPE) 12L768D", "ABCD", 12 * 36 * 768),
    ],
)
def test_canon_layers_of_part_4_1(name, letters, added):
    plain = make(name)
    assert parameter_count(replace(plain, canon=Canon(sublayers=letters))) - parameter_count(plain) == added
    norms = 12 * 2 * 768 + 768
    assert f"{(parameter_count(plain, embedding=False) - norms) / 1e6:.1f}" == "84.9"


def test_part_1():
    """About 86M without the vocabulary; GPT_uni has 10·d² a layer, no queries and keys, at width 1024."""
    sizes = {name: parameter_count(make(name), embedding=False) for name in ("GPT", "GPT_rot", "GPT_pos", "GPT_uni")}
    rotary = 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    assert sizes["GPT_rot"] == rotary
    assert sizes["GPT"] == rotary + 512 * 768
    assert sizes["GPT_pos"] == rotary - 12 * 2 * (768**2 + 768) + 12 * 12 * 512
    assert sizes["GPT_uni"] == 12 * (10 * 1024**2 + 11 * 1024) + 2 * 1024
    assert parameter_count(make("GPT_rel"), embedding=False) > rotary
    assert (make("GPT_uni").heads, make("GPT_uni").head_width) == (8, 128)


def test_encoders_of_part_1_are_its_causal_models_that_see_both_sides():
    assert make("BERT") == replace(make("GPT"), causal=False)
    assert make("DeBERTa") == replace(make("GPT_rel"), causal=False)
    for family in ("BERT", "DeBERTa"):
        assert make(f"{family}-12-12") == make(family)
        small = make(f"{family}-4-2")
        assert (small.layers, small.heads, small.width) == (4, 2, 128)
        assert replace(small, layers=12, heads=12, width=768) == make(family)


def test_sizes_of_encoders():
    """Those of BERT-base (110M, less what it has besides) and of DeBERTa-base (139M, whose biases are others)."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)
        settings = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 512}
        settings |= {"position_biased_input": False, "type_vocab_size": 0}
        deberta = transformers.DebertaModel(transformers.DebertaConfig(**settings))
    of_segments = bert.embeddings.token_type_embeddings.weight.numel()
    ours = preset("BERT", vocab_size=bert.config.vocab_size, context=512)
    assert parameter_count(ours) == bert.num_parameters() - of_segments == 108_890_112
    ours = preset("DeBERTa", vocab_size=deberta.config.vocab_size, context=512)
    assert parameter_count(ours) == pytest.approx(deberta.num_parameters(), rel=1e-3)


@pytest.mark.parametrize("name", preset_names())
def test_capitals_do_not_matter(name):
    name = name.replace("-ℓ-h", "-2-4").replace("ℓLdD", "2L256D")
    assert make(name.lower()) == make(name.upper()) == make(name)


def test_aliases():
    assert make("Llama-4-2") == make("LLaMA-4-2")
    for alias, name in (("small", "12-12"), ("medium", "24-16"), ("large", "36-20")):
        assert make(f"GPT2 {alias}") == make(f"GPT2-{name}")
    assert make("GPT_rot") == make("GPT2-12-12")
    assert make("GPT2_¼-2-2") == make("GPT2_{1/4}-2-2") == make("GPT2_1/4-2-2")
    assert make("Llama(RoPE¼) 8L512D") == make("Llama(RoPE(1/4))-8L512D")


def test_rotary_positions_are_on_whole_heads_but_in_part_3_1():
    assert make("GPT2-12-12").position.fraction == make("LLaMA-2-2").position.fraction == 1.0
    assert make("GPT2-rotary small").position.fraction == 0.25
    assert replace(make("GPT2-rotary small"), position=make("GPT2 small").position) == make("GPT2 small")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_model(name):
    """Its closed-form size is its number of weights, and it reads."""
    name = name.replace("-ℓ-h", "-2-4").replace("ℓLdD", "2L256D")
    small = replace(preset(name, vocab_size=11, context=8), layers=1)
    model = Transformer(small, seed=0).eval()
    assert parameter_count(small) == sum(parameter.numel() for parameter in model.parameters())
    assert small.heads * 64 == small.width or name == "GPT_uni"
    with torch.inference_mode():
        assert model(torch.arange(8)[None]).isfinite().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GPT3", r"no model of the papers is called 'GPT3'; there are GPT2-12-12, .*GPT_uni, .*, where 12-12 may be"),
        ("GPT2", "no model"),
        ("GPT2-0-12", "no model"),
        ("GPT2-12-12-12", "no model"),
        ("Llama(RoPE) 12L", "no model"),
        ("Llama(RoPE) 12L760D", "must be a multiple of 64, the width of a head, got 760"),
        ("", "no model"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        preset(name, vocab_size=10, context=8)


def test_the_names_that_an_error_gives_are_names():
    with pytest.raises(ValueError, match="no model of the papers") as error:
        make("GPT-J")
    examples = str(error.value).split("there are ")[1].split(", where")[0].split(", ")
    assert len({make(example) for example in examples}) > 20
    assert len(examples) == len(preset_names())
