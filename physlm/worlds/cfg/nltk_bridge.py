"""Grammars and trees in nltk's classes, both ways.

- `to_cfg`, `to_pcfg` and `from_nltk` convert grammars; probabilities survive exactly.
- `derivation_tree` makes an `nltk.Tree` of a derivation; `to_tree` and `from_tree` convert nested tuples.
- `tree_rules` reads a tree back as the rules it uses, and says which node is none; `tree_log2_probability` is the
  log-probability of that derivation.
- `count_rules` counts the rules of treebank trees, for `files.from_counts` (arXiv 2305.13673, appendix G).

nltk is imported when a function needs it, not before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from physlm.worlds.cfg.derivation import Derivation
from physlm.worlds.cfg.derivation import Tree as NestedTree
from physlm.worlds.cfg.files import Production
from physlm.worlds.cfg.grammar import Grammar, GrammarError, Rule

if TYPE_CHECKING:
    from nltk.grammar import CFG, PCFG, Nonterminal
    from nltk.tree import Tree

_TRACE = "-NONE-"
_TOP = "ROOT"


def to_pcfg(grammar: Grammar) -> PCFG:
    """The grammar as an `nltk.PCFG`.

    Example:
        >>> print(to_pcfg(Grammar.of("tiny", "S", {"S": [["a", "S"], ["b"]]})).productions()[0])
        S -> 'a' S [0.5]
    """
    from nltk.grammar import PCFG, ProbabilisticProduction

    productions = [
        ProbabilisticProduction(parent, children, prob=rule.probability)
        for rule, parent, children in _productions(grammar)
    ]
    return PCFG(_nonterminal(grammar.root), productions)


def to_cfg(grammar: Grammar) -> CFG:
    """The grammar as an `nltk.CFG`, without probabilities.

    Example:
        >>> print(to_cfg(Grammar.of("tiny", "S", {"S": [["a", "S"], ["b"]]})).productions()[0])
        S -> 'a' S
    """
    from nltk.grammar import CFG, Production

    productions = [Production(parent, children) for _, parent, children in _productions(grammar)]
    return CFG(_nonterminal(grammar.root), productions)


def from_nltk(
    grammar: CFG,
    *,
    name: str = "nltk",
    terminals: Sequence[str] = (),
    normalize: bool = False,
    allow_unreachable: bool = False,
) -> Grammar:
    """A grammar from an `nltk.CFG` (rules of a symbol equally likely) or `nltk.PCFG`.

    Args:
        grammar: a grammar of nltk without empty right-hand sides.
        name: what to call it.
        terminals: the alphabet in the order of token ids; by default the order of first use.
        normalize: divide by the sum per parent. nltk tolerates sums that are off by 1 %, we do not.
        allow_unreachable: accept symbols that the root cannot reach.

    Raises:
        GrammarError: whatever `Grammar` refuses, or a word with the same name as a nonterminal.
    """
    from nltk.grammar import CFG, PCFG, Nonterminal

    if not isinstance(grammar, CFG):
        raise TypeError(f"grammar must be an nltk.CFG or nltk.PCFG, got {grammar!r}; read text with files.loads")

    def text(symbol: Any) -> str:
        return str(symbol.symbol()) if isinstance(symbol, Nonterminal) else str(symbol)

    is_weighted = isinstance(grammar, PCFG)
    productions: list[tuple[str, tuple[str, ...], float]] = []
    words: dict[str, None] = {}
    for production in grammar.productions():
        weight = float(production.prob()) if is_weighted else 1.0
        productions.append((text(production.lhs()), tuple(map(text, production.rhs())), weight))
        words.update((str(symbol), None) for symbol in production.rhs() if not isinstance(symbol, Nonterminal))
    parents = Counter(parent for parent, _, _ in productions)
    for word in words:
        if word in parents:
            raise GrammarError(
                f"words and nonterminals must have different names, got {word!r} for both; rename one of them",
                symbol=word,
            )
    totals = {parent: math.fsum(weight for p, _, weight in productions if p == parent) for parent in parents}
    is_exact = is_weighted and not normalize
    return Grammar(
        name=name,
        root=text(grammar.start()),
        rules=tuple(
            Rule(parent, children, weight if is_exact else weight / totals[parent])
            for parent, children, weight in productions
        ),
        # Given explicitly, so that a nonterminal that has no productions is not taken for a word.
        terminals=tuple(terminals) or tuple(words),
        allow_unreachable=allow_unreachable,
    )


def to_tree(nested: NestedTree) -> Tree:
    """An `nltk.Tree` of the nested tuples (label, children) that derivations and parses give.

    Example:
        >>> print(to_tree(("S", (("A", ("a",)), ("B", ("b", "a"))))))
        (S (A a) (B b a))

    Raises:
        ValueError: a single terminal, which is no tree in nltk.
    """
    from nltk.tree import Tree

    def convert(node: NestedTree) -> Tree | str:
        return node if isinstance(node, str) else Tree(node[0], [convert(child) for child in node[1]])

    tree = convert(nested)
    if isinstance(tree, str):
        raise ValueError(f"a tree must have a nonterminal at its root, got the terminal {tree!r}")
    return tree


def from_tree(tree: Tree) -> NestedTree:
    """The nested tuples (label, children) of an `nltk.Tree`."""
    return str(tree.label()), tuple(child if isinstance(child, str) else from_tree(child) for child in tree)


def derivation_tree(derivation: Derivation) -> Tree:
    """A derivation as a tree.

    Example:
        >>> from physlm.worlds.cfg.named import grammar
        >>> from physlm.worlds.cfg.sampling import Sampler
        >>> derivation_tree(Sampler(grammar("cfg3b")).fixed("A")).label()
        '22'
    """
    return to_tree(derivation.tree())


def tree_rules(grammar: Grammar, tree: Tree) -> tuple[Rule, ...]:
    """The rules a tree uses, its root's first, then those of each child in turn.

    Raises:
        ValueError: the tree does not begin with the root, or a node is no rule of the grammar; the node is named.
    """
    if tree.label() != grammar.root:
        raise ValueError(f"the tree must begin with {grammar.root!r}, the root of {grammar.name}, got {tree.label()!r}")
    known = {(rule.parent, rule.children): rule for rule in grammar.rules}
    used: list[Rule] = []
    waiting: list[tuple[Tree | str, tuple[int, ...]]] = [(tree, ())]
    while waiting:
        node, position = waiting.pop()
        if isinstance(node, str):
            if node in grammar.rules_of:
                raise ValueError(
                    f"leaves must be terminals of {grammar.name}, got {node!r} at tree position {position}"
                )
            continue
        nodes: list[Tree | str] = list(node)
        children = tuple(map(_label, nodes))
        if (node.label(), children) not in known:
            raise ValueError(
                f"every node must be a rule of {grammar.name}, got '{node.label()} → {' '.join(children)}' at tree "
                f"position {position}"
            )
        used.append(known[node.label(), children])
        waiting.extend((nodes[i], (*position, i)) for i in reversed(range(len(nodes))))
    return tuple(used)


def tree_log2_probability(grammar: Grammar, tree: Tree) -> float:
    """Log-probability of a derivation in bits; that of its string is larger if the string has other parses."""
    return math.fsum(math.log2(rule.probability) for rule in tree_rules(grammar, tree))


def count_rules(
    trees: Iterable[Tree], *, words: bool = True, functions: bool = False, dropped: Collection[str] = (_TRACE,)
) -> dict[Production, int]:
    """How often each rule occurs in treebank trees; `files.from_counts` makes a grammar of the counts.

    Args:
        trees: trees such as those of `nltk.corpus.reader.BracketParseCorpusReader`.
        words: the leaves are words, to be left out, so that the tags above them are the terminals. With `False` the
            leaves themselves are the terminals.
        functions: keep what follows the first - or = of a label, as in NP-SBJ.
        dropped: labels of subtrees to leave out, and of nodes that become empty thereby.

    Returns:
        Counts in the order of first occurrence. A node whose only child has its own label is skipped.
    """
    counts: Counter[Production] = Counter()
    for tree in trees:
        _count(tree, words, functions, dropped, counts)
    return dict(counts)


def _count(
    node: Tree | str, words: bool, functions: bool, dropped: Collection[str], counts: Counter[Production]
) -> str | None:
    """Count the rules below a node; returns its label, or None if nothing of it is left."""
    if isinstance(node, str):
        return node
    if node.label() in dropped:
        return None
    label = node.label() or _TOP
    if not functions and not label.startswith("-"):
        label = label.replace("=", "-").split("-")[0]
    if words and all(isinstance(child, str) for child in node):
        return label
    found = (_count(child, words, functions, dropped, counts) for child in node)
    children = tuple(child for child in found if child is not None)
    if not children:
        return None
    if children != (label,):
        counts[label, children] += 1
    return label


def _nonterminal(symbol: str) -> Nonterminal:
    from nltk.grammar import Nonterminal

    return Nonterminal(symbol)


def _productions(grammar: Grammar) -> Iterator[tuple[Rule, Nonterminal, list[Nonterminal | str]]]:
    """Every rule with its parent and children as nltk has them: terminals are strings."""
    nonterminals = {symbol: _nonterminal(symbol) for symbol in grammar.nonterminals}
    for rule in grammar.rules:
        yield rule, nonterminals[rule.parent], [nonterminals.get(child, child) for child in rule.children]


def _label(node: Tree | str) -> str:
    return node if isinstance(node, str) else node.label()
