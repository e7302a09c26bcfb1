"""What SLURM is given: the sbatch scripts of two profiles, and its commands, with small programs in their place.

The first is compared with ``golden/gpu.sh``. After a change that is meant, look at the difference and renew it:
``RENEW_GOLDEN=1 python -m pytest tests/slurm/test_scripts.py; git diff tests/slurm/golden``.
"""

import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.script_tools import batch_of, flags

from bench.errors import SetupError
from slurm import clusters
from slurm.cluster import RUNNING, WAITING, TooMany
from slurm.clusters import Slurm, cluster_of, expand
from slurm.profile import load_profile

GOLDEN = Path(__file__).parent / "golden" / "gpu.sh"
GPU = """
partition = "gpu"
account = "my_project"
qos = "high"
constraint = "a100|h100"
gpus = 1
cpus = 4
mem_gb = 16
time = "4:00:00"
warning_s = 120
at_once = 2
setup = ["module load cuda", 'source "$HOME/my env/bin/activate"']
sbatch = { mail-type = "END,FAIL", nice = 100, exclusive = true, comment = "two words" }
"""
CPU = """
nodelist = "n[1-4]"
exclude = "n3"
reservation = "today"
cpus = 1
mem_gb = 1.5
time = 90
runs_per_job = 4
runs_at_once = 2
python = "apptainer exec image.sif python"
srun = ["--cpu-bind=cores", "--mpi=none"]
"""


@pytest.fixture
def script(tmp_path):
    """The script of a profile's text."""

    def write(text, elements=1, after=()):
        path = tmp_path / "profile.toml"
        path.write_text(text)
        profile = load_profile(path)
        return Slurm().script(batch_of(tmp_path / "out", profile, elements), profile, [list(after)] * elements)

    return write


# --- scripts -------------------------------------------------------------------------------------------------


def test_gpu_script_is_the_one_agreed_on(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # SLURM is not needed
    text = script(GPU, 3)
    for concrete, placeholder in (
        (str(tmp_path / "out"), "OUT"),
        (shlex.quote(sys.executable), "PYTHON"),
        ("0123abcd", "TOKEN"),
    ):
        text = text.replace(concrete, placeholder)
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    assert not (tmp_path / "out").exists()
    assert flags(text)["open-mode"] == "append"  # the log of a job that is queued again continues


def test_cpu_script_has_its_options_and_no_set_up(script, tmp_path):
    text = script(CPU, 1, ["12", "15"])
    found = flags(text)
    assert "wckey" not in found  # sites with accounting keys refuse one that they do not know
    folder = tmp_path / "out" / "jobs" / "0123abcd"
    assert found == {
        **{"nodelist": "n[1-4]", "exclude": "n3", "reservation": "today", "dependency": "afterany:12:15"},
        **{"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "2", "mem": "1536M", "time": "90"},
        **{"signal": "USR2@90", "requeue": "", "open-mode": "append", "job-name": "some-0123abcd"},
        "output": f"{folder}/%j_0_log.out",
    }
    # Since SLURM 22.05 srun does not take over --cpus-per-task from sbatch: without it a process gets one core.
    python = f"apptainer exec image.sif python -u -m slurm.job {folder}"
    (line,) = (line for line in text.splitlines() if line.startswith("srun "))
    assert line.endswith(f" --cpus-per-task=2 --cpu-bind=cores --mpi=none {python}")
    assert "ERR" not in text


NODE = "gpus = 8\nruns_at_once = 8\nruns_per_job = 8\nmem_gb = 64\ncpus = 3"


@pytest.mark.parametrize(
    ("profile", "processes", "asked"),
    [
        (NODE, 8, (24, "8", None, "65536M")),
        (NODE, 1, (3, "1", None, "8192M")),
        ("gpus = 2\nruns_at_once = 8\nruns_per_job = 8", 3, (6, "1", None, None)),
        ('gres = "gpu:a100:4"\nruns_at_once = 4\nruns_per_job = 4', 2, (4, None, "gpu:a100:2", None)),
        ('gres = "gpu:a100"\nruns_at_once = 4\nruns_per_job = 4', 2, (4, None, "gpu:a100", None)),
        ("gpus = 3\nmem_gb = 0.25", 1, (2, "3", None, "256M")),
    ],
)
def test_job_with_fewer_processes_asks_for_their_share(tmp_path, profile, processes, asked):
    """As that of a single base, whose runs have a whole node."""
    file = tmp_path / "profile.toml"
    file.write_text(profile)
    made = load_profile(file)
    found = flags(Slurm().script(batch_of(tmp_path / "out", made, processes=processes), made, [[]]))
    cpus, gpus, gres, mem = asked
    assert (found["cpus-per-task"], found["ntasks-per-node"]) == (str(cpus), "1")
    assert (found.get("gpus-per-node"), found.get("gres"), found.get("mem")) == (gpus, gres, mem)


def test_script_has_nothing_that_was_not_asked_for(script):
    found = flags(script('time = 2\nsbatch = { mail-user = "me@here" }'))
    for name in ("partition", "account", "qos", "constraint", "gres", "gpus-per-node", "mem", "nodelist", "exclude"):
        assert name not in found
    assert not {"array", "error", "dependency"} & set(found)
    assert (found["time"], found["signal"], found["mail-user"]) == ("2", "USR2@40", "me@here")
    for after, jobs in ((["12_3"], "12_3"), (["12_0", "12_3", "15"], "12:15")):  # whole arrays, for short
        assert flags(script("", after=after))["dependency"] == f"afterany:{jobs}"  # however these end


def test_log_is_where_the_batch_has_it(script, tmp_path):
    """SLURM's placeholders filled in."""
    profile = load_profile(None)
    for elements, job, filled in ((1, "12", {"%j": "12"}), (3, "12_2", {"%A": "12", "%a": "2"})):
        text = script("", elements)
        for path in (flags(text)["output"], re.search(r"--output (\S+)", text)[1]):  # the two are one file
            for placeholder, value in {**filled, "%t": "0"}.items():
                path = path.replace(placeholder, value)
            assert path == str(batch_of(tmp_path / "out", profile).log(job))


# --- its commands --------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script in the place of one of SLURM's commands; what it is called with is kept."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))  # a SLURM that is installed here is not to be found
    calls = tmp_path / "calls"

    def put(name, text):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{text}\n')
        file.chmod(0o755)

    def called():
        found = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return found

    put.called = called
    return put


@pytest.fixture
def batch(tmp_path):
    made = replace(batch_of(tmp_path / "out", load_profile(None), 3), jobs=("12_0", "12_1", "12_2"))
    made.folder.mkdir(parents=True)
    return made


def test_queue_is_asked_for_a_few_batches_at_a_time(program, batch):
    program("squeue", "echo '12_0|RUNNING|None'; echo '12_1|PENDING|Resources'; echo '12_2|COMPLETING|None'")
    assert Slurm().live([batch]) == {"12_0": (RUNNING, ""), "12_1": (WAITING, "Resources"), "12_2": (RUNNING, "")}
    (call,) = program.called()
    assert f"-n {batch.name}" in call
    assert {"-h", "-r"} <= set(call.split())
    program("squeue", "echo '12_0|REQUEUE_HOLD|job|requeued in held state'; echo '12_1|PENDING|None'")
    assert Slurm().live([batch]) == {"12_0": (WAITING, "job|requeued in held state"), "12_1": (WAITING, "")}
    program("squeue", "")
    program.called()
    assert Slurm().live([replace(batch, token=f"{k:08x}") for k in range(120)]) == {}
    names = [name for call in program.called() for name in call.split("-n ")[1].split()[0].split(",")]
    assert sorted(names) == sorted(f"some-{k:08x}" for k in range(120))
    assert max(map(len, names)) < 100
    for answer, size in (("MaxArraySize            = 5'; echo 'MaxArrayTasks = 3", 5), ("nothing of it", 1000)):
        program("scontrol", f"echo '{answer}'")
        assert Slurm().max_array_size() == size


def test_how_jobs_ended(program):
    lines = ["12_0|COMPLETED|0:0", "12_1|FAILED|1:0", "12_[2-3,5%2]|CANCELLED by 0|0:0", "14|TIMEOUT|0:0"]
    program("sacct", "\n".join(f"echo '{line}'" for line in lines))
    assert Slurm().ends(["12_0", "12_1", "12_2", "14"]) == {
        "12_0": "COMPLETED",
        "12_1": "FAILED (exit 1:0)",
        "12_2": "CANCELLED by 0",
        "12_3": "CANCELLED by 0",
        "12_5": "CANCELLED by 0",
        "14": "TIMEOUT",
    }
    (call,) = program.called()
    assert "-j 12,14" in call
    for state in ("RUNNING", "PENDING", "REQUEUED"):  # the accounting has not heard of the end
        program("sacct", f"echo '12_0|{state}|0:0'")
        assert Slurm().ends(["12_0"]) == {}


def test_whole_arrays_are_cancelled_at_once_others_by_job(program, batch):
    program("scancel", "")
    other = replace(batch, token="9", jobs=("15_0", "15_1", "15_2"))
    Slurm().cancel([batch, other], ["12_0", "12_1", "12_2", "15_1"])
    assert program.called() == ["scancel 12 15_1"]
    Slurm().cancel([batch, other], [])
    assert program.called() == []
    Slurm().withdraw(batch)
    assert program.called() == [f"scancel -n {batch.name}"]


def test_refusal_is_one_line_and_a_limit_is_another_kind(program, batch):
    for name in ("srun", "squeue", "scancel"):
        program(name, "")
    for text, kind in {
        "Batch job submission failed: Invalid account": SetupError,
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)": TooMany,
        "AssocMaxSubmitJobLimit\nsbatch: error: Job violates accounting/QOS policy": TooMany,
        "QOSMaxSubmitJobPerUserLimit": TooMany,
    }.items():
        program("sbatch", f'echo "sbatch: error: {text}" >&2; exit 1')
        with pytest.raises(SetupError) as caught:
            Slurm().submit(batch, load_profile(None), [[]] * 3)
        assert type(caught.value) is kind, text
        assert "\n" not in str(caught.value)
        assert kind is TooMany or "Invalid account" in str(caught.value)
        assert "sbatch: error" not in str(caught.value)


@pytest.fixture
def accepting(program, batch):
    """SLURM's programs, which accept everything; gives the script that was submitted."""
    program("srun", "")
    program("scontrol", "")
    program("sbatch", "/bin/cat $1 > $1.copy; echo 'Submitted batch job 34'")

    def submitted():
        (copy,) = batch.folder.glob("*.copy")
        text = copy.read_text()
        copy.unlink()
        return text

    return submitted


def test_submitted_script_is_that_of_a_dry_run(program, batch, accepting):
    profile = load_profile(None)
    single = replace(batch, elements=batch.elements[:1], count=1)
    for made, jobs, after in ((batch, ("34_0", "34_1", "34_2"), [["7"]] * 3), (single, ("34",), [[]])):
        assert Slurm().submit(replace(made, jobs=()), profile, after).jobs == jobs
        assert accepting() == Slurm().script(made, profile, after)
    assert [file.name for file in batch.folder.iterdir()] == ["34_submission.sh"]  # one file for all jobs
    assert not any(call.startswith("scontrol") for call in program.called())


def test_array_jobs_wait_for_their_own_jobs_only(program, batch, accepting):
    Slurm().submit(replace(batch, jobs=()), load_profile(None), [["7_0"], ["7_0"], ["7_1", "9"]])
    assert flags(accepting())["dependency"] == "afterany:7:9"  # until the lines below are done
    assert program.called()[1:] == [
        "scontrol update jobid=34_[0-1] dependency=afterany:7_0",
        "scontrol update jobid=34_2 dependency=afterany:7_1:9",
    ]
    program("scontrol", "echo 'Access denied' >&2; exit 1")
    assert Slurm().submit(replace(batch, jobs=()), load_profile(None), [["7_0"], [], ["7_1"]]).jobs  # waits longer


def test_cluster_that_is_silent_or_missing(program, batch, monkeypatch):
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SetupError, match=r"squeue: .*Unable to contact") as caught:
        Slurm().live([batch])
    assert "\n" not in str(caught.value)
    program("squeue", "exec /bin/sleep 20")
    monkeypatch.setattr(clusters, "TIMEOUT_S", 0.2)
    with pytest.raises(SetupError, match="does not answer"):
        Slurm().live([batch])
    with pytest.raises(SetupError, match="no sacct on PATH"):
        Slurm().ends(["12"])
    with pytest.raises(SetupError, match=r"no s(batch|run) on PATH"):
        cluster_of("slurm")


@given(st.integers(1, 10**6), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=4))
def test_names_of_several_jobs_are_expanded(number, ranges):
    parts = [f"{first}-{first + more}" if more else str(first) for first, more in ranges]
    ids = [f"{number}_{k}" for first, more in ranges for k in range(first, first + more + 1)]
    assert expand(f"{number}_[{','.join(parts)}]") == ids
    assert expand(f"{number}_[{','.join(parts)}%7]") == ids
    for name in (f"{number}", f"{number}_3", f"{number}.batch", f"{number}_3.0"):
        assert expand(name) == [name]
