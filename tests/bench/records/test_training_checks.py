"""Plan, recipe, work and results of one record fit each other: a record that claims otherwise is refused."""

import pytest
from support.records import ended, finished, fitted, quality, record

from bench.records.store import RecordError
from bench.records.training_checks import of_record
from bench.spec.recipe import Recipe, Stage
from bench.spec.spec import Budget, Spec

TRAIN = {"epochs": 2, "part": "train", "rewind": None}
TUNE = {"epochs": 1, "part": "finetune", "rewind": None}
SPEC = Spec("ddrop", "net", "set", Recipe("r", Stage(2, 0.1), Stage(1, 0.1), precision="fp32"), Budget(keep_macs=0.5))


def honest(**training):
    """The record of a method that trains two epochs, prunes, fine-tunes one; on 5,000 training and test images."""
    table = finished(SPEC)
    table["data"] |= {"train": 4500, "val": 500, "test": 5000}
    table["metrics"] = {which: quality(examples=5000) for which in ("dense", "pruned", "final")}
    table["training"] |= {"plan": [TRAIN, "prune", TUNE], "starts_from": "init", "epochs": 3} | training
    columns = {"phase": [0, 0, 2], "part": ["train", "train", "finetune"], "epoch": [1, 2, 1]}
    table["curve"] |= columns | {"train_loss": [0.5] * 3, "val_top1": [0.4, 0.5, 0.5], "val_loss": [0.7] * 3}
    table["curve"]["units_left"] = [1.0, 1.0, 0.5]
    return fitted(table)


def refusals(table):
    """Why a reader refuses this record, as one text."""
    try:
        return "; ".join(of_record(record(table)))
    except RecordError as error:
        return str(error)


def refusal(*changes):
    """Why the honest record is refused after these changes of (path, value)."""
    table = honest()
    for path, value in changes:
        at = table
        *keys, last = path.split(".")
        for key in keys:
            at = at[key]
        at[last] = value
    return refusals(table)


def test_honest_records_are_read():
    assert refusals(honest()) == ""
    worse = honest()  # its test images are of another kind than its validation images
    worse["metrics"]["final"] = quality(examples=5000, top1=0.1, worst_class_top1=0.0)
    assert refusals(worse) == ""
    shrinking = honest()
    shrinking["curve"]["units_left"][1] = 0.75  # its second epoch trained fewer units
    assert refusals(shrinking) == ""
    least = shrinking["training"]["macs"] - 3 * 4480 * (1000 - 490)
    shrinking["training"]["macs"] = least
    assert refusals(shrinking) == ""
    shrinking["training"]["macs"] = least - 1
    assert "training.macs" in refusals(shrinking)


FORGED = {
    "validated on test images": (
        [("curve.val_top1", [0.1, 0.1, 0.1]), ("metrics.final", quality(examples=5000, top1=0.9))],
        "standard errors apart, more than 6",
    ),
    "cut wrongly": ([("structure.gate_slice_difference", 0.9)], "gate_slice_difference is 0.9, more than 0.0001"),
    "no gate": ([("structure.gate_slice_difference", None)], "gate_slice_difference is null"),
    "best epoch": ([("training.selection", "best on test")], "training.selection is 'best on test'"),
    "no fine-tuning": ([("training.plan", [TRAIN, "prune"]), ("training.epochs", 2)], ""),
    "no curve": ([("curve", None)], "curve has 0 epochs"),
    "an epoch twice": ([("curve.epoch", [1, 1, 1])], "curve.epoch does not count the epochs of step 0"),
    "other phases": ([("curve.phase", [0, 0, 1])], "names a step that training.plan does not train in"),
    "phases go back": ([("curve.phase", [2, 0, 0])], "curve.phase goes back"),
    "another part": ([("curve.part", ["train"] * 3)], "curve.part is not 'finetune' in step 2"),
    "other epochs of the base": ([("training.base.epochs", 1)], "training.base.epochs is 1, of the recipe 2"),
    "no time": ([("clock.seconds", {"train": 0.0, "method": 0.0})], "training took no time"),
    "no time for the base": ([("clock.base_seconds", {"train": 0.0})], "training took no time"),
    "one MAC": ([("training.macs", 1)], "training.macs is 1, by plan, widths"),
    "one MAC more": ([("training.macs", 3 * 4480 * (2000 + 490) + 1)], "training.macs is 33,465,601"),
    "one example": ([("training.examples", 1)], "training.examples is 1, by epochs, images and batch size 13,440"),
    "many examples": ([("training.examples", 10**15)], "training.examples is 1,000,000,000,000,000"),
    "a cheap base": ([("training.base.macs", 5)], "training.base.macs is 5"),
    "hidden forwards": (
        [("training.method_examples", {"forward": 100}), ("training.method_macs", 5)],
        "training.method_macs is 5, by method_examples at least 49,000",
    ),
    "light weights": ([("cost.final.weight_bytes", 1)], "cost.final.weight_bytes is 1, 90 params take 360"),
    "no memory": ([("memory.final_peak_bytes", 1)], "memory.final_peak_bytes is 1, its weights alone take 360"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_record_is_refused(name):
    changes, said = FORGED[name]
    found = refusal(*changes)
    assert found and said in found


def test_declared_forwards_count():
    """A whole pass costs no less than one of the final network; parts of a pass have MACs, too."""
    for examples, declared, counted, said in (
        ({"forward": 10}, 4_900, 4_900, ""),
        ({"forward": 10}, 10_000, 10_000, ""),
        ({"forward": 10}, 4_899, 4_899, "training.method_macs is 4,899, by method_examples at least 4,900"),
        ({"backward": 10}, 30_000, 30_000, ""),
        ({"backward": 10}, 14_699, 14_699, "training.method_macs is 14,699"),
        ({}, 77, 77, ""),
        ({}, 77, 78, "training.macs is"),
        ({"forward": 10}, 4_900, 0, "training.macs is"),
        ({"forward": 10}, None, 10_000, ""),  # not declared: up to what whole passes of the dense network cost
        ({"forward": 10}, None, 10_001, "training.macs is"),
    ):
        table = honest(method_examples=examples, **({} if declared is None else {"method_macs": declared}))
        table["training"]["macs"] += counted - (declared or 0)
        assert (said in refusals(table)) if said else refusals(table) == ""


def test_frozen_layers_cost_a_forward_at_least():
    """Those of the epochs after it; with kept outputs nothing."""
    for epoch, views, least in ((0, None, 2 * 1200), (1, None, 3000 + 1200), (0, 2, 2 * 300), (1, 2, 3000 + 300)):
        table = honest(freeze=[{"phase": 0, "epoch": epoch, "upto": "conv", "macs": 900, "views": views}])
        table["training"]["macs"] = 4480 * (least + 3 * 490)
        assert refusals(table) == ""
        table["training"]["macs"] -= 1
        assert "training.macs is" in refusals(table)


USED = {
    "teacher": ({"what": "teacher", "name": "base", "examples": 10, "macs": 10_000}, ("examples", 11)),
    "own snapshot": ({"what": "teacher", "name": "mine", "examples": 10, "macs": 4_900}, ("macs", 4_899)),
    "module": ({"what": "own", "name": "critic", "examples": 10, "macs": 77}, ("macs", 78)),
    "outputs": ({"what": "cache", "name": "conv", "examples": 9000, "macs": 9000 * 300}, ("examples", 8999)),
    "more outputs": ({"what": "cache", "name": "conv", "examples": 9000, "macs": 9000 * 300}, ("macs", 9000 * 300 + 1)),
    "outputs of others": ({"what": "cache", "name": "conv", "examples": 4500, "macs": 4500 * 300}, ("name", "other")),
    "objective": ({"what": "objective", "name": "distill", "examples": 0, "macs": 0}, ("macs", 1)),
}


@pytest.mark.parametrize("case", USED)
def test_work_by_kind_adds_up_and_fits_the_extras(case):
    """What a record says it used is in the parts of its work, whose sum is the work."""
    extra, (key, value) = USED[case]
    freeze = [{"phase": 0, "epoch": 2, "upto": "conv", "macs": 300, "views": 2}]

    def used(extra, macs):
        table = honest(extras=[extra], freeze=freeze, method_macs=macs)
        if extra["what"] == "teacher" and extra["name"] == "base":  # whose training counts then
            for name in ("examples", "macs", "epochs"):
                table["training"][name] += table["training"]["base"][name]
        steps = table["training"]["macs"] - macs
        table["training"]["macs_by"] = {"steps": steps} | ({extra["what"]: macs} if macs else {})
        return table

    assert refusals(used(extra, extra["macs"])) == ""
    forged = used(extra | {key: value}, extra["macs"] if key != "macs" else value if case != "module" else 77)
    assert "training." in refusals(forged)
    other = used(extra, extra["macs"])
    other["training"]["macs_by"]["steps"] -= 1
    assert "the sum of macs_by" in refusals(other)
    del other["training"]["macs_by"]
    assert "no training.macs_by" in refusals(other)


def test_patience_may_end_a_phase_early():
    table = honest()
    table["training"]["plan"][2] = TUNE | {"epochs": 2}
    assert "curve has 1 epochs of step 2" in refusals(table)
    table["training"]["plan"][2] = TUNE | {"epochs": 2, "active": ["ddrop"]}
    assert refusals(table) == ""


def test_nothing_is_asked_of_a_run_that_failed():
    assert refusals(ended()) == ""
