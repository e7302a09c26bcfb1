"""Where a process of a job is, how much time it has, and what it makes of signals. Nothing heavy is imported.

A signal never writes anything: it sets a flag, and raises an exception where that can end the work at its last
checkpoint.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from bench.files import Lock
from slurm import journal
from slurm.batch import Batch

AGAIN, ENDED = 144, 130
"""Exit codes: the job is to be started again (as submitit has it for this machine); it was terminated. The first is
above those of all signals that end a process, since srun hands on the largest code of its tasks."""
BEGAN = "BENCH_JOB_BEGAN"
"""Variable with the time at which the job began, set-up included, in seconds since the epoch."""
WORKER, AT_ONCE, REPORT = "BENCH_WORKER", "BENCH_AT_ONCE", "BENCH_REPORT"
"""Variables of a process that shares a job with others: its number, how many there are, where it reports to."""
EARLY_S = 60
"""SLURM may send its warning so much earlier than asked."""


class Requeue(BaseException):
    """The job has to end now and continue later; ``how`` is the journal's word for it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass(frozen=True)
class Place:
    """Where this process is.

    Attributes:
        cluster: ``slurm``, ``local`` or ``debug``.
        job: id of the job.
        worker: number of this process among those of the job.
        at_once: processes of the job, or jobs that share this machine, this one included.
    """

    cluster: str
    job: str
    worker: int = 0
    at_once: int = 1

    @classmethod
    def here(cls, batch: Batch, environment: Mapping[str, str] = os.environ) -> Place:
        """What the environment says."""
        if batch.cluster == "slurm":
            array, raw = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_JOB_ID", "?")
            job = f"{array}_{environment['SLURM_ARRAY_TASK_ID']}" if array else raw
            return cls("slurm", job, int(environment.get(WORKER, 0)), int(environment.get(AT_ONCE, 1)))
        if batch.cluster == "local":
            return cls("local", environment["SUBMITIT_LOCAL_JOB_ID"], 0, batch.count)
        return cls(batch.cluster, environment.get("SUBMITIT_DEBUG_JOB_ID", batch.cluster))


class Clock:
    """The time limit of a job, counted from its beginning: set-up lines and imports are on it.

    Attributes:
        began: seconds since the epoch.
        until: when the work has to be over; None without a limit.
    """

    def __init__(self, batch: Batch) -> None:
        self.began = float(os.environ.get(BEGAN) or time.time())
        self.until = None if batch.minutes is None else self.began + 60 * batch.minutes - batch.signal_delay_s

    def left(self) -> float:
        """Seconds until the work has to be over."""
        return float("inf") if self.until is None else self.until - time.time()

    def stop(self) -> str:
        """What a warning that comes now is: that of the time limit, or of a preemption."""
        return journal.TIMED_OUT if self.left() < EARLY_S else journal.PREEMPTED


class Signals:
    """What the job makes of signals: USR2 is the warning before time limit or preemption, TERM the end.

    Only the first of each counts. An exception may be lost, in an import or a destructor; the flag is not, and
    :meth:`check` looks at it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.how: str | None = None
        self.ended = False
        self.raising = False
        """Whether an exception may be raised here and now."""

    def warn(self, signum: int, frame: FrameType | None) -> None:
        """On USR2."""
        if self.how is None:
            self.how = self.clock.stop()
            if self.raising:
                raise Requeue(self.how)

    def end(self, signum: int, frame: FrameType | None) -> None:
        """On TERM: like Ctrl-C, so that a run leaves its record."""
        if not self.ended:
            self.ended = True
            if self.raising:
                raise KeyboardInterrupt("terminated")

    def check(self) -> None:
        """Raise what a signal asked for and nobody has seen."""
        if self.ended:
            raise KeyboardInterrupt("terminated")
        if self.how is not None:
            raise Requeue(self.how)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block, a signal may raise at any moment; of one that came before :meth:`check` knows."""
        self.raising = True
        try:
            yield
        finally:
            self.raising = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, no signal raises: something is being written. :meth:`check` comes to know of it."""
        before, self.raising = self.raising, False
        try:
            yield
        finally:
            self.raising = before

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within the block, signals are heard, and that of the clock comes also where SLURM sends none."""
        before = {
            signal.SIGUSR2: signal.signal(signal.SIGUSR2, self.warn),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self.end),
        }
        alarm = None
        if self.clock.until is not None and self.clock.left() > 0:
            main = threading.main_thread().ident
            assert main is not None
            # Not SIGALRM, which a method may use.
            alarm = threading.Timer(self.clock.left(), signal.pthread_kill, (main, signal.SIGUSR2))
            alarm.daemon = True
            alarm.start()
        try:
            yield
        finally:
            if alarm is not None:
                alarm.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)


def job_lock(batch: Batch, job: str) -> Lock:
    """Held by a job of this machine for as long as it lives."""
    return Lock(batch.out / "jobs", f"job {job} of {batch.token}")
