"""Scales of `igsm_mistakes`: which models are trained on what, and how they are asked.

World, model and training are those of `igsm_reasoning`, shorter at `cpu` scale; every model is trained alike, on
another text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments._igsm import Practice, Reasoner
from experiments._mistaken_texts import CLEAN, Text
from experiments._reasoning_presets import PRESETS as REASONING
from experiments._regret_detectors import DetectorTraining
from physlm.lab.experiment import Scale
from physlm.probing.heads import ProbeTraining
from physlm.training.recipe import MuonRecipe, Recipe
from physlm.worlds.mistakes import Kind

Decoding = Literal["greedy", "beams", "regret", "detector"]
"""The most likely tokens; the likeliest text that beam search finds; the most likely tokens, where a sentence that a
detector objects to is deleted and drawn again: a perfect detector, or one that was trained."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How one model is made and asked.

    Attributes:
        text: what it reads from scratch.
        budgets: how many times the usual tokens.
        late: what it reads after that, if anything.
        rank: of the low-rank update that is trained on `late`; `None` for all weights.
        decoding: how solutions are written.
    """

    text: Text = CLEAN
    budgets: int = 1
    late: Text | None = None
    rank: int | None = None
    decoding: Decoding = "greedy"

    @property
    def base(self) -> str:
        """What the model from scratch is called, which several trials may share."""
        return self.text.name if self.budgets == 1 else f"double/{self.text.name}"

    @property
    def name(self) -> str:
        """The condition."""
        if self.late is not None:
            return f"late/{self.late.name}/{'full' if self.rank is None else f'rank{self.rank}'}"
        return self.base if self.decoding == "greedy" else f"{self.base}/{self.decoding}"

    @property
    def options(self) -> dict[str, Any]:
        """All of it as JSON."""
        late = "none" if self.late is None else self.late.name
        return {"text": self.base, "late": late, "rank": self.rank, "decoding": self.decoding}


@dataclass(frozen=True, kw_only=True)
class MistakesPreset:
    """One scale of the experiment.

    Attributes:
        practice: world, training and number of test problems.
        reasoner: the model.
        hard: numbers of operations of the test problems that claims are about, growing.
        low_rate, middle_rate, high_rate: chances of one more attempt, growing.
        further_rates: more of them, for the paper's whole table; no claim reads these.
        ranks: of the low-rank updates of queries and values, growing; that of the embedding is twice as large.
        low_rank: training of these updates, on text of the middle rate.
        continued: training of all weights on that text.
        beams: of beam search.
        most_deletions: how many sentences of a solution may be deleted upon regret.
        detector: how the detector is trained.
        loss_batches: batches on which the loss on a text is measured.
    """

    practice: Practice
    reasoner: Reasoner
    hard: tuple[int, ...]
    low_rate: float = 0.1
    middle_rate: float = 0.2
    high_rate: float = 0.5
    further_rates: tuple[float, ...] = ()
    ranks: tuple[int, ...]
    low_rank: Practice
    continued: Practice
    beams: int = 4
    most_deletions: int = 10
    detector: DetectorTraining
    loss_batches: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.low_rate < self.middle_rate < self.high_rate < 1:
            raise ValueError(
                "rates must be 0 < low_rate < middle_rate < high_rate < 1, got "
                f"{self.low_rate}, {self.middle_rate} and {self.high_rate}"
            )
        for name in ("hard", "ranks"):
            numbers = getattr(self, name)
            if not numbers or list(numbers) != sorted(set(numbers)):
                raise ValueError(f"{name} must be growing numbers, at least one, got {numbers}")
        for name in ("low_rank", "continued"):
            practice = getattr(self, name)
            if self.windows(practice) != self.windows(self.practice):
                raise ValueError(
                    f"{name} must read as many windows as practice, {self.windows(self.practice)}, got "
                    f"{self.windows(practice)}: comparisons are at equal tokens"
                )

    @staticmethod
    def windows(practice: Practice) -> int:
        """Windows that a training reads."""
        return practice.recipe.steps * practice.batch_size

    def budget(self, trial: Trial) -> Practice:
        """How a trial's model is trained from scratch."""
        recipe = self.practice.recipe
        return replace(self.practice, recipe=replace(recipe, steps=trial.budgets * recipe.steps))

    def text(self, rate: float, kind: Kind = "retry", *, masked: bool = False) -> Text:
        """The text with these attempts."""
        return Text(rate=rate, kind=kind, mask="head" if masked else "none")

    @property
    def trials(self) -> dict[str, Trial]:
        """All of them, by condition."""
        low, middle, high = self.low_rate, self.middle_rate, self.high_rate
        rates = sorted({low, middle, high, *self.further_rates})
        retry = [self.text(rate) for rate in rates]
        weak = [self.text(rate, "retry_weak") for rate in (low, high, *self.further_rates)]
        miss = [self.text(rate, "retry_miss") for rate in (low, high, *self.further_rates)]
        masked = [self.text(rate, masked=True) for rate in (high, *self.further_rates)]
        trials = [Trial(text=text) for text in (CLEAN, *retry, *weak, *miss, *masked)]
        trials += [Trial(decoding="beams"), Trial(decoding="regret"), Trial(decoding="detector")]
        trials += [Trial(text=self.text(high), decoding="beams")]
        once = self.text(middle)
        trials += [Trial(late=once, rank=rank) for rank in (*self.ranks, None)]
        trials += [Trial(late=self.text(middle, masked=True), rank=self.ranks[0]), Trial(text=once, budgets=2)]
        return {trial.name: trial for trial in trials}


def _slower(practice: Practice) -> Practice:
    """The same at half the learning rates, as in the paper (D.3)."""
    recipe = practice.recipe
    changes = {"learning_rate": recipe.learning_rate / 2}
    if isinstance(recipe, MuonRecipe):
        changes["matrix_learning_rate"] = recipe.matrix_learning_rate / 2
    return replace(practice, recipe=replace(recipe, **changes))


def _low_rank(practice: Practice, learning_rate: float) -> Practice:
    """Low-rank updates are trained by AdamW."""
    recipe = practice.recipe
    return replace(
        practice,
        recipe=Recipe(
            steps=recipe.steps, learning_rate=learning_rate, warmup_steps=recipe.warmup_steps, weight_decay=0.05
        ),
    )


def _preset(scale: Scale, practice: Practice, low_rank: Practice, **changes: Any) -> MistakesPreset:
    return MistakesPreset(
        practice=practice,
        reasoner=REASONING[scale].deep,
        low_rank=low_rank,
        continued=_slower(practice),
        **changes,
    )


_SMOKE, _GPU, _PAPER = (REASONING[scale].practice for scale in ("smoke", "gpu", "paper"))
# Enough for 88 % of problems as in training and 39 % of the hardest (docs/lab-notes.md).
_CPU = replace(REASONING["cpu"].practice, recipe=replace(REASONING["cpu"].practice.recipe, steps=2500))
PRESETS: dict[Scale, MistakesPreset] = {
    "smoke": _preset(
        "smoke",
        _SMOKE,
        _low_rank(_SMOKE, 5e-3),
        hard=(REASONING["smoke"].practice.world.max_operations, REASONING["smoke"].beyond[0]),
        ranks=(2, 4),
        detector=DetectorTraining(fitted=40, asked=20, training=ProbeTraining(steps=3, batch_size=4)),
        loss_batches=2,
    ),
    "cpu": _preset(
        "cpu",
        _CPU,
        # The rate of the biography experiments, whose models are of width 64; not tuned here.
        _low_rank(_CPU, 5e-3),
        # What is hard at this scale are solution templates that were never trained on; with more operations than
        # trained, the clean model solves next to nothing (docs/lab-notes.md).
        hard=(REASONING["cpu"].practice.world.max_operations,),
        ranks=(4, 16),
        detector=DetectorTraining(
            fitted=20_000, asked=2000, training=ProbeTraining(steps=600, batch_size=32, learning_rate=0.01)
        ),
    ),
    "gpu": _preset(
        "gpu",
        _GPU,
        _low_rank(_GPU, 2e-3),
        hard=REASONING["gpu"].beyond,
        ranks=(4, 64),
        detector=DetectorTraining(
            fitted=100_000, asked=4000, training=ProbeTraining(steps=3000, batch_size=64, learning_rate=5e-3)
        ),
    ),
    "paper": _preset(
        "paper",
        _PAPER,
        # 2.2, D.3.
        replace(_PAPER, batch_size=256, recipe=replace(_PAPER.recipe, steps=200_000, learning_rate=1e-3)),
        hard=REASONING["paper"].beyond,
        further_rates=(0.05, 0.4),
        ranks=(4, 8, 16, 32, 64, 128, 256),
        # 2.2, App. D.2, version 1.
        detector=DetectorTraining(
            fitted=500_000, asked=4096, training=ProbeTraining(steps=100_000, batch_size=256, learning_rate=2e-3)
        ),
    ),
}
