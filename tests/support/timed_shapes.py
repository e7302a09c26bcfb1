"""Latencies that nobody measured: records of chosen widths, a process that invents samples, whole passes."""

import dataclasses
import random

from support.quiet_machine import always_quiet
from support.records import SPEC, finished, record

from bench.measure.quiet import Load
from bench.records.latency import Restart
from bench.runs.latency_pass import How, LatencyPass, wanted
from bench.runs.latency_restart import Window

EAGER = How(("eager",), (1, 64), 1, "cpu")


def made(kept=4, seed=0, method="l1_norm", arch="two_layers"):
    """The record of a run that left so many of 8 units."""
    spec = dataclasses.replace(SPEC, seed=seed, method=method, arch=arch)
    table = finished(spec)
    table["structure"] |= {"widths": {"0": [8, kept]}, "units_after": kept}
    return record(table)


class Clock:
    """A process that times nothing: a network takes ``ms(key, kept units)`` with some noise, the same each time.

    Attributes:
        works: what it was asked to do, in order.
    """

    def __init__(self, ms=lambda key, kept: key.batch * (1 + kept / 8), noise=0.002, load=Load(0.01, 0.0), calls=0.05):  # noqa: B008
        self.ms, self.noise, self.load, self.calls, self.works = ms, noise, load, calls, []

    def __call__(self, work):
        self.works.append(work)
        for task in work.tasks:
            for key in task.keys:
                kept = [8 if which == "dense" else task.record.structure.widths["0"][1] for which in task.pair]
                chance = random.Random(f"{len(self.works)} {key} {task.pair}")
                yield Window(key, Restart(*(self._samples(self.ms(key, k), chance) for k in kept)), self.load)

    def _samples(self, ms, chance):
        own = ms * chance.gauss(1, self.noise)
        return [round(1e6 * own * chance.uniform(1, 1 + self.calls)) for _ in range(20)]


def measured(records, how=EAGER, clock=None, keep=None, machine=None):
    """Lines and samples of a pass over some records, and what could not be timed."""
    lines, samples = [], []

    def both(new, of_new):
        if keep:
            keep(new, of_new)
        lines.extend(new)
        samples.extend(of_new)

    clock = clock or Clock()
    failures = LatencyPass(how, both, machine or always_quiet(), clock).measure(wanted(records, how))
    return lines, samples, failures
