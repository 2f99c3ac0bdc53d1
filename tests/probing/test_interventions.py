import numpy as np
import pytest
import torch
from torch import nn

from physlm.models.capture import Capture, tap_names
from physlm.models.positions import NoPosition
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.interventions import ablation, patch, patching, remove
from physlm.randomness import Key

WIDTH, LENGTH = 8, 6


@pytest.fixture
def model() -> Transformer:
    """One head that averages all states up to its own and copies the mean; no MLP, and a head that reads `embed`."""
    shape = {"vocab_size": 9, "context": LENGTH, "layers": 1, "heads": 1, "width": WIDTH, "mlp_ratio": 0}
    made = Transformer(TransformerConfig(**shape, position=NoPosition(), initial_std=0.5), seed=0).eval()
    attention = made.blocks[0].attention
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value, attention.output):
            part.weight.zero_()
            part.bias.zero_()
        for part in (attention.value, attention.output):
            part.weight.copy_(torch.eye(WIDTH))
    made.final_norm = nn.Identity()
    return made


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    recipients = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    donors = recipients.clone()
    donors[:, 2] = 8
    return recipients, donors


def states_of(model, tokens, **edits):
    capture = Capture(tap_names(model.config), edits={name.replace("__", "."): edit for name, edit in edits.items()})
    with torch.no_grad():
        logits = model(tokens, capture=capture)
    return capture.states, logits


def test_a_patched_state_changes_what_it_must_and_nothing_else(model):
    recipients, donors = texts()
    ours, _ = states_of(model, recipients)
    theirs, _ = states_of(model, donors)
    at = torch.zeros(2, LENGTH, dtype=torch.bool)
    at[:, 2] = True
    name = "block.0.attn_in"
    patched, _ = states_of(model, recipients, block__0__attn_in=patch(theirs[name], at))
    close = torch.testing.assert_close
    # What was made before is as it was, and the state is the donor's at its place only.
    assert torch.equal(patched["block.0.resid_pre"], ours["block.0.resid_pre"])
    assert torch.equal(patched[name][:, 2], theirs[name][:, 2])
    others = [0, 1, 3, 4, 5]
    assert torch.equal(patched[name][:, others], ours[name][:, others])
    # The head averages: a later position t moves by one part in t + 1, an earlier one not at all.
    difference = theirs[name][:, 2] - ours[name][:, 2]
    for place in range(LENGTH):
        moved = patched["block.0.attn_out"][:, place] - ours["block.0.attn_out"][:, place]
        close(moved, difference / (place + 1) if place >= 2 else torch.zeros_like(moved), atol=1e-6, rtol=1e-5)


def test_the_whole_difference_goes_with_the_state_that_makes_it(model):
    recipients, donors = texts()

    def measure(logits):
        return logits[:, -1, 3]

    found = patching(model, recipients, donors, measure, layers=["embed", "block.0.resid_post"], positions=range(6))
    assert found.patched.shape == (2, 6, 2)
    np.testing.assert_allclose(found.share[0], [0, 0, 1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.share[1], [0, 0, 0, 0, 0, 1], atol=1e-5)
    with pytest.raises(ValueError, match="must differ in what is measured"):
        _ = patching(model, recipients, recipients, measure, layers=["embed"], positions=[0]).share
    with pytest.raises(ValueError, match=r"positions must be in 0\.\.5, got 6"):
        patching(model, recipients, donors, measure, layers=["embed"], positions=[6])


def test_a_removed_direction_is_gone_where_it_was_asked_and_nothing_else_is():
    random = torch.Generator().manual_seed(0)
    states = torch.randn(2, LENGTH, WIDTH, generator=random)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=random)).Q
    gone, kept = basis[:2], basis[2:]
    at = torch.arange(LENGTH).expand(2, -1) > 3
    edited = remove(gone, at=at)(states)
    assert torch.equal(edited[~at], states[~at])
    close = torch.testing.assert_close
    close(edited[at] @ gone.T, torch.zeros(4, 2), atol=1e-6, rtol=0)
    close(edited[at] @ kept.T, states[at] @ kept.T)
    centre = torch.randn(WIDTH, generator=random)
    centred = remove(gone, centre=centre)(states)
    close(centred @ gone.T, (centre @ gone.T).expand(2, LENGTH, 2))
    with pytest.raises(ValueError, match="orthonormal"):
        remove(2 * gone)
    with pytest.raises(ValueError, match=r"at must be \(2, 6\)"):
        remove(gone, at=at[:1])(states)


def test_a_direction_that_is_used_matters_more_than_random_ones(model):
    tokens, _ = texts()
    direction = model.head.weight[3].detach()
    used = (direction / direction.norm())[None]

    def measure(logits):
        return logits[..., 3].square().mean(1)

    found = ablation(model, tokens, "final", used, measure, controls=5, key=Key.of("ablation", 0))
    assert found.random.shape == (5, 2)
    np.testing.assert_allclose(found.after, 0, atol=1e-8)
    assert found.effect > found.random_effects.max()
    assert found.effect > 2 * found.random_effects.mean()
    again = ablation(model, tokens, "final", used, measure, controls=5, key=Key.of("ablation", 0))
    assert again.to_dict() == found.to_dict()
    assert len(found.to_dict()["random effects"]) == 5
