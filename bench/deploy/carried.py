"""From a network's tensors to those of its slice, entry by entry: optimizer states, moving averages."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.deploy.apart import apart
from bench.errors import UsageError
from bench.pruning.sites import Sites

PLAIN = (bool, int, float, str, tuple, list, dict, type(None))
"""Attributes of an optimizer that are carried over, too."""


class Carried:
    """Which entries of a network's parameters and buffers its slice has.

    Found by slicing a network whose tensors hold their own flat indices, in float64 (exact up to 2^53), once asked.

    Args:
        network: before the slice. It is used up: of its tensors nothing but their shapes is kept.
        owner: the network whose parameters an optimizer has, of the same names; held weakly.
        sites: of ``network``.
        masks: by which it was sliced.
    """

    def __init__(self, network: nn.Module, owner: nn.Module, sites: Sites, masks: Mapping[str, Tensor]) -> None:
        for tensor in (*network.parameters(), *network.buffers()):
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(False).grad = None
            if isinstance(tensor, nn.Parameter) or tensor.is_floating_point():
                tensor.data = torch.zeros((), dtype=torch.float64).expand(tensor.shape)
        self._network = network
        self._sites, self._masks = sites.bind(self._network), masks
        self._places: dict[str, Tensor] | None = None
        self.owners = {name: weakref.ref(p) for name, p in owner.named_parameters(remove_duplicate=False)}

    @property
    def places(self) -> dict[str, Tensor]:
        """Name of a tensor of the slice -> index of each entry in the whole tensor, int64, of the slice's shape."""
        if self._places is None:
            indexed = copy.deepcopy(self._network)
            with apart():
                for tensor in (*indexed.parameters(), *indexed.buffers()):
                    if tensor.is_floating_point():
                        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
                self._sites.slice(indexed, self._masks, in_place=True)
            named = (*indexed.named_parameters(remove_duplicate=False), *indexed.named_buffers(remove_duplicate=False))
            self._places = {name: tensor.detach().long() for name, tensor in named if tensor.is_floating_point()}
        return self._places

    def shape(self, name: str) -> torch.Size | None:
        """Of a whole tensor; None for one that is not known."""
        named: dict[str, Tensor] = {
            **dict(self._network.named_parameters(remove_duplicate=False)),
            **dict(self._network.named_buffers(remove_duplicate=False)),
        }
        return named[name].shape if name in named else None

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """The entries of ``whole``, a tensor shaped like the whole tensor ``name``, that the slice has."""
        if name not in self.places:  # a whole number, such as the count of batches
            return whole.clone()
        places = self.places[name].to(whole.device)
        found = whole.reshape(-1)[places.reshape(-1)].reshape(places.shape)
        last = whole.dim() == 4 and whole.is_contiguous(memory_format=torch.channels_last)
        return found.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def follow(carried: Carried, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` (name of a parameter or buffer -> tensor of its shape, such as an average) cut like the network."""
    found = {}
    if not isinstance(tensors, Mapping):
        raise UsageError("follow: give a dict of tensors by the names of parameters and buffers")
    for name, tensor in tensors.items():
        shape = carried.shape(name)
        if not isinstance(tensor, Tensor):
            raise UsageError(f"follow: '{name}' is a {type(tensor).__name__}: give a tensor")
        if shape is None:
            raise UsageError(f"follow: '{name}' is no parameter or buffer of the network")
        if tensor.shape != shape:
            raise UsageError(f"follow: '{name}' is {list(tensor.shape)}, in the network {list(shape)}")
        found[name] = carried.cut(name, tensor.detach())
    return found


def mapped(carried: Carried, network: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer of the same class and options for ``network``, with the states of what is left.

    Groups keep their order and options; parameters that are not of the network stay in them.

    Raises:
        UsageError: it holds none of the network's parameters, or keeps a state that is not shaped like a parameter.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"optimizer is a {type(optimizer).__name__}: give a torch.optim.Optimizer")
    owner = {id(p): name for name, ref in carried.owners.items() if (p := ref()) is not None}
    there = dict(network.named_parameters(remove_duplicate=False))
    if not any(id(p) in owner for group in optimizer.param_groups for p in group["params"]):
        raise UsageError("optimizer: it holds none of this network's parameters")
    groups, state = [], defaultdict[Any, Any](dict)
    for group in optimizer.param_groups:
        kept = []
        for old in group["params"]:
            name = owner.get(id(old))
            if name is not None and name not in there:
                continue  # its layer is gone
            new = old if name is None else there[name]
            kept.append(new)
            if old in optimizer.state:
                state[new] = {
                    key: _state(carried, name, old, key, value) for key, value in optimizer.state[old].items()
                }
        options = {key: copy.copy(value) for key, value in group.items() if key != "params"}
        if "param_names" in options and len(kept) < len(group["params"]):
            gone = [owner.get(id(old)) not in {None, *there} for old in group["params"]]
            options["param_names"] = [n for n, lost in zip(group["param_names"], gone, strict=True) if not lost]
        groups.append({"params": kept, **options})
    made: torch.optim.Optimizer = type(optimizer).__new__(type(optimizer))
    made.__setstate__({"defaults": copy.copy(optimizer.defaults), "state": state, "param_groups": groups})
    for key, value in vars(optimizer).items():  # of a class of its own
        if key in vars(made) or not isinstance(value, PLAIN):
            continue
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            name = type(optimizer).__name__
            raise UsageError(f"optimizer: {name} keeps tensors in '{key}', which are not its state: make a new one")
        setattr(made, key, copy.copy(value))
    return made


def _state(carried: Carried, name: str | None, parameter: Tensor, key: str, value: Any) -> Any:
    """One entry of a parameter's state, for what is left of the parameter."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if name is None or (value.numel() == 1 and value.shape != parameter.shape):
        return value.clone()
    if value.shape != parameter.shape:
        raise UsageError(
            f"optimizer: its state '{key}' of {name} is {list(value.shape)}, not shaped like the parameter "
            f"({list(parameter.shape)}): make a new optimizer"
        )
    return carried.cut(name, value)
