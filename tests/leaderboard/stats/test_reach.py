"""Against scipy's monotone regression, plain loops, by hand, and by simulation with fixed seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import optimize, stats

from leaderboard.stats.reach import EstimatedReach, ShownReach, estimated, falling, front, shown

FACTORS = [4 / 3, 2.0, 4.0, 10.0]


@given(some.lists(some.floats(-100, 100), min_size=1, max_size=7))
def test_falling_fit_is_scipys(values):
    expected = optimize.isotonic_regression(values, increasing=False).x
    assert falling(np.array([values, values]))[1] == pytest.approx(expected, abs=1e-9)


def test_shown_reach_by_hand():
    error, freedom = np.full(4, 0.1), np.full(4, 20.0)
    assert shown([0, -0.1, -0.6, -2], error, freedom, 0.5) == ShownReach(1, 3)
    assert shown([0, -0.1, -0.45, -0.5], error, freedom, 0.5) == ShownReach(1, None)
    assert shown([0.0] * 4, error, freedom, 0.5) == ShownReach(3, None)
    assert shown([-3.0] * 4, error, freedom, 0.5) == ShownReach(None, 0)
    assert shown([-0.5] * 4, error, freedom, 0.5) == ShownReach(None, None)


def test_a_sequence_ends_at_its_first_failure():
    error, freedom = np.full(4, 0.1), np.full(4, 20.0)
    assert shown([0, -0.5, 0, 0], error, freedom, 0.5).passed == 0  # what comes after is not looked at
    assert shown([-2, -2, 0, -2], error, freedom, 0.5).failed == 3
    assert shown([0, math.nan, 0, 0], error, freedom, 0.5).passed == 0
    assert shown([math.nan, 0, 0, 0], error, freedom, 0.5).passed is None


@pytest.mark.parametrize("mean", [-0.3, -0.32, -0.33, -0.34, -0.66, -0.68, -0.7])
def test_each_step_is_a_one_sided_t_test_at_five_per_cent(mean):
    found = shown([mean], [0.1], [9.0], 0.5)
    t = (mean + 0.5) / 0.1
    assert (found.passed == 0) == (stats.t.sf(t, 9) < 0.05)
    assert (found.failed == 0) == (stats.t.cdf(t, 9) < 0.05)


def test_estimated_reach_by_hand():
    flat = np.zeros((4, 5))
    assert estimated(flat, FACTORS, 0.5) == EstimatedReach(10.0, 10.0, None, True)
    curve = np.array([0.0, -0.25, -0.75, -3])[:, None] + np.zeros(5)
    found = estimated(curve, FACTORS, 0.5)
    assert found.times == pytest.approx(math.exp((math.log(2) + math.log(4)) / 2))
    assert (found.low, found.high, found.bound) == (pytest.approx(found.times), pytest.approx(found.times), False)
    at_once = estimated(curve - 2, FACTORS, 0.5)
    assert at_once.times == pytest.approx(math.exp(0.25 * math.log(4 / 3)))


def test_a_dip_between_good_budgets_is_pooled():
    dip = np.array([0.0, -0.6, 0.1, 0.0])[:, None] + np.zeros(5)
    assert estimated(dip, FACTORS, 0.5).bound
    assert not estimated(dip - np.array([0, 0, 0, 2])[:, None], FACTORS, 0.5).bound


def test_one_seed_has_no_interval():
    found = estimated([[0.0], [-1.0]], [2.0, 4.0], 0.5)
    assert (found.low, found.high) == (None, None)
    assert found.times == pytest.approx(2 * math.sqrt(2))


curves = some.lists(some.lists(some.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=5)


@given(curves)
def test_reach_lies_between_one_and_the_smallest_network(rows):
    factors = [2.0 ** (k + 1) for k in range(len(rows))]
    found = estimated(rows, factors, 0.5)
    assert 1 <= found.low <= found.times <= factors[-1]
    assert found.high is None if found.bound else 1 < found.high <= factors[-1]


@given(curves)
def test_the_same_seeds_have_the_same_interval_in_any_run(rows):
    factors = [2.0 ** (k + 1) for k in range(len(rows))]
    assert estimated(rows, factors, 0.5) == estimated(rows, factors, 0.5)


@given(curves, some.floats(0.1, 1))
def test_a_wider_margin_reaches_no_less(rows, margin):
    factors = [2.0 ** (k + 1) for k in range(len(rows))]
    assert estimated(rows, factors, 2 * margin).times >= estimated(rows, factors, margin).times


def plain_front(points):
    return [
        not any(
            a[0] <= b[0] and a[1] >= b[1] and (a[0] < b[0] or a[1] > b[1]) for k, a in enumerate(points) if k != place
        )
        for place, b in enumerate(points)
    ]


@given(some.lists(some.tuples(some.integers(0, 4), some.integers(0, 4)), min_size=1, max_size=10))
def test_front_is_that_of_plain_loops(points):
    cost, value = zip(*points, strict=True)
    assert front(cost, value).tolist() == plain_front(points)


def test_ties_stay_on_the_front():
    assert front([1, 1, 2, 2, 3], [5, 5, 5, 6, 6]).tolist() == [True, True, False, True, False]
    assert front([1, math.nan, 0], [5, 9, math.nan]).tolist() == [True, False, False]


def test_an_interval_of_a_crossing_covers():
    rng, covered, sets = np.random.default_rng(1), 0, 200
    truth = np.array([-0.1, -0.3, -0.9, -2.0])[:, None]
    true = estimated(truth + np.zeros(5), FACTORS, 0.5).times
    for _ in range(sets):
        found = estimated(truth + rng.normal(0, 0.3, (4, 5)), FACTORS, 0.5)
        covered += found.low <= true and (found.high is None or true <= found.high)
    assert covered / sets >= 0.9 - 4 * math.sqrt(0.09 / sets)
