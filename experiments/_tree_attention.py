"""What attention looks at in a sentence: how far back, and beyond that at which ends of constituents.

All statistics are about pairs of a token (query) and an earlier one (key), BOS left out. The part of a weight that its
distance explains is taken away; the rest is averaged over a class of pairs, over all heads and layers, and told as
*excess*: the rest as a share of the mean weight at the same distances. An excess of 0.5 is half as much attention again
as tokens so far back get on average; it does not depend on how long sentences are, as weights do.

| class | pairs | paper |
| --- | --- | --- |
| toward | any token, and a token so many places beside an end of level ℓ | Fig. 9a |
| between | a token beside an end, and a token beside an end of the same level | Fig. 9b |
| adjacent | an end of level ℓ', and the end of level ℓ so many subtrees back | Fig. 9c |
| insiders | a token that ends nothing, and an end of any level, or another such token | §4.3 |

An end of level ℓ is here one that ends nothing larger (b♯ = ℓ). Controls are the ends of another sentence of the same
length, the ends so many tokens later, and the model before training.

Shape legend: L layers, H heads, E levels, D distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.models.transformer import Transformer
from physlm.probing.attention import (
    DistanceProfile,
    Pattern,
    adjacent_ends,
    between_ends,
    distance_profile,
    insiders,
    read_patterns,
    residual_means,
    shifted,
    toward_ends,
)
from physlm.probing.inputs import BoolArray
from physlm.worlds.cfg.world import CFGWorld

OFFSETS, SIDES = (-2, -1, 0, 1, 2), (-1, 0, 1)
MOST_SUBTREES = 4
"""The farthest ends of `adjacent`, in subtrees."""
SHIFT = 5
"""By how many tokens ends are moved as a control."""
TRUE, FOREIGN, MOVED, BEFORE = "ends", "ends of another sentence", "moved ends", "untrained model"
CONTROLS = (FOREIGN, MOVED, BEFORE)
_FARTHEST = 300
_DIGITS = 6

Ends = tuple[IntArray, IntArray]
"""b♯ of every token of a sentence, `[n]`, and whether it ends a constituent of each level, `[E, n]`."""


def pairs_of_equal_length(world: CFGWorld, start: int, count: int) -> NDArray[np.int64]:
    """Test sentences from `start` on in pairs of equal length, `[count / 2, 2]`.

    Raises:
        ValueError: if there are not so many.
    """
    waiting: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    numbers = np.arange(start, world.size("test"))
    for number, length in zip(numbers.tolist(), world.lengths_at("test", numbers).tolist(), strict=True):
        if len(pairs) == count // 2:
            break
        if length in waiting:
            pairs.append((waiting.pop(length), number))
        else:
            waiting[length] = number
    if len(pairs) < count // 2:
        raise ValueError(f"count must be at most {2 * len(pairs)}, as many as have one of equal length, got {count}")
    return np.array(pairs)


def attention_statistics(
    model: Transformer, untrained: Transformer, world: CFGWorld, pairs: NDArray[np.int64], levels: Sequence[int]
) -> dict[str, Any]:
    """Heads of both models by distance, and the excess of all classes with the ends as they are and the controls."""
    samples = world.render("test", pairs.ravel())
    marked = []
    for sentence in range(len(samples)):
        marks = samples.document(sentence)[1]
        marked.append((marks["deepest_end"][1:], np.stack([marks[f"end_{level}"][1:] for level in levels])))
    nothing = len(world.grammar.layers)
    ends: dict[str, list[Ends]] = {
        TRUE: marked,
        FOREIGN: [marked[sentence ^ 1] for sentence in range(len(marked))],
        MOVED: [(shifted(deepest, -SHIFT, nothing), shifted(at, -SHIFT)) for deepest, at in marked],
    }
    patterns = list(read_patterns(model, samples, first=1))
    profile = distance_profile(patterns)
    excess = {name: excess_attention(patterns, profile, of_sentences, levels) for name, of_sentences in ends.items()}
    patterns = list(read_patterns(untrained, samples, first=1))
    drawn = distance_profile(patterns)
    excess[BEFORE] = excess_attention(patterns, drawn, marked, levels)
    return {
        "heads": {"trained": _heads(profile), BEFORE: _heads(drawn)},
        "excess": excess,
    }


def _heads(profile: DistanceProfile) -> dict[str, Any]:
    """What each head looks at by distance, as lists `[L, H]` and `[L, H, D]`."""
    return {
        "share": profile.share.round(_DIGITS).tolist(),
        "reach": profile.reach.round(_DIGITS).tolist(),
        "mean": profile.mean[..., :_FARTHEST].round(_DIGITS).tolist(),
    }


def _classes(ends: Ends, levels: Sequence[int]) -> dict[str, BoolArray]:
    deepest, at = ends
    return {
        "toward": toward_ends(deepest, levels, OFFSETS),
        "between": between_ends(deepest, levels, SIDES),
        "adjacent": adjacent_ends(deepest, at, levels, MOST_SUBTREES),
        "insiders": insiders(deepest, levels),
    }


def excess_attention(
    patterns: Sequence[Pattern], profile: DistanceProfile, ends: Sequence[Ends], levels: Sequence[int]
) -> dict[str, Any]:
    """Excess of every class over all heads and layers, as nested lists; NaN where a class is empty."""
    shapes = {name: masks.shape[:-2] for name, masks in _classes(ends[0], levels).items()}

    def side_by_side(one: Ends) -> BoolArray:
        return np.concatenate([masks.reshape(-1, *masks.shape[-2:]) for masks in _classes(one, levels).values()])

    beyond, _ = residual_means(patterns, profile, map(side_by_side, ends))
    # With nothing taken away, means are those of the weights themselves.
    weights, _ = residual_means(patterns, replace(profile, mean=np.zeros_like(profile.mean)), map(side_by_side, ends))
    excess = beyond.mean((0, 1)) / (weights - beyond).mean((0, 1))
    told, start = {}, 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        values = excess[start:stop].reshape(shape)
        told[name] = values.round(_DIGITS).tolist()
        start = stop
    return told


def nearest_and_next(adjacent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of `adjacent`, `[E, E, r]`, the excess of the most adjacent ends and of the next ones, `[E, E]`.

    Where ℓ' closes a subtree of level ℓ itself (ℓ' ≤ ℓ) the most adjacent end is one subtree back, else none.
    """
    order = np.arange(len(adjacent))
    first = (order[:, None] <= order).astype(np.int64)[..., None]
    nearest, following = (np.take_along_axis(adjacent, first + more, axis=-1)[..., 0] for more in (0, 1))
    return nearest, following
