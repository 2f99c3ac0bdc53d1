import copy

import pytest
import torch
from torch.nn import functional as F

from physlm.models.canon import Canon
from physlm.models.experts import Experts, MixtureOfExperts, auxiliary_loss
from physlm.models.low_rank import (
    STD,
    LowRankUpdate,
    add_low_rank,
    load_low_rank,
    low_rank_state,
    merge_low_rank,
)
from physlm.models.positions import Learned
from physlm.models.transformer import Transformer, TransformerConfig

CASES = {
    "layers": {"rank": 2, "embedding_rank": 0},
    "embedding": {"rank": 0, "embedding_rank": 3},
    "layers and embedding": {"rank": 4, "embedding_rank": 5},
    "layers and whole embedding": {"rank": 2, "embedding_rank": 0, "train_embedding": True},
    "every matrix": {"rank": 2, "embedding_rank": 2, "targets": ("query", "key", "value", "output", "up", "down")},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
WIDTH, VOCABULARY, LAYERS = 16, 29, 2


def make(seed=0, **changes) -> Transformer:
    shape = {"vocab_size": VOCABULARY, "context": 12, "layers": LAYERS, "heads": 2, "width": WIDTH}
    config = TransformerConfig(**{**shape, "initial_std": 0.2, "position": Learned(), **changes})
    return Transformer(config, seed=seed)


def tokens(seed=0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(seed))


def updates_embedding(options) -> bool:
    return bool(options["embedding_rank"]) or "train_embedding" in options


def train(model, parameters, steps=3) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens(step)).flatten(0, 1), tokens(step + 1).flatten()).backward()
        optimizer.step()


def trained(options, seed=0) -> Transformer:
    model = make()
    train(model, add_low_rank(model, seed=seed, **options))
    return model


@cases
def test_outputs_are_unchanged_at_step_0(options):
    model = make()
    before = model(tokens())
    add_low_rank(model, seed=0, **options)
    assert torch.equal(model(tokens()), before)


@cases
def test_number_of_trainable_parameters(options):
    model = make()
    trainable = add_low_rank(model, seed=0, **options)
    hidden = 4 * WIDTH
    shapes = {"up": hidden + WIDTH, "down": WIDTH + hidden}
    targets = options.get("targets", ("query", "value"))
    rows_and_columns = sum(shapes.get(target, 2 * WIDTH) for target in targets)
    expected = LAYERS * rows_and_columns * options["rank"] + (VOCABULARY + WIDTH) * options["embedding_rank"]
    if options.get("train_embedding"):
        expected += VOCABULARY * WIDTH
    assert sum(parameter.numel() for parameter in trainable) == expected
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trainable}


@cases
def test_training_moves_all_updates_and_nothing_else(options):
    model = make()
    trainable = add_low_rank(model, seed=0, **options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output = model(tokens())
    train(model, trainable)
    updates = low_rank_state(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != (name in updates), name
    assert len(updates) == len(trainable)
    assert not torch.allclose(model(tokens()), output, atol=1e-3)


@cases
def test_the_head_stays_the_original_embedding(options):
    model = make()
    original = model.embed.weight
    value = original.detach().clone()
    train(model, add_low_rank(model, seed=0, **options))
    assert model.head.weight is original
    assert torch.equal(model.head.weight, value)
    moved = not torch.equal(model.embed.weight, value)
    assert moved == updates_embedding(options)


def test_updating_the_head_leaves_the_embedding():
    model = make()
    before, embedding = model(tokens()), model.embed.weight.detach().clone()
    trainable = add_low_rank(model, rank=2, embedding_rank=0, seed=0, targets=("head",))
    assert [parameter.shape for parameter in trainable] == [(VOCABULARY, 2), (2, WIDTH)]
    train(model, trainable)
    after = model(tokens())
    assert not torch.allclose(after, before, atol=1e-3)
    merge_low_rank(model)
    torch.testing.assert_close(model(tokens()), after, rtol=0, atol=1e-6)
    assert torch.equal(model.embed.weight, embedding)


def test_updating_what_the_model_does_not_have():
    with pytest.raises(ValueError, match="this model has no 'gate' matrix to update"):
        add_low_rank(make(), rank=2, embedding_rank=0, seed=0, targets=("query", "gate"))
    assert not low_rank_state(make())


def test_an_update_is_alpha_times_a_b():
    update = LowRankUpdate((5, 7), 2, 4.0, torch.Generator().manual_seed(0), std=0.3)
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(update(weight), weight)
    torch.nn.init.ones_(update.a)
    b = dict(update.named_parameters())["b"]
    torch.testing.assert_close(update(weight), weight + 4 * (b[0] + b[1]))


@pytest.mark.parametrize("std", [STD, 0.3])
def test_b_is_gaussian_of_the_given_spread_and_a_function_of_the_seed(std):
    def draw(seed):
        update = LowRankUpdate((100, 500), 40, 1.0, torch.Generator().manual_seed(seed), std=std)
        return update.state_dict()["b"]

    assert draw(0).std().item() == pytest.approx(std, rel=0.02)
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_updates_of_one_model_differ():
    model = make()
    add_low_rank(model, rank=2, embedding_rank=0, seed=0)
    drawn = [tensor for name, tensor in low_rank_state(model).items() if name.endswith(".b")]
    assert len(drawn) == 2 * LAYERS
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])


@cases
def test_merging_keeps_the_outputs(options):
    model = trained(options)
    before = model(tokens())
    merge_low_rank(model)
    torch.testing.assert_close(model(tokens()), before, rtol=0, atol=1e-6)
    assert not low_rank_state(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    untied = updates_embedding(options)
    assert (model.head.weight is not model.embed.weight) == untied
    extra = VOCABULARY * WIDTH if untied else 0
    count = sum(parameter.numel() for parameter in make().parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count + extra
    add_low_rank(model, seed=1, **options)
    torch.testing.assert_close(model(tokens()), before, rtol=0, atol=1e-6)


@cases
def test_updates_alone_restore_a_finetuned_model(options):
    model = trained(options, seed=0)
    state = {name: tensor.clone() for name, tensor in low_rank_state(model).items()}
    other = make()
    add_low_rank(other, seed=9, **options)
    load_low_rank(other, state)
    assert torch.equal(other(tokens()), model(tokens()))


@cases
def test_the_whole_state_restores_a_finetuned_model(options, tmp_path):
    model = trained(options)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = make(seed=7)
    add_low_rank(other, seed=9, **options)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(tokens()), model(tokens()))
    embedding = "embed.parametrizations.weight.original" if updates_embedding(options) else "embed.weight"
    assert other.head.weight is other.get_parameter(embedding)


def test_a_copy_is_independent_and_still_tied():
    model = trained(CASES["layers and embedding"])
    other = copy.deepcopy(model)
    assert torch.equal(other(tokens()), model(tokens()))
    assert other.head.weight is other.get_parameter("embed.parametrizations.weight.original")
    train(other, [parameter for parameter in other.parameters() if parameter.requires_grad])
    assert not torch.equal(other(tokens()), model(tokens()))


def test_autocast_leaves_the_embedding_in_float32():
    model = trained(CASES["layers and embedding"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.embed(tokens()).dtype == torch.float32


def test_loading_other_updates_is_an_error():
    model = trained(CASES["layers"])
    with pytest.raises(ValueError, match=r"only in the state \['blocks.0.attention.query"):
        load_low_rank(make(), low_rank_state(model))
    other = make()
    add_low_rank(other, rank=3, embedding_rank=0, seed=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_low_rank(other, low_rank_state(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0, "embedding_rank": 0}, "nothing would be trained"),
        ({"rank": -1, "embedding_rank": 0}, "must be ≥ 0, got -1 and 0"),
        ({"rank": 17, "embedding_rank": 0}, r"rank must be in \[1, 16\] for a 16 × 16 weight, got 17"),
        ({"rank": 1, "embedding_rank": 4, "train_embedding": True}, "set embedding_rank to 0"),
        ({"rank": 1, "embedding_rank": 0, "alpha": 0.0}, "alpha and std must be > 0, got 0.0 and"),
        ({"rank": 1, "embedding_rank": 0, "std": -1.0}, "alpha and std must be > 0, got 4.0 and -1.0"),
        ({"rank": 1, "embedding_rank": 0, "targets": ()}, "targets must name at least one matrix .* got none"),
        ({"rank": 1, "embedding_rank": 0, "targets": ("up", "query", "up")}, "named once each, got 'up' twice in"),
        ({"rank": 1, "embedding_rank": 0, "targets": ("head", "head")}, "named once each, got 'head' twice in"),
    ],
)
def test_errors_leave_the_model_as_it_was(options, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        add_low_rank(model, seed=0, **options)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not low_rank_state(model)


def test_adding_twice_is_an_error():
    model = make()
    add_low_rank(model, seed=0, **CASES["layers"])
    with pytest.raises(ValueError, match=r"updates already \(.*blocks\.1\.attention\.value\.weight\)"):
        add_low_rank(model, seed=0, **CASES["embedding"])


# Experts


OF_EXPERTS = ("query", "up", "gate", "down")
EXPERTS = Experts(experts=3, top_k=2, hidden_ratio=0.5, capacity_factor=None, evaluation_capacity_factor=None)


def of_experts(model) -> list[torch.nn.Parameter]:
    return add_low_rank(model, rank=2, embedding_rank=0, seed=0, targets=OF_EXPERTS)


def test_every_expert_has_updates_of_its_own():
    model = make(experts=EXPERTS, gated=True)
    before = model(tokens())
    trainable = of_experts(model)
    assert torch.equal(model(tokens()), before)
    hidden = WIDTH // 2
    per_expert = 2 * (hidden + WIDTH + hidden + WIDTH + WIDTH + hidden)
    assert sum(parameter.numel() for parameter in trainable) == LAYERS * (3 * per_expert + 2 * 2 * WIDTH)
    train(model, trainable, steps=5)
    mixture = model.blocks[1].mlp
    assert isinstance(mixture, MixtureOfExperts)
    for name in ("up", "gate", "down"):
        moved = mixture.get_parameter(f"parametrizations.{name}.original") - getattr(mixture, name)
        assert (moved.abs().amax((1, 2)) > 0).all()
        assert (torch.linalg.matrix_rank(moved, rtol=1e-4) == 2).all()


def test_updates_of_experts_are_kept_merged_and_copied_after_a_step():
    model = make(experts=EXPERTS, gated=True)
    train(model, of_experts(model))
    assert auxiliary_loss(model) is not None
    twin = copy.deepcopy(model).eval()
    model.eval()
    after = model(tokens())
    assert torch.equal(twin(tokens()), after)
    other = make(experts=EXPERTS, gated=True).eval()
    of_experts(other)
    load_low_rank(other, low_rank_state(model))
    assert torch.equal(other(tokens()), after)
    merge_low_rank(model)
    torch.testing.assert_close(model(tokens()), after, rtol=0, atol=1e-6)
    assert not low_rank_state(model)
    assert model.state_dict().keys() == make(experts=EXPERTS, gated=True).state_dict().keys()


def test_experts_without_a_gate_have_none_to_update():
    with pytest.raises(ValueError, match="this model has no 'gate' matrix to update"):
        of_experts(make(experts=EXPERTS))


def test_merging_needs_updates():
    model = make()
    with pytest.raises(ValueError, match="no low-rank updates to merge"):
        merge_low_rank(model)
    add_low_rank(model, rank=1, embedding_rank=0, seed=0)
    merge_low_rank(model)
    with pytest.raises(ValueError, match="no low-rank updates to merge"):
        merge_low_rank(model)


def test_merging_leaves_frozen_convolutions_frozen():
    model = make(canon=Canon(sublayers="A", trained=False))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == LAYERS
    add_low_rank(model, rank=1, embedding_rank=0, seed=0)
    merge_low_rank(model)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
