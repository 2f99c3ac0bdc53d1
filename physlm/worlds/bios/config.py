"""The settings of a biography world, and the texts that they put in use.

- `BiographyConfig` is checked when it is made: an error names the field, its value and what is valid.
- `Wording` holds every text that can occur. It depends on pools, sentences and questions only, so that
  worlds which differ in people, seed or variant share one vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from physlm.worlds.bios.people import PRONOUNS
from physlm.worlds.bios.people import full_names as count_full_names
from physlm.worlds.bios.pools import ATTRIBUTES, DATE_PARTS, Form, Pools, PoolSizes, load_pools
from physlm.worlds.bios.templates import Question as QuestionWording
from physlm.worlds.bios.templates import Template, load_templates
from physlm.worlds.bios.variants import VARIANTS

_FORMS = ("full", "short")
_LEAST_PEOPLE = 2
_LARGEST_POPULATION = 2**31


@dataclass(frozen=True, kw_only=True)
class BiographyConfig:
    """A biography world; the defaults are the paper's (part 3.1, §2).

    Attributes:
        seed: any integer; decides people, split, sentences and orders, but not the pools.
        people: number of people, at least 2.
        celebrities: number of people in the second, richer population, at least 0 (§6).
        variant: how the people's biographies are written, one of `VARIANTS`.
        celebrity_variant: how the celebrities' biographies are written.
        pools: how many names and values are in use.
        value_form: "full" values, or "short" ones of one word.
        template_form: "full" sentences, or "short" ones.
        templates: number of sentences in use per attribute, from the first; `None` for all.
        questions: "full" or "short" wording of the questions.
        date_parts: what a birth date tells, some of "month", "day", "year" in this order.
        attributes: what is known about everybody, in the base order of the sentences.
    """

    seed: int
    people: int = 100_000
    celebrities: int = 0
    variant: str = "single"
    celebrity_variant: str = "multi5+permute"
    pools: PoolSizes = field(default_factory=PoolSizes)
    value_form: Form = "full"
    template_form: Form = "full"
    templates: int | None = None
    questions: Form = "full"
    date_parts: tuple[str, ...] = DATE_PARTS
    attributes: tuple[str, ...] = ATTRIBUTES

    def __post_init__(self) -> None:
        for name, least in (("seed", None), ("people", _LEAST_PEOPLE), ("celebrities", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {value!r}")
            if least is not None and not least <= value < _LARGEST_POPULATION:
                raise ValueError(f"{name} must be ≥ {least} and below {_LARGEST_POPULATION}, got {value}")
        for name in ("value_form", "template_form", "questions"):
            if getattr(self, name) not in _FORMS:
                raise ValueError(f"{name} must be one of {', '.join(_FORMS)}, got {getattr(self, name)!r}")
        _check_subset("date_parts", self.date_parts, DATE_PARTS)
        if list(self.date_parts) != [part for part in DATE_PARTS if part in self.date_parts]:
            raise ValueError(f"date_parts must keep the order {DATE_PARTS}, got {self.date_parts!r}")
        _check_subset("attributes", self.attributes, ATTRIBUTES)
        if "ccity" in self.attributes and "cname" not in self.attributes:
            raise ValueError(f"attributes with 'ccity' must have 'cname', which decides it, got {self.attributes!r}")
        for name in ("variant", "celebrity_variant"):
            if getattr(self, name) not in VARIANTS:
                raise ValueError(f"{name} must be one of {', '.join(VARIANTS)}, got {getattr(self, name)!r}")
            if VARIANTS[getattr(self, name)].order == "couples" and len(self.attributes) % 2:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} needs an even number of attributes, got {self.attributes!r}"
                )
        available = min(len(load_templates(self.template_form).sentences[name]) for name in self.attributes)
        if self.templates is not None and not 1 <= self.templates <= available:
            raise ValueError(f"templates must be None or in 1..{available}, got {self.templates!r}")
        names = count_full_names(self.used_pools())
        if self.people + self.celebrities > names:
            raise ValueError(
                f"people + celebrities must be at most {names}, the number of different full names in the pools, "
                f"got {self.people} + {self.celebrities}: make first, middle or last of `pools` larger"
            )

    def used_pools(self) -> Pools:
        """The names and values in use, in the form in use."""
        return load_pools().reduced(self.pools, self.value_form)


def _check_subset(name: str, items: Sequence[str], valid: Sequence[str]) -> None:
    if not isinstance(items, tuple) or not items or len(set(items)) != len(items) or not set(items) <= set(valid):
        raise ValueError(f"{name} must be a tuple of at least one of {', '.join(valid)}, each once, got {items!r}")


class Wording:
    """Every text that a world can contain, each with its leading space.

    Attributes:
        names: first, middle and last names.
        pronouns: subjects of later sentences.
        values: attribute to the parts of its values. A value is one text of every part; only dates have several.
        sentences: attribute to the sentences in use.
        questions: attribute to its question.
    """

    def __init__(self, config: BiographyConfig) -> None:
        pools = config.used_pools()
        self.names = tuple([f" {name}" for name in names] for names in (pools.first, pools.middle, pools.last))
        self.pronouns = [f" {pronoun}" for pronoun in PRONOUNS]
        comma = "," if "day" in config.date_parts and "year" in config.date_parts else ""
        parts = {
            "month": [f" {month}" for month in pools.months],
            "day": [f" {day}{comma}" for day in pools.days],
            "year": [f" {year}" for year in pools.years],
        }
        texts: dict[str, tuple[list[str], ...]] = {
            name: ([f" {value}" for value in values],) for name, values in pools.values.items()
        }
        texts["date"] = tuple(parts[part] for part in config.date_parts)
        self.values = {name: texts[name] for name in config.attributes}
        known = load_templates(config.template_form).sentences
        self.sentences: dict[str, Sequence[Template]] = {
            name: known[name][: config.templates] for name in config.attributes
        }
        questions = load_templates(config.questions).questions
        self.questions: dict[str, QuestionWording] = {name: questions[name] for name in config.attributes}

    def texts(self) -> list[str]:
        """Every text once, in a fixed order."""
        texts = [*self.pronouns, *(name for names in self.names for name in names)]
        for attribute, parts in self.values.items():
            texts += [text for part in parts for text in part]
            texts += [text for template in self.sentences[attribute] for text in template]
            texts += [text for text in self.questions[attribute] if text]
        return texts

    def contexts(self) -> Iterator[tuple[str, ...]]:
        """Texts cut into their segments, in which every segment stands next to each kind of neighbour.

        Every value is in one sentence and in the question, every name begins an entry, begins a later
        sentence and is asked about, and every sentence occurs with one value, before a name and a pronoun.
        """
        for number, (attribute, parts) in enumerate(self.values.items()):
            sentences, question = self.sentences[attribute], self.questions[attribute]
            # All names are gone through once, with the first attribute.
            rows = max(map(len, (*parts, sentences, *(self.names if number == 0 else ()))))
            for i in range(rows):
                name = tuple(names[i % len(names)] for names in self.names)
                value = tuple(part[i % len(part)] for part in parts)
                before, after = sentences[i % len(sentences)]
                yield (*name, before, *value, after, *name, before)
                yield (question.before, *name, question.between, *value, question.after)
            for i, (before, after) in enumerate(sentences):
                yield (after, self.pronouns[i % len(self.pronouns)], before)


def world_texts(config: BiographyConfig) -> list[str]:
    """Every text a biography world with this config can contain, to build a tokenizer from.

    The texts depend on pools, sentences and questions, not on seed, people or variant.
    """
    return Wording(config).texts()
