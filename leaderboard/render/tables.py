"""Boards as tables: for a terminal, Markdown and LaTeX, and exact as CSV and JSON. Same boards, same bytes.

Whatever comes from a record may be hostile: control characters are taken out everywhere, and each format escapes what
has a meaning in it.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, tabulate

from bench.spec.near_names import unknown
from leaderboard.reader.model import KEY_SHOWN, Board, Curve, Row, Table
from leaderboard.render.columns import FIELDS, LATEX, MARKDOWN, NOTES_HEADER, TEXT, Value, columns, exact
from leaderboard.stats.curves import of_tables

CSV, JSON = "csv", "json"
ENDINGS = {".txt": TEXT, ".md": MARKDOWN, ".csv": CSV, ".json": JSON, ".tex": LATEX}
"""Ending of a file -> its format."""
FORMATS = tuple(ENDINGS.values())
KIND = "bench.board"
"""What marks a JSON file, and the comments in LaTeX, as a board of this suite."""

BOARD = (*KEY_SHOWN, "differs", "notes")
"""What CSV says of the board in every line."""
LEGEND = (
    "top-1 of the test images and 95 % interval of its mean over seeds; pruned: the same before fine-tuning.",
    "- dense, - random, - uniform_thin: mean difference in points, paired by seed; * clear from zero after Holm.",
    "rank: 1 and the number of rows that are better and clear of it; rows with a letter in common are not told apart.",
    "x: measured speed-up at the smallest and largest batch; * its interval lies above 1; ~ busy machine, no claim.",
    "cost: training MACs over those of dense. shares: what it has in common with random: Base, Epochs, Finetuning, "
    "Cost.",
    "need: paired seeds that would tell it from the best mean with 80 % power.",
)
NOT_RANKED, NO_CONTROLS = "not ranked: ", "compulsory controls missing with these seeds: "
"""How the footnotes begin that say why a row has no rank, and which controls it lacks."""
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")
HASH = re.compile(r"\b[0-9a-f]{64}\b")
MARKDOWN_MARKS = re.compile(r"[\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.")
_encode = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False).encode
HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def render(boards: Sequence[Board], fmt: str) -> str:
    """All tables of the boards in one of ``FORMATS``; raises UsageError for any other."""
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    return whole([piece for board in boards for piece in pieces(board, fmt)], fmt)


def pieces(board: Board, fmt: str) -> list[str]:
    """What the text says of one board, in pieces that :func:`whole` puts together with those of the others."""
    writers: dict[str, Callable[[Board], list[str]]] = {
        TEXT: _text,
        MARKDOWN: _markdown,
        CSV: _csv,
        JSON: _json,
        LATEX: _latex,
    }
    return writers[fmt](board)


def whole(parts: Sequence[str], fmt: str) -> str:
    """The text in one of ``FORMATS``, from the pieces of all boards in their order; ends with a new line."""
    if fmt == CSV:
        headers = ["table", *(f"board_{name}" for name in BOARD), "budget_kind", "budget_keep", *FIELDS]
        rows = [f"{number},{row}\n" for number, part in enumerate(parts, 1) for row in part.split("\n")[:-1]]
        return "".join([",".join(headers), "\n", *rows])
    if fmt == JSON:
        boards = "\n".join(["[", ",\n".join(parts), "]"]) if parts else "[]"
        return f'{{\n"boards": {boards},\n"kind": {json.dumps(KIND)},\n"schema": 1\n}}\n'
    head = ["% needs the packages booktabs, graphicx and rotating"] if fmt == LATEX else []
    legends = {
        TEXT: LEGEND,
        MARKDOWN: [f"* {markdown(line)}" for line in LEGEND],
        LATEX: ["", *(f"% {line}" for line in LEGEND)],
    }
    return "\n".join([*head, *parts, *legends[fmt], ""])


@functools.lru_cache(maxsize=65536)
def clean(text: str) -> str:
    """One line without escape codes, control, format (direction of text) and unassigned characters."""
    if text.isascii() and text.isprintable():  # nearly always
        return " ".join(text.split())
    text = ANSI.sub("", text)
    return " ".join("".join(" " if c.isspace() else c for c in text if c.isspace() or _harmless(c)).split())


def _harmless(character: str) -> bool:
    return (character.isascii() and character.isprintable()) or unicodedata.category(character)[0] != "C"


@functools.lru_cache(maxsize=65536)
def markdown(text: str) -> str:
    """The text as Markdown shows it: no HTML, no links, no code, no cell ends."""
    return MARKDOWN_MARKS.sub(r"\\\g<0>", "".join(HTML.get(c, c) for c in clean(text)))


@functools.lru_cache(maxsize=65536)
def latex(text: str) -> str:
    """The text as LaTeX sets it: no commands, no comments, no mathematics."""
    return "".join(LATEX_ESCAPE_RULES.get(c, c) for c in clean(text))


def spreadsheet(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula."""
    text = clean(text)
    return f"'{text}" if FORMULA.match(text) else text


def footnotes(table: Table) -> tuple[list[str], list[str]]:
    """The notes below a table, each once, and for each row the numbers of its own, such as ``1 3``."""
    numbers: dict[str, int] = {}
    marks = []
    for row in table.rows:
        own = [NOT_RANKED + row.unranked] if row.unranked else []
        own += [NO_CONTROLS + ", ".join(row.controls_missing)] if row.controls_missing else []
        own += row.notes
        marks.append(" ".join(str(numbers.setdefault(clean(note), len(numbers) + 1)) for note in own))
    return list(numbers), marks


def cells(table: Table, fmt: str) -> list[list[str]]:
    """One list a row, of the columns of a format for people and the numbers of the row's footnotes."""
    shown, marks = columns(fmt), footnotes(table)[1]
    lazy = [_Lazy(row, table) for row in table.rows]
    return [[*(column.cell.write(values) for column in shown), mark] for values, mark in zip(lazy, marks)]


class _Lazy(dict[str, Value]):
    """Fields of a row, computed when they are asked for."""

    def __init__(self, row: Row, table: Table) -> None:
        super().__init__()
        self.row, self.table = row, table

    def __missing__(self, key: str) -> Value:
        self[key] = value = FIELDS[key].get(self.row, self.table)
        return value


def board_heading(board: Board, fmt: str) -> str:
    """The line that a board begins with in a format for people."""
    formats = {TEXT: f"== {clean(board.title)}", MARKDOWN: f"## {markdown(board.title)}"}
    return formats.get(fmt, rf"\paragraph{{{latex(board.title)}.}}")


def table_heading(board: Board, table: Table, fmt: str) -> str:
    """The line that names a table there."""
    formats = {TEXT: f"-- {table.title}", MARKDOWN: f"### {table.title}"}
    return formats.get(fmt, rf"\caption{{{latex(f'{board.title}, {table.title}')}}}")


def about_dense(table: Table) -> str:
    """Such as ``dense: 2,540,416 MACs, 269,434 params``; empty where nothing is known of it."""
    if table.dense_macs is None or table.dense_params is None:
        return ""
    return f"dense: {exact(table.dense_macs)} MACs, {exact(table.dense_params)} params"


def about_batches(table: Table) -> str:
    """Which batch sizes are small and large in this table."""
    both = sorted({tuple(speed.batch for speed in row.speeds) for row in table.rows if row.speeds})
    return "; ".join("speed-ups at batch " + " and ".join(map(str, sizes)) for sizes in both)


def _text(board: Board) -> list[str]:
    shown = columns(TEXT)
    headers = [column.header for column in shown] + [NOTES_HEADER]
    sides = ["right" if column.right else "left" for column in shown] + ["left"]
    lines = [board_heading(board, TEXT), *(f"   {clean(k)}: {clean(v)}" for k, v in board.key.items())]
    lines += [f"   note: {clean(note)}" for note in board.notes]
    for table in board.tables:
        # A cell is never empty: so the columns can be told apart whatever width a terminal gives a character.
        rows = [[clean(cell) or "-" for cell in row] for row in cells(table, TEXT)]
        lines += ["", table_heading(board, table, TEXT)]
        lines += [f"   {part}" for part in (about_dense(table), about_batches(table)) if part]
        lines += _simple([headers, *rows], sides) if rows else []
        lines += [f"   [{n}] {note}" for n, note in enumerate(footnotes(table)[0], 1)]
    return [*lines, ""]


def _simple(rows: list[list[str]], sides: list[str]) -> list[str]:
    """Lines of a table whose first row is the header; tabulate would make a column wider than its header."""
    rule, header, *body, _ = tabulate(rows, (), "simple", colalign=sides, disable_numparse=True).splitlines()
    return [line.rstrip() for line in (header, rule, *body)]


def _markdown(board: Board) -> list[str]:
    shown = columns(MARKDOWN)
    headers = [column.header for column in shown] + [NOTES_HEADER]
    rule = ["--:" if column.right else ":--" for column in shown] + [":--"]
    lines = [board_heading(board, MARKDOWN), ""]
    lines += [f"* {markdown(k)}: {markdown(v)}" for k, v in board.key.items()]
    lines += ["", *(f"Note: {markdown(note)}\n" for note in board.notes)]
    for table in board.tables:
        lines += [table_heading(board, table, MARKDOWN), ""]
        lines += [f"{part}\n" for part in (about_dense(table), about_batches(table)) if part]
        body = [[markdown(cell) for cell in row] for row in cells(table, MARKDOWN)]
        lines += [f"| {' | '.join(row)} |" for row in [headers, rule, *body]]
        lines += ["", *(f"{n}. {markdown(note)}" for n, note in enumerate(footnotes(table)[0], 1)), ""]
    return lines


def _latex(board: Board) -> list[str]:
    shown = [column for column in columns(LATEX) if not column.audit]
    headers = [column.header for column in shown] + [NOTES_HEADER]
    sides = ["right" if column.right else "left" for column in shown] + ["left"]
    places = [place for place, column in enumerate(columns(LATEX)) if not column.audit] + [len(columns(LATEX))]
    key = {clean(k): clean(v) for k, v in board.key.items()}
    lines = [f"% {KIND} {json.dumps(key)}", board_heading(board, LATEX)]
    shown_key = "; ".join(f"{latex(k)}: {latex(HASH.sub(_start, v))}" for k, v in key.items())
    lines += [rf"{{\raggedright\footnotesize {shown_key}.\par}}"]
    lines += [f"{latex(note)}\n" for note in board.notes]
    for table in board.tables:
        body = cells(table, LATEX)
        facts = {name: getattr(table, name) for name in ("kind", "keep", "dense_macs", "dense_params")}
        lines += ["", f"% {KIND}.table {json.dumps(facts)}"]
        for row in body:
            audit = {column.header: cell for column, cell in zip(columns(LATEX), row) if column.audit}
            lines += [f"% {KIND}.row {json.dumps({key: clean(cell) for key, cell in audit.items()})}"]
        lines += [
            r"\begin{sidewaystable}\centering\footnotesize",
            table_heading(board, table, LATEX),
        ]
        visible = [[clean(row[place]) for place in places] for row in body]
        if visible:
            grid = tabulate(visible, headers, "latex_booktabs", colalign=sides, disable_numparse=True)
            lines += [r"\resizebox{\linewidth}{!}{", grid, r"}\medskip"]
        about = [part for part in (about_dense(table), about_batches(table)) if part]
        lines += [rf"\par {latex(part)}" for part in about]
        lines += [rf"\par {n}: {latex(note)}" for n, note in enumerate(footnotes(table)[0], 1)]
        lines += [r"\end{sidewaystable}"]
    return lines


def _start(found: re.Match[str]) -> str:
    return found[0][:12]


def _csv(board: Board) -> list[str]:
    """The rows of each table, without its number; no cell has a line end."""
    said = board.key | {"differs": " ".join(board.differs), "notes": "; ".join(board.notes)}
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


def _json(board: Board) -> list[str]:
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
        "curves": [_curve(curve) for curve in of_tables(board.tables)],
    }


def _row(row: Row, table: Table) -> dict[str, Any]:
    values = {key: field.get(row, table) for key, field in FIELDS.items()}
    runs = [_cleaned(run._asdict()) for run in row.runs]
    return {**_cleaned(values), "runs": runs}


def _curve(curve: Curve) -> dict[str, Any]:
    return _cleaned(
        {
            "name": curve.name,
            "kind": curve.kind,
            "keep": [point.keep for point in curve.points],
            "area": vars(curve.area) if curve.area else None,
            "reach": [vars(reach) for reach in curve.reach],
            "front": {key: list(keeps) for key, keeps in curve.front.items()},
        }
    )


def _cleaned(values: dict[str, Any]) -> dict[str, Any]:
    return {key: clean(value) if isinstance(value, str) else value for key, value in values.items()}
