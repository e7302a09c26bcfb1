"""The job: what runs on a node. It carries out its runs one after the other and leaves their records.

A signal never writes anything. It raises an exception that ends the work at the last checkpoint, which the training
loop wrote after its last epoch; then the job queues itself again and, on its next leg, goes on from there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable

from bench.errors import BenchError, RunFailed, SetupError
from bench.files import Lock
from bench.progress import Progress
from slurm import journal
from slurm.batch import Batch, Task, journal_of
from slurm.journal import Journal

FRUITLESS_LEGS = 3
"""So many legs in a row that reach the time limit before an epoch is done, and the run fails."""
REQUEUE_TRIES, REQUEUE_PAUSE_S = 12, 5.0
ROOM_TRIES, ROOM_PAUSE_S, ROOM_BYTES = 60, 10.0, 2**20
EARLY_S = 60
"""SLURM may send its warning so much earlier than asked."""
HEADROOM = 1.2
"""An epoch may take so much longer than the longest before it."""


class Requeue(BaseException):
    """The job has to end now and go on later; ``how`` is the journal's word for it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Job(Checkpointable):
    """What submitit starts: the tasks of one element of a batch.

    Args:
        file: of the batch.
        element: its index.
    """

    def __init__(self, file: Path, element: int) -> None:
        self.file, self.element = str(file), element

    def __call__(self) -> None:
        """Carry out all tasks that are not done; returns when each has its record."""
        began = time.time()
        env = JobEnvironment()
        batch = Batch.load(Path(self.file))
        signals = _Signals(batch, began)
        with suppress(OSError):  # what a kill left of it would end every later leg with an error
            (batch.folder / f"{env.job_id}_{env.global_rank}_result.pkl.save_tmp").unlink()
        lock = job_lock(batch, env.job_id) if env.name() == "local" else None
        with signals.heard():
            try:
                if lock:
                    lock.acquire()
                _Worker(batch, self.element, env, signals.warned_at).work()
            except Requeue as stop:
                print(f"bench: job {env.job_id} {stop.how}: queued again", file=sys.stderr)
                _requeue(env)
            except KeyboardInterrupt:
                print(f"bench: job {env.job_id} terminated", file=sys.stderr)
                if _is_being_preempted(env):
                    _requeue(env)
                raise SystemExit(130) from None
            finally:
                if lock:
                    lock.release()


def job_lock(batch: Batch, job: str) -> Lock:
    """Held by a job of this machine for as long as it lives."""
    return Lock(batch.folder, job)


class _Signals:
    """What the job makes of signals: USR2 is the warning before time limit or preemption, TERM the end."""

    def __init__(self, batch: Batch, began: float) -> None:
        limit = None if batch.minutes is None else began + 60 * batch.minutes - batch.signal_delay_s
        self.warned_at = limit
        """When the warning before the time limit is due; None without a limit."""

    def warn(self, signum: int, frame: FrameType | None) -> None:
        """On USR2."""
        late = self.warned_at is not None and time.time() > self.warned_at - EARLY_S
        raise Requeue(journal.TIMED_OUT if late else journal.PREEMPTED)

    def end(self, signum: int, frame: FrameType | None) -> None:
        """On TERM: like Ctrl-C, so that a run leaves its record."""
        raise KeyboardInterrupt("terminated")

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within the block, signals are heard."""
        before = {
            signal.SIGUSR2: signal.signal(signal.SIGUSR2, self.warn),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self.end),
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Worker:
    """Carries out the tasks of an element, beside other workers with the same ones, each task once."""

    def __init__(self, batch: Batch, element: int, env: JobEnvironment, until: float | None) -> None:
        self.batch, self.env, self.until = batch, env, until
        self.keys = batch.elements[element]
        self.out = batch.out
        self.options = {
            **batch.options,
            "out": batch.out,
            "data_dir": Path(os.path.expandvars(batch.options["data_dir"])),
            "runtimes": tuple(batch.options["runtimes"]),
        }

    def work(self) -> None:
        """Until every task is done. What another worker holds is waited for, and taken over should that one die."""
        from bench.registry import add_plugin

        for file in self.batch.plugins:
            add_plugin(file)
        pending = [self.batch.task(key) for key in self.keys]
        while pending:
            for task in list(pending):
                with suppress(TimeoutError):
                    self._claim(task, 0)
                    pending.remove(task)
            if pending:
                self._claim(pending[0], -1)
                pending.pop(0)

    def _claim(self, task: Task, timeout: float) -> None:
        """Carry out a task that nobody holds; raises TimeoutError when somebody does."""
        notes = journal_of(self.out, task.key)
        notes.file.parent.mkdir(parents=True, exist_ok=True)
        with notes.lock.acquire(timeout=timeout):
            if not task.finished(self.out):
                self._wait_for_room()
                if self.until is not None and time.time() > self.until:
                    raise Requeue(journal.TIMED_OUT)
                self._carry_out(task, notes)

    def _wait_for_room(self) -> None:
        """While the disk is full, for a while: every run that begins now would be lost."""
        from bench.checkpoint import require_writable

        for attempt in range(ROOM_TRIES):
            try:
                return require_writable(self.out, ROOM_BYTES)
            except SetupError as error:
                if not attempt:
                    print(f"bench: waiting for room: {error}", file=sys.stderr)
                time.sleep(ROOM_PAUSE_S)

    def _carry_out(self, task: Task, notes: Journal) -> None:
        """Carry out a task, and tell the journal how that ended."""
        how, facts = journal.FAILED, {}
        try:
            with suppress(OSError):
                notes.add("start", batch=self.batch.token, job=self.env.job_id)
            facts = self._run(task, notes)
            how = journal.DONE
        except Requeue as stop:
            how = stop.how
            raise
        except KeyboardInterrupt:
            how = journal.TERMINATED
            raise
        except RunFailed as error:
            how = journal.DISK_FULL if _is_disk(error) else journal.FAILED
            print(f"bench: error: {task.key}: {error}", file=sys.stderr)
            if self.env.name() == "debug":
                raise
        finally:
            with suppress(OSError):  # a full disk; the record, or its absence, is what counts
                notes.add("end", how=how, **facts)

    def _run(self, task: Task, notes: Journal) -> dict[str, Any]:
        from bench.pipeline import Options, label
        from bench.run import execute, leave_failure, train_base

        legs = notes.legs()
        progress = _Progress(label(task.spec), notes, self.until)
        beside = self.env.num_tasks if self.batch.cluster == "slurm" else len(self.batch.elements)
        job = {"cluster": self.batch.cluster, "id": self.env.job_id, "at_once": beside}
        job |= journal.history(legs) | {"differs": []}
        options = Options(**self.options, retry=task.replaces is not None)
        try:
            if task.base:
                return {"base": train_base(task.spec, options, progress)}
            job["differs"] = self._differences(task)
            if journal.fruitless(legs[:-1], self.batch.token) >= FRUITLESS_LEGS:
                raise SetupError(
                    f"{FRUITLESS_LEGS} jobs of {self.batch.minutes} minutes in a row ended before an epoch was done: "
                    "give a longer time in the profile"
                )
            execute(task.spec, options, progress, job)
            return {}
        except Exception as error:
            # Of a full disk nothing is left but to try again later; else, it could not even start.
            if not (task.base or _is_disk(error) or task.finished(self.out)):
                with suppress(OSError, BenchError):
                    leave_failure(task.spec, options, error, job)
            raise RunFailed(str(error)) from error

    def _differences(self, task: Task) -> list[str]:
        """What is not as it was at submission, also told in the log."""
        from bench import environment
        from bench.specify import make_method, method_digest

        then = {**self.batch.code, **self.batch.packages, "method": task.method_sha256}
        now = {
            **environment.code(),
            **environment.packages(),
            "method": method_digest(make_method(task.spec.method, {})),
        }
        found = differences(then, now)
        for text in found:
            print(f"bench: note: since submission: {text}", file=sys.stderr)
        return found


class _Progress(Progress):
    """Tells the journal of every checkpoint, and stops at one when the time left is too short for another epoch."""

    def __init__(self, label: str, notes: Journal, until: float | None) -> None:
        super().__init__(label)
        self.notes, self.until = notes, until
        self.last: float | None = None
        self.longest = 0.0

    def saved(self) -> None:
        """See :class:`bench.progress.Progress`."""
        now = time.time()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        with suppress(OSError):
            self.notes.add("epoch", done=self.done, of=self.total)
        if self.until is not None and now + HEADROOM * self.longest > self.until:
            raise Requeue(journal.TIMED_OUT)


def _is_disk(error: BaseException | None) -> bool:
    """Whether an error came from a full disk."""
    from bench.run import FULL

    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__
    return False


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: old, now new`` for every value that is another one."""
    keys = sorted({*then, *now})
    return [f"{key}: was {then.get(key)}, is {now.get(key)}" for key in keys if then.get(key) != now.get(key)]


def _is_being_preempted(env: JobEnvironment) -> bool:
    """Whether SLURM sent TERM to a job that it goes on to count as running, as it does in the grace before preemption.

    A job that ends by itself in that time is over for SLURM, and not queued again. One that was cancelled, requeued by
    hand or over its time limit is completing.
    """
    if env.name() != "slurm":
        return False
    try:
        command = ["squeue", "-h", "-j", env.job_id, "-o", "%T"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() == "RUNNING"
    except (OSError, subprocess.SubprocessError):
        return False


def _requeue(env: JobEnvironment) -> None:
    """Have the job started again; the first process of a job does it for all. Does not return there."""
    for number in (signal.SIGUSR2, signal.SIGTERM):  # what comes now comes from being queued again
        signal.signal(number, signal.SIG_IGN)
    if env.global_rank != 0:
        return
    for _ in range(REQUEUE_TRIES):
        try:
            env._requeue(0)
            sys.exit(0)
        except (OSError, subprocess.SubprocessError) as error:  # the controller may be starting again
            print(f"bench: cannot queue again: {error}", file=sys.stderr)
            time.sleep(REQUEUE_PAUSE_S)
    sys.exit(1)
