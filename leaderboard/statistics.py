"""Statistics over paired seeds: intervals, paired t tests, Holm's correction, tie groups, power.

Accuracies are counted in test images, so two of them cannot differ by less than one: a standard deviation smaller than
what rounding to whole images makes is an accident of few seeds, and that much is taken in its place (``QUANTUM``).
Nothing here is about other test images: an interval says what other seeds would do on the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, stdtr, stdtrit

from leaderboard.model import ALPHA

QUANTUM = math.sqrt(1 / 12)
"""Standard deviation of rounding to whole images, in images; of a difference, sqrt(2) times as much."""
POWER = 0.8
MOST_SEEDS = 1000
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Array = NDArray[np.float64]


def interval(values: ArrayLike, floor: float = 0.0) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval (Student's t); None for a single value.

    Args:
        values: one number a seed.
        floor: least standard deviation that is believed.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()), None
    deviation = max(float(array.std(ddof=1)), floor)
    return float(array.mean()), half_width(deviation, len(array))


def half_width(deviation: float, n: int) -> float:
    """Half the width of the 95 % interval of a mean of ``n`` values with this standard deviation."""
    return float(stdtrit(n - 1, 1 - ALPHA / 2)) * deviation / math.sqrt(n)


def half_widths(values: ArrayLike, floor: float = 0.0) -> Array:
    """Half widths of the 95 % intervals of means over the last axis; NaN values are left out, NaN where one is left."""
    array = np.asarray(values, dtype=float)
    n = (~np.isnan(array)).sum(axis=-1)
    deviation = np.maximum(_deviations(array, n), floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n < 2, np.nan, stdtrit(np.maximum(n - 1, 1), 1 - ALPHA / 2) * deviation / np.sqrt(n))


def _deviations(array: Array, n: NDArray[np.int_]) -> Array:
    """Standard deviations over the last axis of the ``n`` values that are not NaN."""
    known = ~np.isnan(array)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, array, 0.0).sum(axis=-1) / n
        squares = np.where(known, (array - mean[..., None]) ** 2, 0.0).sum(axis=-1)
        return np.sqrt(squares / (n - 1))


def paired_p(differences: ArrayLike, floor: float = 0.0) -> Array:
    """Two-sided p of the paired t test, over the last axis; NaN stands for a seed that is not there.

    Args:
        differences: ``[..., seeds]``.
        floor: least standard deviation that is believed.

    Returns:
        ``[...]``; NaN where fewer than two seeds are there.
    """
    array = np.asarray(differences, dtype=float)
    n = (~np.isnan(array)).sum(axis=-1)
    deviation = np.maximum(_deviations(array, n), floor)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(array, axis=-1) / n
        t = np.where(mean == 0, 0.0, np.abs(mean) * np.sqrt(n) / deviation)
        p = 2 * stdtr(n - 1, -t)
    return np.where(n < 2, np.nan, p)


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
    differences = array[None, :, :] - array[:, None, :]
    n = (~np.isnan(differences)).sum(axis=-1)
    raw = np.where(n >= least, paired_p(differences, QUANTUM * math.sqrt(2)), np.nan)
    upper = np.triu_indices(rows, 1)
    p = np.ones((rows, rows))
    p[upper] = np.nan_to_num(holm(raw[upper]), nan=1.0)
    p = np.minimum(p, p.T)
    with np.errstate(invalid="ignore"):
        better = np.where(n > 0, np.nansum(differences, axis=-1) / np.maximum(n, 1), 0.0)
    return better, p


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
    for i in range(rows):
        for j in range(i + 1, rows):
            if p[i, j] >= ALPHA:
                continue
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
    effect = np.abs(np.asarray(difference, dtype=float)) / np.asarray(deviation, dtype=float)
    low, high = np.full(effect.shape, 1.0), np.full(effect.shape, float(MOST_SEEDS))
    reachable = _power(effect, high, alpha) >= POWER
    while np.any(high - low > 1):
        middle = np.where(high - low > 1, (low + high) // 2, high)
        enough = _power(effect, middle, alpha) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reachable, high, np.nan)


def _power(effect: Array, n: Array, alpha: float) -> Array:
    """Power of the paired t test; the chance to find a difference of the wrong sign is left out."""
    limit = stdtrit(n - 1, 1 - alpha / 2)
    found = 1 - nctdtr(n - 1, np.minimum(effect * np.sqrt(n), 30.0), limit)
    return np.where(effect * np.sqrt(n) > 30.0, 1.0, found)


def deviation_of(differences: Sequence[float]) -> float:
    """Standard deviation of differences in images, at least what rounding makes."""
    return max(float(np.std(differences, ddof=1)), QUANTUM * math.sqrt(2))
