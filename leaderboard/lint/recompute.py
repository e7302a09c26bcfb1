"""The rows of a table with everything computed again that follows from the counts, costs and times in it."""

from __future__ import annotations

import dataclasses

from bench.spec.spec import BUDGET_TOLERANCE
from leaderboard.lint.parse_tables import Sheet
from leaderboard.reader.model import Row, Speed
from leaderboard.reader.numbers import ROUNDING
from leaderboard.stats.boards import compared_rows, expected_epochs
from leaderboard.stats.rows import accuracy, mean_speed, most_common, why_unranked


def recompute(sheet: Sheet) -> list[Row]:
    """The rows as they have to be, by the functions that make them from records."""
    if not sheet.entries:
        return []
    rows = [_from_runs(sheet, row) for row in sheet.rows]
    epochs = expected_epochs(rows)
    rows = [dataclasses.replace(row, unranked=row.unranked or why(sheet, row, epochs)) for row in rows]
    return compared_rows(rows, sheet.kind)


def why(sheet: Sheet, row: Row, epochs: int | None) -> str:
    """Why a row may not have a rank (RULES.md, 2.1, 5.2, 8.2, 10), as far as the table says; empty where it may."""
    if sheet.kind not in ("macs", "params"):
        return "it has no budget"
    if row.track not in ("matched", "dense", "native", "like"):
        return f"it is of the track {row.track[:40]}"
    short = below_budget(sheet, row)
    synthetic = sheet.key["dataset"] == "synthetic"
    return why_unranked(row, short if short > BUDGET_TOLERANCE + ROUNDING else 0.0, epochs, synthetic)


def below_budget(sheet: Sheet, row: Row) -> float:
    """Share of the dense cost by which a row lies below its budget; negative: above; 0 where that is not known."""
    cost, dense = (row.macs, sheet.dense_macs) if sheet.kind == "macs" else (row.params, sheet.dense_params)
    return 0.0 if sheet.keep is None or cost is None or not dense else sheet.keep - cost / dense


def dense_cost(sheet: Sheet, what: str) -> int | None:
    """MACs or params of the dense network: of the table, or what most of its rows say."""
    found: int | None = getattr(sheet, f"dense_{what}")
    return found or most_common([entry.values.get(f"dense_{what}") for entry in sheet.entries])


def _from_runs(sheet: Sheet, row: Row) -> Row:
    """What follows from the row alone."""
    wrong, images = [run.wrong for run in row.finished.values()], [run.images for run in row.finished.values()]
    whole = all(images) and len(wrong) == len(row.runs)
    return dataclasses.replace(
        row,
        top1=accuracy(wrong, images) if whole else None,
        macs_percent=_percent(row.macs, dense_cost(sheet, "macs"), row.macs_percent),
        params_percent=_percent(row.params, dense_cost(sheet, "params"), row.params_percent),
        speeds=tuple(_speed(row, place, speed) for place, speed in enumerate(row.speeds)),
    )


def _percent(cost: float | None, dense: int | None, given: float | None) -> float | None:
    return 100 * cost / dense if cost is not None and dense else given


def _speed(row: Row, place: int, speed: Speed) -> Speed:
    times = [found for run in row.runs if (found := run.times[place]) is not None]
    if not times:
        return speed
    mean, low, high = mean_speed(times, (speed.low, speed.high))
    return dataclasses.replace(speed, times=mean, low=low, high=high)
