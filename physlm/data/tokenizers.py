"""Text to token ids and back, in three interchangeable kinds.

- `WordTokenizer`: a closed vocabulary of whole words; smallest, fully readable, refuses what it has not seen.
- `BytePairTokenizer`: byte-level BPE with GPT-2 pre-tokenization, trained on the world's own texts; takes any text.
- `HuggingFaceTokenizer`: any tokenizer folder on disk that `transformers` can read, for example GPT-2's.

All three let the leading space belong to the token, so that a name is tokenized alike in a biography and in a
question; `check_segments` proves it for the texts at hand. Special ids never come out of text: a text that spells
"[EOS]" is encoded as ordinary characters.

A *word*, for whole-word masking, means the same for every kind: an optional space and a run of letters, digits,
apostrophes, hyphens and ampersands ("O'Brien", "AT&T"), or an optional space and one punctuation character, or one
other whitespace character. A character that BPE splits into several bytes counts as a letter.

This is not a data pipeline: nothing here packs, pads or appends a special token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int] | NDArray[np.integer[Any]]

SPECIAL_TOKENS = ("[PAD]", "[EOS]", "[MASK]")
"""Special tokens of the kinds built here; their ids are 0, 1 and 2."""

_T = TypeVar("_T", bound="Tokenizer")

_WORD_CHARACTER = r"[\w'&-]"
_TOKEN = re.compile(rf" ?{_WORD_CHARACTER}+| ?[^\w\s]|\s")
_DESCRIPTION = "physlm_tokenizer.json"
_LIBRARY_FILE = "tokenizer.json"
_BYTES = 256


@runtime_checkable
class Tokenizer(Protocol):
    """What every kind of tokenizer offers."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included; every id is below it."""
        ...

    @property
    def pad(self) -> int:
        """Id that fills unused positions.

        It may equal `eos` (Hugging Face tokenizers without a padding token), so a loss mask must come from
        positions or lengths, never from `ids != pad`, which would then also drop every true end of text.
        """
        ...

    @property
    def eos(self) -> int:
        """Id that ends a document."""
        ...

    @property
    def mask(self) -> int:
        """Id that hides a token in masked language modelling."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without any special token."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, each as `encode` gives them."""
        ...

    def decode(self, ids: Ids) -> str:
        """Text of `ids`; special tokens are dropped."""
        ...

    def word_starts(self, ids: Ids) -> NDArray[np.bool_]:
        """True where a token begins a new whole word, shape `[len(ids)]`; a special token is a word."""
        ...

    def fingerprint(self) -> str:
        """Hash of everything that determines the ids."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer to `folder`, to be read back by `load_tokenizer`."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------------


class WordTokenizer:
    """A closed vocabulary of whole words and punctuation characters.

    Decoding is exact concatenation, because the leading space belongs to the token.

    Args:
        tokens: the vocabulary without the special tokens, in the order of their ids, which begin at 3.

    Example:
        >>> tokenizer = WordTokenizer.from_texts(["Anya lives in Fort Wayne, IN."])
        >>> [tokenizer.decode([i]) for i in tokenizer.encode("Anya lives in Fort Wayne, IN.")]
        ['Anya', ' lives', ' in', ' Fort', ' Wayne', ',', ' IN', '.']
    """

    pad, eos, mask = range(len(SPECIAL_TOKENS))

    def __init__(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                raise ValueError(f"a word vocabulary holds one word or punctuation character per token, got {token!r}")
        self._strings = [*SPECIAL_TOKENS, *tokens]
        self._ids = {token: i for i, token in enumerate(tokens, start=len(SPECIAL_TOKENS))}
        self.vocab_size = len(self._strings)
        if len(self._ids) != len(tokens):
            repeated = next(token for i, token in enumerate(tokens) if token in tokens[:i])
            raise ValueError(f"tokens of a word vocabulary must differ, got {repeated!r} more than once")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Self:
        """A vocabulary of all tokens in `texts`, sorted, so that their order does not matter.

        Example:
            >>> WordTokenizer.from_texts(["b a", "c"]).vocab_size
            6
        """
        _refuse_single_text(texts)
        tokens: set[str] = set()
        for text in texts:
            tokens.update(_TOKEN.findall(text))
        return cls(sorted(tokens))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; a token outside the vocabulary is a `ValueError`."""
        try:
            return list(map(self._ids.__getitem__, _TOKEN.findall(text)))
        except KeyError:
            unknown = next(match for match in _TOKEN.finditer(text) if match[0] not in self._ids)
            around = text[max(0, unknown.start() - 30) : unknown.end() + 30]
            other = unknown[0][1:] if unknown[0].startswith(" ") else f" {unknown[0]}"
            hint = f" ({other!r} is known: only the leading space differs)" if other in self._ids else ""
            raise ValueError(
                f"token {unknown[0]!r} is not in this closed vocabulary of {self.vocab_size} ids{hint}, in the text "
                f"{around!r}: build the vocabulary from texts that contain it (WordTokenizer.from_texts), "
                "or use a BytePairTokenizer, which encodes any text"
            ) from None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        _refuse_single_text(texts)
        return [self.encode(text) for text in texts]

    def decode(self, ids: Ids) -> str:
        """Exact concatenation of the tokens, special tokens dropped."""
        checked = _checked(ids, self.vocab_size).tolist()
        return "".join([self._strings[i] for i in checked if i >= len(SPECIAL_TOKENS)])

    def word_starts(self, ids: Ids) -> NDArray[np.bool_]:
        """True everywhere: every token is a word."""
        return np.ones(len(_checked(ids, self.vocab_size)), dtype=np.bool_)

    def fingerprint(self) -> str:
        """Hash of the vocabulary and of the pattern that cuts texts into tokens."""
        return _hash("word", _TOKEN.pattern, *self._strings)

    def save(self, folder: str | Path) -> None:
        """Write one JSON file with the vocabulary."""
        _describe(folder, kind="word", fingerprint=self.fingerprint(), tokens=self._strings[len(SPECIAL_TOKENS) :])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        tokens = _description(folder, kind="word").get("tokens")
        if not isinstance(tokens, list):
            raise ValueError(f"{Path(folder) / _DESCRIPTION} must list the 'tokens' of its vocabulary, got {tokens!r}")
        return _verified(cls(tokens), folder)


# ---------------------------------------------------------------------------------------------------------------------
# Subwords
# ---------------------------------------------------------------------------------------------------------------------


class _LibraryTokenizer:
    """What the two kinds that run on the `tokenizers` library share."""

    def __init__(self, backend: Any, *, kind: str, pad: int, eos: int, mask: int) -> None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a text that spells a special token is ordinary text
        self._backend = backend
        self._kind = kind
        vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        # Ids may have holes, and the mask may lie just beyond them all.
        self.vocab_size = max(max(vocabulary.values()), mask) + 1
        self.pad, self.eos, self.mask = pad, eos, mask

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend.encode_special_tokens = True  # the library does not pickle this setting

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without any special token."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, encoded in parallel by the `tokenizers` library."""
        _refuse_single_text(texts)
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Ids) -> str:
        """Text of `ids`, special tokens dropped; bytes that are no UTF-8 become the replacement character."""
        kept = [i for i in _checked(ids, self.vocab_size).tolist() if i not in self._specials]
        return self._backend.decode(kept, skip_special_tokens=True)

    def word_starts(self, ids: Ids) -> NDArray[np.bool_]:
        """True where a token begins a new whole word; a special token is a word."""
        checked = _checked(ids, self.vocab_size)
        first, last = self._edges[0, checked], self._edges[1, checked]
        previous = np.concatenate([[_ALONE], last[:-1]])[: len(last)]
        starts = (first == _SPACE) | (first == _ALONE)
        starts |= (first == _PUNCTUATION) & (previous != _SPACE)
        starts |= (first == _LETTER) & (previous != _LETTER) & (previous != _SPACE)
        starts[:1] = True
        return starts

    def fingerprint(self) -> str:
        """Hash of the tokenizer's whole definition and of its special ids."""
        definition = json.dumps(json.loads(self._backend.to_str()), sort_keys=True)
        return _hash(self._kind, definition, *map(str, (self.vocab_size, self.pad, self.eos, self.mask)))

    @cached_property
    def _specials(self) -> frozenset[int]:
        added: Mapping[int, Any] = self._backend.get_added_tokens_decoder()
        return frozenset({i for i, token in added.items() if token.special} | {self.pad, self.eos, self.mask})

    @cached_property
    def _edges(self) -> NDArray[np.int8]:
        """What every token begins with (row 0) and ends with (row 1)."""
        decoder = json.dumps(json.loads(self._backend.to_str()).get("decoder"))
        edges = np.full((2, self.vocab_size), _ALONE, dtype=np.int8)
        for token, i in self._backend.get_vocab(with_added_tokens=True).items():
            if i not in self._specials:
                edges[:, i] = _edge_kinds(_token_bytes(token, decoder))
        return edges


class BytePairTokenizer(_LibraryTokenizer):
    """Byte-level byte-pair encoding with GPT-2 pre-tokenization and no prefix space; takes any text.

    Args:
        serialized: the JSON of a `tokenizers.Tokenizer`; usually made by `train` or read by `load_tokenizer`.

    Example:
        >>> tokenizer = BytePairTokenizer.train(["Anya was born in May."], vocab_size=300, keep_whole=["May", "June"])
        >>> len(tokenizer.encode(" June"))
        1
    """

    def __init__(self, serialized: str) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_str(serialized)
        except Exception as error:  # the library raises bare `Exception`
            raise ValueError(f"this is not the JSON of a `tokenizers` tokenizer: {error}") from error
        if [backend.token_to_id(token) for token in SPECIAL_TOKENS] != [0, 1, 2]:
            raise ValueError(f"{', '.join(SPECIAL_TOKENS)} must have ids 0, 1, 2: retrain with BytePairTokenizer.train")
        super().__init__(backend, kind="bpe", pad=0, eos=1, mask=2)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 8192, keep_whole: Iterable[str] = ()) -> Self:
        """Train on `texts`; the result depends only on how often each word occurs, not on the order of texts.

        Words of `keep_whole` (months, years, days) are single tokens when a space precedes them, by construction:
        those that training did not merge take the place of the last merges, and are looked up before any merge
        applies. The rest of the tokenizer is what training with that many fewer ids would have given.

        Args:
            texts: any iterable, read once.
            vocab_size: upper bound on the number of ids, at least 259 (3 special tokens and 256 bytes) plus the
                words of `keep_whole` that have to be added; few texts give fewer ids.
            keep_whole: words with or without their leading space.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        _refuse_single_text(texts)
        _refuse_single_text(keep_whole)
        least = len(SPECIAL_TOKENS) + _BYTES
        if vocab_size < least:
            raise ValueError(f"vocab_size must be ≥ {least} (3 special tokens and 256 bytes), got {vocab_size}")
        backend = Backend(models.BPE())
        split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()

        whole: dict[str, None] = {}
        for word in keep_whole:
            pieces = split.pre_tokenize_str(word if word.startswith(" ") else f" {word}")
            if len(pieces) != 1:
                cut = [_bytes_of(piece).decode() for piece, _ in pieces]
                raise ValueError(f"keep_whole word {word!r} cannot be one token: GPT-2 pre-tokenization cuts it: {cut}")
            whole[pieces[0][0]] = None

        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        backend.train_from_iterator(texts, trainer)
        definition = json.loads(backend.to_str())
        _add_whole(definition["model"], list(whole), vocab_size, least)
        return cls(json.dumps(definition, ensure_ascii=False))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, which `tokenizers` and `transformers` can read too, and a description."""
        _describe(folder, kind="bpe", fingerprint=self.fingerprint())
        (Path(folder) / _LIBRARY_FILE).write_text(self._backend.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        _description(folder, kind="bpe")
        file = Path(folder) / _LIBRARY_FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: save the tokenizer again")
        return _verified(cls(file.read_text(encoding="utf-8")), folder)


class HuggingFaceTokenizer(_LibraryTokenizer):
    """A tokenizer folder on disk in the Hugging Face format (with `tokenizer.json`); never touches the network.

    - `eos` is the folder's own; a folder without one is refused.
    - `pad` is the folder's own, or else `eos`: take loss masks from positions, never from `ids != pad`.
    - `mask` is the folder's own, or else one new id after all others, so `vocab_size` grows by one.

    Args:
        folder: what `save_pretrained` wrote, or a downloaded snapshot.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError(
                "HuggingFaceTokenizer needs the extra physlm[huggingface]: pip install 'physlm[huggingface]'"
            ) from error
        folder = Path(folder)
        if not (folder / _LIBRARY_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} must be a local Hugging Face tokenizer folder with {_LIBRARY_FILE}: "
                "download it first, or write it with `save_pretrained`"
            )
        try:
            source: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            backend = type(source.backend_tokenizer).from_str(source.backend_tokenizer.to_str())
        except Exception as error:  # transformers raises many types, down to bare `Exception`
            raise ValueError(f"{folder} is not a tokenizer folder that transformers can read: {error}") from error
        eos, pad, mask = source.eos_token_id, source.pad_token_id, source.mask_token_id
        if eos is None:
            raise ValueError(f"the tokenizer in {folder} has no end-of-text token: set `eos_token` and save it again")
        beyond = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self._source = source
        super().__init__(
            backend,
            kind="huggingface",
            pad=eos if pad is None else pad,
            eos=eos,
            mask=beyond if mask is None else mask,
        )

    def save(self, folder: str | Path) -> None:
        """Write the Hugging Face files and a description."""
        _describe(folder, kind="huggingface", fingerprint=self.fingerprint())
        self._source.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        _description(folder, kind="huggingface")
        return _verified(cls(folder), folder)


def _add_whole(model: dict[str, Any], whole: list[str], vocab_size: int, least: int) -> None:
    """Add the missing tokens of `whole` to a trained BPE model, in place of its last merges where it is full."""
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    missing: list[str] = []
    while True:
        # Merges are greedy, so the first n tokens are what training for n ids gives.
        tokens = tokens[: max(least, vocab_size - len(missing))]
        known = set(tokens)
        grown = [token for token in whole if token not in known]
        if grown == missing:
            break
        missing = grown
    if len(tokens) + len(missing) > vocab_size:
        shown = ", ".join(repr(_bytes_of(token).decode()) for token in missing[:5])
        raise ValueError(
            f"vocab_size must be ≥ {len(tokens) + len(missing)} to keep {len(missing)} words whole "
            f"({shown}{', …' if len(missing) > 5 else ''}), got {vocab_size}: enlarge vocab_size"
        )
    if missing:
        kept = [left + right in known for left, right in model["merges"]]
        model["merges"] = model["merges"][: kept.index(False) if False in kept else len(kept)]
        model["vocab"] = {token: i for i, token in enumerate([*tokens, *missing])}
        model["ignore_merges"] = True  # a word that is in the vocabulary is looked up, as in Llama 3


# ---------------------------------------------------------------------------------------------------------------------
# Word boundaries
# ---------------------------------------------------------------------------------------------------------------------

# What a token begins or ends with. `_INSIDE` is a byte within a character; `_ALONE` is always a word of its own.
_INSIDE, _LETTER, _SPACE, _PUNCTUATION, _ALONE = range(5)


def _byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(_BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(_BYTES + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


def _bytes_of(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for; other characters stand for themselves."""
    return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in token)


def _token_bytes(token: str, decoder: str) -> bytes:
    """The bytes that a vocabulary entry stands for, told from the definition of its decoder."""
    if "ByteLevel" in decoder:
        return _bytes_of(token)
    if "WordPiece" in decoder:
        return token[2:].encode() if token.startswith("##") else f" {token}".encode()
    if byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):  # SentencePiece byte fallback
        return bytes.fromhex(byte[1])
    return token.replace("▁", " ").encode()


def _edge_kinds(piece: bytes) -> tuple[int, int]:
    """What the bytes of a token begin and end with; a character cut in two counts as a letter."""
    text = piece.decode("utf-8", errors="replace")
    if not text:
        return _ALONE, _ALONE
    first = _INSIDE if 0x80 <= piece[0] < 0xC0 else _character_kind(text[0])
    return first, _character_kind(text[-1])


def _character_kind(character: str) -> int:
    if character == " ":
        return _SPACE
    if character == "\N{REPLACEMENT CHARACTER}" or re.fullmatch(_WORD_CHARACTER, character):
        return _LETTER
    return _ALONE if character.isspace() else _PUNCTUATION


# ---------------------------------------------------------------------------------------------------------------------
# Checking and loading
# ---------------------------------------------------------------------------------------------------------------------


def check_segments(tokenizer: Tokenizer, segments: Iterable[tuple[str, ...]]) -> None:
    """Check that every text is tokenized as its segments are, so that a value looks the same wherever it stands.

    Args:
        tokenizer: any tokenizer.
        segments: texts cut where a name or a value begins and ends; the space before a word belongs to its segment.

    Raises:
        ValueError: at the first text where a token spans two segments, with both tokenizations.

    Example:
        >>> tokenizer = WordTokenizer.from_texts(["Anya lives in Fort Wayne, IN."])
        >>> check_segments(tokenizer, [("Anya", " lives in", " Fort Wayne, IN", ".")])
    """
    for batch in _batches(segments, size=1024):
        wholes = tokenizer.encode_batch(["".join(parts) for parts in batch])
        pieces = iter(tokenizer.encode_batch([part for parts in batch for part in parts]))
        for parts, whole in zip(batch, wholes, strict=True):
            joined = [next(pieces) for _ in parts]
            if whole != [i for ids in joined for i in ids]:
                raise ValueError(_segment_message(tokenizer, parts, joined))


def _segment_message(tokenizer: Tokenizer, parts: tuple[str, ...], joined: list[list[int]]) -> str:
    """Name the first segment that does not keep its tokens."""

    def strings(ids: list[int]) -> list[str]:
        return [tokenizer.decode([i]) for i in ids]

    for end in range(1, len(parts) + 1):
        text = "".join(parts[:end])
        apart, together = [i for ids in joined[:end] for i in ids], tokenizer.encode(text)
        if apart == together:
            continue
        shorter = min(len(apart), len(together))
        same = next((i for i in range(shorter) if apart[i] != together[i]), shorter)
        before = f" after {parts[end - 2]!r}" if end > 1 else ""
        return (
            f"segment {parts[end - 1]!r}{before} is tokenized differently inside the text {text[-60:]!r}: from token "
            f"{same} on, the text gives {strings(together[same:])} and the segments give {strings(apart[same:])}. "
            "Let the space belong to the segment that follows it, let no name or value end with punctuation that the "
            "text continues, or choose another tokenizer (WordTokenizer, or BytePairTokenizer.train with its GPT-2 "
            "pre-tokenization)"
        )
    return f"the tokenizer does not encode {''.join(parts)!r} alike twice: it must be deterministic"


def _batches(items: Iterable[tuple[str, ...]], size: int) -> Iterator[list[tuple[str, ...]]]:
    batch: list[tuple[str, ...]] = []
    for item in items:
        if isinstance(item, str):
            raise ValueError(f"every text must be a tuple of segments, got the string {item!r}: write ({item!r},)")
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a tokenizer of any kind from the folder it was saved to.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is not what `save` wrote.
    """
    description = _description(folder)
    kinds: dict[str, type[WordTokenizer | BytePairTokenizer | HuggingFaceTokenizer]] = {
        "word": WordTokenizer,
        "bpe": BytePairTokenizer,
        "huggingface": HuggingFaceTokenizer,
    }
    kind = str(description["kind"])
    if kind not in kinds:
        raise ValueError(f"{Path(folder) / _DESCRIPTION} must name a kind out of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind].load(folder)


def _describe(folder: str | Path, **description: Any) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, ensure_ascii=False, indent=1)
    (Path(folder) / _DESCRIPTION).write_text(text, encoding="utf-8")


def _description(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The description that `save` wrote, of the given kind if any."""
    file = Path(folder) / _DESCRIPTION
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no tokenizer folder {folder}: save a tokenizer there first")
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {_DESCRIPTION}: it was not written by `save` "
            "(for a plain Hugging Face folder use HuggingFaceTokenizer(folder))"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not readable JSON: save the tokenizer again ({error})") from error
    if not isinstance(description, dict) or not {"kind", "fingerprint"} <= description.keys():
        raise ValueError(f"{file} is not a description of a tokenizer, it needs 'kind' and 'fingerprint'")
    if kind is not None and description["kind"] != kind:
        raise ValueError(f"{file} describes a tokenizer of kind {description['kind']!r}, not {kind!r}")
    return description


def _verified(tokenizer: _T, folder: str | Path) -> _T:
    """The tokenizer, if it is the one that was saved."""
    expected = _description(folder)["fingerprint"]
    if tokenizer.fingerprint() != expected:
        raise ValueError(
            f"the tokenizer in {folder} has fingerprint {tokenizer.fingerprint()}, but {expected} was saved: "
            "its files have changed since, so ids would differ; save the tokenizer again"
        )
    return tokenizer


def _checked(ids: Ids, vocab_size: int) -> NDArray[np.int64]:
    """The ids as an array, all within the vocabulary."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"ids must be a flat list of integers, got shape {array.shape} of {array.dtype}")
    if array.min() < 0 or array.max() >= vocab_size:
        wrong = array[(array < 0) | (array >= vocab_size)][0]
        raise ValueError(f"token ids must be in [0, {vocab_size}), got {wrong}")
    return array.astype(np.int64)


def _refuse_single_text(texts: Iterable[str]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"texts must be many texts, got one string {texts[:30]!r}: put it in a list")


def _hash(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
