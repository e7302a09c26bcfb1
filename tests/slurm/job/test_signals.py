"""Signals, kills and other jobs: whatever ends a job, its runs go on where they were, to the same record."""

import os
import signal
import threading
import time

import msgspec
import pytest
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE
from support.job_tools import attempts, batch_of, found, has_record, stop_at
from support.records import line, seal, spec_table
from support.waiting import until

from bench.records import store
from slurm.batch import Task, claim
from slurm.job import Job
from slurm.place import AGAIN, BEGAN, ENDED


def counts(done, **expected):
    """Whether the record of a job has these counts, and no other interruptions."""
    none = dict.fromkeys(("preemptions", "timeouts", "terminations", "kills"), 0)
    return msgspec.to_builtins(done.job).items() >= (none | expected).items()


@pytest.fixture
def whole(finished):
    """A run of six checkpoints (two of its base, two epochs, the prune, fine-tuning), and its record."""
    spec, done, _ = finished("ddrop", train__epochs=2)
    return spec, store.without_timing(done)


@pytest.mark.parametrize(
    "save", [2, 5, *(pytest.param(save, marks=pytest.mark.slow) for save in (1, 3, 4, 6))], ids=str
)
def test_run_preempted_after_any_checkpoint_gives_same_record(whole, tmp_path, monkeypatch, save, capsys):
    spec, expected = whole
    batch = batch_of(tmp_path / "out", spec, minutes=600)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, save)
        assert Job(batch.file, 0)() == AGAIN == LOCAL_REQUEUE_RETURN_CODE
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before
    assert not has_record(batch.out, spec)
    (attempt,) = attempts(batch.out, spec)
    assert attempt.ended == "preempted"
    assert attempt.saves == save
    assert "preempted: asks to be queued again" in capsys.readouterr().err
    assert Job(batch.file, 0)() == 0
    done = found(batch.out, spec)
    assert store.without_timing(done) == expected
    assert counts(done, attempts=2, preemptions=1)
    assert attempts(batch.out, spec)[1].saves == 6 - save  # nothing that was saved is done again


def test_run_may_be_preempted_at_every_checkpoint(whole, tmp_path, monkeypatch):
    spec, expected = whole
    batch = batch_of(tmp_path / "out", spec)
    stop_at(monkeypatch, signal.SIGUSR2, 1, 2, 3, 4, 5, 6)
    for _ in range(6):
        assert Job(batch.file, 0)() == AGAIN
        assert not has_record(batch.out, spec)
    assert Job(batch.file, 0)() == 0
    done = found(batch.out, spec)
    assert store.without_timing(done) == expected
    assert counts(done, attempts=7, preemptions=6)


def test_preempted_base_job_resumes(make_run, tmp_path, monkeypatch):
    spec, _ = make_run(train__epochs=3)
    base = Task(spec, base=True)
    batch = batch_of(tmp_path, base)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 2)
        assert Job(batch.file, 0)() == AGAIN
    assert not base.finished(tmp_path)
    Job(batch.file, 0)()
    assert base.finished(tmp_path)
    assert [attempt.saves for attempt in attempts(tmp_path, base.key)] == [2, 1]


def test_time_limit_warning_is_no_preemption(make_run, tmp_path, monkeypatch):
    spec, _ = make_run("ddrop")
    batch = batch_of(tmp_path, spec, minutes=2, signal_delay_s=40)  # SLURM may send it a minute early
    stop_at(monkeypatch, signal.SIGUSR2, 1)
    with monkeypatch.context() as patch:
        patch.setenv(BEGAN, str(time.time() - 30))
        assert Job(batch.file, 0)() == AGAIN
    assert attempts(tmp_path, spec)[0].ended == "timed out"
    Job(batch.file, 0)()
    assert counts(found(tmp_path, spec), attempts=2, timeouts=1)


def test_terminated_run_is_interrupted_and_resumes_in_next_job(make_run, whole, tmp_path, monkeypatch):
    spec, expected = whole
    other, _ = make_run("random", train__epochs=2)
    batch = batch_of(tmp_path / "out", spec, other)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 3)
        assert Job(batch.file, 0)() == ENDED
    stopped = found(batch.out, spec)
    assert (stopped.status, stopped.job.id) == ("interrupted", "77")
    assert attempts(batch.out, spec)[0].ended == "terminated"
    assert attempts(batch.out, other) == []
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert store.without_timing(done) == expected
    assert counts(done, attempts=2, terminations=1)
    assert found(batch.out, other).status == "ok"


def test_killed_run_resumes_and_record_counts_it(whole, tmp_path, monkeypatch):
    spec, expected = whole
    batch = batch_of(tmp_path / "out", spec)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 3)
        Job(batch.file, 0)()
    file = batch.folder / "journal.jsonl"
    lines = [line for line in file.read_text().splitlines() if '"end"' not in line]
    file.write_text("\n".join(lines) + '\n{"event": "ep')  # as a kill leaves it
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert store.without_timing(done) == expected
    assert counts(done, attempts=2, kills=1)


@pytest.fixture
def at_work(tmp_path):
    """Somebody else is at a run from now on, until the function is called that comes back."""
    threads = []

    def hold(spec, meanwhile=lambda: None):
        held, done = threading.Event(), threading.Event()

        def work():
            with claim(tmp_path, spec.id):
                held.set()
                meanwhile()
                done.wait(60)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        assert held.wait(30)
        return done.set

    yield hold
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGUSR2, AGAIN), (signal.SIGTERM, ENDED)])
def test_job_that_waits_for_anothers_run_hears_signals(make_run, tmp_path, at_work, signum, code):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec)
    before = signal.getsignal(signum)

    def send():
        until(lambda: signal.getsignal(signum) != before)
        time.sleep(0.2)
        os.kill(os.getpid(), signum)

    finish = at_work(spec, send)
    try:
        assert Job(batch.file, 0)() == code
    finally:
        finish()
    assert not has_record(tmp_path, spec)
    assert attempts(tmp_path, spec) == []


def test_run_of_another_job_is_waited_for_last_and_not_repeated(make_run, tmp_path, at_work, monkeypatch):
    others, mine = make_run("l1_norm")[0], make_run("random")[0]
    batch = batch_of(tmp_path, others, mine)
    seen = []

    def finish():
        until(lambda: has_record(tmp_path, mine))
        seen.append(has_record(tmp_path, others))
        path = store.path_of(tmp_path, others)
        path.parent.mkdir(parents=True)
        identity = {"id": others.id, "spec": spec_table(others), "spec_sha256": others.sha256}
        path.write_bytes(line(seal(store.as_table(found(tmp_path, mine)) | identity)))

    at_work(others, finish)()
    Job(batch.file, 0)()
    assert seen == [False]
    assert found(tmp_path, others).id == others.id
    assert attempts(tmp_path, others) == []
    assert attempts(tmp_path, mine)[0].ended == "done"
