"""The closed vocabulary of the iGSM world: one token for every name, number, letter, word and mark.

- Ids, in this order: special tokens, numbers below the modulus, letters, words and marks, categories, items.
- Both renderings share one vocabulary. It depends on the modulus and on the names in use, and on nothing else.
- Text is tokens with a space between, but none before `'s , ; . ?`. No token begins another one, word for word, so that
  reading from left to right is exact: `encode(decode(ids)) == ids`.

Specification, §2.5; Physics of Language Models 2.1, §2.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.igsm.names import CATEGORIES, Names, load_names
from physlm.worlds.igsm.problem import Abstract, Item, Parameter, Problem

SPECIAL_TOKENS = ("<pad>", "<bos>", "<sol>", "<ans>", "<eos>", "<back>", "<start>", "<mid>", "<end>")
"""Their ids are 0 to 8. The last four are reserved for retractions and for probes."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
MARKS = ("'s", ".", ",", ";", "?", "=", "+", "-", "*", "(", ")")
WORDS = (
    *(
        "The",
        "number",
        "of",
        "each",
        "equals",
        "more",
        "than",
        "times",
        "as",
        "much",
        "the",
        "sum",
        "difference",
        "and",
    ),
    *("How", "many", "does", "have"),
    *("Define", "so"),
)

_NO_SPACE_BEFORE = ("'s", ",", ";", ".", "?")
_EXCERPT = 30


class Vocabulary:
    """The tokens of iGSM worlds with this modulus and these names.

    Example:
        >>> vocabulary = Vocabulary(modulus=23)
        >>> vocabulary.decode(vocabulary.encode("Define Tug's Pine Box as m; so m = 4."))
        "Define Tug's Pine Box as m; so m = 4."

    Args:
        modulus: there is a token for every number below it.
        names: those in use, all by default.

    Attributes:
        tokens: the text of every token, by id.
        names: those in use.
        modulus: as given.
        pad, bos, sol, ans, eos, back, start, mid, end: ids of the special tokens, 0 to 8.
        first_number: id of 0; that of n is `first_number + n`. Likewise `first_letter`.
        first_category: id of the first category of the first categorization.
        first_item: id of the first item of the first category of the first categorization.
    """

    pad, bos, sol, ans, eos, back, start, mid, end = range(len(SPECIAL_TOKENS))

    def __init__(self, modulus: int, names: Names | None = None) -> None:
        self.modulus = modulus
        self.names = load_names() if names is None else names
        self.first_number = len(SPECIAL_TOKENS)
        self.first_letter = self.first_number + modulus
        self.first_category = self.first_letter + len(LETTERS) + len(MARKS) + len(WORDS)
        self.first_item = self.first_category + len(self.names.categories) * CATEGORIES
        self.tokens: tuple[str, ...] = (
            *SPECIAL_TOKENS,
            *map(str, range(modulus)),
            *LETTERS,
            *MARKS,
            *WORDS,
            *(name for chain in self.names.categories for name in chain),
            *(name for chain in self.names.items for category in chain for name in category),
        )
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        """Id of one token.

        Raises:
            ValueError: if the vocabulary does not have it.
        """
        if token not in self._ids:
            raise ValueError(f"token must be one of the {len(self)} of this vocabulary, got {token!r}")
        return self._ids[token]

    def number(self, value: int) -> int:
        """Id of a number in `[0, modulus)`."""
        return self.first_number + value

    def letter(self, number: int) -> int:
        """Id of a letter, 0 to 51."""
        return self.first_letter + number

    def category(self, categorization: int, category: int) -> int:
        """Id of a category's name."""
        return self.first_category + categorization * CATEGORIES + category

    def item(self, categorization: int, category: int, number: int) -> int:
        """Id of the name of the category's item with this number."""
        per_category = sum(self.names.groups)
        return self.first_item + (categorization * CATEGORIES + category) * per_category + number

    def name(self, problem: Problem, parameter: Parameter) -> tuple[int, int]:
        """Ids of the two names that a parameter is called by: `outer` and `inner`."""

        def of(item: Item) -> int:
            category = problem.first_category + item.layer
            return self.item(problem.categorization, category, problem.names[item.layer][item.number])

        if isinstance(parameter, Abstract):
            inner = self.category(problem.categorization, problem.first_category + parameter.category)
            return of(parameter.item), inner
        return of(parameter.parent), of(parameter.child)

    def spaced(self, token: int) -> str:
        """The text of a token with the space that is before it within a text."""
        text = self.tokens[token]
        return text if text in _NO_SPACE_BEFORE else f" {text}"

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of tokens, special ones by their names.

        Raises:
            ValueError: if an id is not below `len(self)`.
        """
        for i in ids:
            if not 0 <= i < len(self):
                raise ValueError(f"ids must be in 0..{len(self) - 1}, got {i}")
        return "".join(map(self.spaced, ids)).removeprefix(" ")

    def encode(self, text: str) -> NDArray[np.int32]:
        """The tokens of a text; any white space between them is as good as none, or a space.

        Raises:
            ValueError: at the first word that the vocabulary does not have.
        """
        ids, at = [], 0
        while at < len(text):
            match = self._pattern.match(text, at)
            if match is None:
                raise ValueError(self._unknown(text, at))
            if match[1]:
                ids.append(self._ids[" ".join(match[1].split())])
            at = match.end()
        return np.array(ids, dtype=np.int32)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """White space, then the longest token; a word must not go on after it."""
        longest_first = sorted(self.tokens, key=len, reverse=True)
        alternatives = (
            re.escape(token).replace(r"\ ", r"\s+") + r"(?!\w)" * token[-1].isalnum() for token in longest_first
        )
        return re.compile(rf"\s*({'|'.join(alternatives)}|$)")

    def _unknown(self, text: str, at: int) -> str:
        at += len(text[at:]) - len(text[at:].lstrip())
        word = re.match(r"\w+|.", text[at:], re.DOTALL)
        assert word is not None
        if word[0].isdigit():
            return f"numbers must be below the modulus {self.modulus}, got {word[0]} at character {at}"
        around = text[max(0, at - _EXCERPT) : at + _EXCERPT]
        return (
            f"text must be of the {len(self)} tokens of this vocabulary, got {word[0]!r} at character {at}, in "
            f"{around!r}: names, modulus and dialect must be those of the world"
        )
