"""Check a table: recompute every derived value, or make the table again, and list what differs."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from leaderboard.lint import parse_tables, recompute, rerender, rules
from leaderboard.lint.finding import Finding
from leaderboard.lint.parse_tables import Entry, Sheet
from leaderboard.reader.model import Board
from leaderboard.render import tables

EXACT = (tables.JSON, tables.CSV)


def check(path: Path, boards: Sequence[Board] | None = None) -> list[Finding]:
    """Everything that is wrong with the tables of a file, in the order of its lines; empty for a clean one.

    JSON and CSV are exact: every number that follows from others is computed again. Text, Markdown and LaTeX are
    rounded: they are made again, of the boards or of the JSON or CSV of the same name next to the file, and compared.

    Args:
        path: a table that this suite wrote (``.md``, ``.csv``, ``.json``, ``.tex``, ``.txt``).
        boards: made of the records that the table was made of; JSON and CSV are compared with them, too.

    Raises:
        UsageError: there is no such file, its ending is another, or there is nothing to compare it with.
    """
    if path.suffix not in tables.ENDINGS:
        raise UsageError(f"lint {path}: not one of {', '.join(tables.ENDINGS)}")
    fmt, text = tables.ENDINGS[path.suffix], _text(path)
    if fmt in EXACT or boards is not None:
        return _in(path, check_text(text, fmt, boards))
    source = next((file for file in map(path.with_suffix, (".json", ".csv")) if file.is_file()), None)
    if source is None:
        raise UsageError(
            f"lint {path}: its numbers are rounded; give --records DIR, or put {path.stem}.json or {path.stem}.csv, "
            "which bench board writes, next to it"
        )
    wrong = check(source)
    try:
        made = parse_tables.boards(parse_tables.read(_text(source), tables.ENDINGS[source.suffix]))
    except (ValueError, RecursionError):
        return wrong
    return wrong + _in(path, rerender.compare(text, fmt, made, source.name))


def check_text(text: str, fmt: str, boards: Sequence[Board] | None = None) -> list[Finding]:
    """What is wrong with the text of a file in one of ``tables.FORMATS``; one for people needs ``boards``."""
    if fmt not in EXACT:
        return rerender.compare(text, fmt, boards or (), "the board of the records")
    try:
        sheets = parse_tables.read(text, fmt)
    except (ValueError, RecursionError) as error:
        return [Finding("", 0, "", "", "form", " ".join(str(error).split())[:200])]
    if not sheets:
        return [Finding("", 0, "", "", "form", "no table in it")]
    if boards is not None:
        _compare(sheets, parse_tables.read(tables.render(boards, fmt), fmt))
    found: list[Finding] = []
    for _, own in itertools.groupby(sheets, key=lambda sheet: sheet.key):
        board = list(own)
        rows, curves = recompute.of_board(board)
        if fmt == tables.JSON:
            _compare_curves(board[0], curves)
        found += [
            finding for sheet, right in zip(board, rows, strict=True) for finding in rules.apply_rules(sheet, right)
        ]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.line)


def _compare_curves(sheet: Sheet, right: Sequence[Any]) -> None:
    """Note what JSON says over all budgets and its tables do not."""
    for path, value, expected in _different(sheet.curves, json.loads(json.dumps(right)), ""):
        sheet.add(None, "curves", "curve", f"{path}: {rules.shown(value)}, but {rules.shown(expected)} follows")


def _compare_said(sheet: Sheet, entry: Entry | None, value: Any, expected: Any) -> None:
    """Note what a file says of a table or row but its fields, and the records do not."""
    for path, own, right in _different(value, expected, ""):
        text = f"{rules.shown(own)}, the records say {rules.shown(right)}"
        sheet.add(entry, path.lstrip("."), "record-cell" if entry else "record-table", text)


def _different(value: Any, expected: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of JSON differ, as far as arithmetic is exact."""
    if isinstance(value, dict) and isinstance(expected, dict) and value.keys() == expected.keys():
        for key in value:
            yield from _different(value[key], expected[key], f"{path}.{key}"[:80])
    elif isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        for k, pair in enumerate(zip(value, expected, strict=True)):
            yield from _different(*pair, f"{path}[{k}]"[:80])
    elif isinstance(value, dict | list) or isinstance(expected, dict | list) or not rules.same(value, expected):
        yield path, value, expected


def _in(path: Path, found: Sequence[Finding]) -> list[Finding]:
    return [replace(finding, file=str(path)) for finding in found]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"lint {path}: {error}") from error


def _compare(sheets: Sequence[Sheet], right: Sequence[Sheet]) -> None:
    """Note each table, row and cell that is not one of those that the records make."""

    def about(sheet: Sheet) -> tuple[object, ...]:
        return tuple(sheet.key.items()), sheet.kind, sheet.keep

    known = {about(sheet): sheet for sheet in right}
    for sheet in sheets:
        if about(sheet) not in known:
            sheet.add(None, "", "record-table", "the records make no table of this key and budget")
            continue
        _compare_said(sheet, None, sheet.said, known[about(sheet)].said)
        ours: dict[str, list[Entry]] = defaultdict(list)
        for entry in known[about(sheet)].entries:
            ours[entry.name].append(entry)
        for entry in sheet.entries:
            if not ours[entry.name]:
                sheet.add(entry, "name", "record-row", "the records have no such row")
                continue
            right_one = ours[entry.name].pop(0)
            _compare_said(sheet, entry, entry.said, right_one.said)
            for key, expected in right_one.values.items():
                value = entry.values.get(key)
                if not rules.same(value, expected):
                    text = f"{rules.shown(value)}, the records say {rules.shown(expected)}"
                    sheet.add(entry, key, "record-cell", text)
        for left in (entry for rest in ours.values() for entry in rest):
            sheet.add(None, "name", "record-row", f"the row {left.name[:60]} of the records is missing")
