"""Milliseconds of thin copies of one network in one runtime: those of a table, and that of a chosen one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure import bursts
from bench.measure.flops import parameters
from bench.measure.quiet import Machine
from bench.pruning.costs import Vector
from bench.pruning.latency_model import Timed
from bench.pruning.latency_rounds import Measured, interval
from bench.pruning.latency_terms import DENSE_COPIES, Terms
from bench.pruning.sites import Sites

LOADED_BYTES = 2 * 2**30
"""Of weights that are loaded at once."""
COPIES = 5
"""Of a chosen network, and of the dense one next to it."""


@dataclass(frozen=True)
class NetworkTimer:
    """Times slices of a network.

    Attributes:
        network: the dense one, on the CPU; weights do not matter for time.
        sites: its sites.
        shape: of one image.
        terms: its fused blocks.
        runtime, batch, threads: how it is timed.
        layout: memory format of the networks.
        machine: says when it is quiet.
    """

    network: nn.Module
    sites: Sites
    shape: tuple[int, ...]
    terms: Terms
    runtime: str
    batch: int
    threads: int
    layout: str
    machine: Machine

    def table(self, say: Callable[[str], object] = lambda text: None) -> list[Timed]:
        """The networks of a table, timed; raises Busy, RunFailed where the runtime cannot take one."""
        vectors = self.terms.networks()
        dense, others = vectors[:DENSE_COPIES], vectors[DENSE_COPIES:]
        order = np.random.default_rng(0).permutation(len(others))  # so that each group has widths of all kinds
        size = max(4 * DENSE_COPIES, int(LOADED_BYTES / (8 * parameters(self.network))))
        found: list[Timed] = []
        whole = 0.0
        self.machine.wait()  # before minutes of loading
        for start in range(0, len(order), size):
            group = [*dense, *(others[k] for k in order[start : start + size])]
            say(f"{len(found)} of {len(vectors)} networks are timed in {self.runtime}; {len(group)} are being loaded")
            ms = self.ms(group)
            of_dense = float(np.median(ms[:DENSE_COPIES]))
            whole = whole or of_dense  # what is timed later is relative to the same dense network
            timed = zip(group, ms * whole / of_dense, strict=True)
            found += [Timed(tuple(vector.tolist()), round(float(each), 6)) for vector, each in timed]
        return found

    def ms(self, vectors: Sequence[Vector]) -> bursts.Floats:
        """Milliseconds of some networks, each loaded once; raises as :meth:`table`."""
        return bursts.lower_quartile(self._visits(vectors, 1))

    def measure(self, vector: Vector) -> Measured:
        """A chosen network, next to the dense one, several copies of each; raises as :meth:`table`."""
        ms = bursts.lower_quartile(self._visits([np.array(self.terms.dense), vector], COPIES))
        dense, chosen = ms[:COPIES], ms[COPIES:]
        low, high = interval(chosen / np.exp(np.log(dense).mean()))
        each = [float(np.exp(np.log(of).mean())) for of in (chosen, dense)]
        return Measured(*(round(value, 6) for value in (*each, low, high)))

    def _visits(self, vectors: Sequence[Vector], copies: int) -> bursts.Floats:
        with bursts.threads_of(self.threads), tempfile.TemporaryDirectory(prefix="bench-") as folder:
            networks = (self.slice(vector) for vector in vectors)
            calls = bursts.loaded(networks, self.shape, self.batch, self.runtime, self.layout, Path(folder), copies)
            return bursts.burst_ms([call for of_network in calls for call in of_network], self.machine)

    def slice(self, vector: Vector) -> nn.Module:
        """The thin network of a vector."""
        return self.sites.slice(self.network, masks_of(self.terms, vector)).eval()


def masks_of(terms: Terms, vector: Vector) -> dict[str, Tensor]:
    """Masks that keep the first units of each site, and the blocks of a vector."""
    widths = zip(terms.names, terms.dense, vector.tolist(), strict=False)
    masks = {name: torch.arange(dense) < width for name, dense, width in widths}
    return masks | {name: torch.from_numpy(vector[list(places)] > 0) for name, places in terms.blocks}
