"""Advice: the cheapest row among those not significantly worse than the best, near dense where that is shown."""

from dataclasses import replace

import pytest
from support.boards import difference, large

from leaderboard.reader.model import Mean
from leaderboard.render.advice_sentence import advice
from leaderboard.render.tables import FORMATS, render
from leaderboard.stats.advice import near_dense, of_table

NOTHING, NEAR, NEARER = ("undecided", "undecided"), ("worse", "worse, non-inferior"), ("equivalent", "equivalent")


def board_of(*rows):
    """A board of one table; rows: name, mean, tie letters, cost, verdicts against dense within 0.5 and 1 points."""
    base = large(len(rows))
    changed = [
        replace(
            row,
            name=name,
            method=name,
            top1=Mean(mean, 0.3),
            group=group,
            rank=(1, 2) if group else None,
            unranked="" if group else "80 epochs in all, others 40",
            cost=cost,
            differences={"dense": replace(difference("dense"), verdicts=verdicts)},
        )
        for row, (name, mean, group, cost, verdicts) in zip(base.tables[0].rows, rows, strict=True)
    ]
    return replace(base, tables=(replace(base.tables[0], rows=tuple(changed)),))


BEST, CHEAP = ("best", 95.0, "a", 1.2, NEARER), ("cheap", 94.0, "ab", 0.9, NEAR)
FAR, BAD = ("far", 94.5, "a", 0.5, NOTHING), ("bad", 90.0, "c", 0.1, NEAR)
OTHER = ("other", 99.0, "", 0.2, NEARER)


@pytest.mark.parametrize(
    ("rows", "name", "margin"),
    [
        ((BEST, CHEAP, FAR, BAD, OTHER), "cheap", 1.0),  # bad is worse than the best, other has no rank
        ((BEST, FAR), "best", 0.5),  # shown goes before cheap
        ((("best", 95.0, "a", 1.2, NOTHING), FAR, BAD), "far", None),
        ((BEST, ("twin", 95.5, "a", 1.2004, NEARER)), "twin", 0.5),  # the same cost as printed
        ((("best", 95.0, "a", None, NEARER), CHEAP), "cheap", 1.0),
    ],
)
def test_cheapest_of_those_not_significantly_worse_than_the_best(rows, name, margin):
    board = board_of(*rows)
    found = of_table(board.tables[0], board.terms)
    assert (found.row.name, found.margin) == (name, margin)


def test_no_advice_without_a_plan_a_rank_or_a_cost():
    for board in (replace(board_of(BEST), terms=None), board_of(OTHER), board_of(("best", 95.0, "a", None, NEARER))):
        assert of_table(board.tables[0], board.terms) is None
        assert advice(board, board.tables[0]).startswith("No advice: no ")
    assert "80 epochs in all" in advice(board_of(OTHER), board_of(OTHER).tables[0])
    assert advice(board_of(BEST), replace(board_of(BEST).tables[0], kind="native", keep=None)) == ""


def test_rows_near_dense_by_margin():
    board = board_of(BEST, CHEAP, FAR)
    found = [(margin, [row.name for row in rows]) for margin, rows in near_dense(board.tables[0], board.terms)]
    assert found == [(0.5, ["best"]), (1.0, ["best", "cheap"])]
    assert near_dense(board.tables[0], None) == []


def test_sentence_accepts_no_null_and_is_in_the_tables_for_people():
    shown, not_shown = board_of(BEST, CHEAP), board_of(("best", 95.0, "a", 1.2, NOTHING), FAR)
    wanted = "Take cheap: top-1 94.00 % at 0.90 times the training cost of dense, not significantly worse than the best"
    assert advice(shown, shown.tables[0]) == f"{wanted} (best), shown to be at most 1 point below dense."
    assert advice(not_shown, not_shown.tables[0]).endswith("not shown to be equal to dense.")
    for fmt in set(FORMATS) - {"csv", "json"}:
        assert "at 0.90 times the training cost" in render([shown], fmt)
