"""Is this a sentence of the language, and if not, where does it leave it?

- A recogniser of its own, that shares nothing with sampling or the fast parsers: it works on the rules as written.
- Without recursion: for every symbol and start, the possible ends as the bits of an integer; from those, top down,
  the positions at which every symbol may begin after everything before it has been read.
- With recursion: Earley's algorithm.

The first token off the grammar is the first at which no sentence of the language begins with what was read so far.
Specification, §2.2 ("fast membership") and §2.3 in the boolean semiring; Earley, CACM 13 (1970).
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Sequence
from operator import index
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from physlm.data.contract import Judgement
from physlm.worlds.cfg.grammar import Grammar

Meanings: TypeAlias = Sequence[Collection[str]]
"""The terminals that each token can stand for."""


class Judge:
    """Judges sentences of one grammar.

    Example:
        >>> Judge(grammar("cfg3b")).judge([1, 3]).reason
        'token 1 must be 2 after what precedes it, got 3'

    Args:
        grammar: any grammar.
        membership: in an implicit world, which observable belongs to which terminal, bool `[T, V]`.
    """

    def __init__(self, grammar: Grammar, membership: NDArray[np.bool_] | None = None) -> None:
        self._grammar = grammar
        terminals = grammar.terminals
        if membership is None:
            self._meanings = [frozenset([terminal]) for terminal in terminals]
        else:
            self._meanings = [
                frozenset(terminal for terminal, is_member in zip(terminals, column, strict=True) if is_member)
                for column in membership.T
            ]
        self._order = _parents_first(grammar)

    def judge(self, tokens: Sequence[int] | NDArray[np.integer], *, skip: int = 0) -> Judgement:
        """Judge one sentence.

        Args:
            tokens: tokens counted from 1, without BOS and EOS.
            skip: how many tokens were cut off before them; positions are counted from there.

        Returns:
            For a sentence that stops too early, the position after its last token.

        Raises:
            TypeError: if the tokens are no flat list of whole numbers.
        """
        numbers = as_integers(tokens)
        meanings = [self._meanings[n - 1] if 1 <= n <= len(self._meanings) else frozenset[str]() for n in numbers]
        find = _earley if self._order is None else _without_recursion
        wrong, possible, is_sentence = find(self._grammar, self._order or (), meanings)
        if is_sentence:
            return Judgement(True)
        names = [terminal for terminal in self._grammar.terminals if terminal in possible]
        allowed = " or ".join(names) if names else "the end of the sentence"
        if wrong == len(numbers):
            reason = f"the sentence stops after {wrong} tokens, but must go on with {allowed}"
        elif not 1 <= numbers[wrong] <= len(self._meanings):
            reason = f"token {wrong + skip} must be in 1..{len(self._meanings)}, got {numbers[wrong]}"
        elif not meanings[wrong]:
            reason = f"token {wrong + skip} must be an observable of some terminal, got {numbers[wrong]}"
        else:
            got = " or ".join(sorted(meanings[wrong]))
            reason = f"token {wrong + skip} must be {allowed} after what precedes it, got {got}"
        return Judgement(False, wrong + skip, reason)


def as_integers(tokens: Sequence[int] | NDArray[np.integer]) -> list[int]:
    """Tokens as plain integers.

    Raises:
        TypeError: anything but a flat list of whole numbers; they are not rounded.
    """
    try:
        return [index(token) for token in tokens]
    except TypeError:
        message = f"tokens must be a flat list of token ids, got {reprlib.repr(tokens)}"
        raise TypeError(message) from None


def _parents_first(grammar: Grammar) -> tuple[str, ...] | None:
    """Symbols below the root, each after all its parents, or `None` if some symbol is below itself."""
    done: list[str] = []
    state: dict[str, bool] = {grammar.root: False}  # whether all below is done
    stack = [grammar.root]
    while stack:
        symbol = stack[-1]
        children = {child for rule in grammar.rules_of.get(symbol, ()) for child in rule.children}
        if any(state.get(child) is False for child in children):
            return None
        waiting = next((child for child in children if child not in state), None)
        if waiting is None:
            state[symbol] = True
            done.append(stack.pop())
        else:
            state[waiting] = False
            stack.append(waiting)
    return tuple(reversed(done))


def _follow(starts: int, ends: Sequence[int]) -> int:
    """Union of `ends[k]` over the set bits `k` of `starts`."""
    union = 0
    while starts:
        lowest = starts & -starts
        union |= ends[lowest.bit_length() - 1]
        starts ^= lowest
    return union


def _without_recursion(grammar: Grammar, order: Sequence[str], meanings: Meanings) -> tuple[int, set[str], bool]:
    """First wrong position, terminals possible there, and whether this is a sentence."""
    count = len(meanings)
    ends: dict[str, list[int]] = {}
    for symbol in reversed(order):
        if symbol not in grammar.rules_of:
            ends[symbol] = [2 << k if symbol in meaning else 0 for k, meaning in enumerate(meanings)] + [0]
            continue
        ends[symbol] = [0] * (count + 1)
        for rule in grammar.rules_of[symbol]:
            first, *others = (ends[child] for child in rule.children)
            for start, reached in enumerate(first):
                for other in others:
                    reached = _follow(reached, other)
                ends[symbol][start] |= reached
    begins = dict.fromkeys(order, 0)
    begins[grammar.root] = 1
    for symbol in order:
        for rule in grammar.rules_of.get(symbol, ()):
            at = begins[symbol]
            for child in rule.children:
                begins[child] |= at
                at = _follow(at, ends[child])
    is_wrong = (not any(begins.get(t, 0) >> k & 1 for t in meaning) for k, meaning in enumerate(meanings))
    wrong = next((k for k, wrong_here in enumerate(is_wrong) if wrong_here), count)
    possible = {terminal for terminal in grammar.terminals if begins.get(terminal, 0) >> wrong & 1}
    return wrong, possible, bool(ends[grammar.root][0] >> count & 1)


def _earley(grammar: Grammar, _order: Sequence[str], meanings: Meanings) -> tuple[int, set[str], bool]:
    """As `_without_recursion`, for any grammar."""
    # An item is (parent, children, how many of them are read, where the parent began).
    current = {(grammar.root, rule.children, 0, 0) for rule in grammar.rules_of[grammar.root]}
    waiting: list[dict[str, list[tuple[str, tuple[str, ...], int, int]]]] = []
    for position in range(len(meanings) + 1):
        agenda, seen, following = list(current), set(current), set()
        waits: dict[str, list[tuple[str, tuple[str, ...], int, int]]] = {}
        waiting.append(waits)
        possible: set[str] = set()
        while agenda:
            parent, children, read, began = agenda.pop()
            new = []
            if read == len(children):
                new = [(p, c, r + 1, b) for p, c, r, b in waiting[began].get(parent, ())]
            elif (wanted := children[read]) in grammar.rules_of:
                # Nothing is empty, so whatever waits here is completed at a later position.
                waits.setdefault(wanted, []).append((parent, children, read, began))
                new = [(wanted, rule.children, 0, position) for rule in grammar.rules_of[wanted]]
            else:
                possible.add(wanted)
                if position < len(meanings) and wanted in meanings[position]:
                    following.add((parent, children, read + 1, began))
            fresh = [item for item in new if item not in seen]
            seen.update(fresh)
            agenda += fresh
        if position == len(meanings):
            is_sentence = any(p == grammar.root and r == len(c) and b == 0 for p, c, r, b in seen)
            return position, possible, is_sentence
        if not following:
            return position, possible, False
        current = following
    raise AssertionError("the last position returns")
