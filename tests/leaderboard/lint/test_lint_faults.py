"""Each fault that is planted in an exact table is found where it is."""

import json
import re

from support.boards import CONTROLS, boards_of, plan_for
from support.lint_tables import more, plant
from support.made_records import put, seeds
from support.paths import ROOT

from leaderboard.lint.check import check_text
from leaderboard.lint.finding import CODES, Finding
from leaderboard.render import tables


def codes(text, row=None, boards=None, fmt="csv"):
    return {f.code for f in check_text(text, fmt, boards) if row in (None, f.row)}


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


def test_whatever_else_a_file_says_is_compared_with_the_records(texts, boards):
    for name in ("plan_sha256", "timed", "notes", "differs"):
        assert codes(plant(texts["csv"], "ddrop", f"board_{name}", "0"), "ddrop", boards) == {"record-cell"}, name
    document = json.loads(texts["json"])
    board = document["boards"][0]
    table = board["tables"][0]
    run = table["rows"][1]["runs"][0]
    changes = [
        *((board, name, value) for name, value in (("title", "x"), ("timed", "x"), ("notes", ["x"]), ("mine", 1))),
        *((table, "title", "x"), (table, "dense_macs", table["dense_macs"] + 1), (board["plan"], "plan_sha256", "0")),
        *((run, "page", "x"), (run, "loss", 0.123), (table["rows"][1], "mine", 1)),
    ]
    for where, key, value in changes:
        before = dict(where)
        where[key] = value
        assert codes(json.dumps(document), boards=boards, fmt="json") & {"record-table", "record-cell"}, key
        where.clear()
        where.update(before)
    for where, key, value in ((board["plan"], "endpoints", ["top2"]), (document, "schema", 3)):
        before, where[key] = where[key], value
        assert codes(json.dumps(document), fmt="json") == {"form"}, key
        where[key] = before
    for space in ("\N{NO-BREAK SPACE}", "\r"):
        text = texts["markdown"].replace("| ddrop |", f"| ddrop {space}|", 1)
        assert codes(text, boards=boards, fmt="markdown"), repr(space)


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
