"""The compiled loops of parsing: reading tokens from left to right, and outside values from right to left.

- `extend` reads tokens. For every state that ends after the token it finds where the state can begin, by adding each
  finished symbol to what stands left of it, level by level from the terminals up; then which symbols may begin next.
  Only what the prefix has predicted is kept, about three spans per token on the paper's grammars.
- Every span carries two values. `inside` is the probability that the state gives the tokens of the span, divided by
  the probability of these tokens after what precedes them: scaled like this, no sentence is too long for float64.
  `second` is chosen by `mode`: the number of derivations, that number modulo a prime, or the scaled probability of
  the best derivation.
- Which spans there are is kept apart from their values, so that membership and counts are exact even where a
  probability underflows.

Compiled by numba when first called, for a few seconds; the result is kept on disk where that can be written.

Shapes: N tokens, S states, T terminals, K steps, O openings, G groups of predictions, P predictions, L levels. Spans
are stored by end and state, in the order in which they are found.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from physlm.compiling import compiled

COUNT = 0
"""Mode in which `second` is the number of derivations, rounded beyond 2**53."""
BEST = 1
"""Mode in which `second` is the scaled probability of the best derivation. A larger mode is a prime modulus."""


class Automaton(NamedTuple):
    """States and steps of a layered grammar, made by `automaton`; a tuple of arrays, which compiled code can take.

    It is defined here because what is kept on disk is renewed when this file changes, and only then.

    Attributes:
        first_symbol: first state of the symbols of every level, `[L]`; those of level l are consecutive.
        sizes: number of symbols of every level, `[L]`.
        first_state: first state of every level, prefixes included, `[L]`.
        first_step: the steps that add child c are `first_step[c] : first_step[c + 1]`, `[S + 1]`.
        step_source: state on the left, or -1 for none, `[K]`; likewise below.
        step_target: state that results.
        step_weight: probability of the rule where a step completes a symbol, else 1.
        step_rule: number of that rule within its level, else -1.
        first_opening: the openings of level l are `first_opening[l] : first_opening[l + 1]`, `[L]`.
        opening_parent: a symbol whose rules begin with ...
        opening_child: ... this child ...
        opening_weight: ... with this probability, `[O]`.
        first_group: the groups of level l are `first_group[l] : first_group[l + 1]`, `[L]`.
        group_source: a proper prefix (a symbol of the next level if it has one child) ...
        group_parent: ... of rules of this symbol, `[G]`.
        first_prediction: the predictions of group g are `first_prediction[g] : first_prediction[g + 1]`, `[G + 1]`.
        prediction_child: a symbol that follows the prefix ...
        prediction_weight: ... in rules of that probability, `[P]`.
    """

    first_symbol: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first_state: NDArray[np.int64]
    first_step: NDArray[np.int64]
    step_source: NDArray[np.int64]
    step_target: NDArray[np.int64]
    step_weight: NDArray[np.float64]
    step_rule: NDArray[np.int64]
    first_opening: NDArray[np.int64]
    opening_parent: NDArray[np.int64]
    opening_child: NDArray[np.int64]
    opening_weight: NDArray[np.float64]
    first_group: NDArray[np.int64]
    group_source: NDArray[np.int64]
    group_parent: NDArray[np.int64]
    first_prediction: NDArray[np.int64]
    prediction_child: NDArray[np.int64]
    prediction_weight: NDArray[np.float64]

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.first_step) - 1

    @property
    def root(self) -> int:
        """The state of the root."""
        return self.states - 1

    @property
    def terminals(self) -> int:
        """Number of terminals; they are the first states."""
        return int(self.sizes[-1])


class Progress(NamedTuple):
    """What is known at every position, one row per position; made by `Tables`.

    Attributes:
        begin: the spans of state s that end at k are those from `begin[k, s]` to `begin[k, s + 1]`, `[N + 1, S + 1]`.
        forward: probability that the state begins at k given the tokens before, `[N + 1, S]`; of a prefix, the
            chance of any of the symbols that have rules with it.
        may_begin: whether it is possible at all, `[N + 1, S]`.
        chance: probability of token k given those before, `[N]`; 0 if it underflows.
    """

    begin: NDArray[np.int64]
    forward: NDArray[np.float64]
    may_begin: NDArray[np.bool_]
    chance: NDArray[np.float64]


class Spans(NamedTuple):
    """All spans found, in one row each.

    Attributes:
        start: position of the first token.
        inside: scaled inside probability.
        second: see the module.
    """

    start: NDArray[np.int32]
    inside: NDArray[np.float64]
    second: NDArray[np.float64]


@compiled
def _predict(k: int, automaton: Automaton, progress: Progress, spans: Spans) -> None:
    """Which states may begin at k, from the root down; every span that ends at k is known."""
    begin, forward, may_begin = progress.begin[k], progress.forward[k], progress.may_begin[k]
    for level in range(len(automaton.sizes) - 1):
        for i in range(automaton.first_opening[level], automaton.first_opening[level + 1]):
            parent, child = automaton.opening_parent[i], automaton.opening_child[i]
            if may_begin[parent]:
                may_begin[child] = True
                forward[child] += automaton.opening_weight[i] * forward[parent]
        for group in range(automaton.first_group[level], automaton.first_group[level + 1]):
            source, parent = automaton.group_source[group], automaton.group_parent[group]
            if source >= automaton.first_state[level] and may_begin[parent]:  # a prefix of two children or more
                may_begin[source] = True
                forward[source] += forward[parent]
            possible, total = False, 0.0
            for span in range(begin[source], begin[source + 1]):
                start = spans.start[span]
                if progress.may_begin[start, parent]:
                    possible = True
                    total += spans.inside[span] * progress.forward[start, parent]
            if possible:
                for i in range(automaton.first_prediction[group], automaton.first_prediction[group + 1]):
                    child = automaton.prediction_child[i]
                    may_begin[child] = True
                    forward[child] += automaton.prediction_weight[i] * total


@compiled
def extend(
    automaton: Automaton,
    progress: Progress,
    spans: Spans,
    used: int,
    weights: NDArray[np.float64],
    first: int,
    mode: int,
) -> tuple[int, int, Spans]:
    """Read tokens after the first `first`, until one is impossible.

    Args:
        automaton: the grammar.
        progress: with room for all tokens; rows from `first` on (without it, if `first > 0`) must be zero.
        spans: of the tokens before, enlarged when they are full.
        used: how many spans there are.
        weights: probability (or any weight) of what was seen at each new position given each terminal, `[N, T]`.
        first: number of tokens read before.
        mode: what `second` is.

    Returns:
        Number of tokens read in all, number of spans, and the spans.
    """
    states, levels, terminals = len(automaton.first_step) - 1, len(automaton.sizes), automaton.sizes[-1]
    room = first + len(weights) + 1
    inside, second = np.empty((states, room)), np.empty((states, room))
    seen_at, seen = np.zeros((states, room), np.int32), np.empty((states, room), np.int32)
    counts = np.zeros(states, np.int64)
    span_start, span_inside, span_second = spans.start, spans.inside, spans.second
    k, is_predicted = first, first > 0 or progress.may_begin[0, states - 1]
    if not is_predicted:
        progress.forward[0, states - 1] = 1.0
        progress.may_begin[0, states - 1] = True
    while True:
        if not is_predicted:
            _predict(k, automaton, progress, Spans(span_start, span_inside, span_second))
        if k == room - 1:
            break
        chance, possible = 0.0, False
        for terminal in range(terminals):
            weight = weights[k - first, terminal]
            if weight > 0 and progress.may_begin[k, terminal]:
                possible = True
                chance += progress.forward[k, terminal] * weight
        if not possible:
            break
        progress.chance[k] = chance
        end, is_predicted = k + 1, False
        begin = progress.begin[end]
        begin[0] = used
        for level in range(levels - 1, -1, -1):
            if level == levels - 1:
                for terminal in range(terminals):
                    weight = weights[k - first, terminal]
                    if weight > 0:
                        inside[terminal, k] = weight / chance if chance > 0 else 0.0
                        second[terminal, k] = inside[terminal, k] if mode == BEST else 1.0
                        seen[terminal, 0] = k
                        counts[terminal] = 1
            else:
                child_0 = automaton.first_symbol[level + 1]
                for child in range(child_0, child_0 + automaton.sizes[level + 1]):
                    if begin[child] == begin[child + 1]:
                        continue
                    for step in range(automaton.first_step[child], automaton.first_step[child + 1]):
                        source, target = automaton.step_source[step], automaton.step_target[step]
                        weight, count = automaton.step_weight[step], counts[target]
                        for right in range(begin[child], begin[child + 1]):
                            middle = span_start[right]
                            right_inside, right_second = weight * span_inside[right], span_second[right]
                            if mode == BEST:
                                right_second *= weight
                            if source < 0:
                                left, last = 0, 1
                            else:
                                left, last = progress.begin[middle, source], progress.begin[middle, source + 1]
                            while left < last:
                                if source < 0:
                                    start, new_inside, new_second = middle, right_inside, right_second
                                else:
                                    start = span_start[left]
                                    new_inside = right_inside * span_inside[left]
                                    if mode > BEST:
                                        product = np.int64(right_second) * np.int64(span_second[left])
                                        new_second = float(product % mode)
                                    else:
                                        new_second = right_second * span_second[left]
                                left += 1
                                if seen_at[target, start] != end:
                                    seen_at[target, start] = end
                                    seen[target, count] = start
                                    count += 1
                                    inside[target, start] = new_inside
                                    second[target, start] = new_second
                                    continue
                                inside[target, start] += new_inside
                                if mode == BEST:
                                    second[target, start] = max(second[target, start], new_second)
                                else:
                                    second[target, start] += new_second
                                    if mode > BEST and second[target, start] >= mode:
                                        second[target, start] -= mode
                        counts[target] = count
            first_state = automaton.first_state[level]
            for state in range(first_state, automaton.first_symbol[level] + automaton.sizes[level]):
                if used + counts[state] > len(span_start):
                    more = len(span_start) + counts[state]
                    span_start = np.concatenate((span_start, np.empty(more, np.int32)))
                    span_inside = np.concatenate((span_inside, np.empty(more)))
                    span_second = np.concatenate((span_second, np.empty(more)))
                for i in range(counts[state]):
                    start = seen[state, i]
                    if progress.may_begin[start, state]:
                        span_start[used] = start
                        span_inside[used] = inside[state, start]
                        span_second[used] = second[state, start]
                        used += 1
                counts[state] = 0
                begin[state + 1] = used
        k = end
    return k, used, Spans(span_start, span_inside, span_second)


@compiled
def outside(automaton: Automaton, progress: Progress, spans: Spans, used: int, length: int) -> NDArray[np.float64]:
    """Of every span, the outside probability of its state, scaled so that times `inside` it is the posterior.

    Everything is in a sentence of `length` tokens. Right to left and from the root down, each step in reverse.
    """
    states, levels = len(automaton.first_step) - 1, len(automaton.sizes)
    result = np.zeros(used)
    above = np.zeros((states, length + 1))
    for span in range(progress.begin[length, states - 1], progress.begin[length, states]):
        result[span] = 1 / spans.inside[span]  # the root, from 0 to the end
    for end in range(length, 0, -1):
        begin = progress.begin[end]
        for level in range(levels - 1):
            state_0, state_1 = automaton.first_state[level], automaton.first_symbol[level] + automaton.sizes[level]
            for state in range(state_0, state_1):
                for span in range(begin[state], begin[state + 1]):
                    above[state, spans.start[span]] = result[span]
            child_0 = automaton.first_symbol[level + 1]
            for child in range(child_0, child_0 + automaton.sizes[level + 1]):
                for right in range(begin[child], begin[child + 1]):
                    middle, total = spans.start[right], 0.0
                    for step in range(automaton.first_step[child], automaton.first_step[child + 1]):
                        source, target = automaton.step_source[step], automaton.step_target[step]
                        weight = automaton.step_weight[step]
                        if source < 0:
                            total += weight * above[target, middle]
                        else:
                            for left in range(progress.begin[middle, source], progress.begin[middle, source + 1]):
                                value = weight * above[target, spans.start[left]]
                                total += value * spans.inside[left]
                                result[left] += value * spans.inside[right]
                    result[right] += total
            for state in range(state_0, state_1):
                for span in range(begin[state], begin[state + 1]):
                    above[state, spans.start[span]] = 0.0
    return result
