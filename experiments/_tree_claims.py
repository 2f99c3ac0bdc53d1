"""Claims of `cfg_probe`; thresholds were fixed before any run, for the reasons in `docs/claims/grammar-probes.md`."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments._tree_attention import BEFORE, CONTROLS, OFFSETS, SIDES, TRUE
from experiments._tree_measures import (
    CAUSAL,
    MASKED,
    Reader,
    adjacent,
    adjacent_first,
    between,
    beyond,
    beyond_controls,
    end_to_end,
    ends_beyond_elsewhere,
    excess,
    expected_layers,
    expected_steps,
    gain,
    largest,
    least_step,
    peak,
    reach_ratio,
    readable,
    short_of_exact,
    shuffled_beyond_majority,
    smallest,
    spread,
    to_ends,
    toward,
    used,
    used_ratio,
)
from physlm.lab import Claim, Requirement
from physlm.lab.claims import Measure, Predicate, Relation
from physlm.lab.experiment import Scale
from physlm.probing.results import UNTRAINED


def claims(_scale: Scale, _preset: Any) -> list[Claim]:
    """The claims."""
    learnt = Requirement(
        name="divergence from the exact next-token distribution, nats per token",
        measure=causal(lambda run: run.number("divergence")),
        relation="≤",
        threshold=0.05,
        unit="nats",
    )
    return [*_readable_claims(learnt), *_attention_claims(learnt)]


def causal(reader: Reader) -> Measure:
    """A number of the causal model."""
    return lambda runs: reader(runs[CAUSAL])


def _part(name: str, reader: Reader, relation: Relation, threshold: float, unit: str = "points") -> Predicate:
    scale = "difference" if unit == "points" else "number"
    return Predicate(name=name, measure=causal(reader), relation=relation, threshold=threshold, scale=scale, unit=unit)


def _readable_claims(learnt: Requirement) -> list[Claim]:
    return [
        Claim(
            id="CFG-6",
            statement="The ancestors of every token can be read off the states of the last layer.",
            source="1, Fig. 5",
            conditions=(CAUSAL,),
            measure=causal(short_of_exact("full", "ancestors")),
            measure_name="full read-out of ancestors, level where it is worst: exact reader minus probe",
            relation="≤",
            threshold=0.10,
            control="the model before training; shuffled labels",
            requires=(learnt,),
            parts=(
                _part(
                    "full read-out of ancestors, mean over levels: probe minus untrained model",
                    beyond("full", "ancestors", UNTRAINED),
                    "≥",
                    0.15,
                ),
                _part(
                    "full read-out of ancestors, level where it is best: shuffled labels minus majority",
                    shuffled_beyond_majority("full", "ancestors"),
                    "≤",
                    0.05,
                ),
            ),
        ),
        Claim(
            id="CFG-7",
            statement="The symbol of a constituent is stored at its end, as far as the tokens so far tell it.",
            source="1, Fig. 7",
            conditions=(CAUSAL,),
            measure=causal(short_of_exact("local", "ends")),
            measure_name="local read-out at ends, level where it is worst: exact reader minus probe",
            relation="≤",
            threshold=0.05,
            control="the model before training; tokens that are no ends; shuffled labels",
            requires=(learnt,),
            parts=(
                _part(
                    "local read-out at ends, mean over levels: probe minus untrained model",
                    beyond("local", "ends", UNTRAINED),
                    "≥",
                    0.10,
                ),
                _part("local read-out, mean over levels: ends minus elsewhere", ends_beyond_elsewhere, "≥", 0.10),
                _part(
                    "local read-out at ends, level where it is best: shuffled labels minus majority",
                    shuffled_beyond_majority("local", "ends"),
                    "≤",
                    0.05,
                ),
            ),
        ),
        Claim(
            id="CFG-7-used",
            statement="What is stored at the ends is used to predict what follows.",
            source="ours",
            conditions=(CAUSAL,),
            measure=causal(used),
            measure_name="middle block, mean over levels: rise in divergence without the probe's directions at ends, "
            "minus that without random ones",
            relation="≥",
            threshold=0.01,
            scale="number",
            unit="nats",
            control="as many random directions",
            requires=(learnt,),
            parts=(
                _part("the same as a multiple of that of the random directions that do most", used_ratio, "≥", 2.0, ""),
            ),
        ),
        Claim(
            id="CFG-8-probe",
            statement="A masked model does not store large constituents although it stores small ones.",
            source="1, Fig. 7",
            conditions=(CAUSAL, MASKED),
            measure=lambda runs: largest(runs[CAUSAL]) - largest(runs[MASKED]),
            measure_name="local read-out at ends of the largest constituents: causal minus masked",
            relation="≥",
            threshold=0.07,
            control="the causal model; the smallest constituents",
            requires=(
                learnt,
                Requirement(
                    name="local read-out at ends of the smallest constituents, masked model",
                    measure=lambda runs: smallest(runs[MASKED]),
                    relation="≥",
                    threshold=0.90,
                ),
            ),
            parts=(
                Predicate(
                    name="local read-out at ends of the smallest constituents: causal minus masked",
                    measure=lambda runs: smallest(runs[CAUSAL]) - smallest(runs[MASKED]),
                    relation="≤",
                    threshold=0.05,
                ),
            ),
        ),
        Claim(
            id="CFG-9",
            statement="The ends of constituents can be read off the states of the last layer.",
            source="1, App. C.1",
            conditions=(CAUSAL,),
            measure=causal(lambda run: float(readable(run, "full", "boundary", balanced=True).min())),
            measure_name="full read-out of ends, level where it is worst: balanced accuracy",
            relation="≥",
            threshold=0.90,
            scale="proportion",
            unit="%",
            control="the model before training; shuffled labels",
            requires=(learnt,),
            parts=(
                _part(
                    "full read-out of ends, balanced, mean over levels: probe minus untrained model",
                    beyond("full", "boundary", UNTRAINED, balanced=True),
                    "≥",
                    0.10,
                ),
                _part(
                    "full read-out of ends, balanced, level where it is best: shuffled labels minus majority",
                    shuffled_beyond_majority("full", "boundary", balanced=True),
                    "≤",
                    0.05,
                ),
            ),
        ),
        _bottom_up(
            "CFG-10-ends",
            "Of which constituents a token is the end is known of small ones first, in the layers and in training.",
            "boundary",
            "ends, balanced",
            learnt,
        ),
        _bottom_up(
            "CFG-10-symbols",
            "Symbols are at ends of small constituents first, in the layers and in training.",
            "ends",
            "symbols at ends",
            learnt,
        ),
    ]


def _bottom_up(name: str, statement: str, question: str, described: str, learnt: Requirement) -> Claim:
    return Claim(
        id=name,
        statement=statement,
        source="1, App. C.2 and C.3",
        conditions=(CAUSAL,),
        measure=causal(spread(expected_layers, question)),
        measure_name=f"{described}: expected layer, as a share of the layers: largest constituents minus smallest",
        relation="≥",
        threshold=0.10,
        scale="number",
        unit="%",
        control="the model before training",
        requires=(
            learnt,
            Requirement(
                name=f"{described}: what the last layer has beyond the embedding, level where it is least",
                measure=causal(lambda run: float(gain(run, question).min())),
                relation="≥",
                threshold=0.05,
            ),
        ),
        parts=(
            _part("the same, least of neighbouring levels", least_step(expected_layers, question), "≥", 0.0, "%"),
            _part(
                "expected step, as a share of the steps: largest constituents minus smallest",
                spread(expected_steps, question),
                "≥",
                0.10,
                "%",
            ),
            _part("the same, least of neighbouring levels, steps", least_step(expected_steps, question), "≥", 0.0, "%"),
            _part(
                "what the last layer has beyond the embedding, mean over levels: trained minus untrained model",
                lambda run: float(gain(run, question).mean() - gain(run, question, UNTRAINED).mean()),
                "≥",
                0.05,
            ),
        ),
    )


def _attention_claims(learnt: Requirement) -> list[Claim]:
    def claim(
        name: str, statement: str, source: str, reader: Reader, described: str, threshold: float, *parts: Predicate
    ) -> Claim:
        return Claim(
            id=name,
            statement=statement,
            source=source,
            conditions=(CAUSAL,),
            measure=causal(reader),
            measure_name=described,
            relation="≥",
            threshold=threshold,
            scale="number",
            unit="%",
            control="; ".join(CONTROLS),
            requires=(learnt,),
            parts=parts,
        )

    at = SIDES.index(0)
    farthest = "mean distance attended to: farthest head over nearest"
    return [
        claim(
            "CFG-11",
            "Attention is largely a matter of distance, at scales that differ between heads.",
            "1, Fig. 8",
            lambda run: float(np.mean(run.at("attention.heads.trained.share"))),
            "variance of the weights that distance explains, mean over heads",
            0.50,
            _part(farthest, reach_ratio("trained"), "≥", 4.0, ""),
            _part(f"untrained model, {farthest}", reach_ratio(BEFORE), "≤", 2.0, ""),
        ),
        claim(
            "CFG-12",
            "Beyond distance, attention goes to ends of constituents.",
            "1, Fig. 9a",
            beyond_controls(to_ends),
            "excess attention to ends, minus the largest of the controls",
            0.25,
            _part(
                "excess attention beyond ends of another sentence: to ends minus the largest to tokens beside them",
                peak(toward, (OFFSETS.index(0),)),
                "≥",
                0.0,
                "%",
            ),
        ),
        claim(
            "CFG-13",
            "It goes to ends from ends.",
            "1, Fig. 9b",
            beyond_controls(end_to_end),
            "excess attention from ends to ends of one level, minus the largest of the controls",
            0.50,
            _part(
                "excess attention beyond ends of another sentence: from ends to ends minus the largest beside them",
                peak(between, (at, at)),
                "≥",
                0.0,
                "%",
            ),
            _part(
                "excess attention between tokens that end nothing",
                lambda run: float(excess(run, TRUE, "insiders")[1]),
                "≤",
                0.05,
                "%",
            ),
        ),
        claim(
            "CFG-14",
            "It goes to the most adjacent ends, of every level.",
            "1, Fig. 9c",
            beyond_controls(adjacent_first),
            "excess attention to the most adjacent ends minus to the next, minus the largest of the controls",
            0.25,
            _part(
                "pairs of levels where the most adjacent ends get more than the next",
                lambda run: float(np.mean(np.greater(*adjacent(run)))),
                "≥",
                0.75,
                "%",
            ),
        ),
    ]
