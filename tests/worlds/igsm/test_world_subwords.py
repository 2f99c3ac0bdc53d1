"""The BPE option: the same documents in the tokens of a text tokenizer."""

import re

import numpy as np
import pytest

from physlm.data.streams import PackedStream, Source
from physlm.data.tokenizers import BytePairTokenizer
from physlm.randomness import Key
from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.world import IGSMWorld

CONFIG = IGSMConfig(seed=0)


@pytest.fixture(scope="module")
def plain():
    return IGSMWorld(CONFIG)


@pytest.fixture(scope="module")
def tokenizer(plain):
    samples = plain.render("train", np.arange(300))
    texts = [plain.vocabulary.decode(samples.document(i)[0]) for i in range(300)]
    return BytePairTokenizer.train([re.sub(r"<\w+>", "", text) for text in texts], vocab_size=900)


@pytest.fixture(scope="module")
def world(tokenizer):
    return IGSMWorld(CONFIG, tokenizer)


def test_documents_are_spelt_as_the_tokenizer_spells_their_text(plain, world, tokenizer):
    ours, theirs = world.render("test", np.arange(200)), plain.render("test", np.arange(200))
    for i in range(200):
        tokens, marks = ours.document(i)
        words, word_marks = theirs.document(i)
        text = plain.vocabulary.decode(words)
        problem, solution, answer = re.fullmatch(r"<bos>( .*) <sol>( .*) <ans>( \d+)", text).groups()
        assert tokens.tolist() == [
            *(world.bos, *tokenizer.encode(problem)),
            *(world.subwords.special(plain.vocabulary.sol), *tokenizer.encode(solution)),
            *(world.subwords.special(plain.vocabulary.ans), *tokenizer.encode(answer)),
        ]
        assert world.subwords.read(tokens).tolist() == words.tolist()
        for name in world.marks:
            changes = np.flatnonzero(np.diff(marks[name])) + 1
            assert len(changes) == np.count_nonzero(np.diff(word_marks[name]))
    assert len(ours.tokens) > 1.2 * len(theirs.tokens)
    assert ours.tokens.max() < world.vocab_size == tokenizer.vocab_size + 9


def test_answers_in_subwords_are_judged(world, plain):
    for index in range(50):
        sample = world["test", index]
        assert world.check(sample.truth, sample.tokens)
        assert sample.truth == plain["test", index].truth
        end = np.flatnonzero(sample.marks["sentence"] == 0)[-1]
        cut = sample.tokens[: end - 1]
        judgement = world.check(sample.truth, cut)
        assert (bool(judgement), judgement.position) == (False, len(cut))
        assert judgement.reason.startswith("format: ")


def test_text_of_another_dialect_is_a_wrong_answer(world, tokenizer):
    judgement = world.check(world["test", 0].truth, np.array(tokenizer.encode(" The answer is forty.")))
    assert not judgement
    assert "got 'answer' at character 5" in judgement.reason


def test_streams_pack_subwords(world):
    stream = PackedStream([Source(world, "train")], context=256, batch_size=4, key=Key.of("stream"))
    assert stream.next_batch().window.max() < stream.vocab_size == world.vocab_size
    assert world.with_operations(9).vocab_size == world.vocab_size
    assert world.fingerprint() != IGSMWorld(CONFIG).fingerprint()


def test_a_tokenizer_that_joins_words_is_refused():
    class Joined(BytePairTokenizer):
        def encode_batch(self, texts):
            return [list(text.replace(" sum of", "\x01").encode()) for text in texts]

        def encode(self, text):
            return self.encode_batch([text])[0]

    joined = Joined(BytePairTokenizer.train(["a"], vocab_size=259)._backend.to_str())
    with pytest.raises(ValueError, match="is tokenized differently inside the text"):
        IGSMWorld(CONFIG, joined)
