"""Sampling sentences of a grammar: ours level by level for thousands at once, the peers one after another.

The peer is what one writes first: a stack of symbols, expanded with `random.choices` over the rules of each symbol.
nltk has no sampler (`nltk.parse.generate` enumerates a language), so the usual recipe on an `nltk.PCFG` is timed beside
it. Like is compared with like, token ids without marks; what all marks cost is told besides. Sentences of every
contender are checked to be of the language.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from nltk.grammar import PCFG, Nonterminal
from numpy.typing import NDArray

from benchmarks.harness import Result, Settings, race
from physlm.data.streams import PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.judge import Judge
from physlm.worlds.cfg.nltk_bridge import to_pcfg
from physlm.worlds.cfg.world import CFGWorld

GRAMMARS = ("cfg3b", "cfg3f", "cfg3e1")
HEADLINE = "cfg3f"
SPLIT = "train"
BATCH, PEER_BATCH = 16_384, 200
SENTENCES = 100_000
CONTEXT, ROWS = 512, 96
_CHECKED = 3


def expand(grammar: Grammar, generator: random.Random, count: int) -> list[list[int]]:
    """Sentences one by one, as token ids."""
    numbers = {terminal: 1 + i for i, terminal in enumerate(grammar.terminals)}
    rules = {
        parent: ([rule.children for rule in group], [rule.probability for rule in group])
        for parent, group in grammar.rules_of.items()
    }
    sentences = []
    for _ in range(count):
        stack, sentence = [grammar.root], []
        while stack:
            symbol = stack.pop()
            if symbol in rules:
                (children,) = generator.choices(*rules[symbol])
                stack.extend(reversed(children))
            else:
                sentence.append(numbers[symbol])
        sentences.append(sentence)
    return sentences


def expand_with_nltk(grammar: PCFG, generator: random.Random, count: int) -> list[list[str]]:
    """Sentences one by one, as terminals, by looking up the productions of nltk."""
    sentences = []
    for _ in range(count):
        stack, sentence = [grammar.start()], []
        while stack:
            symbol = stack.pop()
            if isinstance(symbol, Nonterminal):
                productions = list(grammar.productions(lhs=symbol))
                (chosen,) = generator.choices(productions, [production.prob() for production in productions])
                stack.extend(reversed(chosen.rhs()))
            else:
                sentence.append(symbol)
        sentences.append(sentence)
    return sentences


def check(grammar: Grammar, sentences: Iterable[Sequence[int] | NDArray[np.integer]]) -> None:
    """Refuse to compare anything that does not make sentences of the language."""
    judge = Judge(grammar)
    for sentence in sentences:
        if not (judgement := judge.judge(sentence)):
            raise RuntimeError(f"a contender makes sentences that are not of {grammar.name}: {judgement.reason}")


def run(settings: Settings) -> Result:
    """Measure."""
    batch, peer_batch, sentences = (64, 4, 1_000) if settings.quick else (BATCH, PEER_BATCH, SENTENCES)
    worlds = {name: CFGWorld(CFGConfig(seed=0, grammar=name, sentences=sentences)) for name in GRAMMARS}
    world = worlds[HEADLINE]
    grammar, listed = world.grammar, to_pcfg(world.grammar)
    # In any order, as a shuffled stream reads them.
    indices = Key.of("benchmark").generator().permutation(sentences)[:batch]
    stream = PackedStream([Source(world, SPLIT)], context=CONTEXT, batch_size=ROWS, key=Key.of("benchmark"))

    for made in worlds.values():
        check(made.grammar, made.sentences(SPLIT, indices[:_CHECKED]))
    ours = {name: len(made.render(SPLIT, indices, ()).tokens) for name, made in worlds.items()}
    theirs = expand(grammar, random.Random(0), peer_batch)
    with_nltk = expand_with_nltk(listed, random.Random(0), peer_batch)
    check(grammar, theirs[:_CHECKED])
    check(grammar, [grammar.encode(sentence) for sentence in with_nltk[:_CHECKED]])

    contenders: dict[str, Any] = {
        "peer": lambda: expand(grammar, random.Random(0), peer_batch),
        "nltk": lambda: expand_with_nltk(listed, random.Random(0), peer_batch),
        "packed": stream.next_batch,
        "lengths": lambda: world.lengths_at(SPLIT, indices),
    }
    for name, made in worlds.items():
        contenders[name] = lambda made=made: made.render(SPLIT, indices, ())
        contenders[f"{name}, marked"] = lambda made=made: made.render(SPLIT, indices)
    result = race(contenders, settings.repetitions)

    amounts = {"peer": sum(map(len, theirs)), "nltk": sum(map(len, with_nltk)), "packed": ROWS * CONTEXT}
    amounts |= {"lengths": ours[HEADLINE]}
    amounts |= {name: ours[name] for name in GRAMMARS} | {f"{name}, marked": ours[name] for name in GRAMMARS}
    rates = {name: result.rate(name, amount, "cpu") for name, amount in amounts.items()}

    def ratio(name: str) -> float:
        # The peer makes fewer tokens a turn; a ratio of times has to be scaled to one of rates.
        return result.ratio(name, "peer", "cpu") * amounts[name] / amounts["peer"]

    spread = [bound * amounts[HEADLINE] / amounts["peer"] for bound in result.spread(HEADLINE, "peer", "cpu")]
    return Result(
        benchmark="cfg-sample",
        unit="tokens per CPU-second",
        value=rates[HEADLINE],
        peer="one by one, random.choices",
        peer_value=rates["peer"],
        ratio=ratio(HEADLINE),
        parameters={
            "grammar": HEADLINE,
            "sentences_per_batch": batch,
            "sentences_per_peer_batch": peer_batch,
            "marks": len(world.marks),
            "context": CONTEXT,
            "rows": ROWS,
        },
        details={
            "ratio_spread": spread,
            "rates": rates,
            "tokens_per_batch": ours[HEADLINE],
            "mean_length": float(np.mean([len(sentence) for sentence in theirs])),
        },
        rows=[
            ("another peer: one by one, nltk.PCFG", rates["nltk"], None),
            *((f"physlm, {name}", rates[name], ratio(name)) for name in GRAMMARS),
            *(
                (f"physlm, {name}, {len(made.marks)} marks", rates[f"{name}, marked"], ratio(f"{name}, marked"))
                for name, made in worlds.items()
            ),
            ("physlm, lengths alone", rates["lengths"], ratio("lengths")),
            (f"physlm, packed to {ROWS} × {CONTEXT}", rates["packed"], ratio("packed")),
        ],
    )
