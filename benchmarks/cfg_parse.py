"""Parsing sentences of a grammar: is it one, how many derivations has it; beside nltk's chart parsers.

The sentences are of cfg3f, about 350 tokens long. The peer is nltk's Earley parser, the fastest of its parsers on
them; it counts derivations by going through them, so it is given sentences with few. That both find the same number
is checked. Further rows: the judge of this package, which is plain Python and tells membership only, and nltk's
parser for inside probabilities on the short sentences that it can manage.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import MissingPeerError, Result, Settings, race
from physlm.randomness import Key
from physlm.worlds.cfg.grammar import Grammar, reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.judge import Judge
from physlm.worlds.cfg.named import grammar
from physlm.worlds.cfg.nltk_bridge import to_pcfg
from physlm.worlds.cfg.sampling import Sampler

NAME, TOKENS, BATCH, SHARED = "cfg3f", 350, 256, 8
SHORT_ROOT, MOST_DERIVATIONS = "16", 8


def sentences_of(which: Grammar, near: int, count: int) -> list[NDArray[np.int64]]:
    """The sampled sentences that are nearest in length to a number of tokens."""
    sampler = Sampler(which)
    forest = sampler.sample(Key.of("benchmark", which.name), np.arange(16 * count))
    strings = np.split(sampler.tokens(forest).astype(np.int64), forest.offsets[-1][1:-1])
    return sorted(strings, key=lambda string: abs(len(string) - near))[:count]


def nltk_parsers(name: str) -> Any:
    """A module of nltk's parsers."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPeerError("nltk is needed to compare with: pip install nltk") from error


def run(settings: Settings) -> Result:
    """Measure."""
    chart, probabilistic = nltk_parsers("nltk.parse.earleychart"), nltk_parsers("nltk.parse.pchart")
    which = reroot(grammar(NAME), SHORT_ROOT) if settings.quick else grammar(NAME)
    near, batch, shared = (30, 16, 2) if settings.quick else (TOKENS, BATCH, SHARED)
    parser, judge, theirs = Parser(which), Judge(which), to_pcfg(which)
    sentences = sentences_of(which, near, batch)
    known = parser.derivations(sentences)
    few = [sentence for sentence, count in zip(sentences, known, strict=True) if count <= MOST_DERIVATIONS][:shared]
    words = [list(which.decode(sentence)) for sentence in few]

    short = reroot(grammar(NAME), SHORT_ROOT)
    short_parser, short_theirs = Parser(short), to_pcfg(short)
    short_few = sentences_of(short, 30, shared)
    short_words = [list(short.decode(sentence)) for sentence in short_few]

    def earley() -> list[int]:
        return [sum(1 for _ in chart.EarleyChartParser(theirs).parse(string)) for string in words]

    def inside() -> list[float]:
        parse = probabilistic.InsideChartParser(short_theirs).parse
        return [sum(tree.prob() for tree in parse(string)) for string in short_words]

    if earley() != parser.derivations(few):
        raise RuntimeError("the peer counts other derivations, so its speed cannot be compared")
    if not np.allclose(inside(), 2 ** short_parser.log2_probabilities(short_few), rtol=1e-9):
        raise RuntimeError("the peer finds other probabilities, so its speed cannot be compared")

    result = race(
        {
            "ours": lambda: parser.derivations(sentences),
            "alone": lambda: parser.derivations(few[:1]),
            "shared": lambda: parser.derivations(few),
            "peer": earley,
            "best": lambda: [parser.chart(sentence).best for sentence in few],
            "nearest": lambda: parser.nearest(few[0]),
            "judge": lambda: [judge.judge(sentence) for sentence in few],
            "short": lambda: short_parser.log2_probabilities(short_few),
            "inside": inside,
        },
        settings.repetitions,
    )
    rate = {name: result.rate(name, count, "cpu") for name, count in _amounts(batch, len(few), len(short_few)).items()}
    details: dict[str, Any] = {
        "milliseconds_each_in_batch": 1000 / rate["ours"],
        "milliseconds_alone": 1000 / rate["alone"],
        "milliseconds_best_parse": 1000 / rate["best"],
        "milliseconds_nearest_sentence": 1000 / rate["nearest"],
        "milliseconds_judge": 1000 / rate["judge"],
        "milliseconds_peer": 1000 / rate["peer"],
        "ratio_spread": result.spread("shared", "peer", "cpu"),
        "ratio_to_inside_chart_parser": result.ratio("short", "inside", "cpu"),
        "mean_tokens": float(np.mean([len(sentence) for sentence in sentences])),
        "mean_tokens_short": float(np.mean([len(sentence) for sentence in short_few])),
    }
    return Result(
        benchmark="cfg-parse",
        unit="sentences per CPU-second",
        value=rate["ours"],
        peer="nltk EarleyChartParser",
        peer_value=rate["peer"],
        ratio=result.ratio("shared", "peer", "cpu"),
        parameters={"grammar": which.name, "sentences": batch, "sentences_of_peer": len(few), "tokens": near},
        details=details,
        rows=[
            ("physlm, one sentence alone", rate["alone"], None),
            ("physlm, best derivation", rate["best"], None),
            ("physlm, nearest sentence", rate["nearest"], None),
            ("physlm, judge in plain Python (membership)", rate["judge"], result.ratio("judge", "peer", "cpu")),
            ("physlm, probability, ~30 tokens", rate["short"], details["ratio_to_inside_chart_parser"]),
            ("nltk InsideChartParser, ~30 tokens", rate["inside"], None),
        ],
    )


def _amounts(batch: int, shared: int, short: int) -> dict[str, int]:
    """Sentences of every contender."""
    some = dict.fromkeys(("shared", "peer", "best", "judge"), shared)
    return {"ours": batch, "alone": 1, "nearest": 1, **some, "short": short, "inside": short}
