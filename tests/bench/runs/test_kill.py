"""SIGKILL at any moment: started again, the run ends in the same record."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.waiting import until

from bench.records import store

COMMAND = [
    sys.executable, "-m", "bench", "run", "--method", "ddrop", "--arch", "resnet20", "--epochs", "6",
    "--finetune-epochs", "18", "-p", "importance=act_mean", "--quiet",
]  # fmt: skip
KILLS = 6


def start(out: Path) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL
    return subprocess.Popen([*COMMAND, "--out", str(out)], env=env, stdout=silent, stderr=silent)


def only_record(out: Path) -> dict:
    (path,) = (out / "records").rglob("*.json")
    return store.load(path)


def written(out: Path) -> list[int]:
    """When the checkpoints there are were written."""
    times = []
    for file in sorted(out.rglob("*.pt")):
        try:
            times.append(file.stat().st_mtime_ns)
        except FileNotFoundError:  # just removed by the run
            continue
    return times


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments(tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    expected = only_record(tmp_path / "whole")

    out, rng = tmp_path / "killed", random.Random(0)
    for kill in range(KILLS):
        process = start(out)
        for _ in range(rng.randint(1, 3)):  # checkpoints, not seconds: each attempt gets somewhere, none to the end
            before = written(out)
            until(lambda b=before, p=process: written(out) != b or p.poll() is not None, 280)
        assert process.poll() is None, f"done after {kill} kills: the run is too short for this test"
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.wait()
        assert not (out / "records").exists()
    assert start(out).wait() == 0
    done = only_record(out)
    assert store.without_timing(done) == store.without_timing(expected)
    assert done.clock.resumes >= 1
    assert not list(out.rglob("*.pt"))
