"""The checks for a GPU, on a CPU: that they run, and that they would notice what they look for."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from physlm.models.capture import Capture
from physlm.models.positions import NoPosition, PositionOnly, position_from_dict, position_names
from physlm.models.transformer import Transformer

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_gpu.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("check_gpu", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["check_gpu"] = module  # where a dataclass looks for its annotations
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def setup(script):
    return script.Setup(
        device=torch.device("cpu"),
        people=20,
        context=64,
        rows=2,
        width=64,
        layers=2,
        steps=6,
        questions=20,
        sentences=2,
    )


@pytest.mark.parametrize("name", position_names())
def test_encodings_are_compared(script, setup, name):
    found = script.same_logits(setup, position=position_from_dict({"name": name}))
    assert found["passed"]
    assert found["windows_that_agree"] == 1
    assert 1 < found["largest_logit"] < 100


def test_blocks_are_compared(script, setup):
    for parts in script.PARTS.values():
        assert script.same_logits(setup, **parts)["passed"]


@pytest.mark.parametrize("name", sorted({*position_names()} - {"none"}))
def test_an_encoding_that_does_nothing_is_noticed(script, setup, name):
    """On every window, and by far."""
    right = script.disturbed(setup.model(position=position_from_dict({"name": name})))
    tokens = torch.from_numpy(setup.stream().next_batch().inputs.copy())
    with torch.inference_mode():
        logits = right(tokens)
        wrong = without_positions(right)(tokens)
    found = script.agreement(logits, wrong)
    assert not found["passed"]
    assert found["windows_that_agree"] == 0
    assert found["largest_difference"] > 20 * script.LOGIT_TOLERANCE * found["largest_logit"]


def without_positions(model: Transformer) -> Transformer:
    """The same weights, read as if all tokens were in one place."""
    if not model.config.position.replaces_content:
        plain = Transformer(replace(model.config, position=NoPosition()), seed=0)
        plain.load_state_dict(model.state_dict(), strict=False)
        return plain.eval()
    equal = PositionOnly().build(model.config.shape)
    model.position = equal
    for block in model.blocks:
        block.attention.__dict__["position"] = equal
    return model


def test_disturbed_weights_attend_to_few_tokens(script, setup):
    """Those of the beginning attend to all alike, whatever the encoding; then there is not much to compare."""
    tokens = torch.from_numpy(setup.stream().next_batch().inputs.copy())
    seen = []
    for model in (setup.model().eval(), script.disturbed(setup.model())):
        capture = Capture(["block.1.pattern"])
        with torch.inference_mode():
            model(tokens, capture=capture)
        seen.append(capture.states["block.1.pattern"][:, :, -1].square().sum(-1).reciprocal().mean().item())
    assert seen[0] > 0.9 * setup.context
    assert seen[1] < 0.3 * setup.context


def test_one_window_may_disagree_only_if_that_is_allowed(script):
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[2, 1, 0] += 1
    assert not script.agreement(logits, other)["passed"]
    assert script.agreement(logits, other, windows=0.75)["passed"]
    other[1, 0, 0] += 1
    assert not script.agreement(logits, other, windows=0.75)["passed"]


def test_all_else_runs(script, setup):
    found, model = script.training(setup)
    assert found["passed"]
    assert found["tokens_per_second"] > 0
    for execution in (script.Execution(micro_batches=2), script.EXECUTIONS["activations computed again"]):
        assert script.same_losses(setup, execution)["passed"]
    for check in (script.stacked(setup), script.same_answers(setup, model), script.resume(setup)):
        assert check["passed"]


def test_probes_and_inference_are_compared(script, setup, monkeypatch):
    found = script.same_probes(setup, setup.model())
    assert found["passed"]
    assert found["places"] > setup.people
    found = script.same_inference(setup)
    assert found["passed"]
    assert 0 < found["largest_difference"] < 1e-9
    monkeypatch.setattr(script.DenseParser, "derivations", lambda _, sentences: [0] * len(sentences))
    assert not script.same_inference(setup)["passed"]


def test_without_a_gpu_it_says_so(script, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main() == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
