"""The time limit: a job stops at a checkpoint when the time left is too short, and queues again."""

import time
from types import SimpleNamespace

import pytest
from job_tools import batch_of, found, has_record, legs

from bench import pipeline, record
from bench.run import execute
from bench.training import Training
from slurm import job as jobs
from slurm.batch import journal_of
from slurm.job import FRUITLESS_LEGS, Job


@pytest.fixture
def clock(monkeypatch):
    """Time as jobs see it; it stands still but in epochs, each of which takes ``minutes``."""
    now = SimpleNamespace(s=1_000_000.0, minutes=20)
    epoch = Training._epoch

    def take_time(self, *given):
        now.s += 60 * now.minutes
        return epoch(self, *given)

    monkeypatch.setattr(Training, "_epoch", take_time)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(time=lambda: now.s, sleep=time.sleep))
    return now


def test_a_run_stops_at_a_checkpoint_when_the_time_left_is_too_short_for_an_epoch(make_run, tmp_path, clock, requeued):
    spec, options = make_run(train__epochs=7, out=tmp_path / "whole")
    whole = execute(spec, options)
    batch = batch_of(tmp_path / "out", spec, minutes=60)
    for leg in range(1, 9):
        began = clock.s
        Job(batch.file, 0)()
        assert clock.s - began <= 60 * 60 - 90  # SLURM had no reason to warn
        if has_record(batch.out, spec):
            break
        assert len(requeued) == leg
        assert legs(batch.out, spec)[-1].ended == "timed out"
        assert clock.s - began >= 2 * 60 * clock.minutes  # what fits is done
    done = found(batch.out, spec)
    assert record.timeless(done) == record.timeless(whole)
    assert done["job"].items() >= {"legs": leg, "timeouts": leg - 1}.items()
    assert leg in (4, 5)  # 7 epochs of the base and one of the run, two or three in a leg


def test_no_run_is_begun_when_the_time_is_over(make_run, tmp_path, clock, requeued):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two, minutes=60)
    clock.minutes = 29  # one epoch of base, one of the run: 58 of 58.5 minutes
    Job(batch.file, 0)()
    if has_record(tmp_path, one):
        assert not has_record(tmp_path, two)
    clock.s += 3600
    while not has_record(tmp_path, two):
        Job(batch.file, 0)()
    assert requeued
    assert {found(tmp_path, spec)["status"] for spec in (one, two)} == {"ok"}


def test_a_job_whose_time_is_over_between_two_runs_queues_again(make_run, tmp_path, clock, requeued, monkeypatch):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two, minutes=60)
    clock.minutes = 1
    measure = pipeline.Run._measure

    def take_long(self, *given):
        measure(self, *given)
        clock.s += 3600

    monkeypatch.setattr(pipeline.Run, "_measure", take_long)
    Job(batch.file, 0)()
    assert requeued == ["77"]
    assert found(tmp_path, one)["status"] == "ok"
    assert legs(tmp_path, two) == []  # not begun
    Job(batch.file, 0)()
    assert found(tmp_path, two)["job"]["legs"] == 1


def test_without_a_limit_no_job_looks_at_the_clock(make_run, tmp_path, clock, requeued):
    spec, _ = make_run(train__epochs=3)
    clock.minutes = 10**6
    Job(batch_of(tmp_path, spec).file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"
    assert requeued == []


def fruitless_leg(out, spec, batch, epochs=0, how="timed out"):
    notes = journal_of(out, spec.id)
    notes.add("start", batch=batch.token, job="77")
    for epoch in range(epochs):
        notes.add("epoch", done=epoch + 1, of=9)
    notes.add("end", how=how)


def test_a_run_that_never_gets_an_epoch_done_fails_and_says_what_to_do(make_run, tmp_path):
    spec, other = make_run()[0], make_run("random")[0]
    batch = batch_of(tmp_path, spec, other, minutes=30)
    for _ in range(FRUITLESS_LEGS):
        fruitless_leg(tmp_path, spec, batch)
    Job(batch.file, 0)()
    failed = found(tmp_path, spec)
    assert failed["status"] == "failed"
    assert f"{FRUITLESS_LEGS} jobs of 30 minutes in a row" in failed["error"]["message"]
    assert "profile" in failed["error"]["message"]
    assert failed["job"]["timeouts"] == FRUITLESS_LEGS
    assert found(tmp_path, other)["status"] == "ok"


@pytest.mark.parametrize(
    "last",
    [
        [],
        [{"epochs": 1}],
        [{"how": "preempted"}],
        [{"how": "terminated"}, {}],
    ],
)
def test_a_run_that_gets_somewhere_is_given_time(make_run, tmp_path, last):
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec, minutes=30)
    for _ in range(FRUITLESS_LEGS - 1):
        fruitless_leg(tmp_path, spec, batch)
    for more in last:
        fruitless_leg(tmp_path, spec, batch, **more)
    Job(batch.file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"


def test_fruitless_legs_of_another_batch_do_not_count(make_run, tmp_path):
    """It may have had a shorter limit."""
    spec, _ = make_run()
    older = batch_of(tmp_path, spec, minutes=1)
    for _ in range(FRUITLESS_LEGS):
        fruitless_leg(tmp_path, spec, older)
    Job(batch_of(tmp_path, spec, minutes=30).file, 0)()
    assert found(tmp_path, spec)["status"] == "ok"
