"""Exact inference for many sentences at once, as matrix products: the path for GPUs.

- The spans of a state are a matrix, start by end; putting two states side by side is a product of their matrices,
  and what may begin where is a row vector times such a matrix. Everything else is sums over rules.
- No span is skipped, so that a single CPU core is far slower than with `Parser`, which gives the same results; a GPU
  works on hundreds of sentences at once.
- Every token's weight is multiplied by the mean bits per token of the grammar, so that probabilities stay near 1.
  This holds for sentences of any usual length; where it does not, an error says so instead of a wrong number.

Specification, §2.2 and 2.3; parsing by matrix products: Valiant (1975).

Shapes: B sentences, N tokens of the longest, T terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physlm.worlds.cfg.automaton import EMPTY, build
from physlm.worlds.cfg.closed_forms import derivation_entropy, mean_length
from physlm.worlds.cfg.grammar import Grammar
from physlm.worlds.cfg.tables import Sentence, weights_of

_LARGEST, _SMALLEST = 2.0**900, 2.0**-900
_EXACT = 2.0**53
_MEMORY = 2**32


class _Batch(NamedTuple):
    """Sentences side by side.

    Attributes:
        weights: of every terminal at every position, scaled; zero after the end.
        bits: logarithm of the scale of the first k tokens.
        lengths: number of tokens.
    """

    weights: Float[Tensor, "B N T"]
    bits: Float[Tensor, "B N+1"]
    lengths: Int[Tensor, " B"]


class DenseParser:
    """Exact inference for one layered grammar in batches; results are as those of `Parser` and `Chart`.

    Example:
        >>> DenseParser(grammar("cfg3f"), device="cuda").next_tokens(sentences).shape
        torch.Size([256, 351, 4])

    Args:
        grammar: a layered grammar.
        device: where to compute; it must know float64.
        memory: bytes that a batch may take; more sentences than fit are taken in turn.
    """

    def __init__(self, grammar: Grammar, device: str | torch.device = "cpu", *, memory: int = _MEMORY) -> None:
        if memory < 1:
            raise ValueError(f"memory must be ≥ 1 byte, got {memory}")
        self.grammar, self.device, self.memory = grammar, torch.device(device), memory
        self.layers = grammar.layers
        self.automaton = build(self.layers)
        self.bits_per_token = derivation_entropy(grammar) / mean_length(grammar)

    def log2_probabilities(self, sentences: Sequence[Sentence]) -> Float[Tensor, " B"]:
        """Probability of each, in bits; -inf for strings outside the language."""
        return torch.cat([self._log2_probabilities(batch) for batch in self._batches(sentences, self.bits_per_token)])

    def accepts(self, sentences: Sequence[Sentence]) -> Bool[Tensor, " B"]:
        """Whether each is a sentence of the language."""
        return self._counts(sentences) > 0

    def derivations(self, sentences: Sequence[Sentence]) -> list[int]:
        """Number of derivations of each.

        Raises:
            OverflowError: if a number is too large to be exact; `Parser.derivations` counts without limit.
        """
        counts = self._counts(sentences).cpu()
        if (counts >= _EXACT).any():
            number = int(torch.argmax(counts))
            raise OverflowError(
                f"sentence {number} has more than 2**53 derivations, which is not exact here; use Parser.derivations"
            )
        return [int(count) for count in counts.tolist()]

    def next_tokens(self, sentences: Sequence[Sentence]) -> Float[Tensor, "B N+1 T+1"]:
        """Probability of every terminal, and last of the end, after every prefix of each.

        Rows are NaN after a token that no sentence has there, and beyond the end of a sentence shorter than others.
        """
        results = [self._next_tokens(batch) for batch in self._batches(sentences, self.bits_per_token)]
        longest = 1 + max(map(len, sentences))
        padded = [
            torch.nn.functional.pad(result, (0, 0, 0, longest - result.shape[1]), value=torch.nan) for result in results
        ]
        return torch.cat(padded)

    def _batches(self, sentences: Sequence[Sentence], bits_per_token: float) -> Iterator[_Batch]:
        if not sentences:
            raise ValueError("there must be at least one sentence, got none")
        name, terminals = self.grammar.name, self.automaton.terminals
        # Beyond the longest sentence of the language nothing is possible; a token more shows that there is one.
        cut = int(self.layers.longest[0][0]) + 1
        weights = [weights_of(sentence, terminals, name)[:cut] for sentence in sentences]
        longest = max(map(len, weights))
        each = max(1, self.memory // (8 * self.automaton.states * (longest + 1) ** 2))
        for i in range(0, len(weights), each):
            yield self._batch(weights[i : i + each], bits_per_token)

    def _batch(self, weights: list[np.ndarray], bits_per_token: float) -> _Batch:
        lengths = [len(rows) for rows in weights]
        scaled = np.zeros((len(weights), max(lengths), self.automaton.terminals))
        bits = np.zeros((len(weights), max(lengths) + 1))
        for i, rows in enumerate(weights):
            # The largest weight of every position becomes 2**bits_per_token.
            largest = rows.max(axis=1, initial=0.0)
            scale = np.where(largest > 0, np.log2(np.where(largest > 0, largest, 1.0)) - bits_per_token, 0.0)
            scaled[i, : len(rows)] = rows * np.exp2(-scale)[:, None]
            bits[i, 1 : len(rows) + 1] = np.cumsum(scale)
            bits[i, len(rows) + 1 :] = bits[i, len(rows)]
        return _Batch(
            torch.tensor(scaled, device=self.device),
            torch.tensor(bits, device=self.device),
            torch.tensor(lengths, device=self.device),
        )

    def _inside(self, weights: Float[Tensor, "B N T"], *, count: bool) -> list[Float[Tensor, "B N+1 N+1"]]:
        """Inside value of every state from every start to every end; with `count`, the number of derivations."""
        tables: list[Tensor] = []
        steps = list(self._steps())
        for state in range(self.automaton.states):
            if state < self.automaton.terminals:
                column = (weights[..., state] > 0).to(weights.dtype) if count else weights[..., state]
                tables.append(torch.diag_embed(column, offset=1))  # from k to k + 1
                continue
            total = torch.zeros_like(tables[0])
            for source, child, target, weight in steps:
                if target == state:
                    table = tables[child] if source == EMPTY else tables[source] @ tables[child]
                    total += table * (1.0 if count else weight)
            tables.append(total)
        return tables

    def _steps(self) -> Iterator[tuple[int, int, int, float]]:
        automaton = self.automaton
        children = np.repeat(np.arange(automaton.states), np.diff(automaton.first_step))
        parts = (automaton.step_source, children, automaton.step_target, automaton.step_weight)
        return zip(*(part.tolist() for part in parts), strict=True)

    def _whole(self, tables: list[Tensor], batch: _Batch) -> Float[Tensor, " B"]:
        """Inside value of the root from the first to the last token."""
        return tables[self.automaton.root][:, 0].gather(1, batch.lengths[:, None])[:, 0]

    def _counts(self, sentences: Sequence[Sentence]) -> Float[Tensor, " B"]:
        batches = self._batches(sentences, 0.0)
        return torch.cat([self._whole(self._inside(batch.weights, count=True), batch) for batch in batches])

    def _log2_probabilities(self, batch: _Batch) -> Float[Tensor, " B"]:
        inside = self._whole(self._inside(batch.weights, count=False), batch)
        self._check_precision(inside)
        if (inside == 0).any() and (self._whole(self._inside(batch.weights, count=True), batch)[inside == 0] > 0).any():
            self._refuse()  # not outside the language, but below float64
        return torch.log2(inside) + batch.bits.gather(1, batch.lengths[:, None])[:, 0]

    def _next_tokens(self, batch: _Batch) -> Float[Tensor, "B N+1 T+1"]:
        tables = self._inside(batch.weights, count=False)
        forward = self._forward(tables)
        terminals = torch.stack(forward[: self.automaton.terminals], dim=-1)
        ends = tables[self.automaton.root][:, 0]
        reached = (terminals[:, :-1] * batch.weights).sum(dim=-1)
        reached = torch.cat([torch.ones_like(terminals[:, :1, 0]), reached], dim=1)
        self._check_precision(reached)
        is_defined = (reached > 0).cumprod(dim=1).bool()  # beyond the end of a sentence all weights are zero
        joint = torch.cat([terminals, ends[..., None]], dim=-1)
        return torch.where(is_defined[..., None], joint / reached[..., None], torch.nan)

    def _forward(self, tables: list[Tensor]) -> list[Float[Tensor, "B N+1"]]:
        """Scaled probability that the tokens before k are there and a symbol begins at k, for every state and k."""
        automaton = self.automaton
        forward = [torch.zeros_like(tables[0][:, 0]) for _ in range(automaton.states)]
        forward[automaton.root][:, 0] = 1.0
        made_of = {target: (source, child) for source, child, target, _ in self._steps()}
        for level in range(len(self.layers) - 1):
            for i in range(automaton.first_opening[level], automaton.first_opening[level + 1]):
                child, weight = automaton.opening_child[i], automaton.opening_weight[i]
                forward[child] += weight * forward[automaton.opening_parent[i]]
            # What follows each prefix of each parent; the parts of a prefix come before it, or are children.
            after: dict[tuple[int, int], Tensor] = {}
            for group in range(automaton.first_group[level], automaton.first_group[level + 1]):
                source, parent = int(automaton.group_source[group]), int(automaton.group_parent[group])
                is_prefix = source >= automaton.first_state[level]
                shorter, last = made_of[source] if is_prefix else (EMPTY, source)
                start = after[shorter, parent] if is_prefix else forward[parent]
                after[source, parent] = (start[:, None] @ tables[last])[:, 0]
                for i in range(automaton.first_prediction[group], automaton.first_prediction[group + 1]):
                    child, weight = automaton.prediction_child[i], automaton.prediction_weight[i]
                    forward[child] += weight * after[source, parent]
        return forward

    def _check_precision(self, values: Tensor) -> None:
        positive = values[values > 0]
        if positive.numel() and not (positive.min() > _SMALLEST and positive.max() < _LARGEST):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise FloatingPointError(
            f"a sentence of {self.grammar.name} is too improbable or too probable for its length, so that float64 "
            "would not hold its probability here; use Parser, which has no such limit"
        )
