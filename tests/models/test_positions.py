"""One row per registered encoding; an encoding without a row fails here."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

import physlm
from physlm.models.positions import (
    T5,
    Alibi,
    Deberta,
    Fire,
    HardAlibi,
    Kerple,
    Learned,
    ModelShape,
    NoPosition,
    PositionalEncoding,
    PositionConfig,
    PositionOnly,
    Rotary,
    Sinusoidal,
    TransformerXL,
    Uniform,
    position_from_dict,
    position_names,
    register,
)
from physlm.models.positions.position_only import PositionOnlyEncoding
from physlm.models.positions.t5 import buckets
from physlm.models.positions.uniform import UniformEncoding

LAYERS, HEADS, HEAD_WIDTH, CONTEXT = 2, 4, 8, 12
WIDTH = HEADS * HEAD_WIDTH
CAUSAL = ModelShape(layers=LAYERS, width=WIDTH, heads=HEADS, head_width=HEAD_WIDTH, context=CONTEXT, causal=True)
BOTH_WAYS = replace(CAUSAL, causal=False)
shapes = pytest.mark.parametrize("shape", [CAUSAL, BOTH_WAYS], ids=["causal", "bidirectional"])


@dataclass(frozen=True)
class Row:
    """What an encoding is expected to do.

    Attributes:
        config: a config with no field at its default.
        acts_on: the places it acts in.
        parameters: its number of trainable numbers in a causal model, and in a bidirectional one.
        relative: whether attention depends on distances only.
        limited: whether it ends with the context.
        replaces_content: whether tokens cannot change the attention.
    """

    config: PositionConfig
    acts_on: tuple[str, ...]
    parameters: tuple[int, int] = (0, 0)
    relative: bool = True
    limited: bool = False
    replaces_content: bool = False


SQUARE = LAYERS * WIDTH * WIDTH
LEARNED = CONTEXT * WIDTH
PAIRS = LAYERS * HEADS * CONTEXT
DEBERTA = Deberta(distances=5)

TABLE = {
    "none": Row(NoPosition(), acts_on=()),
    "learned": Row(Learned(), acts_on=("embed",), parameters=(LEARNED, LEARNED), relative=False, limited=True),
    "sinusoidal": Row(Sinusoidal(base=300.0, scale=0.5), acts_on=("embed",), relative=False),
    "rotary": Row(Rotary(base=300.0, fraction=0.5, layout="interleaved", head_fraction=0.75), acts_on=("rotate",)),
    "alibi": Row(Alibi(), acts_on=("score",)),
    "hard_alibi": Row(HardAlibi(fraction=0.75), acts_on=("score",)),
    "t5": Row(T5(buckets=8, max_distance=9), acts_on=("score",), parameters=(8 * HEADS, 8 * HEADS)),
    "transformer_xl": Row(
        TransformerXL(base=300.0), acts_on=("layer_score",), parameters=(SQUARE + 2 * LAYERS * WIDTH,) * 2
    ),
    "deberta": Row(
        replace(DEBERTA, content_to_position=False),
        acts_on=("layer_score", "content_scale"),
        parameters=(5 * WIDTH + SQUARE, 10 * WIDTH + SQUARE),
    ),
    "position_only": Row(
        PositionOnly(gain=2.0),
        acts_on=("layer_score",),
        parameters=(PAIRS, 2 * PAIRS - LAYERS * HEADS),
        limited=True,
        replaces_content=True,
    ),
    "uniform": Row(Uniform(windows=(1, 2, 5, 20), include_self=False), acts_on=("score",), replaces_content=True),
    "fire": Row(
        Fire(hidden=16, slope=0.3, threshold=4.0),
        acts_on=("score",),
        parameters=(2 + 2 * 16 + HEADS * 17,) * 2,
        relative=False,
    ),
    "kerple": Row(Kerple(kind="power"), acts_on=("score",), parameters=(2 * HEADS, 2 * HEADS)),
}
rows = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())

# Other settings, for what must hold of every encoding.
VARIANTS = {
    **{name: row.config for name, row in TABLE.items()},
    "rotary, default": Rotary(),
    "kerple, logarithmic": Kerple(),
    "uniform, default": Uniform(),
    "deberta, both": DEBERTA,
    "deberta, content to position": replace(DEBERTA, position_to_content=False),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


def build(config: PositionConfig, shape: ModelShape = CAUSAL) -> PositionalEncoding:
    """The module, with all parameters drawn anew from a normal distribution."""
    encoding = config.build(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention_scores(encoding, queries, keys, query_positions, key_positions, layer=0):
    """All that goes into the softmax but masks, `[B, H, T, S]`; from unturned queries and keys."""
    if isinstance(encoding, (PositionOnlyEncoding, UniformEncoding)):
        queries = keys = None
        total = torch.zeros(1, HEADS, query_positions.shape[-1], key_positions.shape[-1])
    else:
        queries, keys = encoding.rotate(queries, query_positions), encoding.rotate(keys, key_positions)
        total = queries @ keys.mT * encoding.content_scale(HEAD_WIDTH)
    shared = encoding.score(query_positions, key_positions)
    own = encoding.layer_score(layer, queries, keys, query_positions, key_positions)
    total = sum((score for score in (shared, own) if score is not None), start=total)
    if getattr(encoding, "causal", False):
        # Scores of later keys have no meaning in a causal model.
        behind = query_positions[..., :, None] - key_positions[..., None, :]
        total = total.masked_fill((behind < 0).unsqueeze(-3), 0.0)
    return total


def earlier(positions):
    """The causal mask."""
    return positions[:, None] >= positions[None, :]


# What holds for every encoding


def test_every_registered_encoding_has_a_row():
    assert set(TABLE) == set(position_names())
    assert all(row.config.name == name for name, row in TABLE.items())


@rows
def test_names_and_json(row):
    defaults = type(row.config)()
    flags = {field.name for field in fields(Deberta) if field.type == "bool"} if row is TABLE["deberta"] else set()
    changed = {
        field.name for field in fields(row.config) if getattr(row.config, field.name) != getattr(defaults, field.name)
    }
    assert changed | flags == {field.name for field in fields(row.config)}, "a default field tests nothing"
    entry = json.loads(json.dumps(row.config.to_dict()))
    assert TABLE[entry["name"]] is row
    assert position_from_dict(entry) == row.config
    assert hash(position_from_dict(entry)) == hash(row.config)
    assert position_from_dict({"name": entry["name"]}) == defaults
    with pytest.raises(ValueError, match=r"has no field \['colour'\]"):
        position_from_dict({**entry, "colour": 1})


@rows
def test_size(row):
    for shape, parameters in zip((CAUSAL, BOTH_WAYS), row.parameters, strict=True):
        encoding = row.config.build(shape)
        assert encoding.parameter_count() == parameters == sum(p.numel() for p in encoding.parameters())
        trained = {name for name, _ in encoding.named_parameters()}
        assert set(encoding.state_dict()) == trained, "what can be recomputed is not saved"


@rows
def test_it_acts_where_it_says(row):
    encoding = build(row.config)
    places = torch.arange(2, 9)
    residual, vectors = random(3, 7, WIDTH), random(3, HEADS, 7, HEAD_WIDTH)
    states = (None, None) if row.replaces_content else (vectors, vectors)
    acts = {
        "embed": not torch.equal(encoding.embed(residual, places), residual),
        "rotate": not torch.equal(encoding.rotate(vectors, places), vectors),
        "score": encoding.score(places, places) is not None,
        "layer_score": encoding.layer_score(0, *states, places, places) is not None,
        "content_scale": encoding.content_scale(HEAD_WIDTH) != HEAD_WIDTH**-0.5,
    }
    assert tuple(place for place, active in acts.items() if active) == row.acts_on
    assert type(row.config).replaces_content == row.replaces_content
    assert type(row.config).cacheable


@shapes
@variants
def test_rows_of_positions_are_positions_row_by_row(config, shape):
    encoding = build(config, shape)
    places = torch.tensor([[4, 0, 11, 4], [1, 2, 3, 4], [0, 0, 0, 1]])
    every = torch.stack([torch.arange(12), torch.arange(12).flip(0), torch.arange(12) // 2])
    residual, queries, keys = random(3, 4, WIDTH), random(3, HEADS, 4, HEAD_WIDTH), random(3, HEADS, 12, HEAD_WIDTH)
    embedded = encoding.embed(residual, places)
    both = encoding.rotate(torch.stack([queries, queries.flip(0)]), places)
    for layer in range(LAYERS):
        scores = attention_scores(encoding, queries, keys, places, every, layer)
        for i in range(3):
            alone = slice(i, i + 1)
            torch.testing.assert_close(
                scores.expand(3, -1, -1, -1)[alone],
                attention_scores(encoding, queries[alone], keys[alone], places[i], every[i], layer),
            )
            assert torch.equal(embedded[alone], encoding.embed(residual[alone], places[i]))
            assert torch.equal(both[0, alone], encoding.rotate(queries[alone], places[i]))
            assert torch.equal(both[1, alone], encoding.rotate(queries.flip(0)[alone], places[i]))


@shapes
@variants
def test_positions_decide_not_places_in_the_tensor(config, shape):
    encoding = build(config, shape)
    places, every = torch.tensor([4, 0, 11, 4]), torch.arange(12)
    residual = random(1, 1, WIDTH)
    embedded = encoding.embed(residual.expand(1, 12, WIDTH), every)[:, places]
    assert torch.equal(encoding.embed(residual.expand(1, 4, WIDTH), places), embedded)
    states = random(1, HEADS, 12, HEAD_WIDTH)
    turned = encoding.rotate(states, every)
    assert torch.equal(encoding.rotate(states[:, :, places], places), turned[:, :, places])
    scores = attention_scores(encoding, states, states.flip(2), every, every, 1)
    fewer = attention_scores(encoding, states[:, :, places], states.flip(2)[:, :, 3:], places, every[3:], 1)
    torch.testing.assert_close(fewer, scores[:, :, places, 3:])


@shapes
@rows
def test_scores_after_a_shift(row, shape):
    encoding = build(row.config, shape)
    queries, keys = random(2, HEADS, 6, HEAD_WIDTH), random(2, HEADS, 6, HEAD_WIDTH, seed=2)
    places, residual = torch.arange(6), random(1, 6, WIDTH)
    unchanged = torch.equal(encoding.embed(residual, places), encoding.embed(residual, places + 5))
    for layer in range(LAYERS):
        here = attention_scores(encoding, queries, keys, places, places, layer)
        moved = attention_scores(encoding, queries, keys, places + 5, places + 5, layer)
        unchanged &= torch.allclose(here, moved, atol=1e-4)
    assert unchanged == row.relative == type(row.config).relative


@shapes
@rows
def test_beyond_the_context(row, shape):
    encoding = build(row.config, shape)
    assert row.limited == (type(row.config).beyond_context == "error")
    encoding.reserve(CONTEXT)
    if row.limited:
        with pytest.raises(ValueError, match=r"12 tokens, got 13; train with a longer context or use \w+ positions"):
            encoding.reserve(CONTEXT + 1)
        return
    places = torch.arange(CONTEXT)
    residual, states = random(2, CONTEXT, WIDTH), random(2, HEADS, CONTEXT, HEAD_WIDTH)
    embedded, scores = encoding.embed(residual, places), attention_scores(encoding, states, states, places, places)
    encoding.reserve(1000)
    assert torch.equal(encoding.embed(residual, places), embedded)
    torch.testing.assert_close(attention_scores(encoding, states, states, places, places), scores)
    assert encoding.embed(residual, places + 988).isfinite().all()
    far = attention_scores(encoding, states, states, places + 988, torch.arange(0, 1000, 100)[:CONTEXT].repeat(2)[:12])
    assert not far.isnan().any()
    assert not far.isposinf().any()
    encoding.reserve(CONTEXT)
    torch.testing.assert_close(attention_scores(encoding, states, states, places, places), scores)


@shapes
@variants
def test_every_query_has_something_to_see(config, shape):
    """Whatever else is hidden: the future, other documents, or everything but the token itself."""
    encoding = build(config, shape)
    places = torch.arange(CONTEXT)
    states = random(1, HEADS, CONTEXT, HEAD_WIDTH)
    scores = attention_scores(encoding, states, states, places, places)
    visible = earlier(places) if shape.causal else torch.ones(CONTEXT, CONTEXT, dtype=torch.bool)
    documents = torch.tensor([0] * 5 + [1] * 6 + [2])
    same_document = documents[:, None] == documents
    for seen in (visible, visible & same_document, torch.eye(CONTEXT, dtype=torch.bool)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pattern = scores.masked_fill(~seen, -math.inf).to(dtype).softmax(dim=-1)
            assert pattern.isfinite().all()
            assert not pattern[~seen.expand(pattern.shape)].any()


@shapes
@variants
def test_gradients_reach_every_parameter_and_stay_finite(config, shape):
    encoding = build(config, shape)
    if hasattr(encoding, "initialise"):  # some are not defined for any numbers
        encoding = initial(config, shape)
    places = torch.arange(CONTEXT)
    states, residual = random(2, HEADS, CONTEXT, HEAD_WIDTH), random(2, CONTEXT, WIDTH)
    total = (encoding.embed(residual, places) * random(2, CONTEXT, WIDTH, seed=5)).sum()
    for layer in range(LAYERS):
        scores = attention_scores(encoding, states, states, places, places, layer)
        if shape.causal:
            scores = torch.where(earlier(places), scores, -math.inf)
        total = total + (scores.softmax(dim=-1) * random(*scores.shape, seed=6)).sum()
    if not list(encoding.parameters()):
        assert not total.requires_grad
        return
    total.backward()
    for name, parameter in encoding.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@shapes
@variants
def test_nothing_waits_for_the_device(config, shape):
    """Fake tensors have no values, so reading one in Python, which a GPU would have to wait for, is an error."""
    with FakeTensorMode():
        encoding = config.build(shape)
        encoding.reserve(CONTEXT)
        for places in (torch.arange(CONTEXT), torch.arange(CONTEXT).expand(3, CONTEXT)):
            states = torch.zeros(3, HEADS, CONTEXT, HEAD_WIDTH)
            assert encoding.embed(torch.zeros(3, CONTEXT, WIDTH), places).shape == (3, CONTEXT, WIDTH)
            scores = attention_scores(encoding, states, states, places, places)
            assert scores.shape[-3:] == (HEADS, CONTEXT, CONTEXT)


@variants
def test_the_type_of_the_residual_stream_and_of_heads_is_kept(config):
    for dtype in (torch.float64, torch.bfloat16):
        encoding, places = config.build(CAUSAL).to(dtype), torch.arange(CONTEXT)
        states = random(2, HEADS, CONTEXT, HEAD_WIDTH).to(dtype)
        assert encoding.rotate(states, places).dtype == dtype
        assert encoding.embed(random(2, CONTEXT, WIDTH).to(dtype), places).dtype == dtype
        assert attention_scores(encoding, states, states, places, places).dtype in (dtype, torch.float32)


# Initial values


def initial(config, shape=CAUSAL, std=0.02):
    encoding = config.build(shape)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(encoding.named_parameters()):
            encoding.initialise(name, parameter, torch.Generator().manual_seed(seed), std)
    return encoding


def test_position_only_begins_with_equal_attention():
    encoding = initial(PositionOnly())
    assert not encoding.table.any()


@pytest.mark.parametrize(("kind", "largest"), [("logarithmic", (2, 1)), ("power", (1, 2))])
def test_kerple_begins_where_its_reference_does(kind, largest):
    encoding = initial(Kerple(kind=kind), replace(CAUSAL, heads=4000))
    growth = 2 * encoding.growth.sigmoid() if kind == "power" else F.softplus(encoding.growth)
    for values, most in zip((F.softplus(encoding.strength), growth), largest, strict=True):
        assert values.min().item() == pytest.approx(0.01, abs=1e-4)
        assert values.max().item() == pytest.approx(most, abs=0.02)
        assert values.mean().item() == pytest.approx(most / 2, abs=0.03 * most)


def test_fire_begins_as_layers_of_pytorch_do():
    encoding = initial(Fire(hidden=400, slope=0.25, threshold=64.0), replace(CAUSAL, heads=100))
    assert (encoding.slope.item(), encoding.threshold.item()) == (0.25, 1.0)
    for name, bound in (("up", 1.0), ("up_bias", 1.0), ("down", 0.05), ("down_bias", 0.05)):
        values = getattr(encoding, name)
        assert values.abs().max().item() == pytest.approx(bound, rel=0.06)
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


# Numbers from the papers


def test_alibi_slopes():
    slopes = Alibi().build(replace(CAUSAL, heads=8)).slopes
    assert slopes.tolist() == [2.0**-head for head in range(1, 9)]
    assert Alibi().build(replace(CAUSAL, heads=12)).slopes[-1].item() == 2.0**-8


@shapes
def test_alibi_is_minus_slope_times_distance(shape):
    score = Alibi().build(shape).score(torch.tensor([3, 9]), torch.tensor([0, 3, 5]))
    assert score[0].tolist() == [[-0.75, 0.0, -0.5], [-2.25, -1.5, -1.0]]
    assert score[3, 0].tolist() == [-3 / 256, 0.0, -2 / 256]


def test_hard_alibi_heads_see_their_nearest_tokens():
    places = torch.arange(CONTEXT)
    score = HardAlibi().build(CAUSAL).score(places, places).masked_fill(~earlier(places), -math.inf)
    seen = (score == 0).sum(dim=-1)
    assert seen[0].tolist() == [1] * CONTEXT, "head 1 sees only itself"
    assert seen[1].tolist() == [1] + [2] * (CONTEXT - 1)
    assert seen[2].tolist() == seen[3].tolist() == list(range(1, CONTEXT + 1))
    assert set(score.unique().tolist()) == {0.0, -math.inf}
    assert (HardAlibi().build(BOTH_WAYS).score(places, places)[1, 5] == 0).nonzero().flatten().tolist() == [4, 5, 6]


def test_t5_buckets_of_the_paper():
    found = buckets(torch.arange(-3, 200), 32, 128, bidirectional=False).tolist()
    assert found[:3] == [0, 0, 0]
    assert found[3:19] == list(range(16))
    assert (found[3 + 16], found[3 + 127], set(found[3 + 128 :])) == (16, 31, {31})
    assert sorted(found) == found


def test_t5_adds_the_number_of_the_bucket():
    encoding = build(T5())
    places = torch.arange(40)
    score = encoding.score(places, places)
    assert torch.equal(score[:, 20, 17], encoding.table[:, 3])
    assert torch.equal(score[:, 39, 0], encoding.table[:, 22])
    encoding = build(T5(), BOTH_WAYS)
    score = encoding.score(places, places)
    assert torch.equal(score[:, 20, 17], encoding.table[:, 3])
    assert torch.equal(score[:, 17, 20], encoding.table[:, 16 + 3])


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        # For the queries 0, 3 and 11: what heads 1 to 4 average.
        (Uniform(), CAUSAL, [[[0], [2, 3], [10, 11]], [[0], [0, 1, 2, 3], [8, 9, 10, 11]]]),
        (Uniform(include_self=False), CAUSAL, [[[0], [2], [10]], [[0], [0, 1, 2], [8, 9, 10]]]),
        (Uniform(), BOTH_WAYS, [[[0, 1], [2, 3, 4], [10, 11]], [[0, 1, 2, 3], [*range(7)], [8, 9, 10, 11]]]),
        (Uniform(windows=(0, 2, 0, 0)), CAUSAL, [[[0], [3], [11]], [[0], [1, 2, 3], [9, 10, 11]]]),
    ],
)
def test_uniform_windows(config, shape, expected):
    places = torch.arange(CONTEXT)
    score = config.build(shape).score(places, places)
    if shape.causal:
        score = score.masked_fill(~earlier(places), -math.inf)
    pattern = score.softmax(dim=-1)
    for head, windows in enumerate(expected):
        for query, window in zip((0, 3, 11), windows, strict=True):
            weights = torch.zeros(CONTEXT)
            weights[window] = 1 / len(window)
            torch.testing.assert_close(pattern[head, query], weights)


def test_uniform_windows_double_up_to_a_limit():
    encoding = Uniform().build(replace(CAUSAL, heads=64))
    assert encoding.windows[:8].tolist() == [1, 3, 7, 15, 31, 63, 127, 255]
    assert encoding.windows[-1].item() == 2**31 - 1


@pytest.mark.parametrize("shape", [CAUSAL, BOTH_WAYS], ids=["causal", "bidirectional"])
def test_position_only_is_a_table_of_distances(shape):
    encoding = build(PositionOnly(), shape)
    places = torch.arange(CONTEXT)
    zero = 0 if shape.causal else CONTEXT - 1
    for layer in range(LAYERS):
        score = encoding.layer_score(layer, None, None, places, places)
        for query in range(CONTEXT):
            for key in range(query + 1 if shape.causal else CONTEXT):
                assert torch.equal(score[:, query, key], encoding.table[layer, :, zero + query - key])


def test_learned_adds_the_row_of_each_position():
    encoding = build(Learned())
    residual = random(2, 3, WIDTH)
    moved = encoding.embed(residual, torch.tensor([3, 4, 5]))
    assert torch.equal(moved, residual + encoding.state_dict()["table"][3:6])


def test_sinusoidal_adds_the_waves_of_the_paper():
    encoding = Sinusoidal(base=500.0, scale=0.1).build(CAUSAL)
    encoding.reserve(100)
    waves = encoding.embed(torch.zeros(1, 3, WIDTH), torch.tensor([0, 7, 90]))[0]
    for row, place in zip(waves.tolist(), (0, 7, 90), strict=True):
        for pair in range(WIDTH // 2):
            angle = place / 500 ** (2 * pair / WIDTH)
            assert row[2 * pair : 2 * pair + 2] == pytest.approx(
                [0.1 * math.sin(angle), 0.1 * math.cos(angle)], abs=1e-6
            )


# Rotary


def rotary_by_hand(vector, place, config):
    rotated = int(len(vector) * config.fraction)
    expected = list(vector)
    for pair in range(rotated // 2):
        first, second = (pair, pair + rotated // 2) if config.layout == "half" else (2 * pair, 2 * pair + 1)
        angle = place * config.base ** (-2 * pair / rotated)
        x, y = vector[first], vector[second]
        expected[first] = x * math.cos(angle) - y * math.sin(angle)
        expected[second] = x * math.sin(angle) + y * math.cos(angle)
    return expected


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("base", [20.0, 10_000.0])
def test_rotary_is_the_rotation_of_the_paper(base, fraction, layout):
    config = Rotary(base=base, fraction=fraction, layout=layout)
    encoding = config.build(CAUSAL)
    encoding.reserve(200)
    vectors, places = random(3, 5, HEAD_WIDTH), torch.tensor([0, 1, 7, 11, 150])
    turned = encoding.rotate(vectors, places)
    for head in range(3):
        for i, place in enumerate(places.tolist()):
            by_hand = rotary_by_hand(vectors[head, i].tolist(), place, config)
            assert turned[head, i].tolist() == pytest.approx(by_hand, abs=1e-5)
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1))
    rotated = int(HEAD_WIDTH * fraction)
    assert torch.equal(turned[..., rotated:], vectors[..., rotated:])


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_rotary_layouts_are_a_permutation_apart(fraction):
    rotated = int(HEAD_WIDTH * fraction)
    order = [*torch.arange(rotated).view(2, -1).T.flatten().tolist(), *range(rotated, HEAD_WIDTH)]
    vectors, places = random(2, HEADS, 6, HEAD_WIDTH), torch.arange(6)
    half = Rotary(fraction=fraction).build(CAUSAL).rotate(vectors, places)
    interleaved = Rotary(fraction=fraction, layout="interleaved").build(CAUSAL).rotate(vectors[..., order], places)
    torch.testing.assert_close(interleaved, half[..., order])
    assert torch.equal(interleaved[..., torch.tensor(order).argsort()][..., rotated:], vectors[..., rotated:])


@pytest.mark.parametrize(
    ("config", "heads", "dimensions"),
    [
        (Rotary(fraction=0.5, head_fraction=0.5), 2, 4),
        (Rotary(fraction=1.0, head_fraction=0.25), 1, 8),
        (Rotary(), 4, 2),
    ],
    ids=["half-half", "quarter-heads", "quarter-dims"],
)
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_the_three_ways_to_turn_a_quarter(config, heads, dimensions, layout):
    config = replace(config, layout=layout)
    vectors, places = random(2, 3, HEADS, 5, HEAD_WIDTH), torch.arange(1, 6)
    turned = config.build(CAUSAL).rotate(vectors, places)
    whole = replace(config, head_fraction=1.0).build(CAUSAL).rotate(vectors, places)
    changed = torch.zeros(HEADS, 1, HEAD_WIDTH, dtype=torch.bool)
    changed[:heads, :, :dimensions] = True
    assert changed.sum() == HEADS * HEAD_WIDTH // 4
    assert torch.equal(turned, torch.where(changed, whole, vectors))
    assert bool((turned != vectors)[..., :, 0, :].flatten(0, 1).any(0).eq(changed[:, 0]).all())


def test_a_share_of_query_heads_is_the_same_share_of_key_heads():
    encoding = Rotary(fraction=1.0, head_fraction=0.5).build(CAUSAL)
    keys, places = random(3, 2, 5, HEAD_WIDTH), torch.arange(1, 6)
    turned = encoding.rotate(keys, places)
    repeated = encoding.rotate(keys.repeat_interleave(2, dim=1), places)
    assert torch.equal(turned.repeat_interleave(2, dim=1), repeated)
    with pytest.raises(ValueError, match=r"whole number ≥ 1 of 1 heads, got 0.5 × 1 = 0.5; choose k / 1"):
        encoding.rotate(keys[:, :1], places)


def test_the_default_rotary_is_what_it_was():
    """To the last bit: the golden values of trained models depend on it."""
    shape = replace(CAUSAL, head_width=16)
    vectors, places = random(2, 3, 2, 12, 16), torch.arange(12)
    exponents = torch.arange(0, 4, 2).float() / 4
    angles = torch.arange(12).float()[:, None] * (1.0 / 10_000.0**exponents)
    cosines, sines = angles.cos(), angles.sin()
    cosines, sines = torch.cat([cosines, cosines], 1), torch.cat([-sines, sines], 1)
    first = torch.addcmul(vectors[..., :4] * cosines, vectors[..., :4].roll(2, dims=-1), sines)
    assert torch.equal(Rotary().build(shape).rotate(vectors, places), torch.cat([first, vectors[..., 4:]], dim=-1))


def test_rotary_turns_by_the_angles_of_transformers():
    """To the last bit, far beyond the context as well."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=64)
    places = torch.tensor([[0, 1, 63, 64, 511, 4095, 100_050]])
    cosines, sines = LlamaRotaryEmbedding(config)(torch.zeros(1), places)
    encoding = Rotary(fraction=1.0).build(replace(CAUSAL, head_width=32))
    encoding.reserve(100_051)
    assert torch.equal(encoding.cosines[places], cosines)
    assert torch.equal(encoding.sines[places].abs(), sines.abs())


def test_gain_of_position_only_scores():
    plain, strong = (PositionOnly(gain=gain).build(CAUSAL) for gain in (1.0, 8.0))
    places = torch.arange(CONTEXT)
    for encoding in (plain, strong):
        torch.nn.init.normal_(encoding.table, generator=torch.Generator().manual_seed(1))
    expected = 8 * plain.layer_score(1, None, None, places, places)
    torch.testing.assert_close(strong.layer_score(1, None, None, places, places), expected)
    with pytest.raises(ValueError, match="gain must be > 0"):
        PositionOnly(gain=0.0)


def test_rotary_distances_stay_distances():
    """Within the rounding of angles in float32, which is all that anybody's models were trained with."""
    encoding = Rotary(fraction=1.0).build(CAUSAL)
    encoding.reserve(5_000)
    query, key = random(1, 1, HEAD_WIDTH), random(1, 1, HEAD_WIDTH, seed=2)

    def score(first, second):
        return encoding.rotate(query, torch.tensor([first])) @ encoding.rotate(key, torch.tensor([second])).mT

    assert score(4_000, 3_993).item() == pytest.approx(score(7, 0).item(), abs=1e-3)


# Against other implementations


@pytest.mark.parametrize(("number", "max_distance"), [(32, 128), (8, 9), (16, 64), (8, 64), (64, 1000)])
@shapes
def test_t5_buckets_are_those_of_transformers(number, max_distance, shape):
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    behind = torch.arange(-3000, 3001)
    theirs = t5.T5Attention._relative_position_bucket(-behind, not shape.causal, number, max_distance)
    assert torch.equal(buckets(behind, number, max_distance, bidirectional=not shape.causal), theirs)


def test_alibi_is_that_of_transformers():
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    places = torch.arange(CONTEXT)
    # Theirs leaves out what is the same for all keys of a query.
    theirs = bloom.build_alibi_tensor(torch.ones(1, CONTEXT), 8, torch.float32).expand(8, CONTEXT, CONTEXT)
    ours = Alibi().build(replace(CAUSAL, heads=8)).score(places, places)
    hidden = ~earlier(places)
    torch.testing.assert_close(
        ours.masked_fill(hidden, -math.inf).softmax(-1), theirs.masked_fill(hidden, -math.inf).softmax(-1)
    )


@pytest.mark.parametrize(
    ("library", "name", "fraction"),
    [("gpt_neox", "GPTNeoX", 0.25), ("gpt_neox", "GPTNeoX", 0.5), ("llama", "Llama", 1.0)],
)
def test_rotary_is_that_of_transformers(library, name, fraction):
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip(f"transformers.models.{library}.modeling_{library}")
    settings = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 1}
    parameters = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": fraction}
    config = getattr(transformers, f"{name}Config")(**settings, rope_parameters=parameters)
    queries, keys = random(2, HEADS, CONTEXT, HEAD_WIDTH), random(2, HEADS, CONTEXT, HEAD_WIDTH, seed=2)
    places = torch.stack([torch.arange(CONTEXT), torch.arange(CONTEXT).flip(0) + 300])
    tables = getattr(module, f"{name}RotaryEmbedding")(config)(queries, places)
    theirs = module.apply_rotary_pos_emb(queries, keys, *tables)
    encoding = Rotary(base=500.0, fraction=fraction).build(CAUSAL)
    encoding.reserve(312)
    torch.testing.assert_close(encoding.rotate(queries, places), theirs[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoding.rotate(keys, places), theirs[1], atol=1e-4, rtol=1e-4)


def test_interleaved_rotary_is_that_of_gpt_j():
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    vectors = random(2, HEADS, CONTEXT, HEAD_WIDTH)
    sines, cosines = gptj.create_sinusoidal_positions(CONTEXT, HEAD_WIDTH)[None].chunk(2, dim=-1)
    theirs = gptj.apply_rotary_pos_emb(vectors.transpose(1, 2), sines, cosines).transpose(1, 2)
    ours = Rotary(fraction=1.0, layout="interleaved").build(CAUSAL).rotate(vectors, torch.arange(CONTEXT))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("span", [5, 12, 40])
def test_deberta_is_that_of_transformers(flags, span):
    deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    config = Deberta(distances=span, content_to_position=flags[0], position_to_content=flags[1])
    encoding = build(config, BOTH_WAYS)
    encoding.reserve(CONTEXT)
    kinds = [kind for kind, wanted in zip(("c2p", "p2c"), flags, strict=True) if wanted]
    theirs = deberta.DisentangledSelfAttention(
        SimpleNamespace(
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            relative_attention=True,
            pos_att_type=kinds,
            max_relative_positions=span,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    with torch.no_grad():
        for name, kind in (("key", "c2p"), ("query", "p2c")):
            if kind in kinds:
                layer = getattr(theirs, f"pos_{name}_proj")
                layer.weight.copy_(getattr(encoding, f"{name}_projection")[1])
                layer.bias.zero_()
    queries, keys = random(2, HEADS, CONTEXT, HEAD_WIDTH), random(2, HEADS, CONTEXT, HEAD_WIDTH, seed=2)
    score = theirs.disentangled_attention_bias(
        queries.flatten(0, 1), keys.flatten(0, 1), None, encoding.table, 1 + len(kinds)
    )
    places = torch.arange(CONTEXT)
    ours = encoding.layer_score(1, queries, keys, places, places)
    torch.testing.assert_close(ours.flatten(0, 1), score, atol=1e-4, rtol=1e-4)


# Against loops over queries and keys


@pytest.mark.parametrize("reserved", [7, 12, 30])
@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True)])
@shapes
def test_deberta_against_a_loop(shape, flags, reserved):
    config = replace(DEBERTA, content_to_position=flags[0], position_to_content=flags[1])
    encoding = build(config, shape)
    encoding.reserve(reserved)
    queries, keys = random(2, HEADS, 7, HEAD_WIDTH), random(2, HEADS, 7, HEAD_WIDTH, seed=2)
    places = torch.arange(7)
    for layer in range(LAYERS):
        scores = attention_scores(encoding, queries, keys, places, places, layer)
        for i in range(7):
            for j in range(i + 1 if shape.causal else 7):
                row = min(i - j, 4) if shape.causal else min(max(i - j, -5), 4) + 5
                expected = (queries[:, :, i] * keys[:, :, j]).sum(-1)
                if flags[0]:
                    key = (encoding.key_projection[layer] @ encoding.table[row]).view(HEADS, HEAD_WIDTH)
                    expected = expected + (queries[:, :, i] * key).sum(-1)
                if flags[1]:
                    query = (encoding.query_projection[layer] @ encoding.table[row]).view(HEADS, HEAD_WIDTH)
                    expected = expected + (query * keys[:, :, j]).sum(-1)
                expected = expected / math.sqrt((1 + sum(flags)) * HEAD_WIDTH)
                torch.testing.assert_close(scores[:, :, i, j], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reserved", [7, 12, 30])
@shapes
def test_transformer_xl_against_a_loop(shape, reserved):
    encoding = build(TransformerXL(base=300.0), shape)
    encoding.reserve(reserved)
    queries, keys = random(2, HEADS, 7, HEAD_WIDTH), random(2, HEADS, 7, HEAD_WIDTH, seed=2)
    places = torch.arange(7)
    exponents = torch.arange(0, WIDTH, 2) / WIDTH
    for layer in range(LAYERS):
        scores = attention_scores(encoding, queries, keys, places, places, layer)
        for i in range(7):
            for j in range(i + 1 if shape.causal else 7):
                angles = (i - j) * 300.0**-exponents
                wave = torch.stack([angles.sin(), angles.cos()], dim=1).flatten()
                wave = (encoding.projection[layer] @ wave).view(HEADS, HEAD_WIDTH)
                query, key = queries[:, :, i], keys[:, :, j]
                of_content = ((query + encoding.content_bias[layer]) * key).sum(-1)
                of_distance = ((query + encoding.distance_bias[layer]) * wave).sum(-1)
                expected = (of_content + of_distance) / math.sqrt(HEAD_WIDTH)
                torch.testing.assert_close(scores[:, :, i, j], expected, atol=1e-4, rtol=1e-4)


@shapes
def test_fire_is_its_formula(shape):
    encoding = build(Fire(hidden=3, slope=0.3, threshold=4.0), shape)
    slope, threshold = abs(encoding.slope.item()), 4.0 * abs(encoding.threshold.item())
    places = torch.arange(CONTEXT)
    score = encoding.score(places, places)
    for i in range(CONTEXT):
        for j in range(i + 1 if shape.causal else CONTEXT):
            share = math.log(slope * abs(i - j) + 1) / (math.log(slope * max(threshold, i, j) + 1) + 1e-6)
            assert 0 <= share <= 1
            hidden = torch.relu(encoding.up * share + encoding.up_bias)
            expected = encoding.down @ hidden + encoding.down_bias
            torch.testing.assert_close(score[:, i, j], expected, atol=1e-5, rtol=1e-4)


def test_fire_is_relative_up_to_the_threshold():
    encoding = initial(Fire())
    places = torch.arange(6)
    assert torch.equal(encoding.score(places, places), encoding.score(places + 506, places + 506))
    assert not torch.equal(encoding.score(places, places), encoding.score(places + 600, places + 600))


@pytest.mark.parametrize("kind", ["logarithmic", "power"])
@shapes
def test_kerple_is_its_formula(kind, shape):
    encoding = build(Kerple(kind=kind), shape)
    places = torch.arange(CONTEXT)
    score = encoding.score(places, places)
    for head in range(HEADS):
        strength = math.log1p(math.exp(encoding.strength[head].item()))
        growth = encoding.growth[head].item()
        for i in range(CONTEXT):
            for j in range(i + 1 if shape.causal else CONTEXT):
                if kind == "power":
                    expected = -strength * abs(i - j) ** (2 / (1 + math.exp(-growth)))
                else:
                    expected = -strength * math.log(1 + math.log1p(math.exp(growth)) * abs(i - j))
                assert score[head, i, j].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


# The registry, and what is refused


def test_an_encoding_is_added_by_adding_a_file(tmp_path):
    """In a copy of the package, with nothing else changed."""
    shutil.copytree(Path(physlm.__file__).parent, tmp_path / "physlm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "physlm" / "models" / "positions" / "sundial.py").write_text(
        "from dataclasses import dataclass\n"
        "from physlm.models.positions.base import PositionalEncoding, PositionConfig, register\n"
        "@register('sundial')\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Sundial(PositionConfig):\n"
        "    def build(self, shape):\n"
        "        return PositionalEncoding()\n"
    )
    code = "from physlm.models.positions import *; print(position_from_dict({'name': 'sundial'}), *position_names())"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Sundial()", *sorted([*position_names(), "sundial"])]


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (Rotary(), "layout", "rotary layout must be one of half, interleaved, got 'sideways'"),
        (Kerple(), "kind", "kerple kind must be one of logarithmic, power, got 'sideways'"),
    ],
)
def test_unknown_names_say_what_there_is(config, name, message):
    object.__setattr__(config, name, "sideways")  # in the constructor, the type checker of the tests speaks first
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


NAMES = r"must be one of alibi, deberta, .*, uniform, got "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(base=1.0), "base must be > 1, got 1.0"),
        (lambda: Rotary(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: Rotary(fraction=1.5), r"fraction must be in \(0, 1\], got 1.5"),
        (lambda: Rotary(head_fraction=0.0), r"head_fraction must be in \(0, 1\], got 0.0; use position 'none'"),
        (lambda: Rotary(fraction=0.2).build(CAUSAL), "head_width 8 × fraction 0.2 = 1.6; choose fraction = 2k / 8"),
        (lambda: Rotary(fraction=0.4).build(CAUSAL), "even number ≥ 2 of turned dimensions"),
        (lambda: Rotary(head_fraction=0.3).build(CAUSAL), "of 4 heads, got 0.3 × 4 = 1.2; choose k / 4"),
        (lambda: Rotary(head_fraction=0.1).build(CAUSAL), "whole number ≥ 1 of 4 heads"),
        (lambda: Sinusoidal(base=0.5), "base must be > 1, got 0.5"),
        (lambda: Sinusoidal(scale=0.0), "scale must be > 0, got 0.0; use position 'none'"),
        (lambda: Sinusoidal().build(replace(CAUSAL, width=33)), "need an even width, got 33; make it 34"),
        (lambda: HardAlibi(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0; use position 'none'"),
        (lambda: HardAlibi().build(replace(CAUSAL, heads=3)), "of 3 heads, got 0.5 × 3 = 1.5; choose k / 3"),
        (lambda: T5(buckets=7), "buckets must be an even number ≥ 2, got 7"),
        (lambda: T5(buckets=0), "buckets must be an even number ≥ 2, got 0"),
        (lambda: T5(max_distance=16), "max_distance must be > 16, half of the 32 buckets, got 16"),
        (lambda: T5(buckets=6).build(BOTH_WAYS), "a multiple of 4 in a bidirectional model, got 6; choose 8"),
        (lambda: TransformerXL(base=1.0), "base must be > 1, got 1.0"),
        (lambda: TransformerXL().build(replace(CAUSAL, width=33)), "needs an even width, got 33; make it 34"),
        (lambda: Deberta(distances=0), "distances must be ≥ 1, got 0"),
        (
            lambda: Deberta(content_to_position=False, position_to_content=False),
            "needs content_to_position or position_to_content, got neither; use position 'none'",
        ),
        (lambda: Uniform(windows=(1, -1)), r"windows must be ≥ 0 tokens with include_self=True, got \(1, -1\)"),
        (lambda: Uniform(windows=(0,), include_self=False), "windows must be ≥ 1 tokens with include_self=False"),
        (lambda: Uniform(windows=(1, 2)).build(CAUSAL), r"one for each of 4 heads, got \(1, 2\)"),
        (lambda: Fire(hidden=0), "hidden must be ≥ 1, got 0"),
        (lambda: Fire(slope=0.0), "slope must be > 0, got 0.0"),
        (lambda: Fire(threshold=-1.0), "threshold must be > 0, got -1.0"),
        (lambda: position_from_dict({"name": "sundial"}), NAMES + "'sundial'"),
        (lambda: position_from_dict({}), NAMES + "None"),
        (lambda: register("rotary")(Learned), "'rotary' is already registered"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
