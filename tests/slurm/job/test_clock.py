"""The time limit: a job stops at a checkpoint when the time left is too short, and queues again."""

import time
from types import SimpleNamespace

import msgspec
import pytest
from support.job_tools import attempts, batch_of, found, has_record

from bench.records import store
from bench.runs import pipeline
from bench.training.loop import PhaseTrainer
from slurm import place as places
from slurm import worker as workers
from slurm.batch import Task
from slurm.job import Job
from slurm.place import AGAIN, BEGAN
from slurm.worker import FRUITLESS_ATTEMPTS


@pytest.fixture
def clock(monkeypatch):
    """Time as jobs see it; it stands still but in epochs, each of which takes ``minutes``."""
    now = SimpleNamespace(s=1_000_000.0, minutes=20)
    epoch = PhaseTrainer._epoch

    def take_time(self, *given):
        now.s += 60 * now.minutes
        return epoch(self, *given)

    monkeypatch.setattr(PhaseTrainer, "_epoch", take_time)
    for module in (places, workers):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now.s, sleep=time.sleep))
    return now


def test_job_stops_at_a_checkpoint_when_no_epoch_would_fit(finished, tmp_path, clock):
    spec, whole, _ = finished(train__epochs=7)
    batch = batch_of(tmp_path / "out", spec, minutes=60)
    codes = []
    while 0 not in codes:
        began = clock.s
        codes.append(Job(batch.file, 0)())
        assert clock.s - began <= 60 * 60 - 90  # SLURM had no reason to warn
        if codes[-1] == AGAIN:
            assert not has_record(batch.out, spec)
            assert attempts(batch.out, spec)[-1].ended == "timed out"
            assert clock.s - began >= 2 * 60 * clock.minutes  # what fits is done
    done = found(batch.out, spec)
    assert store.without_timing(done) == store.without_timing(whole)
    assert msgspec.to_builtins(done.job).items() >= {"attempts": len(codes), "timeouts": len(codes) - 1}.items()
    assert len(codes) in (4, 5)  # 7 epochs of the base and one of the run, two or three in an attempt


def test_limit_counts_set_up_and_no_limit_counts_nothing(make_run, tmp_path, clock, monkeypatch):
    """As with staged data: the job began long before this process."""
    spec, _ = make_run(train__epochs=7)
    batch = batch_of(tmp_path / "limit", spec, minutes=60)
    with monkeypatch.context() as patch:
        patch.setenv(BEGAN, str(clock.s - 35 * 60))
        assert Job(batch.file, 0)() == AGAIN
    (attempt,) = attempts(batch.out, spec)
    assert (attempt.ended, attempt.saves, attempt.facts["after_s"]) == ("timed out", 1, 35 * 60)
    clock.minutes = 10**6
    assert Job(batch_of(tmp_path / "none", spec).file, 0)() == 0
    assert found(tmp_path / "none", spec).status == "ok"


def test_no_run_is_begun_when_the_time_is_over(make_run, tmp_path, clock, monkeypatch):
    one, two = (make_run(seed=seed)[0] for seed in (0, 1))
    batch = batch_of(tmp_path, one, two, minutes=60)
    clock.minutes = 1
    measure = pipeline.RunPipeline._measure

    def take_long(self, *given):
        measure(self, *given)
        clock.s += 3600

    monkeypatch.setattr(pipeline.RunPipeline, "_measure", take_long)
    assert Job(batch.file, 0)() == AGAIN
    assert found(tmp_path, one).status == "ok"
    assert attempts(tmp_path, two) == []  # not begun
    Job(batch.file, 0)()
    assert (found(tmp_path, two).status, found(tmp_path, two).job.attempts) == ("ok", 1)


def test_late_start_counts_as_an_attempt_and_ends_at_the_third(make_run, tmp_path, clock, monkeypatch):
    """Set-up that takes all of the time: the job could queue again for ever."""
    spec, other = make_run()[0], make_run("random")[0]
    batch = batch_of(tmp_path, spec, other, minutes=60)
    monkeypatch.setenv(BEGAN, str(clock.s - 59 * 60))
    codes = [Job(batch.file, 0)() for _ in range(2 * FRUITLESS_ATTEMPTS + 2)]
    assert codes == [AGAIN] * (2 * FRUITLESS_ATTEMPTS + 1) + [0]  # in one of them the first run fails
    for one in (spec, other):
        failed = found(tmp_path, one)
        assert (failed.status, failed.job.timeouts) == ("failed", FRUITLESS_ATTEMPTS)
        assert "of 60 minutes, up to 3540 s passed before the run began" in failed.error.message
        assert [attempt.saves for attempt in attempts(tmp_path, one)] == [0] * (FRUITLESS_ATTEMPTS + 1)


def test_job_stops_in_time_though_no_warning_comes(make_run, tmp_path, monkeypatch):
    """SLURM sends none to a job without processes, as during its set-up; one epoch takes longer than is left."""
    spec, _ = make_run()
    batch = batch_of(tmp_path, spec, minutes=2, signal_delay_s=40)
    monkeypatch.setenv(BEGAN, str(time.time() - 79))  # so the limit is a second away
    monkeypatch.setattr(PhaseTrainer, "_epoch", lambda *given: time.sleep(60))
    assert Job(batch.file, 0)() == AGAIN
    assert attempts(tmp_path, spec)[0].ended == "timed out"


def fruitless(key, batch, epochs=0, how="timed out"):
    """An attempt with so many epochs."""
    notes = batch.journal()
    notes.start(key, "77", after_s=61.0)
    for epoch in range(epochs):
        notes.saved(key, epoch + 1, 9)
    if how != "killed":
        notes.end(key, how)


@pytest.mark.parametrize(
    ("ends", "counts"),
    [
        (["timed out", "killed", "preempted"], "1 preempted, 1 killed, 1 timed out"),
        (["terminated", "timed out", "timed out"], "2 timed out, 1 terminated"),
    ],
)
def test_run_fails_after_three_attempts_without_an_epoch(make_run, tmp_path, ends, counts):
    """Whatever ended them."""
    spec, other = make_run()[0], make_run("random")[0]
    base = Task(spec, base=True)
    batch = batch_of(tmp_path, base, spec, other, minutes=30)
    for how in ends:
        fruitless(spec.id, batch, how=how)
        fruitless(base.key, batch, how=how)
    assert Job(batch.file, 0)() == 0
    failed = found(tmp_path, spec)
    assert failed.status == "failed"
    assert f"3 attempts in a row ended before an epoch was done ({counts})" in failed.error.message
    assert "of 30 minutes, up to 61 s passed before the run began; give a longer time" in failed.error.message
    assert failed.job.timeouts == ends.count("timed out")
    assert attempts(tmp_path, base.key)[-1].ended == "failed"
    assert found(tmp_path, other).status == "ok"  # it trains the base itself


@pytest.mark.parametrize(
    "last",
    [
        [{"how": "preempted", "epochs": 1}],
        [{"how": "killed", "epochs": 2}, {}],
        None,  # all of them in another batch, which may have had a shorter limit
    ],
)
def test_run_that_advances_is_given_time(make_run, tmp_path, last):
    spec, _ = make_run()
    older, batch = (batch_of(tmp_path, spec, minutes=minutes) for minutes in (1, 30))
    for _ in range(FRUITLESS_ATTEMPTS - (last is not None)):
        fruitless(spec.id, batch if last else older)
    for more in last or ():
        fruitless(spec.id, batch, **more)
    Job(batch.file, 0)()
    assert found(tmp_path, spec).status == "ok"
