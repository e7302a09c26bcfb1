"""Tables in JSON and CSV, read back into the rows that they were written from."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from leaderboard.lint.finding import Finding
from leaderboard.lint.row_of_values import COUNTS, row_of
from leaderboard.reader.model import (
    KEY_SHOWN,
    NO_BUDGET,
    PRIMARY,
    REFERENCES,
    SECONDARY,
    Board,
    Row,
    Table,
    TableKind,
    Terms,
)
from leaderboard.render.exact_tables import CSV, KIND, PLAN, SCHEMA
from leaderboard.render.fields import FAILED, FIELDS, MISSING, Field, Value
from leaderboard.stats.rows import most_common


@dataclass
class Entry:
    """One row of a file.

    Attributes:
        values: what is in it, by field, as it was read; a cell that is not of its field's kind is left out.
        row: the row that these values are of.
        said: all else that the file says of the row, such as its runs.
    """

    line: int
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    row: Row | None = None
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Sheet:
    """One table of a file, and what is wrong with it.

    ``said`` is all that the file says of the table and its board but rows and curves.
    """

    line: int
    key: dict[str, str]
    kind: TableKind
    keep: float | None
    differs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    terms: Terms | None = None
    timed: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)
    curves: Any = None
    dense_macs: int | None = None
    dense_params: int | None = None
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, entry: Entry | None, column: str, code: str, message: str) -> None:
        """Note what is wrong with a row, or with the table."""
        line, name = (entry.line, entry.name) if entry else (self.line, "")
        self.findings.append(Finding("", line, name, column, code, message))

    @property
    def rows(self) -> list[Row]:
        """The rows that could be read."""
        return [entry.row for entry in self.entries if entry.row is not None]

    @property
    def table(self) -> Table:
        """The table as the suite holds it."""
        return Table(self.kind, self.keep, tuple(self.rows), self.dense_macs, self.dense_params)


def read(text: str, fmt: str) -> list[Sheet]:
    """The tables of a file in CSV or JSON; ValueError where this suite did not write them."""
    sheets = _csv(text) if fmt == CSV else _json(text)
    for sheet in sheets:
        for entry in sheet.entries:
            entry.row, wrong = row_of(entry.name, entry.values)
            for column, code, message in wrong:
                sheet.add(entry, column, code, message)
    return sheets


def boards(sheets: Sequence[Sheet]) -> list[Board]:
    """The boards of some tables, in their order."""
    same = itertools.groupby(sheets, key=lambda sheet: sheet.key)
    grouped = [(key, list(found)) for key, found in same]
    return [
        Board(key, own[0].differs, tuple(s.table for s in own), own[0].notes, own[0].terms, own[0].timed)
        for key, own in grouped
    ]


# --- JSON ----------------------------------------------------------------------------------------------------------


def _json(text: str) -> list[Sheet]:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    document = json.loads(text, parse_constant=refuse)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError(f"no board: its kind is not {KIND}")
    if document.get("schema") != SCHEMA:
        raise ValueError(f"no board: its schema is {str(document.get('schema'))[:40]}, this is {SCHEMA}")
    sheets = []
    try:
        for board in document["boards"]:
            key = {name: str(board["key"][name]) for name in KEY_SHOWN}
            for table in board["tables"]:
                sheet = Sheet(0, key, *_budget(table["kind"], table["keep"]))
                sheet.differs, sheet.notes = tuple(board["differs"]), tuple(board["notes"])
                sheet.terms, sheet.timed, sheet.curves = _terms(board["plan"]), str(board["timed"]), board["curves"]
                sheet.dense_macs, sheet.dense_params = (_count(table[name]) for name in ("dense_macs", "dense_params"))
                sheet.said = {**_without(board, "tables", "curves"), "table": _without(table, "rows")}
                sheets.append(sheet)
                for row in table["rows"]:
                    entry = Entry(0, str(row.get("name")), said=_without(row, *FIELDS))
                    sheet.entries.append(entry)
                    for name in FIELDS.keys() - row.keys():
                        sheet.add(entry, name, "columns", "the field is not there")
                    _fields(sheet, entry, {name: row[name] for name in FIELDS if name in row})
                    each = ("seed", "wrong") if row.get("test_images") is not None else ("seed", "wrong", "images")
                    texts = [[str(run[name]) for name in each] for run in row["runs"] if run["wrong"] is not None]
                    done = {f"{seed}:{'/'.join(count)}" for seed, *count in texts}
                    said = set(str(row.get(COUNTS)).split())
                    if done != {part for part in said if not part.endswith((FAILED, MISSING))}:
                        sheet.add(entry, COUNTS, "counts", f"the runs say {' '.join(sorted(done))[:80]}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no board: {type(error).__name__} {error}") from None
    return sheets


# --- CSV -----------------------------------------------------------------------------------------------------------


def _csv(text: str) -> list[Sheet]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    headers = lines[0][1] if lines else []
    if "table" not in headers or "name" not in headers:
        raise ValueError("no board: it has no columns table and name")
    sheets: dict[str, Sheet] = {}
    for line, cells in lines[1:]:
        values = {name: _unescaped(cell) for name, cell in zip(headers, cells, strict=False)}
        sheet = sheets.get(values["table"])
        if sheet is None:
            sheet = sheets[values["table"]] = _csv_sheet(line, values)
            for name in FIELDS:
                if headers.count(name) != 1:
                    sheet.add(None, name, "columns", f"the column is there {headers.count(name)} times")
        entry = Entry(line, values.get("name", ""), said=_without(values, "table", *FIELDS))
        sheet.entries.append(entry)
        if len(cells) != len(headers):
            sheet.add(entry, "", "cell", f"{len(cells)} cells under {len(headers)} headers")
        own = _csv_sheet(line, values)
        for name, value in own.key.items():
            if value != sheet.key[name]:
                sheet.add(entry, f"board_{name}", "mixed-key", f"{value[:60]!r} in a table of {sheet.key[name]!r}")
        if (own.kind, own.keep) != (sheet.kind, sheet.keep):
            sheet.add(entry, "budget_keep", "mixed-key", f"{own.table.title} in a table of another budget")
        _fields(sheet, entry, {name: _csv_value(FIELDS[name], cell) for name, cell in values.items() if name in FIELDS})
    for sheet in sheets.values():
        for what in ("macs", "params"):
            dense = most_common([entry.values.get(f"dense_{what}") for entry in sheet.entries])
            setattr(sheet, f"dense_{what}", dense)
    return list(sheets.values())


def _csv_sheet(line: int, values: Mapping[str, str]) -> Sheet:
    """What a line says of its table; ValueError where it says nothing."""
    try:
        keep = float(values["budget_keep"]) if values["budget_keep"] else None
        key = {name: values[f"board_{name}"] for name in KEY_SHOWN}
        sheet = Sheet(line, key, *_budget(values["budget_kind"], keep))
        sheet.differs = tuple(values["board_differs"].split())
        sheet.timed, plan = values["board_timed"], [values[f"board_{name}"] for name in PLAN]
        sheet.terms = _terms(dict(zip(PLAN, (plan[0], *map(str.split, plan[1:])), strict=True))) if plan[0] else None
    except (KeyError, ValueError) as error:
        raise ValueError(f"no board: line {line}: {error}") from None
    sheet.notes = tuple(filter(None, values.get("board_notes", "").split("; ")))
    return sheet


def _unescaped(cell: str) -> str:
    """A cell without the apostrophe that keeps a spreadsheet from taking it for a formula."""
    return re.sub(r"^'('*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1", cell)


def _csv_value(declared: Field, text: str) -> Any:
    """The value as JSON has it; the text itself where it is of another kind."""
    if declared.kind == "text":
        return text
    if declared.kind == "flag":
        return {"yes": True, "no": False, "": None}.get(text, text)
    try:
        return float(text) if text else None
    except ValueError:
        return text


# --- both ----------------------------------------------------------------------------------------------------------


def _budget(kind: Any, keep: Any) -> tuple[TableKind, float | None]:
    if kind not in get_args(TableKind):
        raise ValueError(f"no board: a table of kind {str(kind)[:40]!r}")
    number = None if keep is None else _number(keep)
    if (number is None) != (kind in NO_BUDGET):
        raise ValueError(f"no board: a table of kind {kind} that keeps {str(keep)[:40]}")
    return cast(TableKind, kind), number


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _terms(values: Any) -> Terms | None:
    """What a file says of the plan; ValueError where it cannot be."""
    if values is None:
        return None
    sha256, references, margins, endpoints = (values[name] for name in PLAN)
    limits = [_number(margin) for margin in margins]
    if not limits or not all(limit is not None and limit > 0 for limit in limits):
        raise ValueError(f"no board: margins {str(margins)[:40]}")
    for names, known in ((references, REFERENCES), (endpoints, (PRIMARY, *SECONDARY))):
        if not set(names) <= set(known) or len(set(names)) < len(names):
            raise ValueError(f"no board: of {', '.join(known)} its plan has {str(names)[:60]}")
    return Terms(str(sha256), tuple(references), tuple(limit for limit in limits if limit), tuple(endpoints))


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _count(value: Any) -> int | None:
    found = _number(value)
    return int(found) if found is not None and found % 1 == 0 else None


def _fields(sheet: Sheet, entry: Entry, values: Mapping[str, Any]) -> None:
    """Put the values of a row into its entry, each of the kind that its field has."""
    for name, value in values.items():
        kind = FIELDS[name].kind
        if value is None or value == "":
            entry.values[name] = None
            continue
        found: Value = value if isinstance(value, str | bool) else _number(value)
        if kind == "integer":
            found = None if isinstance(found, str | bool) else _count(found)
        if type(found) is {"text": str, "flag": bool, "integer": int, "number": float}[kind]:
            entry.values[name] = found
        else:
            sheet.add(entry, name, "cell", f"{str(value)[:40]!r} is no {kind}")
