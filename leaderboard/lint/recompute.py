"""The rows of a table with everything computed again that follows from the counts, costs and times in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from bench.spec.spec import BUDGET_TOLERANCE, LATENCY_TOLERANCE, is_coarse
from leaderboard.lint import parse_tables
from leaderboard.lint.parse_tables import Sheet
from leaderboard.reader.model import NO_BUDGET, Difference, Row, Track
from leaderboard.reader.numbers import ROUNDING
from leaderboard.render.exact_tables import curves
from leaderboard.stats.boards import headlines
from leaderboard.stats.curves import is_part
from leaderboard.stats.ranking import compared_rows, expected_epochs
from leaderboard.stats.rows import accuracy, mean_loss, most_common, why_unranked


def recompute(sheet: Sheet) -> list[Row]:
    """The rows as they have to be, in the order of the sheet, by the functions that make them from records."""
    rows = [_from_runs(sheet, row) for row in sheet.rows]
    epochs = expected_epochs(rows)
    rows = [dataclasses.replace(row, unranked=row.unranked or why(sheet, row, epochs)) for row in rows]
    folds = any(d.refit_half is not None for row in rows for d in row.differences.values())
    given = [row.differences for row in rows]
    compared = compared_rows(rows, sheet.kind, sheet.terms, sheet.key["coupling"], None, folds)
    return [
        dataclasses.replace(row, differences=_with_images(row.differences, own))
        for row, own in zip(compared, given, strict=True)
    ]


def of_board(sheets: Sequence[Sheet]) -> tuple[list[list[Row]], list[dict[str, Any]]]:
    """The rows of each sheet of a board as they have to be, and what JSON has to say of its curves."""
    tables = [dataclasses.replace(sheet.table, rows=tuple(recompute(sheet))) for sheet in sheets]
    board = parse_tables.boards(sheets)[0]
    whole = dataclasses.replace(board, tables=tuple(tables) if is_part(board) else headlines(tables))
    return [list(table.rows) for table in whole.tables], curves(whole)


def why(sheet: Sheet, row: Row, epochs: int | None) -> str:
    """Why a row may not have a rank (RULES.md, 2.1, 5.2, 8.2, 10), as far as the table says; empty where it may."""
    if sheet.kind in NO_BUDGET:
        return "it has no budget"
    if row.track not in get_args(Track):
        return f"it is of the track {row.track[:40]}"
    short = below_budget(sheet, row)
    synthetic = sheet.key["dataset"] == "synthetic"
    return why_unranked(row, short if short > BUDGET_TOLERANCE + ROUNDING else 0.0, epochs, synthetic)


def below_budget(sheet: Sheet, row: Row) -> float:
    """Share of the dense cost by which a row lies below its budget; negative: above; 0 where that is not known.

    Of a budget of milliseconds: the share of it by which a row is slower, where that is more than may be.
    """
    if sheet.table.of_ms:
        late = row.ms.taken / row.ms.asked - 1 if row.ms else 0.0
        return -late if late > LATENCY_TOLERANCE else 0.0
    cost, dense = (row.macs, sheet.dense_macs) if sheet.kind == "macs" else (row.params, sheet.dense_params)
    short = 0.0 if sheet.keep is None or cost is None or not dense else sheet.keep - cost / dense
    return min(short, 0.0) if is_coarse(sheet.key["coupling"]) else short


def dense_cost(sheet: Sheet, what: str) -> int | None:
    """MACs or params of the dense network: of the table, or what most of its rows say."""
    found: int | None = getattr(sheet, f"dense_{what}")
    return found or most_common([entry.values.get(f"dense_{what}") for entry in sheet.entries])


def _from_runs(sheet: Sheet, row: Row) -> Row:
    """What follows from the row alone."""
    runs = row.finished.values()
    wrong, images = [run.wrong for run in runs], [run.images for run in runs]
    pruned, losses = [run.pruned for run in runs], [run.loss for run in runs]
    whole = bool(images) and all(images) and len(wrong) == len(row.runs)
    return dataclasses.replace(
        row,
        top1=accuracy(wrong, images) if whole else None,
        macs_percent=_percent(row.macs, dense_cost(sheet, "macs"), row.macs_percent),
        params_percent=_percent(row.params, dense_cost(sheet, "params"), row.params_percent),
        pruned=accuracy(pruned, images) if whole else None,
        loss=mean_loss(losses) if whole else None,
        speeds=tuple(
            dataclasses.replace(speed, times=speed.dense_ms / speed.final_ms) if speed.final_ms else speed
            for speed in row.speeds
        ),
    )


def _with_images(computed: Mapping[str, Difference], given: Mapping[str, Difference]) -> dict[str, Difference]:
    """Differences with the intervals that only the records can say, because they need each image."""
    return {
        to: dataclasses.replace(d, images_half=given[to].images_half) if to in given else d
        for to, d in computed.items()
    }


def _percent(cost: float | None, dense: int | None, given: float | None) -> float | None:
    return 100 * cost / dense if cost is not None and dense else given
