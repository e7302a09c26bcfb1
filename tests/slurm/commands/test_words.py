"""Commands before anything was submitted or with nothing handed over, and every wrong word."""

import dataclasses
import json
import re

from support.command_tools import DIGITS, write
from support.records import SPEC, ended, finished, record

from bench.records import store


def test_status_before_anything(bench, tmp_path):
    path = write(tmp_path / "some.toml", DIGITS)
    code, out, err = bench("status", path, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == [
        "method",
        "arch",
        "dataset",
        "done",
        "running",
        "waiting",
        "failed",
        "missing",
    ]
    assert out.splitlines()[-1].split() == ["5", "runs", "0", "0", "0", "0", "5"]
    code, out, err = bench("status", path, "--out", tmp_path / "out", "--all")
    assert out.count("missing: ") == 5
    code, out, err = bench("status", path, "--out", tmp_path / "out", "--json", "--shard", "1/2")
    found = json.loads(out)
    assert found["counts"]["missing"] == len(found["runs"]) == 2
    run = found["runs"][0]
    assert set(run) >= {"id", "method", "arch", "dataset", "seed", "state", "detail", "job", "done", "total"}
    assert (run["state"], run["job"]) == ("missing", None)
    assert not (tmp_path / "out").exists()


SWEEP = ["sweep", "some.toml"]


WRONG = [
    (SWEEP, 2, "--cluster"),
    ([*SWEEP, "--cluster", "slrum"], 2, "did you mean slurm"),
    ([*SWEEP, "--cluster", "slurm"], 3, "on PATH"),
    ([*SWEEP, "--cluster", "slurm", "--profile", "none.toml"], 2, "profile none.toml: No such file"),
    ([*SWEEP, "--cluster", "slurm", "--profile", "bad.toml"], 2, "profile bad.toml 'tiem': did you mean time"),
    ([*SWEEP, "--cluster", "local", "--profile", "bad.toml"], 2, "--profile belongs to --cluster slurm"),
    ([*SWEEP, "--cluster", "slurm", "--jobs", "2"], 2, "--jobs belongs to --cluster local"),
    ([*SWEEP, "--cluster", "inline", "--wait"], 2, "--wait belongs to"),
    ([*SWEEP, "--cluster", "local", "--jobs", "0"], 2, "--jobs 0: at least 1"),
    ([*SWEEP, "--cluster", "local", "--jobs", "two"], 2, "--jobs"),
    ([*SWEEP, "--cluster", "local", "--shard", "3/2"], 2, "--shard 3/2"),
    ([*SWEEP, "--cluster", "local", "--retry", "all"], 2, "--retry"),
    ([*SWEEP, "--cluster", "local", "--out", "file/out"], 3, "--out"),
    ([*SWEEP, "--cluster", "debug", "--out", "file/out"], 3, "--out"),
    ([*SWEEP, "--cluster", "slurm", "--out", "file/out"], 3, "--out"),
    (["run", "-m", "l1_norm", "-a", "resnet20", "--cluster", "slurm"], 3, "on PATH"),
    (["run", "-m", "l1_nrm", "-a", "resnet20", "--cluster", "local"], 2, "did you mean l1_norm"),
    (["status"], 2, "nothing was run or submitted with --out results"),
    (["status", "nobody"], 2, "nobody: no run of that id"),
    (["status", "none.toml"], 2, "sweep none.toml: No such file"),
    (["status", "some.toml", "--shard", "x"], 2, "--shard x"),
    (["cancel"], 2, "SWEEP|RUN"),
    (["cancel", "nobody"], 2, "nobody: no run of that id"),
    (["logs"], 2, "RUN"),
    (["logs", "nobody"], 2, "nobody: no run of that id"),
]


def test_wrong_words_and_places_are_one_line(bench, tmp_path, monkeypatch):
    write(tmp_path / "some.toml", DIGITS)
    write(tmp_path / "bad.toml", "tiem = 3")
    write(tmp_path / "file", "in the way")
    monkeypatch.setenv("PATH", "")
    for words, code, said in WRONG:
        got, out, err = bench(*words)
        assert (got, out, len(err.splitlines())) == (code, "", 1), words
        assert said in err
    assert not list(tmp_path.rglob("batch.json"))
    for command, has in (("status", True), ("cancel", False)):  # help promises only a default that there is
        text = " ".join(bench(command, "--help")[1].split())
        assert ("default: all that was run or submitted" in text) == has


def test_dry_run_for_slurm_needs_no_slurm(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path = write(tmp_path / "some.toml", DIGITS)
    profile = write(tmp_path / "mine.toml", 'partition = "gpu"\ntime = "2:00:00"\nruns_per_job = 2')
    command = ["sweep", path, "--cluster", "slurm", "--profile", profile, "--dry-run", "--out", tmp_path / "out"]
    code, out, err = bench(*command)
    assert (code, err) == (0, "5 of 5 runs would be submitted\n")
    titles = [line for line in out.splitlines() if line.startswith("### ")]
    assert titles == ["### some: 2 bases in 1 job", "### some: 5 runs in 3 jobs"]
    assert out.count("#SBATCH --partition=gpu") == out.count("#SBATCH --time=120") == 2
    assert "#SBATCH --array=0-2%3" in out
    ids = [run["id"] for run in json.loads(bench("status", path, "--json", "--out", tmp_path / "out")[1])["runs"]]
    listed = [line.split() for line in out.splitlines() if re.match(r"# \d: [0-9a-f]{12}-s", line)]
    assert sorted(words[2] for words in listed) == sorted(ids)
    assert sorted(words[1] for words in listed) == ["0:", "0:", "1:", "1:", "2:"]
    assert not (tmp_path / "out").exists()


def test_dry_run_for_this_machine(bench, tmp_path):
    path = write(tmp_path / "some.toml", DIGITS)
    code, out, err = bench("sweep", path, "--cluster", "local", "--jobs", 3, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (0, "5 of 5 runs would be submitted\n")
    first, *lines = out.splitlines()
    assert first == "### some: 5 runs and 2 bases in 3 jobs"
    assert len(lines) == 7  # all processes have the same runs: they are listed once
    assert sum("base of mlp_40_40 on digits" in line for line in lines) == 2
    assert sum("l1_norm on mlp_40_40, digits, keeping 0.5 of the MACs, seed" in line for line in lines) == 2
    assert not (tmp_path / "out").exists()


def test_status_shows_runs_that_were_never_submitted(bench, tmp_path):
    """By their records; one that lies elsewhere than a run of this folder would put it is another's."""
    spec = SPEC
    for seed in (0, 1):
        own = dataclasses.replace(spec, seed=seed)
        store.write(store.path_of(tmp_path, own), record(finished(own)))
    failed, other = (dataclasses.replace(spec, seed=seed) for seed in (2, 3))
    store.write(store.path_of(tmp_path, failed), record(ended(spec=failed)))
    store.write(tmp_path / "records" / "elsewhere" / f"{other.id}.json", record(finished(other)))
    code, out, err = bench("status", "--out", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert {key: n for key, n in json.loads(out)["counts"].items() if n} == {"done": 2, "failed": 1}
    code, out, _ = bench("status", spec.id[:12], "--out", tmp_path)
    assert out.splitlines()[2].split() == ["l1_norm", "two_layers", "digits", "2", "1"]
    assert f"failed: {spec.id[:12]}-s2" in out
