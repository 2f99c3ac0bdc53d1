"""Making biographies: ours by gathering pre-tokenised pieces, the peer's by formatting and tokenising text.

Both make the very same documents of the paper's world (100,000 people, 5 entries each, 50 sentences per attribute)
as one array of token ids with offsets; this is checked. The comparison favours the peer: which sentences it uses in
which order is drawn for it outside the timing, and it makes no marks, while we draw and make all six.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from benchmarks.harness import Result, Settings, race
from physlm.data.streams import PackedStream, Source
from physlm.randomness import Key
from physlm.worlds.bios import VARIANTS, BiographyConfig, BiographyWorld, Person
from physlm.worlds.bios.templates import Template, load_templates
from physlm.worlds.bios.variants import draw_orders, draw_templates

SPLIT = "biographies"
BATCH = 4096
CONTEXT, ROWS = 512, 96
_TOKEN = r" ?[\w'&-]+| ?[^\w\s]|\s"


@dataclass(frozen=True)
class Plan:
    """One document to write: a person, and sentences as (attribute, template)."""

    person: Person
    sentences: Sequence[tuple[str, Template]]


def plans(world: BiographyWorld, indices: NDArray[np.integer]) -> list[Plan]:
    """What the documents at `indices` say, by the public parts that the world itself is made of."""
    config, variant = world.config, VARIANTS[world.config.variant]
    key = Key.of("biographies", config.seed).child("entries of people")
    entry, number = np.divmod(indices, config.people)
    known = [load_templates(config.template_form).sentences[name] for name in config.attributes]
    templates = draw_templates(variant, key, number, entry, np.array([len(sentences) for sentences in known]))
    orders = draw_orders(variant, key, number, entry, len(known))
    people = {i: world.person(i) for i in np.unique(number).tolist()}
    return [
        Plan(people[person], [(config.attributes[a], known[a][chosen[a]]) for a in order])
        for person, chosen, order in zip(number.tolist(), templates.tolist(), orders.tolist(), strict=True)
    ]


def write(plan: Plan) -> str:
    """The text of one document."""
    person, facts = plan.person, plan.person.facts
    subject = f" {person.name}"
    parts = []
    for attribute, (before, after) in plan.sentences:
        parts.append(f"{subject}{before} {facts[attribute]}{after}")
        subject = f" {person.pronoun}"
    return "".join(parts)


def library_tokenizer(world: BiographyWorld) -> Tokenizer:
    """A word-level tokenizer of the `tokenizers` library with the vocabulary of the world."""
    vocabulary = {world.tokenizer.decode([i]): i for i in range(3, world.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="isolated")
    return tokenizer


def with_library(tokenizer: Tokenizer, work: Sequence[Plan]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokens and offsets of the documents, by the `tokenizers` library."""
    encoded = tokenizer.encode_batch_fast([write(plan) for plan in work], add_special_tokens=False)
    return _end_to_end([encoding.ids for encoding in encoded])


def with_dictionary(vocabulary: dict[str, int], work: Sequence[Plan]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokens and offsets of the documents, by a regular expression and a dictionary."""
    words = re.compile(_TOKEN).findall
    return _end_to_end([[vocabulary[word] for word in words(write(plan))] for plan in work])


def _end_to_end(documents: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    return np.array([token for document in documents for token in document], dtype=np.int32), offsets


def run(settings: Settings) -> Result:
    """Measure."""
    people, batch = (2_000, 256) if settings.quick else (100_000, BATCH)
    world = BiographyWorld(BiographyConfig(seed=0, people=people, variant="multi5+permute"))
    indices = Key.of("benchmark").generator().integers(0, world.size(SPLIT), batch)
    work = plans(world, indices)
    tokenizer = library_tokenizer(world)
    vocabulary = tokenizer.get_vocab()
    stream = PackedStream([Source(world, SPLIT)], context=CONTEXT, batch_size=ROWS, key=Key.of("benchmark"))

    ours = world.render(SPLIT, indices)
    for tokens, offsets in (with_library(tokenizer, work), with_dictionary(vocabulary, work)):
        if not (np.array_equal(tokens, ours.tokens) and np.array_equal(offsets, ours.offsets)):
            raise RuntimeError("the peer's documents differ from ours, so their speed cannot be compared")

    result = race(
        {
            "ours": lambda: world.render(SPLIT, indices),
            "peer": lambda: with_library(tokenizer, work),
            "dictionary": lambda: with_dictionary(vocabulary, work),
            "unmarked": lambda: world.render(SPLIT, indices, marks=()),
            "packed": stream.next_batch,
        },
        settings.repetitions,
    )
    tokens, packed = len(ours.tokens), ROWS * CONTEXT
    details: dict[str, Any] = {
        "ratio_spread": result.spread("ours", "peer", "cpu"),
        "without_marks": result.rate("unmarked", tokens, "cpu"),
        "packed_stream": result.rate("packed", packed, "cpu"),
        "peer_regex_and_dictionary": result.rate("dictionary", tokens, "cpu"),
        "ratio_to_regex_and_dictionary": result.ratio("ours", "dictionary", "cpu"),
        "tokens_per_batch": tokens,
    }
    return Result(
        benchmark="bios",
        unit="tokens per CPU-second",
        value=result.rate("ours", tokens, "cpu"),
        peer="str.format + tokenizers WordLevel",
        peer_value=result.rate("peer", tokens, "cpu"),
        ratio=result.ratio("ours", "peer", "cpu"),
        parameters={
            "people": people,
            "variant": world.config.variant,
            "vocab_size": world.vocab_size,
            "documents_per_batch": batch,
            "context": CONTEXT,
            "rows": ROWS,
        },
        details=details,
        rows=[
            ("another peer: regular expression + dict", details["peer_regex_and_dictionary"], None),
            ("physlm, without marks", details["without_marks"], result.ratio("unmarked", "peer", "cpu")),
            (f"physlm, packed to {ROWS} × {CONTEXT}", details["packed_stream"], None),
        ],
    )
