"""What a real SLURM refuses: one line, exit 3, nothing half-submitted."""

import pytest

from tests.slurm.running import bench, profile, sleepy, status, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def refused(out, folder, text, *more):
    """The message of a submission that is refused."""
    words = sleepy(out, 0.0, 1, "--cluster", "slurm", "--profile", profile(folder, text), *more)
    done = bench(*words, check=3)
    (line,) = done.stderr.strip().splitlines()
    assert not list(out.glob("jobs/*/batch.json"))
    return line


def test_unknown_partition_and_too_many_gpus_are_refused(slurm_env, tmp_path):
    line = refused(tmp_path / "out", tmp_path, 'partition = "nope"')
    assert line.startswith("bench: error: sbatch refused: ")
    assert "partition" in line
    assert "not available" in refused(tmp_path / "out", tmp_path, "gpus = 99")


def test_controller_that_is_down(slurm_env, tmp_path):
    out = tmp_path / "out"
    slurm_env.kill("slurmctld")
    line = refused(out, tmp_path, "time = 10")
    assert "Unable to contact slurm controller" in line or "does not answer" in line
    slurm_env.start("slurmctld")
    bench(*sleepy(out, 0.0, 1, "--cluster", "slurm", "--profile", profile(tmp_path, "time = 10"), "--wait"))
    assert status(out)["counts"]["done"] == 1


def test_error_on_the_node_is_a_record(slurm_env, tmp_path):
    out = tmp_path / "out"
    words = sleepy(out, 0.0, 1, "--cluster", "slurm", "--profile", profile(tmp_path, 'device = "cuda:7"'))
    bench(*words)
    wait_for(lambda: status(out)["counts"]["failed"] == 1, "the failed record")
    (run,) = status(out)["runs"]
    assert "no such CUDA device" in run.detail
    assert "1 failed" in bench(*words).stdout
