"""Jobs that queue themselves again, on SLURM with small programs in the place of its commands."""

import os
import signal
from dataclasses import replace

import image_folders
import pytest
from job_tools import batch_of, found, has_record, stop_at

from bench.data import resolve
from slurm import job as jobs
from slurm.job import Job


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """This process is a job of SLURM; puts a shell script in the place of one of its commands."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(jobs, "REQUEUE_PAUSE_S", 0.01)

    def put(name, text):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/{name}.calls\n{text}\n')
        file.chmod(0o755)

    def calls(name):
        file = tmp_path / f"{name}.calls"
        return file.read_text().splitlines() if file.exists() else []

    put.calls = calls
    return put


def test_a_job_queues_itself_again_and_ends(make_run, tmp_path, monkeypatch, slurm):
    slurm("scontrol", "exit 0")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    stop_at(monkeypatch, signal.SIGUSR2, 1)
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert stop.value.code == 0
    assert slurm.calls("scontrol") == ["requeue 12"]


def test_it_tries_until_slurm_answers_and_not_for_ever(make_run, tmp_path, monkeypatch, slurm, capsys):
    slurm("scontrol", f"test $(wc -l < {tmp_path}/scontrol.calls) -ge 3")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    stop_at(monkeypatch, signal.SIGUSR2, 1, 2)
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert (stop.value.code, len(slurm.calls("scontrol"))) == (0, 3)
    assert capsys.readouterr().err.count("cannot queue again") == 2
    slurm("scontrol", "exit 1")
    with pytest.raises(SystemExit) as stop:
        Job(batch.file, 0)()
    assert stop.value.code == 1
    assert not has_record(batch.out, make_run()[0])


def test_of_several_processes_of_a_job_the_first_queues_it_again(make_run, tmp_path, monkeypatch, slurm):
    slurm("scontrol", "exit 0")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    batch = batch_of(tmp_path / "out", make_run()[0], cluster="slurm")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 1)
        Job(batch.file, 0)()
    assert slurm.calls("scontrol") == []
    Job(batch.file, 0)()
    assert found(batch.out, make_run()[0])["job"].items() >= {"id": "12", "at_once": 2, "preemptions": 1}.items()


@pytest.mark.parametrize(("state", "again"), [("RUNNING", True), ("COMPLETING", False), ("", False)])
def test_a_terminated_job_queues_again_only_in_the_grace_before_preemption(
    make_run, tmp_path, monkeypatch, slurm, state, again
):
    slurm("squeue", f"echo {state}")
    slurm("scontrol", "exit 0")
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec, cluster="slurm")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGTERM, 1)
        with pytest.raises(SystemExit) as stop:
            Job(batch.file, 0)()
    assert stop.value.code == (0 if again else 130)
    assert slurm.calls("scontrol") == ["requeue 12"] * again
    assert found(batch.out, spec)["status"] == "interrupted"
    Job(batch.file, 0)()
    assert found(batch.out, spec)["status"] == "ok"


def test_data_are_where_a_variable_of_the_node_says(make_run, tmp_path, monkeypatch):
    place = image_folders.write_folder(tmp_path / "scratch" / "pets", train=20, size=(32, 32))
    name, folder = resolve(f"folder:{place}", place)
    spec, _ = make_run(dataset=name)
    batch = batch_of(tmp_path / "out", spec)
    batch = replace(batch, options=batch.options | {"data_dir": "$NODE_SCRATCH"})
    batch.write()
    monkeypatch.setenv("NODE_SCRATCH", str(folder))
    Job(batch.file, 0)()
    assert found(batch.out, spec)["status"] == "ok"
