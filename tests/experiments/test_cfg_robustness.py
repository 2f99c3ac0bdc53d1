from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from experiments import _noisy_prefixes as noisy_prefixes
from experiments._grammar_measures import in_language, mean_divergence
from experiments._grammar_texts import TextWithMistakes, grammar_with_mistakes
from experiments._grammars import make_world, test_sentences
from experiments._noisy_prefixes import CLEAN_PREFIX, NO_PREFIX, NOISY_PREFIX
from experiments._robustness_plots import in_words
from experiments.cfg_robustness import EXPERIMENT, PRESETS, text_as_trained
from physlm.lab import Results, Workspace
from physlm.lab.results import RunMetrics
from physlm.models.transformer import Transformer
from physlm.randomness import Key
from physlm.worlds.cfg.corruption import Corruption, perturb
from physlm.worlds.cfg.grammar import reroot
from physlm.worlds.cfg.inference import Parser
from physlm.worlds.cfg.named import grammar

SMOKE = PRESETS["smoke"]
TINY = reroot(grammar("cfg3b"), "10")
KINDS = ("terminal", "nonterminal", "permutation")


def derived(corruption: Corruption) -> Counter:
    """Chance of every string that the tiny grammar derives, wrong symbols included: all derivations, one by one."""
    terminals = {name: i + 1 for i, name in enumerate(TINY.terminals)}
    preterminals, rules = TINY.layers.symbols[-2], TINY.rules_of
    becomes = np.eye(3) if corruption.kind == "terminal" else corruption.matrix(3)
    chances: Counter = Counter()
    for top in rules[TINY.root]:
        meant = [preterminals.index(child) for child in top.children]
        for written in product(range(3), repeat=len(meant)):
            chance = top.probability * np.prod([becomes[pair] for pair in zip(meant, written, strict=True)])
            for chosen in product(*(rules[preterminals[symbol]] for symbol in written)):
                text = tuple(terminals[child] for rule in chosen for child in rule.children)
                chances[text] += chance * np.prod([rule.probability for rule in chosen])
    return chances


def chance_of(seen: tuple[int, ...], corruption: Corruption) -> float:
    """Chance of a string in sentences that can hold mistakes."""
    chances = derived(corruption)
    if corruption.kind != "terminal":
        return chances[seen]
    matrix = corruption.matrix(3)
    return sum(
        chance * np.prod([matrix[a - 1, b - 1] for a, b in zip(text, seen, strict=True)])
        for text, chance in chances.items()
        if len(text) == len(seen)
    )


def probability(text: TextWithMistakes, sentence: tuple[int, ...]) -> float:
    chances = text.next_token(np.array(sentence))
    return float(np.prod([np.nan_to_num(chances[k, token - 1]) for k, token in enumerate((*sentence, 4))]))


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_text_with_mistakes_has_the_probability_of_all_ways_to_make_it(kind, share):
    corruption = Corruption(kind=kind, share=share, rate=0.2)
    text = TextWithMistakes(TINY, corruption)
    clean = derived(replace(corruption, rate=0.0))
    assert sum(derived(corruption).values()) == pytest.approx(1)
    generator = np.random.Generator(np.random.Philox(0))
    strings = [string for string, chance in derived(corruption).items() if chance > 0]
    for i in generator.choice(len(strings), 16, replace=False):
        # Some are sentences; others are not, but can come of mistakes.
        seen = np.array(strings[i])
        seen[generator.integers(len(seen))] = generator.integers(1, 4)
        for string in (strings[i], tuple(seen.tolist())):
            expected = (1 - share) * clean[string] + share * chance_of(string, corruption)
            assert probability(text, string) == pytest.approx(expected, rel=1e-9)


def test_without_mistakes_a_text_is_its_grammar():
    sentence = test_sentences(make_world(SMOKE.world_config(1)), 1)[0]
    exact = Parser(SMOKE.world_config(1).used_grammar()).chart(sentence).next_token
    for corruption in (None, Corruption(kind="permutation", share=0.0, rate=0.5)):
        text = TextWithMistakes(SMOKE.world_config(1).used_grammar(), corruption)
        np.testing.assert_allclose(text.next_token(sentence), exact, atol=1e-12)
    wrong = np.array([1, 1, 1])
    assert np.isnan(text.next_token(wrong)[-1]).all()
    with pytest.raises(ValueError, match="kind must be 'nonterminal' or 'permutation', got 'terminal'"):
        grammar_with_mistakes(TINY, Corruption.paper("terminal", 1.0))


def test_the_exact_reader_draws_from_the_exact_distribution():
    text, count = TextWithMistakes(TINY, Corruption(kind="terminal", share=0.5, rate=0.2)), 800
    prefix = np.array([1, 1])  # no sentence without mistakes begins so
    uniforms = Key.of("test of the exact reader").uniforms(np.arange(count), 12)
    made = text.completions([prefix] * count, uniforms)
    assert all(end is not None for end in made)
    exact = text.next_token(prefix)[-1]
    seen = np.bincount([end[0] - 1 if len(end) else 3 for end in made], minlength=4) / count
    np.testing.assert_allclose(seen, exact, atol=4 * (0.25 / count) ** 0.5)
    # The colder, the more often the likeliest token.
    cold = text.completions([prefix] * 100, uniforms[:100], temperature=0.1)
    assert np.mean([end[0] - 1 == exact.argmax() for end in cold]) > max(0.9, exact.max())
    assert TextWithMistakes(TINY).completions([prefix], uniforms[:1]) == [None]
    assert text.completions([prefix], uniforms[:1, :3]) == [None]  # no room to end


def test_exact_readers_switch_modes_as_the_paper_says():
    """Part 1, Table of robustness, last column and the one of a tenth, in exact numbers."""
    preset = PRESETS["cpu"]
    world = make_world(replace(preset.world_config(1), test_sentences=60))
    asked = noisy_prefixes.tasks(world, 1, 60, preset.cut)
    write = noisy_prefixes.ideal_writer(TextWithMistakes(world.grammar, Corruption.paper("terminal", 0.5)), 128)
    right = {
        (name, temperature): noisy_prefixes.right(world, task, write, Key.of(name), temperature).mean()
        for name, task in asked.items()
        for temperature in (0.1, 1.0)
    }
    assert right[NO_PREFIX, 1.0] == pytest.approx(0.5, abs=0.2)
    assert right[CLEAN_PREFIX, 1.0] > right[NO_PREFIX, 1.0] + 0.1
    assert right[NOISY_PREFIX, 1.0] < 0.15
    assert right[NO_PREFIX, 0.1] == right[CLEAN_PREFIX, 0.1] == 1
    assert 0.6 < right[NOISY_PREFIX, 0.1] < 0.95


def test_tasks_are_the_same_for_all_and_noise_spoils_every_noisy_prefix():
    clean, mistaken = (make_world(SMOKE.world_config(3, one)) for one in (None, Corruption.paper("terminal", 1.0)))
    asked, again = (noisy_prefixes.tasks(world, 3, 24, SMOKE.cut) for world in (clean, mistaken))
    parser, sentences = Parser(clean.grammar), test_sentences(clean, 24)
    for name in asked:
        for prefixes, same in zip(asked[name], again[name], strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(prefixes, same, strict=True))
    assert 0 < len(asked[NOISY_PREFIX].given) < 24
    beginnings = {tuple(sentence[: SMOKE.cut]) for sentence in sentences}
    for given, meant in zip(*asked[NOISY_PREFIX], strict=True):
        assert parser.chart(given).read < SMOKE.cut
        assert tuple(meant) in beginnings


def test_noise_that_spoils_nothing_is_no_test():
    world = make_world(SMOKE.world_config(3))
    (sentence,) = test_sentences(world, 1)
    unchanged = next(
        seed
        for seed in range(100)
        if np.array_equal(
            perturb(Key.of("noise", seed), np.arange(1), sentence[None, :2], terminals=3)[0], sentence[:2]
        )
    )
    with pytest.raises(ValueError, match="noise must spoil one prefix at least, got none of 1"):
        noisy_prefixes.tasks(world, unchanged, 1, 2)


def test_answers_are_judged_after_the_prefix_without_noise():
    world = make_world(SMOKE.world_config(3))
    asked = noisy_prefixes.tasks(world, 3, 24, SMOKE.cut)[NOISY_PREFIX]
    ends = {tuple(sentence[: SMOKE.cut]): sentence[SMOKE.cut :] for sentence in test_sentences(world, 24)}
    knowing = [ends[tuple(prefix)] for prefix in asked.meant]
    assert noisy_prefixes.right(world, asked, lambda *_: knowing, Key.of(0), 1.0).all()
    assert not in_language(world, asked.given, knowing).any()
    assert not in_language(world, asked.meant, [None] * len(knowing)).any()
    assert not in_language(world, asked.meant, [np.append(end, world.mask) for end in knowing]).any()


def test_unseen_text_has_as_many_mistakes_as_that_of_training():
    world = make_world(SMOKE.world_config(5, Corruption.paper("terminal", 0.5)))
    unseen, trained = text_as_trained(world, 5, 800), world.sentences("train", np.arange(800))
    lengths = [np.mean([len(sentence) for sentence in text]) for text in (unseen, trained)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    parser = Parser(world.grammar)
    valid = [parser.accepts(text).mean() for text in (unseen, trained)]
    assert valid[0] == pytest.approx(valid[1], abs=0.08)
    assert {text.tobytes() for text in unseen} != {text.tobytes() for text in trained}


def test_a_model_diverges_less_from_a_text_that_it_cannot_tell_from_its_own():
    """An untrained model is nearly uniform, so mistakes bring a text closer to it."""
    world = make_world(SMOKE.world_config(1))
    model, sentences = Transformer(SMOKE.training.config(world.vocab_size), seed=0), test_sentences(world, 6)
    noise = Corruption(kind="terminal", share=1.0, rate=0.9)
    clean, mistaken = (
        mean_divergence(model, world, sentences, TextWithMistakes(world.grammar, one).next_token)
        for one in (None, noise)
    )
    assert 0 < mistaken < clean


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What three conditions of the smoke scale have measured."""
    conditions = {condition.name: condition for condition in EXPERIMENT.conditions(SMOKE)}
    names = ("clean", "terminal_0.1", "ideal/terminal_0.1")
    return {
        name: RunMetrics(
            EXPERIMENT.run(SMOKE, conditions[name], 131, Workspace(cache=tmp_path_factory.mktemp("cache")))
        )
        for name in names
    }


def test_a_run_has_what_the_claims_read(runs):
    names = {condition.name for condition in EXPERIMENT.conditions(SMOKE)}
    claims = {claim.id: claim for claim in EXPERIMENT.claims("smoke", SMOKE)}
    assert set(claims) == {"CFG-16", "CFG-17", "CFG-18"}
    # Every model is read by some claim, or it would never be trained.
    assert {name for claim in claims.values() for name in claim.conditions} == names
    everything = {name: runs["ideal/terminal_0.1" if "ideal" in name else "terminal_0.1"] for name in names}
    everything["clean"] = runs["clean"]
    for claim in claims.values():
        chosen = {name: everything[name] for name in claim.conditions}
        for one in (*claim.predicates, *claim.requires):
            assert -2 <= one.measure(chosen).value <= 2
    assert runs["ideal/terminal_0.1"].number("accuracy.clean_prefix.0.1.mean") == 1
    assert runs["clean"].number("divergence_of_text") == 0 < runs["terminal_0.1"].number("divergence_of_text")
    assert [point["step"] for point in runs["clean"].at("curve")] == [10, 20]


def test_plots_are_drawn_from_whatever_is_there(runs, tmp_path):
    results = Results(
        title="", scale="smoke", seeds=(131,), runs={(name, 131): run for name, run in runs.items()}, verdicts=()
    )
    drawn = EXPERIMENT.plots(results, tmp_path)
    assert {path.name for path in drawn} == {"accuracy.png", "robustness.png", "modes.png", "learning.png"}
    assert all(path.stat().st_size > 5000 for path in drawn)
    assert in_words("ideal/nonterminal_0.5") == "wrong symbols, 50\N{NO-BREAK SPACE}%, exact"


def test_bad_presets():
    with pytest.raises(ValueError, match=r"cut must be in 1\.\.12, the shortest sentence of the grammar, got 13"):
        replace(SMOKE, cut=13)
    with pytest.raises(ValueError, match=r"0 < small_share < large_share < 1, got 0\.6 and 0\.5"):
        replace(SMOKE, small_share=0.6)
    with pytest.raises(ValueError, match=r"ideal_sentences must be in 1\.\.sentences = 24, got 25"):
        replace(SMOKE, ideal_sentences=25)
