"""Shares as whole units: of one number of units, and one common share of all sites within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Widths = NDArray[np.int64]
NODES = 200_000
"""Partial choices that are examined, over all ranges of the common share together."""
NODES_A_RANGE = 2**12
"""As many at least in each range: enough for every choice among 11 sites."""


def whole_units(share: float, units: int) -> int:
    """``share`` of ``units``, rounded down; 0.7 of 90 is 63, although 0.7 * 90 is a little less in floating point."""
    return math.floor(share * units + 1e-9)


def best_rounding(
    enters: Sequence[NDArray[np.float64]],
    least: Widths,
    cost: Callable[[Widths], Widths],
    limit: int,
    above: int,
) -> Widths | None:
    """The costliest widths within ``limit`` that are a common share of all sites, each rounded down or up.

    Between two shares at which a site gains a unit, the rounded-down widths are constant and each site may have one
    unit more. In every such range the best set of these units is found by branch and bound. Ties keep the larger
    share, then the unit that costs more, then the earlier site. With up to 11 sites the result is exact. With more,
    a range whose ``NODES`` are used up keeps the best that was found in it.

    Args:
        enters: for each site the common share at which it has its first, second, ... unit, ascending.
        least: units that each site keeps at any share, ``[sites]``.
        cost: cost of each of ``[N, sites]`` widths, ``[N]``: at most quadratic, and no less for more units.
        limit: the most that the result may cost.
        above: what it has to exceed.

    Returns:
        Widths ``[sites]``, or None if no such widths cost more than ``above``.
    """
    starts = np.unique(np.concatenate([[0.0], *enters]))
    reached = np.stack([np.searchsorted(shares, starts, side="right") for shares in enters], axis=1)
    most = np.array([len(shares) for shares in enters])
    low, high = np.maximum(reached, least), np.maximum(np.minimum(reached + 1, most), least)
    ranges = np.flatnonzero((cost(low) <= limit) & (cost(high) > above))[::-1]
    best, found = above, None
    pairs = _pairs(cost, low[0])
    for k in ranges:
        free = np.flatnonzero(high[k] > low[k])
        start, *more = cost(np.concatenate([low[k : k + 1], low[k] + np.eye(len(most), dtype=np.int64)[free]])).tolist()
        gains = [one - start for one in more]
        order = sorted(range(len(free)), key=lambda site: -gains[site])  # so that bounds close in early
        nodes = max(NODES_A_RANGE, NODES // len(ranges))
        chosen = _fullest(
            [gains[site] for site in order],
            pairs[np.ix_(free[order], free[order])].tolist(),
            limit - start,
            best - start,
            nodes,
        )
        if chosen is not None:
            found = low[k].copy()
            found[free[order]] += np.array(chosen, dtype=np.int64)
            best = int(cost(found[None])[0])
    return found


def _pairs(cost: Callable[[Widths], Widths], widths: Widths) -> Widths:
    """What a unit in site i costs more for a unit added in site j, ``[sites, sites]``: constant."""
    one = np.eye(len(widths), dtype=np.int64)
    both = cost((widths + one[:, None] + one).reshape(-1, len(widths))).reshape(one.shape)
    single = cost(widths + one)
    return both - single[:, None] - single + cost(widths[None])


def _fullest(gains: list[int], pairs: list[list[int]], room: int, above: int, nodes: int) -> list[bool] | None:
    """Which units to take so that they cost as much as ``room`` allows, and more than ``above``; None: no such set.

    Args:
        gains: what each unit costs alone.
        pairs: what two of them cost more together.
        room: the most that they may cost.
        above: what they have to exceed.
        nodes: partial choices to examine.
    """
    count = len(gains)
    later = [sum(pairs[i][j] for i in range(k, count) for j in range(i) if j >= k) for k in range(count + 1)]
    best, chosen = above, None
    seen: set[tuple[int, tuple[int, ...]]] = set()

    def visit(cost: int, gains: tuple[int, ...], taken: tuple[bool, ...]) -> None:
        """Go through all sets that begin with ``taken``; ``gains`` are those of the units not yet decided on."""
        nonlocal best, chosen
        most = cost + sum(gains) + later[len(taken)]
        state = (cost, gains)  # with the number of gains left: what follows depends on nothing else
        if cost > room or most <= best or best == room or len(seen) >= nodes or state in seen:
            return
        seen.add(state)
        if most <= room or cost > best:
            best, rest = (most, True) if most <= room else (cost, False)
            chosen = [*taken, *[rest] * len(gains)]
        if gains:
            with_it = pairs[len(taken)][len(taken) + 1 :]
            visit(cost + gains[0], tuple(g + p for g, p in zip(gains[1:], with_it, strict=True)), (*taken, True))
            visit(cost, gains[1:], (*taken, False))

    visit(0, tuple(gains), ())
    return chosen
