"""A full disk: nothing is half-written or lost, the job waits for room, and ``status`` names the cause."""

import hashlib
import json
import tempfile
import time
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from support.full_disk import FAULTS, Disk
from support.job_tools import attempts, batch_of, found, has_record

from bench.records import store
from slurm import worker as workers
from slurm.batch import Task, claim, trained_bases
from slurm.job import Job
from slurm.states import LOST, MISSING, query_states

FILES = 9
"""Files of a run with its base: checkpoints, the base and its facts, network and masks, the record."""


@pytest.fixture
def disk_of(monkeypatch, tmp_path):
    """Makes the disk of an output folder; workers that wait for it do not sleep."""

    def make(out, **options):
        made = Disk(out, monkeypatch, **options)
        monkeypatch.setattr(workers, "time", SimpleNamespace(time=time.time, sleep=made.sleep))
        return made

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))  # of records that their folder does not take
    return make


def require_whole(out):
    """Every file is whole: no part is left, texts can be read, hashes are right."""
    assert not list(out.rglob("*.part"))
    for path in store.find(out / "records"):
        assert store.load(path)
    for path in (out / "bases").glob("*.json"):
        facts = json.loads(path.read_text())
        assert facts["sha256"] == hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()


@pytest.fixture
def whole(finished):
    """The run, and its record on a disk with room."""
    spec, done, _ = finished("ddrop")
    return spec, store.without_timing(done)


def fill_and_make_room(disk_of, tmp_path, whole, fault, number):
    spec, expected = whole
    out = tmp_path / "out"
    batch = batch_of(out, spec)
    disk = disk_of(out, fault=fault, fill_at=number, room_after=3)
    assert Job(batch.file, 0)() == 0
    assert disk.pauses == 3
    done = found(out, spec)
    assert store.without_timing(done) == expected
    assert [attempt.ended for attempt in attempts(out, spec)] == ["disk full", "done"]
    assert msgspec.to_builtins(done.job).items() >= {"attempts": 2, "kills": 0, "timeouts": 0}.items()
    require_whole(out)


@pytest.mark.parametrize(("fault", "number"), [("creating", 1), ("writing", FILES - 1), ("syncing", 4)])
def test_run_waits_for_room_and_resumes_in_its_job(disk_of, tmp_path, whole, fault, number):
    fill_and_make_room(disk_of, tmp_path, whole, fault, number)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", range(FILES))
def test_disk_may_fill_up_at_every_file_of_a_run(disk_of, tmp_path, whole, fault, number):
    fill_and_make_room(disk_of, tmp_path, whole, fault, number)


def test_files_of_a_run(disk_of, tmp_path, whole):
    """What the tests above fill the disk at."""
    batch = batch_of(tmp_path / "out", whole[0])
    disk = disk_of(batch.out)
    Job(batch.file, 0)()
    assert disk.files == FILES


def test_no_run_is_begun_while_the_disk_is_full(make_run, disk_of, tmp_path, capsys):
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec)
    disk = disk_of(batch.out, room_after=3)
    disk.full = True
    before = {path for path in batch.out.rglob("*") if path.is_file()}
    sleep = disk.sleep

    def look(seconds):
        assert attempts(batch.out, spec) == []
        assert {path for path in batch.out.rglob("*") if path.is_file()} - before <= {batch.out / "jobs" / "locks"}
        sleep(seconds)

    workers.time.sleep = look
    assert Job(batch.file, 0)() == 0
    assert [attempt.ended for attempt in attempts(batch.out, spec)] == ["done"]
    assert found(batch.out, spec).status == "ok"
    assert capsys.readouterr().err.count("waiting for room: ") == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_disk_that_stays_full_ends_the_job_and_status_names_it(make_run, disk_of, tmp_path, whole, fault, capsys):
    spec, expected = whole
    other, _ = make_run("random")
    batch = batch_of(tmp_path / "out", spec, other)
    replace(batch, jobs=("77",)).write()
    with claim(batch.out, "a submission"):  # makes the file of locks, as every submission does
        pass
    disk = disk_of(batch.out, fault=fault, fill_at=3)
    assert Job(batch.file, 0)() == 0
    assert disk.pauses == 3 * workers.ROOM_TRIES  # after the first run, before the second, and after it
    assert not has_record(batch.out, spec)
    assert not has_record(batch.out, other)
    require_whole(batch.out)
    err = capsys.readouterr().err
    assert err.count("waiting for room: ") == 3
    assert f"bench: error: {spec.id}: " in err
    assert "No space left on device" in err
    told = query_states([spec, other], batch.out)
    assert {state.state for state in told.states} <= {LOST, MISSING}
    assert f"the disk of {batch.out} is full" in "; ".join(told.problems)
    disk.full = False
    assert "is full" not in "; ".join(query_states([spec, other], batch.out).problems)
    assert Job(batch.file, 0)() == 0
    assert store.without_timing(found(batch.out, spec)) == expected
    assert found(batch.out, other).status == "ok"
    require_whole(batch.out)


@pytest.mark.parametrize("room_after", [2, None])
def test_run_waits_for_as_much_room_as_it_needs(make_run, disk_of, tmp_path, capsys, room_after):
    """A job could begin, the run could not: that is no failure of the run."""
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec)
    disk = disk_of(batch.out, room_after=room_after)
    disk.free = 2 * workers.ROOM_BYTES
    assert Job(batch.file, 0)() == 0
    ends = [attempt.ended for attempt in attempts(batch.out, spec)]
    if room_after:
        assert disk.pauses == 2
        assert ends == ["disk full", "done"]

        assert found(batch.out, spec).status == "ok"
    else:
        assert disk.pauses == workers.ROOM_TRIES
        assert ends[-1] == "disk full"
        assert not has_record(batch.out, spec)
    assert "has 2 MiB free, this run may need 16: make room" in capsys.readouterr().err


def test_base_waits_for_room_too(make_run, disk_of, tmp_path):
    spec, _ = make_run()
    base = Task(spec, base=True)
    batch = batch_of(tmp_path / "out", base, spec)
    disk_of(batch.out, fill_at=1, room_after=1)
    assert Job(batch.file, 0)() == 0
    assert [attempt.ended for attempt in attempts(batch.out, base.key)] == ["disk full", "done"]
    assert trained_bases(batch.out, [base.key]) == {base.key}
    assert found(batch.out, spec).job.attempts == 1
    require_whole(batch.out)


def test_run_that_never_finds_room_for_a_checkpoint_fails(make_run, disk_of, tmp_path, monkeypatch):
    """There is some room between its attempts, too little for it."""
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec, minutes=60)
    disk = disk_of(batch.out, fill_at=0)

    def a_little(seconds):
        disk.sleep(seconds)
        disk.full, disk.fill_at = False, disk.files if disk.pauses < 3 else None

    workers.time.sleep = a_little
    assert Job(batch.file, 0)() == 0
    failed = found(batch.out, spec)
    assert failed.status == "failed"
    told = "3 attempts in a row ended before an epoch was done (3 disk full): make room for its checkpoints"
    assert told in failed.error.message
    require_whole(batch.out)
