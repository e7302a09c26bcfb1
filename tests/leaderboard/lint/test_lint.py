"""A table that was made of records is clean, and each planted fault is found where it is."""

import csv
import dataclasses
import io
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from support.boards import CONTROLS, boards_of, latencies_for, plan_for
from support.made_records import made, put, seeds
from support.paths import ROOT

import leaderboard
from bench.errors import UsageError
from leaderboard.lint import parse_tables
from leaderboard.lint.check import check, check_text
from leaderboard.lint.finding import CODES, Finding
from leaderboard.lint.rerender import compare
from leaderboard.render import tables
from leaderboard.stats.boards import build

METHODS = (
    *seeds("ddrop", [12, 12, 11, 13, 12]),
    *seeds("l1l2", [11, 13, 12, 12, 14], config={"share": 30}),
    *seeds("spectral", [15, 16, 17, 15], cost=2.0),
    made("spectral", 4, status="failed"),
    *seeds("dropnet", [15, 16, 17]),
    *seeds("fpgm", [15, 18, 17, 16, 14]),
)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    folder, records = tmp_path_factory.mktemp("records"), [*CONTROLS, *METHODS]
    finished = [found for found in records if found["status"] == "ok"]
    return boards_of(put(folder, *records), plan_for(records), latencies_for(finished))[0]


@pytest.fixture(scope="module")
def texts(boards):
    return {fmt: tables.render(boards, fmt) for fmt in tables.FORMATS}


EXACT, PEOPLE = ("csv", "json"), ("text", "markdown", "latex")


def codes(text, row=None, boards=None, fmt="csv"):
    return {f.code for f in check_text(text, fmt, boards) if row in (None, f.row)}


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


STATUS = some.sampled_from(["ok"] * 9 + ["failed", "diverged", "interrupted"])
ROW = some.fixed_dictionaries(
    {
        "method": some.sampled_from(["dense", "random", "l1_norm", "uniform_thin", "ddrop", "spectral", "a|b", "=x"]),
        "where": some.sampled_from([*[("macs", 0.5)] * 5, ("macs", 1 / 3), ("params", 0.25), ("native", None)]),
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
        for seed, status in row["runs"].items():
            status = "ok" if kind == "native" else status
            asked["error"] = "one; two"
            found = made(row["method"], seed, row["wrong"][seed], keep, status=status, **asked)
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


# --- faults in exact tables ----------------------------------------------------------------------------------------


def plant(text, row, key, change):
    """The text of a CSV file with one cell changed: of the row with this name, in the column ``key``."""
    lines = list(csv.reader(io.StringIO(text)))
    at = lines[0].index(key)
    (cells,) = (cells for cells in lines[1:] if cells[lines[0].index("name")] == row)
    cells[at] = str(change(float(cells[at])) if callable(change) else change)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def more(by):
    return lambda old: old + by


FAULTS = [
    ("cell", "ddrop", "top1_percent", "good"),
    ("cell", "ddrop", "seeds", "4.5"),
    ("cell", "ddrop", "loss_by_seed", "0:-1"),
    ("mixed-key", "ddrop", "board_counter", "other"),
    ("mixed-key", "ddrop", "budget_keep", "0.25"),
    ("mixed-test-set", "ddrop", "test_images", more(500)),
    ("mixed-dense", "ddrop", "dense_macs", more(1)),
    ("mixed-dense", "dense", "macs", more(-1000)),
    ("mixed-track", "ddrop", "track", "native"),
    ("mixed-track", "ddrop", "track", "of my own"),
    ("mixed-epochs", "ddrop", "epochs", more(8)),
    ("counts", "ddrop", "wrong_test_images_by_seed", "0:-4 1:12 2:11 3:13 4:12"),
    ("counts", "ddrop", "wrong_test_images_by_seed", "0:12 0:12 2:11 3:13 4:12"),
    ("wrong-images", "ddrop", "wrong_test_images_by_seed", "0:501 1:12 2:11 3:13 4:12"),
    ("seeds", "ddrop", "seeds", more(1)),
    ("outcome", "spectral", "unfinished", "2 failed"),
    ("accuracy-range", "ddrop", "top1_percent", more(3.0)),
    ("accuracy-image", "l1_norm", "pruned_top1_percent", more(0.02)),
    *(("mean", "ddrop", f"{of}_percent", more(0.02)) for of in ("top1", "pruned_top1")),
    ("mean", "ddrop", "loss_nats", more(1e-6)),
    ("mean", "ddrop", "wrong_test_images_by_seed", "0:12 1:12 2:12 3:13 4:12"),
    ("interval", "ddrop", "top1_half_points", more(1e-6)),
    ("interval", "ddrop", "minus_random_half_points", more(0.1)),
    ("interval-alone", "ddrop", "pruned_top1_percent", ""),
    ("interval-alone", "l1_norm", "small_speedup_low_times", ""),
    ("interval", "ddrop", "pruned_top1_minus_random_half_points", more(1e-6)),
    ("difference", "ddrop", "minus_random_points", more(0.2)),
    ("difference", "ddrop", "minus_random_won_seeds", more(-1)),
    ("difference", "ddrop", "loss_minus_random_log", more(1e-6)),
    *(("p", "ddrop", f"minus_random_{part}", more(1e-6)) for part in ("p_board", "smallest_points")),
    ("p", "ddrop", "loss_minus_random_p_holm", more(1e-6)),
    *(("verdict", "ddrop", f"{of}minus_random_verdicts", "worse; worse") for of in ("", "loss_", "pruned_top1_")),
    ("p", "ddrop", "minus_random_p_holm", more(1e-6)),
    ("p", "ddrop", "minus_random_p", more(1.0)),
    ("p", "ddrop", "minus_random_seeds", more(-1)),
    ("clear", "ddrop", "minus_random_clear", "no"),
    ("failed-mean", "spectral", "top1_percent", "97.0"),
    ("claimed", "ddrop", "wrong_test_images_by_seed", ""),
    ("negative", "ddrop", "epochs", more(-30)),
    ("above-dense", "ddrop", "params", more(9000)),
    ("above-budget", "ddrop", "macs", more(2000)),
    ("below-budget", "ddrop", "macs", more(-2000)),
    *(("percent", "ddrop", f"{of}_percent", more(0.1)) for of in ("macs", "params")),
    ("cost", "spectral", "training_cost_times_dense", more(-0.5)),
    ("speed-mean", "l1_norm", "large_dense_ms", more(5.0)),
    ("speed-mean", "l1_norm", "small_speedup_times", more(0.001)),
    ("speed-interval", "l1_norm", "small_speedup_times", more(0.5)),
    ("speed-claim", "dense", "small_faster", "yes"),
    ("speed-claim", "l1_norm", "small_faster", "no"),
    *(("rank", "ddrop", f"rank_{end}", more(1)) for end in ("best", "worst")),
    ("rank", "ddrop", "order_shown", "no"),
    ("tie-group", "random", "tie_group", "a"),
    ("tie-group", "dropnet", "tie_group", "z"),
    ("seeds-needed", "ddrop", "seeds_needed", "2, 2"),
    *(("rank-not-allowed", row, "rank_best", "1") for row in ("dropnet", "spectral", "dense")),
    ("rank-not-allowed", "ddrop", "epochs", more(8)),
    ("rank-not-allowed", "ddrop", "macs", more(-2000)),
    ("order", "random", "top1_percent", more(3.9)),
    ("control", "ddrop", "controls_missing", "random"),
    ("control", "spectral", "controls_missing", ""),
]
"""(code, row, column, what is done to the cell): at least one fault for each code that one cell can have."""


def test_planted_fault_is_found(texts):
    for code, row, key, change in FAULTS:
        assert code in codes(plant(texts["csv"], row, key, change), row), (code, row, key)


def test_faults_of_rows_columns_and_tables_are_found(texts):
    text = texts["csv"]
    lines = text.split("\n")
    at = next(n for n, line in enumerate(lines) if ",ddrop,,ddrop," in line)
    twice = check_text("\n".join([*lines[:at], lines[at], *lines[at:]]), "csv")
    assert [(f.row, f.line) for f in twice if f.code == "duplicate"] == [("ddrop", at + 2)]
    assert "control" in codes("\n".join(line for line in lines if ",random,,random," not in line), "ddrop")
    assert "rank-not-allowed" in codes(text.replace("digits", "synthetic"), "ddrop")
    assert "rank-not-allowed" in codes(text.replace(",macs,0.5,", ",native,,"), "ddrop")
    assert "columns" in codes(text.replace(",test_images,", ",images,", 1))
    without_reason = plant(text, "dropnet", "unranked", "")
    assert {f.row for f in check_text(without_reason, "csv")} == {"dropnet"}
    assert "no-rank" in codes(without_reason, "dropnet")
    without_rank = plant(plant(text, "ddrop", "rank_best", ""), "ddrop", "rank_worst", "")
    assert "no-rank" in codes(without_rank, "ddrop")
    document = json.loads(texts["json"])
    rows = document["boards"][0]["tables"][0]["rows"]
    rows[1]["runs"][0]["wrong"] += 1  # is not the count of the row
    del rows[2]["rank_best"]
    text = json.dumps(document)
    assert codes(text, rows[1]["name"], fmt="json") == {"counts"}
    assert "columns" in codes(text, rows[2]["name"], fmt="json")


def test_changed_values_over_all_budgets_are_found(tmp_path):
    records = [*CONTROLS, *(r for r in seeds("random", [60, 62, 61, 65, 60], keep=0.25))]
    records += [r for keep in (0.5, 0.25) for r in seeds("ddrop", [12, 15, 11, 13, 12], keep=keep)]
    made_of, _ = boards_of(put(tmp_path, *records), plan_for(records))
    document = json.loads(tables.render(made_of, "json"))
    assert check_text(json.dumps(document), "json") == []
    curve = next(curve for curve in document["boards"][0]["curves"] if curve["name"] == "ddrop")
    changes = [
        *((curve, "error_percent", 1.0), (curve["front"], "macs", []), (curve["reach"][1], "passed", 0.1)),
        *((curve["reach"][0], "times", 9.0), (curve["pooled_log_ratio"]["top1"]["random"], "p_board", 0.5)),
        (curve["pooled_log_ratio"]["loss"]["dense"], "verdict", "better"),
    ]
    for where, key, value in changes:
        before, where[key] = where[key], value
        assert {f.code for f in check_text(json.dumps(document), "json")} == {"curve"}, key
        where[key] = before


def test_records_say_which_cell_row_and_table_differ(texts, boards):
    key = "level"  # follows from nothing else in the table
    text = plant(texts["csv"], "ddrop", key, "S1")
    assert codes(text) == set()
    (found,) = check_text(text, "csv", boards)
    assert (found.code, found.row, found.column) == ("record-cell", "ddrop", key)
    assert codes(texts["csv"].replace(",fpgm,,fpgm,", ",mine,,mine,"), boards=boards) == {"record-row"}
    less = "\n".join(line for line in texts["csv"].split("\n") if ",dropnet,,dropnet," not in line)
    (found,) = (f for f in check_text(less, "csv", boards) if f.code == "record-row")
    assert found.message == "the row dropnet of the records is missing"
    assert "record-table" in codes(texts["csv"].replace(",fvcore,", ",thop,"), boards=boards)


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
    (board,), _ = build(leaderboard.load(put(tmp_path, *records), cache=False))
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


# --- the page ------------------------------------------------------------------------------------------------------


def test_every_code_is_explained_and_can_happen():
    page = (ROOT / "docs" / "lint.md").read_text()
    listed = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, re.M))
    assert listed == CODES
    elsewhere = {
        "curve",
        "no-rank",
        "form",
        "columns",
        "footnote",
        "duplicate",
        "record-table",
        "record-row",
        "record-cell",
    }
    assert {code for code, *_ in FAULTS} | elsewhere == set(CODES)
    found = Finding("a.csv", 2, "\x1b[31mA\n=B\x07", "Delta", "difference", "+0.3, but +0.1 follows")
    assert str(found) == "a.csv:2: A =B: Delta: +0.3, but +0.1 follows [difference]"  # one line, whatever it says
