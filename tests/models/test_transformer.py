import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from physlm.models.canon import Canon
from physlm.models.experts import Experts
from physlm.models.positions import Learned, PositionalEncoding, PositionConfig, Rotary
from physlm.models.positions.base import distances
from physlm.models.transformer import Cache, Capture, Transformer, TransformerConfig, parameter_count

POSITIONS = [Rotary(), Learned()]
STATES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def config(**changes) -> TransformerConfig:
    shape = {"vocab_size": 29, "context": 16, "layers": 3, "heads": 2, "width": 16}
    return TransformerConfig(**{**shape, **changes})


def loud(**changes) -> Transformer:
    """A model whose weights are large enough for differences to show."""
    return Transformer(config(initial_std=0.2, **changes), seed=5).eval()


def tokens(rows=2, length=12, seed=0) -> torch.Tensor:
    return torch.randint(29, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1, "heads": 4, "width": 32},
        {"position": Learned(), "context": 40},
        {"mlp_ratio": 1.5, "vocab_size": 101},
        {"position": Rotary(fraction=1.0), "causal": False},
    ],
)
def test_parameter_count_is_the_formula(changes):
    model = Transformer(config(**changes), seed=0)
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())


def test_parameter_count_of_gpt2_small():
    rotary = TransformerConfig(vocab_size=50_257, context=512, layers=12, heads=12, width=768)
    assert parameter_count(rotary) == 123_653_376
    gpt2 = TransformerConfig(vocab_size=50_257, context=1024, layers=12, heads=12, width=768, position=Learned())
    assert parameter_count(gpt2) == 124_439_808


def test_embedding_is_tied_to_the_head():
    model = Transformer(config(), seed=0)
    assert model.head.weight is model.embed.weight
    model.head(torch.ones(16)).sum().backward()
    assert model.embed.weight.grad is not None


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_token_changes_logits_only_from_its_place_on(position, place):
    model = loud(position=position)
    before = tokens()
    after = before.clone()
    after[:, place] = (after[:, place] + 1) % 29
    torch.testing.assert_close(model(after)[:, :place], model(before)[:, :place], rtol=0, atol=1e-6)
    assert (model(after)[:, place:] - model(before)[:, place:]).abs().amax((0, 2)).min() > 1e-4


def test_a_bidirectional_model_sees_later_tokens():
    model = loud(causal=False)
    before = tokens()
    after = before.clone()
    after[:, -1] = (after[:, -1] + 1) % 29
    assert (model(after) - model(before)).abs().amax((0, 2)).min() > 1e-4


@pytest.mark.parametrize("causal", [True, False])
def test_documents_in_a_window_are_read_as_if_alone(causal):
    model = loud(causal=causal)
    window = tokens(length=12)
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [7] * 1 + [8] * 10 + [9] * 1])
    together = model(window, documents=documents)
    for row in range(2):
        for document in documents[row].unique():
            inside = documents[row] == document
            alone = model(window[row : row + 1, inside])
            torch.testing.assert_close(together[row : row + 1, inside], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_one_document_is_the_plain_causal_mask(position):
    model = loud(position=position)
    torch.testing.assert_close(
        model(tokens(), documents=torch.zeros(2, 12, dtype=torch.long)), model(tokens()), rtol=0, atol=1e-5
    )


def test_capturing_changes_nothing_and_is_complete():
    model = loud()
    names = ["embed", "final", *(f"block.{layer}.{state}" for layer in range(3) for state in STATES)]
    capture = Capture(names)
    captured = model(tokens(), capture=capture)
    assert torch.equal(captured, model(tokens()))
    assert sorted(capture.states) == sorted(names)
    assert all(state.shape == (2, 12, 16) for state in capture.states.values())

    states = capture.states
    previous = states["embed"]
    for layer in range(3):
        pre, attention, mid, mlp, post = (states[f"block.{layer}.{state}"] for state in STATES)
        assert torch.equal(pre, previous)
        assert torch.equal(mid, pre + attention)
        assert torch.equal(post, mid + mlp)
        previous = post
    assert torch.equal(states["final"], model.final_norm(previous))
    assert torch.equal(model.head(states["final"]), captured)


def test_capture_keeps_only_what_was_asked_for():
    capture = Capture(["block.1.resid_mid"])
    loud()(tokens(), capture=capture)
    assert list(capture.states) == ["block.1.resid_mid"]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_model_agrees_with_attention_written_out(position, causal):
    model = loud(position=position, causal=causal, layers=1)
    attention = model.blocks[0].attention
    capture = Capture(["embed", "block.0.attn_out"])
    model(tokens(), capture=capture)
    states = model.blocks[0].attention_norm(capture.states["embed"])
    places = torch.arange(12)
    mixed = torch.zeros(2, 12, 16)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        queries = model.position.rotate(attention.query(states)[..., part], places)
        keys = model.position.rotate(attention.key(states)[..., part], places)
        for query in range(12):
            seen = query + 1 if causal else 12
            weights = F.softmax(queries[:, query, None] @ keys[:, :seen].mT / 8**0.5, -1)
            mixed[:, query, part] = (weights @ attention.value(states)[:, :seen, part]).squeeze(1)
    torch.testing.assert_close(attention.output(mixed), capture.states["block.0.attn_out"], rtol=0, atol=1e-5)


class Slope(PositionalEncoding):
    """A score that falls with distance, by another slope in each head."""

    def score(self, query_positions, key_positions):
        return -torch.tensor([0.5, 0.1])[:, None, None] * distances(query_positions, key_positions)[..., None, :, :]


class SlopeConfig(PositionConfig):
    """Not registered: `build` is all that a model needs."""

    def build(self, shape):
        del shape
        return Slope()


class SlopeInsteadOfContentConfig(SlopeConfig):
    replaces_content = True


@pytest.mark.parametrize("position", [*POSITIONS, SlopeConfig(), SlopeInsteadOfContentConfig()])
@pytest.mark.parametrize("parts", [(12,), (1,) * 12, (4, 1, 7), (11, 1)])
def test_reading_in_parts_with_a_cache_is_reading_at_once(position, parts):
    model = loud(position=position)
    cache = Cache(model.config, 2, 12, like=model.embed.weight)
    states = [model.hidden(part, cache=cache) for part in tokens().split(parts, dim=1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(states, 1), model.hidden(tokens()), rtol=0, atol=2e-5)


def test_scores_can_stand_in_for_content():
    content = loud(position=SlopeConfig(), layers=1)
    distance = loud(position=SlopeInsteadOfContentConfig(), layers=1)
    torch.nn.init.zeros_(content.blocks[0].attention.query.weight)
    assert torch.allclose(content(tokens()), distance(tokens()), atol=1e-6)
    torch.nn.init.normal_(content.blocks[0].attention.query.weight, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(content(tokens()), distance(tokens()), atol=1e-3)


def test_a_cache_can_keep_some_rows():
    model = loud()
    rows = torch.tensor([3, 1])
    cache = Cache(model.config, 4, 12, like=model.embed.weight)
    model.hidden(tokens(rows=4)[:, :8], cache=cache)
    cache.keep(rows)
    rest = model.hidden(tokens(rows=4)[rows, 8:], cache=cache)
    torch.testing.assert_close(rest, model.hidden(tokens(rows=4))[rows, 8:], rtol=0, atol=1e-5)


def test_a_cache_and_documents_are_an_error():
    model = loud()
    cache = Cache(model.config, 2, 12, like=model.embed.weight)
    with pytest.raises(ValueError, match="one document per row"):
        model.hidden(tokens(), cache=cache, documents=torch.zeros(2, 12, dtype=torch.long))


def test_weights_are_a_function_of_the_seed_alone():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = Transformer(config(), seed=3).state_dict()
        torch.manual_seed(2)
        second = Transformer(config(), seed=3).state_dict()
    other = Transformer(config(), seed=4).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_initial_weights_have_the_stated_spread():
    model = Transformer(config(width=128, vocab_size=500, layers=8, initial_std=0.1), seed=0)
    block = model.blocks[5]
    for weight, std in [
        (model.embed.weight, 0.1),
        (block.attention.query.weight, 0.1),
        (block.mlp.up.weight, 0.1),
        (block.attention.output.weight, 0.1 / 4),
        (block.mlp.down.weight, 0.1 / 4),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert (block.mlp.up.bias == 0).all()
    assert (block.mlp_norm.weight == 1).all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_reach_every_parameter(position, causal):
    model = loud(position=position, causal=causal).train()
    F.cross_entropy(model(tokens(length=16)).flatten(0, 1), tokens(length=16, seed=1).flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("attention.key.bias"):  # the softmax cancels it where positions do not turn it
            assert (parameter.grad != 0).any(), name


def test_dropout_acts_only_while_training():
    model = Transformer(config(dropout=0.5), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model(tokens()), model(tokens()))
    model.eval()
    assert torch.equal(model(tokens()), model(tokens()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 3}, "vocab_size must be ≥ 4 .* got 3"),
        ({"context": 0}, "context must be ≥ 1, got 0"),
        ({"layers": 0}, "layers must be ≥ 1, got 0"),
        ({"heads": 0}, "heads must be ≥ 1, got 0"),
        ({"width": -16}, "width must be ≥ 1, got -16"),
        ({"heads": 3}, "width must be a multiple of heads, got width 16 and heads 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be ≥ 0 and finite, got -1.0"),
        ({"mlp_ratio": 0.01}, "at least one hidden unit, or be 0, got 0.01"),
        ({"initial_std": -1.0}, "initial_std must be > 0, got -1.0"),
        ({"norm_eps": 0.0}, "norm_eps must be > 0, got 0.0"),
        ({"key_value_heads": 3}, "key_value_heads must divide heads = 2, got 3"),
        ({"vocab_multiple": 0}, "vocab_multiple must be ≥ 1, got 0"),
    ],
)
def test_impossible_configs_say_why(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_unknown_names_of_parts_say_what_there_is():
    # In a process of its own, where no type checker speaks first.
    code = (
        "from physlm import TransformerConfig\n"
        "for part in ({'activation': 'swish'}, {'norm': 'batch'}, {'position': 'rope'}):\n"
        "    try: TransformerConfig(vocab_size=9, context=4, layers=1, heads=1, width=8, **part)\n"
        "    except (TypeError, ValueError) as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said == [
        "activation must be one of gelu, gelu_exact, relu, relu2, silu, got 'swish'",
        "norm must be one of layer, rms, got 'batch'",
        "position must be a config such as Rotary() or position_from_dict({'name': 'rotary'}), got 'rope'",
    ]


@pytest.mark.parametrize("position", [Rotary(base=500.0, fraction=0.5), Learned()])
def test_a_config_survives_json(position):
    original = config(position=position, causal=False, dropout=0.1, mlp_ratio=2.0)
    assert TransformerConfig.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_a_config_with_every_part_survives_json():
    parts = {"canon": Canon(sublayers="AB", kernel=3), "experts": Experts(experts=2), "norm": "rms", "gated": True}
    original = config(**parts, key_value_heads=1, biases=False, tied=False, query_key_norm=True, vocab_multiple=8)
    assert TransformerConfig.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_a_config_from_before_a_field_has_its_default():
    entry = config().to_dict()
    del entry["canon"], entry["norm"]
    assert TransformerConfig.from_dict(entry) == config()
    with pytest.raises(ValueError, match=r"canon has no field \['width'\]"):
        TransformerConfig.from_dict({**entry, "canon": {"width": 3}})


def test_a_padded_vocabulary_is_the_same_model():
    plain, padded = loud(), loud(vocab_multiple=16)
    assert padded.embed.weight.shape == (32, 16)
    assert torch.equal(padded(tokens()), plain(tokens()))
    F.cross_entropy(padded(tokens()).flatten(0, 1), tokens(seed=1).flatten()).backward()
    assert not padded.embed.weight.grad[29:].any()


def test_positions_begin_at_zero():
    with pytest.raises(ValueError, match="first_position must be ≥ 0, got -3"):
        loud()(tokens(), first_position=-3)


@pytest.mark.parametrize("wrong", [29, 31, -1])
def test_tokens_outside_the_vocabulary_are_refused(wrong):
    """Rows that pad the embedding are no tokens either."""
    model, outside = loud(vocab_multiple=16), tokens()
    outside[1, 3] = wrong
    for call in (model, model.hidden):
        with pytest.raises(ValueError, match=rf"tokens must be ids in \[0, 29\), got {wrong}"):
            call(outside)


def test_a_full_cache_says_so():
    model = loud()
    cache = Cache(model.config, 2, 12, like=model.embed.weight)
    model.hidden(tokens(), cache=cache)
    with pytest.raises(ValueError, match="room for 12 tokens, got 13"):
        model.hidden(tokens(length=1), cache=cache)


def test_a_cache_of_another_shape_is_refused():
    model = loud()
    cache = Cache(model.config, 3, 12, like=model.embed.weight)
    with pytest.raises(ValueError, match=r"cache is for 3 layers, 3 rows .* got 3, 2 and 2"):
        model.hidden(tokens(), cache=cache)
    other = loud(layers=1)
    with pytest.raises(ValueError, match="make it for this model and batch"):
        other.hidden(tokens(rows=3), cache=cache)


def test_a_cache_gives_what_autocast_computes_in():
    model = loud()
    cache = Cache(model.config, 2, 12, like=model.embed.weight)
    keys = torch.zeros(2, 2, 3, 8, dtype=torch.bfloat16)
    assert [part.dtype for part in cache.extend(0, keys, keys)] == [torch.bfloat16] * 2
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cached = model(tokens(), cache=Cache(model.config, 2, 12, like=model.embed.weight))
        assert (cached.float() - model(tokens()).float()).abs().mean() < 0.1


def test_a_bidirectional_model_has_no_cache():
    model = loud(causal=False)
    with pytest.raises(ValueError, match="bidirectional model cannot be cached"):
        Cache(model.config, 2, 12, like=model.embed.weight)


def test_activations_computed_again_give_the_same_gradients():
    gradients = []
    for again in (False, True):
        model = loud()
        model.checkpoint_activations = again
        model(tokens()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_unknown_config_keys_are_an_error():
    with pytest.raises(ValueError, match=r"no field \['depth'\]; its fields are .*layers"):
        TransformerConfig.from_dict({**config().to_dict(), "depth": 3})


def test_learned_positions_end_with_the_context():
    model = loud(position=Learned())
    assert model(tokens(length=16)).shape == (2, 16, 29)
    with pytest.raises(ValueError, match="defined for 16 tokens, got 17"):
        model(tokens(length=17))
    cache = Cache(model.config, 2, 20, like=model.embed.weight)
    model.hidden(tokens(length=16), cache=cache)
    with pytest.raises(ValueError, match="defined for 16 tokens, got 17"):
        model.hidden(tokens(length=1), cache=cache)


def test_rotary_positions_go_on_beyond_the_context():
    model = loud()
    longer = tokens(length=40)
    cache = Cache(model.config, 2, 40, like=model.embed.weight)
    states = [model.hidden(part, cache=cache) for part in longer.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(states, 1), model.hidden(longer), rtol=0, atol=2e-5)


def test_reading_far_without_gradients_leaves_the_model_trainable():
    model = loud()
    with torch.inference_mode():
        model(tokens(length=40))
    model(tokens(length=40)).sum().backward()


def test_importing_moves_no_random_state():
    code = (
        "import random, numpy, torch; random.seed(0); numpy.random.seed(0); torch.manual_seed(0)\n"
        "def state(): return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        "before = state()\n"
        "import physlm.evaluation, physlm.models.generation, physlm.models.low_rank\n"
        "assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
