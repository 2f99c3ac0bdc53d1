"""Sentence templates and question wordings of the biography world, parsed into text segments.

- A sentence is: subject, `Template.before`, " " + value, `Template.after`. A question is:
  `Question.before`, " " + name, `Question.between`, " " + value, `Question.after`.
- Leading spaces belong to the token that follows, so that a name or a value is spelled alike in
  biographies and in questions: every name and every value is rendered with one leading space, and a
  segment never ends with a space.
- Verbs are in the past tense and agree with he, she and they. Words and texts are our own; the rules
  follow Part 3.1 (arXiv 2309.14316), section 2 and appendix A.1.
- "full" sentences have the length of the paper's; "short" ones have two words between subject and
  value and nothing after it, for reduced worlds.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from physlm.worlds.bios.pools import ATTRIBUTES, Form

_FORMAT_VERSION = 1
_KEYS = ("version", "base_order", "full", "short", "questions", "questions_short")
_WORDS = r"[A-Za-z'-]+(?: [A-Za-z'-]+)*"
_SENTENCE = re.compile(rf"\{{S\}} (?P<before>{_WORDS}) \{{V\}}(?P<after>(?: {_WORDS})?\.)")
_QUESTION = re.compile(
    rf"(?P<before>{_WORDS}) \{{N\}}(?P<between>(?: {_WORDS})?[?:.]?(?: {_WORDS}[?:.]?)*) \{{V\}}(?P<after>\.?)"
)


class Template(NamedTuple):
    """The two text segments around a value: `" drew a first breath on"` and `"."`."""

    before: str
    after: str


class Question(NamedTuple):
    """The three text segments around a name and a value: `" Birthdate of"`, `"? Answer:"` and `""`."""

    before: str
    between: str
    after: str


@dataclass(frozen=True)
class Templates:
    """Sentences and questions of every attribute.

    Attributes:
        sentences: distinct templates by attribute; no `before` serves two attributes.
        questions: one wording by attribute.
        base_order: attributes in the order of a biography without permutation.
    """

    sentences: Mapping[str, tuple[Template, ...]]
    questions: Mapping[str, Question]
    base_order: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in ("sentences", "questions"):
            if set(getattr(self, field)) != set(ATTRIBUTES):
                raise ValueError(f"{field} must have exactly the keys {ATTRIBUTES}, got {tuple(getattr(self, field))}")
        if sorted(self.base_order) != sorted(ATTRIBUTES):
            raise ValueError(f"base_order must be a permutation of {ATTRIBUTES}, got {self.base_order}")
        owner: dict[str, str] = {}
        for attribute, templates in self.sentences.items():
            if not templates:
                raise ValueError(f"sentences of {attribute} must be at least one, got none")
            if len(set(templates)) != len(templates):
                repeated = next(template for template in templates if templates.count(template) > 1)
                raise ValueError(f"sentences of {attribute} must be distinct, got {repeated} more than once")
            for template in templates:
                if owner.setdefault(template.before, attribute) != attribute:
                    raise ValueError(
                        f"the words before a value must identify its attribute: {template.before!r} serves both "
                        f"{owner[template.before]} and {attribute}"
                    )

    @classmethod
    def from_file(cls, path: str | Path, form: Form = "full") -> Templates:
        """Templates from a JSON file with the layout of the committed `data/templates.json`.

        Any number of sentences per attribute is accepted, from 1.

        Raises:
            ValueError: naming the field, the text and what is valid.
        """
        return _parse(json.loads(Path(path).read_text(encoding="utf-8")), form, source=str(path))


@functools.cache
def load_templates(form: Form = "full") -> Templates:
    """The committed templates, 50 sentences per attribute; read once per form.

    Example:
        >>> templates = load_templates("short")
        >>> before, after = templates.sentences["univ"][0]
        >>> "She" + before + " Hollyfort" + after
        'She studied at Hollyfort.'
        >>> question = templates.questions["univ"]
        >>> question.before + " Ada Mary Stone" + question.between + " Hollyfort" + question.after
        ' University of Ada Mary Stone? Answer: Hollyfort'
    """
    resource = importlib.resources.files("physlm.worlds") / "bios" / "data" / "templates.json"
    return _parse(json.loads(resource.read_text(encoding="utf-8")), form, source="templates.json")


def parse_sentence(text: str) -> Template:
    """Segments of `"{S} words {V}."` or `"{S} words {V} words."`.

    Example:
        >>> parse_sentence("{S} began life on {V}.")
        Template(before=' began life on', after='.')
    """
    match = _SENTENCE.fullmatch(text)
    if match is None:
        raise ValueError(
            "a sentence must read '{S} words {V}.' or '{S} words {V} words.', with one {S} first, one {V}, at least "
            f"one word between them, single spaces and ASCII letters, ' and - only, got {text!r}"
        )
    return Template(before=" " + match["before"], after=match["after"])


def parse_question(text: str) -> Question:
    """Segments of a question such as `"On which date was {N} born? Answer: {V}"`.

    Example:
        >>> parse_question("Major of {N}? Answer: {V}")
        Question(before=' Major of', between='? Answer:', after='')
    """
    match = _QUESTION.fullmatch(text)
    if match is None or not match["between"]:
        raise ValueError(
            "a question must read like 'words {N} words? Answer: {V}', with one {N}, then one {V} at the end, words "
            f"before {{N}} and between them, single spaces and ASCII letters, ' - ? : . only, got {text!r}"
        )
    return Question(before=" " + match["before"], between=match["between"], after=match["after"])


def _parse(content: Any, form: str, source: str) -> Templates:
    if form not in ("full", "short"):
        raise ValueError(f'form must be "full" or "short", got {form!r}')
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{source} must be a JSON object with exactly the keys {_KEYS}, got {found}")
    if content["version"] != _FORMAT_VERSION:
        raise ValueError(f"{source}: version must be {_FORMAT_VERSION}, got {content['version']!r}")
    sentences, questions = content[form], content["questions" if form == "full" else "questions_short"]
    for field, value in ((form, sentences), ("questions", questions)):
        if not isinstance(value, dict):
            raise ValueError(f"{source}: {field} must be an object by attribute, got {value!r:.80}")
    parsed: dict[str, tuple[Template, ...]] = {}
    for attribute, texts in sentences.items():
        if not isinstance(texts, list):
            raise ValueError(f"{source}: {form}.{attribute} must be a list of sentences, got {texts!r:.80}")
        parsed[attribute] = tuple(parse_sentence(str(text)) for text in texts)
    return Templates(
        sentences=parsed,
        questions={attribute: parse_question(str(text)) for attribute, text in questions.items()},
        base_order=tuple(content["base_order"]),
    )
