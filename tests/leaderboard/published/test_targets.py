"""Published numbers that can be repeated: their files, verdicts, and the command on a file of its own."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from support.paths import PLUGINS
from support.records import SPEC, finished, quality, record

from bench.cli import main, parser
from bench.errors import UsageError
from bench.spec.option_text import as_seeds
from bench.spec.registry import ARCHS, DATASETS, METHODS
from bench.spec.request import RunRequest
from bench.spec.spec import Budget
from leaderboard.published.publications import Group, PublishedTarget, load, repeatable
from leaderboard.published.verdicts import curve_of, judge, mean_curve, measured, published_at

FILE = """
description = "A claim for tests"
source = "nobody"
reading = "invented"
notes = "none"
seeds = "0,1"

[groups.met]
method = "shrinks"
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
keep_macs = 0.8
settings = { batch_size = 32, latency_batch = 4, recalibrate = 2, precision = "fp32", "train.lr" = 0.1 }
targets = [
  { quantity = "curve.val_top1", left = 0.45, paper = 50.0, tolerance = 50.0, kind = "TEST", where = "Fig. 1" },
  { quantity = "dense.top1", paper = 50.0, tolerance = 50.0, kind = "TEST", where = "Table 1" },
]

[groups.missed]
method = "l1_norm"
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
keep_macs = 0.8
settings = { "train.epochs" = 0, "finetune.epochs" = 0, latency_batch = 4, recalibrate = 2 }
targets = [{ quantity = "final.top1", paper = 99.0, tolerance = 0.5, kind = "TEST", where = "Fig. 2" }]
"""


def target(quantity="final.top1", paper=60.0, tolerance=5.0, left=None):
    return PublishedTarget(quantity, paper, tolerance, "TEST", "Fig. 0", left)


def group(*targets):
    return Group(RunRequest("dropnet", "lenet", "mnist", "mnist", native=True), targets)


def made(final=0.6, curve=((1.0, 0.9), (0.8, 0.8), (0.5, 0.7)), after=5):
    table = finished(dataclasses.replace(SPEC, budget=Budget(keep_macs=1.0)))
    left, top1 = zip(*curve, (None, 0.1), strict=True)
    epochs = len(left)
    table["training"]["plan"] = [{"epochs": epochs, "part": "train", "rewind": None}, "prune"]
    table["training"] |= {"epochs": epochs + 1}
    empty = {key: [0.5] * epochs for key in ("train_loss", "val_loss")} | {"part": ["train"] * epochs}
    table["curve"] = empty | {"phase": [0] * epochs, "epoch": [*range(epochs)], "units_left": left, "val_top1": top1}
    table["data"]["test"] = 1000
    good = quality(examples=1000, top1=0.95, top5=1.0)
    table["metrics"] = {"dense": good, "pruned": None, "final": good | {"top1": final}}
    table["structure"] |= {"widths": {"0": [10, after]}, "units_before": 10, "units_after": after}
    return record(table)


# --- measuring -----------------------------------------------------------------------------------------------


def test_curve_has_the_last_epoch_of_each_share():
    record = made(curve=((1.0, 0.2), (1.0, 0.9), (0.66666, 0.5), (0.66666, 0.4), (0.5, None)))
    assert curve_of(record) == {1.0: 90.0, 0.6667: 40.0}
    record = made(curve=())
    assert mean_curve([record]) == []
    assert measured(target("curve.val_top1", left=0.5), record) is None


def test_measured_value_of_a_target():
    for quantity, left, value in [
        ("dense.top1", None, 95.0),
        ("final.top1", None, 60.0),
        ("final.top1", 0.45, 60.0),
        ("final.top1", 0.3, None),  # the network that remains has half of the units
        ("pruned.top1", None, None),
        ("curve.val_top1", 0.5, 70.0),
        ("curve.val_top1", 0.75, 80.0),
        ("curve.val_top1", 0.1, None),  # no point near it
    ]:
        found = measured(target(quantity, left=left), made())
        assert found == (None if value is None else pytest.approx(value)), quantity


def test_target_is_met_within_its_tolerance_if_every_run_has_it():
    runs = [made(final) for final in (0.55, 0.60, 0.62)]
    result = judge("g", group(target(paper=60), target(paper=58.999, tolerance=0.001 - 1e-6)), runs, True)
    assert [verdict.outcome for verdict in result.verdicts] == ["met", "missed"]
    first = result.verdicts[0]
    assert (first.measured, first.difference) == (pytest.approx(59), pytest.approx(-1))
    assert first.half_width == pytest.approx(4.303 * 0.036056 / 3**0.5 * 100, rel=1e-4)
    exactly = judge("g", group(target(paper=55.0, tolerance=4.0)), runs, True)
    assert exactly.verdicts[0].outcome == "met"
    wanted = group(target("curve.val_top1", left=0.5))
    for records, complete in (([], True), ([made()], False), ([made(), made(curve=())], True)):
        verdict = judge("g", wanted, records, complete).verdicts[0]
        assert (verdict.measured, verdict.outcome) == (None, "not measured")


def test_curves_of_several_seeds():
    other = made(curve=((1.0, 0.8), (0.8, 0.8)))
    points = mean_curve([made(), other])
    assert [(p.left, p.seeds) for p in points] == [(1.0, 2), (0.8, 2), (0.5, 1)]
    assert [p.mean for p in points] == [pytest.approx(85), 80, 70]
    assert points[0].half_width == pytest.approx(12.706 * 5, rel=1e-4)
    assert points[2].half_width is None
    marks = published_at(group(target(left=0.52), target(), target("dense.top1", left=1.0)), points)
    assert {left: len(found) for left, found in marks.items()} == {0.5: 1, 1.0: 1}


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    def write(*changes):
        text = FILE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


WRONG = [
    (('notes = "none"\n', ""), "publication mine: notes missing: it has groups of runs"),
    (('source = "nobody"', 'source = " "'), "publication mine: source is empty"),
    (('notes = "none"', 'note = "none"'), "unknown key in publication mine 'note': did you mean notes"),
    (('recipe = "synthetic"', 'recipy = "synthetic"'), "unknown key in publication mine.met 'recipy'"),
    (("left = 0.45", "share = 0.45"), "unknown key in publication mine.met: targets[0] 'share'"),
    (("tolerance = 50.0, ", ""), "publication mine.met: targets[0]: tolerance missing"),
    (("paper = 50.0", "paper = 500.0"), "paper = 500 is not per cent"),
    (("tolerance = 50.0", "tolerance = 0"), "tolerance = 0: points"),
    (("left = 0.45", "left = 45"), "left = 45 is not a share"),
    (("left = 0.45, ", ""), "curve.val_top1 needs left"),
    (('quantity = "dense.top1"', 'quantity = "dense.top5"'), "is not one of dense.top1"),
    (("keep_macs = 0.8\n", ""), "give one of native = true, keep_macs and keep_params"),
    (("keep_macs = 0.8\n", "keep_macs = 0.8\nnative = true\n"), "mine.met: --keep-macs and --native: give one of them"),
    (('seeds = "0,1"', "seeds = 2"), "seeds = 2 is not text"),
    (("targets = [{", "targets = ["), "publication mine: Invalid"),
    (("[groups.met]", "targets = 1\n[groups.met]"), "unknown key in publication mine 'targets'"),
    (("[groups.met]", "[groups]\nother = 1\n[groups.met]"), "publication mine.other is not a table"),
    (('recipe = "synthetic"', 'recipe = "synthetic"\nextra = 1'), "'extra'"),
    (("keep_macs = 0.8", "keep_macs = [0.8, 0.5]"), "mine.met: a group is one request"),
]


def test_damaged_group_or_target_is_refused_in_one_line(file):
    for change, message in WRONG:
        with pytest.raises(UsageError) as caught:
            load(file(change))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_groups_of_the_suite_are_complete(capsys):
    for publication in repeatable():
        assert as_seeds(publication.seeds)
        assert any(group.targets for group in publication.groups.values())
        words = ["reproduce", publication.name, "--dry-run", "--out", "nowhere", "--data-dir", "nowhere"]
        assert main(words) == 0  # makes all specifications
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(publication.groups) > 0
        for line in lines:
            assert parser().parse_args(shlex.split(line)[3:]).command == "run"
    assert not Path("nowhere").exists()


# --- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def replay(tmp_path, file, monkeypatch, capsys):
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins = {}
    places = [word for name in ("small", "shrinks") for word in ("--plugin", PLUGINS / f"{name}.py")]
    places += ["--out", tmp_path / "out", "--data-dir", tmp_path / "data", "-q"]

    def run(*words, changes=()):
        try:
            code = main([str(word) for word in ("reproduce", file(*changes), *places, *words)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_claims_that_hold_and_fail(replay, tmp_path):
    code, out, err = replay()
    assert code == 1
    assert err.splitlines() == ["bench: error: 1 of 3 targets not met: missed final.top1 (missed)"]
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row and row[-1] in ("met", "missed")] == ["met", "met", "missed"]
    half = next(line for line in out.splitlines() if line.lstrip().startswith("0.5000"))
    assert "±" in half
    assert half.endswith("50.00 (Fig. 1)")
    records = sorted((tmp_path / "out" / "records").rglob("*.json"))
    assert len(records) == 4
    before = [path.stat().st_mtime_ns for path in records]
    assert replay()[1] == out  # read from the records, nothing is run again
    assert [path.stat().st_mtime_ns for path in records] == before
    code, out, err = replay("--only", "met", "--seeds", "0", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["groups"]
    assert list(found) == ["met"]
    assert len(found["met"]["runs"]) == 1
    assert [point["left"] for point in found["met"]["curve"]] == [1.0, 0.75, 0.5]  # fine-tuned with 6 of 8 units
    assert [t["outcome"] for t in found["met"]["targets"]] == ["met", "met"]


def test_run_that_fails_leaves_its_targets_unmeasured(replay):
    diverging = ('precision = "fp32", "train.lr" = 0.1', 'precision = "fp32", "train.lr" = 1e30')
    code, out, err = replay("--only", "met", "--seeds", "0", changes=[diverging])
    assert code == 1
    assert "met, seed 0: the loss (nan) is not finite" in err
    assert "2 of 2 targets not met" in err
    assert out.count("not measured") == 2
    again = replay("--only", "met", "--seeds", "0", changes=[diverging])
    assert "diverged before" in again[2]
    assert "diverged before" not in replay("--only", "met", "--seeds", "0", "--retry", changes=[diverging])[2]


def test_dry_run_prints_commands_only(replay, file, tmp_path):
    group = load(file()).groups["met"].request
    assert (group.method, group.arch, group.dataset, group.recipe) == ("shrinks", "two_layers", "tiny", "synthetic")
    assert (group.keep_macs, group.keep_params, group.native) == (0.8, None, False)
    assert group.settings["train.lr"] == "0.1"
    code, out, err = replay("--dry-run", "--seeds", "3-4", "--threads", "1")
    assert (code, err) == (0, "")
    assert not (tmp_path / "out").exists()
    for line in out.splitlines():
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "bench", "run"]
        asked = parser().parse_args(words[3:])
        assert (asked.seeds, asked.threads, asked.out) == ("3-4", 1, tmp_path / "out")


def test_wrong_words_are_refused_in_one_line(replay, tmp_path):
    for words, changes, code, message in [
        (["--only", "mett"], [], 2, "unknown group 'mett': did you mean met"),
        (["--seeds", "a"], [], 2, "whole numbers"),
        ([], [('method = "l1_norm"', 'method = "l1_nrm"')], 2, "did you mean l1_norm"),
        ([], [('"train.epochs" = 0', '"train.epoch" = 0')], 2, "did you mean train.epochs"),
        ([], [('dataset = "tiny"', 'dataset = "cifar10"')], 3, "--download"),
        (["--device", "tpu"], [], 3, "--device tpu"),
    ]:
        got, out, err = replay(*words, changes=changes)
        assert (got, out, len(err.strip().splitlines())) == (code, "", 1), message
        assert message in err
    assert not list(tmp_path.rglob("*.json"))


def test_reproduce_lists_publications_and_refuses_others(capsys):
    assert main(["reproduce"]) == 0
    assert "dropnet-mnist" in capsys.readouterr().out
    assert main(["reproduce", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [found.name for found in repeatable()]
    for name, message in (
        ("dropnet-mnits", "did you mean dropnet-mnist"),
        ("greg", "no groups of runs"),
        ("none.toml", "no such file"),
    ):
        assert main(["reproduce", name]) == 2
        assert message in capsys.readouterr().err
