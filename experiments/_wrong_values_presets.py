"""Scales of `bio_mistakes`: which texts are read, and by which models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments._biographies import BiographyPreset, make_world
from experiments._biography_presets import PRESETS as BIOGRAPHIES
from experiments._mistaken_texts import CLEAN, Text
from experiments._wrong_values import SameValues
from physlm.lab.experiment import Scale
from physlm.worlds.bios import BiographyWorld


@dataclass(frozen=True, kw_only=True)
class BiographyMistakesPreset:
    """One scale of the experiment.

    Attributes:
        biographies: world, model and mixed training of every model.
        variant: how biographies are told.
        middle_rate, high_rate: chances of one more attempt, growing.
        exposures: copies of every biography and question, ≥ 2, in all texts, so that the order of reading is the same;
            the wrong values differ from copy to copy but where a text says otherwise.
    """

    biographies: BiographyPreset
    variant: str = "single"
    middle_rate: float = 0.2
    high_rate: float = 0.5
    exposures: int

    def __post_init__(self) -> None:
        if not 0 < self.middle_rate < self.high_rate < 1:
            raise ValueError(
                f"rates must be 0 < middle_rate < high_rate < 1, got {self.middle_rate} and {self.high_rate}"
            )
        if self.exposures < 2:
            raise ValueError(f"exposures must be ≥ 2, got {self.exposures}: wrong values would always be the same")

    @property
    def texts(self) -> dict[str, Text]:
        """What each model reads, by condition."""
        middle, high = Text(rate=self.middle_rate), Text(rate=self.high_rate)
        texts = (CLEAN, middle, high, replace(high, mask="name"), SameValues(rate=self.high_rate))
        return {text.name: text for text in texts}

    def world(self, seed: int) -> BiographyWorld:
        """The clean world of a seed."""
        return make_world(self.biographies.world.config(seed, variant=self.variant))


_SMOKE = BIOGRAPHIES["smoke"]
PRESETS: dict[Scale, BiographyMistakesPreset] = {
    "smoke": BiographyMistakesPreset(biographies=replace(_SMOKE, model=replace(_SMOKE.model, context=96)), exposures=4),
    # More than the readings of a biography; a question is read a few times in each version.
    "cpu": BiographyMistakesPreset(biographies=BIOGRAPHIES["cpu"], exposures=40),
    "gpu": BiographyMistakesPreset(biographies=BIOGRAPHIES["gpu"], exposures=120),
    "paper": BiographyMistakesPreset(biographies=BIOGRAPHIES["paper"], exposures=120),
}
