"""What depends on a network's structure alone, found once a process: tracing takes longer than a small training."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites
from bench.pruning.sites import Sites

FOUND: dict[tuple, tuple[Sites, CostModel]] = {}
COUNTED: dict[tuple, flops.Macs] = {}
count_anew = flops.count


def sites_and_costs(network: nn.Module, shape: tuple[int, ...], coupling: str, units: str) -> tuple[Sites, CostModel]:
    """Sites and cost model of a network."""
    key = structure(network), shape, coupling, units
    if key not in FOUND:
        with torch.random.fork_rng(devices=[]):
            sites = find_sites(network, shape, coupling, units)
        FOUND[key] = sites.bind(nn.Identity()), CostModel(network, sites, shape)
    sites, model = FOUND[key]
    return sites.bind(network), copy.copy(model)


def count(network: nn.Module, shape: tuple[int, ...]) -> flops.Macs:
    """As :func:`bench.measure.flops.count`."""
    key = structure(network), tuple(shape)
    if key not in COUNTED:
        COUNTED[key] = count_anew(network, shape)
    return COUNTED[key]


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
