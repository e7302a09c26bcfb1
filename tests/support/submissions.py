"""Submissions to a cluster in memory, and what runs and jobs leave."""

import pytest
from support.records import ended, finished, record

from bench.errors import SetupError
from bench.records import store
from bench.runs.execute import leave_failure
from bench.spec.request import RunOptions
from slurm.batch import base_key, jobs_folder
from slurm.journal import Journal
from slurm.launch import Request, submit
from slurm.profile import Profile
from slurm.states import query_states


def request(specs, out, cluster="slurm", retry=(), processes=1, **profile):
    return Request(specs, RunOptions(out=out), [], cluster, Profile(**profile), "some", frozenset(retry), processes)


def nobody(text):
    pytest.fail(f"said {text}")


def hand_over(specs, out, *how, **profile):
    """A submission that says nothing."""
    return submit(request(specs, out, *how, **profile), nobody)


def leave(out, spec, status="ok"):
    """Write a record; returns its hash."""
    if status == "failed":
        leave_failure(spec, RunOptions(out=out), SetupError("no data"), None)
    else:
        made = finished(spec, 60.0) if status == "ok" else ended(status, spec, "stopped")
        store.write(store.path_of(out, spec), record(made))
    return store.load(store.path_of(out, spec)).record_sha256


def trained(out, spec, name="some_base"):
    """The base of a run, as a job leaves it."""
    folder = jobs_folder(out) / "of_old"
    folder.mkdir(parents=True, exist_ok=True)
    notes = Journal(folder, [base_key(spec)])
    notes.start(base_key(spec), "1")
    notes.end(base_key(spec), "done", base=name)
    (out / "bases").mkdir(parents=True, exist_ok=True)
    (out / "bases" / f"{name}.safetensors").touch()


def shapes(slurm):
    """Of what was submitted: keys of each job, and what each waits for; one list where none waits."""
    return [(list(map(list, batch.elements)), after if any(after) else []) for batch, after in slurm.submitted]


def alone(*specs):
    """The shape of jobs with a run each, none of which waits."""
    return [[spec.id] for spec in specs], []


def states_of(specs, out):
    return [state.state for state in query_states(specs, out).states]
