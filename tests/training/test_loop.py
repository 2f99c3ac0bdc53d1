import json
import os
import pty
import re
import signal
import sys

import numpy as np
import pytest
import torch
from killable_run import CHECKPOINT_EVERY, LOG_EVERY, run
from small import RECIPE, STEPS, child, finish, interrupt, make_model, make_stream, outcome, tensors

from physlm.models.low_rank import add_low_rank
from physlm.training.loop import DivergenceError, train
from physlm.training.recipe import Recipe


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------------------------
# Learning
# ----------------------------------------------------------------------------------------------------------------------


def test_the_loss_goes_down_and_the_record_says_so():
    model = make_model()
    records = train(model, make_stream(), Recipe(steps=80, learning_rate=1e-2, warmup_steps=5), log_every=20)
    assert [record["step"] for record in records] == [20, 40, 60, 80]
    losses = [record["loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert not model.training


def test_the_record_has_the_mean_loss_the_rate_and_the_evaluation():
    model, modes = make_model(), []

    def evaluate():
        modes.append(model.training)
        return {"accuracy": np.float32(0.5), "curve": (1, 2), "norm": model.final_norm.weight.detach().sum()}

    every, coarse = (
        train(m, make_stream(), RECIPE, log_every=n, evaluate=e)
        for m, n, e in ((make_model(), 1, None), (model, 7, evaluate))
    )
    assert [record["step"] for record in coarse] == [7, 14, 21, STEPS]
    assert coarse[0]["loss"] == pytest.approx(np.mean([record["loss"] for record in every[:7]]), rel=1e-6)
    assert coarse[-1]["loss"] == pytest.approx(np.mean([record["loss"] for record in every[21:]]), rel=1e-6)
    assert [record["learning_rate"] for record in every] == [RECIPE.learning_rate_at(step) for step in range(STEPS)]
    assert coarse[0]["accuracy"] == 0.5
    assert coarse[0]["curve"] == [1, 2]
    assert isinstance(coarse[0]["norm"], float)
    assert modes == [False] * 4


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_an_evaluation_that_is_no_number_is_an_error(value):
    with pytest.raises(ValueError, match=r"evaluate must return finite numbers.*'accuracy'"):
        train(make_model(), make_stream(), RECIPE, evaluate=lambda: {"accuracy": value})


def test_only_matrices_are_decayed_and_tied_ones_once():
    def flat(model, batch):
        del batch
        return sum((parameter * 0).sum() for parameter in model.parameters())

    model = make_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, make_stream(), Recipe(steps=1, learning_rate=0.5, weight_decay=0.1), objective=flat)
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_only_the_given_parameters_are_trained():
    model = make_model()
    before = tensors(model)
    given = [*model.blocks[1].parameters()]
    train(model, make_stream(), RECIPE, parameters=given)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("blocks.1")
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_gradients_from_before_do_not_count():
    fresh, used = make_model(), make_model()
    for parameter in used.parameters():
        parameter.grad = torch.ones_like(parameter)
    for model in (fresh, used):
        train(model, make_stream(), RECIPE)
    same(tensors(fresh), tensors(used))


def test_a_run_that_would_train_nothing_is_an_error():
    frozen = make_model().requires_grad_(False)
    for model, parameters in ((frozen, None), (make_model(), [])):
        with pytest.raises(ValueError, match="nothing to train"):
            train(model, make_stream(), RECIPE, parameters=parameters)
    with pytest.raises(ValueError, match="log_every and checkpoint_every must be ≥ 1, got 0"):
        train(make_model(), make_stream(), RECIPE, log_every=0)


def test_a_loss_that_is_no_number_stops_the_run_with_advice():
    model = make_model()
    torch.nn.init.constant_(model.final_norm.weight, float("inf"))
    advice = r"at step 1: lower learning_rate \(now 0.003\) or clip \(now 1.0\).*warmup_steps \(now 3\)"
    with pytest.raises(DivergenceError, match=f"the loss is nan and the norm of the gradient nan {advice}"):
        train(model, make_stream(), RECIPE)


# ----------------------------------------------------------------------------------------------------------------------
# Same seed, same bytes
# ----------------------------------------------------------------------------------------------------------------------


def test_seeds_of_weights_and_of_data_matter():
    runs = []
    for model_seed, data_seed in ((0, 0), (1, 0), (0, 1)):
        model = make_model(model_seed)
        runs.append(outcome(model, train(model, make_stream(data_seed), RECIPE)))
    assert len({run["weights"] for run in runs}) == 3
    assert len({run["records"][-1]["loss"] for run in runs}) == 3


@pytest.mark.parametrize(("dropout", "kills"), [(0.0, [0.5]), (0.2, [0.3, 0.6])])
def test_killed_runs_end_as_if_nothing_had_happened(tmp_path, dropout, kills):
    """Processes are killed with SIGKILL, this one ends the run; the bytes are those of an undisturbed run."""
    for kill_at in kills:
        process = child("killable_run.py", tmp_path / "run", dropout)
        for line in process.stdout:
            if json.loads(line) >= kill_at:
                break
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        reached = [int(path.name.removeprefix("step-")) for path in (tmp_path / "run").glob("step-*")]
        assert 0 < max(reached) < STEPS
    resumed = run(tmp_path / "run", dropout)
    undisturbed = run(tmp_path / "other", dropout)
    assert resumed == undisturbed
    assert [record["step"] for record in resumed["records"]] == [*range(LOG_EVERY, STEPS + 1, LOG_EVERY)]
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == resumed["records"]
    same_files = ("model.safetensors", "optimizer.safetensors", "trainer.json")
    for file in same_files:
        one, other = (tmp_path / name / f"step-{STEPS:09d}" / file for name in ("run", "other"))
        assert one.read_bytes() == other.read_bytes()
    assert STEPS % CHECKPOINT_EVERY  # checkpoints and log points do not coincide
    assert CHECKPOINT_EVERY % LOG_EVERY


def test_where_checkpoints_are_made_changes_nothing(tmp_path):
    without = finish(None)
    for checkpoint_every in (1, 7, 1000):
        same(finish(tmp_path / str(checkpoint_every), checkpoint_every=checkpoint_every), without)


def test_a_finished_run_is_read_back(tmp_path):
    first = finish(tmp_path)
    again = finish(tmp_path)
    same(again, first)
    assert [path.name for path in tmp_path.glob("step-*")] == [f"step-{STEPS:09d}"]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_low_rank_finetuning_resumes_bit_for_bit(tmp_path, dropout):
    def prepared():
        model = make_model(dropout=dropout)
        return model, add_low_rank(model, rank=2, embedding_rank=4, seed=1)

    model, parameters = prepared()
    expected = finish(None, model, parameters=parameters)
    model, parameters = prepared()
    interrupt(tmp_path, after=12, model=model, parameters=parameters)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000008"]
    model, parameters = prepared()
    same(finish(tmp_path, model, parameters=parameters), expected)
    base = make_model(dropout=dropout)
    same(model.head.weight.detach(), base.head.weight.detach())


def test_global_random_states_do_not_move():
    def states():
        # Not Python's own generator: the shape checks of the test suite draw from it.
        return torch.get_rng_state().tolist(), str(np.random.get_state())  # noqa: NPY002

    model, stream = make_model(dropout=0.3), make_stream()
    before = states()
    train(model, stream, RECIPE)
    assert states() == before


def test_dropout_depends_on_the_key_of_the_stream_and_not_on_the_global_generator():
    outcomes = []
    for global_seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            model = make_model(dropout=0.3)
            outcomes.append(outcome(model, train(model, make_stream(), RECIPE)))
    assert outcomes[0] == outcomes[1]
    plain = make_model()
    assert outcome(plain, train(plain, make_stream(), RECIPE)) != outcomes[0]


# ----------------------------------------------------------------------------------------------------------------------
# Progress
# ----------------------------------------------------------------------------------------------------------------------


def test_progress_goes_to_a_function():
    said = []
    train(make_model(), make_stream(), RECIPE, log_every=4, progress=lambda *report: said.append(report))
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert set(np.arange(4, STEPS + 1, 4) / STEPS) <= set(fractions)
    assert re.fullmatch(r"step 24/24, loss \d\.\d{3}", said[-1][1])


def test_progress_without_a_terminal_is_a_line_per_tenth(capsys):
    train(make_model(), make_stream(), RECIPE, log_every=1, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("step 24/24, loss ")
    train(make_model(), make_stream(), RECIPE)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar_with_remaining_time(monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        train(make_model(), make_stream(), RECIPE, log_every=2, progress=True)
        terminal.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert re.search(r"step \d+/24", shown)
    assert re.search(r"\d:\d\d:\d\d|-:--:--", shown)
