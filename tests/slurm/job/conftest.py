"""Fixtures: this process as a job of submitit's, on this machine."""

import os

import pytest
from support.job_tools import LOCAL


@pytest.fixture(autouse=True)
def _as_a_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT", "BENCH_JOB"))]:
        monkeypatch.delenv(name)
    for name, value in LOCAL.items():
        monkeypatch.setenv(name, value)
