import json
import pickle
from dataclasses import replace

import pytest
import torch
from small import RECIPE, STEPS, WORLD, make_model, make_stream, tensors

from physlm.models.canon import Canon
from physlm.models.experts import Experts
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import position_from_dict, position_names
from physlm.randomness import Key
from physlm.training.checkpoints import CheckpointError, load_model, save_model
from physlm.training.loop import DivergenceError, train
from physlm.training.objectives import MaskedWords, NextToken, TokenObjective
from physlm.training.recipe import MuonRecipe
from physlm.training.stacked import StackDivergenceError, train_stacked
from physlm.worlds.bios.rendering import Role

EXACT = replace(RECIPE, precision="float32")
SHORT = replace(EXACT, steps=8)
RECIPES = [
    EXACT,
    replace(EXACT, learning_rate=1e-2, betas=(0.8, 0.95), eps=1e-8, warmup_steps=0),
    replace(EXACT, weight_decay=1.0, schedule="linear", clip=0.1, final_fraction=0.5),
    MuonRecipe(steps=STEPS, learning_rate=3e-3, matrix_learning_rate=0.02, precision="float32"),
]
VARIANTS = {
    "two heads": {"heads": 2},
    "llama": {"norm": "rms", "biases": False, "gated": True, "activation": "silu", "tied": False},
    "groups and normalised queries": {"heads": 2, "key_value_heads": 1, "query_key_norm": True},
    "canon": {"canon": Canon()},
    "frozen canon": {"canon": Canon(sublayers="AC", trained=False), "gated": True},
    "no mlp": {"mlp_ratio": 0.0, "vocab_multiple": 8},
    "relu2": {"activation": "relu2"},
    "experts": {"experts": Experts(experts=4)},
    "pairs of experts without limit": {"experts": Experts(experts=4, top_k=2, capacity_factor=None), "gated": True},
    "balanced experts": {"experts": Experts(experts=4, routing="balanced")},
    **{name: {"heads": 2, "position": position_from_dict({"name": name})} for name in position_names()},
}


def train_both(recipes, *, model=make_model, stream=make_stream, objectives=None):
    """The same runs as a stack and alone, with a record for every step."""
    count = range(len(recipes))
    stacked, alone = ([model(number) for number in count] for _ in range(2))
    options = {} if objectives is None else {"objective": objectives}
    logs = train_stacked(stacked, [stream(number) for number in count], recipes, log_every=1, **options)
    expected = [
        train(
            alone[n], stream(n), recipes[n], log_every=1, **({} if objectives is None else {"objective": objectives[n]})
        )
        for n in count
    ]
    return stacked, logs, alone, expected


def require_same(stacked, logs, alone, expected, *, rounding=1e-5):
    for ours, theirs in zip(logs, expected, strict=True):
        assert [set(record) for record in ours] == [{"step", "loss", "learning_rate"}] * len(theirs)
        for name in ("step", "learning_rate"):
            assert [record[name] for record in ours] == [record[name] for record in theirs]
        losses = [record["loss"] for record in theirs]
        assert [record["loss"] for record in ours] == pytest.approx(losses, rel=rounding)
    for one, other in zip(stacked, alone, strict=True):
        torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=10 * rounding, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# As if alone
# ----------------------------------------------------------------------------------------------------------------------


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_seeds_and_recipes_of_every_kind_are_trained_as_if_alone(device):
    stacked, logs, alone, expected = train_both(RECIPES, model=lambda n: make_model(n, heads=2).to(device))
    require_same(stacked, logs, alone, expected, rounding=1e-5 if device == "cpu" else 1e-4)
    assert len({log[-1]["loss"] for log in logs}) == len(RECIPES)
    assert all(log[-1]["loss"] < log[0]["loss"] for log in logs)
    assert not any(model.training for model in stacked)


@pytest.mark.parametrize(
    ("name", "causal"), [*((name, True) for name in VARIANTS), *((name, False) for name in position_names())]
)
def test_every_architecture_is_trained_as_if_alone(name, causal):
    changes = {**VARIANTS[name], "causal": causal}
    require_same(*train_both([SHORT, replace(SHORT, learning_rate=1e-2)], model=lambda n: make_model(n, **changes)))


@pytest.mark.parametrize("document_mask", [True, False])
def test_batches_that_ask_for_unequal_numbers_of_tokens(document_mask):
    roles = [(Role.VALUE,), (Role.TEMPLATE, Role.VALUE), (Role.NAME,)]

    def stream(number):
        return make_stream(number, loss_roles=roles[number], document_mask=document_mask)

    assert len({int(stream(number).next_batch().loss.sum()) for number in range(3)}) == 3
    require_same(*train_both([SHORT] * 3, stream=stream))


def test_dense_batches_beside_sparse_ones():
    def stream(number):
        return make_stream(number, loss_roles=(Role.VALUE,) if number else None)

    require_same(*train_both([SHORT] * 2, stream=stream))


def test_each_model_may_have_an_objective_of_its_own():
    masks = [
        MaskedWords(key=Key.of("stack", n), mask=WORLD.tokenizer.mask, special=(WORLD.pad, WORLD.eos)) for n in range(2)
    ]
    runs = train_both(
        [SHORT] * 2,
        model=lambda number: make_model(number, causal=False, context=25),
        stream=lambda number: make_stream(number, marks=("word",)),
        objectives=masks,
    )
    require_same(*runs)


def test_only_what_requires_a_gradient_is_trained():
    def model(number):
        model = make_model(number)
        add_low_rank(model, rank=2, embedding_rank=4, seed=number)
        return model

    stacked, *others = train_both([SHORT] * 2, model=model)
    require_same(stacked, *others)
    for number, trained in enumerate(stacked):
        before = dict(model(number).named_parameters())
        for name, parameter in trained.named_parameters():
            assert torch.equal(parameter, before[name]) != parameter.requires_grad


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_is_as_close_as_its_rounding(device):
    recipes = [replace(recipe, precision="bfloat16") for recipe in RECIPES]
    _, logs, _, expected = train_both(recipes, model=lambda n: make_model(n, heads=2).to(device))
    for ours, theirs in zip(logs, expected, strict=True):
        differences = [one["loss"] - other["loss"] for one, other in zip(ours, theirs, strict=True)]
        assert max(map(abs, differences)) < 0.01


def test_one_model_is_a_stack_too():
    require_same(*train_both([SHORT]))


# ----------------------------------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------------------------------


def test_each_model_is_evaluated_as_trained_so_far():
    models, seen = [make_model(number) for number in range(2)], []

    def evaluate(number):
        seen.append((number, models[number].training))
        return {"norm": models[number].embed.weight.detach().norm()}

    logs = train_stacked(models, [make_stream(n) for n in range(2)], [EXACT] * 2, evaluate=evaluate, log_every=10)
    assert seen == [(number, False) for _ in range(3) for number in range(2)]
    for model, log in zip(models, logs, strict=True):
        assert [record["step"] for record in log] == [10, 20, STEPS]
        assert log[0]["norm"] != log[2]["norm"] == pytest.approx(model.embed.weight.norm().item())


def test_the_loss_is_the_mean_since_the_last_record():
    every, coarse = (
        train_stacked([make_model(n) for n in range(2)], [make_stream(n) for n in range(2)], [EXACT] * 2, log_every=n)
        for n in (1, 7)
    )
    for fine, rough in zip(every, coarse, strict=True):
        assert rough[0]["loss"] == pytest.approx(sum(record["loss"] for record in fine[:7]) / 7)
        assert rough[-1]["loss"] == pytest.approx(sum(record["loss"] for record in fine[21:]) / 3)


def test_progress_tells_the_range_of_losses():
    said = []
    logs = train_stacked(
        [make_model(n) for n in range(2)],
        [make_stream(n) for n in range(2)],
        [SHORT] * 2,
        progress=lambda fraction, message: said.append((fraction, message)),
    )
    low, high = sorted(log[-1]["loss"] for log in logs)
    assert said[-1] == (1.0, f"step 8/8, losses {low:.3f} to {high:.3f}")


def test_models_keep_their_memory_and_have_no_gradients():
    models = [make_model(number) for number in range(2)]
    memory = [[parameter.data_ptr() for parameter in model.parameters()] for model in models]
    train_stacked(models, [make_stream(number) for number in range(2)], [SHORT] * 2)
    assert [[parameter.data_ptr() for parameter in model.parameters()] for model in models] == memory
    assert all(parameter.grad is None and parameter.is_leaf for model in models for parameter in model.parameters())


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints
# ----------------------------------------------------------------------------------------------------------------------


def run(folder, *, dropout=0.0, stop_after=None, recipes=RECIPES, seeds=(0, 1, 2, 3), **options):
    """Train a stack, until the log point after step `stop_after` if given; returns weights and logs."""
    models = [make_model(number, dropout=dropout) for number in seeds]
    calls = []

    def evaluate(number):
        calls.append(number)
        if stop_after is not None and len(calls) > len(models) * (stop_after // 3 - 1):
            raise KeyboardInterrupt
        return {"norm": models[number].embed.weight.detach().norm()}

    options = {"evaluate": evaluate, "log_every": 3, "checkpoint_every": 5, "folder": folder, **options}
    streams = [make_stream(number) for number in seeds]
    if stop_after is None:
        return train_stacked(models, streams, recipes, **options), [tensors(model) for model in models]
    with pytest.raises(KeyboardInterrupt):
        train_stacked(models, streams, recipes, **options)
    return None


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_stack_ends_as_if_nothing_had_happened(tmp_path, dropout):
    run(tmp_path / "run", dropout=dropout, stop_after=9)
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-000000005"]
    run(tmp_path / "run", dropout=dropout, stop_after=12)
    resumed = run(tmp_path / "run", dropout=dropout)
    undisturbed = run(tmp_path / "other", dropout=dropout)
    torch.testing.assert_close(resumed, undisturbed, rtol=0, atol=0)
    for name in ("model.safetensors", "optimizer.safetensors", "trainer.json"):
        one, other = (tmp_path / folder / f"step-{STEPS:09d}" / name for folder in ("run", "other"))
        assert one.read_bytes() == other.read_bytes()
    torch.testing.assert_close(run(tmp_path / "run", dropout=dropout), resumed, rtol=0, atol=0)
    torch.testing.assert_close(run(None, dropout=dropout), resumed, rtol=0, atol=0)


def test_the_log_on_disk_has_the_records_of_all_models(tmp_path):
    logs, _ = run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    for number, log in enumerate(logs):
        assert [line for line in lines if line["model"] == number] == [{"model": number, **record} for record in log]


def test_a_trained_model_is_saved_like_any_other(tmp_path):
    models = [make_model(number) for number in range(2)]

    def evaluate(number):
        save_model(models[number], tmp_path / str(number), data_fingerprint="data")
        return {}

    train_stacked(models, [make_stream(number) for number in range(2)], [SHORT] * 2, evaluate=evaluate)
    for number, model in enumerate(models):
        loaded = load_model(tmp_path / str(number))
        torch.testing.assert_close(tensors(loaded), tensors(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": [*RECIPES[:3], replace(RECIPES[3], learning_rate=1e-3)]}, "another recipe"),
        ({"seeds": (0, 1, 2, 4)}, "another initial weights"),
        ({"log_every": 4}, "another log: every is 3, expected 4"),
        ({"recipes": RECIPES[:3], "seeds": (0, 1, 2)}, "another initial weights"),
    ],
)
def test_a_checkpoint_of_another_stack_is_refused(tmp_path, changes, message):
    run(tmp_path, stop_after=9)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, **changes)


# ----------------------------------------------------------------------------------------------------------------------
# Divergence
# ----------------------------------------------------------------------------------------------------------------------

WILD = replace(EXACT, learning_rate=1e30, warmup_steps=0)


def test_a_model_that_diverges_leaves_the_others_alone(tmp_path):
    recipes = [EXACT, WILD, EXACT]
    models = [make_model(number) for number in range(3)]
    streams = [make_stream(number) for number in range(3)]
    with pytest.raises(
        StackDivergenceError, match=r"1 of 3 models diverged.*model 1: the loss is nan.*lower"
    ) as caught:
        train_stacked(models, streams, recipes, log_every=6, folder=tmp_path)
    error = caught.value
    assert isinstance(error, DivergenceError)
    assert set(error.diverged) == {1}
    with pytest.raises(DivergenceError, match=r"at step (\d+): lower learning_rate") as alone:
        train(make_model(1), make_stream(1), WILD)
    lost = error.records[1]
    assert error.diverged[1].partition(":")[0] == str(alone.value).partition(":")[0]
    assert lost == [{"step": lost[0]["step"], "loss": None, "diverged": error.diverged[1]}]
    assert f"at step {lost[0]['step']}:" in error.diverged[1]
    for number in (0, 2):
        model = make_model(number)
        log = train(model, make_stream(number), EXACT, log_every=6)
        require_same([models[number]], [error.records[number]], [model], [log])
    assert not any(model.training for model in models)

    copy = pickle.loads(pickle.dumps(error))
    assert (copy.records, copy.diverged, str(copy)) == (error.records, error.diverged, str(error))
    with pytest.raises(StackDivergenceError) as again:
        train_stacked(
            [make_model(n) for n in range(3)], [make_stream(n) for n in range(3)], recipes, log_every=6, folder=tmp_path
        )
    assert again.value.records == error.records


def test_a_stack_ends_when_no_model_is_left():
    streams = [make_stream(number) for number in range(2)]
    with pytest.raises(StackDivergenceError, match="2 of 2 models diverged"):
        train_stacked([make_model(number) for number in range(2)], streams, [WILD] * 2)
    assert streams[0].state()["row"] < STEPS * streams[0].batch_size


# ----------------------------------------------------------------------------------------------------------------------
# Refusals
# ----------------------------------------------------------------------------------------------------------------------


class Other(TokenObjective):
    def examples(self, batch, vocab_size):
        raise AssertionError(batch, vocab_size)


def frozen(model):
    model.embed.weight.requires_grad_(False)
    return model


def scaled(model, alpha):
    add_low_rank(model, rank=2, embedding_rank=0, seed=0, alpha=alpha)
    return model


def frugal(model):
    model.checkpoint_activations = True
    return model


def with_spare(model):
    model.spare = torch.nn.Parameter(torch.zeros(3))
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": [make_model(0), make_model(1, width=32)]},
            "the same config, got width 16 in model 0 and 32 in model 1",
        ),
        (
            {"models": [make_model(0), frozen(make_model(1))]},
            "the same parameters, got embed.weight .*trained in model 0",
        ),
        (
            {"models": [scaled(make_model(0), 4.0), scaled(make_model(1), 2.0)]},
            r"alpha 4.0 in model 0 and 2.0 in model 1",
        ),
        ({"models": [make_model(n).requires_grad_(False) for n in range(2)]}, "nothing to train"),
        (
            {"models": [with_spare(make_model(n)) for n in range(2)]},
            "must have a part in the loss, which spare has not",
        ),
        ({"models": [make_model(0), frugal(make_model(1))]}, "got a model with checkpoint_activations"),
        ({"models": [], "streams": [], "recipes": []}, "at least 1 model, got 0"),
        ({"models": [make_model()] * 2}, "models must be different objects"),
        ({"streams": [make_stream()] * 2}, "streams must be different objects"),
        ({"streams": [make_stream()]}, "streams must be one for each of 2 models, got 1"),
        ({"streams": [make_stream(), make_stream(1, batch_size=5)]}, "got batch_size 4 in model 0 and 5 in model 1"),
        ({"streams": [make_stream(rank=0, ranks=2), make_stream(1)]}, "a stream of 2 ranks"),
        (
            {"models": [make_model(n, vocab_size=8) for n in range(2)]},
            "vocab_size must be ≥ .* BiographyWorld .* got 8",
        ),
        ({"recipes": [SHORT, EXACT]}, "the same recipe, got steps 8 in model 0 and 24 in model 1"),
        ({"recipes": [SHORT, replace(SHORT, precision="bfloat16")]}, "got precision float32"),
        ({"objective": [NextToken()]}, "objectives must be one for each of 2 models, got 1"),
        ({"objective": [NextToken(), Other()]}, "the same objective, got kind NextToken in model 0 and Other"),
        ({"log_every": 0}, "log_every and checkpoint_every must be ≥ 1, got 0"),
        (
            {"evaluate": lambda number: {"number": number, "accuracy": float("nan")}},
            "evaluate must return finite numbers",
        ),
    ],
)
def test_what_cannot_be_a_stack_is_refused(changes, message):
    options = {
        "models": [make_model(n) for n in range(2)],
        "streams": [make_stream(n) for n in range(2)],
        "recipes": [SHORT] * 2,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        train_stacked(options.pop("models"), options.pop("streams"), options.pop("recipes"), **options)


def test_a_batch_that_asks_nothing_is_refused():
    streams = [make_stream(), make_stream(1, loss_roles=(99,))]
    with pytest.raises(ValueError, match="a batch must have a token to predict"):
        train_stacked([make_model(n) for n in range(2)], streams, [SHORT] * 2)
