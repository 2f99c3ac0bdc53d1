"""The smallest run that learns something, and child processes that can be killed in the middle of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from physlm.data.streams import PackedStream, Source
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.training.checkpoints import weights_fingerprint
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.bios.config import BiographyConfig
from physlm.worlds.bios.pools import PoolSizes
from physlm.worlds.bios.world import BiographyWorld

WORLD = BiographyWorld(
    BiographyConfig(
        seed=0,
        people=8,
        attributes=("bcity", "univ"),
        template_form="short",
        templates=1,
        value_form="short",
        questions="short",
        pools=PoolSizes(first=8, middle=8, last=8, bcity=8, univ=8),
    )
)
STEPS = 24
RECIPE = Recipe(steps=STEPS, learning_rate=3e-3, warmup_steps=3)


def make_model(seed=0, **changes) -> Transformer:
    shape = {"vocab_size": WORLD.vocab_size, "context": 24, "layers": 2, "heads": 1, "width": 16}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=seed)


def make_stream(key=0, split="biographies", loss_roles=None, **changes) -> PackedStream:
    options = {"context": 24, "batch_size": 4, "key": Key.of("training tests", key)}
    return PackedStream([Source(WORLD, split, loss_roles=loss_roles)], **{**options, **changes})


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def interrupt(folder, *, after, model=None, **options):
    """A run stopped by Ctrl-C at its log point after step `after`; its last checkpoint is the one before."""
    seen = []

    def evaluate():
        seen.append(len(seen))
        if len(seen) * options.get("log_every", 4) == after:
            raise KeyboardInterrupt
        return {}

    options = {"recipe": RECIPE, "log_every": 4, **options}
    try:
        train(model or make_model(), make_stream(), evaluate=evaluate, folder=folder, **options)
    except KeyboardInterrupt:
        return
    raise AssertionError("the run was not interrupted")


def finish(folder, model=None, *, evaluate=dict, **options):
    """Train to the end, continuing what is in `folder`; returns the final tensors and the records."""
    model = model or make_model()
    options = {"recipe": RECIPE, "log_every": 4, **options}
    records = train(model, make_stream(), evaluate=evaluate, folder=folder, **options)
    return tensors(model), records


def child(script, *arguments, inside=()) -> subprocess.Popen:
    """A Python process on a script of this folder, with its output on a pipe, inside another command if given."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [*inside, sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def answer(process) -> dict:
    """The JSON object on the last line that a child wrote."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return json.loads(out.splitlines()[-1])


def outcome(model, records) -> dict:
    return {"weights": weights_fingerprint(model), "records": records}
