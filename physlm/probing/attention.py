"""What attention looks at: how far back, and beyond that at which boundaries of the tree.

- The position-based part of a head is its mean weight at every distance; the rest is its residual, whose mean at every
  distance is zero. All statistics about content are means of the residual over a class of pairs (query j, key i < j).
- Classes of pairs are masks made from marks, so any other question is one more mask. A control is the same with the
  marks of another sentence, or with `shifted` ones.
- Weights to and from what opens a document (BOS) are left out, without making the others sum to one again.

Shape legend: L layers, H heads, n tokens of a sentence, D distances, E levels. Patterns are `[L, H, n, n]`, row j the
query and column i the key.
Source: Physics of Language Models 1, §4.3 and Fig. 8 and 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.models.capture import Capture
from physlm.models.decoding import evaluating
from physlm.models.transformer import Transformer
from physlm.probing.inputs import BoolArray

Pattern = NDArray[np.float32]
Kind = Literal["local", "semantic"]
M = TypeVar("M", bound=np.generic)
LOCAL_SHARE = 0.5
"""A head is local if distances alone explain at least this share of the variance of its weights."""


def read_patterns(model: Transformer, samples: Samples, *, first: int = 0) -> Iterator[Pattern]:
    """The pattern of every document, `[L, H, n, n]`.

    Args:
        model: what attends.
        samples: the documents, one at a time.
        first: tokens at the beginning of every document whose row and column are left out.
    """
    names = [f"block.{layer}.pattern" for layer in range(model.config.layers)]
    for document in range(len(samples)):
        capture = Capture(names)
        # Left between documents: whoever takes the patterns decides on gradients.
        with evaluating(model) as device:
            tokens = torch.from_numpy(samples.document(document)[0].astype(np.int64))
            model.hidden(tokens[None].to(device), capture=capture)
        yield torch.cat([capture.states[name] for name in names])[..., first:, first:].float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class DistanceProfile:
    """What of the weights depends on distance alone.

    Attributes:
        mean: mean weight at distance 0, 1, …, `[L, H, D]`.
        pairs: how many pairs there are at each distance, `[D]`.
        share: share of the variance of the weights that distances explain, `[L, H]`; 1 where there is no variance.
        reach: mean distance of what is attended to, in tokens, `[L, H]`.
    """

    mean: NDArray[np.float64]
    pairs: NDArray[np.int64]
    share: NDArray[np.float64]
    reach: NDArray[np.float64]

    def kinds(self, least: float = LOCAL_SHARE) -> list[list[Kind]]:
        """Whether each head of each layer is local, its weights told by distance, or semantic."""
        return [["local" if share >= least else "semantic" for share in row] for row in self.share]

    def residual(self, pattern: Pattern) -> NDArray[np.float64]:
        """A pattern less its position-based part, `[L, H, n, n]`; zero above the diagonal."""
        apart = _distances(pattern.shape[-1])
        if apart.max() >= len(self.pairs):
            raise ValueError(f"sentences must have at most {len(self.pairs)} tokens, got {pattern.shape[-1]}")
        return np.where(apart < 0, 0.0, pattern - self.mean[..., np.maximum(apart, 0)])


def _distances(length: int) -> NDArray[np.int64]:
    """How far the key (column) is before the query (row), `[n, n]`."""
    places = np.arange(length)
    return places[:, None] - places


def distance_profile(patterns: Iterable[Pattern]) -> DistanceProfile:
    """Mean weight by distance, over all pairs i ≤ j of all sentences."""
    sums = np.zeros((0, 0, 0))
    pairs, squares = np.zeros(0, dtype=np.int64), np.zeros(())
    for pattern in patterns:
        length = pattern.shape[-1]
        if length > sums.shape[-1]:
            grown = np.zeros((*pattern.shape[:2], length))
            grown[..., : sums.shape[-1]] = sums if sums.size else 0.0
            sums, pairs = grown, np.append(pairs, np.zeros(length - len(pairs), dtype=np.int64))
        for distance in range(length):
            sums[..., distance] += np.diagonal(pattern, -distance, 2, 3).sum(-1, dtype=np.float64)
            pairs[distance] += length - distance
        squares = squares + (np.tril(pattern).astype(np.float64) ** 2).sum((-1, -2))
    if not len(pairs):
        raise ValueError("a profile needs at least 1 pattern, got none")
    mean, total = sums / pairs, sums.sum(-1)
    common = total**2 / pairs.sum()
    within, between = squares - common, (sums * mean).sum(-1) - common
    share = np.divide(between, within, out=np.ones_like(between), where=within > 1e-12 * squares)
    reach = (sums * np.arange(len(pairs))).sum(-1) / total
    return DistanceProfile(mean, pairs, share, reach)


def residual_means(
    patterns: Iterable[Pattern], profile: DistanceProfile, classes: Iterable[BoolArray]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean residual over classes of pairs.

    Example:
        >>> profile = distance_profile(read_patterns(model, samples, first=1))
        >>> ends = [marks["deepest_end"][1:] for _, marks in map(samples.document, range(len(samples)))]
        >>> masks = (toward_ends(deepest_end, levels=(2, 3, 4)) for deepest_end in ends)
        >>> means, pairs = residual_means(read_patterns(model, samples, first=1), profile, masks)
        >>> means.shape  # layers, heads, levels, offsets
        (2, 2, 3, 5)

    Args:
        patterns: of sentences.
        profile: of the same sentences.
        classes: masks of every sentence, `[…, n, n]`; what is before the last two axes numbers the classes.

    Returns:
        Means, `[L, H, …]`, NaN where a class is empty; and the number of pairs, `[…]`.
    """
    sums, pairs = np.zeros(()), np.zeros((), dtype=np.int64)
    for pattern, masks in zip(patterns, classes, strict=True):
        if masks.shape[-2:] != pattern.shape[-2:]:
            raise ValueError(f"classes must be masks {pattern.shape[-2:]} of their sentence, got {masks.shape}")
        residual = profile.residual(pattern)
        flat = masks.reshape(-1, pattern.shape[-1] ** 2).T.astype(np.float64)
        found = residual.reshape(*pattern.shape[:2], -1) @ flat
        sums = sums + found.reshape(*pattern.shape[:2], *masks.shape[:-2])
        pairs = pairs + masks.sum((-1, -2))
    return np.divide(sums, pairs, out=np.full(sums.shape, np.nan), where=np.broadcast_to(pairs > 0, sums.shape)), pairs


def shifted(marks: NDArray[M], by: int, outside: int = 0) -> NDArray[M]:
    """`marks[…, i + by]` at every i, and `outside` where there is no such token."""
    found = np.full_like(marks, outside)
    length = marks.shape[-1]
    places = np.arange(max(0, -by), min(length, length - by))
    found[..., places] = marks[..., places + by]
    return found


def _pairs(queries: BoolArray, keys: BoolArray) -> BoolArray:
    """Pairs of a chosen query and a chosen earlier key, `[…, n, n]`."""
    return queries[..., :, None] & keys[..., None, :] & (_distances(keys.shape[-1]) > 0)


def toward_ends(deepest_end: IntArray, levels: Sequence[int], offsets: Sequence[int] = (-2, -1, 0, 1, 2)) -> BoolArray:
    """From any token to tokens near ends: pairs with b♯(i + δ) = ℓ, `[levels, offsets, n, n]`.

    Args:
        deepest_end: b♯ of every token, `[n]`.
        levels: values of ℓ.
        offsets: values of δ.
    """
    keys = np.stack([[shifted(deepest_end == level, by) for by in offsets] for level in levels])
    return _pairs(np.ones_like(keys), keys)


def between_ends(deepest_end: IntArray, levels: Sequence[int], offsets: Sequence[int] = (-1, 0, 1)) -> BoolArray:
    """From near ends to near ends of one level: pairs where i + δ₁ and j + δ₂ are ends, `[levels, δ₁, δ₂, n, n]`."""
    near = np.stack([[shifted(deepest_end == level, by) for by in offsets] for level in levels])
    return _pairs(near[:, None, :], near[:, :, None])


def adjacent_ends(deepest_end: IntArray, ends: IntArray, levels: Sequence[int], most: int) -> BoolArray:
    """From ends to ends so many subtrees back, `[levels ℓ' of j, levels ℓ of i, r = 0 … most, n, n]`.

    r is how many subtrees of level ℓ are completed after i, up to and including j. Where j closes one of its own, the
    nearest end has r = 1, else r = 0.

    Args:
        deepest_end: b♯ of every token, `[n]`.
        ends: whether every token ends a subtree of each level, `[levels, n]`.
        levels: values of ℓ' and ℓ.
        most: largest r.
    """
    at = np.stack([deepest_end == level for level in levels])
    completed = np.cumsum(ends, axis=-1)
    apart = completed[:, :, None] - completed[:, None, :]
    steps = apart[:, None] == np.arange(most + 1)[:, None, None]
    return _pairs(at[:, None], at[None, :])[:, :, None] & steps[None]


def insiders(deepest_end: IntArray, levels: Sequence[int]) -> BoolArray:
    """The contrast: from tokens that end nothing to ends of any of the levels, and to each other, `[2, n, n]`."""
    is_end = np.isin(deepest_end, levels)
    return np.stack([_pairs(~is_end, is_end), _pairs(~is_end, ~is_end)])
