"""What the batch script does, run by bash with small programs in the place of SLURM's."""

import os
import re
import signal
import subprocess
import time

import pytest
from support.script_tools import batch_of

from slurm import script as scripts
from slurm.clusters import Slurm
from slurm.place import AGAIN, ENDED
from slurm.profile import load_profile


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs the script of a profile; what each program was called with is kept, as is what the script wrote."""
    monkeypatch.setattr(scripts, "REQUEUE_PAUSE_S", 0.01)
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {"srun": "exit 0", "squeue": "echo RUNNING", "scontrol": "exit 0", "sleep": "exit 0"}

    def run(profile="", before=None, **changed):
        file = tmp_path / "profile.toml"
        file.write_text(profile)
        made = load_profile(file)
        text = Slurm().script(batch_of(tmp_path / "out", made), made, [[]])
        job = tmp_path / "job.sh"
        job.write_text(text)
        for name, body in (programs | changed).items():
            (folder / name).write_text(f'#!/bin/bash\necho "$*" >> {tmp_path}/{name}.calls\n{body}\n')
            (folder / name).chmod(0o755)
        env = {"PATH": f"{folder}:{os.defpath}", "SLURM_JOB_ID": "12", "HOME": str(tmp_path)}
        process = subprocess.Popen(
            ["bash", str(job)], env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if before:
            before(process)
        run.said = process.communicate(timeout=60)[0]
        return process.returncode

    def calls(name):
        file = tmp_path / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []

    run.calls, run.folder = calls, tmp_path
    return run


@pytest.mark.parametrize("code", [0, 1, 137])
def test_job_ends_with_the_code_of_python(shell, code):
    assert shell('setup = ["true"]', srun=f"exit {code}") == code
    assert "set-up" not in shell.said
    assert shell.calls("scontrol") == shell.calls("squeue") == []


@pytest.mark.parametrize("code", [AGAIN, 140])
def test_job_that_asks_for_it_is_queued_again(shell, code):
    """140: the warning came before Python listened to it, and ended it."""
    assert shell(srun=f"exit {code}") == 0
    assert shell.calls("scontrol") == ["requeue 12"]
    assert "bench: job 12 queued again" in shell.said


def test_queueing_again_is_tried_a_few_times(shell):
    assert shell(srun=f"exit {AGAIN}", scontrol=f"test $(wc -l < {shell.folder}/scontrol.calls) -ge 3") == 0
    assert len(shell.calls("scontrol")) == 3
    assert shell.said.count("cannot queue job 12 again") == 2
    assert shell.said.count("queued again") == 1
    (shell.folder / "scontrol.calls").unlink()
    assert shell(srun=f"exit {AGAIN}", scontrol="exit 1") == AGAIN
    assert len(shell.calls("scontrol")) == scripts.REQUEUE_TRIES
    assert "queued again" not in shell.said


@pytest.mark.parametrize(("state", "code"), [("RUNNING", ENDED), ("RUNNING", 143), ("COMPLETING", ENDED), ("", 143)])
def test_terminated_job_is_queued_again_if_still_running(shell, state, code):
    """It is so in the grace before a preemption only."""
    again = state == "RUNNING"
    assert shell(srun=f"exit {code}", squeue=f"echo {state}") == (0 if again else code)
    assert shell.calls("scontrol") == ["requeue 12"] * again


def test_terminated_script_waits_for_its_programs(shell):
    """SLURM's signal comes to the script too."""

    def end(process):
        while not shell.calls("srun"):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)

    assert shell(before=end, srun="/bin/sleep 0.3; exit 1") == 0
    assert shell.calls("scontrol") == ["requeue 12"]


# --- set-up --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "culprit", "code"),
    [
        (["true", "ls /no/such/folder", "touch later"], "ls /no/such/folder", 2),
        (["X=$(exit 7)"], "exit 7", 7),
        (["no_such_command here"], "no_such_command here", 127),
        (["source there.sh"], "source there.sh", 5),
        (["mkdir made && cd nowhere"], "cd nowhere", 1),
        (["( exit 4 )"], "exit 4", 4),
        (["if true; then", "  false", "fi"], "false", 1),
    ],
)
def test_failing_set_up_line_ends_the_job_and_is_named(shell, lines, culprit, code):
    (shell.folder / "there.sh").write_text("return 5\n")
    assert shell(f"setup = {lines!r}") == code
    assert shell.calls("srun") == []
    (line,) = [line for line in shell.said.splitlines() if line.startswith("bench: ")]
    assert re.fullmatch(rf"bench: error: set-up line failed with exit code {code}: .*{re.escape(culprit)}.*", line)
    assert not (shell.folder / "later").exists()


def test_failures_that_set_up_handles_itself_end_nothing(shell):
    """Also those within a file that it sources, as in many environments' own scripts."""
    (shell.folder / "there.sh").write_text("false\nls /no/such/folder\ntrue\n")
    lines = [
        *(
            "false || true",
            "if false; then exit 9; fi",
            "[ -d /no/such/folder ] && cd /no/such/folder",
            "source there.sh",
        ),
        *("f() { false; true; }", "f", "! false", "false | true"),
        "while read -r line; do echo $line; done < there.sh",
    ]
    assert shell(f"setup = {lines!r}") == 0
    assert len(shell.calls("srun")) == 1
    assert "bench: error" not in shell.said


def test_time_of_the_job_is_that_before_its_set_up(shell):
    """Or SLURM's own start time, where it has one."""
    before = time.time()
    assert shell('setup = ["date +now=%s.%N", "/bin/sleep 1"]', srun="echo began=$BENCH_JOB_BEGAN") == 0
    began, now = int(re.search(r"began=(\d+)", shell.said)[1]), float(re.search(r"now=([\d.]+)", shell.said)[1])
    assert int(before) <= began <= now


def test_job_that_is_preempted_during_its_set_up_is_queued_again(shell):
    def end(process):
        while not (shell.folder / "begun").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)

    assert shell('setup = ["touch begun", "/bin/sleep 0.3; exit 143"]', before=end) in (0, 143)
    assert shell('setup = ["( exit 143 )"]') == 0  # SLURM's signal has ended what the line started
    assert shell.calls("scontrol")[-1] == "requeue 12"
    assert shell.calls("srun") == []
