"""Solution templates: what is left of a solution if names and numbers are taken away, and the split by their hash.

A template is the English text of a solution with

- instance parameters named `Inst` and abstract ones `Abst`,
- letters renamed in the order of their first appearance: a, b, c, …,
- every number 0.

Problems with the same template differ in nothing but names and numbers, so training and test problems must not share
any. The hash is SHA-256 of the text after a space, as an integer modulo 23; below 17 is for training, the rest for
tests.

Specification, §3; Physics of Language Models 2.1, §2.4, footnote 11 and App. D.7.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Literal

from physlm.worlds.igsm.vocabulary import LETTERS

RESIDUES = 23
TRAINING_RESIDUES = 17
"""In the paper; the released code has 16."""

_DEFINITION = re.compile(r"Define (?P<outer>[^;]+)'s (?P<inner>[^;]+) as (?P<letter>[A-Za-z]);")
_LETTER = re.compile(r"\b[A-Za-z]\b")


def template(solution: str, categories: Collection[str]) -> str:
    """The template of a solution.

    Example:
        >>> template("Define Tug's Pine Box as m; so m = 4. Define Tug's Crate as q; so q = m = 4.", ["Crate"])
        'Define Inst as a; so a = 0. Define Abst as b; so b = a = 0.'

    Args:
        solution: its English text, without the answer.
        categories: names of categories, which tell abstract parameters.
    """

    def unnamed(match: re.Match[str]) -> str:
        return f"Define {'Abst' if match['inner'] in categories else 'Inst'} as {match['letter']};"

    text = re.sub(r"\b\d+\b", "0", _DEFINITION.sub(unnamed, solution))
    letters = dict.fromkeys(_LETTER.findall(text))
    renamed = dict(zip(letters, LETTERS, strict=False))
    return _LETTER.sub(lambda match: renamed[match[0]], text)


def side(template: str) -> Literal["train", "test"]:
    """Where problems with this template belong."""
    digest = hashlib.sha256(f" {template}".encode()).digest()
    return "train" if int.from_bytes(digest, "big") % RESIDUES < TRAINING_RESIDUES else "test"
