"""What a model says at every position of given texts, and how far that is from the truth.

Shapes: N positions of a text, O outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from physlm.data.contract import IntArray
from physlm.models.decoding import evaluating
from physlm.models.transformer import Transformer


def log_probabilities(
    model: Transformer, texts: Sequence[IntArray], outcomes: IntArray, *, batch_size: int = 128
) -> list[NDArray[np.float64]]:
    """Natural logarithm of the model's probability of each outcome at every position of each text, `[N, O]`.

    A causal model says what comes next, a bidirectional one what stands there. Its distribution is taken over the
    outcomes alone.

    Args:
        model: any transformer.
        texts: token ids of each text.
        outcomes: token ids that can be right, `[O]`.
        batch_size: texts per forward pass.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    result: list[NDArray[np.float64]] = [np.zeros((0, len(outcomes)))] * len(texts)
    with evaluating(model) as place:
        chosen = torch.as_tensor(np.asarray(outcomes, dtype=np.int64), device=place)
        for start in range(0, len(order), batch_size):
            batch = [int(i) for i in order[start : start + batch_size]]
            lengths = np.array([len(texts[i]) for i in batch])
            inside = np.arange(lengths.max()) < lengths[:, None]
            tokens = np.zeros(inside.shape, dtype=np.int64)
            tokens[inside] = np.concatenate([texts[i] for i in batch])
            # Padding follows the text: a causal model cannot see it, a bidirectional one must be kept from it.
            documents = None if model.config.causal else torch.from_numpy(inside.astype(np.int64)).to(place)
            logits = model(torch.from_numpy(tokens).to(place), documents=documents)[..., chosen]
            predicted = logits.double().log_softmax(-1).cpu().numpy()
            for row, i in enumerate(batch):
                result[i] = predicted[row, : len(texts[i])]
    return result


def divergence(truth: NDArray[np.float64], log_predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL from true distributions to predicted ones along the last axis, in nats; `inf` where a possible outcome is not.

    Args:
        truth: probabilities, `[..., O]`.
        log_predicted: natural logarithms of probabilities, `[..., O]`.
    """
    possible = truth > 0
    logs = np.log(truth, where=possible, out=np.zeros_like(truth))
    return np.where(possible, truth * (logs - np.where(possible, log_predicted, 0.0)), 0.0).sum(axis=-1)
