"""Tables: every format says the same, nothing of a record gets out of its cell, same boards make the same bytes."""

import csv
import io
import json
import math
import re
import time
from dataclasses import replace

import pytest
from support.boards import CONTROLS, large, latencies_for, plan_for
from support.boards import boards_of as made_boards
from support.made_records import made, put, seeds

from bench.errors import UsageError
from leaderboard.lint import parse_tables
from leaderboard.lint.rerender import cells_of
from leaderboard.render import tables
from leaderboard.render.columns import columns
from leaderboard.render.fields import FIELDS

PEOPLE, EXACT = ("text", "markdown", "latex"), ("csv", "json")
METHODS = (
    *seeds("ddrop", [12, 12, 11, 13, 12]),
    *seeds("fpgm", [12, 12, 11, 13, 12], changed=True),
    *seeds("l1l2", [11, 13, 12, 12, 14], config={"share": 30}, changed=True),
    *seeds("spectral", [15, 16, 17, 15], cost=2.0),
    made("spectral", 4, status="failed", error="the loss was odd"),
    *seeds("dropnet", [15, 16, 17]),
    *seeds("edropout", [15, 18, 17, 16, 14], native=True, keep=None),
)


def boards_of(folder, *records):
    finished = [found for found in records if found["status"] == "ok"]
    return made_boards(put(folder, *records), plan_for(records), latencies_for(finished))[0]


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return boards_of(tmp_path_factory.mktemp("records"), *CONTROLS, *METHODS)


def rows_of(boards):
    return [(row, table) for board in boards for table in board.tables for row in table.rows]


def sheets_of(boards, fmt):
    sheets = parse_tables.read(tables.render(boards, fmt), fmt)
    assert [finding for sheet in sheets for finding in sheet.findings] == []
    return sheets


@pytest.mark.parametrize("fmt", EXACT)
def test_exact_formats_have_every_value_and_digit(boards, fmt):
    sheets = sheets_of(boards, fmt)
    for sheet, (board, table) in zip(sheets, ((b, t) for b in boards for t in b.tables), strict=True):
        assert (sheet.key, sheet.differs, sheet.notes) == (board.key, board.differs, board.notes)
        assert (sheet.kind, sheet.keep, sheet.dense_macs) == (table.kind, table.keep, table.dense_macs)
    entries = [entry for sheet in sheets for entry in sheet.entries]
    assert len(entries) == len(rows_of(boards)) > 10
    for entry, (row, table) in zip(entries, rows_of(boards), strict=True):
        assert entry.values == {
            key: found if (found := field.get(row, table)) != "" else None for key, field in FIELDS.items()
        }


@pytest.mark.parametrize("fmt", PEOPLE)
def test_cells_for_people_are_the_rounded_values(boards, fmt):
    for board in boards:
        for table in board.tables:
            for row, cells in zip(table.rows, tables.cells(table, fmt), strict=True):
                for column, cell in zip(columns(fmt, table.kind), cells, strict=False):
                    value = FIELDS[column.cell.keys[0]].get(row, table)
                    if column.header.startswith("loss / ") and value is not None:
                        value = math.exp(-value)
                    if isinstance(value, int | float):
                        number = re.match(r"[+-]?[\d,]+(?:\.(\d+))?", cell)
                        slack = 0.5 * 10.0 ** -len(number[1]) if number[1] else 0
                        assert abs(float(number[0].replace(",", "")) - value) <= slack + 1e-9, column.header
                    elif column.header != "top-1 %" and not column.header.startswith("verdict"):
                        assert cell == (value or ""), column.header


@pytest.mark.parametrize("fmt", PEOPLE)
def test_tables_for_people_have_their_setting_counts_and_notes(boards, fmt):
    escape = {"text": tables.clean, "markdown": tables.markdown}.get(fmt, tables.latex)
    text = tables.render(boards, fmt)
    for board in boards:
        assert all(f"{escape(k)}: {escape(v)[:12]}" in text for k, v in board.key.items() if v)
        assert all(escape(table.title) in text for table in board.tables)
    if fmt == "text":
        assert max(len(line) for line in text.splitlines() if not line.startswith("   [")) <= 160  # of a terminal
    else:
        assert "0:15 1:16 2:17 3:15 4:x" in text
        assert "2:17 3:. 4:." in text
    assert {table.rows[0].name for _, table in rows_of(boards)} == {"dense"}
    assert text.count("made from a working tree with local changes") == 2  # a note, and why there is no rank
    for kind in ("macs", "training"):
        headers = [column.header for column in columns(fmt, kind)]
        assert len(headers) == len(set(headers))


@pytest.mark.parametrize("fmt", PEOPLE)
def test_row_without_a_mean_has_its_reason(boards, fmt):
    line = next(line for line in tables.render(boards, fmt).split("\n") if re.search(r"(\s{2}|\| |& )spectral ", line))
    assert "1 failed" in line
    (row,) = (row for row, _ in rows_of(boards) if row.name == "spectral")
    assert "seed 4 failed: the loss was odd" in row.notes
    assert (row.unranked, row.controls_missing) == ("the run of seed 4 failed", ("spectral_energy",))


def test_marks(boards):
    line = {line.split()[2]: line for line in tables.render(boards, "text").splitlines() if line.count("  ") > 8}
    assert re.search(r" \+3\.72\* ", line["ddrop"])  # significantly better than random
    assert re.search(r" -1\.36\* ", line["ddrop"])  # and worse than dense
    assert re.search(r"1\.50\* +1\.65\*", line["l1_norm"])
    assert re.search(r" 1\.00 +1\.00 ", line["dense"])
    markdown = next(line for line in tables.render(boards, "markdown").splitlines() if "| ddrop |" in line)
    assert "| better (5 of 5) |" in markdown
    assert re.search(r"\| 0\.\d{3}\N{DOUBLE DAGGER} \|", markdown)


def test_same_records_give_the_same_bytes(boards, tmp_path):
    again = boards_of(tmp_path, *reversed(METHODS), *CONTROLS)
    for fmt in tables.FORMATS:
        assert tables.render(again, fmt) == tables.render(boards, fmt)
        assert tables.render([], fmt).endswith("\n")
    for some in ([], boards):
        with pytest.raises(UsageError, match="markdown"):
            tables.render(some, "markdwn")


def test_json_has_sorted_keys_units_and_finite_numbers(boards):
    text = tables.render(boards, "json")
    pairs = json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    assert pairs == sorted(pairs)
    assert list(json.loads(text)["boards"][0]["tables"][0]["rows"][0]) == sorted({*FIELDS, "runs"})
    without = re.compile(r"macs|params|training_macs|.*minus_.*_p(_holm|_board)?")
    unit = re.compile(r".*_(percent|points|ms|times|times_dense|seeds|log|nats)")
    assert all(unit.fullmatch(key) or without.fullmatch(key) for key in FIELDS if FIELDS[key].kind == "number")
    (board,) = boards
    table = board.tables[0]
    broken = replace(table, rows=(replace(table.rows[1], cost=float("nan")),))
    with pytest.raises(ValueError, match="JSON compliant"):
        tables.render([replace(board, tables=(broken,))], "json")


# --- hostile strings -----------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil")',
    "+1",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "'=1",
    "a|b",
    "a\nb\r\nc",
    r"\input{/etc/passwd}",
    r"a\|b\\|c",
    "%\\end{table}",
    "50 % & _ # $x^2$ ~ {}",
    "^^5cinput",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "`code` [link](javascript:x) ![i](x) https://evil.example www.evil.example",
    "&lt;b&gt; &amp;",
    "\u202eevil\u2066",
    "\x00\x85\ud800",
    "* - 1. # x",
    "-",
    "x  \u3000 y",
    "\u2028line",
    "漢字",
]


def evil(board, text):
    """The board with a text wherever a record's text goes."""
    table = board.tables[0]
    row = replace(table.rows[2], name=f"evil a={text}", method="evil", notes=(text, f"error: {text}"))
    rows = (table.rows[0], table.rows[1], row, *table.rows[3:])
    key = {**board.key, "counter": text, "arch": text}
    return replace(board, key=key, tables=(replace(table, rows=rows),), notes=(text,))


@pytest.fixture(scope="module")
def hostile(boards):
    """Boards with a hostile text wherever a record's text goes, by that text."""
    return {text: evil(boards[0], text) for text in HOSTILE}


@pytest.mark.parametrize("fmt", EXACT)
def test_hostile_texts_are_read_back(hostile, fmt):
    for text, board in hostile.items():
        (sheet,) = sheets_of([board], fmt)
        assert len(sheet.entries) == len(board.tables[0].rows)
        assert sheet.entries[2].name == tables.clean(f"evil a={text}")
        assert sheet.key["counter"] == tables.clean(text)
        assert sheet.entries[2].values["notes"] == tables.clean(f"{text}; error: {text}")


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("fmt", PEOPLE)
def test_hostile_texts_stay_in_their_cells(boards, hostile, fmt):
    def shape(text):
        return [len(cells_of(line, fmt)) for line in text.split("\n")]

    harmless = shape(tables.render([evil(boards[0], "harmless")], fmt))
    for name, board in hostile.items():
        text = tables.render([board], fmt)
        assert shape(text) == harmless, ascii(name)
        assert not CONTROL.search(text), ascii(name)
        assert fmt != "markdown" or not re.search(r"<|(?<!\\)`|(?<!\\)\[|https?://|www\.", text), ascii(name)


def test_hostile_texts_are_no_formulas_in_a_spreadsheet(hostile):
    for board in hostile.values():
        assert not any(CONTROL.search(tables.render([board], fmt)) for fmt in EXACT)
        for cells in list(csv.reader(io.StringIO(tables.render([board], "csv"))))[1:]:
            for cell in cells:
                assert cell[:1] not in "=+@-" or cell == "" or float(cell) < 0, cell


def test_hostile_texts_are_no_commands_in_latex(hostile):
    tabular = {"begin", "end", "caption", "centering", "footnotesize", "toprule", "midrule", "bottomrule"}
    tabular |= {"raggedright", "resizebox", "linewidth", "medskip"}
    allowed = tabular | {"paragraph", "par", "textbackslash", "textasciitilde", "ensuremath"}
    for board in hostile.values():
        lines = tables.render([board], "latex").splitlines()
        text = "\n".join(line for line in lines if not line.startswith("%"))
        assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= allowed
        bare = re.sub(r"\\\^\{\}|\\[&%$#_{}]", "", text)
        assert not set(bare) & set("%$#^~")
        assert bare.count("{") == bare.count("}")
        assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_many_tables_are_rendered_fast():
    board = large(40)
    board = replace(board, tables=board.tables * 25)
    start = time.process_time()
    tables.render([board], "text")
    assert time.process_time() - start < 1  # 500 such tables in a few seconds
