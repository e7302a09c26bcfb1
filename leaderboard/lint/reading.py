"""Tables read back from files: those that ``leaderboard.render.tables`` wrote, and as plain grids those of others."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import LATEX_ESCAPE_RULES

from leaderboard.lint.sheets import Entry, Grid, Sheet, exact_number
from leaderboard.render.columns import (
    FAILED,
    FIELDS,
    LATEX,
    MARKDOWN,
    MISSING,
    NOTES_HEADER,
    TEXT,
    Cell,
    Field,
    Number,
    columns,
    number,
)
from leaderboard.render.tables import CSV, JSON, KIND, NO_CONTROLS, NOT_RANKED

OURS = {"rank", "tie", "method"}
"""Headers that say that a table for people is one of this suite."""
LATEX_TEXT = {written: text for text, written in LATEX_ESCAPE_RULES.items()}
LATEX_WRITTEN = re.compile("|".join(re.escape(written) for written in sorted(LATEX_TEXT, key=len, reverse=True)))
COUNTS = "wrong_test_images_by_seed"
TITLE = re.compile(r"keep ([\d.e+-]+) of the (MACs|params)")


def read(text: str, fmt: str) -> tuple[list[Sheet], list[Grid]]:
    """The tables of a file: of this suite, and of others; ValueError where the file has not this format at all."""
    if fmt == CSV:
        return _csv(text)
    if fmt == JSON:
        return _json(text), []
    sheets, others = [], []
    for sheet, grid in {TEXT: _text, MARKDOWN: _markdown, LATEX: _latex}[fmt](text.replace("\r\n", "\n").split("\n")):
        if set(grid.headers) >= OURS:
            _fill(sheet, grid)
            sheets.append(sheet)
        else:
            others.append(grid)
    return sheets, others


def _fill(sheet: Sheet, grid: Grid) -> None:
    """Rows of a table for people, by the columns that its format has."""
    known = {column.header: column for column in columns(sheet.fmt)}
    for header in [*known, NOTES_HEADER]:
        if grid.headers.count(header) != 1:
            sheet.fault(None, header, "columns", f"the column stands there {grid.headers.count(header)} times")
    for header in grid.headers:
        if header not in known and header != NOTES_HEADER:
            sheet.fault(None, header, "columns", "no column of this format")
    for line, cells in grid.rows:
        entry = Entry(line)
        sheet.entries.append(entry)
        if len(cells) != len(grid.headers):
            sheet.fault(entry, "", "cell", f"{len(cells)} cells under {len(grid.headers)} headers")
            continue
        entry.cells["name"] = cells[grid.headers.index("method")] or None
        for header, cell in zip(grid.headers, cells, strict=True):
            if header in known:
                try:
                    entry.cells.update(known[header].style.read(cell))
                except ValueError as error:
                    sheet.fault(entry, header, "cell", str(error))
        _footnotes(sheet, entry, dict(zip(grid.headers, cells, strict=True)).get(NOTES_HEADER, ""), grid.notes)


def _footnotes(sheet: Sheet, entry: Entry, marks: str, notes: Mapping[str, str]) -> None:
    own = []
    for mark in marks.split():
        if mark not in notes:
            sheet.fault(entry, NOTES_HEADER, "footnote", f"there is no footnote {mark[:20]}")
            continue
        own.append(notes[mark])
    unranked = [note.removeprefix(NOT_RANKED) for note in own if note.startswith(NOT_RANKED)]
    lacking = [note.removeprefix(NO_CONTROLS) for note in own if note.startswith(NO_CONTROLS)]
    entry.cells["unranked"] = unranked[0] if unranked else None
    entry.cells["controls_missing"] = lacking[0] if lacking else None
    entry.cells["notes"] = "; ".join(n for n in own if not n.startswith((NOT_RANKED, NO_CONTROLS))) or None


def _text(lines: Sequence[str]) -> Iterator[tuple[Sheet, Grid]]:
    key: dict[str, str] = {}
    sheet, grid = Sheet(TEXT, 0), None
    for n, line in enumerate(lines, 1):
        if line.startswith("== "):
            key, grid = {}, None
            sheet = Sheet(TEXT, n)
        elif line.startswith("-- "):
            sheet = Sheet(TEXT, n, key)
            grid = None
            _title(sheet, line[3:])
        elif re.fullmatch(r"-+(  -+)+", line) and n > 1:
            grid = Grid(n - 1, re.split(r" {2,}", lines[n - 2].strip()))
            for at in range(n, len(lines)):
                note = re.match(r"   \[(\d+)\] (.*)", lines[at])
                if not lines[at]:
                    break
                if note:
                    grid.notes[note[1]] = note[2]
                else:
                    cells = ["" if cell == "-" else cell for cell in re.split(r" {2,}", lines[at].strip())]
                    grid.rows.append((at + 1, cells))
            yield sheet, grid
        elif line.startswith("   ") and grid is None:
            _fact(sheet, key, *line[3:].partition(": ")[::2])


def _markdown(lines: Sequence[str]) -> Iterator[tuple[Sheet, Grid]]:
    key: dict[str, str] = {}
    sheet = Sheet(MARKDOWN, 0)
    for n, line in enumerate(lines, 1):
        if line.startswith("## "):
            key = {}
            sheet = Sheet(MARKDOWN, n, key)
        elif line.startswith("### "):
            sheet = Sheet(MARKDOWN, n, key)
            _title(sheet, line[4:])
        elif line.startswith("* ") and not sheet.kind:
            name, _, value = line[2:].partition(": ")
            key[_from_markdown(name)] = _from_markdown(value)
        elif line.startswith("dense: "):
            _fact(sheet, key, "dense", line.removeprefix("dense: "))
        elif n > 1 and {"|", "-"} <= set(line) <= set("|-: \t") and "|" in lines[n - 2]:
            grid = Grid(n - 1, _markdown_cells(lines[n - 2]))
            at = n
            while at < len(lines) and "|" in lines[at]:
                grid.rows.append((at + 1, _markdown_cells(lines[at])))
                at += 1
            while at < len(lines) and not lines[at].startswith(("#", "|")):
                note = re.match(r"(\d+)\. (.*)", lines[at])
                if note:
                    grid.notes[note[1]] = _from_markdown(note[2])
                at += 1
            yield sheet, grid
            sheet = Sheet(MARKDOWN, n, key, "?")


def _markdown_cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    line = re.sub(r"(?<!\\)\|$", "", line)
    return [_from_markdown(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)]


def _from_markdown(text: str) -> str:
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text))


def _latex(lines: Sequence[str]) -> Iterator[tuple[Sheet, Grid]]:
    key: dict[str, str] = {}
    sheet, grid, audit, head = Sheet(LATEX, 0), None, [], True
    for n, line in enumerate(lines, 1):
        comment = re.fullmatch(rf"% {re.escape(KIND)}(\.table|\.row)? (\{{.*\}})", line)
        if comment:
            facts = json.loads(comment[2])
            if comment[1] is None:
                key = {str(name): str(value) for name, value in facts.items()}
            elif comment[1] == ".row":
                audit.append(facts)
            else:
                sheet, audit = Sheet(LATEX, n, key, str(facts.get("kind"))), []
                sheet.keep = exact_number(facts.get("keep"))
                sheet.dense = {name: exact_number(facts.get(name)) for name in ("dense_macs", "dense_params")}
        elif line == r"\toprule":
            grid, head = Grid(n + 1, []), True
        elif line == r"\midrule":
            head = False
        elif grid and line.endswith(r"\\"):
            cells = [_from_latex(cell.strip()) for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]
            if head:
                grid.headers = cells
            else:
                grid.rows.append((n, cells))
        elif grid and (note := re.fullmatch(r"\\par (\d+): (.*)", line)):
            grid.notes[note[1]] = _from_latex(note[2])
        elif grid and line == r"\end{sidewaystable}":
            yield sheet, _with_audit(sheet, grid, audit)
            grid = None


def _with_audit(sheet: Sheet, grid: Grid, audit: Sequence[Mapping[str, str]]) -> Grid:
    """The columns that stand in comments, put beside those that are printed."""
    headers = [column.header for column in columns(LATEX) if column.audit]
    if len(audit) != len(grid.rows):
        sheet.fault(None, "", "columns", f"{len(audit)} comments with counts for {len(grid.rows)} rows")
        return grid
    grid.headers = [*grid.headers, *headers]
    for (_, cells), facts in zip(grid.rows, audit, strict=True):
        cells += [str(facts.get(header, "")) for header in headers]
    return grid


def _from_latex(text: str) -> str:
    return LATEX_WRITTEN.sub(lambda match: LATEX_TEXT[match[0]], text)


def _title(sheet: Sheet, title: str) -> None:
    """Kind and share from such as ``keep 0.5 of the MACs``."""
    match = TITLE.fullmatch(title.strip())
    if match:
        # Titles have six digits.
        sheet.kind, keep = match[2].lower(), float(match[1])
        sheet.keep = Number(keep, 0.5e-5 * keep)
    else:
        sheet.kind = {"native track": "native", "widths of another run": "like"}.get(title.strip(), "?")


def _fact(sheet: Sheet, key: dict[str, str], name: str, value: str) -> None:
    """One line above a table: the dense network's size, or a part of the board's key."""
    match = re.fullmatch(r"([\d,]+) MACs, ([\d,]+) params", value)
    if name == "dense" and match:
        sheet.dense = {"dense_macs": Number(number(match[1]).value), "dense_params": Number(number(match[2]).value)}
    elif name != "note" and not sheet.kind:
        key[name] = value


def _csv(text: str) -> tuple[list[Sheet], list[Grid]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    if not lines:
        return [], []
    headers = lines[0][1]
    if not {"tie_group", "name"} <= set(headers):
        return [], [Grid(1, headers, lines[1:])]
    sheets: dict[str, Sheet] = {}
    for line, cells in lines[1:]:
        values = dict(zip(headers, cells, strict=False))
        key = {n.removeprefix("board_"): _from_csv(v) for n, v in values.items() if n.startswith("board_")}
        number_ = values.get("table", "")
        about = (key, values.get("budget_kind", ""), values.get("budget_keep", ""))
        if number_ not in sheets:
            sheet = sheets[number_] = Sheet(CSV, line, key, about[1], exact_number(about[2] or None))
            for name in FIELDS:
                if headers.count(name) != 1:
                    sheet.fault(None, name, "columns", f"the column stands there {headers.count(name)} times")
        sheet = sheets[number_]
        entry = Entry(line, {"name": _from_csv(values.get("name", ""))})
        sheet.entries.append(entry)
        if len(cells) != len(headers):
            sheet.fault(entry, "", "cell", f"{len(cells)} cells under {len(headers)} headers")
        for name, value in key.items():
            if value != sheet.key.get(name):
                sheet.fault(
                    entry, f"board_{name}", "mixed-key", f"{value[:60]!r} in a table of {sheet.key.get(name)!r}"
                )
        for name, value, other in zip(("budget_kind", "budget_keep"), about[1:], (sheet.kind, sheet.keep), strict=True):
            if (exact_number(value or None) if name == "budget_keep" else value) != other:
                sheet.fault(entry, name, "mixed-key", f"{value[:60]!r} in a table of another budget")
        _fields(sheet, entry, {n: _csv_value(FIELDS[n], v) for n, v in values.items() if n in FIELDS})
    return list(sheets.values()), []


def _from_csv(text: str) -> str:
    return re.sub(r"^'('*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1", text)


def _csv_value(declared: Field, text: str) -> Any:
    """The value as JSON would have it; the text itself where it is of another kind."""
    if declared.kind == "text":
        return _from_csv(text)
    if declared.kind == "flag":
        return {"yes": True, "no": False, "": None}.get(text, text)
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _json(text: str) -> list[Sheet]:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    document = json.loads(text, parse_constant=refuse)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError(f"no board: its kind is not {KIND}")
    sheets = []
    try:
        for board in document["boards"]:
            for table in board["tables"]:
                sheet = Sheet(JSON, 0, dict(board["key"]), str(table["kind"]), exact_number(table["keep"]))
                sheets.append(sheet)
                sheet.dense = {name: exact_number(table[name]) for name in ("dense_macs", "dense_params")}
                for row in table["rows"]:
                    entry = Entry(0, {"name": str(row.get("name"))})
                    sheet.entries.append(entry)
                    for name in FIELDS.keys() - row.keys():
                        sheet.fault(entry, name, "columns", "the field is not there")
                    _fields(sheet, entry, {name: row[name] for name in FIELDS if name in row})
                    done = {f"{run['seed']}:{run['wrong']}" for run in row["runs"] if run["wrong"] is not None}
                    said = set(str(row.get(COUNTS)).split())
                    if done != {part for part in said if not part.endswith((FAILED, MISSING))}:
                        sheet.fault(entry, COUNTS, "counts", f"the runs say {' '.join(sorted(done))[:80]}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no board: {type(error).__name__} {error}") from None
    return sheets


def _fields(sheet: Sheet, entry: Entry, values: Mapping[str, Any]) -> None:
    """Exact values of a row, each of the kind that its field has."""
    for name, value in values.items():
        kind = FIELDS[name].kind
        if value is None or value == "":
            entry.cells[name] = None
            continue
        found: Cell = value if isinstance(value, str | bool) else exact_number(value)
        if kind == "integer" and isinstance(found, Number) and found.value % 1:
            found = None
        if type(found) is {"text": str, "flag": bool}.get(kind, Number):
            entry.cells[name] = found
        else:
            sheet.fault(entry, name, "cell", f"{str(value)[:40]!r} is no {kind}")
