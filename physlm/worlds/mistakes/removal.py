"""Taking attempts out of documents again, and counting them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray


def kept(spans: IntArray, length: int) -> NDArray[np.int64]:
    """Positions in a document of `length` tokens that are in none of the attempts, `spans` as in `ErrorModel.spans`."""
    change = np.zeros(length + 1, dtype=np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    return np.flatnonzero(np.cumsum(change[:-1]) == 0)


def chains(spans: IntArray) -> NDArray[np.int64]:
    """How many attempts were made at each place where there was one, in order.

    Example:
        >>> chains(np.array([[3, 8], [8, 13], [40, 45]]))
        array([2, 1])
    """
    if not len(spans):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.append(True, spans[1:, 0] != spans[:-1, 1]))
    return np.diff(np.append(starts, len(spans)))
