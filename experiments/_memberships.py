"""What the embeddings of a model say of the bags that tokens are in.

The *membership* of a token is the set of terminals that it can stand for. Tokens of one membership can only be told
apart by how often they occur; what else their embeddings have in common is what the model has found out about bags.

Source: Physics of Language Models 1, result 10 and the figure of correlations of embeddings.

Shapes: T terminals, V observables, N tokens of a sentence, P memberships that there are.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.implicit import Bags


def correlations(model: Transformer, bags: Bags) -> NDArray[np.float64]:
    """Correlation between the embeddings of every two observables, over their coordinates, `[V, V]`."""
    embeddings = model.embed.weight.detach().double().cpu().numpy()[1 : 1 + bags.membership.shape[1]]
    return np.corrcoef(embeddings)


def contrasts(correlation: NDArray[np.float64], membership: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much more each token correlates with tokens of the same membership than with those of another.

    Only tokens in as many bags are compared: those in more bags are more frequent, and embeddings tell frequent tokens
    from rare ones long before they tell bags.

    Args:
        correlation: `[V, V]`.
        membership: whether an observable belongs to a terminal, `[T, V]`.

    Returns:
        One number for every token that has both kinds of others; those that never occur, or are in all bags, have not.
    """
    counts = membership.sum(axis=0)
    distance = (membership[:, :, None] ^ membership[:, None, :]).sum(axis=0)
    alike = (counts[:, None] == counts) & (counts > 0)
    same, other = alike & (distance == 0) & ~np.eye(len(counts), dtype=np.bool_), alike & (distance > 0)
    kept = same.any(axis=1) & other.any(axis=1)
    within, between = ((correlation * pairs)[kept].sum(axis=1) / pairs[kept].sum(axis=1) for pairs in (same, other))
    return within - between


def mean_by(correlation: NDArray[np.float64], pairs: NDArray[np.bool_]) -> float:
    """Mean correlation of these pairs `[V, V]`, a token with itself left out; NaN if there are none."""
    chosen = correlation[pairs & ~np.eye(len(pairs), dtype=np.bool_)]
    return float(chosen.mean()) if len(chosen) else float("nan")


def embedding_statistics(correlation: NDArray[np.float64], membership: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean correlations by membership.

    The distance of two tokens that occur is the number of bags that only one of them is in. Those that never occur are
    only ever something not to expect.
    """
    counts = membership.sum(axis=0)
    occurs, everywhere = counts > 0, counts == len(membership)
    both = occurs[:, None] & occurs
    distance = (membership[:, :, None] ^ membership[:, None, :]).sum(axis=0)
    return {
        "distance": {str(d): mean_by(correlation, both & (distance == d)) for d in range(len(membership) + 1)},
        "never_occurring": mean_by(correlation, ~occurs[:, None] & ~occurs),
        "never_occurring_with_in_all_bags": mean_by(correlation, ~occurs[:, None] & everywhere),
        "contrasts": contrasts(correlation, membership),
    }


def pack_correlations(correlation: NDArray[np.float64]) -> dict[str, Any]:
    """A matrix of correlations in hundredths, as a JSON value."""
    hundredths = np.round(100 * correlation).astype(np.int8)
    return {"shape": list(hundredths.shape), "hundredths": base64.b64encode(hundredths.tobytes()).decode()}


def unpack_correlations(packed: Mapping[str, Any]) -> NDArray[np.float64]:
    """The matrix, to two decimals."""
    raw = np.frombuffer(base64.b64decode(packed["hundredths"]), dtype=np.int8)
    return raw.reshape(packed["shape"]) / 100


def shuffled_contrasts(
    correlation: NDArray[np.float64], membership: NDArray[np.bool_], key: Key, shuffles: int = 200
) -> NDArray[np.float64]:
    """Mean contrast with memberships shuffled among the tokens that are in as many bags, `[shuffles]`."""
    counts = membership.sum(axis=0)
    places, found = np.argsort(counts, kind="stable"), np.zeros(shuffles)
    for i, ranks in enumerate(key.permutations(np.arange(shuffles), len(counts))):
        other = membership.copy()
        other[:, places] = membership[:, np.lexsort((ranks, counts))]
        found[i] = contrasts(correlation, other).mean()
    return found


def embeddings(model: Transformer, bags: Bags, seed: int) -> dict[str, Any]:
    """What the embeddings of a trained model say of membership, and the same model untrained.

    Only one in twenty ways to shuffle memberships has a larger contrast than `shuffled`.
    """
    trained, membership = correlations(model, bags), bags.membership
    shuffled = shuffled_contrasts(trained, membership, Key.of("shuffled memberships", seed))
    return {
        "patterns": bags.patterns,
        "correlation": pack_correlations(trained),
        "trained": embedding_statistics(trained, membership),
        "initial": embedding_statistics(correlations(Transformer(model.config, seed=seed), bags), membership),
        "shuffled": float(np.quantile(shuffled, 0.95)),
    }


def by_membership(patterns: NDArray[np.int64], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance of every membership, and last of the end, `[N + 1, P + 1]`, from that of every token `[N + 1, V + 1]`."""
    _, group = np.unique(patterns, return_inverse=True)
    grouped = np.zeros((group.max() + 2, len(chances)))
    np.add.at(grouped, np.append(group, group.max() + 1), chances.T)
    return grouped.T
