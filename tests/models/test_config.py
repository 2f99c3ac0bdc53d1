"""Parts of a config that exclude each other, refused where the config is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from physlm.models.config import TransformerConfig
from physlm.models.conversion import to_transformers
from physlm.models.counterparts import NoCounterpartError
from physlm.models.experts import Experts
from physlm.models.positions import PositionOnly, Rotary, Uniform
from physlm.models.transformer import Transformer

SHAPE = {"vocab_size": 29, "context": 16, "layers": 2, "heads": 4, "width": 32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"query_key_norm": True, "position": PositionOnly()},
            "query_key_norm needs queries and keys, which position_only positions replace, .*; set it to False",
        ),
        ({"query_key_norm": True, "position": Uniform()}, "which uniform positions replace"),
        (
            {"experts": Experts(hidden_ratio=2.0), "mlp_ratio": 8 / 3},
            r"got experts.hidden_ratio 2.0 and mlp_ratio 2\.66.*; set mlp_ratio to the same, or leave it at 4.0",
        ),
        ({"experts": Experts(), "mlp_ratio": 0.0}, "got experts.hidden_ratio 1.0 and mlp_ratio 0.0"),
        (
            {"key_value_heads": 1, "position": Rotary(head_fraction=0.5)},
            r"head_fraction, with key_value_heads = 1, must be a whole number ≥ 1 of 1 heads, got 0.5 × 1 = 0.5",
        ),
        (
            {"key_value_heads": 2, "position": Rotary(head_fraction=0.75)},
            r"got 0.75 × 2 = 1.5; choose k / 2",
        ),
    ],
)
def test_parts_that_exclude_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SHAPE, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"key_value_heads": 2, "position": Rotary(head_fraction=0.5)},
        {"key_value_heads": 4, "position": Rotary(head_fraction=0.75)},
        {"experts": Experts(experts=4, hidden_ratio=8 / 3), "mlp_ratio": 8 / 3},
        {"experts": Experts(experts=4, hidden_ratio=0.5)},
        {"position": Uniform()},
    ],
)
def test_parts_that_fit_are_read_with(changes):
    model = Transformer(TransformerConfig(**SHAPE, **changes), seed=0).eval()
    assert model(torch.arange(16)[None]).isfinite().all()


def test_experts_as_wide_as_the_mlp_was_say_that_they_have_no_counterpart():
    """And not that their width is wrong, which rounding changes."""
    config = TransformerConfig(**SHAPE, experts=Experts(experts=2, hidden_ratio=8 / 3), mlp_ratio=8 / 3)
    pytest.importorskip("transformers")
    with pytest.raises(NoCounterpartError, match="experts="):
        to_transformers(Transformer(config, seed=0))
    with pytest.raises(ValueError, match="experts are as wide as their hidden_ratio says"):
        replace(config, mlp_ratio=config.mlp_width / config.width)


@pytest.mark.parametrize("name", ["experts", "top_k"])
def test_numbers_of_experts_are_ints(name):
    with pytest.raises(TypeError, match=f"{name} must be an int, got True"):
        Experts(**{"experts": 1, name: True})


@pytest.mark.parametrize("name", [*SHAPE, "vocab_multiple", "key_value_heads"])
def test_sizes_are_no_truth_values(name):
    with pytest.raises(TypeError, match=f"{name} must be an int, got True"):
        TransformerConfig(**{**SHAPE, name: True})
