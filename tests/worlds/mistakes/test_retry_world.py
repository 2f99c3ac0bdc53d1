"""The injector on its own, and on solutions of the iGSM world."""

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from physlm.data.contract import FreshWorld, Samples, World
from physlm.data.streams import IGNORE, OUTSIDE, PackedStream, Source
from physlm.data.tokenizers import BytePairTokenizer
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.dependencies import Dependencies, contains
from physlm.worlds.igsm.labels import labels, probing_set
from physlm.worlds.igsm.rendering import ROLES
from physlm.worlds.igsm.world import IGSMWorld
from physlm.worlds.mistakes.config import RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, Places
from physlm.worlds.mistakes.injection import inject
from physlm.worlds.mistakes.world import retry_world
from physlm.worlds.text import TextWorld

COMPACT = IGSMConfig(seed=0, rendering="compact", modulus=7, names_per_category=20)
ENGLISH = replace(COMPACT, rendering="english", question_first=True)
KINDS = {
    "retry": RetryConfig(seed=1, rate=0.5),
    "retry_weak": RetryConfig(seed=1, rate=0.5, kind="retry_weak"),
    "retry_weak, next": RetryConfig(seed=1, rate=0.5, kind="retry_weak", include_next=True),
    "retry_miss": RetryConfig(seed=1, rate=0.5, kind="retry_miss"),
    "retry_miss, next": RetryConfig(seed=1, rate=0.5, kind="retry_miss", include_next=True),
}


@pytest.fixture(scope="module")
def clean():
    return IGSMWorld(ENGLISH)


def numbered_places(documents, per_document, candidates):
    """Documents of `per_document` tokens with a place before each; a candidate is written as its own number."""
    count = documents * per_document
    first = np.arange(documents + 1) * per_document

    def write(place, number):  # noqa: ARG001
        return Attempts(number, np.ones(len(number), dtype=np.int64), {"role": np.full(len(number), AttemptRole.NAME)})

    samples = Samples(np.full(count, -7), first, {"role": np.zeros(count, dtype=np.int8)})
    return Places(samples, np.arange(count), first, np.full(count, candidates), write)


def drawn_chains(places, *, rate, key="chains", max_chain=None):
    """Attempts at each place, as lists."""
    count = len(places.samples)
    samples = inject(places, Key.of(key), np.arange(count), rate=rate, max_chain=max_chain)
    found, chain = [], []
    for token in samples.tokens.tolist():
        if token >= 0:
            chain.append(token)
        else:
            found.append(chain)
            chain = []
    assert not chain
    return found


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.5, 0.9])
def test_numbers_of_attempts_are_geometric(rate):
    places = numbered_places(5000, 4, 1 << 20)
    lengths = np.array([len(chain) for chain in drawn_chains(places, rate=rate)])
    for k in range(1, 12):
        low, high = binom.ppf([1e-5, 1 - 1e-5], len(lengths), rate**k)
        assert low <= (lengths >= k).sum() <= high


def test_attempts_at_a_place_are_different_and_uniform():
    chains = drawn_chains(numbered_places(6000, 5, 5), rate=0.7)
    assert all(len(set(chain)) == len(chain) for chain in chains)
    assert max(map(len, chains)) == 5, "there are no more candidates"
    assert chisquare(list(Counter(chain[0] for chain in chains if chain).values())).pvalue > 1e-4
    pairs = Counter(tuple(chain[:2]) for chain in chains if len(chain) > 1)
    assert len(pairs) == 20
    assert chisquare(list(pairs.values())).pvalue > 1e-4
    assert chisquare(list(Counter(tuple(chain) for chain in chains if len(chain) == 5).values())).pvalue > 1e-4


def test_chains_are_as_long_as_allowed():
    lengths = [len(chain) for chain in drawn_chains(numbered_places(1000, 3, 50), rate=0.8, max_chain=2)]
    assert max(lengths) == 2
    assert lengths.count(2) > lengths.count(1)


def test_places_without_candidates_have_no_attempts():
    assert not any(drawn_chains(numbered_places(100, 3, 0), rate=0.9))


def test_rates_are_those_of_the_world(clean):
    for rate in (0.05, 0.2, 0.5):
        world = retry_world(clean, RetryConfig(seed=2, rate=rate))
        indices = np.arange(3000)
        places = world.errors.places("train", indices)
        samples = world.render("train", indices)
        number, role = samples.marks["attempt"], samples.marks["role"]
        used = sum(len(world.chains(samples.document(i)[0])) for i in range(len(samples)))
        low, high = binom.ppf([1e-5, 1 - 1e-5], (places.candidates > 0).sum(), rate)
        assert low <= used <= high
        starts = (role == AttemptRole.BACK).sum()
        assert starts == len(
            {(document, n) for document, n in zip(document_of(samples), number, strict=True) if n >= 0}
        )


def document_of(samples):
    return np.repeat(np.arange(len(samples)), np.diff(samples.offsets))


# ----------------------------------------------------------------------------------------------------------------------
# What is attempted in solutions
# ----------------------------------------------------------------------------------------------------------------------


def allowed(problem, read, config):
    """The candidates after `read` sentences, from labels and sets."""
    following = problem.solution[read]
    state = labels(problem, read)
    members = probing_set(problem.widths)
    undefined = {a for a, known in zip(members, state["known"], strict=True) if not known}
    if config.kind == "retry":
        return {a for a, ready in zip(members, state["can_next"], strict=True) if not ready} & undefined
    others = {problem.parameters[following]}
    if config.kind == "retry_weak":
        found = {problem.parameters[p] for p in problem.solution[read + 1 :]}
    else:
        mentioned = Dependencies.of([problem]).mentioned
        found = {a for p, a in enumerate(problem.parameters) if contains(mentioned, np.array([p]))[0]} & undefined
    return found | others if config.include_next else found - others


@pytest.mark.parametrize("config", [ENGLISH, replace(COMPACT, reask=True), replace(COMPACT, solution="everything")])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_exactly_those_specified(config, kind):
    clean = IGSMWorld(config)
    world = retry_world(clean, KINDS[kind])
    indices = np.arange(40)
    problems = clean.problems("test", indices)
    places = world.errors.places("test", indices)
    assert np.diff(places.first).tolist() == [len(problem.solution) for problem in problems]
    number = np.concatenate([np.arange(count) for count in places.candidates])
    written = places.write(np.repeat(np.arange(len(places.candidates)), places.candidates), number)
    size = len(written.tokens) // len(number)
    assert set(written.lengths.tolist()) == {size}
    names = written.tokens[written.marks["role"] == AttemptRole.NAME].reshape(len(number), -1)[:, [0, -1]].tolist()
    numbers = written.marks["parameter"][::size].tolist()
    at = 0
    for row, problem in enumerate(problems):
        for read in range(len(problem.solution)):
            count = places.candidates[places.first[row] + read]
            found = {problem.parameters[p] for p in numbers[at : at + count]}
            assert len(found) == count
            assert found == allowed(problem, read, KINDS[kind])
            assert names[at : at + count] == [
                list(clean.vocabulary.name(problem, problem.parameters[p])) for p in numbers[at : at + count]
            ]
            at += count


def test_a_ready_parameter_is_never_retried(clean):
    """Of whole documents, by what their tokens say."""
    world = retry_world(clean, KINDS["retry"])
    vocabulary, attempted = clean.vocabulary, 0
    for index in range(150):
        sample = world["train", index]
        problem = sample.truth
        named = {vocabulary.name(problem, parameter): parameter for parameter in probing_set(problem.widths)}
        text = sample.tokens[np.flatnonzero(sample.tokens == vocabulary.sol)[0] + 1 :].tolist()
        read, place = 0, set()
        while vocabulary.id(".") in text:
            end = text.index(vocabulary.id("."))
            sentence, text = text[:end], text[end + 1 :]
            if vocabulary.back not in sentence:
                read, place = read + 1, set()
                continue
            assert vocabulary.decode(sentence).startswith("Define ")
            assert vocabulary.decode(sentence).endswith(" as <back>")
            parameter = named[sentence[1], sentence[3]]
            state = dict(zip(probing_set(problem.widths), labels(problem, read)["can_next"], strict=True))
            assert not state[parameter]
            assert parameter not in place, "nothing is tried twice at a place"
            place.add(parameter)
            attempted += 1
        assert read == len(problem.solution)
    assert attempted > 300


# ----------------------------------------------------------------------------------------------------------------------
# The world
# ----------------------------------------------------------------------------------------------------------------------


def test_the_world_keeps_the_contract(clean):
    world = retry_world(clean, KINDS["retry"])
    assert isinstance(world, World)
    assert isinstance(world, FreshWorld)
    assert (world.splits, world.size("train"), world.size("test")) == (clean.splits, 1 << 30, 1 << 20)
    assert (world.vocab_size, world.eos, world.pad) == (clean.vocab_size, clean.eos, clean.pad)
    sample = world["test", 3]
    assert sample.truth == clean["test", 3].truth
    assert set(sample.marks) == {*clean.marks, "attempt"}
    assert world.lengths_at("test", np.arange(50)).tolist() == [len(world["test", i].tokens) for i in range(50)]
    small = retry_world(IGSMWorld(replace(COMPACT, problems=300)), KINDS["retry"])
    assert small.lengths("train").tolist() == small.lengths_at("train", np.arange(300)).tolist()
    assert pickle.loads(pickle.dumps(world))["test", 5].tokens.tolist() == world["test", 5].tokens.tolist()


def test_a_document_is_the_same_in_any_batch():
    world, other = (retry_world(IGSMWorld(ENGLISH), KINDS["retry_miss"]) for _ in range(2))
    indices = np.array([7, 3, 999_999, 3, 0, *range(300, 20, -1)])
    samples = world.render("test", indices)
    other.lengths_at("test", np.arange(0, 600, 2))
    again = other.render("test", indices)
    for place, index in enumerate(indices.tolist()):
        tokens, marks = samples.document(place)
        rest, same = again.document(place)
        assert tokens.tobytes() == rest.tobytes()
        assert all(mark.tobytes() == same[name].tobytes() for name, mark in marks.items())
        if place < 10:
            alone = other["test", index]
            assert alone.tokens.tobytes() == tokens.tobytes()
            assert all(mark.tobytes() == marks[name].tobytes() for name, mark in alone.marks.items())
    assert len(world.render("test", np.array([], dtype=np.int64))) == 0
    assert set(world.render("test", indices, marks=("attempt",)).marks) == {"attempt"}
    assert len(other._recent._places) <= 8192


def test_attempts_depend_on_seed_and_split_and_problems_do_not(clean):
    world, other = retry_world(clean, KINDS["retry"]), retry_world(clean, replace(KINDS["retry"], seed=2))
    lengths = [w.lengths_at(split, np.arange(200)) for w in (world, other) for split in ("train", "test")]
    clean_lengths = [clean.lengths_at(split, np.arange(200)) for split in ("train", "test")]
    extra = [tuple(a - b) for a, b in zip(lengths, clean_lengths * 2, strict=True)]
    assert len(set(extra)) == 4
    assert world.fingerprint() != other.fingerprint() != clean.fingerprint()
    assert world.fingerprint() == retry_world(IGSMWorld(ENGLISH), KINDS["retry"]).fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_taking_attempts_out_gives_the_clean_documents(clean, kind):
    """4,000 documents of each kind, 20,000 in all."""
    clean = IGSMWorld(COMPACT) if kind == "retry_miss" else clean
    world = retry_world(clean, KINDS[kind])
    indices = np.arange(4000)
    with_attempts, without = world.render("train", indices), clean.render("train", indices)
    is_clean = with_attempts.marks["attempt"] == OUTSIDE
    assert is_clean.mean() < 0.95
    assert with_attempts.tokens[is_clean].tobytes() == without.tokens.tobytes()
    for name, mark in without.marks.items():
        assert with_attempts.marks[name][is_clean].tobytes() == mark.tobytes()
    for i in range(len(without)):
        stripped = world.strip(with_attempts.document(i)[0])
        assert stripped.tobytes() == without.document(i)[0].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_accepts_solutions_with_attempts_and_counts_them(clean, kind):
    world = retry_world(clean, KINDS[kind])
    indices = np.arange(400)
    samples = world.render("test", indices)
    documents = [samples.document(i) for i in range(400)]
    solutions = [tokens[np.flatnonzero(tokens == clean.vocabulary.sol)[0] + 1 :] for tokens, _ in documents]
    problems = clean.problems("test", indices)
    verdicts = clean.judge.check_many(problems, solutions)
    assert verdicts.correct.all()
    counted = [verdict.retries for verdict in verdicts]
    assert counted == [int(marks["attempt"].max() + 1) for _, marks in documents]
    assert counted == [int(world.chains(solution).sum()) for solution in solutions]
    assert max(max(world.chains(solution), default=0) for solution in solutions) > 3
    assert all(world.check(problem, tokens) for problem, (tokens, _) in zip(problems, documents, strict=True))
    assert all(verdict.unnecessary_parameters == 0 for verdict in verdicts)


def test_attempts_that_are_cut_off_are_none(clean):
    world = retry_world(clean, KINDS["retry"])
    vocabulary = clean.vocabulary
    sample = next(s for s in (world["test", i] for i in range(100)) if s.marks["attempt"].max() >= 0)
    end = np.flatnonzero(sample.marks["role"] == AttemptRole.END)[0]
    cut = sample.tokens[:end]
    assert world.chains(cut).sum() == 0
    assert world.strip(cut).tolist() == cut.tolist()
    judgement = world.check(sample.truth, cut)
    assert (judgement.correct, judgement.position) == (False, len(cut))
    assert world.chains(vocabulary.encode("Define <back> <ans> 4")).tolist() == []
    assert world.chains(vocabulary.encode("<back>. <back>. Define a. <back> <back>.")).tolist() == [2, 1]


def test_clean_documents_with_the_vocabulary_of_attempts(clean):
    world = retry_world(clean, RetryConfig(seed=0, rate=0.0))
    ours, theirs = world.render("test", np.arange(100)), clean.render("test", np.arange(100))
    assert ours.tokens.tobytes() == theirs.tokens.tobytes()
    assert (ours.marks["attempt"] == OUTSIDE).all()


@pytest.mark.parametrize(
    ("mask", "hidden"), [("none", ""), ("head", "Define X's Y as"), ("name", "X's Y")], ids=("none", "head", "name")
)
@pytest.mark.parametrize("roles", [None, (ROLES["solution"], ROLES["answer"])], ids=("all", "solution"))
def test_masks_hide_from_the_loss_what_was_taken_back(clean, mask, hidden, roles):
    world = retry_world(clean, KINDS["retry"])
    learned = world.loss_roles(mask, roles)
    assert (learned is None) == (mask == "none" and roles is None)
    source = Source(world, "train", loss_roles=learned)
    batch = PackedStream(
        [source], context=600, batch_size=8, key=Key.of("masks"), marks=("role", "attempt")
    ).next_batch()
    vocabulary, attempt, role = clean.vocabulary, batch.marks["attempt"], batch.marks["role"]
    following = batch.window[:, 1:]
    has_loss = batch.targets != IGNORE
    is_whole = np.zeros_like(has_loss)  # attempts that are not cut at the end of the window
    for row, end in zip(*np.nonzero(role == AttemptRole.END), strict=True):
        is_whole[row, end - 6 : end + 1] = True
    frame = vocabulary.decode([vocabulary.id(word) for word in ("Define", "as")])
    assert frame == "Define as"
    expected = {"Define": True, "name": True, "as": True, "<back>": True, ".": True}
    for word in hidden.replace("X's Y", "name").split():
        expected[word] = False
    pattern = [expected[word] for word in ("Define", "name", "name", "name", "as", "<back>", ".")]
    assert is_whole.sum() >= 7 * 20
    assert has_loss[is_whole].reshape(-1, 7).tolist() == [pattern] * (is_whole.sum() // 7)
    assert vocabulary.decode(following[is_whole][[0, 4, 5, 6]]) == "Define as <back>."
    is_clean = attempt == OUTSIDE
    asked = np.ones_like(has_loss) if roles is None else np.isin(role, roles)
    assert np.array_equal(has_loss[is_clean], asked[is_clean] & (following != clean.pad)[is_clean])


def test_clean_and_retry_data_are_mixed(clean):
    sources = [Source(clean, "train", 0.5), Source(retry_world(clean, KINDS["retry"]), "train", 0.5)]
    stream = PackedStream(sources, context=300, batch_size=16, key=Key.of("mixture"), marks=("role",))
    batch = stream.next_batch()
    has_back = (batch.window == clean.vocabulary.back).any(axis=1)
    assert not has_back[batch.source == 0].any()
    assert has_back[batch.source == 1].mean() > 0.5


# ----------------------------------------------------------------------------------------------------------------------
# What is refused
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 1.0}, r"rate must be in \[0, 1\), got 1.0"),
        ({"rate": -0.1}, r"rate must be in \[0, 1\), got -0.1"),
        ({"rate": float("nan")}, r"rate must be in \[0, 1\), got nan"),
        ({"rate": "0.5"}, "rate must be a float, got '0.5'"),
        ({"seed": 1.0}, "seed must be an int, got 1.0"),
        ({"kind": "perfect"}, "kind must be one of 'retry', 'retry_weak', 'retry_miss', got 'perfect'"),
        ({"include_next": True}, "include_next must be False with kind 'retry', got True"),
        ({"include_next": 1}, "include_next must be True or False, got 1"),
        ({"max_chain": 0}, "max_chain must be ≥ 1 or None, got 0"),
        ({"exposures": 0}, "exposures must be ≥ 1, got 0"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RetryConfig(**{"seed": 0, "rate": 0.2, **changes})


def test_worlds_in_which_nothing_can_be_attempted_are_refused(clean):
    text = TextWorld([" The tide rose twice."])
    with pytest.raises(ValueError, match=r"errors must be an ErrorModel for a world .* got none for a TextWorld"):
        retry_world(text, KINDS["retry"])
    single = IGSMWorld(replace(COMPACT, max_operations=1))
    with pytest.raises(ValueError, match=r"no candidates of kind 'retry_weak' in the first 32 documents of 'train'"):
        retry_world(single, KINDS["retry_weak"])
    assert retry_world(single, replace(KINDS["retry_weak"], rate=0.0))["train", 0].tokens.size
    samples = clean.render("train", np.arange(40), marks=())
    tokenizer = BytePairTokenizer.train(clean.vocabulary.decode(samples.document(i)[0]) for i in range(40))
    with pytest.raises(ValueError, match="tokenizer of the iGSM world must be None"):
        retry_world(IGSMWorld(ENGLISH, tokenizer), KINDS["retry"])


def test_indices_splits_marks_and_masks_are_checked(clean):
    world = retry_world(clean, KINDS["retry"])
    with pytest.raises(ValueError, match="split must be one of train, test, got 'valid'"):
        world.render("valid", np.arange(3))
    with pytest.raises(IndexError, match=r"indices of 'test' must be in 0..1048575, got -1"):
        world.render("test", np.array([3, -1]))
    with pytest.raises(ValueError, match=r"indices must be a flat array of integers"):
        world.render("test", np.array([0.5]))
    with pytest.raises(ValueError, match=r"marks must be among role, sentence, parameter, attempt, got 'level'"):
        world.render("test", np.arange(3), marks=("level",))
    with pytest.raises(ValueError, match=r"mask must be one of 'none', 'head', 'name', got 'all'"):
        world.loss_roles("all")
