"""Rows at several budgets as curves: area under accuracy, how far a method reaches, who is on the Pareto front."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leaderboard.model import Curve, Mean, Point, Reach, Row, Run, Table
from leaderboard.statistics import QUANTUM, interval

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
            reach=tuple(reach(points, dense, what, drop) for what in ("macs", "small", "large") for drop in DROPS),
            front={axis: tuple(k for n, k in fronts[kind][axis] if n == name) for axis in AXES},
        )
        for (kind, name), points in sorted(found.items())
    )


def area(points: Sequence[Point]) -> Mean | None:
    """Mean accuracy (per cent) over the range of shares: the area under the curve over its width, by seed."""
    if len(points) < 2 or any(point.row.top1 is None for point in points):
        return None
    seeds = sorted(set.intersection(*(_seeds(point.row) for point in points)))
    if not seeds:
        return None
    keeps = np.array([point.keep for point in points])[::-1]
    values = []
    for seed in seeds:
        accuracy = np.array([_accuracy(point.row, seed) for point in points])[::-1]
        values.append(float(np.trapezoid(accuracy, keeps) / (keeps[-1] - keeps[0])))
    return Mean(*interval(values, 100 * QUANTUM / points[0].row.test_images / np.sqrt(len(points))))


def reach(points: Sequence[Point], dense: Row | None, what: str, drop: float) -> Reach:
    """How many times smaller or faster a network can be at ``drop`` points below dense; see :class:`Reach`."""
    seeds = set.intersection(*(_seeds(point.row) for point in points)) if points else set()
    seeds &= _seeds(dense) if dense is not None else set()
    if dense is None or not seeds or any(point.row.top1 is None for point in points):
        return Reach(what, drop, None, None, False)
    values, bound = [], False
    for seed in sorted(seeds):
        factors = [_factor(_run(point.row, seed), what, dense) for point in points]
        if any(factor is None for factor in factors):
            return Reach(what, drop, None, None, False)
        accuracies = [_accuracy(point.row, seed) for point in points]
        value, open_end = _first_below(
            [1.0, *[float(f or 0) for f in factors]],
            [_accuracy(dense, seed), *accuracies],
            _accuracy(dense, seed) - drop,
        )
        values.append(value)
        bound |= open_end
    mean, half = interval(values)
    return Reach(what, drop, mean, None if bound else half, bound)


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


def _seeds(row: Row) -> set[int]:
    return {run.seed for run in row.runs if run.wrong is not None}


def _run(row: Row, seed: int) -> Run:
    return next(run for run in row.runs if run.seed == seed and run.wrong is not None)


def _accuracy(row: Row, seed: int) -> float:
    wrong = _run(row, seed).wrong
    assert wrong is not None
    return 100 * (1 - wrong / row.test_images)


def _factor(run: Run, what: str, dense: Row) -> float | None:
    """Dense over final: of the MACs, or of the latency at one of the batch sizes."""
    if what == "macs":
        return dense.macs / run.macs if run.macs and dense.macs else None
    return run.times[0 if what == "small" else 1]
