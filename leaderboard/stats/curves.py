"""Rows at several budgets as curves: errors pooled over the budgets, reach, who is on the Pareto front."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from leaderboard.reader.curve_model import Curve, Point, Reach
from leaderboard.reader.model import PRIMARY, Board, Difference, Row, Table, Terms
from leaderboard.stats.comparisons import VALUES, Series, differences, with_board_p
from leaderboard.stats.contrasts import pooled
from leaderboard.stats.reach import estimated, front, shown

COUNTS = ("wrong", "images")
KEPT: Mapping[str, Callable[[Row], float | None]] = {
    "macs": lambda row: row.macs_percent,
    "params": lambda row: row.params_percent,
    "latency": lambda row: row.ms.percent if row.ms else None,
    "ms": lambda row: row.ms.percent if row.ms else None,
}
"""What a budget is of -> how much of the dense network's a row has, per cent."""
AXES: Mapping[str, Callable[[Row], float | None]] = {
    "macs": KEPT["macs"],
    "params": KEPT["params"],
    "ms": lambda row: row.ms.taken if row.ms else None,
    "small": lambda row: row.speeds[0].final_ms if row.speeds else None,
    "large": lambda row: row.speeds[-1].final_ms if row.speeds else None,
    "cost": lambda row: row.cost,
}
"""What accuracy is set against: share of MACs, share of params, milliseconds where the budget is of these and at two
batch sizes, training cost."""


def of_board(board: Board) -> tuple[Curve, ...]:
    """A curve for every row of the matched track, by what the budget is a share of, then by name."""
    return tuple(curve for curves in _with_board_p([_of_kind(board, kind) for kind in KEPT]) for curve in curves)


def _of_kind(board: Board, kind: str) -> list[Curve]:
    tables = [table for table in board.tables if table.kind == kind and table.keep is not None]
    named = _by_name(tables)
    whole = {name: points for name, points in named.items() if len(points) == len(tables)}
    dense = next((row for table in tables for row in table.rows if row.name == "dense"), None)
    if dense:
        whole["dense"] = [Point(table.keep or 0.0, dense) for table in tables]
    found = _pooled(whole, board.terms) if board.terms and len(tables) > 1 and not is_part(board) else {}
    fronts = {axis: _front(tables, axis) for axis in AXES}
    return [
        Curve(
            name=name,
            method=points[0].row.method,
            kind=kind,
            points=tuple(points),
            error=_error(points) if name in whole else None,
            pooled={endpoint: own for endpoint, by in found.items() if (own := by.get(name))},
            reach=_reaches(points, kind, dense, board.terms) if board.terms and points[0].row.planned else (),
            front={axis: tuple(keep for keep, row in fronts[axis] if row == name) for axis in AXES},
        )
        for name, points in sorted(named.items())
    ]


def is_part(board: Board) -> bool:
    """Whether tables were left out, so that nothing is corrected over all of the board (``stats.boards.at``)."""
    every = [d for table in board.tables for row in table.rows for d in row.differences.values() if d.p is not None]
    return bool(every) and all(d.p_board is None for d in every)


def _by_name(tables: Sequence[Table]) -> dict[str, list[Point]]:
    """Points of each name; what is a copy of one and the same row at all of its budgets is no curve of its own."""
    found: dict[str, list[Point]] = defaultdict(list)
    leads: dict[str, set[str | None]] = defaultdict(set)
    for table in tables:
        for row in table.rows:
            if row.track == "matched" and table.keep is not None:
                for name, lead in ((row.name, None), *((copy.name, row.name) for copy in row.copies)):
                    found[name].append(Point(table.keep, row))
                    leads[name].add(lead)
    return {name: points for name, points in found.items() if None in leads[name] or len(leads[name]) > 1}


# --- pooled ---------------------------------------------------------------------------------------------------------


def _pooled(whole: Mapping[str, Sequence[Point]], terms: Terms) -> dict[str, dict[str, dict[str, Difference]]]:
    """Endpoint -> name -> reference -> difference of the means over the budgets; planned rows only."""
    planned = {name: points for name, points in whole.items() if all(p.row.planned for p in points)}
    found: dict[str, dict[str, dict[str, Difference]]] = {}
    for endpoint in (endpoint for endpoint in terms.endpoints if endpoint in (PRIMARY, "loss")):
        rows = [_mean_series(name, points, endpoint) for name, points in sorted(planned.items())]
        for to in terms.references:
            for row, difference in zip(rows, differences(rows, to), strict=True):
                if difference:
                    found.setdefault(endpoint, {}).setdefault(row.name, {})[to] = difference
    return found


def _mean_series(name: str, points: Sequence[Point], endpoint: str) -> Series:
    """For each seed the mean over the budgets, of seeds that are there at all of them."""
    rows = [point.row for point in points]
    seeds = sorted(set.intersection(*(set(row.finished) if row.top1 else set() for row in rows)))
    runs = [[row.finished[seed] for seed in seeds] for row in rows]
    if endpoint == PRIMARY:
        values, quantum = pooled(*(np.array([[getattr(run, of) for run in own] for own in runs]) for of in COUNTS))
        cells = dict(zip(seeds, zip(values.tolist(), quantum.tolist(), strict=True), strict=True))
    else:
        by_seed = [[VALUES[endpoint](run) for run in own] for own in zip(*runs, strict=True)]
        known = {seed: [value[0] for value in own if value] for seed, own in zip(seeds, by_seed, strict=True)}
        cells = {seed: (math.fsum(own) / len(rows), 0.0) for seed, own in known.items() if len(own) == len(rows)}
    return Series(name, cells, set.union(*(row.expected for row in rows)))


def _error(points: Sequence[Point]) -> float | None:
    cells = _mean_series("", points, PRIMARY).cells
    return 100 * math.exp(-math.fsum(value for value, _ in cells.values()) / len(cells)) if cells else None


def _with_board_p(kinds: Sequence[Sequence[Curve]]) -> list[list[Curve]]:
    """The curves with p-values of the pooled primary endpoint corrected over all of them (headlines)."""
    found = [[curve.pooled.get(PRIMARY, {}) for curve in curves] for curves in kinds]
    return [
        [
            replace(curve, pooled={**curve.pooled, PRIMARY: own}) if own else curve
            for curve, own in zip(curves, corrected, strict=True)
        ]
        for curves, corrected in zip(kinds, with_board_p(found), strict=True)
    ]


# --- reach ----------------------------------------------------------------------------------------------------------


def _reaches(points: Sequence[Point], kind: str, dense: Row | None, terms: Terms) -> tuple[Reach, ...]:
    """How much smaller a network can be within each margin of dense; nothing without dense."""
    if dense is None or not dense.planned:
        return ()
    rows = [point.row for point in points]
    tests = [row.differences.get("dense") for row in rows]
    known = [d if d and d.p is not None else None for d in tests]
    mean, error, freedom = (
        [math.nan if d is None else getattr(d, name) for d in known] for name in ("mean", "error", "freedom")
    )
    keeps = [point.keep for point in points]
    factors = _factors([KEPT[kind](row) for row in rows])
    found = []
    for margin in terms.margins:
        at = shown(mean, error, freedom, margin)
        passed, failed = (None if k is None else keeps[k] for k in (at.passed, at.failed))
        if None in known or factors is None:
            found.append(Reach(margin, passed, failed))
            continue
        fit = estimated(_to_dense(rows, dense), factors, margin)
        found.append(Reach(margin, passed, failed, fit.times, fit.low, fit.high, fit.bound))
    return tuple(found)


def _factors(percent: Sequence[float | None]) -> list[float] | None:
    """Dense over final at each budget; None where they do not rise from above 1."""
    found = [100 / share for share in percent if share]
    rising = all(a < b for a, b in zip([1.0, *found], found, strict=False))
    return found if rising and len(found) == len(percent) else None


def _to_dense(rows: Sequence[Row], dense: Row) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Points of top-1 above dense ``[budgets, seeds]``, of the seeds that all have."""
    seeds = sorted(set.intersection(*(set(row.finished) for row in (dense, *rows))))
    wrong = [[100 * (row.finished[s].wrong or 0) / row.finished[s].images for s in seeds] for row in (dense, *rows)]
    return np.array(wrong[0]) - np.array(wrong[1:])


# --- fronts ---------------------------------------------------------------------------------------------------------


def _front(tables: Sequence[Table], axis: str) -> list[tuple[float, str]]:
    """Share and name of the rows on the front of one cost; where there is a plan, of those that it names."""
    rows = [(table.keep or 0.0, row) for table in tables for row in table.rows if row.top1]
    if any(row.planned for _, row in rows):
        rows = [(keep, row) for keep, row in rows if row.planned]
    costs = [AXES[axis](row) for _, row in rows]
    values = [row.top1.mean if row.top1 else math.nan for _, row in rows]
    if not rows:
        return []
    on = front(np.array(costs, dtype=float), values)
    return [(keep, row.name) for (keep, row), there in zip(rows, on.tolist(), strict=True) if there]
