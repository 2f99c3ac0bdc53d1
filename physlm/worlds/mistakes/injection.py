"""Putting attempts into documents: the one injector for all worlds.

- How many attempts come before a step, and which, is a pure function of (key, number of the document): each document
  has random numbers of its own, so that any batch, in any order, holds the same documents.
- Clean tokens keep their marks. Attempts have a role (`AttemptRole`), their number within the document in the mark
  `attempt`, and what the error model says of them; every other mark is `OUTSIDE` there.

Source: Physics of Language Models 2.2, §4 and footnote 15.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import Samples
from physlm.data.decks import ranges
from physlm.data.streams import OUTSIDE
from physlm.randomness import Key
from physlm.worlds.mistakes.error_models import Places
from physlm.worlds.mistakes.kernels import draw_candidates, draw_chains, insert

ATTEMPT = "attempt"
"""Mark with the number of the attempt within the document, `OUTSIDE` in clean tokens."""

_LONGEST = 1 << 62


def inject(
    places: Places, key: Key, documents: NDArray[np.integer], *, rate: float, max_chain: int | None = None
) -> Samples:
    """Documents with attempts in them.

    Args:
        places: the clean documents, and where attempts may be made, N of them.
        key: governs the attempts.
        documents: number of each document, `[N]`.
        rate: chance of one more attempt at a place, in [0, 1).
        max_chain: most attempts at one place.
    """
    samples = places.samples
    first, candidates = (np.asarray(part, dtype=np.int64) for part in (places.first, places.candidates))
    # One stream for the numbers of attempts, one for what is attempted; the step of a stream must be odd.
    streams = key.words(documents, 4)
    streams[:, 1::2] |= np.uint64(1)
    count = np.empty(len(candidates), dtype=np.int64)
    draw_chains(streams[:, :2], first, candidates, rate, _LONGEST if max_chain is None else max_chain, count)
    chosen = np.empty(count.sum(), dtype=np.int64)
    draw_candidates(streams[:, 2:], first, candidates, count, chosen)

    used = np.flatnonzero(count)
    place = np.repeat(used, count[used])
    attempts = places.write(place, chosen)
    room = np.bincount(place, attempts.lengths, len(count)).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(room)])
    position = np.asarray(places.position, dtype=np.int64)[used]
    inside = ranges(position + before[used], room[used])
    offsets = samples.offsets + before[first]

    def spread(values: NDArray, filler: int) -> NDArray:
        longer = np.empty(len(values) + len(inside), dtype=values.dtype)
        insert(values, position, room[used], filler, longer)
        return longer

    tokens = spread(samples.tokens, 0)
    tokens[inside] = attempts.tokens
    marks = {name: spread(mark, OUTSIDE) for name, mark in samples.marks.items()}
    for name, values in attempts.marks.items():
        marks[name][inside] = values
    marks[ATTEMPT] = np.full(len(tokens), OUTSIDE, dtype=np.int32)
    earlier = np.concatenate([[0], np.cumsum(count)])[first]  # attempts before each document
    number = np.arange(len(place)) - np.repeat(earlier[:-1], np.diff(earlier))
    marks[ATTEMPT][inside] = np.repeat(number, attempts.lengths)
    return Samples(tokens, offsets, marks)
