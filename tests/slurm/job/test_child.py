"""Tasks in copies of the worker: nothing that one leaves reaches the next, and kills cost no run."""

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest
import torch
from support.job_tools import PLUGINS, attempts, batch_of, found, has_record, stop_at
from support.waiting import until

from bench.records import store
from bench.spec.registry import add_plugin
from bench.training.loop import PhaseTrainer
from slurm.batch import Task
from slurm.child import in_copy
from slurm.job import Job
from slurm.journal import Journal
from slurm.place import AGAIN, ENDED, Clock, Requeue, Signals


@pytest.fixture
def whole(finished):
    """A run of six checkpoints (two of its base, two epochs, the prune, fine-tuning), and its record."""
    spec, done, _ = finished("ddrop", train__epochs=2)
    return spec, store.without_timing(done)


@pytest.fixture
def signals(make_run, tmp_path):
    return Signals(Clock(batch_of(tmp_path, make_run()[0])))


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_nothing_that_a_method_leaves_reaches_the_next_run(make_run, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("LEFT", str(tmp_path))
    add_plugin(str(PLUGINS / "leaky.py"))
    leaky, (next_one, expected) = make_run("leaky", train__epochs=2)[0], whole
    plugins = tuple(str(PLUGINS / f"{name}.py") for name in ("small", "leaky"))
    batch = batch_of(tmp_path / "out", leaky, next_one, plugins=plugins)
    assert Job(batch.file, 0, isolated=True)() == 0
    assert attempts(batch.out, leaky)[-1].ended in ("done", "failed")
    assert not is_alive((tmp_path / "process").read_text())
    assert store.without_timing(found(batch.out, next_one)) == expected
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_records_are_those_of_runs_in_their_own_process(whole, tmp_path):
    spec, expected = whole
    batch = batch_of(tmp_path / "out", Task(spec, base=True), spec)
    assert Job(batch.file, 0, isolated=True)() == 0
    assert store.without_timing(found(batch.out, spec)) == expected
    assert [len(attempts(batch.out, task)) for task in (Task(spec, base=True).key, spec)] == [1, 1]


@pytest.mark.parametrize("save", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_run_whose_process_is_killed_resumes_in_the_next_one(whole, tmp_path, monkeypatch, save):
    """In each of its processes after so many checkpoints."""
    spec, expected = whole
    batch = batch_of(tmp_path / "out", spec)
    stop_at(monkeypatch, signal.SIGKILL, save)
    assert Job(batch.file, 0, isolated=True)() == 0
    done = found(batch.out, spec)
    assert store.without_timing(done) == expected
    kills = 6 // save
    assert msgspec.to_builtins(done.job).items() >= {"attempts": kills + 1, "kills": kills}.items()
    assert [attempt.ended for attempt in attempts(batch.out, spec)] == ["killed"] * kills + ["done"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "name", "before"),
    [(Journal, "start", True), (store, "write", True), (store, "write", False), (Journal, "end", False)],
    ids=["begin", "record", "recorded", "end"],
)
def test_kill_at_the_edge_of_a_run_neither_loses_nor_doubles_it(whole, tmp_path, monkeypatch, where, name, before):
    spec, expected = whole
    batch = batch_of(tmp_path / "out", spec)
    called, worker, once = getattr(where, name), os.getpid(), tmp_path / "once"

    def kill(*given, **more):
        first = os.getpid() != worker and not once.exists()
        result = None if first and before else called(*given, **more)
        if first:
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    monkeypatch.setattr(where, name, kill)
    assert Job(batch.file, 0, isolated=True)() == 0
    assert store.without_timing(found(batch.out, spec)) == expected
    assert len(list(store.find(batch.out / "records"))) == 1
    assert attempts(batch.out, spec)[-1].ended in ("done", "killed")
    assert once.exists()


@pytest.mark.slow
def test_run_that_always_ends_its_process_fails_and_costs_no_other(make_run, tmp_path):
    add_plugin(str(PLUGINS / "leaky.py"))
    bad, fine = make_run("ends_process")[0], make_run()[0]
    plugins = tuple(str(PLUGINS / f"{name}.py") for name in ("small", "leaky"))
    batch = batch_of(tmp_path, Task(bad, base=True), bad, fine, plugins=plugins)
    assert Job(batch.file, 0, isolated=True)() == 0
    failed = found(tmp_path, bad)
    assert failed.status == "failed"
    assert "3 attempts in a row ended before an epoch was done (3 killed)" in failed.error.message
    assert found(tmp_path, fine).status == "ok"


@pytest.mark.parametrize(
    ("number", "code", "how", "status"),
    [
        (signal.SIGUSR2, AGAIN, "preempted", None),
        pytest.param(signal.SIGTERM, ENDED, "terminated", "interrupted", marks=pytest.mark.slow),
    ],
)
def test_signal_to_the_worker_stops_its_run_at_a_checkpoint(whole, tmp_path, monkeypatch, number, code, how, status):
    spec, expected = whole
    batch, worker = batch_of(tmp_path / "out", spec, minutes=600), os.getpid()
    save = PhaseTrainer.save

    def save_and_wait(self, position):
        save(self, position)
        os.kill(worker, number)
        os.kill(os.getpid(), number)  # as SLURM does, to all processes: it counts once
        threading.Event().wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(PhaseTrainer, "save", save_and_wait)
        assert Job(batch.file, 0, isolated=True)() == code
    assert (found(batch.out, spec).status if has_record(batch.out, spec) else None) == status
    assert [attempt.ended for attempt in attempts(batch.out, spec)] == [how]
    assert Job(batch.file, 0, isolated=True)() == 0
    assert store.without_timing(found(batch.out, spec)) == expected


@pytest.mark.slow
def test_stop_of_the_copy_is_that_of_the_job(whole, tmp_path, monkeypatch, capsys):
    """Its own clock or, where only it hears a signal, that."""
    spec, _ = whole
    batch = batch_of(tmp_path / "out", spec)
    stop_at(monkeypatch, signal.SIGUSR2, 2)
    assert Job(batch.file, 0, isolated=True)() == AGAIN
    assert "preempted: asks to be queued again" in capsys.readouterr().err


def test_copy_ends_with_the_worker(signals, tmp_path):
    """Though it is killed: nothing holds its locks any longer."""
    note = tmp_path / "copy"

    def worker():
        def work():
            note.write_text(str(os.getpid()))
            os.kill(os.getppid(), signal.SIGKILL)
            threading.Event().wait(60)

        in_copy(work, signals)

    assert in_copy(worker, signals) == -signal.SIGKILL
    until(lambda: not is_alive(note.read_text()))


def test_exit_codes_of_a_copy(signals, capfd):
    def leave_a_thread():
        threading.Thread(target=threading.Event().wait).start()

    def stop():
        raise Requeue("preempted")

    def interrupt():
        raise KeyboardInterrupt

    def err():
        raise ValueError("what went wrong")

    codes = [in_copy(work, signals) for work in (leave_a_thread, stop, interrupt, err)]
    assert codes == [0, AGAIN, ENDED, 1]
    assert "what went wrong" in capfd.readouterr().err
