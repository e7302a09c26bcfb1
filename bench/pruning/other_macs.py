"""MACs of operators that belong to no layer of a site, such as pooling and attention, as a function of its width."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bench.measure import flops
from bench.pruning.sites import Sites


def own_macs(counted: flops.Macs) -> Counter[str]:
    """MACs of each module (dotted name) without those of its inner modules."""
    totals = {name: sum(ops.values()) for name, ops in counted.by_module.items()}
    found = Counter(totals)
    for name in totals:
        if name:
            found[name.rpartition(".")[0]] -= totals[name]
    return found


def other_macs(
    network: nn.Module, sites: Sites, shape: tuple[int, ...], widths: NDArray[np.int64], counted: flops.Macs
) -> NDArray[np.int64]:
    """MACs per unit of each site of operators that belong to no layer of a site: they are linear in each width.

    The sites say what such operators do for a unit, and two slices must confirm it. Where they do not, it is found by
    slicing one unit off several sites at once and asking which modules then do less. A module that only one site
    passes (the pooling of an excitation) is found by the bits of the site's number; those that several pass (pooling
    behind a concatenation) by halving.

    Args:
        network: the dense network.
        sites: its sites.
        shape: shape of one input.
        widths: units of each site.
        counted: MACs of the network.
    """
    columns = [k for k, width in enumerate(widths) if width > 1]
    per_unit, names = np.zeros_like(widths), list(sites)
    layers = {cut.layer for site in sites.values() for cut in site.cuts}

    def own(macs: flops.Macs) -> Counter[str]:
        """Of each module without its inner modules; layers of sites left out."""
        return Counter({name: n for name, n in own_macs(macs).items() if name not in layers})

    dense = own(counted)

    def lost(without: list[int], units: NDArray[np.int64] | None = None) -> Counter[str]:
        """What each module does less once one unit of each of these sites is gone, or so many ``units`` of each."""
        masks = sites.ones()
        for k in without:
            masks[names[k]][: 1 if units is None else units[k]] = False
        return dense - own(flops.traced(sites.slice(network, masks), shape))

    every = lost(columns) if columns else Counter[str]()
    if every:
        found = np.array([site.other_macs for site in sites.values()], dtype=np.int64)
        some = 1 + np.arange(len(widths)) % np.clip(widths - 1, 1, 5)  # of neighbours different numbers
        if sum(every.values()) == found[columns].sum() and (
            sum(lost(columns, some).values()) == (some * found)[columns].sum()
        ):
            return np.where(widths > 1, found, 0)
    bits = range(len(columns).bit_length())
    halves = [lost([k for at, k in enumerate(columns, 1) if at >> bit & 1]) for bit in bits] if every else []
    shared = []
    for module, macs in every.items():
        at = sum(1 << bit for bit in bits if halves[bit][module] == macs)
        if all(half[module] in (0, macs) for half in halves) and 0 < at <= len(columns):
            per_unit[columns[at - 1]] += macs
        else:
            shared.append(module)

    def search(some: list[int], macs: int) -> None:
        if macs and len(some) == 1:
            per_unit[some[0]] += macs
        elif macs:
            half = len(some) // 2
            left = lost(some[:half])
            first = sum(left[module] for module in shared)
            search(some[:half], first)
            search(some[half:], macs - first)

    search(columns, sum(every[module] for module in shared))
    return per_unit


def lost_macs(network: nn.Module, sites: Sites, name: str, shape: tuple[int, ...], counted: flops.Macs) -> Counter[str]:
    """MACs per unit of one site, by the module that does them; layers of sites are left out."""
    layers = {cut.layer for site in sites.values() for cut in site.cuts}
    mask = sites.ones()[name]
    mask[0] = False
    less = own_macs(flops.traced(sites.slice(network, sites.ones() | {name: mask}), shape))
    return Counter({m: lost for m, n in own_macs(counted).items() if m not in layers and (lost := n - less[m])})
