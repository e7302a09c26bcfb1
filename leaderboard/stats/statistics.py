"""Statistics over paired seeds: intervals, Holm's correction, tie groups, power.

Accuracies are counted in test images, so two of them cannot differ by less than one: a standard deviation smaller than
what rounding to whole images makes is an accident of few seeds, and that much is taken in its place (``QUANTUM``).
Nothing here is about other test images: an interval says what other seeds would do on the same ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, ndtri, polygamma, stdtrit

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
def student_quantile(freedom: int, outside: float = ALPHA) -> float:
    """The quantile of Student's t with so many degrees of freedom beyond which, on both sides, ``outside`` lies."""
    return float(stdtrit(freedom, 1 - outside / 2))


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


def holm(p: ArrayLike) -> Array:
    """Adjusted p-values of one family (Holm 1979); NaN stays and does not count."""
    array = np.asarray(p, dtype=float)
    adjusted = np.full(array.shape, np.nan)
    known = np.flatnonzero(~np.isnan(array))
    order = known[np.argsort(array[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(array[order] * factors), 1.0)
    return adjusted


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
