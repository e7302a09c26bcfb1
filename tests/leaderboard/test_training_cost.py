"""Rows that keep every unit: a table of their own, by training cost, in every form of a board."""

import json
import re

import pytest
from support.boards import CONTROLS, boards_of, plan_for, row_of
from support.lint_tables import EXACT, PEOPLE, more, plant
from support.made_records import put, seeds

from leaderboard.figures import figure_list
from leaderboard.lint import parse_tables
from leaderboard.lint.check import check_text
from leaderboard.lint.rerender import compare
from leaderboard.pages import page_content
from leaderboard.render import tables
from leaderboard.render.board_sentences import sentences
from leaderboard.stats.advice import near_dense

WHOLE = {"learn_and_drop": 0.6, "freeze_schedule": 0.7, "dsd": 1.0, "dense epochs=16": 2.0}
"""Name -> training cost over dense."""
RECORDS = (
    *CONTROLS,
    *seeds("learn_and_drop", [7, 8, 7, 6, 8], keep=None, starts_from="init", cost=0.6),
    *seeds("freeze_schedule", [25, 26, 28, 24, 25], keep=None, starts_from="init", cost=0.7),
    *seeds("dsd", [5, 6, 5, 5, 6], keep=None),
    *seeds("dense", [4, 4, 5, 4, 5], keep=None, config={"epochs": 16}, starts_from="init", epochs=16, cost=2.0),
)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = put(tmp_path_factory.mktemp("records"), *RECORDS)
    (found,), problems = boards_of(folder, plan_for(RECORDS))
    assert problems == []
    return found


@pytest.fixture(scope="module")
def texts(board):
    return {fmt: tables.render([board], fmt) for fmt in tables.FORMATS}


def test_rows_that_keep_every_unit_have_a_table_of_their_own(board):
    pruned, whole = board.tables
    assert {row.name for row in pruned.rows} == {found["spec"]["method"] for found in CONTROLS}
    assert (whole.kind, whole.keep, whole.title) == ("training", None, "training cost, all units kept")
    assert [(row.name, row.cost) for row in whole.rows] == [("dense", 1), *WHOLE.items()]  # by training MACs
    for row in whole.rows[1:]:
        assert (row.track, row.rank, row.unranked) == ("training", None, "it keeps every unit")
        assert list(row.differences) == ["dense"]
        assert row.epochs == (16 if row.name == "dense epochs=16" else 8)
        assert row.step_cost > 0
    assert row_of(whole, "freeze_schedule").differences["dense"].verdicts == ("worse", "worse")


def test_tables_of_budgets_are_those_without_such_rows(board, tmp_path):
    (other,), _ = boards_of(put(tmp_path, *CONTROLS), plan_for(RECORDS))
    for one, two in zip(board.tables[0].rows, other.tables[0].rows, strict=True):
        assert one.top1 == two.top1
        assert one.rank == two.rank
        assert {to: d.p_holm for to, d in one.differences.items()} == {
            to: d.p_holm for to, d in two.differences.items()
        }


def test_a_board_of_such_rows_alone_has_one_table(tmp_path):
    (board,), _ = boards_of(put(tmp_path, *(found for found in RECORDS if found["spec"]["budget"] is None)))
    assert [table.kind for table in board.tables] == ["training"]
    assert sentences(board)[0].startswith("Exploratory: no plan names these rows")


def test_tables_in_all_formats_say_it_and_are_clean(board, texts):
    for fmt in EXACT:
        assert check_text(texts[fmt], fmt) == check_text(texts[fmt], fmt, [board]) == []
        (again,) = parse_tables.boards(parse_tables.read(texts[fmt], fmt))
        for people in PEOPLE:
            assert tables.render([again], people) == texts[people]
            assert compare(texts[people], people, [again], "it") == []
    lines = texts["text"].split("\n")
    at = lines.index("-- training cost, all units kept")
    header = next(line for line in lines[at:] if line.startswith("method"))
    shown = ["method", "seeds", "top-1 %", "- dense", "cost x", "step cost, x dense", "total epochs", "notes"]
    assert re.split(" {2,}", header) == shown
    for fmt in PEOPLE:
        changed = "\n".join(line.replace("98.56", "99.56", 1) for line in texts[fmt].split("\n"))
        (found,) = compare(changed, fmt, [board], "it")
        assert (found.row.replace("\\", ""), found.column, found.code) == ("learn_and_drop", "top-1 %", "record-cell")


@pytest.mark.parametrize(
    ("code", "row", "key", "change"),
    [
        ("mixed-track", "learn_and_drop", "track", "matched"),
        ("mixed-dense", "learn_and_drop", "macs", more(-1000)),
        ("cost", "learn_and_drop", "training_cost_times_dense", more(-0.1)),
        ("order", "freeze_schedule", "training_macs", more(-5e9)),
        ("verdict", "freeze_schedule", "minus_dense_verdicts", "equivalent; equivalent"),
        ("difference", "dsd", "minus_dense_points", more(0.2)),
        ("rank-not-allowed", "dsd", "rank_best", "1"),
        ("no-rank", "dsd", "unranked", ""),
    ],
)
def test_planted_fault_is_found(texts, code, row, key, change):
    assert code in {
        found.code for found in check_text(plant(texts["csv"], row, key, change), "csv") if found.row == row
    }


def test_row_in_a_table_of_a_budget_is_found(texts):
    document = json.loads(texts["json"])
    pruned, whole = document["boards"][0]["tables"]
    pruned["rows"].append(whole["rows"].pop())
    assert "mixed-track" in {found.code for found in check_text(json.dumps(document), "json")}


def test_sentences_advice_pages_and_figures_know_it(board):
    (said,) = (text for text in sentences(board) if text.startswith("With all units kept"))
    assert said.startswith("With all units kept 2 of 3 methods are significantly worse than the dense network, ")
    assert "Holm's correction over 4 rows" in said
    near = dict(near_dense(board.tables[1], board.terms))
    assert {"learn_and_drop", "dsd"} <= {row.name for row in near[1.0]}
    section = page_content.sections(board)[1]
    assert (section["compared"], section["advice"], len(section["forest"].marks)) == (4, "", 4)
    plates = {plate.name: plate.spec for plate in figure_list.of_board(board)}
    names = {name: {v["series"] for v in plates[name]["data"]["values"]} for name in ("costs", "training-cost")}
    assert names["training-cost"] == set(WHOLE)
    assert not names["costs"] & set(WHOLE)
