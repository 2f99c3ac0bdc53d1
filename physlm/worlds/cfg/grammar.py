"""Probabilistic context-free grammars as data.

- `Grammar` is any PCFG without empty right-hand sides: recursive or not, any right-hand-side length. It is
  frozen, hashable and validated; every complaint is a `GrammarError` that names the offending rule or symbol.
- `Grammar.layers` is the array view (`Layers`) of a grammar in which every rule leads strictly to the next level,
  such as all grammars of the paper; it refuses a cyclic or level-skipping grammar and says which rule is at fault.
- Token ids are fixed here: BOS 0 (also the padding), terminal i is 1 + i, then EOS, then MASK.

Not here: sampling, inference and file formats. Source: arXiv 2305.13673, section 2 and appendix A.1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.layers import Layers
from physlm.worlds.cfg.rule import TOLERANCE, GrammarError, Rule

__all__ = ["Grammar", "GrammarError", "Layers", "Rule", "reroot"]


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A probabilistic context-free grammar.

    Symbols are strings as printed in the papers ("22", "7"). A symbol is a terminal when no rule has it as parent.

    Attributes:
        name: what to call it in reports.
        root: the symbol every derivation starts from.
        rules: all rules; those of one parent are numbered in this order, and are brought together.
        terminals: the alphabet in the order of its token ids; by default the order of first use in `rules`.
        allow_unreachable: accept symbols no derivation from the root contains (the paper's cfg3e1 has some).

    Example:
        >>> grammar = Grammar.of("tiny", "S", {"S": [["a", "a"], ["a", "b", "a"]]})
        >>> grammar.terminals, grammar.eos, grammar.vocab_size
        (('a', 'b'), 3, 5)

    Raises:
        GrammarError: unreachable or unproductive symbols, duplicate rules, probabilities that do not sum to one.
    """

    name: str
    root: str
    rules: tuple[Rule, ...]
    terminals: tuple[str, ...] = ()
    allow_unreachable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise GrammarError(f"grammar {self.name!r} must have at least one rule, got none")
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise GrammarError(f"rules of {self.name!r} must be of class Rule, got {rule!r}")
        if self.root not in self.rules_of:
            raise GrammarError(
                f"the root of {self.name} must be the parent of a rule, one of {' '.join(self.nonterminals)}, "
                f"got {self.root!r}",
                symbol=self.root,
            )
        # One order for one grammar: rules of a parent stand together, so that equal grammars compare equal.
        object.__setattr__(self, "rules", tuple(rule for rules in self.rules_of.values() for rule in rules))
        object.__setattr__(self, "terminals", self._checked_terminals())
        self._check_rules()
        self._check_productive()
        if not self.allow_unreachable:
            self._check_reachable()

    @classmethod
    def of(
        cls,
        name: str,
        root: str,
        rules: Mapping[str, Iterable[Sequence[str]]],
        *,
        terminals: Sequence[str] = (),
        allow_unreachable: bool = False,
    ) -> Grammar:
        """A grammar whose rules are chosen uniformly, from lists of right-hand sides per parent."""
        listed: dict[str, list[tuple[str, ...]]] = {}
        for parent, alternatives in rules.items():
            listed[parent] = []
            for children in alternatives:
                if isinstance(children, str):
                    raise GrammarError(f"children of {parent!r} must be a list of symbols, got the text {children!r}")
                listed[parent].append(tuple(children))
            if not listed[parent]:
                raise GrammarError(f"every parent must have at least one rule, got none for {parent!r}", symbol=parent)
        return cls(
            name=name,
            root=root,
            rules=tuple(
                Rule(parent, children, 1 / len(alternatives))
                for parent, alternatives in listed.items()
                for children in alternatives
            ),
            terminals=tuple(terminals),
            allow_unreachable=allow_unreachable,
        )

    def __str__(self) -> str:
        lines = [f"{self.name}, root {self.root}"]
        for parent, rules in self.rules_of.items():
            lines.append(f"  {parent} → " + " | ".join(" ".join(rule.children) for rule in rules))
        return "\n".join(lines)

    @cached_property
    def rules_of(self) -> Mapping[str, tuple[Rule, ...]]:
        """The rules of every nonterminal, nonterminals in the order of their first rule."""
        grouped: dict[str, list[Rule]] = {}
        for rule in self.rules:
            grouped.setdefault(rule.parent, []).append(rule)
        return {parent: tuple(rules) for parent, rules in grouped.items()}

    @cached_property
    def nonterminals(self) -> tuple[str, ...]:
        """Symbols with rules, in the order of their first rule."""
        return tuple(self.rules_of)

    @cached_property
    def reachable(self) -> frozenset[str]:
        """Symbols that occur in some derivation from the root."""
        return self.reachable_from(self.root)

    def reachable_from(self, symbol: str) -> frozenset[str]:
        """Symbols that occur in some derivation from `symbol`, itself included."""
        found, waiting = {symbol}, [symbol]
        while waiting:
            new = {child for rule in self.rules_of.get(waiting.pop(), ()) for child in rule.children} - found
            found |= new
            waiting.extend(new)
        return frozenset(found)

    @property
    def bos(self) -> int:
        """Token id that opens a sentence; it doubles as padding."""
        return 0

    @property
    def eos(self) -> int:
        """Token id that closes a sentence."""
        return len(self.terminals) + 1

    @property
    def mask(self) -> int:
        """Token id that hides a token from a masked language model."""
        return len(self.terminals) + 2

    @property
    def vocab_size(self) -> int:
        """Number of token ids: BOS, terminals, EOS, MASK."""
        return len(self.terminals) + 3

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {terminal: 1 + i for i, terminal in enumerate(self.terminals)}

    def encode(self, symbols: Iterable[str]) -> NDArray[np.int64]:
        """Token ids of terminals, without BOS and EOS.

        Raises:
            ValueError: a symbol that is not a terminal of this grammar.
        """
        ids = []
        for position, symbol in enumerate(symbols):
            if symbol not in self._ids:
                raise ValueError(
                    f"symbol {position} must be a terminal of {self.name} ({' '.join(self.terminals)}), got {symbol!r}"
                )
            ids.append(self._ids[symbol])
        return np.array(ids, dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> tuple[str, ...]:
        """Terminals of token ids; BOS, EOS and MASK are refused."""
        symbols = []
        for position, token in enumerate(tokens):
            if not 1 <= token <= len(self.terminals):
                raise ValueError(
                    f"token {position} must be a terminal of {self.name} (1 to {len(self.terminals)}), got {token}; "
                    "strip BOS, EOS and MASK first"
                )
            symbols.append(self.terminals[int(token) - 1])
        return tuple(symbols)

    @cached_property
    def layers(self) -> Layers:
        """The array view of a layered grammar.

        Raises:
            GrammarError: the grammar is cyclic or a rule skips a level; the message names the rule.
        """
        return Layers.of(self)

    def _checked_terminals(self) -> tuple[str, ...]:
        used = tuple(dict.fromkeys(s for rule in self.rules for s in rule.children if s not in self.rules_of))
        terminals = tuple(self.terminals) or used
        for symbol, count in Counter(terminals).items():
            if count > 1:
                raise GrammarError(
                    f"terminals of {self.name} must be distinct, got {symbol!r} {count} times", symbol=symbol
                )
            if symbol in self.rules_of:
                rule = self.rules_of[symbol][0]
                raise GrammarError(f"terminal {symbol!r} must have no rules, got '{rule}'", rule=rule, symbol=symbol)
        for symbol in used:
            if symbol not in terminals:
                rule = next(rule for rule in self.rules if symbol in rule.children)
                raise GrammarError(
                    f"symbol {symbol!r} of '{rule}' is unproductive: it has no rules and is not among the terminals "
                    f"{' '.join(terminals)}; add a rule for it or list it as a terminal",
                    rule=rule,
                    symbol=symbol,
                )
        return terminals

    def _check_rules(self) -> None:
        seen: set[tuple[str, tuple[str, ...]]] = set()
        for rule in self.rules:
            if (rule.parent, rule.children) in seen:
                raise GrammarError(
                    f"rules must be distinct, got '{rule}' twice; merge the two and add their probabilities", rule=rule
                )
            seen.add((rule.parent, rule.children))
        for parent, rules in self.rules_of.items():
            total = math.fsum(rule.probability for rule in rules)
            if abs(total - 1) > TOLERANCE:
                listed = "; ".join(f"'{rule}' {rule.probability:.6g}" for rule in rules)
                raise GrammarError(
                    f"probabilities of the rules of {parent!r} must sum to 1, got {total:.12g}: {listed}",
                    rule=rules[0],
                    symbol=parent,
                )

    def _check_productive(self) -> None:
        # Every nonterminal must derive some finite string; repeated passes are cheap at these sizes.
        productive = set(self.terminals)
        waiting = list(self.rules)
        while waiting:
            left = [rule for rule in waiting if not productive.issuperset(rule.children)]
            if len(left) == len(waiting):
                break
            productive.update(rule.parent for rule in waiting if productive.issuperset(rule.children))
            waiting = left
        for rule in waiting:
            if rule.parent not in productive:
                raise GrammarError(
                    f"symbol {rule.parent!r} is unproductive: no derivation from it ends, its rules being "
                    f"{'; '.join(map(str, self.rules_of[rule.parent]))}; add a rule that leads to terminals",
                    rule=rule,
                    symbol=rule.parent,
                )

    def _check_reachable(self) -> None:
        for symbol in (*self.nonterminals, *self.terminals):
            if symbol not in self.reachable:
                rule = self.rules_of[symbol][0] if symbol in self.rules_of else None
                consequence = f", so '{rule}' is never used" if rule else ""
                raise GrammarError(
                    f"symbol {symbol!r} is unreachable from the root {self.root!r}{consequence}; "
                    "remove it or pass allow_unreachable=True",
                    rule=rule,
                    symbol=symbol,
                )


def reroot(grammar: Grammar, symbol: str, *, name: str | None = None) -> Grammar:
    """The sub-grammar whose root is `symbol`: the same rules at lower depth.

    Symbols that `symbol` cannot reach are dropped; the order of everything else is kept.

    Example:
        >>> tiny = Grammar.of("tiny", "S", {"S": [["A", "B"]], "A": [["a", "b"]], "B": [["c", "a"]]})
        >>> reroot(tiny, "A").terminals
        ('a', 'b')

    Raises:
        ValueError: `symbol` is not a nonterminal.
    """
    if symbol not in grammar.rules_of:
        raise ValueError(
            f"the new root must be a nonterminal of {grammar.name} ({' '.join(grammar.nonterminals)}), got {symbol!r}"
        )
    kept = grammar.reachable_from(symbol)
    return Grammar(
        name=name or f"{grammar.name}@{symbol}",
        root=symbol,
        rules=tuple(rule for rule in grammar.rules if rule.parent in kept),
        terminals=tuple(terminal for terminal in grammar.terminals if terminal in kept),
    )
