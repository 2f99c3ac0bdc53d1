"""Scales of `cfg_mistakes`: which models are trained on what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments._grammar_attempts import Unmarked
from experiments._grammar_measures import TRAINING, Training
from experiments._grammars import SMALL_RECIPE, GrammarShape, make_world
from experiments._mistaken_texts import CLEAN, Text
from experiments._mistakes_presets import Trial
from physlm.lab.experiment import Scale
from physlm.models.positions import Deberta
from physlm.training.recipe import MuonRecipe, Recipe
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.world import CFGWorld


@dataclass(frozen=True, kw_only=True)
class GrammarMistakesPreset:
    """One scale of the experiment.

    Attributes:
        training: of every model from scratch; its context has to hold a sentence with its attempts.
        grammar: of all worlds.
        low_rate, middle_rate, high_rate: chances of one more attempt, growing.
        rank: of the low-rank update of queries and values, late; that of the embedding is twice as large.
        low_rank: recipe of that update, on text of the middle rate.
        continued: recipe of all weights, late, on that text.
        cut: tokens of a test sentence that are given.
        sentences: test sentences.
        curve_sentences: test sentences at every point of the learning curves.
    """

    training: Training
    grammar: GrammarShape
    low_rate: float = 0.1
    middle_rate: float = 0.2
    high_rate: float = 0.5
    rank: int
    low_rank: Recipe
    continued: Recipe
    cut: int
    sentences: int
    curve_sentences: int

    def __post_init__(self) -> None:
        rates = (self.low_rate, self.middle_rate, self.high_rate)
        if not 0 < rates[0] < rates[1] < rates[2] < 1:
            raise ValueError(f"rates must grow from low_rate over middle_rate to high_rate within (0, 1), got {rates}")
        for name in ("low_rank", "continued"):
            steps = getattr(self, name).steps
            if steps != self.training.recipe.steps:
                raise ValueError(
                    f"{name} must take as many steps as training, {self.training.recipe.steps}, got {steps}: late "
                    "training reads as much as that from scratch"
                )

    @property
    def trials(self) -> dict[str, Trial]:
        """All models, by condition: five texts, the control without <back>, and the clean model that goes on."""
        low, middle, high = (Text(rate=rate) for rate in (self.low_rate, self.middle_rate, self.high_rate))
        texts = (CLEAN, low, middle, high, replace(high, mask="name"), Unmarked(rate=self.middle_rate))
        late = (Trial(late=middle, rank=self.rank), Trial(late=middle))
        return {trial.name: trial for trial in (*(Trial(text=text) for text in texts), *late)}

    def world(self, seed: int) -> CFGWorld:
        """The clean world of a seed."""
        return make_world(
            CFGConfig(seed=seed, grammar=self.grammar.grammar, root=self.grammar.root, test_sentences=self.sentences)
        )


_CPU = replace(TRAINING["cpu"], context=192, batch_size=11)
PRESETS: dict[Scale, GrammarMistakesPreset] = {
    "smoke": GrammarMistakesPreset(
        training=replace(TRAINING["smoke"], context=64),
        grammar=GrammarShape(label="cfg3b from 13 on", grammar="cfg3b", root="13"),
        rank=2,
        low_rank=Recipe(steps=20, learning_rate=5e-3),
        continued=Recipe(steps=20, learning_rate=1e-3),
        cut=5,
        sentences=24,
        curve_sentences=8,
    ),
    "cpu": GrammarMistakesPreset(
        training=_CPU,
        grammar=GrammarShape(label="cfg3b from 16 on", grammar="cfg3b", root="16"),
        rank=8,
        # The rate of the biographies, whose models are as wide; not tuned.
        low_rank=Recipe(steps=SMALL_RECIPE.steps, learning_rate=5e-3, warmup_steps=50, weight_decay=0.01),
        continued=MuonRecipe(
            steps=SMALL_RECIPE.steps,
            learning_rate=SMALL_RECIPE.learning_rate / 2,
            matrix_learning_rate=SMALL_RECIPE.matrix_learning_rate / 2,
            warmup_steps=50,
        ),
        cut=10,
        sentences=500,
        curve_sentences=100,
    ),
    "gpu": GrammarMistakesPreset(
        training=replace(TRAINING["gpu"], context=1536, batch_size=32),
        grammar=GrammarShape(label="cfg3b", grammar="cfg3b"),
        rank=16,
        low_rank=Recipe(steps=5000, learning_rate=2e-3, warmup_steps=500, weight_decay=0.01),
        continued=Recipe(steps=5000, learning_rate=1.5e-4, warmup_steps=500),
        cut=50,
        sentences=2000,
        curve_sentences=200,
    ),
    "paper": GrammarMistakesPreset(
        training=replace(TRAINING["paper"], context=1536, batch_size=32, position=Deberta(distances=1536)),
        grammar=GrammarShape(label="cfg3b", grammar="cfg3b"),
        rank=16,
        low_rank=Recipe(steps=100_000, learning_rate=1e-3, warmup_steps=500, weight_decay=0.01),
        continued=Recipe(steps=100_000, learning_rate=1.5e-4, schedule="linear", final_fraction=0.0),
        cut=50,
        sentences=20_000,
        curve_sentences=500,
    ),
}
