"""Tables: every format says the same, nothing of a record gets out of its cell, same boards make the same bytes."""

import csv
import io
import json
import re
import time
from dataclasses import replace

import pytest
from support.made_records import IMAGES, made, put, seeds

import leaderboard
from bench.errors import UsageError
from leaderboard.lint import reading
from leaderboard.reader.model import Difference, Mean, Table
from leaderboard.render import tables
from leaderboard.render.columns import FIELDS, Number, columns
from leaderboard.stats.boards import build

PEOPLE = ("text", "markdown", "latex")
CONTROLS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("l1_norm", [20, 21, 22, 20, 19]),
    *seeds("uniform_thin", [21, 20, 23, 22, 20], starts_from="init", cost=0.5),
    *seeds("uniform_thin_long", [10, 9, 11, 12, 10], starts_from="init", epochs=16),
)
METHODS = (
    *seeds("ddrop", [12, 12, 11, 13, 12], busy=True, changed=True),
    *seeds("l1l2", [11, 13, 12, 12, 14], config={"share": 30}, changed=True),
    *seeds("spectral", [15, 16, 17, 15], cost=2.0),
    made("spectral", 4, status="failed", error="the loss was odd"),
    *seeds("dropnet", [15, 16, 17], speedup=0.9),
    *seeds("edropout", [15, 18, 17, 16, 14], native=True, keep=None),
)


def boards_of(folder, *records):
    return build(leaderboard.load(put(folder, *records), cache=False))[0]


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return boards_of(tmp_path_factory.mktemp("records"), *CONTROLS, *METHODS)


def rows_of(boards):
    return [(row, table) for board in boards for table in board.tables for row in table.rows]


def entries_of(boards, fmt):
    sheets, others = reading.read(tables.render(boards, fmt), fmt)
    assert others == []
    assert [fault for sheet in sheets for fault in sheet.faults] == []
    return [entry for sheet in sheets for entry in sheet.entries]


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_what_is_written_is_what_is_read(boards, fmt):
    entries, rows = entries_of(boards, fmt), rows_of(boards)
    assert len(entries) == len(rows) > 10
    for entry, (row, table) in zip(entries, rows, strict=True):
        for key, cell in entry.cells.items():
            value = FIELDS[key].get(row, table)
            if isinstance(cell, Number):
                assert abs(cell.value - value) <= cell.slack + 1e-12 * abs(value), key
            elif key != "unfinished" or "spec" in entry.cells:
                assert cell == (None if value == "" else value), key


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_every_table_says_what_it_was_made_under(boards, fmt):
    sheets, _ = reading.read(tables.render(boards, fmt), fmt)
    written = [(board.key, table) for board in boards for table in board.tables]
    for sheet, (key, table) in zip(sheets, written, strict=True):
        assert sheet.key == key
        assert (sheet.kind, sheet.keep and sheet.keep.value) == (table.kind, table.keep)


@pytest.mark.parametrize("fmt", ["csv", "json"])
def test_machines_get_every_digit(boards, fmt):
    for entry, (row, table) in zip(entries_of(boards, fmt), rows_of(boards), strict=True):
        assert entry.cells.keys() == FIELDS.keys()
        for key, field in FIELDS.items():
            if field.kind in ("number", "integer") and field.get(row, table) is not None:
                assert entry.cells[key] == Number(field.get(row, table)), key


@pytest.mark.parametrize("fmt", [fmt for fmt in tables.FORMATS if fmt != "text"])
def test_a_table_carries_the_counts_it_is_made_of(boards, fmt):
    entry = next(e for e in entries_of(boards, fmt) if e.name == "spectral")
    assert entry.cells["wrong_test_images_by_seed"] == "0:15 1:16 2:17 3:15 4:x"
    assert entry.cells["test_images"] == Number(IMAGES)
    assert (
        next(e for e in entries_of(boards, fmt) if e.name == "dropnet")
        .cells["wrong_test_images_by_seed"]
        .endswith("2:17 3:. 4:.")
    )


@pytest.mark.parametrize("fmt", PEOPLE)
def test_a_row_without_a_mean_says_why(boards, fmt):
    entry = next(e for e in entries_of(boards, fmt) if e.name == "spectral")
    assert (entry.cells["top1_percent"], entry.cells["unfinished"]) == (None, "1 failed")
    assert "seed 4 failed: the loss was odd" in entry.cells["notes"]
    assert entry.cells["unranked"] == "the run of seed 4 failed"
    assert entry.cells["controls_missing"] == "spectral_energy"


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_dense_stands_first_and_each_note_once(boards, fmt):
    text = tables.render(boards, fmt)
    sheets, _ = reading.read(text, fmt)
    assert {sheet.entries[0].name for sheet in sheets} == {"dense"}
    if fmt in PEOPLE:
        assert text.count("made from a working tree with local changes") == 1


def test_marks(boards):
    line = {line.split()[2]: line for line in tables.render(boards, "text").splitlines() if line.count("  ") > 8}
    assert re.search(r" \+3\.72\*", line["ddrop"])  # better than random, clear of it
    assert re.search(r"1\.50~ +1\.80~", line["ddrop"])  # the machine was busy
    assert re.search(r"1\.50\* +1\.80\*", line["l1_norm"])
    assert re.search(r" 0\.90 +1\.08\* ", line["dropnet"])


def test_a_terminal_holds_the_table(boards):
    lines = tables.render(boards, "text").splitlines()
    assert max(len(line) for line in lines if not line.startswith("   [")) <= 160


def test_same_records_same_bytes(boards, tmp_path):
    again = boards_of(tmp_path, *reversed(METHODS), *CONTROLS)
    for fmt in tables.FORMATS:
        assert tables.render(again, fmt) == tables.render(boards, fmt)


def test_no_boards_are_no_tables():
    for fmt in tables.FORMATS:
        assert tables.render([], fmt).endswith("\n")


def test_unknown_formats_are_refused(boards):
    for some in ([], boards):
        with pytest.raises(UsageError, match="markdown"):
            tables.render(some, "markdwn")


def test_headers_tell_columns_apart():
    for fmt in PEOPLE:
        headers = [column.header for column in columns(fmt)]
        assert len(headers) == len(set(headers))


def test_units_are_in_the_names():
    without = re.compile(r"macs|params|training_macs|minus_.*_p(_holm)?")
    unit = re.compile(r".*_(percent|points|ms|times|times_dense)")
    assert all(unit.fullmatch(key) or without.fullmatch(key) for key in FIELDS if FIELDS[key].kind == "number")


def test_json_has_no_numbers_that_are_none(boards):
    (board,) = boards
    table = board.tables[0]
    broken = replace(table, rows=(replace(table.rows[1], cost=float("nan")),))
    with pytest.raises(ValueError, match="JSON compliant"):
        tables.render([replace(board, tables=(broken,))], "json")


def test_json_keys_are_sorted(boards):
    pairs = json.loads(tables.render(boards, "json"), object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    assert pairs == sorted(pairs)
    text = tables.render(boards, "json")
    assert list(json.loads(text)["boards"][0]["tables"][0]["rows"][0]) == sorted({*FIELDS, "runs"})


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


@pytest.fixture(scope="module")
def hostile(boards):
    """Boards with a hostile text wherever a record's text goes, by that text."""
    (board,) = boards
    table = board.tables[0]
    found = {}
    for text in HOSTILE:
        row = replace(table.rows[2], name=f"evil a={text}", method="evil", notes=(text, f"error: {text}"))
        rows = (table.rows[0], table.rows[1], row, *table.rows[3:])
        key = {**board.key, "device": text, "arch": text}
        found[text] = replace(board, key=key, tables=(replace(table, rows=rows),), notes=(text,))
    return found


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_hostile_texts_stay_in_their_cells(hostile, fmt):
    for text, board in hostile.items():
        (sheet,), others = reading.read(tables.render([board], fmt), fmt)
        assert (sheet.faults, others) == ([], []), ascii(text)
        assert len(sheet.entries) == len(board.tables[0].rows)
        entry = sheet.entries[2]
        assert entry.name == tables.clean(f"evil a={text}")
        assert sheet.key["device"] == tables.clean(text)
        notes = [tables.clean(note) for note in (text, f"error: {text}")]
        assert entry.cells["notes"] == ("; ".join(notes) if fmt in PEOPLE else tables.clean("; ".join(notes)))


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_no_format_has_control_characters(hostile, fmt):
    for board in hostile.values():
        text = tables.render([board], fmt)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_no_formula_in_a_spreadsheet(hostile):
    for board in hostile.values():
        for cells in list(csv.reader(io.StringIO(tables.render([board], "csv"))))[1:]:
            for cell in cells:
                assert cell[:1] not in "=+@-" or cell == "" or float(cell) < 0, cell


def test_no_html_and_no_links_in_markdown(hostile):
    for board in hostile.values():
        text = tables.render([board], "markdown")
        assert not re.search(r"<|(?<!\\)`|(?<!\\)\[|https?://|www\.", text)


def test_no_commands_in_latex(hostile):
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


def test_many_tables_are_fast():
    from leaderboard.reader.model import Board, Row, Speed

    difference = {to: Difference(to, -0.51, 0.3, 5, 0.01, 0.02) for to in ("dense", "random", "uniform_thin")}
    speed = Speed(1, 1.5, 1.0, 1.5, 1.4, 1.6, False)
    rows = tuple(
        Row(
            *(
                "0" * 12,
                "m",
                f"m a={k}",
                "matched",
                (),
                (),
                IMAGES,
                Mean(97.0, 0.2),
                Mean(50.0, 1.0),
                5e4,
                5e3,
                50.0,
                50.0,
            ),
            *(difference, k, "", "ab", 9, (speed, speed), 8, 1e9, 0.9, 1.1, ("base", "cost"), "S2"),
        )
        for k in range(40)
    )
    board = Board({"arch": "net", "dataset": "digits"}, (), (Table("macs", 0.5, rows, 10**5, 10**4),) * 25, ())
    start = time.process_time()
    tables.render([board], "text")
    assert time.process_time() - start < 1  # 500 such tables in a few seconds
