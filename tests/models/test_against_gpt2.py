"""The independent oracle: GPT-2 of the transformers library, with copied random weights."""

import pytest
import torch

from physlm.models.positions import Learned
from physlm.models.transformer import Capture, Transformer, TransformerConfig

transformers = pytest.importorskip("transformers")

LAYERS = 3
CONFIG = TransformerConfig(
    vocab_size=97, context=24, layers=LAYERS, heads=4, width=32, initial_std=0.1, position=Learned()
)


@pytest.fixture(scope="module")
def ours() -> Transformer:
    model = Transformer(CONFIG, seed=3).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from their trivial start
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def theirs(ours):
    config = transformers.GPT2Config(
        vocab_size=97,
        n_positions=24,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    state = ours.state_dict()
    copied = {"transformer.wte.weight": state["embed.weight"], "transformer.wpe.weight": state["position.table"]}
    names = {"ln_1": "attention_norm", "attn.c_proj": "attention.output", "ln_2": "mlp_norm", "mlp.c_fc": "mlp.up"}
    names["mlp.c_proj"] = "mlp.down"
    for layer in range(LAYERS):
        for part in ("weight", "bias"):
            block = f"blocks.{layer}"
            joined = torch.cat([state[f"{block}.attention.{name}.{part}"] for name in ("query", "key", "value")])
            copied[f"transformer.h.{layer}.attn.c_attn.{part}"] = joined
            for their_name, our_name in names.items():
                copied[f"transformer.h.{layer}.{their_name}.{part}"] = state[f"{block}.{our_name}.{part}"]
    for part in ("weight", "bias"):
        copied[f"transformer.ln_f.{part}"] = state[f"final_norm.{part}"]
    # GPT-2 keeps the weights of its linear layers as [in, out].
    copied = {
        name: t.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else t
        for name, t in copied.items()
    }
    missing, unexpected = model.load_state_dict(copied, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def tokens(length: int) -> torch.Tensor:
    return torch.randint(97, (5, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [1, 7, 24])
def test_logits(ours, theirs, length):
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens(length)), theirs(tokens(length)).logits, rtol=0, atol=1e-5)


def test_hidden_states(ours, theirs):
    capture = Capture(["embed", "final", *(f"block.{layer}.resid_post" for layer in range(LAYERS - 1))])
    with torch.inference_mode():
        ours(tokens(20), capture=capture)
        expected = theirs(tokens(20), output_hidden_states=True).hidden_states
    names = ["embed", *(f"block.{layer}.resid_post" for layer in range(LAYERS - 1)), "final"]
    assert len(expected) == len(names)
    for name, states in zip(names, expected, strict=True):
        torch.testing.assert_close(capture.states[name], states, rtol=0, atol=1e-5)


def test_gradients(ours, theirs):
    for model in (ours, theirs):
        model.zero_grad()
    ours(tokens(20)).square().mean().backward()
    theirs(tokens(20)).logits.square().mean().backward()
    torch.testing.assert_close(ours.embed.weight.grad, theirs.transformer.wte.weight.grad, rtol=1e-4, atol=1e-5)


def test_parameter_count(ours, theirs):
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()
