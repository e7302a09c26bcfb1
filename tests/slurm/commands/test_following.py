"""Submitting, following and ending runs, on a cluster in memory."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_tools import DIGITS, write
from support.paths import PLUGINS
from support.records import finished, record

from bench.cli import parser, submit
from bench.cli import sweep as sweep_command
from bench.errors import SetupError
from bench.records import store
from bench.runs.execute import leave_failure
from bench.spec.registry import ARCHS, DATASETS, METHODS
from bench.spec.request import RunOptions
from slurm.batch import batches
from slurm.cluster import RUNNING, WAITING


@pytest.fixture
def sweep(slurm, bench, tmp_path, monkeypatch):
    """``bench sweep some.toml --cluster slurm``; ``sweep.specs`` are its runs, ``sweep.status`` tells of them."""
    path = write(tmp_path / "some.toml", DIGITS)
    monkeypatch.setattr(submit, "POLL_S", 0.01)

    def run(*words, out=tmp_path / "out"):
        return bench("sweep", path, "--cluster", "slurm", "--out", out, *words)

    run.specs, _ = sweep_command.specs_of(path, parser().parse_args(["sweep", str(path), "--cluster", "slurm"]))
    run.status = lambda *words: bench("status", "some.toml", "--out", tmp_path / "out", *words)
    return run


def leave(out, *specs, seconds=60.0):
    """The records of finished runs."""
    for spec in specs:
        store.write(store.path_of(out, spec), record(finished(spec, seconds)))


def array_of(out):
    """The batch of the five runs."""
    (batch,) = [batch for batch in batches(out) if len(batch.jobs) == 5]
    return batch


def test_submission_is_printed(sweep, slurm, tmp_path):
    code, out, err = sweep()
    assert (code, err) == (0, "")
    tokens = [batch.token for batch in sorted(batches(tmp_path / "out"), key=lambda batch: batch.jobs)]
    assert out.splitlines()[:3] == [
        f"submitted 2 bases as job 101 (some-{tokens[0]}, an array of 2)",
        f"submitted 5 runs as job 102 (some-{tokens[1]}, an array of 5)",
        "5 runs: 5 submitted now",
    ]
    assert [after for _, after in slurm.submitted] == [[[], []], [["101_0"]] * 3 + [["101_1"]] * 2]
    assert sweep()[1] == "5 runs: 0 submitted now; before: 5 waiting\n"
    code, out, err = sweep("--json", out=tmp_path / "other")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert (printed["runs"], printed["before"]["missing"]) == (5, 5)
    assert [len(one["jobs"]) for one in printed["submitted"]] == [2, 5]
    assert set(printed["submitted"][1]["tasks"]) == {spec.id for spec in sweep.specs}
    assert all(Path(one["log"]).is_dir() for one in printed["submitted"])
    for part, count in (("1/3", 1), ("2/3", 2), ("3/3", 2)):
        assert f"{count} submitted now" in sweep("--shard", part, out=tmp_path / "parts")[1]
    assert sweep(out=tmp_path / "parts")[1] == "5 runs: 0 submitted now; before: 5 waiting\n"


@pytest.mark.parametrize("words", [[], ["--shard", "2/3"], ["--data-dir", "some where"]])
def test_follow_command_means_the_same_runs(sweep, bench, words):
    out = sweep(*words)[1]
    follow = shlex.split(re.search(r"^follow: python -m bench (.*)$", out, re.M)[1])
    code, shown, _ = bench(*follow, "--json")
    assert code == 0
    count = int(re.search(r"^(\d+) runs?:", out, re.M)[1])
    assert json.loads(shown)["counts"]["waiting"] == count
    assert len(json.loads(shown)["runs"]) == count
    assert bench("cancel", *follow[1:])[0] == 0
    counts = json.loads(bench(*follow, "--json")[1])["counts"]
    assert counts["missing"] == count


def test_refusal_and_silence_are_one_line(sweep, slurm):
    slurm.refuse_at, slurm.refusal = 0, "sbatch refused: Invalid account or account/partition combination specified"
    code, out, err = sweep()
    assert (code, out) == (3, "")
    assert err.startswith("bench: error: sbatch refused: Invalid account")
    assert len(err.splitlines()) == 1
    slurm.refuse_at = None
    sweep()
    slurm.silent = True
    assert sweep() == (3, "", "bench: error: SLURM does not answer\n")
    code, out, err = sweep.status()
    assert (code, err) == (0, "bench: SLURM does not answer\n")
    assert out.splitlines()[0].split()[-1] == "unknown"
    assert out.count("unknown: ") == 5


def test_status_lists_every_kind_of_state(sweep, slurm, bench, tmp_path):
    out = tmp_path / "out"
    sweep()
    done, failed, running, lost, waiting = sweep.specs
    runs = array_of(out)
    job = dict(zip([keys[0] for keys in runs.elements], runs.jobs, strict=True))
    leave(out, done, seconds=600)
    leave_failure(failed, RunOptions(out=out), SetupError("no data at all"))
    slurm.alive[job[running.id]] = (RUNNING, "")
    notes = runs.journal()
    notes.start(running.id, job[running.id])
    notes.saved(running.id, 3, 8)
    for gone in (done, failed, lost):
        del slurm.alive[job[gone.id]]
    slurm.ended[job[lost.id]] = "OUT_OF_MEMORY (exit 0:125)"
    write(runs.log(job[lost.id]), "one\ntwo\nthree\nfour\n")
    code, text, err = sweep.status()
    assert (code, err) == (0, "")
    assert f"running: {running.id}" in text
    assert f"epoch 3/8, job {job[running.id]}" in text
    assert re.search(rf"^failed: {failed.id} .*: no data at all$", text, re.M)
    assert re.search(rf"^lost: {lost.id} .*OUT_OF_MEMORY.*job {job[lost.id]}\n +two\n +three\n +four$", text, re.M)
    assert "Resources (1)" in text
    assert waiting.id not in text
    assert waiting.id in sweep.status("--all")[1]
    assert re.search(r"^about \d+ min left with 1 at a time$", text, re.M)
    assert "2 failed or lost; --retry failed submits them again" in sweep()[2]
    counts = "before: 1 done, 1 running, 1 waiting, 1 failed, 1 lost"
    assert sweep("--retry", "failed")[1].splitlines()[-2] == f"5 runs: 2 submitted now; {counts}"


def test_status_cuts_long_lists_unless_all_is_asked(slurm, bench, tmp_path):
    path = write(tmp_path / "many.toml", DIGITS.replace("0-1", "0-14"))
    bench("sweep", path, "--cluster", "slurm", "--out", tmp_path / "out")
    slurm.alive.clear()
    text = bench("status", path, "--out", tmp_path / "out")[1]
    assert text.count("lost: ") == 20 + 1
    assert "lost: 11 more; --all lists them" in text
    assert bench("status", path, "--out", tmp_path / "out", "--all")[1].count("lost: ") == 31


def test_status_knows_the_plugins_of_what_was_submitted(slurm, bench, tmp_path):
    path = write(tmp_path / "some.toml", DIGITS.replace('"random"', '"nan_scores"'))
    out, plugin = tmp_path / "out", PLUGINS / "broken.py"
    assert bench("sweep", path, "--cluster", "slurm", "--out", out, "--plugin", plugin)[0] == 0
    for registry in (METHODS, ARCHS, DATASETS):
        registry._plugins.clear()
    code, text, err = bench("status", path, "--out", out)
    assert (code, err) == (0, "")
    assert "nan_scores" in text
    assert bench("cancel", path, "--out", out)[0] == 0


def test_status_lists_what_changed_since_submission(sweep, bench, tmp_path):
    sweep()
    one, two, *_ = sweep.specs
    for spec, differs in ((one, ["method: was a, is b", "numpy: was 1, is 2"]), (two, [])):
        job = {"cluster": "slurm", "id": "1", "at_once": 1, "attempts": 1, "differs": differs}
        job |= dict.fromkeys(("preemptions", "timeouts", "terminations", "kills"), 0)
        store.write(store.path_of(tmp_path / "out", spec), record(finished(spec) | {"job": job}))
    text = bench("status", "some.toml", "--out", tmp_path / "out")[1]
    (line,) = [line for line in text.splitlines() if line.startswith("changed since submission: ")]
    assert one.id in line
    assert line.endswith(": method: was a, is b; numpy: was 1, is 2")


def test_status_lists_bases_and_held_jobs_with_what_to_do(sweep, slurm, bench, tmp_path):
    sweep()
    bases, runs = [batch for batch, _ in slurm.submitted]
    slurm.alive[bases.jobs[0]] = (WAITING, "Priority")
    slurm.alive[bases.jobs[1]] = (WAITING, "JobHeldUser")
    slurm.alive[runs.jobs[0]] = (WAITING, "JobHeldAdmin")
    text = bench("status", "some.toml", "--out", tmp_path / "out")[1].splitlines()
    listed = [line for line in text if line.startswith("base ")]
    assert [line.split()[1].rstrip(":") for line in listed] == [bases.elements[1][0], bases.elements[0][0]]
    what = f"scontrol release {bases.jobs[1]}"
    assert listed[0].endswith(f"JobHeldUser, job {bases.jobs[1]}; 2 runs need it; to continue: {what}")
    assert listed[1].endswith(f"Priority, job {bases.jobs[0]}; 3 runs need it")
    (held,) = [line for line in text if line.startswith("held: ")]
    assert held == (f"held: job {runs.jobs[0]} (JobHeldAdmin): ask for its release (scontrol release {runs.jobs[0]})")
    del slurm.alive[bases.jobs[1]]
    text = bench("status", "some.toml", "--out", tmp_path / "out")[1]
    assert (
        f"base {bases.elements[1][0]}: lost, job {bases.jobs[1]}; 2 runs need it; the first of them trains it" in text
    )


def test_logs_prints_the_end_of_a_jobs_log(sweep, bench, tmp_path):
    sweep()
    out = tmp_path / "out"
    runs = array_of(out)
    key, log = runs.elements[2][0], runs.log(runs.jobs[2])
    assert bench("logs", key, "--out", out) == (1, "", f"bench: error: {key}: its job has written nothing so far\n")
    write(log, "".join(f"line {k}\n" for k in range(100)))
    assert bench("logs", key, "--out", out) == (0, "".join(f"line {k}\n" for k in range(60, 100)), f"# {log}\n")
    assert bench("logs", key, "--out", out, "-n", 2)[1] == "line 98\nline 99\n"
    assert bench("logs", key, "--out", out, "--lines", 500)[1] == log.read_text()
    for lines in ("-1", "x", "1.5"):
        code, text, err = bench("logs", key, "--out", out, "-n", lines)
        assert (code, text, len(err.splitlines())) == (2, "", 1), lines
    log.write_bytes(b"not \xff utf-8\n")
    assert bench("logs", key, "--out", out)[:2] == (0, "not \ufffd utf-8\n")
    two = next(spec.id for spec in sweep.specs if spec.method == "random").partition("-")[0]  # of two seeds
    code, _, err = bench("logs", two, "--out", out)
    assert (code, err) == (2, f"bench: error: {two}: 2 runs have such an id; give more of it\n")


@pytest.fixture
def pauses(monkeypatch):
    """Numbers of the pauses of a command that waits; ``pauses.then(number)`` is called in each."""
    made = SimpleNamespace(count=0, then=lambda number: None)

    def pause(seconds):
        made.count += 1
        made.then(made.count)

    monkeypatch.setattr(submit, "time", SimpleNamespace(sleep=pause))
    return made


def test_wait_prints_changes_and_ends_with_the_last_job(sweep, slurm, pauses, tmp_path):
    def then(number):
        slurm.silent = number == 3  # that is waited out
        leave(tmp_path / "out", *{2: sweep.specs[:3], 4: sweep.specs[3:]}.get(number, ()))

    pauses.then = then
    code, text, err = sweep("--wait")
    assert code == 0
    assert pauses.count == 4
    lines = [line for line in err.splitlines() if "unknown" not in line and "answer" not in line]
    assert lines == ["bench: following 5 runs: 5", "bench: 5 waiting", "bench: 3 done, 2 waiting", "bench: 5 done"]
    assert re.search(r"^5 runs +5 +0 +0 +0 +0$", text, re.M)
    assert sweep("--wait")[0] == 0  # there is nothing to wait for


def test_wait_ends_when_jobs_are_lost(sweep, slurm, pauses):
    pauses.then = lambda number: slurm.alive.clear()
    code, text, err = sweep("--wait")
    assert code == 1
    assert err.splitlines()[-1] == "bench: error: 5 of 5 runs are not done: 5 lost"
    assert text.count("lost: ") == 5


def test_interrupted_wait_prints_how_to_end_the_jobs(sweep, slurm, bench, pauses, tmp_path):
    def interrupt(number):
        raise KeyboardInterrupt

    pauses.then = interrupt
    code, _, err = sweep("--wait")
    assert code == 130
    last = err.splitlines()[-1]
    assert last.startswith("bench: the jobs continue; to end them: python -m bench cancel ")
    assert len(slurm.alive) == 7
    run = next(spec.id for spec in sweep.specs if spec.method == "random" and spec.seed == 1)
    assert bench("cancel", run, "--out", tmp_path / "out")[0] == 0
    counts = json.loads(sweep.status("--json")[1])["counts"]
    assert (counts["missing"], counts["waiting"]) == (1, 4)
    assert bench("cancel", run, "--out", tmp_path / "out")[1] == "0 jobs ended\n"
    assert bench(*shlex.split(last.partition("python -m bench ")[2]))[0] == 0
    assert slurm.alive == {}
