"""Forest plots: each row's mean and interval at its place, its verdict as a shape and a word, in black and white."""

import re
from dataclasses import replace

import pytest
from support.boards import boards_of, difference, large, plan_for, put, records

from leaderboard.figures import draw, figure_list, forest
from leaderboard.reader.model import Mean, Table


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    ((board,), _) = boards_of(put(tmp_path_factory.mktemp("records"), records()), plan_for(records()))
    return board


def test_forest_has_each_mean_and_interval_at_its_place(board):
    table = board.tables[0]
    plot = forest.forest(table, board.terms)
    means = {row.name: row.top1.mean for row in table.rows if row.top1}
    assert [mark.row.name for mark in plot.marks] == sorted(means.keys() - {"dense"}, key=lambda name: -means[name])
    assert [name for name, _, _ in plot.lines] == ["dense", "random", "uniform_thin"]
    (low, first), *_, (high, last) = [(float(text), at) for text, at in plot.ticks]
    assert (first, last) == (0.0, 100.0)
    for mark in plot.marks:
        half, d = mark.half, mark.row.differences["dense"]
        assert half == d.shown_half and mark.verdict.split()[0].strip(",") == mark.shape
        wanted = [100 * (mark.row.top1.mean + by - low) / (high - low) for by in (-half, 0, half)]
        assert [mark.low, mark.at, mark.high] == pytest.approx([min(max(w, 0), 100) for w in wanted], abs=0.01)
    for name, mean, at in plot.lines:
        assert mean == means[name] and at == pytest.approx(100 * (mean - low) / (high - low), abs=0.01)


def test_forest_says_what_was_not_tested_and_needs_a_mean():
    board = large(2)
    one, other = board.tables[0].rows
    table = replace(board.tables[0], rows=(replace(one, differences={}), other))
    marks = {mark.row.name: mark for mark in forest.forest(table, board.terms).marks}
    assert (marks[one.name].verdict, marks[one.name].shape, marks[one.name].half) == ("not tested", "untested", 0.4)
    assert marks[other.name].verdict == "undecided"
    same = replace(one, top1=Mean(100.0, None), differences={})
    assert forest.forest(replace(table, rows=(same,)), None).marks[0].half is None
    assert forest.forest(replace(table, rows=(replace(one, top1=None),)), board.terms) is None
    for wide in (0.001, 70.0):  # ticks at round numbers, five steps at most
        far = replace(other, differences={"dense": replace(difference("dense"), half=wide)})
        assert 2 <= len(forest.forest(replace(table, rows=(far,)), board.terms).ticks) <= 7


SAID = {
    "better": (("better",) * 2, 1.5),
    "worse": (("worse",) * 2, -1.5),
    "equivalent within 0.5": (("equivalent",) * 2, 0.1),
    "non-inferior within 1": (("undecided", "non-inferior"), 0.2),
    "undecided": (("undecided",) * 2, 0.3),
    "not tested": ((), 0.4),
}
"""Verdict -> what a difference to dense has in each margin, and its mean."""


def table_of(verdicts):
    """A board's table with a row for each verdict, dense, and random, which is not tested."""
    base = large(len(verdicts))
    rows = [
        replace(
            row, name=said, top1=Mean(90 + mean, 0.3), differences={"dense": difference("dense", mean, verdicts=own)}
        )
        for row, (said, (own, mean)) in zip(base.tables[0].rows, verdicts.items(), strict=True)
    ]
    dense = replace(rows[0], name="dense", method="dense", track="dense", top1=Mean(90.0, 0.2), differences={})
    random = replace(rows[0], name="random", method="random", top1=Mean(88.0, 0.2), differences={})
    return Table("macs", 0.5, (dense, *rows, random), 1000, 100), base.terms


def test_paper_has_the_numbers_of_the_page(board):
    for table in board.tables:
        page, spec = forest.forest(table, board.terms), forest.drawn(table, board.terms)
        values = spec["data"]["values"]
        assert [value["series"] for value in values] == [mark.row.name for mark in page.marks]
        assert [(value["verdict"], value["shape"]) for value in values] == [(m.verdict, m.shape) for m in page.marks]
        ticks = [float(text) for text, _ in page.ticks]
        ends = [100 * (value[key] - ticks[0]) / (ticks[-1] - ticks[0]) for value in values for key in ("low", "high")]
        assert ends == pytest.approx([end for mark in page.marks for end in (mark.low, mark.high)], abs=0.01)
        lines = spec["layer"][0]["data"]["values"]
        assert [line["line"] for line in lines] == [f"{name} {mean:.2f}" for name, mean, _ in page.lines]
        assert [line["top1"] for line in lines] == pytest.approx([mean for _, mean, _ in page.lines], abs=1e-4)
        assert spec["layer"][1]["encoding"]["x"]["scale"]["domain"] == [ticks[0], ticks[-1]]


def test_every_verdict_has_a_word_and_a_shape_of_its_own():
    assert len(set(forest.SHAPES.values())) == len(forest.SHAPES) == len(SAID)
    svg = draw.svg(forest.drawn(*table_of(SAID)))
    for said in SAID:
        assert f">{said}</text>" in svg
    marks = re.findall(
        r'<path transform="translate\(([\d.]+),([\d.]+)\)" d="([^"]*)" fill="(\w+)"[^>]*stroke="black"', svg
    )
    shapes = [shape for _, _, shape, _ in marks]
    assert len(shapes) == len(SAID) + 1 and len(set(shapes)) == len(SAID)  # random is not tested either
    assert [fill for *_, fill in marks].count("white") == 1
    heights = [float(y) for _, y, _, _ in marks]
    places = [float(x) for x, _, _, _ in marks]
    assert heights == sorted(heights) and places == sorted(places, reverse=True)


def test_controls_are_kinds_of_lines_and_nothing_has_a_colour(board):
    svg = draw.svg(forest.drawn(board.tables[0], board.terms))
    assert all(f">{name} " in svg for name in ("dense", "random", "uniform_thin"))
    assert len({*re.findall(r'stroke-dasharray="([\d,]+)"', svg)}) == 3
    colours = {*re.findall(r'(?:fill|stroke)="([^"]+)"', svg)} - {"none", "transparent", "black", "white"}
    assert colours and all(re.fullmatch(r"#(?:([0-9a-f])\1\1|([0-9a-f]{2})\2\2)", colour) for colour in colours), (
        colours
    )


def test_planned_boards_have_one_for_each_budget(board, tmp_path):
    names = [plate.name for plate in figure_list.forests(board)]
    assert names == ["forest-macs-0.5", "forest-macs-0.25", "forest-macs-0.1"]
    assert figure_list.forests(replace(board, terms=None)) == []
    small = replace(board, tables=board.tables[:1])
    written = [path.name for path in figure_list.write_all([small], tmp_path)]
    assert written[-2:] == ["digits-net-forest-macs-0.5.svg", "digits-net-forest-macs-0.5.png"]
