"""Differences between rows by paired seeds: moderated t tests, corrected within families.

Five seeds give a standard deviation that is off by a factor of two as often as not, so the variance of a difference is
drawn towards that of the family (Smyth 2004, https://doi.org/10.2202/1544-6115.1027). How strongly comes from the
rows' own variances: rows are nearly independent, differences that share a row are not. The differences of a row that
is clearly noisier than the others gain no degrees of freedom and no smaller variance. This shows best in the row's own
variance: twice the deviation is four times the variance of the row, and 2.5 times that of a difference.

Values are ``[rows, seeds]`` in any unit, larger is better, NaN where a run is not there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, fdtri, polygamma, stdtr, stdtrit

from leaderboard.reader.model import ALPHA
from leaderboard.stats.statistics import Array, holm, inverse_trigamma, logs

GUARD, GUARD_FREEDOM = 0.85, 60.0
"""Quantile of F(d, 60) up to which a row's variance passes for one like the others. A higher one finds more and makes
worse intervals of noisy rows; where the rows differ much, more false contrasts (``tools/timing/null_boards.py``)."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Prior:
    """What the rows of a plan say about the variance of one more difference of its kind.

    Attributes:
        variance: typical variance of a difference over seeds, the unit squared (``s0^2``).
        freedom: how many degrees of freedom it is worth (``d0``); 0: none, infinite: all have this variance.
        rows: rows that it was learned from; bounds the degrees of freedom, since differences are not independent.
    """

    variance: float
    freedom: float
    rows: int


@dataclass(frozen=True)
class Contrasts:
    """Differences and their tests, arrays of one shape; NaN where there are too few common seeds.

    Attributes:
        mean: over the common seeds, in the unit of the values; positive: the row is better.
        deviation: standard deviation over seeds, as it is believed.
        freedom: degrees of freedom of the t test.
        seeds: common seeds.
        won: seeds at which the row is better, ties count half.
        family: number of the family; 0 is the plan's, -1 was not tested.
        p, p_holm: two-sided, alone and corrected within the family; NaN where not tested.
    """

    mean: Array
    deviation: Array
    freedom: Array
    seeds: NDArray[np.int_]
    won: Array
    family: NDArray[np.int_]
    p: Array
    p_holm: Array

    @property
    def error(self) -> Array:
        """Standard errors of the means."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.deviation / np.sqrt(self.seeds)

    @property
    def half(self) -> Array:
        """Half the width of the 95 % intervals over other seeds, uncorrected."""
        return stdtrit(self.freedom, 1 - ALPHA / 2) * self.error


def row_variances(values: ArrayLike, quantum: ArrayLike = 0.0, plan: Flags | None = None) -> tuple[Array, Array]:
    """Variance over seeds of each row's own noise, and its degrees of freedom (0 with a single seed).

    What a seed does to all rows alike is the median over the rows, so that a few wild rows do not move it. The factor
    K / (K - 1) gives back what K rows lose to that median.

    Args:
        values: ``[rows, seeds]``, NaN where a run is not there.
        quantum: least variance of one value, broadcast to ``values``: 1/12 for counts.
        plan: which rows that median is taken over; None: all.
    """
    array = np.asarray(values, dtype=float)
    mine = array if plan is None else array[plan]
    known = np.count_nonzero(~np.isnan(mine), axis=1)
    seed = _median(_residuals(mine[known == known.max(initial=0)]))
    if np.isnan(mine).any():  # rows with gaps are centred at other seeds: once more without what these do
        seed = seed + _median(_residuals(mine - seed))
    residuals, rows = _residuals(array - seed), np.count_nonzero(known > 1)
    n = np.count_nonzero(~np.isnan(residuals), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.nansum(residuals**2, axis=1) / (n - 1) * (rows / (rows - 1) if rows > 1 else 1.0)
    floor = _mean(np.where(np.isnan(array), np.nan, quantum))
    return np.where(n > 1, np.maximum(variance, floor), np.nan), np.maximum(n - 1.0, 0.0)


def prior_freedom(variances: Array, freedom: Array) -> float:
    """How many degrees of freedom the common variance is worth: the moment equation of Smyth 2004, section 6.2.

    The spread of the logarithms beyond what chance makes of equal variances; infinite where there is none, 0 with
    fewer than two variances.
    """
    use = (variances > 0) & (freedom > 0)
    if np.count_nonzero(use) < 2:
        return 0.0
    spread = float(np.var(_centered(variances[use], freedom[use]), ddof=1) - polygamma(1, freedom[use] / 2).mean())
    return math.inf if spread <= 0 else 2 * inverse_trigamma(spread)


def make_prior(variances: Array, freedom: Array, prior: float, rows: int) -> Prior:
    """The prior of a family from its differences' variances (Smyth 2004, section 6.2), given its degrees of freedom.

    Args:
        variances, freedom: of the differences of the plan's rows.
        prior: see :func:`prior_freedom`.
        rows: of the plan.
    """
    use = (variances > 0) & (freedom > 0)
    if prior == 0 or np.count_nonzero(use) < 2:
        return Prior(math.nan, 0.0, rows)
    shift = 0.0 if math.isinf(prior) else float(digamma(prior / 2)) - math.log(prior / 2)
    return Prior(math.exp(float(_centered(variances[use], freedom[use]).mean()) + shift), prior, rows)


def noisy_rows(variances: Array, freedom: Array, plan: Flags, guard: float = GUARD) -> tuple[Prior, Flags]:
    """What the plan's rows have in common, and which of all rows are clearly noisier than that.

    A row's variance is compared with the geometric mean of the typical one and its own moderated one. The typical one
    alone calls half of the rows noisy where they differ much; the moderated one alone follows a noisy row.
    """
    mine = variances[plan], freedom[plan]
    prior = make_prior(*mine, prior_freedom(*mine), int(np.count_nonzero(mine[1])))
    drawn, _ = moderate(variances, freedom, prior, False)
    with np.errstate(invalid="ignore"):
        ratio = variances / np.sqrt(prior.variance * drawn)
        return prior, ratio > fdtri(np.maximum(freedom, 1), GUARD_FREEDOM, guard)


def moderate(variances: Array, freedom: Array, prior: Prior, noisy: ArrayLike) -> tuple[Array, Array]:
    """Believed variances and degrees of freedom (Smyth 2004, eq. 4); ``noisy`` differences gain nothing by it."""
    if prior.freedom == 0:
        return variances, freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1 / (1 + freedom / prior.freedom)
        drawn = weight * prior.variance + (1 - weight) * variances
        more = np.minimum(prior.freedom + freedom, max(prior.rows - 1, 1) * freedom)
    return np.where(noisy, np.maximum(variances, drawn), drawn), np.where(noisy, freedom, more)


def against(
    values: ArrayLike,
    reference: int,
    owners: Sequence[Hashable] | None = None,
    quantum: ArrayLike = 0.0,
    least: ArrayLike = 5,
) -> Contrasts:
    """Every row less one reference: the planned contrasts, arrays ``[rows]``; NaN at the reference itself.

    Args:
        values: ``[rows, seeds]``, larger is better, NaN where a run is not there.
        reference: index of a row.
        owners: whose each row is. The rows of the reference's owner are the plan's: the prior comes from them alone.
            Those of each other owner are tested with that prior and are a family of their own, so that they change
            no number of another owner's row. None: all are the plan's.
        quantum: least variance of one value, broadcast to ``values``: 1/12 for counts.
        least: common seeds that a test needs, one number or one a row; with two there is an interval.
    """
    array, floor, names, plan = _prepare(values, quantum, owners, reference)
    rows, noisy = noisy_rows(*row_variances(array, floor, plan), plan)
    differences = array - array[reference]
    differences[reference] = np.nan
    family = np.array([names.index(owner) for owner in owners or [0] * len(array)], dtype=int)
    return _tests(differences, floor + floor[reference], plan, rows, noisy, family, least)


def all_pairs(values: ArrayLike, quantum: ArrayLike = 0.0, least: ArrayLike = 5) -> Contrasts:
    """All pairs of rows as one family, arrays ``[rows, rows]``: entry ``i, j`` is row i less row j; for the letters.

    Arguments as for :func:`against`, rows of the plan only; ``least`` may be ``[rows, rows]``.
    """
    array, floor, _, plan = _prepare(values, quantum, None, 0)
    i, j = np.triu_indices(len(array), 1)
    rows, noisy = noisy_rows(*row_variances(array, floor), plan, math.sqrt(GUARD))  # either row may be noisy
    every, family = np.ones(len(i), dtype=bool), np.zeros(len(i), dtype=int)
    seeds = np.broadcast_to(np.asarray(least), plan.shape * 2)[i, j]
    found = _tests(array[i] - array[j], floor[i] + floor[j], every, rows, noisy[i] | noisy[j], family, seeds)
    other = {"mean": -found.mean, "won": found.seeds - found.won}
    diagonal = {"mean": 0, "deviation": 0, "seeds": 0, "family": -1}
    square = {}
    for name, entries in vars(found).items():
        square[name] = np.full(plan.shape * 2, diagonal.get(name, math.nan), dtype=entries.dtype)
        square[name][i, j], square[name][j, i] = entries, other.get(name, entries)
    return Contrasts(**square)


def pooled(wrong: ArrayLike, images: ArrayLike) -> tuple[Array, Array]:
    """The primary endpoint of headlines: top-1 over several budgets, as less the mean of ln((wrong + 0.5) / images).

    Larger is better. A difference of d is an error that is 1 - exp(-d) of the other's smaller. Also returns the least
    variance of each value, which is what rounding to whole images makes of it: the quantum of :func:`against`.

    Args:
        wrong: ``[budgets, rows, seeds]`` in images, NaN where a run is not there.
        images: in the test set, broadcast to ``wrong``.
    """
    counts = np.asarray(wrong, dtype=float) + 0.5
    shares = counts / np.asarray(images, dtype=float)
    terms = logs(shares.ravel()).reshape(shares.shape)
    return -terms.mean(axis=0), (1 / 12 / counts**2).sum(axis=0) / len(counts) ** 2


def within(family: NDArray[np.int_], p: Array) -> Array:
    """Holm's p within each family; NaN stays."""
    corrected = np.full(p.shape, np.nan)
    for one in np.unique(family):
        corrected[family == one] = holm(p[family == one])
    return corrected


def _prepare(
    values: ArrayLike, quantum: ArrayLike, owners: Sequence[Hashable] | None, reference: int
) -> tuple[Array, Array, list[Hashable], Flags]:
    """Values and least variances at the plan's seeds, owners with the plan's first, and which rows are the plan's."""
    array = np.asarray(values, dtype=float)
    floor = np.broadcast_to(np.asarray(quantum, dtype=float), array.shape)
    whose = [0] * len(array) if owners is None else list(owners)
    names = list(dict.fromkeys([*whose[reference : reference + 1], *whose]))
    plan = np.array([owner == names[0] for owner in whose], dtype=bool)
    seeds = ~np.isnan(array[plan]).all(axis=0)  # those of others alone would change the rounding of sums
    return array[:, seeds], floor[:, seeds], names, plan


def _tests(
    differences: Array,
    floor: Array,
    plan: Flags,
    rows: Prior,
    noisy: Flags,
    family: NDArray[np.int_],
    least: ArrayLike,
) -> Contrasts:
    known = ~np.isnan(differences)
    n = np.count_nonzero(known, axis=1)
    mean = _mean(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.nansum((differences - mean[:, None]) ** 2, axis=1) / (n - 1)
    variance = np.where(n > 1, np.maximum(variance, _mean(np.where(known, floor, np.nan))), np.nan)
    freedom = np.maximum(n - 1.0, 0.0)
    prior = make_prior(variance[plan], freedom[plan], rows.freedom, rows.rows)
    believed, degrees = moderate(variance, freedom, prior, noisy)
    tested = n >= np.maximum(least, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean * np.sqrt(n / believed))
        p = np.where(tested, 2 * stdtr(degrees, -np.abs(t)), np.nan)
    family = np.where(tested, family, -1)
    won = np.count_nonzero(differences > 0, axis=1) + np.count_nonzero(differences == 0, axis=1) / 2
    degrees = np.where(n > 1, degrees, np.nan)
    return Contrasts(mean, np.sqrt(believed), degrees, n, won, family, p, within(family, p))


def _centered(variances: Array, freedom: Array) -> Array:
    """Logarithms of variances less what chance adds to them (Smyth 2004, section 6.2)."""
    return logs(variances) - digamma(freedom / 2) + logs(freedom / 2)


def _residuals(array: Array) -> Array:
    return array - _mean(array)[:, None]


def _mean(array: Array) -> Array:
    """Over the last axis, of what is there; NaN of nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nansum(array, axis=-1) / np.count_nonzero(~np.isnan(array), axis=-1)


def _median(array: Array) -> Array:
    """Over the first axis, of what is there; 0 of nothing."""
    if not len(array):
        return np.zeros(array.shape[1])
    n, column, ordered = np.count_nonzero(~np.isnan(array), axis=0), np.arange(array.shape[1]), np.sort(array, axis=0)
    middle = (ordered[(n - 1) // 2, column] + ordered[n // 2, column]) / 2  # NaN is sorted to the end
    return np.where(n > 0, middle, 0.0)
