"""Against plain loops, scipy's own tests, by hand, and by simulation with fixed seeds."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from leaderboard.stats.contrasts import against, all_pairs
from leaderboard.stats.verdicts import decide, order_shown, rank_ranges, shaffer, smallest_found

RNG = np.random.default_rng(5)
TABLE = RNG.normal(0, 3, 5) + RNG.normal(0, 0.2, (8, 5)) + np.array([0, 0, 0.1, -0.6, 2, -2, 0.5, -0.3])[:, None]


def by_hand(low, high):
    """Shaffer's first procedure: the factor at a step is how many null hypotheses may still be true together."""
    items = [(p, k, side) for side, ps in enumerate((low, high)) for k, p in enumerate(ps)]
    items.sort(key=lambda item: item[0])
    found, so_far, left = {}, 0.0, list(items)
    for item in items:
        possible = len({k for _, k, _ in left})
        so_far = max(so_far, min(1.0, possible * item[0]))
        found[item[1:]] = so_far
        left.remove(item)
    return [[found[k, side] for k in range(len(low))] for side in (0, 1)]


@given(some.lists(some.tuples(some.floats(0, 1), some.floats(0, 1)), min_size=1, max_size=8))
def test_correction_by_hand(pairs):
    low, high = map(np.array, zip(*pairs, strict=True))
    assert shaffer(low, high)[0] == pytest.approx(by_hand(low, high)[0])
    assert shaffer(low, high)[1] == pytest.approx(by_hand(low, high)[1])


@given(some.lists(some.floats(0, 1), min_size=1, max_size=8))
def test_with_both_sides_equal_it_is_holms(ps):
    """A difference is equivalent where the larger p is small, and of larger ones this is Holm's correction."""
    from leaderboard.stats.statistics import holm

    p = np.array(ps)
    assert np.maximum(*shaffer(p, p)) == pytest.approx(holm(p))


def test_one_difference_is_two_one_sided_t_tests():
    found = decide(against(TABLE[[3, 0]], 1), 0.9)
    differences = TABLE[3] - TABLE[0]
    assert found.p_low[0] == pytest.approx(stats.ttest_1samp(differences, -0.9, alternative="greater").pvalue)
    assert found.p_high[0] == pytest.approx(stats.ttest_1samp(differences, 0.9, alternative="less").pvalue)
    assert math.isnan(found.p_low[1]) and math.isnan(found.smallest[1])


def test_verdicts_are_those_of_the_intervals_in_plain_loops():
    contrasts = against(TABLE, 0)
    found = decide(contrasts, 0.5)
    low = [stats.t.sf((m + 0.5) / e, f) for m, e, f in zip(contrasts.mean, contrasts.error, contrasts.freedom)][1:]
    high = [stats.t.sf((0.5 - m) / e, f) for m, e, f in zip(contrasts.mean, contrasts.error, contrasts.freedom)][1:]
    low, high = by_hand(low, high)
    for k, (a, b) in enumerate(zip(low, high, strict=True), 1):
        assert (found.p_low[k], found.p_high[k]) == (pytest.approx(a), pytest.approx(b))
        assert found.noninferior[k] == (a < 0.05)
        assert found.equivalent[k] == (a < 0.05 and b < 0.05)
        assert found.better[k] == (contrasts.p_holm[k] < 0.05 and contrasts.mean[k] > 0)
        assert found.worse[k] == (contrasts.p_holm[k] < 0.05 and contrasts.mean[k] < 0)


def test_words_of_rows_that_are_clear():
    values = np.round(RNG.normal(0, 30, 5) + RNG.normal(0, 8, (7, 5)))
    values += np.array([0, 300, -300, 0, -60, 60, 90])[:, None]
    found = decide(against(values, 0, quantum=1 / 12), 100)
    assert found.words(1) == ("better",)
    assert found.words(2) == ("worse",)
    assert found.words(3) == ("equivalent",)
    assert found.words(4) == ("worse", "equivalent")
    assert found.words(5) == ("better", "equivalent")
    assert found.words(0) == ("undecided",)
    assert found.decided.tolist() == [False, True, True, True, True, True, True]
    tight = decide(against(values, 0, quantum=1 / 12), 1)
    assert tight.words(3) == ("undecided",)


def test_better_by_more_than_the_margin_is_not_equivalent():
    values = np.array([[0.0] * 5, [2.0, 2.1, 1.9, 2, 2], [0, 0.1, -0.1, 0, 0.05]])
    found = decide(against(values, 0), 1.0)
    assert (found.equivalent.tolist(), found.better[1], found.noninferior[1]) == ([False, False, True], True, True)


def test_undecided_and_noninferior_alone():
    values = np.zeros((2, 5))
    values[1] = [0.1, 0.9, 1.5, -0.3, 0.7]
    found = decide(against(values, 0), 0.9)
    assert found.words(1) == ("non-inferior",)
    assert not found.decided.any()


def test_too_few_seeds_have_no_verdict():
    values = TABLE.copy()
    values[4, 0] = np.nan
    found = decide(against(values, 0), 0.5)
    assert found.words(4) == ("undecided",)
    assert math.isnan(found.p_low[4])
    without = decide(against(np.delete(values, 4, 0), 0), 0.5)
    assert np.isfinite(np.delete(found.p_low, 4)[1:]).all() and np.isfinite(without.p_low[1:]).all()


def test_rows_of_others_are_corrected_apart():
    owners = ["suite"] * 8 + ["acme"] * 3
    added = np.concatenate([TABLE, TABLE[3:4], 100 * RNG.normal(0, 1, (2, 5))])
    alone, with_others = decide(against(TABLE, 0), 0.5), decide(against(added, 0, owners), 0.5)
    for name in ("p_low", "p_high", "smallest", "equivalent", "noninferior", "better", "worse"):
        assert getattr(with_others, name)[:8].tobytes() == getattr(alone, name).tobytes()


@pytest.mark.parametrize(("freedom", "tests"), [(4, 1), (4, 29), (116, 29), (9, 348), (13.7, 28)])
def test_smallest_difference_has_the_power(freedom, tests):
    found = float(smallest_found(0.1, freedom, tests))
    limit = stats.t.ppf(1 - 0.025 / tests, freedom)
    assert stats.nct.sf(limit, freedom, found / 0.1) == pytest.approx(0.8, abs=1e-4)


def test_smallest_difference_is_found_as_often_as_it_says():
    rng, hits, boards = np.random.default_rng(0), 0, 2000
    lead = float(smallest_found(math.sqrt(2 / 5), 4, 1))
    for _ in range(boards):
        values = rng.normal(0, 1, (2, 5))
        values[0] += lead
        hits += decide(against(values, 1), 0.5).better[0]
    assert hits / boards == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / boards))


def test_rank_ranges_count_significant_pairs():
    mean = np.array([[0, 1, 2, 3], [-1, 0, 1, 2], [-2, -1, 0, 1], [-3, -2, -1, 0]], dtype=float)
    p = np.full((4, 4), np.nan)
    for i, j in itertools.permutations(range(4), 2):
        p[i, j] = 0.01 if abs(i - j) > 1 else 0.5
    assert rank_ranges(mean, p) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert order_shown(rank_ranges(mean, p))
    nothing = rank_ranges(mean, np.ones((4, 4)))
    assert nothing == [(1, 4)] * 4 and not order_shown(nothing)


@given(some.permutations(range(8)))
def test_rank_ranges_go_with_the_rows(order):
    plain, mixed = all_pairs(TABLE), all_pairs(TABLE[order])
    expected = rank_ranges(plain.mean, plain.p_holm)
    assert rank_ranges(mixed.mean, mixed.p_holm) == [expected[k] for k in order]
    for first, last in expected:
        assert 1 <= first <= last <= 8


@pytest.mark.parametrize("signs", [[-1] * 29, [1] * 29, [-1, 1] * 14 + [1]], ids=["below", "above", "both"])
@pytest.mark.parametrize("deviation", [0.14, 0.35])
def test_at_the_margin_nothing_is_equivalent(signs, deviation):
    """All rows exactly a margin away from the reference: any false claim of a board, of either kind."""
    rng, false, boards = np.random.default_rng(1), 0, 200
    truth = np.array([0, *signs], dtype=float)[:, None]
    for _ in range(boards):
        found = decide(against(truth + rng.normal(0, 0.3, 5) + rng.normal(0, deviation, (30, 5)), 0), 1.0)
        false += bool(found.equivalent.any() or (found.noninferior & (truth[:, 0] < 0)).any())
    assert false / boards <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / boards)


def test_equal_rows_are_shown_equivalent():
    rng, shown = np.random.default_rng(2), []
    for _ in range(50):
        values = rng.normal(0, 0.3, 5) + rng.normal(0, 0.14, (30, 5))
        shown.append(decide(against(values, 0), 0.5).equivalent[1:].mean())
    assert np.mean(shown) > 0.8


def test_planted_gaps_get_few_wrong_verdicts():
    """A third of the rows each at 0, half and twice the margin below: any verdict of a board that is wrong."""
    rng, wrong, boards = np.random.default_rng(3), 0, 200
    truth = np.array([0, *[0, -0.25, -1.0] * 9, 0, 0])
    for _ in range(boards):
        found = decide(against(truth[:, None] + rng.normal(0, 0.3, 5) + rng.normal(0, 0.2, (30, 5)), 0), 0.5)
        wrong += bool((found.better | (found.worse & (truth == 0)) | (found.noninferior & (truth < -0.5))).any())
    assert wrong / boards <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / boards)
