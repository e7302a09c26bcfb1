"""Against an oracle in plain loops, scipy's own tests, and by hand; by simulation in test_null_boards.py."""

import math
import statistics as plain

import numpy as np
import pytest
from scipy import optimize, special, stats
from support.noise import noise

from leaderboard.reader.model import ALPHA
from leaderboard.stats.contrasts import (
    _median,
    against,
    all_pairs,
    make_prior,
    moderate,
    noisy_rows,
    pooled,
    prior_freedom,
    row_variances,
    within,
)
from leaderboard.stats.verdicts import decide

NAN = math.nan


def oracle(values, reference, quantum):
    """The rule in loops over a table without gaps: (mean, variance, degrees, p) of each row but the reference."""
    rows, seeds = values.shape
    d = seeds - 1
    means = [plain.mean(row) for row in values.tolist()]
    middle = [plain.median(values[i, s] - means[i] for i in range(rows)) for s in range(seeds)]
    own = []
    for i in range(rows):
        residuals = [values[i, s] - means[i] - middle[s] for s in range(seeds)]
        own.append(max(rows / (rows - 1) * plain.variance(residuals), quantum))

    def spread(variances):
        return [math.log(v) - special.psi(d / 2) + math.log(d / 2) for v in variances]

    excess = plain.variance(spread(own)) - special.polygamma(1, d / 2)
    prior = math.inf
    if excess > 0:
        prior = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, 1e9, xtol=1e-14, rtol=1e-14)

    def center(variances):
        shift = math.exp(special.psi(prior / 2)) / (prior / 2) if prior < math.inf else 1.0
        return math.exp(plain.mean(spread(variances))) * shift

    others = [i for i in range(rows) if i != reference]
    differences = [[a - b for a, b in zip(values[i], values[reference], strict=True)] for i in others]
    variances = [max(plain.variance(map(float, one)), 2 * quantum) for one in differences]
    found = []
    for i, one, v in zip(others, differences, variances, strict=True):
        moderated = center(variances) if prior == math.inf else (prior * center(variances) + d * v) / (prior + d)
        degrees = min(prior + d, (rows - 1) * d)
        of_row = center(own) if prior == math.inf else (prior * center(own) + d * own[i]) / (prior + d)
        if own[i] / math.sqrt(center(own) * of_row) > stats.f.ppf(0.85, d, 60):
            moderated, degrees = max(v, moderated), d
        t = plain.mean(map(float, one)) / math.sqrt(moderated / seeds)
        found.append((plain.mean(map(float, one)), moderated, degrees, 2 * stats.t.sf(abs(t), degrees)))
    return others, np.array(found).T


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize(("rows", "seeds"), [(4, 5), (12, 5), (30, 10), (5, 3)])
def test_the_rule_is_that_of_plain_loops(rows, seeds, start):
    values = noise(rows, seeds, (1.0, 0.02)[start % 2], start)
    quantum = (0.0, 1 / 12)[start % 2]
    others, (mean, variance, degrees, p) = oracle(values, 2, quantum)
    found = against(values, 2, quantum=quantum, least=seeds)
    assert found.mean[others] == pytest.approx(mean)
    assert found.deviation[others] ** 2 == pytest.approx(variance)
    assert found.freedom[others] == pytest.approx(degrees)
    assert found.p[others] == pytest.approx(p)
    assert found.p_holm[others] == pytest.approx(by_hand_holm(p))
    assert all(math.isnan(getattr(found, name)[2]) for name in ("mean", "deviation", "freedom", "p", "p_holm"))


def by_hand_holm(p):
    found, so_far = [0.0] * len(p), 0.0
    for place, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        so_far = max(so_far, min(1.0, p[k] * (len(p) - place)))
        found[k] = so_far
    return found


def test_both_ways_of_the_guard_are_taken():
    """Or the test above would say nothing about one of them."""
    found = [against(noise(12, 5, start=start), 2) for start in range(6)]
    own_degrees = np.concatenate([one.freedom == 4 for one in found])
    assert 6 <= own_degrees.sum() <= 40


@pytest.mark.parametrize("seeds", [2, 5, 9])
def test_two_rows_have_the_paired_t_test(seeds):
    values = noise(2, seeds)
    found, expected = against(values, 1, least=2), stats.ttest_rel(values[0], values[1])
    low, high = expected.confidence_interval(0.95)
    assert found.p[0] == found.p_holm[0] == pytest.approx(expected.pvalue)
    assert (found.mean[0] - found.half[0], found.mean[0] + found.half[0]) == pytest.approx((low, high))


def test_a_noisy_row_keeps_its_own_variance():
    values = np.random.default_rng(0).normal(0, 1, (20, 5))
    values[7] += np.array([40, -35, 20, -30, 5])
    found = against(values, 0)
    assert found.p[7] == pytest.approx(stats.ttest_rel(values[7], values[0]).pvalue)
    assert found.freedom[7] == 4 < found.freedom[1]


def test_what_a_seed_does_to_all_rows_changes_no_variance():
    values = noise(9, 5)
    shifted = values + np.array([0, 50, -20, 3, 8])
    assert row_variances(values)[0] == pytest.approx(row_variances(shifted)[0])
    assert against(values, 0).p[1:] == pytest.approx(against(shifted, 0).p[1:])


def test_row_variances_are_the_rows():
    rng = np.random.default_rng(1)
    scales = np.array([1.0, 1, 1, 1, 2, 2, 5, 1, 1, 1])
    values = rng.normal(0, 4, 4000) + scales[:, None] * rng.normal(0, 1, (10, 4000))
    found, freedom = row_variances(values)
    assert found == pytest.approx(scales**2 * 10 / 9, rel=0.12)
    assert (freedom == 3999).all()


def test_row_variances_with_gaps_are_near_those_without():
    values = noise(30, 6, start=3)
    gaps = values.copy()
    gaps[::4, 0] = NAN
    gaps[1::5, 4] = NAN
    whole, (found, freedom) = row_variances(values)[0], row_variances(gaps)
    assert (freedom == 5 - np.isnan(gaps).sum(axis=1)).all()
    untouched = freedom == 5
    assert np.abs(np.log(found / whole))[untouched].max() < 0.2
    huge = gaps + np.array([0, 1e4, -1e4, 300, 0, 7])
    assert row_variances(huge)[0] == pytest.approx(found, rel=1e-6)


def test_a_seed_s_effect_is_the_median_of_what_is_there():
    values = noise(8, 5, start=2)
    values[[0, 3, 3, 6], [0, 1, 2, 2]] = NAN
    assert _median(values) == pytest.approx(np.nanmedian(values, axis=0))
    values[:, 4] = NAN
    assert _median(values)[4] == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_without_two_rows_there_is_no_pair(rows):
    assert np.isnan(all_pairs(np.ones((rows, 5))).p).all()


def test_counts_have_the_variance_of_rounding_at_least():
    values = np.array([[3.0] * 5, [2] * 5, [2, 2, 2, 2, 3]])
    assert (row_variances(values, 1 / 12)[0] >= 1 / 12).all()
    found = against(values, 1, quantum=1 / 12)
    assert (found.deviation[[0, 2]] ** 2 >= 1 / 6 - 1e-12).all()
    alone = against(values[:2], 1, quantum=1 / 12)
    assert alone.p[0] == pytest.approx(2 * stats.t.sf(math.sqrt(5 * 6), 4))


def test_seeds_with_other_numbers_of_images_round_otherwise():
    images = np.array([364, 362, 359, 357, 355])
    quantum = (100 / images) ** 2 / 12
    found = against(np.array([[97.0] * 5, [96.0] * 5]), 1, quantum=quantum)
    assert found.deviation[0] ** 2 == pytest.approx(2 * quantum.mean())


def test_equal_rows_without_noise_are_not_tested_into_certainty():
    found = against(np.zeros((3, 5)), 0)
    assert found.p[1:].tolist() == [1, 1]
    alike = against(np.array([[1.0] * 5, [0.0] * 5, *noise(6, 5)]), 1)
    assert alike.p[0] > 0


def test_too_few_seeds_have_an_interval_and_no_test():
    values = noise(6, 5)
    values[1, 3:] = NAN
    values[2, 1:] = NAN
    found = against(values, 0)
    assert found.seeds.tolist() == [0, 3, 1, 5, 5, 5]
    assert math.isfinite(found.half[1]) and math.isnan(found.half[2])
    assert math.isnan(found.p[1]) and math.isnan(found.p_holm[1])
    assert found.family.tolist() == [-1, -1, -1, 0, 0, 0]
    three = within(np.zeros(3, dtype=int), found.p[3:])
    assert found.p_holm[3:] == pytest.approx(three)
    assert math.isfinite(against(values, 0, least=3).p[1])


def test_seeds_won_count_ties_half():
    found = against(np.array([[3.0, 2, 1, 5, NAN], [2.0, 2, 2, 2, 2]]), 1)
    assert found.won[0] == 2.5


def test_moment_equation_finds_the_prior_again():
    """Variances drawn as the model of Smyth 2004 says, with 6 prior degrees of freedom around 9."""
    rng = np.random.default_rng(3)
    seen = 6 * 9 / rng.chisquare(6, 20_000) * rng.chisquare(4, 20_000) / 4
    freedom = np.full(20_000, 4.0)
    prior = make_prior(seen, freedom, prior_freedom(seen, freedom), 20_000)
    assert (prior.variance, prior.freedom) == (pytest.approx(9, rel=0.05), pytest.approx(6, rel=0.1))


def test_two_noisy_rows_in_all_pairs():
    """A pair keeps its own degrees of freedom where either row is noisy; against a noisy reference only a noisy row."""
    values = np.random.default_rng(1).normal(0, 1, (20, 5))
    values[[2, 7]] *= 9
    pairs, contrasts = all_pairs(values), against(values, 2)
    assert pairs.freedom[2, 5] == pairs.freedom[7, 5] == pairs.freedom[2, 7] == 4
    assert pairs.freedom[0, 5] > 4
    assert contrasts.freedom[7] == 4 < contrasts.freedom[5]


def test_variances_no_wilder_than_chance_become_one():
    variances, freedom = np.array([2.0, 2.1, 1.9, 2.0]), np.full(4, 4.0)
    assert prior_freedom(variances, freedom) == math.inf
    prior = make_prior(variances, freedom, math.inf, 5)
    believed, degrees = moderate(variances, freedom, prior, False)
    assert set(believed.tolist()) == {prior.variance} and set(degrees.tolist()) == {16.0}
    noisy = np.array([True, False, False, True])
    believed, degrees = moderate(np.array([9.0, 9, 0.1, 0.1]), freedom, prior, noisy)
    assert believed.tolist() == [9.0, *[prior.variance] * 3] and degrees.tolist() == [4.0, 16.0, 16.0, 4.0]


# --- all pairs, headlines ---------------------------------------------------------------------------------------------


def test_all_pairs_are_antisymmetric_and_one_family():
    values = noise(6, 5, start=8)
    values[2, 4] = NAN
    found = all_pairs(values)
    assert found.mean.tolist() == (-found.mean.T).tolist()
    assert np.nan_to_num(found.p).tolist() == np.nan_to_num(found.p.T).tolist()
    tested = [(i, j) for i in range(6) for j in range(i + 1, 6) if 2 not in (i, j)]
    assert [found.p_holm[pair] for pair in tested] == pytest.approx(by_hand_holm([found.p[pair] for pair in tested]))
    assert np.isnan(found.p[2]).all() and np.isnan(found.p.diagonal()).all()
    assert found.mean[1, 4] == pytest.approx(values[1].mean() - values[4].mean())
    assert found.won[1, 4] + found.won[4, 1] == 5


def test_pairs_of_three_rows_are_those_against_each():
    """With three rows the prior's degrees are the same for both; the typical variance is that of the family."""
    values = noise(3, 6, start=9)
    pairs = all_pairs(values)
    own = [np.var(values[i] - values[j], ddof=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    freedom = np.full(3, 5.0)
    prior = make_prior(np.array(own), freedom, prior_freedom(*row_variances(values)), 3)
    noisy = noisy_rows(*row_variances(values), np.ones(3, dtype=bool), math.sqrt(0.85))[1]
    believed, degrees = moderate(np.array(own), freedom, prior, noisy[[0, 0, 1]] | noisy[[1, 2, 2]])
    assert pairs.deviation[[0, 0, 1], [1, 2, 2]] ** 2 == pytest.approx(believed)
    assert pairs.freedom[[0, 0, 1], [1, 2, 2]] == pytest.approx(degrees)


EDGES = {
    "no run": np.full((3, 5), NAN),
    "no seed": np.zeros((3, 0)),
    "one row": np.ones((1, 5)),
    "one seed": np.array([[1, NAN], [2, NAN], [3, 4]]),
    "reference without runs": np.array([[NAN] * 4, [1, 2, 3, 4], [1, 2, 3, 6]]),
    "all equal": np.zeros((4, 5)),
    "few common seeds": np.array([[NAN, 1, 2, 3, 4], [1, 2, 3, 4, NAN]]),
}


@pytest.mark.parametrize("quantum", [0.0, 1 / 12])
@pytest.mark.parametrize("name", EDGES)
def test_tables_with_hardly_anything_find_nothing(name, quantum):
    values = EDGES[name]
    for found in (against(values, 0, quantum=quantum), all_pairs(values, quantum=quantum)):
        assert not (found.p_holm < ALPHA).any() and not decide(found, 0.5).better.any()


def test_pooled_endpoint_by_hand():
    wrong = np.array([[[3, 5], [NAN, 0]], [[10, 20], [7, 9]]])
    values, quantum = pooled(wrong, np.array([355, 360]))
    assert values[0, 1] == pytest.approx(-(math.log(5.5 / 360) + math.log(20.5 / 360)) / 2)
    assert quantum[0, 1] == pytest.approx((1 / 12 / 5.5**2 + 1 / 12 / 20.5**2) / 4)
    assert math.isnan(values[1, 0]) and values[1, 1] == pytest.approx(-(math.log(0.5 / 360) + math.log(9.5 / 360)) / 2)
    halved = pooled(np.array([[[9.5], [19.5]]]), 100)[0]
    assert 1 - math.exp(-(halved[0, 0] - halved[1, 0])) == pytest.approx(0.5)


def test_equal_rows_seldom_differ_pooled_over_budgets():
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        shared = rng.normal(0, 0.1, (4, 1, 5))
        wrong = rng.poisson(np.array([5, 8, 15, 40])[:, None, None] * np.exp(shared + rng.normal(0, 0.2, (4, 20, 5))))
        values, quantum = pooled(wrong, 355)
        found += bool((against(values, 0, quantum=quantum).p_holm < ALPHA).any())
    assert found / 200 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
