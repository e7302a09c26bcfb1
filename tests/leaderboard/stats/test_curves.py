"""Curves over budgets: pooled errors, how far a method reaches, who is on the front."""

import copy
import math

import numpy as np
import pytest
from scipy import stats
from support.boards import boards_of, plan_for
from support.made_records import IMAGES, made, put, seeds, sha
from support.records import seal

from leaderboard.stats.curves import of_board
from leaderboard.stats.reach import estimated

KEEPS = (0.75, 0.5, 0.25)
DENSE = seeds("dense", [5, 4, 6, 5, 5], keep=None)
NEAR = {0.75: [5, 5, 6, 5, 5], 0.5: [6, 4, 6, 5, 6], 0.25: [40, 44, 38, 41, 39]}
RANDOM = {0.75: [9, 8, 9, 10, 9], 0.5: [20, 22, 19, 21, 20], 0.25: [80, 85, 82, 79, 83]}


def over(method, by_keep, **asked):
    return [r for keep, wrong in by_keep.items() for r in seeds(method, wrong, keep=keep, **asked)]


def curves(folder, *records, planned=True, **terms):
    (board,), _ = boards_of(put(folder, *records), plan_for(records, **terms) if planned else None)
    return {curve.name: curve for curve in of_board(board)}


@pytest.fixture
def found(tmp_path):
    return curves(tmp_path, *DENSE, *over("near", NEAR), *over("random", RANDOM))


def test_points_go_from_the_most_to_the_least_kept(found):
    assert [point.keep for point in found["random"].points] == list(KEEPS)


def test_error_is_the_geometric_mean_over_budgets_and_seeds(found):
    wrong = np.array(list(NEAR.values())) + 0.5
    assert found["near"].error == pytest.approx(100 * stats.gmean(wrong.ravel() / IMAGES))


def test_pooled_difference_is_the_log_ratio_of_errors_and_its_family_that_of_the_board(found):
    ours = found["near"].pooled["top1"]
    near, random = (np.log(np.array(list(wrong.values())) + 0.5).mean(axis=0) for wrong in (NEAR, RANDOM))
    assert ours["random"].mean == pytest.approx((random - near).mean())
    assert ours["random"].won == 5
    assert set(ours) == {"dense", "random"}
    every = [d for curve in found.values() for d in curve.pooled["top1"].values()]
    assert len(every) == 3
    assert min(d.p_board for d in every) == pytest.approx(3 * min(d.p for d in every))
    assert ours["random"].p_holm < ours["random"].p_board < 0.05
    assert ours["random"].verdicts == ("better",)
    assert found["near"].pooled["loss"]["random"].p_board is None


def test_row_that_lacks_a_budget_has_no_pooled_error(tmp_path):
    lacking = {keep: [wrong + 1 for wrong in NEAR[keep]] for keep in (0.75, 0.25)}
    found = curves(tmp_path, *DENSE, *over("near", NEAR), *over("new", lacking))
    assert (found["new"].error, found["new"].pooled) == (None, {})
    assert found["near"].error is not None


def test_reach_is_shown_from_dense_downwards_and_estimated_in_between(found):
    half, one = found["near"].reach
    assert (half.points, one.points) == (0.5, 1.0)
    assert (one.passed, one.failed) == (0.5, 0.25)
    differences = (np.array([[5, 4, 6, 5, 5]]) - np.array(list(NEAR.values()))) / IMAGES * 100
    expected = estimated(differences, [1 / keep for keep in KEEPS], 1.0)
    assert (one.times, one.low, one.high) == pytest.approx((expected.times, expected.low, expected.high))
    assert 2 < one.low <= one.times <= one.high < 4
    assert found["random"].reach[1].failed == 0.5


def test_reach_beyond_the_last_budget_is_a_bound(tmp_path):
    same = {keep: [5, 4, 6, 5, 5] for keep in KEEPS}
    last = curves(tmp_path, *DENSE, *over("random", same))["random"].reach[1]
    assert (last.passed, last.failed, last.bound, last.high) == (0.25, None, True, None)
    assert last.times == pytest.approx(4)


def test_without_a_plan_dense_or_seeds_there_is_no_reach(tmp_path):
    records = [*DENSE, *over("random", RANDOM)]
    exploratory = curves(tmp_path / "a", *records, planned=False)["random"]
    assert (exploratory.reach, exploratory.pooled) == ((), {})
    assert exploratory.error > 0
    assert curves(tmp_path / "b", *over("random", RANDOM))["random"].reach == ()
    few = [r for r in records if r["spec"]["seed"] < 4]
    reach = curves(tmp_path / "c", *few, seeds=range(4))["random"].reach[1]
    assert (reach.passed, reach.failed, reach.times) == (None, None, None)


def test_copies_have_no_curve_but_where_they_differ(tmp_path):
    records = copy.deepcopy([*DENSE, *over("l1_norm", NEAR), *over("tp_l1_first", NEAR)])
    for found in records:
        network = f"{found['spec']['budget'] and found['spec']['budget']['keep_macs']}{found['spec']['seed']}"
        found["artifacts"]["network"]["sha256"] = sha(network)
    same = [seal(found) for found in records]
    assert set(curves(tmp_path / "a", *same)) == {"l1_norm"}
    other = [*same[:-1], seal(same[-1] | {"artifacts": same[-1]["artifacts"] | {"network": None}})]
    found = curves(tmp_path / "b", *other)
    assert set(found) == {"l1_norm", "tp_l1_first"}
    assert [point.row.name for point in found["tp_l1_first"].points] == ["l1_norm", "l1_norm", "tp_l1_first"]


def test_the_front_holds_what_nothing_else_beats_and_keeps_ties(tmp_path):
    found = curves(
        tmp_path,
        *over("good", {0.5: [5, 5], 0.25: [8, 8]}),
        *over("like", {0.5: [4, 6], 0.25: [9, 9]}),
        *over("bad", {0.5: [50, 50], 0.25: [60, 60]}),
        planned=False,
    )
    assert found["good"].front["macs"] == (0.5, 0.25)
    assert found["like"].front["macs"] == (0.5,)
    assert found["bad"].front == dict.fromkeys(("macs", "params", "ms", "small", "large", "cost"), ())


def test_curves_of_macs_and_of_params_are_two(tmp_path):
    (board,), _ = boards_of(put(tmp_path, made("random"), made("random", kind="params")))
    assert [(curve.name, curve.kind) for curve in of_board(board)] == [("random", "macs"), ("random", "params")]


def test_factors_are_of_what_the_budget_is_a_share_of(tmp_path):
    wrong = [5, 4, 6, 5, 5]
    records = [*DENSE, *(r for keep in KEEPS for r in seeds("random", wrong, keep=keep, kind="params"))]
    assert math.isclose(curves(tmp_path, *records)["random"].reach[0].times, 4)
