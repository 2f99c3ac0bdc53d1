"""Claims of `bio_probe`; thresholds were fixed before any run, for the reasons in `docs/claims/biography-probes.md`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from experiments._biography_probe_measures import (
    ALONE,
    CELEBRITIES,
    NAMES,
    POSITIONS,
    Right,
    agreement,
    at_names,
    at_positions,
    minus,
    readable_layer,
    removed_beyond,
    share,
    whole_at_start,
    worst_cell,
)
from experiments.bio_celebrity import MINORITY_VARIANTS
from experiments.bio_qa import memorised
from physlm.lab import Claim, Requirement
from physlm.lab.claims import Predicate, Relation, Threshold
from physlm.lab.experiment import Scale
from physlm.probing.results import CONTROL_TASK, MAJORITY, SHUFFLED, UNTRAINED

Recalled = Callable[..., Requirement]
ONCE, OFTEN = "single", "multi5+permute"


def claims(scale: Scale, preset: Any) -> list[Claim]:
    """The claims; where values have several words, also one about whole values."""
    demanding = scale in ("gpu", "paper")
    recalled = partial(memorised, threshold=0.99 if demanding else 0.97)
    found = [_positions(recalled, demanding)]
    if preset.biographies.world.value_form == "full":
        found.append(_whole(recalled))
    return [
        *found,
        _couples(recalled, demanding),
        _extraction(recalled, tuple(preset.biographies.variants)),
        _used(recalled),
        _celebrities(recalled, demanding),
    ]


def _difference(
    name: str, first: Right, second: Right, relation: Relation, threshold: Threshold, control: str
) -> Predicate:
    """A difference of two accuracies, paired by person."""
    return Predicate(name=name, measure=minus(first, second), relation=relation, threshold=threshold, control=control)


def _positions(recalled: Recalled, demanding: bool) -> Claim:
    once, often = f"{POSITIONS}/{ONCE}", f"{POSITIONS}/{OFTEN}"
    gain = 0.80 if demanding else 0.30
    start = "P-probing at position 0 for what is not told next"
    parts = [
        _difference(
            f"{ONCE}, {start}: probe minus majority",
            at_positions(once, "start"),
            at_positions(once, "start", MAJORITY),
            "≤",
            0.05,
            MAJORITY,
        ),
        Predicate(
            name=f"{ONCE}, P-probing for what is told next",
            measure=share(at_positions(once, "before")),
            relation="≥",
            threshold=0.95 if demanding else 0.80,
            scale="proportion",
            unit="%",
        ),
        _difference(
            f"{OFTEN}, {start}: probe minus {UNTRAINED}",
            at_positions(often, "start"),
            at_positions(often, "start", UNTRAINED),
            "≥",
            gain,
            UNTRAINED,
        ),
        _difference(
            f"{OFTEN}, {start}: {SHUFFLED} minus majority",
            at_positions(often, "start", SHUFFLED),
            at_positions(often, "start", MAJORITY),
            "≤",
            0.05,
            MAJORITY,
        ),
    ]
    if demanding:
        parts.append(
            Predicate(
                name=f"{OFTEN}, P-probing, position and attribute where it is worst",
                measure=worst_cell(often),
                relation="≥",
                threshold=0.95,
                scale="proportion",
                unit="%",
            )
        )
    else:
        # With many people to a first name, its random label is a fact that can be learnt, and says nothing any more.
        parts.append(
            _difference(
                f"{OFTEN}, {start}: probe minus {CONTROL_TASK}",
                at_positions(often, "start"),
                at_positions(often, "start", CONTROL_TASK),
                "≥",
                0.10,
                CONTROL_TASK,
            )
        )
    return Claim(
        id="BIO-11",
        statement="Told in several ways, all facts can be read as soon as the name was told; told once, only right "
        "before they are told.",
        source="3.1, Fig. 5",
        conditions=(often, once),
        measure=minus(at_positions(often, "start"), at_positions(once, "start")),
        measure_name=f"{start}: {OFTEN} minus {ONCE}",
        relation="≥",
        threshold=gain,
        control="told once; majority; untrained model; shuffled labels; control task",
        requires=(recalled(once, often),),
        parts=tuple(parts),
    )


def _whole(recalled: Recalled) -> Claim:
    once, often = f"{POSITIONS}/{ONCE}", f"{POSITIONS}/{OFTEN}"
    return Claim(
        id="BIO-12",
        statement="It is the same with whole values, which can be read a little less well than their first tokens.",
        source="3.1, Fig. 13(c)",
        conditions=(often, once),
        measure=lambda runs: whole_at_start(runs[often]) - whole_at_start(runs[once]),
        measure_name=f"P-probing at position 0 for whole values: {OFTEN} minus {ONCE}",
        relation="≥",
        threshold=0.50,
        control="told once",
        requires=(recalled(once, often),),
        parts=(
            Predicate(
                name=f"{OFTEN}, P-probing at position 0: whole values minus their first tokens",
                measure=lambda runs: whole_at_start(runs[often]) - whole_at_start(runs[often], "first"),
                relation="between",
                threshold=(-0.20, 0.02),
                control="first tokens",
            ),
        ),
    )


def _couples(recalled: Recalled, demanding: bool) -> Claim:
    once, often = f"{POSITIONS}/couple1", f"{POSITIONS}/couple5"
    second = "P-probing for the second of a pair"
    return Claim(
        id="BIO-13",
        statement="Told in pairs, the second fact cannot be read before the first was told, whatever else was.",
        source="3.1, Fig. 6 and 15",
        conditions=(once, often),
        measure=minus(at_positions(once, "partner"), at_positions(once, "start")),
        measure_name=f"couple1, {second}: once the first is told minus at position 0",
        relation="≥",
        threshold=0.50 if demanding else 0.30,
        control="the same probe before the first is told",
        requires=(recalled(once, often),),
        parts=(
            _difference(
                f"couple5, {second}: once the first is told minus at position 0",
                at_positions(often, "partner"),
                at_positions(often, "start"),
                "≥",
                0.10,
                "the same probe before the first is told",
            ),
            _difference(
                f"couple5, {second}: once others are told minus at position 0",
                at_positions(often, "others"),
                at_positions(often, "start"),
                "between",
                (-0.10, 0.10),
                "the same probe before anything is told",
            ),
        ),
    )


def _extraction(recalled: Recalled, variants: tuple[str, ...]) -> Claim:
    names = tuple(f"{NAMES}/{variant}" for variant in variants)
    return Claim(
        id="BIO-14",
        statement="What can be read behind the name alone is what the model can be taught to answer.",
        source="3.1, Fig. 7",
        conditions=names,
        measure=agreement(names),
        measure_name=f"held-out people, {len(names)} ways of telling and all attributes: correlation of Q-probing and "
        "answers after finetuning",
        relation="≥",
        threshold=0.80,
        scale="number",
        unit="",
        control="the probe of the untrained model",
        requires=(recalled(*names),),
        parts=(
            Predicate(
                name="the same of the probe of the untrained model",
                measure=agreement(names, UNTRAINED),
                relation="≤",
                threshold=0.50,
                scale="number",
                unit="",
                control="answers",
            ),
        ),
    )


def _used(recalled: Recalled) -> Claim:
    often = f"{NAMES}/{OFTEN}"
    fall = "fall in the log-probability of what is told after the name"
    return Claim(
        id="BIO-14-used",
        statement="What can be read at the end of the name is used to tell it.",
        source="ours",
        conditions=(often,),
        measure=removed_beyond(often, "random"),
        measure_name=f"{OFTEN}, middle block: {fall}, without the directions of its probe minus without random ones",
        relation="≥",
        threshold=0.10,
        scale="number",
        unit="nats",
        control="as many random directions; those of another attribute",
        requires=(
            recalled(often),
            Requirement(
                name="linear probes at the end of the name, middle block: trained minus untrained model",
                measure=readable_layer(often),
                relation="≥",
                threshold=0.10,
                unit="points",
            ),
        ),
        parts=(
            Predicate(
                name=f"the same: {fall}, without its directions minus without those of another attribute",
                measure=removed_beyond(often, "other"),
                relation="≥",
                threshold=0.0,
                scale="number",
                unit="nats",
                control="the directions of another attribute",
            ),
        ),
    )


def _celebrities(recalled: Recalled, demanding: bool) -> Claim:
    among, alone = f"{CELEBRITIES}/{MINORITY_VARIANTS[0]}", f"{ALONE}/{MINORITY_VARIANTS[0]}"
    gain = 0.50 if demanding else 0.20
    return Claim(
        id="BIO-18",
        statement="Celebrities told in many ways bring the facts of a minority told once to its names.",
        source="3.1, Fig. 18 and 19",
        conditions=(among, alone),
        measure=minus(at_names(among), at_names(alone)),
        measure_name="minority told once in random order, Q-probing: with celebrities minus without",
        relation="≥",
        threshold=gain,
        control="the same minority data without celebrities",
        requires=(recalled(among, alone),),
        parts=(
            _difference(
                "the same, P-probing at position 0 for what is not told next",
                at_positions(among, "start"),
                at_positions(alone, "start"),
                "≥",
                gain,
                "the same minority data without celebrities",
            ),
            _difference(
                "with celebrities, Q-probing: probe minus untrained model",
                at_names(among),
                at_names(among, UNTRAINED),
                "≥",
                gain,
                UNTRAINED,
            ),
        ),
    )
