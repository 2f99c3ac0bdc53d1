import pytest
import torch
from small import RECIPE, STEPS, finish, interrupt, make_model, make_stream, tensors
from torch import nn

from physlm.models.experts import Experts
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import Learned
from physlm.training.checkpoints import CheckpointError
from physlm.training.loop import train
from physlm.training.muon import Muon, orthogonal
from physlm.training.optimizers import Optimizers, hidden_matrices
from physlm.training.recipe import MuonRecipe, Recipe

MUON = MuonRecipe(**{**vars(RECIPE), "matrix_learning_rate": 0.02})
OPTIONS = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def muon(parameters, precision=torch.float32, **changes):
    return Muon(parameters, **{**OPTIONS, **changes}, newton_schulz_steps=5, precision=precision)


def steps_of(optimizer, parameters, count=4):
    for step in range(count):
        for number, parameter in enumerate(parameters):
            parameter.grad = random(*parameter.shape, seed=100 * step + number)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("shape", [(8, 8), (4, 9), (9, 4), (32, 2)])
def test_singular_values_come_to_lie_around_one_and_vectors_stay(shape):
    matrices = random(3, *shape) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1)
    turned = orthogonal(matrices, precision=torch.float32)
    values = torch.linalg.svdvals(turned)
    assert ((values > 0.3) & (values < 1.3)).all()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    rotated = left.mT @ turned @ right.mT
    off_diagonal = rotated - torch.diag_embed(rotated.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-3


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_rule_is_that_of_torch(nesterov):
    shapes = [(8, 16), (8, 16), (16, 8), (6, 6)]

    def weights():
        return [nn.Parameter(random(*shape, seed=number)) for number, shape in enumerate(shapes)]

    theirs = weights()
    expected = steps_of(torch.optim.Muon(theirs, **{**OPTIONS, "nesterov": nesterov}), theirs)
    for precision, tolerance in ((torch.bfloat16, 2e-3), (torch.float32, 2e-2)):
        ours = weights()
        found = steps_of(muon(ours, precision, nesterov=nesterov), ours)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_a_stack_is_its_matrices():
    matrices = [nn.Parameter(random(8, 4, seed=n)) for n in range(3)]
    stack = nn.Parameter(torch.stack([matrix.detach() for matrix in matrices]))
    gradients = [random(8, 4, seed=10 + n) for n in range(3)]
    stack.grad = torch.stack(gradients)
    for matrix, gradient in zip(matrices, gradients, strict=True):
        matrix.grad = gradient
    muon([stack]).step()
    for matrix in matrices:
        muon([matrix]).step()
    torch.testing.assert_close(stack.detach(), torch.stack([matrix.detach() for matrix in matrices]))


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=["adamw", "muon"])
def test_a_step_that_is_known_to_be_bad_changes_no_weight(recipe):
    model = make_model()
    optimizers = Optimizers(dict(model.named_parameters()), recipe, hidden_matrices(model))
    for bad in (0.0, 1.0):
        before = tensors(model)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if bad else 1.0)
        optimizers.step(1, bad=torch.tensor(bad))
        after = tensors(model)
        assert all(torch.equal(after[name], before[name]) == bool(bad) for name in after)


def test_muon_trains_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = make_model(position=Learned(), experts=Experts(experts=2))
    optimizers = Optimizers(dict(model.named_parameters()), MUON, hidden_matrices(model))
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_muon = {names[parameter] for parameter in optimizers.muon.param_groups[0]["params"]}
    attention = ("query", "key", "value", "output")
    assert by_muon == {
        *(f"blocks.{block}.attention.{name}.weight" for block in range(2) for name in attention),
        *(f"blocks.{block}.mlp.{name}" for block in range(2) for name in ("up", "down")),
    }
    decayed, kept = ({names[p] for p in group["params"]} for group in optimizers.adamw.param_groups)
    assert {"embed.weight", "position.table", "blocks.0.mlp.router"} <= decayed
    assert {"final_norm.weight", "blocks.0.attention.query.bias", "blocks.0.mlp.up_bias"} <= kept
    assert by_muon | decayed | kept == set(names.values())


def test_without_matrices_there_is_only_adamw():
    outcomes = []
    for recipe in (RECIPE, MUON):
        model = make_model()
        given = add_low_rank(model, rank=2, embedding_rank=2, seed=0)
        train(model, make_stream(), recipe, parameters=given)
        outcomes.append(tensors(model))
    torch.testing.assert_close(*outcomes, rtol=0, atol=0)


def test_a_run_with_muon_resumes_bit_for_bit(tmp_path):
    expected = finish(None, recipe=MUON)
    interrupt(tmp_path, after=12, recipe=MUON)
    torch.testing.assert_close(finish(tmp_path, recipe=MUON), expected, rtol=0, atol=0)
    assert expected[1][-1]["loss"] < expected[1][0]["loss"]
    assert expected[1][-1]["step"] == STEPS


def test_a_checkpoint_of_adamw_is_none_of_muon(tmp_path):
    interrupt(tmp_path, after=12)
    with pytest.raises(CheckpointError, match=r"another (parameters|recipe): "):
        finish(tmp_path, recipe=MUON)


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="Muon takes no closure"):
        muon([nn.Parameter(random(2, 2))]).step(lambda: 0.0)


def test_both_recipes_learn_alike_from_the_same_data():
    plain = Recipe(**{**vars(RECIPE), "steps": 60})
    losses = [
        train(make_model(), make_stream(), recipe)[-1]["loss"]
        for recipe in (plain, MuonRecipe(**{**vars(plain), "matrix_learning_rate": 0.02}))
    ]
    assert losses[1] < losses[0] * 1.1
