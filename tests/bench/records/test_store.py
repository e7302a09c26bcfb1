import dataclasses
import json
import os

import pytest
from support.records import SPEC, changed, cost, ended, finished

from bench.errors import RunFailed
from bench.records import store
from bench.records.store import (
    RecordError,
    check_form,
    find,
    intact,
    load,
    names,
    path_of,
    seal,
    timeless,
    to_text,
    write,
)
from bench.spec.digest import digest

BUDGET = {"keep_macs": None, "keep_params": None, "ranking": None, "min_keep": 1, "widths": None}


@pytest.fixture
def ok():
    """A finished run's record."""
    return finished()


# --- form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", store.STATUSES)
def test_a_good_record_has_no_problems(ok, status):
    assert check_form(ok if status == "ok" else ended(status)) == []


@pytest.mark.parametrize("key", store.FIELDS)
def test_a_missing_key(ok, key):
    del ok[key]
    assert f"'{key}' is missing" in check_form(ok)


def test_a_foreign_key(ok):
    assert check_form(ok | {"extra": 1}) == ["'extra' does not belong there"]


@pytest.mark.parametrize("key", store.FIELDS)
def test_a_wrong_type(ok, key):
    problems = check_form(ok | {key: 1.5})
    assert len(problems) == 1
    assert problems[0].startswith(f"{key} is 1.5, no")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("metrics", "final", "top1"), 1.01, "top1"),
        (("metrics", "final", "top1"), -0.1, "top1"),
        (("metrics", "dense", "top1"), 97.8, "top1"),
        (("metrics", "final", "top1"), float("nan"), "top1"),
        (("metrics", "final", "top5"), 0.4, "top-5"),
        (("metrics", "final", "worst_class_top1"), 0.6, "worst class"),
        (("metrics", "final", "loss"), -1.0, "loss"),
        (("metrics", "final", "loss"), float("inf"), "loss"),
        (("metrics", "final", "loss"), float("nan"), "loss"),
        (("metrics", "final", "ece"), 2.0, "ece"),
        (("cost", "final"), cost(1001, 90), "macs after"),
        (("cost", "final"), cost(0, 90), "macs after"),
        (("cost", "final", "params"), 201, "params after"),
        (("cost", "final"), cost(501, 90), "more macs than the budget of 0.5"),
        (("structure", "widths"), {"0": [8, 9]}, "9 of 8 units"),
        (("structure", "widths"), {"0": [8, 0]}, "0 of 8 units"),
        (("structure", "widths"), [1], "structure.widths is a list, not a table"),
        (("metrics", "final"), {"top1": 0.5}, "metrics.final.examples is missing"),
        (("cost", "final"), {}, "cost.final.macs is missing"),
        (("status",), "done", "done"),
        (("error",), {"type": "E", "message": "x", "traceback": []}, "contradict"),
        (("metrics",), None, "'metrics' is null"),
        (("cost",), None, "'cost' is null"),
        (("data",), None, "'data' is null"),
    ],
)
def test_what_cannot_be_true(ok, path, value, words):
    problems = check_form(changed(ok, path, value))
    assert any(words in p for p in problems), problems


def test_a_failed_run_without_an_error(ok):
    assert check_form(ok | {"status": "failed"}) == ["status and error contradict each other"]


def test_a_budget_of_params_limits_params(ok):
    ok = changed(ok, ("spec", "budget"), BUDGET | {"keep_params": 0.4})
    assert check_form(changed(ok, ("cost", "final", "params"), 80)) == []
    assert check_form(changed(ok, ("cost", "final", "params"), 81)) != []


@pytest.mark.parametrize(("share", "dense", "final"), [(0.29, 100, 29), (0.57, 100, 57), (1.0, 7, 7), (0.1, 30, 3)])
def test_using_the_budget_up_to_the_last_mac_is_within_it(ok, share, dense, final):
    """0.29 * 100 is 28.999999999999996 in floating point; select() allows the 29th."""
    ok = changed(ok, ("spec", "budget"), BUDGET | {"keep_macs": share})
    ok["cost"] = {"dense": cost(dense, 200), "final": cost(final, 90)}
    assert check_form(ok) == []


def test_a_run_without_budget_has_no_limit(ok):
    ok = changed(ok, ("spec", "budget"), None)
    assert check_form(changed(ok, ("cost", "final"), cost(1000, 200))) == []


# --- own hash ---------------------------------------------------------------------------------------------------


def test_the_own_hash_is_of_everything_else(ok):
    sealed = seal(ok)
    assert {k: v for k, v in sealed.items() if k != "record_sha256"} == {
        k: v for k, v in ok.items() if k != "record_sha256"
    }
    assert seal(sealed) == sealed
    assert sealed["record_sha256"] == digest({k: v for k, v in ok.items() if k != "record_sha256"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metrics", "final", "top1"), 0.5000000000000001),
        (("clock", "seconds"), 1.6),
        (("spec", "seed"), 1),
        (("latency",), [1]),
    ],
)
def test_any_change_shows_in_the_own_hash(ok, path, value):
    assert seal(changed(ok, path, value))["record_sha256"] != seal(ok)["record_sha256"]


def test_the_own_hash_survives_writing_and_reading(ok, tmp_path):
    ok["clock"]["seconds"]["train"] = 0.1 + 0.2
    ok["environment"]["device"] = ok["latency"][0]["device"] = "Ähnlich"
    write(tmp_path / "x.json", ok)
    found = load(tmp_path / "x.json")
    assert found == seal(ok)
    assert intact(found)
    assert not intact(changed(found, ("clock", "seconds", "train"), 0.3))


def test_the_timeless_part(ok):
    later = changed(changed(ok, ("clock", "seconds"), 99), ("latency",), [1]) | {"job": {"id": 1}, "memory": {"x": 1}}
    assert timeless(later) == timeless(ok)
    assert timeless(changed(ok, ("metrics", "final", "top1"), 0.6)) != timeless(ok)


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b'{"kind": "bench.run"', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a record"),
        (b"{}", "not a record"),
        (b'{"kind": "bench.run"}', "schema null, this is 1"),
        (b'{"kind": "bench.run", "schema": 2}', "update the suite"),
        (b'{"kind": "bench.run", "schema": 0}', "schema 0, this is 1"),
        (b'{"kind": "bench.run", "schema": true}', "schema true, this is 1"),
        (b'{"kind": "bench.run", "schema": 1}', "missing"),
    ],
)
def test_files_that_are_no_records(tmp_path, content, words):
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(RecordError, match=words) as caught:
        load(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("most", [1, 100, 4096])
def test_a_file_that_comes_in_pieces_is_read_whole(ok, tmp_path, monkeypatch, most):
    """A read may return less than was asked for, as on network file systems."""
    file = tmp_path / f"{ok['id']}.json"
    file.write_text(to_text(seal(ok)))
    read = os.read
    monkeypatch.setattr(store.os, "read", lambda handle, size: read(handle, min(size, most)))
    assert load(file) == seal(ok)


def test_a_file_that_shrinks_while_it_is_read_ends(ok, tmp_path, monkeypatch):
    file = tmp_path / f"{ok['id']}.json"
    file.write_text(to_text(seal(ok)))
    parts = [file.read_bytes()[:50], b""]
    monkeypatch.setattr(store.os, "read", lambda handle, size: parts.pop(0))
    with pytest.raises(RecordError, match="not JSON"):
        load(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecordError, match=r"none\.json: No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(RecordError, match="directory"):
        load(tmp_path)


def test_numbers_are_never_rounded_and_never_nan(ok):
    assert json.loads(to_text(changed(ok, ("clock", "seconds"), 0.1 + 0.2)))["clock"]["seconds"] == 0.1 + 0.2
    with pytest.raises(ValueError, match="JSON"):
        to_text(changed(ok, ("clock", "seconds"), float("nan")))


# --- writing ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return path_of(tmp_path, SPEC)


def test_where_a_record_belongs(tmp_path, path):
    assert path == tmp_path / "records" / "digits" / "two_layers" / "l1_norm" / f"{SPEC.id}.json"


def test_names_of_any_kind_are_one_folder_each(tmp_path):
    spec = dataclasses.replace(SPEC, dataset="folder:a b@8#01234567", arch="file:x/y.py:f")
    expected = tmp_path / "records" / "folder-a-b@8-01234567" / "file-x-y.py-f" / "l1_norm" / f"{spec.id}.json"
    assert path_of(tmp_path, spec) == expected


def test_a_finished_record_is_written_once(ok, path):
    write(path, ok)
    before = path.read_bytes()
    for other in (ok, changed(ok, ("clock", "resumes"), 9), ended("failed")):
        with pytest.raises(RunFailed, match="already there and stays"):
            write(path, other)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interrupted_record_is_replaced(ok, path):
    write(path, ended("interrupted"))
    write(path, ok)
    assert load(path)["status"] == "ok"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_failed_record_moves_aside(ok, path, status):
    write(path, ended(status))
    old = load(path)
    write(path, changed(ended("failed"), ("clock", "seconds", "train"), 2.0))
    write(path, ok)
    assert load(path)["status"] == "ok"
    aside = sorted((path.parent / "superseded").iterdir())
    assert len(aside) == 2
    assert old in [load(p) for p in aside]
    assert all(p.name.startswith(SPEC.id) for p in aside)


def test_a_damaged_file_is_not_overwritten(ok, path):
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(RecordError):
        write(path, ok)
    assert path.read_text() == "{"


def test_a_record_that_cannot_be_text_leaves_no_file(ok, path):
    with pytest.raises(ValueError, match="JSON"):
        write(path, changed(ok, ("clock", "seconds"), float("nan")))
    assert not path.exists()


def test_another_process_that_was_faster_wins(ok, path, monkeypatch):
    """The file appears between the check and the write."""
    first = changed(ok, ("clock", "seconds", "train"), 1.0)
    write(path, first)
    monkeypatch.setattr(type(path), "exists", lambda self: False)
    with pytest.raises(RunFailed, match="by another run"):
        write(path, ok)
    monkeypatch.undo()
    assert load(path)["clock"] == first["clock"]


def test_find_lists_records_and_nothing_else(ok, tmp_path, path):
    write(path, ok)
    other = path.with_name("0123456789ab-s3.json")
    write(other, ok)
    (path.parent / ".hidden-s0.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    for place in ("superseded", "bases"):
        (path.parent / place).mkdir()
        (path.parent / place / path.name).write_text("{}")
    beside, above = path.parent.with_name(f"{path.parent.name}-b") / path.name, tmp_path / path.name
    for file in (beside, above):
        write(file, ok)
    listed = sorted([path, other, beside, above])
    assert list(find(tmp_path)) == listed
    assert names(tmp_path) == [file.relative_to(tmp_path).as_posix() for file in listed]
    assert list(find(path)) == [path]
    assert list(find(tmp_path / "nowhere")) == []


def test_what_find_lists_can_be_verified(ok, tmp_path, path):
    """A run that failed and was then repeated leaves two files, and both are as they should be."""
    from bench.runs.verify import verify_file

    write(path, ended("failed"))
    write(path, ended("diverged"))
    for file in find(tmp_path):
        checks = verify_file(file, tmp_path, tmp_path)
        assert not [c for c in checks if c.outcome == "FAILED"], file
