"""Rows of boards: means, differences and endpoints, copies, failed and missing runs, what rows have in common."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy import stats
from support.boards import CONTROLS, planned_boards, row_of, table_of
from support.made_records import DENSE, IMAGES, made, seeds
from support.records import seal

from bench.errors import PARTIES
from bench.records import consistency, schema
from leaderboard.reader import extract
from leaderboard.stats.boards import at
from leaderboard.stats.image_intervals import image_interval
from leaderboard.stats.statistics import QUANTUM, holm


def test_means_and_differences_are_those_of_the_counts(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    l1, wrong, other = row_of(table, "l1_norm"), [20, 21, 22, 20, 19], [30, 31, 33, 29, 30]
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
    assert row_of(table, "same").differences["uniform_thin"].error > 0
    found = row_of(table_of(tmp_path / "b", *seeds("random", [9] * 5), *seeds("one", [8] * 5)), "one")
    difference = found.differences["random"]
    t = stats.t.ppf(0.975, 4)
    assert difference.half == pytest.approx(100 / IMAGES * t * QUANTUM * math.sqrt(2 / 5))
    assert difference.p > 0


def test_cost_is_over_dense(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("slow", [20] * 5, cost=3.0))
    assert row_of(table, "slow").cost == pytest.approx(3)
    assert row_of(table, "dense").cost == row_of(table, "dense").step_cost == 1
    assert row_of(table, "slow").step_cost > 1


def test_copies_are_one_row(tmp_path):
    same = seeds("tp_l1_first", [20, 21, 22, 20, 19])
    for one, other in zip(same, CONTROLS[10:15], strict=True):
        one["artifacts"]["network"] = other["artifacts"]["network"]
    alone, both = table_of(tmp_path / "a", *CONTROLS), table_of(tmp_path / "b", *CONTROLS, *map(seal, same))
    l1 = row_of(both, "l1_norm")
    assert [(copy.name, len(copy.runs)) for copy in l1.copies] == [("tp_l1_first", 5)]
    assert [replace(r, copies=()) for r in both.rows] == list(alone.rows)
    same[3]["artifacts"]["network"] = None
    assert row_of(table_of(tmp_path / "c", *CONTROLS, *map(seal, same)), "l1_norm").copies == ()


def test_a_copy_of_a_control_of_blocks_is_the_control(tmp_path):
    """RULES 9: of blocks alone the l1 norm is block_l1, whichever name sorts first."""
    l1, change = (seeds(name, [20, 21, 22, 20, 19], unit_kinds="depth") for name in ("block_l1", "block_change"))
    for one, other in zip(change, l1, strict=True):
        one["artifacts"]["network"] = other["artifacts"]["network"]
    (row,) = table_of(tmp_path, *l1, *map(seal, change)).rows
    assert (row.name, [copy.name for copy in row.copies]) == ("block_l1", ["block_change"])
    assert row.controls_missing == ("dense", "random", "uniform_thin", "uniform_thin_long")


def test_secondary_endpoints_are_losses_and_accuracies_before_fine_tuning(tmp_path):
    table = table_of(tmp_path, *CONTROLS)
    found = row_of(table, "l1_norm").secondary
    losses = [[r["metrics"]["final"]["loss"] for r in CONTROLS[k : k + 5]] for k in (10, 5)]
    ratios = [math.log(b / a) for a, b in zip(*losses, strict=True)]
    assert found["loss"]["random"].mean == pytest.approx(sum(ratios) / 5)
    assert found["loss"]["random"].verdicts == ("better",)
    assert row_of(table, "l1_norm").loss == pytest.approx(stats.gmean(losses[0]))
    assert found["pruned_top1"]["random"].mean == pytest.approx(row_of(table, "l1_norm").differences["random"].mean)
    assert "dense" not in found["pruned_top1"]


def test_headlines_are_corrected_over_all_tables(tmp_path):
    wrong = {"random": [60, 62, 61, 65, 60], "l1_norm": [59, 57, 61, 60, 58]}
    other = [r for name, counts in wrong.items() for r in seeds(name, counts, keep=0.25)]
    (board,), _ = planned_boards(tmp_path, *CONTROLS, *other)
    every = [d for t in board.tables for r in t.rows for d in r.differences.values()]
    assert [d.p_board for d in every] == pytest.approx(list(holm([d.p for d in every])))
    (part,) = at([board], [0.5])
    assert {d.p_board for r in part.tables[0].rows for d in r.differences.values()} == {None}


@pytest.mark.parametrize("folds", [False, True])
def test_intervals_include_other_test_images(tmp_path, folds):
    records = [*seeds("random", [30, 31, 33, 29, 30]), *seeds("new", [10, 14, 12, 10, 11])]
    for found in records:
        if folds:
            found["data"] |= {"fold": found["spec"]["seed"], "folds_sha256": "5" * 64}
    (difference,) = row_of(table_of(tmp_path, *map(seal, records)), "new").differences.values()
    if folds:
        assert (difference.images_half, difference.refit_half) == (None, pytest.approx(1.5 * difference.half))
        return
    wrong = ([10, 14, 12, 10, 11], [30, 31, 33, 29, 30])  # the last ones, as the bits of made records have them
    right = [np.array([[k < IMAGES - n for k in range(IMAGES)] for n in counts]) for counts in wrong]
    variance = (difference.error / 100) ** 2 * 5
    expected = image_interval(*right, variance, difference.freedom).half
    assert difference.images_half == difference.shown_half == pytest.approx(100 * expected)
    assert difference.images_half > difference.half


def test_missing_seeds_are_those_of_the_plan(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *[made("new", s, 9) for s in (0, 1, 2, 4)])
    assert row_of(table, "new").missing == (3,)
    assert row_of(table, "l1_norm").missing == ()


@pytest.mark.parametrize("lost", [{"status": "diverged"}, {"status": "failed", "blame": "method"}])
def test_a_failed_run_leaves_no_mean(tmp_path, lost):
    table = table_of(tmp_path, *CONTROLS, *seeds("bad", [1, 1, 1, 1]), made("bad", 4, **lost))
    bad = row_of(table, "bad")
    assert bad.top1 is None
    assert bad.differences == {}
    assert bad.wrong == {0: 1, 1: 1, 2: 1, 3: 1, 4: None}
    assert any(f"seed 4 {lost['status']}" in note for note in bad.notes)
    assert table.rows[-1] is bad


@pytest.mark.parametrize("blame", sorted(set(PARTIES) - {"method"}))
def test_run_that_others_made_fail_counts_as_missing(tmp_path, blame):
    lost = made("new", 4, status="failed", blame=blame, error="no such layer")
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), lost)
    new = row_of(table, "new")
    assert new.top1.mean == row_of(table_of(tmp_path / "b", *CONTROLS, *seeds("new", [3, 3, 3, 3])), "new").top1.mean
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
    notes = [text for text in row_of(table, "new").notes if "submission" in text]
    assert notes == ([f"changed between the submission of a job and its start: {note}"] if note else [])
    assert not any("submission" in text for text in row_of(table, "l1_norm").notes)


def test_row_is_marked_when_layers_were_frozen(tmp_path):
    freeze = [{"phase": 0, "epoch": 1, "upto": "conv1", "macs": 9}]
    plain = made("new", 4, 3)
    frozen = seal(plain | {"training": plain["training"] | {"freeze": freeze}})
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), frozen)
    assert "layers were frozen while it trained" in row_of(table, "new").notes
    assert not any("frozen" in text for text in row_of(table, "l1_norm").notes)


def test_row_names_exempt_sites_and_rates_of_phases(tmp_path):
    """Contract 2.4 and 2.5: notes of the board, none where there is nothing to say."""
    plain = made("new", 4, 3)
    slow = [step if step == "prune" else step | {"rate": 0.1} for step in plain["training"]["plan"]]
    record = msgspec.convert(seal(plain | {"training": plain["training"] | {"plan": slow}}), schema.Record)
    whole = [name for name, (before, after) in record.structure.widths.items() if before == after][:1]
    structure = msgspec.structs.replace(record.structure, exempt=[*record.structure.widths][:1])
    count = len(record.structure.widths)
    assert list(extract._remarks(record.training, structure)) == [
        "phases at 0.1 of the recipe's learning rate",
        f"1 of {count} sites are exempt and keep all units",
    ]
    said = list(consistency._of_structure(structure, record.spec.budget))
    assert whole or f"structure.exempt: '{structure.exempt[0]}' is no site that keeps all its units" in said
    assert list(extract._remarks(msgspec.convert(plain, schema.Record).training, record.structure)) == []


def test_row_says_what_it_used_beyond_labels(tmp_path):
    plain = made("new", 4, 3)
    extras = [{"what": what, "name": "x", "examples": 0, "macs": 0} for what in ("objective", "own", "teacher")]
    own = plain["training"]["method_macs"]
    macs_by = {"steps": plain["training"]["macs"] - own, "forwards": own}
    used = seal(plain | {"training": plain["training"] | {"extras": extras, "macs_by": macs_by}})
    table = table_of(tmp_path, *CONTROLS, *seeds("new", [3, 3, 3, 3]), used)
    notes = row_of(table, "new").notes
    assert {text.partition(" ")[0] for text in notes} == {"its", "it"} and len(notes) == 3
    assert not row_of(table, "l1_norm").notes


def test_fairness_is_computed_from_the_records(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("slow", [20] * 5, starts_from="init", cost=1.2))
    assert row_of(table, "l1_norm").shares == ("base", "epochs", "finetune", "cost")
    assert row_of(table, "l1_norm").level == "S1 S2 S3.2 SX-A SX-B"
    assert row_of(table, "slow").shares == ("epochs", "finetune")
    assert row_of(table, "slow").level == "S1 S3.2 SX-A"
    assert row_of(table, "uniform_thin_long").shares == ("finetune", "cost")


def test_missing_controls_are_named(tmp_path):
    table = table_of(tmp_path, *CONTROLS, *seeds("spectral", [9] * 5), *seeds("more", [9] * 6), seeds_of_plan=range(6))
    assert row_of(table, "l1_norm").controls_missing == ()
    assert row_of(table, "spectral").controls_missing == ("spectral_energy",)
    assert row_of(table, "more").controls_missing == ("dense", "random", "l1_norm", "uniform_thin", "uniform_thin_long")
