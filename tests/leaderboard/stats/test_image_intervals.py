"""Against the analysis of variance in plain loops, limiting cases, and by simulation with fixed seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from leaderboard.stats.image_intervals import image_interval, refit_factor


def bits(seeds=4, images=30, start=0, difference=0.0):
    rng = np.random.default_rng(start)
    hard = rng.uniform(0, 1, images)
    return rng.uniform(0, 1, (2, seeds, images)) < (hard + np.array([difference, 0.0])[:, None, None])


def oracle(row, reference):
    """Mean squares by loops over cells, then mean, error and degrees as in the module's formula."""
    S, N = row.shape
    d = [[int(row[s, i]) - int(reference[s, i]) for i in range(N)] for s in range(S)]
    mean = sum(map(sum, d)) / (S * N)
    seed = [sum(one) / N for one in d]
    image = [sum(d[s][i] for s in range(S)) / S for i in range(N)]
    ms_seed = N * sum((x - mean) ** 2 for x in seed) / (S - 1)
    ms_image = S * sum((x - mean) ** 2 for x in image) / (N - 1)
    rest = sum((d[s][i] - seed[s] - image[i] + mean) ** 2 for s in range(S) for i in range(N))
    ms_rest = rest / ((S - 1) * (N - 1))
    both = ms_seed + ms_image - ms_rest
    variance = max(both, ms_seed, ms_image)
    squares = {"seed": ms_seed**2 / (S - 1), "image": ms_image**2 / (N - 1), "rest": ms_rest**2 / ((S - 1) * (N - 1))}
    degrees = {both: both**2 / sum(squares.values()), ms_seed: S - 1, ms_image: N - 1}[variance]
    return mean, math.sqrt(variance / (S * N)), max(degrees, S - 1)


@pytest.mark.parametrize("start", range(8))
@pytest.mark.parametrize(("seeds", "images"), [(2, 12), (5, 40), (7, 25)])
def test_the_formula_is_that_of_plain_loops(seeds, images, start):
    row, reference = bits(seeds, images, start, 0.1)
    mean, error, degrees = oracle(row, reference)
    found = image_interval(row, reference)
    assert (found.mean, found.error) == (pytest.approx(mean), pytest.approx(error))
    assert found.freedom == pytest.approx(degrees)
    assert found.half == pytest.approx(stats.t.ppf(0.975, degrees) * error)


def test_all_three_cases_of_the_formula_come_up():
    cases = set()
    for start in range(30):
        row, reference = bits(3, 12, start, 0.1)
        found = image_interval(row, reference)
        cases.add("seed" if found.freedom == 2 else "image" if found.freedom == pytest.approx(11) else "both")
    assert cases == {"seed", "image", "both"}


def test_seeds_that_differ_and_images_that_do_not_are_the_t_test_over_seeds():
    row, reference = np.zeros((2, 5, 200), dtype=bool)
    for s, count in enumerate((3, 60, 20, 90, 41)):
        row[s, np.random.default_rng(s).permutation(200)[:count]] = True
    found = image_interval(row, reference)
    over_seeds = stats.ttest_1samp(row.mean(axis=1), 0).confidence_interval(0.95)
    assert found.mean + found.half == pytest.approx(over_seeds.high, rel=0.02)


def test_the_same_images_in_every_seed_are_the_t_test_over_images():
    row, reference = np.zeros((2, 5, 400), dtype=bool)
    row[:, :37] = True
    found = image_interval(row, reference)
    expected = stats.ttest_1samp(row[0].astype(float), 0).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )


def test_the_believed_variance_takes_the_place_of_that_of_the_seeds():
    row, reference = bits(5, 50, 1)
    own = float(np.var(row.mean(axis=1) - reference.mean(axis=1), ddof=1))
    plain, same = image_interval(row, reference), image_interval(row, reference, own, 4.0)
    assert (same.error, same.freedom) == (pytest.approx(plain.error), pytest.approx(plain.freedom))
    wide = image_interval(row, reference, 100 * own, 11.0)
    assert wide.error > 3 * plain.error
    assert wide.error == pytest.approx(math.sqrt(100 * own / 5), rel=0.1)
    assert 10.5 < wide.freedom < 14


def test_sides_change_the_sign_only():
    row, reference = bits(5, 50, 2, 0.2)
    found, other = image_interval(row, reference), image_interval(reference, row)
    assert (found.mean, found.error, found.freedom) == (-other.mean, pytest.approx(other.error), other.freedom)


def test_equal_bits_have_no_error_of_their_own():
    row, _ = bits()
    found = image_interval(row, row)
    assert (found.mean, found.error, found.half) == (0, 0, 0)


def test_refit_factor_of_five_folds():
    assert refit_factor(5) == pytest.approx(1.5)


@pytest.mark.parametrize(("seeds", "images"), [(5, 355), (10, 2000)])
def test_interval_covers_new_seeds_and_images(seeds, images):
    """Each image has its own true difference; new ones are drawn in every data set."""
    rng, covered, sets = np.random.default_rng(0), 0, 300
    for _ in range(sets):
        wrong = rng.choice([0.001, 0.3], images, p=[0.9, 0.1])
        other = np.clip(wrong + rng.choice([0, 0.3, -0.3], images, p=[0.8, 0.1, 0.1]) * (wrong > 0.1), 0, 1)
        row, reference = rng.uniform(size=(seeds, images)) > other, rng.uniform(size=(seeds, images)) > wrong
        found = image_interval(row, reference)
        covered += abs(found.mean) <= found.half  # the true difference over all images is 0
    assert covered / sets >= 0.93 - 4 * math.sqrt(0.07 * 0.93 / sets)
