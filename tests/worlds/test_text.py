import numpy as np
import pytest

from physlm.data.contract import World
from physlm.data.streams import PackedStream, Source
from physlm.data.tokenizers import WordTokenizer
from physlm.randomness import Key
from physlm.worlds.bios import BiographyConfig, BiographyWorld, world_texts
from physlm.worlds.text import TextWorld

TEXTS = [" The tide rose twice, then fell.", " Rain fell on the hills.", " Nobody came."]


def test_documents_come_back_alone_and_together():
    world = TextWorld(TEXTS)
    assert isinstance(world, World)
    together = world.render("text", np.array([2, 0, 2]))
    for number, index in enumerate([2, 0, 2]):
        alone = world["text", index]
        tokens, marks = together.document(number)
        assert alone.truth == TEXTS[index] == world.tokenizer.decode(tokens)
        assert np.array_equal(tokens, alone.tokens)
        assert np.array_equal(marks["word"], alone.marks["word"])
        assert marks["word"][0] == 0
    assert world.lengths("text").tolist() == [len(world["text", i].tokens) for i in range(3)]


def test_judge_says_where_a_document_departs():
    world = TextWorld(TEXTS)
    truth, tokens = world["text", 1].truth, world["text", 1].tokens
    assert world.check(truth, tokens)
    for position in range(len(tokens)):
        wrong = tokens.copy()
        wrong[position] = world["text", 2].tokens[0]
        judgement = world.check(truth, wrong)
        assert not judgement
        assert judgement.position == position
    short = world.check(truth, tokens[:-1])
    assert not short
    assert short.position == len(tokens) - 1
    assert not world.check(truth, [*tokens, *tokens])


def test_unrelated_text_mixes_with_biographies():
    config = BiographyConfig(seed=0, people=50)
    tokenizer = WordTokenizer.from_texts([*world_texts(config), *TEXTS])
    biographies, text = BiographyWorld(config, tokenizer), TextWorld(TEXTS, tokenizer)
    stream = PackedStream(
        [Source(biographies, "biographies", 0.5), Source(text, "text", 0.5)],
        context=128,
        batch_size=64,
        key=Key.of("test", 0),
    )
    batch = stream.next_batch()
    assert 16 < (batch.source == 1).sum() < 48
    text_ids = set(text.render("text", np.arange(3)).tokens.tolist())
    assert set(np.unique(batch.window[batch.source == 1]).tolist()) == text_ids | {tokenizer.eos}


def test_fingerprint_depends_on_the_texts():
    assert TextWorld(TEXTS).fingerprint() == TextWorld(list(TEXTS)).fingerprint()
    assert TextWorld(TEXTS).fingerprint() != TextWorld(TEXTS[:2]).fingerprint()


def test_a_file_has_a_document_per_line(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("One line.\n\n  Another line.\n")
    assert TextWorld.from_file(path).texts == (" One line.", " Another line.")
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="at least one line"):
        TextWorld.from_file(path)


@pytest.mark.parametrize(("texts", "message"), [([], "at least one document"), ([" a", ""], "document 1 has none")])
def test_bad_input(texts, message):
    with pytest.raises(ValueError, match=message):
        TextWorld(texts)
    with pytest.raises(ValueError, match="split must be 'text'"):
        TextWorld([" a"]).size("biographies")
    with pytest.raises(IndexError, match="got 7"):
        TextWorld([" a"])["text", 7]
    with pytest.raises(IndexError, match="got -1"):
        TextWorld([" a"])["text", -1]
