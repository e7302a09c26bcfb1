"""The forest plot of a table, for HTML: each row's mean and interval at its place, its verdict against dense in words.

The interval is that of the difference to dense, around the row's mean: over other seeds, and over other test images
where the records say which are right. A row without that difference has the interval of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.reader.model import Row, Table, Terms
from leaderboard.stats.verdicts import verdict_text

LINES = ("dense", "random", "uniform_thin")
NOT_TESTED = "not tested"


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
        shape = verdict.split()[0].strip(",") if verdict else "untested"
        mean = _mean(row)
        left, right = place(mean - (half or 0)), place(mean + (half or 0))
        marks.append(Mark(row, left, place(mean), right, half, shape, verdict or NOT_TESTED))
    ticks = [low + k * step for k in range(round(width / step) + 1)]
    return Forest(
        tuple(marks),
        tuple((name, mean, place(mean)) for name, mean in sorted(lines, key=lambda line: LINES.index(line[0]))),
        tuple((f"{tick:g}", place(tick)) for tick in ticks),
    )


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
