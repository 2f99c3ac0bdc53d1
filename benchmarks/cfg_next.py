"""What may come next: the exact distribution at every prefix of a sentence; beside nltk's Earley chart.

The sentences are of cfg3f, about 350 tokens long. nltk has no next-token distribution; its Earley chart of a sentence
tells which tokens are possible after every prefix, once what its edges wait for is spelled out. That both agree on
what is possible is checked; that ours gives probabilities besides is not counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cfg_parse import BATCH, NAME, SHARED, SHORT_ROOT, TOKENS, nltk_parsers, sentences_of
from benchmarks.harness import Result, Settings, race
from physlm.randomness import Key
from physlm.worlds.cfg.dense import DenseParser
from physlm.worlds.cfg.grammar import Grammar, reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.nltk_bridge import to_pcfg


def first_terminals(which: Grammar) -> dict[str, frozenset[str]]:
    """The terminals that every symbol can begin with."""
    known = {terminal: frozenset([terminal]) for terminal in which.terminals}
    for parent in reversed(which.nonterminals):  # children have been seen: the levels come from the root down
        known[parent] = frozenset().union(*(known[rule.children[0]] for rule in which.rules_of[parent]))
    return known


def possible(chart: Any, which: Grammar, begins: dict[str, frozenset[str]], length: int) -> NDArray[np.bool_]:
    """Which terminals can follow every prefix, from an nltk chart, `[length + 1, T]`."""
    found: list[set[str]] = [set() for _ in range(length + 1)]
    for edge in chart.edges():
        if edge.is_incomplete():
            found[edge.end()] |= begins[str(edge.nextsym())]
    return np.array([[terminal in symbols for terminal in which.terminals] for symbols in found])


def run(settings: Settings) -> Result:
    """Measure."""
    earley = nltk_parsers("nltk.parse.earleychart").EarleyChartParser
    which = reroot(grammar(NAME), SHORT_ROOT) if settings.quick else grammar(NAME)
    near, batch, shared = (30, 16, 2) if settings.quick else (TOKENS, BATCH, SHARED)
    parser, dense, theirs, begins = Parser(which), DenseParser(which), to_pcfg(which), first_terminals(which)
    sentences = sentences_of(which, near, batch)
    few = sentences[:shared]
    words = [list(which.decode(sentence)) for sentence in few]

    def peer() -> list[NDArray[np.bool_]]:
        charts = [earley(theirs).chart_parse(string) for string in words]
        return [possible(chart, which, begins, len(string)) for chart, string in zip(charts, words, strict=True)]

    for ours, allowed in zip(parser.next_tokens(few), peer(), strict=True):
        if not np.array_equal(ours[:, :-1] > 0, allowed):
            raise RuntimeError("the peer allows other tokens, so its speed cannot be compared")

    def token_by_token() -> None:
        prefix = parser.prefix()
        for token in few[0].tolist():
            prefix.append(token)
            _ = prefix.next_token

    drawn: list[int] = []

    def oracle() -> None:
        drawn.append(len(parser.prefix().complete(Key.of("benchmark", len(drawn)).generator())))

    result = race(
        {
            "ours": lambda: parser.next_tokens(sentences),
            "alone": lambda: parser.next_tokens(few[:1]),
            "shared": lambda: parser.next_tokens(few),
            "peer": peer,
            "stepwise": token_by_token,
            "oracle": oracle,
            "dense": lambda: dense.next_tokens(few[:1]),
        },
        settings.repetitions,
    )
    amounts = {"ours": batch, "alone": 1, "peer": len(few), "stepwise": 1, "oracle": 1, "dense": 1}
    rate = {name: result.rate(name, count, "cpu") for name, count in amounts.items()}
    details: dict[str, Any] = {
        "milliseconds_each_in_batch": 1000 / rate["ours"],
        "milliseconds_alone": 1000 / rate["alone"],
        "milliseconds_token_by_token": 1000 / rate["stepwise"],
        "milliseconds_matrix_products": 1000 / rate["dense"],
        "milliseconds_peer": 1000 / rate["peer"],
        "ratio_spread": result.spread("shared", "peer", "cpu"),
        "mean_tokens": float(np.mean([len(sentence) for sentence in sentences])),
        "mean_tokens_of_oracle": float(np.mean(drawn)),
    }
    return Result(
        benchmark="cfg-next",
        unit="sentences per CPU-second",
        value=rate["ours"],
        peer="nltk EarleyChartParser, possible tokens only",
        peer_value=rate["peer"],
        ratio=result.ratio("shared", "peer", "cpu"),
        parameters={"grammar": which.name, "sentences": batch, "sentences_of_peer": len(few), "tokens": near},
        details=details,
        rows=[
            ("physlm, one sentence alone", rate["alone"], None),
            ("physlm, token by token", rate["stepwise"], None),
            ("physlm, sampling from the exact distribution", rate["oracle"], None),
            ("physlm, matrix products in torch on this CPU", rate["dense"], None),
        ],
    )
