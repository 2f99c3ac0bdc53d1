"""Packed training streams: from the documents of worlds to windows of equal length.

- A row is one window of `context + 1` tokens: EOS, document, EOS, document, EOS, … All documents of a row
  come from one source. Which source is a Philox draw from the row number against the shares.
- In which order the documents of a source come, and how they are cut into windows: `physlm.data.decks`.
- The position in a stream is a few integers: the next row, and the pass and cursor of every source.
  Neither the batch size nor the number of ranks changes any row.
- Windows are laid out from document lengths alone; only the rows of this rank are rendered, with one call
  per source and batch, and scattered into place with index arithmetic.

This module knows nothing about particular worlds, models or devices: arrays are NumPy.

Follows part 3.1 of Physics of Language Models, §2.1 and App. C ("each sequence is QA with probability QA_r").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import FreshWorld, World
from physlm.data.decks import Deck, FreshDeck, Overflow, Windows, ranges
from physlm.randomness import Key

IGNORE = -100
"""Target where there is no loss, the value PyTorch's cross-entropy skips."""

OUTSIDE = -1
"""Value of every mark at separators and padding, and document number of padding."""

StreamState: TypeAlias = dict[str, int | list[int]]

_ROLE = "role"
_SHARE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Source:
    """One split of a world, and how much of a mixture it makes up.

    Attributes:
        world: where the documents come from.
        split: name of the split.
        share: share of the rows, in [0, 1]; all rows have equal length, so it is the share of tokens too.
        loss_roles: loss only on tokens whose mark "role" is among these; separators have role `OUTSIDE`.
            `None` puts loss on every token, separators included.
    """

    world: World
    split: str
    share: float = 1.0
    loss_roles: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.split not in self.world.splits:
            raise ValueError(f"split must be one of {self.world.splits}, got {self.split!r}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share must be in [0, 1], got {self.share} for split {self.split!r}")
        if self.loss_roles is not None and not self.loss_roles:
            raise ValueError("loss_roles must name at least one role, got (); use None for loss on every token")


@dataclass(frozen=True)
class Batch:
    """Some rows of a stream.

    The fields are aligned with the window of `context + 1` tokens (what a masked model reads); the properties are
    the shifted view of `context` tokens (what a next-token model reads).

    Attributes:
        window: token ids, int64 `[rows, context + 1]`.
        loss: whether the token is to be predicted, bool `[rows, context + 1]`; false at the first EOS and at padding.
        window_documents: number of the document within its row, int32 `[rows, context + 1]`, or `None` without
            `document_mask`. An EOS counts to the document that follows it, padding is `OUTSIDE`.
        window_marks: the requested marks, each int64 `[rows, context + 1]`, `OUTSIDE` at separators and padding.
        source: number of the source of each row, int64 `[rows]`.
        rows: number of each row in the whole stream, int64 `[rows]`.
    """

    window: NDArray[np.int64]
    loss: NDArray[np.bool_]
    window_documents: NDArray[np.int32] | None
    window_marks: Mapping[str, NDArray[np.int64]]
    source: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def inputs(self) -> NDArray[np.int64]:
        """Tokens a next-token model reads, `[rows, context]`."""
        return self.window[:, :-1]

    @property
    def targets(self) -> NDArray[np.int64]:
        """Token after each input, `IGNORE` where there is no loss, `[rows, context]`."""
        return np.where(self.loss[:, 1:], self.window[:, 1:], IGNORE)

    @property
    def documents(self) -> NDArray[np.int32] | None:
        """Document number of each *input*, to keep attention within a document, `[rows, context]`."""
        return None if self.window_documents is None else self.window_documents[:, :-1]

    @property
    def marks(self) -> dict[str, NDArray[np.int64]]:
        """The requested marks of each *target*, `[rows, context]`."""
        return {name: mark[:, 1:] for name, mark in self.window_marks.items()}


class PackedStream:
    """An endless stream of packed windows from a mixture of sources.

    Every window starts with EOS, and every document is followed by one. With `overflow="cut"` the document that does
    not fit is cut at the end of the window (its rest is not shown in this pass). With `overflow="whole"` it opens the
    next window of its source and the remaining positions are padding without loss. With `overflow="continue"` the
    windows are cut from the endless text EOS, document, EOS, … wherever they end: a window starts with the token that
    the one before it ended with, mostly within a document. The window after the last document of a pass simply goes on
    with the next pass.

    Example:
        >>> mixture = [Source(world, "bio", 0.2), Source(world, "qa_train", 0.8)]
        >>> stream = PackedStream(mixture, context=512, batch_size=96, key=Key.of("stream", 0))
        >>> batch = stream.next_batch()
        >>> batch.inputs.shape
        (96, 512)
        >>> saved = stream.state()

    Args:
        sources: the mixture; shares must sum to 1.
        context: tokens a next-token model reads at once, ≥ 1.
        batch_size: rows per batch on this rank, ≥ 1.
        key: governs the orders of documents and the mixture.
        overflow: what happens to the document that does not fit.
        marks: names of the marks to carry along.
        document_mask: whether batches carry document numbers.
        rank: this rank; it gets the rows with `row % ranks == rank`.
        ranks: number of ranks.

    Raises:
        ValueError: naming the value, for shares that do not sum to 1, an empty split, a document longer than the
            window with "whole", sources that disagree on EOS or PAD, or a rank out of range.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        context: int,
        batch_size: int,
        key: Key,
        overflow: Overflow = "cut",
        marks: tuple[str, ...] = (),
        document_mask: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not sources:
            raise ValueError("sources must hold at least 1 source, got 0")
        total = sum(source.share for source in sources)
        if abs(total - 1.0) > _SHARE_TOLERANCE:
            raise ValueError(f"shares must sum to 1, got {[source.share for source in sources]} with sum {total}")
        if context < 1:
            raise ValueError(f"context must be ≥ 1 token, got {context}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be ≥ 1 row, got {batch_size}")
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow must be one of {', '.join(get_args(Overflow))}, got {overflow!r}")
        if ranks < 1:
            raise ValueError(f"ranks must be ≥ 1, got {ranks}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be in [0, {ranks}), got {rank}")
        specials = {(source.world.eos, source.world.pad) for source in sources}
        if len(specials) > 1:
            raise ValueError(f"sources must agree on (eos, pad), got {sorted(specials)}: give them one tokenizer")

        self.sources = tuple(sources)
        self.context = context
        self.batch_size = batch_size
        self.key = key
        self.overflow: Overflow = overflow
        self.mark_names = tuple(marks)
        self.document_mask = document_mask
        self.rank = rank
        self.ranks = ranks
        ((self._eos, self._pad),) = specials
        # Each uniform falls below the cumulative share of its source; rounding must not leave room after the last.
        self._cumulative = np.cumsum([source.share for source in sources])
        self._cumulative[self._cumulative >= self._cumulative[-1]] = 1.0
        self._mixture = key.child("mixture")
        self._decks = tuple(
            FreshDeck(source.world, source.split, context, overflow)
            if isinstance(source.world, FreshWorld)
            else Deck(source.world, source.split, key.child("order", number), context, overflow)
            for number, source in enumerate(self.sources)
        )
        self._row = 0

    @property
    def vocab_size(self) -> int:
        """Number of token ids that covers every source."""
        return max(source.world.vocab_size for source in self.sources)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next_batch()

    def next_batch(self) -> Batch:
        """The next `batch_size` rows of this rank."""
        rows = self._row + np.arange(self.batch_size * self.ranks)
        chosen = self._cumulative.searchsorted(self._mixture.uniforms(rows, 1)[:, 0], side="right")
        is_mine = rows % self.ranks == self.rank
        self._row += len(rows)

        width = self.context + 1
        shape = (self.batch_size, width)
        window = np.full(shape, self._pad, dtype=np.int64)
        loss = np.zeros(shape, dtype=np.bool_)
        documents = np.full(shape, OUTSIDE, dtype=np.int32) if self.document_mask else None
        marks = {name: np.full(shape, OUTSIDE, dtype=np.int64) for name in self.mark_names}
        batch = Batch(window, loss, documents, marks, chosen[is_mine], rows[is_mine])

        for number, deck in enumerate(self._decks):
            among = chosen == number
            count = int(among.sum())
            if count:
                windows = deck.deal(count, np.flatnonzero(is_mine[among]))
                if len(windows.documents):
                    self._fill(batch, number, windows)
        return batch

    def _fill(self, batch: Batch, number: int, windows: Windows) -> None:
        """Render the documents of one source and write them into its rows of the batch."""
        source = self.sources[number]
        if isinstance(source.world, FreshWorld):
            needed = self.mark_names if source.loss_roles is None else (*self.mark_names, _ROLE)
            samples = source.world.render(source.split, windows.documents, tuple(dict.fromkeys(needed)))
        else:
            samples = source.world.render(source.split, windows.documents)
        offsets = np.asarray(samples.offsets, dtype=np.int64)
        if not np.array_equal(np.diff(offsets), windows.length):
            raise ValueError(f"world must render documents as long as it says, got others in split {source.split!r}")

        width = self.context + 1
        places = np.flatnonzero(batch.source == number)  # row of the batch of each window
        # Positions in the flattened batch: of each document, of its tokens that fit, and of its closing separator.
        start = places[windows.window] * width + windows.column
        shown_before = np.maximum(-windows.column, 0)
        visible = np.minimum(windows.length, width - windows.column) - shown_before
        origin = ranges(offsets[:-1] + shown_before, visible)
        target = ranges(start + shown_before, visible)
        opening = (start - 1)[windows.column > 0]
        is_closed = windows.column + windows.length < width
        closing = (start + windows.length)[is_closed]

        tokens = batch.window.reshape(-1)
        tokens[target] = samples.tokens[origin]
        tokens[opening] = self._eos
        tokens[closing] = self._eos
        for name, mark in batch.window_marks.items():
            mark.reshape(-1)[target] = self._mark(samples.marks, name, source)[origin]
        if batch.window_documents is not None:
            numbers = batch.window_documents.reshape(-1)
            numbers[target] = np.repeat(windows.number, visible)
            numbers[closing] = windows.number[is_closed] + 1
            numbers[opening] = windows.number[windows.column > 0]
        loss = batch.loss.reshape(-1)
        if source.loss_roles is None:
            loss[target] = True
            loss[closing] = True
        else:
            loss[target] = np.isin(self._mark(samples.marks, _ROLE, source)[origin], source.loss_roles)
            loss[closing] = OUTSIDE in source.loss_roles
        batch.loss[places, 0] = False  # what the first target is predicted from

    @staticmethod
    def _mark(marks: Mapping[str, NDArray], name: str, source: Source) -> NDArray:
        if name not in marks:
            raise ValueError(f"mark must be one of {sorted(marks)} in split {source.split!r}, got {name!r}")
        return marks[name]

    def state(self) -> StreamState:
        """The position in the stream: next row, and pass and cursor of every source.

        The same on every rank. A stream may be resumed with another batch size or number of ranks.
        """
        positions = [deck.position for deck in self._decks]
        state: StreamState = {
            "row": self._row,
            "passes": [p for p, _ in positions],
            "cursors": [c for _, c in positions],
        }
        if self.overflow == "continue":
            state["shown"] = [deck.shown for deck in self._decks]
        return state

    def restore(self, state: Mapping[str, int | Sequence[int]]) -> None:
        """Go to a position that `state` gave on a stream with the same fingerprint.

        Raises:
            ValueError: if the position cannot belong to this stream; the stream then stays where it is.
        """
        names = {"row", "passes", "cursors"} | ({"shown"} if self.overflow == "continue" else set())
        if set(state) != names:
            raise ValueError(f"state must have exactly {sorted(names)}, got {sorted(state)}")
        row, passes, cursors = state["row"], state["passes"], state["cursors"]
        shown = state.get("shown", [0] * len(self._decks))
        if not isinstance(row, int) or row < 0:
            raise ValueError(f"row of a state must be an integer ≥ 0, got {row!r}")
        if isinstance(passes, int) or isinstance(cursors, int) or isinstance(shown, int):
            raise ValueError(f"passes and cursors of a state must be lists, got {passes!r} and {cursors!r}")
        if not len(passes) == len(cursors) == len(shown) == len(self._decks):
            raise ValueError(
                f"state must have a pass and a cursor for each of {len(self._decks)} sources, "
                f"got {len(passes)} passes and {len(cursors)} cursors"
            )
        for deck, pass_number, cursor in zip(self._decks, passes, cursors, strict=True):
            are_integers = isinstance(pass_number, int) and isinstance(cursor, int)
            if not are_integers or pass_number < 0 or not 0 <= cursor < deck.size:
                raise ValueError(
                    f"state must have integer passes ≥ 0 and cursors in [0, {deck.size}), "
                    f"got pass {pass_number} and cursor {cursor}"
                )
        if any(not isinstance(already, int) or already < 0 for already in shown):
            raise ValueError(f"shown of a state must be integers ≥ 0, got {shown!r}")
        for deck, pass_number, cursor, already in zip(self._decks, passes, cursors, shown, strict=True):
            deck.place(pass_number, cursor, already)
        self._row = row

    def fingerprint(self) -> str:
        """Hash of all that decides the rows: worlds, splits, shares, losses, context, overflow and key.

        The batch size, the ranks and the marks carried along do not change a row and are left out.
        """
        mixture = tuple((s.world.fingerprint(), s.split, float(s.share), s.loss_roles) for s in self.sources)
        parts = (mixture, self.context, self.overflow, self.document_mask, self.key.high, self.key.low)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
