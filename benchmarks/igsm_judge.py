"""Judging solutions of the iGSM world: values, predecessors and all, from the problem as it is drawn.

Right solutions take longest, as a judge stops at the first mistake; wrong ones have one token changed. The peer is a
judge in plain Python that reads text, which is what the tests hold ours against; both must say the same of all.
"""

from __future__ import annotations

import random

import numpy as np

from benchmarks.harness import Result, Settings, race
from benchmarks.igsm import WORLDS, from_tests
from physlm.worlds.igsm.judge import Verdicts

BATCH, PEER_BATCH = 2000, 100


def run(settings: Settings) -> Result:
    """Measure."""
    batch, peer_batch = (64, 8) if settings.quick else (BATCH, PEER_BATCH)
    fuzz = from_tests("igsm_fuzz")
    draw = random.Random(0)
    arena, hard = (fuzz.Arena(name, 0, batch, draw) for name in ("med", "hard"))
    long = fuzz.Arena("long", 0, batch, draw)
    wrong = [arena.mutator.replace_number(list(solution), None) for solution in arena.solutions]
    judge, compact = arena.judges["english"], arena.judges["compact"]
    short = arena.written(arena.problems, "compact")
    texts = [arena.vocabulary.decode(solution) for solution in arena.solutions]
    arrays = [np.array(solution) for solution in arena.solutions]

    def peer() -> list[str | None]:
        arena.oracles.clear()  # it has to read the problem, as ours has to
        return [arena.oracle(i).judge(texts[i])[0] for i in range(peer_batch)]

    def ours() -> Verdicts:
        return judge.check_many(arena.problems, arrays)

    if peer() != [verdict.reason for verdict in ours()[:peer_batch]]:
        raise RuntimeError("the peer judges otherwise, so its speed cannot be compared")
    for solutions in (arena.solutions, wrong):
        for i, verdict in enumerate(judge.check_many(arena.problems, solutions)[:peer_batch]):
            if difference := arena.difference(i, solutions[i], verdict, strict=True):
                raise RuntimeError(f"the peer judges otherwise, so its speed cannot be compared: {difference}")

    result = race(
        {
            "ours": ours,
            "verdicts": lambda: list(ours()),
            "lists": lambda: judge.check_many(arena.problems, arena.solutions),
            "lenient": lambda: judge.check_many(arena.problems, arrays, strict=False),
            "wrong": lambda: judge.check_many(arena.problems, wrong),
            "compact": lambda: compact.check_many(arena.problems, short),
            "hard": lambda: hard.judges["english"].check_many(hard.problems, hard.solutions),
            "long": lambda: long.judges["english"].check_many(long.problems, long.solutions),
            "alone": lambda: [judge.check(*pair) for pair in zip(arena.problems, arrays, strict=True)],
            "text": lambda: [judge.check_text(*pair) for pair in zip(arena.problems, texts, strict=True)],
            "peer": peer,
        },
        settings.repetitions,
    )
    amounts = {name: peer_batch if name == "peer" else batch for name in result.cpu}
    rates = {name: result.rate(name, amount, "cpu") for name, amount in amounts.items()}
    scale = batch / peer_batch
    return Result(
        benchmark="igsm-judge",
        unit="solutions per CPU-second",
        value=rates["ours"],
        peer="plain Python, on text",
        peer_value=rates["peer"],
        ratio=result.ratio("ours", "peer", "cpu") * scale,
        parameters={**WORLDS["med"], "solutions_per_batch": batch, "solutions_per_peer_batch": peer_batch},
        details={
            "ratio_spread": [bound * scale for bound in result.spread("ours", "peer", "cpu")],
            "rates": rates,
            "mean_tokens": float(np.mean([len(solution) for solution in arena.solutions])),
        },
        rows=[
            ("physlm, with verdicts as objects", rates["verdicts"], None),
            ("physlm, tokens in lists", rates["lists"], None),
            ("physlm, lenient", rates["lenient"], None),
            ("physlm, a number changed", rates["wrong"], None),
            ("physlm, compact", rates["compact"], None),
            ("physlm, hard", rates["hard"], None),
            ("physlm, 32 operations", rates["long"], None),
            ("physlm, one by one", rates["alone"], None),
            ("physlm, one by one, as text", rates["text"], None),
        ],
    )
