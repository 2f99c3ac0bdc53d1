"""Claims of `cfg_mistakes`, with thresholds fixed before any seed was run.

Nothing is published for grammars, so that no threshold can be a share of a known effect: 3 points are what 500
sentences tell apart at five seeds, and whatever says that nothing changes has to lie within them on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from experiments._grammar_attempts_presets import GrammarMistakesPreset
from experiments._mistaken_texts import CLEAN
from experiments._noisy_prefixes import CLEAN_PREFIX, COLD, NO_PREFIX, WARM
from experiments.cfg_robustness import Cell, accuracy, gap
from physlm.lab import Claim, Requirement, RunMetrics
from physlm.lab.claims import Predicate
from physlm.lab.experiment import Scale

CORE = ("MIS-CFG-1", "MIS-CFG-2", "MIS-CFG-3", "MIS-CFG-4")

Runs = Mapping[str, RunMetrics]


def share_of_text(condition: str, task: str, temperature: float) -> Callable[[Runs], float]:
    """Attempts for each token that is kept, as a share of those in the text."""

    def measure(runs: Runs) -> float:
        run = runs[condition]
        return run.number(f"accuracy.{task}.{temperature:g}.attempts") / run.number(f"attempts_in_text.{task}")

    return measure


def claims(_scale: Scale, preset: GrammarMistakesPreset) -> list[Claim]:
    """The claims, with thresholds fixed before any seed was run."""
    low, middle, high = (f"retry_{rate:g}" for rate in (preset.low_rate, preset.middle_rate, preset.high_rate))
    percent = {name: f"{100 * float(name.removeprefix('retry_')):g} %" for name in (low, middle, high)}
    clean, masked, unmarked = CLEAN.name, f"{high}_masked", f"unmarked_{preset.middle_rate:g}"
    low_rank, full = f"late/{middle}/rank{preset.rank}", f"late/{middle}/full"

    def own(condition: str) -> Cell:
        return Cell(condition, NO_PREFIX, WARM)

    def cold(condition: str) -> Cell:
        return Cell(condition, CLEAN_PREFIX, COLD)

    def part(name: str, first: Cell, second: Cell, threshold: float, control: str = "") -> Predicate:
        return Predicate(name=name, measure=gap(first, second), relation="≥", threshold=threshold, control=control)

    def alike(name: str, first: Cell, second: Cell) -> Predicate:
        return Predicate(name=name, measure=gap(first, second), relation="between", threshold=(-0.03, 0.03))

    def share(name: str, measure: Callable[[Runs], float], least: float, most: float) -> Predicate:
        return Predicate(
            name=name,
            measure=measure,
            relation="between" if least else "≤",
            threshold=(least, most) if least else most,
            scale="number",
            unit="%",
            control="the text",
        )

    def back(condition: str, after: str) -> Callable[[Runs], float]:
        return lambda runs: runs[condition].number(f"taken_back.{after}")

    has_room = Requirement(
        name="clean text, own sentences: neither nothing nor nearly everything right",
        measure=accuracy(own(clean)),
        relation="between",
        threshold=(0.3, 0.95),
    )
    can_differ = Requirement(
        name=f"{percent[high]}, own sentences: neither nothing nor everything right",
        measure=accuracy(own(high)),
        relation="between",
        threshold=(0.05, 0.99),
    )
    few = share(
        f"{percent[middle]}, temperature {COLD}: attempts as a share of the text's",
        share_of_text(middle, CLEAN_PREFIX, COLD),
        0,
        0.25,
    )
    return [
        Claim(
            id="MIS-CFG-1",
            statement="Mistakes that are taken back make a model's own sentences better, and more of them do no harm.",
            source="after 2.2, Fig. 4; new for grammars",
            conditions=(clean, low, middle, high),
            measure=gap(own(middle), own(clean)),
            measure_name=f"own sentences: {percent[middle]} minus clean text",
            relation="≥",
            threshold=0.03,
            control="clean text",
            requires=(has_room,),
            parts=(
                part(f"own sentences: {percent[low]} minus clean text", own(low), own(clean), 0.015),
                part(f"own sentences: {percent[high]} minus {percent[middle]}", own(high), own(middle), 0.0),
                part(
                    f"completions at temperature {COLD}: {percent[middle]} minus clean text",
                    cold(middle),
                    cold(clean),
                    -0.03,
                ),
            ),
        ),
        Claim(
            id="MIS-CFG-2",
            statement="It is taking back that counts: <back> comes after wrong tokens and not after right ones, and "
            "wrong tokens without it are worth less.",
            source="new for grammars",
            conditions=(clean, middle, unmarked),
            measure=gap(cold(middle), cold(unmarked)),
            measure_name=f"completions at temperature {COLD}: {percent[middle]} taken back minus not",
            relation="≥",
            threshold=0.02,
            control="the same wrong tokens, not taken back",
            requires=(has_room,),
            parts=(
                Predicate(
                    name=f"{percent[middle]}: chance of <back> after wrong tokens of the text",
                    measure=back(middle, "wrong"),
                    relation="≥",
                    threshold=0.95,
                    scale="proportion",
                    unit="%",
                ),
                Predicate(
                    name=f"{percent[middle]}: chance of <back> after right tokens",
                    measure=back(middle, "right"),
                    relation="≤",
                    threshold=0.01,
                    scale="proportion",
                    unit="%",
                ),
            ),
        ),
        Claim(
            id="MIS-CFG-3",
            statement="Asked for the most likely tokens a model hardly makes any attempts; drawn, it makes as many as "
            "its text.",
            source="after 2.2, Fig. 5; new for grammars",
            conditions=(low, middle, high),
            measure=few.measure,
            measure_name=few.name,
            relation=few.relation,
            threshold=few.threshold,
            scale=few.scale,
            unit=few.unit,
            control=few.control,
            parts=tuple(
                share(
                    f"{percent[name]}, own sentences: attempts as a share of the text's",
                    share_of_text(name, NO_PREFIX, WARM),
                    0.8,
                    1.2,
                )
                for name in (low, middle, high)
            ),
        ),
        Claim(
            id="MIS-CFG-4",
            statement="Whether attempts bear loss hardly matters to what is written in the end, only to how often "
            "something is taken back.",
            source="after 2.2, Figs. 4 and 5; new for grammars",
            conditions=(clean, high, masked),
            measure=gap(own(masked), own(high)),
            measure_name=f"own sentences, {percent[high]}: masked minus not",
            relation="between",
            threshold=(-0.03, 0.03),
            control="loss on everything",
            requires=(has_room, can_differ),
            parts=(
                alike(
                    f"completions at temperature {COLD}, {percent[high]}: masked minus not", cold(masked), cold(high)
                ),
                share(
                    f"{percent[high]} masked, own sentences: attempts as a share of the text's",
                    share_of_text(masked, NO_PREFIX, WARM),
                    0,
                    0.25,
                ),
            ),
        ),
        Claim(
            id="MIS-CFG-5",
            statement="A low-rank update comes too late; all weights, late, learn it.",
            source="after 2.2, Figs. 7 and 10; new for grammars",
            conditions=(clean, middle, low_rank, full),
            measure=gap(own(middle), own(low_rank)),
            measure_name=f"own sentences: {percent[middle]} from scratch minus low-rank update",
            relation="≥",
            threshold=0.03,
            control="all weights, the same text and tokens",
            requires=(has_room,),
            parts=(
                part("own sentences: all weights minus low-rank update", own(full), own(low_rank), 0.03),
                part(
                    f"own sentences: all weights late minus {percent[middle]} from scratch", own(full), own(middle), 0.0
                ),
            ),
        ),
    ]
