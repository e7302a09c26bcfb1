"""Who has a rank on a board, and what is only listed: plans, seeds, budgets, epochs."""

from dataclasses import replace

import pytest
from support.boards import CONTROLS, boards_of, load, plan_for, planned_boards, row_of, table_of
from support.lint_tables import EXACT
from support.made_records import made, put, seeds
from support.records import refitted

from leaderboard.lint.check import check_text
from leaderboard.render import tables
from leaderboard.stats.boards import NO_PLAN, ONE_BUDGET, build


def test_ranks_and_ties(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    ranks = {r.name: (r.rank, r.group) for r in table.rows}
    assert ranks["l1_norm"] == ranks["uniform_thin"] == ((1, 2), "a")
    assert ranks["random"] == ((3, 3), "b")
    assert ranks["dense"] == ranks["uniform_thin_long"] == (None, "")
    assert [r.name for r in table.rows] == ["dense", "l1_norm", "uniform_thin", "random", "uniform_thin_long"]
    assert table.ordered
    half, one = row_of(table, "l1_norm").seeds_needed
    assert 1 < one < half <= 10
    assert row_of(table, "random").seeds_needed == ()


def test_no_order_is_shown_where_no_two_rows_differ(tmp_path):
    table = table_of(tmp_path, *seeds("random", [30, 31, 33, 29, 30]), *seeds("new", [30, 32, 31, 30, 30]))
    assert {r.rank for r in table.rows} == {(1, 2)}
    assert not table.ordered


def test_without_a_plan_there_are_means_and_intervals_only(tmp_path):
    (board,), _ = boards_of(put(tmp_path, *CONTROLS))
    assert (board.terms, board.notes) == (None, (ONE_BUDGET, NO_PLAN))
    for r in board.tables[0].rows:
        assert r.top1.half > 0
        assert (r.rank, r.group, r.planned, r.seeds_needed, r.secondary) == (None, "", False, (), {})
        for d in r.differences.values():
            assert (d.p, d.p_holm, d.p_board, d.verdicts, d.clear) == (None, None, None, (), False)
            assert d.half > 0


def test_rows_outside_the_plan_change_no_number_of_the_others(tmp_path):
    junk = [*seeds("wild", [1, 90, 3, 200, 5]), *seeds("flat", [9] * 5), *seeds("aaa", [20, 21, 22, 20, 19])]
    alone = table_of(tmp_path / "a", *CONTROLS).rows
    (board,), _ = boards_of(put(tmp_path / "b", *CONTROLS, *junk), plan_for(CONTROLS))
    kept = tuple(r for r in board.tables[0].rows if r.planned)
    assert [replace(r, controls_missing=()) for r in kept] == [replace(r, controls_missing=()) for r in alone]
    wild = row_of(board.tables[0], "wild")
    assert (wild.unranked, wild.differences["random"].p) == ("exploratory, no plan names it", None)
    assert wild.differences["random"].half > 0


def test_each_board_has_the_plan_that_names_its_rows(tmp_path):
    other = [*seeds("random", [9] * 5, arch="wide"), *seeds("l1_norm", [4, 3, 4, 5, 4], arch="wide")]
    plans = [plan_for(CONTROLS), plan_for(other, references=("random",)), plan_for([made("none", arch="third")])]
    found, _ = build(load(put(tmp_path, *CONTROLS, *other)), plans)
    assert {board.key["arch"]: board.terms for board in found} == {"net": plans[0].terms, "wide": plans[1].terms}
    assert build(load(tmp_path), plans[::-1])[0] == found
    assert all(row.planned for board in found for row in board.tables[0].rows)


def test_seeds_outside_the_plan_are_listed_and_do_not_count(tmp_path):
    alone = table_of(tmp_path / "a", *CONTROLS)
    failed = made("random", 77, status="failed", error="no")
    (board,), problems = boards_of(put(tmp_path / "b", *CONTROLS, failed, made("l1_norm", 9, 400)), plan_for(CONTROLS))
    assert board.tables[0] == alone
    assert sorted(p.message for p in problems) == [
        "failed, seed 77 is not in the plan: it does not count",
        "ok, seed 9 is not in the plan: it does not count",
    ]


def test_a_test_needs_five_seeds_and_all_of_the_plan(tmp_path):
    wrong = {"random": [30 + k % 3 for k in range(10)], "new": [10 + k % 4 for k in range(10)]}
    ten = [r for method, counts in wrong.items() for r in seeds(method, counts)]
    for number, (records, planned, tested) in enumerate(
        [(ten, 10, True), (ten[:-1], 10, False), (ten, 5, True), (ten[:5] + ten[10:14], 5, False), (ten, 4, False)]
    ):
        folder = put(tmp_path / str(number), *records)
        new = row_of(boards_of(folder, plan_for(ten, range(planned)))[0][0].tables[0], "new")
        assert (new.differences["random"].p is not None) == bool(new.differences["random"].verdicts) == tested
        assert (new.rank is not None) == tested
        assert new.differences["random"].half > 0


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (seeds("new", [1, 2]), "2 of 5 seeds, too few to be read"),
        (seeds("new", [1, 2, 3, 4]), "4 of 5 seeds"),
        ([*seeds("new", [1, 2, 3, 4]), made("new", 4, status="failed")], "the run of seed 4 failed"),
        ([*seeds("new", [1, 2, 3, 4]), made("new", 5, 9)], "4 of 5 seeds"),
        (seeds("new", [1, 2, 3, 4, 5], starts_from="init", epochs=40), "40 epochs in all, others 8"),
        (seeds("new", [1, 2, 3, 4, 5], changed=True), "made from a working tree with local changes"),
        ([made("new", s, keep=None, native=True) for s in range(5)], "native track"),
        (seeds("new", [1, 2, 3, 4, 5]), ""),
    ],
)
def test_why_a_row_has_no_rank(tmp_path, records, why):
    (board,), _ = planned_boards(tmp_path, *CONTROLS, *records)
    (found,) = [r for table in board.tables for r in table.rows if r.name == "new"]
    assert found.unranked == why
    assert (found.rank is None) == bool(why)


def test_nothing_is_ranked_on_synthetic_data(tmp_path):
    table = table_of(tmp_path, *seeds("random", [1, 2, 3, 4, 5], dataset="synthetic"))
    assert table.rows[0].unranked == "nothing measured on synthetic data is a result"


def test_a_row_far_below_its_budget_has_no_rank(tmp_path):
    records = seeds("thin", [1, 2, 3, 4, 5])
    for found in records:
        found["cost"]["final"] |= {"macs": 49_400, "macs_by_op": {"conv": 49_300, "linear": 100}}
    table = table_of(tmp_path, *map(refitted, records))
    assert table.rows[0].unranked == "0.6 % of the dense cost below the budget"


@pytest.mark.parametrize(
    ("unit_kinds", "why", "l1"),
    [("depth", "", "block_l1"), ("both", "10.0 % of the dense cost below the budget", "l1_norm+block_l1")],
)
def test_blocks_alone_are_ranked_among_themselves_where_no_further_one_fits(tmp_path, unit_kinds, why, l1):
    """RULES 5.2: rows of blocks are on a board of their own, and no share is met closely; 9: their controls."""
    of_blocks = seeds("random", [1, 2, 3, 4, 5], unit_kinds=unit_kinds)
    for found in of_blocks:
        found["cost"]["final"] |= {"macs": 40_000, "macs_by_op": {"conv": 39_900, "linear": 100}}
    boards, problems = planned_boards(tmp_path, *map(refitted, of_blocks), *seeds("thin", [1, 2, 3, 4, 5]))
    rows = {board.key["coupling"]: [row for table in board.tables for row in table.rows] for board in boards}
    assert not problems and {key: [row.name for row in of] for key, of in rows.items()} == {
        "inner": ["thin"],
        f"inner {unit_kinds}": ["random"],
    }
    (row,) = rows[f"inner {unit_kinds}"]
    assert row.unranked == why
    assert row.controls_missing == ("dense", l1, "uniform_thin", "uniform_thin_long")


STEPS = [1, 2, 3, 4, 5]


def below(found, share=0.4):
    """The same records with a network that costs so much."""
    macs = int(100_000 * share)
    for one in found:
        one["cost"]["final"] |= {"macs": macs, "macs_by_op": {"conv": macs - 100, "linear": 100}}
    return map(refitted, found)


def test_widths_in_steps_are_ranked_among_themselves_where_no_further_step_fits(tmp_path):
    """RULES 5.2: each step is a board of its own, with the dense rows of the board without; 9: their controls."""
    dense = seeds("dense", STEPS, keep=None)
    steps = {step: seeds("random", STEPS, step=step) for step in (8, 16)}
    both = seeds("random", STEPS, step=8, unit_kinds="both")
    boards, problems = planned_boards(tmp_path, *dense, *below([*steps[8], *steps[16], *both]), *seeds("thin", STEPS))
    rows = {board.key["coupling"]: {r.name: r for table in board.tables for r in table.rows} for board in boards}
    assert not problems
    assert {key: sorted(of) for key, of in rows.items()} == {
        "inner": ["dense", "thin"],
        "inner step 8": ["dense", "random"],
        "inner step 16": ["dense", "random"],
        "inner both step 8": ["random"],
    }
    for step in (8, 16):
        found = rows[f"inner step {step}"]["random"]
        assert (found.unranked, found.rank) == ("", (1, 1)) and "dense" in found.differences
        assert found.controls_missing == ("l1_norm", "uniform_thin", "uniform_thin_long")
    assert rows["inner both step 8"]["random"].controls_missing[1] == "l1_norm+block_l1"
    assert {board.title for board in boards} >= {"net on digits (coupling inner step 8)"}


def test_rows_at_equal_milliseconds_are_ranked_where_they_hold(tmp_path):
    """RULES 5.2: one board for each device, runtime, batch and threads; 0.2 of the MACs is no matter there."""
    where = {"runtime": "eager", "batch": 1, "threads": 1, "table": "0" * 64}
    asked = [{"kind": "latency", "keep": 0.6}, {"kind": "latency", "keep": 0.8}]
    names = {"random": [9, 8, 7, 9, 8], "l1_norm": STEPS}
    found = [r for each in asked for name, wrong in names.items() for r in seeds(name, wrong, where=where, **each)]
    other = seeds("random", STEPS, kind="latency", keep=0.6, where=where | {"batch": 8})
    other_table = where | {"table": "1" * 64}
    elsewhere = seeds("random", STEPS, kind="latency", keep=0.6, where=other_table, device="another")
    dense = seeds("dense", STEPS, keep=None)
    boards, problems = planned_boards(tmp_path, *dense, *below([*found, *other, *elsewhere], 0.2))
    assert not problems
    assert sorted(board.key["coupling"] for board in boards) == [
        "inner ms eager batch 1 threads 1 on a chip",
        "inner ms eager batch 1 threads 1 on another",
        "inner ms eager batch 8 threads 1 on a chip",
    ]
    first = next(board for board in boards if board.key["coupling"].endswith("batch 1 threads 1 on a chip"))
    assert [table.title for table in first.tables] == [
        "keep 0.8 of the milliseconds",
        "keep 0.6 of the milliseconds",
    ]
    for table in first.tables:
        assert [row.name for row in table.rows] == ["dense", "l1_norm", "random"]
        assert all(row.unranked == "" and row.rank for row in table.rows[1:])
    for fmt in EXACT:
        assert check_text(tables.render(boards, fmt), fmt, boards) == []


def test_dense_rows_alone_are_no_board_where_others_have_steps(tmp_path):
    (board,), _ = planned_boards(tmp_path, *seeds("dense", STEPS, keep=None), *below(seeds("random", STEPS, step=8)))
    assert board.key["coupling"] == "inner step 8" and board.differs == ()
    assert [row.name for row in board.tables[0].rows] == ["dense", "random"]
    (alone,), _ = planned_boards(tmp_path / "dense", *seeds("dense", STEPS, keep=None))
    assert alone.key["coupling"] == "inner"
