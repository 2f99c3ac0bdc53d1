"""Probes that change how tokens are read, and those that attend to positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from physlm.data.contract import Samples
from physlm.data.streams import IGNORE
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.controls import evaluate
from physlm.probing.embedding_update import EmbeddingProbes
from physlm.probing.heads import ProbeTraining
from physlm.probing.inputs import Inputs
from physlm.probing.position_attention import PositionAttention, PositionAttentionProbes, Sentences, allowed
from physlm.probing.probes import Probing
from physlm.probing.states import States, read_states
from physlm.randomness import Key

KEY = Key.of("read-outs", 0)
CONFIG = TransformerConfig(vocab_size=20, context=8, layers=1, heads=2, width=16, initial_std=0.2)


def generator(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=number))


def texts(count: int = 200, length: int = 5) -> Samples:
    tokens = generator(1).integers(0, 20, count * length)
    return Samples(tokens, np.arange(0, count * length + 1, length), {})


def test_an_embedding_update_finds_what_a_frozen_embedding_hides():
    model = Transformer(CONFIG, seed=0)
    # All tokens look alike to the frozen model; the update tells them apart.
    with torch.no_grad():
        model.embed.weight.copy_(model.embed.weight[:1].expand_as(model.embed.weight).clone())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = Inputs.last(texts())
    labels = {"parity": inputs.tokens % 2, "some": np.where(np.arange(200) % 2, inputs.tokens // 10, IGNORE)}
    training = ProbeTraining(steps=150, batch_size=32, learning_rate=0.02)
    for rank, least, most in ((0, 0.4, 0.65), (2, 0.97, 1.0)):
        probes = EmbeddingProbes(model, rank=rank, training=training, key=KEY).fit(inputs, labels)
        assert least <= probes.score(inputs, labels)["parity"][0] <= most
    assert probes.score(inputs, labels)["some"][0] > 0.97
    assert probes.predict_proba(inputs)["parity"].shape == (1, 200, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_embedding_probes_depend_on_their_key_alone(norm):
    model = Transformer(replace(CONFIG, dropout=0.1), seed=0)
    inputs = Inputs.last(texts(40))
    labels = {"x": inputs.tokens % 3}
    training = ProbeTraining(steps=5, batch_size=8)
    before = torch.get_rng_state()
    first, again = (
        EmbeddingProbes(model, rank=2, training=training, norm=norm, key=KEY).fit(inputs, labels).predict_proba(inputs)
        for _ in range(2)
    )
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first["x"], again["x"])
    assert model.training


def test_rare_labels_are_learnt_where_classes_count_alike():
    model, inputs = Transformer(CONFIG, seed=0), Inputs.last(texts(400))
    labels = {"rare": (inputs.tokens == 7).astype(np.int64)}
    training = ProbeTraining(steps=40, batch_size=32, learning_rate=0.005)
    recalled = []
    for balanced in (False, True):
        probes = EmbeddingProbes(model, rank=0, training=training, balanced=balanced, key=KEY).fit(inputs, labels)
        found = probes.predict(inputs)["rare"][0]
        recalled.append(found[labels["rare"] == 1].mean())
    assert recalled[0] < 0.1
    assert recalled[1] > 0.9


def test_embedding_probes_check_their_settings():
    model = Transformer(CONFIG, seed=0)
    with pytest.raises(ValueError, match="rank must be ≥ 0, got -1"):
        EmbeddingProbes(model, rank=-1, key=KEY)
    with pytest.raises(ValueError, match="no hidden state 'last'"):
        EmbeddingProbes(model, rank=1, layer="last", key=KEY)


MASKS = {
    "full": lambda _i, _k: True,
    "causal": lambda i, k: k <= i,
    "tridiagonal": lambda i, k: abs(i - k) <= 1,
    "diagonal": lambda i, k: i == k,
}


@pytest.mark.parametrize("mask", MASKS)
def test_position_attention_is_its_formula(mask):
    layers, width, outputs, heads, head_width, lengths = 2, 3, 4, 2, 5, (6, 3, 1)
    readout = PositionAttention(layers, width, outputs, 6, heads, head_width, mask, KEY)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.normal_(generator=random)
    states = torch.randn(layers, 3, 6, width, generator=random)
    inside = torch.arange(6) < torch.tensor(lengths)[:, None]
    logits = readout(states, inside)
    position, weight = readout.position, readout.weight.view(layers, width, heads, outputs)
    for layer in range(layers):
        for sentence, length in enumerate(lengths):
            for i in range(length):
                expected = readout.bias[layer, 0, 0].clone()
                for head in range(heads):
                    seen = [k for k in range(length) if MASKS[mask](i, k)]
                    at = position[layer, head]
                    scores = torch.stack([at[i] @ at[k] / head_width**0.5 for k in seen]).softmax(0)
                    for share, k in zip(scores, seen, strict=True):
                        expected = expected + share * states[layer, sentence, k] @ weight[layer, :, head]
                torch.testing.assert_close(logits[layer, sentence, i], expected, atol=1e-5, rtol=1e-4)


def test_masks_are_those_of_the_paper():
    for mask, rule in MASKS.items():
        expected = [[rule(i, k) for k in range(4)] for i in range(4)]
        assert allowed(mask, 4).tolist() == expected


def sentences(lengths=(4, 6, 3) * 20, layers=2):
    """The label of a token is what stands at the token before it."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    symbols = generator(3).integers(0, 3, offsets[-1])
    states = np.eye(3, dtype=np.float32)[symbols][:, None].repeat(layers, 1)
    before = np.roll(symbols, 1)
    before[offsets[:-1]] = IGNORE
    return Sentences(States([f"layer {i}" for i in range(layers)], states), offsets), before


@pytest.mark.parametrize(("mask", "finds"), [("causal", True), ("tridiagonal", True), ("diagonal", False)])
def test_what_stands_beside_is_found_where_the_mask_allows(mask, finds):
    inputs, labels = sentences()
    training = ProbeTraining(steps=250, batch_size=20, learning_rate=0.05, weight_decay=0.0)
    probes = PositionAttentionProbes(heads=4, head_width=8, mask=mask, training=training, key=KEY)
    score = probes.fit(inputs, {"before": labels}).score(inputs, {"before": labels})["before"]
    assert (score > 0.9).all() if finds else (score < 0.6).all()


def test_position_attention_of_all_layers_is_that_of_each():
    inputs, labels = sentences()
    noisy = inputs.states[:] + generator(8).normal(size=inputs.states.shape, scale=0.5).astype(np.float32)
    states = States(inputs.states.layers, noisy)
    training = ProbeTraining(steps=30, batch_size=20)
    settings = {"heads": 2, "head_width": 4, "training": training, "key": KEY}
    tasks = {"before": labels, "end": np.isin(np.arange(len(labels)) + 1, inputs.offsets).astype(int)}
    whole = Sentences(states, inputs.offsets)
    together = PositionAttentionProbes(**settings).fit(whole, tasks).predict_proba(whole)
    for number, layer in enumerate(states.layers):
        part = Sentences(states.only([layer]), inputs.offsets)
        alone = PositionAttentionProbes(**settings).fit(part, tasks).predict_proba(part)
        for name in tasks:
            np.testing.assert_allclose(together[name][number], alone[name][0], atol=1e-3)


def test_sentences_are_evaluated_with_their_controls():
    inputs, labels = sentences()
    training = ProbeTraining(steps=150, batch_size=20, learning_rate=0.05)

    def reading(seed: int) -> Probing[Sentences]:
        # Of another model, the states say nothing.
        noise = generator(seed).normal(size=inputs.states.shape).astype(np.float32)
        states = inputs.states if seed == 0 else States(inputs.states.layers, noise)
        return Probing(
            lambda: PositionAttentionProbes(heads=2, head_width=8, mask="tridiagonal", training=training, key=KEY),
            Sentences(states, inputs.offsets),
        )

    result = evaluate(
        reading(0),
        {"before": labels},
        entities=np.repeat(np.arange(60), inputs.lengths),
        types=np.arange(len(labels)) % 7,
        untrained=reading(1),
        embedding="layer 0",
        portions=(0.1, 0.5),
        key=KEY,
    )["before"]
    assert not result.missing
    assert (labels[result.rows] != IGNORE).all()
    assert (result.accuracy > 0.8).all()
    assert result.control("untrained model").max() < 0.6
    assert (result.description.online < result.description.shuffled).all()


def test_sentences_are_taken_whole():
    inputs, _ = sentences()
    part = inputs.subset(np.arange(4, 13))
    assert part.offsets.tolist() == [0, 6, 9]
    np.testing.assert_array_equal(part.states[:], inputs.states[:][4:13])
    with pytest.raises(ValueError, match="taken whole, got 2 of 4 tokens of 0"):
        inputs.subset(np.arange(2))
    samples = texts(6)
    places = Inputs.where(samples, np.arange(30) % 5 != 0)
    read = read_states(Transformer(CONFIG, seed=0), places)
    assert Sentences.of(places, read).lengths.tolist() == [4] * 6
    gap = Inputs.where(samples, np.arange(30) % 5 != 2)
    with pytest.raises(ValueError, match="must follow each other, got 1 and then 3 in document 0"):
        Sentences.of(gap, read)


def test_longer_sentences_than_fitted_are_refused():
    inputs, labels = sentences()
    training = ProbeTraining(steps=1, batch_size=60)
    short = inputs.subset(slice(0, 4))
    probes = PositionAttentionProbes(heads=1, head_width=2, training=training, key=KEY).fit(short, {"x": labels[:4]})
    with pytest.raises(ValueError, match="at most 4 tokens, those of the longest fitted, got 6"):
        probes.predict(inputs)
    with pytest.raises(ValueError, match="mask must be one of full, causal, tridiagonal, diagonal, got 'banded'"):
        PositionAttentionProbes(mask="banded", key=KEY)
