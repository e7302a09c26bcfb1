"""Several processes of one job of SLURM, on pretended GPUs; SLURM itself is not needed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support.job_tools import PLUGINS, attempts, batch_of, found
from support.paths import ROOT
from support.waiting import until

from bench.records import store
from bench.runs.execute import execute
from slurm.batch import Task
from slurm.place import AGAIN

pytestmark = pytest.mark.slow
DEADLINE_S = 250


@pytest.fixture
def make_users(make_run):
    """Runs that tell which GPU they have."""
    from bench.spec.registry import add_plugin

    add_plugin(str(PLUGINS / "gpu_users.py"))

    def make(count, **options):
        specs = [make_run("gpu_user", train__epochs=3, seed=seed)[0] for seed in range(count)]
        return [replace(spec, config=options) for spec in specs]

    return make


@pytest.fixture
def start(tmp_path):
    """Starts the job of a batch as SLURM would."""
    started = []

    def run(batch, gpus="0,1,2,3", **more):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "12", "PRETENDED": str(tmp_path), **more}
        env["CUDA_VISIBLE_DEVICES"] = gpus
        log = (tmp_path / "log").open("a")
        command = [sys.executable, "-m", "slurm.job", str(batch.folder)]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
        log.close()
        started.append(process)
        return process

    run.log = tmp_path / "log"
    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def users(out, *specs, **changes):
    plugins = tuple(str(PLUGINS / f"{name}.py") for name in ("small", "gpu_users"))
    return batch_of(out, *specs, cluster="slurm", plugins=plugins, **changes)


def noted(folder, name):
    file = folder / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def seen(folder):
    return noted(folder, "seen")


def is_alive(process):
    return Path(f"/proc/{process}").exists()


def test_each_process_has_a_gpu_and_takes_the_next_run(make_users, tmp_path, start):
    specs = make_users(6, together=4)
    batch = users(tmp_path / "out", *specs, processes=4)
    assert start(batch, gpus="0,2,4,6").wait(DEADLINE_S) == 0
    gpu_of = {one["process"]: one["gpu"] for one in seen(tmp_path)}
    assert sorted(gpu_of.values()) == ["0", "2", "4", "6"]
    assert all(gpu_of[one["process"]] == one["gpu"] for one in seen(tmp_path))
    assert [len(attempts(batch.out, spec)) for spec in specs] == [1] * 6
    assert {found(batch.out, spec).job.at_once for spec in specs} == {4}
    assert {found(batch.out, spec).status for spec in specs} == {"ok"}


def test_neighbours_share_a_gpu_and_no_process_is_without_a_task(make_users, tmp_path, start):
    specs = make_users(3, together=3)
    batch = users(tmp_path / "out", *specs, processes=4)
    assert start(batch, gpus="5,7").wait(DEADLINE_S) == 0
    gpus = sorted({(one["process"], one["gpu"]) for one in seen(tmp_path)}, key=lambda pair: pair[1])
    assert [gpu for _, gpu in gpus] == ["5", "5", "7"]
    assert {found(batch.out, spec).job.at_once for spec in specs} == {3}


def test_bases_come_first_and_runs_wait_for_their_own(make_users, make_run, tmp_path, start, monkeypatch):
    """And records are those that this process makes."""
    monkeypatch.setenv("PRETENDED", str(tmp_path / "inline"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    specs = make_users(2, seconds=0.2)
    more = [make_run("l1_norm", train__epochs=3, seed=seed)[0] for seed in (0, 1)]
    _, options = make_run(out=tmp_path / "inline")
    (tmp_path / "inline").mkdir()
    expected = [store.without_timing(execute(spec, options)) for spec in (*specs, *more)]
    bases = [Task(spec, base=True) for spec in specs]
    batch = users(tmp_path / "out", *bases, *specs, *more, processes=2)
    assert start(batch).wait(DEADLINE_S) == 0
    assert [store.without_timing(found(batch.out, spec)) for spec in (*specs, *more)] == expected
    for base, (one, two) in zip(bases, zip(specs, more, strict=True), strict=True):
        (trained,) = attempts(batch.out, base.key)
        assert trained.ended == "done"
        for spec in (one, two):
            (attempt,) = attempts(batch.out, spec)
            assert attempt.began > trained.last[0]
            assert found(batch.out, spec).training.base.id == trained.facts["base"]


def test_all_processes_stop_at_warning_and_job_continues(make_users, make_run, tmp_path, start):
    specs = make_users(2, epochs=100, together=2)
    batch = users(tmp_path / "out", *specs, processes=2)
    process = start(batch)
    until(lambda: sum(attempt.saves > 1 for spec in specs for attempt in attempts(batch.out, spec)) == 2)
    os.kill(process.pid, signal.SIGUSR2)  # SLURM signals the first process only, where it tracks them by cgroups
    assert process.wait(DEADLINE_S) == AGAIN
    assert [attempts(batch.out, spec)[0].ended for spec in specs] == ["preempted"] * 2
    assert start(batch).wait(DEADLINE_S) == 0
    for spec in specs:
        assert msgspec.to_builtins(found(batch.out, spec).job).items() >= {"attempts": 2, "preemptions": 1}.items()


def test_job_continues_for_one_process_if_another_was_killed(make_users, tmp_path, start):
    specs = make_users(2, epochs=400, seconds=0.5)
    batch = users(tmp_path / "out", *specs, processes=2)
    process = start(batch)
    until(lambda: len(seen(tmp_path)) == 2, seconds=DEADLINE_S)
    one, two = (told["process"] for told in seen(tmp_path))
    os.kill(one, signal.SIGSTOP)  # so that it takes over nothing
    os.kill(two, signal.SIGUSR2)
    os.kill(one, signal.SIGKILL)
    assert process.wait(DEADLINE_S) == AGAIN
    assert sorted(str(attempts(batch.out, spec)[0].ended) for spec in specs) == ["None", "preempted"]


def test_run_of_a_killed_process_is_taken_over_by_another(make_users, tmp_path, start):
    specs = make_users(2, epochs=40, together=2)
    batch = users(tmp_path / "out", *specs, processes=2)
    process = start(batch)
    until(lambda: len(seen(tmp_path)) == 2, seconds=DEADLINE_S)
    os.kill(seen(tmp_path)[0]["process"], signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 128 + signal.SIGKILL
    assert {found(batch.out, spec).status for spec in specs} == {"ok"}
    kills = [found(batch.out, spec).job.kills for spec in specs]
    assert sorted(kills) == [0, 1]


def measured(make_users, tmp_path, start, gpu):
    """A job of four processes at most on two GPUs, whose epochs take as long as they are pretended to."""
    batch = users(tmp_path / "out", *make_users(40, epochs=100), processes=4, measured=True)
    return start(batch, gpus="0,1", PRETENDED_GPU=gpu)


def test_measured_job_adds_processes_while_each_gpu_gains(make_users, tmp_path, start):
    process = measured(make_users, tmp_path, start, "idle")
    until(lambda: start.log.read_text().count("2 at a time: no more are allowed") == 2, seconds=DEADLINE_S)
    gpu_of = {told["worker"]: told["gpu"] for told in noted(tmp_path, "begun")}
    assert (gpu_of[0], gpu_of[1]) == ("0", "1")  # one each at first
    assert sorted(gpu_of.items())[2:] in ([(2, "0"), (3, "1")], [(2, "1"), (3, "0")])
    os.killpg(process.pid, signal.SIGUSR2)
    assert process.wait(DEADLINE_S) == AGAIN


def test_measured_job_dismisses_a_process_that_is_no_gain(make_users, tmp_path, start):
    process = measured(make_users, tmp_path, start, "busy")
    until(lambda: start.log.read_text().count("1 at a time: 2 get 1.00 times as much done") == 2, seconds=DEADLINE_S)
    begun = noted(tmp_path, "begun")
    assert sorted(told["gpu"] for told in begun) == ["0", "0", "1", "1"]
    until(lambda: sum(is_alive(told["process"]) for told in begun) == 2, seconds=DEADLINE_S)  # at the end of its run
    assert {told["gpu"] for told in begun if is_alive(told["process"])} == {"0", "1"}
    assert noted(tmp_path, "begun") == begun
    os.killpg(process.pid, signal.SIGUSR2)
    assert process.wait(DEADLINE_S) == AGAIN
