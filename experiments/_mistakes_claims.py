"""Claims of `igsm_mistakes`, with thresholds fixed before any seed was run.

A threshold is about half of what the paper reports at its largest number of operations, mean over its four data sets,
unless the paper says that two numbers agree or gives none; the page of the claims has both numbers side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments._igsm_comparisons import FAMILIAR, REASK, Runs, accuracy, gap, set_of
from experiments._mistakes_comparisons import (
    best_of,
    long_share,
    ratio,
    retries_per_solution,
    right_after_chains,
    share_of_text,
    unnecessary,
)
from experiments._mistakes_presets import MistakesPreset, Trial
from physlm.lab import Claim, Requirement
from physlm.lab.claims import Predicate, number_of
from physlm.lab.experiment import Scale

CORE = ("MIS-2", "MIS-4", "MIS-5", "MIS-7", "MIS-8")

_ALIKE = 0.03  # by how much accuracies may differ that the paper says agree


def claims(scale: Scale, preset: MistakesPreset) -> list[Claim]:
    """The claims at a scale."""
    low, middle, high = preset.low_rate, preset.middle_rate, preset.high_rate
    demanding = scale in ("gpu", "paper")
    hard = [set_of(number) for number in preset.hard]
    everything = [FAMILIAR, *hard]
    problems = f"{' and '.join(map(str, preset.hard))} operations" if len(hard) < 3 else "more operations than trained"

    clean, once = Trial().name, preset.text(middle)
    beams, regret, trained = (Trial(decoding=how).name for how in ("beams", "regret", "detector"))
    retry = {rate: preset.text(rate).name for rate in (low, middle, high)}
    weak = {rate: preset.text(rate, "retry_weak").name for rate in (low, high)}
    miss = {rate: preset.text(rate, "retry_miss").name for rate in (low, high)}
    masked = preset.text(high, masked=True).name
    beams_of_retry = Trial(text=preset.text(high), decoding="beams").name
    ranks = [Trial(late=once, rank=rank).name for rank in preset.ranks]
    masked_rank = Trial(late=preset.text(middle, masked=True), rank=preset.ranks[0]).name
    full, double = Trial(late=once).name, Trial(text=once, budgets=2).name

    percent = {rate: f"{100 * rate:g} %" for rate in (low, middle, high)}
    some_rank = "low-rank finetuning at its best rank"

    def part(name: str, first: str, second: str, threshold: float, names: Sequence[str] = hard) -> Predicate:
        return Predicate(name=name, measure=gap(first, second, names), relation="≥", threshold=threshold)

    def alike(name: str, first: str, second: str) -> Predicate:
        return Predicate(name=name, measure=gap(first, second, hard), relation="between", threshold=(-_ALIKE, _ALIKE))

    def below(name: str, first: str, second: str, threshold: float) -> Predicate:
        return Predicate(name=name, measure=gap(first, second, hard), relation="≤", threshold=threshold)

    knows_world = Requirement(
        name="clean text: new problems as in training, right in every step",
        measure=accuracy(clean, [FAMILIAR]),
        relation="≥",
        threshold=0.95 if demanding else 0.8,
    )
    has_room = Requirement(
        name=f"clean text, {problems}: neither nothing nor nearly everything solved",
        measure=accuracy(clean, hard),
        relation="between",
        threshold=(0.05, 0.95),
    )
    comparable = (knows_world, has_room)
    solves_some = {
        rate: Requirement(
            name=f"attempts at {percent[rate]}, {problems}: right in every step",
            measure=accuracy(retry[rate], hard),
            relation="≥",
            threshold=0.05,
        )
        for rate in retry
    }
    has_read = tuple(
        Requirement(
            name=f"{name}: loss on the text after finetuning, as a share of that before",
            measure=lambda runs, name=name: (
                runs[name].number("text_loss.after") / runs[name].number("text_loss.before")
            ),
            relation="≤",
            threshold=0.9,
        )
        for name in ranks
    )

    def best_rank(runs: Runs) -> str:
        return best_of(runs, ranks, hard)

    return [
        Claim(
            id="MIS-1",
            statement="Deleting what a perfect detector objects to, and drawing it again, helps a model of clean text; "
            "beam search does not.",
            source="2.2, Fig. 3",
            conditions=(clean, regret, beams),
            measure=gap(regret, clean, hard),
            measure_name=f"{problems}: retry upon regret minus greedy",
            relation="≥",
            threshold=0.04,
            control="beam search",
            requires=comparable,
            parts=(alike(f"{problems}: {preset.beams} beams minus greedy", beams, clean),),
        ),
        Claim(
            id="MIS-1-trained",
            statement="A detector that was trained helps, too, but less than a perfect one.",
            source="2.2, Fig. 3",
            conditions=(clean, regret, trained),
            measure=gap(trained, clean, hard),
            measure_name=f"{problems}: retry upon regret with a trained detector minus greedy",
            relation="≥",
            threshold=0.0,
            control="the perfect detector",
            requires=(
                *comparable,
                Requirement(
                    name="detector: accuracy about parameters named after canonical sentences, balanced",
                    measure=number_of(trained, "detector.balanced"),
                    relation="≥",
                    threshold=0.9,
                ),
            ),
            parts=(part(f"{problems}: perfect detector minus trained detector", regret, trained, 0.03),),
        ),
        Claim(
            id="MIS-2",
            statement="The more mistakes that are taken back in the training text, the more hard problems are solved.",
            source="2.2, Fig. 4",
            conditions=(clean, *retry.values()),
            measure=gap(retry[high], clean, hard),
            measure_name=f"{problems}: attempts at {percent[high]} minus clean text",
            relation="≥",
            threshold=0.06,
            control="clean text, as many tokens",
            requires=comparable,
            parts=(
                part(f"the same at {percent[middle]}", retry[middle], clean, 0.05),
                part(f"{problems}: {percent[high]} minus {percent[low]}", retry[high], retry[low], 0.03),
                part(
                    f"new problems as in training: {percent[high]} minus clean text",
                    retry[high],
                    clean,
                    -_ALIKE,
                    [FAMILIAR],
                ),
            ),
        ),
        Claim(
            id="MIS-3",
            statement="What mistakes in the text teach shows in greedy solutions; beam search is not needed.",
            source="2.2, footnote 20",
            conditions=(retry[high], beams_of_retry),
            measure=gap(beams_of_retry, retry[high], hard),
            measure_name=f"attempts at {percent[high]}, {problems}: {preset.beams} beams minus greedy",
            relation="between",
            threshold=(-_ALIKE, _ALIKE),
            control="the same model",
            requires=(solves_some[high],),
        ),
        Claim(
            id="MIS-4",
            statement="A model of text with mistakes hardly makes any.",
            source="2.2, Fig. 5",
            conditions=(retry[middle], retry[high]),
            measure=share_of_text(retry[middle], hard),
            measure_name=f"attempts at {percent[middle]}, {problems}: those in right solutions, as a share of "
            "the text's on these problems",
            relation="≤",
            threshold=0.25,
            scale="number",
            unit="%",
            control="the training text on the same problems",
            requires=(solves_some[middle], solves_some[high]),
            parts=(
                Predicate(
                    name=f"the same at {percent[high]}",
                    measure=share_of_text(retry[high], hard),
                    relation="≤",
                    threshold=0.5,
                    scale="number",
                    unit="%",
                ),
            ),
        ),
        Claim(
            id="MIS-4-mask",
            statement="Without loss on what was attempted fewer attempts are made, and as much is solved.",
            source="2.2, Figs. 4 and 5",
            conditions=(retry[high], masked),
            measure=lambda runs: ratio(
                retries_per_solution(runs, masked, hard), retries_per_solution(runs, retry[high], hard)
            ),
            measure_name=f"attempts at {percent[high]}: those in a right solution with masked loss, as a share of "
            "those without",
            relation="≤",
            threshold=0.5,
            scale="number",
            unit="%",
            control="the same text with loss on everything",
            requires=(solves_some[high],),
            parts=(alike(f"{problems}: masked minus not", masked, retry[high]),),
        ),
        Claim(
            id="MIS-5",
            statement="Solutions stay the shortest: mistakes in the text teach no unnecessary steps.",
            source="2.2, Fig. 6",
            conditions=(clean, *retry.values()),
            measure=unnecessary(list(retry.values()), hard[0]),
            measure_name=f"unnecessary operations in a right solution of {preset.hard[0]}, most of {len(retry)} rates",
            relation="≤",
            threshold=0.02 if demanding else 0.05,
            scale="number",
            unit="",
            control="clean text",
            requires=tuple(solves_some.values()),
            parts=(
                Predicate(
                    name=f"another question asked: unnecessary operations, {percent[high]} minus clean text",
                    measure=lambda runs: unnecessary([retry[high]], REASK)(runs) - unnecessary([clean], REASK)(runs),
                    relation="≤",
                    threshold=0.1,
                    scale="number",
                    unit="",
                ),
            ),
        ),
        Claim(
            id="MIS-6",
            statement="To have learnt from mistakes is more than to draw again what a perfect detector objects to.",
            source="2.2, Result 6",
            conditions=(clean, regret, beams, retry[high]),
            measure=gap(retry[high], regret, hard),
            measure_name=f"{problems}: attempts at {percent[high]} minus retry upon regret on clean text",
            relation="≥",
            threshold=0.02,
            control="beam search on clean text",
            requires=comparable,
            parts=(
                part(
                    f"{problems}: attempts at {percent[high]} minus beam search on clean text", retry[high], beams, 0.06
                ),
            ),
        ),
        Claim(
            id="MIS-7",
            statement="Finetuning comes too late: low-rank updates of a clean model gain nothing from mistakes.",
            source="2.2, Figs. 7 and 10",
            conditions=(clean, retry[middle], *ranks, full),
            measure=lambda runs: gap(retry[middle], best_rank(runs), hard)(runs),
            measure_name=f"{problems}: pretraining on attempts at {percent[middle]} minus {some_rank}",
            relation="≥",
            threshold=0.04,
            control="all weights trained on the same text for as long",
            requires=(*comparable, *has_read),
            parts=(
                Predicate(
                    name=f"{problems}: {some_rank} minus clean text",
                    measure=lambda runs: gap(best_rank(runs), clean, hard)(runs),
                    relation="≤",
                    threshold=0.015,
                ),
                below(f"{problems}: rank {preset.ranks[0]} minus clean text", ranks[0], clean, 0.0),
                Predicate(
                    name=f"{problems}: all weights trained on minus {some_rank}",
                    measure=lambda runs: gap(full, best_rank(runs), hard)(runs),
                    relation="≥",
                    threshold=0.05,
                ),
            ),
        ),
        Claim(
            id="MIS-7-full",
            statement="Training all weights on mistakes late is no better than having them in the text throughout.",
            source="2.2, Fig. 7",
            conditions=(clean, full, double),
            measure=gap(full, double, hard),
            measure_name=f"{problems}: clean text, then attempts at {percent[middle]}, minus twice as many "
            "tokens of the latter",
            relation="≤",
            threshold=0.015,
            control="as many tokens in all",
            requires=comparable,
        ),
        Claim(
            id="MIS-7-mask",
            statement="Without loss on what is attempted, low-rank finetuning does less harm.",
            source="2.2, Figs. 7 and 10",
            conditions=(clean, ranks[0], masked_rank),
            measure=gap(masked_rank, ranks[0], hard),
            measure_name=f"{problems}: rank {preset.ranks[0]} with masked loss minus without",
            relation="≥",
            threshold=0.05,
            control="the same text with loss on everything",
            requires=comparable,
        ),
        Claim(
            id="MIS-8",
            statement="Attempts at what comes later, right or wrong, help as well if they are few, and harm if many.",
            source="2.2, Fig. 8",
            conditions=(clean, retry[low], *weak.values(), miss[high]),
            measure=gap(weak[low], clean, hard),
            measure_name=f"{problems}: attempts at what comes later, {percent[low]}, minus clean text",
            relation="≥",
            threshold=0.04,
            control="attempts that are always wrong; attempts at any parameter",
            requires=comparable,
            parts=(
                part(f"the same minus attempts that are wrong, {percent[low]}", weak[low], retry[low], -_ALIKE),
                below(
                    f"{problems}: attempts at what comes later, {percent[high]}, minus clean text",
                    weak[high],
                    clean,
                    -0.14,
                ),
                below(
                    f"{problems}: attempts at any parameter, {percent[high]}, minus clean text",
                    miss[high],
                    clean,
                    -0.02,
                ),
            ),
        ),
        Claim(
            id="MIS-8-miss",
            statement="Attempts at what comes later teach more than attempts at any parameter.",
            source="2.2, Fig. 8",
            conditions=(clean, weak[low], miss[low]),
            measure=gap(weak[low], miss[low], hard),
            measure_name=f"{problems}: attempts at what comes later minus attempts at any parameter, {percent[low]}",
            relation="≥",
            threshold=0.03,
            control="clean text",
            requires=comparable,
        ),
        Claim(
            id="MIS-9",
            statement="A model takes back several attempts in a row, and then goes on rightly more often than not.",
            source="2.2, section 4",
            conditions=(retry[high],),
            measure=right_after_chains(retry[high], everything),
            measure_name=f"attempts at {percent[high]}: right sentences after two or more in a row",
            relation="≥",
            threshold=0.5,
            scale="proportion",
            unit="%",
            control="the training text, where half of the places with attempts have two or more",
            requires=(solves_some[high],),
            parts=(
                Predicate(
                    name="places with two or more, of those with any",
                    measure=long_share(retry[high], everything),
                    relation="≥",
                    threshold=0.05,
                    scale="number",
                    unit="%",
                ),
            ),
        ),
    ]
