"""A runtime of known milliseconds, and networks that are nothing but their fused blocks."""

import itertools

import numpy as np
from support.quiet_machine import always_quiet

from bench.pruning.latency_model import Timed, fitted
from bench.pruning.latency_rounds import Measured
from bench.pruning.latency_solver import Choices
from bench.pruning.latency_terms import OUTSIDE, Term, Terms
from bench.runs import latency_tables

STAIR = 16


class FakeRuntime:
    """Milliseconds by a staircase of 16 channels and a constant.

    Args:
        terms: of the network.
        seed: of copies and noise.
        bias: standard deviation of what a loaded copy takes more or less, as a share.
        noise: of a visit.
        slower: factor on all of what widths decide; 0: widths do not matter.
        stair: units of a step.
    """

    def __init__(self, terms, seed=0, bias=0.015, noise=0.01, slower=1.0, constant=0.4, stair=STAIR):
        self.stair = stair
        self.terms, self.bias, self.noise, self.slower, self.constant = terms, bias, noise, slower, constant
        self.rng = np.random.default_rng(seed)
        self.measured = []

    def true(self, vector):
        """Without bias and noise."""
        terms, total = self.terms, self.constant
        for term in terms.terms:
            if terms.stays(vector, term.block):
                stairs = [-(-int(vector[site]) // self.stair) for site in term.sites]
                total += self.slower * (0.02 + 0.01 * term.kind) * np.prod(stairs)
        return total + sum(0.03 * (1 + k) * vector[len(terms.names) + at] for at, k in enumerate(terms.block_kinds))

    def ms(self, vector, copies=1):
        """As the burst timer says: a copy's lower quartile over visits; of several copies the median."""
        each = self.true(vector) * (1 + self.bias * self.rng.standard_normal(copies))
        visits = each * (1 + self.noise * np.abs(self.rng.standard_normal((20, copies))))
        return float(np.median(np.quantile(visits, 0.25, axis=0)))

    def table(self, networks):
        """These networks, timed."""
        return [Timed(tuple(vector.tolist()), self.ms(vector)) for vector in networks]

    def measure(self, vector):
        """As the rounds do."""
        self.measured.append(tuple(vector.tolist()))
        ms, dense_ms = self.ms(vector, 5), self.ms(np.array(self.terms.dense), 5)
        return Measured(ms, dense_ms, 0.99 * ms / dense_ms, 1.01 * ms / dense_ms)


class FakeTimer:
    """In place of a ``NetworkTimer``: exact milliseconds by a fake runtime; networks that are chosen take longer.

    Attributes:
        tables, measured: what was asked for, of all timers.
        slower: factor on what the widths of chosen networks decide.
        interrupted: the number of the measurement that Ctrl-C ends; None for none.
    """

    tables, measured, slower, interrupted = [], [], 1.0, None

    def __init__(self, network, sites, shape, terms, runtime, batch, threads, layout, machine):
        self.terms, self.runtime, self.machine = terms, runtime, machine

    def table(self, say):
        self.machine.wait()
        self.tables.append(self.runtime)
        return FakeRuntime(self.terms, bias=0, noise=0, stair=4, constant=0.05).table(self.terms.networks())

    def measure(self, vector):
        if len(self.measured) + 1 == self.interrupted:
            raise KeyboardInterrupt
        self.measured.append(tuple(vector.tolist()))
        runtime = FakeRuntime(self.terms, bias=0, noise=0, stair=4, slower=self.slower, constant=0.05 / self.slower**2)
        return runtime.measure(vector)


def chain(kinds=20, places=2, width=64, step=8):
    """Fused blocks of one width each, of several kinds, each in several places."""
    grid = tuple(range(step, width + 1, step))
    names = tuple(f"site{k}" for k in range(kinds * places))
    terms = tuple(Term(k // places, (k,), OUTSIDE) for k in range(len(names)))
    return Terms(names, (), (width,) * len(names), (grid,) * len(names), (OUTSIDE,) * len(names), (), terms)


def small(rng, paired, blocks):
    """Four sites with 2 to 4 widths; with pairs, chains of two widths; with blocks, two that may go."""
    grid = tuple(tuple(range(8, 8 * int(rng.integers(2, 5)) + 1, 8)) for _ in range(4))
    inside = (4, 5, OUTSIDE, OUTSIDE) if blocks else (OUTSIDE,) * 4
    groups = [((0,), inside[0]), ((1,), inside[1]), ((2,), OUTSIDE), ((3,), OUTSIDE)]
    if paired:
        groups += [
            ((2, 0), inside[0]),
            ((0, 2), inside[0]),
            ((2, 1), inside[1]),
            ((1, 3), inside[1]),
            ((2, 3), OUTSIDE),
        ]
        groups += [((2,), inside[0])]
    terms = tuple(Term(kind, sites, block) for kind, (sites, block) in enumerate(groups))
    dense = tuple(widths[-1] for widths in grid) + (1, 1) * blocks
    of_blocks = (("blocks", (4, 5)),) * blocks
    return Terms(tuple("abcd"), of_blocks, dense, grid, inside, (0, 1) * blocks, terms)


def random_model(terms, rng):
    """Any milliseconds that grow with widths."""
    networks = [np.array(vector) for vector in all_vectors(terms)]
    runtime = FakeRuntime(terms, int(rng.integers(2**31)), bias=0.05, noise=0.2)
    return fitted(terms, runtime.table([networks[k] for k in rng.choice(len(networks), 30)]))


def random_choices(terms, rng):
    """Gains that grow with widths, of which some are too narrow; sometimes a number of blocks."""
    gains = tuple(rng.random(len(widths)).cumsum() for widths in terms.grid)
    for of_site in gains:
        of_site[: rng.integers(0, len(of_site)) * (rng.random() < 0.2)] = -np.inf
    least = {places: int(rng.integers(0, 2)) for _, places in terms.blocks}
    count = int(rng.integers(0, 3)) if terms.blocks and rng.random() < 0.4 else None
    return Choices(gains, rng.random(len(terms.block_kinds)), least, count)


def all_vectors(terms):
    """Every vector that there is."""
    blocks = [(0, 1)] * len(terms.block_kinds)
    found = {}
    for values in itertools.product(*terms.grid, *blocks):
        vector = terms.settled(np.array(values))
        found[tuple(vector.tolist())] = vector
    return found.values()


def by_brute_force(model, choices, target):
    """The most that any vector within the time is worth."""
    fits = [v for v in all_vectors(model.terms) if model.ms(v.tolist()) <= target * (1 + 1e-9)]
    return max((choices.worth(model.terms, vector) for vector in fits), default=-np.inf)


def timed_by_formula(monkeypatch):
    """Latency tables of this test are computed, on a machine that is quiet; returns the timer, which notes its work."""

    class Timer(FakeTimer):
        tables, measured = [], []

    monkeypatch.setattr(latency_tables, "TIMER", Timer)
    monkeypatch.setattr(latency_tables, "MACHINE", always_quiet())
    return Timer
