"""Training for experiments: what a step costs, in one go and after an interruption."""

import math

import pytest

from experiments import _fitting
from experiments._grammar_measures import TRAINING
from experiments._grammars import make_world
from physlm.data.streams import PackedStream, Source
from physlm.lab import Workspace
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig

TINY = TRAINING["smoke"]
WORLD = make_world(CFGConfig(seed=0, grammar="cfg3b", root="13"))


class Clock:
    """Goes on by a second with every batch, and by a hundred with every evaluation."""

    def __init__(self):
        self.now = 0.0

    def process_time(self):
        return self.now


class Timed(PackedStream):
    clock: Clock

    def next_batch(self):
        self.clock.now += 1
        return super().next_batch()


def fit(folder, clock, evaluate):
    stream = Timed(
        [Source(WORLD, "train")], context=TINY.context, batch_size=2, key=Key.of("packing", 0), overflow="continue"
    )
    stream.clock = clock
    return _fitting.fit(
        Workspace(cache=folder),
        stream,
        TINY.config(WORLD.vocab_size),
        0,
        evaluate,
        recipe=TINY.recipe,
        log_points=4,
        threads=1,
    )


def test_the_cost_of_a_step_is_that_of_the_steps_made_here(tmp_path, monkeypatch):
    clock, points = Clock(), 0
    monkeypatch.setattr(_fitting, "time", clock)

    def evaluate(_model):
        nonlocal points
        points += 1
        clock.now += 100
        if points == 3:
            raise InterruptedError("switched off")
        return {}

    with pytest.raises(InterruptedError):
        fit(tmp_path / "run", clock, evaluate)
    _, whole, seconds = fit(tmp_path / "run", clock, evaluate)
    assert [record["step"] for record in whole] == [5, 10, 15, 20]
    assert points == 5, "two points were kept"
    assert seconds == 1.0
    _, again, nothing = fit(tmp_path / "run", clock, evaluate)
    assert again == whole
    assert math.isnan(nothing)
    points = 10
    _, _, in_one_go = fit(tmp_path / "other", clock, evaluate)
    assert in_one_go == 1.0
