"""Milliseconds of a network as a function of widths and blocks, fitted to networks that were timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from bench.pruning.latency_terms import Terms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """A network that was timed: its vector of widths and blocks, and its milliseconds."""

    vector: tuple[int, ...]
    ms: float


@dataclass(frozen=True)
class LatencyModel:
    """``T = constant + blocks that stay + fused blocks``, each of which grows with its widths.

    Attributes:
        terms: the fused blocks.
        constant: milliseconds of the network at its narrowest, without any block.
        blocks: for each kind of blocks the milliseconds of one that stays, at its narrowest.
        kinds: for each kind of terms its milliseconds above those of the narrowest, ``[widths]`` or
            ``[widths, widths]``.
    """

    terms: Terms
    constant: float
    blocks: Floats
    kinds: tuple[Floats, ...]

    def ms(self, vector: Sequence[int]) -> float:
        """Milliseconds of a network; raises UsageError for widths that are not in the table."""
        terms, total = self.terms, self.constant
        for k, kind in enumerate(terms.block_kinds):
            total += self.blocks[kind] * (vector[len(terms.names) + k] > 0)
        for term in terms.terms:
            if terms.stays(vector, term.block):
                total += self.kinds[term.kind][tuple(terms.level(site, vector[site]) for site in term.sites)]
        return float(total)

    @property
    def dense_ms(self) -> float:
        """Of the dense network."""
        return self.ms(self.terms.dense)


def fitted(terms: Terms, timed: Sequence[Timed]) -> LatencyModel:
    """The model nearest to what was timed, by least squares of relative errors; no time falls with a width.

    Every unknown is an increment of at least 0: the constant, a block that stays, one more step of a width. Of a fused
    block with two widths an increment counts for all larger ones of both.
    """
    sizes, n_blocks = terms.sizes, len(set(terms.block_kinds))
    starts = np.cumsum([1 + n_blocks, *(int(np.prod(size)) for size in sizes)])
    rows = np.zeros((len(timed), starts[-1]))
    rows[:, 0] = 1
    for row, one in zip(rows, timed, strict=True):
        for k, kind in enumerate(terms.block_kinds):
            row[1 + kind] += one.vector[len(terms.names) + k] > 0
        for term in terms.terms:
            if terms.stays(one.vector, term.block):
                each = row[starts[term.kind] : starts[term.kind + 1]].reshape(sizes[term.kind])
                each[tuple(slice(terms.level(site, one.vector[site]) + 1) for site in term.sites)] += 1
    rows[:, starts[:-1]] = 0  # at the narrowest a term is part of the constant, or of its block
    ms = np.array([one.ms for one in timed])
    found, _ = nnls(rows / ms[:, None], np.ones(len(timed)))
    kinds = []
    for kind, size in enumerate(sizes):
        each = found[starts[kind] : starts[kind + 1]].reshape(size)
        for axis in range(len(size)):
            each = each.cumsum(axis=axis)
        kinds.append(each)
    return LatencyModel(terms, float(found[0]), found[1 : 1 + n_blocks], tuple(kinds))
