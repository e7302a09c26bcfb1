"""Boards as CSV and JSON: every value of every row, never rounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from leaderboard.reader.curve_model import Curve
from leaderboard.reader.model import KEY_SHOWN, Board, Difference, Row, Table
from leaderboard.render.escaping import clean, spreadsheet
from leaderboard.render.fields import FIELDS, Value
from leaderboard.stats.curves import of_board

CSV, JSON = "csv", "json"
KIND = "bench.board"
"""What marks a JSON file, and the comments in LaTeX, as a board of this suite."""
SCHEMA = 2
PLAN = ("plan_sha256", "references", "margins", "endpoints")
BOARD = (*KEY_SHOWN, "differs", "notes", *PLAN, "timed")
"""What CSV says of the board in every line."""
_encode = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False).encode


def csv_whole(parts: Sequence[str]) -> str:
    """The file, from the pieces of all boards in their order."""
    headers = ["table", *(f"board_{name}" for name in BOARD), "budget_kind", "budget_keep", *FIELDS]
    rows = [f"{number},{row}\n" for number, part in enumerate(parts, 1) for row in part.split("\n")[:-1]]
    return "".join([",".join(headers), "\n", *rows])


def json_whole(parts: Sequence[str]) -> str:
    """The file, from the pieces of all boards in their order."""
    boards = "\n".join(["[", ",\n".join(parts), "]"]) if parts else "[]"
    return f'{{\n"boards": {boards},\n"kind": {json.dumps(KIND)},\n"schema": {SCHEMA}\n}}\n'


def csv_pieces(board: Board) -> list[str]:
    """The rows of each table, without its number; no cell has a line end."""
    said = board.key | {"differs": " ".join(board.differs), "notes": "; ".join(board.notes), "timed": board.timed}
    if board.terms:
        parts = (board.terms.references, map(repr, board.terms.margins), board.terms.endpoints)
        said |= dict(zip(PLAN, (board.terms.sha256, *map(" ".join, parts)), strict=True))
    common = [spreadsheet(said.get(name, "")) for name in BOARD]
    found = []
    for table in board.tables:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for row in table.rows:
            values = [table.kind, table.keep, *(field.get(row, table) for field in FIELDS.values())]
            writer.writerow([*common, *map(_csv_cell, values)])
        found.append(out.getvalue())
    return found


def _csv_cell(value: Value) -> str | int | float:
    if value is None or isinstance(value, str):
        return spreadsheet(value or "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def json_pieces(board: Board) -> list[str]:
    """The board, one row a line."""
    return [_lines(_board(board), 4)]


def _lines(value: Any, depth: int) -> str:
    """JSON with sorted keys, indented down to ``depth``: a row is one line. ValueError for NaN and infinity."""
    if depth == 0 or not value or not isinstance(value, dict | list):
        return _encode(value)
    if isinstance(value, list):
        opening, closing, parts = "[", "]", [_lines(part, depth - 1) for part in value]
    else:
        named = {json.dumps(key, ensure_ascii=False): part for key, part in sorted(value.items())}
        opening, closing, parts = "{", "}", [f"{name}: {_lines(part, depth - 1)}" for name, part in named.items()]
    return "\n".join([opening, ",\n".join(parts), closing])


def _board(board: Board) -> dict[str, Any]:
    return {
        "key": {clean(name): clean(value) for name, value in board.key.items()},
        "title": clean(board.title),
        "differs": list(board.differs),
        "notes": [clean(note) for note in board.notes],
        "plan": dict(zip(PLAN, vars(board.terms).values(), strict=True)) if board.terms else None,
        "timed": clean(board.timed),
        "tables": [
            {
                "kind": table.kind,
                "keep": table.keep,
                "title": table.title,
                "dense_macs": table.dense_macs,
                "dense_params": table.dense_params,
                "rows": [_row(row, table) for row in table.rows],
            }
            for table in board.tables
        ],
        "curves": curves(board),
    }


def _row(row: Row, table: Table) -> dict[str, Any]:
    values = {key: field.get(row, table) for key, field in FIELDS.items()}
    runs = [_cleaned(run._asdict()) for run in row.runs]
    return {**_cleaned(values), "runs": runs}


def curves(board: Board) -> list[dict[str, Any]]:
    """What JSON says of the rows over all budgets."""
    return [_curve(curve) for curve in of_board(board)]


def _curve(curve: Curve) -> dict[str, Any]:
    return _cleaned(
        {
            "name": curve.name,
            "kind": curve.kind,
            "keep": [point.keep for point in curve.points],
            "error_percent": curve.error,
            "pooled_log_ratio": {
                endpoint: {to: _pooled(difference) for to, difference in own.items()}
                for endpoint, own in curve.pooled.items()
            },
            "reach": [vars(reach) for reach in curve.reach],
            "front": {key: list(keeps) for key, keeps in curve.front.items()},
        }
    )


def _pooled(difference: Difference) -> dict[str, Any]:
    shown = ("mean", "half", "seeds", "won", "p", "p_holm", "p_board", "smallest")
    return {name: getattr(difference, name) for name in shown} | {"verdict": "; ".join(difference.verdicts)}


def _cleaned(values: dict[str, Any]) -> dict[str, Any]:
    return {key: clean(value) if isinstance(value, str) else value for key, value in values.items()}
