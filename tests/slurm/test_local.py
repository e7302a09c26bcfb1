"""Jobs as processes of this machine: which are alive, how they end, what they hear, which GPU is theirs."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.local import local as submitit_local
from support import batches as made_batches
from support.batches import spec_of
from support.command_tools import jobs_below
from support.paths import ROOT
from support.waiting import until

from bench.errors import SetupError
from slurm import local
from slurm.batch import batches
from slurm.cluster import RUNNING
from slurm.clusters import cluster_of
from slurm.local import Debug, Local
from slurm.place import job_lock
from slurm.profile import Profile
from slurm.states import LOST, WAITING, query_states


def batch_of(out, *jobs, seed=0, device="cpu", elements=None):
    """A batch of this machine, with one run, whose jobs are these, or so many that were not started."""
    options = {"device": device}
    facts = {"cluster": "local", "minutes": None, "count": elements or len(jobs), "jobs": jobs, "options": options}
    batch = made_batches.batch_of(out, spec_of(seed), **facts)
    batch.write()
    return batch


@pytest.fixture
def process():
    """Starts processes with these arguments, which do nothing; they are ended after the test."""
    started = []

    def start(*words):
        command = [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(100)", *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def controlled(tmp_path, process):
    """A batch with one job, and its process, with the arguments that submitit gives it."""
    batch = batch_of(tmp_path / "out", elements=1)
    running = process("-m", "submitit.local._local", batch.folder)
    batch = replace(batch, jobs=(str(running.pid),))
    batch.write()
    return batch, running


# --- which are alive -----------------------------------------------------------------------------------------


def test_job_is_alive_as_long_as_its_process(controlled, monkeypatch):
    batch, running = controlled
    monkeypatch.setenv("COLUMNS", "40")  # ps cuts its lines to it
    assert Local().live([batch]) == {batch.jobs[0]: (RUNNING, "")}
    assert Local().live([]) == {}
    running.kill()
    until(lambda: Path(f"/proc/{running.pid}/stat").read_text().split()[2] == "Z")
    assert Local().live([batch]) == {}  # nobody has asked for its exit code yet
    running.wait()
    assert Local().live([batch]) == {}


def test_another_process_with_its_number_is_not_the_job(tmp_path, process, controlled):
    other = process("-m", "submitit.local._local", tmp_path / "out" / "jobs" / "of_another_batch")
    batch = batch_of(tmp_path / "other", str(other.pid))
    assert Local().live([batch]) == {}
    Local().cancel([batch], batch.jobs)
    time.sleep(0.1)
    assert other.poll() is None
    assert Local().live([replace(batch, jobs=("debug0",))]) == {}
    batch, _ = controlled
    old = batch_of(batch.out, *batch.jobs, seed=1)  # its number was given out again after a restart of the machine
    replace(old, submitted_at="2020-01-01T00:00:00+00:00").write()
    assert [state.state for state in query_states([spec_of(0), spec_of(1)], batch.out).states] == [WAITING, LOST]


def test_job_is_alive_while_it_works_without_its_controller(tmp_path):
    batch = batch_of(tmp_path, "4000000")
    lock = job_lock(batch, "4000000")
    assert Local().live([batch]) == {}
    with lock:
        assert Local().live([batch]) == {"4000000": (RUNNING, "")}
    assert Local().live([batch]) == {}
    assert Local().ends(["4000000"]) == {}


def test_output_folder_may_be_named_in_another_way(controlled, tmp_path, monkeypatch):
    _, running = controlled
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "next").mkdir()
    monkeypatch.chdir(tmp_path / "next")
    for folder in (tmp_path / "link", Path("../out")):
        (batch,) = batches(folder)
        assert Local().live([batch]) == {str(running.pid): (RUNNING, "")}
    Local().cancel([batch], batch.jobs)
    assert running.wait(20) == -signal.SIGTERM


def test_jobs_are_found_without_the_ps_command(controlled, monkeypatch):
    """As in the slim images of containers."""
    batch, running = controlled
    monkeypatch.setenv("PATH", os.devnull)
    assert (type(cluster_of("local")), type(cluster_of("debug"))) == (Local, Debug)
    assert Local().live([batch]) == {batch.jobs[0]: (RUNNING, "")}
    Local().withdraw(batch)
    assert running.wait(20) == -signal.SIGTERM


# --- how they end --------------------------------------------------------------------------------------------


def test_cancel_ends_named_jobs_and_withdraw_those_of_its_batch(tmp_path, process):
    batch, other = batch_of(tmp_path, elements=3), batch_of(tmp_path, elements=1)
    one, two, three = (process("-m", "submitit.local._local", batch.folder) for _ in range(3))
    others = process("-m", "submitit.local._local", other.folder)
    named = replace(batch, jobs=(str(one.pid), str(two.pid)))
    Local().cancel([named], named.jobs[:1])
    assert one.wait(20) == -signal.SIGTERM
    time.sleep(0.1)
    assert two.poll() is None
    Local().cancel([named], named.jobs)  # the first is gone: that is no error
    assert two.wait(20) == -signal.SIGTERM
    Local().withdraw(batch)  # its submission was cut off: the third is named nowhere
    assert three.wait(20) == -signal.SIGTERM
    time.sleep(0.1)
    assert others.poll() is None
    Local().withdraw(batch)


# --- what they hear ------------------------------------------------------------------------------------------

TELLS = """
import os, signal, sys
deaf = [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP)]
apart = [os.path.samestat(os.fstat(stream), os.stat(os.devnull)) for stream in (0, 1, 2)]
open(sys.argv[1], "w").write(repr(deaf + apart))
"""


def test_jobs_ignore_ctrl_c_and_hold_no_stream_of_a_submission(tmp_path, monkeypatch):
    def start(**what):
        subprocess.run([sys.executable, "-S", "-c", TELLS, str(tmp_path / "told")], check=True)
        return SimpleNamespace(pid=4_000_000, poll=lambda: None)

    def own():
        streams = [(os.fstat(stream).st_dev, os.fstat(stream).st_ino) for stream in (0, 1, 2)]
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)], streams

    monkeypatch.setattr(submitit_local, "start_controller", start)
    before, files = own(), len(os.listdir("/proc/self/fd"))
    Local().submit(batch_of(tmp_path, elements=1), Profile(), [])
    assert (tmp_path / "told").read_text() == repr([True] * 5)
    assert own() == before
    assert len(os.listdir("/proc/self/fd")) == files


CLOSED = """
import sys
from slurm.local import Local
from slurm.batch import Batch
from slurm.profile import Profile
from pathlib import Path
print(Local().submit(Batch.load(Path(sys.argv[1])), Profile(), []).jobs)
"""


@pytest.mark.slow
def test_submission_may_have_no_input(tmp_path):
    """As of a daemon."""
    batch = batch_of(tmp_path / "out", elements=1)
    command = [sys.executable, "-c", CLOSED, str(batch.file)]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], cwd=ROOT, capture_output=True, text=True)
    for process in jobs_below(tmp_path / "out"):  # looked for without the help of the code under test
        os.kill(process, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("('")


# --- what they are given -------------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch):
    """What each process that submitit would start is given."""
    started = []

    def start(**what):
        started.append(what)
        return SimpleNamespace(pid=4_000_000 + len(started), poll=lambda: None)

    monkeypatch.setattr(submitit_local, "start_controller", start)
    return started


def test_each_job_is_a_process_and_its_number_is_the_jobs(tmp_path, given):
    batch = batch_of(tmp_path, elements=3)
    accepted = Local().submit(batch, Profile(), [])
    assert accepted == replace(batch, jobs=("4000001", "4000002", "4000003"))
    assert [what["tasks_per_node"] for what in given] == [1, 1, 1]
    assert {what["folder"] for what in given} == {batch.folder}
    assert min(what["timeout_min"] for what in given) > 60 * 24 * 300  # no limit
    assert [file.name for file in batch.folder.iterdir()] == ["batch.json"]
    words = ["-u", "-m", "slurm.job", str(batch.folder)]
    assert [shlex.split(what["command"])[1:] for what in given] == [[*words, str(k)] for k in range(3)]
    assert all(accepted.log(job).name.startswith(job) for job in accepted.jobs)


@pytest.mark.parametrize(
    ("device", "visible", "gpus", "given_names"),
    [
        ("auto", None, 2, ["0", "1", "0"]),
        ("auto", "2,5", 2, ["2", "5", "2"]),  # as of an allocation
        ("auto", None, 0, ["", "", ""]),
        ("cpu", None, 2, ["", "", ""]),
        ("auto", "GPU-8932f937,GPU-fa2e84b1", 2, None),
    ],
)
def test_jobs_take_the_gpus_in_turn(tmp_path, given, monkeypatch, device, visible, gpus, given_names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(local, "visible_gpus", lambda: gpus)
    batch = batch_of(tmp_path, elements=3, device=device)
    if given_names is None:  # GPUs that go by name cannot be shared out
        with pytest.raises(SetupError, match="CUDA_VISIBLE_DEVICES=GPU-8932f937"):
            Local().submit(batch, Profile(), [])
    else:
        Local().submit(batch, Profile(), [])
    assert [what["cuda_devices"] for what in given] == (given_names or [])
