"""What happened to runs on the cluster: one file a batch for starts and ends, one for how far each run has come.

Events are lines that are only ever appended. What changes with every epoch is no event: each task has a few bytes of
its own in a second file, written in place, so that neither file grows with the number of epochs.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.files import Lock

PREEMPTED, TIMED_OUT, TERMINATED, KILLED = "preempted", "timed out", "terminated", "killed"
DONE, FAILED, DISK_FULL = "done", "failed", "disk full"
"""How an attempt ended. An attempt without an end was ``killed``; that is written down when the next one starts."""
FILE, PROGRESS = "journal.jsonl", "progress"
SLOT = 128
"""Bytes of a task in the file of progress."""
LOCK_S = 10.0
"""Within which others finish a line; then it is appended all the same."""


@dataclass(frozen=True)
class Attempt:
    """One stretch of work on a run, by one start of one job.

    Attributes:
        batch: token of the batch that the job belongs to.
        job: its id.
        began: seconds since the epoch.
        saves: checkpoints that were saved in this attempt.
        first, last: of them, each (when, epochs done, epochs in all); None without any.
        ended: how; None while it may still continue.
        facts: what else the start and the end noted.
    """

    batch: str
    job: str
    began: float
    saves: int = 0
    first: tuple[float, int, int] | None = None
    last: tuple[float, int, int] | None = None
    ended: str | None = None
    facts: dict[str, Any] | None = None

    def seconds_left(self) -> float | None:
        """Estimated from the epochs of this attempt; None before the second of them."""
        if self.saves < 2 or self.first is None or self.last is None:
            return None
        (first, done_then, _), (last, done, total) = self.first, self.last
        rate = (last - first) / max(1, done - done_then)
        return max(0.0, rate * (total - done) - (time.time() - last))


class Journal:
    """The journal of one batch.

    A line is appended with one small write by whoever holds the journal's lock: on a network file system, appending
    alone does not keep the lines of two machines apart. A line that is not whole is passed over.

    Args:
        folder: of the batch.
        keys: of all of its tasks, in their order.
    """

    def __init__(self, folder: Path, keys: Iterable[str]) -> None:
        self.folder = folder
        self._slots = {key: number for number, key in enumerate(keys)}
        self._attempts: dict[str, Attempt] = {}
        self._read = 0

    def start(self, key: str, job: str, **facts: Any) -> None:
        """A job begins with a task; raises OSError."""
        self._attempts[key] = attempt = Attempt(self.folder.name, job, time.time())
        self.end_of_killed(key)
        self._append(key, "start", attempt.began, job=job, slot=self._slots[key], **facts)

    def saved(self, key: str, done: int, of: int) -> None:
        """A checkpoint of a task that was started here: so many epochs are done; raises OSError."""
        attempt, point = self._attempts[key], (time.time(), done, of)
        self._attempts[key] = attempt = replace(
            attempt, saves=attempt.saves + 1, first=attempt.first or point, last=point
        )
        text = json.dumps([attempt.began, attempt.saves, attempt.first, attempt.last], separators=(",", ":"))
        handle = os.open(self.folder / PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(handle, text.ljust(SLOT - 1).encode() + b"\n", SLOT * self._slots[key])
        finally:
            os.close(handle)

    def end(self, key: str, how: str, **facts: Any) -> None:
        """The work on a task that was started here is over; raises OSError."""
        self._append(key, "end", time.time(), how=how, **_progress_of(self._attempts[key]), **facts)

    def end_of_killed(self, key: str) -> bool:
        """Write down the end of an attempt that has none: its progress may be overwritten. Whether there was one."""
        attempts = attempts_in(self.folder, [key]).get(key, [])
        if attempts and attempts[-1].ended is None:
            self._append(key, "end", time.time(), how=KILLED, **_progress_of(attempts[-1]))
            return True
        return False

    def news(self) -> Iterator[dict[str, Any]]:
        """Events that were added since the last call."""
        try:
            with (self.folder / FILE).open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text.rfind(b"\n") + 1
        self._read += whole
        yield from _events(text[:whole])

    def _append(self, key: str, event: str, at: float, **facts: Any) -> None:
        line = json.dumps({"run": key, "event": event, "at": at, **facts}) + "\n"
        lock: Any = Lock(self.folder.parent, f"journal of {self.folder.name}")
        try:
            lock.acquire(LOCK_S)
        except TimeoutError:
            lock = nullcontext()
        with lock:
            handle = os.open(self.folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, b"\n" + line.encode())  # what a torn write left behind stays a line of its own
            finally:
                os.close(handle)


def attempts_in(folder: Path, keys: Iterable[str] | None = None) -> dict[str, list[Attempt]]:
    """Attempts of the tasks of one batch, oldest first, by key; of these keys only."""
    try:
        text = (folder / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    wanted = None if keys is None else set(keys)
    if wanted is not None and len(wanted) == 1:
        (only,) = wanted
        text = b"\n".join(line for line in text.split(b"\n") if only.encode() in line)
    found: dict[str, list[Attempt]] = {}
    slots: dict[str, int] = {}
    for event in _events(text):
        with suppress(KeyError, TypeError, ValueError):
            _add(found, slots, folder.name, event, wanted)
    open_ones = [key for key, attempts in found.items() if attempts[-1].ended is None]
    if open_ones:
        try:
            progress = (folder / PROGRESS).read_bytes()
        except FileNotFoundError:
            progress = b""
        for key in open_ones:
            found[key][-1] = _with_slot(found[key][-1], progress[SLOT * slots[key] :][:SLOT])
    return found


def attempts_of(jobs: Path, keys: Sequence[str] | None = None) -> dict[str, list[Attempt]]:
    """Attempts of runs and bases in all batches of a folder of batches, oldest first, by key."""
    found: dict[str, list[Attempt]] = {}
    for file in jobs.glob(f"*/{FILE}"):
        for key, attempts in attempts_in(file.parent, keys).items():
            found.setdefault(key, []).extend(attempts)
    for attempts in found.values():
        attempts.sort(key=lambda attempt: attempt.began)
    return found


def history(attempts: Sequence[Attempt]) -> dict[str, int]:
    """How often work on a run began (``attempts``), and how often each kind of end cut it short."""
    ends = Counter(attempt.ended or KILLED for attempt in attempts[:-1])
    return {
        "attempts": len(attempts),
        "preemptions": ends[PREEMPTED],
        "timeouts": ends[TIMED_OUT],
        "terminations": ends[TERMINATED],
        "kills": ends[KILLED],
    }


def fruitless(attempts: Sequence[Attempt], batch: str) -> list[Attempt]:
    """The last attempts of ``batch`` in a row that ended, in whatever way, before an epoch was done."""
    found: list[Attempt] = []
    for attempt in reversed(attempts):
        if attempt.batch != batch or attempt.saves or attempt.ended in (DONE, FAILED):
            break
        found.append(attempt)
    return found


def _events(text: bytes) -> Iterator[dict[str, Any]]:
    for line in filter(None, text.split(b"\n")):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _add(
    found: dict[str, list[Attempt]], slots: dict[str, int], batch: str, event: dict[str, Any], wanted: set[str] | None
) -> None:
    """One event more; raises KeyError, TypeError, ValueError for one that has not what it needs."""
    key, kind, at = event.pop("run"), event.pop("event"), float(event.pop("at"))
    if not isinstance(key, str) or (wanted is not None and key not in wanted):
        return
    if kind == "start":
        attempt, slots[key] = Attempt(batch, event.pop("job"), at), int(event.pop("slot"))
        found.setdefault(key, []).append(replace(attempt, facts=event))
    elif kind == "end" and key in found:
        attempt, how = found[key][-1], event.pop("how")
        saves, first, last = _points(event.pop("saves"), event.pop("first"), event.pop("last"))
        facts = (attempt.facts or {}) | event
        found[key][-1] = replace(attempt, saves=saves, first=first, last=last, ended=how, facts=facts)


def _with_slot(attempt: Attempt, text: bytes) -> Attempt:
    """An attempt that has no end with the progress in its slot, if that is its own and whole."""
    with suppress(ValueError, TypeError):
        began, saves, first, last = json.loads(text)
        if began == attempt.began:
            saves, first, last = _points(saves, first, last)
            return replace(attempt, saves=saves, first=first, last=last)
    return attempt


def _progress_of(attempt: Attempt) -> dict[str, Any]:
    return {"saves": attempt.saves, "first": attempt.first, "last": attempt.last}


def _points(saves: Any, first: Any, last: Any) -> tuple[int, Any, Any]:
    def point(value: Any) -> tuple[float, int, int] | None:
        if value is None:
            return None
        at, done, of = value
        return float(at), int(done), int(of)

    return int(saves), point(first), point(last)
