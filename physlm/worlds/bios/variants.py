"""How a person's facts are told: the 16 data sets of the biography world, and the couples (part 3.1, §4.2, A.1.1).

- A variant says how many entries a person has, whether each entry draws its own templates, how
  its sentences are ordered and whether the full name is repeated.
- `permuteP` re-orders *the same* sentences in all P entries; `multiM` draws new sentences per entry.
- Entries are numbered and frozen: an entry is a pure function of (key, person, entry number), so a
  data set is finite and is never drawn again on the fly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from physlm.randomness import Key

_ENTRY_SHIFT = 32
_PAIR = 2


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of writing biographies.

    Attributes:
        entries: number of entries per person, at least 1.
        resample_templates: whether each entry draws its own templates, or all share one draw.
        order: "base" keeps the order of the attributes; "permuted" gives each entry a uniformly random
            order; "couples" keeps consecutive pairs of attributes together and shuffles the pairs.
        fullname: whether every sentence has the full name as its subject, or only the first.
    """

    entries: int = 1
    resample_templates: bool = False
    order: Literal["base", "permuted", "couples"] = "base"
    fullname: bool = False


def _rule() -> Iterator[tuple[str, Variant]]:
    """Names and variants: every base variant without and with repeated full names, then the couples."""
    base = {"single": Variant()}
    base |= {f"single+permute{p}": Variant(entries=p, order="permuted") for p in (1, 2, 5)}
    for m in (2, 5):
        base[f"multi{m}"] = Variant(entries=m, resample_templates=True)
        base[f"multi{m}+permute"] = Variant(entries=m, resample_templates=True, order="permuted")
    for name, variant in base.items():
        yield name, variant
        yield f"{name}+fullname", replace(variant, fullname=True)
    for m in (1, 2, 5):
        yield f"couple{m}", Variant(entries=m, resample_templates=True, order="couples")


VARIANTS: Mapping[str, Variant] = MappingProxyType(dict(_rule()))


def _identity(person: NDArray[np.integer], entry: NDArray[np.integer]) -> NDArray[np.int64]:
    """One number per (person, entry), the same whatever the number of people or entries."""
    return person.astype(np.int64) + (entry.astype(np.int64) << _ENTRY_SHIFT)


def draw_templates(
    variant: Variant, key: Key, person: NDArray[np.integer], entry: NDArray[np.integer], below: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Template number of every attribute, shape `[len(person), len(below)]`; column `a` is under `below[a]`."""
    if not variant.resample_templates:
        entry = np.zeros_like(entry)
    return key.child("templates").integers(_identity(person, entry), len(below), below)


def draw_orders(
    variant: Variant, key: Key, person: NDArray[np.integer], entry: NDArray[np.integer], attributes: int
) -> NDArray[np.int64]:
    """Attribute told in every sentence, shape `[len(person), attributes]`: each row is a permutation."""
    key = key.child("order")
    if variant.order == "permuted":
        return key.permutations(_identity(person, entry), attributes)
    if variant.order == "couples":
        couples = key.permutations(_identity(person, entry), attributes // _PAIR)
        return (couples[:, :, None] * _PAIR + np.arange(_PAIR)).reshape(len(person), attributes)
    return np.broadcast_to(np.arange(attributes), (len(person), attributes))
