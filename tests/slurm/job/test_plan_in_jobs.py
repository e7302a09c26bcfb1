"""The plan of a sweep goes with its runs through a cluster."""

import dataclasses

from support import submissions
from support.batches import spec_of
from support.job_tools import batch_of, found

from bench.spec.request import RunOptions
from slurm.job import Job


def test_batch_keeps_the_plan(slurm, tmp_path, monkeypatch):
    options = RunOptions(out=tmp_path, plan_sha256="1" * 64)
    monkeypatch.setattr(submissions, "RunOptions", lambda **_: options)
    (batch,) = submissions.hand_over([spec_of()], tmp_path).batches
    assert batch.options["plan_sha256"] == "1" * 64


def test_job_writes_the_plan_into_its_records(make_run, tmp_path):
    spec, _ = make_run()
    batch = batch_of(tmp_path / "job", spec)
    batch = dataclasses.replace(batch, options=batch.options | {"plan_sha256": "1" * 64})
    batch.write()
    Job(batch.file, 0)()
    assert found(batch.out, spec).plan_sha256 == "1" * 64
