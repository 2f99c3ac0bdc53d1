"""Grammars by name, shipped with the package.

- `names()` lists the nine published layered grammars: Part 1 (arXiv 2305.13673, appendix A.1), and cfg3j and cfg3k of
  Part 4.1 (arXiv 2512.17351). Their symbols are the published ids; rules are chosen uniformly.
- `grammar("english")` is a small recursive English-like grammar over part-of-speech tags, written for physlm and
  read through the same path as a user's own file (`files.load`). It stands in for the treebank grammar of appendix G,
  whose source is licensed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from physlm.worlds.cfg import files
from physlm.worlds.cfg.grammar import Grammar

ENGLISH = "english"
_SCHEMA = "physlm.cfg/1"
_NAMES = ("cfg3b", "cfg3i", "cfg3h", "cfg3g", "cfg3f", "cfg3e1", "cfg3e2", "cfg3j", "cfg3k")
_WITH_UNREACHABLE = ("cfg3e1",)


def names() -> tuple[str, ...]:
    """Names of the published layered grammars: the hard family from easy to hard, the wide ones, the deep ones."""
    return _NAMES


@lru_cache(maxsize=len(_NAMES) + 1)
def grammar(name: str) -> Grammar:
    """A grammar that comes with physlm.

    Example:
        >>> grammar("cfg3b").layers.sizes
        (1, 3, 3, 3, 3, 3, 3)

    Raises:
        ValueError: an unknown name.
    """
    folder = resources.files("physlm.worlds.cfg").joinpath("data")
    if name == ENGLISH:
        return files.loads(folder.joinpath(f"{name}.txt").read_text(encoding="utf-8"), source=f"{name}.txt")
    if name not in _NAMES:
        raise ValueError(
            f"name must be one of {', '.join((*_NAMES, ENGLISH))}, got {name!r}; read your own file with files.load"
        )
    table = json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    if table["schema"] != _SCHEMA:
        raise ValueError(f"schema of {name} must be {_SCHEMA!r}, got {table['schema']!r}")
    return Grammar.of(
        name,
        str(table["root"]),
        # Level by level from the root, so that symbols keep the order of the file's level lists.
        {
            str(symbol): [[str(child) for child in children] for children in table["rules"][str(symbol)]]
            for level in table["levels"][:-1]
            for symbol in level
        },
        terminals=[str(terminal) for terminal in table["terminals"]],
        allow_unreachable=name in _WITH_UNREACHABLE,
    )
