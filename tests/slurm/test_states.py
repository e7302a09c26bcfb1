"""What became of runs: told from records, journals and jobs, whatever order things happen in."""

import time

import pytest
from support.batches import batch_of, spec_of
from support.records import ended, finished, record

from bench.errors import SetupError
from bench.files import run_lock
from bench.records import store
from bench.runs.execute import leave_failure
from bench.spec.request import RunOptions
from slurm.batch import Task
from slurm.cluster import RUNNING, WAITING
from slurm.states import DONE, FAILED, LOST, MISSING, STATES, UNKNOWN, query_states

LATER = "2026-01-02T00:00:00+00:00"


def leave(out, spec, status="ok", seconds=12.0, replaced=False):
    """Write a record; returns its hash."""
    if status == "failed":
        leave_failure(spec, RunOptions(out=out, retry=True), SetupError("no data"), {"id": str(time.time_ns())})
    else:
        made = finished(spec, seconds) if status == "ok" else ended(status, spec, "stopped")
        made["job"] = {"id": str(time.time_ns())}  # no two are the same
        store.write(store.path_of(out, spec), record(made), replace=replaced)
    return store.load(store.path_of(out, spec)).record_sha256


def submitted(out, *elements, jobs=("7",), replaces=None, when="2026-01-01T00:00:00+00:00", cluster="slurm"):
    """A batch that was handed over; an element is a list of specifications."""
    tasks = [Task(spec, replaces=replaces) for few in elements for spec in few]
    keys = tuple(tuple(spec.id for spec in few) for few in elements)
    facts = {"cluster": cluster, "jobs": jobs, "count": len(jobs) or len(elements), "submitted_at": when}
    batch = batch_of(out, *tasks, elements=keys, **facts)
    batch.write()
    return batch


def states_of(out, *specs):
    return [state.state for state in query_states(specs, out).states]


def told(out, spec):
    found = only(out, spec)
    return found.state, found.detail


def only(out, spec):
    (found,) = query_states([spec], out).states
    return found


# --- one state after the other -------------------------------------------------------------------------------


def test_run_that_nobody_submitted_is_missing(tmp_path, slurm):
    found = only(tmp_path, spec_of())
    assert (found.state, found.detail, found.batch, found.job) == (MISSING, "", None, None)
    assert slurm.asked == []
    assert not list(tmp_path.iterdir())  # to look leaves nothing behind


def test_run_with_a_record_is_done_or_failed(tmp_path, slurm):
    done, failed, damaged = (spec_of(seed) for seed in range(3))
    submitted(tmp_path, [done, failed])
    hashes = [leave(tmp_path, done, seconds=34.0), leave(tmp_path, failed, "failed")]
    found = [only(tmp_path, done)]
    assert slurm.asked == []
    found.append(only(tmp_path, failed))
    assert [(one.state, one.detail) for one in found] == [(DONE, ""), (FAILED, "no data")]
    assert found[0].seconds == 34.0
    assert [one.record_sha256 for one in found] == hashes
    slurm.alive["7"] = (RUNNING, "")  # the job has other things to do
    assert states_of(tmp_path, done, failed) == [DONE, FAILED]
    leave(tmp_path, damaged)
    store.path_of(tmp_path, damaged).write_text("{")
    state, detail = told(tmp_path, damaged)
    assert state == FAILED
    assert "not JSON" in detail


def test_run_is_running_when_its_job_is_at_it(tmp_path, slurm):
    one, two = spec_of(1), spec_of(2)
    batch = submitted(tmp_path, [one, two])
    slurm.alive["7"] = (WAITING, "Resources")
    found = only(tmp_path, one)
    assert (found.state, found.detail, found.batch, found.job) == (WAITING, "Resources", batch, "7")
    notes = batch.journal()
    slurm.alive["7"] = (RUNNING, "")
    assert only(tmp_path, one).state == WAITING  # the job has only just begun
    notes.start(one.id, "7")
    first, second = query_states([one, two], tmp_path).states
    assert (first.state, first.done, first.total, first.seconds_left) == (RUNNING, None, None, None)
    assert second.state == WAITING
    notes.saved(one.id, 1, 9)
    notes.saved(one.id, 2, 9)
    first = only(tmp_path, one)
    assert (first.state, first.done, first.total) == (RUNNING, 2, 9)
    assert first.seconds_left is not None
    slurm.alive["7"] = (WAITING, "BeginTime")  # its node died: the attempt has no end
    assert told(tmp_path, one) == (WAITING, "BeginTime")
    slurm.alive["7"] = (RUNNING, "")
    notes.end(one.id, "preempted")
    assert only(tmp_path, one).state == WAITING  # until it is at it again


def test_attempt_of_another_job_does_not_count(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("3",)).journal().start(spec.id, "3")  # and was killed
    batch = submitted(tmp_path, [spec], when=LATER)
    slurm.alive["7"] = (RUNNING, "")
    assert only(tmp_path, spec).state == WAITING
    batch.journal().start(spec.id, "7")
    assert only(tmp_path, spec).state == RUNNING


def test_jobs_that_share_their_runs_are_each_at_one_of_them(tmp_path, slurm):
    """As the processes of this machine are, and those of a job with several at once."""
    specs = [spec_of(seed) for seed in range(3)]
    batch = submitted(tmp_path, specs, jobs=("7", "8"))
    slurm.alive |= {"7": (RUNNING, ""), "8": (RUNNING, "")}
    for spec, job in zip(specs, batch.jobs, strict=False):
        notes = batch.journal()
        notes.start(spec.id, job)
        notes.saved(spec.id, 1, 9)
    found = query_states(specs, tmp_path).states
    assert [(one.state, one.done) for one in found] == [(RUNNING, 1), (RUNNING, 1), (WAITING, None)]
    assert [one.job for one in found[:2]] == ["7", "8"]


def test_run_whose_job_is_gone_is_lost_or_cancelled(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec])
    found = only(tmp_path, spec)
    assert (found.state, found.job) == (LOST, "7")
    assert "left no record" in found.detail
    slurm.ended["7"] = "NODE_FAIL (exit 0:1)"
    assert "NODE_FAIL (exit 0:1)" in only(tmp_path, spec).detail
    ends = {"COMPLETED": LOST, "CANCELLED": MISSING, "CANCELLED by 1000": MISSING, "CANCELLED (exit 0:15)": MISSING}
    for slurm.ended["7"], state in ends.items():
        assert only(tmp_path, spec).state == state, slurm.ended
    slurm.looking = lambda: leave(tmp_path, spec)
    assert only(tmp_path, spec).state == DONE  # it ended while the cluster was asked


def test_silent_cluster_leaves_only_its_own_runs_unknown(tmp_path, clusters):
    spec, done, missing, here = (spec_of(seed) for seed in range(4))
    submitted(tmp_path, [spec], [done], jobs=("7_0", "7_1"))
    submitted(tmp_path, [here], jobs=("4711",), cluster="local")
    leave(tmp_path, done)
    clusters["slurm"].silent = True
    clusters["local"].alive["4711"] = (RUNNING, "")
    found = query_states([spec, done, missing, here], tmp_path)
    assert [state.state for state in found.states] == [UNKNOWN, DONE, MISSING, WAITING]
    assert found.problems == ["SLURM does not answer"]


def test_interrupted_run_is_missing_unless_somebody_is_at_it(tmp_path, slurm):
    spec = spec_of()
    with run_lock(tmp_path, spec.id):
        held = only(tmp_path, spec)
        assert (held.state, held.detail, held.job) == (RUNNING, "not as a job", None)
        submitted(tmp_path, [spec])  # whose job is gone
        assert only(tmp_path, spec).state == RUNNING
    assert only(tmp_path, spec).state == LOST
    leave(tmp_path, spec, "interrupted")
    assert told(tmp_path, spec) == (MISSING, "stopped")
    slurm.alive["7"] = (WAITING, "Priority")
    assert told(tmp_path, spec) == (WAITING, "Priority")


# --- runs that are carried out again -------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "before"), [("failed", (FAILED, "no data")), ("ok", (DONE, ""))])
def test_run_that_is_carried_out_again(tmp_path, slurm, status, before):
    """As by ``run --retry``: until its job has replaced the record, or is gone, the run is not done."""
    spec = spec_of()
    old = leave(tmp_path, spec, status)
    batch = submitted(tmp_path, [spec], replaces=old)
    slurm.alive["7"] = (WAITING, "Resources")
    assert told(tmp_path, spec) == (WAITING, "Resources")
    slurm.alive["7"] = (RUNNING, "")
    batch.journal().start(spec.id, "7")
    assert only(tmp_path, spec).state == RUNNING
    del slurm.alive["7"]  # it was killed: things are as before
    assert told(tmp_path, spec) == before
    slurm.alive["7"] = (RUNNING, "")  # the job has other runs
    assert leave(tmp_path, spec, status, replaced=status == "ok") != old
    assert only(tmp_path, spec).state == before[0]


def test_number_given_out_twice_is_the_later_job(tmp_path, slurm):
    """A controller that lost its state counts from the start again."""
    gone, there = spec_of(1), spec_of(2)
    submitted(tmp_path, [gone])
    submitted(tmp_path, [there], when=LATER)
    slurm.alive["7"] = (WAITING, "Resources")
    assert states_of(tmp_path, gone, there) == [LOST, WAITING]
    slurm.alive.clear()
    slurm.ended["7"] = "CANCELLED by 0"
    assert states_of(tmp_path, gone, there) == [LOST, MISSING]
    submitted(tmp_path, [gone], jobs=("8",), when=LATER)  # of several jobs the one that is there counts, else the last
    assert only(tmp_path, gone).job == "8"
    submitted(tmp_path, [gone], jobs=("9",), when="2026-01-03T00:00:00+00:00")
    assert only(tmp_path, gone).job == "9"
    slurm.alive["8"] = (WAITING, "")
    assert (only(tmp_path, gone).state, only(tmp_path, gone).job) == (WAITING, "8")


def test_run_without_accounting_is_lost_or_ended_by_hand(tmp_path, slurm):
    spec, other = spec_of(1), spec_of(2)
    slurm.unaccounted = True
    batch = submitted(tmp_path, [spec], [other], jobs=("4711", "4712"))
    found = query_states([spec, other], tmp_path)
    assert found.counts()["lost"] == 2
    (problem,) = found.problems
    assert "accounting storage is disabled" in problem
    batch.note_cancelled(["4711"])
    assert states_of(tmp_path, spec, other) == [MISSING, LOST]
    batch.note_cancelled(["4712"])
    assert states_of(tmp_path, spec, other) == [MISSING, MISSING]


# --- all of them ---------------------------------------------------------------------------------------------


def test_counts_and_order(tmp_path, slurm):
    specs = [spec_of(k) for k in range(6)]
    submitted(tmp_path, *([spec] for spec in specs[1:5]), jobs=("7_1", "7_2", "7_3", "7_4"))
    leave(tmp_path, specs[1])
    slurm.alive |= {"7_2": (WAITING, ""), "7_3": (WAITING, "")}
    leave(tmp_path, specs[5], "failed")
    found = query_states(specs, tmp_path)
    assert [state.spec for state in found.states] == specs
    assert list(found.counts()) == list(STATES)
    expected = {"missing": 1, "done": 1, "waiting": 2, "lost": 1, "failed": 1, "running": 0, "unknown": 0}
    assert found.counts() == expected
    assert [state.spec for state in found.of(DONE, LOST)] == [specs[1], specs[4]]
    assert found.live_jobs(specs[2].id, "slurm") == ["7_2"]
    assert found.live_jobs(specs[4].id, "slurm") == []
    assert found.live_jobs(specs[2].id, "local") == []


def test_batches_of_other_runs_are_not_asked_for(tmp_path, slurm):
    mine, other = spec_of(1), spec_of(2)
    wanted = submitted(tmp_path, [mine])
    submitted(tmp_path, [other], jobs=("8",))
    submitted(tmp_path, [mine], jobs=())  # its submission was cut off
    query_states([mine], tmp_path)
    assert slurm.asked == [[wanted.token]]
