"""Whether two ways to score the same runs order methods alike: rank correlation of means, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES, LEVEL, LEAST_SEEDS = 2000, 0.95, 3


@dataclass(frozen=True)
class Agreement:
    """Spearman's correlation of the methods' means, its interval over seeds, and the correlation of single runs.

    The interval is None with fewer than three seeds; a correlation is None where all scores of one way are equal.
    """

    methods: int
    seeds: int
    of_means: float | None
    interval: tuple[float, float] | None
    of_runs: float | None


def agreement(scores: Mapping[str, Mapping[int, tuple[float, float]]]) -> Agreement:
    """How far the two scores of each run agree, given method -> seed -> both; seeds that all methods have count.

    Resampled are seeds, for all methods at once, since runs of one seed share their base and split.
    """
    seeds = sorted(set.intersection(*(set(of_one) for of_one in scores.values())))
    table = np.array([[of_one[seed] for seed in seeds] for of_one in scores.values()])  # [methods, seeds, 2]
    chance = np.random.default_rng(0)
    interval = None
    if len(seeds) >= LEAST_SEEDS:
        drawn = (chance.integers(len(seeds), size=len(seeds)) for _ in range(RESAMPLES))
        found = [rho for draw in drawn if (rho := spearman(*table[:, draw].mean(axis=1).T)) is not None]
        if found:
            low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
            interval = float(low), float(high)
    of_means, of_runs = spearman(*table.mean(axis=1).T), spearman(*table.reshape(-1, 2).T)
    return Agreement(len(scores), len(seeds), of_means, interval, of_runs)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Correlation of ranks, ties at their mean; None where one has a single value."""
    from scipy.stats import rankdata

    ranks = [rankdata(values.round(12)) for values in (first, second)]  # means of equal numbers differ by rounding
    if any((rank == rank[0]).all() for rank in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])
