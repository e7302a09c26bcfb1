"""What depends on a network's structure alone, found once a process: tracing takes longer than a small training."""

import copy
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from bench.measure import environment, flops
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.pruning.sites import Sites

FOUND: dict[tuple, Any] = {}
"""Results by what they depend on."""
count_anew, trace_anew, ask_git = flops.count, flops.traced, environment._git


def sites_and_costs(network: nn.Module, shape: tuple[int, ...], coupling: str, units: str) -> tuple[Sites, CostModel]:
    """Sites and cost model of a network."""

    def made() -> tuple[Sites, CostModel]:
        with torch.random.fork_rng(devices=[]):
            sites = find_sites(network, shape, coupling, units)
        return sites.bind(nn.Identity()), CostModel(network, sites, shape)

    sites, model = _known((structure(network), shape, coupling, units), made)
    return sites.bind(network), copy.copy(model)


def count(network: nn.Module, shape: tuple[int, ...]) -> flops.Macs:
    """As :func:`bench.measure.flops.count`."""
    return _known((structure(network), tuple(shape)), lambda: count_anew(network, shape))


def traced(network: nn.Module, shape: tuple[int, ...]) -> flops.Macs:
    """As :func:`bench.measure.flops.traced`."""
    return _known((structure(network), tuple(shape), "traced"), lambda: trace_anew(network, shape))


def _known(key: tuple, made: Callable[[], Any]) -> Any:
    try:
        hash(key)
    except TypeError:  # a module keeps something that has no value, such as an array
        return made()
    if key not in FOUND:
        FOUND[key] = made()
    return FOUND[key]


def git(*arguments: str) -> str | None:
    """As :func:`bench.measure.environment._git`."""
    return _answer(os.environ.get("PATH"), *arguments)


@cache
def _answer(path: str | None, *arguments: str) -> str | None:
    return ask_git(*arguments)


def structure(network: nn.Module) -> tuple:
    """All but the values of the weights: classes, attributes, shapes, what is shared."""
    tensors = network.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return (
        tuple((name, type(m), *_attributes(m)) for name, m in network.named_modules(remove_duplicate=False)),
        tuple((name, tuple(tensor.shape), tensor.dtype, first[id(tensor)]) for name, tensor in tensors.items()),
    )


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Of a module, without its parts and its mode: by value where they have one, else the objects themselves."""
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules", "training"):
            yield name, _fixed(value)


def _fixed(value: object) -> object:
    if isinstance(value, dict):
        return tuple((key, _fixed(of)) for key, of in value.items())
    return tuple(map(_fixed, value)) if isinstance(value, list | tuple | set) else value
