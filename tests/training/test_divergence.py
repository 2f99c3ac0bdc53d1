import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import RECIPE, STEPS, make_model, make_stream, tensors

from physlm.training.divergence import DivergenceError, Watch, norms
from physlm.training.loop import train
from physlm.training.objectives import next_token_loss
from physlm.training.recipe import MuonRecipe

ROWS = 4


def bad_from(step, factor=float("nan")):
    """The loss, multiplied by `factor` from this step on."""

    def objective(model, batch):
        loss = next_token_loss(model, batch)
        return loss * factor if batch.rows[0] >= ROWS * (step - 1) else loss

    return objective


@pytest.mark.parametrize("step", [1, 7, STEPS])
def test_the_error_names_the_step_and_the_checkpoint_before_it(tmp_path, step):
    with pytest.raises(DivergenceError) as raised:
        train(
            make_model(),
            make_stream(),
            RECIPE,
            objective=bad_from(step),
            log_every=10,
            folder=tmp_path,
            checkpoint_every=5,
        )
    said = str(raised.value)
    assert said.startswith(f"the loss is nan and the norm of the gradient nan at step {step}: lower learning_rate")
    assert "Gradients are not finite in embed.weight, " in said
    assert re.search(r"weights are of norm \d+\.?\d*, the largest \d+\.?\d* in \w", said)
    if step == 1:
        assert said.endswith("there is no checkpoint to go back to")
        assert not [*tmp_path.iterdir()]
    else:
        kept = tmp_path / f"step-{(step - 1) // 5 * 5:09d}"
        assert said.endswith(f"the last good checkpoint is {kept}")
        assert [*tmp_path.glob("step-*")] == [kept]


def test_a_finite_loss_with_a_gradient_that_is_not_is_noticed():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            del ctx
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            del ctx
            return gradient * float("inf")

    def objective(model, batch):
        return Broken.apply(next_token_loss(model, batch))

    with pytest.raises(DivergenceError, match=r"the loss is 4\.\d+ and the norm of the gradient (nan|inf) at step 1"):
        train(make_model(), make_stream(), RECIPE, objective=objective)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    """One step of an absurd size leaves weights that no loss has seen yet."""
    recipe = replace(RECIPE, steps=1, warmup_steps=0, learning_rate=1e39)
    with pytest.raises(DivergenceError, match=r"the weights are not finite after step 1: .*weights are not finite in "):
        train(make_model(), make_stream(), recipe, folder=tmp_path)
    assert not [*tmp_path.glob("step-*")]


def watch(model, first=0, recipe=RECIPE):
    return Watch(recipe, dict(model.named_parameters()), torch.device("cpu"), first=first, newest=lambda: Path("kept"))


def test_of_several_bad_steps_the_first_is_told_when_the_device_is_asked_late():
    model = make_model()
    gradients = norms({"a": torch.ones(4), "b": torch.tensor([3.0, 4.0])})
    wrong = norms({"a": torch.ones(4), "b": torch.tensor([3.0, float("inf")])})
    noted = watch(model, first=10)
    flags = [
        noted.look(torch.tensor(loss), norm).item()
        for loss, norm in ((2.0, gradients), (1.5, wrong), (float("nan"), wrong), (1.0, gradients))
    ]
    assert flags == [0.0, 1.0, 1.0, 1.0]
    told = r"the loss is 1\.5 and the norm of the gradient inf at step 12: .* are of norm 5\.39, the largest 5 in b;"
    with pytest.raises(DivergenceError, match=told):
        noted.check_steps(gradients)


def test_as_long_as_all_is_finite_nothing_is_said():
    model = make_model()
    noted = watch(model)
    gradients = norms(tensors(model))
    assert noted.look(torch.tensor(1.0), gradients).item() == 0.0
    noted.check_steps(gradients)
    noted.check_weights(1, gradients)


def test_advice_for_muon_names_both_rates():
    model = make_model()
    recipe = MuonRecipe(**{**vars(RECIPE), "matrix_learning_rate": 0.5})
    noted = watch(model, recipe=recipe)
    gradients = norms(tensors(model))
    noted.look(torch.tensor(float("nan")), gradients)
    with pytest.raises(
        DivergenceError, match=r"lower learning_rate \(now 0.003\), matrix_learning_rate \(now 0.5\) or"
    ):
        noted.check_steps(gradients)


def test_norms_are_those_of_torch():
    model = make_model()
    found = norms(dict(model.named_parameters()))
    torch.testing.assert_close(found.total, torch.nn.utils.get_total_norm(model.parameters()))
    assert [*found.names] == [name for name, _ in model.named_parameters()]
    assert found.each[0] == model.embed.weight.norm()
