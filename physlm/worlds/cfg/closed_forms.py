"""What can be said about a language without sampling: lengths, use of symbols, entropy of derivations.

- Expected numbers of nodes solve one linear system (Chi, Computational Linguistics 1999), which also tells whether
  their mean size is finite. It serves layered and recursive grammars alike.
- The entropy of a derivation is the sum over nodes of the entropy of their rule choices: exact. The entropy of the
  *strings* is smaller by the mean ambiguity, which needs inference.
- The length distribution is exact for grammars without recursion, and exact up to a chosen length for others.

Entropies are in bits. Source: arXiv 2305.13673, section 2 and appendix A.1.

Legend: N nonterminals that the start symbol can reach.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule

_MOST_ROUNDS = 100_000


def expected_counts(grammar: Grammar, symbol: str | None = None) -> dict[str, float]:
    """Expected number of nodes of every reachable symbol in a derivation from `symbol` (by default the root).

    Example:
        >>> expected_counts(Grammar.of("tiny", "S", {"S": [["a", "a"], ["a", "b", "a"]]}))
        {'S': 1.0, 'a': 2.0, 'b': 0.5}

    Raises:
        GrammarError: derivations from `symbol` have no finite mean size.
    """
    start = _start(grammar, symbol)
    reachable = grammar.reachable_from(start)
    nonterminals = [parent for parent in grammar.nonterminals if parent in reachable]
    index = {parent: i for i, parent in enumerate(nonterminals)}
    children_per_parent = np.zeros((len(index), len(index)))
    terminals_per_parent = {terminal: np.zeros(len(index)) for terminal in grammar.terminals if terminal in reachable}
    for parent, i in index.items():
        for rule in grammar.rules_of[parent]:
            for child in rule.children:
                if child in index:
                    children_per_parent[i, index[child]] += rule.probability
                else:
                    terminals_per_parent[child][i] += rule.probability
    counts = _visits(grammar, children_per_parent, nonterminals)[index[start]]
    totals = {terminal: float(counts @ uses) for terminal, uses in terminals_per_parent.items()}
    return {**dict(zip(nonterminals, counts.tolist(), strict=True)), **totals}


def mean_length(grammar: Grammar, symbol: str | None = None) -> float:
    """Expected number of terminals of a string derived from `symbol` (by default the root)."""
    counts = expected_counts(grammar, symbol)
    return sum(counts.get(terminal, 0.0) for terminal in grammar.terminals)


def choice_entropies(grammar: Grammar) -> dict[str, float]:
    """Entropy in bits of the choice among the rules of every nonterminal."""
    return {parent: _entropy(rules) for parent, rules in grammar.rules_of.items()}


def derivation_entropy(grammar: Grammar, symbol: str | None = None) -> float:
    """Entropy in bits of a derivation from `symbol` (by default the root).

    Example:
        >>> derivation_entropy(Grammar.of("tiny", "S", {"S": [["A", "A"]], "A": [["a"], ["b"]]}))
        2.0
    """
    counts = expected_counts(grammar, symbol)
    return sum(counts.get(parent, 0.0) * entropy for parent, entropy in choice_entropies(grammar).items())


def entropy_by_level(grammar: Grammar) -> NDArray[np.float64]:
    """Bits that the choices at each level of a layered grammar add to a derivation, `[L - 1]` from the root."""
    counts, entropies = expected_counts(grammar), choice_entropies(grammar)
    return np.array(
        [sum(counts.get(symbol, 0.0) * entropies[symbol] for symbol in level) for level in grammar.layers.symbols[:-1]]
    )


def length_distribution(
    grammar: Grammar, symbol: str | None = None, *, longest: int | None = None
) -> NDArray[np.float64]:
    """Probability of every length of a string derived from `symbol` (by default the root).

    Args:
        grammar: any grammar.
        symbol: where derivations start.
        longest: greatest length to give, in tokens; needed for recursive grammars, whose strings have no bound.

    Returns:
        Probabilities of lengths 0, 1, 2, …, `[longest + 1]`; what is missing to 1 belongs to longer strings.
        Probabilities below 1e-308 are 0; `Layers.longest` knows the greatest length all the same.

    Example:
        >>> length_distribution(Grammar.of("tiny", "S", {"S": [["a", "a"], ["a", "b", "a"]]})).tolist()
        [0.0, 0.0, 0.5, 0.5]
    """
    start = _start(grammar, symbol)
    if longest is not None and longest < 1:
        raise ValueError(f"longest must be at least 1 token, got {longest}")
    order = _bottom_up(grammar, start)
    if order is None and longest is None:
        raise ValueError(f"longest must be given for the recursive {grammar.name}: its strings have no greatest length")
    lengths = {terminal: np.array([0.0, 1.0]) for terminal in grammar.terminals}
    if order is not None:
        for parent in order:
            lengths[parent] = _mixture(grammar.rules_of[parent], lengths, longest)
    else:
        _iterate(grammar, start, lengths, longest)
    result = lengths[start]
    return result if longest is None else np.pad(result, (0, longest + 1 - len(result)))


def length_quantile(distribution: NDArray[np.float64], quantile: float) -> int:
    """The least length that at least `quantile` of the strings do not exceed."""
    cumulative = np.cumsum(distribution)
    if not 0 < quantile <= cumulative[-1] + 1e-12:
        raise ValueError(
            f"quantile must be in (0, {cumulative[-1]:.6g}], the mass of the distribution, got {quantile}; "
            "raise longest to cover more"
        )
    return int(np.searchsorted(cumulative, quantile - 1e-12))


def _start(grammar: Grammar, symbol: str | None) -> str:
    start = grammar.root if symbol is None else symbol
    if start not in grammar.rules_of:
        raise ValueError(f"symbol must be a nonterminal of {grammar.name}, got {start!r}")
    return start


def _entropy(rules: tuple[Rule, ...]) -> float:
    probabilities = np.array([rule.probability for rule in rules])
    return float(-(probabilities * np.log2(probabilities)).sum()) + 0.0  # + 0.0 turns -0.0 into 0.0


def _visits(grammar: Grammar, children_per_parent: NDArray[np.float64], names: list[str]) -> NDArray[np.float64]:
    """Expected nodes of each nonterminal below each, `[N, N]`.

    The series of powers of a non-negative matrix converges exactly when `1 - matrix` has a non-negative inverse.
    """
    identity = np.eye(len(names))
    try:
        visits = np.linalg.solve(identity - children_per_parent, identity)
    except np.linalg.LinAlgError:
        visits = -identity
    negative = (visits < -1e-9).any(axis=1)
    if negative.any():
        culprit = names[int(np.argmax(negative))]
        rule = max(
            grammar.rules_of[culprit], key=lambda rule: rule.probability * (set(rule.children) & set(names) != set())
        )
        raise GrammarError(
            f"derivations of {grammar.name} must have a finite mean size, but those from {culprit!r} do not "
            f"(its likeliest rule with nonterminals is '{rule}'); give recursive rules a lower probability",
            rule=rule,
            symbol=culprit,
        )
    return np.maximum(visits, 0.0)


def _bottom_up(grammar: Grammar, start: str) -> list[str] | None:
    """Nonterminals below `start` so that children come first, or None if the grammar is recursive there."""
    reachable = grammar.reachable_from(start)
    waiting = [parent for parent in grammar.nonterminals if parent in reachable]
    done, order = set(grammar.terminals), []
    while waiting:
        ready = [s for s in waiting if all(done.issuperset(rule.children) for rule in grammar.rules_of[s])]
        if not ready:
            return None
        order.extend(ready)
        done.update(ready)
        waiting = [parent for parent in waiting if parent not in done]
    return order


def _mixture(
    rules: tuple[Rule, ...], lengths: Mapping[str, NDArray[np.float64]], longest: int | None
) -> NDArray[np.float64]:
    """Distribution of the length of a symbol with these rules, given those of the children."""
    parts = []
    for rule in rules:
        part = np.array([rule.probability])
        for child in rule.children:
            part = np.convolve(part, lengths[child])[: None if longest is None else longest + 1]
        parts.append(part)
    total = np.zeros(max(map(len, parts)))
    for part in parts:
        total[: len(part)] += part
    return total


def _iterate(grammar: Grammar, start: str, lengths: dict[str, NDArray[np.float64]], longest: int | None) -> None:
    """Fill in `lengths` of a recursive grammar: the least solution of its equations, by repeated substitution.

    Each round adds deeper derivations, all terms are positive, and the sums are bounded: it converges from below.
    """
    reachable = grammar.reachable_from(start)
    nonterminals = [parent for parent in reversed(grammar.nonterminals) if parent in reachable]
    lengths.update((parent, np.zeros(1)) for parent in nonterminals)
    for _ in range(_MOST_ROUNDS):
        change = 0.0
        for parent in nonterminals:
            new = _mixture(grammar.rules_of[parent], lengths, longest)
            old = np.pad(lengths[parent], (0, max(0, len(new) - len(lengths[parent]))))
            change = max(change, float(np.abs(np.pad(new, (0, len(old) - len(new))) - old).max()))
            lengths[parent] = new
        if change < 1e-16:
            return
    raise GrammarError(
        f"lengths of {grammar.name} must settle within {_MOST_ROUNDS} rounds; give recursive rules a lower probability"
    )
