from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from physlm.randomness import Key
from physlm.worlds.bios.config import BiographyConfig
from physlm.worlds.bios.people import PRONOUNS, Person, Question, draw_people, full_names, shuffled
from physlm.worlds.bios.pools import PoolSizes, load_pools

KEY = Key.of("people test")
POOLS = load_pools()
TINY_NAMES = load_pools().reduced(PoolSizes(first=3, middle=4, last=5))


def names(people) -> list[tuple[int, int, int]]:
    return list(zip(people.first.tolist(), people.middle.tolist(), people.last.tolist(), strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 24, 25, 26, 1000])
def test_shuffle_is_a_bijection(size):
    whole = shuffled(KEY, np.arange(size), size)
    assert sorted(whole.tolist()) == list(range(size))
    some = np.arange(size)[::-3]
    assert np.array_equal(shuffled(KEY, some, size), whole[some])


def test_shuffle_is_uniform_and_depends_on_the_key():
    first = np.array([shuffled(Key.of(seed), np.arange(6), 6) for seed in range(3000)])
    for position in range(6):
        assert chisquare(np.bincount(first[:, position], minlength=6)).pvalue > 1e-4
    # Neighbouring positions are unrelated: all ordered pairs are about equally frequent.
    pairs = np.bincount(first[:, 0] * 6 + first[:, 1], minlength=36).reshape(6, 6)[~np.eye(6, dtype=bool)]
    assert chisquare(pairs).pvalue > 1e-4


def test_more_people_change_nobody():
    few, many = draw_people(KEY, POOLS, 50), draw_people(KEY, POOLS, 5000)
    assert names(few) == names(many)[:50]
    for column in ("pronoun", "month", "day", "year"):
        assert np.array_equal(getattr(few, column), getattr(many, column)[:50])
    assert all(np.array_equal(few.values[name], many.values[name][:50]) for name in few.values)


def test_names_are_unique_across_both_populations_even_when_all_are_given():
    available = full_names(TINY_NAMES)
    people = draw_people(KEY, TINY_NAMES, 37)
    celebrities = draw_people(KEY, TINY_NAMES, available - 37, celebrities=True)
    assert available == 60
    assert len({*names(people), *names(celebrities)}) == available


def test_celebrities_are_other_people():
    people, celebrities = draw_people(KEY, POOLS, 2000), draw_people(KEY, POOLS, 2000, celebrities=True)
    assert not set(names(people)) & set(names(celebrities))
    assert np.mean(people.values["major"] == celebrities.values["major"]) < 0.05


def test_attributes_are_uniform_and_independent():
    people = draw_people(KEY, POOLS, 20_000)
    columns = {"pronoun": (people.pronoun, len(PRONOUNS)), "month": (people.month, 12), "day": (people.day, 28)}
    columns |= {"year": (people.year, 200), "first": (people.first, 400), "last": (people.last, 1000)}
    columns |= {name: (people.values[name], len(POOLS.values[name])) for name in ("bcity", "univ", "major", "cname")}
    for name, (column, size) in columns.items():
        assert chisquare(np.bincount(column, minlength=size)).pvalue > 1e-4, name
    pairs = np.bincount(people.pronoun * 12 + people.month, minlength=36)
    assert chisquare(pairs).pvalue > 1e-4


def test_company_city_is_the_headquarters():
    people = draw_people(KEY, POOLS, 1000)
    assert np.array_equal(people.values["ccity"], POOLS.headquarters[people.values["cname"]])


def test_seeds_give_other_people():
    a, b = draw_people(Key.of(0), POOLS, 1000), draw_people(Key.of(1), POOLS, 1000)
    assert np.mean(a.values["univ"] == b.values["univ"]) < 0.05
    assert len(set(names(a)) & set(names(b))) < 5


def test_truths_read_well():
    person = Person(3, "Ada Mary Stone", "She", {"major": "Music"})
    assert repr(person) == "Person 3: Ada Mary Stone (she); major: Music"
    assert Question(person, "major").answer == "Music"
    assert repr(Question(person, "major")) == "Question: major of Ada Mary Stone (person 3)? Music"
    assert hash(person) == hash(replace(person))


def test_too_many_people_for_the_names():
    with pytest.raises(ValueError, match=r"at most 60, the number of different full names.*got 59 \+ 2"):
        BiographyConfig(seed=0, people=59, celebrities=2, pools=PoolSizes(first=3, middle=4, last=5))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"people": 1}, "people must be ≥ 2 .* got 1"),
        ({"celebrities": -1}, "celebrities must be ≥ 0 .* got -1"),
        ({"variant": "multi3"}, "variant must be one of single, .*multi5\\+permute\\+fullname.*couple5.* got 'multi3'"),
        ({"celebrity_variant": "rich"}, "celebrity_variant must be one of single, .*got 'rich'"),
        ({"value_form": "long"}, "value_form must be one of full, short, got 'long'"),
        ({"template_form": "long"}, "template_form must be one of full, short, got 'long'"),
        ({"questions": "long"}, "questions must be one of full, short, got 'long'"),
        ({"templates": 0}, "templates must be None or in 1..50, got 0"),
        ({"templates": 51}, "templates must be None or in 1..50, got 51"),
        ({"date_parts": ()}, "date_parts must be a tuple of at least one of month, day, year"),
        ({"date_parts": ("year", "month")}, "date_parts must keep the order"),
        ({"attributes": ("date", "date")}, "attributes must be a tuple of at least one of date, bcity"),
        ({"attributes": ["date"]}, "attributes must be a tuple"),
        ({"attributes": ("date", "ccity")}, "attributes with 'ccity' must have 'cname'"),
        ({"attributes": ("date", "univ", "major"), "variant": "couple1"}, "needs an even number of attributes"),
        ({"pools": PoolSizes(univ=301)}, "univ must be at most 300"),
    ],
)
def test_config_errors_name_the_field_the_value_and_the_way_out(setting, message):
    with pytest.raises(ValueError, match=message):
        BiographyConfig(seed=0, **setting)


@pytest.mark.parametrize("field", ["seed", "people", "celebrities"])
def test_numbers_must_be_integers(field):
    with pytest.raises(TypeError, match=f"{field} must be an int, got 1.5"):
        BiographyConfig(**{"seed": 0, field: 1.5})
