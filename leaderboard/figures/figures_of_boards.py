"""Accuracy against cost and over budgets: the figures of one board."""

from __future__ import annotations

import json
from collections.abc import Callable

from leaderboard.figures.plot_style import COLOURS, GREY, SHAPES, Spec, band, figure, picked, series_of, short, tip
from leaderboard.reader.controls import CONTROLS
from leaderboard.reader.model import Board, Row, Run, Table
from leaderboard.render.tables import clean
from leaderboard.stats.curves import AXES as COSTS
from leaderboard.stats.curves import KEPT, of_board

Links = Callable[[Run], str]

AXES = {
    "macs": "MACs kept, % of dense",
    "params": "parameters kept, % of dense",
    "latency": "milliseconds, % of dense",
    "ms": "milliseconds of the budget",
    "small": "latency at the smallest batch, ms",
    "large": "latency at the largest batch, ms",
    "cost": "training cost, dense = 1",
}
ALL = "all budgets"
CHOSEN = 6
"""Curves in colour."""


def methods_of(board: Board) -> dict[str, str]:
    """Name of each series -> its method; a name has one colour in all figures of a board."""
    return {row.name: row.method for table in board.tables for row in table.rows if row.track != "dense"}


def costs(
    board: Board,
    run_link: Links | None = None,
    row_link: Callable[[Row], str] | None = None,
    whole: bool = False,
) -> Spec:
    """Accuracy against cost: single runs, means with 95 % intervals, the Pareto front of the chosen cost.

    Args:
        board: all of its rows but dense, which is a line, and ``like``, which are compared with one method only.
        run_link, row_link: address that a click on a point opens; without them points open nothing.
        whole: of the rows that keep every unit against their training cost, instead of all others.
    """
    tables = [table for table in board.tables if table.kind != "like" and (table.kind == "training") == whole]
    rows = [(table, row) for table in tables for row in table.rows if row.track != "dense"]
    values: list[Spec] = []
    for table, row in rows:
        common = {"series": clean(row.name), "budget": table.title}
        values += [common | _run_value(table, row, run, run_link) for run in row.runs if run.wrong is not None]
        if row.top1 is not None:
            values.append(common | _row_value(row, row_link))
    axes = [axis for axis in (("cost",) if whole else AXES) if any(value.get(axis) is not None for value in values)]
    budget = [] if whole else [{"filter": f"budget == '{ALL}' || datum.budget == budget"}]
    chosen = [*budget, {"calculate": "datum[axis]", "as": "x"}, {"filter": "isValid(datum.x)"}]
    means = [{"filter": "datum.is == 'row'"}, *chosen]
    cheapest = [{"field": "x", "order": "ascending"}, {"field": "top1", "order": "descending"}]
    front = [
        *means,
        {"window": [{"op": "max", "field": "top1", "as": "best"}], "sort": cheapest},
        {"window": [{"op": "lag", "field": "best", "as": "before"}], "sort": cheapest},
        {"filter": "!isValid(datum.before) || datum.top1 > datum.before"},
    ]
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": {"signal": "axis_title"}},
    }
    y = {"field": "top1", "type": "quantitative", "scale": {"zero": False}, "title": "top-1, %"}
    href = {"href": {"field": "href"}} if run_link or row_link else {}
    hand = {"cursor": "pointer"} if href else {}
    identity = [tip("series", "method"), tip("budget")]
    numbers = [
        tip("macs", "MACs kept, %", ".2f"),
        tip("params", "params kept, %", ".2f"),
        *([tip("ms", "ms", ".3f")] if "ms" in axes else []),
        tip("small", "ms, smallest batch", ".3f"),
        tip("large", "ms, largest batch", ".3f"),
        tip("cost", "training cost, dense = 1", ".2f"),
    ]
    layers: list[Spec] = [
        {
            "transform": front,
            "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.2, "opacity": 0.65, "color": GREY},
            "encoding": {"x": x, "y": y},
        },
        {
            "transform": [{"filter": "datum.is == 'run'"}, *chosen],
            "mark": {"type": "point", "filled": True, "size": 12, **hand},
            "encoding": {
                "x": x,
                "y": y,
                "opacity": picked(0.4, 0.04),
                "tooltip": [*identity, tip("seed"), tip("top1", "top-1, %", ".2f"), *numbers],
                **href,
            },
        },
        {
            "transform": means,
            "mark": {"type": "rule", "strokeWidth": 1.2},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "opacity": picked(0.7, 0.06)},
        },
        {
            "params": [{"name": "pick", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
            "transform": means,
            "mark": {"type": "point", "filled": True, "size": 55, **hand},
            "encoding": {
                "x": x,
                "y": y,
                "opacity": picked(0.95, 0.08),
                "tooltip": [
                    *identity,
                    tip("seeds"),
                    tip("top1", "top-1, %", ".2f"),
                    tip("half", "± (95 %)", ".2f"),
                    *numbers,
                ],
                **href,
            },
        },
    ]
    series = series_of(methods_of(board), {value["series"] for value in values})
    runs, intervals, points = layers[1:]
    runs["encoding"] |= {"color": series["color"], "shape": series["shape"]}
    intervals["encoding"] |= {"color": series["color"]}
    points["encoding"] |= series
    return figure(
        "Accuracy against cost: one small point a run, one large point a row with its 95 % interval; "
        "the grey line joins the rows that no cheaper row beats.",
        values,
        params=[
            {
                "name": "axis",
                "value": "cost" if "cost" in axes else axes[0] if axes else "macs",
                "bind": {"input": "select", "name": "cost ", "options": axes, "labels": [AXES[axis] for axis in axes]},
            },
            {"name": "axis_title", "expr": f"({json.dumps(AXES)})[axis]"},
            *([] if whole else [{"name": "budget", "value": ALL}]),
        ],
        layer=[*_dense(board, "24"), *layers],
        height=420,
    )


def curves(board: Board, kind: str = "macs", row_link: Callable[[Row], str] | None = None) -> Spec:
    """Accuracy over the share that is really left, one line a row's name; ``CHOSEN`` in colour, the others in grey.

    Those in colour are the param ``chosen`` and the domains of colour and shape, which a page may set to others.
    """
    known = [curve for curve in of_board(board) if curve.kind == kind]
    unit = 1 if kind == "ms" else 100
    kept = COSTS["ms"] if kind == "ms" else KEPT[kind]
    values: list[Spec] = []
    for curve in known:
        for point in curve.points:
            left = kept(point.row)
            if point.row.top1 is None or point.row.track == "dense" or left is None:
                continue
            mean, half = point.row.top1.mean, point.row.top1.half
            values.append(
                {"series": clean(curve.name), "keep": short(left), "budget": point.keep}
                | {"top1": short(mean), **band(mean, half)}
                | ({"href": row_link(point.row)} if row_link else {})
            )
    names = {value["series"] for value in values}
    methods = [c for c in known if c.method not in CONTROLS and clean(c.name) in names]
    chosen = [clean(c.name) for c in sorted(methods, key=lambda c: (c.error is None, c.error or 0.0, c.name))][:CHOSEN]
    shares = sorted({unit * value["budget"] for value in values})
    ends = [*shares, *(value["keep"] for value in values)]
    x = {
        "field": "keep",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False} | ({"domain": [min(ends), max(ends)]} if ends else {}),
        "axis": {"values": shares, "format": "~g"},
        "title": AXES[kind],
    }
    means = [value["top1"] for value in values] or [0.0]
    room = 0.05 * (max(means) - min(means)) + 0.1  # for what is seen, not for the bands that are not
    domain = [short(min(means) - room), short(min(max(means) + room, 100.0))]
    y: Spec = {"field": "top1", "type": "quantitative", "title": "top-1, %", "scale": {"domain": domain, "zero": False}}
    looks = {
        channel: {
            "field": "series",
            "type": "nominal",
            "title": None,
            "scale": {"domain": chosen, "range": list(found)},
            "legend": {"columns": 1, "symbolOpacity": 1},
        }
        for channel, found in (("color", COLOURS), ("shape", SHAPES))
    }
    detail = {"field": "series", "type": "nominal"}
    own = [{"filter": "indexof(chosen, datum.series) >= 0"}]
    tips = [
        tip("series", "method"),
        tip("keep", AXES[kind], ".3f" if kind == "ms" else ".2f"),
        tip("top1", "top-1, %", ".2f"),
        tip("half", "± (95 %)", ".2f"),
    ]
    layers: list[Spec] = [
        {
            "transform": [{"filter": "indexof(chosen, datum.series) < 0"}],
            "mark": {
                "type": "line",
                "strokeWidth": 1,
                "opacity": 0.5,
                "color": GREY,
                "point": {"size": 12, "color": GREY},
            },
            "encoding": {"x": x, "y": y, "detail": detail, "tooltip": tips},
        },
        {
            "transform": own,
            "mark": {"type": "area", "clip": True},
            "encoding": {
                "x": x,
                "y": {**y, "field": "low"},
                "y2": {"field": "high"},
                "color": looks["color"],
                "opacity": {"condition": {"param": "pick", "empty": False, "value": 0.25}, "value": 0},
            },
        },
        {
            "transform": own,
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": y, "color": looks["color"], "opacity": picked(0.9, 0.12)},
        },
        {
            "params": [{"name": "pick", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
            "transform": own,
            "mark": {"type": "point", "filled": True, "size": 55, **({"cursor": "pointer"} if row_link else {})},
            "encoding": {
                "x": x,
                "y": y,
                **looks,
                "opacity": picked(1, 0.12),
                "tooltip": tips,
                **({"href": {"field": "href"}} if row_link else {}),
            },
        },
    ]
    return figure(
        "Accuracy over the share kept.",
        values,
        params=[{"name": "chosen", "value": chosen}],
        layer=[*_dense(board, "width / 2"), *layers],
        height=360,
    )


def _row_value(row: Row, link: Callable[[Row], str] | None) -> Spec:
    assert row.top1 is not None
    speeds = sorted(row.speeds, key=lambda speed: speed.batch)
    return {
        "is": "row",
        "seeds": len(row.runs),
        "top1": short(row.top1.mean),
        **band(row.top1.mean, row.top1.half),
        "macs": short(row.macs_percent),
        "params": short(row.params_percent),
        "ms": short(row.ms.taken) if row.ms else None,
        "small": short(speeds[0].final_ms) if speeds else None,
        "large": short(speeds[-1].final_ms) if speeds else None,
        "cost": short(row.cost),
    } | ({"href": link(row)} if link else {})


def _run_value(table: Table, row: Row, run: Run, link: Links | None) -> Spec:
    assert run.wrong is not None

    def percent(value: int | None, dense: int | None) -> float | None:
        return None if value is None or not dense else short(100 * value / dense)

    return {
        "is": "run",
        "seed": run.seed,
        "top1": short(100 * (1 - run.wrong / run.images)),
        "macs": percent(run.macs, table.dense_macs),
        "params": percent(run.params, table.dense_params),
        "cost": short(_cost(row, run)),
    } | ({"href": link(run)} if link else {})


def _cost(row: Row, run: Run) -> float | None:
    """Training MACs of a run over those of dense, by way of its row's."""
    if not row.cost or not row.training_macs or run.training_macs is None:
        return None
    return run.training_macs * row.cost / row.training_macs


def _dense(board: Board, at: str) -> list[Spec]:
    """A dashed line at the dense network's accuracy, its name ``at`` a place; nothing without a dense row."""
    means = [row.top1.mean for table in board.tables for row in table.rows if row.track == "dense" and row.top1]
    if not means:
        return []
    data = {"values": [{"dense": short(means[0])}]}
    y = {"field": "dense", "type": "quantitative"}
    return [
        {
            "data": data,
            "mark": {"type": "rule", "strokeDash": [4, 3], "color": GREY, "clip": True},
            "encoding": {"y": y},
        },
        {
            "data": data,
            "mark": {"type": "text", "align": "center", "baseline": "bottom", "dy": -2, "color": GREY},
            "encoding": {"x": {"value": {"expr": at}}, "y": y, "text": {"value": "dense"}},
        },
    ]
