"""Tokenizers: exact roundtrips, stable ids, word boundaries, and errors that name the way out."""

from __future__ import annotations

import builtins
import itertools
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import physlm.data.tokenizers as module
from physlm.data.tokenizers import (
    BytePairTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    WordTokenizer,
    check_segments,
    load_tokenizer,
)

NAMES = ["Anya Briar Forger", "Seán O'Brien", "Mary-Jane Doe"]
CITIES = ["Fort Wayne, IN", "Princeton, NJ"]
COMPANIES = ["Meta Platforms", "AT&T", "Johnson & Johnson"]
MONTHS = ["January", "May", "October"]
YEARS = [str(year) for year in range(1900, 1960)]
BIOGRAPHIES = [
    f"{name} was born in {city} on {month} 13, 1907. They worked for {company}."
    for name in NAMES
    for city in CITIES
    for company in COMPANIES
    for month in MONTHS
]
QUESTIONS = [f"Where was {name} born? {city}." for name in NAMES for city in CITIES]
TEXTS = BIOGRAPHIES + QUESTIONS

BPE = BytePairTokenizer.train(TEXTS, vocab_size=400, keep_whole=[*MONTHS, *YEARS])
WORDS = WordTokenizer.from_texts(TEXTS)


def save_huggingface(folder: Path, **special: str) -> Path:
    """A Hugging Face folder made of a small byte-level BPE."""
    transformers = pytest.importorskip("transformers")
    BPE.save(folder / "bpe")
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "bpe" / "tokenizer.json"), **special)
    wrapped.save_pretrained(str(folder / "hf"))
    return folder / "hf"


@pytest.fixture(params=["word", "bpe", "huggingface"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    if request.param == "word":
        return WORDS
    if request.param == "bpe":
        return BPE
    return HuggingFaceTokenizer(save_huggingface(tmp_path, eos_token="[EOS]", pad_token="[PAD]"))


def strings(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text cut at its word starts."""
    ids = tokenizer.encode(text)
    cuts = [*np.flatnonzero(tokenizer.word_starts(ids)).tolist(), len(ids)]
    return [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(cuts)]


# Every kind --------------------------------------------------------------------------------------------------------


def test_protocol_and_batches(tokenizer: Tokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == TEXTS
    assert max(max(ids) for ids in tokenizer.encode_batch(TEXTS)) < tokenizer.vocab_size
    assert len({tokenizer.pad, tokenizer.eos, tokenizer.mask}) == 3
    assert tokenizer.encode("") == tokenizer.encode_batch([]) == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.word_starts([]).shape == (0,)


def test_special_tokens_are_dropped_by_decoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXTS[0])
    with_special = [tokenizer.eos, *ids[:3], tokenizer.mask, *ids[3:], tokenizer.pad]
    assert tokenizer.decode(with_special) == TEXTS[0]
    assert tokenizer.decode(np.array(with_special, dtype=np.uint16)) == TEXTS[0]
    starts = tokenizer.word_starts(with_special)
    assert starts[[0, 1, 4, 5, -1]].all()


def test_names_and_values_keep_their_tokens_in_every_context(tokenizer: Tokenizer) -> None:
    check_segments(
        tokenizer,
        [
            (name, " was born in", f" {city}", " on", f" {month}", " 13")
            for name, city, month in zip(NAMES, CITIES * 2, MONTHS, strict=False)
        ],
    )
    check_segments(
        tokenizer, [("Where was", f" {name}", " born?", f" {city}", ".") for name in NAMES for city in CITIES]
    )
    value = tokenizer.encode(" Fort Wayne, IN")
    for text in (BIOGRAPHIES[0], QUESTIONS[0]):
        ids = tokenizer.encode(text)
        assert any(ids[i : i + len(value)] == value for i in range(len(ids)))


def test_word_starts(tokenizer: Tokenizer) -> None:
    text = BIOGRAPHIES[1].partition(" They")[0]
    assert words(tokenizer, text) == [
        *[
            "Anya",
            " Briar",
            " Forger",
            " was",
            " born",
            " in",
            " Fort",
            " Wayne",
            ",",
            " IN",
            " on",
            " May",
            " 13",
            ",",
        ],
        *[" 1907", "."],
    ]
    company = next(text for text in BIOGRAPHIES if text.startswith("Seán O'Brien") and text.endswith("AT&T."))
    assert words(tokenizer, company)[:2] == ["Seán", " O'Brien"]
    assert words(tokenizer, company)[-2:] == [" AT&T", "."]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    ids = ("vocab_size", "pad", "eos", "mask")
    assert [getattr(loaded, name) for name in ids] == [getattr(tokenizer, name) for name in ids]


def test_worker_processes_get_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint() == tokenizer.fingerprint()
    if not isinstance(tokenizer, WordTokenizer):
        assert copy.decode(copy.encode("a [EOS] b")) == "a [EOS] b"


def test_foreign_ids_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=rf"must be in \[0, {tokenizer.vocab_size}\), got {wrong}"):
            tokenizer.decode([3, wrong])
        with pytest.raises(ValueError, match="must be in"):
            tokenizer.word_starts([3, wrong])
    with pytest.raises(ValueError, match="flat list of integers"):
        tokenizer.decode(np.zeros((2, 2), dtype=int))
    with pytest.raises(ValueError, match="put it in a list"):
        tokenizer.encode_batch("one text")


# Words -------------------------------------------------------------------------------------------------------------


# Tokens that keep their shape after any other: a space or a punctuation character separates them.
SEPARATE = [i for i in range(3, WORDS.vocab_size) if WORDS.decode([i])[0] in " ,.?"]


@given(st.lists(st.sampled_from(SEPARATE), max_size=30))
def test_word_roundtrip(ids: list[int]) -> None:
    assert WORDS.encode(WORDS.decode(ids)) == ids


@given(st.text())
def test_any_text_is_covered_by_word_tokens(text: str) -> None:
    assert WordTokenizer.from_texts([text]).decode(WordTokenizer.from_texts([text]).encode(text)) == text


def test_word_ids_do_not_depend_on_the_order_of_texts() -> None:
    assert WordTokenizer.from_texts(reversed(TEXTS)).fingerprint() == WORDS.fingerprint()
    small = WordTokenizer.from_texts(["b a", "c"])
    assert [small.decode([i]) for i in range(6)] == ["", "", "", " a", "b", "c"]
    assert (small.pad, small.eos, small.mask, small.vocab_size) == (0, 1, 2, 6)


def test_unknown_word_says_what_where_and_how() -> None:
    with pytest.raises(ValueError, match=r"token ' Paris' is not .* 'Anya was born in Paris\.'.*from_texts"):
        WORDS.encode("Anya was born in Paris.")
    with pytest.raises(ValueError, match=r"' Where' is not .*'Where' is known: only the leading space differs"):
        WORDS.encode(" Where was Anya")


@pytest.mark.parametrize(
    ("tokens", "message"), [(["two words"], "one word"), ([""], "one word"), ([3], "one word"), (["a", "a"], "differ")]
)
def test_bad_word_vocabulary(tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordTokenizer(tokens)


# Byte pairs --------------------------------------------------------------------------------------------------------


@given(st.text() | st.lists(st.sampled_from(["[EOS]", "[PAD]", " ", ".", "\n", "May", "é", "—"])).map("".join))
def test_bpe_roundtrip(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert not {BPE.pad, BPE.eos, BPE.mask} & set(ids)


@given(st.text(st.characters(max_codepoint=127)))
def test_bpe_words_are_the_words_of_the_word_tokenizer(text: str) -> None:
    pattern = [match[0] for match in module._TOKEN.finditer(text)]
    begins = np.cumsum([0, *map(len, pattern)])[:-1].tolist()
    ids = BPE.encode(text)
    positions = np.cumsum([0, *(len(BPE.decode([i])) for i in ids)])[:-1]
    # A token that holds several words begins one of them.
    assert positions[BPE.word_starts(ids)].tolist() == [p for p in positions.tolist() if p in begins]


def test_bpe_training_is_deterministic_and_ignores_the_order_of_texts() -> None:
    shuffled = random.Random(7).sample(TEXTS, len(TEXTS))
    for texts in (TEXTS, shuffled, iter(TEXTS)):
        again = BytePairTokenizer.train(texts, vocab_size=400, keep_whole=[*MONTHS, *YEARS])
        assert again.fingerprint() == BPE.fingerprint()
        assert again._backend.to_str() == BPE._backend.to_str()
    assert BytePairTokenizer.train(TEXTS, vocab_size=400).fingerprint() != BPE.fingerprint()


def test_keep_whole_words_are_single_tokens() -> None:
    for vocab_size in (259 + len(YEARS), 350, 400, 8192):
        tokenizer = BytePairTokenizer.train(TEXTS, vocab_size=vocab_size, keep_whole=[*YEARS, " 1907", "1907"])
        assert tokenizer.vocab_size <= vocab_size
        assert all(len(tokenizer.encode(f" {year}")) == 1 for year in YEARS)
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == TEXTS
    assert BPE.vocab_size == 400
    assert (BPE.pad, BPE.eos, BPE.mask) == (0, 1, 2)
    assert strings(BPE, "on May 13, 1907")[1:] == [" May", " 13", ",", " 1907"]


def test_keeping_words_whole_leaves_the_rest_as_trained() -> None:
    kept = BytePairTokenizer.train(TEXTS, vocab_size=330, keep_whole=["zebra", "quokka"])
    plain = BytePairTokenizer.train(TEXTS, vocab_size=328)
    assert kept.encode_batch(TEXTS) == plain.encode_batch(TEXTS)
    assert (kept.vocab_size, plain.vocab_size) == (330, 328)


def test_bad_training_arguments() -> None:
    with pytest.raises(ValueError, match=r"vocab_size must be ≥ 259 .* got 100"):
        BytePairTokenizer.train(TEXTS, vocab_size=100)
    with pytest.raises(ValueError, match=r"vocab_size must be ≥ 262 to keep 3 words whole .*' Quokka'.* got 260"):
        BytePairTokenizer.train(TEXTS, vocab_size=260, keep_whole=["Quokka", "Zebra", "Yak"])
    with pytest.raises(ValueError, match="'Fort Wayne' cannot be one token"):
        BytePairTokenizer.train(TEXTS, keep_whole=["Fort Wayne"])
    with pytest.raises(ValueError, match="put it in a list"):
        BytePairTokenizer.train("one text")


def test_bpe_decodes_any_ids() -> None:
    lead_byte = BPE.encode("é")[0]
    assert isinstance(BPE.decode([lead_byte]), str)
    assert BPE.word_starts(BPE.encode("née")).tolist()[0] is True


# Hugging Face ------------------------------------------------------------------------------------------------------


def test_huggingface_fallbacks(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(save_huggingface(tmp_path, eos_token="[EOS]"))
    assert (tokenizer.eos, tokenizer.pad) == (1, 1)
    assert (tokenizer.mask, tokenizer.vocab_size) == (BPE.vocab_size, BPE.vocab_size + 1)
    assert tokenizer.encode_batch(TEXTS) == BPE.encode_batch(TEXTS)


def test_huggingface_special_tokens(tmp_path: Path) -> None:
    special = {"eos_token": "[EOS]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    tokenizer = HuggingFaceTokenizer(save_huggingface(tmp_path, **special))
    assert (tokenizer.pad, tokenizer.eos, tokenizer.mask, tokenizer.vocab_size) == (0, 1, 2, BPE.vocab_size)


def test_huggingface_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_huggingface(tmp_path)
    with pytest.raises(ValueError, match="no end-of-text token"):
        HuggingFaceTokenizer(folder)
    with pytest.raises(FileNotFoundError, match=r"with tokenizer\.json"):
        HuggingFaceTokenizer(tmp_path / "nowhere")
    (folder / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a tokenizer folder that transformers can read"):
        HuggingFaceTokenizer(folder)

    original = builtins.__import__

    def without_transformers(name: str, *args: object, **kwargs: object) -> object:
        if name == "transformers":
            raise ImportError(name)
        return original(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    with pytest.raises(ImportError, match=r"physlm\[huggingface\]"):
        HuggingFaceTokenizer(folder)


def test_word_starts_of_other_vocabularies() -> None:
    def begins(token: str, decoder: str) -> int:
        return module._edge_kinds(module._token_bytes(token, decoder))[0]

    assert begins("▁Fort", "Metaspace") == begins("Fort", "WordPiece") == begins("ĠFort", "ByteLevel") == module._SPACE
    assert begins("Fort", "Metaspace") == begins("##Fort", "WordPiece") == begins("Fort", "ByteLevel") == module._LETTER
    assert begins("<0x2E>", "ByteFallback") == begins(".", "ByteLevel") == module._PUNCTUATION
    assert begins("<0x0A>", "ByteFallback") == begins("Ċ", "ByteLevel") == module._ALONE
    assert begins("<0x80>", "ByteFallback") == module._INSIDE


# Segments ----------------------------------------------------------------------------------------------------------


def test_check_segments_catches_a_merge() -> None:
    merging = BytePairTokenizer.train(["Acme Inc.. "] * 50, vocab_size=300)
    check_segments(merging, [("They worked for", " Acme Inc", ".")])
    with pytest.raises(
        ValueError, match=r"segment '\.' after ' Acme Inc\.' .*\['\.\.'\] .*\['\.', '\.'\].*punctuation"
    ):
        check_segments(merging, [("fine",), ("They worked for", " Acme Inc.", ".", " Yes")])


def test_check_segments_catches_a_space_in_the_wrong_segment() -> None:
    with pytest.raises(ValueError, match=r"segment 'May' after 'born on '.*space belong to the segment that follows"):
        check_segments(BPE, [("born on ", "May")])
    both = WordTokenizer.from_texts(["FortWayne", "Fort", "Wayne"])
    with pytest.raises(ValueError, match=r"segment 'Wayne' after 'Fort'.*\['FortWayne'\].*\['Fort', 'Wayne'\]"):
        check_segments(both, [("Fort", "Wayne")])


def test_check_segments_takes_many_and_refuses_strings() -> None:
    check_segments(BPE, (("in", " 1907", ".") for _ in range(2000)))
    check_segments(BPE, [])
    with pytest.raises(ValueError, match="tuple of segments"):
        check_segments(BPE, ["Anya"])  # type: ignore[list-item]


# Files -------------------------------------------------------------------------------------------------------------


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no tokenizer folder"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no physlm_tokenizer\.json.*HuggingFaceTokenizer\(folder\)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable JSON"),
        ("[1]", "not a description"),
        ('{"kind": "word"}', "needs 'kind' and 'fingerprint'"),
        ('{"kind": "morse", "fingerprint": ""}', "a kind out of word, bpe, huggingface, got 'morse'"),
        ('{"kind": ["word"], "fingerprint": ""}', "a kind out of"),
        ('{"kind": "word", "fingerprint": ""}', "must list the 'tokens'"),
        ('{"kind": "word", "fingerprint": "", "tokens": ["a"]}', "files have changed"),
    ],
)
def test_corrupted_description(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "physlm_tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


def test_corrupted_bpe(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    with pytest.raises(ValueError, match="of kind 'bpe', not 'word'"):
        WordTokenizer.load(tmp_path)
    file = tmp_path / "tokenizer.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    definition["model"]["merges"].pop()
    file.write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(ValueError, match="files have changed"):
        load_tokenizer(tmp_path)
    file.write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match="not the JSON of a `tokenizers` tokenizer"):
        load_tokenizer(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="save the tokenizer again"):
        load_tokenizer(tmp_path)
