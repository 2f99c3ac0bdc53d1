import numpy as np
import pytest
import torch

from experiments._text_parts import CONTENT, FORM, by_part, measured_biographies, measured_sentences, step_learnt
from experiments.format_first import EXPERIMENT, PRESETS, Reading
from physlm.lab import Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.bios import Role
from physlm.worlds.cfg.inference import Parser

SMOKE = PRESETS["smoke"]


def untrained(reading, world):
    return Transformer(reading.model.config(world.vocab_size), seed=0)


def test_the_step_is_interpolated_and_what_is_never_learnt_counts_as_the_last():
    steps = [0, 10, 20, 40]
    assert step_learnt(steps, [2.0, 1.0, 0.4, 0.0]) == (pytest.approx(30.0), True)
    assert step_learnt(steps, [2.0, 0.0, 0.4, 0.0]) == (pytest.approx(9.0), True)
    assert step_learnt(steps, [2.0, 1.0, 0.9, 0.3]) == (40.0, False)


def test_form_is_decided_by_a_shallow_constituent_and_content_by_the_sentence():
    world = SMOKE.grammar_world(1)
    assert len(world.grammar.layers) == 4  # so that level 3, above the terminals, is the one shallow constituent
    measured = measured_sentences(world, 4)
    parser = Parser(world.grammar)
    known = dict.fromkeys((FORM, CONTENT), 0)
    for sentence, parts, derivation in zip(
        world.sentences("test", np.arange(4)),
        measured.parts,
        world.derivations("test", np.arange(4)),
        strict=True,
    ):
        assert len(parts) == len(sentence) + 1
        truth, lowest = parser.chart(sentence).next_token, derivation.ancestors(len(derivation.symbols) - 2)
        for k in range(len(sentence)):
            far = []
            for start in (int(np.argmax(lowest == lowest[k])), k):  # the lowest constituent, and nothing
                seen = np.ones((k, 3))
                seen[start:] = sentence[start:k, None] == np.arange(1, 4)
                local = parser.chart(seen).next_token[k]
                possible = truth[k] > 0
                far.append(float((truth[k][possible] * np.log(truth[k][possible] / local[possible])).sum()))
            assert (parts[k] == FORM) == (min(far) <= 0.05)
            known[FORM] += parts[k] == FORM
            known[CONTENT] += parts[k] == CONTENT
    assert all(known.values())


def test_loss_of_sentences_is_the_divergence_from_the_exact_distribution():
    world = SMOKE.grammar_world(1)
    model = untrained(SMOKE.sentences, world)
    (loss, *_) = measured_sentences(world, 1).loss(model)
    (sentence,) = world.sentences("test", np.arange(1))
    truth = Parser(world.grammar).chart(sentence).next_token
    text = torch.from_numpy(np.append(world.bos, sentence))[None].long()
    with torch.no_grad():
        predicted = model(text)[0, :, 1 : world.eos + 1].double().log_softmax(-1).numpy()
    for k, row in enumerate(truth):
        possible = row > 0
        assert loss[k] == pytest.approx(
            (row[possible] * (np.log(row[possible]) - predicted[k, possible])).sum(), abs=1e-6
        )


def test_the_least_loss_of_biographies_is_the_entropy_of_their_draws():
    world, count = SMOKE.biography_world(1), 5
    model = untrained(SMOKE.biographies, world)
    measured = measured_biographies(world, count, SMOKE.templates)
    samples = world.render("biographies", np.arange(count), marks=("role",))
    role = samples.marks["role"]
    (losses, parts) = (np.concatenate(measured.loss(model)), np.concatenate(measured.parts))
    assert (parts[role == Role.TEMPLATE] == FORM).all()
    assert (parts[role == Role.VALUE] == CONTENT).all()
    assert (parts[role == Role.PRONOUN] == "").all()
    with torch.no_grad():
        plain = []
        for i in range(count):
            tokens = np.append(world.eos, samples.document(i)[0])
            logs = model(torch.from_numpy(tokens[:-1])[None].long())[0].double().log_softmax(-1).numpy()
            plain.append(-logs[np.arange(len(tokens) - 1), tokens[1:]])
    least = np.concatenate(plain) - losses
    # Six sentences, each of one of three templates; one of 20 people.
    assert least[role == Role.TEMPLATE].sum() == pytest.approx(count * 6 * np.log(3), abs=1e-4)
    assert least[role == Role.NAME].sum() == pytest.approx(count * np.log(20), abs=1e-4)
    assert np.allclose(least[role == Role.VALUE], 0, atol=1e-5)


def test_shuffling_moves_parts_within_texts_only():
    measured = measured_sentences(SMOKE.grammar_world(1), 6)
    shuffled = measured.shuffled(Key.of("test"))
    assert all(sorted(before) == sorted(after) for before, after in zip(measured.parts, shuffled, strict=True))
    assert any((before != after).any() for before, after in zip(measured.parts, shuffled, strict=True))
    ones = [np.where(parts == FORM, 1.0, 2.0) for parts in measured.parts]
    assert by_part(measured.parts, ones)[FORM] == 1
    assert 1 < by_part(shuffled, ones)[FORM] < 2
    assert "" not in by_part([np.array(["", FORM])], [np.ones(2)])


@pytest.mark.parametrize("kind", ["grammar", "biographies"])
def test_a_run_has_what_the_claim_reads(tmp_path, kind):
    (condition,) = (one for one in EXPERIMENT.conditions(SMOKE) if one.name == kind)
    runs = {kind: RunMetrics(EXPERIMENT.run(SMOKE, condition, 161, Workspace(cache=tmp_path)))}
    assert runs[kind].at("steps") == [0, 4, 8, 12, 16, 20]
    (claim,) = (claim for claim in EXPERIMENT.claims("smoke", SMOKE) if claim.id == f"P23-{kind}")
    for predicate in claim.predicates:
        assert predicate.measure(runs) > 0
    for part in (FORM, CONTENT):
        losses = runs[kind].at(f"parts.{part}.loss")
        assert losses[-1] < losses[0]


def test_bad_presets():
    with pytest.raises(ValueError, match=r"texts must be in 1\.\.people = 20, got 21"):
        SMOKE.__class__(**{**vars(SMOKE), "biographies": Reading(**{**vars(SMOKE.biographies), "texts": 21})})
    with pytest.raises(ValueError, match="batch_size must be ≥ 1, got 0"):
        Reading(**{**vars(SMOKE.sentences), "batch_size": 0})
