"""Methods over several tables at once: performance profile and critical-difference diagram."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from leaderboard.reader.curve_model import Profile, Ranking
from leaderboard.reader.model import ALPHA, Board, Row, Table

FURTHEST = 4.0
"""Largest ratio of errors that a profile shows."""
LEAST_TABLES = 3


def errors(boards: Iterable[Board]) -> list[dict[str, float]]:
    """For each table of the matched track: name -> mean number of test images that are wrong, over their number.

    Of rows with as many epochs as ``random``, and with a mean; half an image at least, since there is no ratio to 0.
    """
    return [found for board in boards for table in board.tables if (found := _errors(table))]


def profile(boards: Iterable[Board]) -> Profile | None:
    """In which share of tables the error of a method is at most tau times the least one (Dolan and More 2002).

    A table that a method is not in, or has a failed run in, counts as one where it is not near. None without a table.
    """
    tables = errors(boards)
    if not tables:
        return None
    ratios: dict[str, list[float]] = defaultdict(list)
    for table in tables:
        least = min(table.values())
        for name, error in table.items():
            ratios[name].append(error / least)
    lines = []
    for name, values in sorted(ratios.items()):
        steps = sorted({1.0, FURTHEST, *(value for value in values if value <= FURTHEST)})
        lines.append((name, tuple((tau, sum(v <= tau for v in values) / len(tables)) for tau in steps)))
    return Profile("error over the least error of the table", tuple(lines))


def ranking(boards: Iterable[Board]) -> Ranking | None:
    """Mean ranks over tables with the critical difference of Nemenyi's test (Demsar 2006, section 3.2.2).

    Of the names that are in every table; None with fewer than 3 of them, or in fewer than 3 tables, or where
    Friedman's test finds no difference, so that there is no post-hoc test.

    Tables of one network at several budgets are not independent of each other, which the test takes them to be.
    """
    from scipy import stats

    tables = errors(boards)
    names = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if len(names) < 3 or len(tables) < LEAST_TABLES:
        return None
    values = np.array([[table[name] for name in names] for table in tables])
    if not stats.friedmanchisquare(*values.T).pvalue < ALPHA:
        return None
    k, n = len(names), len(tables)
    means = stats.rankdata(values, axis=1).mean(axis=0)
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, k, math.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(k * (k + 1) / 6 / n)
    order = sorted(range(k), key=lambda i: (means[i], names[i]))
    ranks = tuple((names[i], float(means[i])) for i in order)
    return Ranking(ranks, critical, _stretches(ranks, critical))


def _stretches(ranks: Sequence[tuple[str, float]], critical: float) -> tuple[tuple[str, ...], ...]:
    """Longest stretches of names whose ranks lie within the critical difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(k for k in range(first, len(ranks)) if ranks[k][1] - ranks[first][1] <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(tuple(name for name, _ in ranks[first : last + 1]) for first, last in found)


def _errors(table: Table) -> dict[str, float]:
    if table.keep is None:
        return {}
    rows = [row for row in table.rows if row.track == "matched" and row.top1 is not None]
    epochs = next((row.epochs for row in rows if row.name == "random"), None)
    return {row.name: _error(row) for row in rows if epochs is None or row.epochs == epochs}


def _error(row: Row) -> float:
    assert row.top1 is not None
    return max(1 - row.top1.mean / 100, 0.5 / max(run.images for run in row.finished.values()))
