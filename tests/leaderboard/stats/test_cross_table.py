"""Profiles and ranks over several tables, by hand and against scipy."""

import math

import pytest
from scipy import stats
from support.boards import load
from support.made_records import made, put, seeds

from leaderboard.stats import cross_table
from leaderboard.stats.boards import build


def boards(folder, wanted):
    """``wanted``: (network, budget) -> method -> wrong images."""
    records = [
        made(method, s, wrong + s, keep, arch=arch)
        for (arch, keep), methods in wanted.items()
        for method, wrong in methods.items()
        for s in range(2)
    ]
    return build(load(put(folder, *records)))[0]


def test_a_profile_says_how_often_one_is_near_the_least_error(tmp_path):
    found = boards(tmp_path, {("a", 0.5): {"x": 10, "y": 20}, ("b", 0.5): {"x": 30, "y": 10}, ("b", 0.25): {"x": 5}})
    lines = dict(cross_table.profile(found).lines)
    assert lines["x"][0] == (1.0, pytest.approx(2 / 3))
    assert lines["y"][0] == (1.0, pytest.approx(1 / 3))
    assert lines["y"][-1] == (cross_table.FURTHEST, pytest.approx(2 / 3))  # it is not in the third table
    assert (20.5 / 10.5, pytest.approx(2 / 3)) in [(pytest.approx(t), s) for t, s in lines["y"]]


def test_rows_with_other_epochs_or_a_failed_run_are_not_compared(tmp_path):
    records = [*seeds("random", [9, 9]), *seeds("long", [1, 1], epochs=99), *seeds("bad", [1])]
    records += [made("bad", 1, status="failed")]
    found = build(load(put(tmp_path, *records)))[0]
    assert [set(table) for table in cross_table.errors(found)] == [{"random"}]


def test_no_error_at_all_counts_as_half_an_image(tmp_path):
    records = [made("x", 0, 0), made("y", 0, 2)]
    found = build(load(put(tmp_path, *records)))[0]
    (table,) = cross_table.errors(found)
    assert table["y"] / table["x"] == pytest.approx(4)


WANTED = {(f"net{k}", 0.5): {"x": 10 + k % 2, "y": 40 + k, "z": 80 - k, "w": 41 + k} for k in range(12)}


def test_mean_ranks_and_critical_difference(tmp_path):
    found = cross_table.ranking(boards(tmp_path, WANTED))
    assert found.ranks == (("x", 1.0), ("y", 2.0), ("w", 3.0), ("z", 4.0))
    q = stats.studentized_range.ppf(0.95, 4, math.inf) / math.sqrt(2)
    assert q == pytest.approx(2.569, abs=0.001)  # Demsar 2006, table 5
    assert found.critical == pytest.approx(q * math.sqrt(4 * 5 / (6 * 12)))
    assert found.groups == (("x", "y"), ("y", "w"), ("w", "z"))


def test_no_ranks_of_few_tables_or_names_or_of_what_is_alike(tmp_path):
    few = dict(list(WANTED.items())[:2])
    assert cross_table.ranking(boards(tmp_path / "few", few)) is None
    two = {key: {"x": 1, "y": 2} for key in WANTED}
    assert cross_table.ranking(boards(tmp_path / "two", two)) is None
    alike = {(f"n{k}", 0.5): {"x": (3, 5, 4)[k % 3], "y": (4, 3, 5)[k % 3], "z": (5, 4, 3)[k % 3]} for k in range(6)}
    assert cross_table.ranking(boards(tmp_path / "alike", alike)) is None
    assert cross_table.profile([]) is None
