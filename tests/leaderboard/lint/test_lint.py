"""A table that was made of records is clean, and a line that was changed for people is found where it is."""

import dataclasses
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from support.boards import CONTROLS, boards_of, load, plan_for
from support.lint_tables import EXACT, PEOPLE, more, plant
from support.made_records import made, put, seeds
from support.records import refitted

from bench.errors import UsageError
from leaderboard.lint import parse_tables
from leaderboard.lint.check import check, check_text
from leaderboard.lint.finding import CODES
from leaderboard.lint.rerender import compare
from leaderboard.render import tables
from leaderboard.stats.boards import build


def read_back(texts, fmt):
    return parse_tables.boards(parse_tables.read(texts[fmt], fmt))


# --- clean ---------------------------------------------------------------------------------------------------------


def test_tables_of_records_are_clean_and_follow_from_exact_ones(texts, boards):
    assert read_back(texts, "json") == read_back(texts, "csv")
    for exact in EXACT:
        assert check_text(texts[exact], exact) == check_text(texts[exact], exact, boards) == []
        for fmt in PEOPLE:
            assert tables.render(read_back(texts, exact), fmt) == texts[fmt]
            assert compare(texts[fmt], fmt, read_back(texts, exact), "it") == []


def test_tables_of_widths_in_steps_are_clean(tmp_path):
    """Far below the budget, and ranked: no further step fits; above it they are not clean."""
    records = [made(*of, 0.5, step=8) for of in (("random", k, 40 + k) for k in range(5))]
    records += [made("l1_norm", k, 20 + k, 0.5, step=8) for k in range(5)]
    for found in records:
        found["cost"]["final"] |= {"macs": 40_000, "macs_by_op": {"conv": 39_900, "linear": 100}}
    records = [*map(refitted, records), *seeds("dense", [5, 6, 4, 5, 6], keep=None)]
    boards, _ = boards_of(put(tmp_path, *records), plan_for(records))
    texts = {fmt: tables.render(boards, fmt) for fmt in tables.FORMATS}
    assert [row.rank is not None for row in boards[0].tables[0].rows] == [False, True, True]
    for exact in EXACT:
        assert check_text(texts[exact], exact) == check_text(texts[exact], exact, boards) == []
        for fmt in PEOPLE:
            assert tables.render(read_back(texts, exact), fmt) == texts[fmt]
    for macs, coupling, code in ((60_000, "inner step 8", "above-budget"), (40_000, "inner", "below-budget")):
        text = plant(texts["csv"].replace("inner step 8", coupling), "random", "macs", macs)
        assert code in {found.code for found in check_text(text, "csv")}


STATUS = some.sampled_from(["ok"] * 9 + ["failed", "diverged", "interrupted"])
ROW = some.fixed_dictionaries(
    {
        "method": some.sampled_from(["dense", "random", "l1_norm", "uniform_thin", "ddrop", "spectral", "a|b", "=x"]),
        "where": some.sampled_from(
            [*[("macs", 0.5)] * 5, ("macs", 1 / 3), ("params", 0.25), ("native", None), *[("training", None)] * 2]
        ),
        "runs": some.one_of(
            some.just(dict.fromkeys(range(5), "ok")), some.dictionaries(some.integers(0, 6), STATUS, min_size=1)
        ),
        "wrong": some.lists(some.integers(0, 500), min_size=7, max_size=7),
        "epochs": some.sampled_from([8, 8, 8, 16]),
        "planned": some.booleans(),
        "cost": some.floats(0.1, 9.0),
    }
)
QUICK = {"phases": (Phase.explicit, Phase.reuse, Phase.generate), "suppress_health_check": [HealthCheck.too_slow]}
"""Without shrinking: an example takes a tenth of a second, a thousand of them minutes."""


@settings(max_examples=8, deadline=None, **QUICK)
@given(some.lists(ROW, min_size=3, max_size=8, unique_by=lambda row: (row["method"], row["where"])))
def test_any_records_make_clean_tables(rows):
    records, planned = {}, []
    for row in rows:
        asked = {key: row[key] for key in ("epochs", "cost")}
        kind, keep = row["where"] if row["method"] != "dense" else ("macs", None)
        asked |= {"native": True} if kind == "native" else {"kind": kind}
        name = f"whole_{row['method']}" if kind == "training" else row["method"]  # one method is of one track
        for seed, status in row["runs"].items():
            status = "ok" if kind in ("native", "training") else status
            asked["error"] = "one; two"
            found = made(name, seed, row["wrong"][seed], keep, status=status, **asked)
            records[found["id"]] = found
            planned += [found] * row["planned"]
    with tempfile.TemporaryDirectory() as folder:
        boards, _ = boards_of(put(Path(folder), *records.values()), plan_for(planned))
    if boards:
        texts = {fmt: tables.render(boards, fmt) for fmt in tables.FORMATS}
        for fmt in EXACT:
            assert check_text(texts[fmt], fmt, boards) == []
        for fmt in PEOPLE:
            for source in EXACT:
                assert tables.render(read_back(texts, source), fmt) == texts[fmt]


# --- tables for people ---------------------------------------------------------------------------------------------


def line_of(lines, row):
    return next(n for n, line in enumerate(lines) if re.search(rf"(^|[|&] *|\s{{2,}}){row} *([|&]|\s)", line))


@pytest.mark.parametrize("fmt", PEOPLE)
def test_changed_missing_and_moved_lines_are_found(texts, boards, fmt):
    lines = texts[fmt].split("\n")
    one, two = line_of(lines, "ddrop"), line_of(lines, "random")
    cell = lines[one].replace("97.60", "98.61", 1)
    (found,) = compare("\n".join([*lines[:one], cell, *lines[one + 1 :]]), fmt, boards, "board.json")
    assert (found.line, found.row, found.column, found.code) == (one + 1, "ddrop", "top-1 %", "record-cell")
    assert found.message == "'98.61 ± 0.18', board.json says '97.60 ± 0.18'"
    for change in (lines[:one] + lines[one + 1 :], [*lines[:one], lines[one], *lines[one:]]):
        (found,) = compare("\n".join(change), fmt, boards, "it")
        assert (found.code, found.row) == ("record-row", "ddrop")
    lines[one], lines[two] = lines[two], lines[one]
    assert {f.code for f in compare("\n".join(lines), fmt, boards, "it")} == {"record-row"}


def test_changed_line_has_its_code_and_number(texts, boards):
    for fmt, old, new, code in [
        ("markdown", "1. not ranked", "1. ranked", "footnote"),
        ("text", "[1] not ranked", "[1] ranked", "footnote"),
        ("latex", r"\par 1: not ranked", r"\par 1: ranked", "footnote"),
        ("markdown", "| test images |", "| images |", "columns"),
        ("text", " params % ", " params   ", "columns"),
        ("latex", " params \\% ", " params ", "columns"),
        ("markdown", "fpgm", "mine", "record-row"),
        ("latex", '"epochs": "8"', '"epochs": "9"', "record-row"),
        ("markdown", "dense: 100,000 MACs", "dense: 200,000 MACs", "record-table"),
        ("text", "   counter: fvcore", "   device: my chip", "record-table"),
    ]:
        assert old in texts[fmt]
        found = compare(texts[fmt].replace(old, new, 1), fmt, boards, "it")
        assert [f.code for f in found] == [code], (fmt, new)
    lines = texts["markdown"].split("\n")
    first = line_of(lines, "dense")
    for at in range(first, first + 3):
        lines[at] = lines[at].replace("matched", "native").replace("| dense |", "| native |")
    assert {f.line for f in compare("\n".join(lines), "markdown", boards, "it")} == {first + 1, first + 2, first + 3}


def test_file_of_one_budget_is_compared_with_that_budget(tmp_path):
    records = [*CONTROLS, *seeds("ddrop", [30, 31, 33, 29, 30], keep=0.25)]
    (board,), _ = build(load(put(tmp_path, *records)))
    other = dataclasses.replace(board, tables=board.tables[:1])
    assert len(board.tables) == 2
    for fmt in PEOPLE:
        assert compare(tables.render([other], fmt), fmt, [board], "it") == []
        assert [f.code for f in compare("", fmt, [board], "it")] == ["record-table"]


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "source"), [(".md", "json"), (".tex", "csv"), (".txt", "json")])
def test_rounded_table_needs_the_exact_one_or_records(texts, boards, tmp_path, ending, source):
    file, fmt = tmp_path / f"board{ending}", tables.ENDINGS[ending]
    file.write_text(texts[fmt])
    with pytest.raises(UsageError, match=r"give --records DIR, or put board\.json or board\.csv"):
        check(file)
    assert check(file, boards) == []
    exact = file.with_suffix(f".{source}")
    exact.write_text(texts[source])
    assert check(file) == check(exact) == []
    exact.write_text("{")
    assert [(f.file, f.code) for f in check(file)] == [(str(exact), "form")]
    exact.unlink()
    text = plant(texts["csv"], "ddrop", "top1_percent", more(0.2))  # a fault of the exact table is found through both
    file.with_suffix(".csv").write_text(text)
    file.write_text(tables.render(parse_tables.boards(parse_tables.read(text, "csv")), fmt))
    assert {f.file for f in check(file)} == {str(tmp_path / "board.csv")}
    assert "mean" in {f.code for f in check(file)}


def test_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    for name, content in (("a.html", b""), ("none.md", None), ("a.md", b"\xff\xfe|")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="lint"):
            check(tmp_path / name)


def test_text_that_is_no_table_is_one_finding():
    start = '{"kind": "bench.board", '
    broken_boards = start + '"boards": [{"key": {}, "tables": [{"kind": "macs"}]}]}'
    endless = start + '"n": ' + "9" * 5000 + "}"
    documents = ("{", "[1]", start + '"boards": 3}', broken_boards, "[" * 100_000, endless)
    for fmt, texts in (("json", documents), ("csv", ('"a', "", "a,b\n1,2\n", "table,name\n1,2\n"))):
        for text in texts:
            assert [f.code for f in check_text(text, fmt)] == ["form"], text[:99]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data(), fmt=some.sampled_from(tables.FORMATS))
def test_nothing_makes_it_fail(texts, boards, data, fmt):
    text = texts[fmt]
    at = data.draw(some.integers(0, len(text) - 1))
    new = data.draw(
        some.sampled_from(["", "9" * 400, "-", "|", "&", "\\", "{", "}", "nan", "1e999", "0", "\n", ",", '"', "x"])
    )
    text = text[:at] + new + text[at + data.draw(some.integers(0, 5)) :]
    found = check_text(text, fmt) if fmt in EXACT else compare(text, fmt, boards, "it")
    assert all(finding.code in CODES for finding in found)
