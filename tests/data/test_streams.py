import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from toy_world import EOS, PAD, FreshToyWorld, ToyWorld

from physlm.data.contract import FreshWorld, World
from physlm.data.streams import IGNORE, OUTSIDE, Batch, PackedStream, Source
from physlm.randomness import Key

KEY = Key.of("stream test", 3)
WORLD = ToyWorld(sizes=(("train", 23), ("qa", 4), ("one", 1), ("none", 0)))
MIXTURE = [Source(WORLD, "train", 0.5), Source(WORLD, "qa", 0.3, loss_roles=(2,)), Source(WORLD, "one", 0.2)]
FRESH = FreshToyWorld(sizes=(("train", 23), ("qa", 4), ("large", 2**40)))
FRESH_MIXTURE = [Source(FRESH, "train", 0.5), Source(FRESH, "qa", 0.3, loss_roles=(2,)), Source(FRESH, "large", 0.2)]
MARKS = ("role", "person", "document", "position")


def make(sources=None, **changes) -> PackedStream:
    options = {"context": 16, "batch_size": 8, "key": KEY, "marks": MARKS, "document_mask": True}
    return PackedStream(sources or MIXTURE, **{**options, **changes})


def take(stream: PackedStream, batches: int) -> Batch:
    """Some batches joined, rows in order of their numbers."""
    got = [stream.next_batch() for _ in range(batches)]
    return join(got)


def join(batches: list[Batch]) -> Batch:
    order = np.argsort(np.concatenate([b.rows for b in batches]))

    def stack(name):
        return np.concatenate([getattr(b, name) for b in batches])[order]

    return Batch(
        window=stack("window"),
        loss=stack("loss"),
        window_documents=stack("window_documents"),
        window_marks={
            name: np.concatenate([b.window_marks[name] for b in batches])[order] for name in batches[0].window_marks
        },
        source=stack("source"),
        rows=stack("rows"),
    )


def assert_same(a: Batch, b: Batch) -> None:
    for name in ("window", "loss", "window_documents", "source", "rows"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.window_marks.keys() == b.window_marks.keys()
    for name in a.window_marks:
        np.testing.assert_array_equal(a.window_marks[name], b.window_marks[name], err_msg=name)


def deal_forever(source: Source, number: int):
    """Documents of a source, one at a time, pass after pass."""
    size = source.world.size(source.split)
    for pass_number in itertools.count():
        if isinstance(source.world, FreshWorld):
            yield from range(size)
            continue
        for document in KEY.child("order", number).permutations(np.array([pass_number]), size)[0]:
            yield int(document)


def reference_rows(sources: list[Source], context: int, overflow: str, rows: int):
    """The stream token by token, as slow and obvious as possible."""
    if overflow == "continue":
        yield from reference_text(sources, context, rows)
        return
    queues = [deal_forever(source, number) for number, source in enumerate(sources)]
    waiting: list[int | None] = [None] * len(sources)
    width = context + 1
    for row in range(rows):
        u = KEY.child("mixture").uniforms(np.array([row]), 1)[0, 0]
        number = next(i for i in range(len(sources)) if u < sum(s.share for s in sources[: i + 1]))
        source = sources[number]
        # (token, loss, document, role, index of the document in the split)
        cells = [(EOS, False, 0, OUTSIDE, OUTSIDE)]
        count = 0
        while len(cells) < width:
            document = waiting[number]
            document = next(queues[number]) if document is None else document
            waiting[number] = None
            sample = source.world[source.split, document]
            if overflow == "whole" and len(cells) + len(sample.tokens) + 1 > width:
                waiting[number] = document
                break
            roles = source.loss_roles
            for token, role in zip(sample.tokens, sample.marks["role"], strict=True):
                cells.append((int(token), roles is None or role in roles, count, int(role), document))
            count += 1
            cells.append((EOS, roles is None or OUTSIDE in roles, count, OUTSIDE, OUTSIDE))
        cells = cells[:width] + [(PAD, False, OUTSIDE, OUTSIDE, OUTSIDE)] * (width - len(cells))
        yield number, cells


def reference_text(sources: list[Source], context: int, rows: int):
    """Windows cut from the endless text of each source; documents are told apart by their place in the text."""

    def text(source: Source, number: int):
        yield EOS, False, 0, OUTSIDE, OUTSIDE
        for count, document in enumerate(deal_forever(source, number)):
            sample, roles = source.world[source.split, document], source.loss_roles
            for token, role in zip(sample.tokens, sample.marks["role"], strict=True):
                yield int(token), roles is None or role in roles, count, int(role), document
            yield EOS, roles is None or OUTSIDE in roles, count + 1, OUTSIDE, OUTSIDE

    texts = [text(source, number) for number, source in enumerate(sources)]
    last = [next(cells) for cells in texts]
    for row in range(rows):
        u = KEY.child("mixture").uniforms(np.array([row]), 1)[0, 0]
        number = next(i for i in range(len(sources)) if u < sum(s.share for s in sources[: i + 1]))
        token, _, first, *rest = last[number]
        window = [(token, False, first, *rest), *itertools.islice(texts[number], context)]
        last[number] = window[-1]
        yield number, [(token, loss, count - first, *rest) for token, loss, count, *rest in window]


@pytest.mark.parametrize("mixture", [MIXTURE, FRESH_MIXTURE], ids=["shuffled", "fresh"])
@pytest.mark.parametrize("overflow", ["cut", "whole", "continue"])
@pytest.mark.parametrize("context", [10, 16, 33, 150])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_matches_the_obvious_implementation(mixture, overflow, context, batch_size):
    batches = 84 // batch_size
    got = take(make(mixture, overflow=overflow, context=context, batch_size=batch_size), batches)
    for row, (number, cells) in enumerate(reference_rows(mixture, context, overflow, 84)):
        token, loss, document, role, index = (list(column) for column in zip(*cells, strict=True))
        assert got.rows[row] == row
        assert got.source[row] == number
        assert got.window[row].tolist() == token
        assert got.loss[row].tolist() == loss
        assert got.window_documents[row].tolist() == document
        assert got.window_marks["role"][row].tolist() == role
        assert got.window_marks["document"][row].tolist() == index


def test_nothing_is_lost_where_windows_continue():
    stream = make([Source(WORLD, "train")], overflow="continue", context=5)
    got = take(stream, 40)
    assert (got.window[1:, 0] == got.window[:-1, -1]).all()
    assert got.loss[:, 1:].all()
    text = got.window[:, 1:].reshape(-1)
    documents = np.split(text, np.flatnonzero(text == EOS) + 1)[:-1]
    order = list(itertools.islice(deal_forever(Source(WORLD, "train"), 0), len(documents)))
    expected = [[*WORLD["train", document].tokens.tolist(), EOS] for document in order]
    assert [document.tolist() for document in documents] == expected


def test_a_fresh_world_may_be_larger_than_memory():
    assert isinstance(FRESH, FreshWorld)
    assert not isinstance(WORLD, FreshWorld)
    stream = make([Source(FRESH, "large")])
    stream.restore({"row": 5, "passes": [0], "cursors": [2**40 - 2]})
    ids = stream.next_batch().window_marks["document"]
    assert {2**40 - 2, 2**40 - 1, 0, 1, 2} <= set(ids[0].tolist()) | set(ids[1].tolist())
    assert stream.state()["passes"] == [1]


def test_a_window_shorter_than_its_documents_is_cut():
    world = ToyWorld(shortest=9, longest=9)
    got = take(make([Source(world, "train")], context=4, batch_size=23), 1)
    assert sorted(got.window_marks["document"][:, 1].tolist()) == list(range(23))
    assert (got.window_marks["position"][:, 1:] == np.arange(4)).all()


def test_the_shifted_view_is_the_window_shifted():
    batch = make(overflow="whole").next_batch()
    assert batch.inputs.shape == batch.targets.shape == (8, 16)
    assert len(batch) == 8
    assert (batch.inputs.dtype, batch.targets.dtype, batch.documents.dtype) == (np.int64, np.int64, np.int32)
    np.testing.assert_array_equal(batch.inputs, batch.window[:, :-1])
    np.testing.assert_array_equal(batch.targets, np.where(batch.loss[:, 1:], batch.window[:, 1:], IGNORE))
    np.testing.assert_array_equal(batch.documents, batch.window_documents[:, :-1])
    np.testing.assert_array_equal(batch.marks["role"], batch.window_marks["role"][:, 1:])
    assert (batch.targets[batch.window[:, 1:] == PAD] == IGNORE).all()
    plain = make(document_mask=False, marks=()).next_batch()
    assert plain.documents is None
    assert plain.marks == {}


def started_documents(batch: Batch) -> list[int]:
    """Documents whose first token is in the batch, row after row."""
    return batch.window_marks["document"][batch.window_marks["position"] == 0].tolist()


@pytest.mark.parametrize("overflow", ["cut", "whole"])
@pytest.mark.parametrize(("size", "context"), [(23, 16), (200, 31), (3, 64)])
def test_each_pass_starts_every_document_exactly_once(overflow, size, context):
    world = ToyWorld(sizes=(("train", size),))
    got = started_documents(take(make([Source(world, "train")], overflow=overflow, context=context), 30))
    passes = [tuple(got[i : i + size]) for i in range(0, len(got) - size + 1, size)]
    assert len(passes) > 3
    assert all(sorted(one) == list(range(size)) for one in passes)
    assert len(set(passes)) > 1, "every pass has its own order"


def test_whole_documents_are_whole():
    got = take(make([Source(WORLD, "train")], overflow="whole", context=12), 20)
    seen = Counter(got.window_marks["document"][got.window_marks["document"] >= 0].tolist())
    started = Counter(started_documents(got))
    lengths = WORLD.lengths("train")
    assert all(seen[document] == started[document] * lengths[document] for document in started)


@pytest.mark.parametrize("overflow", ["cut", "whole"])
def test_separators(overflow):
    got = take(make(overflow=overflow), 20)
    assert (got.window[:, 0] == EOS).all()
    assert not got.loss[:, 0].any()
    is_start = got.window_marks["position"] == 0
    assert (got.window[:, :-1][is_start[:, 1:]] == EOS).all()
    assert not ((got.window[:, 1:] == EOS) & (got.window[:, :-1] == EOS)).any(), "one separator, never two"
    if overflow == "cut":
        assert (got.window != PAD).all()
    else:
        tail = np.cumsum(got.window == PAD, axis=1) > 0
        np.testing.assert_array_equal(tail, got.window == PAD)


def test_a_row_never_mixes_sources():
    worlds = [ToyWorld(sizes=(("a", 50), ("b", 50))), ToyWorld(sizes=(("a", 50), ("b", 50)), vocab_size=900)]
    sources = [Source(world, split, 0.25) for world in worlds for split in world.splits]
    got = take(make(sources), 20)
    for row in range(len(got)):
        source = sources[got.source[row]]
        inside = got.window_marks["document"][row] >= 0
        for token, document, position in zip(
            got.window[row][inside],
            got.window_marks["document"][row][inside],
            got.window_marks["position"][row][inside],
            strict=True,
        ):
            assert token == source.world[source.split, document].tokens[position]


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_share_out_one_stream(ranks):
    single = take(make(batch_size=24), 5)
    streams = [make(batch_size=24 // ranks, rank=rank, ranks=ranks) for rank in range(ranks)]
    parts = [[stream.next_batch() for _ in range(5)] for stream in streams]
    assert all((b.rows % ranks == rank).all() for rank, part in enumerate(parts) for b in part)
    assert_same(join([b for part in parts for b in part]), single)
    assert len({repr(stream.state()) for stream in streams}) == 1


def test_batch_size_changes_no_row():
    assert_same(take(make(batch_size=2), 30), take(make(batch_size=20), 3))


@pytest.mark.parametrize("mixture", [MIXTURE, FRESH_MIXTURE], ids=["shuffled", "fresh"])
@pytest.mark.parametrize("overflow", ["cut", "whole", "continue"])
def test_resumes_from_every_state(mixture, overflow):
    stream = make(mixture, batch_size=3, overflow=overflow)
    states, batches = [], []
    for _ in range(40):
        states.append(stream.state())
        batches.append(stream.next_batch())
    assert max(states[-1]["passes"]) > 2
    walker = make(mixture, batch_size=3, overflow=overflow)
    for i in reversed(range(39)):
        fresh = make(mixture, batch_size=3, overflow=overflow)
        for resumed in (fresh, walker):
            resumed.restore(states[i])
            assert resumed.state() == states[i]
            assert_same(resumed.next_batch(), batches[i])
            assert_same(resumed.next_batch(), batches[i + 1])


def test_resumes_with_other_ranks_and_batch_size():
    stream = make(batch_size=5)
    stream.next_batch()
    state = stream.state()
    expected = take(stream, 6)
    parts = [make(batch_size=3, rank=rank, ranks=2) for rank in range(2)]
    for part in parts:
        part.restore(state)
    assert_same(join([part.next_batch() for part in parts for _ in range(5)]), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": -1}, "-1"),
        ({"row": 1.5}, "1.5"),
        ({"passes": [0, 0]}, "2 passes"),
        ({"passes": 0}, "lists"),
        ({"passes": [0, -4, 0]}, "-4"),
        ({"cursors": [0, 4, 0]}, "cursor 4"),
        ({"cursors": [0, 0.5, 0]}, "cursor 0.5"),
        ({"more": 1}, "more"),
    ],
)
def test_restore_refuses_foreign_states(change, message):
    stream = make()
    stream.next_batch()
    before = stream.state()
    with pytest.raises(ValueError, match=message):
        stream.restore({**before, **change})
    assert stream.state() == before


@pytest.mark.parametrize(("shown", "message"), [([0, -1, 0], "-1"), ([0], "lists|for each"), (None, "exactly")])
def test_restore_of_continued_windows_refuses_foreign_states(shown, message):
    stream = make(overflow="continue")
    stream.next_batch()
    before = stream.state()
    changed = {**before, "shown": shown} if shown is not None else {k: v for k, v in before.items() if k != "shown"}
    with pytest.raises(ValueError, match=message):
        stream.restore(changed)
    assert stream.state() == before


def test_entries_of_a_person_meet_as_often_as_under_uniform_sampling():
    people, entries, per_window = 300, 5, 8
    world = ToyWorld(sizes=(("train", people * entries),), entries=entries, shortest=7, longest=7)
    stream = make([Source(world, "train")], context=per_window * 8, batch_size=100, overflow="whole")
    got = take(stream, 60)
    ids = got.window_marks["person"][:, 1::8]
    assert ids.shape[1] == per_window
    assert (ids >= 0).all()
    ordered = np.sort(ids, axis=1)
    meetings = int((ordered[:, 1:] == ordered[:, :-1]).any(axis=1).sum())
    total = people * entries
    apart = math.prod((total - entries * i) / (total - i) for i in range(per_window))
    expected, spread = len(ids) * (1 - apart), math.sqrt(len(ids) * apart * (1 - apart))
    assert abs(meetings - expected) < 4 * spread


def test_loss_roles():
    roles = (0, 2)
    got = take(make([Source(WORLD, "train", 1.0, loss_roles=roles)]), 10)
    np.testing.assert_array_equal(got.loss, np.isin(got.window_marks["role"], roles))
    with_eos = take(make([Source(WORLD, "train", 1.0, loss_roles=(*roles, OUTSIDE))]), 10)
    expected = np.isin(got.window_marks["role"], roles) | (got.window == EOS)
    expected[:, 0] = False
    np.testing.assert_array_equal(with_eos.loss, expected)
    unmarked = take(make([Source(WORLD, "train", 1.0, loss_roles=roles)], marks=()), 10)
    np.testing.assert_array_equal(unmarked.loss, got.loss)


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.1, 0.2, 0.7), (0.0, 1.0), (1.0, 0.0), (0.5, 0.0, 0.5)])
def test_mixture_shares(shares):
    rows = 4000
    sources = [Source(WORLD, "train", share) for share in shares]
    counts = np.bincount(take(make(sources, batch_size=500), rows // 500).source, minlength=len(shares))
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - rows * share) <= 4 * math.sqrt(rows * share * (1 - share))


def test_a_source_with_fewer_documents_than_a_window_repeats_within_the_row():
    got = take(make([Source(WORLD, "qa")], context=400, batch_size=2), 3)
    passes = started_documents(got)
    assert len(passes) > 4 * 10
    assert all(sorted(passes[i : i + 4]) == [0, 1, 2, 3] for i in range(0, len(passes) // 4 * 4, 4))


def test_sources_of_one_split_have_their_own_orders():
    got = take(make([Source(WORLD, "train", 0.5), Source(WORLD, "train", 0.5)]), 4)
    first, second = (got.window[got.source == number][0] for number in (0, 1))
    assert (first != second).any()


def test_iterates_forever():
    batches = list(itertools.islice(make(), 3))
    assert_same(join(batches), take(make(), 3))


def test_fingerprint_names_the_rows_and_nothing_else():
    base = make().fingerprint()
    assert base == make().fingerprint()
    assert base == make(batch_size=3, rank=1, ranks=2, marks=()).fingerprint()
    others = [
        make(context=17),
        make(overflow="whole"),
        make(overflow="continue"),
        make(key=Key.of("stream test", 4)),
        make(MIXTURE[::-1]),
        make([replace(MIXTURE[0], loss_roles=(1,)), *MIXTURE[1:]]),
        make([replace(MIXTURE[0], world=replace(WORLD, longest=8)), *MIXTURE[1:]]),
        make([replace(MIXTURE[0], share=0.4), replace(MIXTURE[1], share=0.4), MIXTURE[2]]),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ([Source(WORLD, "train", 0.5), Source(WORLD, "qa", 0.4)], {}, r"\[0.5, 0.4\] with sum 0.9"),
        ([Source(WORLD, "none")], {}, "at least 1 document, got 0 in split 'none'"),
        (MIXTURE, {"context": 0}, "context must be ≥ 1 token, got 0"),
        (MIXTURE, {"context": 9, "overflow": "whole"}, "window of 10 tokens.*document of 9 tokens.*context ≥ 10"),
        (MIXTURE, {"batch_size": 0}, "batch_size must be ≥ 1 row, got 0"),
        (MIXTURE, {"rank": 2, "ranks": 2}, r"rank must be in \[0, 2\), got 2"),
        (MIXTURE, {"rank": -1}, "got -1"),
        (MIXTURE, {"ranks": 0}, "ranks must be ≥ 1, got 0"),
        (MIXTURE, {"overflow": "wrap"}, "'wrap'"),
        ([Source(WORLD, "train", 0.5), Source(replace(WORLD, eos=7), "qa", 0.5)], {}, r"\(7, 0\)"),
    ],
)
def test_errors_name_the_value(sources, changes, message):
    with pytest.raises(ValueError, match=message):
        make(sources, **changes)


def test_other_errors_name_the_value():
    with pytest.raises(ValueError, match="at least 1 source"):
        PackedStream([], context=4, batch_size=1, key=KEY)
    with pytest.raises(ValueError, match="got 'tain'"):
        Source(WORLD, "tain")
    with pytest.raises(ValueError, match=r"got 1\.5"):
        Source(WORLD, "train", 1.5)
    with pytest.raises(ValueError, match="use None"):
        Source(WORLD, "train", 1.0, loss_roles=())
    with pytest.raises(ValueError, match="got 'depth'"):
        make(marks=("depth",)).next_batch()


def test_the_toy_world_keeps_the_contract():
    assert isinstance(WORLD, World)
    assert WORLD.check(("train", 3), WORLD["train", 3].tokens)
    assert not WORLD.check(("train", 3), WORLD["train", 4].tokens)
