"""Any grammar in steps of two, as general parsing takes it.

A state is a symbol or the first two or more children of a rule; a step adds one child on the right.
"""

from __future__ import annotations

from dataclasses import dataclass

from physlm.worlds.cfg.grammar import Grammar


@dataclass(frozen=True, eq=False)
class Steps:
    """A grammar in steps of two: what a state is made of.

    Attributes:
        names: of the symbols; states beyond them are prefixes of two children or more.
        pairs: (left state, right symbol, result, weight), the weight being that of a rule where one is completed.
        units: (child, parent, weight) of the rules with one child.
        left_corners: (parent, first child, weight) of all rules.
        followers: (prefix, parent, next child, weight) of all rules and all their children but the first.
        states: number of states.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[int, int, int, float], ...]
    units: tuple[tuple[int, int, float], ...]
    left_corners: tuple[tuple[int, int, float], ...]
    followers: tuple[tuple[int, int, int, float], ...]
    states: int

    @classmethod
    def of(cls, grammar: Grammar) -> Steps:
        """The steps of a grammar."""
        names = (*grammar.terminals, *grammar.nonterminals)
        number = {name: i for i, name in enumerate(names)}
        prefixes: dict[tuple[int, ...], int] = {(i,): i for i in range(len(names))}
        pairs: dict[tuple[int, int, int], float] = {}
        units, left_corners, followers = [], [], []
        for rule in grammar.rules:
            parent, children = number[rule.parent], tuple(number[child] for child in rule.children)
            left_corners.append((parent, children[0], rule.probability))
            if len(children) == 1:
                units.append((children[0], parent, rule.probability))
            for m in range(1, len(children)):
                left = prefixes[children[:m]]
                followers.append((left, parent, children[m], rule.probability))
                if m == len(children) - 1:
                    pairs[left, children[m], parent] = rule.probability
                else:
                    pairs[left, children[m], prefixes.setdefault(children[: m + 1], len(prefixes))] = 1.0
        return cls(
            names,
            tuple((*key, weight) for key, weight in pairs.items()),
            tuple(units),
            tuple(left_corners),
            tuple(followers),
            len(prefixes),
        )
