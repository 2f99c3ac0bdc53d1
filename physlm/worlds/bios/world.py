"""The biography world: people whose every fact is known, told in sentences, asked in questions (part 3.1, §2-3, §6).

- Splits: "biographies" (entry `i // people` of person `i % people`), "questions_train" and "questions_test"
  (one random half of the people each, one question per attribute), and with celebrities
  "celebrity_biographies" and "questions_celebrities".
- A document holds no special token: whoever packs documents puts the end-of-text token between them.
- Marks, aligned with the tokens: `role` (a `Role`), `attribute` (index into `config.attributes`), `person`,
  `sentence` (number within the entry), `value_position` (0 at the first token of a value, -1 outside values)
  and `word` (number of the whole word within the document).
- People, split, sentences and orders have separate keys: changing how biographies are written changes
  neither the people nor the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import IntArray, Judgement, Sample, Samples, hash_samples
from physlm.data.tokenizers import Tokenizer, WordTokenizer, check_segments
from physlm.randomness import Key
from physlm.worlds.bios.config import BiographyConfig, Wording
from physlm.worlds.bios.judge import Judge
from physlm.worlds.bios.people import PRONOUNS, Person, Question, draw_people, join_populations
from physlm.worlds.bios.pools import first_token_chance, whole_attribute_chance
from physlm.worlds.bios.rendering import MARKS, PieceTable, Role, document_lengths, lay_out
from physlm.worlds.bios.variants import VARIANTS, Variant, draw_orders, draw_templates

_FINGERPRINTED = 64
_CHUNK = 1 << 15


@dataclass(frozen=True)
class _Population:
    """People `first_person, …, first_person + people - 1`, written in one variant."""

    first_person: int
    people: int
    variant: Variant
    key: Key


@dataclass(frozen=True)
class _Documents:
    """Documents as piece numbers `[D, S, P]`, with the attribute of each sentence `[D, S]` and the person `[D]`."""

    pieces: NDArray[np.int32]
    attribute: NDArray[np.integer]
    person: NDArray[np.integer]


class BiographyWorld:
    """Random access to the biographies of a population and to questions about it; implements `World`.

    Example:
        >>> world = BiographyWorld(BiographyConfig(seed=0, people=100))
        >>> sample = world["biographies", 7]
        >>> bool(world.check(sample.truth, sample.tokens))
        True

    Args:
        config: what the world is.
        tokenizer: any tokenizer that cuts every name and value alike in biographies and questions; by
            default a closed vocabulary of all words the pools, sentences and questions in use can give.

    Raises:
        ValueError: if the tokenizer cuts some name or value differently in different contexts.
    """

    def __init__(self, config: BiographyConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        wording = self._wording = Wording(config)
        self.tokenizer = WordTokenizer.from_texts(wording.texts()) if tokenizer is None else tokenizer
        check_segments(self.tokenizer, wording.contexts())

        key = Key.of("biographies", config.seed)
        pools = config.used_pools()
        self.people = join_populations(
            [
                draw_people(key, pools, config.people),
                draw_people(key, pools, config.celebrities, celebrities=True),
            ]
        )
        half = key.child("split").generator().permutation(config.people)
        train, test = np.sort(half[: config.people // 2]), np.sort(half[config.people // 2 :])
        celebrities = np.arange(config.people, config.people + config.celebrities)
        self._asked = {"questions_train": train, "questions_test": test}
        self._populations = {
            "biographies": _Population(0, config.people, VARIANTS[config.variant], key.child("entries of people"))
        }
        if config.celebrities:
            self._asked["questions_celebrities"] = celebrities
            self._populations["celebrity_biographies"] = _Population(
                config.people,
                config.celebrities,
                VARIANTS[config.celebrity_variant],
                key.child("entries of celebrities"),
            )
        self._judge = Judge(self.tokenizer, wording.sentences, wording.questions)
        self._make_pieces()

    def _make_pieces(self) -> None:
        """Tokenise every text once; the arrays hold the piece numbers of names, values, sentences and questions."""
        wording, people = self._wording, self.people
        table = PieceTable(self.tokenizer)
        attributes = self.config.attributes
        pronouns = table.add(wording.pronouns, Role.PRONOUN)
        self._pronoun = pronouns[people.pronoun]
        names = (people.first, people.middle, people.last)
        self._name = table.join(list(zip(wording.names, names, strict=True)), Role.NAME)
        self._value = np.empty((len(people), len(attributes)), dtype=np.int32)
        for column, attribute in enumerate(attributes):
            texts, indices = wording.values[attribute], people.indices(attribute, self.config.date_parts)
            if len(texts) == 1:
                self._value[:, column] = table.add(texts[0], Role.VALUE)[indices[0]]
            else:
                self._value[:, column] = table.join(list(zip(texts, indices, strict=True)), Role.VALUE)
        sentences = [wording.sentences[attribute] for attribute in attributes]
        self._templates = np.array([len(templates) for templates in sentences])
        # First piece of every attribute: its templates are numbered consecutively from there.
        self._before = np.array([table.add([t.before for t in ts], Role.TEMPLATE)[0] for ts in sentences])
        self._after = np.array([table.add([t.after for t in ts], Role.TEMPLATE)[0] for ts in sentences])
        questions = [wording.questions[attribute] for attribute in attributes]
        self._question = np.stack([table.add(question, Role.QUESTION) for question in questions])
        self._pieces = table.freeze()

    # ------------------------------------------------------------------------------------------------------------------
    # The World protocol
    # ------------------------------------------------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; those of celebrities only if there are any."""
        return (*self._populations, *self._asked)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        return self.tokenizer.vocab_size

    @property
    def eos(self) -> int:
        """Token id that separates documents."""
        return self.tokenizer.eos

    @property
    def pad(self) -> int:
        """Token id that fills unused positions."""
        return self.tokenizer.pad

    def size(self, split: str) -> int:
        """Number of documents in `split`: people × entries, or people × attributes."""
        if split in self._populations:
            population = self._populations[split]
            return population.people * population.variant.entries
        return len(self._people_asked(split)) * len(self.config.attributes)

    def lengths(self, split: str) -> IntArray:
        """Number of tokens of every document in `split`, without rendering any."""
        size = self.size(split)
        lengths = np.empty(size, dtype=np.int64)
        for start in range(0, size, _CHUNK):
            documents = self._documents(split, np.arange(start, min(start + _CHUNK, size)))
            lengths[start : start + _CHUNK] = document_lengths(self._pieces, documents.pieces)
        return lengths

    def render(self, split: str, indices: IntArray, marks: Sequence[str] = MARKS) -> Samples:
        """The documents at `indices`, in that order.

        Args:
            split: one of `splits`.
            indices: document numbers in `[0, size(split))`, in any order, repeated or not.
            marks: which marks to make; fewer cost less time.
        """
        documents = self._documents(split, np.asarray(indices))
        return lay_out(self._pieces, documents.pieces, documents.attribute, documents.person, marks)

    def __getitem__(self, key: tuple[str, int]) -> Sample:
        """One document; its truth is a `Person` in biographies and a `Question` in questions."""
        split, index = key
        samples = self.render(split, np.array([index]))
        truth: Person | Question
        if split in self._populations:
            population = self._populations[split]
            truth = self.person(population.first_person + index % population.people)
        else:
            person, attribute = self.questions(split)
            truth = Question(self.person(int(person[index])), self.config.attributes[attribute[index]])
        return Sample(samples.tokens, samples.marks, truth)

    def check(self, truth: Person | Question, tokens: Sequence[int] | IntArray) -> Judgement:
        """Whether a biography tells all facts of a person, or a question is asked and answered rightly.

        The end-of-text token is not part of a document: cut it off before judging what a model wrote.
        """
        if isinstance(truth, Question):
            return self._judge.question(truth, tokens)
        celebrity = truth.id >= self.config.people
        variant = VARIANTS[self.config.celebrity_variant if celebrity else self.config.variant]
        return self._judge.biography(truth, tokens, fullname=variant.fullname)

    def fingerprint(self) -> str:
        """Hash of the config, of every text in use, of the tokenizer and of the first documents of every split."""
        digest = hashlib.blake2b(digest_size=16)
        parts = [repr(self.config), *self._wording.texts(), self.tokenizer.fingerprint()]
        for split in self.splits:
            first = np.arange(min(_FINGERPRINTED, self.size(split)))
            parts += [split, hash_samples(self.render(split, first))]
        digest.update("\n".join(parts).encode())
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------------------------
    # What experiments need besides
    # ------------------------------------------------------------------------------------------------------------------

    def person(self, number: int) -> Person:
        """Person `number` with every fact as text; celebrities follow the people."""
        if not 0 <= number < len(self.people):
            raise IndexError(f"person must be in 0..{len(self.people) - 1}, got {number}")
        people, wording = self.people, self._wording
        names = (people.first, people.middle, people.last)
        name = "".join(texts[index[number]] for texts, index in zip(wording.names, names, strict=True))
        facts = {}
        for attribute, texts in wording.values.items():
            indices = people.indices(attribute, self.config.date_parts)
            value = "".join(part[index[number]] for part, index in zip(texts, indices, strict=True))
            facts[attribute] = value.removeprefix(" ")
        return Person(int(number), name.removeprefix(" "), PRONOUNS[people.pronoun[number]], facts)

    def questions(self, split: str) -> tuple[IntArray, IntArray]:
        """Person and attribute of every question in `split`, each of shape `[size(split)]`."""
        asked, attributes = self._people_asked(split), len(self.config.attributes)
        return np.repeat(asked, attributes), np.tile(np.arange(attributes), len(asked))

    def value_starts(self, split: str, indices: IntArray) -> IntArray:
        """Where the values begin within each document.

        Returns:
            Token positions: shape `[D, attributes]` for biographies, column `a` for attribute `a`; shape
            `[D, 1]` for questions. The words before position `p` predict the value's first token.
        """
        samples = self.render(split, indices, marks=("attribute", "value_position"))
        at = np.flatnonzero(samples.marks["value_position"] == 0).reshape(len(samples), -1)
        by_attribute = np.argsort(samples.marks["attribute"][at], axis=1)
        return np.take_along_axis(at - samples.offsets[:-1, None], by_attribute, axis=1)

    def prompts(self, split: str, indices: IntArray) -> list[IntArray]:
        """The tokens of each question up to its answer, answer marker included."""
        return [tokens for tokens, _ in self._cut(split, indices)]

    def answers(self, split: str, indices: IntArray) -> list[IntArray]:
        """The tokens of each question's true answer."""
        return [tokens for _, tokens in self._cut(split, indices)]

    def texts(self, split: str, indices: IntArray) -> list[str]:
        """The documents as text."""
        samples = self.render(split, indices, marks=())
        return [self.tokenizer.decode(samples.document(i)[0]) for i in range(len(samples))]

    def chance(self) -> dict[str, dict[str, float]]:
        """Accuracy of the best constant answer by attribute, for "whole" values and for their "first_token"."""
        config = self.config
        pools = config.used_pools()
        whole = whole_attribute_chance(pools, config.pools, config.date_parts)
        used = [text for parts in self._wording.values.values() for text in parts[0]]
        first = {text.strip(" ,"): self.tokenizer.encode(text)[0] for text in used}
        first_token = first_token_chance(pools, config.pools, config.date_parts, lambda text: first.get(text, text))
        return {
            "whole": {name: whole[name] for name in config.attributes},
            "first_token": {name: first_token[name] for name in config.attributes},
        }

    # ------------------------------------------------------------------------------------------------------------------
    # Documents as piece numbers
    # ------------------------------------------------------------------------------------------------------------------

    def _people_asked(self, split: str) -> NDArray[np.int64]:
        if split not in self._asked:
            among = self._asked if split in self._populations else self.splits
            raise ValueError(f"split must be one of {', '.join(among)}, got {split!r}")
        return self._asked[split]

    def _cut(self, split: str, indices: IntArray) -> list[tuple[IntArray, IntArray]]:
        """Each question as the tokens before its answer and the tokens of the answer."""
        self._people_asked(split)
        samples = self.render(split, indices, marks=("value_position",))
        documents = [samples.document(i) for i in range(len(samples))]
        values = [marks["value_position"] >= 0 for _, marks in documents]
        return [
            (tokens[: np.argmax(value)], tokens[value]) for (tokens, _), value in zip(documents, values, strict=True)
        ]

    def _documents(self, split: str, indices: NDArray[np.integer]) -> _Documents:
        size = self.size(split)
        if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
            raise ValueError(f"indices must be a flat array of integers, got shape {indices.shape} of {indices.dtype}")
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            outside = indices[(indices < 0) | (indices >= size)][0]
            raise IndexError(f"indices of {split!r} must be in 0..{size - 1}, got {outside}")
        indices = indices.astype(np.int64)
        if split in self._populations:
            return self._biographies(self._populations[split], indices)
        return self._questions(self._people_asked(split), indices)

    def _biographies(self, population: _Population, indices: NDArray[np.int64]) -> _Documents:
        entry, local = np.divmod(indices, population.people)
        person = population.first_person + local
        variant, key = population.variant, population.key
        templates = draw_templates(variant, key, local, entry, self._templates)
        order = draw_orders(variant, key, local, entry, len(self._templates))
        chosen = np.take_along_axis(templates, order, axis=1)
        pieces = np.empty((*order.shape, 4), dtype=np.int32)
        pieces[:, :, 0] = (self._name if variant.fullname else self._pronoun)[person, None]
        pieces[:, 0, 0] = self._name[person]
        pieces[:, :, 1] = self._before[order] + chosen
        pieces[:, :, 2] = np.take_along_axis(self._value[person], order, axis=1)
        pieces[:, :, 3] = self._after[order] + chosen
        return _Documents(pieces, order, person)

    def _questions(self, asked: NDArray[np.int64], indices: NDArray[np.int64]) -> _Documents:
        row, attribute = np.divmod(indices, len(self._templates))
        person = asked[row]
        before, between, after = self._question[attribute].T
        pieces = np.stack([before, self._name[person], between, self._value[person, attribute], after], axis=1)
        return _Documents(pieces[:, None], attribute[:, None], person)


def sample_texts(config: BiographyConfig, count: int) -> list[str]:
    """Up to `count` whole biographies of this config, to train a tokenizer on beside `world_texts`."""
    world = BiographyWorld(config)
    return world.texts("biographies", np.arange(min(count, world.size("biographies"))))
