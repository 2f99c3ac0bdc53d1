import os

import numpy as np
import psutil
import pytest
import torch

from physlm.data.contract import Samples
from physlm.data.streams import OUTSIDE
from physlm.models.capture import Capture
from physlm.models.transformer import Transformer, TransformerConfig
from physlm.probing.inputs import Inputs, extend, select
from physlm.probing.states import ROWS_AT_ONCE, FileArray, States, read_states, residual_layers

LENGTHS = (5, 9, 3, 9, 1, 7)


def make(**changes) -> Transformer:
    shape = {"vocab_size": 29, "context": 16, "layers": 2, "heads": 2, "width": 16, "initial_std": 0.2}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=5).eval()


def texts() -> Samples:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    generator = np.random.Generator(np.random.Philox(key=1))
    tokens = generator.integers(0, 29, offsets[-1])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], LENGTHS)
    return Samples(tokens, offsets, {"role": tokens % 3, "place": place})


def one_by_one(model, inputs, layers):
    rows = []
    for document, position in zip(inputs.documents, inputs.positions, strict=True):
        tokens = torch.from_numpy(inputs.samples.document(document)[0])[None]
        capture = Capture(layers)
        with torch.no_grad():
            model(tokens, capture=capture)
        rows.append(torch.stack([capture.states[name][0, position].flatten() for name in layers]))
    return torch.stack(rows).numpy()


def test_places_are_those_of_the_mark():
    samples = texts()
    inputs = Inputs.where(samples, samples.marks["role"] == 1)
    assert (inputs.mark("role") == 1).all()
    assert len(inputs) == (samples.marks["role"] == 1).sum()
    np.testing.assert_array_equal(inputs.mark("place"), inputs.positions)
    np.testing.assert_array_equal(inputs.tokens, samples.tokens[samples.marks["role"] == 1])
    later = Inputs.where(samples, samples.marks["place"] == 2).moved(-1)
    assert (later.mark("place") == 1).all()
    np.testing.assert_array_equal(Inputs.last(samples).positions, np.array(LENGTHS) - 1)


def test_places_outside_their_document_are_refused():
    samples = texts()
    with pytest.raises(ValueError, match=r"positions must be in 0\.\.4, the tokens of document 0, got 5"):
        Inputs.last(samples).moved(1)
    with pytest.raises(ValueError, match="mark must be one of place, role, got 'level'"):
        Inputs.last(samples).mark("level")
    with pytest.raises(ValueError, match="at least 1 place"):
        Inputs.where(samples, np.zeros(len(samples.tokens), dtype=bool))


def test_selected_and_extended_documents():
    samples = texts()
    chosen = select(samples, samples.marks["role"] == 1, before=[27], after=[28, 26])
    for i in range(len(samples)):
        tokens, marks = samples.document(i)
        expected = [27, *tokens[marks["role"] == 1], 28, 26]
        np.testing.assert_array_equal(chosen.document(i)[0], expected)
        np.testing.assert_array_equal(chosen.document(i)[1]["place"][:1], [OUTSIDE])
    longer = extend(samples, np.array([1, 1, 4]), np.array([2, 9, 0]), [np.array([7]), np.array([8, 9]), np.array([1])])
    first = samples.document(1)[0]
    expected = [[*first[:2], 7], [*first, 8, 9], [1]]
    for i, tokens in enumerate(expected):
        np.testing.assert_array_equal(longer.document(i)[0], tokens)
    assert longer.document(1)[1]["place"].tolist() == [*range(9), OUTSIDE, OUTSIDE]
    with pytest.raises(ValueError, match="lengths must be in"):
        extend(samples, np.array([4]), np.array([2]), [np.array([1])])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [1, 20, 10_000])
def test_states_are_those_of_each_document_alone(causal, tokens_per_batch):
    model = make(causal=causal)
    samples = texts()
    inputs = Inputs.where(samples, samples.marks["role"] != 0)
    layers = [*residual_layers(model.config), "final"]
    states = read_states(model, inputs, layers, tokens_per_batch=tokens_per_batch)
    assert states.layers == tuple(layers)
    np.testing.assert_allclose(states[:], one_by_one(model, inputs, layers), atol=2e-6)


def test_places_may_come_in_any_order_and_repeat():
    model, samples = make(), texts()
    rows = np.array([3, 0, 3, 1, 0])
    inputs = Inputs.last(samples)
    expected = read_states(model, inputs)[:][rows]
    np.testing.assert_allclose(read_states(model, inputs.subset(rows))[:], expected, atol=1e-6)


def test_heads_lie_beside_each_other():
    model, inputs = make(), Inputs.last(texts())
    states = read_states(model, inputs, ["block.1.z"])
    np.testing.assert_allclose(states[:], one_by_one(model, inputs, ["block.1.z"]), atol=2e-6)


def test_what_is_no_state_by_position_is_refused():
    model, inputs = make(), Inputs.last(texts())
    with pytest.raises(ValueError, match=r"'block\.0\.pattern'"):
        read_states(model, inputs, ["block.0.pattern"])
    with pytest.raises(ValueError, match="equally wide"):
        read_states(model, inputs, ["embed", "block.0.mlp_post"])
    with pytest.raises(ValueError, match=r"no hidden state 'block\.7\.z'"):
        read_states(model, inputs, ["block.7.z"])


def test_states_in_a_file_are_those_in_memory(tmp_path):
    model, samples = make(), texts()
    inputs = Inputs.where(samples, samples.marks["role"] >= 0)
    memory = read_states(model, inputs)
    file = read_states(model, inputs, memory_bytes=0, folder=tmp_path)
    assert memory.in_memory
    assert not file.in_memory
    rows = np.array([7, 3, 3, 20])
    np.testing.assert_array_equal(file[:], memory[:])
    np.testing.assert_array_equal(file[rows], memory[rows])
    part = [states.subset(rows).only(["block.1.resid_post", "embed"])[1:] for states in (file, memory)]
    np.testing.assert_array_equal(*part)
    np.testing.assert_array_equal(part[0], memory[:][rows][1:, [2, 0]])
    assert len(list(tmp_path.iterdir())) == 1
    del file
    assert not list(tmp_path.iterdir())


def test_a_million_places_stay_out_of_memory(tmp_path):
    # 1,000,000 × 4 × 64 float32 would be 1 GB; holes in the file are zeros and take no disk.
    states = States([f"layer {i}" for i in range(4)], FileArray((1_000_000, 4, 64), np.float32, tmp_path))
    process = psutil.Process(os.getpid())
    before = peak = process.memory_info().rss
    places = 0
    for rows, block in states.subset(slice(0, 200_000)).blocks():
        places += rows.stop - rows.start
        assert not block.any()
        peak = max(peak, process.memory_info().rss)
    for start in range(0, 1_000_000, 50_000):
        assert not states[np.arange(start, start + 50_000, 200)].any()
        peak = max(peak, process.memory_info().rss)
    assert places == 200_000
    assert peak - before < 10 * ROWS_AT_ONCE * 4 * 64 * 4


def test_other_modules_are_read_by_the_names_of_their_submodules():
    transformers = pytest.importorskip("transformers", reason="the model that is read")
    config = transformers.GPT2Config(
        vocab_size=29, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        module = transformers.GPT2LMHeadModel(config).eval()
    samples = texts()
    inputs = Inputs.where(samples, samples.marks["role"] != 0)
    layers = ["transformer.drop", "transformer.h.0", "transformer.ln_f"]
    states = read_states(module, inputs, layers, tokens_per_batch=20)
    assert not any(submodule._forward_hooks for submodule in module.modules())
    for row, (document, position) in enumerate(zip(inputs.documents, inputs.positions, strict=True)):
        with torch.no_grad():
            output = module(torch.from_numpy(samples.document(document)[0])[None], output_hidden_states=True)
        expected = torch.stack([state[0, position] for state in output.hidden_states]).numpy()
        np.testing.assert_allclose(states[np.array([row])][0], expected, atol=2e-6)
    with pytest.raises(ValueError, match=r"no submodule 'transformer\.h\.9'"):
        read_states(module, inputs, ["transformer.h.9"])
    with pytest.raises(ValueError, match="must be named"):
        read_states(module, inputs)


def test_plain_arrays():
    array = np.arange(12.0).reshape(6, 2)
    states = States.of(array)
    assert (states.shape, states.layers) == ((6, 1, 2), ("states",))
    np.testing.assert_array_equal(states[:][:, 0], array)
    with pytest.raises(ValueError, match="one shape"):
        States.of({"a": array, "b": array[:3]})
    with pytest.raises(ValueError, match="layers must be among states"):
        states.only(["embed"])
