"""What of the tree of a sentence can be read off hidden states, and whether the model uses it.

- Sentences are shown alone, `BOS sentence EOS`, and read at every token of the sentence. Labels are marks of the world.
- *Local* read-out: a linear probe on the state of one token (the diagonal mask of the paper). It is asked for the
  ancestor's symbol at ends (the last tokens of constituents of the level), for the same elsewhere, each by a probe of
  its own, and whether the token is an end.
- *Full* read-out: linear in the states of the whole sentence, mixed by attention to positions alone.
- *Exact reader*: says what is most probable given all that the grammar knows, of an end from the tokens so far, of any
  token from the whole sentence; no reader is right more often.
- *Ablation*: at the ends of a level, the directions by which the local probe tells its symbols apart are put to their
  mean; the control are as many random directions.

Levels are numbered as in the paper: 1 is the root, L the terminals; probed are 2 to L - 1.

Source: Physics of Language Models 1, §4.1, eq. (4.2) and (4.3), Fig. 5 and 7, App. C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments._predictions import divergence
from physlm.data.contract import IntArray
from physlm.data.streams import IGNORE
from physlm.models.transformer import Transformer
from physlm.probing.controls import evaluate, evaluate_states
from physlm.probing.heads import ProbeTraining, labels_at
from physlm.probing.inputs import BoolArray, Inputs, select
from physlm.probing.interventions import ablation
from physlm.probing.linear import LinearProbes
from physlm.probing.position_attention import PositionAttentionProbes, Sentences
from physlm.probing.probes import Probing
from physlm.probing.results import EMBEDDING, MAJORITY, SHUFFLED, UNTRAINED, ProbeResult
from physlm.probing.states import read_states, residual_layers
from physlm.randomness import Key
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.marks import Role
from physlm.worlds.cfg.world import CFGWorld

_TYPE_TOKENS = 5
"""The control task labels the last so many tokens: single ones are too few to be memorised or not."""
_BALANCED = (MAJORITY, UNTRAINED, EMBEDDING, SHUFFLED)

Labels = dict[str, IntArray]


def inner_levels(world: CFGWorld) -> tuple[int, ...]:
    """Levels between the root and the terminals, from 2."""
    return tuple(range(2, len(world.grammar.layers)))


def tokens_of(world: CFGWorld, numbers: IntArray) -> Inputs:
    """Every token of test sentences, each between BOS and EOS."""
    samples = world.render("test", numbers)
    closed = select(samples, np.ones(len(samples.tokens), dtype=np.bool_), after=[world.eos])
    return Inputs.where(closed, closed.marks["role"] == Role.TOKEN)


def last_tokens(tokens: Inputs, count: int = _TYPE_TOKENS) -> IntArray:
    """A number for the last tokens up to each place, `[N]`; before the sentence there is nothing."""
    there = [
        np.where(tokens.positions >= back, tokens.samples.tokens[tokens.places - back], 0) for back in range(count)
    ]
    return np.unique(np.stack(there), axis=1, return_inverse=True)[1]


def symbols(tokens: Inputs, levels: Sequence[int]) -> Labels:
    """The ancestor's symbol at every token, by level."""
    return {str(level): tokens.mark(f"symbol_{level}") for level in levels}


def ends(tokens: Inputs, levels: Sequence[int]) -> Labels:
    """Whether every token ends a constituent, by level."""
    return {str(level): tokens.mark(f"end_{level}") for level in levels}


def symbols_where(tokens: Inputs, levels: Sequence[int], *, at_ends: bool) -> Labels:
    """The ancestor's symbol at ends of its level only, or everywhere else only."""
    is_end = ends(tokens, levels)
    return {
        name: np.where((is_end[name] == 1) == at_ends, values, IGNORE)
        for name, values in symbols(tokens, levels).items()
    }


def _joined(**kinds: Labels) -> Labels:
    return {f"{kind}/{level}": values for kind, labels in kinds.items() for level, values in labels.items()}


def local_readout(
    model: Transformer, untrained: Transformer, tokens: Inputs, levels: Sequence[int], training: ProbeTraining, key: Key
) -> dict[str, ProbeResult]:
    """Local read-outs of all layers: "ends/2" the symbol at ends of level 2, "elsewhere/2", "boundary/2"."""
    labels = _joined(
        ends=symbols_where(tokens, levels, at_ends=True),
        elsewhere=symbols_where(tokens, levels, at_ends=False),
        boundary=ends(tokens, levels),
    )
    return evaluate_states(
        read_states(model, tokens),
        labels,
        entities=tokens.documents,
        types=last_tokens(tokens),
        untrained=read_states(untrained, tokens),
        training=training,
        key=key,
    )


def full_readout(
    model: Transformer,
    untrained: Transformer,
    tokens: Inputs,
    levels: Sequence[int],
    training: ProbeTraining,
    *,
    heads: int,
    head_width: int,
    portions: Sequence[float],
    key: Key,
) -> dict[str, ProbeResult]:
    """Full read-outs of the last layer: "ancestors/2" the symbol of level 2 above every token, "boundary/2"."""
    first, *_, last = residual_layers(model.config)
    longest = int(tokens.positions.max())

    def probing(reader: Transformer, layer: str) -> Probing[Sentences]:
        return Probing(
            lambda: PositionAttentionProbes(
                heads=heads, head_width=head_width, training=training, context=longest, key=key.child("probe")
            ),
            Sentences.of(tokens, read_states(reader, tokens, [layer])),
        )

    return evaluate(
        probing(model, last),
        _joined(ancestors=symbols(tokens, levels), boundary=ends(tokens, levels)),
        entities=tokens.documents,
        types=last_tokens(tokens),
        untrained=probing(untrained, last),
        embedding=probing(model, first),
        portions=portions,
        key=key,
    )


def exact_reader(
    world: CFGWorld, tokens: Inputs, levels: Sequence[int], documents: IntArray
) -> dict[str, dict[str, BoolArray]]:
    """Whether the exact reader is right at every token of some documents, by question and level, `[N]`.

    It answers "ends" and "boundary_so_far" from the tokens so far, "ancestors" and "boundary" from the sentence.
    """
    questions = ("ends", "boundary_so_far", "ancestors", "boundary")
    right = {name: {str(level): np.zeros(len(tokens), dtype=np.bool_) for level in levels} for name in questions}
    symbol, is_end, parser = symbols(tokens, levels), ends(tokens, levels), Parser(world.grammar)
    for document in documents:
        rows = slice(*np.searchsorted(tokens.documents, [document, document + 1]))
        chart = parser.chart(tokens.tokens[rows])
        for level in levels:
            name, closings = str(level), chart.closings(level - 1)[1:]
            truth, closes = symbol[name][rows], is_end[name][rows] == 1
            right["ends"][name][rows] = closings.argmax(axis=1) == truth
            right["boundary_so_far"][name][rows] = (closings.sum(axis=1) > 0.5) == closes
            right["ancestors"][name][rows] = chart.ancestors(level - 1).argmax(axis=1) == truth
            right["boundary"][name][rows] = (chart.boundaries(level - 1).sum(axis=1) > 0.5) == closes
    return right


def told(result: ProbeResult, exact: BoolArray | None = None, classes: IntArray | None = None) -> dict[str, Any]:
    """A result with its controls as lists by layer.

    Args:
        result: with all controls.
        exact: whether the exact reader is right at every token; its accuracy is added.
        classes: a label for every token; accuracies averaged over classes are added, under "balanced".
    """
    found = result.to_dict()
    rows = list(found.pop("layers").values())
    found |= {"layers": list(result.layers)} | {name: [row[name] for row in rows] for name in rows[0]}
    if exact is not None:
        found["exact"] = float(exact[result.rows].mean())
    if classes is not None:
        parts = list(result.by(classes[result.rows]).values())
        found["balanced"] = {
            "accuracy": np.mean([part.accuracy for part in parts], axis=0).tolist(),
            **{name: np.mean([part.control(name) for part in parts], axis=0).tolist() for name in _BALANCED},
        }
        if exact is not None:
            found["balanced"]["exact"] = float(np.mean([exact[part.rows].mean() for part in parts]))
    return found


def local_accuracies(
    model: Transformer, tokens: Inputs, levels: Sequence[int], training: ProbeTraining, key: Key
) -> dict[str, dict[str, float]]:
    """Local read-outs of the last layer for learning curves, fitted to every other sentence and asked of the rest.

    Returns:
        By level, under "ends" the accuracy of symbols at ends, and under "boundary" the balanced accuracy.
    """
    states, fitted = read_states(model, tokens, residual_layers(model.config)[-1:]), tokens.documents % 2 == 0
    labels = _joined(ends=symbols_where(tokens, levels, at_ends=True), boundary=ends(tokens, levels))
    probes = LinearProbes(training, key=key).fit(states.subset(fitted), labels_at(labels, np.flatnonzero(fitted)))
    asked = labels_at(labels, np.flatnonzero(~fitted))
    right, is_end = probes.correct(states.subset(~fitted), asked), ends(tokens.subset(~fitted), levels)
    return {
        "ends": {name: float(right[f"ends/{name}"][0, at == 1].mean()) for name, at in is_end.items()},
        "boundary": {
            name: float(np.mean([right[f"boundary/{name}"][0, at == label].mean() for label in (0, 1)]))
            for name, at in is_end.items()
        },
    }


def ablated_ends(
    model: Transformer,
    world: CFGWorld,
    tokens: Inputs,
    numbers: IntArray,
    levels: Sequence[int],
    training: ProbeTraining,
    *,
    controls: int,
    key: Key,
) -> dict[str, dict[str, Any]]:
    """What the model loses without the directions of the probes at ends, by block and level.

    Args:
        model: a causal one.
        world: of the sentences.
        tokens: those that the probes are fitted to.
        numbers: test sentences that are spoilt; others than those of `tokens`.
        levels: whose symbols are taken out.
        training: of the probes.
        controls: sets of random directions.
        key: of the probes, and of the random directions.

    Returns:
        For each block and level, rise in divergence from the exact next-token distribution, in nats per token, after
        the directions are taken out of what the block adds up to: "effect", and "random effects".
    """
    blocks = range(max(1, model.config.layers - 1))
    layers = [f"block.{block}.resid_post" for block in blocks]
    states = read_states(model, tokens, layers)
    at_ends = symbols_where(tokens, levels, at_ends=True)
    probes = LinearProbes(training, key=key.child("probes")).fit(states, at_ends)
    samples = world.render("test", numbers)
    lengths = np.diff(samples.offsets)
    inside = np.arange(lengths.max()) < lengths[:, None]
    texts = np.zeros(inside.shape, dtype=np.int64)
    texts[inside] = samples.tokens
    parser = Parser(world.grammar)
    exact = [parser.chart(samples.document(i)[0][1:]).next_token for i in range(len(samples))]
    outcomes = torch.arange(1, world.eos + 1)

    def agreement(logits: Tensor) -> Tensor:
        logs = logits[..., outcomes.to(logits.device)].double().log_softmax(-1).cpu().numpy()
        pairs = zip(exact, logs, strict=True)
        return torch.tensor([-divergence(truth, rows[: len(truth)]).mean() for truth, rows in pairs])

    found: dict[str, dict[str, Any]] = {}
    for block, layer in zip(blocks, layers, strict=True):
        found[str(block)] = {}
        for name, is_end in ends(tokens, levels).items():
            at = np.zeros_like(inside)
            at[inside] = samples.marks[f"end_{name}"] == 1
            effect = ablation(
                model,
                torch.from_numpy(texts),
                layer,
                probes.directions(name, layer),
                agreement,
                at=torch.from_numpy(at),
                centre=torch.from_numpy(states.only([layer])[is_end == 1][:, 0].mean(axis=0)),
                controls=controls,
                key=key.child("random", block, name),
            )
            found[str(block)][name] = effect.to_dict()
    return found


def expected_place(values: Sequence[float], places: Sequence[float]) -> float:
    """Mean place at which an accuracy is gained, weighed by the gain (Tenney et al. 2019, eq. 2); NaN without gain.

    What is lost again later still counts as gained: theirs are accuracies of all layers up to one, which do not fall.

    Example:
        >>> expected_place([0.2, 0.2, 0.6, 1.0], [0, 1, 2, 3])
        2.5

    Args:
        values: at every place.
        places: layers or steps, rising.
    """
    gains = np.diff(np.maximum.accumulate(values))
    return float((gains * np.asarray(places)[1:]).sum() / gains.sum()) if gains.sum() > 0 else float("nan")
