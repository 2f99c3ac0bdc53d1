"""The committed pools: sizes, texts and distributions of the biography world, and reduced worlds."""

import importlib.util
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from physlm.worlds.bios.pools import (
    ATTRIBUTES,
    DATE_PARTS,
    NAME_POOLS,
    VALUE_POOLS,
    Pools,
    PoolSizes,
    first_token_chance,
    load_pools,
    whole_attribute_chance,
)

ROOT = Path(__file__).parents[3]
POOLS_FILE = ROOT / "physlm" / "worlds" / "bios" / "data" / "pools.json"
SIZES = {"bcity": 200, "univ": 300, "major": 100, "cname": 263, "ccity": 133}
SMALL = PoolSizes(
    first=60, middle=50, last=40, bcity=30, univ=25, major=20, cname=50, first_year=1950, years=50, months=6, days=14
)


@pytest.fixture(scope="module")
def pools():
    return load_pools()


@pytest.fixture
def content():
    return json.loads(POOLS_FILE.read_text())


def mean_words(texts):
    return sum(len(text.split()) for text in texts) / len(texts)


def first_word(text):
    return text.split()[0]


# --- the committed data ---------------------------------------------------------------------------


def test_cardinalities(pools):
    assert (len(pools.first), len(pools.middle), len(pools.last), len(pools.months)) == (400, 400, 1000, 12)
    assert (pools.days[0], pools.days[-1], pools.years[0], pools.years[-1]) == ("1", "28", "1900", "2099")
    assert {name: len(pools.values[name]) for name in VALUE_POOLS} == SIZES
    assert {name: len(pools.short_values[name]) for name in VALUE_POOLS} == SIZES
    assert pools.headquarters.shape == (263,)


@pytest.mark.parametrize("name", [*NAME_POOLS, "months"])
def test_names_are_single_alphabetic_words_and_distinct(pools, name):
    texts = getattr(pools, name)
    assert len(set(texts)) == len(texts)
    assert all(text.isalpha() and text.isascii() for text in texts)


@pytest.mark.parametrize("name", VALUE_POOLS)
def test_values_are_clean_and_distinct(pools, name):
    texts = pools.values[name]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert re.fullmatch(r"[A-Za-z0-9 ,'&-]+", text), text
        assert text == " ".join(text.split())
        assert text[0].isalnum()
        assert text[-1].isalnum()


@pytest.mark.parametrize("name", ["bcity", "ccity"])
def test_cities_end_with_a_state_code(pools, name):
    assert all(re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)?, [A-Z]{2}", text) for text in pools.values[name])


def test_short_values_are_single_words_with_one_meaning_each(pools):
    words = [word for name in VALUE_POOLS for word in pools.short_values[name]]
    assert all(word.isalpha() and word.isascii() and word[0].isupper() for word in words)
    assert len(set(words)) == len(words)
    assert not set(words) & {*pools.first, *pools.middle, *pools.last, *pools.months}


def test_short_values_are_recognisable(pools):
    for name in ("bcity", "ccity"):
        for full, short in zip(pools.values[name], pools.short_values[name], strict=True):
            assert full.split(",")[0].replace(" ", "").lower() == short.lower()
    for full, short in zip(pools.values["univ"], pools.short_values["univ"], strict=True):
        assert short in full.split()
    for full, short in zip(pools.values["cname"], pools.short_values["cname"], strict=True):
        assert short.startswith(re.split("[^A-Za-z]", full)[0])
    for full, short in zip(pools.values["major"], pools.short_values["major"], strict=True):
        assert " " in full or full == short


def test_names_share_strings_across_slots(pools):
    # Official lists: 286 of 400 strings are shared by first and middle, 64 first names are last names.
    assert len(set(pools.first) & set(pools.middle)) > 150
    assert len(set(pools.first) & set(pools.last)) > 30
    assert pools.first != pools.middle


def test_word_statistics_follow_the_paper(pools):
    values = pools.values
    assert mean_words(values["univ"]) == pytest.approx(3.6, abs=0.05)
    assert mean_words(values["cname"]) == pytest.approx(1.64, abs=0.05)
    assert mean_words(values["major"]) == pytest.approx(1.54, abs=0.01)
    assert mean_words(values["bcity"]) == pytest.approx(2.3, abs=0.01)
    assert mean_words(values["ccity"]) == pytest.approx(2.3, abs=0.01)
    assert sum(first_word(text) == "University" for text in values["univ"]) == 111
    assert Counter(map(first_word, values["univ"])).most_common(2)[1][1] == 1
    assert sum(" " not in text for text in values["major"]) == 49
    assert len(set(map(first_word, values["cname"]))) == 252


def test_headquarters_have_the_occupancy_of_the_paper(pools):
    occupancy = np.sort(np.bincount(pools.headquarters))[::-1]
    assert len(occupancy) == 133
    assert occupancy[:5].tolist() == [36, 11, 11, 8, 7]
    assert (occupancy == 1).sum() == 90
    share = occupancy / occupancy.sum()
    assert -(share * np.log2(share)).sum() == pytest.approx(6.31, abs=0.01)


@pytest.mark.parametrize("count", [60, 100])
def test_a_prefix_is_a_fair_sample(pools, count):
    universities = pools.values["univ"][:count]
    assert sum(first_word(text) == "University" for text in universities) / count == pytest.approx(0.37, abs=0.15)
    companies = pools.values["cname"][:count]
    assert mean_words(companies) == pytest.approx(1.63, abs=0.2)
    assert sum(" " not in text for text in pools.values["major"][:count]) / count == pytest.approx(0.49, abs=0.15)


def test_script_reproduces_the_committed_file(content):
    faker = pytest.importorskip("faker", reason="Faker is not installed")
    if content["faker_version"] != faker.VERSION:
        pytest.skip(f"pools were built with Faker {content['faker_version']}, installed is {faker.VERSION}")
    path = ROOT / "scripts" / "build_biography_pools.py"
    spec = importlib.util.spec_from_file_location("build_biography_pools", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.serialize(script.build(content["seed"])) == POOLS_FILE.read_text()
    assert script.build(content["seed"] + 1)["first"] != content["first"]


def test_pools_are_read_once_read_only_and_picklable(pools):
    assert load_pools() is pools
    with pytest.raises(ValueError, match="read-only"):
        pools.headquarters[0] = 1
    copy = pickle.loads(pickle.dumps(pools))
    assert copy.values == pools.values


# --- reduced worlds -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["full", "short"])
def test_reduced_takes_prefixes(pools, form):
    small = pools.reduced(SMALL, form)
    source = pools.values if form == "full" else pools.short_values
    assert (small.first, small.middle, small.last) == (pools.first[:60], pools.middle[:50], pools.last[:40])
    assert small.months == pools.months[:6]
    assert small.days == tuple(map(str, range(1, 15)))
    assert small.years == tuple(map(str, range(1950, 2000)))
    for name in VALUE_POOLS:
        assert small.values[name] == source[name][: len(small.values[name])]
    assert [len(small.values[name]) for name in VALUE_POOLS] == [30, 25, 20, 50, 25]


def test_reduced_at_full_size_changes_nothing(pools):
    same = pools.reduced(PoolSizes())
    assert same.values == pools.values
    assert np.array_equal(same.headquarters, pools.headquarters)


@pytest.mark.parametrize("companies", [*range(2, 20), 30, 49, 50, 60, 99, 131, 200, 262, 263])
def test_reduced_headquarters_keep_the_profile(pools, companies):
    small = pools.reduced(PoolSizes(cname=companies))
    occupancy = np.bincount(small.headquarters)
    assert occupancy.sum() == companies
    assert occupancy.min() >= 1
    assert abs(len(occupancy) - companies * 133 / 263) <= 1
    assert occupancy.max() >= 2
    assert abs(occupancy.max() - max(2, companies * 36 / 263)) <= 1
    if companies >= 50:
        assert (occupancy == 1).mean() > 0.5
        assert (occupancy == occupancy.max()).sum() == 1
    assert np.array_equal(small.headquarters, pools.reduced(PoolSizes(cname=companies)).headquarters)


@pytest.mark.parametrize("field", ["first", "last", "bcity", "univ", "major", "cname"])
def test_reduced_rejects_more_than_there_is(pools, field):
    with pytest.raises(ValueError, match=rf"{field} must be at most \d+, .* got 1001"):
        pools.reduced(PoolSizes(**{field: 1001}))


def test_reduced_rejects_unknown_form(pools):
    with pytest.raises(ValueError, match='"full" or "short", got \'long\''):
        pools.reduced(PoolSizes(), "long")


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("first", 0, "≥ 1"),
        ("cname", 1, "≥ 2"),
        ("months", 13, "in 1..12"),
        ("days", 29, "in 1..28"),
        ("years", 9000, "in 1..8100"),
        ("first_year", 999, "in 1000..9999"),
    ],
)
def test_sizes_reject_out_of_range(field, value, limit):
    with pytest.raises(ValueError, match=re.escape(f"{field} must be {limit}, got {value}")):
        PoolSizes(**{field: value})


@pytest.mark.parametrize("value", [10.0, True, "10"])
def test_sizes_reject_other_types(value):
    with pytest.raises(TypeError, match="univ must be an int"):
        PoolSizes(univ=value)


# --- chance ---------------------------------------------------------------------------------------


def test_whole_attribute_chance_of_the_paper(pools):
    chance = whole_attribute_chance(pools, PoolSizes())
    assert tuple(chance) == ATTRIBUTES
    percent = {name: round(100 * p, 1) for name, p in chance.items()}
    assert percent == {"date": 0.0, "bcity": 0.5, "univ": 0.3, "major": 1.0, "cname": 0.4, "ccity": 13.7}
    assert np.mean(list(chance.values())) == pytest.approx(0.027, abs=0.001)
    assert chance["date"] == 1 / (200 * 12 * 28)


def test_whole_attribute_chance_of_date_parts(pools):
    small = pools.reduced(SMALL, "short")
    assert whole_attribute_chance(small, SMALL, ("month",))["date"] == pytest.approx(1 / 6)
    assert whole_attribute_chance(small, SMALL, ("month", "year"))["date"] == pytest.approx(1 / 300)
    assert whole_attribute_chance(small, SMALL)["univ"] == pytest.approx(1 / 25)


def test_first_token_chance_by_words(pools):
    chance = first_token_chance(pools, PoolSizes(), DATE_PARTS, first_word)
    assert tuple(chance) == ATTRIBUTES
    assert chance["date"] == pytest.approx(1 / 12)
    assert chance["univ"] == pytest.approx(0.37)
    assert chance["ccity"] >= 36 / 263
    assert first_token_chance(pools, PoolSizes(), ("day",), first_word)["date"] == pytest.approx(1 / 28)
    assert first_token_chance(pools, PoolSizes(), ("year",), lambda text: text[:2])["date"] == pytest.approx(0.5)


def test_first_token_chance_of_one_word_values_is_whole_attribute_chance(pools):
    small = pools.reduced(SMALL, "short")
    whole = whole_attribute_chance(small, SMALL, ("month",))
    assert first_token_chance(small, SMALL, ("month",), first_word) == pytest.approx(whole)


def test_chance_wants_matching_sizes_and_parts(pools):
    with pytest.raises(ValueError, match=r"200 entries in bcity but sizes say 30: pass pools\.reduced"):
        whole_attribute_chance(pools, SMALL)
    for parts in ((), "month", ("hour",), ("day", "day")):
        with pytest.raises(ValueError, match="date_parts must be"):
            whole_attribute_chance(pools, PoolSizes(), parts)


# --- user-supplied files --------------------------------------------------------------------------


def write(tmp_path, content):
    path = tmp_path / "pools.json"
    path.write_text(json.dumps(content))
    return path


def test_from_file_reads_the_committed_layout(tmp_path, content, pools):
    del content["faker_version"], content["seed"]
    loaded = Pools.from_file(write(tmp_path, content))
    assert loaded.values == pools.values
    assert np.array_equal(loaded.headquarters, pools.headquarters)


def put(*path):
    """A mutation that sets `content[path[0]]…[path[-2]] = path[-1]`."""

    def mutate(content):
        *parents, key, value = path
        for parent in parents:
            content = content[parent]
        content[key] = value

    return mutate


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (put("first", 3, "Mary Ann"), r"first\[3\] must be one word of ASCII letters, got 'Mary Ann'"),
        (put("last", 0, "Müller"), r"last\[0\] must be one word"),
        (put("middle", []), "middle must have at least one entry"),
        (put("last", "Smith"), "last must be a list of strings, got 'Smith'"),
        (put("first", [1]), r"first\[0\] must be .*, got 1"),
        (put("first", ["Ada", "Ada"]), "first must have distinct entries, got 'Ada'"),
        (put("cname", "full", 0, "Stone Inc."), r"cname\.full\[0\] must be .*, got 'Stone Inc\.'"),
        (put("cname", "full", 0, " Stone"), r"cname\.full\[0\] must be"),
        (put("univ", "full", 1, "Two  Spaces"), r"univ\.full\[1\] must be .*single spaces"),
        (put("bcity", "short", 2, "Two Words"), r"bcity\.short\[2\] must be one word"),
        (put("major", "short", ["Art"]), r"major\.short must be aligned with the 100 values"),
        (put("major", "full", None), r"major\.full must be a list"),
        (put("ccity", ["Here"]), "ccity must be an object with the lists"),
        (put("months", ["May"]), "months must be 12 names, got 1"),
        (put("headquarters", [0]), "headquarters must have one city index for each of the 263 companies"),
        (put("headquarters", 0, 133), r"indices into ccity, 0\.\.132, got 133"),
        (put("headquarters", [0] * 263), "must use every company city, got no company in city 1"),
        (put("headquarters", 0, "1"), "headquarters must be a list of integers"),
        (put("version", 2), "version must be 1, got 2"),
        (put("colour", []), r"unknown \['colour'\]"),
        (lambda content: content.pop("univ"), r"missing \['univ'\]"),
    ],
)
def test_from_file_says_what_is_wrong(tmp_path, content, mutate, message):
    mutate(content)
    with pytest.raises(ValueError, match=message):
        Pools.from_file(write(tmp_path, content))


def test_from_file_wants_an_object(tmp_path):
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        Pools.from_file(write(tmp_path, []))
