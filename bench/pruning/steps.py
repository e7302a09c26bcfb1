"""Widths in steps of several channels: which widths a site may have, and what is filled or dropped in whole steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Widths = NDArray[np.int64]


def unit_step(step: int, channels: Iterable[int]) -> int:
    """Units of a site that are a multiple of ``step`` channels in each layer, given a unit's channels in each."""
    return math.lcm(*(step // math.gcd(step, each) for each in channels))


def round_up(width: int, step: int, dense: int) -> int:
    """The next width in whole steps, or the full one where that comes first."""
    return min(-(-width // step) * step, dense)


def ladder(least: int, units: int, step: int, dense: int) -> Widths:
    """Widths that a site with ``units`` of its ``dense`` ones left may have: ``least``, whole steps, the full one."""
    found = np.arange(least // step * step + step, units + 1, step)
    ends = [] if units < dense or units <= least or units % step == 0 else [units]
    return np.concatenate([[min(least, units)], found, ends]).astype(np.int64)


def filled(
    keys: Sequence[NDArray[np.float64]],
    ladders: Sequence[Widths],
    cost: Callable[[Widths], int],
    limit: int,
    one_more: bool,
) -> Widths:
    """Widths of the longest affordable prefix of all steps, and of what still fits of the later ones.

    A step comes in the order when the last of its units does.

    Args:
        keys: for each site those of its units, best first; smaller ones come earlier in the order of all units.
        ladders: for each site the widths that it may have, ascending; it keeps the first in any case.
        cost: cost of widths ``[sites]``.
        limit: the most that they may cost.
        one_more: take at most one later step of each site.
    """
    free = [key[ladder[1:] - 1] for key, ladder in zip(keys, ladders, strict=True)]
    owner = np.repeat(np.arange(len(keys)), [len(key) for key in free])
    owner = owner[np.argsort(np.concatenate(free), kind="stable")]

    def widths(taken: Widths) -> Widths:
        return np.array([ladder[k] for ladder, k in zip(ladders, taken, strict=True)], dtype=np.int64)

    def prefix(length: int) -> Widths:
        return np.bincount(owner[:length], minlength=len(ladders))

    low, high = 0, len(owner)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(widths(prefix(middle))) <= limit else (low, middle - 1)
    taken, closed = prefix(low), set()
    for k in owner[low:]:
        if k in closed:
            continue
        taken[k] += 1
        fits = cost(widths(taken)) <= limit
        taken[k] -= not fits
        if not fits or one_more:
            closed.add(k)
    return widths(taken)


def worst_steps(order: Tensor, site: Tensor, floors: Sequence[int], steps: Sequence[int], room: int) -> Tensor:
    """The worst whole steps of some sites that are no more than ``room`` units, at least one step.

    A step is as bad as its worst unit.

    Args:
        order: units, worst first, ``[N]``.
        site: number of the site of each of them, ``[N]``.
        floors: units that each site keeps.
        steps: units of a step of each site; what is above a whole step goes first, by itself.
        room: the most units to take.

    Returns:
        Those of ``order`` that go.
    """
    found: list[tuple[int, Tensor]] = []
    for k, (floor, step) in enumerate(zip(floors, steps, strict=True)):
        places = (site == k).nonzero().flatten()
        width = count = len(places)
        for left in range((count - 1) // step * step, floor - 1, -step):
            found.append((int(places[count - width]), places[count - width : count - left]))
            width = left
    found.sort(key=lambda one: one[0])
    going: list[Tensor] = []
    for _, places in found:
        if going and len(places) > room:
            break
        going.append(places)
        room -= len(places)
    return order[torch.cat(going)] if going else order[:0]


def left_after(units: int, count: int, floor: int, steps: Sequence[int]) -> int:
    """How many of the ``units`` of some sites are left when about ``count`` go in whole steps, at least one step."""
    if len(steps) > 1 or steps[0] == 1:
        return max(floor, units - max(count, *steps))
    below = range((units - 1) // steps[0] * steps[0], floor - 1, -steps[0])
    return min((left for left in below if units - left <= count), default=below[0] if below else units)
