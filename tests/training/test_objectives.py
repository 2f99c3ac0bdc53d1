import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import WORLD, make_model, make_stream

from physlm.data.masking import mask_answers, mask_words
from physlm.data.streams import IGNORE
from physlm.randomness import Key
from physlm.training import objectives
from physlm.training.objectives import MaskedAnswers, MaskedWords, next_token_loss, objective_identity
from physlm.worlds.bios.rendering import Role

KEY = Key.of("masks", 0)
MASK = WORLD.tokenizer.mask
SPECIAL = (WORLD.pad, WORLD.eos, MASK)
EXACT = {"rtol": 1e-5, "atol": 1e-6}


def slow_loss(model, inputs, targets, documents=None):
    """One position at a time, in float64 after the hidden states."""
    seen = None if documents is None else torch.from_numpy(documents.astype(np.int64))
    hidden = model.hidden(torch.from_numpy(inputs), documents=seen).double()
    losses = []
    for row, column in np.argwhere(targets != IGNORE):
        scores = model.embed.weight.double() @ hidden[row, column]
        losses.append(torch.logsumexp(scores, 0) - scores[targets[row, column]])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("loss_roles", [None, (Role.VALUE,)])
def test_next_token_loss_is_the_slow_one(loss_roles, document_mask):
    model = make_model()
    batch = make_stream(loss_roles=loss_roles, document_mask=document_mask).next_batch()
    expected = slow_loss(model, batch.inputs.copy(), batch.targets, batch.documents)
    torch.testing.assert_close(next_token_loss(model, batch).double(), expected, **EXACT)
    assert (batch.documents is not None) == document_mask


def test_padding_bears_no_loss():
    model = make_model()
    batch = make_stream(split="questions_train", overflow="whole", context=15).next_batch()
    assert (batch.window == WORLD.pad).any()
    assert not batch.loss[batch.window == WORLD.pad].any()
    expected = slow_loss(model, batch.inputs.copy(), batch.targets)
    torch.testing.assert_close(next_token_loss(model, batch).double(), expected, **EXACT)


def test_gathering_the_predicted_positions_changes_nothing(monkeypatch):
    batch = make_stream(loss_roles=(Role.VALUE,)).next_batch()
    losses, gradients = [], []
    for dense_share in (1.0, 0.0):
        monkeypatch.setattr(objectives, "_DENSE_SHARE", dense_share)
        model = make_model()
        loss = next_token_loss(model, batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*losses, **EXACT)
    torch.testing.assert_close(*gradients, **EXACT)


def test_masked_words_are_predicted_and_nothing_else():
    model = make_model(causal=False)
    batch = make_stream(marks=("word",), batch_size=16).next_batch()
    objective = MaskedWords(KEY, mask=MASK, special=SPECIAL, rate=0.3)
    inputs, targets = mask_words(
        batch.window,
        batch.window_marks["word"],
        key=KEY,
        rows=batch.rows,
        mask_id=MASK,
        vocab_size=WORLD.vocab_size,
        rate=0.3,
        special=SPECIAL,
    )
    torch.testing.assert_close(objective(model, batch).double(), slow_loss(model, inputs, targets), **EXACT)
    chosen = targets != IGNORE
    assert 0.1 < chosen.mean() < 0.5
    assert (targets[chosen] == batch.window[chosen]).all()
    assert (inputs[~chosen] == batch.window[~chosen]).all()
    assert not np.isin(batch.window[chosen], SPECIAL).any()

    # A masked model is asked for nothing that it can still read, but for the tenth that is kept.
    assert (inputs[chosen] == MASK).mean() > 0.6


def test_masked_answers_are_all_of_the_answers():
    model = make_model(causal=False)
    batch = make_stream(split="questions_train", marks=("role",)).next_batch()
    is_answer = batch.window_marks["role"] == Role.VALUE
    inputs, targets = mask_answers(batch.window, is_answer, mask_id=MASK)
    loss = MaskedAnswers(mask=MASK, role=Role.VALUE)(model, batch)
    torch.testing.assert_close(loss.double(), slow_loss(model, inputs, targets), **EXACT)
    assert ((targets != IGNORE) == is_answer).all()
    assert (inputs[is_answer] == MASK).all()

    # What the answer was cannot be read off the window.
    other = replace(batch, window=np.where(is_answer, WORLD.vocab_size - 1, batch.window))
    changed = MaskedAnswers(mask=MASK, role=Role.VALUE)(model, other)
    torch.testing.assert_close(changed.double(), slow_loss(model, inputs, np.where(is_answer, other.window, IGNORE)))


def test_a_batch_without_anything_to_predict_is_an_error():
    batch = make_stream(marks=("role",)).next_batch()
    with pytest.raises(ValueError, match="must have a token to predict, got none among 100"):
        MaskedAnswers(mask=MASK, role=99)(make_model(causal=False), batch)


def test_what_tells_objectives_apart():
    words = MaskedWords(KEY, mask=MASK, special=SPECIAL)
    different = [
        next_token_loss,
        words,
        replace(words, key=KEY.child("other")),
        replace(words, rate=0.2),
        MaskedAnswers(mask=MASK, role=3),
        MaskedAnswers(mask=MASK, role=4),
    ]
    assert len({json.dumps(objective_identity(objective)) for objective in different}) == len(different)
    assert objective_identity(next_token_loss) == {"name": "next_token_loss"}
    assert objective_identity(words) == objective_identity(MaskedWords(KEY, mask=MASK, special=SPECIAL))
