"""Exact inference on any grammar: recursive, of any depth and right-hand-side length, with rules of one child.

- The same programs as for layered grammars, over all spans: inside probabilities from short spans to long ones, and
  from left to right the chance that each symbol begins at a position.
- Rules with one child can be chained without end, and so can rules that begin with their own parent. Both sums are
  geometric series of matrices, added up by solving a linear system once per grammar.
- The time grows with the cube of the length: made for treebank-like sentences of some tens of tokens.

Follows Jelinek and Lafferty (Computational Linguistics 17, 1991) and Stolcke (Computational Linguistics 21, 1995);
specification, §1.8. Everything logarithmic is in bits.

Shapes: N tokens, T terminals, S states (terminals, nonterminals, then prefixes of rules), K steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.ambiguity import best_tree, count_trees
from physlm.worlds.cfg.derivation import Tree
from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.nearest import Nearest
from physlm.worlds.cfg.nearest_general import nearest_in_general
from physlm.worlds.cfg.questions import BatchInference
from physlm.worlds.cfg.steps import Steps
from physlm.worlds.cfg.tables import Sentence, weights_of


class GeneralParser(BatchInference[int | float]):
    """Exact inference for any grammar.

    Example:
        >>> grammar = Grammar.of("balanced", "S", {"S": [["a", "S", "b"], ["a", "b"]]})
        >>> GeneralParser(grammar).chart(grammar.encode("aabb")).next_token[2]
        array([0.5, 0.5, 0. ])

    Args:
        grammar: any grammar.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.steps = Steps.of(grammar)
        self._root = self.steps.names.index(grammar.root)
        symbols = len(self.steps.names)
        chains, corners = np.zeros((2, symbols, symbols))
        for child, parent, weight in self.steps.units:
            chains[parent, child] += weight
        for parent, child, weight in self.steps.left_corners:
            corners[parent, child] += weight
        self._unit_closure = _sum_of_powers(chains)
        self._corner_closure = _sum_of_powers(corners)
        integers = np.array([pair[:3] for pair in self.steps.pairs], dtype=np.int64).reshape(-1, 3)
        self._left, self._right, self._result = integers.T
        self._weight = np.array([weight for *_, weight in self.steps.pairs])
        follows = np.array([follower[:3] for follower in self.steps.followers], dtype=np.int64).reshape(-1, 3)
        self._prefix, self._parent, self._next = follows.T
        self._chance = np.array([weight for *_, weight in self.steps.followers])

    def chart(self, sentence: Sentence) -> GeneralChart:
        """Everything about one sentence; see `Parser.chart`."""
        return GeneralChart(self, weights_of(sentence, len(self.grammar.terminals), self.grammar.name))

    def nearest(self, sentence: Sentence) -> Nearest | None:
        """The sentence of the language that differs from a string in the fewest tokens; `None` if none is as long."""
        weights = weights_of(sentence, len(self.grammar.terminals), self.grammar.name)
        return nearest_in_general(self.steps, weights > 0, self.grammar.root)

    def read(self, weights: NDArray[np.float64]) -> _Table:
        """Inside values and predictions, from left to right until a token is impossible."""
        length, terminals, symbols = len(weights), len(self.grammar.terminals), len(self.steps.names)
        inside = np.zeros((length + 1, length + 1, self.steps.states))
        forward, chance = np.zeros((length + 1, symbols)), np.zeros(length)
        begins = np.zeros(symbols)
        begins[self._root] = 1.0
        forward[0] = begins @ self._corner_closure
        for k in range(length):
            chance[k] = forward[k, :terminals] @ weights[k]
            if chance[k] == 0:
                return _Table(inside, forward, chance, k)
            end = k + 1
            for start in range(k, -1, -1):
                here = np.zeros(self.steps.states)
                if start == k:
                    here[:terminals] = weights[k] / chance[k]
                elif len(self._weight):
                    left = inside[start, start + 1 : end][:, self._left]
                    right = inside[start + 1 : end, end][:, self._right]
                    values = self._weight * np.einsum("ks,ks->s", left, right)
                    here = np.bincount(self._result, values, self.steps.states)
                here[:symbols] = self._unit_closure @ here[:symbols]
                inside[start, end] = here
            if len(self._chance):
                ended = np.einsum("is,is->s", forward[:end][:, self._parent], inside[:end, end][:, self._prefix])
                begins = np.bincount(self._next, self._chance * ended, symbols)
                forward[end] = begins @ self._corner_closure
        return _Table(inside, forward, chance, length)

    def ends(self, table: _Table) -> NDArray[np.float64]:
        """Scaled probability that the first k tokens are a sentence, `[read + 1]`."""
        return table.inside[0, : table.read + 1, self._root]


@dataclass(frozen=True, eq=False)
class _Table:
    """What is known of a sentence.

    Attributes:
        inside: scaled inside probability by start, end and state, `[N + 1, N + 1, S]`.
        forward: mean number of nodes of a symbol that begin at k, given the tokens before, `[N + 1, symbols]`.
        chance: of each token given those before, `[N]`.
        read: number of tokens read.
    """

    inside: NDArray[np.float64]
    forward: NDArray[np.float64]
    chance: NDArray[np.float64]
    read: int


class GeneralChart:
    """What `Chart` says about one sentence but for ancestors, boundaries and closings. Made by `GeneralParser.chart`.

    Attributes:
        parser: whose grammar it is.
        weights: of every terminal at every position, `[N, T]`.
        read: number of tokens that begin some sentence of the language.
    """

    def __init__(self, parser: GeneralParser, weights: NDArray[np.float64]) -> None:
        self.parser, self.weights = parser, weights
        self._table = parser.read(weights)
        self.read = self._table.read

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.weights)

    @property
    def is_sentence(self) -> bool:
        """Whether the language contains the string."""
        return self.read == len(self) and bool(self.parser.ends(self._table)[-1] > 0)

    @property
    def error(self) -> int | None:
        """Position of the first wrong token, N if only the end is wrong, `None` if nothing is."""
        return None if self.is_sentence else self.read

    @cached_property
    def derivations(self) -> int | float:
        """Number of derivations, exactly; infinite if rules with one child can go round in circles."""
        return count_trees(self.parser.steps, self.weights > 0, self.parser.grammar.root)

    @cached_property
    def best(self) -> tuple[Tree, float]:
        """The most probable derivation as nested tuples (symbol, children), and its probability in bits.

        Raises:
            ValueError: if the string is not a sentence of the language.
        """
        found = best_tree(self.parser.steps, self.weights, self.parser.grammar.root)
        if found is None:
            raise ValueError(
                f"only sentences of {self.parser.grammar.name} have derivations; this string leaves it at position "
                f"{self.error}"
            )
        return found

    @cached_property
    def log2_probability(self) -> float:
        """Probability of the sentence, in bits; -inf outside the language."""
        if not self.is_sentence:
            return -math.inf
        return float(self.prefix_log2_probabilities[-1] + np.log2(self.parser.ends(self._table)[-1]))

    @cached_property
    def prefix_log2_probabilities(self) -> NDArray[np.float64]:
        """Probability that a sentence begins with the first k tokens, in bits, `[N + 1]`; -inf where none does."""
        bits = np.full(len(self) + 1, -np.inf)
        bits[: self.read + 1] = np.cumsum([0.0, *np.log2(self._table.chance[: self.read])])
        return bits

    @cached_property
    def next_token(self) -> NDArray[np.float64]:
        """Probability of every terminal, and last of the end, after the first k tokens, `[N + 1, T + 1]`.

        Rows are NaN where nothing is defined. If derivations may go on forever, their share counts as going on.
        """
        result = np.full((len(self) + 1, self.weights.shape[1] + 1), np.nan)
        result[: self.read + 1, :-1] = self._table.forward[: self.read + 1, : self.weights.shape[1]]
        result[: self.read + 1, -1] = self.parser.ends(self._table)
        return result


def _sum_of_powers(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The identity plus all powers of a matrix of chances.

    The series converges in every valid grammar: from every symbol some chain of first children ends in a terminal.
    """
    closure = np.linalg.inv(np.eye(len(matrix)) - matrix)
    # What cannot be reached stays exactly impossible, whatever the rounding.
    reached = (matrix > 0) | np.eye(len(matrix), dtype=np.bool_)
    for _ in range(len(matrix).bit_length()):
        reached = (reached.astype(np.int64) @ reached.astype(np.int64)) > 0
    return np.where(reached, closure, 0.0)
