"""Claims of `cfg_probe`; thresholds were fixed before any run, for the reasons in `docs/claims/grammar-probes.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments._tree_attention import BEFORE, CONTROLS, FOREIGN, OFFSETS, SIDES, TRUE, nearest_and_next
from experiments._tree_probes import expected_place
from physlm.lab import Claim, Requirement, RunMetrics
from physlm.lab.claims import Measure, Predicate, Relation
from physlm.lab.experiment import Scale
from physlm.probing.results import MAJORITY, SHUFFLED, UNTRAINED

CAUSAL, MASKED = "causal", "masked"

Runs = Mapping[str, RunMetrics]
Reader = Callable[[RunMetrics], float]
Array = NDArray[np.float64]


def levels(run: RunMetrics) -> list[int]:
    """Probed levels, from the largest constituents."""
    return [int(level) for level in run.at("levels")]


def readable(run: RunMetrics, readout: str, question: str, of: str = "accuracy", *, balanced: bool = False) -> Array:
    """Accuracy of the last layer, or of a control, by level."""
    rows = [run.at(f"{readout}.{question}.{level}") for level in levels(run)]
    values = [(row["balanced"] if balanced else row)[of] for row in rows]
    return np.array([value[-1] if isinstance(value, list) else value for value in values], dtype=np.float64)


def short_of_exact(readout: str, question: str) -> Reader:
    """How far the probe is behind the exact reader, at the level where it is farthest."""
    return lambda run: float(
        (readable(run, readout, question, "exact") - readable(run, readout, question)).max(initial=-np.inf)
    )


def beyond(readout: str, question: str, control: str, *, balanced: bool = False) -> Reader:
    """How much better the probe is than a control, mean over levels."""
    return lambda run: float(
        np.mean(
            readable(run, readout, question, balanced=balanced)
            - readable(run, readout, question, control, balanced=balanced)
        )
    )


def shuffled_beyond_majority(readout: str, question: str, *, balanced: bool = False) -> Reader:
    """How much better than the majority a probe of shuffled labels is, at the level where it is best."""

    def read(run: RunMetrics) -> float:
        shuffled, majority = (readable(run, readout, question, of, balanced=balanced) for of in (SHUFFLED, MAJORITY))
        return float((shuffled - majority).max())

    return read


def ends_beyond_elsewhere(run: RunMetrics) -> float:
    """Local probes: accuracy at ends minus accuracy elsewhere, mean over levels."""
    return float(np.mean(readable(run, "local", "ends") - readable(run, "local", "elsewhere")))


def gain(run: RunMetrics, of: str = "accuracy") -> Array:
    """What the last layer has at ends beyond the first, by level."""
    rows = [run.at(f"local.ends.{level}.{of}") for level in levels(run)]
    return np.array([row[-1] - row[0] for row in rows])


def expected_layers(run: RunMetrics) -> Array:
    """Expected layer of every level, as a share of all layers."""
    rows = [run.at(f"local.ends.{level}.accuracy") for level in levels(run)]
    return np.array([expected_place(row, np.linspace(0, 1, len(row)).tolist()) for row in rows])


def expected_steps(run: RunMetrics) -> Array:
    """Expected step of every level, as a share of all steps."""
    curve = run.at("curve")
    steps = [point["step"] / curve[-1]["step"] for point in curve]
    return np.array([expected_place([point["ends"][str(level)] for point in curve], steps) for level in levels(run)])


def spread(places: Callable[[RunMetrics], Array]) -> Reader:
    """How much later the largest constituents are there than the smallest."""
    return lambda run: float(places(run)[0] - places(run)[-1])


def least_step(places: Callable[[RunMetrics], Array]) -> Reader:
    """The same of neighbouring levels, where it is least."""
    return lambda run: float((-np.diff(places(run))).min(initial=np.inf))


def ablated(run: RunMetrics) -> tuple[Array, Array]:
    """Rise in divergence in the middle block, by level; and of random directions, `[levels, sets]`."""
    blocks = run.at("ablation")
    rows = blocks[str(len(blocks) // 2)]
    chosen = [rows[str(level)] for level in levels(run)]
    return np.array([row["effect"] for row in chosen]), np.array([row["random effects"] for row in chosen])


def used(run: RunMetrics) -> float:
    """Rise in divergence beyond that of random directions, mean over levels."""
    effect, random = ablated(run)
    return float(effect.mean() - random.mean())


def used_ratio(run: RunMetrics) -> float:
    """Rise in divergence over that of the random directions that do most, both means over levels."""
    effect, random = ablated(run)
    return float(effect.mean() / max(random.max(axis=1).mean(), 1e-9))


def excess(run: RunMetrics, ends: str, kind: str) -> Array:
    """Excess attention of a class of pairs, with ends as they are or a control."""
    return np.array(run.at("attention.excess")[ends][kind], dtype=np.float64)


def larger(values: Array) -> Array:
    """Without the level just above the terminals, whose ends are too dense to have anything beside them."""
    return values[: max(1, len(values) - 1)]


def toward(run: RunMetrics, ends: str = TRUE) -> Array:
    """Excess attention to tokens by their offset from ends, mean over larger levels."""
    return larger(excess(run, ends, "toward")).mean(axis=0)


def between(run: RunMetrics, ends: str = TRUE) -> Array:
    """The same from ends to ends, by both offsets."""
    return larger(excess(run, ends, "between")).mean(axis=0)


def adjacent(run: RunMetrics, ends: str = TRUE) -> tuple[Array, Array]:
    """Excess attention from ends to the most adjacent and to the next ends, by pair of larger levels, flat."""
    values = larger(larger(excess(run, ends, "adjacent")).swapaxes(0, 1)).swapaxes(0, 1)
    nearest, following = (of.ravel() for of in nearest_and_next(values))
    there = np.isfinite(nearest) & np.isfinite(following)
    return nearest[there], following[there]


def to_ends(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention to ends."""
    return float(toward(run, ends)[OFFSETS.index(0)])


def end_to_end(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention from ends to ends."""
    at = SIDES.index(0)
    return float(between(run, ends)[at, at])


def adjacent_first(run: RunMetrics, ends: str = TRUE) -> float:
    """Excess attention to the most adjacent ends minus that to the next, mean over pairs of levels."""
    nearest, following = adjacent(run, ends)
    return float(np.mean(nearest - following))


def beyond_controls(measure: Callable[[RunMetrics, str], float]) -> Reader:
    """A measure with ends as they are, minus its largest among the controls."""
    return lambda run: measure(run, TRUE) - max(measure(run, control) for control in CONTROLS)


def peak(measure: Callable[..., Array], at: tuple[int, ...]) -> Reader:
    """A value minus the largest beside it, each beyond that with the ends of another sentence.

    Late tokens get less attention than early ones at the same distance, and ends of larger constituents are late; ends
    of another sentence are as late.
    """

    def read(run: RunMetrics) -> float:
        values = measure(run) - measure(run, FOREIGN)
        others = values.copy()
        others[at] = np.nan
        return float(values[at] - np.nanmax(others))

    return read


def reach_ratio(of: str) -> Reader:
    """Mean distance of what heads attend to: the farthest head over the nearest."""

    def ratio(run: RunMetrics) -> float:
        reach = np.array(run.at("attention.heads")[of]["reach"])
        return float(reach.max() / reach.min())

    return ratio


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
            measure=lambda runs: _largest(runs[CAUSAL]) - _largest(runs[MASKED]),
            measure_name="local read-out at ends of the largest constituents: causal minus masked",
            relation="≥",
            threshold=0.07,
            control="the causal model; the smallest constituents",
            requires=(
                learnt,
                Requirement(
                    name="local read-out at ends of the smallest constituents, masked model",
                    measure=lambda runs: _smallest(runs[MASKED]),
                    relation="≥",
                    threshold=0.90,
                ),
            ),
            parts=(
                Predicate(
                    name="local read-out at ends of the smallest constituents: causal minus masked",
                    measure=lambda runs: _smallest(runs[CAUSAL]) - _smallest(runs[MASKED]),
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
        Claim(
            id="CFG-10",
            statement="Small constituents are there first, in the layers and in training.",
            source="1, App. C.2 and C.3",
            conditions=(CAUSAL,),
            measure=causal(spread(expected_layers)),
            measure_name="expected layer at ends, as a share of the layers: largest constituents minus smallest",
            relation="≥",
            threshold=0.10,
            scale="number",
            unit="%",
            control="the model before training",
            requires=(
                learnt,
                Requirement(
                    name="what the last layer has at ends beyond the embedding, level where it is least",
                    measure=causal(lambda run: float(gain(run).min())),
                    relation="≥",
                    threshold=0.05,
                ),
            ),
            parts=(
                _part("the same, least of neighbouring levels", least_step(expected_layers), "≥", 0.0, "%"),
                _part(
                    "expected step at ends, as a share of the steps: largest constituents minus smallest",
                    spread(expected_steps),
                    "≥",
                    0.10,
                    "%",
                ),
                _part("the same, least of neighbouring levels of steps", least_step(expected_steps), "≥", 0.0, "%"),
                _part(
                    "what the last layer has beyond the embedding, mean over levels: trained minus untrained model",
                    lambda run: float(gain(run).mean() - gain(run, UNTRAINED).mean()),
                    "≥",
                    0.05,
                ),
            ),
        ),
    ]


def _largest(run: RunMetrics) -> float:
    return float(readable(run, "local", "ends")[0])


def _smallest(run: RunMetrics) -> float:
    return float(readable(run, "local", "ends")[-1])


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
