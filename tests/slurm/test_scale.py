"""Thousands of runs: files and questions to SLURM grow with arrays and jobs, not with what happens to runs."""

from dataclasses import replace

import pytest
from support.records import SPEC, finished, record

from bench.records import store
from bench.spec.request import RunOptions
from slurm import journal, states
from slurm.batch import batches
from slurm.launch import Request, submit
from slurm.profile import Profile
from slurm.states import DONE, WAITING, query_states

OF_ARRAY = {"batch.json", "journal.jsonl", "progress"}


@pytest.fixture
def slurm(slurm):
    """A cluster whose arrays have up to 50 jobs."""
    slurm.largest = 50
    return slurm


@pytest.fixture
def sweep(slurm, tmp_path):
    """150 runs, of which the first 60 are finished and have records, after three attempts each."""
    specs = [replace(SPEC, seed=seed) for seed in range(150)]
    submit(Request(specs, RunOptions(out=tmp_path), [], "slurm", Profile(), "some"), print)
    pairs = [(batch, number) for batch in batches(tmp_path) for number in range(batch.count)]
    for batch, number in pairs[:60]:
        notes, job = batch.journal(), batch.jobs[number]
        for key in batch.keys_of(number):
            for how in (journal.PREEMPTED, journal.TIMED_OUT, journal.DONE):
                notes.start(key, job)
                for epoch in range(5):
                    notes.saved(key, epoch, 9)
                notes.end(key, how)
            spec = batch.task(key).spec
            store.write(store.path_of(tmp_path, spec), record(finished(spec)))
        del slurm.alive[job]
    return specs


def test_files_are_a_few_an_array_and_a_record_a_run(sweep, tmp_path):
    arrays = list(batches(tmp_path))
    assert [batch.count for batch in arrays] == [50, 50, 50]
    for batch, begun in zip(arrays, (True, True, False), strict=True):
        assert {path.name for path in batch.folder.iterdir()} == (OF_ARRAY if begun else {"batch.json"})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    records = [path for path in files if path.suffix == ".json" and path.name != "batch.json"]
    assert len(records) == 60
    assert len(files) - len(records) == 2 * len(OF_ARRAY) + 1 + 1  # and the one with all locks


def test_journal_of_an_array_is_read_once_for_its_runs(sweep, slurm, tmp_path, monkeypatch):
    read, attempts_in = [], states.attempts_in
    monkeypatch.setattr(states, "attempts_in", lambda folder, *keys: read.append(folder) or attempts_in(folder, *keys))
    slurm.asked.clear()
    found = query_states(sweep, tmp_path)
    assert (len(found.of(DONE)), len(found.of(WAITING))) == (60, 90)
    assert [len(few) for few in slurm.asked] == [2]  # of the arrays with runs that are not done, at once
    assert read == [batch.folder for batch in list(batches(tmp_path))[1:]]
