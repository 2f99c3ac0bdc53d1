"""Check on a GPU what the tests check on a CPU: models, training, generation, probes, inference on a grammar.

    python scripts/check_gpu.py > results/gpu-check.json

Needs a CUDA GPU; prints one JSON object and exits with 1 if anything disagrees. Logits are those of disturbed weights:
those that training begins with attend to everything about equally, which hides what positions do.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physlm import (
    BiographyConfig,
    BiographyWorld,
    Canon,
    CFGConfig,
    CFGWorld,
    DenseParser,
    Execution,
    Experts,
    Key,
    PackedStream,
    Parser,
    Recipe,
    Source,
    Transformer,
    TransformerConfig,
    answer_matches,
    generate,
    train,
    train_stacked,
)
from physlm.models.positions import position_from_dict, position_names
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.probing.states import read_states
from physlm.worlds.cfg.named import grammar

DISTURBANCE = 0.2
"""Standard deviation of what is added to every weight; a query then sees a few tokens, most of the time one."""
LOGIT_TOLERANCE = 1e-3
"""Of the largest logit. In float32 and in float64 a CPU differs by up to 2e-5 of it, or 7e-5 with experts."""
MIN_WINDOWS = 0.75
"""Share of the windows that agree if there are experts: a token that two of them want almost equally may go to either,
and what follows in its window then changes."""
LOSS_TOLERANCE = 1e-3
PROBE_TOLERANCE = 2e-2
"""Of a probability, after some steps of fitting."""
INFERENCE_TOLERANCE = 1e-9
PARTS: dict[str, dict[str, Any]] = {
    "Llama with Canon": {
        "norm": "rms",
        "biases": False,
        "tied": False,
        "gated": True,
        "activation": "silu",
        "mlp_ratio": 8 / 3,
        "key_value_heads": 2,
        "canon": Canon(),
    },
    "experts": {"experts": Experts(experts=8, evaluation_capacity_factor=None)},
    "padded vocabulary": {"vocab_multiple": 128},
}
EXECUTIONS = {
    "in parts": Execution(micro_batches=4),
    "activations computed again": Execution(checkpoint_activations=True),
    "compiled": Execution(compile=True),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where things are checked, and at what size; small enough, the checks run on a CPU."""

    device: torch.device
    people: int = 500
    context: int = 256
    rows: int = 16
    width: int = 256
    layers: int = 4
    steps: int = 60
    questions: int = 300
    sentences: int = 64

    @cached_property
    def world(self) -> BiographyWorld:
        """What is read."""
        return BiographyWorld(BiographyConfig(seed=1, people=self.people))

    def stream(self) -> PackedStream:
        """Biographies in windows."""
        source = Source(self.world, "biographies")
        return PackedStream([source], context=self.context, batch_size=self.rows, key=Key.of("gpu", 0))

    def model(self, **parts: Any) -> Transformer:
        """A small model, still on the CPU."""
        shape = {"context": self.context, "layers": self.layers, "heads": 4, "width": self.width}
        return Transformer(TransformerConfig(**{"vocab_size": self.world.vocab_size, **shape, **parts}), seed=0)


def main() -> int:
    """Run all checks; 0 if they pass."""
    if not torch.cuda.is_available():
        print("this needs a CUDA GPU, and torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    setup = Setup(device=torch.device("cuda"))
    checks: dict[str, dict[str, object]] = {}
    for name in position_names():
        checks[f"logits, {name}"] = same_logits(setup, position=position_from_dict({"name": name}))
    for name, parts in PARTS.items():
        checks[f"logits, {name}"] = same_logits(setup, **parts)
    checks["training in bfloat16"], model = training(setup)
    for name, execution in EXECUTIONS.items():
        checks[f"training, {name}"] = same_losses(setup, execution)
    checks["stacked training"] = stacked(setup)
    checks["answers"] = same_answers(setup, model)
    checks["resume"] = resume(setup)
    checks["hidden states and probes"] = same_probes(setup, model)
    checks["inference on a grammar"] = same_inference(setup)
    passed = all(check["passed"] for check in checks.values())
    report = {
        "passed": passed,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 2**20,
        "checks": checks,
    }
    print(json.dumps(report, indent=1))
    return 0 if passed else 1


@torch.no_grad()
def disturbed(model: Transformer) -> Transformer:
    """The model, in place, with weights that attend to some tokens more than to others."""
    generator = torch.Generator().manual_seed(Key.of("gpu", 1).low)
    for parameter in model.parameters():
        parameter.add_(DISTURBANCE * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def same_logits(setup: Setup, **parts: Any) -> dict[str, object]:
    """Largest difference between the logits of the CPU and of the device, in float32."""
    model = disturbed(setup.model(**parts))
    tokens = torch.from_numpy(setup.stream().next_batch().inputs.copy())
    with torch.inference_mode():
        cpu = model(tokens)
        there = copy.deepcopy(model).to(setup.device)(tokens.to(setup.device)).cpu()
    return agreement(cpu, there, windows=MIN_WINDOWS if "experts" in parts else 1.0)


def agreement(cpu: torch.Tensor, there: torch.Tensor, *, windows: float = 1.0) -> dict[str, object]:
    """How far logits `[rows, tokens, V]` are apart, and whether at least this share of the windows agrees."""
    differences, largest = (cpu - there).abs().amax((1, 2)), cpu.abs().max()
    agreeing = (differences < LOGIT_TOLERANCE * largest).double().mean().item()
    return {
        "passed": agreeing >= windows,
        "largest_difference": differences.max().item(),
        "largest_logit": largest.item(),
        "windows_that_agree": agreeing,
    }


def training(setup: Setup) -> tuple[dict[str, object], Transformer]:
    """The loss falls, and how many tokens a second are read."""
    model = setup.model().to(setup.device)
    recipe = Recipe(steps=setup.steps, learning_rate=1e-3, precision="bfloat16")
    started = time.perf_counter()
    # The log is read from the device, so nothing is under way when this returns.
    records = train(model, setup.stream(), recipe, log_every=setup.steps // 3)
    seconds = time.perf_counter() - started
    losses = [record["loss"] for record in records]
    tokens_per_second = setup.steps * setup.rows * setup.context / seconds
    return {"passed": losses[-1] < losses[0], "losses": losses, "tokens_per_second": tokens_per_second}, model


def losses(setup: Setup, execution: Execution) -> list[float]:
    """Training losses of a small model on the device in float32."""
    model = setup.model().to(setup.device)
    recipe = Recipe(steps=10, learning_rate=1e-3, precision="float32")
    records = train(model, setup.stream(), recipe, log_every=1, execution=execution)
    return [record["loss"] for record in records]


def same_losses(setup: Setup, execution: Execution) -> dict[str, object]:
    """A way of computing a run changes nothing but rounding."""
    difference = max(abs(a - b) for a, b in zip(losses(setup, execution), losses(setup, Execution()), strict=True))
    return {"passed": difference < LOSS_TOLERANCE, "largest_difference": difference}


def stacked(setup: Setup) -> dict[str, object]:
    """Each model of a stack has the losses that it has alone."""
    recipe = Recipe(steps=10, learning_rate=1e-3, precision="float32")
    models = [setup.model().to(setup.device) for _ in range(3)]
    logs = train_stacked(models, [setup.stream() for _ in models], [recipe] * 3, log_every=1)
    alone = losses(setup, Execution())
    difference = max(abs(record["loss"] - loss) for log in logs for record, loss in zip(log, alone, strict=True))
    return {"passed": difference < LOSS_TOLERANCE, "largest_difference": difference}


def same_answers(setup: Setup, model: Transformer) -> dict[str, object]:
    """Teacher-forced exact match equals generation, on the device."""
    world, questions = setup.world, np.arange(setup.questions)
    prompts = [np.concatenate([[world.eos], prompt]) for prompt in world.prompts("questions_test", questions)]
    answers = world.answers("questions_test", questions)
    written = generate(model, prompts, max_new_tokens=12, stop=world.eos)
    generated = np.array([np.array_equal(new, answer) for new, answer in zip(written, answers, strict=True)])
    matches = answer_matches(model, prompts, answers, stop=world.eos)
    return {"passed": bool((generated == matches).all()), "questions": len(questions)}


def resume(setup: Setup) -> dict[str, object]:
    """A finished run that is asked for again is read from its checkpoint."""
    recipe = Recipe(steps=setup.steps // 3, learning_rate=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (setup.model().to(setup.device) for _ in range(2))
        train(first, setup.stream(), recipe, folder=Path(folder))
        train(second, setup.stream(), recipe, folder=Path(folder))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return {"passed": all(torch.equal(a, b) for a, b in pairs)}


def same_probes(setup: Setup, model: Transformer) -> dict[str, object]:
    """States of all layers are those of the CPU, and probes that are fitted on either say the same."""
    samples = setup.world.render("biographies", np.arange(setup.people))
    places = Inputs.where(samples, samples.marks["value_position"] == 0).moved(-1)
    labels = {"attribute": samples.marks["attribute"][places.places + 1]}
    here = copy.deepcopy(model).cpu()
    there, cpu = read_states(model, places), read_states(here, places)
    states, expected = there[:], cpu[:]
    difference = float((np.abs(states - expected).max((0, 2)) / np.abs(expected).max((0, 2))).max())
    training = ProbeTraining(steps=20, batch_size=8)
    told = [
        EmbeddingProbes(one, rank=2, training=training, balanced=True, key=Key.of("gpu", 3))
        .fit(places, labels)
        .predict_proba(places)["attribute"]
        for one in (model, here)
    ]
    apart = float(np.abs(told[0] - told[1]).max())
    return {
        "passed": difference < LOGIT_TOLERANCE and apart < PROBE_TOLERANCE,
        "largest_difference_of_states": difference,
        "largest_difference_of_probabilities": apart,
        "places": len(places),
    }


def same_inference(setup: Setup) -> dict[str, object]:
    """Counts are equal, and next-token distributions close to those of the other program."""
    world = CFGWorld(CFGConfig(seed=1, grammar=grammar("cfg3f")))
    sentences = [world["test", index].tokens[1:] for index in range(setup.sentences)]
    there, parser = DenseParser(world.grammar, setup.device), Parser(world.grammar)
    started = time.perf_counter()
    found = there.next_tokens(sentences).cpu().numpy()
    seconds = time.perf_counter() - started
    expected = parser.next_tokens(sentences)
    difference = max(float(np.abs(rows[: len(own)] - own).max()) for rows, own in zip(found, expected, strict=True))
    counts = parser.derivations(sentences)
    is_equal = min(counts) > 0 and there.derivations(sentences) == counts
    return {
        "passed": is_equal and difference < INFERENCE_TOLERANCE,
        "largest_difference": difference,
        "milliseconds_a_sentence": 1000 * seconds / len(sentences),
    }


if __name__ == "__main__":
    raise SystemExit(main())
