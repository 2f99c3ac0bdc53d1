import pickle
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from physlm.data.contract import World, leakage
from physlm.data.streams import PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.corruption import Corruption
from physlm.worlds.cfg.grammar import Grammar, Rule
from physlm.worlds.cfg.implicit import Implicit
from physlm.worlds.cfg.marks import Role
from physlm.worlds.cfg.world import CFGWorld

ROOT = Path(__file__).resolve().parents[3]
ENGLISH = Grammar(
    name="english",
    root="S",
    rules=(
        Rule("S", ("NP", "VP"), 1.0),
        Rule("NP", ("the", "N"), 0.6),
        Rule("NP", ("NP", "near", "NP"), 0.2),
        Rule("NP", ("it",), 0.2),
        Rule("VP", ("runs",), 0.5),
        Rule("VP", ("sees", "NP"), 0.5),
        Rule("N", ("cat",), 0.9),
        Rule("N", ("dog",), 0.1),
    ),
)
CONFIGS = {
    "cfg3f": CFGConfig(seed=0, grammar="cfg3f"),
    "reduced, no BOS": CFGConfig(seed=0, grammar="cfg3b", root="16", bos=False),
    "terminals wrong": CFGConfig(seed=0, grammar="cfg3f", corruption=Corruption.paper("terminal", 0.5)),
    "nonterminals wrong": CFGConfig(seed=0, grammar="cfg3h", corruption=Corruption.paper("nonterminal", 0.5)),
    "permuted": CFGConfig(seed=0, grammar="cfg3e1", corruption=Corruption.paper("permutation", 0.5)),
    "implicit": CFGConfig(seed=0, grammar="cfg3i", implicit=Implicit(weights="linear")),
    "recursive": CFGConfig(seed=0, grammar=ENGLISH, corruption=Corruption.paper("terminal", 0.5)),
}
WORLDS = {name: CFGWorld(config) for name, config in CONFIGS.items()}

# Percent, from the level above the terminals up to the one below the root: the most frequent symbol over all tokens and
# over the last tokens of nodes; last tokens per token (§1.4).
LABELS = {
    "cfg3b": ((33.3, 38.1, 36.8, 38.1, 48.3), (33.3, 38.1, 37.5, 38.2, 50.0), (40.0, 13.3, 5.1, 1.9, 0.73)),
    "cfg3i": ((60.1, 51.6, 36.4, 46.4, 48.4), (53.5, 56.0, 41.8, 43.4, 49.9), (37.4, 14.2, 5.4, 2.4, 0.98)),
    "cfg3h": ((45.0, 37.5, 42.7, 49.0, 52.7), (42.1, 38.3, 39.2, 50.1, 40.0), (35.7, 15.3, 6.5, 2.5, 1.06)),
    "cfg3g": ((37.5, 47.7, 41.7, 41.9, 45.5), (39.4, 46.3, 41.5, 38.7, 50.2), (40.9, 15.7, 6.7, 2.7, 1.06)),
    "cfg3f": ((39.9, 40.8, 38.6, 41.2, 38.5), (43.5, 40.2, 37.4, 37.3, 39.6), (39.3, 14.9, 5.6, 2.3, 1.00)),
    "cfg3e1": ((5.2, 4.5, 8.3, 21.6, 51.1), (5.4, 4.0, 8.6, 23.1, 57.0), (41.3, 16.5, 6.6, 2.7, 1.18)),
    "cfg3e2": ((16.5, 6.6, 10.2, 30.2, 41.3), (13.8, 6.5, 8.3, 24.7, 37.5), (39.9, 15.7, 6.2, 2.4, 1.08)),
}


@pytest.fixture(params=WORLDS)
def world(request) -> CFGWorld:
    return WORLDS[request.param]


def test_it_is_a_world(world):
    assert isinstance(world, World)
    assert world.splits == ("train", "test")
    assert [world.size(split) for split in world.splits] == [1_000_000, 20_000]
    assert world.pad == world.bos == 0
    assert world.vocab_size == world.alphabet_size + 3 == world.mask + 1 == world.eos + 2


def test_any_batch_and_order_equals_one_by_one(world):
    for split in world.splits:
        indices = np.random.default_rng(0).integers(0, world.size(split), 12)
        samples = world.render(split, indices)
        for i, index in enumerate(indices):
            tokens, marks = samples.document(i)
            alone = world[split, int(index)]
            assert tokens.tolist() == alone.tokens.tolist()
            assert {name: mark.tolist() for name, mark in marks.items()} == {
                name: mark.tolist() for name, mark in alone.marks.items()
            }
            assert tokens.dtype == alone.tokens.dtype
            assert {name: mark.dtype for name, mark in marks.items()} == {
                name: mark.dtype for name, mark in alone.marks.items()
            }
        assert np.diff(samples.offsets).tolist() == world.lengths_at(split, indices).tolist()


def test_large_batches_are_made_in_parts():
    world = WORLDS["reduced, no BOS"]
    indices = np.random.default_rng(0).integers(0, 1_000_000, 9_000)
    samples = world.render("train", indices)
    assert len(samples) == 9_000
    assert np.diff(samples.offsets).tolist() == world.lengths_at("train", indices).tolist()
    for start in (0, 4_095, 4_096, 8_999):
        assert samples.document(start)[0].tolist() == world["train", int(indices[start])].tokens.tolist()


def test_fewer_marks_change_nothing_else(world):
    indices = np.arange(7)
    everything = world.render("train", indices)
    assert set(everything.marks) == set(world.marks)
    bare = world.render("train", indices, marks=())
    assert bare.marks == {}
    assert (bare.tokens == everything.tokens).all()
    (name,) = world.render("train", indices, marks=("terminal",)).marks.items()
    assert name[0] == "terminal"
    assert (name[1] == everything.marks["terminal"]).all()


def test_marks_agree_with_the_derivation(world):
    for split in world.splits:
        for index in range(15):
            sample = world[split, index]
            derivation, begin = sample.truth, int(world.config.bos)
            if begin:
                assert sample.tokens[0] == world.bos
                outside = {name: int(mark[0]) for name, mark in sample.marks.items()}
                assert outside == {**dict.fromkeys(world.marks, -1), "role": Role.BEGIN}
            marks = {name: mark[begin:] for name, mark in sample.marks.items()}
            assert (marks["role"] == Role.TOKEN).all()
            terminals = [1 + world.grammar.terminals.index(label) for label in derivation.labels(-1)]
            assert marks["terminal"].tolist() == terminals
            if world.bags is None:
                assert sample.tokens[begin:].tolist() == terminals
            assert marks["corrupted"].tolist() == corrupted(derivation).tolist()
            if "deepest_end" in world.marks:
                check_levels(marks, derivation)


def corrupted(derivation) -> np.ndarray:
    if derivation.mistaken is None:
        return np.zeros(len(derivation), dtype=int)
    wrong = derivation.intended != derivation.symbols[derivation.mistaken]
    return 1 + wrong[derivation.ancestors(derivation.mistaken)]


def check_levels(marks, derivation) -> None:
    levels = len(derivation.symbols)
    ends = {level: derivation.ends(level - 1) for level in range(1, levels + 1)}
    for level in range(1, levels):
        above = derivation.ancestors(level - 1)
        assert marks[f"index_{level}"].tolist() == above.tolist()
        assert marks[f"symbol_{level}"].tolist() == derivation.symbols[level - 1][above].tolist()
        assert marks[f"end_{level}"].tolist() == ends[level].tolist()
    deepest = [min(level for level in range(2, levels + 1) if ends[level][i]) for i in range(len(derivation))]
    assert marks["deepest_end"].tolist() == deepest
    assert deepest[-1] == 2 or levels == 2


@pytest.mark.parametrize("name", LABELS)
def test_label_statistics_are_the_published_ones(name):
    sentences = 6_000
    world = CFGWorld(CFGConfig(seed=0, grammar=name, bos=False))
    samples = world.render("test", np.arange(sentences))
    tokens = len(samples.tokens)
    for level, everywhere, at_ends, rate in zip((6, 5, 4, 3, 2), *LABELS[name], strict=True):
        symbol, end = samples.marks[f"symbol_{level}"], samples.marks[f"end_{level}"].astype(bool)
        nodes = end.sum()
        # Tokens below one node share its symbol, and nodes of one sentence are related: twice the error of free nodes.
        tolerance = 0.05 + 100 * 3 * 2 * 0.5 / nodes**0.5
        assert 100 * np.bincount(symbol).max() / tokens == pytest.approx(everywhere, abs=tolerance)
        assert 100 * np.bincount(symbol[end]).max() / nodes == pytest.approx(at_ends, abs=tolerance)
        assert 100 * nodes / tokens == pytest.approx(rate, rel=0.02)


def test_sentences_are_right_unless_mistakes_are_made(world):
    for index in range(10):
        sample = world["test", index]
        assert world.check(sample.truth, sample.tokens)
    if world.config.corruption is not None and world.config.grammar != ENGLISH:
        judged = [(s, world.check(s.truth, s.tokens)) for s in (world["train", index] for index in range(30))]
        assert all(judgement for s, judgement in judged if s.marks["corrupted"].max() < 2)
        assert sum(not judgement for s, judgement in judged if s.marks["corrupted"].max() == 2) > 5


def test_a_changed_token_is_found_where_it_stands_or_later():
    world = WORLDS["cfg3f"]
    found = 0
    for index in range(30):
        tokens = world["test", index].tokens.copy()
        tokens[20] = tokens[20] % 3 + 1
        judgement = world.check(None, tokens)
        if not judgement:
            found += 1
            assert judgement.position is not None
            assert judgement.position >= 20
            assert judgement.reason
    assert found > 20


def test_documents_open_with_bos_where_they_should():
    world, bare = WORLDS["cfg3f"], WORLDS["reduced, no BOS"]
    tokens = world["test", 0].tokens
    assert world.check(None, tokens[1:]).position == 0
    assert world.check(None, tokens[1:]).reason == f"a document must open with BOS (0), got token {tokens[1]}"
    assert world.check(None, []).reason == "a document must open with BOS (0), got nothing"
    assert world.check(None, [0]).position == 1
    assert bare.check(None, bare["test", 0].tokens)
    assert bare.check(None, [0]).position == 0
    assert world.sentences("test", np.array([0]))[0].tolist() == tokens[1:].tolist()
    assert bare.sentences("test", np.array([0]))[0].tolist() == bare["test", 0].tokens.tolist()


def test_lengths_are_those_of_the_documents():
    world = CFGWorld(CFGConfig(seed=2, grammar="cfg3f", root="18", sentences=9_000, test_sentences=3))
    lengths = world.lengths("train")
    assert lengths.shape == (9_000,)
    assert (lengths == np.diff(world.render("train", np.arange(9_000), ()).offsets)).all()
    assert (world.lengths("train") == lengths).all()
    assert world.lengths("test").shape == (3,)


def test_a_split_may_be_larger_than_any_run():
    config = CFGConfig(seed=0, grammar="cfg3f", sentences=2**37)
    world = CFGWorld(config)
    last = world["train", 2**37 - 1]
    assert world.check(last.truth, last.tokens)
    assert world.lengths_at("train", np.array([2**37 - 1, 5]))[0] == len(last.tokens)
    # The size does not change the sentences.
    assert world["train", 5].tokens.tolist() == WORLDS["cfg3f"]["train", 5].tokens.tolist()
    with pytest.raises(ValueError, match="at most 1073741824 sentences, got 137438953472 in 'train': use lengths_at"):
        world.lengths("train")


def test_splits_and_seeds_share_nothing():
    world = WORLDS["cfg3f"]
    indices = np.arange(300)
    train, test = (world.render(split, indices, ()) for split in world.splits)
    assert leakage(train, test) == 0.0
    other = CFGWorld(CFGConfig(seed=1, grammar="cfg3f"))
    assert leakage(train, other.render("train", indices, ())) == 0.0
    assert leakage(train, train) == 1.0
    # A language of a few sentences has nothing else to show.
    tiny = CFGWorld(CFGConfig(seed=0, grammar="cfg3b", root="10"))
    assert leakage(*(tiny.render(split, indices, ()) for split in tiny.splits)) > 0.5


def test_fingerprints_tell_worlds_apart():
    fingerprints = {name: world.fingerprint() for name, world in WORLDS.items()}
    assert len(set(fingerprints.values())) == len(WORLDS)
    assert CFGWorld(CONFIGS["implicit"]).fingerprint() == fingerprints["implicit"]
    assert CFGWorld(CFGConfig(seed=1, grammar="cfg3f")).fingerprint() != fingerprints["cfg3f"]


def test_another_process_makes_the_same_world():
    code = (
        "from tests.worlds.cfg.test_cfg_world import WORLDS; "
        "print(WORLDS['implicit'].fingerprint(), WORLDS['recursive'].fingerprint())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [WORLDS[name].fingerprint() for name in ("implicit", "recursive")]


def test_worlds_can_be_sent_to_workers(world):
    copy = pickle.loads(pickle.dumps(world))
    assert copy["train", 3].tokens.tolist() == world["train", 3].tokens.tolist()


def test_it_can_be_packed():
    world = CFGWorld(CFGConfig(seed=0, grammar="cfg3b", root="16", sentences=500))
    marks = ("symbol_2", "deepest_end", "role")
    stream = PackedStream([Source(world, "train")], context=128, batch_size=4, key=Key.of("test"), marks=marks)
    batch = stream.next_batch()
    opens = batch.window[:, :-1] == world.eos
    assert (batch.window[:, 1:][opens] == world.bos).all()
    assert (batch.window_marks["role"][batch.window == world.bos] == Role.BEGIN).all()
    assert (batch.window_marks["symbol_2"][batch.window == world.eos] == -1).all()
    row = batch.window[0]
    at = np.flatnonzero(row == world.eos)
    assert len(at) >= 2
    for start, stop in pairwise(at):
        assert world.check(None, row[start + 1 : stop])


@pytest.mark.parametrize("indices", [[], [0, 0, 3]])
def test_empty_and_repeated_indices(world, indices):
    samples = world.render("test", np.array(indices, dtype=np.int64))
    assert len(samples) == len(indices)
    assert samples.offsets[-1] == len(samples.tokens)
    assert set(samples.marks) == set(world.marks)
    assert [samples.document(i)[0].tolist() for i in range(len(indices))] == [
        world["test", i].tokens.tolist() for i in indices
    ]
    assert len(world.lengths_at("test", np.array(indices, dtype=np.int64))) == len(indices)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda w: w.size("valid"), ValueError, "split must be one of train, test, got 'valid'"),
        (lambda w: w["valid", 0], ValueError, "split must be one of train, test, got 'valid'"),
        (lambda w: w["test", 20_000], IndexError, "indices of 'test' must be in 0..19999, got 20000"),
        (lambda w: w["test", -1], IndexError, "indices of 'test' must be in 0..19999, got -1"),
        (lambda w: w.render("test", np.zeros((1, 1), int)), ValueError, "indices must be a flat array of integers"),
        (lambda w: w.render("test", np.zeros(1)), ValueError, "indices must be a flat array of integers"),
        (lambda w: w.render("test", np.zeros(1, int), ("end_7",)), ValueError, "marks must be among role, .* 'end_7'"),
        (lambda w: w.check(None, [0, 1.5]), TypeError, r"a flat list of token ids, got \[0, 1\.5\]"),
        (lambda w: w.check(None, None), TypeError, "a flat list of token ids, got None"),
    ],
)
def test_bad_requests_are_named(use, error, message):
    with pytest.raises(error, match=message):
        use(WORLDS["cfg3f"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 0.5}, TypeError, "seed must be an int, got 0.5"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"sentences": 0}, ValueError, "sentences must be in 1..274877906944, got 0"),
        ({"test_sentences": 2**39}, ValueError, "test_sentences must be in 1..274877906944, got 549755813888"),
        ({"grammar": "cfg3z"}, ValueError, "cfg3z"),
        ({"grammar": 3}, TypeError, "grammar must be a name or a Grammar, got 3"),
        ({"root": "99"}, ValueError, "99"),
        ({"corruption": "terminal"}, TypeError, "corruption must be Corruption or None, got 'terminal'"),
        ({"implicit": 300}, TypeError, "implicit must be Implicit or None, got 300"),
    ],
)
def test_bad_configs_are_named(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CFGConfig(**{"seed": 0, "grammar": "cfg3f", **options})
