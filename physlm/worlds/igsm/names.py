"""The names of the iGSM world: chains of categories, and the items of each category.

- A *categorization* is a chain of four categories, each of things that are inside those of the category before.
- A category has groups of names that go together; the items of one layer of a problem come from one group.
- The names are data, our own; a reduced world takes the first of every category.

Source: Physics of Language Models 2.1, §2.1 and App. D.1.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from dataclasses import dataclass

CATEGORIZATIONS = 4
CATEGORIES = 4
"""Categories in each categorization, and so the most layers that a problem has."""
LARGEST_GROUP = 20
MOST_NAMES = 100
"""Names in a category."""


@dataclass(frozen=True)
class Names:
    """Names in use.

    Attributes:
        categories: for every categorization the names of its categories, outermost first.
        items: for every categorization and category the names of its items.
        groups: sizes of the groups of a category, alike for all; the items are listed group after group.
    """

    categories: tuple[tuple[str, ...], ...]
    items: tuple[tuple[tuple[str, ...], ...], ...]
    groups: tuple[int, ...]


@functools.cache
def load_names(categorizations: int = CATEGORIZATIONS, per_category: int = MOST_NAMES) -> Names:
    """The first categorizations, with the first names of each group.

    Args:
        categorizations: how many, 1 to 4.
        per_category: names of each category, 1 to 100, in as few groups of at most 20 names as they fit, as even as
            can be.
    """
    text = importlib.resources.files("physlm.worlds.igsm").joinpath("data", "names.json").read_text("utf-8")
    chains = json.loads(text)["categorizations"][:categorizations]
    count = -(-per_category // LARGEST_GROUP)
    groups = tuple((per_category + i) // count for i in reversed(range(count)))
    return Names(
        categories=tuple(tuple(category["category"] for category in chain) for chain in chains),
        items=tuple(
            tuple(
                tuple(name for group, size in zip(category["groups"], groups, strict=False) for name in group[:size])
                for category in chain
            )
            for chain in chains
        ),
        groups=groups,
    )
