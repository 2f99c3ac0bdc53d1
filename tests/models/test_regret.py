"""Retry upon regret against the protocol written out for one text at a time."""

import numpy as np
import pytest

from physlm.models.config import TransformerConfig
from physlm.models.generation import generate
from physlm.models.positions import Learned
from physlm.models.regret import retry_upon_regret
from physlm.models.transformer import Transformer
from physlm.randomness import Key

STOP, ENDS = 0, (1, 2, 3)
NEW = 24
KEY = Key.of("regret")
PROMPTS = [np.array(prompt) for prompt in ([5, 7], [9], [4, 4, 8, 6], [10], [11, 5, 6])]


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough that different texts go on differently, and not by repeating the last token."""
    shape = TransformerConfig(vocab_size=12, context=16, layers=2, heads=2, width=32, tied=False)
    made = Transformer(shape, seed=1)
    for parameter in made.parameters():
        parameter.data *= 2
    return made


class Objecting:
    """Objects to a share of sentences, by a hash of the whole text; notes what it was asked."""

    def __init__(self, share):
        self.share = share
        self.asked = []

    def one(self, text):
        return bool(Key.of("objection", *map(int, text)).uniforms(np.array([0]), 1)[0, 0] < self.share)

    def __call__(self, numbers, texts, begins):
        self.asked += zip(numbers.tolist(), map(tuple, texts), begins.tolist(), strict=True)
        assert all(text[-1] in ENDS for text in texts)
        return np.array([self.one(text) for text in texts])


def by_the_book(model, prompt, number, detector, most_deletions):
    """Sentence by sentence, token by token, as the protocol says."""
    text, deletions, is_drawn, limit = list(prompt), 0, False, len(prompt) + NEW
    while True:
        begin = len(text)
        uniforms = KEY.uniforms(np.array([number * (1 << 20) + deletions]), NEW)[0]
        while len(text) < limit:
            (logits,) = _logits(model, text)
            if is_drawn:
                chances = np.exp(logits - logits.max())
                cumulative = np.cumsum(chances / chances.sum())
                token = int(np.searchsorted(cumulative, uniforms[len(text) - begin] * cumulative[-1], side="right"))
            else:
                token = int(logits.argmax())
            if token == STOP:
                return text[len(prompt) :], deletions, STOP
            text.append(token)
            if token in ENDS:
                break
        else:
            return text[len(prompt) :], deletions, None
        is_wrong = deletions < most_deletions and detector.one(text)
        if is_wrong:
            del text[begin:]
            deletions += 1
        elif len(text) == limit:
            return text[len(prompt) :], deletions, None
        is_drawn = is_wrong


def _logits(model, text):
    import torch

    with torch.inference_mode():
        return model.eval()(torch.tensor([text]))[:, -1].double().numpy()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("most_deletions", [1, 10])
def test_the_protocol_is_followed(model, share, most_deletions):
    written = retry_upon_regret(
        model,
        PROMPTS,
        detector=Objecting(share),
        sentence_end=ENDS,
        stop=STOP,
        max_new_tokens=NEW,
        key=KEY,
        most_deletions=most_deletions,
    )
    expected = [
        by_the_book(model, prompt, number, Objecting(share), most_deletions) for number, prompt in enumerate(PROMPTS)
    ]
    assert [(text.tokens.tolist(), text.deletions, text.stop) for text in written] == expected
    assert sum(text.deletions for text in written) >= (len(PROMPTS) if share > 0.9 else 1)


def test_without_objections_it_is_greedy_decoding(model):
    detector = Objecting(0.0)
    settings = {"stop": STOP, "max_new_tokens": NEW}
    written = retry_upon_regret(model, PROMPTS, detector=detector, sentence_end=ENDS, key=KEY, **settings)
    assert [text.tokens.tolist() for text in written] == [g.tolist() for g in generate(model, PROMPTS, **settings)]
    assert not any(text.deletions for text in written)
    sentences = sum(int(np.isin(text.tokens, ENDS).sum()) for text in written)
    assert len(detector.asked) == sentences > 0
    assert len(set(detector.asked)) == sentences, "no sentence is asked about twice"


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_what_a_prompt_gets_does_not_depend_on_the_others(model, batch_size):
    def run(prompts):
        written = retry_upon_regret(
            model,
            prompts,
            detector=Objecting(0.5),
            sentence_end=ENDS,
            stop=STOP,
            max_new_tokens=NEW,
            key=KEY,
            batch_size=batch_size,
        )
        return [(text.tokens.tolist(), text.deletions) for text in written]

    whole = run(PROMPTS)
    assert run(PROMPTS[:2]) == whole[:2]
    assert run([*PROMPTS[:3], PROMPTS[0]])[:3] == whole[:3]


def test_everything_is_objected_to_until_the_budget_is_spent(model):
    written = retry_upon_regret(
        model,
        PROMPTS,
        detector=Objecting(1.0),
        sentence_end=ENDS,
        stop=(),
        max_new_tokens=NEW,
        key=KEY,
        most_deletions=4,
    )
    assert [text.deletions for text in written] == [4] * len(PROMPTS)
    assert all(len(text.tokens) == NEW and text.stop is None for text in written)


def test_beams_and_positions_that_end_with_the_context():
    shape = TransformerConfig(vocab_size=12, context=4 + NEW, layers=1, heads=2, width=16, position=Learned())
    model = Transformer(shape, seed=0)
    for beams in (1, 3):
        written = retry_upon_regret(
            model,
            PROMPTS,
            detector=Objecting(0.5),
            sentence_end=ENDS,
            stop=STOP,
            max_new_tokens=NEW,
            key=KEY,
            beams=beams,
        )
        assert all(len(text.tokens) <= NEW for text in written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"most_deletions": -1}, r"most_deletions must be in \[0, 1048576\), got -1"),
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
        ({"sentence_end": 0}, r"sentence_end must be at least one token and none of stop, \(0,\), got \(0,\)"),
        ({"sentence_end": ()}, "sentence_end must be at least one token"),
        ({"detector": lambda numbers, texts, begins: np.zeros(99)}, "detector must give one answer to each of"),  # noqa: ARG005
    ],
)
def test_what_makes_no_sense_is_refused(model, changes, message):
    settings = {"detector": Objecting(0.5), "sentence_end": ENDS, "stop": STOP, "max_new_tokens": NEW, "key": KEY}
    with pytest.raises(ValueError, match=message):
        retry_upon_regret(model, PROMPTS, **{**settings, **changes})
