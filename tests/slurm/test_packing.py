"""How many runs go into one job: so many, or as many as earlier records let fit."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.batches import spec_of
from support.records import ended, finished, record

from bench.records import store
from slurm.batch import Task
from slurm.packing import estimates, pack
from slurm.profile import Profile

RUNS = [Task(spec_of(seed)) for seed in range(40)]
KEYS = [task.key for task in RUNS]


@given(st.integers(0, 40), st.integers(1, 50))
def test_jobs_have_as_many_runs_as_asked(count, size):
    packed = pack(RUNS[:count], Profile(runs_per_job=size), None)
    assert list(itertools.chain(*packed)) == KEYS[:count]
    assert all(len(few) == size for few in packed[:-1])
    assert all(0 < len(few) <= size for few in packed)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(1, 4000)), max_size=40),
    st.integers(1, 60),
    st.integers(1, 3),
)
@example([600, 20, 20], 1, 1)
def test_jobs_have_as_many_runs_as_fit_and_no_fewer(times, minutes, at_once):
    profile = Profile(minutes_per_job=minutes, runs_at_once=at_once)
    packed = pack(RUNS[: len(times)], profile, lambda spec: times[spec.seed])
    assert list(itertools.chain(*packed)) == KEYS[: len(times)]
    expected = dict(zip(KEYS, times, strict=False))
    room = 60 * minutes * at_once
    for few, following in itertools.pairwise([*packed, None]):
        known = [expected[key] for key in few]
        assert len(few) == 1 or (None not in known and sum(known) <= room)  # an unknown run is alone
        first = expected[following[0]] if following else None
        assert None in [*known, first] or sum(known) + first > room  # it would not have fitted before


# --- estimates -----------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(make_run):
    """Leaves records of runs that took so long; a value is ``{(method, seed): seconds}``."""

    def leave(out, taken, status="ok"):
        for (method, seed), seconds in taken.items():
            spec, _ = make_run(method, seed=seed)
            table = finished(spec, seconds) if status == "ok" else ended(status, spec)
            store.write(store.path_of(out, spec), record(table))

    return leave


def test_estimates_prefer_runs_of_the_same_kind(recorded, make_run, tmp_path):
    out = tmp_path / "out"
    taken = {("l1_norm", 0): 10, ("l1_norm", 1): 30, ("l1_norm", 2): 1000, ("random", 0): 5}
    recorded(out, taken)
    seconds = estimates(out)
    assert seconds(make_run("l1_norm", seed=9)[0]) == 30  # one that stalled does not count for much
    assert seconds(make_run("l1_norm", keep=0.25)[0]) == 30  # another budget takes no longer
    assert seconds(make_run("random")[0]) == 5
    assert seconds(make_run("ddrop")[0]) == 20  # of whatever there is on this network
    assert seconds(make_run("l1_norm", train__epochs=50)[0]) is None
    assert seconds(make_run("l1_norm", arch="resnet20")[0]) is None
    assert seconds(make_run("l1_norm", dataset="tiny8")[0]) is None


def test_only_finished_records_count_and_damaged_ones_do_no_harm(recorded, make_run, tmp_path):
    out = tmp_path / "out"
    assert estimates(out)(make_run()[0]) is None
    recorded(out, {("l1_norm", 0): 10})
    recorded(out, {("l1_norm", 1): 900}, status="failed")
    recorded(out, {("l1_norm", 2): 900}, status="interrupted")
    store.path_of(out, make_run(seed=3)[0]).write_text("{")
    assert estimates(out)(make_run()[0]) == 10


def test_jobs_from_records(recorded, make_run, tmp_path):
    out = tmp_path / "out"
    recorded(out, {("l1_norm", 0): 100, ("random", 0): 290})
    runs = [Task(make_run(method, seed=seed)[0]) for method in ("l1_norm", "random") for seed in range(5)]
    runs.append(Task(make_run(train__epochs=9)[0]))
    found = pack(runs, Profile(minutes_per_job=10), estimates(out))
    assert list(map(len, found)) == [5, 2, 2, 1, 1]
    found = pack(runs, replace(Profile(minutes_per_job=10), runs_at_once=2), estimates(out))
    assert list(map(len, found)) == [7, 3, 1]
