import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from physlm import evaluation
from physlm.data.contract import Samples
from physlm.evaluation import answer_matches, first_token_matches, masked_answer_matches, score, token_matches
from physlm.models.canon import Canon
from physlm.models.generation import generate
from physlm.models.low_rank import add_low_rank
from physlm.models.positions import Deberta, Learned, NoPosition, Rotary, Uniform
from physlm.models.transformer import Transformer, TransformerConfig

STOP, MASK, VOCABULARY = 0, 1, 23
SEED = 23


def make(**changes) -> Transformer:
    shape = {"vocab_size": VOCABULARY, "context": 32, "layers": 2, "heads": 2, "width": 16, "initial_std": 0.4}
    return Transformer(TransformerConfig(**{**shape, **changes}), seed=SEED)


def make_low_rank() -> Transformer:
    model = make(position=Rotary(fraction=0.5))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in add_low_rank(model, rank=2, embedding_rank=3, seed=1):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


MODELS = {
    "rotary": make(position=Rotary(fraction=0.5)),
    "learned": make(position=Learned()),
    "low rank": make_low_rank(),
    "relative": make(position=Deberta(distances=16), key_value_heads=1),
    "canon": make(canon=Canon(sublayers="AB"), position=NoPosition()),
    "canon everywhere": make(canon=Canon(), gated=True, norm="rms", position=Uniform()),
}
MASKED = make(causal=False)
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())

documents = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9).map(np.array)


def ragged(parts) -> Samples:
    parts = [np.array(part, dtype=np.int32) for part in parts]
    return Samples(np.concatenate(parts), np.cumsum([0, *map(len, parts)]), {})


@each_model
@settings(max_examples=30, deadline=None)
@given(data=st.data(), prompts=st.lists(documents, min_size=1, max_size=8), batch_size=st.integers(1, 9))
def test_answers_match_exactly_when_generation_gives_them(model, data, prompts, batch_size):
    made = generate(model, prompts, max_new_tokens=6, stop=STOP)
    answers = []
    for continuation in made:
        kind = data.draw(st.sampled_from(["right", "cut", "changed", "longer", "any"]))
        answer = continuation.copy()
        if kind == "cut":
            answer = answer[:-1]
        elif kind == "changed" and len(answer):
            answer[data.draw(st.integers(0, len(answer) - 1))] = 5
        elif kind == "longer":
            answer = np.append(answer, 7)
        elif kind == "any":
            answer = data.draw(documents)
        answers.append(answer)
    # One token more than the longest answer, so that generation can show whether it stops.
    again = generate(model, prompts, max_new_tokens=12, stop=STOP)
    expected = [np.array_equal(a, b) for a, b in zip(again, answers, strict=True)]
    # An answer with the stop token inside cannot be generated, but can be followed token by token.
    if not any((answer == STOP).any() for answer in answers):
        assert answer_matches(model, prompts, answers, stop=STOP, batch_size=batch_size).tolist() == expected
    first = generate(model, prompts, max_new_tokens=1, stop=VOCABULARY - 1)
    pairs = [(a, b) for a, b in zip(first, answers, strict=True)]
    if all(len(answer) for answer in answers):
        expected = [(a[0] if len(a) else VOCABULARY - 1) == b[0] for a, b in pairs]
        assert first_token_matches(model, prompts, answers, batch_size=batch_size).tolist() == expected


@each_model
def test_true_answers_match_and_their_prefixes_do_not(model):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, VOCABULARY, 1 + i % 5) for i in range(60)]
    made = generate(model, prompts, max_new_tokens=20, stop=STOP)
    ended = [i for i, continuation in enumerate(made) if 0 < len(continuation) < 20]
    assert len(ended) >= 10
    prompts, answers = [prompts[i] for i in ended], [made[i] for i in ended]
    assert answer_matches(model, prompts, answers, stop=STOP).all()
    assert first_token_matches(model, prompts, answers).all()
    assert not answer_matches(model, prompts, [answer[:-1] for answer in answers], stop=STOP).any()
    wrong_at_the_end = [np.append(answer[:-1], answer[-1] % (VOCABULARY - 1) + 1) for answer in answers]
    assert not answer_matches(model, prompts, wrong_at_the_end, stop=STOP).any()


@each_model
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_questions_that_start_alike_have_the_answers_of_generation(model, batch_size):
    # Few openings and few names, prompts within prompts, repeated prompts, answers of any length and any first token.
    rng = np.random.default_rng(batch_size)
    openings = [[STOP, 5, 6, 7], [STOP, 5, 6], [STOP, 8], [9]]
    prompts = [
        np.array([*openings[rng.integers(4)], *rng.integers(2, 5, rng.integers(0, 4)), *[11, 12][: rng.integers(3)]])
        for _ in range(150)
    ]
    made = generate(model, prompts, max_new_tokens=19, stop=STOP)
    answers = [continuation[:18] for continuation in made]
    for i in range(0, 150, 3):
        answers[i] = answers[i].copy()
        if len(answers[i]):
            place = 0 if i % 2 else rng.integers(len(answers[i]))
            answers[i][place] = answers[i][place] % (VOCABULARY - 1) + 1
    expected = [np.array_equal(a, b) for a, b in zip(made, answers, strict=True)]
    assert 0 < sum(expected) < 150
    assert answer_matches(model, prompts, answers, stop=STOP, batch_size=batch_size).tolist() == expected


@pytest.mark.parametrize("width", range(1, 33))
def test_padding_for_speed_stays_within_the_context(width):
    model = MODELS["learned"]
    prompts = [np.arange(width) % VOCABULARY, np.array([3])]
    said = generate(model, prompts, max_new_tokens=1, stop=STOP)
    said = [continuation if len(continuation) else np.array([STOP]) for continuation in said]
    assert first_token_matches(model, prompts, said).all()


@pytest.mark.parametrize("target", range(4))
def test_among_equal_logits_the_first_counts(target):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(4, (300, 4), generator=generator).float()
    logits[:20] = float("nan")
    logits[20:40, :2] = float("-inf")
    logits[40:60] = float("-inf")
    targets = torch.full((300,), target)
    expected = logits.argmax(-1) == targets
    assert torch.equal(evaluation._is_argmax(logits.clone(), targets), expected)


def test_an_empty_answer_is_stopping_at_once():
    model = MODELS["rotary"]
    prompts = [np.array([token]) for token in range(VOCABULARY)]
    made = generate(model, prompts, max_new_tokens=1, stop=9)
    empty = [np.array([], dtype=int)] * VOCABULARY
    assert answer_matches(model, prompts, empty, stop=9).tolist() == [len(row) == 0 for row in made]


@pytest.mark.parametrize("model", [*MODELS.values(), make(layers=1)], ids=[*MODELS, "one block"])
@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=9), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    batch_size=st.integers(1, 9),
)
def test_token_matches_is_one_document_at_a_time(model, parts, seed, share, batch_size):
    samples = ragged(parts)
    select = np.random.default_rng(seed).random(len(samples.tokens)) < share
    expected = []
    for i in range(len(samples)):
        tokens, _ = samples.document(i)
        chosen = select[samples.offsets[i] : samples.offsets[i + 1]]
        if len(tokens):
            logits = model(torch.tensor([[STOP, *tokens.tolist()]]))[0, :-1]
            expected += (logits.argmax(-1).numpy() == tokens)[chosen].tolist()
    got = token_matches(model, samples, select, bos=STOP, batch_size=batch_size)
    assert got.dtype == bool
    assert got.tolist() == expected


@each_model
@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(documents, st.lists(st.integers(0, VOCABULARY - 1), max_size=7)), max_size=8),
    repeats=st.integers(1, 3),
    batch_size=st.integers(1, 9),
)
def test_scores_are_log_probabilities_of_one_text_at_a_time(model, pairs, repeats, batch_size):
    pairs = pairs * repeats
    prompts, continuations = [prompt for prompt, _ in pairs], [np.array(rest, dtype=int) for _, rest in pairs]
    got = score(model, prompts, continuations, batch_size=batch_size)
    assert len(got) == len(pairs)
    for prompt, continuation, scores in zip(prompts, continuations, got, strict=True):
        assert scores.dtype == np.float64
        logits = model(torch.tensor([[*prompt.tolist(), *continuation.tolist()]]))[0].double()
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(continuation)[:, None])
        np.testing.assert_allclose(scores, expected.squeeze(1).detach().numpy(), atol=1e-4)


@each_model
def test_scores_of_all_continuations_are_a_distribution(model):
    prompt = np.array([7, 3, 9])
    pairs = [np.array([first, second]) for first in range(VOCABULARY) for second in range(VOCABULARY)]
    scores = score(model, [prompt] * len(pairs), pairs)
    assert np.exp([one.sum() for one in scores]).sum() == pytest.approx(1.0, abs=1e-5)
    likeliest = pairs[int(np.argmax([one[0] for one in scores]))][:1]
    assert first_token_matches(model, [prompt], [likeliest]).all()


def test_token_matches_finds_what_the_model_says():
    model = MODELS["rotary"]
    made = generate(model, [np.array([STOP, token]) for token in range(2, 22)], max_new_tokens=8, stop=STOP)
    samples = ragged([[token, *continuation] for token, continuation in zip(range(2, 22), made, strict=True)])
    select = np.ones(len(samples.tokens), dtype=bool)
    select[samples.offsets[:-1]] = False
    assert select.any()
    assert token_matches(model, samples, select, bos=STOP).all()


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(documents, min_size=1, max_size=7), seed=st.integers(0, 99), batch_size=st.integers(1, 8))
def test_masked_answers_are_one_document_at_a_time(parts, seed, batch_size):
    rng = np.random.default_rng(seed)
    masks = [rng.random(len(part)) < 0.3 for part in parts]
    for mask in masks:
        mask[rng.integers(len(mask))] = True
    texts, expected = [], []
    for i, (part, mask) in enumerate(zip(parts, masks, strict=True)):
        hidden = torch.tensor(np.where(mask, MASK, part))[None]
        said = MASKED(hidden)[0].argmax(-1).numpy()
        if i % 2:  # make every other document right
            texts.append(np.where(mask, said, part))
            expected.append(True)
        else:
            texts.append(part)
            expected.append(bool((said == part)[mask].all()))
    assert masked_answer_matches(MASKED, texts, masks, mask_id=MASK, batch_size=batch_size).tolist() == expected


def test_the_head_works_in_slices(monkeypatch):
    samples = ragged([np.arange(2, 20)] * 5)
    select = np.ones(len(samples.tokens), dtype=bool)
    whole = token_matches(MODELS["rotary"], samples, select, bos=STOP)
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    assert token_matches(MODELS["rotary"], samples, select, bos=STOP).tolist() == whole.tolist()
    texts = [np.arange(2, 20)] * 5
    sliced = score(MODELS["rotary"], texts, texts)
    monkeypatch.undo()
    np.testing.assert_allclose(sliced, score(MODELS["rotary"], texts, texts), atol=1e-5)


def test_nothing_asked_nothing_answered():
    model = MODELS["rotary"]
    assert answer_matches(model, [], [], stop=STOP).shape == (0,)
    assert first_token_matches(model, [], []).shape == (0,)
    assert score(model, [], []) == []
    assert [one.shape for one in score(model, ONE, EMPTY)] == [(0,)]
    assert masked_answer_matches(MASKED, [], [], mask_id=MASK).shape == (0,)
    nothing = Samples(np.zeros(0, dtype=int), np.array([0, 0]), {})
    assert token_matches(model, nothing, np.zeros(0, dtype=bool), bos=STOP).shape == (0,)


def test_dropout_is_off_and_training_goes_on():
    model = make(dropout=0.5).train()
    prompts = [np.array([token, 3]) for token in range(VOCABULARY)]
    answers = generate(model, prompts, max_new_tokens=5, stop=STOP)
    answers = [answer if len(answer) < 5 else answer[:0] for answer in answers]
    runs = [answer_matches(model, prompts, answers, stop=STOP).tolist() for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(module.training for module in model.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert answer_matches(model, prompts, answers, stop=STOP).tolist() == runs[0]


class RereadRotary(Rotary):
    cacheable = False


ONE, EMPTY = [np.array([2, 3])], [np.array([], dtype=int)]
SAMPLES = ragged([[2, 3]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: answer_matches(MASKED, ONE, ONE, stop=STOP), "needs a causal model, got causal=False"),
        (lambda: first_token_matches(MASKED, ONE, ONE), "needs a causal model"),
        (lambda: token_matches(MASKED, SAMPLES, np.ones(2, dtype=bool), bos=STOP), "needs a causal model"),
        (
            lambda: masked_answer_matches(MODELS["rotary"], ONE, [np.ones(2, dtype=bool)], mask_id=MASK),
            "needs a bidirectional model, got causal=True",
        ),
        (lambda: answer_matches(MODELS["rotary"], EMPTY, ONE, stop=STOP), "at least one token, got none in prompt 0"),
        (lambda: answer_matches(MODELS["rotary"], ONE, ONE, stop=-1), r"stop must be a token id in \[0, 23\), got -1"),
        (lambda: first_token_matches(MODELS["rotary"], ONE, [np.array([23])]), r"token ids in \[0, 23\), got 23"),
        (lambda: score(MODELS["rotary"], ONE, [np.array([23])]), r"continuations must be token ids in .* got 23"),
        (lambda: score(MODELS["rotary"], [np.array([-1])], ONE), r"prompts must be token ids in .* got -1"),
        (lambda: score(MODELS["rotary"], EMPTY, ONE), "at least one token, got none in prompt 0"),
        (lambda: score(MASKED, ONE, ONE), "needs a causal model, got causal=False"),
        (lambda: score(make(position=RereadRotary()), ONE, ONE), "rotary positions cannot be scored in one pass"),
        (lambda: answer_matches(MODELS["rotary"], ONE, ONE * 2, stop=STOP), "got 1 prompts and 2 answers"),
        (lambda: first_token_matches(MODELS["rotary"], ONE, EMPTY), "at least one token, got none in answer 0"),
        (lambda: answer_matches(MODELS["rotary"], ONE, ONE, stop=STOP, batch_size=0), "batch_size must be ≥ 1, got 0"),
        (lambda: answer_matches(MODELS["learned"], [np.arange(23)], [np.arange(10)], stop=STOP), "32 tokens, got 33"),
        (lambda: masked_answer_matches(MASKED, ONE, [], mask_id=MASK), "got 1 documents and 0 masks"),
        (
            lambda: masked_answer_matches(MASKED, ONE, [np.zeros(2, dtype=bool)], mask_id=MASK),
            r"got bool of shape \(2,\), 0 true",
        ),
        (
            lambda: masked_answer_matches(MASKED, ONE, [np.ones(3, dtype=bool)], mask_id=MASK),
            r"got bool of shape \(3,\), 3 true",
        ),
        (
            lambda: masked_answer_matches(MASKED, ONE, [np.ones(2)], mask_id=MASK),
            r"got float64 of shape \(2,\), 2 true",
        ),
        (lambda: masked_answer_matches(MASKED, ONE, [np.ones(2, dtype=bool)], mask_id=23), "mask_id must be .* got 23"),
        (lambda: token_matches(MODELS["rotary"], SAMPLES, np.ones(3, dtype=bool), bos=STOP), "must be 2 truth values"),
        (lambda: token_matches(MODELS["rotary"], SAMPLES, np.ones(2, dtype=bool), bos=-1), "bos must be .* got -1"),
        (lambda: token_matches(MODELS["rotary"], ragged([[2, 23]]), np.ones(2, dtype=bool), bos=STOP), "got 23"),
        (lambda: score(MODELS["rotary"], [[1.5]], ONE), r"prompts must be .* got float64 of shape \(1,\)"),
        (lambda: score(MODELS["rotary"], ["who?"], ONE), "prompts must be .* got 'who.' as number 0"),
        (
            lambda: answer_matches(MODELS["rotary"], ONE, [np.zeros((1, 2), dtype=int)], stop=STOP),
            "answers must be .* 1-D",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
