"""Jobs in processes of their own, with the same runs."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from support.job_tools import PLUGINS, attempts, batch_of, found
from support.paths import ROOT
from support.waiting import until

from bench.records import store
from bench.runs.execute import execute
from slurm.batch import base_key
from slurm.place import job_lock


@pytest.fixture
def workers(make_run, tmp_path, monkeypatch):
    """Starts jobs as processes, whose runs wait in their second epoch for the gate to be opened."""
    from bench.spec.registry import add_plugin

    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    add_plugin(str(PLUGINS / "patient.py"))
    started = {}

    def start(batch, *ids):
        for element, job in enumerate(ids):
            env = os.environ | {"SUBMITIT_LOCAL_JOB_ID": job, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "slurm.job", str(batch.folder), str(element)]
            log = (tmp_path / f"{job}.log").open("w")
            started[job] = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
            log.close()
        return started

    def batch(out, *specs, jobs):
        plugins = tuple(str(PLUGINS / f"{name}.py") for name in ("small", "patient"))
        return batch_of(out, *specs, jobs=jobs, plugins=plugins)

    start.batch, start.open = batch, (tmp_path / "gate").touch
    yield start
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.slow
def test_two_jobs_with_the_same_runs_carry_out_each_once(make_run, tmp_path, workers):
    specs = [make_run("patient", train__epochs=2, seed=seed)[0] for seed in range(3)]
    batch = workers.batch(tmp_path / "out", *specs, jobs=2)
    started = workers(batch, "501", "502")
    until(lambda: sum(len(attempts(batch.out, spec)) for spec in specs) == 2)  # both are at work
    workers.open()
    assert [process.wait(60) for process in started.values()] == [0, 0]
    assert [len(attempts(batch.out, spec)) for spec in specs] == [1, 1, 1]
    assert {attempts(batch.out, spec)[0].job for spec in specs} == {"501", "502"}
    for spec in specs:
        assert found(batch.out, spec).status == "ok"
        assert found(batch.out, spec).job.attempts == 1
    assert attempts(batch.out, base_key(specs[0])) == []


@pytest.mark.slow
def test_run_of_a_killed_job_is_taken_over_by_a_waiting_one(make_run, tmp_path, workers):
    spec, options = make_run("patient", train__epochs=3)
    batch = workers.batch(tmp_path / "out", spec, jobs=2)
    started = workers(batch, "501", "502")
    until(lambda: all(job_lock(batch, job).busy() for job in started))  # both are there
    until(lambda: attempts(batch.out, spec) and attempts(batch.out, spec)[0].saves == 4)  # base, first epoch
    holder = attempts(batch.out, spec)[0].job
    started[holder].kill()
    assert started[holder].wait() == -signal.SIGKILL
    workers.open()
    (other,) = set(started) - {holder}
    assert started[other].wait(60) == 0
    done = found(batch.out, spec)
    assert msgspec.to_builtins(done.job).items() >= {"id": other, "attempts": 2, "kills": 1}.items()
    assert done.clock.resumes == 1
    whole = execute(spec, replace(options, out=tmp_path / "whole"))
    assert store.without_timing(done) == store.without_timing(whole)
