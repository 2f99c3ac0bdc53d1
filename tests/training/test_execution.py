from dataclasses import replace

import numpy as np
import pytest
import torch
from parallel_run import EvenRows
from small import RECIPE, answer, child, finish, interrupt, make_model, make_stream, outcome, tensors

from physlm.data.streams import IGNORE
from physlm.models.experts import Experts, MixtureOfExperts, auxiliary_loss
from physlm.training.distributed import Group, Process
from physlm.training.execution import Execution
from physlm.training.learner import learner_of
from physlm.training.loop import train
from physlm.training.objectives import next_token_loss

EXACT = replace(RECIPE, precision="float32")
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def gradient(execution, objective=next_token_loss, **changes):
    """Loss and gradients of one batch of eight rows."""
    model = make_model(**changes)
    trained = dict(model.named_parameters())
    options = {"objective": objective, "precision": torch.float32, "group": Group(Process(), None)}
    with learner_of(model, trained, execution=execution, **options) as learner:
        model.train()
        loss = learner.backward(make_stream(batch_size=8).next_batch())
    return loss, {name: parameter.grad for name, parameter in trained.items()}


@pytest.mark.parametrize("objective", [next_token_loss, EvenRows()], ids=["all", "uneven"])
@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_the_gradient_in_parts_is_that_of_the_batch(objective, micro_batches):
    """Also where parts are asked for different numbers of tokens, or for none."""
    counts = [part.count for part in objective.examples(make_stream(batch_size=8).next_batch(), 0).split(micro_batches)]
    assert len(counts) == micro_batches
    assert objective is next_token_loss or len({*counts}) > 1
    whole = gradient(Execution(), objective)
    torch.testing.assert_close(gradient(Execution(micro_batches=micro_batches), objective), whole, **CLOSE)


def test_computing_activations_again_changes_no_bit():
    for changes in ({}, {"dropout": 0.2}, {"experts": Experts(experts=2)}):
        outcomes = []
        for execution in (Execution(), Execution(checkpoint_activations=True)):
            model = make_model(**changes)
            outcomes.append(outcome(model, train(model, make_stream(), RECIPE, execution=execution)))
            assert model.checkpoint_activations is False
        assert outcomes[0] == outcomes[1]


def test_activations_are_computed_again_only_if_asked_to():
    calls = []
    for execution in (Execution(), Execution(checkpoint_activations=True)):
        model = make_model()
        seen = []
        model.blocks[0].attention.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        train(model, make_stream(), replace(RECIPE, steps=1, warmup_steps=0), execution=execution)
        calls.append(len(seen))
    assert calls == [1, 2]


def test_a_compiled_run_is_one_graph_and_learns_the_same():
    """Although a stream asks for another number of tokens in every batch."""
    for run in answer(child("compiled_run.py")):
        assert run["compiled"] == pytest.approx(run["plain"], rel=1e-4)
        assert (run["graphs"], run["breaks"]) == (1, 0)


def test_a_run_goes_on_with_another_execution(tmp_path):
    expected, records = finish(None, recipe=EXACT)
    interrupt(tmp_path, after=12, recipe=EXACT)
    continued, others = finish(
        tmp_path, recipe=EXACT, execution=Execution(micro_batches=2, checkpoint_activations=True)
    )
    torch.testing.assert_close(continued, expected, rtol=1e-3, atol=1e-5)
    assert others[:2] == records[:2]
    assert [record["loss"] for record in others] == pytest.approx([record["loss"] for record in records], rel=1e-4)


def test_experts_are_balanced_by_the_gradient_and_the_loss_does_not_say_so():
    gradients = []
    for weight in (0.0, 10.0):
        loss, found = gradient(Execution(), experts=Experts(experts=4, balance_weight=weight))
        gradients.append((loss, found["blocks.0.mlp.router"]))
    assert gradients[0][0] == gradients[1][0]
    assert not torch.allclose(gradients[0][1], gradients[1][1])

    model = make_model(experts=Experts(experts=4, balance_weight=10.0))
    batch = make_stream(batch_size=8).next_batch()
    loss = next_token_loss(model, batch)
    balance = auxiliary_loss(model)
    assert isinstance(model.blocks[0].mlp, MixtureOfExperts)
    (loss + balance).backward()
    torch.testing.assert_close(gradients[1][1], model.blocks[0].mlp.router.grad, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batches": 0}, "micro_batches must be an integer ≥ 1, got 0"),
        ({"micro_batches": 1.5}, "micro_batches must be an integer ≥ 1, got 1.5"),
        ({"distribute": "pipeline"}, "distribute must be one of .*'fsdp'.*got 'pipeline'"),
        ({"timeout_seconds": 0}, "timeout_seconds must be > 0 and finite, got 0"),
    ],
)
def test_errors_name_the_field_and_its_value(changes, message):
    with pytest.raises(ValueError, match=message):
        Execution(**changes)


def test_rows_that_do_not_come_in_equal_parts_are_refused():
    with pytest.raises(ValueError, match="micro_batches must divide the 4 rows of a batch, got 3"):
        train(make_model(), make_stream(), RECIPE, execution=Execution(micro_batches=3))
    with pytest.raises(ValueError, match="parts must divide the 4 rows of a batch, got 3"):
        next_token_loss.examples(make_stream().next_batch(), 0).split(3)


@pytest.mark.parametrize("changes", [{"micro_batches": 2}, {"compile": True}])
def test_an_objective_that_does_not_say_what_it_asks_cannot_be_split(changes):
    def objective(model, batch):
        return next_token_loss(model, batch)

    with pytest.raises(ValueError, match=r"micro_batches, compile and distribute need a TokenObjective.*objective"):
        train(make_model(), make_stream(), RECIPE, objective=objective, execution=Execution(**changes))
    records = train(make_model(), make_stream(), RECIPE, objective=objective)
    assert records == train(make_model(), make_stream(), RECIPE)


def test_what_is_asked_is_the_same_dense_or_not():
    batch = make_stream(split="questions_train", overflow="whole", context=15).next_batch()
    examples = next_token_loss.examples(batch, 0)
    dense, sparse = (examples.on(torch.device("cpu"), dense=dense) for dense in (True, False))
    assert dense.places is None
    assert sparse.places is not None
    assert len(dense.targets) == examples.targets.size
    assert len(sparse.targets) == examples.count == np.count_nonzero(examples.targets != IGNORE)
    assert (dense.targets[sparse.places] == sparse.targets).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nothing to wait for without a GPU")
@pytest.mark.parametrize("recipe", ["adamw", "muon"])
def test_nothing_in_a_step_waits_for_the_gpu(recipe):
    from parallel_run import MUON

    class Hasty(type(next_token_loss)):
        """From the second to the last but one step, waiting is an error."""

        steps = 0

        def examples(self, batch, vocab_size):
            self.steps += 1
            torch.cuda.set_sync_debug_mode("error" if 2 < self.steps < RECIPE.steps else "default")
            return super().examples(batch, vocab_size)

    try:
        model = make_model().cuda()
        train(
            model,
            make_stream(),
            RECIPE if recipe == "adamw" else MUON,
            objective=Hasty(),
            log_every=RECIPE.steps,
            execution=Execution(micro_batches=2),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tensors(model)["embed.weight"].isfinite().all()
