"""Rows at several budgets as curves: area under accuracy, how far a method reaches, who is on the Pareto front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leaderboard.reader.model import Curve, Mean, Point, Reach, Row, Run, Table
from leaderboard.stats.statistics import QUANTUM, interval

SPEEDS = ("macs", "small", "large")
"""What a reach counts in: MACs, and measured time at the smallest and the largest batch."""
DROPS = (0.5, 1.0)
"""Points of top-1 below dense at which the reach is taken."""
AXES: Mapping[str, Callable[[Row], float | None]] = {
    "macs": lambda row: row.macs_percent,
    "params": lambda row: row.params_percent,
    "small": lambda row: row.speeds[0].final_ms if row.speeds else None,
    "large": lambda row: row.speeds[-1].final_ms if row.speeds else None,
    "cost": lambda row: row.cost,
}
"""What accuracy is set against: share of MACs, share of params, milliseconds at two batch sizes, training cost."""


def of_tables(tables: Sequence[Table]) -> tuple[Curve, ...]:
    """A curve for every row of the matched track, by what the budget is a share of, then by name."""
    found: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for table in tables:
        if table.keep is not None:
            for row in table.rows:
                if row.track == "matched":
                    found[table.kind, row.name].append(Point(table.keep, row))
    fronts = {kind: _fronts(tables, kind) for kind in ("macs", "params")}
    keeps = {kind: {t.keep for t in tables if t.kind == kind} for kind in ("macs", "params")}
    dense = next((row for table in tables for row in table.rows if row.name == "dense"), None)
    return tuple(
        Curve(
            name=name,
            method=points[0].row.method,
            kind=kind,
            points=tuple(points),
            area=area(points) if {point.keep for point in points} == keeps[kind] else None,
            reach=reaches(points, dense),
            front={axis: tuple(k for n, k in fronts[kind][axis] if n == name) for axis in AXES},
        )
        for (kind, name), points in sorted(found.items())
    )


def area(points: Sequence[Point]) -> Mean | None:
    """Mean accuracy (per cent) over the range of shares: the area under the curve over its width, by seed."""
    if len(points) < 2 or any(point.row.top1 is None for point in points):
        return None
    seeds = sorted(set.intersection(*(set(point.row.finished) for point in points)))
    if not seeds:
        return None
    rising = points[::-1]
    keeps = np.array([point.keep for point in rising])
    accuracies = [[_accuracy(point.row, seed) for point in rising] for seed in seeds]
    values = (np.trapezoid(accuracies, keeps) / (keeps[-1] - keeps[0])).tolist()
    images = min(run.images for run in points[0].row.finished.values())
    return Mean(*interval(values, 100 * QUANTUM / images / np.sqrt(len(points))))


def reaches(points: Sequence[Point], dense: Row | None) -> tuple[Reach, ...]:
    """How many times smaller or faster a network can be a little below dense; see :class:`Reach`."""
    seeds = set.intersection(*(set(point.row.finished) for point in points), set(dense.finished if dense else ()))
    if dense is None or not seeds or any(point.row.top1 is None for point in points):
        return tuple(Reach(what, drop, None, None, False) for what in SPEEDS for drop in DROPS)
    accuracies = {seed: [_accuracy(row, seed) for row in (dense, *(p.row for p in points))] for seed in sorted(seeds)}
    found = []
    for what in SPEEDS:
        factors = {seed: [_factor(point.row.finished[seed], what, dense) for point in points] for seed in accuracies}
        for drop in DROPS:
            ends = [
                _first_below([1.0, *known], accuracies[seed], accuracies[seed][0] - drop)
                for seed, own in factors.items()
                if len(known := [factor for factor in own if factor is not None]) == len(own)
            ]
            if len(ends) < len(factors):
                found.append(Reach(what, drop, None, None, False))
                continue
            mean, half = interval([times for times, _ in ends])
            bound = any(is_bound for _, is_bound in ends)
            found.append(Reach(what, drop, mean, None if bound else half, bound))
    return tuple(found)


def _first_below(factors: Sequence[float], accuracies: Sequence[float], limit: float) -> tuple[float, bool]:
    """Where the curve, from the largest network on, first falls below ``limit``; True where it never does."""
    for k in range(1, len(factors)):
        if accuracies[k] < limit:
            share = (accuracies[k - 1] - limit) / (accuracies[k - 1] - accuracies[k])
            return factors[k - 1] + share * (factors[k] - factors[k - 1]), False
    return factors[-1], True


def _fronts(tables: Sequence[Table], kind: str) -> dict[str, list[tuple[str, float]]]:
    """By axis: name and share of the rows that no other row beats in both cost and accuracy."""
    rows = [
        (row, table.keep) for table in tables if table.kind == kind and table.keep is not None for row in table.rows
    ]
    found: dict[str, list[tuple[str, float]]] = {}
    for axis, cost_of in AXES.items():
        points = [
            (cost, -row.top1.mean, row.name, keep)
            for row, keep in rows
            if row.top1 is not None and (cost := cost_of(row)) is not None
        ]
        found[axis] = []
        best = np.inf
        for _, negative, name, keep in sorted(points):
            if negative < best:
                best = negative
                found[axis].append((name, keep))
    return found


def _accuracy(row: Row, seed: int) -> float:
    run = row.finished[seed]
    return 100 * (1 - (run.wrong or 0) / run.images)


def _factor(run: Run, what: str, dense: Row) -> float | None:
    """Dense over final: of the MACs, or of the latency at one of the batch sizes."""
    if what == "macs":
        return dense.macs / run.macs if run.macs and dense.macs else None
    return run.times[0 if what == "small" else 1]
