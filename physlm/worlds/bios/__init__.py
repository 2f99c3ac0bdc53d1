"""Biographies: people, six attributes, sentences, augmentation and questions (parts 3.1 and 3.2).

Example:
    >>> world = BiographyWorld(BiographyConfig(seed=0, people=1000, variant="multi5+permute"))
    >>> sample = world["biographies", 0]
    >>> world.tokenizer.decode(sample.tokens).count(".")
    6
"""

from physlm.worlds.bios.config import BiographyConfig, world_texts
from physlm.worlds.bios.people import Person, Question
from physlm.worlds.bios.pools import PoolSizes
from physlm.worlds.bios.rendering import MARKS, Role
from physlm.worlds.bios.variants import VARIANTS, Variant
from physlm.worlds.bios.world import BiographyWorld, sample_texts

__all__ = [
    "MARKS",
    "VARIANTS",
    "BiographyConfig",
    "BiographyWorld",
    "Person",
    "PoolSizes",
    "Question",
    "Role",
    "Variant",
    "sample_texts",
    "world_texts",
]
