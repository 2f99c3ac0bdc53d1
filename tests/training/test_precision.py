import pytest
import torch
from safetensors.torch import load_file
from small import RECIPE, STEPS, make_model, make_stream, tensors

from physlm.training.loop import train
from physlm.training.recipe import Recipe, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ],
)
def test_auto_follows_the_instructions_of_the_processor(monkeypatch, instructions, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("float32", CPU) == torch.float32
    assert choose_precision("bfloat16", CPU) == torch.bfloat16


def test_auto_works_on_this_machine():
    assert choose_precision("auto", CPU) in (torch.float32, torch.bfloat16)


def trained(precision, folder=None):
    model = make_model()
    recipe = Recipe.from_dict({**RECIPE.to_dict(), "precision": precision})
    return model, train(model, make_stream(), recipe, folder=folder)


def test_weights_and_moments_stay_float32(tmp_path):
    model, _ = trained("bfloat16", tmp_path)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    for file in ("model", "optimizer"):
        stored = load_file(tmp_path / f"step-{STEPS:09d}" / f"{file}.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_bfloat16_products_are_in_use_and_close_to_float32():
    (exact, exact_records), (rounded, rounded_records) = trained("float32"), trained("bfloat16")
    assert any(not torch.equal(a, b) for a, b in zip(exact.parameters(), rounded.parameters(), strict=True))
    assert rounded_records[-1]["loss"] == pytest.approx(exact_records[-1]["loss"], rel=0.02)


def test_auto_is_one_of_the_two(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    torch.testing.assert_close(tensors(trained("auto")[0]), tensors(trained("float32")[0]), rtol=0, atol=0)
