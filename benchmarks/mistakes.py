"""Putting wrong attempts into solutions of the iGSM world: what it costs beside making the clean documents.

The peer puts the same kind of attempts into the same clean documents, as the specification writes it, in plain Python:
a set of what is not ready before every sentence, a coin and a pick for every attempt. That the judge accepts documents
of both, and that taking our attempts out gives back the clean documents, is checked. No document is made twice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Result, Settings, race
from benchmarks.igsm import SPLIT, WORLDS, from_tests
from physlm.data.contract import Samples
from physlm.randomness import Key
from physlm.worlds.cfg import CFGConfig, CFGWorld
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.problem import Parameter, Problem
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.injection import inject
from physlm.worlds.mistakes.world import RetryWorld, retry_world

BATCH, PEER_BATCH, SENTENCES = 2048, 128, 32
RECOVERED = 100_000
RATE = 0.2
CONFIGS = {
    "retry, 0.05": RetryConfig(seed=0, rate=0.05),
    "retry, 0.2": RetryConfig(seed=0, rate=RATE),
    "retry, 0.5": RetryConfig(seed=0, rate=0.5),
    "retry_weak, 0.2": RetryConfig(seed=0, rate=RATE, kind="retry_weak"),
    "retry_miss, 0.2": RetryConfig(seed=0, rate=RATE, kind="retry_miss"),
}
_HEADLINE = "retry, 0.2"


class Plain:
    """The peer."""

    def __init__(self, world: IGSMWorld) -> None:
        self._predecessors = from_tests("igsm_problems").predecessors
        self._world = world
        vocabulary = world.vocabulary
        self._define, self._of, self._as, self._stop = map(vocabulary.id, ("Define", "'s", "as", "."))
        self._draw = random.Random(0)

    def documents(self, indices: NDArray[np.int64]) -> list[list[int]]:
        """Clean documents, and attempts in them."""
        samples, problems = self._world.render(SPLIT, indices), self._world.problems(SPLIT, indices)
        return [self._inject(samples.document(i)[0].tolist(), problem) for i, problem in enumerate(problems)]

    def _inject(self, tokens: list[int], problem: Problem) -> list[int]:
        vocabulary = self._world.vocabulary
        needs: dict[Parameter, set[Parameter]] = {p: set(self._predecessors(problem, p)) for p in problem.parameters}
        done: set[Parameter] = set()
        at = tokens.index(vocabulary.sol) + 1
        written = tokens[:at]
        for number in problem.solution:
            wrong = [p for p in problem.parameters if p not in done and not needs[p] <= done]
            while wrong and self._draw.random() < RATE:
                outer, inner = vocabulary.name(problem, wrong.pop(self._draw.randrange(len(wrong))))
                written += [self._define, outer, self._of, inner, self._as, vocabulary.back, self._stop]
            end = tokens.index(self._stop, at) + 1
            written += tokens[at:end]
            at = end
            done.add(problem.parameters[number])
        return written + tokens[at:]


def check_recovery(world: RetryWorld, indices: NDArray[np.int64]) -> None:
    """Refuse to time an injector that changes anything but what it puts in.

    Raises:
        RuntimeError: at the first document that is not the clean one once its attempts are taken out.
    """
    for start in range(0, len(indices), BATCH):
        part = indices[start : start + BATCH]
        ours, clean = world.render(SPLIT, part, ()), world.world.render(SPLIT, part)
        for i, index in enumerate(part.tolist()):
            if not np.array_equal(world.strip(ours.document(i)[0]), clean.document(i)[0]):
                raise RuntimeError(f"document {index} is another one without its attempts, so speed does not matter")


def check_judgement(world: RetryWorld, documents: Sequence[Any], indices: NDArray[np.int64]) -> None:
    """Refuse documents that the judge does not accept.

    Raises:
        RuntimeError: at the first that it does not.
    """
    for index, tokens in zip(indices.tolist(), documents, strict=True):
        if not (judgement := world.check(world.world[SPLIT, index].truth, tokens)):
            raise RuntimeError(f"document {index} is wrong: {judgement.reason}")


def run(settings: Settings) -> Result:
    """Measure."""
    batch, peer_batch, recovered, sentences = (
        (64, 8, 64, 2) if settings.quick else (BATCH, PEER_BATCH, RECOVERED, SENTENCES)
    )
    clean = IGSMWorld(IGSMConfig(seed=0, **WORLDS["med"]))
    worlds = {name: retry_world(IGSMWorld(clean.config), config) for name, config in CONFIGS.items()}
    plain = Plain(IGSMWorld(clean.config))
    checked = np.arange(peer_batch)
    check_judgement(worlds[_HEADLINE], plain.documents(checked), checked)
    for world in worlds.values():
        check_judgement(world, [world[SPLIT, i].tokens for i in checked.tolist()], checked)
        check_recovery(world, np.arange(recovered // len(worlds)))
    grammar = CFGWorld(CFGConfig(seed=0, grammar="cfg3f"))
    mistaken = retry_world(grammar, RetryConfig(seed=0, rate=RATE))

    # Worlds remember what they have made for a while, and what was checked is not made again either.
    fresh = {name: count(1 + recovered // batch) for name in (*worlds, "clean", "peer", "grammar", "clean grammar")}

    def indices(name: str, amount: int = batch) -> NDArray[np.int64]:
        return next(fresh[name]) * batch + np.arange(amount)

    errors, key = worlds[_HEADLINE].errors, Key.of("benchmark")
    parts = np.arange(errors.chunk)
    places = errors.places(SPLIT, parts)

    def injection_alone() -> list[Samples]:
        return [inject(places, key, parts + i, rate=RATE) for i in range(0, batch, errors.chunk)]

    contenders: dict[str, Any] = {
        "clean": lambda: clean.render(SPLIT, indices("clean")),
        "peer": lambda: plain.documents(indices("peer", peer_batch)),
        "injection alone": injection_alone,
        "clean grammar": lambda: grammar.render(SPLIT, indices("clean grammar", sentences)),
        "grammar": lambda: mistaken.render(SPLIT, indices("grammar", sentences)),
    }
    for name, world in worlds.items():
        contenders[name] = lambda name=name, world=world: world.render(SPLIT, indices(name))
    result = race(contenders, settings.repetitions)

    amounts = {**dict.fromkeys(contenders, batch), "peer": peer_batch, "grammar": sentences, "clean grammar": sentences}
    amounts["injection alone"] = len(range(0, batch, errors.chunk)) * errors.chunk
    rates = {name: result.rate(name, amount, "cpu") for name, amount in amounts.items()}
    overhead = {name: result.ratio("clean", name, "cpu") - 1 for name in worlds}
    scale = batch / peer_batch
    return Result(
        benchmark="mistakes",
        unit="problems with attempts per CPU-second",
        value=rates[_HEADLINE],
        peer="attempts in plain Python, into the same documents",
        peer_value=rates["peer"],
        ratio=result.ratio(_HEADLINE, "peer", "cpu") * scale,
        parameters={
            **WORLDS["med"],
            "rate": RATE,
            "problems_per_batch": batch,
            "problems_per_peer_batch": peer_batch,
            "documents_recovered": recovered,
        },
        details={
            "ratio_spread": [bound * scale for bound in result.spread(_HEADLINE, "peer", "cpu")],
            "rates": rates,
            "overhead": overhead,
            "overhead_spread": {name: [b - 1 for b in result.spread("clean", name, "cpu")] for name in worlds},
            "injection_alone_to_clean": rates["clean"] / rates["injection alone"],
        },
        rows=[
            ("physlm, clean documents", rates["clean"], None),
            *((f"physlm, {name} (overhead {overhead[name]:.0%})", rates[name], None) for name in worlds),
            ("physlm, attempts alone, documents and candidates given", rates["injection alone"], None),
            ("physlm, sentences of cfg3f, clean, all marks", rates["clean grammar"], None),
            ("physlm, sentences of cfg3f with attempts", rates["grammar"], None),
        ],
    )
