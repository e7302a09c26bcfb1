"""The forest plot of a table, for pages and papers: each row's mean and interval at its place, its verdict in words.

Verdict and interval are those of the difference to dense, the interval around the row's mean: over other seeds, and
over other test images where the records say which are right. A row without that difference has that of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.figures.plot_style import GREY, Spec, band, figure, short
from leaderboard.reader.model import Row, Table, Terms
from leaderboard.render.tables import clean
from leaderboard.stats.verdicts import UNDECIDED, verdict_text

LINES = {"dense": [1, 0], "random": [2, 3], "uniform_thin": [8, 3]}
"""Controls that are lines, and how these are dashed on paper: pixels of line and gap."""
NOT_TESTED, UNTESTED = "not tested", "untested"
SHAPES = {
    **{"better": "triangle-up", "worse": "triangle-down", "equivalent": "diamond", "non-inferior": "triangle-right"},
    **{UNDECIDED: "circle", UNTESTED: "cross"},
}
"""Name of a mark -> its shape on paper."""


@dataclass(frozen=True)
class Mark:
    """One row of the plot; ``low``, ``at`` and ``high`` in per cent of its width.

    Attributes:
        half: half of the interval that is drawn, points; None without one.
        shape: name of the mark: the first verdict, or ``untested``.
        verdict: against dense, in words.
    """

    row: Row
    low: float
    at: float
    high: float
    half: float | None
    shape: str
    verdict: str


@dataclass(frozen=True)
class Forest:
    """A plot: rows by falling mean, lines of the controls and ticks as (name or number, per cent of the width)."""

    marks: tuple[Mark, ...]
    lines: tuple[tuple[str, float, float], ...]
    ticks: tuple[tuple[str, float], ...]


def forest(table: Table, terms: Terms | None) -> Forest | None:
    """The plot of the rows that have a mean; None where there is none."""
    shown = [row for row in table.rows if row.top1 and row.track != "dense"]
    lines = [(row.name, row.top1.mean) for row in table.rows if row.top1 and row.name in LINES]
    if not shown:
        return None
    ends = [_mean(row) + side * (_half(row) or 0) for row in shown for side in (-1, 1)]
    ends += [mean for _, mean in lines]
    step = _step(max(ends) - min(ends))
    low, high = math.floor(min(ends) / step) * step, min(math.ceil(max(ends) / step) * step, 100.0)
    width = max(high - low, step)

    def place(value: float) -> float:
        return round(100 * min(max((value - low) / width, 0.0), 1.0), 2)

    marks = []
    for row in sorted(shown, key=lambda row: (-_mean(row), row.name)):
        half, difference = _half(row), row.differences.get("dense")
        verdict = verdict_text(difference.verdicts, terms.margins) if difference and terms else ""
        shape = verdict.split()[0].strip(",") if verdict else UNTESTED
        mean = _mean(row)
        left, right = place(mean - (half or 0)), place(mean + (half or 0))
        marks.append(Mark(row, left, place(mean), right, half, shape, verdict or NOT_TESTED))
    ticks = [low + k * step for k in range(round(width / step) + 1)]
    return Forest(
        tuple(marks),
        tuple((name, mean, place(mean)) for name, mean in sorted(lines, key=lambda line: list(LINES).index(line[0]))),
        tuple((f"{tick:g}", place(tick)) for tick in ticks),
    )


def drawn(table: Table, terms: Terms | None) -> Spec | None:
    """The plot for papers, in black and white: a verdict is a shape and a word, a control a kind of line."""
    plot = forest(table, terms)
    if plot is None:
        return None
    values = [
        {"series": clean(mark.row.name), "shape": mark.shape, "verdict": mark.verdict}
        | {"top1": short(_mean(mark.row)), **band(_mean(mark.row), mark.half)}
        for mark in plot.marks
    ]
    lines = [{"line": f"{name} {mean:.2f}", "top1": short(mean)} for name, mean, _ in plot.lines]
    dashes = {"domain": [line["line"] for line in lines], "range": [LINES[name] for name, _, _ in plot.lines]}
    ticks = [float(text) for text, _ in plot.ticks]
    scale = {"domain": [ticks[0], ticks[-1]], "nice": False, "zero": False}
    x = {"field": "top1", "type": "quantitative", "title": "top-1, %", "scale": scale, "axis": {"values": ticks}}
    order = {"domain": [value["series"] for value in values]}
    y = {"field": "series", "type": "nominal", "title": None, "sort": None, "scale": order}
    layers: list[Spec] = [
        {
            "data": {"values": lines},
            "mark": {"type": "rule", "color": GREY},
            "encoding": {
                "x": x,
                "strokeDash": {
                    "field": "line",
                    "type": "nominal",
                    "title": None,
                    "scale": dashes,
                    "legend": {"orient": "top", "symbolType": "stroke", "symbolSize": 500},
                },
            },
        },
        {
            "mark": {"type": "rule", "strokeWidth": 1.5, "color": "black"},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
        },
        {
            "mark": {"type": "point", "size": 70, "opacity": 1, "stroke": "black", "strokeWidth": 1.2},
            "encoding": {
                "x": x,
                "y": y,
                "fill": {"condition": {"test": f"datum.shape == '{UNDECIDED}'", "value": "white"}, "value": "black"},
                "shape": {
                    "field": "shape",
                    "type": "nominal",
                    "scale": {"domain": list(SHAPES), "range": list(SHAPES.values())},
                    "legend": None,
                },
            },
        },
        {
            "mark": {"type": "text", "align": "left", "baseline": "middle"},
            "encoding": {
                "x": {"value": {"expr": "width + 12"}},
                "y": y,
                "text": {"field": "verdict", "type": "nominal"},
            },
        },
    ]
    description = "Rows by falling top-1, with the 95 % interval of the difference to dense and the verdict against it."
    return figure(description, values, layer=layers, height=17 * len(values))


def _mean(row: Row) -> float:
    return row.top1.mean if row.top1 else math.nan


def _half(row: Row) -> float | None:
    difference = row.differences.get("dense")
    if difference is not None:
        return difference.shown_half
    return row.top1.half if row.top1 else None


def _step(width: float, wanted: Sequence[float] = (1, 2, 5, 10)) -> float:
    """A round distance of ticks, so that there are at most five between the ends."""
    power = 10.0 ** math.floor(math.log10(max(width, 1e-6) / 5))
    return next((k * power for k in wanted if k * power * 5 >= width), 10 * power)
