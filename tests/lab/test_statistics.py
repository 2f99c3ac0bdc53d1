import numpy as np
import pytest
from scipy import stats

from physlm.lab.statistics import (
    bootstrap_interval,
    paired_bootstrap,
    paired_differences,
    proportion_interval,
    seed_interval,
    wilson_interval,
)


def generator(key):
    return np.random.Generator(np.random.Philox(key=key))


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_seed_interval_equals_scipy(count, level):
    values = generator(count).normal(0.3, 0.1, count)
    interval = seed_interval(list(values), level)
    expected = stats.t.interval(level, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.over == "seeds"


@pytest.mark.parametrize(("successes", "items"), [(0, 10), (3, 10), (10, 10), (487, 1000), (1, 1)])
def test_wilson_equals_scipy(successes, items):
    interval = wilson_interval(successes, items)
    expected = stats.binomtest(successes, items).proportion_ci(0.95, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_seed_interval_covers_what_it_claims():
    draws = generator(1).normal(0.5, 0.02, (2000, 3))
    intervals = [seed_interval(list(row), proportion=True, items_per_seed=1000) for row in draws]
    assert np.mean([i.low <= 0.5 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


def test_seed_interval_near_one_covers_what_it_claims():
    """Seeds that scatter on the logit scale around 97 %, seen through 2,000 items."""
    source = generator(2)
    centre = np.log(0.97 / 0.03)
    rates = 1 / (1 + np.exp(-source.normal(centre, 0.4, (2000, 3))))
    values = source.binomial(2000, rates) / 2000
    intervals = [seed_interval(list(row), proportion=True, items_per_seed=2000) for row in values]
    assert np.mean([i.low <= 0.97 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.02)
    assert all(0 < i.low < i.high < 1 for i in intervals)


def test_seed_interval_stays_inside_and_contains_the_mean():
    interval = seed_interval([1.0, 1.0, 0.4], proportion=True, items_per_seed=500)
    assert 0 <= interval.low <= 0.8 <= interval.high <= 1
    plain = seed_interval([0.95, 0.99], proportion=True)
    assert plain.high == 1.0


def test_seeds_that_agree_do_not_make_certainty():
    interval = seed_interval([1.0, 1.0, 1.0], proportion=True, items_per_seed=100)
    assert interval.low == pytest.approx(wilson_interval(100, 100).low)
    assert seed_interval([0.0, 0.0], items_per_seed=30).high == pytest.approx(0.1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, np.nan]])
def test_seed_interval_refuses(values):
    with pytest.raises(ValueError, match=r"at least 2 values|finite"):
        seed_interval(values)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        seed_interval([0.5, 1.2], proportion=True)


def test_proportion_interval_independent_items_is_wilson():
    items = generator(3).random(400) < 0.3
    interval, expected = proportion_interval(items), wilson_interval(items.sum(), 400)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=2e-4)


def test_proportion_interval_knows_clusters():
    """Six copies of every answer carry the information of one."""
    people = generator(4).random(300) < 0.3
    copied = proportion_interval(np.repeat(people[:, None], 6, axis=1))
    alone = proportion_interval(people)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    independent = proportion_interval(generator(5).random((300, 6)) < 0.3)
    assert independent.high - independent.low < 0.6 * (alone.high - alone.low)


def test_bootstrap_matches_the_normal_interval_and_is_deterministic():
    items = generator(6).normal(0.2, 1.0, 2000)
    first, second = bootstrap_interval(items), bootstrap_interval(items)
    assert first == second
    margin = 1.96 * items.std() / np.sqrt(2000)
    assert (first.low, first.high) == pytest.approx((items.mean() - margin, items.mean() + margin), abs=0.004)


def test_bootstrap_covers_what_it_claims():
    source = generator(7)
    hits = []
    for _ in range(300):
        both = source.random((150, 3))
        interval = paired_bootstrap(both < 0.6, both < 0.3, resamples=800)
        hits.append(interval.low <= 0.3 <= interval.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.04)


def test_pairing_and_checks():
    assert paired_bootstrap(np.ones(30), np.ones(30)).high == pytest.approx(0.1)
    assert paired_differences({1: 0.5, 2: 0.25}, {2: 0.0, 1: 0.5}) == {1: 0.0, 2: 0.25}
    with pytest.raises(ValueError, match="seeds differ"):
        paired_differences({1: 0.5}, {2: 0.5})
    with pytest.raises(ValueError, match="equal shapes"):
        paired_bootstrap(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(np.array([np.nan]))
    with pytest.raises(ValueError, match="between 0 and items"):
        wilson_interval(3, 2)
