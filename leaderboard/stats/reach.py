"""How much smaller a network can be within a margin of dense, shown and estimated; who is on a Pareto front."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr, stdtrit

from leaderboard.reader.model import ALPHA
from leaderboard.stats.statistics import Array

DRAWS = 2000


@dataclass(frozen=True)
class ShownReach:
    """Indices of budgets, from the largest network on; None where there is none.

    Attributes:
        passed: last budget down to which the row is non-inferior to dense at every budget.
        failed: first budget from which on the row is worse than dense by more than the margin at every budget.
    """

    passed: int | None
    failed: int | None


@dataclass(frozen=True)
class EstimatedReach:
    """Factor (dense over final) at which the fitted curve falls below the margin.

    Attributes:
        low, high: 95 % interval over seeds; None with a single seed. At a bound there is no upper end.
        bound: the curve stays within the margin down to the smallest network, so that ``times`` is at least so much.
    """

    times: float
    low: float | None
    high: float | None
    bound: bool


def shown(mean: ArrayLike, error: ArrayLike, freedom: ArrayLike, margin: float) -> ShownReach:
    """Two fixed sequences of one-sided tests at 5 %, which need no correction (Maurer, Hothorn and Lehmacher 1995).

    From the largest network down as long as the difference to dense is above -margin; from the smallest one up as
    long as it is below. NaN (no test) ends a sequence.

    Args:
        mean, error, freedom: ``[budgets]`` from the largest network on, row less dense, as in ``Contrasts``.
        margin: in the unit of ``mean``.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (np.asarray(mean, dtype=float) + margin) / np.asarray(error, dtype=float)
        above, below = stdtr(freedom, -t) < ALPHA, stdtr(freedom, t) < ALPHA
    budgets = len(above)
    passed = budgets if above.all() else int(np.argmin(above))
    failed = budgets if below.all() else int(np.argmin(below[::-1]))
    return ShownReach(passed - 1 if passed else None, budgets - failed if failed else None)


def estimated(differences: ArrayLike, factors: ArrayLike, margin: float) -> EstimatedReach:
    """Where the falling fit to the mean differences crosses -margin, linear in the logarithm of the factor.

    The interval resamples seeds, always with the same draws. Its percentiles lie further out than 2.5 and 97.5, as
    Student's t does, or with five seeds it would be a third too narrow (Hesterberg 2015,
    https://doi.org/10.1080/00031305.2015.1089789, section 5.3).

    Args:
        differences: ``[budgets, seeds]`` from the largest network on, row less dense of the same seed, no NaN.
        factors: ``[budgets]``, dense over final, rising, above 1.
        margin: in the unit of ``differences``, above 0.
    """
    array = np.asarray(differences, dtype=float)
    scale = np.array([0.0, *(math.log(factor) for factor in np.asarray(factors, dtype=float).tolist())])
    n = array.shape[1]
    middle = float(_crossing(falling(array.mean(axis=1)[None]), scale, margin)[0])
    bound = bool(middle >= scale[-1])
    times = float(np.asarray(factors, dtype=float)[-1]) if bound else math.exp(middle)
    if n < 2:
        return EstimatedReach(times, None, None, bound)
    picks = np.random.RandomState(0).randint(n, size=(DRAWS, n))  # a stream that numpy keeps for good
    ends = np.sort(_crossing(falling(array[:, picks].mean(axis=2).T), scale, margin))
    share = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, ALPHA / 2)))
    k = int(share * DRAWS)
    high = None if bound else math.exp(ends[DRAWS - 1 - k])
    return EstimatedReach(times, min(math.exp(ends[k]), times), high, bound)


def falling(curves: Array) -> Array:
    """Least-squares fits that do not rise along the last axis, which is short (pool adjacent violators).

    By its formula of least upper and greatest lower means (Robertson, Wright and Dykstra 1988, eq. 1.4.1), for many
    curves at once: ``scipy.optimize.isotonic_regression`` fits one.
    """
    length = curves.shape[-1]
    sums = np.concatenate([np.zeros((*curves.shape[:-1], 1)), np.cumsum(curves, axis=-1)], axis=-1)
    fits = np.full(curves.shape, np.inf)
    for first in range(length):
        best = np.full(curves.shape[:-1], -np.inf)
        for last in reversed(range(first, length)):
            best = np.maximum(best, (sums[..., last + 1] - sums[..., first]) / (last + 1 - first))
            fits[..., last] = np.minimum(fits[..., last], best)
    return fits


def front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Which points are on the Pareto front of low cost and high value; equal points stay, NaN is not on it.

    A point is off only where another is no worse in both and better in one.
    """
    x, y = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    as_good = (x <= x[:, None]) & (y >= y[:, None])
    beaten = as_good & ((x < x[:, None]) | (y > y[:, None]))
    return ~beaten.any(axis=1) & ~np.isnan(x) & ~np.isnan(y)


def _crossing(fits: Array, scale: Array, margin: float) -> Array:
    """Position on ``scale`` where curves that begin at 0 fall below -margin; the last one where they do not."""
    with_dense = np.concatenate([np.zeros((len(fits), 1)), fits], axis=1)
    below = fits < -margin
    k = np.where(below.any(axis=1), below.argmax(axis=1), fits.shape[1] - 1)
    rows = np.arange(len(fits))
    start, end = with_dense[rows, k], with_dense[rows, k + 1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of curves that do not fall below
        share = (start + margin) / (start - end)
    return np.where(below.any(axis=1), scale[k] + share * (scale[k + 1] - scale[k]), scale[-1])
