"""How many runs go into one job: so many, or as many as earlier records let fit."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import record, spec_table

from bench.records import store
from bench.runs.execute import execute
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from slurm.batch import Task
from slurm.packing import estimates, pack
from slurm.profile import Profile

RUNS = [
    Task(make_spec("l1_norm", "resnet20", "digits", load_recipe("digits"), Budget(keep_macs=0.5), k)) for k in range(40)
]
KEYS = [task.key for task in RUNS]


@given(st.integers(0, 40), st.integers(1, 50))
def test_so_many_runs_a_job(count, size):
    found = pack(RUNS[:count], Profile(runs_per_job=size), None)
    assert list(itertools.chain(*found)) == KEYS[:count]
    assert all(len(few) == size for few in found[:-1])
    assert all(0 < len(few) <= size for few in found)


def by_seed(times):
    return lambda spec: times[spec.seed]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(1, 4000)), max_size=40),
    st.integers(1, 60),
    st.integers(1, 3),
)
def test_as_many_as_fit_and_no_fewer(times, minutes, at_once):
    profile = Profile(minutes_per_job=minutes, runs_at_once=at_once)
    found = pack(RUNS[: len(times)], profile, by_seed(times))
    assert list(itertools.chain(*found)) == KEYS[: len(times)]
    expected = dict(zip(KEYS, times, strict=False))
    room = 60 * minutes * at_once
    sums = []
    for few in found:
        known = [expected[key] for key in few]
        if None in known:  # nobody knows how long it takes: it is alone
            assert len(few) == 1
        else:
            assert len(few) == 1 or sum(known) <= room
        sums.append(None if None in known else sum(known))
    for earlier, later in itertools.pairwise(range(len(found))):
        first = expected[found[later][0]]
        if sums[earlier] is not None and first is not None:
            assert sums[earlier] + first > room  # it would not have fitted before


def test_a_run_that_is_longer_than_the_minutes_is_alone():
    assert list(map(len, pack(RUNS[:3], Profile(minutes_per_job=1), by_seed([600, 20, 20])))) == [1, 2]


# --- estimates -----------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(make_run, tmp_path):
    """Leaves records of runs that took so long; a value is ``{(method, seed): seconds}``."""
    spec, options = make_run(out=tmp_path / "made")
    text = json.dumps(store.as_table(execute(spec, options)))

    def leave(out, taken, status="ok", **settings):
        for (method, seed), seconds in taken.items():
            spec, _ = make_run(method, seed=seed, **settings)
            made = json.loads(text)
            made |= {"id": spec.id, "spec": spec_table(spec), "spec_sha256": spec.sha256, "status": status}
            made["error"] = None if status == "ok" else {"type": "X", "message": "x", "traceback": []}
            made["clock"]["seconds"] = {"train": seconds - 1.0, "method": 0.0, "measure": 1.0}
            store.write(store.path_of(out, spec), record(made))

    return leave


def test_without_records_nothing_is_known(tmp_path, make_run):
    assert estimates(tmp_path / "none")(make_run()[0]) is None


def test_runs_of_the_same_kind_count_before_those_of_other_methods(recorded, make_run, tmp_path):
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
