"""A model in fewer bits reads positions as exactly as before: tables that are computed are not rounded."""

import pytest
import torch

from physlm.models.positions import position_from_dict, position_names
from physlm.models.transformer import Transformer, TransformerConfig

CONTEXT, FAR = 24, 3000
encodings = pytest.mark.parametrize("name", position_names())
types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def make(name: str) -> Transformer:
    shape = {"vocab_size": 29, "context": CONTEXT, "layers": 2, "heads": 4, "width": 32, "initial_std": 0.2}
    return Transformer(TransformerConfig(**shape, position=position_from_dict({"name": name})), seed=1).eval()


def tables(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: table.clone() for name, table in model.position.named_buffers()}


def same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, table in expected.items():
        assert got[name].dtype == table.dtype
        assert torch.equal(got[name], table), name


@types
@encodings
def test_tables_are_not_rounded_with_the_model(name, dtype):
    model, expected = make(name), tables(make(name))
    model.to(dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    same(tables(model), expected)
    same(tables(model.float()), expected)
    if model.config.position.beyond_context == "works":
        long, exact = model.to(dtype), make(name)
        for one in (long, exact):
            one.position.reserve(FAR)
        same(tables(long), tables(exact))


@encodings
def test_tables_go_where_the_model_goes(name):
    model = make(name).bfloat16().to("meta")
    assert all(table.is_meta for table in tables(model).values())
    assert all(
        table.dtype == torch.float64 for table in tables(make(name).double()).values() if table.is_floating_point()
    )


@pytest.mark.parametrize("name", ["alibi", "hard_alibi", "uniform"])
def test_far_tokens_are_told_apart(name):
    """Eight bits would make 1,000 and 1,001 the same distance."""
    rounded, exact = make(name).bfloat16().position, make(name).position
    queries, keys = torch.tensor([FAR]), torch.arange(FAR)
    assert torch.equal(rounded.score(queries, keys), exact.score(queries, keys))


@types
@encodings
def test_a_model_in_half_precision_reads(name, dtype):
    """As the same weights do in float32, within the rounding of states."""
    model, exact = make(name).to(dtype), make(name)
    exact.load_state_dict(model.state_dict())
    length = 4 * CONTEXT if model.config.position.beyond_context == "works" else CONTEXT
    tokens = torch.randint(29, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, expected = model(tokens), exact(tokens)
    assert logits.dtype == dtype
    resolution = torch.finfo(dtype).eps
    assert (logits.float() - expected).abs().max() < 4 * resolution * expected.abs().max()
