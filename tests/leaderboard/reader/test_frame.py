"""What is read of records, what is left out and how that is said, and that the cache is only a cache."""

import gzip
import math
import os
import shutil

import pytest
from support.made_records import IMAGES, made, put, seeds
from support.records import line, seal

import leaderboard
from bench.errors import UsageError
from bench.records import pack
from leaderboard.reader import extract
from leaderboard.reader import frame as frames
from leaderboard.reader.extract import COLUMNS

UNITS = ("_ms", "_macs", "_params", "_images", "_seconds", "_share", "_speedup")


def problems(folder, **asked):
    return {p.file: p.message for p in leaderboard.load(folder, **asked).attrs["problems"]}


@pytest.fixture(autouse=True)
def _uncompared(monkeypatch):
    """Records are read here, not compared with each other."""
    monkeypatch.setattr("leaderboard.reader.trust.findings", lambda rows, root: [])


def test_frame_has_one_row_a_record(tmp_path):
    put(tmp_path, *seeds("l1_norm", [10, 11, 12]), made("dense", wrong=5, keep=None))
    frame = leaderboard.load(tmp_path)
    assert list(frame["method"]) == ["dense", "l1_norm", "l1_norm", "l1_norm"]
    assert tuple(frame.columns) == COLUMNS
    first = frame[frame["method"] == "l1_norm"].iloc[0]
    assert (first["final_wrong_images"], first["test_images"], first["seed"]) == (10, IMAGES, 0)
    assert (first["final_macs"], first["dense_macs"], first["keep_share"]) == (50_000, 100_000, 0.5)
    assert first["final_loss"] > 0
    assert frame.attrs["problems"] == ()
    plain = {"seed", "threads", "schema", "epochs", "final_loss"}
    numbers = [c for c in COLUMNS if c.startswith(("dense_", "pruned_", "final_", "training_", "examples_"))]
    assert all(c.endswith(UNITS) or c in plain for c in numbers)  # quantities have units in their names


def test_failed_runs_and_hostile_texts_are_data(tmp_path):
    evil = '<script>alert(1)</script>=HYPERLINK("http://x")'
    note = evil[:40]
    put(tmp_path, made(device=evil, config={"note": note}), made("bad", 3, status="diverged", error=evil))
    bad, good = leaderboard.load(tmp_path).itertuples()
    assert (good.device, bad.device) == (evil, "a chip")
    assert note in good.name
    assert (bad.status, bad.error, bad.seed) == ("diverged", evil, 3)
    assert bad.final_wrong_images is None or math.isnan(bad.final_wrong_images)


def test_load_takes_a_folder_or_one_file(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        leaderboard.load(tmp_path / "nowhere")
    assert leaderboard.load(tmp_path, cache=False).empty
    put(tmp_path, made())
    (file,) = tmp_path.rglob("*.json")
    assert len(leaderboard.load(file)) == 1
    assert not list(tmp_path.rglob(frames.CACHE))


# --- what is not believed ------------------------------------------------------------------------------------------


def change(found, path, value):
    *parents, last = path.split(".")
    target = found
    for key in parents:
        target = target[key]
    target[last] = value
    return found


def test_files_that_are_no_records_are_named_and_left_out(tmp_path):
    """All that is refused: tests/bench/records/test_hostile_records.py."""
    put(tmp_path, made())
    tampered = made(wrong=10)
    tampered["metrics"]["final"]["top1"] = (IMAGES - 1) / IMAGES
    for content, says in [
        (b"", "not JSON"),
        (b"[1, 2]", "not a record"),
        (b'{"kind": "bench.run", "schema": 3}', "update the suite"),
        (b'{"kind": "bench.run", "schema": 1}', "schema 1, made by version 0.1 of the suite, which reads it"),
        (line(tampered), "its content is not what record_sha256 was made of"),
        (line(seal(change(made(), "spec.seed", 7))), "id"),
        (line(seal(change(made(), "spec.method", "other"))), "the hash of the specification is"),
        (line(seal(change(made(), "metrics.final.top1", 0.12345))), "whole number"),
        (line(seal(change(made(), "spec.method", "x" * 10_000_000))), "spec.method"),
    ]:
        (tmp_path / "stranger-s0.json").write_bytes(content)
        frame = leaderboard.load(tmp_path, cache=False)
        assert len(frame) == 1
        (problem,) = frame.attrs["problems"]
        assert problem.file == "stranger-s0.json"
        assert says in problem.message, content[:50]
        assert "\n" not in problem.message
        assert len(problem.message) < 600


# --- the cache -----------------------------------------------------------------------------------------------------


def test_cache_is_used_and_changes_nothing(tmp_path, monkeypatch):
    put(tmp_path, *seeds("l1_norm", [1, 2, 3]), made("bad", status="failed"))
    (tmp_path / "broken-s0.json").write_text("{")
    fresh = leaderboard.load(tmp_path)
    assert (tmp_path / frames.CACHE).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(extract, "read", lambda path: pytest.fail(f"{path} was read again"))
        cached = leaderboard.load(tmp_path)
    assert fresh.equals(cached)
    assert fresh.dtypes.equals(cached.dtypes)
    assert fresh.attrs == cached.attrs
    assert fresh.equals(leaderboard.load(tmp_path, cache=False))
    for damage in (b"", b"{", b'{"edition": "another", "files": {}}', b"[]"):
        (tmp_path / frames.CACHE).write_bytes(damage)
        assert fresh.equals(leaderboard.load(tmp_path)), damage


def test_changed_file_is_read_again_and_a_lost_one_forgotten(tmp_path):
    put(tmp_path, *seeds("l1_norm", [1, 2]))
    leaderboard.load(tmp_path)
    first, second = sorted(tmp_path.rglob("*-s?.json"))
    first.write_text("{")
    second.unlink()
    frame = leaderboard.load(tmp_path)
    assert frame.empty
    assert [p.file for p in frame.attrs["problems"]] == [first.relative_to(tmp_path).as_posix()]


def test_cache_that_came_with_the_records_is_not_used(tmp_path):
    """The time of change is the kernel's: a copy has another one, whatever times of writing it pretends."""

    put(tmp_path / "theirs", made(wrong=100))
    leaderboard.load(tmp_path / "theirs")
    forged = (tmp_path / "theirs" / frames.CACHE).read_bytes().replace(b",100,", b",1,")
    (tmp_path / "theirs" / frames.CACHE).write_bytes(forged)
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")
    assert leaderboard.load(tmp_path / "ours")["final_wrong_images"].tolist() == [100]


# --- packs ---------------------------------------------------------------------------------------------------------


def packed(folder, *tables):
    folder.mkdir(parents=True, exist_ok=True)
    pack.write(folder / "digits-net.jsonl.gz", [(table["id"], line(table)) for table in tables])
    return folder


def test_packs_and_files_give_the_same_rows(tmp_path):
    tables = [*seeds("l1_norm", [1, 2, 3]), made("bad", status="failed")]
    files = leaderboard.load(put(tmp_path / "files", *tables)).sort_values("id")
    packs = leaderboard.load(packed(tmp_path / "packs", *tables)).sort_values("id")
    assert files.drop(columns="file").reset_index(drop=True).equals(packs.drop(columns="file").reset_index(drop=True))
    assert set(packs["file"]) == {f"digits-net.jsonl.gz#{table['id']}" for table in tables}
    assert len(leaderboard.load(tmp_path / "packs" / "digits-net.jsonl.gz")) == 4
    good, bad = made(wrong=1), made(seed=1, wrong=2)
    bad["metrics"]["final"]["top1"] = 1.0
    folder = packed(tmp_path / "bad", good, bad)
    assert leaderboard.load(folder)["id"].tolist() == [good["id"]]
    assert problems(folder) == {f"digits-net.jsonl.gz#{bad['id']}": "its content is not what record_sha256 was made of"}


def test_damaged_pack_is_named(tmp_path):
    for name, content, says in [
        ("empty", b"", "has no record"),
        ("foreign", b"no gzip", "damaged"),
        ("empty line", gzip.compress(b"\n"), "line 1 is empty"),
        ("cut off", gzip.compress(b"x" * 100)[:-4], "damaged"),
        ("no record", gzip.compress(b"{}"), "not a record"),
        ("unsorted", gzip.compress(line(made(seed=1)) + line(made(seed=0))), "a pack is sorted"),
        ("twice", gzip.compress(line(made()) * 2), "has each id once"),
    ]:
        (tmp_path / "digits-net.jsonl.gz").write_bytes(content)
        messages = list(problems(tmp_path, cache=False).values())
        assert any(says in message for message in messages), (name, messages)


@pytest.mark.timeout(20)
def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "0123456789ab-s0.json")
    os.mkfifo(tmp_path / "digits-net.jsonl.gz")
    messages = problems(tmp_path, cache=False)
    assert messages["0123456789ab-s0.json"] == "not a file"
    assert set(messages) == {"0123456789ab-s0.json", "digits-net.jsonl.gz"}


def test_numbers_of_every_size_are_read_as_they_were_written():
    numbers = (1e-05, -1.5e-05, 9.99e-05, 1e-06, 2.5e-300, 0.0001, 0.5, 1e15, 1e16, 1.5e22, -2.0, 7, True, None)
    for k in range(0, len(numbers), 4):  # a row's name has at most 80 characters
        config = {f"n{k}": number for k, number in enumerate(numbers[k : k + 4])} | {"note": 'a": 1e5, "b'}
        values = extract.read(line(made(config=config, method="l1l2")))
        row = dict(zip(extract.COLUMNS[4:], values, strict=True))
        assert all(f"n{k}={number}" in row["name"] for k, number in enumerate(numbers[k : k + 4]))
