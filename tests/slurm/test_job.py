"""Jobs, in this process and in others: whatever ends one, its runs go on where they were, once, to the same record."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import image_folders
import pytest
from filelock import FileLock
from submitit.core.utils import JobPaths

from bench import checkpoint, environment, pipeline, record
from bench.data import resolve
from bench.errors import RunFailed, SetupError
from bench.run import execute
from bench.specify import make_method, method_digest
from bench.training import Training
from slurm import job as jobs
from slurm.batch import Batch, Task, base_key, journal_of, new_token
from slurm.clusters import RUNNING, Local
from slurm.job import FRUITLESS_LEGS, Job, differences
from slurm.journal import Journal

ROOT = Path(__file__).parents[2]
PLUGINS = Path(__file__).parents[1] / "plugins"
LOCAL = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": "77",
    "SUBMITIT_LOCAL_NTASKS": "1",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_GLOBALID": "0",
    "SUBMITIT_LOCAL_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def _as_a_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    for name, value in LOCAL.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def requeued(monkeypatch):
    """Jobs that queued themselves again."""
    found = []
    monkeypatch.setattr(jobs, "_requeue", lambda env: found.append(env.job_id))
    return found


def batch_of(out, *tasks, elements=1, **changes):
    """A batch of these runs (or tasks), all in each of its elements, as written before its submission."""
    made = [task if isinstance(task, Task) else Task(task, method_sha256=method_of(task)) for task in tasks]
    values = {
        "token": new_token(),
        "cluster": "local",
        "title": "some",
        "tasks": {task.key: task.as_dict() for task in made},
        "elements": (tuple(task.key for task in made),) * elements,
        "options": {
            "data_dir": str(out / "data"),
            "download": False,
            "device": "cpu",
            "threads": 1,
            "quiet": False,
            "runtimes": ["eager"],
        },
        "plugins": tuple(str(PLUGINS / f"{name}.py") for name in ("small", "broken")),
        "minutes": None,
        "signal_delay_s": 90,
        "code": environment.code(),
        "packages": environment.packages(),
    }
    batch = Batch(out, **values | changes)
    batch.write()
    return batch


def method_of(spec):
    return method_digest(make_method(spec.method, {}))


def found(out, spec):
    return record.load(record.path_of(out, spec))


def has_record(out, spec):
    return record.path_of(out, spec).is_file()


def legs(out, task):
    return journal_of(out, task if isinstance(task, str) else task.id).legs()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def stop_at(monkeypatch, signum, *saves):
    """This process gets a signal right after each of these checkpoints."""
    save, count = Training._save, iter(range(1, 10**6))

    def save_and_stop(self, position):
        save(self, position)
        if next(count) in saves:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(Training, "_save", save_and_stop)


# --- without anything in between -----------------------------------------------------------------------------


def test_a_job_leaves_the_record_that_the_run_command_leaves(make_run, tmp_path):
    spec, options = make_run("ddrop", out=tmp_path / "inline")
    whole = execute(spec, options)
    batch = batch_of(tmp_path / "job", spec)
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    facts = {"cluster": "local", "id": "77", "legs": 1, "differs": []}
    facts |= dict.fromkeys(("preemptions", "timeouts", "terminations", "kills"), 0)
    assert done["job"].items() >= facts.items()
    (leg,) = legs(batch.out, spec)
    assert (leg.batch, leg.job, leg.ended) == (batch.token, "77", "done")
    assert [point[1:] for point in leg.epochs] == [(1, 3), (2, 3), (2, 3), (3, 3)]  # base, own, prune, fine-tuning


def test_a_job_that_is_started_again_finds_nothing_to_do(make_run, tmp_path):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec)
    Job(batch.file, 0)()
    path = record.path_of(tmp_path, spec)
    before = path.stat().st_mtime_ns
    Job(batch.file, 0)()
    assert path.stat().st_mtime_ns == before
    assert len(legs(tmp_path, spec)) == 1


def test_only_the_runs_of_its_own_element_are_a_jobs(make_run, tmp_path):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two)
    batch = replace(batch, elements=((one.id,), (two.id,)))
    batch.write()
    Job(batch.file, 1)()
    assert not has_record(tmp_path, one)
    assert has_record(tmp_path, two)


def test_a_base_is_trained_once_for_all_runs(make_run, tmp_path):
    specs = [make_run(method)[0] for method in ("l1_norm", "random")]
    base = Task(specs[0], base=True)
    batch = batch_of(tmp_path, base, *specs)
    Job(batch.file, 0)()
    (leg,) = legs(tmp_path, base.key)
    (weights,) = (tmp_path / "bases").glob("*.safetensors")
    assert (leg.ended, leg.facts) == ("done", {"base": weights.stem})
    for spec in specs:
        assert found(tmp_path, spec)["training"]["base"]["id"] == weights.stem
        assert legs(tmp_path, spec)[0].epochs[-1][1:] == (1, 1)  # the fine-tuning only
    Job(batch.file, 0)()
    assert len(legs(tmp_path, base.key)) == 1


def test_signals_are_as_before_when_a_job_is_over(make_run, tmp_path):
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    Job(batch_of(tmp_path, make_run()[0]).file, 0)()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_job_is_alive_while_it_works_and_not_after(make_run, tmp_path, monkeypatch):
    batch = replace(batch_of(tmp_path, make_run()[0]), jobs=("77",))
    seen = []
    save = Training._save
    monkeypatch.setattr(Training, "_save", lambda *given: (seen.append(Local().live([batch])), save(*given))[1])
    Job(batch.file, 0)()
    assert seen
    assert all(state == {"77": (RUNNING, "")} for state in seen)
    assert Local().live([batch]) == {}


# --- failures ------------------------------------------------------------------------------------------------


def test_a_method_that_fails_leaves_its_record_and_the_other_runs_are_carried_out(make_run, tmp_path, capsys):
    specs = [make_run("nan_scores")[0], make_run("l1_norm")[0], make_run("raises")[0], make_run("random")[0]]
    batch = batch_of(tmp_path, *specs)
    Job(batch.file, 0)()
    assert [found(tmp_path, spec)["status"] for spec in specs] == ["failed", "ok", "failed", "ok"]
    assert [legs(tmp_path, spec)[-1].ended for spec in specs] == ["failed", "done", "failed", "done"]
    assert found(tmp_path, specs[0])["job"]["id"] == "77"
    assert found(tmp_path, specs[0])["error"]["traceback"]
    err = capsys.readouterr().err
    assert f"bench: error: {specs[0].id}: " in err
    assert "not finite" in err
    Job(batch.file, 0)()  # a failed run is not tried again by itself
    assert len(legs(tmp_path, specs[0])) == 1


def test_a_run_whose_data_are_not_there_leaves_a_failed_record(make_run, tmp_path):
    missing, fine = make_run(arch="resnet20", dataset="mnist")[0], make_run()[0]
    Job(batch_of(tmp_path, missing, fine).file, 0)()
    failed = found(tmp_path, missing)
    assert (failed["status"], failed["error"]["type"]) == ("failed", "SetupError")
    assert "--download" in failed["error"]["message"]
    assert failed["job"]["id"] == "77"
    assert legs(tmp_path, missing)[0].ended == "failed"
    assert found(tmp_path, fine)["status"] == "ok"


def test_a_run_of_damaged_images_leaves_a_failed_record(make_run, tmp_path):
    """Though what is behind it is an OSError, as that of a full disk is."""
    place = image_folders.write_folder(tmp_path / "data" / "pets", train=20)
    (place / "train" / "cat" / "003.png").write_bytes(b"no image")
    name, folder = resolve(f"folder:{place}", place)
    spec = make_run(arch="resnet20", dataset=name)[0]
    batch = batch_of(tmp_path, spec)
    batch = replace(batch, options=batch.options | {"data_dir": str(folder)})
    batch.write()
    Job(batch.file, 0)()
    assert "003.png" in found(tmp_path, spec)["error"]["message"]
    assert found(tmp_path, spec)["status"] == "failed"


def test_a_budget_that_cannot_be_met_leaves_a_failed_record(make_run, tmp_path):
    spec, _ = make_run(keep=0.0001)
    Job(batch_of(tmp_path, spec).file, 0)()
    assert "cannot be met" in found(tmp_path, spec)["error"]["message"]


def test_a_method_that_is_gone_leaves_a_failed_record(make_run, tmp_path):
    gone, fine = make_run("nan_scores")[0], make_run()[0]
    from bench.registry import METHODS

    METHODS._plugins.pop("nan_scores")
    batch = batch_of(tmp_path, Task(gone), fine, plugins=(str(PLUGINS / "small.py"),))
    Job(batch.file, 0)()
    assert "unknown method 'nan_scores'" in found(tmp_path, gone)["error"]["message"]
    assert found(tmp_path, fine)["status"] == "ok"


def test_a_base_that_fails_is_told_by_every_run_that_needs_it(make_run, tmp_path):
    specs = [make_run(m, "mlp_40_40", "tiny8", train__lr=1e9)[0] for m in ("l1_norm", "random")]
    fine, _ = make_run()
    base = Task(specs[0], base=True)
    Job(batch_of(tmp_path, base, *specs, fine).file, 0)()
    assert legs(tmp_path, base.key)[0].ended == "failed"
    assert [found(tmp_path, spec)["status"] for spec in specs] == ["diverged"] * 2
    assert found(tmp_path, fine)["status"] == "ok"


def test_a_damaged_record_costs_the_other_runs_nothing(make_run, tmp_path):
    damaged, fine = make_run("l1_norm")[0], make_run("random")[0]
    path = record.path_of(tmp_path, damaged)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    Job(batch_of(tmp_path, damaged, fine).file, 0)()
    assert found(tmp_path, fine)["status"] == "ok"


def test_a_full_disk_is_no_failure_and_the_run_goes_on_later(make_run, tmp_path, monkeypatch):
    spec, other = make_run("ddrop")[0], make_run("random")[0]
    whole = execute(*make_run("ddrop", out=tmp_path / "whole"))
    batch = batch_of(tmp_path / "out", spec, other)
    writes = iter([True])
    save = pipeline.save_tensors

    def full_once(*given):
        if next(writes, False):
            raise OSError(28, "No space left on device")
        return save(*given)

    monkeypatch.setattr(pipeline, "save_tensors", full_once)
    Job(batch.file, 0)()
    assert found(batch.out, spec)["status"] == "interrupted"
    assert legs(batch.out, spec)[0].ended == "disk full"
    assert found(batch.out, other)["status"] == "ok"
    Job(batch.file, 0)()
    assert record.timeless(found(batch.out, spec)) == record.timeless(whole)
    assert found(batch.out, spec)["clock"]["resumes"] == 1


def test_while_the_disk_is_full_no_run_is_begun(make_run, tmp_path, monkeypatch, capsys):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec)
    asked = []

    def no_room(folder, free_bytes):
        asked.append(folder)
        if len(asked) < 4:
            assert legs(tmp_path, spec) == []
            raise SetupError("no room: make room")

    monkeypatch.setattr(checkpoint, "require_writable", no_room)
    monkeypatch.setattr(jobs, "ROOM_PAUSE_S", 0.01)
    Job(batch.file, 0)()
    assert len(asked) == 4
    assert found(tmp_path, spec)["status"] == "ok"
    assert capsys.readouterr().err.count("waiting for room: no room") == 1


def test_a_disk_that_stays_full_is_waited_for_only_so_long(make_run, tmp_path, monkeypatch):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec)
    asked = []

    def no_room(folder, free_bytes):
        asked.append(folder)
        raise SetupError("no room: make room")

    monkeypatch.setattr(checkpoint, "require_writable", no_room)
    monkeypatch.setattr(jobs, "ROOM_PAUSE_S", 0.001)
    Job(batch.file, 0)()  # the run itself finds what it needs
    assert len(asked) == jobs.ROOM_TRIES
    assert found(tmp_path, spec)["status"] == "ok"


def test_a_journal_that_takes_nothing_costs_no_run(make_run, tmp_path, monkeypatch):
    spec, _ = make_run()

    def full(*given, **facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "add", full)
    Job(batch_of(tmp_path, spec).file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"


def test_what_a_kill_left_of_submitits_own_files_is_removed(make_run, tmp_path):
    """It would end every later leg with an error."""
    batch = batch_of(tmp_path, make_run()[0])
    left = JobPaths(batch.folder, "77", 0).result_pickle.with_suffix(".pkl.save_tmp")
    left.write_text("")
    Job(batch.file, 0)()
    assert not left.exists()


def test_a_debugged_job_raises_what_went_wrong(make_run, tmp_path, monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "DEBUG_1")
    spec, _ = make_run("nan_scores")
    with pytest.raises(RunFailed, match="not finite"):
        Job(batch_of(tmp_path, spec, cluster="debug").file, 0)()
    assert found(tmp_path, spec)["status"] == "failed"


# --- again ---------------------------------------------------------------------------------------------------


def test_a_failed_run_that_is_to_be_tried_again(make_run, tmp_path):
    spec, options = make_run("nan_scores")
    with pytest.raises(RunFailed):
        execute(spec, options)
    old = found(tmp_path, spec)["record_sha256"]
    batch = batch_of(tmp_path, Task(spec, replaces=old))
    Job(batch.file, 0)()
    new = found(tmp_path, spec)
    assert new["record_sha256"] != old
    assert new["job"]["id"] == "77"
    Job(batch.file, 0)()
    assert found(tmp_path, spec) == new
    assert len(list(tmp_path.rglob("superseded/*.json"))) == 1


def test_a_finished_run_that_is_to_be_carried_out_again(make_run, tmp_path, monkeypatch, requeued):
    """Also when it takes two legs."""
    spec, options = make_run("ddrop")
    old = execute(spec, options)
    batch = batch_of(tmp_path, Task(spec, replaces=old["record_sha256"]))
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 1)
        Job(batch.file, 0)()
    assert found(tmp_path, spec) == old
    Job(batch.file, 0)()
    new = found(tmp_path, spec)
    assert new["job"]["preemptions"] == 1
    assert record.timeless(new) == record.timeless(old)
    (aside,) = tmp_path.rglob("superseded/*.json")
    assert record.load(aside) == old


# --- signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [1, 2, 3, 4, 5, 6])
def test_a_run_preempted_after_any_checkpoint_goes_on_to_the_same_record(
    make_run, tmp_path, monkeypatch, requeued, save, capsys
):
    spec, options = make_run("ddrop", train__epochs=2, out=tmp_path / "whole")
    whole = execute(spec, options)
    batch = batch_of(tmp_path / "out", spec, minutes=600)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, save)
        Job(batch.file, 0)()
    assert requeued == ["77"]
    assert not has_record(batch.out, spec)
    (leg,) = legs(batch.out, spec)
    assert leg.ended == "preempted"
    assert len(leg.epochs) == save
    assert "preempted: queued again" in capsys.readouterr().err
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": 2, "preemptions": 1, "timeouts": 0, "kills": 0}.items()
    assert len(legs(batch.out, spec)[1].epochs) == 6 - save  # nothing that was saved is done again
    assert requeued == ["77"]


def test_a_run_may_be_preempted_at_every_checkpoint(make_run, tmp_path, monkeypatch, requeued):
    spec, options = make_run("ddrop", train__epochs=2, out=tmp_path / "whole")
    whole = execute(spec, options)
    batch = batch_of(tmp_path / "out", spec)
    stop_at(monkeypatch, signal.SIGUSR2, 1, 2, 3, 4, 5, 6)
    for _ in range(6):
        Job(batch.file, 0)()
        assert not has_record(batch.out, spec)
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": 7, "preemptions": 6}.items()
    assert len(requeued) == 6


def test_a_base_of_its_own_that_is_preempted_goes_on(make_run, tmp_path, monkeypatch, requeued):
    spec, _ = make_run(train__epochs=3)
    base = Task(spec, base=True)
    batch = batch_of(tmp_path, base)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 2)
        Job(batch.file, 0)()
    assert requeued == ["77"]
    assert not base.finished(tmp_path)
    Job(batch.file, 0)()
    assert base.finished(tmp_path)
    assert [len(leg.epochs) for leg in legs(tmp_path, base.key)] == [2, 1]


def test_the_warning_before_the_time_limit_is_told_from_a_preemption(make_run, tmp_path, monkeypatch, requeued):
    spec, _ = make_run("ddrop")
    batch = batch_of(tmp_path, spec, minutes=2, signal_delay_s=40)  # SLURM may send it a minute early
    stop_at(monkeypatch, signal.SIGUSR2, 1)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "time", SimpleNamespace(time=late_by(30), sleep=time.sleep))
        Job(batch.file, 0)()
    assert legs(tmp_path, spec)[0].ended == "timed out"
    Job(batch.file, 0)()
    assert found(tmp_path, spec)["job"].items() >= {"legs": 2, "timeouts": 1, "preemptions": 0}.items()


def late_by(seconds):
    """A clock that is right when a job begins, and so much ahead from then on."""
    calls = iter([time.time])
    return lambda: next(calls, lambda: time.time() + seconds)()


def test_a_job_of_this_machine_that_is_to_go_on_says_so_by_its_exit_code(make_run, tmp_path, monkeypatch):
    """As submitit wants it."""
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
    stop_at(monkeypatch, signal.SIGUSR2, 1)
    with pytest.raises(SystemExit) as stop:
        Job(batch_of(tmp_path, make_run()[0]).file, 0)()
    assert stop.value.code == LOCAL_REQUEUE_RETURN_CODE
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before


def test_a_terminated_run_leaves_an_interrupted_record_and_goes_on_with_the_next_job(make_run, tmp_path, monkeypatch):
    specs = [make_run("ddrop", train__epochs=2)[0], make_run("random", train__epochs=2)[0]]
    whole = execute(*make_run("ddrop", train__epochs=2, out=tmp_path / "whole"))
    batch = batch_of(tmp_path / "out", *specs)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 3)
        with pytest.raises(SystemExit) as stop:
            Job(batch.file, 0)()
    assert stop.value.code == 130
    stopped = found(batch.out, specs[0])
    assert (stopped["status"], stopped["job"]["id"]) == ("interrupted", "77")
    assert legs(batch.out, specs[0])[0].ended == "terminated"
    assert legs(batch.out, specs[1]) == []
    Job(batch.file, 0)()
    done = found(batch.out, specs[0])
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": 2, "terminations": 1, "preemptions": 0}.items()
    assert found(batch.out, specs[1])["status"] == "ok"


def test_a_killed_run_goes_on_and_the_record_says_so(make_run, tmp_path, monkeypatch, requeued):
    spec, _ = make_run("ddrop", train__epochs=2)
    whole = execute(*make_run("ddrop", train__epochs=2, out=tmp_path / "whole"))
    batch = batch_of(tmp_path / "out", spec)
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 3)
        Job(batch.file, 0)()
    file = journal_of(batch.out, spec.id).file
    lines = [line for line in file.read_text().splitlines() if '"end"' not in line]
    file.write_text("\n".join(lines) + '\n{"event": "ep')  # as a kill leaves it
    Job(batch.file, 0)()
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": 2, "kills": 1, "preemptions": 0}.items()


@pytest.fixture
def at_work(tmp_path):
    """Somebody else is at a run from now on, until the function is called that comes back."""
    threads = []

    def hold(spec, meanwhile=lambda: None):
        file = journal_of(tmp_path, spec.id).file
        file.parent.mkdir(parents=True)
        held, done = threading.Event(), threading.Event()

        def work():
            with FileLock(file.with_suffix(".lock")):
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


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_waits_for_anothers_run_hears_signals_too(make_run, tmp_path, requeued, at_work, signum):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec)
    before = signal.getsignal(signum)

    def send():
        until(lambda: signal.getsignal(signum) != before)
        time.sleep(0.2)
        os.kill(os.getpid(), signum)

    let_go = at_work(spec, send)
    try:
        if signum == signal.SIGUSR2:
            Job(batch.file, 0)()
            assert requeued == ["77"]
        else:
            with pytest.raises(SystemExit) as stop:
                Job(batch.file, 0)()
            assert stop.value.code == 130
    finally:
        let_go()
    assert not has_record(tmp_path, spec)
    assert legs(tmp_path, spec) == []


def test_what_another_does_is_waited_for_after_all_else_and_not_done_again(make_run, tmp_path, at_work, monkeypatch):
    others, mine = make_run("l1_norm")[0], make_run("random")[0]
    batch = batch_of(tmp_path, others, mine)
    seen = []

    def finish():
        until(lambda: has_record(tmp_path, mine))
        seen.append(has_record(tmp_path, others))
        path = record.path_of(tmp_path, others)
        path.parent.mkdir(parents=True)
        identity = {"id": others.id, "spec": others.as_dict(), "spec_sha256": others.sha256}
        path.write_text(record.to_text(record.seal(found(tmp_path, mine) | identity)))

    at_work(others, finish)()
    Job(batch.file, 0)()
    assert seen == [False]
    assert found(tmp_path, others)["id"] == others.id
    assert legs(tmp_path, others) == []
    assert legs(tmp_path, mine)[0].ended == "done"


# --- on SLURM, with small programs in the place of its commands -----------------------------------------------


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """This process is a job of SLURM; puts a shell script in the place of one of its commands."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(jobs, "REQUEUE_PAUSE_S", 0.01)

    def put(name, text):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/{name}.calls\n{text}\n')
        file.chmod(0o755)

    def calls(name):
        file = tmp_path / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []

    put.calls = calls
    return put


def test_a_job_queues_itself_again_and_ends(make_run, tmp_path, monkeypatch, slurm):
    slurm("scontrol", "exit 0")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    stop_at(monkeypatch, signal.SIGUSR2, 1)
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert stop.value.code == 0
    assert slurm.calls("scontrol") == ["requeue 12"]


def test_it_tries_until_slurm_answers_and_not_for_ever(make_run, tmp_path, monkeypatch, slurm, capsys):
    slurm("scontrol", f"test $(wc -l < {tmp_path}/scontrol.calls) -ge 3")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    stop_at(monkeypatch, signal.SIGUSR2, 1, 2)
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert (stop.value.code, len(slurm.calls("scontrol"))) == (0, 3)
    assert capsys.readouterr().err.count("cannot queue again") == 2
    slurm("scontrol", "exit 1")
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert stop.value.code == 1
    assert not has_record(batch.out, make_run()[0])


def test_of_several_processes_of_a_job_the_first_queues_it_again(make_run, tmp_path, monkeypatch, slurm):
    slurm("scontrol", "exit 0")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 1)
        Job(batch.file, 0)()
    assert slurm.calls("scontrol") == []
    Job(batch.file, 0)()
    assert found(batch.out, make_run()[0])["job"].items() >= {"id": "12", "at_once": 2, "preemptions": 1}.items()


@pytest.mark.parametrize(("state", "again"), [("RUNNING", True), ("COMPLETING", False), ("", False)])
def test_a_terminated_job_queues_again_only_in_the_grace_before_preemption(
    make_run, tmp_path, monkeypatch, slurm, state, again
):
    slurm("squeue", f"echo {state}")
    slurm("scontrol", "exit 0")
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec, cluster="slurm")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 1)
        with pytest.raises(SystemExit) as stop:
            Job(batch.file, 0)()
    assert stop.value.code == (0 if again else 130)
    assert slurm.calls("scontrol") == ["requeue 12"] * again
    assert found(batch.out, spec)["status"] == "interrupted"
    Job(batch.file, 0)()
    assert found(batch.out, spec)["status"] == "ok"


def test_data_are_where_a_variable_of_the_node_says(make_run, tmp_path, monkeypatch):
    place = image_folders.write_folder(tmp_path / "scratch" / "pets", train=20, size=(32, 32))
    name, folder = resolve(f"folder:{place}", place)
    spec, _ = make_run(dataset=name)
    batch = batch_of(tmp_path / "out", spec)
    batch = replace(batch, options=batch.options | {"data_dir": "$NODE_SCRATCH"})
    batch.write()
    monkeypatch.setenv("NODE_SCRATCH", str(folder))
    Job(batch.file, 0)()
    assert found(batch.out, spec)["status"] == "ok"


# --- the clock -----------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time as jobs see it; it stands still but in epochs, each of which takes ``minutes``."""
    now = SimpleNamespace(s=1_000_000.0, minutes=20)
    epoch = Training._epoch

    def take_time(self, *given):
        now.s += 60 * now.minutes
        return epoch(self, *given)

    monkeypatch.setattr(Training, "_epoch", take_time)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(time=lambda: now.s, sleep=time.sleep))
    return now


def test_a_run_stops_at_a_checkpoint_when_the_time_left_is_too_short_for_an_epoch(make_run, tmp_path, clock, requeued):
    spec, options = make_run(train__epochs=7, out=tmp_path / "whole")
    whole = execute(spec, options)
    batch = batch_of(tmp_path / "out", spec, minutes=60)
    for leg in range(1, 9):
        began = clock.s
        Job(batch.file, 0)()
        assert clock.s - began <= 60 * 60 - 90  # SLURM had no reason to warn
        if has_record(batch.out, spec):
            break
        assert len(requeued) == leg
        assert legs(batch.out, spec)[-1].ended == "timed out"
        assert clock.s - began >= 2 * 60 * clock.minutes  # what fits is done
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": leg, "timeouts": leg - 1}.items()
    assert leg in (4, 5)  # 7 epochs of the base and one of the run, two or three in a leg


def test_no_run_is_begun_when_the_time_is_over(make_run, tmp_path, clock, requeued):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two, minutes=60)
    clock.minutes = 29  # one epoch of base, one of the run: 58 of 58.5 minutes
    Job(batch.file, 0)()
    if has_record(tmp_path, one):
        assert not has_record(tmp_path, two)
    clock.s += 3600
    while not has_record(tmp_path, two):
        Job(batch.file, 0)()
    assert requeued
    assert {found(tmp_path, spec)["status"] for spec in (one, two)} == {"ok"}


def test_a_job_whose_time_is_over_between_two_runs_queues_again(make_run, tmp_path, clock, requeued, monkeypatch):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two, minutes=60)
    clock.minutes = 1
    measure = pipeline.Run._measure

    def take_long(self, *given):
        measure(self, *given)
        clock.s += 3600

    monkeypatch.setattr(pipeline.Run, "_measure", take_long)
    Job(batch.file, 0)()
    assert requeued == ["77"]
    assert found(tmp_path, one)["status"] == "ok"
    assert legs(tmp_path, two) == []  # not begun
    Job(batch.file, 0)()
    assert found(tmp_path, two)["job"]["legs"] == 1


def test_without_a_limit_no_job_looks_at_the_clock(make_run, tmp_path, clock, requeued):
    spec, _ = make_run(train__epochs=3)
    clock.minutes = 10**6
    Job(batch_of(tmp_path, spec).file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"
    assert requeued == []


def fruitless_leg(out, spec, batch, epochs=0, how="timed out"):
    notes = journal_of(out, spec.id)
    notes.add("start", batch=batch.token, job="77")
    for epoch in range(epochs):
        notes.add("epoch", done=epoch + 1, of=9)
    notes.add("end", how=how)


def test_a_run_that_never_gets_an_epoch_done_fails_and_says_what_to_do(make_run, tmp_path):
    spec, other = make_run()[0], make_run("random")[0]
    batch = batch_of(tmp_path, spec, other, minutes=30)
    for _ in range(FRUITLESS_LEGS):
        fruitless_leg(tmp_path, spec, batch)
    Job(batch.file, 0)()
    failed = found(tmp_path, spec)
    assert failed["status"] == "failed"
    assert f"{FRUITLESS_LEGS} jobs of 30 minutes in a row" in failed["error"]["message"]
    assert "profile" in failed["error"]["message"]
    assert failed["job"]["timeouts"] == FRUITLESS_LEGS
    assert found(tmp_path, other)["status"] == "ok"


@pytest.mark.parametrize(
    "last",
    [
        [],
        [{"epochs": 1}],
        [{"how": "preempted"}],
        [{"how": "terminated"}, {}],
    ],
)
def test_a_run_that_gets_somewhere_is_given_time(make_run, tmp_path, last):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec, minutes=30)
    for _ in range(FRUITLESS_LEGS - 1):
        fruitless_leg(tmp_path, spec, batch)
    for more in last:
        fruitless_leg(tmp_path, spec, batch, **more)
    Job(batch.file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"


def test_fruitless_legs_of_another_batch_do_not_count(make_run, tmp_path):
    """It may have had a shorter limit."""
    spec, _ = make_run()
    older = batch_of(tmp_path, spec, minutes=1)
    for _ in range(FRUITLESS_LEGS):
        fruitless_leg(tmp_path, spec, older)
    Job(batch_of(tmp_path, spec, minutes=30).file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"


# --- what changed since ---------------------------------------------------------------------------------------


def test_what_is_not_as_it_was_at_submission_is_told_and_recorded(make_run, tmp_path, capsys):
    spec, _ = make_run()
    batch = batch_of(
        tmp_path,
        Task(spec, method_sha256="0" * 64),
        code=environment.code() | {"commit": "abc"},
        packages=environment.packages() | {"numpy": "0.1"},
    )
    Job(batch.file, 0)()
    told = found(tmp_path, spec)["job"]["differs"]
    assert [text.partition(":")[0] for text in told] == ["commit", "method", "numpy"]
    assert any("was 0.1, is " in text for text in told)
    err = capsys.readouterr().err
    assert all(text in err for text in told)


def test_differences():
    assert differences({"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": 4}) == ["b: was 2, is 3", "d: was None, is 4"]
    assert differences({}, {}) == []


# --- several processes ---------------------------------------------------------------------------------------

PATIENT = '''
import os
import time
from pathlib import Path

from bench.api import Method, method
from bench.measure import latency

latency.WARMUP_S, latency.ROUNDS = 0.0, (3, 3)


@method("patient")
class Patient(Method):
    """Waits in its second epoch until there is a file."""

    def on_epoch_end(self, ctx):
        while ctx.epoch == 1 and not Path(os.environ["GATE"]).exists():
            time.sleep(0.01)
'''
START = "import sys; from pathlib import Path; from slurm.job import Job; Job(Path(sys.argv[1]), int(sys.argv[2]))()"


@pytest.fixture
def workers(make_run, tmp_path, monkeypatch):
    """Starts jobs as processes, whose runs wait in their second epoch for the gate to be opened."""
    from bench.registry import add_plugin

    plugin = tmp_path / "patient.py"
    plugin.write_text(PATIENT)
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    add_plugin(str(plugin))
    started = {}

    def start(batch, *ids):
        for element, job in enumerate(ids):
            env = os.environ | {"SUBMITIT_LOCAL_JOB_ID": job, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-c", START, str(batch.file), str(element)]
            log = (tmp_path / f"{job}.log").open("w")
            started[job] = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
            log.close()
        return started

    def batch(out, *specs, elements):
        return batch_of(out, *specs, elements=elements, plugins=(str(PLUGINS / "small.py"), str(plugin)))

    start.batch, start.open = batch, (tmp_path / "gate").touch
    yield start
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_jobs_with_the_same_runs_carry_out_each_once(make_run, tmp_path, workers):
    specs = [make_run("patient", train__epochs=2, seed=seed)[0] for seed in range(3)]
    batch = workers.batch(tmp_path / "out", *specs, elements=2)
    started = workers(batch, "501", "502")
    until(lambda: sum(len(legs(batch.out, spec)) for spec in specs) == 2)  # both are at work
    workers.open()
    assert [process.wait(60) for process in started.values()] == [0, 0]
    assert [len(legs(batch.out, spec)) for spec in specs] == [1, 1, 1]
    assert {legs(batch.out, spec)[0].job for spec in specs} == {"501", "502"}
    for spec in specs:
        assert found(batch.out, spec)["status"] == "ok"
        assert found(batch.out, spec)["job"]["legs"] == 1
    assert legs(batch.out, base_key(specs[0])) == []


@pytest.mark.slow
def test_what_a_killed_job_was_at_is_taken_over_by_the_one_that_waits(make_run, tmp_path, workers):
    spec, options = make_run("patient", train__epochs=3)
    batch = workers.batch(tmp_path / "out", spec, elements=2)
    started = workers(batch, "501", "502")
    until(lambda: all((batch.folder / f"{job}.lock").exists() for job in started))  # both are there
    until(lambda: legs(batch.out, spec) and len(legs(batch.out, spec)[0].epochs) == 4)  # base, first epoch
    holder = legs(batch.out, spec)[0].job
    started[holder].kill()
    assert started[holder].wait() == -signal.SIGKILL
    workers.open()
    (other,) = set(started) - {holder}
    assert started[other].wait(60) == 0
    done = found(batch.out, spec)
    assert done["job"].items() >= {"id": other, "legs": 2, "kills": 1}.items()
    assert done["clock"]["resumes"] == 1
    whole = execute(spec, replace(options, out=tmp_path / "whole"))
    assert record.timeless(done) == record.timeless(whole)
