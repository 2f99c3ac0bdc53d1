"""Stacks: eight small models trained at once, beside the same eight one after another by our own `train`.

Both are whole runs with packing, clipping and AdamW on all threads, and every model ends with the same loss up to
rounding. The headline is a model of less than 0.2M parameters with batches of four windows of 64 tokens, in the
precision that recipes take by default ("auto": bfloat16 products where the processor has them). A stack spares the
starting of operations, so it gains most where these are short, which other rows show by smaller and larger batches.
The last rows are the headline on one thread: a pool of processes could do as much on every core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.harness import Race, Result, Settings, race
from experiments._biography_presets import PRESETS
from physlm.data.streams import PackedStream, Source
from physlm.models.transformer import Transformer, TransformerConfig, parameter_count
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Precision, Recipe
from physlm.training.stacked import train_stacked
from physlm.worlds.bios import BiographyWorld

MODELS = 8
STEPS = 8
PEER = "physlm, one after another"
CASES: dict[str, tuple[int, int, Precision]] = {
    "four windows of 64": (4, 64, "auto"),
    "the same in float32": (4, 64, "float32"),
    "one window of 64": (1, 64, "float32"),
    "four windows of 132": (4, 132, "float32"),
}
"""Rows and tokens of a batch; the first is the headline, the last are the batches of the biography experiments."""


class Contest:
    """The same runs at once and one after another, going on with models and data at every call."""

    def __init__(self, config: TransformerConfig, world: BiographyWorld, rows: int, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokens = MODELS * recipe.steps * rows * config.context
        self.models = [Transformer(config, seed=seed) for seed in range(MODELS)]
        self.streams = [
            PackedStream(
                [Source(world, "biographies")],
                context=config.context,
                batch_size=rows,
                key=Key.of("benchmark", seed),
            )
            for seed in range(MODELS)
        ]

    def at_once(self) -> None:
        """By `train_stacked`."""
        train_stacked(self.models, self.streams, [self.recipe] * MODELS, log_every=self.recipe.steps)

    def one_after_another(self) -> None:
        """By `train`."""
        for model, stream in zip(self.models, self.streams, strict=True):
            train(model, stream, self.recipe, log_every=self.recipe.steps)


def on_one_thread(work: Callable[[], object]) -> Callable[[], object]:
    """`work`, whatever the number of threads otherwise."""

    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work()
        finally:
            torch.set_num_threads(threads)

    return run


def run(settings: Settings) -> Result:
    """Measure."""
    torch.set_num_threads(settings.threads)
    preset = PRESETS["smoke" if settings.quick else "cpu"]
    world = BiographyWorld(preset.world.config(0, variant="multi5+permute"))
    shape = replace(preset.model, width=32 if settings.quick else 48).config(world.vocab_size)
    steps = 1 if settings.quick else STEPS
    cases = dict([*CASES.items()][:2]) if settings.quick else CASES
    contests: dict[str, Contest] = {}
    contenders: dict[str, Callable[[], object]] = {}
    for name, (rows, context, precision) in cases.items():
        recipe = Recipe(steps=steps, learning_rate=1e-3, precision=precision)
        contest = contests[name] = Contest(replace(shape, context=context), world, rows, recipe)
        contenders |= {f"{name}, at once": contest.at_once, f"{name}, in turn": contest.one_after_another}
    headline, *others = cases
    for how in ("at once", "in turn"):
        contenders[f"{how}, on one thread"] = on_one_thread(contenders[f"{headline}, {how}"])
    result = race(contenders, settings.repetitions)

    numbers = {name: _numbers(result, name, contest) for name, contest in contests.items()}
    first = numbers[headline]
    on_one = {
        how: (
            result.rate(f"{how}, on one thread", contests[headline].tokens),
            result.ratio(f"{how}, on one thread", f"{headline}, in turn"),
        )
        for how in ("at once", "in turn")
    }
    return Result(
        benchmark="stacked",
        unit="tokens per second",
        value=first["value"],
        peer=PEER,
        peer_value=first["peer_value"],
        ratio=first["ratio"],
        parameters={
            "models": MODELS,
            "parameters": parameter_count(shape),
            "layers": shape.layers,
            "heads": shape.heads,
            "width": shape.width,
            "vocab_size": shape.vocab_size,
            "steps": steps,
            **dict(zip(("batch_size", "context", "precision"), CASES[headline], strict=True)),
        },
        details={
            "ratio_spread": first["ratio_spread"],
            "others": {name: numbers[name] for name in others},
            "on_one_thread": {"value": on_one["at once"][0], "peer_value": on_one["in turn"][0]},
        },
        rows=[
            *((f"physlm, {name}", numbers[name]["value"], numbers[name]["ratio"]) for name in others),
            ("physlm, on one thread", *on_one["at once"]),
            ("one after another, on one thread", *on_one["in turn"]),
        ],
    )


def _numbers(result: Race, name: str, contest: Contest) -> dict[str, Any]:
    ours, peer = f"{name}, at once", f"{name}, in turn"
    return {
        "value": result.rate(ours, contest.tokens),
        "peer_value": result.rate(peer, contest.tokens),
        "ratio": result.ratio(ours, peer),
        "ratio_spread": result.spread(ours, peer),
    }
