"""Boards: what is compared, who has a rank, and what must not change when records come, go or move."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from scipy import stats
from support.boards import CONTROLS, plan_for
from support.boards import boards_of as with_plan
from support.made_records import DENSE, IMAGES, made, put, seeds
from support.records import cost as record_cost
from support.records import seal

import leaderboard
from bench.errors import PARTIES
from leaderboard.stats.boards import NO_PLAN, ONE_BUDGET, at, build
from leaderboard.stats.image_intervals import image_interval
from leaderboard.stats.statistics import QUANTUM, holm


def boards_of(folder, *records, seeds_of_plan=range(5)):
    return with_plan(put(folder, *records), plan_for(records, seeds_of_plan))


def table_of(folder, *records, **asked):
    (board,), _ = boards_of(folder, *records, **asked)
    return board.tables[0]


def row(table, name):
    (found,) = [row for row in table.rows if row.name == name]
    return found


# --- rows ----------------------------------------------------------------------------------------------------------


def test_means_and_differences_are_those_of_the_counts(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    l1, wrong, other = row(table, "l1_norm"), [20, 21, 22, 20, 19], [30, 31, 33, 29, 30]
    assert l1.top1.mean == pytest.approx(100 * (1 - sum(wrong) / 5 / IMAGES))
    high = stats.t.ppf(0.975, 4) * stats.sem(wrong)
    assert l1.top1.half == pytest.approx(100 / IMAGES * high)
    difference = l1.differences["random"]
    assert difference.mean == pytest.approx(100 / IMAGES * sum(b - a for a, b in zip(wrong, other, strict=True)) / 5)
    assert 0 < difference.p < 0.01
    assert (difference.seeds, difference.clear) == (5, True)
    assert (l1.macs, l1.macs_percent, l1.params_percent) == (DENSE["macs"] / 2, 50, 50)
    assert l1.pruned.mean == pytest.approx(l1.top1.mean - 100 * 50 / IMAGES)


def test_each_reference_is_one_family_for_holm(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    compared = [r.differences["random"] for r in table.rows if "random" in r.differences]
    assert len(compared) == len(table.rows) - 1
    least = min(compared, key=lambda d: d.p)
    assert least.p_holm == pytest.approx(min(1, least.p * len(compared)))


def test_equal_seeds_are_not_a_certainty(tmp_path):
    """Five differences of exactly one image have no deviation; they are rounded, and that is one."""
    table = table_of(tmp_path, *CONTROLS, *seeds("same", [19, 20, 21, 19, 18]))
    assert row(table, "same").differences["uniform_thin"].error > 0
    found = row(table_of(tmp_path / "b", *seeds("random", [9] * 5), *seeds("one", [8] * 5)), "one")
    difference = found.differences["random"]
    t = stats.t.ppf(0.975, 4)
    assert difference.half == pytest.approx(100 / IMAGES * t * QUANTUM * math.sqrt(2 / 5))
    assert difference.p > 0


def test_cost_is_over_dense(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("slow", [20] * 5, cost=3.0))
    assert row(table, "slow").cost == pytest.approx(3)
    assert row(table, "dense").cost == row(table, "dense").step_cost == 1
    assert row(table, "slow").step_cost > 1


# --- who has a rank ------------------------------------------------------------------------------------------------


def test_ranks_and_ties(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    ranks = {r.name: (r.rank, r.group) for r in table.rows}
    assert ranks["l1_norm"] == ranks["uniform_thin"] == ((1, 2), "a")
    assert ranks["random"] == ((3, 3), "b")
    assert ranks["dense"] == ranks["uniform_thin_long"] == (None, "")
    assert [r.name for r in table.rows] == ["dense", "l1_norm", "uniform_thin", "random", "uniform_thin_long"]
    assert table.ordered
    half, one = row(table, "l1_norm").seeds_needed
    assert 1 < one < half <= 10
    assert row(table, "random").seeds_needed == ()


def test_no_order_is_shown_where_no_two_rows_differ(tmp_path):
    table = table_of(tmp_path, *seeds("random", [30, 31, 33, 29, 30]), *seeds("new", [30, 32, 31, 30, 30]))
    assert {r.rank for r in table.rows} == {(1, 2)}
    assert not table.ordered


def test_without_a_plan_there_are_means_and_intervals_only(tmp_path):
    (board,), _ = with_plan(put(tmp_path, *CONTROLS))
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
    (board,), _ = with_plan(put(tmp_path / "b", *CONTROLS, *junk), plan_for(CONTROLS))
    kept = tuple(r for r in board.tables[0].rows if r.planned)
    assert [replace(r, controls_missing=()) for r in kept] == [replace(r, controls_missing=()) for r in alone]
    wild = row(board.tables[0], "wild")
    assert (wild.unranked, wild.differences["random"].p) == ("exploratory, no plan names it", None)
    assert wild.differences["random"].half > 0


def test_seeds_outside_the_plan_are_listed_and_do_not_count(tmp_path):
    alone = table_of(tmp_path / "a", *CONTROLS)
    failed = made("random", 77, status="failed", error="no")
    (board,), problems = with_plan(put(tmp_path / "b", *CONTROLS, failed, made("l1_norm", 9, 400)), plan_for(CONTROLS))
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
        new = row(with_plan(folder, plan_for(ten, range(planned)))[0][0].tables[0], "new")
        assert (new.differences["random"].p is not None) == bool(new.differences["random"].verdicts) == tested
        assert (new.rank is not None) == tested
        assert new.differences["random"].half > 0


def test_copies_are_one_row(tmp_path):
    same = seeds("tp_l1_first", [20, 21, 22, 20, 19])
    for one, other in zip(same, CONTROLS[10:15], strict=True):
        one["artifacts"]["network"] = other["artifacts"]["network"]
    alone, both = table_of(tmp_path / "a", *CONTROLS), table_of(tmp_path / "b", *CONTROLS, *map(seal, same))
    l1 = row(both, "l1_norm")
    assert [(copy.name, len(copy.runs)) for copy in l1.copies] == [("tp_l1_first", 5)]
    assert [replace(r, copies=()) for r in both.rows] == list(alone.rows)
    same[3]["artifacts"]["network"] = None
    assert row(table_of(tmp_path / "c", *CONTROLS, *map(seal, same)), "l1_norm").copies == ()


def test_secondary_endpoints_are_losses_and_accuracies_before_fine_tuning(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    found = row(table, "l1_norm").secondary
    losses = [[r["metrics"]["final"]["loss"] for r in CONTROLS[k : k + 5]] for k in (10, 5)]
    ratios = [math.log(b / a) for a, b in zip(*losses, strict=True)]
    assert found["loss"]["random"].mean == pytest.approx(sum(ratios) / 5)
    assert found["loss"]["random"].verdicts == ("better",)
    assert row(table, "l1_norm").loss == pytest.approx(stats.gmean(losses[0]))
    assert found["pruned_top1"]["random"].mean == pytest.approx(row(table, "l1_norm").differences["random"].mean)
    assert "dense" not in found["pruned_top1"]


def test_headlines_are_corrected_over_all_tables(tmp_path):
    wrong = {"random": [60, 62, 61, 65, 60], "l1_norm": [59, 57, 61, 60, 58]}
    other = [r for name, counts in wrong.items() for r in seeds(name, counts, keep=0.25)]
    (board,), _ = boards_of(tmp_path, *CONTROLS, *other)
    every = [d for t in board.tables for r in t.rows for d in r.differences.values()]
    assert [d.p_board for d in every] == pytest.approx(list(holm([d.p for d in every])))
    (part,) = at([board], [0.5])
    assert {d.p_board for r in part.tables[0].rows for d in r.differences.values()} == {None}


@pytest.mark.parametrize("folds", [False, True])
def test_intervals_include_other_test_images(tmp_path, folds):
    records = [*seeds("random", [30, 31, 33, 29, 30], rules="0.2"), *seeds("new", [10, 14, 12, 10, 11], rules="0.2")]
    for found in records:
        if folds:
            found["data"] |= {"fold": found["spec"]["seed"], "folds_sha256": "5" * 64}
    (difference,) = row(table_of(tmp_path, *map(seal, records)), "new").differences.values()
    if folds:
        assert (difference.images_half, difference.refit_half) == (None, pytest.approx(1.5 * difference.half))
        return
    wrong = ([10, 14, 12, 10, 11], [30, 31, 33, 29, 30])  # the last ones, as the bits of made records have them
    right = [np.array([[k < IMAGES - n for k in range(IMAGES)] for n in counts]) for counts in wrong]
    variance = (difference.error / 100) ** 2 * 5
    expected = image_interval(*right, variance, difference.freedom).half
    assert difference.images_half == difference.shown_half == pytest.approx(100 * expected)
    assert difference.images_half > difference.half


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (seeds("new", [1, 2]), "2 of 5 seeds, too few to be read"),
        (seeds("new", [1, 2, 3, 4]), "4 of 5 seeds"),
        ([*seeds("new", [1, 2, 3, 4]), made("new", 4, status="failed")], "the run of seed 4 failed"),
        ([*seeds("new", [1, 2, 3, 4]), made("new", 5, 9)], "4 of 5 seeds"),
        (seeds("new", [1, 2, 3, 4, 5], epochs=40), "40 epochs in all, others 8"),
        (seeds("new", [1, 2, 3, 4, 5], changed=True), "made from a working tree with local changes"),
        ([made("new", s, keep=None, native=True) for s in range(5)], "native track"),
        (seeds("new", [1, 2, 3, 4, 5]), ""),
    ],
)
def test_why_a_row_has_no_rank(tmp_path, records, why):
    (board,), _ = boards_of(tmp_path, *CONTROLS, *records)
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
    table = table_of(tmp_path, *map(seal, records))
    assert table.rows[0].unranked == "0.6 % of the dense cost below the budget"


def test_missing_seeds_are_those_of_the_plan(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *[made("new", s, 9) for s in (0, 1, 2, 4)])
    assert row(table, "new").missing == (3,)
    assert row(table, "l1_norm").missing == ()


def test_a_failed_run_leaves_no_mean(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("bad", [1, 1, 1, 1]), made("bad", 4, status="diverged"))
    bad = row(table, "bad")
    assert bad.top1 is None
    assert bad.differences == {}
    assert bad.wrong == {0: 1, 1: 1, 2: 1, 3: 1, 4: None}
    assert any("seed 4 diverged" in note for note in bad.notes)
    assert table.rows[-1] is bad


@pytest.mark.parametrize("blame", sorted(set(PARTIES) - {"method"}))
def test_run_that_others_made_fail_counts_as_missing(tmp_path, blame):
    lost = made("new", 4, status="failed", blame=blame, error="no such layer")
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), lost)
    new = row(table, "new")
    assert new.top1.mean == row(table_of(tmp_path / "b", *CONTROLS, *seeds("new", [3, 3, 3, 3])), "new").top1.mean
    assert (new.missing, new.rank) == ((4,), None)
    assert f"seed 4 void: fault of the {blame}: no such layer" in new.notes


@pytest.mark.parametrize(
    ("differs", "note"),
    [
        (["method: was a, is b"], "method"),
        (["numpy: was 1, is 2", "method: was a, is b"], "method, numpy"),
        ([], None),
    ],
)
def test_row_is_marked_when_code_changed_after_submission(tmp_path, differs, note):
    job = {"cluster": "slurm", "id": "7", "at_once": 1, "attempts": 1, "differs": differs}
    job |= dict.fromkeys(("preemptions", "timeouts", "terminations", "kills"), 0)
    changed = seal(made("new", 4, 3) | {"job": job})
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), changed)
    notes = [text for text in row(table, "new").notes if "submission" in text]
    assert notes == ([f"changed between the submission of a job and its start: {note}"] if note else [])
    assert not any("submission" in text for text in row(table, "l1_norm").notes)


def test_row_is_marked_when_layers_were_frozen(tmp_path):
    freeze = [{"phase": 0, "epoch": 1, "upto": "conv1", "macs": 9}]
    plain = made("new", 4, 3)
    frozen = seal(plain | {"training": plain["training"] | {"freeze": freeze}})
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), frozen)
    assert "layers were frozen while it trained" in row(table, "new").notes
    assert not any("frozen" in text for text in row(table, "l1_norm").notes)


def test_run_that_its_method_made_fail_leaves_no_mean(tmp_path):
    lost = made("new", 4, status="failed", blame="method")
    assert row(table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), lost), "new").top1 is None


# --- what is shared with the others --------------------------------------------------------------------------------


def test_fairness_is_computed_from_the_records(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("slow", [20] * 5, starts_from="init", cost=1.2))
    assert row(table, "l1_norm").shares == ("base", "epochs", "finetune", "cost")
    assert row(table, "l1_norm").level == "S1 S2 S3.2 SX-A SX-B"
    assert row(table, "slow").shares == ("epochs", "finetune")
    assert row(table, "slow").level == "S1 S3.2 SX-A"
    assert row(table, "uniform_thin_long").shares == ("finetune", "cost")


def test_missing_controls_are_named(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("spectral", [9] * 5), *seeds("more", [9] * 6), seeds_of_plan=range(6))
    assert row(table, "l1_norm").controls_missing == ()
    assert row(table, "spectral").controls_missing == ("spectral_energy",)
    assert row(table, "more").controls_missing == ("dense", "random", "l1_norm", "uniform_thin", "uniform_thin_long")


# --- what is on one board ------------------------------------------------------------------------------------------

DIFFERENT = {
    "precision": {"precision": "bf16"},
    "rules": {"rules": "0.2"},
    "counter": {"counter": "thop"},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_what_differs_makes_another_board_and_is_named(tmp_path, key):
    boards, _ = boards_of(tmp_path, *CONTROLS, *seeds("new", [1, 2, 3, 4, 5], **DIFFERENT[key]))
    assert len(boards) == 2
    assert all(set(board.differs) - {"recipe_sha256"} == {key} for board in boards)
    assert all(key in board.title for board in boards)
    names = [{row.name for table in board.tables for row in table.rows} for board in boards]
    assert {"new"} in names


def test_board_of_another_memory_format_is_another_and_named(tmp_path):
    boards, _ = boards_of(tmp_path, *CONTROLS, *seeds("new", [1, 2, 3, 4, 5], layout="channels_first"))
    assert [board.key["precision"] for board in boards] == ["fp32", "fp32 channels_first"]
    assert all(board.differs == ("precision",) for board in boards)
    assert "channels_first" in boards[1].title


def test_another_recipe_makes_another_board(tmp_path):
    from bench.spec.recipe import Recipe, Stage

    boards, _ = boards_of(tmp_path, *CONTROLS, made("new", recipe=Recipe("tiny", Stage(9, 0.1), Stage(2, 0.01))))
    assert [board.differs for board in boards] == [("recipe_sha256",)] * 2
    assert {board.title.rpartition(" ")[0] for board in boards} == {
        "net on digits (recipe tiny 6+2",
        "net on digits (recipe tiny 9+2",
    }


def test_other_data_sets_and_networks_do_not_differ_they_are_others(tmp_path):
    boards, _ = boards_of(tmp_path, made(), made(arch="net2"), made(dataset="mnist"))
    assert [board.title for board in boards] == ["net on digits", "net2 on digits", "net on mnist"]


def test_tables_are_by_budget(tmp_path):
    (board,), _ = boards_of(
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
    both = [*CONTROLS, made("random", counter="thop")]
    boards, problems = boards_of(tmp_path, *both, made("bad", status="failed"))
    where = [board.key["counter"] for board in boards if any(r.name == "bad" for r in board.tables[0].rows)]
    assert where == ["fvcore", "thop"]
    assert problems == []
    _, problems = boards_of(tmp_path / "alone", made("bad", status="failed", error="no"))
    assert [p.message for p in problems] == ["failed (no), and no finished run to compare it with"]


def test_a_failed_run_without_a_budget_goes_with_the_other_seeds_of_its_row(tmp_path):
    records = [made("dense", 0, keep=None, status="failed"), made("dense", 1, keep=None), made("random")]
    records += [made("free", 0, keep=None, status="failed"), made("free", 1, keep=None, native=True)]
    (board,), _ = boards_of(tmp_path, *records)
    matched, native = board.tables
    assert (row(matched, "dense").track, row(matched, "dense").wrong) == ("dense", {0: None, 1: 10})
    assert (row(native, "free").track, row(native, "free").wrong) == ("native", {0: None, 1: 10})
    assert [r.name for r in matched.rows] == ["dense", "random"]


def test_two_results_of_one_run_do_not_count_and_copies_count_once(tmp_path):
    first, later = made(wrong=10), made(wrong=1, finished="2026-01-01T02:00:00+00:00")
    again = made(wrong=10, finished="2026-01-02T00:00:00+00:00")
    boards, problems = boards_of(tmp_path / "a", made("random"), later, first)
    assert [r.name for r in boards[0].tables[0].rows] == ["random"]
    assert [(p.message.partition(" than")[0], p.kind) for p in problems] == [("another result", "conflict")] * 2
    (board,), problems = boards_of(tmp_path / "b", first, again, first)
    assert board.tables[0].rows[0].wrong == {0: 10}
    assert sorted(p.message.split(" l1_norm")[0] for p in problems) == ["a copy of", "a second record of the run in"]
    assert not any(p.refused for p in problems)


def test_a_finished_run_stays_before_a_failed_one(tmp_path):
    later = made(wrong=10, finished="2026-02-02T00:00:00+00:00")
    (board,), problems = boards_of(tmp_path, made(status="failed"), later)
    assert board.tables[0].rows[0].wrong == {0: 10}
    assert len(problems) == 1


# --- properties ----------------------------------------------------------------------------------------------------

SLOW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
counts = some.lists(some.integers(0, 60), min_size=5, max_size=5)
rows = some.dictionaries(some.sampled_from(["random", "l1_norm", "new", "other"]), counts, min_size=1)


def fresh(tmp_path):
    return tmp_path / str(len(list(tmp_path.iterdir())))


def means(table):
    return {r.name: r.top1 for r in table.rows}


@SLOW
@given(rows, some.randoms())
def test_the_order_of_records_changes_nothing(tmp_path, wanted, order):
    records = [r for name, wrong in wanted.items() for r in seeds(name, wrong)]
    one = boards_of(fresh(tmp_path), *records)
    order.shuffle(records)
    frame = leaderboard.load(put(fresh(tmp_path), *records), cache=False)
    plan = plan_for(records)
    assert build(frame, plan) == one
    assert build(frame.sample(frac=1, random_state=1), plan) == one


@SLOW
@given(rows, some.data())
def test_a_dominated_method_moves_no_leader(tmp_path, wanted, data):
    best = [min(wrong[s] for wrong in wanted.values()) for s in range(5)]
    worse = [b + data.draw(some.integers(1, 50)) for b in best]
    records = [r for name, wrong in wanted.items() for r in seeds(name, wrong)]
    before = table_of(fresh(tmp_path), *records)
    after = table_of(fresh(tmp_path), *records, *seeds("dominated", [w + 60 for w in worse]))
    leader = next(r.name for r in before.rows if r.rank is not None)
    assert next(r.name for r in after.rows if r.rank is not None) == leader
    assert means(before).items() <= means(after).items()


@SLOW
@given(rows, some.integers(0, 4), some.sampled_from(["failed", "diverged"]))
def test_a_failed_run_never_improves_a_mean_or_a_rank(tmp_path, wanted, seed, status):
    records = [r for name, wrong in wanted.items() for r in seeds(name, wrong)]
    name = sorted(wanted)[0]
    before = table_of(fresh(tmp_path), *records)
    changed = [
        made(name, seed, status=status) if (r["spec"]["method"], r["spec"]["seed"]) == (name, seed) else r
        for r in records
    ]
    boards, _ = boards_of(fresh(tmp_path), *changed)
    after = boards[0].tables[0]
    assert row(after, name).top1 is None
    assert row(after, name).rank is None
    others = {k: v for k, v in means(before).items() if k != name}
    assert {k: v for k, v in means(after).items() if k != name} == others


@SLOW
@given(rows, some.integers(0, 60))
def test_one_more_seed_of_one_method_changes_no_other_mean(tmp_path, wanted, wrong):
    records = [r for name, counts in wanted.items() for r in seeds(name, counts)]
    name = sorted(wanted)[0]
    before, after = table_of(fresh(tmp_path), *records), table_of(fresh(tmp_path), *records, made(name, 9, wrong))
    assert {k: v for k, v in means(after).items() if k != name} == {k: v for k, v in means(before).items() if k != name}


def test_records_in_any_order_make_the_same_board_objects(tmp_path):
    mixed = list(CONTROLS)
    random.Random(3).shuffle(mixed)
    assert boards_of(tmp_path / "a", *CONTROLS) == boards_of(tmp_path / "b", *mixed)


# --- what a hash decides -------------------------------------------------------------------------------------------


def altered(found, **parts):
    for key, values in parts.items():
        found[key] = found[key] | values
    return seal(found)


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
    ("alter", "key", "says"),
    [
        (larger_test_set, "images", "test_images is 9,940, in 25 records of this test_sha256 500"),
        (larger_network, "dense_macs", "dense_macs is 200,000, in 25 records of this arch_sha256 100,000"),
        (larger_training_set, "images", "train_images is 1,050, in 25 records of this train_sha256 1,000"),
    ],
)
def test_another_size_under_one_hash_is_another_board(tmp_path, alter, key, says):
    boards, problems = boards_of(tmp_path, *CONTROLS, *(alter("fpgm", seed) for seed in range(5)))
    assert [board.differs for board in boards] == [(key,)] * 2
    assert sorted(len(board.tables[0].rows) for board in boards) == [1, 5]
    assert [problem.message for problem in problems] == [says] * 5


def test_a_specification_of_another_hash_is_left_out(tmp_path):
    found = made()
    found["spec"]["recipe"]["weight_decay"] = 0.0123
    boards, problems = boards_of(tmp_path, seal(found))
    assert boards == []
    assert "spec_sha256" in problems[0].message
