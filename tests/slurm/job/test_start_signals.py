"""The warning of SLURM at any moment of a job's start, imports included: it is never lost."""

import os
import random
import re
import signal
import subprocess
import sys

import pytest
from support.job_tools import attempts, batch_of, found, has_record
from support.paths import ROOT

from bench.records import store
from bench.runs.execute import execute
from slurm.place import AGAIN

pytestmark = pytest.mark.slow
SIGNALS, PARTS = 16, 2
PROGRAM = ROOT / "tests" / "support" / "signalled_job.py"


def start(batch, moment):
    """The job with a signal at that moment, 0 for none; returns its exit code and what it printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "12", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-u", str(PROGRAM), str(batch.folder), str(moment)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("part", range(PARTS))
def test_warning_at_any_moment_of_the_start_is_not_lost(make_run, tmp_path, part):
    """A job that heard it asks to be queued again; before it listens, the signal ends it, and its script does."""
    spec, options = make_run(out=tmp_path / "whole")
    expected = store.without_timing(execute(spec, options))
    code, text = start(batch_of(tmp_path / "undisturbed", spec, cluster="slurm"), 0)
    assert code == 0, text
    events = int(re.search(r"began after (\d+) events", text)[1])
    moments = random.Random(0).sample(range(1, events + 1), SIGNALS)
    for moment in moments[part::PARTS]:
        batch = batch_of(tmp_path / "out", spec, cluster="slurm")  # a new one: the third such start would be its last
        code, text = start(batch, moment)
        assert code in (AGAIN, -signal.SIGUSR2), f"moment {moment} of {events}: {text}"
        assert code == -signal.SIGUSR2 or "preempted: asks to be queued again" in text
        assert not has_record(batch.out, spec)
    assert all(attempt.ended == "preempted" for attempt in attempts(batch.out, spec))
    assert start(batch, 0)[0] == 0
    assert store.without_timing(found(batch.out, spec)) == expected
