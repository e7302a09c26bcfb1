"""The step of channels that pays in a runtime: sites of one type lose a few channels each, and the network is timed."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.measure import bursts
from bench.measure.quiet import Machine
from bench.pruning.cost_model import CostModel
from bench.pruning.sites import Sites

FEWER = (1, 2, 4, 8, 16)
"""Channels by which sites are narrowed."""
DENSE_COPIES = 5
NOISE = 3.0
"""What is saved has to be so many times the deviation of copies of the dense network."""
WORTH = 0.5
"""A step pays when it saves more than noise, and each of its units at least so much of what one of the largest does."""


@dataclass(frozen=True)
class TypeSteps:
    """Sites that cost the same, and what narrowing all of them saves.

    Attributes:
        sites: their names.
        units: of each.
        saved: units that each loses -> share of the dense network's time that this saves; below 0 where it is slower.
        step: the smallest that pays; None where nothing is saved beyond noise.
    """

    sites: tuple[str, ...]
    units: int
    saved: dict[int, float]
    step: int | None


def types_of(sites: Sites, model: CostModel) -> list[tuple[str, ...]]:
    """Sites of channels with the same number of units, MACs and parameters; the widest first."""
    found: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    whole = sites.ones()
    for name, site in sites.items():
        if site.blocks:
            continue
        mask = whole[name].clone()
        mask[0] = False
        less = model.array(whole | {name: mask})
        found[site.n_units, model.macs(less), model.params(less)].append(name)
    return [tuple(names) for _, names in sorted(found.items(), reverse=True)]


def steps_of(
    network: nn.Module,
    sites: Sites,
    model: CostModel,
    runtime: str,
    batch: int,
    threads: int,
    layout: str,
    machine: Machine,
) -> list[TypeSteps]:
    """The steps of each type of sites; one type at a time is narrowed, in all its sites.

    Raises Busy where other work runs on the machine, RunFailed where the runtime cannot take a network.
    """
    types = types_of(sites, model)
    whole = sites.ones()
    plan = [(names, fewer) for names in types for fewer in FEWER if fewer < sites[names[0]].n_units]
    masks = [whole] * DENSE_COPIES
    for names, fewer in plan:
        narrow = {name: torch.arange(len(whole[name])) < len(whole[name]) - fewer for name in names}
        masks.append(whole | narrow)
    with bursts.threads_of(threads), tempfile.TemporaryDirectory(prefix="bench-") as folder:
        networks = (sites.slice(network, each).eval() for each in masks)
        calls = bursts.loaded(networks, model.shape, batch, runtime, layout, Path(folder))
        ms = bursts.lower_quartile(bursts.burst_ms([call for [call] in calls], machine))
    dense = ms[:DENSE_COPIES]
    saved: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for (names, fewer), value in zip(plan, ms[DENSE_COPIES:], strict=True):
        saved[names][fewer] = 1 - float(value / dense.mean())
    noise = NOISE * float(dense.std(ddof=1) / dense.mean())
    return [TypeSteps(names, sites[names[0]].n_units, saved[names], best(saved[names], noise)) for names in types]


def best(saved: dict[int, float], noise: float) -> int | None:
    """The smallest step that pays, see ``WORTH``; None where the largest saves no more than ``noise``."""
    if not saved or saved[largest := max(saved)] <= noise:
        return None
    return next(k for k in sorted(saved) if saved[k] > noise and saved[k] / k >= WORTH * saved[largest] / largest)
