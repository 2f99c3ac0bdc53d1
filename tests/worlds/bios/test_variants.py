import re
from collections import Counter

import numpy as np
import pytest

from physlm.worlds.bios import VARIANTS, BiographyConfig, BiographyWorld

PEOPLE = 60
SIXTEEN = {
    *("single", "single+fullname"),
    *("single+permute1", "single+permute2", "single+permute5"),
    *("single+permute1+fullname", "single+permute2+fullname", "single+permute5+fullname"),
    *("multi2", "multi2+fullname", "multi2+permute", "multi2+permute+fullname"),
    *("multi5", "multi5+fullname", "multi5+permute", "multi5+permute+fullname"),
}


def make(variant: str, **settings) -> BiographyWorld:
    return BiographyWorld(BiographyConfig(seed=0, people=PEOPLE, variant=variant, **settings))


def entries(world: BiographyWorld) -> np.ndarray:
    """Entry texts, shape `[entries, people]`."""
    texts = world.texts("biographies", np.arange(world.size("biographies")))
    return np.array(texts, dtype=object).reshape(-1, PEOPLE)


def told(world: BiographyWorld, entry: str, person: int) -> list[str]:
    """The sentences of an entry, with every subject replaced by S."""
    truth = world.person(person)
    parts = entry.removesuffix(".").split(". ")
    return [re.sub(f"^ ?({truth.name}|{truth.pronoun}) ", "S ", part) for part in parts]


def orders(world: BiographyWorld) -> np.ndarray:
    """Attribute of every sentence, shape `[entries, people, attributes]`."""
    starts = world.value_starts("biographies", np.arange(world.size("biographies")))
    return np.argsort(starts, axis=1).reshape(-1, PEOPLE, starts.shape[1])


def test_the_rule_gives_the_sixteen_names_and_the_couples():
    assert set(VARIANTS) == SIXTEEN | {"couple1", "couple2", "couple5"}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_renders_and_is_true(name):
    world, variant = make(name), VARIANTS[name]
    assert world.size("biographies") == PEOPLE * variant.entries
    for i in range(0, world.size("biographies"), 7):
        sample = world["biographies", i]
        assert sample.truth == world.person(i % PEOPLE)
        judgement = world.check(sample.truth, sample.tokens)
        assert judgement, judgement.reason
        text = world.tokenizer.decode(sample.tokens)
        assert text.count(sample.truth.name) == (6 if variant.fullname else 1)
        assert text.startswith(f" {sample.truth.name} ")


@pytest.mark.parametrize("name", ["single+permute5", "single+permute5+fullname"])
def test_permute_reorders_the_same_sentences(name):
    world = make(name)
    texts = entries(world)
    for person in range(PEOPLE):
        sentences = [told(world, text, person) for text in texts[:, person]]
        assert len({tuple(sorted(s)) for s in sentences}) == 1
        assert len({tuple(s) for s in sentences}) > 1


@pytest.mark.parametrize("name", ["multi5", "multi5+permute"])
def test_multi_draws_new_sentences_per_entry(name):
    world = make(name)
    texts = entries(world)
    shared = [
        set(told(world, texts[a, person], person)) & set(told(world, texts[b, person], person))
        for person in range(PEOPLE)
        for a in range(5)
        for b in range(a)
    ]
    # Two draws among 50 sentences coincide with probability 1/50 per attribute.
    assert 0 < np.mean([len(s) for s in shared]) < 0.3


@pytest.mark.parametrize("name", ["single", "multi5", "multi5+fullname"])
def test_without_permutation_the_order_is_the_base_order(name):
    assert (orders(make(name)) == np.arange(6)).all()


def test_permuted_orders_are_spread_over_all_positions():
    order = orders(make("multi5+permute")).reshape(-1, 6)
    first = np.bincount(order[:, 0], minlength=6) / len(order)
    assert np.abs(first - 1 / 6).max() < 0.07
    assert len(np.unique(order, axis=0)) > 200


def test_fewer_entries_are_the_first_of_more_entries():
    assert np.array_equal(entries(make("multi5+permute"))[:2], entries(make("multi2+permute")))
    assert np.array_equal(entries(make("single+permute5"))[:1], entries(make("single+permute1")))


def test_couples_come_in_exactly_six_orders():
    order = orders(make("couple5"))
    seen = Counter(map(tuple, order.reshape(-1, 6).tolist()))
    assert len(seen) == 6
    assert all(row[i] + 1 == row[i + 1] and row[i] % 2 == 0 for row in seen for i in (0, 2, 4))
    assert min(seen.values()) / sum(seen.values()) > 0.1


@pytest.mark.parametrize(
    "settings",
    [{"variant": "multi5+permute+fullname"}, {"templates": 3}, {"celebrities": 40}, {"template_form": "short"}],
)
def test_writing_changes_neither_people_nor_split(settings):
    plain = make("single")
    other = make(**{"variant": "single", **settings})
    for person in range(PEOPLE):
        assert plain.person(person) == other.person(person)
    for split in ("questions_train", "questions_test"):
        assert np.array_equal(plain.questions(split)[0], other.questions(split)[0])


def test_variants_and_populations_share_one_vocabulary():
    fingerprints = {
        BiographyWorld(config).tokenizer.fingerprint()
        for config in (
            BiographyConfig(seed=0, people=10),
            BiographyConfig(seed=1, people=50, variant="multi5+permute+fullname", celebrities=7),
        )
    }
    assert len(fingerprints) == 1


def test_templates_in_use_are_a_prefix():
    world = make("multi5", templates=2, template_form="short")
    texts = entries(world)
    sentences = {s for person in range(PEOPLE) for s in told(world, texts[0, person], person)}
    words = {tuple(s.split()[1:3]) for s in sentences}
    assert len(words) == 6 * 2
