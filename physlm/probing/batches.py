"""Documents in batches, padded on the right, with the places in them that are read.

Shape legend: B documents of a batch, T tokens, n places in them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Samples
from physlm.data.decks import ranges
from physlm.probing.inputs import Inputs


class DocumentBatch:
    """Some documents, padded on the right, and the places in them.

    Attributes:
        tokens: `[B, T]`.
        inside: what is no padding, `[B, T]`.
        rows: numbers of the places among the inputs, `[n]`.
        places: row of the batch and position of each, `[2, n]`.
    """

    def __init__(
        self, samples: Samples, documents: IntArray, lengths: NDArray[np.int64], rows: IntArray, inputs: Inputs
    ):
        offsets = np.asarray(samples.offsets, dtype=np.int64)
        self.inside = np.arange(lengths.max()) < lengths[:, None]
        self.tokens = np.zeros(self.inside.shape, dtype=np.int64)
        self.tokens[self.inside] = samples.tokens[ranges(offsets[documents], lengths)]
        self.rows = rows
        order = np.argsort(documents)
        batch_row = order[np.searchsorted(documents[order], inputs.documents[rows])]
        self.places = np.stack([batch_row, inputs.positions[rows]]).astype(np.int64)


class PlacesByDocument:
    """Which places are in which document."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.order = np.argsort(inputs.documents, kind="stable")
        self.documents, first = np.unique(inputs.documents[self.order], return_index=True)
        self.first = np.append(first, len(inputs))
        """The places in document `documents[i]` are `order[first[i]:first[i + 1]]`."""

    def lengths(self, *, causal: bool) -> NDArray[np.int64]:
        """Tokens of every document that must be read: in a causal model those up to its last place."""
        if causal:
            return np.maximum.reduceat(self.inputs.positions[self.order], self.first[:-1]).astype(np.int64) + 1
        return np.diff(self.inputs.samples.offsets)[self.documents].astype(np.int64)

    def batch(self, chosen: IntArray, lengths: NDArray[np.int64]) -> DocumentBatch:
        """The documents with these numbers among `documents`, each read up to its length."""
        rows = self.order[ranges(self.first[chosen], np.diff(self.first)[chosen])]
        return DocumentBatch(self.inputs.samples, self.documents[chosen], lengths[chosen], rows, self.inputs)


def document_batches(
    inputs: Inputs, tokens_per_batch: int, *, causal: bool, equal_lengths: bool = False
) -> Iterator[DocumentBatch]:
    """All documents that have places, those of similar length together."""
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be ≥ 1, got {tokens_per_batch}")
    by_document = PlacesByDocument(inputs)
    lengths = by_document.lengths(causal=causal)
    order = np.argsort(lengths, kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        # Sorted by length, so that the next document is the longest of its batch.
        is_full = stop < len(order) and (
            (stop - start + 1) * lengths[order[stop]] > tokens_per_batch
            or (equal_lengths and lengths[order[stop]] != lengths[order[start]])
        )
        if is_full or stop == len(order):
            yield by_document.batch(order[start:stop], lengths)
            start = stop
