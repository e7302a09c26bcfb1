"""Runs that are cut short on a real SLURM, in every way there is: they go on, and the result is the same."""

import contextlib
import os
import signal

import msgspec
import pytest

from bench.records import store
from tests.slurm.running import KNOWN, attempts, bench, epochs, only_record, profile, sleepy, status, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
EPOCHS = 10
NEEDED = EPOCHS + EPOCHS + 2
"""Checkpoints of an undisturbed run: of its base, its own epochs, the prune, fine-tuning."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The record of the same run in this process, without its times."""
    out = tmp_path_factory.mktemp("undisturbed")
    bench(*sleepy(out, 0.0, EPOCHS))
    return _comparable(only_record(out))


def _comparable(one):
    """A record without its times, without how long the method slept, and without what somebody is editing."""
    spec = {key: value for key, value in one.spec.as_dict().items() if key != "config"}
    files = {"network": one.artifacts.network.sha256, "masks": one.artifacts.masks.sha256}
    hidden = ("spec", "spec_sha256", "id", "artifacts", "code")
    found = {key: value for key, value in store.without_timing(one).items() if key not in hidden}
    return found | {"spec": spec, "artifacts": files}


@pytest.fixture
def start(tmp_path):
    """Submits a run that sleeps, and waits until it has written some checkpoints."""

    def begin(text="time = 30", seconds=1.0, at=EPOCHS + 2):
        out = tmp_path / "out"
        bench(*sleepy(out, seconds, EPOCHS), "--cluster", "slurm", "--profile", profile(tmp_path, text))
        wait_for(lambda: epochs(out) >= at, f"{at} checkpoints")
        (run,) = status(out)["runs"]
        assert run.state == "running"
        return out, run.job

    return begin


def finish(out):
    """The record once it is there."""
    return wait_for(lambda: only_record(out), "the record")


def kill(cluster, job):
    """SIGKILL all processes of a job, as the kernel does when memory runs out."""
    for pid, number in cluster.job_processes().items():
        if number == job:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "counts"),
    [(("scancel", "--signal=USR2"), {"preemptions": 1}), (("scontrol", "requeue"), {"terminations": 1})],
    ids=["warned", "requeued by hand"],
)
def test_signalled_job_resumes(slurm_env, start, undisturbed, command, counts):
    out, job = start()
    slurm_env.run(*command, job)
    done = finish(out)
    assert msgspec.to_builtins(done.job).items() >= ({"id": job, "attempts": 2} | counts).items()
    assert done.clock.resumes == 1
    assert epochs(out) == NEEDED
    assert _comparable(done) == undisturbed


def test_preempted_with_a_warning(slurm_env, start, undisturbed):
    out, _ = start('time = 30\npartition = "low"')
    slurm_env.run("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    done = finish(out)
    assert (done.job.attempts, done.job.preemptions) == (2, 1)
    assert _comparable(done) == undisturbed


def test_preempted_without_a_warning_and_without_accounting(own_cluster, start, undisturbed, monkeypatch):
    cluster = own_cluster(nodes=1, accounting=False, user_signal_on_preemption=False)
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    out, job = start('time = 30\npartition = "low"')
    # Without accounting a job that dies is known to be gone, and no more than that.
    kill(cluster, job)
    wait_for(lambda: status(out)["counts"]["lost"] == 1, "that the job is gone")
    assert "no accounting" in bench("status", "--out", out, *KNOWN).stderr
    low = profile(out.parent, 'time = 30\npartition = "low"')
    bench(*sleepy(out, 1.0, EPOCHS, "--cluster", "slurm", "--profile", low, "--retry"))
    wait_for(lambda: len(attempts(out)) == 2, "the second attempt")
    cluster.run("sbatch", "-p", "high", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    done = finish(out)
    assert (done.job.attempts, done.job.terminations, done.job.kills) == (3, 1, 1)
    assert _comparable(done) == undisturbed


def test_time_limit_shorter_than_the_run(slurm_env, start, undisturbed):
    out, _ = start("time = 2", seconds=8.0, at=EPOCHS // 2)
    done = finish(out)
    job = done.job
    assert job.attempts >= 2
    assert job.timeouts == job.attempts - 1
    assert job.kills == job.terminations == 0
    assert epochs(out) == NEEDED  # every attempt ended at a checkpoint: nothing was trained twice
    assert _comparable(done) == undisturbed


def test_node_that_dies(slurm_env, start, undisturbed):
    out, job = start()
    node = slurm_env.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    slurm_env.kill_node(node)
    wait_for(lambda: len(attempts(out)) == 2, "another node takes the job")
    done = finish(out)
    assert (done.job.attempts, done.job.kills) == (2, 1)
    assert _comparable(done) == undisturbed


def test_job_killed_at_once_is_lost_and_can_be_tried_again(slurm_env, start, undisturbed):
    out, job = start()
    kill(slurm_env, job)
    wait_for(lambda: status(out)["counts"]["lost"] == 1, "that it is lost")
    assert "left no record" in bench("status", "--out", out, *KNOWN).stdout
    again = sleepy(out, 1.0, EPOCHS, "--cluster", "slurm")
    assert "--retry submits them again" in bench(*again).stderr
    assert status(out)["counts"]["lost"] == 1
    bench(*again, "--retry")
    done = finish(out)
    assert (done.job.attempts, done.job.kills) == (2, 1)
    assert _comparable(done) == undisturbed


def test_cancelled_run_is_missing_and_resumes_when_resubmitted(slurm_env, start, undisturbed):
    out, job = start()
    run = status(out)["runs"][0].spec.id
    ended = bench("cancel", run, "--out", out, *KNOWN)
    assert job in ended.stdout
    wait_for(lambda: status(out)["counts"]["missing"] == 1, "that it is missing")
    bench(*sleepy(out, 1.0, EPOCHS, "--cluster", "slurm"))
    done = finish(out)
    assert (done.job.attempts, done.job.terminations) == (2, 1)
    assert _comparable(done) == undisturbed
