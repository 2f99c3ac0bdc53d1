import pytest
import torch

from physlm.models.capture import Capture, tap_names
from physlm.models.positions import position_from_dict
from physlm.models.transformer import Transformer, TransformerConfig


def make(**changes) -> Transformer:
    shape = {"vocab_size": 29, "context": 16, "layers": 2, "heads": 4, "width": 32, "initial_std": 0.2}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=5).eval()


def tokens() -> torch.Tensor:
    return torch.randint(29, (2, 10), generator=torch.Generator().manual_seed(0))


def read(model: Transformer, *names: str, **edits) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    capture = Capture(names, edits={name.replace("__", "."): edit for name, edit in edits.items()})
    logits = model(tokens(), capture=capture)
    return capture.states, logits


def test_shapes_are_those_of_the_table():
    model = make(key_value_heads=2)
    states, _ = read(model, *tap_names(model.config))
    heads, hidden = (2, 10, 4, 8), (2, 10, 128)
    shapes = {"q": heads, "k": (2, 10, 2, 8), "v": (2, 10, 2, 8), "z": heads, "rot_q": heads, "rot_k": (2, 10, 2, 8)}
    shapes |= {"attn_scores": (2, 4, 10, 10), "pattern": (2, 4, 10, 10), "head_out": (2, 10, 4, 32)}
    shapes |= {"mlp_pre": hidden, "mlp_post": hidden}
    for name, state in states.items():
        assert state.shape == shapes.get(name.split(".")[-1], (2, 10, 32)), name


def test_states_are_what_their_names_say():
    model = make()
    block = model.blocks[1]
    states, logits = read(model, *tap_names(model.config))
    at = {name.removeprefix("block.1."): state for name, state in states.items()}
    close = torch.testing.assert_close
    close(at["attn_in"], block.attention_norm(at["resid_pre"]))
    close(at["q"].flatten(2), block.attention.query(at["attn_in"]))
    close(at["pattern"], at["attn_scores"].softmax(-1))
    scores = torch.einsum("bthd,bshd->bhts", at["rot_q"], at["rot_k"]) * 8**-0.5
    seen = torch.ones(10, 10).tril().bool().expand_as(scores)
    close(at["attn_scores"][seen], scores[seen])
    close(at["z"], torch.einsum("bhts,bshd->bthd", at["pattern"], at["v"]))
    close(at["attn_out"], block.attention.output(at["z"].flatten(2)))
    close(at["head_out"].sum(2) + block.attention.output.bias, at["attn_out"])
    close(at["resid_mid"], at["resid_pre"] + at["attn_out"])
    close(at["mlp_in"], block.mlp_norm(at["resid_mid"]))
    close(at["mlp_pre"], block.mlp.up(at["mlp_in"]))
    close(at["mlp_out"], block.mlp.down(at["mlp_post"]))
    close(at["resid_post"], at["resid_mid"] + at["mlp_out"])
    close(states["block.0.resid_post"], at["resid_pre"])
    close(model.head(states["final"]), logits)


def test_gated_hidden_units():
    model = make(gated=True, activation="silu")
    states, _ = read(model, "block.0.mlp_in", "block.0.mlp_pre", "block.0.mlp_post")
    mlp = model.blocks[0].mlp
    torch.testing.assert_close(states["block.0.mlp_pre"], mlp.gate(states["block.0.mlp_in"]))
    expected = torch.nn.functional.silu(states["block.0.mlp_pre"]) * mlp.up(states["block.0.mlp_in"])
    torch.testing.assert_close(states["block.0.mlp_post"], expected)


@pytest.mark.parametrize("name", tap_names(make().config))
def test_every_state_can_be_edited(name):
    model = make()
    plain, logits = read(model, name)
    # Adding one number to all scores, or to all of a normalised residual, would be undone.
    noise = torch.randn(plain[name].shape, generator=torch.Generator().manual_seed(1))
    states, edited = read(model, name, **{name.replace(".", "__"): lambda state: state + noise})
    torch.testing.assert_close(states[name], plain[name] + noise)
    assert (edited - logits).abs().max() > 1e-3


def test_patching_a_state_with_itself_changes_nothing():
    model = make()
    name = "block.1.head_out"
    states, logits = read(model, name)
    torch.testing.assert_close(read(model, block__1__head_out=lambda _: states[name])[1], logits)


def test_removing_a_head_is_removing_what_it_adds():
    model = make(layers=1)

    def without_head_2(parts: torch.Tensor) -> torch.Tensor:
        return parts * (torch.arange(4) != 2)[:, None]

    removed, _ = read(model, "block.0.attn_out", block__0__head_out=without_head_2)
    whole, _ = read(model, "block.0.attn_out", "block.0.head_out")
    expected = whole["block.0.attn_out"] - whole["block.0.head_out"][:, :, 2]
    torch.testing.assert_close(removed["block.0.attn_out"], expected)


def test_an_edit_that_changes_the_shape():
    with pytest.raises(ValueError, match=r"keep the shape: embed is \(2, 10, 32\), got \(2, 32\)"):
        read(make(), embed=lambda state: state[:, 0])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "block.2.resid_pre"),
        ({}, "blocks.1.resid_pre"),
        ({"mlp_ratio": 0.0}, "block.0.mlp_out"),
        ({"position": position_from_dict({"name": "uniform"})}, "block.0.q"),
    ],
)
def test_a_name_that_the_model_does_not_have(changes, name):
    with pytest.raises(ValueError, match=f"no hidden state '{name}'; close names are "):
        read(make(**changes), name)


def test_one_name_may_be_given_alone():
    assert Capture("embed").names == {"embed"}
