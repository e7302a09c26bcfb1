"""What takes batches: the interface of SLURM and of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from bench.errors import SetupError
from slurm.batch import Batch
from slurm.profile import Profile

RUNNING, WAITING = "running", "waiting"


class TooMany(SetupError):
    """The cluster takes no more jobs, or not so many at once; fewer may be accepted."""


class Cluster(Protocol):
    """What takes batches."""

    def submit(self, batch: Batch, profile: Profile, after: Sequence[Sequence[str]]) -> Batch:
        """Hand over; returns the batch with its jobs.

        ``after``: for each job the jobs that must have ended, in any way, before it starts; empty where none waits.
        Raises SetupError when the cluster refuses or does not answer; then nothing was handed over.
        """

    def live(self, batches: Sequence[Batch]) -> dict[str, tuple[str, str]]:
        """Job -> (``running`` or ``waiting``, SLURM's reason), of jobs that have not ended.

        Raises SetupError when that cannot be known now.
        """

    def ends(self, jobs: Iterable[str]) -> dict[str, str]:
        """Job -> how it ended, as far as it is known."""

    def cancel(self, batches: Sequence[Batch], jobs: Sequence[str]) -> None:
        """End jobs."""

    def withdraw(self, batch: Batch) -> None:
        """End whatever a batch whose submission was cut off may have started."""
