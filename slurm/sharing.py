"""How many processes share one GPU: one more as long as the GPU gets more done by it and has memory for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SAMPLES = 3
"""Epochs of each process from which the speed with so many processes is estimated."""
GAIN = 1.05
"""Least ratio of what gets done with one process more; below it the process costs memory and gives nothing."""
MARGIN = 1.2
"""A process may need so much more memory than the mean of those that run."""


def gpus_here(environment: Mapping[str, str], count: int) -> list[str]:
    """GPUs of this job as ``CUDA_VISIBLE_DEVICES`` has them; where SLURM sets none, the first ``count``."""
    given = environment.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in given.split(",") if name.strip()] or [str(number) for number in range(count)]


def dealt(gpus: Sequence[str], processes: int) -> list[list[str]]:
    """GPUs of each process: several where there are more GPUs, else one, which neighbours share."""
    n = len(gpus)
    if not n:
        return [[] for _ in range(processes)]
    return [
        list(gpus[k * n // processes : max((k + 1) * n // processes, k * n // processes + 1)]) for k in range(processes)
    ]


@dataclass
class Sharing:
    """The processes of one GPU, as they are measured.

    Speeds are compared between epochs of one kind only, so it does not matter that runs differ. The first epoch of
    each process after a change is left out: part of it passed before.

    Attributes:
        most: processes that the GPU may have.
        count: that it should have now.
        settled: whether that is not going to change.
        why: in words.
    """

    most: int
    count: int = 1
    settled: bool = False
    why: str = ""
    _seconds: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)
    _used: float = 0.0
    _total: float = 0.0

    def epoch(self, worker: int, kind: str, seconds: float, memory: tuple[int, int] | None) -> None:
        """A process has trained an epoch of a kind; ``memory``: free and whole bytes of the GPU, None if not known."""
        if self.settled:
            return
        if memory is not None:
            self._used, self._total = max(self._used, memory[1] - memory[0]), memory[1]
        if len(self._seen) == self.count:
            self._seconds.setdefault(self.count, {}).setdefault(kind, []).append(seconds)
        self._seen.add(worker)
        if sum(map(len, self._seconds.get(self.count, {}).values())) >= SAMPLES * self.count:
            self._decide()

    def full(self) -> None:
        """A process found no memory: one less from now on."""
        self._settle(max(1, self.count - 1), f"{self.count} had not enough memory")

    def left(self, worker: int) -> None:
        """A process has ended."""
        self._seen.discard(worker)

    def _decide(self) -> None:
        gain = self._gain()
        if gain is None:  # nothing alike was trained with one process less so far
            return
        if gain < GAIN:
            self._settle(self.count - 1, f"{self.count} get {gain:.2f} times as much done")
        elif self.count == self.most:
            self._settle(self.count, "no more are allowed")
        elif not self._has_room():
            self._settle(self.count, "there is no memory for another, or it is not known")
        else:
            self.count += 1
            self._seen, self._used = set(), 0.0

    def _settle(self, count: int, why: str) -> None:
        self.count, self.settled, self.why = count, True, why

    def _gain(self) -> float | None:
        """What gets done with these processes, as a ratio to one less; infinite for the first."""
        if self.count == 1:
            return float("inf")
        before, now = self._seconds.get(self.count - 1, {}), self._seconds[self.count]
        ratios = [statistics.median(before[kind]) / statistics.median(now[kind]) for kind in before.keys() & now.keys()]
        return self.count / (self.count - 1) * statistics.median(ratios) if ratios else None

    def _has_room(self) -> bool:
        return self._total > 0 and self._used + MARGIN * self._used / self.count <= self._total
