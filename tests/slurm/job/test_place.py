"""Where a job is: told from its environment, as SLURM and submitit set it."""

import signal
from dataclasses import replace

import msgspec
from support import image_folders
from support.job_tools import attempts, batch_of, found, stop_at

from bench.data.loading import resolve
from slurm import job as jobs
from slurm.job import Job
from slurm.place import AGAIN, Place


def test_place_is_read_from_the_environment(make_run, tmp_path):
    batch = batch_of(tmp_path, make_run()[0], jobs=3)
    slurm = replace(batch, cluster="slurm")
    array = {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}
    worker = {"SLURM_JOB_ID": "12", "BENCH_WORKER": "3", "BENCH_AT_ONCE": "4"}
    assert Place.here(slurm, {"SLURM_JOB_ID": "12"}) == Place("slurm", "12")
    assert Place.here(slurm, array) == Place("slurm", "12_1")
    assert Place.here(slurm, worker) == Place("slurm", "12", 3, 4)
    assert Place.here(batch, {"SUBMITIT_LOCAL_JOB_ID": "77", "SLURM_JOB_ID": "12"}) == Place("local", "77", 0, 3)
    assert Place.here(replace(batch, cluster="debug"), {}) == Place("debug", "debug")


def test_number_of_a_job_is_that_of_the_element_of_its_array(monkeypatch):
    called = []
    monkeypatch.setattr(jobs, "Job", lambda file, number, _: lambda: called.append((str(file), number)) or AGAIN)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert jobs.main(["some/folder"]) == AGAIN
    assert jobs.main(["some/folder", "2"]) == AGAIN
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    jobs.main(["some/folder"])
    assert called == [("some/folder/batch.json", number) for number in (4, 2, 0)]


def test_job_on_slurm_needs_none_of_its_programs(make_run, tmp_path, monkeypatch):
    """As in a container: it says by its exit code that it is to go on."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", "")
    spec, _ = make_run()
    batch = batch_of(tmp_path / "out", spec, cluster="slurm")
    with monkeypatch.context() as patch:
        stop_at(patch, signal.SIGUSR2, 1)
        assert Job(batch.file, 0)() == AGAIN
    assert Job(batch.file, 0)() == 0
    done = found(batch.out, spec)
    assert (
        msgspec.to_builtins(done.job).items()
        >= {"cluster": "slurm", "id": "12", "preemptions": 1, "differs": []}.items()
    )
    assert [attempt.ended for attempt in attempts(batch.out, spec)] == ["preempted", "done"]


def test_data_are_where_a_variable_of_the_node_says(make_run, tmp_path, monkeypatch):
    place = image_folders.write_folder(tmp_path / "scratch" / "pets", train=20, size=(32, 32))
    name, folder = resolve(f"folder:{place}", place)
    spec, _ = make_run(dataset=name)
    batch = batch_of(tmp_path / "out", spec)
    batch = replace(batch, options=batch.options | {"data_dir": "$NODE_SCRATCH"})
    batch.write()
    monkeypatch.setenv("NODE_SCRATCH", str(folder))
    Job(batch.file, 0)()
    assert found(batch.out, spec).status == "ok"
