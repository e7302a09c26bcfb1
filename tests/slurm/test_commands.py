"""The commands as a user types them: sweeps on this machine, following and ending them, and every wrong word."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import finished

from bench import record
from bench.cli import cluster, main, parser
from bench.cli import sweep as sweep_command
from bench.errors import SetupError
from bench.measure import latency
from bench.pipeline import Options
from bench.registry import ARCHS, DATASETS, METHODS
from bench.run import leave_failure
from slurm import launch, states
from slurm.batch import batches, journal_of
from slurm.clusters import RUNNING, WAITING, Local

ROOT = Path(__file__).parents[2]
PLUGINS = Path(__file__).parents[1] / "plugins"

DIGITS = """
[defaults]
arch = "mlp_40_40"
epochs = 2
finetune_epochs = 1
[[runs]]
method = ["l1_norm", "random"]
seeds = "0-1"
[[runs]]
method = "dense"
"""
TINY = """
[defaults]
arch = "two_layers"
dataset = "tiny"
recipe = "synthetic"
epochs = 2
finetune_epochs = 1
settings = { batch_size = 32, latency_batch = 4 }
[[runs]]
"""
PATIENT = '''
import os
import time
from pathlib import Path

from bench.api import Method, method
from bench.measure import latency

latency.WARMUP_S, latency.ROUNDS = 0.0, (3, 3)


@method("patient")
class Patient(Method):
    """Waits in its second epoch until there is a file."""

    def on_epoch_end(self, ctx):
        while ctx.epoch == 1 and not Path(os.environ["GATE"]).exists():
            time.sleep(0.01)
'''


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    """Names given by --plugin are known for one test only, and nothing is found in the folder one is in."""
    for registry in (METHODS, ARCHS, DATASETS):
        monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr("bench.registry.PLUGINS", [])
    monkeypatch.setattr(cluster, "PLUGINS", sys.modules["bench.registry"].PLUGINS)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # which Python's readline sets
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bench(capsys):
    """One command in this process: exit code, stdout, stderr."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def start(tmp_path):
    """Starts commands as processes; what they have started is ended after the test, if it is still there."""
    started = []

    def run(*words, **how):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "bench", *map(str, words)]
        names = [tmp_path / f"{len(started)}.{name}" for name in ("out", "err")]
        with names[0].open("w") as out, names[1].open("w") as err:
            how = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "env": env, "cwd": tmp_path} | how
            started.append(subprocess.Popen(command, **how))
        started[-1].files = names
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
    for number in jobs_below(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def jobs_below(folder):
    """Numbers of the processes that have a folder below this one among their arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(f"{folder}/") for word in words) and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


def write(path, text):
    path.write_text(text)
    return path


def finish(process):
    """Exit code, stdout and stderr of a started command."""
    code = process.wait(timeout=120)
    return code, *(file.read_text() for file in process.files)


def records(out):
    found = [record.load(file) for file in record.find(out / "records")]
    return {one["id"]: one for one in found}


@pytest.fixture
def tiny(tmp_path):
    """A sweep's file on tiny data, and the words that belong to it; its runs may wait for the gate."""
    plugin = write(tmp_path / "patient.py", PATIENT)

    def make(text):
        words = ["--plugin", PLUGINS / "small.py", "--plugin", PLUGINS / "broken.py", "--plugin", plugin]
        return write(tmp_path / "tiny.toml", TINY + text), words

    return make


# --- on this machine -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_on_this_machine_leaves_the_records_of_one_in_this_process(start, bench, tmp_path):
    path, local, inline = write(tmp_path / "some.toml", DIGITS), tmp_path / "local", tmp_path / "inline"
    going = start("sweep", path, "--cluster", "local", "--jobs", 2, "--wait", "--threads", 1, "--out", local)
    assert bench("sweep", path, "--cluster", "inline", "--threads", 1, "-q", "--out", inline)[0] == 0
    code, out, err = finish(going)
    assert code == 0, err
    done, expected = records(local), records(inline)
    assert len(done) == 5
    assert {key: record.timeless(one) for key, one in done.items()} == {
        key: record.timeless(one) for key, one in expected.items()
    }
    assert {(one["job"]["cluster"], one["job"]["legs"], one["job"]["at_once"]) for one in done.values()} == {
        ("local", 1, 2)
    }
    for file in (local / "jobs" / "journal").glob("*.jsonl"):  # of runs and bases: each was begun once
        assert len(journal_of(local, file.stem).legs()) == 1
    assert "submitted 5 runs and 2 bases as 2 local jobs" in out
    assert "5 runs: 5 submitted now" in out
    assert re.search(r"^5 runs +5 +0 +0 +0 +0$", out, re.M)

    code, out, err = bench("sweep", path, "--cluster", "local", "--jobs", 2, "--out", local)
    assert (code, out, err) == (0, "5 runs: 0 submitted now; before: 5 done\n", "")
    assert len(list(batches(local))) == 1
    code, out, err = bench("status", path, "--out", local)
    assert (code, err) == (0, "")
    *rows, total = (line.split() for line in out.splitlines()[2:])
    assert [*sorted(rows), total] == [
        ["dense", "mlp_40_40", "digits", "1"],
        ["l1_norm", "mlp_40_40", "digits", "2"],
        ["random", "mlp_40_40", "digits", "2"],
        ["5", "runs", "5", "0", "0", "0", "0"],
    ]
    code, out, err = bench("status", "--json", "--out", local)  # all that was ever submitted
    assert json.loads(out)["counts"]["done"] == 5
    assert {run["id"] for run in json.loads(out)["runs"]} == set(done)
    (batch,) = batches(local)
    code, out, err = bench("logs", next(iter(done)), "--out", local, "-n", 3)
    assert code == 0
    assert err.splitlines() == [f"# {batch.log(job)}" for job in batch.jobs]
    assert len(out.splitlines()) == 6
    assert "Job completed successfully" in out
    until(lambda: not jobs_below(tmp_path))


@pytest.mark.slow
def test_ctrl_c_while_waiting_leaves_the_jobs_alone(start, bench, tiny, tmp_path):
    path, words = tiny('method = "patient"')
    where = [*words, "--out", tmp_path / "out"]
    waiting = start(
        *("sweep", path, "--cluster", "local", "--wait", *where),
        start_new_session=True,  # as a terminal does: the signal goes to all of its processes, the jobs' too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    (run,) = json.loads(bench("status", path, "--json", *where)[1])["runs"]
    notes = journal_of(tmp_path / "out", run["id"])
    until(lambda: notes.legs() and len(notes.legs()[0].epochs) == 3)  # base, first epoch
    os.killpg(waiting.pid, signal.SIGINT)
    code, out, err = finish(waiting)
    assert code == 130
    told = err.splitlines()[-1]
    assert told.startswith("bench: the jobs go on; to end them: python -m bench cancel ")
    assert "Traceback" not in err

    code, out, _ = bench("status", path, "--json", *where)
    (run,) = json.loads(out)["runs"]
    assert (run["state"], run["done"], run["total"]) == ("running", 3, 5)
    (tmp_path / "gate").touch()
    until(lambda: not jobs_below(tmp_path))
    assert records(tmp_path / "out")[run["id"]]["status"] == "ok"
    (leg,) = notes.legs()
    assert leg.ended == "done"
    cancelled = shlex.split(told.partition("python -m bench ")[2])
    assert bench(*cancelled)[:2] == (0, "0 jobs ended\n")


@pytest.mark.slow
def test_who_reads_what_a_submission_says_need_not_wait_for_its_jobs(start, tiny, tmp_path):
    """As ``bench sweep ... | tee log`` does."""
    path, words = tiny('method = "patient"')
    pipe = subprocess.PIPE
    submission = start("sweep", path, "--cluster", "local", *words, "--out", tmp_path / "out", stdout=pipe, stderr=pipe)
    assert submission.wait(60) == 0
    said = []
    reader = threading.Thread(target=lambda: said.extend(submission.communicate()))
    reader.start()
    reader.join(5)
    at_its_end = not reader.is_alive()
    for number in jobs_below(tmp_path):
        os.kill(number, signal.SIGKILL)
    reader.join()
    assert b"submitted 1 run" in said[0]
    assert at_its_end


@pytest.mark.slow
def test_cancelled_runs_end_and_the_same_sweep_goes_on_with_them(start, bench, tiny, tmp_path):
    path, words = tiny('method = "patient"\nseeds = "0-2"')
    where = [*words, "--out", tmp_path / "out"]
    code, out, err = finish(start("sweep", path, "--cluster", "local", "--jobs", 2, *where))
    assert (code, err) == (0, "")
    follow = shlex.split(re.search(r"^follow: python -m bench (.*)$", out, re.M)[1])
    code, out, _ = bench(*follow, "--json")
    assert json.loads(out)["counts"]["waiting"] + json.loads(out)["counts"]["running"] == 3
    notes = [journal_of(tmp_path / "out", run["id"]) for run in json.loads(out)["runs"]]
    until(lambda: sum(bool(one.legs() and one.legs()[0].epochs) for one in notes) == 2)  # both processes are at one
    counts = json.loads(bench(*follow, "--json")[1])["counts"]
    assert (counts["running"], counts["waiting"]) == (2, 1)
    code, out, _ = bench(*follow)
    assert out.count("running: ") == 2
    assert bench("logs", json.loads(bench(*follow, "--json")[1])["runs"][0]["id"], "--out", tmp_path / "out")[0] == 0

    (batch,) = batches(tmp_path / "out")
    code, out, _ = bench("cancel", *follow[1:])
    assert (code, out) == (0, f"2 jobs ended: {', '.join(batch.jobs)}\n")
    until(lambda: not jobs_below(tmp_path))
    assert Local().live([batch]) == {}
    left = records(tmp_path / "out")
    assert [one["status"] for one in left.values()] == ["interrupted"] * 2
    counts = json.loads(bench(*follow, "--json")[1])["counts"]
    assert counts["missing"] == 3  # those that had not begun too: somebody wanted it so
    code, out, _ = bench("sweep", path, "--cluster", "local", "--dry-run", *where)
    assert out.count("# ") >= 3


@pytest.mark.slow
def test_a_single_run_on_this_machine(start, bench, tiny, tmp_path):
    _, words = tiny("")
    (tmp_path / "gate").touch()
    run = [
        "run",
        "-m",
        "patient",
        "-a",
        "two_layers",
        "-d",
        "tiny",
        "--recipe",
        "synthetic",
        "--set",
        "latency_batch=4",
    ]
    run += ["--epochs", 2, "--finetune-epochs", 1, *words, "--out", tmp_path / "out"]
    code, out, err = finish(start(*run, "--cluster", "local", "--wait"))
    assert code == 0, err
    ((key, done),) = records(tmp_path / "out").items()
    assert done["status"] == "ok"
    assert re.search(r"^1 runs? +1 +0 +0 +0 +0$", out, re.M)
    assert bench("status", key[:6], "--out", tmp_path / "out")[0] == 0
    assert bench(*run)[1].rstrip().endswith(f"{key}.json")  # here it is done as well


@pytest.mark.slow
def test_following_runs_of_which_one_fails_ends_with_an_error(start, bench, tiny, tmp_path):
    path, words = tiny('method = ["patient", "nan_scores"]')
    (tmp_path / "gate").touch()
    where = [*words, "--out", tmp_path / "out"]
    code, out, err = finish(start("sweep", path, "--cluster", "local", "--wait", *where))
    assert code == 1
    assert err.splitlines()[-1] == "bench: error: 1 of 2 runs are not done: 1 done, 1 failed"
    (failed,) = [one for one in records(tmp_path / "out").values() if one["status"] != "ok"]
    assert re.search(rf"^failed: {failed['id']} .*not finite", out, re.M)
    code, out, err = bench("sweep", path, "--cluster", "local", *where)
    assert (code, out) == (0, "2 runs: 0 submitted now; before: 1 done, 1 failed\n")
    assert "--retry failed" in err
    code, out, err = bench("sweep", path, "--cluster", "local", "--retry", "failed", "--dry-run", *where)
    assert err == "1 of 2 runs would be submitted\n"
    assert failed["id"] in out


@pytest.mark.slow
def test_a_job_in_this_process_for_debugging(start, tiny, tmp_path):
    _, words = tiny("")
    (tmp_path / "gate").touch()
    run = ["-a", "two_layers", "-d", "tiny", "--recipe", "synthetic", "--epochs", 2, "--finetune-epochs", 1]
    run += [*words, "--cluster", "debug", "--out"]
    good = start("run", "-m", "patient", *run, tmp_path / "good")
    bad = start("run", "-m", "nan_scores", *run, tmp_path / "bad")
    code, out, err = finish(good)
    assert code == 0, err
    (done,) = records(tmp_path / "good").values()
    assert (done["status"], done["job"]["cluster"]) == ("ok", "debug")
    code, out, err = finish(bad)
    assert code == 1
    assert "(Pdb)" in out  # it ends at once: nobody is there to ask
    assert "not finite" in err.splitlines()[-1]
    (failed,) = records(tmp_path / "bad").values()
    assert (failed["status"], failed["job"]["cluster"]) == ("failed", "debug")


# --- before anything was submitted ---------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
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
        (["status"], 2, "nothing was submitted with --out results"),
        (["status", "nobody"], 2, "nobody: no run of that id"),
        (["status", "none.toml"], 2, "sweep none.toml: No such file"),
        (["status", "some.toml", "--shard", "x"], 2, "--shard x"),
        (["cancel"], 2, "SWEEP|RUN"),
        (["cancel", "nobody"], 2, "nobody: no run of that id"),
        (["logs"], 2, "RUN"),
        (["logs", "nobody"], 2, "nobody: no run of that id"),
    ],
)
def test_wrong_words_and_places(bench, tmp_path, monkeypatch, words, code, said):
    write(tmp_path / "some.toml", DIGITS)
    write(tmp_path / "bad.toml", "tiem = 3")
    write(tmp_path / "file", "in the way")
    monkeypatch.setenv("PATH", "")
    got, out, err = bench(*words)
    assert (got, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("batch.json"))


# --- without handing over ------------------------------------------------------------------------------------


def test_a_dry_run_for_slurm_needs_no_slurm(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    path = write(tmp_path / "some.toml", DIGITS)
    profile = write(tmp_path / "mine.toml", 'partition = "gpu"\ntime = "2:00:00"\nruns_per_job = 2')
    command = ["sweep", path, "--cluster", "slurm", "--profile", profile, "--dry-run", "--out", tmp_path / "out"]
    code, out, err = bench(*command)
    assert (code, err) == (0, "5 of 5 runs would be submitted\n")
    titles = [line for line in out.splitlines() if line.startswith("### ")]
    assert titles == ["### some: 2 bases in 2 jobs", "### some: 5 runs in 3 jobs"]
    assert out.count("#SBATCH --partition=gpu") == out.count("#SBATCH --time=120") == 2
    assert "#SBATCH --array=0-2%3" in out
    ids = [run["id"] for run in json.loads(bench("status", path, "--json", "--out", tmp_path / "out")[1])["runs"]]
    listed = [line.split() for line in out.splitlines() if re.match(r"# \d: [0-9a-f]{12}-s", line)]
    assert sorted(words[2] for words in listed) == sorted(ids)
    assert sorted(words[1] for words in listed) == ["0:", "0:", "1:", "1:", "2:"]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_for_this_machine(bench, tmp_path):
    path = write(tmp_path / "some.toml", DIGITS)
    code, out, err = bench("sweep", path, "--cluster", "local", "--jobs", 3, "--dry-run", "--out", tmp_path / "out")
    assert (code, err) == (0, "5 of 5 runs would be submitted\n")
    first, *lines = out.splitlines()
    assert first == "### some: 5 runs and 2 bases in 3 jobs"
    assert len(lines) == 7  # all processes have the same runs: they are listed once
    assert sum("base of mlp_40_40 on digits" in line for line in lines) == 2
    assert sum("l1_norm on mlp_40_40, digits, keeping 0.5 of the MACs, seed" in line for line in lines) == 2
    assert not (tmp_path / "out").exists()


# --- with a cluster in memory --------------------------------------------------------------------------------


class Fake:
    """A cluster: takes everything, unless it is to refuse."""

    def __init__(self):
        self.alive, self.ended, self.after, self.refuses, self.silent = {}, {}, [], None, False

    def max_array_size(self):
        return 1001

    def submit(self, batch, profile, after):
        if self.refuses:
            raise SetupError(self.refuses)
        number, count = 100 + len(self.after), len(batch.elements)
        ids = (str(number),) if count == 1 else tuple(f"{number}_{k}" for k in range(count))
        self.alive |= dict.fromkeys(ids, (WAITING, "Resources"))
        self.after.append(after)
        return replace(batch, jobs=ids)

    def live(self, batches):
        if self.silent:
            raise SetupError("SLURM does not answer")
        return {job: self.alive[job] for batch in batches for job in batch.jobs if job in self.alive}

    def ends(self, jobs):
        return {job: self.ended[job] for job in jobs if job in self.ended}

    def cancel(self, batches, jobs):
        for job in jobs:
            self.ended[job] = "CANCELLED by 0"
            del self.alive[job]

    def withdraw(self, batch):
        pass


@pytest.fixture
def slurm(monkeypatch):
    fake = Fake()
    for module in (launch, states):
        monkeypatch.setattr(module, "cluster_of", lambda name: fake)
    monkeypatch.setattr(launch, "Slurm", Fake)
    monkeypatch.setattr(cluster, "POLL_S", 0.01)
    return fake


@pytest.fixture
def sweep(slurm, bench, tmp_path):
    """``bench sweep some.toml --cluster slurm``; ``sweep.specs`` are its runs."""
    path = write(tmp_path / "some.toml", DIGITS)

    def run(*words, out=tmp_path / "out"):
        return bench("sweep", path, "--cluster", "slurm", "--out", out, *words)

    run.specs = sweep_command.specs_of(path, parser().parse_args(["sweep", str(path), "--cluster", "slurm"]))
    return run


def leave(out, spec, seconds=60.0):
    """The record of a finished run."""
    record.write(record.path_of(out, spec), finished(spec, seconds))


def test_what_is_told_of_a_submission(sweep, slurm, tmp_path):
    code, out, err = sweep()
    assert (code, err) == (0, "")
    tokens = [batch.token for batch in sorted(batches(tmp_path / "out"), key=lambda batch: batch.jobs)]
    assert out.splitlines()[:3] == [
        f"submitted 2 bases as job 100 (some-{tokens[0]}, an array of 2)",
        f"submitted 5 runs as job 101 (some-{tokens[1]}, an array of 5)",
        "5 runs: 5 submitted now",
    ]
    assert slurm.after == [[], ["100"]]
    assert sweep()[1] == "5 runs: 0 submitted now; before: 5 waiting\n"


def test_what_is_told_of_a_submission_as_json(sweep, tmp_path):
    code, out, err = sweep("--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["runs"], found["before"]["missing"]) == (5, 5)
    assert [len(one["jobs"]) for one in found["submitted"]] == [2, 5]
    assert set(found["submitted"][1]["tasks"]) == {spec.id for spec in sweep.specs}
    assert all(Path(one["log"]).is_dir() for one in found["submitted"])


@pytest.mark.parametrize("words", [[], ["--shard", "2/3"], ["--data-dir", "some where"]])
def test_the_command_to_follow_with_means_the_same_runs(sweep, bench, words):
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


def test_a_refusal_is_one_line(sweep, slurm):
    slurm.refuses = "sbatch refused: Invalid account or account/partition combination specified"
    code, out, err = sweep()
    assert (code, out) == (3, "")
    assert err.startswith("bench: error: sbatch refused: Invalid account")
    assert len(err.splitlines()) == 1


def test_a_silent_cluster_is_told(sweep, slurm, bench, tmp_path):
    sweep()
    slurm.silent = True
    code, out, err = sweep()
    assert (code, out, err) == (3, "", "bench: error: SLURM does not answer\n")
    code, out, err = bench("status", "some.toml", "--out", tmp_path / "out")
    assert (code, err) == (0, "bench: SLURM does not answer\n")
    assert out.splitlines()[0].split()[-1] == "unknown"
    assert out.count("unknown: ") == 5


def test_status_tells_of_every_kind_what_there_is_to_know(sweep, slurm, bench, tmp_path):
    out = tmp_path / "out"
    sweep()
    done, failed, running, lost, waiting = sweep.specs
    (runs,) = [batch for batch in batches(out) if len(batch.jobs) == 5]
    job = dict(zip([keys[0] for keys in runs.elements], runs.jobs, strict=True))
    leave(out, done, seconds=600)
    leave_failure(failed, Options(out=out), SetupError("no data at all"))
    slurm.alive[job[running.id]] = (RUNNING, "")
    notes = journal_of(out, running.id)
    notes.add("start", batch=runs.token, job=job[running.id])
    notes.add("epoch", done=3, of=8)
    for gone in (done, failed, lost):
        del slurm.alive[job[gone.id]]
    slurm.ended[job[lost.id]] = "OUT_OF_MEMORY (exit 0:125)"
    write(runs.log(job[lost.id]), "one\ntwo\nthree\nfour\n")
    code, text, err = bench("status", "some.toml", "--out", out)
    assert (code, err) == (0, "")
    assert f"running: {running.id}" in text
    assert f"epoch 3/8, job {job[running.id]}" in text
    assert re.search(rf"^failed: {failed.id} .*: no data at all$", text, re.M)
    assert re.search(rf"^lost: {lost.id} .*OUT_OF_MEMORY.*job {job[lost.id]}\n +two\n +three\n +four$", text, re.M)
    assert "Resources (1)" in text
    assert waiting.id not in text
    assert waiting.id in bench("status", "some.toml", "--out", out, "--all")[1]
    assert re.search(r"^about \d+ min left with 1 at a time$", text, re.M)
    code, _, err = sweep()
    assert "2 failed or lost; --retry failed submits them again" in err
    assert sweep("--retry", "failed")[1].splitlines()[-2] == "5 runs: 2 submitted now; before: " + (
        "1 done, 1 running, 1 waiting, 1 failed, 1 lost"
    )


def test_long_lists_are_cut_unless_all_is_wanted(slurm, bench, tmp_path):
    path = write(tmp_path / "many.toml", DIGITS.replace("0-1", "0-14"))
    bench("sweep", path, "--cluster", "slurm", "--out", tmp_path / "out")
    slurm.alive.clear()
    text = bench("status", path, "--out", tmp_path / "out")[1]
    assert text.count("lost: ") == 20 + 1
    assert "lost: 11 more; --all lists them" in text
    assert bench("status", path, "--out", tmp_path / "out", "--all")[1].count("lost: ") == 31


def test_logs(sweep, slurm, bench, tmp_path):
    sweep()
    out = tmp_path / "out"
    (runs,) = [batch for batch in batches(out) if len(batch.jobs) == 5]
    key, log = runs.elements[2][0], runs.log(runs.jobs[2])
    code, _, err = bench("logs", key, "--out", out)
    assert (code, err) == (1, f"bench: error: {key}: its job has written nothing so far\n")
    write(log, "".join(f"line {k}\n" for k in range(100)))
    assert bench("logs", key, "--out", out) == (0, "".join(f"line {k}\n" for k in range(60, 100)), f"# {log}\n")
    assert bench("logs", key, "--out", out, "-n", 2)[1] == "line 98\nline 99\n"
    assert bench("logs", key, "--out", out, "--lines", 500)[1] == log.read_text()
    log.write_bytes(b"not \xff utf-8\n")
    assert bench("logs", key, "--out", out)[:2] == (0, "not \ufffd utf-8\n")
    two = key.partition("-")[0]
    seeds = [other for (other,) in runs.elements if other.startswith(two)]
    code, _, err = bench("logs", two, "--out", out)
    assert (code, err) == (
        (2, f"bench: usage: {two}: 2 runs have such an id; give more of it\n") if len(seeds) > 1 else (0, f"# {log}\n")
    )


@pytest.mark.parametrize("lines", ["-1", "x", "1.5"])
def test_wrong_numbers_of_lines(sweep, bench, tmp_path, lines):
    sweep()
    (runs,) = [batch for batch in batches(tmp_path / "out") if len(batch.jobs) == 5]
    write(runs.log(runs.jobs[0]), "one\n")
    code, out, err = bench("logs", runs.elements[0][0], "--out", tmp_path / "out", "-n", lines)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_waiting_tells_what_changes_and_ends_with_the_last_job(sweep, slurm, monkeypatch, tmp_path):
    out, pauses = tmp_path / "out", []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            for spec in sweep.specs[:3]:
                leave(out, spec)
        if len(pauses) == 4:
            for spec in sweep.specs[3:]:
                leave(out, spec)

    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=pause))
    code, text, err = sweep("--wait")
    assert code == 0
    assert len(pauses) == 4
    assert err.splitlines() == [
        "bench: following 5 runs: 5",
        "bench: 5 waiting",
        "bench: 3 done, 2 waiting",
        "bench: 5 done",
    ]
    assert re.search(r"^5 runs +5 +0 +0 +0 +0$", text, re.M)
    assert sweep("--wait")[0] == 0  # there is nothing to wait for


def test_waiting_ends_when_jobs_are_lost_and_says_so(sweep, slurm, monkeypatch):
    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=lambda seconds: slurm.alive.clear()))
    code, text, err = sweep("--wait")
    assert code == 1
    assert err.splitlines()[-1] == "bench: error: 5 of 5 runs are not done: 5 lost"
    assert text.count("lost: ") == 5


def test_waiting_goes_on_while_the_cluster_is_silent(sweep, slurm, monkeypatch, tmp_path):
    pauses = []

    def pause(seconds):
        pauses.append(slurm.silent)
        slurm.silent = len(pauses) < 3
        if not slurm.silent:
            for spec in sweep.specs:
                leave(tmp_path / "out", spec)

    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=pause))
    assert sweep("--wait")[0] == 0
    assert pauses == [False, True, True]


def test_ctrl_c_while_waiting_says_how_to_end_the_jobs(sweep, slurm, bench, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "time", SimpleNamespace(sleep=interrupt))
    code, _, err = sweep("--wait")
    assert code == 130
    told = err.splitlines()[-1]
    assert told.startswith("bench: the jobs go on; to end them: python -m bench cancel ")
    assert len(slurm.alive) == 7
    assert bench(*shlex.split(told.partition("python -m bench ")[2]))[0] == 0
    assert slurm.alive == {}


def test_some_runs_of_several_are_cancelled_by_the_start_of_their_id(sweep, slurm, bench, tmp_path):
    sweep()
    spec = next(spec for spec in sweep.specs if spec.method == "random" and spec.seed == 1)
    assert bench("cancel", spec.id, "--out", tmp_path / "out")[0] == 0
    counts = json.loads(bench("status", "some.toml", "--json", "--out", tmp_path / "out")[1])["counts"]
    assert (counts["missing"], counts["waiting"]) == (1, 4)
    assert bench("cancel", spec.id, "--out", tmp_path / "out")[1] == "0 jobs ended\n"


def test_a_part_of_a_sweep(sweep, slurm):
    for part, count in (("1/3", 1), ("2/3", 2), ("3/3", 2)):
        assert f"{count} submitted now" in sweep("--shard", part)[1]
    assert sweep()[1] == "5 runs: 0 submitted now; before: 5 waiting\n"
