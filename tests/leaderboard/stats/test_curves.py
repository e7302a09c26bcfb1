"""Curves over budgets: areas, how far a method reaches, who is on the front."""

import numpy as np
import pytest
from support.made_records import IMAGES, made, put, seeds

import leaderboard
from leaderboard.stats.boards import build
from leaderboard.stats.curves import of_tables

KEEPS = (0.75, 0.5, 0.25)
DENSE = seeds("dense", [0, 0, 0], keep=None)


def curves(folder, *records):
    (board,), _ = build(leaderboard.load(put(folder, *records), cache=False))
    return {curve.name: curve for curve in of_tables(board.tables)}


def over(method, by_keep, **asked):
    return [r for keep, wrong in by_keep.items() for r in seeds(method, wrong, keep=keep, **asked)]


def top1(wrong):
    return 100 * (1 - np.array(wrong) / IMAGES)


def test_points_go_from_the_most_to_the_least_kept(tmp_path):
    found = curves(tmp_path, *over("random", {k: [9] for k in sorted(KEEPS)}))["random"]
    assert [point.keep for point in found.points] == list(KEEPS)


def test_area_is_the_mean_accuracy_over_the_range(tmp_path):
    wrong = {0.75: [0, 10, 5], 0.5: [20, 10, 15], 0.25: [100, 110, 90]}
    area = curves(tmp_path, *over("random", wrong))["random"].area
    high, middle, low = (top1(wrong[keep]) for keep in KEEPS)
    by_seed = (high / 2 + middle + low / 2) / 2
    assert area.mean == pytest.approx(np.mean(by_seed))
    assert area.half > 0


def test_a_curve_that_lacks_a_budget_has_no_area(tmp_path):
    found = curves(tmp_path, *over("random", {k: [9] for k in KEEPS}), *over("new", {0.75: [9], 0.25: [20]}))
    assert found["random"].area.half is None
    assert found["new"].area is None


def reach(curve, what="macs", points=1.0):
    (found,) = [r for r in curve.reach if (r.what, r.points) == (what, points)]
    return found


def test_reach_is_interpolated_to_where_the_curve_first_falls_below(tmp_path):
    # dense 100 %; at 2x 99.4 %, at 4x 98.2 %: 99 % lies a third of the way from 2x to 4x
    found = curves(tmp_path, *DENSE, *over("random", {0.5: [3, 3, 3], 0.25: [9, 9, 9]}))["random"]
    assert reach(found).times == pytest.approx(2 + 2 / 3)
    assert (reach(found).half, reach(found).bound) == (pytest.approx(0), False)
    assert reach(found, points=0.5).times == pytest.approx(1 + 0.5 / 0.6)


def test_reach_stops_at_the_first_fall_even_if_accuracy_comes_back(tmp_path):
    found = curves(tmp_path, *DENSE, *over("random", {0.5: [10, 10, 10], 0.25: [0, 0, 0]}))["random"]
    assert reach(found).times == pytest.approx(1.5)


def test_reach_beyond_the_last_budget_is_a_bound(tmp_path):
    found = curves(tmp_path, *DENSE, *over("random", {0.5: [0, 0, 0], 0.25: [0, 0, 10]}))["random"]
    assert reach(found).bound
    assert reach(found).half is None
    assert reach(found).times == pytest.approx((4 + 4 + 3) / 3)


def test_reach_in_measured_time(tmp_path):
    records = over("random", {0.5: [0, 0, 0]}, speedup=1.5) + over("random", {0.25: [10, 10, 10]}, speedup=2.0)
    found = curves(tmp_path, *DENSE, *records)["random"]
    assert reach(found, "small").times == pytest.approx(1.75)
    assert reach(found, "large").times == pytest.approx(1.2 * 1.75)


def test_no_reach_without_dense_or_with_a_failed_run(tmp_path):
    assert reach(curves(tmp_path / "a", *over("random", {0.5: [0]}))["random"]).times is None
    failed = curves(tmp_path / "b", *DENSE, made("random"), made("random", 1, status="failed"))["random"]
    assert reach(failed).times is None


def test_the_front_holds_what_nothing_else_beats(tmp_path):
    found = curves(
        tmp_path,
        *over("good", {0.5: [5, 5], 0.25: [8, 8]}, speedup=1.0),
        *over("fast", {0.5: [7, 7], 0.25: [9, 9]}, speedup=3.0),
        *over("bad", {0.5: [50, 50], 0.25: [60, 60]}, speedup=0.9),
    )
    assert found["good"].front["macs"] == (0.25, 0.5)
    assert found["fast"].front["macs"] == ()
    assert found["bad"].front == dict.fromkeys(("macs", "params", "small", "large", "cost"), ())


def test_curves_of_macs_and_of_params_are_two(tmp_path):
    (board,), _ = build(leaderboard.load(put(tmp_path, made("random"), made("random", kind="params")), cache=False))
    assert [(curve.name, curve.kind) for curve in of_tables(board.tables)] == [("random", "macs"), ("random", "params")]
