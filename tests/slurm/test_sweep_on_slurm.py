"""Sweeps on a real SLURM: every record comes home, once, and is the one that this process would have made."""

import json

import pytest

from bench.records import store
from tests.slurm.running import TINY, bench, epochs, only_record, profile, records, sleepy, status, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SWEEP = """
[defaults]
arch = "mlp_40_40"
epochs = 2
finetune_epochs = 1
seeds = "0-1"
keep_macs = [0.5, 0.25]
[[runs]]
method = ["l1_norm", "l2_norm", "random", "act_mean", "fpgm"]
[[runs]]
method = "uniform_thin"
"""


def test_24_runs_on_four_nodes_are_those_of_this_process(slurm_env, tmp_path):
    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text(SWEEP)
    first = profile(tmp_path, "time = 30\nruns_per_job = 3", cpus=4)  # a whole node, so that all four are used
    words = ("sweep", file, "--threads", 1)
    submitted = bench(*words, "--cluster", "slurm", "--profile", first, "--out", out, "--wait")
    assert "submitted 2 bases as job" in submitted.stdout
    assert "submitted 24 runs as job" in submitted.stdout
    bench(*words, "--cluster", "inline", "--out", tmp_path / "inline")
    here, there = records(tmp_path / "inline"), records(out)
    assert len(there) == 24
    assert {name: store.without_timing(one) for name, one in there.items()} == {
        name: store.without_timing(one) for name, one in here.items()
    }
    assert {one.job.cluster for one in there.values()} == {"slurm"}
    (array,) = {one.job.id.partition("_")[0] for one in there.values()}
    nodes = slurm_env.run("sacct", "-n", "-X", "-P", "-j", array, "-o", "NodeList").stdout.split()
    assert set(nodes) == {"n1", "n2", "n3", "n4"}
    again = bench(*words, "--cluster", "slurm", "--out", out, "--json")
    assert json.loads(again.stdout)["submitted"] == []
    bench("verify", out / "records", "--out", out)


def test_two_sweeps_at_once_submit_every_run_once(slurm_env, tmp_path):
    import subprocess
    import sys

    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text(SWEEP)
    held = profile(tmp_path, "[sbatch]\nhold = true")
    command = [sys.executable, "-m", "bench", "sweep", file, "--cluster", "slurm", "--profile", held, "--out", out]
    both = [subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    tasks = [task for text in texts for batch in json.loads(text)["submitted"] for task in batch["tasks"]]
    assert len(tasks) == len(set(tasks)) == 26
    assert status(out)["counts"]["waiting"] == 24
    assert "26 jobs ended" in bench("cancel", file, "--out", out).stdout
    assert status(out)["counts"]["waiting"] == 0


def test_thousand_runs_are_a_few_arrays(slurm_env, tmp_path):
    file, out = tmp_path / "sweep.toml", tmp_path / "out"
    file.write_text('[[runs]]\nmethod = ["l1_norm", "random"]\narch = "mlp_40_40"\nkeep_macs = 0.5\nseeds = "0-499"\n')
    held = profile(tmp_path, "[sbatch]\nhold = true")
    done = bench("sweep", file, "--cluster", "slurm", "--profile", held, "--out", out, "--json")
    submitted = json.loads(done.stdout)["submitted"]
    assert [len(batch["jobs"]) for batch in submitted] == [500, 1000]
    assert status(out)["counts"]["waiting"] == 1000
    queued = slurm_env.run("squeue", "-h", "-r", "-o", "%i").stdout.split()
    assert len(queued) == 1500
    bench("cancel", file, "--out", out)


def test_base_is_trained_once_and_waited_for(slurm_env, tmp_path):
    out, file = tmp_path / "out", profile(tmp_path, "time = 30")
    words = ("run", "--method", "l1_norm", *TINY, "--plugin", "tests/plugins/small.py", "--out", out, "--epochs", 3)
    for share in (0.5, 0.25):
        bench(*words, "--keep-macs", share, "--cluster", "slurm", "--profile", file)  # two commands: no base job
    wait_for(lambda: status(out)["counts"]["done"] == 2, "two runs")
    assert len({one.training.base.sha256 for one in records(out).values()}) == 1
    logs = "".join(log.read_text() for log in out.glob("jobs/*/*_log.out"))
    assert logs.count("base train epoch 3/3") == 1


def test_one_spec_in_two_jobs_at_once_is_one_run(slurm_env, tmp_path):
    out, file = tmp_path / "out", profile(tmp_path, "time = 30")
    words = sleepy(out, 0.5, 8)
    bench(*words, "--cluster", "slurm", "--profile", file)
    wait_for(lambda: epochs(out) > 1, "the job is at it")
    done = bench(*words, "--json")  # beside it, in this process: waits, and gets the job's record
    assert "another process is executing this run" in done.stderr
    assert json.loads(done.stdout)["job"]["cluster"] == "slurm"
    assert only_record(out).record_sha256 == json.loads(done.stdout)["record_sha256"]
    assert not list(out.rglob("superseded"))
