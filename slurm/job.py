"""The job: what runs on a node, ``python -m slurm.job FOLDER [NUMBER]``. Its exit code says whether to continue.

Signals are heard before anything heavy is imported. Queueing a job again is left to its batch script, which runs
outside of any container (see :mod:`slurm.script`).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from slurm.batch import Batch
from slurm.place import AGAIN, ENDED, WORKER, Clock, Place, Requeue, Signals, job_lock


class Job:
    """The tasks of one job of a batch.

    Args:
        file: of the batch.
        number: of the job in the batch.
        isolated: whether each task is carried out in a copy of this process (see :mod:`slurm.child`), not in itself.
    """

    def __init__(self, file: Path, number: int, isolated: bool = False) -> None:
        self.file, self.number, self.isolated = file, number, isolated

    def __call__(self) -> int:
        """Carry out all tasks that are not done; returns the exit code: 0, ``AGAIN`` or ``ENDED``."""
        batch = Batch.load(self.file)
        place = Place.here(batch)
        signals = Signals(Clock(batch))
        lock = job_lock(batch, place.job) if place.cluster == "local" else None
        with signals.heard():
            try:
                if lock:
                    lock.acquire()
                return self._work(batch, place, signals)
            except Requeue as stop:
                _deaf()
                print(f"bench: job {place.job} {stop.how}: asks to be queued again", file=sys.stderr)
                return AGAIN
            except KeyboardInterrupt:
                _deaf()
                print(f"bench: job {place.job} terminated", file=sys.stderr)
                return ENDED
            finally:
                if lock:
                    lock.release()

    def _work(self, batch: Batch, place: Place, signals: Signals) -> int:
        processes = min(batch.processes, len(batch.keys_of(self.number)))
        if place.cluster == "slurm" and processes > 1 and WORKER not in os.environ:
            from slurm.supervisor import Supervisor

            return Supervisor(batch, self.number, processes, signals).run()
        from slurm.worker import Worker

        Worker(batch, self.number, place, signals, self.isolated).work()
        return 0


def _deaf() -> None:
    """What comes now comes from the job's end."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main(words: list[str]) -> int:
    """The job of a batch's folder; its number is that of the array's element unless it is given."""
    number = int(words[1]) if len(words) > 1 else int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    isolated = sys.platform == "linux"  # elsewhere a process may not be copied once it has loaded torch
    return Job(Path(words[0]) / "batch.json", number, isolated)()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
