"""What tokens need, and what models know of them, against enumeration of a whole language."""

import itertools

import numpy as np
import pytest
import torch

from experiments import _hidden_tokens as hidden_tokens
from experiments._local_oracles import SUFFICES, beyond, hidden_posteriors, needed_levels, next_token_posteriors
from experiments._predictions import divergence, log_probabilities
from physlm.models.positions import Deberta
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.worlds.cfg.config import CFGConfig
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.world import CFGWorld

LEVELS = 3


@pytest.fixture(scope="module")
def world():
    return CFGWorld(CFGConfig(seed=3, grammar="cfg3f", root="10", test_sentences=50))


@pytest.fixture(scope="module")
def language(world):
    """Every sentence with its probability."""

    def strings(symbol):
        if symbol in world.grammar.terminals:
            yield (1 + world.grammar.terminals.index(symbol),), 1.0
            return
        for rule in world.grammar.rules_of[symbol]:
            for parts in itertools.product(*(list(strings(child)) for child in rule.children)):
                yield sum((text for text, _ in parts), ()), rule.probability * float(np.prod([p for _, p in parts]))

    chances = {}
    for text, chance in strings(world.grammar.root):
        chances[text] = chances.get(text, 0.0) + chance
    assert sum(chances.values()) == pytest.approx(1)
    return chances


def models(world, causal):
    config = TransformerConfig(
        vocab_size=world.vocab_size,
        context=16,
        layers=2,
        heads=2,
        width=16,
        position=Deberta(distances=16),
        causal=causal,
        initial_std=0.3,
    )
    return Transformer(config, seed=1)


def cases(world, count):
    numbers = np.arange(count)
    return zip(world.sentences("test", numbers), world.derivations("test", numbers), strict=True)


@pytest.mark.parametrize("level", [-1, -2])
def test_a_local_oracle_is_the_posterior_given_the_tokens_it_sees(world, language, level):
    parser = Parser(world.grammar)
    for sentence, derivation in cases(world, 4):
        nodes = derivation.ancestors(level % len(derivation.symbols))
        for node in range(int(nodes[-1]) + 1):
            hidden = np.flatnonzero(nodes == node)
            got = hidden_posteriors(parser, sentence, derivation, hidden)
            for index, posteriors in enumerate(got):
                above = derivation.ancestors(index)
                seen = np.setdiff1d(np.flatnonzero(above == above[hidden[0]]), hidden)
                expected = np.zeros_like(posteriors)
                for text, chance in language.items():
                    if len(text) == len(sentence) and all(text[i] == sentence[i] for i in seen):
                        for row, position in enumerate(hidden):
                            expected[row, text[position] - 1] += chance
                assert np.allclose(posteriors, expected / expected.sum(axis=1, keepdims=True))


def test_a_local_oracle_of_the_next_token_sees_the_constituent_before_it(world, language):
    parser = Parser(world.grammar)
    for sentence, derivation in cases(world, 4):
        got = next_token_posteriors(parser, sentence, derivation)
        assert got.shape == (LEVELS, len(sentence) + 1, 4)
        for index, k in itertools.product(range(len(got)), range(len(sentence) + 1)):
            above = derivation.ancestors(index)
            if k < len(sentence):
                seen = [i for i in range(k) if above[i] == above[k]]
            else:  # the end belongs to the sentence alone
                seen = list(range(k)) if index == 0 else []
            expected = np.zeros(4)
            for text, chance in language.items():
                if len(text) >= k and all(text[i] == sentence[i] for i in seen):
                    expected[text[k] - 1 if k < len(text) else -1] += chance
            assert np.allclose(got[index, k], expected / expected.sum())


def test_what_lies_beyond_decides_what_is_needed(world):
    parser = Parser(world.grammar)
    (sentence, derivation), *_ = cases(world, 1)
    lies_beyond = beyond(next_token_posteriors(parser, sentence, derivation))
    assert (lies_beyond >= -1e-12).all()
    assert np.allclose(lies_beyond[0], 0)
    table = np.array([[0, 0, 0], [0.5, 0, SUFFICES], [0.6, 0.3, 0.01], [0.7, 0.4, 0.3]])
    assert needed_levels(table).tolist() == [1, 2, 3]


def test_hidden_tokens_must_stand_together(world):
    (sentence, derivation), *_ = cases(world, 1)
    with pytest.raises(ValueError, match=r"hidden must be positions below one node of level 2, got \[0, "):
        hidden_posteriors(Parser(world.grammar), sentence, derivation, np.array([0, len(sentence) - 1]))


@pytest.mark.parametrize("causal", [True, False])
def test_predictions_are_those_of_each_text_alone(world, causal):
    model, outcomes = models(world, causal), np.array([1, 2, 3])
    texts = [np.append(world.bos, sentence) for sentence in world.sentences("test", np.arange(6))]
    for text, rows in zip(texts, log_probabilities(model, texts, outcomes, batch_size=4), strict=True):
        alone = model(torch.from_numpy(text)[None].long())[0, :, 1:4].log_softmax(-1)
        assert np.allclose(rows, alone.detach().numpy(), atol=1e-5)


def test_divergence():
    truth = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        got = divergence(truth, np.log(np.array([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]])))
    assert got.tolist() == [pytest.approx(0.5 * np.log(2)), np.inf]


def test_a_causal_model_answers_by_the_probability_of_the_whole_sentence(world):
    model = models(world, causal=True)
    (question, *_) = hidden_tokens.constituent_questions(world, 1, 1, Key.of("test"))
    assert len(question.hidden) > 1
    chances = {}
    for filling in itertools.product((1, 2, 3), repeat=len(question.hidden)):
        text = np.concatenate([[world.bos], question.sentence, [world.eos]])
        text[1 + question.hidden] = filling
        with torch.no_grad():
            logs = model(torch.from_numpy(text[:-1])[None].long())[0].double().log_softmax(-1)
        chances[filling] = float(logs[range(len(text) - 1), text[1:]].sum().exp())
    for row, answer in enumerate(hidden_tokens.answers(model, world, [question])):
        expected = np.array([sum(p for f, p in chances.items() if f[row] == t) for t in (1, 2, 3)])
        assert np.allclose(np.exp(answer), expected / expected.sum(), atol=1e-5)


def test_a_masked_model_answers_at_the_mask(world):
    model = models(world, causal=False)
    questions = hidden_tokens.token_questions(world, 3, 2, Key.of("test"))
    expected = np.repeat(np.arange(3), 2)
    assert [len(question.sentence) for question in questions] == [len(world["test", i].tokens) - 1 for i in expected]
    for question, answer in zip(questions, hidden_tokens.answers(model, world, questions), strict=True):
        text = np.concatenate([[world.bos], question.sentence, [world.eos]])
        text[1 + question.hidden] = world.mask
        logits = model(torch.from_numpy(text)[None].long())[0, 1 + int(question.hidden[0]), 1:4]
        assert np.allclose(answer, logits.log_softmax(-1).detach().numpy(), atol=1e-5)


def test_knowing_the_grammar_is_one_and_knowing_the_smaller_constituent_is_zero(world):
    questions = hidden_tokens.token_questions(world, 20, 4, Key.of("test"))
    posteriors = np.concatenate([question.posteriors for question in questions], axis=1)
    needed = needed_levels(beyond(posteriors))
    local = posteriors[np.minimum(needed, LEVELS - 1), np.arange(len(needed))]
    with np.errstate(divide="ignore"):
        of_grammar = hidden_tokens.knowledge_of(questions, np.log(posteriors[0]))
        of_rules_below = hidden_tokens.knowledge_of(questions, np.log(local))
    for name in ("1", "2", "deep", "shallow"):
        assert of_grammar[name]["known"] == pytest.approx(1)
        assert of_rules_below[name]["known"] == pytest.approx(0)
    assert of_grammar["deep"]["tokens"] == int((needed == 1).sum())
    assert of_grammar["shallow"]["tokens"] == int((needed == 2).sum())
    split = hidden_tokens.split_by_depth(questions)
    assert {name: len(some) for name, some in split.items()} == {
        name: of_grammar[name]["tokens"] for name in ("deep", "shallow")
    }
    empty = hidden_tokens.knowledge(np.zeros((LEVELS, 0)), np.zeros(0))
    assert empty["deep"] == {"tokens": 0, "lies_beyond": None, "divergence": None, "known": None}


def test_filling_in_keeps_what_is_given(world):
    model = models(world, causal=False)
    sentences = world.sentences("test", np.arange(5))
    made = hidden_tokens.fill_in(model, world, sentences, 3, Key.of("test"))
    again = hidden_tokens.fill_in(model, world, sentences, 3, Key.of("test"))
    for sentence, text, repeated in zip(sentences, made, again, strict=True):
        assert len(text) == len(sentence)
        assert np.array_equal(text[:-3], sentence[:-3])
        assert np.array_equal(text, repeated)
        assert ((text >= 0) & (text < world.vocab_size)).all()
