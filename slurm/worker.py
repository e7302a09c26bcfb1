"""A process of a job that carries out tasks, one after the other, and leaves their records."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from bench.errors import BenchError, NoRoom, RunFailed, SetupError
from bench.progress import Progress
from slurm import journal
from slurm.batch import Batch, Task, attempts
from slurm.child import in_copy
from slurm.journal import Attempt, Journal
from slurm.place import AGAIN, ENDED, REPORT, Place, Requeue, Signals
from slurm.queue import Queue

NO_MEMORY = "no GPU memory"
"""How an attempt ended that shared its GPU with other processes."""
FRUITLESS_ATTEMPTS = 3
"""So many attempts in a row that end before an epoch is done, and the run fails."""
ROOM_TRIES, ROOM_PAUSE_S, ROOM_BYTES = 60, 10.0, 2**20
HEADROOM = 1.2
"""An epoch may take so much longer than the longest before it."""


class Worker:
    """Carries out the tasks of a job, in parallel to other workers with the same tasks, each task once."""

    def __init__(self, batch: Batch, number: int, place: Place, signals: Signals, isolated: bool = False) -> None:
        self.batch, self.place, self.signals, self.isolated = batch, place, signals, isolated
        self.queue = Queue(batch, number, place, before_waiting=signals.check)
        self.notes = batch.journal()
        self.reports = Reports(place)
        self.begun = False
        """Whether this process carried out a task since it started."""
        self.options = {
            **batch.options,
            "out": batch.out,
            "data_dir": Path(os.path.expandvars(batch.options["data_dir"])),
        }

    def work(self) -> None:
        """Until every task is done. Raises Requeue when the job is to continue later, KeyboardInterrupt at its end."""
        from bench.runs.preload import preload  # takes seconds; a signal in the middle of an import may be lost
        from bench.spec.registry import add_plugin

        for file in self.batch.plugins:
            add_plugin(file)
        if self.isolated:
            preload()
        with self.signals.interrupting():
            while (at_once := self.reports.next()) and (taken := self.queue.take()):
                task, lock = taken
                with lock:
                    self._wait_for_room()
                    if self.begun:
                        self._stop_in_time()
                    (self._apart if self.isolated else self._here)(task, at_once)
                    self.begun = True
                    self.queue.done.add(task.key)  # also where it did not get done: not a second time by this process

    def _here(self, task: Task, at_once: int) -> None:
        """Carry out a task in this process."""
        while self._carry_out(task, at_once):  # the first one in any case: its attempts are counted
            self._stop_in_time()

    def _apart(self, task: Task, at_once: int) -> None:
        """Carry out a task in a copy of this process, and in another one where that is killed."""
        killed = True
        while killed:
            code = in_copy(partial(self._here, task, at_once), self.signals)
            if code == ENDED:
                raise KeyboardInterrupt
            if code == AGAIN:
                ends = [attempt.ended for attempt in attempts(self.batch.out, task.key)[-1:]]
                raise Requeue(next(filter(None, ends), self.signals.clock.stop()))
            if code == -signal.SIGKILL:  # as when memory runs out
                self.reports.full()
            killed = self._was_killed(task, code)
            if killed:
                _say(f"{task.key}: its process was killed (exit code {code})")
                self._stop_in_time()

    def _was_killed(self, task: Task, code: int) -> bool:
        """Whether a copy ended in the middle of a task; that is written down, as an attempt of the run."""
        try:
            with self.signals.held():
                begun = self.notes.end_of_killed(task.key)
                if task.finished(self.batch.out) or not (begun or code < 0):
                    return False
                if not begun:
                    self._note_start(task)
                    self.notes.end(task.key, journal.KILLED)
                return True
        except OSError:  # a full disk
            return False

    def _stop_in_time(self) -> None:
        """Begin with nothing when the job has to end."""
        self.signals.check()
        if self.signals.clock.left() <= 0:
            raise Requeue(journal.TIMED_OUT)

    def _wait_for_room(self, needed: int = ROOM_BYTES) -> bool:
        """While the disk is full, for a while: a run that begins now would be lost; returns whether there is room."""
        from bench.files import require_writable

        for attempt in range(ROOM_TRIES):
            try:
                require_writable(self.batch.out, needed)
                return True
            except SetupError as error:
                if not attempt:
                    _say(f"waiting for room: {error}")
                time.sleep(ROOM_PAUSE_S)
        return False

    def _carry_out(self, task: Task, at_once: int) -> bool:
        """Carry out a task, with so many processes in the job, and write to the journal how that ended.

        Returns whether to carry it out again: the disk was full, and has room now.
        """
        how, facts, again = journal.FAILED, {}, False
        earlier = attempts(self.batch.out, task.key)
        try:
            with suppress(OSError), self.signals.held():
                self._note_start(task)
            facts = self._run(task, earlier, at_once)
            how = journal.DONE
        except Requeue as stop:
            how = stop.how
            raise
        except KeyboardInterrupt:
            how = journal.TERMINATED
            raise
        except RunFailed as error:
            how = _for_later(error, at_once) or journal.FAILED
            if how == NO_MEMORY:
                self.reports.full()
            _say(f"error: {task.key}: {error}")
            if self.place.cluster == "debug":
                raise
            if how == journal.DISK_FULL:  # before its end is noted, which needs room too
                cause = error.__cause__
                again = self._wait_for_room(cause.needed if isinstance(cause, NoRoom) else ROOM_BYTES)
        finally:
            with suppress(OSError), self.signals.held():  # a full disk; the record, or its absence, is what counts
                self.notes.end(task.key, how, **facts)
        return again

    def _note_start(self, task: Task) -> None:
        began = max(0.0, time.time() - self.signals.clock.began)
        self.notes.start(task.key, self.place.job, after_s=round(began, 1), worker=self.place.worker)

    def _run(self, task: Task, earlier: Sequence[Attempt], at_once: int) -> dict[str, Any]:
        from bench.runs.execute import execute, leave_failure, train_base
        from bench.runs.pipeline import label
        from bench.spec.request import RunOptions

        progress = _Progress(label(task.spec), task, self.notes, self.signals, self.reports)
        job = {"cluster": self.batch.cluster, "id": self.place.job, "at_once": at_once}
        job |= journal.history([*earlier, Attempt(self.batch.token, self.place.job, 0.0)]) | {"differs": []}
        options = RunOptions(**self.options, retry=task.replaces is not None)
        try:
            if not task.base:
                job["differs"] = self._differences(task)
            stopped = journal.fruitless(earlier, self.batch.token)
            if len(stopped) >= FRUITLESS_ATTEMPTS:
                raise SetupError(_no_epoch(stopped, self.batch.minutes))
            self._stop_in_time()
            if task.base:
                return {"base": train_base(task.spec, options, progress)}
            execute(task.spec, options, progress, job)
            return {}
        except Exception as error:
            # Without room nothing is left but to try again later; else, it could not even start.
            if not (task.base or _for_later(error, at_once) or task.finished(self.batch.out)):
                with suppress(OSError, BenchError):
                    leave_failure(task.spec, options, error, job)
            raise RunFailed(str(error)) from error

    def _differences(self, task: Task) -> list[str]:
        """What is not as it was at submission, also printed to the log."""
        from bench.measure import environment
        from bench.runs.method_factory import make_method, method_digest

        then = {**self.batch.code, **self.batch.packages, "method": task.method_sha256}
        now = {
            **environment.code(),
            **environment.packages(),
            "method": method_digest(make_method(task.spec.method, {})),
        }
        found = differences(then, now)
        for text in found:
            _say(f"note: since submission: {text}")
        return found


class Reports:
    """What a process of a job reports to its supervisor and asks it (see :mod:`slurm.supervisor`); else nothing."""

    def __init__(self, place: Place) -> None:
        self.at_once = place.at_once
        self.handle = int(os.environ.get(REPORT, -1))

    def next(self) -> int:
        """Processes that are in the job now, when this one is to continue with another task; else 0."""
        if self.handle < 0:
            return self.at_once
        self._send(next=True)
        return int(sys.stdin.readline() or 0)

    def epoch(self, kind: str, seconds: float) -> None:
        """An epoch of this kind took so long."""
        if self.handle >= 0:
            self._send(kind=kind, seconds=seconds, memory=gpu_memory())

    def full(self) -> None:
        """The GPU has no memory for this process."""
        self._send(full=True)

    def _send(self, **what: Any) -> None:
        if self.handle >= 0:
            os.write(self.handle, json.dumps(what).encode() + b"\n")


def gpu_memory() -> tuple[int, int] | None:
    """Free and whole bytes of this process's GPU; None without one, or where it does not say."""
    import torch

    with suppress(RuntimeError):
        return torch.cuda.mem_get_info() if torch.cuda.is_available() else None
    return None


class _Progress(Progress):
    """Writes every checkpoint to the journal, and stops at one when the time left is too short for another epoch."""

    def __init__(self, label: str, task: Task, notes: Journal, signals: Signals, reports: Reports) -> None:
        super().__init__(label)
        self.key, self.notes, self.signals, self.reports = task.key, notes, signals, reports
        self.spec = task.spec
        self.last = time.time()
        self.longest = 0.0
        self.what, self.whole = "", False

    def start(self, total: int) -> None:
        """See :class:`bench.progress.Progress`."""
        super().start(total)
        self.last = time.time()

    def epoch(self, what: str, epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        """See :class:`bench.progress.Progress`."""
        super().epoch(what, epoch, epochs, loss, accuracy)
        self.what = what

    def saved(self) -> None:
        """See :class:`bench.progress.Progress`."""
        now = time.time()
        self.longest = max(self.longest, now - self.last)
        if self.what and self.whole:  # neither a prune nor the first, which has preparations in it
            self.reports.epoch(self._kind(), now - self.last)
        self.last, self.what, self.whole = now, "", True
        with suppress(OSError), self.signals.held():
            self.notes.saved(self.key, self.done, self.total)
        self.signals.check()
        if HEADROOM * self.longest > self.signals.clock.left():
            raise Requeue(journal.TIMED_OUT)

    def _kind(self) -> str:
        """Epochs of one kind take about as long as each other."""
        spec = self.spec
        mine = "" if self.what.startswith("base") else f"{spec.method} {spec.budget} "
        return f"{mine}{spec.arch} {spec.dataset} {spec.recipe.batch_size} {self.what}"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``key: old, now new`` for every value that is another one. Without git the state of the code is not known."""
    unknown = {"commit", "diff_sha256"} if None in (then.get("commit"), now.get("commit")) else set()
    keys = sorted({*then, *now} - unknown)
    return [f"{key}: was {then.get(key)}, is {now.get(key)}" for key in keys if then.get(key) != now.get(key)]


def _no_epoch(stopped: Sequence[Attempt], minutes: int | None) -> str:
    """Why a run that never gets an epoch done fails, and what to do."""
    ends = ", ".join(f"{n} {how}" for how, n in Counter(attempt.ended or journal.KILLED for attempt in stopped).items())
    text = f"{len(stopped)} attempts in a row ended before an epoch was done ({ends})"
    if any(attempt.ended == journal.DISK_FULL for attempt in stopped):
        return f"{text}: make room for its checkpoints"
    if minutes is None:
        return text
    setup = max((attempt.facts or {}).get("after_s", 0.0) for attempt in stopped)
    return f"{text}: of {minutes} minutes, up to {setup:.0f} s passed before the run began; give a longer time"


def _for_later(error: BaseException | None, at_once: int) -> str | None:
    """What there was no room for, when that is why a run stopped: it can continue later. The journal's word for it."""
    from bench.runs.execute import crowded, disk_full

    while error is not None:
        if disk_full(error) or isinstance(error, NoRoom):
            return journal.DISK_FULL
        if at_once > 1 and crowded(error):
            return NO_MEMORY
        error = error.__cause__
    return None


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
