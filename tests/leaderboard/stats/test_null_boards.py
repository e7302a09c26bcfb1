"""The scenarios of tools/timing/null_boards.py: 200 boards, fixed seeds, the limit and four standard errors."""

import math

import numpy as np
import pytest

from leaderboard.stats.reach import shown
from tools.timing.null_boards import JUDGES, of_row_1
from tools.timing.null_tables import COVERED, CURVES, NULL, counts

BOARDS = 200


def beyond(limit):
    """Per cent that a limit makes with four standard errors of a simulation."""
    return limit + 400 * math.sqrt(limit / 100 * (1 - limit / 100) / BOARDS)


def judged(name, rows, seeds, rule="new"):
    shape = (BOARDS, rows, seeds)
    return JUDGES[rule](NULL[name][0](np.random.default_rng(0), shape), seeds - 2 * ("lack" in name))


@pytest.mark.parametrize(("rows", "seeds"), [(30, 5), (10, 10)])
@pytest.mark.parametrize("name", NULL)
def test_equal_rows_seldom_differ(name, rows, seeds):
    boards = judged(name, rows, seeds)
    assert 100 * np.mean([one.significant.any() for one in boards]) <= beyond(NULL[name][1])
    assert 100 * np.mean([one.any_pair for one in boards]) <= beyond(5)


@pytest.mark.parametrize("rows", [3, 4, 6])
@pytest.mark.parametrize("name", ["all alike", "one row 5x as noisy", "half of the rows 3x as noisy"])
def test_equal_rows_of_small_boards_seldom_differ(name, rows):
    assert 100 * np.mean([one.significant.any() for one in judged(name, rows, 5)]) <= beyond(6)


@pytest.mark.parametrize("rows", [30, 10])
@pytest.mark.parametrize("name", COVERED)
def test_intervals_of_noisy_rows_hold_the_truth(name, rows):
    place, least = COVERED[name]
    held = 100 * np.mean([(np.abs(one.mean) <= one.half)[place].mean() for one in judged(name, rows, 5)])
    assert 100 - held <= beyond(100 - least)


def test_the_rule_of_0_1_is_found_out():
    """Or these tests could not fail."""
    boards = judged("one row 5x as noisy", 30, 5, "old")
    assert 100 * np.mean([one.significant.any() for one in boards]) > beyond(5)
    assert 100 * np.mean([abs(one.mean[0]) > one.half[0] for one in boards]) > beyond(7)


@pytest.mark.parametrize(("rows", "seeds", "least"), [(30, 5, 50), (30, 10, 90), (10, 5, 60)])
def test_half_a_point_is_found_with_ten_thousand_images(rows, seeds, least):
    truth = np.where(np.arange(rows) == 1, -50.0, 0)[:, None]
    tables = counts(np.random.default_rng(0), (BOARDS, rows, seeds), 20, 700, 30, truth=truth)
    missed = 100 * np.mean([not one.significant[0] for one in JUDGES["new"](tables)])
    assert missed <= beyond(100 - least)


@pytest.mark.parametrize("name", CURVES)
def test_a_row_at_the_margin_is_seldom_shown_to_reach_it(name):
    truth, first = CURVES[name]
    passed = [shown(*tests, 5.0).passed for _, tests in of_row_1(BOARDS, truth, 12, 5, 1000, 0.3, 0.5)]
    assert 100 * np.mean([last is not None and last >= first for last in passed]) <= beyond(5)
