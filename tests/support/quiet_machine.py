"""Machines with a clock and CPU counters of their own: nothing here depends on real time or load."""

from dataclasses import dataclass, field

from bench.measure.quiet import CpuTimes, Machine


@dataclass
class Simulated:
    """A machine on which others use so many cores at so many seconds from its start.

    Args:
        others: time -> cores.
        stolen: share of the CPU time that the host takes away.
    """

    others: object = lambda at: 0.0
    stolen: float = 0.0
    cores: int = 2
    at: float = 0.0
    busy: float = 0.0
    own: float = 0.0
    said: list = field(default_factory=list)
    step: float = 0.125

    def pass_time(self, seconds, own=0.0):
        """Let time go by; this process uses ``own`` cores."""
        while seconds > 1e-9:
            step = min(self.step, seconds)
            self.busy += step * (self.others(self.at) + own)
            self.own += step * own
            self.at += step
            seconds -= step

    def read(self):
        return CpuTimes(self.at, self.busy, self.stolen * self.cores * self.at, self.own, self.cores)

    def machine(self, wait_s=600.0):
        return Machine(wait_s, self.read, self.pass_time, self.said.append)


def quiet_times():
    """Counters that stand still, for processes of their own."""
    return CpuTimes(0.0, 0.0, 0.0, 0.0, 2)


def no_time(seconds):
    """A pause that takes none."""


def always_quiet(wait_s=600.0):
    """A machine that others never use; it can be sent to another process."""
    return Machine(wait_s, quiet_times, no_time, no_time)
