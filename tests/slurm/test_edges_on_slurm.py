"""Clusters as they are, on a real SLURM: slow set-up, limits, containers, whole nodes, held jobs."""

import json
import os
import subprocess
import sys

import pytest

from slurm.batch import batches
from tests.slurm.running import (
    KNOWN,
    PLUGINS,
    TINY,
    attempts,
    bench,
    epochs,
    only_record,
    profile,
    records,
    sleepy,
    status,
    wait_for,
)

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
LATE = "export BENCH_JOB_BEGAN=$((BENCH_JOB_BEGAN - {seconds}))"
"""A line of set-up that takes so long, as the job's clock has it."""
SWEEP = """
[defaults]
arch = "mlp_40_40"
epochs = 2
finetune_epochs = 1
seeds = "0-2"
[[runs]]
method = ["l1_norm", "random"]
"""


def test_slow_set_up_is_on_the_clock_and_ends_a_hopeless_run(slurm_env, tmp_path):
    """Two minutes, of which 40 seconds warning and 70 of set-up; an epoch takes 40."""
    out = tmp_path / "out"
    file = profile(tmp_path, f"time = 2\nsetup = ['{LATE.format(seconds=70)}']")
    bench(*sleepy(out, 40, 3, "--cluster", "slurm", "--profile", file, "--set", "train.lr=0.01"))
    failed = wait_for(lambda: only_record(out), "the record", seconds=280)
    assert failed.status == "failed"
    assert "3 attempts in a row ended before an epoch was done (3 timed out)" in failed.error.message
    assert failed.job.timeouts >= 3  # one of them may have trained the base
    assert failed.job.preemptions == 0


def test_job_in_container_is_requeued_and_resumes(slurm_env, tmp_path):
    """A Python whose PATH has neither SLURM's programs nor git."""
    out = tmp_path / "out"
    file = profile(tmp_path, f'time = 30\npython = "env PATH=/nowhere {sys.executable}"')
    bench(*sleepy(out, 1.0, 8, "--cluster", "slurm", "--profile", file))
    wait_for(lambda: epochs(out) > 9, "some checkpoints")
    (run,) = status(out)["runs"]
    slurm_env.run("scancel", "--signal=USR2", run.job)
    done = wait_for(lambda: only_record(out), "the record")
    assert (done.status, done.job.attempts, done.job.preemptions) == ("ok", 2, 1)
    assert done.job.differs == []  # without git nothing is known of the code
    (batch,) = batches(out)
    log = batch.log(run.job).read_text()
    assert log.count(f"bench: job {run.job} queued again") == 1
    assert "cannot queue" not in log


def test_limit_below_the_size_of_an_array(own_cluster, monkeypatch, tmp_path):
    """12 runs, 5 jobs at a time of each user, arrays of up to 6."""
    cluster = own_cluster(nodes=2, extra="AccountingStorageEnforce=limits\nMaxArraySize=6")
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    for words in (
        ["add", "account", "some"],
        ["add", "user", user, "account=some"],
        ["modify", "user", user, "set", "MaxSubmitJobs=5"],
    ):
        done = cluster.run("sacctmgr", "-i", *words)
        assert done.returncode == 0 or "Nothing" in done.stdout + done.stderr, done
    out, file = tmp_path / "out", profile(tmp_path, "time = 10")
    words = ["run", "--method", "l1_norm", *TINY, *KNOWN[:2], "--epochs", 1, "--finetune-epochs", 1, "--out", out]
    words += ["--seeds", "0-11", "--cluster", "slurm", "--profile", file]

    def refusal():
        lines = [line for line in bench(*words, check=None).stderr.splitlines() if line.startswith("bench: error:")]
        return lines[0] if len(lines) == 1 and "sbatch" in lines[0] else None

    told = wait_for(refusal, "that the limit is known")
    assert "5 of 12 runs are submitted: the same command submits more of them when some of your jobs have ended" in told
    assert sum(batch.count for batch in batches(out)) == 5
    for _ in range(2):
        wait_for(lambda: not status(out)["counts"]["waiting"] + status(out)["counts"]["running"], "the end of the jobs")
        bench(*words, check=None)
    wait_for(lambda: len(records(out)) == 12, "all records")


def test_processes_of_a_job_share_its_runs_and_gpus(slurm_env, tmp_path, monkeypatch):
    monkeypatch.setenv("PRETENDED", str(tmp_path))
    out = tmp_path / "out"
    file = profile(tmp_path, "time = 30\ngpus = 4\nruns_per_job = 4\nruns_at_once = 4\ndevice = 'cpu'")
    words = ["run", "--method", "gpu_user", "-p", "seconds=1", *TINY, *KNOWN[:2], "--plugin", PLUGINS / "gpu_users.py"]
    words += ["--epochs", 3, "--finetune-epochs", 1, "--seeds", "0-3", "--out", out]
    bench(*words, "--cluster", "slurm", "--profile", file, "--wait")
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert sorted({one["gpu"] for one in seen}) == ["0", "1", "2", "3"]
    assert len({one["process"] for one in seen}) == 4
    done = records(out).values()
    assert len(done) == 4
    assert len({one.job.id for one in done}) == 1
    assert {one.job.at_once for one in done} == {4}
    assert {attempt.facts["worker"] for attempt in attempts(out)} == {0, 1, 2, 3}
    (log,) = out.glob("jobs/*/*_log.out")  # one for all processes
    assert log.read_text().count("measuring") == 4


def test_jobs_take_the_next_run_of_one_queue(slurm_env, tmp_path):
    out, file = tmp_path / "out", profile(tmp_path, "time = 30\njobs = 2")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    words = ("sweep", tmp_path / "sweep.toml", "--threads", 1, "--out", out)
    assert "6 runs and 3 bases as job" in bench(*words, "--cluster", "slurm", "--profile", file, "--wait").stdout
    assert len(records(out)) == 6
    assert len({one.job.id for one in records(out).values()}) == 2
    assert [attempt.ended for attempt in attempts(out)] == ["done"] * 6


def test_held_base_holds_up_its_own_runs_only(slurm_env, tmp_path):
    out, file = tmp_path / "out", profile(tmp_path, "time = 30")
    (tmp_path / "sweep.toml").write_text(SWEEP)
    slurm_env.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        words = ("sweep", tmp_path / "sweep.toml", "--threads", 1, "--out", out)
        bench(*words, "--cluster", "slurm", "--profile", file)
        bases = next(batch for batch in batches(out) if any(task["base"] for task in batch.tasks.values()))
        slurm_env.run("scontrol", "hold", bases.jobs[1])
    finally:
        slurm_env.run("scontrol", "update", "partitionname=main", "state=up")
    wait_for(lambda: status(out)["counts"]["done"] == 4, "the runs of the other two bases")
    told = bench("status", "--out", out).stdout
    (line,) = [line for line in told.splitlines() if line.startswith("base ")]
    release = f"scontrol release {bases.jobs[1]}"
    held, action = "JobHeldUser", release
    if os.geteuid() == 0:  # root holds as the administrator
        held, action = "JobHeldAdmin", f"ask for its release ({release})"
    base = bases.elements[1][0]
    assert line == f"base {base}: waiting, {held}, job {bases.jobs[1]}; 2 runs need it; to continue: {action}"
    assert status(out)["counts"]["waiting"] == 2
    slurm_env.run("scontrol", "release", bases.jobs[1])
    wait_for(lambda: status(out)["counts"]["done"] == 6, "all runs")
    assert "base " not in bench("status", "--out", out).stdout
