"""Fixtures: this process as a job of submitit's, on this machine."""

import os

import pytest
from job_tools import LOCAL

from slurm import job as jobs


@pytest.fixture(autouse=True)
def _as_a_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT"))]:
        monkeypatch.delenv(name)
    for name, value in LOCAL.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def requeued(monkeypatch):
    """Jobs that queued themselves again."""
    found = []
    monkeypatch.setattr(jobs, "_requeue", lambda env: found.append(env.job_id))
    return found
