"""What became of runs: told from records, journals and jobs, whatever order things happen in."""

import time

import pytest
from support.records import ended, finished, record

from bench.errors import SetupError
from bench.files import run_lock
from bench.records import store
from bench.runs.execute import leave_failure
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.spec.request import RunOptions
from bench.spec.spec import Budget
from slurm import states
from slurm.batch import Batch, Task, new_token
from slurm.cluster import RUNNING, WAITING
from slurm.states import DONE, FAILED, LOST, MISSING, STATES, UNKNOWN, query_states


class Fake:
    """A cluster in memory: jobs that have not ended, and how the others did."""

    def __init__(self):
        self.alive, self.ended = {}, {}
        self.silent = self.unaccounted = False
        self.asked = []
        self.meanwhile = lambda: None

    def live(self, batches):
        self.asked.append([batch.token for batch in batches])
        if self.silent:
            raise SetupError("SLURM does not answer")
        found = {job: self.alive[job] for batch in batches for job in batch.jobs if job in self.alive}
        self.meanwhile()
        return found

    def ends(self, jobs):
        if self.unaccounted:
            raise SetupError("sacct: Slurm accounting storage is disabled")
        return {job: self.ended[job] for job in jobs if job in self.ended}


@pytest.fixture
def clusters(monkeypatch):
    """The clusters there are, by name."""
    known = {"slurm": Fake(), "local": Fake()}
    monkeypatch.setattr(states, "cluster_of", lambda name: known[name])
    return known


@pytest.fixture
def slurm(clusters):
    return clusters["slurm"]


def spec_of(seed=0, method="l1_norm"):
    return make_spec(method, "resnet20", "digits", load_recipe("digits"), Budget(keep_macs=0.5), seed)


def leave(out, spec, status="ok", seconds=12.0, replaced=False):
    """Write a record; returns its hash."""
    if status == "failed":
        leave_failure(spec, RunOptions(out=out, retry=True), SetupError("no data"), {"id": str(time.time_ns())})
    else:
        made = finished(spec, seconds) if status == "ok" else ended(status, spec, "stopped")
        made["job"] = {"id": str(time.time_ns())}  # no two are the same
        store.write(store.path_of(out, spec), record(made), replace=replaced)
    return store.load(store.path_of(out, spec)).record_sha256


def submitted(out, *elements, jobs, cluster="slurm", replaces=None, when="2026-01-01T00:00:00+00:00"):
    """A batch that was handed over; an element is a list of specifications."""
    tasks = [Task(spec, replaces=replaces) for few in elements for spec in few]
    batch = Batch(
        out,
        new_token(),
        cluster,
        "some",
        {task.key: task.as_dict() for task in tasks},
        tuple(tuple(spec.id for spec in few) for few in elements),
        len(jobs) or len(elements),
        {},
        (),
        60,
        90,
        {},
        {},
        submitted_at=when,
        jobs=jobs,
    )
    batch.write()
    return batch


def only(out, spec):
    (found,) = query_states([spec], out).states
    return found


# --- one state after the other -------------------------------------------------------------------------------


def test_what_nobody_submitted_is_missing(tmp_path, slurm):
    found = only(tmp_path, spec_of())
    assert (found.state, found.detail, found.batch, found.job) == (MISSING, "", None, None)
    assert slurm.asked == []
    assert not list(tmp_path.iterdir())  # to look leaves nothing behind


def test_a_finished_run_is_done_and_no_cluster_is_asked(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    sha256 = leave(tmp_path, spec, seconds=34.0)
    found = only(tmp_path, spec)
    assert (found.state, found.record_sha256, found.seconds) == (DONE, sha256, 34.0)
    assert slurm.asked == []


def test_a_failed_run_says_why(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    sha256 = leave(tmp_path, spec, "failed")
    found = only(tmp_path, spec)
    assert (found.state, found.detail, found.record_sha256) == (FAILED, "no data", sha256)
    slurm.alive["7"] = (RUNNING, "")  # the job has other things to do
    assert only(tmp_path, spec).state == FAILED


def test_damaged_record_is_reported(tmp_path, slurm):
    spec = spec_of()
    leave(tmp_path, spec)
    store.path_of(tmp_path, spec).write_text("{")
    found = only(tmp_path, spec)
    assert found.state == FAILED
    assert "not JSON" in found.detail


def test_a_job_that_waits_says_why(tmp_path, slurm):
    spec = spec_of()
    batch = submitted(tmp_path, [spec], jobs=("7",))
    slurm.alive["7"] = (WAITING, "Resources")
    found = only(tmp_path, spec)
    assert (found.state, found.detail, found.batch, found.job) == (WAITING, "Resources", batch, "7")


def test_a_run_is_running_when_its_job_is_at_it(tmp_path, slurm):
    one, two = spec_of(1), spec_of(2)
    notes = submitted(tmp_path, [one, two], jobs=("7",)).journal()
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
    notes.end(one.id, "preempted")
    assert only(tmp_path, one).state == WAITING  # until it is at it again


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


def test_the_attempt_of_another_job_says_nothing(tmp_path, slurm):
    spec = spec_of()
    older = submitted(tmp_path, [spec], jobs=("3",))
    older.journal().start(spec.id, "3")  # and was killed
    batch = submitted(tmp_path, [spec], jobs=("7",), when="2026-01-02T00:00:00+00:00")
    slurm.alive["7"] = (RUNNING, "")
    assert only(tmp_path, spec).state == WAITING
    batch.journal().start(spec.id, "7")
    assert only(tmp_path, spec).state == RUNNING


def test_a_job_that_is_queued_again_waits_though_its_last_attempt_has_no_end(tmp_path, slurm):
    """Its node died."""
    spec = spec_of()
    batch = submitted(tmp_path, [spec], jobs=("7",))
    batch.journal().start(spec.id, "7")
    slurm.alive["7"] = (WAITING, "BeginTime")
    assert (only(tmp_path, spec).state, only(tmp_path, spec).detail) == (WAITING, "BeginTime")


def test_a_run_whose_job_is_gone_is_lost(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    found = only(tmp_path, spec)
    assert (found.state, found.job) == (LOST, "7")
    assert "left no record" in found.detail
    slurm.ended["7"] = "NODE_FAIL (exit 0:1)"
    assert "NODE_FAIL (exit 0:1)" in only(tmp_path, spec).detail
    slurm.ended["7"] = "COMPLETED"
    assert only(tmp_path, spec).state == LOST


@pytest.mark.parametrize("how", ["CANCELLED", "CANCELLED by 1000", "CANCELLED (exit 0:15)"])
def test_a_run_whose_job_was_cancelled_is_missing(tmp_path, slurm, how):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    slurm.ended["7"] = how
    assert only(tmp_path, spec).state == MISSING


def test_run_without_accounting_is_lost_with_reason(tmp_path, slurm):
    specs = [spec_of(1), spec_of(2)]
    submitted(tmp_path, *([spec] for spec in specs), jobs=("7_0", "7_1"))
    slurm.unaccounted = True
    found = query_states(specs, tmp_path)
    assert found.counts()["lost"] == 2
    (problem,) = found.problems
    assert "accounting storage is disabled" in problem


def test_a_silent_cluster_leaves_unknown_what_was_submitted_to_it(tmp_path, slurm):
    spec, done, missing = spec_of(), spec_of(1), spec_of(2)
    submitted(tmp_path, [spec], [done], jobs=("7_0", "7_1"))
    leave(tmp_path, done)
    slurm.silent = True
    found = query_states([spec, done, missing], tmp_path)
    assert [state.state for state in found.states] == [UNKNOWN, DONE, MISSING]
    assert found.problems == ["SLURM does not answer"]


def test_a_silent_cluster_hides_no_other(tmp_path, clusters):
    here, there = spec_of(1), spec_of(2)
    submitted(tmp_path, [here], jobs=("4711",), cluster="local")
    submitted(tmp_path, [there], jobs=("7",))
    clusters["slurm"].silent = True
    clusters["local"].alive["4711"] = (RUNNING, "")
    assert [state.state for state in query_states([here, there], tmp_path).states] == [WAITING, UNKNOWN]


def test_a_run_that_ends_while_the_cluster_is_asked_is_done_and_not_lost(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    slurm.meanwhile = lambda: leave(tmp_path, spec)
    assert only(tmp_path, spec).state == DONE


def test_an_interrupted_run_is_missing_unless_its_job_is_there(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",))
    leave(tmp_path, spec, "interrupted")
    found = only(tmp_path, spec)
    assert (found.state, found.detail) == (MISSING, "stopped")
    slurm.alive["7"] = (WAITING, "Priority")
    assert (only(tmp_path, spec).state, only(tmp_path, spec).detail) == (WAITING, "Priority")


def test_a_run_at_which_somebody_is_without_a_job_is_running(tmp_path, slurm):
    spec = spec_of()
    with run_lock(tmp_path, spec.id):
        found = only(tmp_path, spec)
        assert (found.state, found.detail, found.job) == (RUNNING, "not as a job", None)
        submitted(tmp_path, [spec], jobs=("7",))  # whose job is gone
        assert only(tmp_path, spec).state == RUNNING
    assert only(tmp_path, spec).state == LOST


# --- runs that are carried out again -------------------------------------------------------------------------


def test_a_failed_run_that_is_tried_again(tmp_path, slurm):
    spec = spec_of()
    old = leave(tmp_path, spec, "failed")
    batch = submitted(tmp_path, [spec], jobs=("7",), replaces=old)
    slurm.alive["7"] = (WAITING, "Resources")
    assert (only(tmp_path, spec).state, only(tmp_path, spec).detail) == (WAITING, "Resources")
    slurm.alive["7"] = (RUNNING, "")
    batch.journal().start(spec.id, "7")
    assert only(tmp_path, spec).state == RUNNING
    del slurm.alive["7"]  # it was killed: things are as before
    assert (only(tmp_path, spec).state, only(tmp_path, spec).detail) == (FAILED, "no data")
    assert leave(tmp_path, spec, "failed") != old
    slurm.alive["7"] = (RUNNING, "")  # the job has other runs
    assert only(tmp_path, spec).state == FAILED


def test_a_finished_run_that_is_carried_out_again(tmp_path, slurm):
    """As by ``run --retry``: until its job has replaced the record, or is gone, the run is not done."""
    spec = spec_of()
    old = leave(tmp_path, spec)
    batch = submitted(tmp_path, [spec], jobs=("7",), replaces=old)
    slurm.alive["7"] = (WAITING, "Resources")
    assert (only(tmp_path, spec).state, only(tmp_path, spec).detail) == (WAITING, "Resources")
    slurm.alive["7"] = (RUNNING, "")
    batch.journal().start(spec.id, "7")
    assert only(tmp_path, spec).state == RUNNING
    del slurm.alive["7"]
    assert only(tmp_path, spec).state == DONE
    slurm.alive["7"] = (RUNNING, "")
    assert leave(tmp_path, spec, replaced=True) != old
    assert only(tmp_path, spec).state == DONE


def test_of_several_jobs_the_one_that_is_there_counts_else_the_last(tmp_path, slurm):
    spec = spec_of()
    submitted(tmp_path, [spec], jobs=("7",), when="2026-01-01T00:00:00+00:00")
    submitted(tmp_path, [spec], jobs=("8",), when="2026-01-02T00:00:00+00:00")
    assert only(tmp_path, spec).job == "8"
    slurm.alive["7"] = (WAITING, "")
    assert (only(tmp_path, spec).state, only(tmp_path, spec).job) == (WAITING, "7")
    slurm.alive["8"] = (WAITING, "")
    assert only(tmp_path, spec).job == "8"


def test_a_number_that_slurm_has_given_out_twice_is_the_later_job(tmp_path, slurm):
    """A controller that lost its state counts anew."""
    gone, there = spec_of(1), spec_of(2)
    submitted(tmp_path, [gone], jobs=("7",), when="2026-01-01T00:00:00+00:00")
    submitted(tmp_path, [there], jobs=("7",), when="2026-01-02T00:00:00+00:00")
    slurm.alive["7"] = (WAITING, "Resources")
    assert [state.state for state in query_states([gone, there], tmp_path).states] == [LOST, WAITING]
    slurm.alive.clear()
    slurm.ended["7"] = "CANCELLED by 0"
    assert [state.state for state in query_states([gone, there], tmp_path).states] == [LOST, MISSING]


def test_a_run_whose_job_was_ended_by_hand_is_missing_also_without_accounting(tmp_path, clusters):
    spec, other = spec_of(1), spec_of(2)
    batch = submitted(tmp_path, [spec], [other], jobs=("4711", "4712"), cluster="local")
    batch.note_cancelled(["4711"])
    assert [state.state for state in query_states([spec, other], tmp_path).states] == [MISSING, LOST]
    batch.note_cancelled(["4712"])
    assert [state.state for state in query_states([spec, other], tmp_path).states] == [MISSING, MISSING]


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
    wanted = submitted(tmp_path, [mine], jobs=("7",))
    submitted(tmp_path, [other], jobs=("8",))
    submitted(tmp_path, [mine], jobs=())  # its submission was cut off
    query_states([mine], tmp_path)
    assert slurm.asked == [[wanted.token]]


def test_damaged_batch_is_reported_in_one_line(tmp_path, slurm):
    batch = submitted(tmp_path, [spec_of()], jobs=("7",))
    batch.file.write_text("{")
    with pytest.raises(SetupError, match="delete its folder"):
        query_states([spec_of()], tmp_path)
