"""Whether a machine is quiet enough to time something: CPU time of other processes, and what the host takes away."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.errors import SetupError
from bench.spec.quiet_limits import OTHERS_CORES, STOLEN

BEFORE_S, SAY_EVERY_S = 5.0, 30.0
"""How long a machine has to be quiet before a window is timed; seconds between two lines while it is not."""
REPEATS = 3
"""How often a disturbed window is timed again."""
STAT = Path("/proc/stat")

T = TypeVar("T")


class Busy(SetupError):
    """Other work runs on this machine: what is timed now would say nothing (exit 3)."""

    status = "interrupted"


@dataclass(frozen=True)
class CpuTimes:
    """Counters of a machine since some moment, in seconds.

    Attributes:
        at: time on a clock that never steps back.
        busy: CPU time of all processes and the kernel, summed over cores.
        stolen: time in which a core had work and the host of this virtual machine did not run it, summed over cores.
        own: CPU time of this process, its threads, and its children that have ended.
        cores: of the machine.
    """

    at: float
    busy: float
    stolen: float
    own: float
    cores: int


@dataclass(frozen=True)
class Load:
    """Who used the machine between two moments: CPU time of others in cores, stolen time as a share of all cores."""

    others: float
    stolen: float

    @classmethod
    def between(cls, before: CpuTimes, after: CpuTimes) -> Load:
        """The load from one reading to a later one."""
        seconds = max(after.at - before.at, 1e-9)
        others = (after.busy - before.busy) - (after.own - before.own)
        return cls(max(others / seconds, 0.0), max(after.stolen - before.stolen, 0.0) / seconds / after.cores)

    @property
    def quiet(self) -> bool:
        """Whether what was timed meanwhile may be believed."""
        return self.others <= OTHERS_CORES and self.stolen <= STOLEN

    def __str__(self) -> str:
        if self.others > OTHERS_CORES or self.quiet:
            return f"others use {self.others:.{1 if self.others >= 0.1 else 2}f} cores"
        return f"the host takes {100 * self.stolen:.1f} % of the CPU time away"


def read_cpu_times() -> CpuTimes:
    """The counters of this machine now; raises SetupError where the system does not count (it is not Linux)."""
    try:
        lines = STAT.read_text().splitlines()
        user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, lines[0].split()[1:])
    except (OSError, ValueError, IndexError) as error:
        raise SetupError(f"{STAT} does not say how busy this machine is: latency is measured on Linux only") from error
    tick = 1 / os.sysconf("SC_CLK_TCK")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(one.ru_utime + one.ru_stime for one in used)
    cores = sum(line.startswith("cpu") for line in lines) - 1
    return CpuTimes(time.monotonic(), (user + nice + system + irq + softirq) * tick, stolen * tick, own, cores)


def say(text: str) -> None:
    """A line on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Machine:
    """What says how busy this machine is; one for tests has other functions.

    Attributes:
        wait_s: longest wait for a quiet machine, each time.
        read: the counters now.
        sleep: waits so many seconds.
        say: prints why nothing happens.
    """

    wait_s: float = 600.0
    read: Callable[[], CpuTimes] = read_cpu_times
    sleep: Callable[[float], object] = time.sleep
    say: Callable[[str], object] = say

    def wait(self) -> None:
        """Return once the machine was quiet for ``BEFORE_S``; raises Busy where that takes longer than ``wait_s``."""
        before = self.read()
        began, said = before.at, float("-inf")
        while True:
            self.sleep(BEFORE_S)
            after = self.read()
            load, before = Load.between(before, after), after
            if load.quiet:
                return
            left = self.wait_s - (after.at - began)
            if left < BEFORE_S:
                raise Busy(f"busy: {load}; end that work, or wait longer for its end with --wait SECONDS")
            if after.at - said >= SAY_EVERY_S:
                self.say(f"waiting for a quiet machine, {left:.0f} s at most: {load}")
                said = after.at

    def undisturbed(self, measure: Callable[[], T]) -> tuple[T, Load, int]:
        """What ``measure`` returns of a window in which the machine was quiet, the load then, and repetitions.

        Raises Busy after ``REPEATS`` repetitions.
        """
        for repeats in range(REPEATS + 1):
            before = self.read()
            value = measure()
            load = Load.between(before, self.read())
            if load.quiet:
                return value, load, repeats
            if repeats < REPEATS:
                self.wait()
        raise Busy(f"busy: {load} while a network was timed, {REPEATS + 1} times; end that work, then try again")
