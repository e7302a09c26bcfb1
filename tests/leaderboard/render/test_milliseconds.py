"""Boards whose budget is milliseconds: what was asked and taken, in tables, curves, figures and pages."""

import json
import math
import statistics

import pytest
from support.boards import boards_of, plan_for, put, records, row_of
from support.html_pages import pages
from support.lint_tables import more, plant
from support.made_records import DENSE_MS, seeds

from leaderboard.figures import draw, figure_list, figures_of_boards
from leaderboard.lint.check import check_text
from leaderboard.pages import site
from leaderboard.pages.site import Sources
from leaderboard.render import tables
from leaderboard.stats.boards import at
from leaderboard.stats.curves import of_board

WHERE = {"runtime": "onnxruntime", "batch": 1, "threads": 1, "table": "0" * 64}
PLACE = "onnxruntime batch 1 threads 1 on a chip"


@pytest.fixture(scope="module")
def made():
    """Shares of the milliseconds, and milliseconds, of one network; and shares of its MACs."""
    in_ms = [r for keep in (1.2, 0.6) for r in seeds("random", [9, 8, 9, 7, 9], kind="ms", keep=keep, where=WHERE)]
    return [*records(kind="latency", where=WHERE), *in_ms, *seeds("random", [9, 8, 9, 7, 9])]


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return put(tmp_path_factory.mktemp("work") / "records", made)


@pytest.fixture(scope="module")
def boards(made, folder):
    found, problems = boards_of(folder, plan_for(made))
    assert not problems
    return found


@pytest.fixture(scope="module")
def board(boards):
    return next(board for board in boards if board.key["coupling"] == f"inner ms {PLACE}")


def test_rows_have_what_was_asked_and_taken(board):
    assert [table.slug for table in board.tables] == [
        *("latency-0.5", "latency-0.25", "latency-0.1"),
        *("ms-1.2", "ms-0.6"),
    ]
    for table in board.tables:
        found = row_of(table, "random").ms
        asked = table.keep if table.kind == "ms" else DENSE_MS * table.keep
        assert (found.asked, found.dense) == (pytest.approx(asked), DENSE_MS)
        taken = statistics.geometric_mean([asked * (1 + (seed % 3 - 1) / 100) for seed in range(5)])
        assert found.taken == pytest.approx(taken)
        assert found.percent == pytest.approx(100 * taken / DENSE_MS)
        assert row_of(table, "dense").ms is None


def test_tables_have_these_columns_where_milliseconds_are_the_budget(boards, board):
    for fmt, header in (
        ("text", "asked ms"),
        ("markdown", "| asked ms | ms | dense ms | ms % |"),
        ("latex", "asked ms"),
    ):
        for each in boards:
            of_ms = each is board
            assert (header in "\n".join(tables.pieces(each, fmt))) == of_ms
            assert (f"budgets of milliseconds hold in {PLACE}" in "\n".join(tables.pieces(each, fmt))) == of_ms
    markdown = "\n".join(tables.pieces(board, "markdown"))
    assert "| 1.000 | 0.998 | 2.000 | 49.90 |" in markdown


@pytest.mark.parametrize("fmt", ["csv", "json"])
def test_lint_finds_nothing(boards, fmt):
    text = tables.render(boards, fmt)
    assert check_text(text, fmt, boards) == check_text(text, fmt) == []


def test_lint_finds_another_number_and_one_above_the_budget(board):
    text = tables.render(at([board], [0.5]), "csv")
    codes = {finding.code for finding in check_text(plant(text, "random", "measured_percent", more(1)), "csv")}
    assert codes == {"percent"}
    slower = plant(text, "random", "measured_ms", lambda ms: 1.04 * ms)
    found = {finding.code: finding.message for finding in check_text(slower, "csv")}
    assert found["above-budget"] == "3.8 % above the budget"


def test_curves_are_over_milliseconds(board):
    found = {(curve.kind, curve.name): curve for curve in of_board(board)}
    shares, times = found["latency", "random"], found["ms", "random"]
    assert [point.keep for point in shares.points] == [0.5, 0.25, 0.1]
    assert [point.keep for point in times.points] == [1.2, 0.6]
    first = shares.points[0].row
    assert shares.reach[0].failed is not None and first.ms.percent < 51
    assert found["latency", "slimming"].front["ms"] == (0.5, 0.25, 0.1) and not shares.front["ms"]
    assert found["ms", "random"].pooled["top1"]["dense"].seeds == 5


def test_figures_are_over_milliseconds(board):
    names = [plate.name for plate in figure_list.of_board(board)]
    assert {"curves-latency", "curves-ms"} <= set(names) and "curves-macs" not in names
    for kind, number in (("latency", "percent"), ("ms", "taken")):
        spec = figures_of_boards.curves(board, kind)
        rows = {(t.keep, row.name): row for t in board.tables if t.kind == kind for row in t.rows}
        for value in spec["data"]["values"]:
            expected = getattr(rows[value["budget"], value["series"]].ms, number)
            assert math.isclose(value["keep"], expected, abs_tol=1e-4)
        assert draw.svg(spec).startswith("<svg")
    axis = figures_of_boards.costs(board)["params"][0]["bind"]
    assert "ms" in axis["options"] and "milliseconds of the budget" in axis["labels"]


def test_pages_show_them(boards, board, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "svg", lambda spec: "<svg/>")
    monkeypatch.setattr(draw, "bundle", lambda: "// draws")
    site.write(tmp_path / "site", boards, Sources(folder, lambda found: ""))
    texts = {path.as_posix(): path.read_text() for path in pages(tmp_path / "site")}
    (page,) = (text for name, text in texts.items() if "/boards/" in name and "Keep 0.5 of the milliseconds" in text)
    assert page.count("Taken, ms") == len(board.tables)
    assert '<td class="n">1.000</td><td class="n">0.998</td><td class="n">49.90</td>' in page
    assert f"Milliseconds of {PLACE}." in page and "Speed: not measured" not in page
    assert any("Taken, ms" in text for name, text in texts.items() if name.endswith("methods/random.html"))
    record = next(text for name, text in texts.items() if "/records/" in name and "of the ms" in text)
    assert "2.000 -&gt; " in record and "ms in onnxruntime at batch 1" in record
    json.loads(tables.render(boards, "json"))
