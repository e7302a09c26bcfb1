"""Rank correlation of two scores of the same runs."""

import numpy as np
import pytest
from scipy import stats

from leaderboard.stats.rank_agreement import agreement, spearman


def test_correlation_of_ranks():
    first, second = np.array([1.0, 2, 2, 4, 9]), np.array([2.0, 1, 3, 3, 8])
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert spearman(first, first**3) == pytest.approx(1)
    assert spearman(np.ones(3), np.arange(3.0)) is None


def test_means_of_methods_over_the_seeds_that_all_have():
    chance = np.random.default_rng(1)
    scores = {f"m{k}": {seed: (k + chance.normal(), k + chance.normal()) for seed in range(5)} for k in range(6)}
    scores["m0"].pop(4)
    found = agreement(scores)
    table = np.array([[of_one[seed] for seed in range(4)] for of_one in scores.values()])
    assert (found.methods, found.seeds) == (6, 4)
    assert found.of_means == pytest.approx(stats.spearmanr(*table.mean(axis=1).T).statistic)
    assert found.of_runs == pytest.approx(stats.spearmanr(*table.reshape(-1, 2).T).statistic)
    low, high = found.interval
    assert low < high
    assert low <= found.of_means <= high <= 1
    assert agreement(scores) == found
    assert agreement({name: {0: of_one[0]} for name, of_one in scores.items()}).interval is None
