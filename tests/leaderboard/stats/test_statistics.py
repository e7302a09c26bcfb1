"""Against scipy's own tests, by hand, and by simulation with fixed seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from leaderboard.reader.model import ALPHA
from leaderboard.stats import statistics as ours

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_interval_is_students(n):
    values = RNG.normal(3, 2, n)
    mean, half = ours.interval(values)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_value_has_no_interval():
    assert ours.interval([4.0]) == (4.0, None)


def test_equal_counts_have_the_interval_of_rounding():
    assert ours.interval([3, 3, 3], ours.QUANTUM)[1] == pytest.approx(ours.half_width(math.sqrt(1 / 12), 3))


def test_holm_by_hand():
    assert ours.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ours.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_holm_does_not_count_what_was_not_tested():
    found = ours.holm([0.01, math.nan, 0.02])
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])


@pytest.mark.parametrize("x", [1e-4, 0.1, 1.0, 50.0, 1e4])
def test_inverse_of_trigamma(x):
    from scipy.special import polygamma

    assert polygamma(1, ours.inverse_trigamma(x)) == pytest.approx(x)


@some.composite
def p_values(draw):
    rows = draw(some.integers(1, 8))
    p = np.ones((rows, rows))
    for i, j in zip(*np.triu_indices(rows, 1), strict=True):
        p[i, j] = p[j, i] = draw(some.sampled_from([0.001, 0.2]))
    return p


@given(p_values())
def test_letters_are_shared_exactly_by_what_is_not_significantly_different(p):
    letters = ours.groups(p)
    for i in range(len(p)):
        assert letters[i]
        for j in range(i):
            assert bool(set(letters[i]) & set(letters[j])) == (p[i, j] >= ALPHA)


def test_too_many_letters_are_left_out():
    n = 120  # a row of n/2 separate pairs that are alike in all ways but one: 2^(n/2) groups
    p = np.ones((n, n))
    for k in range(0, n, 2):
        p[k, k + 1] = p[k + 1, k] = 0.0
    assert ours.groups(p) == [""] * n


@pytest.mark.parametrize(("effect", "deviation"), [(0.2, 0.15), (0.2, 0.15 * math.sqrt(2)), (0.5, 0.3), (1.0, 0.4)])
def test_seeds_needed_is_the_fewest_with_the_power(effect, deviation):
    def power(n):
        limit = stats.t.ppf(0.975, n - 1)
        return stats.nct.sf(limit, n - 1, effect / deviation * math.sqrt(n))

    needed = int(ours.seeds_needed(effect, deviation))
    assert power(needed) >= 0.8 > power(needed - 1)


def test_seeds_needed_has_an_end():
    assert np.isnan(ours.seeds_needed([0.0, 1e-9], [1.0, 1.0])).all()
    assert ours.seeds_needed(100.0, 0.1) == 2
