import pickle
from dataclasses import replace

import numpy as np
import pytest

from physlm.data.contract import FreshWorld, World, hash_samples, leakage
from physlm.data.streams import PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.judge import Judge
from physlm.worlds.igsm.problem import Problem
from physlm.worlds.igsm.rendering import ROLES
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.recent import _REMEMBERED

CONFIG = IGSMConfig(seed=0, rendering="compact", modulus=7, names_per_category=20)


@pytest.fixture(scope="module")
def world():
    return IGSMWorld(CONFIG)


def test_the_world_keeps_the_contract(world):
    assert isinstance(world, World)
    assert isinstance(world, FreshWorld)
    assert world.splits == ("train", "test")
    assert (world.size("train"), world.size("test")) == (1 << 30, 1 << 20)
    assert world.vocab_size == len(world.vocabulary) == 9 + 7 + 52 + 11 + 20 + 16 + 320
    assert (world.pad, world.bos, world.eos) == (0, 1, 4)
    sample = world["train", 12345]
    assert isinstance(sample.truth, Problem)
    assert set(sample.marks) == set(world.marks) == {"role", "sentence", "parameter"}
    assert sample.tokens.max() < world.vocab_size


def test_many_documents_are_what_each_is_alone(world):
    indices = np.array([7, 3, 999_999, 3, 0])
    samples = world.render("test", indices)
    fresh = IGSMWorld(CONFIG)
    for place, index in enumerate(indices.tolist()):
        tokens, marks = samples.document(place)
        alone = fresh["test", index]
        assert tokens.tolist() == alone.tokens.tolist()
        assert all(mark.tolist() == alone.marks[name].tolist() for name, mark in marks.items())
    assert len(world.render("test", np.array([], dtype=np.int64))) == 0
    assert not world.render("test", indices, marks=()).marks
    assert set(world.render("test", indices, marks=("role",)).marks) == {"role"}


def test_lengths_are_those_of_the_documents(world):
    indices = np.arange(600, 300, -1)
    assert world.lengths_at("train", indices).tolist() == np.diff(world.render("train", indices).offsets).tolist()
    small = IGSMWorld(replace(CONFIG, problems=300))
    assert small.lengths("train").tolist() == world.lengths_at("train", np.arange(300)).tolist()


def test_what_is_remembered_changes_nothing_and_stays_small(world):
    first = world.render("train", np.arange(100))
    world.lengths_at("train", np.arange(20_000, 30_000))
    assert len(world._recent._places) <= _REMEMBERED
    assert world.render("train", np.arange(100)).tokens.tolist() == first.tokens.tolist()
    held = world.render("train", np.arange(100))
    held.tokens[:] = 0  # what was handed out belongs to the caller
    assert world.render("train", np.arange(100)).tokens.tolist() == first.tokens.tolist()


def test_a_copy_in_another_process_is_the_same(world):
    copy = pickle.loads(pickle.dumps(world))
    assert copy["test", 5].tokens.tolist() == world["test", 5].tokens.tolist()


def test_solutions_of_the_world_are_right_and_others_are_not(world):
    samples = world.render("test", np.arange(200))
    for i, problem in enumerate(world.problems("test", np.arange(200))):
        tokens, marks = samples.document(i)
        assert world.check(problem, tokens)
        solution = tokens[marks["role"] >= ROLES["solution"]]
        assert world.check(problem, solution)
        wrong = tokens.copy()
        wrong[-1] = world.vocabulary.number((wrong[-1] - world.vocabulary.first_number + 1) % 7)
        judgement = world.check(problem, wrong)
        assert (bool(judgement), judgement.position) == (False, len(tokens) - 1)
        assert judgement.reason == f"answer: token {len(solution) - 1} is not the value of the query"


def test_the_same_problems_in_another_order_and_dialect(world):
    english = IGSMWorld(replace(CONFIG, rendering="english", question_first=True))
    for index in range(20):
        ours, theirs = world["test", index], english["test", index]
        assert replace(ours.truth, question_first=True) == theirs.truth
        assert len(theirs.tokens) > len(ours.tokens)
        assert Judge(english.vocabulary, "english").check(ours.truth, theirs.tokens[theirs.marks["role"] >= 3])


def test_longer_and_reasked_problems_are_worlds_of_their_own(world):
    longer = world.with_operations(20)
    assert {len(problem.letters) for problem in longer.problems("test", np.arange(50))} == {20}
    assert longer.config == replace(CONFIG, exact_operations=20)
    reasked = longer.reasked()
    lengths = [len(problem.letters) for problem in reasked.problems("test", np.arange(50))]
    assert min(lengths) < 10
    assert reasked.vocabulary.tokens == world.vocabulary.tokens


def test_training_and_test_documents_share_nothing(world):
    train, test = (world.render(split, np.arange(3000), marks=()) for split in world.splits)
    assert leakage(train, test) == 0
    templates = [set(world.templates(split, np.arange(3000)).tolist()) for split in world.splits]
    assert not templates[0] & templates[1]
    assert leakage(train, IGSMWorld(replace(CONFIG, seed=1)).render("train", np.arange(3000), marks=())) < 0.01


def test_templates_of_many_operations_are_all_different(world):
    longer = world.with_operations(15)
    assert len(set(longer.templates("train", np.arange(5000)).tolist())) == 5000
    assert len(set(world.with_operations(2).templates("train", np.arange(100)).tolist())) < 7


def test_streams_train_on_solutions_only(world):
    roles = (ROLES["solution"], ROLES["answer"])
    source = Source(world, "train", loss_roles=roles)
    stream = PackedStream(
        [source], context=400, batch_size=8, key=Key.of("stream"), overflow="whole", marks=("role", "sentence")
    )
    batch = stream.next_batch()
    asked = batch.targets != -100
    assert np.isin(batch.marks["role"][asked], roles).all()
    assert 0.2 < asked.mean() < 0.6
    text = world.vocabulary.decode(batch.window[0][batch.window[0] != world.pad])
    assert text.startswith("<eos> <bos>")
    assert text.endswith("<eos>")
    again = PackedStream([source], context=400, batch_size=4, key=Key.of("stream"), overflow="whole")
    assert again.next_batch().window.tolist() == batch.window[:4].tolist()


def test_fingerprints_tell_worlds_apart(world):
    assert world.fingerprint() == IGSMWorld(CONFIG).fingerprint()
    others = [replace(CONFIG, seed=1), replace(CONFIG, question_first=True), replace(CONFIG, max_operations=14)]
    assert len({world.fingerprint(), *(IGSMWorld(other).fingerprint() for other in others)}) == 4


GOLDEN = {
    "iGSM-med": (IGSMConfig(seed=0), "0dcd799228ec1aa08ebe8633f1f931f1"),
    "iGSM-hard, question first": (
        IGSMConfig(seed=0, max_operations=21, max_instances=28, question_first=True),
        "5d57c4f2d50c207b26b44369b5519c25",
    ),
    "compact": (CONFIG, "b8e9163af32219557bc9d50b77f9387a"),
    "op = 20, reasked": (IGSMConfig(seed=0, exact_operations=20, reask=True), "bd607c8d6c1db86cdcbcae07136037ba"),
    "everything": (IGSMConfig(seed=0, solution="everything"), "d2dbc82b882a0230a5187f449699bd40"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_problems_are_those_that_were_always_made(name):
    config, expected = GOLDEN[name]
    assert hash_samples(IGSMWorld(config).render("test", np.arange(300))) == expected


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda world: world.size("valid"), ValueError, "split must be one of train, test, got 'valid'"),
        (lambda world: world["test", 1 << 20], IndexError, r"indices of 'test' must be in 0..1048575, got 1048576"),
        (lambda world: world["test", -1], IndexError, "got -1"),
        (lambda world: world.render("test", np.array([0.5])), ValueError, "indices must be a flat array of integers"),
        (
            lambda world: world.render("test", np.arange(2), marks=("rule",)),
            ValueError,
            "marks must be among role, .*rule",
        ),
        (lambda world: world.lengths("train"), ValueError, "lengths of all problems need a split of at most"),
    ],
)
def test_bad_requests_are_refused(world, ask, error, message):
    with pytest.raises(error, match=message):
        ask(world)


def test_a_solution_may_not_be_begun_again():
    """Or a model could write anything, then <sol> and the right solution."""
    world = IGSMWorld(IGSMConfig(seed=0))
    sample = world["test", 3]
    first = int(np.flatnonzero(sample.tokens == world.vocabulary.sol)[0])
    solution = sample.tokens[first + 1 :]
    assert world.check(sample.truth, solution)
    assert world.check(sample.truth, sample.tokens)
    again = world.check(sample.truth, np.concatenate([solution[:5], [world.vocabulary.sol], solution]))
    assert not again
    assert again.position == 5
