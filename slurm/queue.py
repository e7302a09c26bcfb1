"""The tasks of a job, in their order. Several processes and jobs may share them; each is taken once."""

from __future__ import annotations

from collections.abc import Callable

from bench.files import Lock
from slurm import journal
from slurm.batch import Batch, Task, claim
from slurm.place import Place


class Queue:
    """The tasks that are not done.

    A run waits for its base when another process is training it, and others come first. What a process holds that
    dies is taken over by one that shares its tasks.

    Args:
        batch: of the job.
        number: of the job in it.
        place: of this process.
        before_waiting: called before this process waits for another; may raise.
    """

    def __init__(self, batch: Batch, number: int, place: Place, before_waiting: Callable[[], None]) -> None:
        self.batch, self.place, self.before_waiting = batch, place, before_waiting
        self.keys = batch.keys_of(number)
        self.notes = batch.journal()
        self.done: set[str] = set()
        self.holders: dict[str, str] = {}
        """Task -> the job that last began with it and has not ended it."""
        self.bases = {key for key in self.keys if batch.tasks[key]["base"]}

    def take(self) -> tuple[Task, Lock] | None:
        """The next task, and its lock, which the caller releases; None when nothing is left for this job."""
        while rest := self._rest():
            for begun in (False, True):  # what somebody has begun with comes last
                for key in rest:
                    if (key in self.holders) != begun or self._waits_for_base(key):
                        continue
                    if taken := self._claim(key, 0):
                        return taken
            held = (key for key in self._rest() if not self._waits_for_base(key))
            wanted = next(filter(self._is_waited_for, held), None)
            if wanted is None:
                return None
            self.before_waiting()
            if taken := self._claim(wanted, -1):
                return taken
        return None

    def _rest(self) -> list[str]:
        for event in self.notes.news():
            key = str(event.get("run"))
            if event.get("event") == "start":
                self.holders[key] = event.get("job", "")
            elif event.get("event") == "end":
                self.holders.pop(key, None)
                if event.get("how") in (journal.DONE, journal.FAILED):
                    self.done.add(key)
        return [key for key in self.keys if key not in self.done]

    def _claim(self, key: str, timeout: float) -> tuple[Task, Lock] | None:
        """The task, unless another holds it or it is done."""
        lock = claim(self.batch.out, key)
        try:
            lock.acquire(timeout)
        except TimeoutError:
            return None
        try:
            self._rest()  # it may just have been done
            task = None if key in self.done else self.batch.task(key)
            if task is not None and not task.finished(self.batch.out):
                return task, lock
            self.done.add(key)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    def _waits_for_base(self, key: str) -> bool:
        base = self.batch.tasks[key]["needs"]
        return base != key and base in self.bases and base not in self.done

    def _is_waited_for(self, key: str) -> bool:
        """Whether it is worth a job to wait for what another process holds: not for a run of another job."""
        if self.place.cluster != "slurm" or not self.batch.shared or key in self.bases:
            return True
        return self.holders.get(key) == self.place.job
