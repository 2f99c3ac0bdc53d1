"""Presets of `igsm_reasoning` by scale, and the names of its conditions.

How the `cpu` preset was found is in `docs/lab-notes.md`; `paper` follows 2.1, App. F.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments._igsm import Practice, Reasoner
from physlm.lab.experiment import Scale
from physlm.models.canon import Canon
from physlm.training.recipe import MuonRecipe, Recipe
from physlm.worlds.igsm.config import IGSMConfig

DEEP, WIDE, TEMPLATES, LIMITS = "deep", "wide", "templates", "limits"


@dataclass(frozen=True, kw_only=True)
class ReasoningPreset:
    """One scale of the experiment.

    Attributes:
        practice: world, training and number of test problems.
        deep, wide: models of about the same number of parameters, the first of more layers.
        beyond: numbers of operations that are only tested.
        template_world: the world whose solution templates are counted.
        templates: how many of its problems are compared.
    """

    practice: Practice
    deep: Reasoner
    wide: Reasoner
    beyond: tuple[int, ...]
    template_world: IGSMConfig
    templates: int

    def __post_init__(self) -> None:
        if self.deep.layers <= self.wide.layers:
            raise ValueError(
                f"deep must have more layers than wide, got {self.deep.layers} and {self.wide.layers} layers"
            )
        most = self.practice.world.max_operations
        if not self.beyond or min(self.beyond) <= most or list(self.beyond) != sorted(set(self.beyond)):
            raise ValueError(f"beyond must be growing numbers of operations above {most}, got {self.beyond}")

    @property
    def reasoners(self) -> dict[str, Reasoner]:
        """The models by condition."""
        return {DEEP: self.deep, WIDE: self.wide}

    @property
    def operations(self) -> tuple[int, ...]:
        """Numbers of operations that are tested."""
        return (*self.practice.trained_operations, *self.beyond)


_MED = IGSMConfig(seed=0)
_HARDEST_MED = replace(_MED, exact_operations=15)
"""The paper's own world, whose templates are counted at every scale; of few operations there are few templates."""
PRESETS: dict[Scale, ReasoningPreset] = {
    "smoke": ReasoningPreset(
        practice=Practice(
            world=IGSMConfig(
                seed=0,
                max_operations=3,
                max_instances=6,
                modulus=5,
                categorizations=1,
                names_per_category=4,
                rendering="compact",
            ),
            batch_size=4,
            recipe=Recipe(steps=20, learning_rate=3e-3),
            problems=8,
            curve_problems=4,
            log_points=2,
        ),
        deep=Reasoner(layers=2, heads=2, width=16, context=128),
        wide=Reasoner(layers=1, heads=2, width=24, context=128),
        beyond=(4,),
        template_world=_HARDEST_MED,
        templates=1000,
    ),
    "cpu": ReasoningPreset(
        # How this came about is told in docs/lab-notes.md.
        practice=Practice(
            world=IGSMConfig(
                seed=0,
                max_operations=4,
                max_instances=5,
                modulus=5,
                categorizations=1,
                names_per_category=4,
                letters=6,  # as many as the longest problems need
                shuffled_letters=False,  # else one in ten solutions of 4 operations uses a letter twice
                rendering="compact",
            ),
            batch_size=16,
            recipe=MuonRecipe(steps=6000, learning_rate=3e-3, matrix_learning_rate=0.02, warmup_steps=50),
            problems=500,
            curve_problems=100,
        ),
        deep=Reasoner(layers=4, heads=3, width=96, context=128, initial_std=0.1, canon=Canon()),
        wide=Reasoner(layers=2, heads=4, width=136, context=128, initial_std=0.1, canon=Canon()),
        beyond=(5, 6),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
    "gpu": ReasoningPreset(
        practice=Practice(
            world=replace(_MED, rendering="compact"),
            batch_size=128,
            recipe=MuonRecipe(steps=10_000, learning_rate=1e-3, matrix_learning_rate=0.02, warmup_steps=500),
            problems=1000,
            curve_problems=200,
        ),
        deep=Reasoner(layers=8, heads=6, width=384, context=512),
        wide=Reasoner(layers=2, heads=12, width=768, context=512),
        beyond=(18, 20, 22),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
    "paper": ReasoningPreset(
        practice=Practice(
            world=_MED,
            batch_size=512,
            # 2.1, App. F; the context is what 768 tokens of its tokenizer hold, in words.
            recipe=Recipe(
                steps=100_000,
                learning_rate=2e-3,
                warmup_steps=1000,
                betas=(0.9, 0.98),
                weight_decay=0.05,
                final_fraction=0.01,
            ),
            whole_loss=True,
            problems=4096,
            curve_problems=500,
        ),
        deep=Reasoner(layers=12, heads=12, width=768, context=768),
        wide=Reasoner(layers=4, heads=21, width=1344, context=768),
        beyond=(20, 21, 22, 23),
        template_world=_HARDEST_MED,
        templates=1_000_000,
    ),
}
