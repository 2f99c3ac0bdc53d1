from itertools import product

import numpy as np
import pytest
import torch

from physlm.models.capture import Capture
from physlm.models.positions import Uniform
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.attention import (
    adjacent_ends,
    between_ends,
    distance_profile,
    insiders,
    read_patterns,
    residual_means,
    shifted,
    toward_ends,
)
from physlm.probing.inputs import Inputs
from physlm.probing.neurons import top_activations
from physlm.probing.states import FileArray, States, read_states
from physlm.worlds.cfg import CFGConfig, CFGWorld

LEVELS = (2, 3)


def generator(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=number))


def random_patterns(lengths=(6, 9, 4)):
    draw = generator(1)
    return [np.tril(draw.random((2, 3, n, n))).astype(np.float32) for n in lengths]


@pytest.fixture(scope="module")
def grammar():
    world = CFGWorld(CFGConfig(seed=0, grammar="cfg3b", root="16", test_sentences=12))
    samples = world.render("test", np.arange(12))
    config = TransformerConfig(vocab_size=world.vocab_size, context=128, layers=2, heads=2, width=16, initial_std=0.5)
    return samples, Transformer(config, seed=0)


def test_means_by_distance_are_brute_force():
    patterns = random_patterns()
    profile = distance_profile(patterns)
    assert profile.pairs.tolist() == [sum(max(0, n - p) for n in (6, 9, 4)) for p in range(9)]
    weights = {
        p: np.array([pattern[1, 2, j, j - p] for pattern in patterns for j in range(p, pattern.shape[-1])])
        for p in range(9)
    }
    for p, values in weights.items():
        assert profile.mean[1, 2, p] == pytest.approx(values.mean())
    every = np.concatenate(list(weights.values()))
    between = sum(len(values) * (values.mean() - every.mean()) ** 2 for values in weights.values())
    assert profile.share[1, 2] == pytest.approx(between / (len(every) * every.var()), rel=1e-5)
    reach = sum(p * values.sum() for p, values in weights.items()) / every.sum()
    assert profile.reach[1, 2] == pytest.approx(reach)


def test_the_residual_is_zero_on_average_at_every_distance():
    patterns = random_patterns()
    profile = distance_profile(patterns)

    def by_distance(n):
        apart = np.arange(n)[:, None] - np.arange(n)
        return np.stack([apart == p for p in range(9)])

    means, pairs = residual_means(patterns, profile, [by_distance(pattern.shape[-1]) for pattern in patterns])
    assert (pairs > 0).all()
    np.testing.assert_allclose(means, 0, atol=1e-6)


def test_patterns_are_those_of_the_model(grammar):
    samples, model = grammar
    patterns = list(read_patterns(model, samples, first=1))
    assert torch.is_grad_enabled()
    tokens = torch.from_numpy(samples.document(3)[0].astype(np.int64))[None]
    capture = Capture(["block.1.pattern"])
    with torch.no_grad():
        model.eval()(tokens, capture=capture)
    np.testing.assert_allclose(patterns[3][1], capture.states["block.1.pattern"][0, :, 1:, 1:].numpy(), atol=1e-6)


def test_heads_that_look_at_distances_are_local(grammar):
    samples, _ = grammar
    shape = {"vocab_size": 6, "context": 128, "layers": 1, "heads": 2, "width": 16}
    fixed = Transformer(TransformerConfig(**shape, position=Uniform(windows=(1, 3), include_self=False)), seed=0)
    profile = distance_profile(read_patterns(fixed, samples, first=8))
    assert profile.kinds() == [["local", "local"]]
    assert profile.reach[0, 0] < profile.reach[0, 1]
    # Weights that are the same at every distance but differ from pair to pair are not told by distance.
    mixed = [np.tril(generator(2).random((1, 1, 30, 30))).astype(np.float32) for _ in range(3)]
    assert distance_profile(mixed).kinds() == [["semantic"]]


def test_classes_of_pairs_are_brute_force(grammar):
    samples, _ = grammar
    marks = {name: values[1:] for name, values in samples.document(0)[1].items()}
    deepest, n = marks["deepest_end"], len(marks["deepest_end"])
    ends = np.stack([marks[f"end_{level}"] for level in LEVELS])
    toward, between = toward_ends(deepest, LEVELS), between_ends(deepest, LEVELS)
    adjacent, inside = adjacent_ends(deepest, ends, LEVELS, 3), insiders(deepest, LEVELS)

    def is_end(place, level):
        return 0 <= place < n and deepest[place] == level

    for j, i in product(range(n), repeat=2):
        before = i < j
        for a, level in enumerate(LEVELS):
            for b, by in enumerate((-2, -1, 0, 1, 2)):
                assert toward[a, b, j, i] == (before and is_end(i + by, level))
            for (b, key_by), (c, query_by) in product(enumerate((-1, 0, 1)), repeat=2):
                expected = before and is_end(i + key_by, level) and is_end(j + query_by, level)
                assert between[a, b, c, j, i] == expected
            for c, other in enumerate(LEVELS):
                apart = ends[a, : j + 1].sum() - ends[a, : i + 1].sum()
                for r in range(4):
                    expected = before and is_end(i, level) and is_end(j, other) and apart == r
                    assert adjacent[c, a, r, j, i] == expected
        inner = [place for place in (i, j) if not any(is_end(place, level) for level in LEVELS)]
        assert inside[0, j, i] == (before and inner == [j])
        assert inside[1, j, i] == (before and len(inner) == 2)
    # Where j closes a subtree of the level itself, the nearest end is one back.
    assert not adjacent[0, 1, 0].any()


def test_a_head_that_looks_at_ends_is_seen_to_and_with_other_marks_is_not(grammar):
    samples, _ = grammar
    deepest = [samples.document(i)[1]["deepest_end"][1:] for i in range(len(samples))]
    patterns = []
    for marks in deepest:
        weights = np.tril(np.ones((1, 1, len(marks), len(marks))) + 9.0 * (marks == 3))
        patterns.append((weights / weights.sum(-1, keepdims=True)).astype(np.float32))
    profile = distance_profile(patterns)
    means, pairs = residual_means(patterns, profile, (toward_ends(marks, LEVELS) for marks in deepest))
    assert means.shape == (1, 1, 2, 5)
    assert means[0, 0, 1].argmax() == 2
    assert (pairs > 0).all()
    other, _ = residual_means(patterns, profile, (toward_ends(shifted(marks, 5), LEVELS) for marks in deepest))
    assert other[0, 0, 1, 2] < means[0, 0, 1, 2] / 3


def test_shifted_marks():
    marks = np.array([1, 2, 3, 4])
    assert shifted(marks, 1).tolist() == [2, 3, 4, 0]
    assert shifted(marks, -2, outside=9).tolist() == [9, 9, 1, 2]
    assert shifted(marks, 7).tolist() == [0, 0, 0, 0]


def test_wrong_shapes_are_refused():
    patterns = random_patterns()
    profile = distance_profile(patterns[2:])
    with pytest.raises(ValueError, match="at most 4 tokens, got 6"):
        profile.residual(patterns[0])
    with pytest.raises(ValueError, match="masks"):
        residual_means(patterns[2:], profile, [np.ones((3, 3), dtype=bool)])
    with pytest.raises(ValueError, match="at least 1 pattern"):
        distance_profile([])


def test_top_activations_are_the_largest(grammar, tmp_path):
    samples, model = grammar
    places = Inputs.where(samples, samples.marks["role"] == 1)
    states = read_states(model, places, ["block.1.mlp_post"])
    top = top_activations(states, places, count=4)
    values = states[:][:, 0]
    np.testing.assert_allclose(top.values, -np.sort(-values, axis=0)[:4].T)
    np.testing.assert_array_equal(values[top.rows[5], 5], top.values[5])
    np.testing.assert_array_equal(top.tokens, places.tokens[top.rows])
    np.testing.assert_array_equal(places.positions[top.rows], top.positions)
    file = FileArray(states.shape, np.float32, tmp_path)
    file[:] = states[:]
    np.testing.assert_array_equal(top_activations(States(states.layers, file), places, count=4).rows, top.rows)
    with pytest.raises(ValueError, match="count must be in"):
        top_activations(states, places, count=len(places) + 1)
