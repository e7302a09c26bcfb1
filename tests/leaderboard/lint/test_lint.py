"""The linter: a table that was made from records is clean, and each fault planted into one is found where it is."""

import csv
import io
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from support.made_records import made, put, seeds
from support.paths import ROOT

import leaderboard
from bench.errors import UsageError
from leaderboard.lint import check
from leaderboard.render import tables
from leaderboard.render.columns import header_of
from leaderboard.stats.boards import build

CONTROLS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("l1_norm", [20, 21, 22, 20, 19]),
    *seeds("uniform_thin", [21, 20, 23, 22, 20], starts_from="init", cost=0.5),
    *seeds("uniform_thin_long", [10, 9, 11, 12, 10], starts_from="init", epochs=16),
)
METHODS = (
    *seeds("ddrop", [12, 12, 11, 13, 12], busy=True, changed=True),
    *seeds("l1l2", [11, 13, 12, 12, 14], config={"share": 30}),
    *seeds("spectral", [15, 16, 17, 15], cost=2.0),
    made("spectral", 4, status="failed"),
    *seeds("dropnet", [15, 16, 17], speedup=0.9),
    *seeds("fpgm", [15, 18, 17, 16, 14], speedup=1.0),
)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return leaderboard.load(put(tmp_path_factory.mktemp("records"), *CONTROLS, *METHODS), cache=False)


@pytest.fixture(scope="module")
def texts(frame):
    return {fmt: tables.render(build(frame)[0], fmt) for fmt in tables.FORMATS}


def codes(text, fmt, row=None, records=None):
    found = check.check_text(text, fmt, records)
    return {f.code for f in found if row is None or f.row == row}


# --- clean ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_what_records_make_is_clean(texts, frame, fmt):
    assert check.check_text(texts[fmt], fmt) == []
    assert check.check_text(texts[fmt], fmt, frame) == []


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
        "busy": some.booleans(),
        "speedup": some.floats(0.3, 4.0),
        "cost": some.floats(0.1, 9.0),
    }
)
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: an example takes a tenth of a second, a thousand of them minutes."""


@settings(max_examples=8, deadline=None, phases=QUICK, suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(ROW, min_size=3, max_size=8, unique_by=lambda row: (row["method"], row["where"])))
def test_any_records_make_clean_tables(rows):
    records = {}
    for row in rows:
        asked = {key: row[key] for key in ("epochs", "busy", "speedup", "cost")}
        kind, keep = row["where"] if row["method"] != "dense" else ("macs", None)
        asked |= {"native": True} if kind == "native" else {"kind": kind}
        for seed, status in row["runs"].items():
            status = "ok" if kind == "native" else status
            found = made(row["method"], seed, row["wrong"][seed], keep, status=status, **asked)
            records[found["id"]] = found
    with tempfile.TemporaryDirectory() as folder:
        frame = leaderboard.load(put(Path(folder), *records.values()), cache=False)
    boards, _ = build(frame)
    for fmt in tables.FORMATS if boards else ():
        assert check.check_text(tables.render(boards, fmt), fmt, frame if fmt == "csv" else None) == []


# --- faults --------------------------------------------------------------------------------------------------------


def plant(text, fmt, row, key, change):
    """The text with one cell changed: of the row with this name, in the column that holds the field ``key``."""
    done = []

    def changed(old):
        done.append(change(old) if callable(change) else change)
        return done[-1]

    header = header_of(fmt, key)
    if fmt == "json":
        document = json.loads(text)
        for table in document["boards"][0]["tables"]:
            for found in table["rows"]:
                if found["name"] == row:
                    found[key] = changed(found[key])
        text = json.dumps(document)
    elif fmt == "csv":
        lines = list(csv.reader(io.StringIO(text)))
        for cells in lines[1:]:
            if cells[lines[0].index("name")] == row:
                old = cells[lines[0].index(key)]
                new = changed(float(old) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", old) else old)
                cells[lines[0].index(key)] = "" if new is None else str(new)
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(lines)
        text = out.getvalue()
    else:
        between, end = {"markdown": ("|", ""), "latex": ("&", r"\\"), "text": ("  ", "")}[fmt]
        lines = text.split("\n")
        head = next(line for line in lines if "rank" in line and "tie" in line)
        split = re.compile(r" {2,}" if fmt == "text" else rf"(?<!\\)\{between}")
        headers = [part.strip().replace("\\", "") for part in split.split(head.strip().removesuffix(end))]
        audits = [n for n, line in enumerate(lines) if line.startswith("% bench.board.row")]
        body = 0
        for n, line in enumerate(lines):
            cells = split.split(line.strip().removesuffix(end))
            if len(cells) != len(headers) or line == head or "--" in cells[1]:
                continue
            if cells[headers.index("method")].strip().replace("\\", "") == row:
                if header in headers:
                    cells[headers.index(header)] = f" {changed(cells[headers.index(header)].strip())} "
                    lines[n] = between.join(cells) + end
                else:
                    mark, facts = lines[audits[body]].split("row ", 1)
                    facts = json.loads(facts)
                    facts[header] = changed(facts[header])
                    lines[audits[body]] = f"{mark}row {json.dumps(facts)}"
            body += 1
        text = "\n".join(lines)
    assert len(done) == 1, (fmt, row, key)
    return text


def more(by):
    """Add to the first number of a cell."""

    def change(old):
        if isinstance(old, int | float):
            return old + by
        return re.sub(
            r"[+-]?[\d,]+(\.\d+)?",
            lambda m: f"{float(m[0].replace(',', '')) + by:.{len(m[1] or '.') - 1}f}",
            str(old),
            count=1,
        )

    return change


ALL = ("markdown", "latex", "csv", "json")
EXACT = ("csv", "json")


def mark(old):
    """The flag set, or the mark that stands for it."""
    return True if isinstance(old, bool) else "yes" if old in ("yes", "no") else f"{old}*"


def unmark(old):
    return False if isinstance(old, bool) else "no" if old in ("yes", "no") else old.replace("\\*", "").replace("*", "")


def empty(old):
    return "" if isinstance(old, str) else None


def first(old):
    return 1 if old is None else "1"


def other_half(old):
    """Another half width: a number of its own, or the last one of ``97.60 ± 0.15``."""
    return f"{old[:-1]}{(int(old[-1]) + 5) % 10}" if isinstance(old, str) else old + 0.1


FAULTS = [
    ("mean", "ddrop", "top1_percent", more(0.2), ALL),
    ("mean", "ddrop", "top1_percent", more(0.02), ALL),
    ("accuracy-image", "ddrop", "top1_percent", more(0.02), ALL),
    ("accuracy-image", "l1_norm", "pruned_top1_percent", more(0.02), ALL),
    ("accuracy-range", "ddrop", "top1_percent", more(3.0), (*ALL, "text")),
    ("accuracy-range", "ddrop", "pruned_top1_percent", more(-100.0), EXACT),
    ("interval", "ddrop", "top1_half_points", other_half, ALL),
    ("interval-alone", "ddrop", "pruned_top1_percent", empty, EXACT),
    ("difference", "ddrop", "minus_random_points", more(0.2), (*ALL, "text")),
    ("interval", "ddrop", "minus_random_half_points", more(0.1), EXACT),
    ("p", "ddrop", "minus_random_p_holm", more(1e-6), EXACT),
    ("p", "ddrop", "minus_random_p", more(1.0), EXACT),
    ("p", "ddrop", "minus_random_seeds", more(-1), EXACT),
    ("clear", "ddrop", "minus_random_clear", unmark, ALL),
    ("clear", "l1l2 share=30", "minus_dense_clear", unmark, ALL),
    ("rank", "ddrop", "rank", more(1), ALL),
    ("order", "random", "rank", more(-3), (*ALL, "text")),
    ("tie-group", "random", "tie_group", "a", ALL),
    ("seeds-needed", "random", "seeds_needed", more(1), ALL),
    ("seeds", "ddrop", "seeds", more(1), ALL),
    ("rank-not-allowed", "dropnet", "rank", first, (*ALL, "text")),
    ("rank-not-allowed", "spectral", "rank", first, (*ALL, "text")),
    ("rank-not-allowed", "dense", "rank", first, (*ALL, "text")),
    ("mixed-epochs", "ddrop", "epochs", more(8), ALL),
    ("rank-not-allowed", "ddrop", "epochs", more(8), ALL),
    ("no-rank", "ddrop", "rank", empty, ALL),
    ("failed-mean", "spectral", "top1_percent", lambda old: 97.0 if old is None else "97.00", ALL),
    ("counts", "ddrop", "wrong_test_images_by_seed", "0:-4 1:12 2:11 3:13 4:12", ALL),
    ("counts", "ddrop", "wrong_test_images_by_seed", "0:12 0:12 2:11 3:13 4:12", ALL),
    ("wrong-images", "ddrop", "wrong_test_images_by_seed", "0:501 1:12 2:11 3:13 4:12", ALL),
    ("mean", "ddrop", "wrong_test_images_by_seed", "0:12 1:12 2:12 3:13 4:12", ALL),
    ("claimed", "ddrop", "wrong_test_images_by_seed", "", ALL),
    ("outcome", "spectral", "unfinished", "2 failed", EXACT),
    ("mixed-test-set", "ddrop", "test_images", more(500), ALL),
    ("mixed-track", "ddrop", "track", "native", ALL),
    ("mixed-track", "ddrop", "track", "of my own", ALL),
    ("mixed-dense", "ddrop", "dense_macs", more(1), EXACT),
    ("mixed-dense", "dense", "macs", more(-1000), ALL),
    ("above-dense", "ddrop", "params", more(9000), ALL),
    ("above-dense", "ddrop", "macs_percent", more(80.0), ("text",)),
    ("above-budget", "ddrop", "macs", more(2000), ALL),
    ("above-budget", "ddrop", "macs_percent", more(1.0), ("text",)),
    ("below-budget", "ddrop", "macs", more(-2000), ALL),
    ("below-budget", "ddrop", "macs_percent", more(-1.0), ("text",)),
    ("percent", "ddrop", "macs_percent", more(0.1), ALL),
    ("percent", "ddrop", "params_percent", more(0.1), ALL),
    ("negative", "ddrop", "epochs", more(-30), ALL),
    ("negative", "ddrop", "training_macs", more(-2e9), ALL),
    ("cost", "spectral", "training_cost_times_dense", more(-0.5), ALL),
    ("speed-interval", "l1_norm", "small_speedup_times", more(0.5), ("markdown", *EXACT)),
    ("speed-mean", "l1_norm", "small_speedup_times", more(0.001), EXACT),
    ("speed-ratio", "l1_norm", "large_dense_ms", more(5.0), EXACT),
    ("speed-claim", "dropnet", "small_faster", mark, ("markdown", "latex", "text", *EXACT)),
    ("speed-claim", "fpgm", "small_faster", mark, EXACT),
    ("speed-claim", "l1_norm", "small_faster", unmark, ("markdown", *EXACT)),
    ("speed-claim", "ddrop", "small_faster", mark, EXACT),
    ("interval-alone", "l1_norm", "small_speedup_low_times", empty, EXACT),
    ("control", "ddrop", "controls_missing", "random", EXACT),
    ("control", "spectral", "controls_missing", "", EXACT),
    ("cell", "ddrop", "top1_percent", "good", (*ALL, "text")),
    ("cell", "ddrop", "rank", "first", (*ALL, "text")),
]
PLANTED = [
    pytest.param(code, row, key, change, fmt, id=f"{code}-{row}-{key}-{fmt}")
    for code, row, key, change, formats in FAULTS
    for fmt in formats
]


@pytest.mark.parametrize(("code", "row", "key", "change", "fmt"), PLANTED)
def test_a_planted_fault_is_found(texts, code, row, key, change, fmt):
    assert code in codes(plant(texts[fmt], fmt, row, key, change), fmt, row)


def line_of(text, fmt, row):
    """Number of the line that holds a row, from 0."""
    escaped = row.replace("_", r"\_") if fmt == "latex" else row
    lines = text.split("\n")
    return next(
        n for n, line in enumerate(lines) if re.search(rf"(^|[|&,] *|\s{{2,}}){re.escape(escaped)} *([|&,]|\s)", line)
    )


@pytest.mark.parametrize("fmt", ["markdown", "csv", "text"])
def test_a_row_that_stands_there_twice(texts, fmt):
    lines = texts[fmt].split("\n")
    at = line_of(texts[fmt], fmt, "ddrop")
    lines.insert(at, lines[at])
    found = [f for f in check.check_text("\n".join(lines), fmt) if f.code == "duplicate"]
    assert [(f.row, f.line) for f in found] == [("ddrop", at + 2)]


@pytest.mark.parametrize("fmt", ["markdown", "csv", "text"])
def test_rows_in_another_order(texts, fmt):
    lines = texts[fmt].split("\n")
    one, two = line_of(texts[fmt], fmt, "ddrop"), line_of(texts[fmt], fmt, "random")
    lines[one], lines[two] = lines[two], lines[one]
    assert "order" in codes("\n".join(lines), fmt)


@pytest.mark.parametrize("fmt", ["markdown", "csv", "text"])
def test_a_control_that_was_left_out(texts, fmt):
    lines = texts[fmt].split("\n")
    del lines[line_of(texts[fmt], fmt, "random")]
    assert "control" in codes("\n".join(lines), fmt, "ddrop")


@pytest.mark.parametrize("key", ["threads", "device", "dataset"])
def test_two_boards_in_one_table(texts, key):
    assert "mixed-key" in codes(plant(texts["csv"], "csv", "ddrop", f"board_{key}", "other"), "csv", "ddrop")


def test_two_budgets_in_one_table(texts):
    assert "mixed-key" in codes(plant(texts["csv"], "csv", "ddrop", "budget_keep", "0.25"), "csv", "ddrop")


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_synthetic_data_have_no_ranks(texts, fmt):
    text = re.sub(r"digits", "synthetic", texts[fmt])
    assert "rank-not-allowed" in codes(text, fmt, "ddrop")


@pytest.mark.parametrize("fmt", ["markdown", "text"])
def test_the_native_track_has_no_ranks(texts, fmt):
    assert "rank-not-allowed" in codes(texts[fmt].replace("keep 0.5 of the MACs", "native track"), fmt, "ddrop")


@pytest.mark.parametrize(
    ("fmt", "old"), [("markdown", "1. not ranked"), ("text", "[1] not ranked"), ("latex", "1: not ranked")]
)
def test_a_footnote_that_is_not_there(texts, fmt, old):
    found = codes(texts[fmt].replace(old, old.replace("1", "77")), fmt, "dense")
    assert {"footnote", "no-rank"} <= found


@pytest.mark.parametrize(
    ("fmt", "old"), [("markdown", "| test images |"), ("csv", ",test_images,"), ("text", "params %")]
)
def test_a_column_that_is_not_there(texts, fmt, old):
    assert "columns" in codes(texts[fmt].replace(old, old.replace("t", "T").replace("p", "q"), 1), fmt)


def test_json_runs_are_the_counts(texts):
    document = json.loads(texts["json"])
    document["boards"][0]["tables"][0]["rows"][1]["runs"][0]["wrong"] += 1
    assert "counts" in codes(json.dumps(document), "json")


@pytest.mark.parametrize("fmt", tables.FORMATS)
def test_records_say_which_cell_differs(texts, frame, fmt):
    key = "pruned_top1_percent"  # follows from nothing that stands in the table
    text = plant(texts[fmt], fmt, "ddrop", key, more(0.2))
    assert codes(text, fmt) == set()
    (found,) = check.check_text(text, fmt, frame)
    assert (found.code, found.row, found.column) == ("record-cell", "ddrop", header_of(fmt, key))


def test_records_say_which_row_and_table_are_theirs(texts, frame, tmp_path):
    text = texts["csv"].replace(",fpgm,fpgm,", ",mine,mine,")
    assert {"record-row"} == codes(text, "csv", records=frame)
    assert {"record-table"} <= codes(texts["csv"].replace("a chip", "no chip"), "csv", records=frame)


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_by_their_ending(texts, tmp_path):
    for ending, fmt in tables.ENDINGS.items():
        file = tmp_path / f"board{ending}"
        file.write_text(texts[fmt])
        assert check.check(file) == []
        file.write_text(plant(texts[fmt], fmt, "random", "rank", "x"))
        found = check.check(file)
        assert {(f.file, f.row, f.code) for f in found} >= {(str(file), "random", "cell")}


def test_a_finding_is_one_line_whatever_stands_in_the_file():
    text = "Method,Base,Pruned,Delta\n\x1b[31mA\nB\x07,93.5,93.6,0.3\n".replace("A\n", "A ")
    (found,) = (check.Finding("a.csv", 2, "\x1b[31mA\n=B\x07", "Delta", "difference", "+0.3, but +0.1 follows"),)
    assert str(found) == "a.csv:2: A =B: Delta: +0.3, but +0.1 follows [difference]"
    assert [f.code for f in check.check_text(text, "csv")] == ["difference"]
    assert "\x1b" not in str(check.check_text(text, "csv")[0])


@pytest.mark.parametrize(("name", "content"), [("a.html", b""), ("none.md", None), ("a.md", b"\xff\xfe|")])
def test_what_cannot_be_read_is_a_matter_of_usage(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="lint"):
        check.check(tmp_path / name)


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        ("json", "{"),
        ("json", "[1]"),
        ("json", '{"kind": "bench.board", "boards": 3}'),
        ("json", '{"kind": "bench.board", "boards": [{"key": {}, "tables": [{"kind": "macs"}]}]}'),
        ("json", "[" * 100_000),
        ("json", '{"kind": "bench.board", "n": ' + "9" * 5000 + "}"),
        ("markdown", "no table"),
        ("latex", "% bench.board {broken}"),
        ("csv", '"a'),
        ("csv", ""),
        ("text", ""),
    ],
)
def test_no_table_is_one_finding(fmt, text):
    assert [f.code for f in check.check_text(text, fmt)] == ["form"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data(), fmt=some.sampled_from(tables.FORMATS))
def test_nothing_makes_it_fail(texts, data, fmt):
    text = texts[fmt]
    at = data.draw(some.integers(0, len(text) - 1))
    new = data.draw(
        some.sampled_from(["", "9" * 400, "-", "|", "&", "\\", "{", "}", "nan", "1e999", "0", "\n", ",", '"', "x"])
    )
    check.check_text(text[:at] + new + text[at + data.draw(some.integers(0, 5)) :], fmt)


# --- the page ------------------------------------------------------------------------------------------------------


def test_every_code_is_explained_and_can_happen():
    page = (ROOT / "docs" / "lint.md").read_text()
    listed = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", page, re.M))
    assert listed == check.CODES
    sources = "".join(
        (ROOT / "leaderboard" / f"{name}.py").read_text() for name in ("faults", "foreign", "reading", "lint")
    )
    used = re.sub(r"CODES = \{.*?\n\}", "", sources, flags=re.S)
    assert [code for code in check.CODES if f'"{code}"' not in used] == []
