"""The independent oracle: the same model in the transformers library, there and back."""

from __future__ import annotations

import copy
import importlib.util
import json
import socket
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from physlm.models.canon import Canon
from physlm.models.capture import Capture
from physlm.models.conversion import (
    change_rotary_layout,
    from_transformers,
    load_transformers,
    save_transformers,
    to_transformers,
)
from physlm.models.counterparts import NoCounterpartError
from physlm.models.experts import Experts
from physlm.models.generation import generate
from physlm.models.low_rank import add_low_rank, merge_low_rank
from physlm.models.positions import Alibi, Learned, NoPosition, Rotary
from physlm.models.transformer import Transformer, TransformerConfig

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
VOCABULARY, CONTEXT, LAYERS = 97, 24, 3
GPT2 = TransformerConfig(
    vocab_size=VOCABULARY, context=CONTEXT, layers=LAYERS, heads=4, width=32, initial_std=0.15, position=Learned()
)
NEOX = replace(GPT2, position=Rotary())
LLAMA = replace(
    GPT2,
    norm="rms",
    norm_eps=1e-6,
    biases=False,
    gated=True,
    activation="silu",
    position=Rotary(fraction=1.0),
    tied=False,
)
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2, untied": ("GPT2LMHeadModel", replace(GPT2, tied=False, activation="relu", mlp_ratio=1.5, norm_eps=0.01)),
    "gpt2, padded": ("GPT2LMHeadModel", replace(GPT2, vocab_multiple=64, activation="gelu_exact")),
    "gpt_neox": ("GPTNeoXForCausalLM", NEOX),
    "gpt_neox, whole heads": ("GPTNeoXForCausalLM", replace(NEOX, position=Rotary(fraction=1.0, base=50.0))),
    "gpt_neox, untied": ("GPTNeoXForCausalLM", replace(NEOX, tied=False, activation="relu2", norm_eps=0.01)),
    "llama": ("LlamaForCausalLM", replace(LLAMA, mlp_ratio=8 / 3)),
    "llama, tied, biases": ("LlamaForCausalLM", replace(LLAMA, tied=True, biases=True, activation="gelu")),
    "llama, groups, biases": ("LlamaForCausalLM", replace(LLAMA, key_value_heads=2, biases=True, norm_eps=0.01)),
    "mistral": ("MistralForCausalLM", replace(LLAMA, key_value_heads=2, mlp_ratio=3.5)),
    "mistral, one group": (
        "MistralForCausalLM",
        replace(LLAMA, key_value_heads=1, tied=True, position=Rotary(fraction=1.0, base=50.0)),
    ),
}


def disturb(model):
    """Biases and norms away from their trivial start, positions too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name in ("position.table", "transformer.wpe.weight"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def make(config: TransformerConfig) -> Transformer:
    return disturb(Transformer(config, seed=3)).eval()


def make_theirs(config: TransformerConfig):
    """A model that was drawn by the other library."""
    theirs = to_transformers(make(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return disturb(type(theirs)(theirs.config)).eval()


def tokens(length: int, rows: int = 5) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))


def same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def equal_weights(first: Transformer, second: Transformer) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    rows = first.config.vocab_size
    return all(
        name == other and torch.equal(*((a[:rows], b[:rows]) if name in ("embed.weight", "head.weight") else (a, b)))
        for (name, a), (other, b) in pairs
    )


cases = pytest.mark.parametrize(("family", "config"), CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("length", [1, 7, CONTEXT])
def test_they_say_what_we_say(family, config, length):
    ours = make(config)
    theirs = to_transformers(ours)
    assert type(theirs).__name__ == family
    with torch.inference_mode():
        same(ours(tokens(length)), theirs(tokens(length)).logits)


@cases
def test_we_say_what_they_say(family, config):
    theirs = make_theirs(config)
    assert type(theirs).__name__ == family
    ours = from_transformers(theirs)
    assert isinstance(ours, Transformer)
    with torch.inference_mode():
        same(ours(tokens(20)), theirs(tokens(20)).logits)
        assert theirs(tokens(20)).logits.std() > 0.3


@cases
def test_there_and_back_is_the_same_model(family, config):
    ours = make(config)
    again = from_transformers(to_transformers(ours))
    assert equal_weights(ours, again)
    changed = {
        field.name for field in fields(config) if getattr(again.config, field.name) != getattr(config, field.name)
    }
    assert changed <= {"scale_by_depth", "vocab_multiple", "mlp_ratio"}
    assert again.config.mlp_width == config.mlp_width
    assert again.config.vocab_multiple == 1
    assert again.config.scale_by_depth == (family == "GPT2LMHeadModel")


@cases
def test_back_and_there_is_the_same_model(family, config):
    theirs = make_theirs(config)
    again = to_transformers(from_transformers(theirs))
    assert type(again).__name__ == family
    for (name, first), (other, second) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(first, second), name
    mine, yours = theirs.config.to_dict(), again.config.to_dict()
    assert {key for key in mine if mine[key] != yours[key]} <= {"_name_or_path", "dtype", "architectures"}


@cases
def test_hidden_states(family, config):
    del family
    names = ["embed", *(f"block.{layer}.resid_post" for layer in range(LAYERS - 1)), "final"]
    ours, capture = make(config), Capture(names)
    with torch.inference_mode():
        ours(tokens(20), capture=capture)
        expected = to_transformers(ours)(tokens(20), output_hidden_states=True).hidden_states
    assert len(expected) == len(names)
    for name, states in zip(names, expected, strict=True):
        same(capture.states[name], states)


@cases
def test_gradients_of_every_weight(family, config):
    del family
    ours = make(config)
    theirs = to_transformers(ours)
    ours(tokens(20)).square().mean().backward()
    theirs(tokens(20)).logits.square().mean().backward()
    for parameter in theirs.parameters():
        parameter.data = parameter.grad
    gradients = dict(from_transformers(theirs).named_parameters())
    for name, parameter in ours.named_parameters():
        expected = gradients.pop(name)
        torch.testing.assert_close(parameter.grad[: len(expected)], expected, rtol=1e-3, atol=1e-5)
        assert expected.abs().max() > 0, name
    assert not gradients


@cases
def test_greedy_continuations(family, config):
    del family
    ours = make(config)
    stop = VOCABULARY - 1
    theirs = to_transformers(ours, eos_token_id=stop, pad_token_id=stop)
    prompts = [np.array([5]), np.array([7, 11, 13]), np.array([2, 3]), np.array([50, 60, 70, 80])]
    made = generate(ours, prompts, max_new_tokens=12, stop=stop)
    for prompt, continuation in zip(prompts, made, strict=True):
        read = torch.from_numpy(prompt)[None]
        with torch.inference_mode():
            whole = theirs.generate(read, attention_mask=torch.ones_like(read), max_new_tokens=12, do_sample=False)
        expected = whole[0, len(prompt) :].tolist()
        expected = expected[: expected.index(stop)] if stop in expected else expected
        assert continuation.tolist() == expected
    assert len({tuple(continuation) for continuation in made}) > 1


@cases
def test_saved_and_loaded(family, config, tmp_path):
    ours = make(config)
    save_transformers(ours, tmp_path / "model", eos_token_id=1)
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["eos_token_id"] == 1
    assert equal_weights(load_transformers(tmp_path / "model"), ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"), local_files_only=True)
    assert type(theirs).__name__ == family
    with torch.inference_mode():
        same(ours(tokens(20)), theirs(tokens(20)).logits)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "llama", "mistral"])
def test_precision_is_kept(case, precision, tmp_path):
    config = CASES[case][1]
    ours = make(config).to(precision)
    theirs = to_transformers(ours)
    assert {parameter.dtype for parameter in theirs.parameters()} == {precision}
    save_transformers(ours, tmp_path / "model")
    again = load_transformers(tmp_path / "model")
    assert {parameter.dtype for parameter in again.parameters()} == {precision}
    assert equal_weights(ours, again)
    # Both round at every step, each at steps of its own; they are no further apart than each is from float32.
    with torch.inference_mode():
        logits = ours(tokens(20)).float()
        rounding = (logits - make(config)(tokens(20))).abs().max()
        assert (logits - theirs(tokens(20)).logits.float()).abs().max() < 4 * rounding


def test_tables_of_frequencies_stay_exact():
    """In bfloat16, angles of far positions would be off by whole turns."""
    theirs = to_transformers(make(NEOX).to(torch.bfloat16))
    assert theirs.gpt_neox.rotary_emb.inv_freq.dtype == torch.float32


def test_copies_are_independent_and_in_the_same_mode():
    ours = make(NEOX)
    before = copy.deepcopy(ours.state_dict())
    theirs = to_transformers(ours)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    assert not theirs.training
    assert to_transformers(ours.train()).training
    assert from_transformers(theirs.train()).training
    assert not from_transformers(theirs.eval()).training


def test_nothing_is_drawn_from_the_global_generator(tmp_path):
    before = torch.get_rng_state()
    save_transformers(make(LLAMA), tmp_path / "model")
    load_transformers(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_are_carried_over():
    theirs = to_transformers(make(replace(GPT2, dropout=0.2, norm_eps=0.01)), pad_token_id=4).config
    assert (theirs.resid_pdrop, theirs.embd_pdrop, theirs.attn_pdrop) == (0.2, 0.2, 0.2)
    assert (theirs.layer_norm_epsilon, theirs.initializer_range, theirs.n_positions) == (0.01, 0.15, CONTEXT)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (None, None, 4)
    theirs = to_transformers(make(replace(NEOX, dropout=0.2, position=Rotary(base=50.0, fraction=0.5)))).config
    assert (theirs.hidden_dropout, theirs.attention_dropout) == (0.2, 0.2)
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}


def test_a_head_that_was_untied_stays_untied():
    ours = make(NEOX)
    add_low_rank(ours, rank=2, embedding_rank=2, seed=0)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(".a"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    with pytest.raises(
        ValueError, match=r"carries \d+ tensors of low-rank updates \(.*fold them in with merge_low_rank"
    ):
        to_transformers(ours)
    merge_low_rank(ours)
    theirs = to_transformers(ours)
    assert not theirs.config.tie_word_embeddings
    with torch.inference_mode():
        same(ours(tokens(20)), theirs(tokens(20)).logits, tolerance=1e-4)
    assert from_transformers(theirs).config.tied is False


@pytest.mark.parametrize(
    ("config", "parts", "nearest"),
    [
        (replace(NEOX, canon=Canon()), ("canon",), "gpt_neox"),
        (replace(LLAMA, query_key_norm=True), ("query_key_norm",), "llama"),
        (replace(NEOX, position=Alibi()), ("position",), "gpt"),
        (replace(LLAMA, position=NoPosition()), ("position",), "llama"),
        (replace(LLAMA, position=Rotary()), ("position",), "llama"),
        (replace(NEOX, position=Rotary(fraction=1.0, layout="interleaved")), ("position",), "gpt"),
        (replace(NEOX, position=Rotary(fraction=0.5, head_fraction=0.5)), ("position",), "gpt"),
        (replace(NEOX, experts=Experts(experts=2)), ("experts",), "gpt_neox"),
        (replace(NEOX, mlp_ratio=0.0), ("mlp_ratio",), "gpt_neox"),
        (replace(NEOX, causal=False), ("causal",), "gpt_neox"),
        (replace(NEOX, biases=False), ("biases",), "gpt_neox"),
        (replace(GPT2, gated=True), ("gated",), "gpt2"),
        (replace(GPT2, key_value_heads=2), ("key_value_heads",), "gpt2"),
        (replace(LLAMA, gated=False), ("gated",), "llama"),
        (replace(LLAMA, dropout=0.1), ("dropout",), "llama"),
        (replace(LLAMA, dropout=0.1, causal=False), ("causal", "dropout"), "llama"),
    ],
)
def test_parts_without_a_counterpart_are_named(config, parts, nearest):
    with pytest.raises(NoCounterpartError, match=f"no counterpart of {parts[0]}=.* in {nearest}.*mistral: ") as caught:
        to_transformers(Transformer(config, seed=0))
    assert caught.value.parts == parts
    for part in parts:
        assert f"{part}={getattr(config, part)!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("case", "settings", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True, must be False"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False, must be True"),
        ("gpt2", {"attn_pdrop": 0.5}, "attn_pdrop=0.5, must be 0.0"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function must be one of .*gelu_new.*, got 'tanh'"),
        ("gpt_neox", {"use_parallel_residual": True}, "use_parallel_residual=True, must be False"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias=False, must be True"),
        ("gpt_neox", {"hidden_dropout": 0.5}, "attention_dropout=0.0, must be 0.5"),
        ("llama", {"head_dim": 16}, "head_dim=16, must be 8"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True, must be False"),
        ("llama", {"attention_dropout": 0.5}, "attention_dropout=0.5, must be 0.0"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "got 'linear'"),
        ("mistral", {"sliding_window": 8}, "sliding_window=8, must be None"),
    ],
)
def test_settings_without_a_counterpart_are_refused(case, settings, message, tmp_path):
    theirs = to_transformers(make(CASES[case][1]))
    for name, value in settings.items():
        setattr(theirs.config, name, value)
    with pytest.raises(NoCounterpartError, match=message) as caught:
        from_transformers(theirs)
    assert set(caught.value.parts) <= {*settings, "attention_dropout"}
    theirs.save_pretrained(tmp_path)
    with pytest.raises(NoCounterpartError, match=message):
        load_transformers(tmp_path)


def test_activations_by_other_names():
    theirs = to_transformers(make(GPT2))
    for name, ours in (("gelu_new", "gelu"), ("gelu", "gelu_exact"), ("swish", "silu")):
        theirs.config.activation_function = name
        assert from_transformers(theirs).config.activation == ours


def test_weights_without_a_counterpart_are_named():
    theirs = to_transformers(make(NEOX))
    theirs.gpt_neox.layers[1].extra = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(NoCounterpartError, match=r"without a counterpart: gpt_neox\.layers\.1\.extra\.weight"):
        from_transformers(theirs)
    ours = make(NEOX)
    ours.blocks[2].extra = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(NoCounterpartError, match=r"without a counterpart: blocks\.2\.extra\.weight"):
        to_transformers(ours)


def test_weights_of_another_shape_are_refused():
    theirs = to_transformers(make(GPT2))
    theirs.transformer.ln_f.weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"must have shape \(32,\), got \(1,\)"):
        from_transformers(theirs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_layer": 7, "n_head": 2}, ValueError, "n_head, n_layer follow from the model and cannot be options"),
        ({"num_hidden_layers": 7}, ValueError, "num_hidden_layers follow from the model"),
        ({"scale_attn_weights": False}, NoCounterpartError, "scale_attn_weights=False"),
    ],
)
def test_options_cannot_contradict_the_model(options, error, message):
    with pytest.raises(error, match=message):
        to_transformers(make(GPT2), **options)


def test_other_models_are_refused(tmp_path):
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    bert = transformers.BertForMaskedLM(config)
    with pytest.raises(
        NoCounterpartError, match=r"only GPT2LMHeadModel, .* have a counterpart here, got BertForMaskedLM"
    ):
        from_transformers(bert)
    with pytest.raises(NoCounterpartError, match="got GPT2Model"):
        from_transformers(to_transformers(make(GPT2)).transformer)
    bert.save_pretrained(tmp_path)
    with pytest.raises(NoCounterpartError, match="type 'bert'; only gpt2, gpt_neox, llama, mistral have"):
        load_transformers(tmp_path)


@pytest.mark.parametrize("convert", [to_transformers, from_transformers])
def test_mixed_precision_is_refused(convert):
    ours = make(GPT2)
    model = ours if convert is to_transformers else to_transformers(ours)
    next(iter(model.parameters())).data = next(iter(model.parameters())).data.half()
    with pytest.raises(ValueError, match=r"one floating-point precision, got .*float16.*; convert them first"):
        convert(model)


def test_folders(tmp_path, monkeypatch):
    """What is there is never overwritten, what is not there never fetched, and nothing is left half written."""

    def refuse(*_arguments, **_options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(FileNotFoundError, match=r"must be a local folder with config\.json"):
        load_transformers("gpt2")
    save_transformers(make(GPT2), tmp_path / "model")
    with pytest.raises(FileExistsError, match="exists and would be overwritten"):
        save_transformers(make(NEOX), tmp_path / "model")
    assert load_transformers(tmp_path / "model").config.position == Learned()
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "save_pretrained", refuse)
    with pytest.raises(AssertionError, match="network"):
        save_transformers(make(GPT2), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("damage", ["missing", "unknown", "reshaped"])
def test_weights_that_do_not_fit_are_refused(damage, tmp_path):
    theirs = to_transformers(make(NEOX))
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    name = "gpt_neox.layers.1.attention.dense.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unknown":
        weights["gpt_neox.layers.1.extra"] = torch.zeros(3)
    else:
        weights[name] = torch.zeros(5, 32)
    theirs.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"do not fit its config\.json: .*layers\.1\."):
        load_transformers(tmp_path)


def test_without_the_library(monkeypatch, tmp_path):
    ours, theirs = make(GPT2), to_transformers(make(GPT2))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (
        lambda: to_transformers(ours),
        lambda: from_transformers(theirs),
        lambda: save_transformers(ours, tmp_path / "model"),
        lambda: load_transformers(tmp_path),
    ):
        with pytest.raises(ImportError, match=r"pip install 'physlm\[huggingface\]'"):
            call()


@pytest.mark.parametrize(
    "config",
    [
        replace(NEOX, position=Rotary(fraction=0.5)),
        replace(NEOX, position=Rotary(fraction=0.5, head_fraction=0.5), canon=Canon()),
        replace(
            LLAMA, key_value_heads=2, query_key_norm=True, canon=Canon(sublayers="B"), position=Rotary(fraction=1.0)
        ),
        replace(GPT2, query_key_norm=True, position=Rotary(fraction=1.0, base=50.0)),
    ],
)
def test_the_other_rotary_layout(config):
    ours = make(config)
    other = change_rotary_layout(ours, "interleaved")
    assert other.config.position.layout == "interleaved"
    assert not equal_weights(ours, other)
    with torch.inference_mode():
        same(other(tokens(20)), ours(tokens(20)))
    assert equal_weights(change_rotary_layout(other, "half"), ours)
    assert equal_weights(change_rotary_layout(ours, "half"), ours)


def test_only_rotary_positions_have_a_layout():
    with pytest.raises(ValueError, match="only rotary positions have a layout, got learned"):
        change_rotary_layout(make(GPT2), "half")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("check_parity", ROOT / "scripts" / "check_parity.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(script):
    return json.loads(script.RECORD.read_text(encoding="utf-8"))


def test_the_page_shows_what_is_recorded(script, recorded):
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.filled(page, recorded) == page
    assert "parity: errors" in page
    assert "parity: none" in page


def test_the_record_is_what_is_claimed(recorded, script):
    seen = {(row["preset"], row["precision"], row["direction"], row["window"]) for row in recorded["rows"]}
    precisions = ("float32", "bfloat16", "float16")
    directions = ("to_transformers", "from_transformers")
    windows = [tokens for _, tokens in script.WINDOWS]
    assert windows == [64, 512]
    assert seen == {(name, p, d, w) for name in script.MODELS for p in precisions for d in directions for w in windows}
    assert len(seen) == len(recorded["rows"])
    assert {row["family"] for row in recorded["rows"]} == {"gpt2", "gpt_neox", "llama", "mistral"}
    for row in recorded["rows"]:
        assert row["mean_error"] <= row["max_error"]
        if row["precision"] == "float32":
            assert row["max_error"] <= 1e-5
        else:
            assert row["max_error"] < 2 * row["own_max_error"]


@pytest.mark.parametrize("name", ["GPT", "GPT2-4-2", "GPT2_1/4-4-2", "GPT2-rotary small", "LLaMA-4-2", "LLaMA-4-3"])
def test_the_record_is_what_the_code_gives(script, recorded, name):
    """Within what another processor's order of sums can change."""
    old = [row for row in recorded["rows"] if row["preset"] == name]
    numbers = {"max_error", "mean_error", "own_max_error", "largest_logit"}
    for before, now in zip(old, script.measured(name), strict=True):
        assert {k: v for k, v in before.items() if k not in numbers} == {
            k: v for k, v in now.items() if k not in numbers
        }
        for column in numbers:
            assert now[column] <= 5 * before[column]
            assert before[column] <= 5 * now[column]


def test_the_record_says_which_presets_have_no_counterpart(script, recorded):
    assert dict(script.unmatched()) == recorded["no_counterpart"]
