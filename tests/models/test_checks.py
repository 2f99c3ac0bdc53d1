"""What is refused before anything is computed."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.func import vmap

from physlm.data.streams import PackedStream, Source
from physlm.models.checks import (
    require_id,
    require_tokens,
    require_vocabulary,
    require_whole_numbers,
    stop_tokens,
    token_arrays,
)
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.randomness import Key
from physlm.training.loop import train
from physlm.training.recipe import Recipe
from physlm.worlds.bios.config import BiographyConfig
from physlm.worlds.bios.world import BiographyWorld


@pytest.mark.parametrize("value", [64.0, True, "64", np.int64(64)])
def test_only_an_int_is_a_whole_number(value):
    with pytest.raises(TypeError, match=r"width must be an int, got (64\.0|True|'64'|np\.int64\(64\))"):
        require_whole_numbers(SimpleNamespace(heads=2, width=value), "heads", "width")
    require_whole_numbers(SimpleNamespace(heads=2, width=None), "heads", "width")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tokens_are_ids_below_the_vocabulary(dtype):
    for tokens in (torch.tensor([[0, 8], [3, 1]], dtype=dtype), torch.zeros(2, 0, dtype=dtype)):
        require_tokens(tokens, 9)
    require_tokens(torch.tensor([8, 0], dtype=dtype), 9, dimensions=1)
    for wrong in (9, -1, 10**6):
        with pytest.raises(ValueError, match=rf"tokens must be ids in \[0, 9\), got {wrong}"):
            require_tokens(torch.tensor([[0, 8, wrong]], dtype=dtype), 9)


@pytest.mark.parametrize(
    ("tokens", "dimensions", "message"),
    [
        (torch.zeros(4, dtype=torch.long), 2, r"shape \[rows, tokens\], got torch.int64 of shape \(4,\)"),
        (torch.zeros(1, 2, 3, dtype=torch.long), 2, r"got torch.int64 of shape \(1, 2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.long), 1, r"shape \[tokens\], got torch.int64 of shape \(2, 3\)"),
        (torch.zeros(2, 3), 2, r"tokens must be int64 or int32 .*, got torch.float32 of shape \(2, 3\)"),
        (torch.zeros(2, 3, dtype=torch.bool), 2, "got torch.bool"),
        (torch.zeros(2, 3, dtype=torch.uint8), 2, "got torch.uint8"),
    ],
)
def test_tokens_of_another_shape_or_type(tokens, dimensions, message):
    with pytest.raises(ValueError, match=message):
        require_tokens(tokens, 9, dimensions=dimensions)


def test_nothing_waits_for_the_values_of_tokens_on_a_device():
    """Meta tensors have no values, so asking for one, which a GPU would have to wait for, is an error."""
    require_tokens(torch.zeros(2, 3, dtype=torch.long, device="meta"), 9)
    with FakeTensorMode(), torch.device("cuda"):
        require_tokens(torch.zeros(2, 3, dtype=torch.long), 9)


def test_tokens_without_values_are_let_through():
    """Vectorised and traced programs have none while they are made."""
    tokens = torch.zeros(4, 2, 3, dtype=torch.long)

    def doubled(tokens):
        require_tokens(tokens, 9)
        return 2 * tokens

    assert torch.equal(vmap(doubled)(tokens), tokens)
    compiled = torch.compile(doubled, backend="eager", fullgraph=True)
    assert torch.equal(compiled(tokens[0]), tokens[0])


def test_texts_become_arrays_of_ids():
    given = [np.array([1, 2], dtype=np.uint8), [3], (), np.array([]), torch.tensor([4, 5])]
    made = token_arrays("prompts", given, 6)
    assert [text.tolist() for text in made] == [[1, 2], [3], [], [], [4, 5]]
    assert {text.dtype for text in made} == {np.dtype(np.int64)}
    assert [text.tolist() for text in token_arrays("prompts", np.array([[1, 2], [3, 4]]), 6)] == [[1, 2], [3, 4]]
    assert token_arrays("prompts", [], 6) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("who?", "answers must be a sequence of arrays of token ids, got 'who[?]'"),
        (None, "got None"),
        (7, "got 7"),
        (["who?"], "1-D arrays of token ids, got 'who[?]' as number 0; a tokenizer makes ids of text"),
        ([["who", "?"]], r"got <U3 of shape \(2,\) as number 0"),
        (np.array([1, 2]), "got 1 as number 0; .* a single array goes into a list"),
        ([[1], np.array([2.0])], r"got float64 of shape \(1,\) as number 1"),
        ([np.array([True])], r"got bool of shape \(1,\)"),
        ([np.zeros((2, 3), dtype=int)], r"got int64 of shape \(2, 3\)"),
        ([[1], [2, 6]], r"answers must be token ids in \[0, 6\), got 6"),
        ([[-1]], "got -1"),
        ([np.array([2**64 - 1], dtype=np.uint64)], "got -1"),
    ],
)
def test_what_is_no_text(texts, message):
    with pytest.raises(ValueError, match=message):
        token_arrays("answers", texts, 6)


def test_stop_tokens_are_one_several_or_none():
    assert stop_tokens(3, 6) == stop_tokens(np.int64(3), 6) == (3,)
    assert stop_tokens((), 6) == ()
    assert stop_tokens([4, 0], 6) == stop_tokens(np.array([4, 0]), 6) == (4, 0)
    for wrong in (None, "eos", 1.0, True, [2.0], ["eos"]):
        with pytest.raises(TypeError, match=r"^stop must be a token id.* got "):
            stop_tokens(wrong, 6)
    for wrong in (6, [-1]):
        with pytest.raises(ValueError, match=r"stop must be a token id in \[0, 6\), got"):
            stop_tokens(wrong, 6)
    assert require_id("bos", np.int32(5), 6) == 5


def test_a_world_may_have_fewer_ids_than_the_model_but_not_more():
    world = BiographyWorld(BiographyConfig(seed=0, people=5))
    require_vocabulary(world.vocab_size, [world, world])
    small = world.vocab_size - 1
    message = rf"vocab_size must be ≥ {world.vocab_size}, that of the BiographyWorld .* got {small}"
    with pytest.raises(ValueError, match=message):
        require_vocabulary(small, [world])
    model = Transformer(TransformerConfig(vocab_size=small, context=8, layers=1, heads=1, width=8), seed=0)
    stream = PackedStream([Source(world, "biographies")], context=8, batch_size=2, key=Key.of("checks", 0))
    with pytest.raises(ValueError, match=message):
        train(model, stream, Recipe(steps=1, learning_rate=1e-3))


IN_PLAIN_PYTHON = """
import json

import numpy as np

from physlm import Key, Transformer, TransformerConfig, answer_matches, generate, quantize, score

shape = {"vocab_size": 9, "context": 8, "layers": 1, "heads": 1, "width": 8}
model = Transformer(TransformerConfig(**shape), seed=0)
text, said = [np.array([1, 2])], []
for call in (
    lambda: TransformerConfig(**{**shape, "width": 8.0}),
    lambda: TransformerConfig(**{**shape, "layers": True}),
    lambda: TransformerConfig(**{**shape, "key_value_heads": 1.0}),
    lambda: generate(model, text, max_new_tokens=2, stop=None),
    lambda: generate(model, text, max_new_tokens=2, stop=0, temperature=1.0, key=3),
    lambda: generate(model, "who?", max_new_tokens=2, stop=0),
    lambda: generate(model, [np.array([1.0])], max_new_tokens=2, stop=0, beams=2),
    lambda: score(model, [[1.5]], text),
    lambda: answer_matches(model, text, text, stop=0.5),
    lambda: quantize(model, bits=4.0, method="round_to_nearest"),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


def test_users_without_a_type_checker_are_told_as_well():
    # In a process of its own, where no type checker speaks first.
    command = [sys.executable, "-c", IN_PLAIN_PYTHON]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    expected = [
        "TypeError: width must be an int, got 8.0",
        "TypeError: layers must be an int, got True",
        "TypeError: key_value_heads must be an int, got 1.0",
        "TypeError: stop must be a token id or several of them, got None; for no stop token give ()",
        "TypeError: key must be a Key such as Key.of('samples', 0), got 3",
        "ValueError: prompts must be a sequence of arrays of token ids, got 'who?'",
        "ValueError: prompts must be a sequence of 1-D arrays of token ids, got float64 of shape (1,) as number 0",
        "ValueError: prompts must be a sequence of 1-D arrays of token ids, got float64 of shape (1,) as number 0",
        "TypeError: stop must be a token id, an int, got 0.5",
        "ValueError: bits must be an int in [2, 8], got 4.0",
    ]
    assert len(said) == len(expected)
    for message, start in zip(said, expected, strict=True):
        assert message.startswith(start)
