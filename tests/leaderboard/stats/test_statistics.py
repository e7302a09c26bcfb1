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
    assert np.isnan(ours.family([[4.0]], 2).p).all()


def test_equal_counts_have_the_interval_of_rounding():
    assert ours.interval([3, 3, 3], ours.QUANTUM)[1] == pytest.approx(ours.half_width(math.sqrt(1 / 12), 3))


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_one_pair_has_the_plain_t_test(n):
    differences = np.arange(n) ** 2 % 7 - 1.0
    found = ours.family(differences[None], 2)
    expected = stats.ttest_1samp(differences, 0)
    low, high = expected.confidence_interval(0.95)
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    assert (found.mean - found.half, found.mean + found.half) == (pytest.approx(low), pytest.approx(high))


def test_seeds_that_are_not_there_are_left_out():
    nan = math.nan
    with_holes, without = ours.family([[1.0, nan, 2.0, 4.0, nan]], 2), ours.family([[1.0, 2.0, 4.0]], 2)
    assert with_holes.p == pytest.approx(without.p)
    assert with_holes.mean == pytest.approx(without.mean)
    assert np.isnan(ours.family([[1.0, nan, 2.0, 4.0, nan]], 2, least=4).p).all()


def test_no_deviation_below_rounding_is_believed():
    t = math.sqrt(5) / math.sqrt(1 / 6)
    assert ours.family([[1.0] * 5], 2).p == pytest.approx(2 * stats.t.sf(t, 4))
    assert ours.family([[0.0] * 5], 2).p == 1


def test_holm_by_hand():
    assert ours.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ours.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_holm_does_not_count_what_was_not_tested():
    found = ours.holm([0.01, math.nan, 0.02])
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])


def test_moderated_variance_lies_between_its_own_and_that_of_all():
    differences = RNG.normal(0, [[3.0], [8.0], [20.0], [60.0], [5.0]], (5, 5))
    own, found = differences.std(axis=1, ddof=1), ours.family(differences, 6)
    center = (found.deviation**2 - own**2) / own**2
    assert (np.sign(center[own.argmin()]), np.sign(center[own.argmax()])) == (1, -1)
    assert np.argsort(found.deviation).tolist() == np.argsort(own).tolist()


def test_alike_variances_become_one_and_unlike_ones_stay():
    alike = np.array([[4.0, -4, 4, -4, 0]] * 6)
    assert ours.family(alike, 4).deviation == pytest.approx(np.std(alike[0], ddof=1), rel=0.2)
    scales = np.geomspace(1, 1e6, 12)[:, None]
    unlike = scales * np.array([[4.0, -4, 4, -4, 0]])
    assert ours.family(unlike, 6).deviation[4:] == pytest.approx(unlike.std(axis=1, ddof=1)[4:], rel=0.1)


def test_the_common_variance_is_found_again():
    """Variances drawn as the model of Smyth 2004 says, with 6 prior degrees of freedom around 9."""
    rng = np.random.default_rng(3)
    true = 6 * 9 / rng.chisquare(6, 20_000)
    seen = true * rng.chisquare(4, 20_000) / 4
    variance, prior = ours._common(seen, np.full(20_000, 4.0))
    assert variance == pytest.approx(9, rel=0.05)
    assert prior == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize("x", [1e-4, 0.1, 1.0, 50.0, 1e4])
def test_inverse_of_trigamma(x):
    from scipy.special import polygamma

    assert polygamma(1, ours.inverse_trigamma(x)) == pytest.approx(x)


def test_pairwise_is_the_family_of_all_pairs():
    wrong = RNG.integers(0, 60, (4, 6)).astype(float)
    better, p = ours.pairwise(wrong, 5)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    tests = ours.family([wrong[j] - wrong[i] for i, j in pairs], 4)
    for (i, j), expected in zip(pairs, tests.p_holm, strict=True):
        assert p[i, j] == p[j, i] == pytest.approx(expected)
        assert better[i, j] == -better[j, i] == pytest.approx((wrong[j] - wrong[i]).mean())


def test_degrees_of_freedom_are_bounded_by_those_of_the_rows():
    wrong = np.array([[0.0, 1, 0, 1, 0], [9, 10, 11, 9, 10], [20, 22, 20, 21, 20]])
    pairs = wrong[[1, 2, 2]] - wrong[[0, 0, 1]]
    tests = ours.family(pairs, 3)
    t = tests.mean * math.sqrt(5) / tests.deviation
    assert (tests.p >= 2 * stats.t.sf(np.abs(t), 8) * (1 - 1e-9)).all()


def test_pairwise_tests_no_pair_with_too_few_common_seeds():
    nan = math.nan
    wrong = [[0, 0, 0, 0, nan], [50, 51, 52, 50, 51], [50, 51, 52, 50, 80]]
    _, p = ours.pairwise(wrong, 5)
    assert p[0, 1] == p[0, 2] == 1


@some.composite
def tables(draw):
    rows = draw(some.integers(1, 8))
    cell = some.one_of(some.just(math.nan), some.integers(0, 30).map(float))
    return np.array([[draw(cell) for _ in range(5)] for _ in range(rows)])


@given(tables())
def test_letters_are_shared_exactly_by_what_cannot_be_told_apart(wrong):
    _, p = ours.pairwise(wrong, 3)
    letters = ours.groups(p)
    for i in range(len(wrong)):
        assert letters[i]
        for j in range(i):
            assert bool(set(letters[i]) & set(letters[j])) == (p[i, j] >= ALPHA)


@given(tables(), some.randoms())
def test_ranks_go_with_the_rows_whatever_their_order(wrong, random):
    order = list(range(len(wrong)))
    random.shuffle(order)
    plain = ours.ranks(*ours.pairwise(wrong, 3))
    mixed = ours.ranks(*ours.pairwise(wrong[order], 3))
    assert [plain[k] for k in order] == mixed


def test_a_rank_counts_those_that_are_clear_of_it():
    wrong = np.array([[1, 2, 1, 2, 1], [1, 2, 2, 2, 1], [30, 31, 30, 29, 30], [60, 61, 59, 60, 60]], dtype=float)
    better, p = ours.pairwise(wrong, 5)
    assert ours.ranks(better, p) == [1, 1, 3, 4]
    assert ours.groups(p) == ["a", "a", "b", "c"]


def test_letters_that_would_be_too_many_are_none():
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


@pytest.mark.parametrize("rows", [2, 8])
def test_equal_methods_are_seldom_told_apart(rows):
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):
        right = rng.normal(93, 0.2, (rows, 5)) + rng.normal(0, 0.3, 5)
        _, p = ours.pairwise(np.round((100 - right) * 100), 5)  # of 10,000 images
        found += bool((p < ALPHA).any())
    assert found / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
