"""Wrong attempts in biographies and answers: another value of the same attribute, then <back>.

A person is read about many times. That the wrong values differ from time to time is what `RetryConfig.exposures` is
for; a wrong value that is always the same would be learned as a fact about the person.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.data.decks import ranges
from physlm.worlds.bios.config import Wording
from physlm.worlds.bios.rendering import PieceTable, Role
from physlm.worlds.bios.world import BiographyWorld
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, Places, require_kind


class BiographyErrors:
    """The error model of a biography world; implements `ErrorModel`.

    Values are numbered by attribute. Only dates have several parts, whose numbers are the digits of theirs.

    Args:
        world: whose documents.
        config: what is attempted; only kind "retry".
    """

    is_judged = False
    chunk = 1024
    roles = tuple(map(int, Role))

    def __init__(self, world: BiographyWorld, config: RetryConfig) -> None:
        require_kind(config.kind, ("retry",), world)
        self.world = world
        self.back = world.vocab_size
        values = Wording(world.config).values
        table = PieceTable(world.tokenizer)
        nothing = table.add([""], Role.VALUE)[0]
        most = max(map(len, values.values()))
        self._sizes = np.ones((len(values), most), dtype=np.int64)  # values of every part, `[attributes, parts]`
        self._first = np.full((len(values), most), nothing)  # piece of the first of them
        self._true = np.empty((len(world.people), len(values)), dtype=np.int64)
        for column, (attribute, parts) in enumerate(values.items()):
            self._sizes[column, : len(parts)] = [len(texts) for texts in parts]
            self._first[column, : len(parts)] = [table.add(texts, Role.VALUE)[0] for texts in parts]
            indices = world.people.indices(attribute, world.config.date_parts)
            sizes = self._sizes[column, : len(parts)].tolist()
            self._true[:, column] = sum(index * prod(sizes[part + 1 :]) for part, index in enumerate(indices))
        self._pieces = table.freeze()
        self._spellings = [
            [frozenset(map(tuple, world.tokenizer.encode_batch(texts))) for texts in parts] for parts in values.values()
        ]

    def places(self, split: str, indices: NDArray) -> Places:
        """Documents, and a place before every value."""
        samples = self.world.render(split, indices)
        position = np.flatnonzero(samples.marks["value_position"] == 0)
        attribute, person = samples.marks["attribute"][position], samples.marks["person"][position]
        true = self._true[person, attribute]
        first = np.searchsorted(position, samples.offsets)

        def write(place: IntArray, number: IntArray) -> Attempts:
            return self._write(attribute[place], number + (number >= true[place]))

        return Places(samples, position, first, self._sizes.prod(axis=1)[attribute] - 1, write)

    def _write(self, attribute: IntArray, number: IntArray) -> Attempts:
        sizes = self._sizes[attribute]
        pieces = self._first[attribute]
        for part in range(sizes.shape[1] - 1, -1, -1):
            number, digit = np.divmod(number, sizes[:, part])
            pieces[:, part] += digit
        lengths = self._pieces.lengths[pieces]
        values = ranges(self._pieces.starts[pieces].reshape(-1).astype(np.int64), lengths.reshape(-1).astype(np.int64))
        ends = np.cumsum(lengths.sum(axis=1))
        tokens = np.insert(self._pieces.tokens[values], ends, self.back)
        role = np.where(tokens == self.back, AttemptRole.BACK, AttemptRole.NAME)
        return Attempts(tokens, lengths.sum(axis=1) + 1, {"role": role})

    def spans(self, tokens: IntArray) -> IntArray:
        """The longest value before each <back>, and <back> itself."""
        ids = np.asarray(tokens).tolist()
        found: list[tuple[int, int]] = []
        for at in (position for position, token in enumerate(ids) if token == self.back):
            earliest = found[-1][1] if found else 0
            starts = [start for parts in self._spellings for start in _starts(ids[earliest:at], parts)]
            if starts:
                found.append((earliest + min(starts), at + 1))
        return np.array(found, dtype=np.int64).reshape(-1, 2)


def _starts(tokens: list[int], parts: list[frozenset[tuple[int, ...]]]) -> list[int]:
    """Where something may begin that is spelt as one of each part in turn and ends with the tokens."""
    ends = {len(tokens)}
    for spellings in reversed(parts):
        sizes = {len(spelling) for spelling in spellings}
        ends = {
            end - size for end in ends for size in sizes if size <= end and tuple(tokens[end - size : end]) in spellings
        }
    return sorted(ends)
