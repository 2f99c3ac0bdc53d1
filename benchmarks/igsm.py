"""Making problems of the iGSM world, drawn, solved and tokenized, without marks, on the training side of the split.

The peer is the drawing algorithms as the specification writes them, in plain Python, with text by f-strings and tokens
by a dictionary; it keeps whatever it draws, while ours draws until the solution template is on the right side. That the
solutions of both are right is checked by the judge. No problem is made twice.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, Settings, race
from physlm.data.streams import PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.world import IGSMWorld

SPLIT = "train"
BATCH, PEER_BATCH = 2048, 128
CONTEXT, ROWS = 320, 64
_CHECKED = 64
WORLDS: dict[str, dict[str, Any]] = {
    "med": {"max_operations": 15, "max_instances": 20},
    "hard": {"max_operations": 21, "max_instances": 28},
    "med, 23 operations": {"max_operations": 15, "max_instances": 20, "exact_operations": 23},
    "hard, 32 operations": {"max_operations": 21, "max_instances": 28, "exact_operations": 32},
}


def from_tests(name: str) -> Any:
    """A module of plain Python that the tests compare with."""
    folder = str(Path(__file__).resolve().parents[1] / "tests" / "worlds" / "igsm")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def solutions(world: IGSMWorld, problems: Sequence[Problem]) -> list[NDArray[np.integer]]:
    """What comes after <sol> in the document of each problem."""
    samples = world.renderer.documents(problems)
    documents = (samples.document(i)[0] for i in range(len(samples)))
    return [tokens[np.flatnonzero(tokens == world.vocabulary.sol)[0] + 1 :] for tokens in documents]


class Plain:
    """The peer."""

    def __init__(self, world: IGSMWorld) -> None:
        self._draw, oracle = from_tests("igsm_plain"), from_tests("igsm_oracle")
        self._words_of = oracle.words_of
        self._world = world
        self._names = world.vocabulary.names
        self._ids = {token: i for i, token in enumerate(world.vocabulary.tokens)}
        self._by_first_word = oracle.by_first_word(world.vocabulary.tokens[world.vocabulary.first_category :])

    def document(self, seed: int) -> list[int]:
        """One problem, from the draw to the tokens."""
        config, plain = self._world.config, self._draw
        force = config.exact_operations is not None
        problem, _ = plain.draw_problem(
            seed, op_max=config.exact_operations or config.max_operations, ip_max=config.max_instances, force=force
        )
        told, asked = plain.english_problem(problem, self._names), plain.english_question(problem, self._names)
        solution, answer = plain.english_solution(problem, self._names)
        text = f"<bos> {told} {asked} <sol> {solution} <ans> {answer}"
        return [self._ids[word] for word in self._words_of(text, self._by_first_word)]

    def check(self, seeds: Sequence[int]) -> None:
        """Refuse to compare anything that does not solve its own problems."""
        for seed in seeds:
            config = self._world.config
            problem, _ = self._draw.draw_problem(seed, op_max=config.max_operations, ip_max=config.max_instances)
            if not (judgement := self._world.check(problem, self.document(seed))):
                raise RuntimeError(f"the peer makes wrong solutions: {judgement.reason}")


def run(settings: Settings) -> Result:
    """Measure."""
    batch, peer_batch, rows = (64, 8, 2) if settings.quick else (BATCH, PEER_BATCH, ROWS)
    worlds = {name: IGSMWorld(IGSMConfig(seed=0, **fields)) for name, fields in WORLDS.items()}
    worlds["med, compact"] = IGSMWorld(IGSMConfig(seed=0, rendering="compact", **WORLDS["med"]))
    plain = Plain(worlds["med"])
    plain.check(range(min(_CHECKED, peer_batch)))
    for world in worlds.values():
        problems = world.problems(SPLIT, np.arange(min(_CHECKED, batch)))
        if not world.judge.check_many(problems, solutions(world, problems)).correct.all():
            raise RuntimeError("our solutions are wrong, so their speed does not matter")

    # Worlds remember what they have made for a while.
    fresh = {name: count(1) for name in (*worlds, "peer", "marked", "objects")}

    def indices(name: str, amount: int = batch) -> NDArray[np.int64]:
        return next(fresh[name]) * amount + np.arange(amount)

    stream = PackedStream(
        [Source(worlds["med"], "test")], context=CONTEXT, batch_size=rows, key=Key.of("benchmark"), overflow="cut"
    )
    marked = IGSMWorld(worlds["med"].config)
    contenders: dict[str, Any] = {
        "peer": lambda: [plain.document(seed) for seed in indices("peer", peer_batch).tolist()],
        "marked": lambda: marked.render(SPLIT, indices("marked")),
        "objects": lambda: marked.problems(SPLIT, indices("objects")),
        "packed": stream.next_batch,
    }
    for name, world in worlds.items():
        contenders[name] = lambda name=name, world=world: world.render(SPLIT, indices(name), ())
    result = race(contenders, settings.repetitions)

    amounts = {**dict.fromkeys(contenders, batch), "peer": peer_batch, "packed": rows * CONTEXT}
    rates = {name: result.rate(name, amount, "cpu") for name, amount in amounts.items()}
    # The peer makes fewer problems a turn; a ratio of times has to be scaled to one of rates.
    scale = batch / peer_batch
    length = {name: float(worlds[name].lengths_at("test", np.arange(batch)).mean()) for name in worlds}
    return Result(
        benchmark="igsm",
        unit="problems per CPU-second",
        value=rates["med"],
        peer="plain Python, dictionary",
        peer_value=rates["peer"],
        ratio=result.ratio("med", "peer", "cpu") * scale,
        parameters={
            **WORLDS["med"],
            "problems_per_batch": batch,
            "problems_per_peer_batch": peer_batch,
            "context": CONTEXT,
            "rows": rows,
        },
        details={
            "ratio_spread": [bound * scale for bound in result.spread("med", "peer", "cpu")],
            "rates": rates,
            "mean_tokens": length,
        },
        rows=[
            *((f"physlm, {name}", rates[name], None) for name in worlds if name != "med"),
            ("physlm, with marks", rates["marked"], None),
            ("physlm, as objects, not written", rates["objects"], None),
            (f"physlm, packed to {rows} × {CONTEXT}: tokens", rates["packed"], None),
        ],
    )
