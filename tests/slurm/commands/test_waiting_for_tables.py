"""Sweeps within milliseconds before their latency table is measured: what is planned, and what it waits for."""

import json

import pytest
from support.command_tools import DIGITS, write
from support.fake_runtime import timed_by_formula

from slurm.batch import batches

MS = DIGITS.replace("[[runs]]", 'keep_latency = 0.7\nruntime = "eager"\n[[runs]]', 1)
WAIT = "4 runs wait for the latency table of mlp_40_40 in eager at batch 1, which is measured first: ids follow from it"


@pytest.fixture
def timer(monkeypatch):
    return timed_by_formula(monkeypatch)


@pytest.fixture
def sweep(clusters, timer, bench, tmp_path):
    """``bench`` with a sweep of four runs in milliseconds and a dense one."""
    path = write(tmp_path / "some.toml", MS)
    return lambda command, *words: bench(command, path, *words, "--out", tmp_path / "out")


def test_runs_wait_for_their_table_until_it_is_measured(sweep, timer, tmp_path):
    code, out, err = sweep("status", "--all")
    assert (code, err) == (0, "")
    (counted,) = [line.split() for line in out.splitlines() if line.startswith("5 runs")]
    assert counted[-5:] == ["0", "0", "4", "0", "1"]  # done, running, waiting, failed, missing
    assert WAIT in out.splitlines() and "SLURM" not in out
    assert sum(line.startswith("waiting: (no id yet)-s") for line in out.splitlines()) == 4
    code, out, _ = sweep("status", "--json")
    assert code == 0
    assert sorted(run["state"] for run in json.loads(out)["runs"] if run["id"] is None) == ["waiting"] * 4
    assert sweep("cancel")[:2] == (0, "0 jobs ended\n")
    for words in (("--cluster", "local"), ("--cluster", "inline")):
        code, out, err = sweep("sweep", *words, "--dry-run")
        assert code == 0 and f"bench: {WAIT}" in err.splitlines()
        assert out.count("(no id yet)-s0") == out.count("(no id yet)-s1") == 2
    assert timer.tables == [] and not (tmp_path / "out").exists()
    assert sweep("sweep", "--cluster", "slurm")[0] == 0
    assert timer.tables == ["eager"]
    tasks = [task for batch in batches(tmp_path / "out") for task in batch.tasks.values() if not task["base"]]
    assert len(tasks) == 5
    code, out, _ = sweep("status", "--all")
    assert code == 0 and "no id" not in out and "latency table" not in out
    assert "5 waiting" in sweep("sweep", "--cluster", "slurm")[1]


def test_one_run_says_the_same(timer, bench, tmp_path):
    words = ("-m", "l1_norm", "-a", "mlp_40_40", "-d", "digits", "--keep-latency", "0.7", "--runtime", "eager")
    code, out, err = bench("run", *words, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (0, f"bench: {WAIT.replace('4 runs wait', '1 run waits')}\n")
    printed = json.loads(out)
    assert printed["id"] is printed["record"] is None and "table" not in printed["spec"]["budget"]
