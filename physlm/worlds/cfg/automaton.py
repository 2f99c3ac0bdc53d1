"""A layered grammar laid out for left-to-right parsing: flat arrays that compiled loops can walk.

- A *state* is something that spans can be found for: a symbol, or the first two or more children of a rule (a dotted
  rule with only its left part, shared by all rules of the level that begin alike).
- States are numbered from the terminals upwards, so that whatever a state is made of has a smaller number: the
  terminals, then level by level the prefixes (short ones first) and the symbols; the root is the last state.
- A *step* adds one child to what stands left of it: (source, child) → target. The source -1 is the empty prefix.
- A *prediction* says which symbols may begin where a part of a parent has just ended.

Follows the layered inside and prefix programs of Physics of Language Models, part 1; specification, §2.2–2.3. That
only what the prefix predicts is completed is Earley's idea (1970), the probabilities are Stolcke's (1995).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physlm.worlds.cfg.layers import Layers

if TYPE_CHECKING:
    from physlm.worlds.cfg.kernels import Automaton

EMPTY = -1
"""The source of a step that starts a rule."""


def build(layers: Layers) -> Automaton:
    """The automaton of a layered grammar."""
    levels = len(layers)
    rules = [_rules(layers, level) for level in range(levels - 1)]
    first_symbol, first_state = [0] * levels, [0] * levels
    prefixes: list[dict[tuple[int, ...], int]] = [{} for _ in rules]
    states = layers.sizes[-1]
    for level in range(levels - 2, -1, -1):
        first_state[level] = states
        inner = {children[:m] for _, children, _ in rules[level] for m in range(2, len(children))}
        for prefix in sorted(inner, key=lambda prefix: (len(prefix), prefix)):
            prefixes[level][prefix] = states
            states += 1
        first_symbol[level] = states
        states += layers.sizes[level]

    steps: dict[tuple[int, int, int], tuple[float, int]] = {}
    openings: list[dict[tuple[int, int], float]] = [{} for _ in rules]
    groups: list[dict[tuple[int, int], dict[int, float]]] = [{} for _ in rules]
    for level, of_level in enumerate(rules):
        below = first_symbol[level + 1]

        def state_of(prefix: tuple[int, ...], level: int = level, below: int = below) -> int:
            if len(prefix) < 2:
                return below + prefix[0] if prefix else EMPTY
            return prefixes[level][prefix]

        for number, (parent, children, weight) in enumerate(of_level):
            symbol = first_symbol[level] + parent
            for m, child in enumerate(children):
                source, state = state_of(children[:m]), below + child
                if m == len(children) - 1:
                    steps[state, source, symbol] = (weight, number)
                elif m > 0:
                    steps[state, source, state_of(children[: m + 1])] = (1.0, -1)
                if m == 0:
                    openings[level][symbol, state] = openings[level].get((symbol, state), 0.0) + weight
                else:
                    followers = groups[level].setdefault((source, symbol), {})
                    followers[state] = followers.get(state, 0.0) + weight

    return _flatten(
        np.array(first_symbol), np.array(layers.sizes), np.array(first_state), states, steps, openings, groups
    )


def _rules(layers: Layers, level: int) -> list[tuple[int, tuple[int, ...], float]]:
    """Parent, children and probability of every rule of a level."""
    parts = (layers.parents, layers.children, layers.lengths, layers.probabilities)
    rows = zip(*(part[level].tolist() for part in parts), strict=True)
    return [(parent, tuple(children[:length]), weight) for parent, children, length, weight in rows]


def _flatten(
    first_symbol: NDArray[np.int64],
    sizes: NDArray[np.int64],
    first_state: NDArray[np.int64],
    states: int,
    steps: dict[tuple[int, int, int], tuple[float, int]],
    openings: list[dict[tuple[int, int], float]],
    groups: list[dict[tuple[int, int], dict[int, float]]],
) -> Automaton:
    from physlm.worlds.cfg.kernels import Automaton  # loads numba

    ordered = sorted(steps)
    child, source, target = np.array(ordered, dtype=np.int64).reshape(-1, 3).T.copy()
    opened = [(*pair, weight) for level in openings for pair, weight in sorted(level.items())]
    grouped = [(*pair, followers) for level in groups for pair, followers in sorted(level.items())]
    predicted = [item for *_, followers in grouped for item in sorted(followers.items())]

    def integers(values: list[int]) -> NDArray[np.int64]:
        return np.array(values, dtype=np.int64)

    def floats(values: list[float]) -> NDArray[np.float64]:
        return np.array(values, dtype=np.float64)

    def offsets(counts: list[int]) -> NDArray[np.int64]:
        return np.cumsum([0, *counts], dtype=np.int64)

    return Automaton(
        first_symbol=first_symbol,
        sizes=sizes,
        first_state=first_state,
        first_step=np.searchsorted(child, np.arange(states + 1)).astype(np.int64),
        step_source=source,
        step_target=target,
        step_weight=floats([steps[key][0] for key in ordered]),
        step_rule=integers([steps[key][1] for key in ordered]),
        first_opening=offsets([len(level) for level in openings]),
        opening_parent=integers([parent for parent, _, _ in opened]),
        opening_child=integers([child for _, child, _ in opened]),
        opening_weight=floats([weight for *_, weight in opened]),
        first_group=offsets([len(level) for level in groups]),
        group_source=integers([source for source, _, _ in grouped]),
        group_parent=integers([parent for _, parent, _ in grouped]),
        first_prediction=offsets([len(followers) for *_, followers in grouped]),
        prediction_child=integers([child for child, _ in predicted]),
        prediction_weight=floats([weight for _, weight in predicted]),
    )
