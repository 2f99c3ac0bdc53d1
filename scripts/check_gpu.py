"""Check on a GPU what the tests check on a CPU: every encoding and block, training in every way, resume, generation.

    python scripts/check_gpu.py > results/gpu-check.json

Needs a CUDA GPU; prints one JSON object and exits with 1 if anything disagrees.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physlm import (
    BiographyConfig,
    BiographyWorld,
    Canon,
    Execution,
    Experts,
    Key,
    PackedStream,
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

LOGIT_TOLERANCE = 1e-3
LOSS_TOLERANCE = 1e-3
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
STEPS = 60


def main() -> int:
    """Run all checks; 0 if they pass."""
    if not torch.cuda.is_available():
        print("this needs a CUDA GPU, and torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    world = BiographyWorld(BiographyConfig(seed=1, people=500))
    checks: dict[str, dict[str, object]] = {}
    for name in position_names():
        checks[f"logits, {name}"] = same_logits(world, position=position_from_dict({"name": name}))
    for name, parts in PARTS.items():
        checks[f"logits, {name}"] = same_logits(world, **parts)
    checks["training in bfloat16"], model = training(world)
    for name, execution in EXECUTIONS.items():
        checks[f"training, {name}"] = same_losses(world, execution)
    checks["stacked training"] = stacked(world)
    checks["answers"] = same_answers(world, model)
    checks["resume"] = resume(world)
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


def shape(world: BiographyWorld, **parts: Any) -> TransformerConfig:
    """A small model."""
    return TransformerConfig(
        **{"vocab_size": world.vocab_size, "context": 256, "layers": 4, "heads": 4, "width": 256, **parts}
    )


def stream(world: BiographyWorld) -> PackedStream:
    """Biographies in windows."""
    return PackedStream([Source(world, "biographies")], context=256, batch_size=16, key=Key.of("gpu", 0))


def same_logits(world: BiographyWorld, **parts: Any) -> dict[str, object]:
    """Largest difference between the logits of CPU and GPU, in float32."""
    model = Transformer(shape(world, **parts), seed=0).eval()
    tokens = torch.from_numpy(stream(world).next_batch().inputs.copy())
    with torch.inference_mode():
        cpu = model(tokens)
        gpu = model.cuda()(tokens.cuda()).cpu()
    difference = (cpu - gpu).abs().max().item()
    return {"passed": difference < LOGIT_TOLERANCE, "largest_difference": difference}


def training(world: BiographyWorld) -> tuple[dict[str, object], Transformer]:
    """The loss falls, and how many tokens a second are read."""
    model = Transformer(shape(world), seed=0).cuda()
    started = time.perf_counter()
    records = train(model, stream(world), Recipe(steps=STEPS, learning_rate=1e-3, precision="bfloat16"), log_every=20)
    torch.cuda.synchronize()
    losses = [record["loss"] for record in records]
    tokens_per_second = STEPS * 16 * 256 / (time.perf_counter() - started)
    return {"passed": losses[-1] < losses[0], "losses": losses, "tokens_per_second": tokens_per_second}, model


def losses(world: BiographyWorld, execution: Execution) -> list[float]:
    """Training losses of a small model on the GPU in float32."""
    model = Transformer(shape(world), seed=0).cuda()
    recipe = Recipe(steps=10, learning_rate=1e-3, precision="float32")
    records = train(model, stream(world), recipe, log_every=1, execution=execution)
    return [record["loss"] for record in records]


def same_losses(world: BiographyWorld, execution: Execution) -> dict[str, object]:
    """A way of computing a run changes nothing but rounding."""
    difference = max(abs(a - b) for a, b in zip(losses(world, execution), losses(world, Execution()), strict=True))
    return {"passed": difference < LOSS_TOLERANCE, "largest_difference": difference}


def stacked(world: BiographyWorld) -> dict[str, object]:
    """Each model of a stack has the losses that it has alone."""
    recipe = Recipe(steps=10, learning_rate=1e-3, precision="float32")
    models = [Transformer(shape(world), seed=0).cuda() for _ in range(3)]
    logs = train_stacked(models, [stream(world) for _ in models], [recipe] * 3, log_every=1)
    alone = losses(world, Execution())
    difference = max(abs(record["loss"] - loss) for log in logs for record, loss in zip(log, alone, strict=True))
    return {"passed": difference < LOSS_TOLERANCE, "largest_difference": difference}


def same_answers(world: BiographyWorld, model: Transformer) -> dict[str, object]:
    """Teacher-forced exact match equals generation, on the GPU."""
    questions = np.arange(300)
    prompts = [np.concatenate([[world.eos], prompt]) for prompt in world.prompts("questions_test", questions)]
    answers = world.answers("questions_test", questions)
    written = generate(model, prompts, max_new_tokens=12, stop=world.eos)
    generated = np.array([np.array_equal(new, answer) for new, answer in zip(written, answers, strict=True)])
    matches = answer_matches(model, prompts, answers, stop=world.eos)
    return {"passed": bool((generated == matches).all()), "questions": len(questions)}


def resume(world: BiographyWorld) -> dict[str, object]:
    """A finished run that is asked for again is read from its checkpoint."""
    recipe = Recipe(steps=20, learning_rate=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (Transformer(shape(world), seed=0).cuda() for _ in range(2))
        train(first, stream(world), recipe, folder=Path(folder))
        train(second, stream(world), recipe, folder=Path(folder))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return {"passed": all(torch.equal(a, b) for a, b in pairs)}


if __name__ == "__main__":
    raise SystemExit(main())
