"""What is on one board: which records may be compared, which of them count, and which are left out."""

import pytest
from support.boards import CONTROLS, planned_boards, row_of
from support.made_records import made, seeds
from support.records import cost as record_cost
from support.records import refitted, seal

from bench.spec.recipe import Recipe, Stage

DIFFERENT = {
    "precision": {"precision": "bf16"},
    "rules": {"rules": "0.3"},
    "counter": {"counter": "thop"},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_what_differs_makes_another_board_and_is_named(tmp_path, key):
    boards, _ = planned_boards(tmp_path, *CONTROLS, *seeds("new", [1, 2, 3, 4, 5], **DIFFERENT[key]))
    assert len(boards) == 2
    assert all(set(board.differs) - {"recipe_sha256"} == {key} for board in boards)
    assert all(key in board.title for board in boards)
    names = [{row.name for table in board.tables for row in table.rows} for board in boards]
    assert {"new"} in names


def test_board_of_another_memory_format_is_another_and_named(tmp_path):
    boards, _ = planned_boards(tmp_path, *CONTROLS, *seeds("new", [1, 2, 3, 4, 5], layout="channels_first"))
    assert [board.key["precision"] for board in boards] == ["fp32", "fp32 channels_first"]
    assert all(board.differs == ("precision",) for board in boards)
    assert "channels_first" in boards[1].title


def test_another_recipe_makes_another_board(tmp_path):
    recipe = Recipe("tiny", Stage(9, 0.1), Stage(2, 0.01), precision="fp32")
    boards, _ = planned_boards(tmp_path, *CONTROLS, made("new", recipe=recipe))
    assert [board.differs for board in boards] == [("recipe_sha256",)] * 2
    assert {board.title.rpartition(" ")[0] for board in boards} == {
        "net on digits (recipe tiny 6+2",
        "net on digits (recipe tiny 9+2",
    }


def test_other_data_sets_and_networks_do_not_differ_they_are_others(tmp_path):
    boards, _ = planned_boards(tmp_path, made(), made(arch="net2"), made(dataset="mnist"))
    assert [board.title for board in boards] == ["net on digits", "net2 on digits", "net on mnist"]


def test_tables_are_by_budget(tmp_path):
    (board,), _ = planned_boards(
        tmp_path,
        *[made("random", keep=k) for k in (0.25, 0.75)],
        made("random", keep=0.5, kind="params"),
        made("free", keep=None, native=True),
        made("dense", keep=None),
    )
    assert [t.title for t in board.tables] == [
        "keep 0.75 of the MACs",
        "keep 0.25 of the MACs",
        "keep 0.5 of the params",
        "native track",
    ]
    assert all(t.rows[0].name == "dense" for t in board.tables)


def test_a_failed_run_goes_where_it_would_have_belonged(tmp_path):
    both = [*CONTROLS, made("other", counter="thop")]
    boards, problems = planned_boards(tmp_path, *both, made("bad", status="failed"))
    where = [board.key["counter"] for board in boards if any(r.name == "bad" for r in board.tables[0].rows)]
    assert where == ["fvcore", "thop"]
    assert problems == []
    _, problems = planned_boards(tmp_path / "alone", made("bad", status="failed", error="no"))
    assert [p.message for p in problems] == ["failed (no), and no finished run to compare it with"]


def test_a_failed_run_without_a_budget_goes_with_the_other_seeds_of_its_row(tmp_path):
    records = [made("dense", 0, keep=None, status="failed"), made("dense", 1, keep=None), made("random")]
    records += [made("free", 0, keep=None, status="failed"), made("free", 1, keep=None, native=True)]
    (board,), _ = planned_boards(tmp_path, *records)
    matched, native = board.tables
    assert (row_of(matched, "dense").track, row_of(matched, "dense").wrong) == ("dense", {0: None, 1: 10})
    assert (row_of(native, "free").track, row_of(native, "free").wrong) == ("native", {0: None, 1: 10})
    assert [r.name for r in matched.rows] == ["dense", "random"]


def test_two_results_of_one_run_do_not_count_and_copies_count_once(tmp_path):
    first, later = made(wrong=10), made(wrong=1, finished="2026-01-01T02:00:00+00:00")
    again = made(wrong=10, finished="2026-01-02T00:00:00+00:00")
    boards, problems = planned_boards(tmp_path / "a", made("random"), later, first)
    assert [r.name for r in boards[0].tables[0].rows] == ["random"]
    assert [(p.message.partition(" than")[0], p.kind) for p in problems] == [("another result", "conflict")] * 2
    (board,), problems = planned_boards(tmp_path / "b", first, again, first)
    assert board.tables[0].rows[0].wrong == {0: 10}
    assert sorted(p.message.split(" l1_norm")[0] for p in problems) == ["a copy of", "a second record of the run in"]
    assert not any(p.refused for p in problems)


def test_a_finished_run_stays_before_a_failed_one(tmp_path):
    later = made(wrong=10, finished="2026-02-02T00:00:00+00:00")
    (board,), problems = planned_boards(tmp_path, made(status="failed"), later)
    assert board.tables[0].rows[0].wrong == {0: 10}
    assert len(problems) == 1


def altered(found, **parts):
    for key, values in parts.items():
        found[key] = found[key] | values
    return refitted(found)


def larger_test_set(method, seed):
    found = made(method, seed, 10)
    for key in ("dense", "pruned", "final"):
        found["metrics"][key] |= {"examples": 9940, "top1": 1 - 28 / 9940, "worst_class_top1": 0.5}
    return altered(found, data={"test": 9940})


def larger_network(method, seed):
    return altered(made(method, seed, 10), cost={"dense": record_cost(200_000, 10_000)})


def larger_training_set(method, seed):
    return altered(made(method, seed, 10), data={"train": 950})


@pytest.mark.parametrize(
    ("alter", "key"),
    [(larger_test_set, "images"), (larger_network, "dense_macs"), (larger_training_set, "images")],
)
def test_another_size_under_one_hash_is_another_board(tmp_path, alter, key):
    """Where it is not refused: of records that nobody compared."""
    boards, _ = planned_boards(tmp_path, *CONTROLS, *(alter("fpgm", seed) for seed in range(5)))
    assert [board.differs for board in boards] == [(key,)] * 2
    assert sorted(len(board.tables[0].rows) for board in boards) == [1, 5]


def test_a_specification_of_another_hash_is_left_out(tmp_path):
    found = made()
    found["spec"]["recipe"]["weight_decay"] = 0.0123
    boards, problems = planned_boards(tmp_path, seal(found))
    assert boards == []
    assert "spec_sha256" in problems[0].message
