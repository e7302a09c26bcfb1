"""Sweeps on this machine as a user types them, in processes of their own."""

import json
import os
import re
import shlex
import signal
import subprocess
import threading

import pytest
from support.command_tools import DIGITS, TINY, jobs_below, write
from support.paths import PLUGINS
from support.waiting import until

from bench.records import store
from slurm.batch import attempts, batches
from slurm.journal import attempts_of
from slurm.local import Local


@pytest.fixture
def tiny(tmp_path):
    """A sweep's file on tiny data, and the words that belong to it; its runs may wait for the gate."""

    def make(text):
        words = [word for name in ("small", "broken", "patient") for word in ("--plugin", PLUGINS / f"{name}.py")]
        return write(tmp_path / "tiny.toml", TINY + text), words

    return make


def finish(process):
    """Exit code, stdout and stderr of a started command, without what says that torch is being loaded."""
    code = process.wait(timeout=120)
    return code, *(file.read_text().replace("bench: loading torch\n", "") for file in process.files)


def records(out):
    found = [store.load(file) for file in store.find(out / "records")]
    return {one.id: one for one in found}


@pytest.mark.slow
def test_local_sweep_gives_the_records_of_one_in_this_process(start, bench, tmp_path):
    path, local, inline = write(tmp_path / "some.toml", DIGITS), tmp_path / "local", tmp_path / "inline"
    going = start("sweep", path, "--cluster", "local", "--jobs", 2, "--wait", "--threads", 1, "--out", local)
    assert bench("sweep", path, "--cluster", "inline", "--threads", 1, "-q", "--out", inline)[0] == 0
    code, out, err = finish(going)
    assert code == 0, err
    done, expected = records(local), records(inline)
    assert len(done) == 5
    assert {key: store.without_timing(one) for key, one in done.items()} == {
        key: store.without_timing(one) for key, one in expected.items()
    }
    begun = attempts_of(local / "jobs")  # of runs and bases: each was begun once
    assert [len(begun), *{len(those) for those in begun.values()}] == [7, 1]
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
    assert err.splitlines() == [f"# {batch.log(done[next(iter(done))].job.id)}"]  # of the one that had the run
    assert len(out.splitlines()) == 3
    assert "measuring accuracy" in out
    until(lambda: not jobs_below(tmp_path))


@pytest.mark.slow
def test_interrupted_wait_leaves_the_jobs_alone(start, bench, tiny, tmp_path):
    path, words = tiny('method = "patient"')
    where = [*words, "--out", tmp_path / "out"]
    waiting = start(
        *("sweep", path, "--cluster", "local", "--wait", *where),
        start_new_session=True,  # as a terminal does: the signal goes to all of its processes, the jobs' too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    (run,) = json.loads(bench("status", path, "--json", *where)[1])["runs"]
    until(lambda: any(attempt.saves == 3 for attempt in attempts(tmp_path / "out", run["id"])))  # base, first epoch
    os.killpg(waiting.pid, signal.SIGINT)
    code, _, err = finish(waiting)
    assert code == 130
    last = err.splitlines()[-1]
    assert last.startswith("bench: the jobs continue; to end them: python -m bench cancel ")
    assert "Traceback" not in err
    (run,) = json.loads(bench("status", path, "--json", *where)[1])["runs"]
    assert (run["state"], run["done"], run["total"]) == ("running", 3, 5)
    (tmp_path / "gate").touch()
    until(lambda: not jobs_below(tmp_path))
    assert records(tmp_path / "out")[run["id"]].status == "ok"
    (attempt,) = attempts(tmp_path / "out", run["id"])
    assert attempt.ended == "done"
    cancelled = shlex.split(last.partition("python -m bench ")[2])
    assert bench(*cancelled)[:2] == (0, "0 jobs ended\n")


@pytest.mark.slow
def test_output_of_a_submission_ends_before_its_jobs(start, tiny, tmp_path):
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
def test_cancelled_runs_end_and_same_sweep_resumes_them(start, bench, tiny, tmp_path):
    path, words = tiny('method = "patient"\nseeds = "0-2"')
    where = [*words, "--out", tmp_path / "out"]
    code, out, err = finish(start("sweep", path, "--cluster", "local", "--jobs", 2, *where))
    assert (code, err) == (0, "")
    follow = shlex.split(re.search(r"^follow: python -m bench (.*)$", out, re.M)[1])

    def followed():
        return json.loads(bench(*follow, "--json")[1])

    assert followed()["counts"]["waiting"] + followed()["counts"]["running"] == 3
    ids = [run["id"] for run in followed()["runs"]]
    # both jobs are at one
    until(lambda: sum(attempt.saves > 0 for key in ids for attempt in attempts(tmp_path / "out", key)) == 2)
    assert (followed()["counts"]["running"], followed()["counts"]["waiting"]) == (2, 1)
    assert bench(*follow)[1].count("running: ") == 2
    assert bench("logs", followed()["runs"][0]["id"], "--out", tmp_path / "out")[0] == 0
    (batch,) = batches(tmp_path / "out")
    assert bench("cancel", *follow[1:])[:2] == (0, f"2 jobs ended: {', '.join(batch.jobs)}\n")
    until(lambda: not jobs_below(tmp_path))
    assert Local().live([batch]) == {}
    assert [one.status for one in records(tmp_path / "out").values()] == ["interrupted"] * 2
    assert followed()["counts"]["missing"] == 3  # those that had not begun too: somebody wanted it so
    assert bench("sweep", path, "--cluster", "local", "--dry-run", *where)[1].count("# ") >= 3


@pytest.mark.slow
def test_single_runs_as_jobs_of_this_machine_and_for_debugging(start, bench, tiny, tmp_path):
    _, words = tiny("")
    (tmp_path / "gate").touch()
    what = ["-a", "two_layers", "-d", "tiny", "--recipe", "synthetic", "--epochs", 2, "--finetune-epochs", 1, *words]
    local = ["run", "-m", "patient", *what, "--set", "latency_batch=4", "--out", tmp_path / "local"]
    started = [
        start(*local, "--cluster", "local", "--wait"),
        start("run", "-m", "patient", *what, "--cluster", "debug", "--out", tmp_path / "good"),
        start("run", "-m", "nan_scores", *what, "--cluster", "debug", "--out", tmp_path / "bad"),
    ]
    (code, out, err), good, bad = map(finish, started)
    assert code == 0, err
    ((key, done),) = records(tmp_path / "local").items()
    assert done.status == "ok"
    assert re.search(r"^1 runs? +1 +0 +0 +0 +0$", out, re.M)
    assert bench("status", key[:6], "--out", tmp_path / "local")[0] == 0
    assert bench(*local)[1].rstrip().endswith(f"{key}.json")  # here it is done as well
    assert good[0] == 0, good[2]
    assert bad[0] == 1
    assert "(Pdb)" in bad[1]  # it ends at once: nobody is there to ask
    assert "not finite" in bad[2].splitlines()[-1]
    for name, status in (("good", "ok"), ("bad", "failed")):
        (done,) = records(tmp_path / name).values()
        assert (done.status, done.job.cluster) == (status, "debug")


@pytest.mark.slow
def test_following_runs_of_which_one_fails_ends_with_an_error(start, bench, tiny, tmp_path):
    path, words = tiny('method = ["patient", "nan_scores"]')
    (tmp_path / "gate").touch()
    where = [*words, "--out", tmp_path / "out"]
    code, out, err = finish(start("sweep", path, "--cluster", "local", "--wait", *where))
    assert code == 1
    assert err.splitlines()[-1] == "bench: error: 1 of 2 runs are not done: 1 done, 1 failed"
    (failed,) = [one for one in records(tmp_path / "out").values() if one.status != "ok"]
    assert re.search(rf"^failed: {failed.id} .*not finite", out, re.M)
    code, out, err = bench("sweep", path, "--cluster", "local", *where)
    assert (code, out) == (0, "2 runs: 0 submitted now; before: 1 done, 1 failed\n")
    assert "--retry failed" in err
    code, out, err = bench("sweep", path, "--cluster", "local", "--retry", "failed", "--dry-run", *where)
    assert err == "1 of 2 runs would be submitted\n"
    assert failed.id in out
