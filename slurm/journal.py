"""What happened to a run on the cluster: one file a run, a line an event, only ever appended to."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.files import Lock

PREEMPTED, TIMED_OUT, TERMINATED, KILLED = "preempted", "timed out", "terminated", "killed"
DONE, FAILED, DISK_FULL = "done", "failed", "disk full"
"""How a leg ended. ``killed`` is never written: it is what a leg without an end was."""


@dataclass(frozen=True)
class Leg:
    """One stretch of work on a run, by one start of one job.

    Attributes:
        batch: token of the batch that the job belongs to.
        job: its id.
        began: seconds since the epoch.
        epochs: that were saved in this leg; each is (when, epochs done, epochs in all).
        ended: how; None while it may still go on.
        facts: what else the end told.
    """

    batch: str
    job: str
    began: float
    epochs: tuple[tuple[float, int, int], ...] = ()
    ended: str | None = None
    facts: dict[str, Any] | None = None

    def seconds_left(self) -> float | None:
        """Estimated from the epochs of this leg; None before the second of them."""
        if len(self.epochs) < 2:
            return None
        (first, done_then, _), (last, done, total) = self.epochs[0], self.epochs[-1]
        rate = (last - first) / max(1, done - done_then)
        return max(0.0, rate * (total - done) - (time.time() - last))


class Journal:
    """The journal of one run or base.

    Appending is one small write in append mode: several processes may do it, and a reader, or a process killed in
    the middle, spoils no other line. A line that is not whole is passed over.

    Args:
        folder: of all journals.
        key: the run's id, or the base's name.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.file = folder / f"{key}.jsonl"
        self.lock = Lock(folder, key)  # held by the job that works on it; dies with it

    def add(self, event: str, **facts: Any) -> None:
        """Append an event; raises OSError."""
        line = json.dumps({"event": event, "at": time.time(), **facts}) + "\n"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, b"\n" + line.encode())  # what a torn write left behind stays a line of its own
        finally:
            os.close(handle)

    def legs(self) -> list[Leg]:
        """All legs, oldest first."""
        found: list[Leg] = []
        for event in self._events():
            try:
                kind, at = event["event"], event["at"]
                if kind == "start":
                    found.append(Leg(event["batch"], event["job"], at))
                elif found and kind == "epoch":
                    point = (at, event["done"], event["of"])
                    found[-1] = replace(found[-1], epochs=(*found[-1].epochs, point))
                elif found and kind == "end":
                    facts = {k: v for k, v in event.items() if k not in ("event", "at", "how")}
                    found[-1] = replace(found[-1], ended=event["how"], facts=facts)
            except KeyError:
                continue
        return found

    def _events(self) -> list[dict[str, Any]]:
        try:
            text = self.file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        events = []
        for line in filter(None, text.split("\n")):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.append(event)
        return events


def history(legs: list[Leg]) -> dict[str, int]:
    """How often work on a run began (``legs``), and how often each kind of end cut it short."""
    ends = Counter(leg.ended or KILLED for leg in legs[:-1])
    return {
        "legs": len(legs),
        "preemptions": ends[PREEMPTED],
        "timeouts": ends[TIMED_OUT],
        "terminations": ends[TERMINATED],
        "kills": ends[KILLED],
    }


def fruitless(legs: list[Leg], batch: str) -> int:
    """How many of the last legs of ``batch`` in a row ran into the time limit before an epoch was done."""
    count = 0
    for leg in reversed(legs):
        if leg.batch != batch or leg.ended != TIMED_OUT or leg.epochs:
            break
        count += 1
    return count
