"""One row per registered encoding; an encoding without a row fails here."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from physlm.models.positions import (
    Learned,
    PositionalEncoding,
    PositionConfig,
    Rotary,
    position_from_dict,
    position_names,
    register,
)

SHAPE = {"width": 32, "heads": 2, "head_width": 16, "context": 12}


@dataclass(frozen=True)
class Row:
    """What an encoding is expected to do.

    Attributes:
        config: a config with no field at its default.
        acts_on: the one place it acts in.
        parameters: its number of trainable numbers in the shape above.
        relative: whether attention scores depend on distances only.
        limited: whether it ends with the context.
    """

    config: PositionConfig
    acts_on: str
    parameters: int
    relative: bool
    limited: bool


TABLE = {
    "learned": Row(Learned(), acts_on="embed", parameters=12 * 32, relative=False, limited=True),
    "rotary": Row(Rotary(base=300.0, fraction=0.5), acts_on="rotate", parameters=0, relative=True, limited=False),
}
rows = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())


def build(config: PositionConfig) -> PositionalEncoding:
    encoding = config.build(**SHAPE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_every_registered_encoding_has_a_row():
    assert set(TABLE) == set(position_names())


@rows
def test_names_and_json(row):
    entry = json.loads(json.dumps(row.config.to_dict()))
    assert TABLE[entry["name"]] is row
    assert position_from_dict(entry) == row.config
    with pytest.raises(ValueError, match=r"has no field \['colour'\]"):
        position_from_dict({**entry, "colour": 1})


@rows
def test_size(row):
    encoding = build(row.config)
    assert encoding.parameter_count() == row.parameters == sum(p.numel() for p in encoding.parameters())


@rows
def test_it_acts_in_one_place(row):
    encoding = build(row.config)
    places = torch.arange(2, 9)
    residual, vectors = random(3, 7, 32), random(3, 2, 7, 16)
    acts = {
        "embed": not torch.equal(encoding.embed(residual, places), residual),
        "rotate": not torch.equal(encoding.rotate(vectors, places), vectors),
        "score": encoding.score(places, torch.arange(9)) is not None,
    }
    assert [place for place, active in acts.items() if active] == [row.acts_on]


@rows
def test_positions_decide_not_places_in_the_tensor(row):
    encoding = build(row.config)
    places = torch.tensor([4, 0, 11, 4])
    everywhere = torch.arange(12)
    residual, vectors = random(1, 1, 32), random(1, 1, 1, 16)
    embedded = encoding.embed(residual.expand(1, 12, 32), everywhere)[:, places]
    assert torch.equal(encoding.embed(residual.expand(1, 4, 32), places), embedded)
    turned = encoding.rotate(vectors.expand(1, 1, 12, 16), everywhere)[..., places, :]
    assert torch.equal(encoding.rotate(vectors.expand(1, 1, 4, 16), places), turned)


@rows
def test_scores_after_a_shift(row):
    encoding = build(row.config)
    queries, keys = random(2, 6, 16), random(2, 6, 16).flip(0)

    def scores(shift):
        places = torch.arange(6) + shift
        turned = encoding.rotate(queries, places) @ encoding.rotate(keys, places).mT
        return turned + (0 if (extra := encoding.score(places, places)) is None else extra)

    moved = encoding.embed(random(1, 6, 32), torch.arange(6)) - encoding.embed(random(1, 6, 32), torch.arange(6) + 5)
    assert torch.allclose(scores(0), scores(5), atol=1e-4)
    assert bool((moved == 0).all()) == row.relative


@rows
def test_beyond_the_context(row):
    encoding = build(row.config)
    encoding.reserve(12)
    if row.limited:
        with pytest.raises(ValueError, match="12 tokens, got 13"):
            encoding.reserve(13)
        return
    places = torch.arange(12)
    vectors = random(2, 12, 16)
    before = encoding.rotate(vectors, places)
    encoding.reserve(1000)
    assert torch.equal(encoding.rotate(vectors, places), before)
    assert encoding.rotate(vectors, places + 988).isfinite().all()
    assert not encoding.state_dict(), "a table that can be recomputed is not saved"


@pytest.mark.parametrize("fraction", [0.125, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("base", [20.0, 10_000.0])
def test_rotary_is_the_rotation_of_the_paper(fraction, base):
    encoding = Rotary(base=base, fraction=fraction).build(**SHAPE)
    encoding.reserve(200)
    vectors, places = random(3, 5, 16), torch.tensor([0, 1, 7, 11, 150])
    turned = encoding.rotate(vectors, places)
    rotated = int(16 * fraction)
    for row in range(3):
        for i, place in enumerate(places.tolist()):
            expected = vectors[row, i].tolist()
            for pair in range(rotated // 2):
                angle = place * base ** (-2 * pair / rotated)
                x, y = vectors[row, i, pair].item(), vectors[row, i, pair + rotated // 2].item()
                expected[pair] = x * math.cos(angle) - y * math.sin(angle)
                expected[pair + rotated // 2] = x * math.sin(angle) + y * math.cos(angle)
            assert turned[row, i].tolist() == pytest.approx(expected, abs=1e-5)


def test_rotary_is_exact_far_away():
    """Angles are computed in double precision, so distances stay distances after 100,000 tokens."""
    encoding = Rotary(fraction=1.0).build(**SHAPE)
    encoding.reserve(100_100)
    query, key = random(1, 16), random(1, 16).flip(1)

    def score(first, second):
        return encoding.rotate(query, torch.tensor([first])) @ encoding.rotate(key, torch.tensor([second])).mT

    assert score(100_050, 100_043).item() == pytest.approx(score(7, 0).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_keeps_the_type_of_its_input(dtype):
    assert Rotary().build(**SHAPE).rotate(random(2, 5, 16).to(dtype), torch.arange(5)).dtype == dtype


def test_learned_adds_the_row_of_each_position():
    encoding = build(Learned())
    residual = random(2, 3, 32)
    moved = encoding.embed(residual, torch.tensor([3, 4, 5]))
    assert torch.equal(moved, residual + encoding.state_dict()["table"][3:6])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(base=1.0), "base must be > 1, got 1.0"),
        (lambda: Rotary(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: Rotary(fraction=1.5), r"fraction must be in \(0, 1\], got 1.5"),
        (lambda: Rotary(fraction=0.1).build(**SHAPE), "head_width 16 × fraction 0.1 = 1.6; choose fraction = 2k / 16"),
        (lambda: Rotary(fraction=0.2).build(**SHAPE), "even number ≥ 2 of turned dimensions"),
        (lambda: position_from_dict({"name": "sundial"}), "must be one of learned, rotary, got 'sundial'"),
        (lambda: position_from_dict({}), "must be one of learned, rotary, got None"),
        (lambda: register("rotary")(Learned), "'rotary' is already registered"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
