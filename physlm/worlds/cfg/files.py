"""Grammars as plain text: read, check with line numbers, write.

The format, one or more alternatives per line::

    # a comment
    name: toy                          (optional; the file's name otherwise)
    root: S                            (optional; the first parent otherwise)
    terminals: DT NN VBZ               (optional; all symbols without rules, in order of use, otherwise)
    S -> NP VP
    NP -> DT NN [0.75] | NN [0.25]     probabilities, as nltk writes them
    VP -> VBZ {30} | VBZ NP {12}       or counts, from which probabilities are computed
       | VBZ S {3}                     a line that begins with a bar goes on
    12 PP -> IN NP                     a count before the parent, as rule-count files have it

- Without numbers the rules of a symbol are equally likely. One symbol has either probabilities or counts.
- A symbol with unusual characters (bars, brackets, a leading quote or #) is put in quotes: `"''"`, `'#'`.
- The arrow may also be `-->` or `→`. Recursive grammars are welcome, empty right-hand sides are not.
- `unreachable: allowed` accepts symbols that the root cannot reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule

Production = tuple[str, tuple[str, ...]]
"""A rule without its probability: parent and children."""

_ARROWS = ("->", "-->", "→")
_NOTHING = "ε"
_BARE = r"""[^\s'"|\[\]{}#][^\s|\[\]{}]*"""
_TOKEN = re.compile(
    rf"""\s+ | (?P<comment>\#.*) | (?P<bar>\|) | (?P<probability>\[[^\]]*\]) | (?P<count>\{{[^}}]*\}})
    | "(?P<double>[^"]+)" | '(?P<single>[^']+)' | (?P<bare>{_BARE})""",
    re.VERBOSE,
)
_DIRECTIVE = re.compile(r"\s*(name|root|terminals|unreachable)\s*:(.*)")
_COUNT = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class _Token:
    kind: Literal["symbol", "arrow", "bar", "probability", "count"]
    text: str


@dataclass
class _Table:
    """What was read so far; `lines` says where."""

    source: str
    directives: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[Production | str, int] = field(default_factory=dict)
    weights: dict[Production, tuple[str, float]] = field(default_factory=dict)

    def error(self, line: int | None, message: str) -> GrammarError:
        return GrammarError(f"{self.source}{f', line {line}' if line else ''}: {message}")


def load(path: Path | str, *, name: str | None = None, minimum_count: int = 1, layered: bool = False) -> Grammar:
    """Read a grammar from a file in UTF-8; see `loads`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise GrammarError(f"{path.name}, line {line}: the file must be in UTF-8, got the byte {byte:#04x}") from error
    return loads(text, name=name, minimum_count=minimum_count, layered=layered, source=path.name)


def save(grammar: Grammar, path: Path | str) -> None:
    """Write a grammar to a file that `load` reads back exactly."""
    Path(path).write_text(dumps(grammar), encoding="utf-8")


def loads(
    text: str,
    *,
    name: str | None = None,
    minimum_count: int = 1,
    layered: bool = False,
    source: str = "grammar",
) -> Grammar:
    """Read a grammar from text in the format above.

    Args:
        text: the whole file.
        name: what to call the grammar, instead of what the text says.
        minimum_count: leave out rules with smaller counts, and then whatever cannot be used any more.
        layered: refuse grammars that are cyclic or skip levels, as `Parser` does, but with the line.
        source: what errors call the text.

    Example:
        >>> loads("S -> a S {1} | a {3}").rules_of["S"][1].probability
        0.75

    Raises:
        GrammarError: anything wrong, with source and line.
    """
    table = _Table(source)
    _read(table, text)
    if not table.weights:
        raise table.error(None, "there must be at least one rule such as 'S -> NP VP', got none")
    stem = source.rsplit(".", 1)[0] or source
    name = name or " ".join(table.directives.get("name", (stem,)))
    root = table.directives.get("root", (next(iter(table.weights))[0],))
    terminals = table.directives.get("terminals", ())
    try:
        if minimum_count > 1:
            grammar = from_counts(name, root[0], _counts(table), minimum_count=minimum_count)
            grammar = replace(grammar, terminals=tuple(t for t in terminals if t in grammar.terminals))
        else:
            grammar = Grammar(
                name=name,
                root=root[0],
                rules=_rules(table),
                terminals=terminals,
                allow_unreachable="unreachable" in table.directives,
            )
        if layered:
            _ = grammar.layers
        return grammar
    except GrammarError as error:
        if error.__cause__ is not None or str(error).startswith(f"{source}, line"):
            raise
        raise table.error(_line_of(table, error), str(error)) from error


def dumps(grammar: Grammar) -> str:
    """A grammar as text that `loads` reads back exactly; probabilities are left out where they are uniform."""
    lines = [f"name: {_quoted(grammar.name)}"] if grammar.name else []
    lines.append(f"root: {_quoted(grammar.root)}")
    lines.append(f"terminals: {' '.join(map(_quoted, grammar.terminals))}")
    if grammar.allow_unreachable:
        lines.append("unreachable: allowed")
    for parent, rules in grammar.rules_of.items():
        is_uniform = all(rule.probability == 1 / len(rules) for rule in rules)
        alternatives = [
            " ".join(map(_quoted, rule.children)) + ("" if is_uniform else f" [{rule.probability!r}]") for rule in rules
        ]
        lines.append(f"{_quoted(parent)} -> {' | '.join(alternatives)}")
    return "\n".join(lines) + "\n"


def from_counts(name: str, root: str, counts: Mapping[Production, int], *, minimum_count: int = 1) -> Grammar:
    """A grammar from rule counts, such as those of a treebank.

    Rules seen fewer than `minimum_count` times are left out; then rules with a symbol that lost all its own rules,
    and rules that the root cannot reach any more. Terminals are the symbols that never were a parent.

    Example:
        >>> from_counts("toy", "S", {("S", ("a",)): 3, ("S", ("a", "S")): 1}).rules[0].probability
        0.75

    Source: arXiv 2305.13673, appendix G, keeps the rules of a treebank seen at least 50 times.
    """
    for (parent, children), count in counts.items():
        if count < 1:
            raise GrammarError(f"the count of a rule must be at least 1, got {count} for '{Rule(parent, children, 1)}'")
    terminals = {child for _, children in counts for child in children} - {parent for parent, _ in counts}
    kept = {production: count for production, count in counts.items() if count >= minimum_count}
    while True:
        known = terminals | {parent for parent, _ in kept}
        fewer = {(p, children): count for (p, children), count in kept.items() if known.issuperset(children)}
        if len(fewer) == len(kept):
            break
        kept = fewer
    if not any(parent == root for parent, _ in kept):
        raise GrammarError(
            f"root {root!r} must keep a rule, got none counted {minimum_count} times; lower minimum_count"
        )
    totals: dict[str, int] = {}
    for (parent, _), count in kept.items():
        totals[parent] = totals.get(parent, 0) + count
    rules = tuple(Rule(parent, children, count / totals[parent]) for (parent, children), count in kept.items())
    if minimum_count == 1:
        return Grammar(name=name, root=root, rules=rules)
    whole = Grammar(name=name, root=root, rules=rules, allow_unreachable=True)
    reachable = whole.reachable
    return Grammar(name=name, root=root, rules=tuple(rule for rule in whole.rules if rule.parent in reachable))


def _read(table: _Table, text: str) -> None:
    parent: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        directive = _DIRECTIVE.fullmatch(line)
        tokens = list(_tokens(table, number, directive.group(2) if directive else line))
        if directive and not any(token.kind == "arrow" for token in tokens):
            _read_directive(table, number, directive.group(1), tokens)
        elif tokens:
            parent = _read_rules(table, number, tokens, parent)


def _tokens(table: _Table, number: int, line: str) -> Iterator[_Token]:
    position = 0
    while position < len(line):
        match = _TOKEN.match(line, position)
        if match is None:
            raise table.error(
                number,
                f"every symbol, bracket and quote must be complete, got {line[position:].strip()!r} at column "
                f"{position + 1}; put unusual symbols in quotes",
            )
        position = match.end()
        kind, text = match.lastgroup, str(match[match.lastgroup or 0])
        if kind in ("double", "single"):
            yield _Token("symbol", text)
        elif text == _NOTHING:
            raise table.error(
                number,
                f"right-hand sides must not be empty, got {_NOTHING}; list the shorter ones that it would make, or put "
                "it in quotes if it is a symbol",
            )
        elif kind == "bare":
            yield _Token("arrow" if text in _ARROWS else "symbol", text)
        elif kind == "bar":
            yield _Token("bar", text)
        elif kind == "probability" or kind == "count":
            yield _Token(kind, text[1:-1].strip())


def _read_directive(table: _Table, number: int, key: str, tokens: list[_Token]) -> None:
    values = tuple(token.text for token in tokens if token.kind == "symbol")
    if key in table.directives:
        raise table.error(number, f"'{key}:' must be given once, got it again after line {table.lines[f'{key}:']}")
    if not values or len(values) != len(tokens):
        raise table.error(number, f"'{key}:' must be followed by symbols alone, got {[token.text for token in tokens]}")
    if key in ("root", "unreachable") and len(values) > 1:
        raise table.error(number, f"'{key}:' must be followed by one word, got {' '.join(values)}")
    if key == "unreachable" and values != ("allowed",):
        raise table.error(number, f"'unreachable:' must be followed by 'allowed', got {' '.join(values)!r}")
    table.directives[key] = values
    table.lines[f"{key}:"] = number


def _read_rules(table: _Table, number: int, tokens: list[_Token], parent: str | None) -> str:
    """Add the rules of one line; returns their parent."""
    leading: _Token | None = None
    if tokens[0].kind == "bar":
        if parent is None:
            raise table.error(number, "a line that begins with a bar must follow a rule, got none before it")
        alternatives = _split(tokens[1:])
    else:
        arrows = [i for i, token in enumerate(tokens) if token.kind == "arrow"]
        left = tokens[: arrows[0]] if arrows else []
        if len(arrows) != 1 or not 1 <= len(left) <= 2 or any(token.kind != "symbol" for token in left):
            got = " ".join(token.text for token in tokens)
            raise table.error(
                number, f"a rule must read 'PARENT -> CHILD CHILD …' with one arrow between spaces, got '{got}'"
            )
        parent = left[-1].text
        leading = left[0] if len(left) == 2 else None
        alternatives = _split(tokens[arrows[0] + 1 :])
        if leading and (len(alternatives) > 1 or any(token.kind != "symbol" for token in alternatives[0])):
            raise table.error(
                number, f"a count before the parent must stand for one rule without further weights, got {leading.text}"
            )
    for alternative in alternatives:
        _add(table, number, parent, alternative, leading)
    return parent


def _split(tokens: list[_Token]) -> list[list[_Token]]:
    alternatives: list[list[_Token]] = [[]]
    for token in tokens:
        if token.kind == "bar":
            alternatives.append([])
        else:
            alternatives[-1].append(token)
    return alternatives


def _add(table: _Table, number: int, parent: str, alternative: list[_Token], leading: _Token | None) -> None:
    weight = _Token("count", leading.text) if leading else None
    if alternative and alternative[-1].kind in ("probability", "count"):
        *alternative, weight = alternative
    children = tuple(token.text for token in alternative)
    if not children or any(token.kind != "symbol" for token in alternative):
        got = f"'{parent} -> {' '.join(children)}'"
        raise table.error(number, f"an alternative must be one or more symbols and then at most one weight, got {got}")
    production = (parent, children)
    if production in table.lines:
        raise table.error(
            number,
            f"rule '{parent} → {' '.join(children)}' must be given once, but line {table.lines[production]} has it",
        )
    table.lines[production] = number
    table.weights[production] = _weight(table, number, weight)
    same = next(p for p in table.weights if p[0] == parent)
    if table.weights[same][0] != table.weights[production][0]:
        raise table.error(
            number,
            f"rules of {parent!r} must all have probabilities, or all counts, or neither, got "
            f"{_kind(table, production)} here and {_kind(table, same)} in line {table.lines[same]}",
        )


def _kind(table: _Table, production: Production) -> str:
    return {"probability": "a probability", "count": "a count", "": "no weight"}[table.weights[production][0]]


def _weight(table: _Table, number: int, weight: _Token | None) -> tuple[str, float]:
    if weight is None:
        return "", 1.0
    if weight.kind == "count":
        if not _COUNT.fullmatch(weight.text) or int(weight.text) < 1:
            raise table.error(number, f"a count must be a whole number from 1, got {weight.text!r}")
        return "count", int(weight.text)
    try:
        value = float(weight.text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise table.error(number, f"a probability must be a number in (0, 1], got {weight.text!r}")
    return "probability", value


def _rules(table: _Table) -> tuple[Rule, ...]:
    totals: dict[str, float] = {}
    for (parent, _), (_, value) in table.weights.items():
        totals[parent] = totals.get(parent, 0) + value
    return tuple(
        Rule(parent, children, value if kind == "probability" else value / totals[parent])
        for (parent, children), (kind, value) in table.weights.items()
    )


def _counts(table: _Table) -> dict[Production, int]:
    for production, (kind, _) in table.weights.items():
        if kind != "count":
            raise table.error(table.lines[production], "minimum_count needs a count for every rule, got none here")
    return {production: int(value) for production, (_, value) in table.weights.items()}


def _line_of(table: _Table, error: GrammarError) -> int | None:
    """The line to blame for a complaint about the whole grammar."""
    if error.rule is not None:
        return table.lines.get((error.rule.parent, error.rule.children))
    directive = "root:" if (error.symbol,) == table.directives.get("root") else "terminals:"
    return table.lines.get(directive)


def _quoted(symbol: str) -> str:
    if re.fullmatch(_BARE, symbol) and symbol not in (*_ARROWS, _NOTHING):
        return symbol
    for quote in ('"', "'"):
        if quote not in symbol and len(symbol.splitlines()) == 1:
            return f"{quote}{symbol}{quote}"
    raise ValueError(
        "a symbol or name must not hold both kinds of quotes, or a line break, to be written to a file, "
        f"got {symbol!r}; rename it"
    )
