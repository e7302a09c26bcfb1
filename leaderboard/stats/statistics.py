"""Statistics over paired seeds: intervals, paired t tests, Holm's correction, tie groups, power.

Accuracies are counted in test images, so two of them cannot differ by less than one: a standard deviation smaller than
what rounding to whole images makes is an accident of few seeds, and that much is taken in its place (``QUANTUM``).
Nothing here is about other test images: an interval says what other seeds would do on the same ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, nctdtr, ndtri, polygamma, stdtr, stdtrit

from leaderboard.reader.model import ALPHA

QUANTUM = math.sqrt(1 / 12)
"""Standard deviation of rounding to whole images, in images; of a difference, sqrt(2) times as much."""
POWER = 0.8
MOST_SEEDS = 1000
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Array = NDArray[np.float64]


def interval(values: Sequence[float], floor: float = 0.0) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None for a single value.

    Args:
        values: one number a seed.
        floor: least standard deviation that is believed.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, half_width(max(deviation, floor), n)


def half_width(deviation: float, n: int) -> float:
    """Half the width of the 95 % interval of a mean of ``n`` values with this standard deviation."""
    return student_quantile(n - 1) * deviation / math.sqrt(n)


@functools.cache
def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom."""
    return float(stdtrit(freedom, 1 - ALPHA / 2))


def _deviations(array: Array, n: NDArray[np.int_]) -> Array:
    """Standard deviations over the last axis of the ``n`` values that are not NaN."""
    known = ~np.isnan(array)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, array, 0.0).sum(axis=-1) / n
        squares = np.where(known, (array - mean[..., None]) ** 2, 0.0).sum(axis=-1)
        return np.sqrt(squares / (n - 1))


@dataclass(frozen=True)
class Family:
    """Paired differences that are tested together, one entry a pair; NaN where a pair has too few common seeds.

    Attributes:
        mean, half: mean difference, and half the width of its 95 % interval.
        p, p_holm: two-sided, alone and corrected for the family (:func:`holm`).
        deviation: standard deviation of the differences, as it was believed.
    """

    mean: Array
    half: Array
    p: Array
    p_holm: Array
    deviation: Array


def family(differences: ArrayLike, rows: int, least: int = 2) -> Family:
    """Moderated paired t tests of many differences of counts of images (Smyth 2004, eq. 4 to 6 and section 6.2).

    Five seeds give a standard deviation that is off by a factor of two as often as not, and of many pairs some look
    certain by that alone. The pairs of one table are much alike in this, so the deviation of each is drawn towards
    that of all, the more so the more alike they are: as much as their spread tells. With a single pair, or pairs that
    have nothing in common, this is the plain t test.

    Args:
        differences: ``[pairs, seeds]`` in images, NaN where a seed is not there.
        rows: how many rows the pairs are made of; bounds the degrees of freedom, since pairs are not independent.
        least: common seeds that a pair needs to be tested.
    """
    array = np.asarray(differences, dtype=float)
    n = (~np.isnan(array)).sum(axis=-1)
    tested = n >= max(least, 2)
    mean = _means(array, n)
    deviation = np.maximum(_deviations(array, n), QUANTUM * math.sqrt(2))
    freedom = np.asarray(n - 1, dtype=float)
    if tested.sum() > 1:
        variance, prior = _common(deviation[tested] ** 2, freedom[tested])
        own = freedom[tested]
        weight = 1.0 if math.isinf(prior) else prior / (prior + own)
        deviation[tested] = np.sqrt(weight * variance + (1 - weight) * deviation[tested] ** 2)
        freedom[tested] = np.minimum(own + prior, max((rows - 1) * own.max(), own.max()))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = stdtrit(np.maximum(freedom, 1), 1 - ALPHA / 2) * deviation / np.sqrt(n)
    p = np.where(tested, _p(mean, deviation, n, freedom), np.nan)
    return Family(mean, np.where(tested, half, np.nan), p, holm(p), deviation)


def _common(variances: Array, freedom: Array) -> tuple[float, float]:
    """The variance that all have in common and how many degrees of freedom it is worth (Smyth 2004, section 6.2)."""
    centered = logs(variances) - digamma(freedom / 2) + logs(freedom / 2)
    spread = float(np.var(centered, ddof=1) - np.mean(polygamma(1, freedom / 2)))
    if spread <= 0:  # no more spread than chance makes: one variance for all
        return math.exp(centered.mean()), math.inf
    prior = 2 * inverse_trigamma(spread)
    return math.exp(centered.mean() + digamma(prior / 2) - math.log(prior / 2)), prior


def logs(values: Array) -> Array:
    """Natural logarithm; numpy's own has other last bits where the processor has AVX-512."""
    return np.array([math.log(value) for value in values.tolist()])


def inverse_trigamma(x: float) -> float:
    """Newton's method on 1 / trigamma, which is nearly a straight line (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-10 * y:
            break
    return y


def _means(array: Array, n: NDArray[np.int_]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(array, axis=-1) / n


def _p(mean: Array, deviation: Array, n: NDArray[np.int_], freedom: ArrayLike) -> Array:
    """Two-sided p of t tests; NaN with fewer than two values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, np.abs(mean) * np.sqrt(n) / deviation)
        return np.where(n < 2, np.nan, 2 * stdtr(freedom, -t))


def holm(p: ArrayLike) -> Array:
    """Adjusted p-values of one family (Holm 1979); NaN stays and does not count."""
    array = np.asarray(p, dtype=float)
    adjusted = np.full(array.shape, np.nan)
    known = np.flatnonzero(~np.isnan(array))
    order = known[np.argsort(array[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1.0)
    return adjusted


def pairwise(wrong: ArrayLike, least: int) -> tuple[Array, Array]:
    """All pairs of rows: how much better one is than another, and Holm's p over all pairs.

    Args:
        wrong: ``[rows, seeds]``, test images that are wrong; NaN where a seed is not there.
        least: common seeds that a pair needs to be tested at all.

    Returns:
        ``better[i, j]``, mean over common seeds of how many images fewer row i gets wrong than row j, and
        ``p[i, j]``, adjusted; 1 where the pair was not tested.
    """
    array = np.asarray(wrong, dtype=float)
    rows = len(array)
    upper = np.triu_indices(rows, 1)
    tests = family(array[upper[1]] - array[upper[0]], rows, least)
    p, better = np.ones((rows, rows)), np.zeros((rows, rows))
    p[upper] = np.nan_to_num(tests.p_holm, nan=1.0)
    better[upper] = np.nan_to_num(tests.mean)
    return better - better.T, np.minimum(p, p.T)


def ranks(better: Array, p: Array) -> list[int]:
    """1 and the number of rows that are better and told apart, for each row."""
    return [1 + int(count) for count in ((better > 0) & (p < ALPHA)).sum(axis=0)]


def groups(p: Array) -> list[str]:
    """Letters for each row, in the order given: two rows share one exactly where their p is not below ``ALPHA``.

    The compact letter display of Piepho 2004 (insert and absorb). All empty where it would take more letters than
    there are.
    """
    rows = len(p)
    columns = [(1 << rows) - 1]
    for i, j in np.argwhere(np.triu(np.asarray(p) < ALPHA, 1)).tolist():
        both = 1 << i | 1 << j
        split = [c & ~(1 << k) for c in columns if c & both == both for k in (i, j)]
        kept = [c for c in columns if c & both != both]
        for column in sorted(split, key=int.bit_count, reverse=True):
            if not any(column & other == column for other in kept):
                kept.append(column)
        columns = kept
        if len(columns) > 20 * len(LETTERS):
            return [""] * rows
    columns.sort(key=lambda column: [not column >> k & 1 for k in range(rows)])
    if len(columns) > len(LETTERS):
        return [""] * rows
    return ["".join(LETTERS[n] for n, c in enumerate(columns) if c >> k & 1) for k in range(rows)]


def seeds_needed(difference: ArrayLike, deviation: ArrayLike, alpha: float = ALPHA) -> Array:
    """Fewest paired seeds that find a true difference in a two-sided t test with 80 % power.

    Args:
        difference: true mean difference, any unit.
        deviation: standard deviation of the differences, the same unit.
        alpha: level of the test, such as ``ALPHA`` over the number of pairs.

    Returns:
        From 2 to 1,000; NaN where more are needed.
    """
    ratio = np.abs(np.asarray(difference, dtype=float)) / np.asarray(deviation, dtype=float)
    effect = np.atleast_1d(ratio)
    with np.errstate(divide="ignore"):
        normal = ((ndtri(1 - alpha / 2) + ndtri(POWER)) / effect) ** 2  # with a known deviation, so never too many
    low = np.clip(np.floor(normal), 1, MOST_SEEDS)
    high = np.clip(np.ceil(normal + ndtri(1 - alpha / 2) ** 2 / 2 + 1), 2, MOST_SEEDS)  # nearly always enough
    high = np.where(_power(effect, high, alpha) >= POWER, high, MOST_SEEDS)
    reachable = _power(effect, high, alpha) >= POWER
    while len(left := np.flatnonzero(reachable & (high - low > 1))):
        middle = (low[left] + high[left]) // 2
        enough = _power(effect[left], middle, alpha) >= POWER
        low[left], high[left] = np.where(enough, low[left], middle), np.where(enough, middle, high[left])
    return np.where(reachable, high, np.nan).reshape(ratio.shape)


def _power(effect: Array, n: Array, alpha: float) -> Array:
    """Power of the paired t test; the chance to find a difference of the wrong sign is left out."""
    limit = stdtrit(n - 1, 1 - alpha / 2)
    found = 1 - nctdtr(n - 1, np.minimum(effect * np.sqrt(n), 30.0), limit)
    return np.where(effect * np.sqrt(n) > 30.0, 1.0, found)
