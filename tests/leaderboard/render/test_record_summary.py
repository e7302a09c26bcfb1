"""The small table of one record."""

import copy
import dataclasses

import pytest
from support.records import cost, ended, finished, quality, record, spec_table

from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import Budget, Spec
from leaderboard.render.record_summary import details as details_of
from leaderboard.render.record_summary import summary as summary_of
from leaderboard.render.record_summary import width_note

QUALITY = quality(examples=200, top1=0.975, top5=1.0, loss=0.1, ece=0.01, worst_class_top1=0.2)
SPEC = Spec(
    "m",
    "net",
    "data",
    Recipe("r", Stage(1, 0.1), Stage(1, 0.1), precision="fp32"),
    Budget(0.504),
    0,
    "inner",
    {"a": 1},
)
RECORD = finished(SPEC)
RECORD["environment"]["threads"] = 2
RECORD["data"]["test"] = 200
RECORD["clock"]["resumes"] = 2
RECORD["structure"] |= {"units_before": 20, "units_after": 10, "widths": {"x": [20, 10]}}
RECORD["cost"] = {
    "dense": cost(1000, 400) | {"weight_bytes": 2**20},
    "final": cost(500, 100) | {"weight_bytes": 2**18},
}
RECORD["metrics"] = {"dense": QUALITY | {"top1": 0.98}, "pruned": QUALITY | {"top1": 0.3}, "final": QUALITY}


def summary(table, width=None):
    return summary_of(record(table), width)


def details(table, width=None):
    return details_of(record(table), width)


def test_summary_has_three_rows_with_shares():
    lines = summary(RECORD).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["dense", "pruned,", "final"]
    assert "98.00" in lines[2]
    assert "30.00" in lines[3]
    assert "500 (50.0 %)" in lines[4]
    assert "100 (25.0 %)" in lines[4]
    assert len(lines) == 5
    table = copy.deepcopy(RECORD)
    table["metrics"]["pruned"] = None  # a method that does not prune has two rows
    table["training"]["plan"] = [{"epochs": 1, "part": "train", "rewind": None}, *table["training"]["plan"]]
    assert "not fine-tuned" not in summary(table)


def test_widths_that_are_no_multiples_of_8_are_named_without_a_ratio():
    def note(budget=SPEC.budget, **widths):
        spec = dataclasses.replace(SPEC, budget=budget)
        before, after = (sum(both[k] for both in widths.values()) for k in (0, 1))
        structure = RECORD["structure"] | {"widths": widths, "units_before": before, "units_after": after}
        facts = {"id": spec.id, "spec": spec_table(spec), "spec_sha256": spec.sha256, "structure": structure}
        return width_note(record(RECORD | facts))

    odd = {"a": [16, 7], "b": [32, 15], "c": [20, 20], "d": [16, 8]}  # c is whole
    assert note(**odd).startswith("note: widths 7, 15 are no multiples of 8, and runtimes compute channels in groups")
    assert "--round-to 8 avoids them" in note(**odd)
    assert note(a=[16, 8], c=[20, 20]) is None
    for budget in (Budget(keep_macs=0.504, round_to=4), Budget(widths=(7, 15, 20, 8))):
        assert note(budget, **odd) is None


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(0.51), "note: 1.0 % of the dense MACs below the budget of 0.51"),
        (Budget(keep_params=0.3), "note: 5.0 % of the dense parameters below the budget of 0.3"),
        (Budget(0.504), None),
        (Budget(widths=(10,)), None),
    ],
)
def test_size_too_far_below_its_budget_is_noted(budget, said):
    spec = dataclasses.replace(SPEC, budget=budget)
    text = summary(RECORD | {"id": spec.id, "spec": spec_table(spec), "spec_sha256": spec.sha256})
    assert ("note: " in text) == (said is not None)
    assert said is None or (said in text and "(RULES.md, 5.2)" in text)


def test_details_show_the_run_its_error_and_its_kept_units():
    text = details(RECORD)
    for words in (SPEC.id, "a=1", "keep_macs=0.504", "10 of 20 in 1 sites", "resumed 2 times"):
        assert words in text
    assert text.splitlines()[-1].split() == ["x", "20", "10", "50.0"]
    text = details(ended())
    assert "RunFailed: why" in text
    assert "run.py:1 go: x" in text
    assert "top-1" not in text


def test_details_show_what_changed_after_submission():
    """Of failed runs too; a record without a job, or without a change, has no such line."""
    job = {"differs": ["method: was a, is b", "numpy: was 1, is 2"]}
    for status in (
        {},
        {"status": "failed", "error": {"type": "X", "message": "x", "traceback": [], "blame": "method"}},
    ):
        assert "since submission: method: was a, is b; numpy: was 1, is 2" in details(RECORD | status | {"job": job})
    for none in (None, {"differs": []}):
        assert "submission" not in details(RECORD | {"job": none})


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_line_is_wider_than_asked(width):
    wide_names = copy.deepcopy(RECORD)
    wide_names["structure"]["widths"] = {"blocks.0.conv1+blocks.1.conv1+blocks.2.conv1+head": [20, 10]}
    assert max(map(len, details(wide_names, width).splitlines())) <= width
    assert ("not shown: " in summary(RECORD, width)) == (width < 80)
