"""SIGKILL at any moment: started again, the run ends in the same record."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import record

COMMAND = [
    sys.executable, "-m", "bench", "run", "--method", "ddrop", "--arch", "resnet20", "--epochs", "6",
    "--finetune-epochs", "4", "-p", "importance=act_mean", "--quiet",
]  # fmt: skip


def start(out: Path) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, "--out", str(out)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def only_record(out: Path) -> dict:
    (path,) = (out / "records").rglob("*.json")
    return record.load(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_ten_random_moments(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.wait() == 0
    expected = only_record(tmp_path / "whole")

    out, rng, kills = tmp_path / "killed", random.Random(0), 0
    for _ in range(40):
        process = start(out)
        began, seen = time.monotonic(), sorted(out.rglob("*.pt"))
        # Wait until this attempt has written something, so that ten kills fall all over the run, not before it.
        before = [f.stat().st_mtime_ns for f in seen]
        while process.poll() is None and time.monotonic() - began < 60:
            files = sorted(out.rglob("*.pt"))
            if [f.stat().st_mtime_ns for f in files if f.exists()] != before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.2))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        if kills == 10:
            break
    final = start(out)
    assert final.wait() == 0, final.stderr.read().decode()
    done = only_record(out)
    assert kills == 10, f"only {kills} kills before the run was done"
    assert record.timeless(done) == record.timeless(expected)
    leftovers = [f for f in out.rglob("*") if f.suffix in (".pt", ".part")]
    assert [f for f in leftovers if f.suffix == ".pt"] == []
    assert json.dumps(done)
